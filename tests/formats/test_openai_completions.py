"""Legacy completions on their native road: `streaming.md` 3 and 16, and their reading half."""

import json

import pytest
from openai.types import Completion

from twisted_gateway.errors import Refused, StrayFrame
from twisted_gateway.formats.neutral import Began, Counted, Ended, Finished, Said
from twisted_gateway.formats.openai_completions import FORMAT, passage, read_call
from twisted_gateway.line import Line
from twisted_gateway.wire.series import WholeBody
from twisted_gateway.wire.sse import Frame, Reader

from ..doubles.cutting import cuts
from ..doubles.recordings import each_recording
from ..exchanges import model
from ..recordings.reading import Reading, differences
from .chat_making import JSON, check_reading, decoded, frames_of, meaning
from .making import LETTERS, NOW, dumps, framed, target, written

HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1_700_000_000, "model": "instruct-2024"}
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}


def entry(text, index=0, reason=None, **more):
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason, **more}


def chunk(*entries, **more):
    return {**HEAD, "choices": list(entries), **more}


def asked(stream=True, **members):
    """A call."""
    return read_call(dumps({"model": "gpt", "prompt": "hi", "stream": stream, **members}), JSON)


def tube(stream=True, usage=True, shown="gpt"):
    """The tube of an answer."""
    return passage(asked(stream, stream_options={"include_usage": usage}), target(), shown, NOW, lambda: LETTERS)


def through(*chunks, **more):
    """What the caller reads of these chunks."""
    made = tube(**more)
    return written([frame for one in framed(*chunks) for frame in made.received([one])])


# The call


def test_a_call():
    call = asked(prompt="hello", suffix="ß", stream_options={"include_usage": True})
    assert (call.model, call.stream, call.usage_shown, call.prompt_bytes) == ("gpt", True, True, 7)
    assert not asked(stream=None).stream
    assert not asked().usage_shown


@pytest.mark.parametrize(
    ("prompt", "size"),
    [("ab", 2), (["ab", "c"], 3), ([1, 2, 3], 12), ([[1, 2], [3]], 12), (None, 0), ({}, 0), (True, 4)],
)
def test_the_size_of_a_prompt(prompt, size):
    assert asked(prompt=prompt).prompt_bytes == size


@pytest.mark.parametrize(
    ("body", "detail", "param"),
    [
        (b'{"prompt":"x"}', "missing `model` field", "model"),
        (b'{"model":5}', "missing `model` field", "model"),
        (b'{"model":null}', "missing `model` field", "model"),
        (b'{"model":"gpt","stream":"yes"}', "invalid JSON request body", "stream"),
        (b"[]", "invalid JSON request body", None),
        (b"{", "invalid JSON request body", None),
    ],
)
def test_what_is_no_call(body, detail, param):
    with pytest.raises(Refused) as caught:
        read_call(body, JSON)
    problem = caught.value.problem
    assert (problem.status, problem.message) == (400, f"request payload is invalid: {detail}")
    assert problem.param == param


@pytest.mark.parametrize(
    ("members", "may_ask", "options", "added"),
    [
        ({}, True, {"include_usage": True}, True),
        ({"stream_options": None}, True, {"include_usage": True}, True),
        ({"stream_options": {"x": 1}}, True, {"x": 1, "include_usage": True}, True),
        ({"stream_options": {"include_usage": False}}, True, {"include_usage": True}, True),
        ({"stream_options": {"include_usage": True}}, True, {"include_usage": True}, False),
        ({}, False, None, False),
        ({"stream": False}, True, None, False),
    ],
)
def test_the_request_of_an_attempt(members, may_ask, options, added):
    made = FORMAT.sent(asked(**members), target(), may_ask)
    body = json.loads(made.body)
    assert (made.path, made.asked_usage) == ("/completions", added)
    assert made.accept == ("text/event-stream" if members.get("stream", True) else "application/json")
    assert (body["model"], body["prompt"], body.get("stream_options")) == ("gpt-4o-2024", "hi", options)


# Where it may go


def test_who_speaks_it():
    assert FORMAT.native(model(), "openai")
    assert FORMAT.native(model(), "azure-openai")
    assert not FORMAT.native(model(), "anthropic")
    problem = FORMAT.refuse(model(), "anthropic", True)
    assert (problem.status, problem.type) == (501, "not_implemented")
    assert problem.message == "this provider does not support text completions"
    assert FORMAT.refuse(model(completions_via_chat=True), "anthropic", False) is None
    assert json.loads(FORMAT.complaints.body(problem)) == {
        "error": {"message": "this provider does not support text completions", "type": "not_implemented"}
    }


