"""A chat request in neutral words: every row of `translation.md` 2.1 to 2.6, reading half."""

import base64

import pytest

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

from .chat_making import HELLO, chat_prompt, refusal

MARK = {"type": "ephemeral"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
PDF = base64.b64encode(b"%PDF-1.7 x").decode()
TOOL = {"type": "function", "function": {"name": "f"}}


def parts(*content, role="user", **members):
    (turn,) = chat_prompt({"role": role, "content": list(content), **members}).turns
    assert not turn.plain
    return turn.parts


# 2.1 Top level


@pytest.mark.parametrize(
    ("members", "field", "expected"),
    [
        ({}, "max_tokens", None),
        ({"max_tokens": 7}, "max_tokens", 7),
        ({"max_completion_tokens": 8}, "max_tokens", 8),
        ({"max_completion_tokens": 8, "max_tokens": 7}, "max_tokens", 8),
        ({"max_completion_tokens": None, "max_tokens": 7}, "max_tokens", 7),
        ({"temperature": 1.5}, "temperature", 1.5),
        ({"temperature": None}, "temperature", None),
        ({"top_p": 0.2}, "top_p", 0.2),
        ({"top_k": 40}, "top_k", 40),
        ({"stop": "a"}, "stop", ("a",)),
        ({"stop": ["a", " ", "b"]}, "stop", ("a", " ", "b")),
        ({"stop": None}, "stop", ()),
        ({"stream": True}, "stream", True),
        ({}, "stream", False),
        ({"n": 3}, "choices", 3),
        ({"n": None}, "choices", 1),
        ({"user": "u", "safety_identifier": "s", "metadata": {"user_id": "m"}}, "user", "u"),
        ({"user": "", "safety_identifier": "s", "metadata": {"user_id": "m"}}, "user", "s"),
        ({"safety_identifier": 5, "metadata": {"user_id": "m"}}, "user", "m"),
        ({"metadata": {"user_id": 7}}, "user", None),
        ({"metadata": "x"}, "user", None),
        ({"parallel_tool_calls": False}, "parallel_tools", False),
        ({"parallel_tool_calls": True}, "parallel_tools", True),
        ({"reasoning_effort": "low"}, "thought", Thought("low", shown=True)),
        ({"reasoning_effort": "none"}, "thought", Thought("none", shown=False)),
        ({"reasoning_effort": None}, "thought", None),
        ({"response_format": {"type": "text"}}, "json_schema", None),
        ({"response_format": {"type": "json_object"}}, "json_object", True),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": None}}},
            "json_schema",
            {"name": "n", "schema": {}},
        ),
    ],
)
def test_members(members, field, expected):
    assert getattr(chat_prompt(**members), field) == expected


def test_thinking_written_by_the_caller_is_kept_as_it_is_too():
    given = {"type": "enabled", "budget_tokens": 2000}
    prompt = chat_prompt(thinking=given)
    assert prompt.thought == Thought(None, 2000, shown=True, raw=given)
    assert bytes(prompt.extra["thinking"]) == b'{"type":"enabled","budget_tokens":2000}'
    assert chat_prompt(thinking={"type": "disabled"}).thought == Thought(raw={"type": "disabled"})
    assert chat_prompt(thinking="yes").thought is None


def test_members_that_no_field_knows_are_kept():
    names = ["seed", "logit_bias", "store", "service_tier", "metadata", "output_config", "modalities", "x_unknown"]
    prompt = chat_prompt(**{name: [1.5] for name in names}, user="u", temperature=1, stop="a", tools=[TOOL], seed2=None)
    assert sorted(prompt.extra) == sorted(names)
    assert {bytes(value) for value in prompt.extra.values()} == {b"[1.5]"}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"n": "two"}, "n"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop": {}}, "stop"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [TOOL, {"type": "function", "function": {}}]}, "tools[1].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
        ({"functions": [{}]}, "functions[0].name"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": []}}}, None),
        ({"function_call": {}}, "function_call"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "regex"}}, "response_format"),
        ({"reasoning_effort": 5}, "reasoning_effort"),
    ],
)
def test_what_is_no_chat_request(members, param):
    problem = refusal(chat_prompt, **members)
    assert problem.message.startswith("request payload is invalid: ")
    assert param is None or problem.param == param


# 2.2 Messages


@pytest.mark.parametrize(
    ("role", "neutral"),
    [("system", "system"), ("developer", "system"), ("user", "user"), ("assistant", "assistant")],
)
def test_roles(role, neutral):
    message = {"role": role, "content": "x", "name": "n"}
    assert chat_prompt(*HELLO, message).turns[1] == Turn(neutral, (Text("x"),), name="n")


def test_an_unknown_role():
    problem = refusal(chat_prompt, {"role": "critic", "content": "x"})
    assert problem.message == 'request payload is invalid: role "critic" is not supported by this model'
    assert problem.param == "messages[0].role"


