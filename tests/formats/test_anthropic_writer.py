"""Neutral events as Messages answers: every row of `translation.md` 5.3 and 5.4."""

from __future__ import annotations

import json
from typing import Any

import pytest

from twisted_gateway.errors import StrayFrame
from twisted_gateway.exchange import Usage
from twisted_gateway.formats import anthropic, openai_chat
from twisted_gateway.formats.names import short_name
from twisted_gateway.formats.neutral import (
    Arguments,
    Began,
    Called,
    Calling,
    Declined,
    Finished,
    Mused,
    Said,
    Signed,
)
from twisted_gateway.formats.translation import Translation
from twisted_gateway.wire.sse import encode

from .anthropic_grammar import check, events_of
from .chat_making import Learnt
from .making import LETTERS, framed
from .messages_making import BEGAN, MUSING, deltas, streamed, told, whole

START = {
    "type": "message_start",
    "message": {
        "id": "msg_c1",
        "type": "message",
        "role": "assistant",
        "model": "alias",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    },
}

# --- 5.4: the machine, row by row


def text(index: int) -> tuple[Any, ...]:
    return "start", index, {"type": "text", "text": ""}


def thinking(index: int) -> tuple[Any, ...]:
    return "start", index, {"type": "thinking", "thinking": "", "signature": ""}


def tool(index: int, id: str, name: str) -> tuple[Any, ...]:
    return "start", index, {"type": "tool_use", "id": id, "name": name, "input": {}}


A, B = Calling(0, "a", "f"), Calling(1, "b", "g")


@pytest.mark.parametrize(
    ("events", "made"),
    [
        (
            [Said("Hel"), Said(""), Said("lo")],
            [text(0), (0, "text_delta", "Hel"), (0, "text_delta", "lo"), ("stop", 0)],
        ),
        ([Declined("no")], [text(0), (0, "text_delta", "no"), ("stop", 0)]),
        ([], [text(0), (0, "text_delta", ""), ("stop", 0)]),
        (
            [Mused("t"), Said("a")],
            [thinking(0), (0, "thinking_delta", "t"), ("stop", 0), text(1), (1, "text_delta", "a"), ("stop", 1)],
        ),
        (  # text, tool, text
            [Said("a"), A, Arguments(0, '{"x":'), Said(""), Arguments(0, "1}"), Said("b")],
            [
                *(text(0), (0, "text_delta", "a"), ("stop", 0), tool(1, "a", "f")),
                *((1, "input_json_delta", '{"x":'), (1, "input_json_delta", "1}"), ("stop", 1)),
                *(text(2), (2, "text_delta", "b"), ("stop", 2)),
            ],
        ),
        (  # text in the middle of a call's arguments waits for them
            [A, Arguments(0, '{"x":'), Said("a"), Said("b"), Arguments(0, "1}")],
            [
                *(tool(0, "a", "f"), (0, "input_json_delta", '{"x":'), (0, "input_json_delta", "1}"), ("stop", 0)),
                *(text(1), (1, "text_delta", "ab"), ("stop", 1)),
            ],
        ),
        (  # both announced first, filled afterwards
            [A, B, Arguments(1, "{"), Arguments(0, "{}"), Arguments(1, "}")],
            [
                *(tool(0, "a", "f"), (0, "input_json_delta", "{}"), ("stop", 0)),
                *(tool(1, "b", "g"), (1, "input_json_delta", "{"), (1, "input_json_delta", "}"), ("stop", 1)),
            ],
        ),
        (  # fragments of the second merged into one while it waits
            [A, B, Arguments(1, "{"), Arguments(1, "}"), Arguments(0, "{}")],
            [
                *(tool(0, "a", "f"), (0, "input_json_delta", "{}"), ("stop", 0)),
                *(tool(1, "b", "g"), (1, "input_json_delta", "{}"), ("stop", 1)),
            ],
        ),
        (  # arguments before the name is known
            [Calling(0, "a", ""), Arguments(0, '{"x":'), A, Arguments(0, "1}")],
            [tool(0, "a", "f"), (0, "input_json_delta", '{"x":'), (0, "input_json_delta", "1}"), ("stop", 0)],
        ),
        (  # no arguments: what follows waits for the finish
            [A, Said("b"), Finished("tool_calls")],
            [tool(0, "a", "f"), ("stop", 0), text(1), (1, "text_delta", "b"), ("stop", 1)],
        ),
        ([A, Called(0), Said("b")], [tool(0, "a", "f"), ("stop", 0), text(1), (1, "text_delta", "b"), ("stop", 1)]),
        (  # white space behind a complete value says nothing
            [A, Arguments(0, "{}"), Said("b"), Arguments(0, " \n")],
            [
                tool(0, "a", "f"),
                (0, "input_json_delta", "{}"),
                ("stop", 0),
                text(1),
                (1, "text_delta", "b"),
                ("stop", 1),
            ],
        ),
        (
            [Mused("t"), Signed({"type": "thinking", "thinking": "t", "signature": "Eq"}), Said("a")],
            [
                *(thinking(0), (0, "thinking_delta", "t"), (0, "signature_delta", "Eq"), ("stop", 0)),
                *(text(1), (1, "text_delta", "a"), ("stop", 1)),
            ],
        ),
        ([Said("a", choice=1), Calling(0, "x", "y", choice=1)], [text(0), (0, "text_delta", ""), ("stop", 0)]),
    ],
)
def test_blocks(events: list[Any], made: list[Any]) -> None:
    assert deltas([BEGAN, *events], **MUSING) == made


