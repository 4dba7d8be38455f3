"""Responses as a dialect: intake, first events, the native road on real recordings, answers unfolded into a stream."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from twisted_gateway.errors import Problem, Refused, StrayFrame, broken_off, timed_out
from twisted_gateway.formats.openai_responses import FORMAT, judge, passage, read_call, sent, unfolded
from twisted_gateway.wire.sse import Frame, Reader, encode

from ..doubles.recordings import Recording, cuts, each_recording
from ..exchanges import Headers, model
from .making import LETTERS, NOW, dumps
from .responses_making import JSON, accumulated, client, native, relayed, responses_call, target

TERMINAL = {"response.completed", "response.incomplete", "response.failed"}

# --- Intake


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{}", "`model` field missing"),
        (b'{"model":5,"input":"x"}', "`model` field missing"),
        (b'{"model":null}', "`model` field missing"),
        (b"[]", "invalid JSON request body"),
        (b"{", "invalid JSON request body"),
    ],
)
def test_bad_bodies(body, detail):
    with pytest.raises(Refused) as refusal:
        read_call(body, JSON)
    assert refusal.value.problem.status == 400
    assert refusal.value.problem.message == f"request payload is invalid: {detail}"


@pytest.mark.parametrize(
    ("stream", "wanted"), [("true", True), ("false", False), ("null", False), ('"yes"', False), ("1", False)]
)
def test_stream_is_a_boolean_or_ignored(stream, wanted):
    call = read_call(b'{"model":"m","stream":%s}' % stream.encode(), JSON)
    assert call.stream is wanted
    body = json.loads(sent(call, target(), True).body)
    assert body.get("stream") == (json.loads(stream) if stream in ("true", "false") else None)


def test_the_prompt_is_measured():
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": "abc"}]},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "1234"},
    ]
    assert responses_call(input=given, instructions="12").prompt_bytes == 3 + 2 + 4 + 2
    assert responses_call(input="é").prompt_bytes == 2
    assert responses_call(input=5).prompt_bytes == 0
    assert responses_call(input=[5]).prompt_bytes == 0


def test_the_attempt_is_the_callers_own_request():
    body = b'{"input":"x","model":"gpt","zz":{"n":1.50},"stream":true,"previous_response_id":"r"}'
    made = sent(read_call(body, JSON), target(), True)
    assert made.body == body.replace(b'"gpt"', b'"gpt-5-2026"')
    assert (made.path, made.accept, made.asked_usage) == ("/responses", "text/event-stream", False)
    assert sent(responses_call(stream=False), target(), True).accept == "application/json"


def test_who_speaks_it():
    assert FORMAT.native(model(provider="openai"), "openai")
    assert not FORMAT.native(model(provider="groq"), "openai")
    assert not FORMAT.native(model(provider="openai2"), "openai")
    problem = FORMAT.refuse(model(name="our", provider="groq"), "openai", False)
    assert problem is not None
    assert (problem.status, problem.type) == (400, "invalid_request_error")
    assert problem.message == (
        "request payload is invalid: "
        "model `our` is not an OpenAI provider; /v1/responses supports only openai providers"
    )
    assert FORMAT.refuse(model(provider="groq"), "openai", True) is None


def test_the_row():
    assert (FORMAT.name, FORMAT.protocol, FORMAT.heartbeat(True)) == ("openai_responses", "openai", b":\n\n")
    assert json.loads(FORMAT.complaints.body(broken_off()))["error"]["type"] == "stream_aborted"
    frame = FORMAT.complaints.frame(timed_out("silence_timeout", 30))
    assert frame.event == b"error"
    assert json.loads(frame.data) == {
        "type": "error",
        "code": "timeout",
        "message": "upstream request timed out after 30ms",
        "param": None,
        "sequence_number": 0,
    }


# --- First events

WHOLE = {"id": "resp_1", "object": "response", "status": "completed", "model": "up", "output": [], "error": None}
NESTED = {"type": "error", "error": {"code": "x", "message": "m", "param": "p"}}
FLAT = {"type": "error", "code": "x", "message": "m", "param": "p", "sequence_number": 0}
FAILED = {"type": "response.failed", "response": {"error": {"code": "x", "message": "m"}}}


@pytest.mark.parametrize(
    ("data", "stream", "verdict"),
    [
        (dumps({"type": "response.created"}), True, True),
        (dumps({"type": "never.heard.of"}), True, True),
        (dumps({"x": 1}), True, False),
        (dumps(WHOLE), True, True),
        (b"[DONE]", True, False),
        (b"ping", True, False),
        (b"", True, False),
        (b"[]", True, False),
        (b"{", True, 502),
        (dumps(NESTED), True, 502),
        (dumps(FLAT), True, 502),
        (dumps(FAILED), True, 502),
        (dumps({"type": "error", "error": {"code": 429, "message": "m"}}), True, 429),
        (dumps({"type": "error", "status": 404, "message": "m"}), True, 404),
        (dumps({"error": "m"}), True, 502),
        (dumps(WHOLE), False, True),
        (dumps({"object": "response"}), False, True),
        (dumps({"x": 1}), False, 502),
        (b"[]", False, 502),
        (b"no", False, 502),
        (dumps({"error": {"code": 404, "message": "m"}}), False, 404),
        (dumps({**WHOLE, "status": "failed", "error": {"code": "server_error", "message": "m"}}), False, 502),
    ],
)
def test_first_events(data, stream, verdict):
    found = judge(responses_call(stream), Frame(data))
    assert (found.status if isinstance(found, Problem) else found) == verdict
    if data in (dumps(NESTED), dumps(FLAT)):
        assert isinstance(found, Problem)
        assert (found.message, found.code, found.param) == ("m", "x", "p")


def test_an_event_with_a_name_alone_is_one():
    assert judge(responses_call(), Frame(b"{}", b"response.created")) is True


# --- The native road


def framed(event: dict[str, Any], named: bool = True) -> bytes:
    name = b"event: " + event["type"].encode() + b"\n" if named else b""
    return name + b"data: " + dumps(event) + b"\n\n"


def expected_bytes(body: bytes) -> bytes:
    """What a caller gets of a recorded stream: its own bytes; comments and `[DONE]` taken away, `event:` added."""
    out = b""
    for block in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        lines = [line for line in block.split(b"\n") if line and not line.startswith(b":")]
        data = [line for line in lines if line.startswith(b"data:")]
        if not data or b"[DONE]" in data[0]:
            continue
        if not any(line.startswith(b"event:") for line in lines):
            lines.insert(0, b"event: " + json.loads(data[0][5:])["type"].encode())
        out += b"\n".join(lines) + b"\n\n"
        if json.loads(data[0][5:])["type"] in TERMINAL:
            break
    return out


@each_recording("openai-responses", "stream")
def test_bytes_are_untouched_whatever_the_cuts(recording):
    body = recording.body
    wanted = expected_bytes(body)
    if not {"comment-lines", "no-event-lines", "done-in-responses"} & recording.categories:
        assert body.rstrip(b"\n") == wanted.rstrip(b"\n")
    for pieces in cuts(body, seed=5):
        out, tube = relayed(pieces)
        assert out == wanted
        assert tube.ended
        assert tube.complete
        assert tube.failure is None


@each_recording("openai-responses", "stream")
def test_what_is_learnt(recording):
    _, tube = relayed([recording.body])
    check_usage(tube, recording)
    assert tube.finish_reason == (recording.read.get("incomplete_reason") or recording.read["finish_reason"])
    assert tube.provider_request_id
    assert tube.provider_model
    assert tube.noise == 0
    text = ((recording.read.get("text") or {}).get("text") or "").encode()
    assert tube.text_bytes >= len(text)


def check_usage(tube: Any, recording: Recording) -> None:
    figures = recording.read.get("usage") or {}
    names = ("input", "output", "cache_read", "cache_write", "reasoning")
    usage = tube.usage
    read = (usage.prompt, usage.completion, usage.cache_read, usage.cache_write, usage.reasoning)
    assert read == tuple(figures.get(name) or 0 for name in names)
    assert usage.final == bool(figures.get("output"))


@each_recording("openai-responses", "stream")
def test_the_sdk_reads_the_same(recording):
    """Event by event as from the provider itself, and its accumulator, where that reads the provider's own stream."""
    out, _ = relayed([recording.body])
    own = client(recording.body).responses.create(model="gpt", input="hi", stream=True)
    through = client(out).responses.create(model="gpt", input="hi", stream=True)
    assert [event.to_dict() for event in through] == [event.to_dict() for event in own]
    if not recording.expect.get("sdk_helper_error"):
        final, events = accumulated(out)
        assert final is not None
        assert final.status == recording.read["finish_reason"]
        assert events[-1].type in TERMINAL


