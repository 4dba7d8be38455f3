"""Anthropic's answers as chat callers read them: `translation.md` 3 and 4, whole and streamed, and its examples."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from twisted_gateway.formats import anthropic, openai_chat
from twisted_gateway.formats.row import Told
from twisted_gateway.formats.translation import Translation
from twisted_gateway.wire.sse import Frame, Reader, encode

from ..exchanges import Headers
from .anthropic_grammar import check, events_of
from .anthropic_making import asks
from .chat_making import HELLO, accumulated, place, plain
from .making import LETTERS, NOW, dumps, written
from .messages_making import told

JSON = Headers({"content-type": "application/json"})
TOOL = {"type": "tool_use", "id": "toolu_9", "name": "get_weather", "input": {}}
THOUGHT = {"type": "thinking", "thinking": "Need weather", "signature": "Eq.."}


def through(stream: bool = True, usage: bool = True) -> Translation:
    """The passage of an answer of Anthropic's to a chat caller."""
    options = {"stream_options": {"include_usage": True}} if usage and stream else {}
    asked = openai_chat.read_call(dumps({"model": "alias", "messages": HELLO, "stream": stream, **options}), JSON)
    seen = Told(asked, openai_chat.FORMAT.prompt(asked), place(), "alias", NOW, LETTERS, lambda: "0" * 32)
    return Translation(anthropic.decoder(stream), openai_chat.FORMAT.encoder(seen))


def framed(*events: dict[str, Any]) -> list[Frame]:
    return [Frame(dumps(event), event["type"].encode()) for event in events]


def chunks(*events: dict[str, Any], usage: bool = True) -> list[Any]:
    """What the caller reads; every chunk is one of the SDK's."""
    passage = through(usage=usage)
    frames = passage.received(framed(*events))
    assert passage.failure is None
    made = written([*frames, *(passage.stopped(True) if passage.complete else [])])
    for one in made:
        if one != "[DONE]":
            ChatCompletionChunk.model_validate(one)
    return made


def short(made: list[Any]) -> list[Any]:
    """Deltas, reasons and usage."""
    found: list[Any] = []
    for one in made:
        if one == "[DONE]":
            found.append(one)
        elif not one["choices"]:
            found.append(one["usage"])
        else:
            (choice,) = one["choices"]
            found.append(choice["finish_reason"] or choice["delta"])
    return found


def start(**usage: int) -> dict[str, Any]:
    message = {"id": "msg_1", "model": "claude-x", "role": "assistant", "content": [], "usage": usage}
    return {"type": "message_start", "message": message}


def begin(block: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def more(index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def stop(index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def finish(reason: str | None, usage: dict[str, Any] | None = None, **delta: Any) -> dict[str, Any]:
    delta = {"stop_reason": reason, "stop_sequence": None, **delta}
    return {"type": "message_delta", "delta": delta, "usage": usage or {"output_tokens": 31}}


END = {"type": "message_stop"}
ROLE = {"role": "assistant", "content": ""}
EXAMPLE = [
    start(input_tokens=20, cache_read_input_tokens=5, output_tokens=1),
    begin({"type": "thinking", "thinking": "", "signature": ""}),
    more(type="thinking_delta", thinking="Need weather"),
    more(type="signature_delta", signature="Eq.."),
    stop(),
    begin(TOOL, 1),
    more(1, type="input_json_delta", partial_json='{"city":'),
    more(1, type="input_json_delta", partial_json='"Bonn"}'),
    stop(1),
    finish("tool_use"),
    END,
]
COUNTED = {
    "prompt_tokens": 25,
    "completion_tokens": 31,
    "total_tokens": 56,
    "prompt_tokens_details": {"cached_tokens": 5},
}


def call(**function: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "function": function}]}


def test_the_example_of_section_4() -> None:
    made = chunks(*EXAMPLE)
    assert short(made) == [
        ROLE,
        {"reasoning_content": "Need weather"},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "toolu_9",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": ""},
                }
            ]
        },
        call(arguments='{"city":'),
        call(arguments='"Bonn"}'),
        {"thinking_blocks": [THOUGHT]},
        "tool_calls",
        COUNTED,
        "[DONE]",
    ]
    for one in made[:-2]:
        assert (one["id"], one["object"], one["model"]) == ("msg_1", "chat.completion.chunk", "alias")
        assert (one["created"], one["usage"]) == (int(NOW), None)
    accumulated(made)