def test_thinking_is_for_those_who_asked_for_it() -> None:
    assert deltas([BEGAN, Mused("t"), Said("a")]) == [text(0), (0, "text_delta", "a"), ("stop", 0)]


def test_a_call_without_an_id_gets_one() -> None:
    (start, *_) = deltas([BEGAN, Calling(0, "", "f"), Arguments(0, "{}")])
    assert start == tool(0, f"toolu_{'1'.zfill(32)[:24]}", "f")


def test_the_full_name_comes_back() -> None:
    name = "mcp__" + "n" * 65
    events = [BEGAN, Calling(0, "a", short_name(name)), Arguments(0, "{}")]
    tools = [{"name": name, "input_schema": {"type": "object"}}]
    assert deltas(events, tools=tools)[0] == tool(0, "a", name)
    assert whole(events, tools=tools)["content"][0]["name"] == name


def test_the_message_starts_with_the_first_event_of_any_kind() -> None:
    writer = anthropic.encoder(told())
    (frame,) = writer.received([BEGAN], Learnt())
    assert (frame.event, json.loads(frame.data)) == (b"message_start", START)
    writer = anthropic.encoder(told())
    made = [json.loads(frame.data)["type"] for frame in writer.received([Mused("t")], Learnt())]
    assert made == ["message_start"]


@pytest.mark.parametrize(
    ("given", "made"), [("msg_1", "msg_1"), ("chatcmpl-1", "msg_chatcmpl-1"), ("", f"msg_{LETTERS}")]
)
def test_ids(given: str, made: str) -> None:
    events = [Began(given), Said("a")]
    assert events_of(streamed(events))[0][1]["message"]["id"] == made
    assert whole(events)["id"] == made


def test_an_estimate_of_the_input_where_the_model_has_it() -> None:
    start = events_of(streamed([BEGAN], on_model={"estimate_message_start": True}))[0][1]
    assert start["message"]["usage"] == {"input_tokens": 1, "output_tokens": 0}


@pytest.mark.parametrize("text", ["x", '{"y":1}'])
def test_arguments_behind_the_end_of_a_closed_call_end_the_stream(text: str) -> None:
    writer = anthropic.encoder(told())
    writer.received([BEGAN, A, Arguments(0, "{}"), Said("a")], Learnt())
    with pytest.raises(StrayFrame):
        writer.received([Arguments(0, text)], Learnt())


# --- 5.3: reasons, usage, the whole answer


@pytest.mark.parametrize(
    ("events", "reason", "sequence"),
    [
        ([Said("a"), Finished("stop")], "end_turn", None),
        ([Said("a"), Finished("stop", "END")], "stop_sequence", "END"),
        ([Said("a"), Finished("stop", "other")], "end_turn", None),
        ([A, Arguments(0, "{}"), Finished("stop")], "tool_use", None),
        ([A, Arguments(0, "{}"), Finished("tool_calls")], "tool_use", None),
        ([A, Arguments(0, "{}"), Finished("function_call")], "tool_use", None),
        ([A, Arguments(0, "{}")], "tool_use", None),
        ([Said("a")], "end_turn", None),
        ([Said("a"), Finished("length")], "max_tokens", None),
        ([Said("a"), Finished("content_filter")], "refusal", None),
        ([Declined("no"), Finished("stop")], "refusal", None),
        ([Said("a"), Finished("brand_new")], "end_turn", None),
    ],
)
def test_reasons(events: list[Any], reason: str, sequence: str | None) -> None:
    data = streamed([BEGAN, *events], stop_sequences=["END"])
    assert events_of(data)[-2][1]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}
    made = whole([BEGAN, *events], stop_sequences=["END"])
    assert (made["stop_reason"], made["stop_sequence"]) == (reason, sequence)


