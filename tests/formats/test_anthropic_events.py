"""Anthropic's answers read: `translation.md` 3 and 4 (the reading half), and all the recordings."""

import json

import pytest

from twisted_gateway.errors import StrayFrame
from twisted_gateway.formats import anthropic
from twisted_gateway.formats.anthropic_events import STRUCTURED, Decoder, unfolded
from twisted_gateway.formats.neutral import (
    Arguments,
    Began,
    Called,
    Calling,
    Counted,
    Declined,
    Ended,
    Finished,
    Mused,
    Said,
    Signed,
)
from twisted_gateway.wire.sse import Frame

from ..doubles.recordings import cuts, each_recording
from ..recordings.crossing import chat_of_messages
from ..recordings.reading import differences
from .chat_making import counters, decoded, frames_of, meaning
from .making import dumps

START = {"type": "message_start", "message": {"id": "msg_1", "model": "claude-x", "usage": {"input_tokens": 20}}}
STOP = {"type": "message_stop"}


def framed(*events):
    return [Frame(dumps(event), event["type"].encode()) for event in events]


def read(*events):
    return Decoder(True).received(framed(*events))


def begin(block, index=0):
    return {"type": "content_block_start", "index": index, "content_block": block}


def more(delta, index=0):
    return {"type": "content_block_delta", "index": index, "delta": delta}


def end(index=0):
    return {"type": "content_block_stop", "index": index}


def finish(reason, **members):
    usage = members.pop("usage", {"output_tokens": 9})
    return {"type": "message_delta", "delta": {"stop_reason": reason, **members}, "usage": usage}


def text_delta(text):
    return {"type": "text_delta", "text": text}


def json_delta(text):
    return {"type": "input_json_delta", "partial_json": text}


THINKING = {"type": "thinking", "thinking": "", "signature": ""}
TOOL = {"type": "tool_use", "id": "toolu_9", "name": "f", "input": {}}


@pytest.mark.parametrize(
    ("events", "made"),
    [
        ([START], [Began("msg_1", "claude-x")]),
        ([START, START], [Began("msg_1", "claude-x")]),
        ([begin({"type": "text", "text": ""})], []),
        ([begin({"type": "text", "text": "a"}), more(text_delta("")), more(text_delta("b"))], [Said("a"), Said("b")]),
        ([more(text_delta("a"), 7)], [Said("a")]),
        ([more(json_delta("{}"), 7)], []),
        (
            [begin(TOOL), more(json_delta("")), more(json_delta('{"a"')), more(json_delta(":1}")), end()],
            [Calling(0, "toolu_9", "f"), Arguments(0, '{"a"'), Arguments(0, ":1}"), Called(0)],
        ),
        ([begin(TOOL), end()], [Calling(0, "toolu_9", "f"), Arguments(0, "{}"), Called(0)]),
        (
            [begin({**TOOL, "input": {"a": 1}}), end()],
            [Calling(0, "toolu_9", "f"), Arguments(0, '{"a":1}'), Called(0)],
        ),
        ([begin({**TOOL, "input": None}), end()], [Calling(0, "toolu_9", "f"), Arguments(0, "{}"), Called(0)]),
        (
            [begin(TOOL, 4), end(4), begin(TOOL, 2)],
            [Calling(0, "toolu_9", "f"), Arguments(0, "{}"), Called(0), Calling(1, "toolu_9", "f")],
        ),
        (
            [
                begin({**THINKING, "thinking": "a"}),
                more({"type": "thinking_delta", "thinking": "b"}),
                more({"type": "signature_delta", "signature": "Eq"}),
                end(),
            ],
            [Mused("a"), Mused("b"), Signed({"type": "thinking", "thinking": "ab", "signature": "Eq"})],
        ),
        ([begin(THINKING), more({"type": "thinking_delta", "thinking": "b"}), end()], [Mused("b")]),
        (
            [begin({"type": "redacted_thinking", "data": "x"}), end()],
            [Signed({"type": "redacted_thinking", "data": "x"})],
        ),
        (
            [
                begin({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}),
                more(json_delta('{"q":1}')),
                end(),
                begin({"type": "web_search_tool_result", "content": []}, 1),
                end(1),
            ],
            [],
        ),
        ([more({"type": "citations_delta", "citation": {}})], []),
        ([{"type": "ping"}, {"type": "brand_new"}], []),
        ([finish("end_turn")], [Counted(), Finished("stop", None, "end_turn")]),
        ([finish(None)], [Counted()]),
        ([finish("end_turn"), finish("max_tokens")], [Counted(), Finished("stop", None, "end_turn"), Counted()]),
        ([finish("stop_sequence", stop_sequence="x")], [Counted(), Finished("stop", "x", "stop_sequence")]),
        (
            [finish("refusal", stop_details={"type": "refusal", "explanation": "no"})],
            [Counted(), Declined("no"), Finished("content_filter", None, "refusal")],
        ),
        ([STOP], [Finished("stop"), Ended()]),
        ([finish("end_turn"), STOP], [Counted(), Finished("stop", None, "end_turn"), Ended()]),
    ],
)
def test_events(events, made):
    assert read(*events) == made


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("brand_new", "stop"),
    ],
)
def test_reasons(native, reason):
    assert read(finish(native))[-1] == Finished(reason, None, native)