@each_recording("odd-framings", "stream", "openai-responses")
def test_a_cut_stream_is_not_complete(recording):
    if "truncated" not in recording.categories:
        pytest.skip("a whole one")
    for pieces in cuts(recording.body, seed=6):
        reader, tube = Reader(), native()
        frames = [frame for piece in pieces for frame in tube.received(reader.received(piece))]
        assert not tube.complete
        assert tube.stopped(False) == []
        (error,) = tube.complaint(broken_off())
        last = json.loads(frames[-1].data)["sequence_number"]
        assert json.loads(error.data)["sequence_number"] == last + 1
        assert encode(error).startswith(b'event: error\ndata: {"type":"error","code":"stream_aborted"')


@each_recording("odd-framings", "stream", "openai-responses")
def test_an_error_of_the_provider_is_relayed_with_what_follows(recording):
    if "in-stream-error" not in recording.categories:
        pytest.skip("no error in it")
    for pieces in cuts(recording.body, seed=7):
        out, tube = relayed(pieces)
        assert out == recording.body
        assert tube.failure is not None
        assert tube.failure.told
        assert tube.failure.frame_type == "upstream_in_band_error"
        assert tube.failure.code == "rate_limit_exceeded"
        assert tube.ended
        assert tube.finish_reason == "failed"
    with pytest.raises(openai.APIError, match="Request too large"):
        accumulated(out)