def test_content_as_string_as_parts_and_none():
    turns = chat_prompt(
        {"role": "user", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "a"}, "b"]},
        {"role": "assistant", "content": None},
    ).turns
    assert turns == (
        Turn("user", (Text(""),)),
        Turn("user", (Text("a"), Text("b")), plain=False),
        Turn("assistant", ()),
    )


@pytest.mark.parametrize("content", [5, {}, [5], [{"type": "text"}], [{"type": "text", "text": 5}]])
def test_content_of_no_known_shape(content):
    assert refusal(chat_prompt, {"role": "user", "content": content}).param.startswith("messages[0].content")


def test_marks_on_parts_and_messages():
    marked = {"type": "text", "text": "a", "cache_control": MARK, "citations": [1], "other": 2}
    assert parts(marked) == (Text("a", {"cache_control": MARK, "citations": [1]}),)
    (turn,) = chat_prompt({"role": "system", "content": "a", "cache_control": MARK}).turns
    assert turn == Turn("system", (Text("a", {"cache_control": MARK}),), plain=False)
    assert parts({"type": "text", "text": "a"}, marked, cache_control={"type": "x"})[1].marks["cache_control"] == MARK


def test_an_assistants_calls():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1.0}'}}
    empty = {"id": "c2", "type": "function", "function": {"name": "g"}, "cache_control": MARK}
    parsed = {"id": "c3", "function": {"name": "h", "arguments": {"b": 2}}}
    custom = {"id": "c4", "type": "custom", "custom": {"name": "k", "input": 'a "b"'}}
    message = {"role": "assistant", "content": "x", "tool_calls": [call, empty, parsed, custom]}
    assert chat_prompt(message).turns[0].parts == (
        Text("x"),
        ToolCall("c1", "f", '{"a": 1.0}'),
        ToolCall("c2", "g", "", {"cache_control": MARK}),
        ToolCall("c3", "h", '{"b":2}'),
        ToolCall("c4", "k", '{"input":"a \\"b\\""}'),
    )


@pytest.mark.parametrize(
    "calls", [5, [5], [{}], [{"id": 5}], [{"id": "c"}], [{"id": "c", "function": {"arguments": "{}"}}]]
)
def test_calls_of_no_known_shape(calls):
    problem = refusal(chat_prompt, {"role": "assistant", "tool_calls": calls})
    assert problem.param.startswith("messages[0].tool_calls")


def test_results_of_tools():
    result = {"role": "tool", "tool_call_id": "c1", "content": "done", "name": "f"}
    assert chat_prompt(result).turns == (Turn("tool", (ToolResult("c1", (Text("done"),)),), name="f"),)
    result |= {"content": [{"type": "text", "text": "a"}], "is_error": True, "cache_control": MARK}
    (turn,) = chat_prompt(result).turns
    assert turn.parts == (ToolResult("c1", (Text("a"),), True, False, {"cache_control": MARK}),)
    assert refusal(chat_prompt, {"role": "tool", "content": "x"}).param == "messages[0].tool_call_id"


def test_legacy_function_calls_get_ids():
    asked = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    answer = {"role": "function", "name": "f", "content": "1"}
    turns = chat_prompt(*HELLO, asked, answer, asked, answer).turns
    ids = [(turn.parts[0].id, result.parts[0].call_id) for turn, result in ((turns[1], turns[2]), (turns[3], turns[4]))]
    assert ids == [("call_function_1",) * 2, ("call_function_2",) * 2]
    assert chat_prompt(*HELLO, asked, answer).turns == turns[:3]  # the same, whenever it is sent again


def test_reasoning_of_earlier_turns():
    signed = {"type": "thinking", "thinking": "hm", "signature": "Eq"}
    hidden = {"type": "redacted_thinking", "data": "xx"}
    message = {"role": "assistant", "content": "a", "thinking_blocks": [signed, hidden], "reasoning_content": "hm"}
    assert chat_prompt(message).turns[0].parts == (Thinking("hm", signed), Thinking("", hidden), Text("a"))
    message["thinking_blocks"] = None
    assert chat_prompt(message).turns[0].parts == (Thinking("hm"), Text("a"))
    assert parts(signed, role="assistant") == (Thinking("hm", signed),)
    mistral = {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]}
    assert parts(mistral, role="assistant") == (Thinking("hm"),)


def test_refusals_and_spoken_answers():
    assert parts({"type": "refusal", "refusal": "no"}, role="assistant") == (Refusal("no"),)
    message = {"role": "assistant", "content": None, "refusal": "no", "audio": {"id": "a1"}}
    spoken = Foreign("openai_chat", {"type": "audio", "audio": {"id": "a1"}})
    assert chat_prompt(message).turns[0].parts == (Refusal("no"), spoken)