def test_usage_counts_cached_tokens_as_prompt():
    decoder = Decoder(True)
    usage = {"input_tokens": 20, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 1}
    decoder.received(framed({"type": "message_start", "message": {"usage": usage}}))
    assert not decoder.usage.final
    details = {"output_tokens": 31, "output_tokens_details": {"thinking_tokens": 11}}
    decoder.received(framed(finish("end_turn", usage=details)))
    found = decoder.usage
    assert (found.prompt, found.cache_read, found.cache_write) == (27, 5, 2)
    assert (found.completion, found.reasoning, found.total, found.final) == (31, 11, 58, True)


def test_complete_and_ended():
    decoder = Decoder(True)
    decoder.received(framed(START, begin({"type": "text", "text": "a"}), finish("end_turn")))
    assert not decoder.complete
    decoder.received(framed(end()))
    assert decoder.complete
    assert not decoder.ended
    assert decoder.stopped() == []
    decoder.received(framed(STOP, START))
    assert decoder.ended


def test_errors_in_mid_stream():
    decoder = Decoder(True)
    events = decoder.received(
        framed(START, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, STOP)
    )
    assert events == [Began("msg_1", "claude-x")]
    assert decoder.failure is not None
    assert decoder.failure.message == "Overloaded"
    assert (decoder.failure.anthropic_type, decoder.failure.status) == ("overloaded_error", 529)
    assert not decoder.failure.told
    assert not decoder.complete


def test_noise_and_broken_json():
    decoder = Decoder(True)
    assert decoder.received([Frame(b"ping"), Frame(b""), Frame(b"[DONE]"), Frame(b'{"a":1}')]) == []
    assert decoder.noise == 3
    with pytest.raises(StrayFrame):
        decoder.received([Frame(b'{"type":')])


def test_an_event_without_a_type_has_that_of_its_line():
    made = Decoder(True).received(
        [Frame(b'{"index":0,"delta":{"type":"text_delta","text":"a"}}', b"content_block_delta")]
    )
    assert made == [Said("a")]