def test_an_error_without_an_end():
    """The caller was told; whatever ends the answer then, no second error is written."""
    for event in (NESTED, FLAT):
        out, tube = relayed([framed({"type": "response.created", "sequence_number": 4}), framed(event)])
        assert out.endswith(framed(event))
        assert (tube.failure, tube.ended, tube.complete) == (None, False, False)
        assert tube.stopped(False) == []
        assert tube.failure is not None
        assert (tube.failure.message, tube.failure.told) == ("m", True)
        _, tube = relayed([framed(event)])
        assert tube.complaint(timed_out("silence_timeout", 1)) == []
        assert tube.failure is not None
        assert tube.failure.message == "m"


def test_events_go_on_behind_an_error():
    later = framed({"type": "response.output_text.delta", "delta": "x"})
    end = framed({"type": "response.failed", "response": {"id": "r", "error": {"code": "y", "message": "other"}}})
    out, tube = relayed([framed(NESTED), later, end, later])
    assert out == framed(NESTED) + later + end
    assert tube.failure is not None
    assert tube.failure.message == "m"


def test_a_failed_response_is_a_failure_that_was_told():
    end = framed({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "oh"}}})
    out, tube = relayed([end])
    assert out == end
    assert tube.failure is not None
    assert (tube.failure.message, tube.failure.told) == ("oh", True)


