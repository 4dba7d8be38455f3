"""A neutral prompt in Anthropic's words: `translation.md` 2.1 to 2.3, part by part, and budgets of 2.6."""

import base64
import json

import pytest

from twisted_gateway.config.resources import ParamConstraints, RequestEdits
from twisted_gateway.formats import anthropic
from twisted_gateway.formats.anthropic_request import thinking_style
from twisted_gateway.formats.neutral import (
    Audio,
    Document,
    Foreign,
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

from .chat_making import chat_prompt, place, refusal
from .chat_making import said as prompt_of

CACHED = {"cache_control": {"type": "ephemeral"}}
HI = Turn("user", (Text("hi"),))
ADAPTIVE, BUDGET, NONE = "claude-opus-4-6", "claude-sonnet-4-5-20250929", "claude-3-5-haiku-20241022"
G = Tool("g")


def asked(*turns, dialect="openai_chat", **members):
    return prompt_of(*(turns or (HI,)), dialect=dialect, **members)


def body(prompt, upstream=NONE, **more):
    sent = anthropic.FORMAT.body(prompt, place(upstream, provider="anthropic", **more))
    assert sent.path == "/messages"
    return json.loads(sent.body)


def blocks(*parts, role="user", **more):
    """The content of the one message that these parts make."""
    (message,) = body(asked(HI, Turn(role, parts, False)) if role == "assistant" else asked(Turn(role, parts, False)))[
        "messages"
    ][-1:]
    return message["content"]


# --- 2.1


@pytest.mark.parametrize(
    ("members", "made"),
    [
        ({}, {"max_tokens": 4096}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"temperature": 1.5}, {"temperature": 1}),
        ({"temperature": 0.3, "top_p": 1.0}, {"temperature": 0.3}),
        ({"top_p": 1.0}, {"top_p": 1}),
        ({"temperature": 0.3, "top_p": 0.5, "top_k": 4}, {"temperature": 0.3, "top_p": 0.5, "top_k": 4}),
        ({"stop": ("a", "", " \n", "b")}, {"stop_sequences": ["a", "b"]}),
        ({"stop": ("", " ")}, {}),
        ({"stream": True}, {"stream": True}),
        ({"user": "u"}, {"metadata": {"user_id": "u"}}),
        ({"extra": {"safety_identifier": "s", "metadata": {"user_id": "m"}}}, {"metadata": {"user_id": "s"}}),
        ({"extra": {"metadata": {"user_id": "m", "more": 1}}}, {"metadata": {"user_id": "m"}}),
        ({"extra": {"metadata": {"user_id": 5}}}, {}),
        ({"extra": {"service_tier": "auto"}}, {"service_tier": "auto"}),
        ({"extra": {"service_tier": "flex"}}, {}),
        (
            {"extra": {"container": "c", "mcp_servers": [], "new": None}},
            {"container": "c", "mcp_servers": [], "new": None},
        ),
        (
            {"extra": dict.fromkeys(("seed", "logprobs", "store", "stream_options", "prompt_cache_key", "n"), 1)},
            {},
        ),
        ({"extra": {"modalities": ["text"], "verbosity": "low", "logit_bias": {}}}, {}),
    ],
)
def test_parameters(members, made):
    found = body(asked(**members))
    assert found.pop("model") == NONE
    assert found.pop("messages") == [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert found == {"max_tokens": 4096, **made}


def test_the_models_own_default():
    assert body(asked(), default_max_tokens=9)["max_tokens"] == 9


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"choices": 2}, "n greater than 1 is not supported by this model"),
        ({"extra": {"modalities": ["text", "audio"]}}, 'modality "audio" is not supported by this model'),
    ],
)
def test_what_cannot_be_asked(members, message):
    problem = refusal(anthropic.FORMAT.body, asked(**members), place(NONE))
    assert problem.message == f"request payload is invalid: {message}"


def test_a_chat_request_meets_only_members_that_anthropic_knows():
    prompt = chat_prompt(
        stop="x",
        user="u",
        n=1,
        seed=5,
        parallel_tool_calls=True,
        stream_options={"include_usage": True},
        response_format={"type": "text"},
        frequency_penalty=1,
        service_tier="flex",
        logprobs=True,
        metadata={"a": "b"},
        safety_identifier="s",
        max_completion_tokens=5,
        max_tokens=6,
        modalities=["text"],
    )
    assert body(prompt).keys() == {"model", "max_tokens", "messages", "stop_sequences", "metadata"}
    assert body(prompt)["max_tokens"] == 5


