"""A neutral prompt as a chat request: every row of `translation.md` 5.1 and 5.2, writing half; and round trips."""

import json

import pytest

from twisted_gateway.config.resources import ParamConstraints, RequestEdits, ResponseQuirks
from twisted_gateway.formats import openai_chat
from twisted_gateway.formats.names import short_name
from twisted_gateway.formats.neutral import (
    Audio,
    Document,
    Foreign,
    ForeignTool,
    Image,
    Refusal,
    Text,
    Thinking,
    Thought,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)

from .chat_making import HELLO, JSON, body, chat_prompt, place, refusal, said, sent
from .making import dumps

SCHEMA = {"type": "object", "properties": {}}
LONG = "n" * 70
OPENAI = {"provider": "openai"}
AZURE = {"provider": "mine", "key": {"adapter": "azure-openai"}}


# 5.1 Top level


def test_the_least_request():
    made = sent(said())
    assert json.loads(made.body) == {"model": "gpt-4o", "messages": HELLO}
    assert (made.path, made.accept, made.asked_usage) == ("/chat/completions", "application/json", False)


def test_a_stream_asks_for_usage():
    made = sent(said(stream=True))
    assert json.loads(made.body)["stream_options"] == {"include_usage": True}
    assert json.loads(made.body)["stream"] is True
    assert (made.accept, made.asked_usage) == ("text/event-stream", True)
    again = sent(said(stream=True, count=False))
    assert "stream_options" not in json.loads(again.body)
    assert not again.asked_usage


@pytest.mark.parametrize(
    ("vendor", "upstream", "expected"),
    [
        (OPENAI, "gpt-4o", "max_tokens"),
        (OPENAI, "o3-mini", "max_completion_tokens"),
        (OPENAI, "gpt-5-nano", "max_completion_tokens"),
        (OPENAI, "gpt-12", "max_completion_tokens"),
        (OPENAI, "openai/o1", "max_completion_tokens"),
        (OPENAI, "ft:o4-mini:x", "max_completion_tokens"),
        (OPENAI, "omni", "max_tokens"),
        (OPENAI, "gpt-4.5", "max_tokens"),
        (OPENAI, "gpt-3.5-turbo", "max_tokens"),
        (AZURE, "gpt-5", "max_completion_tokens"),
        ({"key": {"provider": "openai"}}, "o1", "max_completion_tokens"),
        ({}, "gpt-5", "max_tokens"),
    ],
)
def test_the_limits_name(vendor, upstream, expected):
    made = body(said(max_tokens=9), place(upstream, **vendor))
    assert {name: value for name, value in made.items() if name.startswith("max")} == {expected: 9}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"temperature": 0.5, "top_p": 0.1}, {"temperature": 0.5, "top_p": 0.1}),
        ({"top_k": 4}, {}),
        ({"user": "u"}, {"user": "u"}),
        ({"stop": ("a", "b")}, {"stop": ["a", "b"]}),
        ({"stop": tuple("abcdef")}, {"stop": list("abcdef")}),
        ({"choices": 2}, {"n": 2}),
        ({"extra": {"container": 1, "betas": []}}, {}),
        ({"parallel_tools": False}, {}),
        ({"tool_choice": ToolChoice("none")}, {}),
        ({"json_object": True}, {"response_format": {"type": "json_object"}}),
    ],
)
def test_members(members, expected):
    assert body(said(**members)) == {"model": "gpt-4o", "messages": HELLO, **expected}


def test_openai_takes_four_stop_sequences():
    assert body(said(stop=tuple("abcdef")), place(**OPENAI))["stop"] == list("abcd")


def test_a_schema():
    form = body(said(json_schema={"schema": SCHEMA}))["response_format"]
    assert form == {"type": "json_schema", "json_schema": {"name": "output", "schema": SCHEMA, "strict": True}}
    given = {"name": "n", "schema": SCHEMA, "description": "d"}
    form = body(said(json_schema=given, dialect="openai_responses"))["response_format"]
    assert form == {"type": "json_schema", "json_schema": given}