@pytest.mark.parametrize(
    ("counters", "made"),
    [
        ({}, {"output_tokens": 0}),
        (
            {"prompt": 50, "completion": 20, "cache_read": 10},
            {"input_tokens": 40, "cache_read_input_tokens": 10, "output_tokens": 20},
        ),
        (
            {"prompt": 50, "completion": 20, "cache_read": 10, "cache_write": 5},
            {"input_tokens": 35, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 5, "output_tokens": 20},
        ),
        ({"prompt": 5, "cache_read": 10}, {"input_tokens": 0, "cache_read_input_tokens": 10, "output_tokens": 0}),
        (
            {"prompt": 5, "completion": 9, "reasoning": 4},
            {"input_tokens": 5, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}},
        ),
    ],
)
def test_usage(counters: dict[str, int], made: dict[str, Any]) -> None:
    """Section 6: what is cached is counted outside of the input."""
    usage = Usage(**counters)
    assert events_of(streamed([BEGAN, Said("a")], usage))[-2][1]["usage"] == made
    assert whole([BEGAN, Said("a")], usage)["usage"] == {"input_tokens": 0, **made}


@pytest.mark.parametrize(
    ("arguments", "made"), [("", {}), ("null", {}), ('{"a":', {}), ('{"a": 1.5}', {"a": 1.5}), ("  ", {})]
)
def test_arguments_of_a_whole_answer(arguments: str, made: Any) -> None:
    (block,) = whole([BEGAN, A, Arguments(0, arguments), Finished("tool_calls")])["content"]
    assert block == {"type": "tool_use", "id": "a", "name": "f", "input": made}


def test_the_order_of_blocks_in_a_whole_answer() -> None:
    events = [BEGAN, Mused("t"), Said("a"), A, Arguments(0, '{"x":1}'), B, Arguments(1, "{}"), Finished("tool_calls")]
    assert whole(events, **MUSING)["content"] == [
        {"type": "thinking", "thinking": "t", "signature": ""},
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {}},
    ]
    assert [block["type"] for block in whole(events)["content"]] == ["text", "tool_use", "tool_use"]


# --- 5.4: ends, from a chat provider's chunks

HI = {"id": "c1", "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}
CALL = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"id": "c1", "choices": [{"index": 0, "delta": {"tool_calls": [CALL]}, "finish_reason": None}]}
STOP = {"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
REPORT = {"prompt_tokens": 5, "completion_tokens": 2}
USAGE = {"id": "c1", "choices": [], "usage": REPORT}
COUNTED = {"input_tokens": 5, "output_tokens": 2}
NOTHING = {"output_tokens": 0}
DONE = b"[DONE]"


@pytest.mark.parametrize(
    ("chunks", "ended", "reason", "usage"),
    [
        ([HI, USAGE, STOP, DONE], True, "end_turn", COUNTED),
        ([HI, {**STOP, "usage": REPORT}, DONE], True, "end_turn", COUNTED),
        ([HI, STOP, USAGE], True, "end_turn", COUNTED),
        ([HI, STOP, USAGE, DONE], True, "end_turn", COUNTED),
        ([HI, STOP, DONE], True, "end_turn", NOTHING),
        ([HI, STOP], False, "end_turn", NOTHING),
        ([HI, {**STOP, "usage": REPORT}], False, "end_turn", COUNTED),
        ([CALLED, STOP, DONE], True, "tool_use", NOTHING),
        ([HI, DONE], True, "end_turn", NOTHING),
        ([CALLED, DONE], True, "tool_use", NOTHING),
    ],
)
def test_good_ends(chunks: list[Any], ended: bool, reason: str, usage: dict[str, int]) -> None:
    """Usage before, with and behind the finish, or none; the end marker behind it, without it, or none."""
    passage = from_chat()
    frames = passage.received(framed(*chunks))
    assert (passage.complete, passage.ended, passage.failure) == (True, ended, None)
    data = b"".join(map(encode, [*frames, *passage.stopped(True)]))
    check(data)
    event = events_of(data)[-2][1]
    assert (event["delta"]["stop_reason"], event["usage"]) == (reason, usage)


@pytest.mark.parametrize("chunks", [[], [HI], [HI, CALLED], [HI, USAGE]])
def test_an_end_before_the_finish_is_none(chunks: list[Any]) -> None:
    passage = from_chat()
    frames = passage.received(framed(*chunks))
    assert not passage.complete
    assert passage.stopped(False) == []
    kinds = [frame.event for frame in frames]
    assert b"message_delta" not in kinds
    assert b"message_stop" not in kinds


def from_chat() -> Translation:
    return Translation(openai_chat.FORMAT.decoder(True, None), anthropic.encoder(told()))