# 2.3 Content parts


def image(url, **more):
    return {"type": "image_url", "image_url": {"url": url, **more}}


def file(**members):
    return {"type": "file", "file": members}


VIDEO = {"type": "video_url", "video_url": {"url": "https://x/v.mp4"}}
BLOCK = {"type": "document", "source": {"type": "url", "url": "https://x/a.pdf"}}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (image("data:image/png;base64,iV BO\n"), Image("image/png", "iVBO")),
        (image("data:image/jpg;base64,AA=="), Image("image/jpeg", "AA==")),
        (image("DATA:IMAGE/GIF;charset=x;base64,AA,A"), Image("image/gif", "AA,A")),
        (image("data:image/svg+xml;base64,AA"), Image("image/svg+xml", "AA")),
        (image("https://x/a.png", detail="low"), Image(url="https://x/a.png", marks={"detail": "low"})),
        ({"type": "image_url", "image_url": "http://x/a"}, Image(url="http://x/a")),
        (image("data:application/pdf;base64,JV"), Document("application/pdf", data="JV")),
        (file(file_data=f"data:application/pdf;base64,{PDF}", filename="a.pdf"), Document(data=PDF, title="a.pdf")),
        (file(file_data=PDF), Document(data=PDF)),
        (file(file_data="data:text/csv;base64,YSxi", filename="a"), Document("text/csv", text="a,b", title="a")),
        (file(file_data="data:text/plain,a%20b"), Document("text/plain", text="a b")),
        (file(file_id="file-1", filename="n"), Document(file_id="file-1", title="n")),
        ({"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}, Audio("UklG", "wav")),
        (VIDEO, Foreign("openai_chat", VIDEO)),
        (BLOCK, Foreign("anthropic", BLOCK)),
        (image("data:image/png,raw"), Foreign("openai_chat", image("data:image/png,raw"))),
        (image("data:video/mp4;base64,AA"), Foreign("openai_chat", image("data:video/mp4;base64,AA"))),
        (image("gs://bucket/a"), Foreign("openai_chat", image("gs://bucket/a"))),
        (file(file_data="data:image/png,A"), Foreign("openai_chat", file(file_data="data:image/png,A"))),
    ],
)
def test_parts(part, expected):
    assert parts(part) == (expected,)


def test_marks_of_files():
    (made,) = parts({**image("https://x/a"), "cache_control": MARK})
    assert made.marks == {"cache_control": MARK}
    (made,) = parts({**file(file_id="f"), "cache_control": MARK, "citations": {"enabled": True}})
    assert made.marks == {"cache_control": MARK, "citations": {"enabled": True}}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url"},
        image(""),
        {"type": "file"},
        file(),
        file(file_data="data:text/plain;base64,%%%"),
        {"type": "input_audio"},
        {"type": "input_audio", "input_audio": {"data": 5}},
        {"type": "refusal"},
    ],
)
def test_parts_of_no_known_shape(part):
    assert refusal(chat_prompt, {"role": "user", "content": [part]}).param.startswith("messages[0].content[0]")


# 2.4 Tools


def test_tools():
    function = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
    server = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    custom = {"type": "custom", "custom": {"name": "c"}}
    prompt = chat_prompt(
        tools=[
            {"type": "function", "function": function, "cache_control": MARK},
            {"type": "function", "function": {"name": "g", "cache_control": MARK}},
            server,
            custom,
        ],
        functions=[{"name": "h", "parameters": SCHEMA}],
    )
    assert prompt.tools == (
        Tool("f", "d", SCHEMA, True, {"cache_control": MARK}),
        Tool("g", marks={"cache_control": MARK}),
        ForeignTool("anthropic", server),
        ForeignTool("openai_chat", custom),
        Tool("h", schema=SCHEMA),
    )


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, ToolChoice("auto")),
        ({"tool_choice": "none"}, ToolChoice("none")),
        ({"tool_choice": "required"}, ToolChoice("required")),
        ({"tool_choice": "any"}, ToolChoice("required")),
        ({"tool_choice": TOOL}, ToolChoice("tool", "f")),
        ({"tool_choice": {"type": "tool", "name": "f"}}, ToolChoice("tool", "f")),
        ({"tool_choice": {"type": "any"}}, ToolChoice("required")),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}}},
            ToolChoice("required", allowed=("f",)),
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "g"}]}},
            ToolChoice("auto", allowed=("g",)),
        ),
        ({"function_call": "none"}, ToolChoice("none")),
        ({"function_call": {"name": "f"}}, ToolChoice("tool", "f")),
        ({"function_call": "auto", "tool_choice": "required"}, ToolChoice("required")),
    ],
)
def test_tool_choice(members, expected):
    assert chat_prompt(tools=[TOOL], **members).tool_choice == expected