def thinking(kind, budget=None, effort=None):
    return Thought(effort, budget, shown=kind != "disabled", raw={"type": kind})


@pytest.mark.parametrize(
    ("thought", "most", "expected"),
    [
        (thinking("enabled", 50000), "high", "high"),
        (thinking("enabled", 16384), "max", "max"),
        (thinking("enabled", 16384), "xhigh", "high"),
        (thinking("enabled", 8192), "xhigh", "xhigh"),
        (thinking("enabled", 8192), "max", "xhigh"),
        (thinking("enabled", 8191), "high", "high"),
        (thinking("enabled", 4096), "high", "high"),
        (thinking("enabled", 4095), "high", "medium"),
        (thinking("enabled", 2048), "high", "medium"),
        (thinking("enabled", 1024), "high", "low"),
        (thinking("enabled", 1023), "high", "minimal"),
        (thinking("enabled", 2048, "high"), "high", "medium"),
        (thinking("enabled", 2048), "none", None),
        (thinking("adaptive"), "high", "medium"),
        (thinking("adaptive", effort="low"), "high", "low"),
        (thinking("adaptive", effort="max"), "high", "high"),
        (thinking("disabled"), "high", None),
        (thinking("disabled", effort="high"), "high", None),
        (Thought(effort="high"), "high", None),
        (None, "high", None),
    ],
)
def test_reasoning(thought, most, expected):
    assert body(said(thought=thought), place(reasoning_effort_max=most)).get("reasoning_effort") == expected


@pytest.mark.parametrize(("effort", "expected"), [("none", "none"), ("low", "low"), ("xhigh", "high"), ("odd", "odd")])
def test_effort_of_openais_own_dialects(effort, expected):
    for dialect in ("openai_chat", "openai_responses"):
        assert body(said(thought=Thought(effort), dialect=dialect))["reasoning_effort"] == expected


def test_tools():
    server = ForeignTool("anthropic", {"type": "bash_20250124", "name": "bash"})
    tools = (Tool("f", "d", SCHEMA, True, {"cache_control": {}}), server, Tool("g"))
    made = body(said(tools=tools, tool_choice=ToolChoice("required"), parallel_tools=False))
    assert made["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}},
        {"type": "function", "function": {"name": "g"}},
    ]
    assert made["tool_choice"] == "required"
    assert made["parallel_tool_calls"] is False


def test_no_tools_left():
    made = body(said(tools=(ForeignTool("anthropic", {"name": "x"}),), tool_choice=ToolChoice("tool", "x")))
    assert made == body(said())


def test_tools_that_are_allowed():
    choice = ToolChoice("required", allowed=("g",))
    made = body(said(tools=(Tool("f"), Tool("g")), tool_choice=choice, dialect="openai_responses"))
    assert [tool["function"]["name"] for tool in made["tools"]] == ["g"]
    assert made["tool_choice"] == "required"


@pytest.mark.parametrize("name", [LONG, "a.b/c", "größe"])
def test_names_are_shortened_everywhere(name):
    call = Turn("assistant", (ToolCall("c1", name, "{}"),))
    made = body(said(call, tools=(Tool(name),), tool_choice=ToolChoice("tool", name)))
    short = short_name(name)
    assert made["tools"][0]["function"]["name"] == short
    assert made["tool_choice"] == {"type": "function", "function": {"name": short}}
    assert made["messages"][0]["tool_calls"][0]["function"]["name"] == short
    assert len(short) <= 64
    assert short != name


# 5.2 Messages


def messages(*turns, **vendor):
    dialect = vendor.pop("dialect", "anthropic")
    return body(said(*turns, dialect=dialect), place(**vendor))["messages"]


def content(*parts, **vendor):
    (message,) = messages(Turn("user", parts, plain=False), **vendor)
    assert message["role"] == "user"
    return message["content"]