def test_the_provider_keys_edits():
    edits = RequestEdits(
        default_body_fields={"top_k": 3},
        param_renames={"max_tokens": "limit"},
        param_constraints=ParamConstraints(temperature_max=0.5),
    )
    found = body(asked(temperature=0.9), key={"request": edits})
    assert (found["limit"], found["top_k"], found["temperature"]) == (4096, 3, 0.5)
    assert "max_tokens" not in found


# --- 2.2


@pytest.mark.parametrize(
    ("turns", "made"),
    [
        ((Turn("system", (Text("a"),)), Turn("system", (Text("b"),))), "a\n\nb"),
        ((Turn("system", (Text(" "),)),), None),
        ((), None),
        (
            (Turn("system", (Text("a", CACHED), Text(" ")), False), Turn("system", (Text("b"),))),
            [{"type": "text", "text": "a", **CACHED}, {"type": "text", "text": "b"}],
        ),
    ],
)
def test_instructions(turns, made):
    assert body(asked(*turns, HI)).get("system") == made


def test_later_instructions_are_said_in_their_place():
    turns = (HI, Turn("assistant", (Text("yes"),)), Turn("system", (Text("now short"),)), HI)
    found = body(asked(*turns))
    assert [message["role"] for message in found["messages"]] == ["user", "assistant", "user"]
    assert [block["text"] for block in found["messages"][2]["content"]] == ["now short", "hi"]


def test_roles_alternate_and_results_come_first():
    turns = (
        Turn("user", (Text("a"), Text(" ")), False),
        Turn("user", (Text("b"),)),
        Turn("assistant", (ToolCall("1", "f", ""), ToolCall("2", "g", "")), False),
        Turn("tool", (ToolResult("2", (Text("two"),)),)),
        Turn("user", (Text("and"),)),
        Turn("tool", (ToolResult("1", (Text("one"),)),)),
        Turn("assistant", (Text("   "),)),
    )
    found = body(asked(*turns))["messages"]
    assert [message["role"] for message in found] == ["user", "assistant", "user"]
    assert [block["text"] for block in found[0]["content"]] == ["a", "b"]
    assert [block["type"] for block in found[2]["content"]] == ["tool_result", "tool_result", "text"]


def test_a_prefill_is_trimmed():
    found = body(asked(HI, Turn("assistant", (Text("so \n"),))))["messages"]
    assert found[-1]["content"] == [{"type": "text", "text": "so"}]


def test_nothing_to_say():
    problem = refusal(anthropic.FORMAT.body, asked(Turn("user", (Text(" "),))), place(NONE))
    assert "messages" in problem.message


# --- 2.3


PDF = {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (Text("a", {**CACHED, "citations": []}), {"type": "text", "text": "a", **CACHED, "citations": []}),
        (
            Image("image/jpg", "QU JD\n", marks=CACHED),
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "QUJD"}, **CACHED},
        ),
        (
            Image("image/webp", "QUJD", marks={"detail": "low"}),
            {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": "QUJD"}},
        ),
        (Image(url="https://x/y.png"), {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}),
        (Image("application/pdf", "QUJD"), {"type": "document", "source": PDF}),
        (Document(data="QUJD", title="t.pdf"), {"type": "document", "source": PDF, "title": "t.pdf"}),
        (
            Document("text/csv", data=base64.b64encode("é".encode()).decode()),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "é"}},
        ),
        (
            Document("text/plain", text="words"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
        ),
        (Document(file_id="file_1"), {"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
        (Foreign("anthropic", {"type": "search_result", "x": 1}), {"type": "search_result", "x": 1}),
    ],
)
def test_parts_of_a_user(part, block):
    assert blocks(part) == [block]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (Audio("QUJD", "wav"), "input_audio"),
        (Image("image/tiff", "QUJD"), "image_url"),
        (Document("application/zip", data="QUJD"), "file"),
        (Foreign("openai_chat", {"type": "video_url"}), "video_url"),
    ],
)
def test_parts_that_anthropic_does_not_know(part, kind):
    problem = refusal(anthropic.FORMAT.body, asked(Turn("user", (part,), False)), place(NONE))
    assert problem.message == f'request payload is invalid: content part type "{kind}" is not supported by this model'


def test_blocks_of_an_assistant():
    signed = {"type": "thinking", "thinking": "t", "signature": "Eq=="}
    hidden = {"type": "redacted_thinking", "data": "x"}
    made = blocks(
        ToolCall("call_1", "f", '{"a": 1.0e2}', CACHED),
        Text("words"),
        Refusal("no"),
        Thinking("t", signed),
        Thinking("", hidden),
        Thinking("unsigned"),
        Thinking("empty", {"type": "thinking", "thinking": "e", "signature": ""}),
        ToolCall("call_2", "g", ""),
        ToolCall("call_3", "g", "[1]"),
        ToolCall("call_4", "g", '{"a":'),
        role="assistant",
    )
    assert made == [
        signed,
        hidden,
        {"type": "text", "text": "words"},
        {"type": "text", "text": "no"},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 100.0}, **CACHED},
        {"type": "tool_use", "id": "call_2", "name": "g", "input": {}},
        {"type": "tool_use", "id": "call_3", "name": "g", "input": {}},
        {"type": "tool_use", "id": "call_4", "name": "g", "input": {}},
    ]