def test_broken_json_behind_an_error_is_no_other_one():
    _, tube = relayed([framed(NESTED), b"data: {\n\n"])
    assert tube.failure is not None
    assert tube.failure.told


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (b'data: {"type":"a.b"}\n\n', b'event: a.b\ndata: {"type":"a.b"}\n\n'),
        (b'event: z\ndata: {"type":"a.b"}\n\n', b'event: a.b\ndata: {"type":"a.b"}\n\n'),
        (b'event: a.b\ndata: {}\n\n', b'event: a.b\ndata: {}\n\n'),
        (b'event: a.b\nid: 4\ndata: {"type": "a.b"}\n\n', b'event: a.b\nid: 4\ndata: {"type": "a.b"}\n\n'),
        (b'event: a.b\ndata:{"type":"a.b"}\n\n', b'event: a.b\ndata: {"type":"a.b"}\n\n'),
        (b'event: a.b\ndata: {"type":\ndata: "a.b"}\n\n', b'event: a.b\ndata: {"type": "a.b"}\n\n'),
        (b'data: {"type":"keepalive","sequence_number":3}\n\n',
         b'event: keepalive\ndata: {"type":"keepalive","sequence_number":3}\n\n'),
        ('event: a\ndata: {"type":"a","x":"\u2028é"}\n\n'.encode(),
         b'event: a\ndata: {"type":"a","x":"\\u2028\xc3\xa9"}\n\n'),
        ('event: a\ndata: {"type":"a","x":"é"}\n\n'.encode(), 'event: a\ndata: {"type":"a","x":"é"}\n\n'.encode()),
        (b'event: a\ndata: {"type":"a","x":"\xff"}\n\n', 'event: a\ndata: {"type":"a","x":"\ufffd"}\n\n'.encode()),
        (b'event: a\ndata: {"type":"a","x":"\\ud83d"}\n\n', b'event: a\ndata: {"type":"a","x":"\\ud83d"}\n\n'),
        (b"data: [DONE]\n\n", b""),
        (b"data: ping\n\n", b""),
        (b"data: [1]\n\n", b""),
        (b'data: {"x":1}\n\n', b""),
        (b": comment\n\n", b""),
        (b'data: {"type":"a\\nb"}\n\n', b""),
    ],
)  # fmt: skip
def test_single_events(raw, wanted):
    out, tube = relayed([raw])
    assert out == wanted
    assert tube.failure is None
    assert tube.noise == (not wanted and b"[DONE]" not in raw and raw[:1] != b":")


@pytest.mark.parametrize("data", [b"{", b"[1", b'{"type":"a"', b'{"type":"a","x":nul}', b'{"type":"\xff'])
def test_broken_json_ends_the_answer(data):
    good = framed({"type": "response.created", "sequence_number": 6})
    tube = native()
    frames = tube.received([*Reader().received(good), Frame(data), *Reader().received(good)])
    assert b"".join(map(encode, frames)) == good
    assert tube.failure is not None
    assert tube.failure.type == "upstream_decode_error"
    (error,) = tube.complaint(tube.failure)
    assert json.loads(error.data)["sequence_number"] == 7


def test_events_without_numbers_are_counted():
    tube = native()
    tube.received(Reader().received(framed({"type": "response.created"}) + framed({"type": "x"})))
    assert json.loads(tube.complaint(broken_off())[0].data)["sequence_number"] == 2


def test_text_of_every_channel_is_measured():
    deltas = ["output_text", "refusal", "reasoning_text", "reasoning_summary_text", "function_call_arguments"]
    frames = [framed({"type": f"response.{name}.delta", "delta": "é\n"}) for name in deltas]
    _, tube = relayed([*frames, framed({"type": "response.audio.delta", "delta": "AAAA"}), framed({"type": "x.delta"})])
    assert tube.text_bytes == 3 * len(deltas)