def test_a_structured_answer_by_a_tool_is_text():
    tool = {**TOOL, "name": STRUCTURED}
    made = read(begin(tool), more(json_delta('{"a":')), more(json_delta("1}")), end(), finish("tool_use"))
    assert made == [Said('{"a":'), Said("1}"), Counted(), Finished("stop", None, "tool_use")]
    made = read(begin(tool), end(), begin(TOOL, 1), end(1), finish("tool_use"))
    assert made[-1] == Finished("tool_calls", None, "tool_use")


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "model": "claude-x",
    "content": [
        {"type": "thinking", "thinking": "t", "signature": "Eq"},
        {"type": "text", "text": "a", "citations": [{"type": "char_location"}]},
        {"type": "mcp_tool_use", "id": "m", "name": "n", "input": {"x": 1}},
        {"type": "text", "text": "b"},
        {**TOOL, "input": {"a": 1.5}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 4},
}


def test_a_whole_message():
    decoder = Decoder(False)
    events = decoder.received([Frame(dumps(MESSAGE), b"", dumps(MESSAGE))])
    assert events == [
        Began("msg_1", "claude-x"),
        Mused("t"),
        Signed({"type": "thinking", "thinking": "t", "signature": "Eq"}),
        Said("a"),
        Said("b"),
        Calling(0, "toolu_9", "f"),
        Arguments(0, '{"a":1.5}'),
        Called(0),
        Counted(),
        Finished("tool_calls", None, "tool_use"),
        Ended(),
    ]
    assert decoder.complete
    assert (decoder.usage.prompt, decoder.usage.completion, decoder.usage.final) == (3, 4, True)
    assert decoder.text_bytes == len('tabf{"a":1.5}')


@pytest.mark.parametrize("body", [b"[]", b'{"type":"message"}', b'{"content":[1]}', b"{"])
def test_what_is_no_message(body):
    with pytest.raises(StrayFrame):
        unfolded(body)


@each_recording("anthropic-messages")
def test_recordings(recording):
    for pieces in cuts(recording.body, 5):
        decoder = anthropic.decoder(recording.kind == "stream")
        events = decoded(decoder, frames_of(recording, pieces))
        assert decoder.complete
        check(events, decoder, recording)


def test_two_answers_in_one():
    """A proxy that spliced two streams: what was said is kept, the message begins once."""
    made = read(
        START,
        begin(TOOL, 1),
        more(json_delta('{"a'), 1),
        {"type": "message_start", "message": {"id": "msg_2", "usage": {"input_tokens": 20}}},
        begin({**TOOL, "id": "toolu_10"}, 1),
        more(json_delta("{}"), 1),
        end(1),
    )
    assert made == [
        Began("msg_1", "claude-x"),
        Calling(0, "toolu_9", "f"),
        Arguments(0, '{"a'),
        Calling(1, "toolu_10", "f"),
        Arguments(1, "{}"),
        Called(1),
    ]


@each_recording("odd-framings", protocol="anthropic-messages")
def test_odd_recordings(recording):
    if "duplicate-message-start" in recording.categories:
        return  # what its SDK reads is the second answer alone: see test_two_answers_in_one
    for pieces in cuts(recording.body, 6):
        decoder = Decoder(True)
        events = decoded(decoder, frames_of(recording, pieces)[: recording.expect["sse"]["events"]])
        check(events, decoder, recording)
        assert decoder.complete == recording.read["message_stop"]
        assert (decoder.failure is not None) == ("in-stream-error" in recording.categories)


def check(events, decoder, recording):
    """Everything as it is expected: refusals with their explanation, reasoning as the counters have it."""
    reading, usage = meaning(events), decoder.usage
    reading.usage = counters(usage)
    wanted = {**chat_of_messages(recording), "finish_reason": recording.read["finish_reason"]}
    assert differences(reading, wanted) == []


@each_recording("anthropic-messages", "json")
def test_whole_recordings_unfolded(recording):
    """The events of a whole message say what it says."""
    frames = unfolded(recording.body)
    assert frames[0].event == b"message_start"
    assert json.loads(frames[-1].data) == STOP
    streamed, whole = Decoder(True), Decoder(False)
    assert streamed.received(frames) == whole.received([Frame(recording.body)])
    assert streamed.usage == whole.usage
    assert streamed.complete
