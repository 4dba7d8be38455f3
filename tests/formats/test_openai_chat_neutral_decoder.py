"""Chat answers as neutral events: every recording, and what providers do to deltas (`translation.md` 5.3 and 5.4)."""

import json

import pytest

from twisted_gateway.errors import StrayFrame
from twisted_gateway.exchange import Usage
from twisted_gateway.formats import openai_chat
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
)
from twisted_gateway.formats.openai_chat_decoder import ChatDecoder
from twisted_gateway.wire.sse import Frame

from ..doubles.cutting import cuts
from ..doubles.recordings import each_recording
from .chat_making import check_reading, decoded, frames_of, meaning
from .making import choice, chunk, dumps, framed, say

BEGAN = Began("chatcmpl-1", "gpt-4o-2024", 1_700_000_000)
DONE = b"[DONE]"


def events(*chunks, **more):
    """The events of a stream."""
    decoder = ChatDecoder(True, **more)
    made = [event for frame in framed(*chunks) for event in decoder.received([frame])]
    assert made[0] == BEGAN
    return made[1:]


def whole(*choices, **more):
    """The events of a whole answer, and its decoder."""
    decoder = openai_chat.FORMAT.decoder(False)
    data = dumps({"id": "c", "model": "m", "created": 5, "choices": list(choices), **more})
    made = decoder.received([Frame(data, b"", data)])
    assert made[0] == Began("c", "m", 5)
    assert made[-1] == Ended()
    assert decoder.complete
    assert decoder.ended
    assert decoder.stopped() == []
    return made[1:-1], decoder


def call(index=None, id=None, name=None, arguments=None, **more):
    """An entry of `tool_calls`; None leaves a member out."""
    function = {name: value for name, value in (("name", name), ("arguments", arguments)) if value is not None}
    entry = {"index": index, "id": id, **more}
    entry = {name: value for name, value in entry.items() if value is not None}
    return {**entry, "function": function} if function else entry


def calling(*calls, reason=None):
    """A chunk with parts of calls."""
    return chunk(choice({"tool_calls": list(calls)}, reason))


def finish(reason="tool_calls", **more):
    return chunk(choice({}, reason, **more))


# Recordings


@each_recording("*", None, "openai-chat")
def test_recordings(recording):
    if recording.kind == "error":
        return
    usages = set()
    for pieces in cuts(recording.body) if recording.kind == "stream" else [[recording.body]]:
        decoder = openai_chat.FORMAT.decoder(recording.kind == "stream")
        made = decoded(decoder, frames_of(recording, pieces))
        check_reading(meaning(made), decoder.usage, recording)
        usages.add(str(decoder.usage))
        reported = recording.expect.get("sdk_error")
        assert (decoder.failure is not None) == bool(reported)
        check_grammar(made, ended=decoder.complete)
        assert decoder.text_bytes == sum(
            len(getattr(event, "text", getattr(event, "name", "")).encode()) for event in made
        )
    assert len(usages) == 1


def check_grammar(made, *, ended):
    """Begins once; calls begin before their arguments, and are whole, as JSON, before the choice is finished."""
    assert all(isinstance(event, Began) == (position == 0) for position, event in enumerate(made))
    open_calls, texts, finished = set(), {}, set()
    for event in made:
        key = (getattr(event, "choice", 0), getattr(event, "index", 0))
        match event:
            case Calling():
                assert key not in texts
                open_calls.add(key)
                texts[key] = ""
            case Arguments(text=text):
                assert key in open_calls
                texts[key] += text
            case Called():
                open_calls.remove(key)
            case Finished(choice=index):
                assert index not in finished
                assert not [open_one for open_one in open_calls if open_one[0] == index]
                finished.add(index)
    if ended:
        assert {event.choice for event in made if hasattr(event, "choice")} == finished


# Text, reasoning, refusals


def test_a_stream_of_text():
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    made = events(
        chunk(choice({"role": "assistant", "content": ""})), say("Hel"), say("lo"), say(""), finish("stop"),
        chunk(usage=usage), DONE,
    )  # fmt: skip
    assert made == [Said("Hel"), Said("lo"), Finished("stop", None, "stop"), Counted(), Ended()]


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ({"reasoning_content": "r"}, [Mused("r")]),
        ({"reasoning": "r"}, [Mused("r")]),
        ({"thinking": "r"}, [Mused("r")]),
        ({"own": {"field": "r"}}, [Mused("r")]),
        ({"reasoning": "a", "reasoning_content": "b"}, [Mused("b")]),
        ({"reasoning": "a", "reasoning_content": ""}, [Mused("a")]),
        ({"reasoning": None, "content": "x"}, [Said("x")]),
        ({"reasoning": "r", "content": "x", "refusal": "no"}, [Mused("r"), Said("x"), Declined("no")]),
        ({"content": None, "refusal": ""}, []),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "r"}]}, {"text": "x"}, 5]},
            [Mused("r"), Said("x")],
        ),
        (None, []),
    ],
)
def test_deltas(delta, expected):
    assert events(chunk(choice(delta)), reasoning_field="own.field") == expected