def test_each_event_yields_its_frames_at_once() -> None:
    """Section 1, principle 5: nothing waits for the next event."""
    passage = through()
    counts = [len(passage.received([frame])) for frame in framed(*EXAMPLE)]
    assert counts == [1, 0, 1, 0, 0, 1, 1, 1, 0, 2, 0]


def test_usage_that_was_not_asked_for() -> None:
    made = chunks(*EXAMPLE, usage=False)
    assert all("usage" not in one for one in made[:-1])
    assert short(made)[-2:] == ["tool_calls", "[DONE]"]


@pytest.mark.parametrize(
    ("events", "made"),
    [
        ([begin({"type": "text", "text": "a"}), more(type="text_delta", text="")], [{"content": "a"}]),
        ([begin(TOOL, 4), stop(4), begin(TOOL, 2)], None),
        ([begin({**TOOL, "input": {"a": 1}}), stop()], [call(arguments='{"a":1}')]),
        ([begin(TOOL), stop()], [call(arguments="{}")]),
        ([begin({"type": "redacted_thinking", "data": "x"}), stop()], []),
        ([begin({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}), stop()], []),
        ([begin({"type": "brand_new"}), more(type="brand_new_delta"), stop()], []),
        ([more(7, type="text_delta", text="a")], [{"content": "a"}]),
        ([more(type="citations_delta", citation={})], []),
        ([{"type": "ping"}, {"type": "brand_new"}], []),
    ],
)
def test_blocks(events: list[Any], made: list[Any] | None) -> None:
    found = short(chunks(start(), *events))
    assert found[0] == ROLE
    calls = [one["tool_calls"][0] for one in found[1:] if "tool_calls" in one and "id" in one["tool_calls"][0]]
    if made is None:
        assert [one["index"] for one in calls] == [0, 1], "numbered in the order of their starts"
        return
    assert [one for one in found[1:] if one.get("tool_calls", [None])[0] not in calls] == made


@pytest.mark.parametrize(
    ("reason", "made"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("brand_new", "stop"),
        (None, "stop"),
    ],
)
def test_reasons(reason: str | None, made: str) -> None:
    assert short(chunks(start(), finish(reason), END))[1] == made
    whole = {"id": "msg_1", "content": [], "stop_reason": reason, "usage": {}}
    assert answered(whole)["choices"][0]["finish_reason"] == made


def test_an_error_behind_some_text() -> None:
    passage = through()
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    frames = passage.received(framed(start(), begin({"type": "text", "text": "a"}), error, finish("end_turn"), END))
    assert short(written(frames)) == [ROLE, {"content": "a"}]
    assert passage.failure is not None
    assert passage.failure.message == "Overloaded"
    assert (passage.complete, passage.complaint(passage.failure)) == (False, None)


@pytest.mark.parametrize(
    ("events", "complete"),
    [
        ([start(), begin({"type": "text", "text": "a"})], False),
        ([start(), begin({"type": "text", "text": "a"}), finish("end_turn")], False),
        ([start(), begin({"type": "text", "text": "a"}), stop(), finish("end_turn")], True),
        ([start(), END], True),
    ],
)
def test_when_an_end_without_a_word_is_one(events: list[Any], complete: bool) -> None:
    passage = through()
    passage.received(framed(*events))
    assert passage.complete is complete
    if complete:
        assert written(passage.stopped(True))[-1] == "[DONE]"


# --- 3


def answered(message: dict[str, Any]) -> Any:
    passage = through(stream=False)
    data = dumps(message)
    assert passage.received([Frame(data, b"", data)]) == []
    (frame,) = passage.stopped(True)
    made = json.loads(frame.data)
    ChatCompletion.model_validate(made)
    return made


def test_a_whole_answer() -> None:
    content = [
        THOUGHT,
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Let me "},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "text", "text": "look."},
        {**TOOL, "input": {"city": "Bonn"}},
        {**TOOL, "id": "toolu_10", "input": None},
    ]
    usage = {"input_tokens": 20, "cache_read_input_tokens": 5, "output_tokens": 31}
    message = {"id": "msg_1", "model": "claude-x", "content": content, "stop_reason": "tool_use", "usage": usage}
    assert answered(message) == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": int(NOW),
        "model": "alias",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Let me look.",
                    "refusal": None,
                    "reasoning_content": "Need weather",
                    "thinking_blocks": content[:2],
                    "tool_calls": [
                        {
                            "id": "toolu_9",
                            "type": "function",
                            "function": {"name": "get_weather", "arguments": '{"city":"Bonn"}'},
                        },
                        {"id": "toolu_10", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}},
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": COUNTED,
    }