# A stream


def test_a_good_chunk_is_not_touched():
    made = tube(shown=None).received(framed(chunk(entry("a"))))
    assert made == framed(chunk(entry("a")))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"id": None}, {"id": f"cmpl-{LETTERS}"}),
        ({"object": "x"}, {"object": "text_completion"}),
        ({"created": 0}, {"created": int(NOW)}),
        ({"model": "x"}, {"model": "gpt"}),
        ({"error": None}, {}),
        ({"system_fingerprint": "f", "x": 1}, {"system_fingerprint": "f", "x": 1}),
        ({"choices": [{"text": "a"}]}, {"choices": [{"text": "a", "index": 0, "finish_reason": None}]}),
        ({"choices": [entry(None)]}, {"choices": [entry("")]}),
        ({"choices": [entry("a", 2, "length", x=1)]}, {"choices": [entry("a", 2, "length", x=1)]}),
        ({"choices": [entry("a", reason="")]}, {"choices": [entry("a")]}),
    ],
)
def test_edits(given, expected):
    (made,) = through(chunk(entry("a")) | given)
    assert made == chunk(entry("a"), model="gpt") | expected


def test_logprobs_and_several_choices():
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": None, "text_offset": [0]}
    chunks = [chunk(entry("a", 1, logprobs=logprobs)), chunk(entry("b", 0)), chunk(entry("", 1, "stop"))]
    assert through(*chunks, shown=None) == chunks


def test_usage_shown_or_hidden():
    chunks = [chunk(entry("a"), usage=None), chunk(entry("", reason="stop"), usage=None), chunk(usage=USAGE)]
    shown, hidden = through(*chunks), through(*chunks, usage=False)
    assert shown[-1] == chunk(usage=USAGE, model="gpt")
    assert [one["usage"] for one in shown] == [None, None, USAGE]
    assert len(hidden) == 2
    assert all("usage" not in one for one in hidden)
    beside = through(chunk(entry("a", reason="stop"), usage=USAGE), usage=False)
    assert beside[0]["usage"] == USAGE
    silent = chunk(entry(""), usage=USAGE)
    assert through(silent, usage=False) == []
    assert through(silent)[0]["choices"] == []


def test_what_is_learnt():
    made = tube()
    made.received(framed(chunk(entry("aü")), chunk(entry("", reason="length"))))
    assert (made.text_bytes, made.complete, made.ended, made.finish_reason) == (3, True, False, "length")
    assert (made.provider_request_id, made.provider_model) == ("cmpl-1", "instruct-2024")
    assert made.received(framed(chunk(usage=USAGE), b"[DONE]", chunk(entry("x")))) != []
    assert made.ended
    assert (made.usage.prompt, made.usage.completion, made.usage.total) == (5, 7, 12)
    assert written(made.stopped(True)) == ["[DONE]"]
    assert made.stopped(False) == []


def test_errors_and_noise():
    made = tube()
    assert made.received([Frame(b"ping"), *framed({"value": "x"})]) == []
    assert made.noise == 2
    out = made.received(framed(chunk(entry("a")), {"error": {"message": "m", "code": 429}}, chunk(entry("b"))))
    assert [one["choices"][0]["text"] for one in written(out)] == ["a"]
    assert made.failure.status == 429
    broken = tube()
    assert len(broken.received(framed(chunk(entry("a")), b'{"choices":[5]}'))) == 1
    assert broken.failure.type == "upstream_decode_error"


@pytest.mark.parametrize("shown", ["gpt", None])
@pytest.mark.parametrize("usage", [True, False])
def test_shortcuts_change_nothing(shown, usage):
    texts = ["Waves", " ü\u2028", 'a "b"', "\n", "", "x" * 3000, " end"]
    body = b"".join(b"data: " + dumps(chunk(entry(text), usage=None)) + b"\n\n" for text in texts * 3)
    body += b"data: " + dumps(chunk(entry("", reason="stop"))) + b"\n\ndata: [DONE]\n\n"
    slow = tube(shown=shown, usage=usage)
    frames = [frame for one in Reader().received(body) for frame in slow.received([one])]
    expected = written(frames)
    for pieces in cuts(body):
        quick = tube(shown=shown, usage=usage)
        line = Line(Reader(), quick)
        out = b"".join(line.read(piece).data for piece in pieces)
        assert [json.loads(frame.data) for frame in Reader().received(out)] == expected
        assert quick.text_bytes == slow.text_bytes
        assert quick.complete