def test_instructions():
    system = Turn("system", (Text("a", {"cache_control": {}}), Text("b")), plain=False)
    assert messages(system) == [{"role": "system", "content": "a\nb"}]
    assert messages(Turn("system", (Text(" \n"),)), Turn("user", (Text("x"),))) == [{"role": "user", "content": "x"}]
    later = messages(Turn("user", (Text("x"),)), Turn("system", (Text("y"),)))
    assert later[1] == {"role": "system", "content": "y"}


def test_results_of_tools_go_before_what_the_user_says():
    parts = (Text("x"), ToolResult("c1", (Text("1"),)), ToolResult("c2", (Text("a"), Text("b")), plain=False))
    assert messages(Turn("user", parts, plain=False)) == [
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "ab"},
        {"role": "user", "content": "x"},
    ]
    assert messages(Turn("user", parts[1:2])) == [{"role": "tool", "tool_call_id": "c1", "content": "1"}]
    assert messages(Turn("user", ())) == [{"role": "user", "content": ""}]


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0"}}


@pytest.mark.parametrize(
    ("parts", "is_error", "expected"),
    [
        ((), False, ""),
        ((), True, "Error: "),
        ((Text("bad"),), True, "Error: bad"),
        ((Text("Error: bad"),), True, "Error: bad"),
        ((Text("a"), Image("image/gif", "R0")), False, [{"type": "text", "text": "a"}, PICTURE]),
        ((Image("image/gif", "R0"), Text("a")), True, [PICTURE, {"type": "text", "text": "Error: a"}]),
        ((Image("image/gif", "R0"),), True, [{"type": "text", "text": "Error:"}, PICTURE]),
    ],
)
def test_the_content_of_results(parts, is_error, expected):
    (message,) = messages(Turn("tool", (ToolResult("c", parts, is_error, False),)))
    assert message == {"role": "tool", "tool_call_id": "c", "content": expected}


def document(**members):
    return Document(title="a.pdf", data="JV", **members)


FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JV"}}


@pytest.mark.parametrize(
    ("part", "vendor", "expected"),
    [
        (Image("image/gif", "R0"), {}, PICTURE),
        (Image(url="https://x/a"), {}, {"type": "image_url", "image_url": {"url": "https://x/a"}}),
        (Image(url="u", marks={"detail": "low", "cache_control": 1}), {}, {"type": "image_url", "image_url": None}),
        (document(), OPENAI, FILE),
        (document(), AZURE, FILE),
        (document(), {"dialect": "openai_responses"}, FILE),
        (document(), {}, {"type": "image_url", "image_url": {"url": "data:application/pdf;base64,JV"}}),
        (Document("text/plain", text="words"), OPENAI, {"type": "text", "text": "words"}),
        (Audio("UklG", "wav"), {}, {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}),
    ],
)
def test_parts(part, vendor, expected):
    first, made = content(Image(url="x"), part, **vendor)
    assert first["type"] == "image_url"
    if "image_url" in expected and expected["image_url"] is None:
        expected = {"type": "image_url", "image_url": {"url": "u", "detail": "low"}}
    assert made == expected


def test_a_document_without_a_title():
    _, made = content(Image(url="x"), Document(data="JV"), **OPENAI)
    assert made["file"]["filename"] == "document.pdf"


def test_texts_alone_are_one_string():
    assert content(Text("a", {"cache_control": {}}), Text("b")) == "a\nb"


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (Document(file_id="f"), "file"),
        (Document(url="https://x"), "document"),
        (Foreign("anthropic", {"type": "container_upload"}), "container_upload"),
        (Foreign("openai_chat", {"type": "video_url"}), "video_url"),
        (Thinking("x"), "thinking"),
        (ToolCall("c", "f", "{}"), "tool_use"),
    ],
)
def test_parts_that_cannot_be_said(part, kind):
    problem = refusal(sent, said(Turn("user", (part,))))
    assert problem.message == (f'request payload is invalid: content part type "{kind}" is not supported by this model')


