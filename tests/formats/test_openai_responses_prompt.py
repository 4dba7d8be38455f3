"""A Responses request in neutral words: every row of `translation.md` 7.1."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_gateway.errors import Refused
from twisted_gateway.formats.neutral import (
    Audio,
    Document,
    Image,
    Text,
    Thought,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from twisted_gateway.formats.openai_responses_prompt import prompt

from .responses_making import responses_call

PNG = "iVBORw0KGgo="


def made(**members: Any) -> Any:
    return prompt(responses_call(**members))


def turns(*items: Any) -> Any:
    return made(input=list(items)).turns


def refused(**members: Any) -> Any:
    with pytest.raises(Refused) as refusal:
        made(**members)
    problem = refusal.value.problem
    assert (problem.status, problem.type) == (400, "invalid_request_error")
    assert problem.message.startswith("request payload is invalid: ")
    return problem


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(words: str, kind: str = "input_text") -> dict[str, Any]:
    return {"type": kind, "text": words}


def call(id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "id": f"fc_{id}", "call_id": id, "name": name, "arguments": arguments}


def output(id: str, value: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id, "output": value}


def test_the_least():
    found = made()
    assert found.dialect == "openai_responses"
    assert found.turns == (Turn("user", (Text("hi"),)),)
    assert (found.stream, found.max_tokens, found.temperature, found.top_p, found.user) == (
        True,
        None,
        None,
        None,
        None,
    )
    assert (found.tools, found.tool_choice, found.parallel_tools, found.thought) == ((), None, None, None)
    assert (found.json_schema, found.json_object, dict(found.extra), found.choices) == (None, False, {}, 1)


def test_instructions_come_first():
    assert made(instructions="Be kind").turns[0] == Turn("system", (Text("Be kind"),))
    assert len(made(instructions=None).turns) == len(made(instructions="").turns) == 1


@pytest.mark.parametrize(
    ("item", "turn"),
    [
        ({"role": "user", "content": "a"}, Turn("user", (Text("a"),))),
        ({"type": "message", "role": "user", "content": "a"}, Turn("user", (Text("a"),))),
        ({"role": "system", "content": "a"}, Turn("system", (Text("a"),))),
        ({"role": "developer", "content": [text("a")]}, Turn("system", (Text("a"),))),
        (user(text("a"), text("b", "text")), Turn("user", (Text("a\nb"),))),
        (
            {
                "role": "assistant",
                "id": "msg_1",
                "content": [text("a", "output_text"), {"type": "refusal", "refusal": "n"}],
            },
            Turn("assistant", (Text("a\nn"),)),
        ),
    ],
)
def test_messages(item, turn):
    assert turns(item, {"role": "user", "content": "z"})[0] == turn


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ({"type": "input_image", "image_url": "https://x/y.png"}, Image(url="https://x/y.png")),
        (
            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "low"},
            Image(media_type="image/png", data=PNG, marks={"detail": "low"}),
        ),
        (
            {
                "type": "input_image",
                "image_url": f"data:image/jpg;charset=x;base64,{PNG[:4]} \n{PNG[4:]}",
                "file_id": None,
            },
            Image(media_type="image/jpeg", data=PNG),
        ),
        ({"type": "input_image", "image_url": "data:,x"}, Image(url="data:,x")),
        ({"type": "input_image", "image_url": "data:application/pdf;base64,QQ=="}, Document(data="QQ==")),
        (
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,QQ=="},
            Document(data="QQ==", title="a.pdf"),
        ),
        ({"type": "input_file", "file_data": "QQ=="}, Document(data="QQ==")),
        (
            {
                "type": "input_file",
                "filename": "a.txt",
                "file_data": "data:text/plain;base64,YcOp",
            },
            Document(media_type="text/plain", data="YcOp", title="a.txt"),
        ),
        ({"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}}, Audio("QQ==", "wav")),
    ],
)
def test_parts(part, wanted):
    assert turns(user(text("see"), part)) == (Turn("user", (Text("see"), wanted), plain=False),)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"type": "input_image", "file_id": "file-1"}, "input_image.file_id"),
        ({"type": "input_file", "file_id": "file-1"}, "input_file.file_id"),
        ({"type": "input_file", "file_url": "https://x"}, "input_file.file_url"),
        ({"type": "input_video"}, 'content part type "input_video" is not supported by this model'),
        ({}, "content part type"),
        ({"type": "input_text"}, "invalid JSON"),
        ({"type": "input_image"}, "invalid JSON"),
        ({"type": "input_file"}, "invalid JSON"),
        ({"type": "input_audio", "input_audio": {"data": "x"}}, "invalid JSON"),
    ],
)
def test_parts_that_cannot_be_carried(part, named):
    problem = refused(input=[user(part)])
    assert named in problem.message
    assert problem.param.startswith("input[0].content[0]")


def test_calls_and_their_results():
    found = turns(
        user(text("go")),
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "message", "role": "assistant", "content": [text("Look", "output_text")]},
        call("a", arguments='{"x":1}'),
        {"type": "reasoning", "id": "rs_2", "summary": []},
        call("b", arguments=""),
        output("b", "B"),
        output("a", [text("A1"), text("A2")]),
        call("c"),
        output("c", [text("C"), {"type": "input_image", "image_url": "https://x"}]),
    )
    assert found == (
        Turn("user", (Text("go"),)),
        Turn("assistant", (Text("Look"), ToolCall("a", "f", '{"x":1}'), ToolCall("b", "f", ""))),
        Turn("tool", (ToolResult("b", (Text("B"),)),)),
        Turn("tool", (ToolResult("a", (Text("A1\nA2"),)),)),
        Turn("assistant", (ToolCall("c", "f", "{}"),)),
        Turn("tool", (ToolResult("c", (Text("C"), Image(url="https://x")), plain=False),)),
    )


def test_words_behind_a_call_belong_to_its_message():
    """Machine C writes them as a message of its own; a result must follow the call directly in other dialects."""
    said = {"role": "assistant", "content": "Done"}
    first = {"role": "assistant", "content": "Look"}
    found = turns(user(text("go")), first, call("a"), said, output("a", None))
    assert found[1] == Turn("assistant", (Text("Look\nDone"), ToolCall("a", "f", "{}")))
    assert found[2] == Turn("tool", (ToolResult("a", (Text(""),)),))


def test_two_messages_stay_two():
    said = {"role": "assistant", "content": "a"}
    assert len(turns(said, said, {"role": "assistant", "content": []}, user(text("x")))) == 3


def test_custom_tool_calls():
    found = turns(
        user(text("go")),
        {"type": "custom_tool_call", "call_id": "a", "name": "sum", "input": '4 "+" 4'},
        {"type": "custom_tool_call_output", "call_id": "a", "output": {"n": 8}},
    )
    (item,) = found[1].parts
    assert (item.id, item.name, json.loads(item.arguments)) == ("a", "sum", {"input": '4 "+" 4'})
    assert found[2] == Turn("tool", (ToolResult("a", (Text('{"n":8}'),)),))


def test_arguments_as_an_object_are_written_out():
    assert turns(user(text("x")), {**call("a"), "arguments": {"b": 1}})[1].parts == (ToolCall("a", "f", '{"b":1}'),)


def test_tools_in_the_input_join_the_others():
    function = {"type": "function", "name": "g", "parameters": {"type": "object"}}
    hosted = {"type": "namespace", "name": "n", "tools": [function]}
    item = {"type": "additional_tools", "role": "developer", "tools": [function, hosted]}
    found = made(input=[item, user(text("x"))], tools=[{**function, "name": "f"}])
    assert [tool.name for tool in found.tools] == ["f", "g"]
    assert found.turns == (Turn("user", (Text("x"),)),)


def test_updated_settings_hold_for_the_answer():
    effort = {"type": "configuration_update", "reasoning": {"effort": "low"}}
    form = {"format": {"type": "json_object"}}
    later = {"type": "configuration_update", "reasoning": {"effort": "high"}, "text": form}
    found = made(input=[effort, user(text("x")), later], reasoning={"effort": "medium", "summary": "auto"})
    assert (found.thought, found.json_object) == (Thought(effort="high", shown=True), True)


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ({"type": "additional_tools"}, "invalid JSON"),
        ({"type": "additional_tools", "tools": [5]}, "invalid JSON"),
        ({"type": "configuration_update", "reasoning": "low"}, "invalid JSON"),
        ({"type": "item_reference", "id": "x"}, "item_reference"),
        ({"id": "x"}, "item_reference"),
        ({"type": "computer_call", "id": "x"}, "computer_call"),
        ({"type": "computer_call_output", "call_id": "x"}, "computer_call_output"),
        ({"type": "web_search_call", "id": "x"}, "web_search_call"),
        ({"type": "mcp_call"}, "mcp_call"),
        ({"type": 5}, "5"),
        ({"type": []}, "[]"),
        ({"role": "critic", "content": "x"}, "critic"),
        ({"role": "user", "content": 5}, "invalid JSON"),
        ({"role": "user", "content": ["x"]}, "invalid JSON"),
        ({"type": "function_call", "name": "f"}, "invalid JSON"),
        ({"type": "function_call", "call_id": "a"}, "invalid JSON"),
        ({"type": "function_call_output", "output": "x"}, "invalid JSON"),
    ],
)
def test_items_that_cannot_be_carried(item, named):
    problem = refused(input=[user(text("x")), item])
    assert named in problem.message
    assert problem.param.startswith("input[1]")


@pytest.mark.parametrize(
    ("given", "detail"),
    [
        (None, "`input` field missing"),
        ([], "input must not be empty"),
        (5, "invalid JSON request body"),
        ([5], "invalid"),
    ],
)
def test_a_missing_input(given, detail):
    assert detail in refused(input=given).message


@pytest.mark.parametrize(
    ("name", "value"),
    [("previous_response_id", "resp_1"), ("conversation", "c"), ("conversation", {"id": "c"}), ("prompt", {"id": "p"}),
     ("background", True)],
)  # fmt: skip
def test_state_is_refused(name, value):
    problem = refused(**{name: value})
    assert problem.message == f"request payload is invalid: {name} is not supported for this model"
    assert problem.param == name


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "prompt", "background"])
def test_no_state_is_none(name):
    assert made(**{name: None}) == made()
    assert made(background=False) == made()


@pytest.mark.parametrize(
    ("members", "field", "value"),
    [
        ({"max_output_tokens": 5, "max_tokens": 6}, "max_tokens", 5),
        ({"max_tokens": 6}, "max_tokens", 6),
        ({"temperature": 1}, "temperature", 1.0),
        ({"top_p": 0.5}, "top_p", 0.5),
        ({"user": "u"}, "user", "u"),
        ({"parallel_tool_calls": False}, "parallel_tools", False),
        ({"reasoning": {"effort": "high"}}, "thought", Thought(effort="high")),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, "thought", Thought(effort="low", shown=True)),
        ({"reasoning": {"summary": "detailed"}}, "thought", Thought(shown=True)),
        ({"reasoning": {"generate_summary": "concise"}}, "thought", Thought(shown=True)),
        ({"reasoning": {"effort": None, "summary": None}}, "thought", None),
        ({"text": {"format": {"type": "text"}}}, "json_schema", None),
        ({"text": {"format": {"type": "json_object"}}}, "json_object", True),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}}},
            "json_schema",
            {"name": "n", "schema": {"type": "object"}, "strict": True},
        ),
        (
            {"safety_identifier": "s", "service_tier": "flex", "prompt_cache_key": "k", "metadata": {"a": "b"},
             "store": True, "text": {"verbosity": "low"}, "include": ["x"], "truncation": "auto",
             "max_tool_calls": 3, "unknown": 1},
            "extra",
            {"safety_identifier": "s", "service_tier": "flex", "prompt_cache_key": "k", "metadata": {"a": "b"},
             "verbosity": "low"},
        ),
    ],
)  # fmt: skip
def test_members(members, field, value):
    assert getattr(made(**members), field) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_output_tokens", "5"), ("temperature", "hot"), ("reasoning", "high"), ("text", 1), ("tools", {}),
     ("tools", [1]), ("user", 1), ("metadata", "x"), ("instructions", [1]), ("tool_choice", 5),
     ("parallel_tool_calls", 1)],
)  # fmt: skip
def test_members_of_another_type(name, value):
    assert refused(**{name: value}).param.startswith(name)


@pytest.mark.parametrize(
    "form", [{"type": "grammar"}, {"type": "json_schema"}, {"type": "json_schema", "schema": 1}, "text"]
)
def test_bad_text_formats(form):
    assert refused(text={"format": form}).param.startswith("text.format")
    assert refused(text={"verbosity": 1}).param == "text.verbosity"
    assert refused(reasoning={"effort": 1}).param == "reasoning.effort"


FUNCTION = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}


def test_tools():
    found = made(
        tools=[FUNCTION, {"type": "web_search"}, {"type": "function", "name": "g"}, {"type": "custom", "name": "h"}]
    )
    assert found.tools == (Tool("f", "d", {"type": "object"}, True), Tool("g"))
    assert refused(tools=[{"type": "function"}]).param == "tools[0]"
    assert refused(tools=[{"type": "function", "name": "f", "parameters": []}]).param == "tools[0]"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, None),
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "f"}, ToolChoice("tool", "f")),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "f"}, {"type": "mcp"}],
            },
            ToolChoice("required", allowed=("f",)),
        ),
    ],
)
def test_tool_choice(given, wanted):
    assert made(tools=[FUNCTION], tool_choice=given).tool_choice == wanted
    assert made(tools=[{"type": "web_search"}], tool_choice=given).tool_choice is None


@pytest.mark.parametrize(
    "given",
    [{"type": "web_search_preview"}, {"type": "custom", "name": "f"}, {"type": "mcp", "server_label": "x"},
     {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}, {"type": "function"}],
)  # fmt: skip
def test_tool_choice_of_what_was_dropped(given):
    assert refused(tools=[FUNCTION], tool_choice=given).param == "tool_choice"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["user", "message", "x", "function_call", "reasoning"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "call_id", "name", "arguments", "output", "text", "image_url", "tools"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
MEMBERS = st.sampled_from(
    ["input", "tools", "tool_choice", "text", "reasoning", "instructions", "prompt", "metadata", "max_output_tokens"]
)


@given(st.dictionaries(MEMBERS, VALUES, max_size=4))
def test_whatever_is_asked_is_carried_or_refused(members):
    """Any other exception than a refusal fails this."""
    with suppress(Refused):
        made(**members)