def test_most_frames_are_not_decoded(monkeypatch):
    from twisted_gateway.formats import openai_chunks

    counted = []
    real = openai_chunks.read
    monkeypatch.setattr(openai_chunks, "read", lambda data: counted.append(data) or real(data))
    line = Line(Reader(), tube())
    for number in range(100):
        assert line.read(b"data: " + dumps(chunk(entry(f"w{number}"))) + b"\n\n").frames == 1
    assert len(counted) <= 6


# A whole answer


def test_a_whole_answer():
    body = dumps(chunk(entry("a", reason="stop"), entry("ü", 1, "length"), x=1, usage=USAGE))
    made = tube(stream=False)
    (frame,) = made.received([Frame(body, b"", body)])
    assert frame.raw == frame.data
    assert json.loads(frame.data) == json.loads(body) | {"model": "gpt"}
    assert (made.complete, made.ended, made.text_bytes, made.finish_reason) == (True, True, 3, "stop")
    assert made.usage.completion == 7
    assert made.stopped(True) == []
    kept = tube(stream=False, shown=None)
    assert kept.received([Frame(dumps(chunk()), b"", dumps(chunk()))])[0].data == dumps(chunk())  # no usage is added


def test_the_first_event():
    assert FORMAT.judge(asked(), framed(chunk(entry("a")))[0]) is True
    assert FORMAT.judge(asked(), framed({"value": "x"})[0]) is False
    assert FORMAT.judge(asked(), framed({"error": {"message": "m", "code": 401}})[0]).status == 401
    assert FORMAT.judge(asked(stream=False), framed({"value": "x"})[0]).type == "upstream_decode_error"


def test_a_whole_answer_though_a_stream_was_asked():
    frames = FORMAT.unfolded(dumps(chunk(entry("a"), entry("b", 1, "length"), usage=USAGE)))
    made = written(frames)
    assert made == [
        chunk(entry("a", reason="stop")),
        chunk(entry("b", 1, "length")),
        chunk(usage=USAGE),
        "[DONE]",
    ]
    for body in (b"[]", b"{}", b'{"choices":[5]}', b"{"):
        with pytest.raises(StrayFrame):
            FORMAT.unfolded(body)


# Recordings


def read(objects):
    """What the SDK's type holds of these objects."""
    reading = Reading()
    for one in objects:
        made = Completion.construct(**one)
        for choice in made.choices:
            reading.add({"choices": [{**choice.model_dump(), "delta": {"content": choice.text}}]})
        reading.add({"choices": [], "usage": made.usage.model_dump() if made.usage else None})
    return reading


@each_recording("openai-completions", None, "openai-completions")
def test_recordings(recording):
    stream = recording.kind == "stream"
    for pieces in cuts(recording.body) if stream else [[recording.body]]:
        made = tube(stream)
        line = Line(Reader() if stream else WholeBody(0), made)
        out = b"".join(line.read(piece).data for piece in pieces)
        if not stream:
            out = line.frames([Frame(recording.body, b"", recording.body)]).data
        objects = [json.loads(frame.data) for frame in Reader().received(out)] if stream else [json.loads(out)]
        assert differences(read(objects), recording.read) == []
        assert all(one.get("model", "gpt") == "gpt" for one in objects)
        assert made.complete == (not stream or bool(recording.read["finish_reason"]))


@each_recording("openai-completions", None, "openai-completions")
def test_recordings_decoded(recording):
    for pieces in cuts(recording.body) if recording.kind == "stream" else [[recording.body]]:
        decoder = FORMAT.decoder(recording.kind == "stream")
        made = decoded(decoder, frames_of(recording, pieces))
        check_reading(meaning(made), decoder.usage, recording)


def test_events():
    decoder = FORMAT.decoder(True)
    made = decoder.received(framed(chunk(entry("a")), chunk(entry("", reason="stop")), chunk(usage=USAGE), b"[DONE]"))
    assert made == [
        Began("cmpl-1", "instruct-2024", 1_700_000_000),
        Said("a"),
        Finished("stop", None, "stop"),
        Counted(),
        Ended(),
    ]