def test_nothing_follows_the_end():
    end = framed({"type": "response.completed", "response": {"id": "r", "usage": None}})
    out, tube = relayed([end + framed({"type": "x"}) + b"data: [DONE]\n\n"])
    assert out == end
    assert tube.stopped(True) == []
    assert tube.finish_reason == "completed"
    assert relayed([framed({"type": "response.cancelled"})])[1].ended


# --- Whole answers


def through(body: bytes) -> tuple[bytes, Any]:
    tube = passage(responses_call(stream=False), target(), "gpt", NOW, lambda: LETTERS)
    out = b"".join(map(encode, tube.received([Frame(body, b"", body)])))
    assert tube.stopped(True) == []
    return out, tube


@each_recording("openai-responses", "json")
def test_a_whole_answer_is_untouched(recording):
    out, tube = through(recording.body)
    assert out == recording.body
    assert tube.complete
    check_usage(tube, recording)
    assert tube.finish_reason == (recording.read.get("incomplete_reason") or recording.read["finish_reason"])
    assert tube.provider_request_id == json.loads(recording.body)["id"]
    text = (recording.read.get("text") or {}).get("text") or ""
    assert tube.text_bytes >= len(text.encode())


@each_recording("openai-responses", "json")
def test_a_whole_answer_unfolds_into_a_stream(recording):
    """Through the native road, as the trunk does it, and into the SDK's accumulator."""
    frames = unfolded(recording.body)
    assert all(judge(responses_call(), frame) is True for frame in frames)
    tube = native()
    out = b"".join(map(encode, tube.received(frames)))
    recorded = json.loads(recording.body)
    if recorded["status"] == "queued":
        assert not tube.complete
        return
    assert tube.ended
    events = [json.loads(frame.data) for frame in Reader().received(out)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"] == recorded
    check_usage(tube, recording)
    final, seen = accumulated(out)
    assert len(seen) == len(events)
    assert final is not None
    own = client(recording.body, "application/json").responses.create(model="gpt", input="hi")
    assert final.output_text == own.output_text
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == own.output_text
    check_items(seen, own)


def check_items(seen: list[Any], own: Any) -> None:
    """Every item was told from its beginning to its end, and its texts add up."""
    ended = [event.item.to_dict() for event in seen if event.type == "response.output_item.done"]
    assert ended == [item.to_dict() for item in own.output]
    for index, item in enumerate(own.output):
        deltas = "".join(getattr(event, "delta", "") for event in seen if getattr(event, "output_index", -1) == index)
        if item.type == "function_call":
            assert deltas == item.arguments
        if item.type == "reasoning":
            assert deltas == "".join(part.text for part in (*item.summary, *(item.content or ())))


def test_annotations_and_refusals_unfold():
    cited = {
        "type": "output_text",
        "text": "see",
        "annotations": [{"type": "url_citation", "url": "u"}],
        "logprobs": [],
    }
    content = [cited, {"type": "refusal", "refusal": "no"}, {"type": "odd"}]
    items = [{"type": "message", "id": "m", "role": "assistant", "status": "incomplete", "content": content}]
    frames = unfolded(dumps({**WHOLE, "status": "incomplete", "output": items}))
    kinds = [frame.event.decode().removeprefix("response.") for frame in frames]
    assert kinds == [
        "created", "in_progress", "output_item.added",
        "content_part.added", "output_text.delta", "output_text.annotation.added", "output_text.done",
        "content_part.done",
        "content_part.added", "refusal.delta", "refusal.done", "content_part.done",
        "content_part.added", "content_part.done",
        "output_item.done", "incomplete",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body", [b"[]", b"5", b'{"output":[5]}', b'{"output":5}', b'{"output":[{"type":"message","content":5}]}', b"{"]
)
def test_what_does_not_unfold(body):
    with pytest.raises(StrayFrame):
        unfolded(body)


def test_a_body_needs_a_json_content_type():
    with pytest.raises(Refused):
        read_call(b'{"model":"m"}', Headers({}))