def test_a_whole_answer_that_says_nothing() -> None:
    message = answered({"id": "msg_1", "content": [], "stop_reason": "end_turn", "usage": {}})["choices"][0]["message"]
    assert message == {"role": "assistant", "content": None, "refusal": None}


def test_a_whole_refusal() -> None:
    details = {"type": "refusal", "explanation": "no"}
    message = {"id": "msg_1", "content": [], "stop_reason": "refusal", "stop_details": details, "usage": {}}
    (choice,) = answered(message)["choices"]
    assert (choice["message"]["refusal"], choice["finish_reason"]) == ("no", "content_filter")


def test_the_stream_accumulates_to_the_whole_answer() -> None:
    content = [THOUGHT, {"type": "text", "text": "Hi"}, {**TOOL, "input": {"city": "Bonn"}}]
    message = {
        "id": "msg_1",
        "model": "c",
        "content": content,
        "stop_reason": "tool_use",
        "usage": {"output_tokens": 1},
    }
    passage = through()
    frames = passage.received(anthropic.unfolded(dumps(message)))
    whole = ChatCompletion.construct(**answered(message))
    assert accumulated(written([*frames, *passage.stopped(True)])) == plain(whole)


@pytest.mark.parametrize("stream", [True, False])
def test_thinking_in_a_tool_loop_goes_back_as_it_came(stream: bool) -> None:
    """What a caller keeps of `thinking_blocks` is Anthropic's own, signature and all, byte for byte."""
    signed = {"type": "thinking", "thinking": "é \\u2028 x", "signature": "Eq+/\\u00e9=="}
    hidden = {"type": "redacted_thinking", "data": "x/+="}
    content = [signed, hidden, {**TOOL, "input": {"city": "Bonn"}}]
    message = {"id": "msg_1", "model": "c", "content": content, "stop_reason": "tool_use", "usage": {}}
    if stream:
        passage = through()
        frames = passage.received(anthropic.unfolded(dumps(message)))
        (choice,) = accumulated(written([*frames, *passage.stopped(True)]))["choices"]
    else:
        choice = answered(message)["choices"][0]["message"]
    kept = {name: choice[name] for name in ("thinking_blocks", "tool_calls")}
    made = asks(
        *HELLO,
        {"role": "assistant", "content": None, **kept},
        {"role": "tool", "tool_call_id": "toolu_9", "content": "sunny"},
    )
    assert made["messages"][1] == {"role": "assistant", "content": content}
    assert made["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "toolu_9", "content": "sunny"}]


# --- The example of 5.4, the other way round


def test_the_example_of_section_5_4() -> None:
    deltas: list[Any] = [
        {"role": "assistant", "content": None},
        {"content": "Let me look."},
        {"tool_calls": [{"index": 0, "id": "call_a", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"content": "", "tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]},
        {
            "tool_calls": [
                {"index": 1, "id": "call_b", "type": "function", "function": {"name": "g", "arguments": "{}"}}
            ]
        },
    ]
    sent: list[Any] = [{"id": "c1", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    sent.append({"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    usage = {"prompt_tokens": 50, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 10}}
    sent.append({"choices": [], "usage": usage})
    passage = Translation(openai_chat.FORMAT.decoder(True, None), anthropic.encoder(told()))
    made = [passage.received(Reader().received(b"data: " + dumps(chunk) + b"\n\n")) for chunk in sent]
    assert passage.ended, "by the usage chunk"
    made.append(passage.stopped(True))
    data = b"".join(encode(frame) for frames in made for frame in frames)
    check(data)
    assert [[frame.event.decode() for frame in frames] for frames in made] == [
        ["message_start"],
        ["content_block_start", "content_block_delta"],
        ["content_block_stop", "content_block_start"],
        ["content_block_delta"],
        ["content_block_stop", "content_block_start", "content_block_delta"],
        ["content_block_stop"],
        [],
        ["message_delta", "message_stop"],
    ]
    events = [event for _, event in events_of(data)]
    assert events[3:6] == [
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "call_a", "name": "f", "input": {}},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'},
        },
    ]
    assert events[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"input_tokens": 40, "cache_read_input_tokens": 10, "output_tokens": 20},
    }