def test_arguments_keep_the_spelling_of_their_numbers():
    turns = (HI, Turn("assistant", (ToolCall("1", "f", '{"a":1.0e2,"b":12345678901234567890123}'),), False))
    sent = anthropic.FORMAT.body(asked(*turns), place(NONE))
    assert b'{"a":1.0e2,"b":12345678901234567890123}' in sent.body


@pytest.mark.parametrize(
    ("result", "content"),
    [
        (ToolResult("1", (Text("a"),)), "a"),
        (ToolResult("1", (Text(""),)), ""),
        (ToolResult("1", (Text("a"), Text(" ")), plain=False), [{"type": "text", "text": "a"}]),
        (
            ToolResult("1", (Image(url="https://x"),), plain=False),
            [{"type": "image", "source": {"type": "url", "url": "https://x"}}],
        ),
    ],
)
def test_results(result, content):
    (block,) = blocks(result, role="tool")
    assert block == {"type": "tool_result", "tool_use_id": "1", "content": content}


def test_a_result_that_is_an_error():
    (block,) = blocks(ToolResult("1", (Text("bad"),), True, marks=CACHED), role="tool")
    assert block["is_error"] is True
    assert block["cache_control"] == {"type": "ephemeral"}


def test_a_result_of_no_call():
    problem = refusal(anthropic.FORMAT.body, asked(Turn("tool", (ToolResult("", ()),))), place(NONE))
    assert "tool_call_id" in problem.message


def test_ids_are_made_legal_on_both_sides():
    names = ["a.b", "a_b", "a:b", "ok-1"]
    turns = (
        HI,
        Turn("assistant", tuple(ToolCall(name, "f", "") for name in names), False),
        *(Turn("tool", (ToolResult(name, (Text("x"),)),)) for name in reversed(names)),
    )
    found = body(asked(*turns))["messages"]
    made = [block["id"] for block in found[1]["content"]]
    assert made == ["a_b", "a_b_2", "a_b_3", "ok-1"]
    assert [block["tool_use_id"] for block in found[2]["content"]] == made[::-1]


# --- 2.6


@pytest.mark.parametrize(
    ("upstream", "style"),
    [
        ("claude-opus-4-6", "adaptive"),
        ("claude-opus-4-7-20260101", "adaptive"),
        ("claude-opus-5", "adaptive"),
        ("anthropic/claude-sonnet-4.6", "adaptive"),
        ("claude-haiku-4-5-20251001", "budget"),
        ("anthropic/claude-haiku-4.5", "budget"),
        ("claude-sonnet-4-20250514", "budget"),
        ("claude-3-7-sonnet-20250219", "budget"),
        ("claude-3-5-sonnet-latest", "none"),
        ("claude-3-haiku@20240307", "none"),
        ("claude-2.1", "none"),
        ("my-model-9", "none"),
    ],
)
def test_styles_of_thinking(upstream, style):
    assert thinking_style(upstream) == style


@pytest.mark.parametrize(("limit", "budget"), [(16384, 4096), (4096, 4095), (1025, 1024), (1024, None), (5, None)])
def test_a_budget_is_below_the_callers_limit(limit, budget):
    found = body(asked(thought=Thought("high"), max_tokens=limit), BUDGET)
    assert found["max_tokens"] == limit
    assert found.get("thinking") == (budget and {"type": "enabled", "budget_tokens": budget})


def test_thinking_and_what_it_refuses():
    thinking = asked(thought=Thought("low"), temperature=0.5, tools=(G,))
    assert "temperature" not in body(thinking, BUDGET)
    assert body(asked(thought=Thought("low"), temperature=1.0), BUDGET)["temperature"] == 1
    forced = asked(thought=Thought("low"), temperature=0.5, tools=(G,), tool_choice=ToolChoice("required"))
    assert "thinking" not in body(forced, BUDGET)
    assert body(forced, BUDGET)["temperature"] == 0.5
    own = {"type": "enabled", "budget_tokens": 2000}
    forced = asked(tools=(G,), tool_choice=ToolChoice("required"), thought=Thought("max"), extra={"thinking": own})
    assert body(forced, ADAPTIVE)["thinking"] == own
    assert "output_config" not in body(forced, ADAPTIVE)
