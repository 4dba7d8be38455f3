"""A chat caller at an Anthropic target: every row of `translation.md` 2.1 to 2.3 with the exact body that is sent.

Every body is checked against Anthropic's own types, which know no other members.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from twisted_gateway.formats import anthropic

from .anthropic_making import BASE, EPHEMERAL, NONE, SAID, asks, refused, system
from .chat_making import HELLO, chat_prompt, place
from .strict import anthropics_mistakes

PDF = base64.b64encode(b"%PDF-1").decode()
WORDS = base64.b64encode("é, b".encode()).decode()


# --- 2.1


@pytest.mark.parametrize(
    ("members", "made"),
    [
        ({}, {}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 7, "max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"temperature": 0.2}, {"temperature": 0.2}),
        ({"temperature": 1.5}, {"temperature": 1}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"top_p": 1}, {"top_p": 1}),
        ({"top_p": 1, "temperature": 0.2}, {"temperature": 0.2}),
        ({"top_k": 5}, {"top_k": 5}),
        ({"stop": "a"}, {"stop_sequences": ["a"]}),
        ({"stop": ["a", "", " \n", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"stop": ["", " "]}, {}),
        ({"stop": None}, {}),
        ({"stream": True}, {"stream": True}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
        ({"stream": False}, {}),
        ({"user": "u", "safety_identifier": "s", "metadata": {"user_id": "m"}}, {"metadata": {"user_id": "u"}}),
        ({"safety_identifier": "s", "metadata": {"user_id": "m"}}, {"metadata": {"user_id": "s"}}),
        ({"metadata": {"user_id": "m", "more": "x"}}, {"metadata": {"user_id": "m"}}),
        ({"metadata": {"user_id": 5}}, {}),
        ({"metadata": {"more": "x"}}, {}),
        ({"thinking": {"type": "disabled"}}, {"thinking": {"type": "disabled"}}),
        ({"output_config": {"effort": "low"}}, {"output_config": {"effort": "low"}}),
        ({"cache_control": {"type": "ephemeral"}}, EPHEMERAL),
        ({"container": "c"}, {"container": "c"}),
        ({"service_tier": "auto"}, {"service_tier": "auto"}),
        ({"service_tier": "standard_only"}, {"service_tier": "standard_only"}),
        ({"service_tier": "flex"}, {}),
        ({"service_tier": "default"}, {}),
        ({"n": 1}, {}),
        ({"n": None}, {}),
        ({"logprobs": True, "top_logprobs": 3}, {}),
        ({"logit_bias": {"5": 1}}, {}),
        ({"frequency_penalty": 0.5, "presence_penalty": 0.5}, {}),
        ({"seed": 5}, {}),
        ({"store": True}, {}),
        ({"prediction": {"type": "content", "content": "x"}}, {}),
        ({"modalities": ["text"]}, {}),
        ({"audio": {"voice": "alloy", "format": "wav"}}, {}),
        ({"verbosity": "low"}, {}),
        ({"web_search_options": {}}, {}),
        ({"prompt_cache_key": "k", "prompt_cache_options": {}, "prompt_cache_retention": "24h"}, {}),
        ({"moderation": {}}, {}),
    ],
)
def test_parameters(members: dict[str, Any], made: dict[str, Any]) -> None:
    assert asks(**members) == {**BASE, **made}


@pytest.mark.parametrize(
    "members",
    [
        {"mcp_servers": [{"type": "url", "url": "https://x", "name": "n"}]},
        {"context_management": {"edits": []}},
        {"brand_new": {"a": [1]}},
    ],
)
def test_names_that_nobody_knows_are_forwarded(members: dict[str, Any]) -> None:
    made = anthropic.FORMAT.body(chat_prompt(**members), place(NONE, provider="anthropic"))
    assert json.loads(made.body) == {**BASE, **members}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"n": 2}, "n greater than 1 is not supported by this model"),
        ({"modalities": ["text", "audio"]}, 'modality "audio" is not supported by this model'),
    ],
)
def test_what_cannot_be_asked(members: dict[str, Any], message: str) -> None:
    assert refused(**members) == message


# --- 2.2


@pytest.mark.parametrize(
    ("messages", "made"),
    [
        ([system("a"), system("b", "developer")], "a\n\nb"),
        ([system(" ")], None),
        (
            [system([{"type": "text", "text": "a", **EPHEMERAL}, {"type": "text", "text": " "}]), system("b")],
            [{"type": "text", "text": "a", **EPHEMERAL}, {"type": "text", "text": "b"}],
        ),
        ([system([{"type": "text", "text": "a"}])], [{"type": "text", "text": "a"}]),
        ([system([{"type": "text", "text": " "}])], None),
    ],
)
def test_instructions(messages: list[Any], made: Any) -> None:
    wanted = BASE if made is None else {**BASE, "system": made}
    assert asks(*messages, *HELLO) == wanted


def test_later_instructions_are_a_users_words_in_their_place() -> None:
    made = asks(*HELLO, {"role": "assistant", "content": "yes"}, system("short now"), *HELLO)
    assert made["messages"] == [
        *SAID,
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        {"role": "user", "content": [{"type": "text", "text": "short now"}, {"type": "text", "text": "hi"}]},
    ]
    assert "system" not in made


def call(id: str, name: str = "f", arguments: Any = "{}") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def used(id: str, name: str = "f", input: Any = None) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": input or {}}


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_a_tool_loop_with_two_calls(order: tuple[str, str]) -> None:
    """Results in either order, what the user says besides behind them; names of messages are dropped."""
    results = {"a": {"role": "tool", "tool_call_id": "a", "content": "one"}}
    results["b"] = {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "two"}], "is_error": True}
    made = asks(
        {"role": "user", "content": "hi", "name": "bob"},
        {"role": "assistant", "content": "look", "tool_calls": [call("a", arguments='{"x":1}'), call("b", "g")]},
        *(results[id] for id in order),
        {"role": "user", "content": "and?"},
    )
    blocks = {"a": {"type": "tool_result", "tool_use_id": "a", "content": "one"}}
    blocks["b"] = {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "two"}]}
    blocks["b"]["is_error"] = True
    assert made["messages"] == [
        *SAID,
        {"role": "assistant", "content": [{"type": "text", "text": "look"}, used("a", "f", {"x": 1}), used("b", "g")]},
        {"role": "user", "content": [*(blocks[id] for id in order), {"type": "text", "text": "and?"}]},
    ]


def test_results_go_before_what_the_user_said_first() -> None:
    made = asks(
        *HELLO,
        {"role": "assistant", "tool_calls": [call("a")]},
        {"role": "user", "content": "wait"},
        {"role": "tool", "tool_call_id": "a", "content": ""},
    )
    assert made["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": ""},
        {"type": "text", "text": "wait"},
    ]


def test_a_legacy_function_call_and_its_result() -> None:
    made = asks(
        *HELLO,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x":1}'}},
        {"role": "function", "name": "f", "content": "one"},
    )
    (block,) = made["messages"][1]["content"]
    assert block == used(block["id"], "f", {"x": 1})
    assert made["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": block["id"], "content": "one"}]


def test_blank_texts_and_empty_messages_are_left_out() -> None:
    made = asks(
        {"role": "user", "content": [{"type": "text", "text": " "}, {"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": "  "},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "so \n"},
    )
    assert made["messages"] == [*SAID, {"role": "assistant", "content": [{"type": "text", "text": "so"}]}]
    assert refused({"role": "user", "content": " "}) == "messages have no content"


# --- 2.3


def image(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def file(**members: Any) -> dict[str, Any]:
    return {"type": "file", "file": members}


def picture(kind: str, data: str = "QUJD") -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": f"image/{kind}", "data": data}}


def document(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "document", "source": source, **more}


A_PDF = {"type": "base64", "media_type": "application/pdf", "data": PDF}
A_TEXT = {"type": "text", "media_type": "text/plain", "data": "é, b"}
OWN = document({"type": "url", "url": "https://x/a.pdf"}, context="c")
RESULT = {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "w"}]}


@pytest.mark.parametrize(
    ("part", "block"),
    [
        ({"type": "text", "text": "a", **EPHEMERAL}, {"type": "text", "text": "a", **EPHEMERAL}),
        *(
            (image(f"data:image/{kind};base64,QUJD"), picture("jpeg" if kind == "jpg" else kind))
            for kind in ("png", "jpeg", "jpg", "gif", "webp")
        ),
        (image("data:image/png;charset=x;base64,QU\n JD"), picture("png")),
        (image("data:image/png;base64,QUJD", detail="low"), picture("png")),
        ({**image("data:image/png;base64,QUJD"), **EPHEMERAL}, {**picture("png"), **EPHEMERAL}),
        (
            image("https://x/y.png", detail="high"),
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        ),
        (image("http://x/y"), {"type": "image", "source": {"type": "url", "url": "http://x/y"}}),
        (image(f"data:application/pdf;base64,{PDF}"), document(A_PDF)),
        (
            file(file_data=f"data:application/pdf;base64,{PDF}", filename="a.pdf"),
            document(A_PDF, title="a.pdf"),
        ),
        (file(file_data=f"data:text/csv;base64,{WORDS}"), document(A_TEXT)),
        (file(file_data=f"data:text/plain;charset=utf-8;base64,{WORDS}"), document(A_TEXT)),
        (OWN, OWN),
        (RESULT, RESULT),
        (picture("png"), picture("png")),
    ],
)
def test_parts_of_a_user(part: dict[str, Any], block: dict[str, Any]) -> None:
    assert asks({"role": "user", "content": [part]})["messages"] == [{"role": "user", "content": [block]}]


def test_a_file_by_its_id() -> None:
    """Only the beta types know this source, so the strict check is left out."""
    prompt = chat_prompt({"role": "user", "content": [file(file_id="file_1")]})
    made = json.loads(anthropic.FORMAT.body(prompt, place(NONE)).body)
    assert made["messages"][0]["content"] == [document({"type": "file", "file_id": "file_1"})]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}, "input_audio"),
        ({"type": "video_url", "video_url": {"url": "https://x"}}, "video_url"),
        (image("data:image/tiff;base64,QUJD"), "image_url"),
        (file(file_data="data:application/zip;base64,QUJD"), "file"),
        ({"type": "brand_new"}, "brand_new"),
    ],
)
def test_parts_that_are_refused(part: dict[str, Any], kind: str) -> None:
    message = refused({"role": "user", "content": [{"type": "text", "text": "a"}, part]})
    assert message == f'content part type "{kind}" is not supported by this model'


SIGNED = {"type": "thinking", "thinking": "t", "signature": "Eq=="}
HIDDEN = {"type": "redacted_thinking", "data": "x"}


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"content": "a", "refusal": "no"}, [{"type": "text", "text": "a"}, {"type": "text", "text": "no"}]),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, [{"type": "text", "text": "no"}]),
        (
            {"content": "a", "thinking_blocks": [SIGNED, HIDDEN], "reasoning_content": "t", "tool_calls": [call("1")]},
            [SIGNED, HIDDEN, {"type": "text", "text": "a"}, used("1")],
        ),
        ({"content": "a", "reasoning_content": "t"}, [{"type": "text", "text": "a"}]),
        ({"tool_calls": [call("1", arguments="")]}, [used("1")]),
        ({"tool_calls": [call("1", arguments="[1]")]}, [used("1")]),
        ({"tool_calls": [call("1", arguments='{"a":')]}, [used("1")]),
        ({"tool_calls": [call("1", arguments=' {"a": 1.5} ')]}, [used("1", input={"a": 1.5})]),
        ({"tool_calls": [call("a.b"), call("a_b")]}, [used("a_b"), used("a_b_2")]),
    ],
)
def test_an_assistants_message(message: dict[str, Any], content: list[Any]) -> None:
    assert asks(*HELLO, {"role": "assistant", **message})["messages"][1] == {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("content", "made"),
    [
        ("a", "a"),
        ([{"type": "text", "text": "a"}, image("https://x")], None),
    ],
)
def test_content_of_results(content: Any, made: Any) -> None:
    found = asks(
        *HELLO,
        {"role": "assistant", "tool_calls": [call("1")]},
        {"role": "tool", "tool_call_id": "1", "content": content},
    )
    wanted = made or [{"type": "text", "text": "a"}, {"type": "image", "source": {"type": "url", "url": "https://x"}}]
    assert found["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "1", "content": wanted}]


def test_the_check_itself_sees_what_the_api_would_refuse() -> None:
    assert anthropics_mistakes({**BASE, "seed": 5}) == ["request.seed is not known"]
    assert anthropics_mistakes(
        {**BASE, "messages": [{"role": "user", "content": [{**picture("png"), "detail": "low"}]}]}
    )
    assert anthropics_mistakes({**BASE, "tools": [{"name": "f"}]})
    assert anthropics_mistakes({"model": NONE, "messages": SAID}) == ["request.max_tokens is missing"]