def test_azures_preamble_does_not_begin_the_answer():
    preamble = {"choices": [], "created": 0, "id": "", "model": "", "prompt_filter_results": []}
    assert events(preamble, say("x")) == [Said("x")]


def test_what_the_provider_leaves_out():
    decoder = ChatDecoder(True)
    assert decoder.received(framed({"choices": [{"delta": {"content": "x"}}]})) == [Began(), Said("x")]
    assert (decoder.provider_request_id, decoder.provider_model) == (None, None)


def test_message_beside_delta_is_ignored_in_a_stream():
    assert events(chunk({**choice({"content": "b"}), "message": {"content": "ab"}})) == [Said("b")]


# Ends


@pytest.mark.parametrize(
    ("native", "reason"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("eos", "eos")],
)
def test_reasons(native, reason):
    assert events(say("x"), finish(native))[-1] == Finished(reason, None, native)


def test_reasons_of_calls():
    given = call(0, "c", "f", "{}")
    for native in ("stop", "tool_calls", "function_call"):
        assert events(calling(given), finish(native))[-1] == Finished("tool_calls", None, native)
    assert events(calling(given), finish("length"))[-1] == Finished("length", None, "length")


@pytest.mark.parametrize(
    ("members", "expected"),
    [({"stop_reason": "END"}, "END"), ({"matched_stop": "END"}, "END"), ({"stop_reason": 2}, None), ({}, None)],
)
def test_the_text_that_ended_it(members, expected):
    assert events(finish("stop", **members)) == [Finished("stop", expected, "stop")]


def test_the_end_marker_ends_what_was_not_ended():
    assert events(say("x"), DONE) == [Said("x"), Finished("stop"), Ended()]
    made = events(calling(call(0, "c", "f")), DONE)
    assert made[-2:] == [Finished("tool_calls"), Ended()]


def test_an_end_without_marker():
    decoder = ChatDecoder(True)
    decoder.received(framed(say("x")))
    assert not decoder.complete
    assert decoder.received(framed(finish("stop"))) == [Finished("stop", None, "stop")]
    assert decoder.complete
    assert not decoder.ended
    assert decoder.stopped() == []
    assert decoder.finish_reason == "stop"


def test_a_second_reason_is_ignored():
    assert len(events(finish("stop"), finish("length"))) == 1


def test_choices_end_one_by_one():
    decoder = ChatDecoder(True)
    decoder.received(framed(say("a"), say("b", index=1), finish("stop")))
    assert not decoder.complete
    made = decoder.received(framed(chunk(choice({}, "length", index=1))))
    assert made == [Finished("length", None, "length", 1)]
    assert decoder.complete
    assert decoder.finish_reason == "stop"


# Tool calls


def test_parallel_calls():
    made = events(
        calling(call(0, "a", "f", "", type="function"), call(1, "b", "g", "")),
        calling(call(0, arguments='{"x"')),
        calling(call(1, arguments="{}")),
        calling(call(0, arguments=":1}")),
        finish(),
    )
    assert made == [
        Calling(0, "a", "f"),
        Calling(1, "b", "g"),
        Arguments(0, '{"x"'),
        Arguments(1, "{}"),
        Arguments(0, ":1}"),
        Called(0),
        Called(1),
        Finished("tool_calls", None, "tool_calls"),
    ]


ONE = [Calling(0, "a", "f"), Arguments(0, '{"x":'), Arguments(0, "1}"), Called(0)]
TWO = [Calling(0, "a", "f"), Arguments(0, "{}"), Calling(1, "b", "g"), Arguments(1, "[]"), Called(0), Called(1)]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([[call(0, "a", "f", '{"x":')], [call(0, arguments="1}")]], ONE),
        ([[call(None, "a", "f", '{"x":')], [call(None, arguments="1}")]], ONE),
        ([[call(7, "a", "f", '{"x":')], [call(7, arguments="1}")]], ONE),
        ([[call(0, "a", "f", '{"x":')], [call(0, "a", "f", "1}")]], ONE),
        ([[call(0, "", "f")], [call(0, "a")], [call(0, arguments='{"x":')], [call(0, arguments="1}")]], ONE),
        ([[call(0, "a")], [call(0, arguments='{"x":')], [call(0, None, "f", "1}")]], ONE),
        ([[call(0, None, "f")], [call(0, "a", None, '{"x":')], [call(0, "", "", "1}")]], ONE),
        ([[call(None, "a", "f", "{}")], [call(None, "b", "g", "[]")]], TWO),
        ([[call(0, "a", "f", "{}")], [call(0, "b", "g", "[]")]], TWO),
        ([[call(0, "a", "f", "{}"), call(None, "b", "g", "[]")]], TWO),
        ([[call(3, "a", "f", {})], [call(1, "b", "g", "[]")]], TWO),
        ([[call(0, "a", "f")]], [Calling(0, "a", "f"), Arguments(0, "{}"), Called(0)]),
        ([[call(0, "a", "f", " ")]], [Calling(0, "a", "f"), Arguments(0, " "), Arguments(0, "{}"), Called(0)]),
        ([[call(0, None, "f", "{}")]], [Calling(0, "", "f"), Arguments(0, "{}"), Called(0)]),
        ([[call(0, None, "f")]], [Calling(0, "", "f"), Arguments(0, "{}"), Called(0)]),
        ([[call(0, "a", None, "{}")]], [Calling(0, "a", ""), Arguments(0, "{}"), Called(0)]),
        ([[call(0, "a")]], []),
    ],
)
def test_calls_that_come_in_odd_pieces(chunks, expected):
    made = events(*[calling(*parts) for parts in chunks], finish())
    assert made == [*expected, Finished("tool_calls", None, "tool_calls")]


