"""A Messages request in neutral words: every row of `translation.md` 5.1 and 5.2 (the reading half)."""

import pytest

from twisted_gateway.formats import anthropic
from twisted_gateway.formats.names import full_names, short_name
from twisted_gateway.formats.neutral import (
    Document,
    Foreign,
    ForeignTool,
    Image,
    Text,
    Thinking,
    Thought,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)

from ..exchanges import Headers
from .chat_making import body as chat_body
from .chat_making import refusal
from .making import dumps

JSON = Headers({"content-type": "application/json"})
HELLO = [{"role": "user", "content": "hi"}]
CACHED = {"cache_control": {"type": "ephemeral"}}


def prompt(**members):
    body = {"model": "alias", "max_tokens": 100, "messages": HELLO, **members}
    return anthropic.FORMAT.prompt(anthropic.read_call(dumps(body), JSON))


def turns(*messages):
    return prompt(messages=list(messages)).turns


def of_user(*blocks):
    return turns({"role": "user", "content": list(blocks)})


def refused(**members):
    message = refusal(prompt, **members).message
    assert message.startswith("request payload is invalid: invalid Anthropic body: ")
    return message


@pytest.mark.parametrize(
    ("members", "name", "value"),
    [
        ({}, "max_tokens", 100),
        ({"temperature": 1}, "temperature", 1),
        ({"top_p": 0.5}, "top_p", 0.5),
        ({"top_k": 5}, "top_k", 5),
        ({"stop_sequences": ["a", "b"]}, "stop", ("a", "b")),
        ({"stream": True}, "stream", True),
        ({"metadata": {"user_id": "u"}}, "user", "u"),
        ({"metadata": {}}, "user", None),
        ({"container": "c", "betas": ["x"], "service_tier": "auto"}, "extra", {}),
        (
            {
                "tools": [
                    {"name": "f", "description": "d", "input_schema": {"type": "object"}, "strict": True, **CACHED}
                ]
            },
            "tools",
            (Tool("f", "d", {"type": "object"}, True, CACHED),),
        ),
        ({"tools": [{"type": "custom", "name": "f"}]}, "tools", (Tool("f"),)),
        (
            {"tools": [{"type": "bash_20250124", "name": "bash"}]},
            "tools",
            (ForeignTool("anthropic", {"type": "bash_20250124", "name": "bash"}),),
        ),
        ({"tool_choice": {"type": "auto"}}, "tool_choice", ToolChoice("auto")),
        ({"tool_choice": {"type": "any"}}, "tool_choice", ToolChoice("required")),
        ({"tool_choice": {"type": "none"}}, "tool_choice", ToolChoice("none")),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice", ToolChoice("tool", "f")),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, "parallel_tools", False),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": False}}, "parallel_tools", None),
        ({"thinking": {"type": "disabled"}}, "thought", Thought(raw={"type": "disabled"})),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"a": 1}}}},
            "json_schema",
            {"schema": {"a": 1}},
        ),
    ],
)
def test_parameters(members, name, value):
    assert getattr(prompt(**members), name) == value


@pytest.mark.parametrize(
    ("budget", "effort"),
    [
        (16384, "max"),
        (16383, "xhigh"),
        (8192, "xhigh"),
        (4096, "high"),
        (2048, "medium"),
        (1024, "low"),
        (10, "minimal"),
    ],
)
def test_a_budget_of_thinking(budget, effort):
    thought = prompt(thinking={"type": "enabled", "budget_tokens": budget}).thought
    assert (thought.effort, thought.budget, thought.shown) == (effort, budget, True)


def test_adaptive_thinking():
    assert prompt(thinking={"type": "adaptive"}).thought.effort == "medium"
    thought = prompt(thinking={"type": "adaptive", "display": "omitted"}, output_config={"effort": "low"}).thought
    assert (thought.effort, thought.shown) == ("low", False)


@pytest.mark.parametrize(
    ("given", "turn"),
    [
        ("be kind", Turn("system", (Text("be kind"),))),
        (" \n", None),
        ([], None),
        (
            [{"type": "text", "text": "a", **CACHED}, {"type": "text", "text": " "}, {"type": "text", "text": "b"}],
            Turn("system", (Text("a", CACHED), Text("b")), plain=False),
        ),
    ],
)
def test_instructions(given, turn):
    assert prompt(system=given).turns[:-1] == (() if turn is None else (turn,))


def test_strings():
    assert turns({"role": "assistant", "content": "a"}, {"role": "system", "content": "s"}) == (
        Turn("assistant", (Text("a"),)),
        Turn("system", (Text("s"),)),
    )