def test_an_assistants_message():
    parts = (
        Thinking("hm", {"type": "thinking", "thinking": "hm", "signature": "x"}),
        Text("a"),
        Foreign("anthropic", {"type": "server_tool_use"}),
        Text("b"),
        ToolCall("c1", "f", '{"a":1}'),
        ToolCall("c2", "g", ""),
    )
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    (made,) = messages(Turn("assistant", parts, plain=False))
    assert made == {"role": "assistant", "content": "ab", "tool_calls": calls}
    (made,) = messages(Turn("assistant", parts[-2:], plain=False))
    assert made == {"role": "assistant", "content": None, "tool_calls": calls}
    assert messages(Turn("assistant", parts[:1])) == [{"role": "assistant", "content": ""}]
    assert messages(Turn("assistant", (Text("x"),))) == [{"role": "assistant", "content": "x"}]
    refusal(sent, said(Turn("assistant", (Image(url="x"),))))


# The provider key's edits


def test_edits_of_the_provider_key():
    edits = RequestEdits(
        param_renames={"max_tokens": "limit"},
        default_body_fields={"seed": 7, "temperature": 0.1},
        param_constraints=ParamConstraints(temperature_max=1.0),
    )
    target = place(key={"request": edits, "response": ResponseQuirks(content_list_to_string=True)})
    made = body(said(max_tokens=3, temperature=1.5), target)
    assert made == {"model": "gpt-4o", "messages": HELLO, "limit": 3, "temperature": 1.0, "seed": 7}


# Chat to neutral to chat


@pytest.mark.parametrize(
    "members",
    [
        {"max_tokens": 5, "temperature": 0.5, "top_p": 0.1, "top_k": 3, "n": 2, "user": "u", "stop": ["a", "b"]},
        {"seed": 1, "logit_bias": {"5": 1}, "metadata": {"user_id": "m"}, "user": "m", "logprobs": True, "x": [1.0]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}], "tool_choice": "auto"},
        {"tools": [{"type": "custom", "custom": {"name": "c"}}], "parallel_tool_calls": True},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
        {"response_format": {"type": "json_object"}, "reasoning_effort": "low"},
        {"thinking": {"type": "enabled"}, "stream": True, "stream_options": {"include_usage": True}},
    ],
)
def test_members_there_and_back(members):
    assert body(chat_prompt(**members)) == {"model": "gpt-4o", "messages": HELLO, **members}


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1.0}'}}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": "x"},
        {"role": "user", "content": "x", "name": "n"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, PICTURE, FILE]},
        {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x", "format": "mp3"}}]},
        {"role": "assistant", "content": "x", "tool_calls": [CALL]},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "assistant", "content": None, "refusal": "no", "audio": {"id": "a"}},
        {"role": "assistant", "content": "x", "reasoning_content": "hm"},
        {"role": "assistant", "content": "x", "thinking_blocks": [{"type": "redacted_thinking", "data": "s"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "a"}, PICTURE]},
    ],
)
def test_messages_there_and_back(message):
    assert body(chat_prompt(message))["messages"] == [message]


def test_what_changes_its_form_only():
    legacy = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    made = body(chat_prompt(*HELLO, legacy, {"role": "function", "name": "f", "content": "1"}))["messages"]
    (call,) = made[1]["tool_calls"]
    assert made[2] == {"role": "tool", "tool_call_id": call["id"], "content": "1"}
    assert body(chat_prompt({"role": "developer", "content": "x"}))["messages"][0]["role"] == "system"
    assert body(chat_prompt(functions=[{"name": "f"}]))["tools"] == [{"type": "function", "function": {"name": "f"}}]
    refused = Turn("assistant", (Refusal("no"),))
    assert body(said(refused, dialect="openai_responses"))["messages"][0]["refusal"] == "no"


def test_the_row_has_all_of_it():
    row = openai_chat.FORMAT
    assert None not in (row.prompt, row.body, row.decoder, row.encoder)
    call = openai_chat.read_call(dumps({"model": "gpt", "messages": HELLO}), JSON)
    assert row.prompt(call).dialect == "openai_chat"