def test_calls_are_numbered_as_they_begin():
    made = events(calling(call(0, "a")), calling(call(1, "b", "g", "{}")), calling(call(0, None, "f", "[]")), finish())
    assert [event for event in made if isinstance(event, Calling)] == [Calling(0, "b", "g"), Calling(1, "a", "f")]


def test_the_legacy_call():
    made = events(
        chunk(choice({"function_call": {"name": "f", "arguments": ""}})),
        chunk(choice({"function_call": {"arguments": "{}"}})),
        finish("function_call"),
    )
    end = Finished("tool_calls", None, "function_call")
    assert made == [Calling(0, "", "f"), Arguments(0, "{}"), Called(0), end]


# Usage


def test_usage_anywhere():
    decoder = ChatDecoder(True)
    chunks = say("x", usage={"prompt_tokens": 1}), say("y", x_groq={"usage": {"total_tokens": 9}})
    made = decoder.received(framed(*chunks))
    assert made.count(Counted()) == 2
    assert decoder.usage == Usage(prompt=1, total=9)
    assert Counted() not in decoder.received(framed(say("z", usage=None), say("z", usage={})))


# Noise, errors, stray frames


def test_noise():
    decoder = ChatDecoder(True)
    frames = [Frame(data) for data in (b"", b"ping", b"[1]", b'{"object":"x"}')]
    assert decoder.received(frames) == []
    assert decoder.noise == 3


def test_errors_end_it():
    decoder = ChatDecoder(True)
    made = decoder.received(framed(say("x"), {"error": {"message": "m", "code": 429}}, say("y")))
    assert made == [BEGAN, Said("x")]
    assert (decoder.failure.status, decoder.failure.message) == (429, "m")
    assert decoder.received(framed(say("z"))) == []


@pytest.mark.parametrize(
    "data",
    [b"{", b"[1", dumps({"choices": [5]}), dumps(chunk(choice({"tool_calls": [5]}))), b'{"choices":[{]}'],
)
def test_stray_frames(data):
    with pytest.raises(StrayFrame):
        ChatDecoder(True).received([Frame(data)])


@pytest.mark.parametrize("data", [b"5", b"{}", b'{"choices":[1]}', b"<html>"])
def test_stray_bodies(data):
    with pytest.raises(StrayFrame):
        ChatDecoder(False).received([Frame(data)])


def test_no_endless_lists():
    with pytest.raises(StrayFrame):
        ChatDecoder(True).received(framed(chunk(*[choice({}, index=n) for n in range(1025)])))
    with pytest.raises(StrayFrame):
        ChatDecoder(True).received(framed(calling(*[call(n, "a", "f") for n in range(1025)])))


# Whole answers


def test_a_whole_answer():
    message = {
        "role": "assistant",
        "content": "x",
        "reasoning_content": "r",
        "refusal": None,
        "tool_calls": [call(None, "a", "f", "{}"), call(None, "a", "g", '{"b": 1}')],
    }
    made, decoder = whole({"index": 0, "message": message, "finish_reason": "stop"}, usage={"prompt_tokens": 3})
    assert made == [
        Mused("r"),
        Said("x"),
        Calling(0, "a", "f"),
        Arguments(0, "{}"),
        Calling(1, "a", "g"),
        Arguments(1, '{"b": 1}'),
        Called(0),
        Called(1),
        Finished("tool_calls", None, "stop"),
        Counted(),
    ]
    assert decoder.finish_reason == "stop"
    assert decoder.text_bytes == len("xrfg{}") + len('{"b": 1}')


def test_a_whole_answer_without_reason_and_of_several_choices():
    one = {"index": 0, "message": {"content": "a"}, "delta": {"content": ""}}
    two = {"index": 1, "message": {"content": "b"}, "finish_reason": "length"}
    made, _ = whole(one, two)
    assert made == [Said("a"), Said("b", 1), Finished("length", None, "length", 1), Finished("stop")]


def test_streamed_or_whole_is_the_same():
    message = {"content": "x", "tool_calls": [call(None, "a", "f", "{}")]}
    answer = {"id": "c", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    frames = openai_chat.unfolded(json.dumps(answer).encode())
    streamed = ChatDecoder(True).received(frames)
    assert streamed == ChatDecoder(False).received([Frame(dumps(answer))])