def test_results_are_turns_of_their_own_before_the_rest():
    found = of_user(
        {"type": "text", "text": "and"},
        {"type": "tool_result", "tool_use_id": "1", "content": "one"},
        {"type": "tool_result", "tool_use_id": "2", "content": [{"type": "text", "text": "x"}], "is_error": True},
        {"type": "tool_result", "tool_use_id": "3"},
    )
    assert found == (
        Turn("tool", (ToolResult("1", (Text("one"),)),), plain=False),
        Turn("tool", (ToolResult("2", (Text("x"),), True, plain=False),), plain=False),
        Turn("tool", (ToolResult("3", (Text(""),)),), plain=False),
        Turn("user", (Text("and"),), plain=False),
    )
    assert of_user() == (Turn("user", (Text(""),), plain=True),)
    assert len(of_user({"type": "tool_result", "tool_use_id": "1"})) == 1


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        ({"type": "text", "text": "a", **CACHED, "citations": None}, (Text("a", CACHED),)),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "QQ=="}},
            (Image("image/gif", "QQ=="),),
        ),
        ({"type": "image", "source": {"type": "url", "url": "http://x"}}, (Image(url="http://x"),)),
        (
            {"type": "document", "title": "t", "source": {"type": "base64", "data": "QQ=="}, "context": "see"},
            (Text("see"), Document(data="QQ==", title="t")),
        ),
        (
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
            (Document("text/plain", text="words"),),
        ),
        ({"type": "document", "source": {"type": "content", "content": "words"}}, (Text("words"),)),
        (
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "w"}]}},
            (Text("w"),),
        ),
        (
            {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "w"}]},
            (Text("t\ns\nw"),),
        ),
    ],
)
def test_blocks_of_a_user(block, parts):
    assert of_user(block) == (Turn("user", parts, plain=False),)


def test_blocks_of_an_assistant():
    thinking = {"type": "thinking", "thinking": "t", "signature": "Eq"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    server = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    call = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": [1, "é"]}, **CACHED}
    (turn,) = turns({"role": "assistant", "content": [thinking, hidden, server, {"type": "text", "text": "w"}, call]})
    assert turn.parts == (
        Thinking("t", thinking),
        Thinking("", hidden),
        Foreign("anthropic", server),
        Text("w"),
        ToolCall("c", "f", '{"a":[1,"é"]}', CACHED),
    )


@pytest.mark.parametrize(
    ("block", "named"),
    [
        ({"type": "container_upload", "file_id": "f"}, '"container_upload"'),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, '"file"'),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, '"file"'),
        ({"type": "document", "source": {"type": "url", "url": "http://x"}}, '"url"'),
        ({"type": "document"}, "document"),
        ({"type": "tool_result", "content": "x"}, "tool_use_id"),
        ({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "tool_reference"}]}, '"tool_reference"'),
        ({"type": "tool_result", "tool_use_id": "1", "content": 5}, "tool_result"),
        ({"type": "text"}, "text"),
        ("words", "blocks"),
    ],
)
def test_blocks_that_no_other_dialect_has(block, named):
    assert named in refused(messages=[{"role": "user", "content": [block]}])


@pytest.mark.parametrize(
    "members",
    [
        {"messages": []},
        {"messages": "hi"},
        {"messages": None},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "f"}]}]},
        {"system": 5},
        {"system": [{"type": "image"}]},
        {"max_tokens": "many"},
        {"temperature": "hot"},
        {"stop_sequences": "x"},
        {"tools": [{"description": "no name"}]},
        {"tools": [{"name": "f", "input_schema": []}]},
        {"tool_choice": {"type": "some"}},
        {"tool_choice": {"type": "tool"}},
        {"thinking": {"type": "enabled"}},
        {"thinking": {"type": "between_tools"}},
        {"output_config": {"format": {"type": "grammar"}}},
    ],
)
def test_bodies_that_cannot_be_carried(members):
    refused(**members)


def test_the_roads_to_chat_name_what_was_asked():
    asked = prompt(system="s", tools=[{"name": "f", "input_schema": {"type": "object"}}], stop_sequences=["x"])
    found = chat_body(asked)
    assert found["messages"][0] == {"role": "system", "content": "s"}
    assert found["tools"][0]["function"]["name"] == "f"


@pytest.mark.parametrize("name", ["a" * 64, "get_weather", "a-b"])
def test_names_that_fit(name):
    assert short_name(name) == name
    assert full_names([name]) == {}


@pytest.mark.parametrize("name", ["a" * 70, "mcp.server/tool", "wörter", "a" * 54 + "." * 20])
def test_names_that_do_not_fit(name):
    short = short_name(name)
    assert len(short) <= 64
    assert short_name(short) == short
    assert full_names([name]) == {short: name}
