"""Everything a provider can do wrong, and what it must come to: the table of `test_faults`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import attrs

from tests.doubles.provider import (
    Close,
    End,
    Endless,
    Head,
    Raw,
    Reset,
    Script,
    Send,
    Sleep,
    Stall,
    Step,
    chat_object,
    json_answer,
    sse,
    sse_chat,
)

from .house import HASTE

EVENTS = [(b"content-type", b"text/event-stream")]
JSON = [(b"content-type", b"application/json")]
TEXTS = ("Hel", "lo")
SMALL = 65_536
"""What the gateway of the table takes of one event, and of one body."""
BOOT = {"upstream": {"max_event_bytes": SMALL, "max_body_bytes": SMALL}}

WHOLE = json.dumps(chat_object("Hello")).encode()
FRAMES = sse_chat(TEXTS)
BEGUN = FRAMES[:3]
"""Frames of role and texts: no finish_reason, no [DONE]."""
FINISHED = FRAMES[:4]
HALF = b'data: {"id":"chatcmpl-scripted","object":"chat.completion.ch'
ERROR = {"error": {"message": "the provider's own words", "type": "its_type", "code": "its_code", "param": "its_param"}}


@attrs.frozen
class Told:
    """The caller gets a status and a JSON error; the call `failed`."""

    status: int
    type: str
    message: str = ""
    """A part of the error's message."""
    ended_by: str | None = None
    retry_after: str | None = None

    outcome = "failed"


@attrs.frozen
class Framed:
    """The caller gets the texts, then an error frame, and no [DONE]."""

    type: str
    outcome: str = "truncated"
    ended_by: str | None = None
    texts: Sequence[str] = TEXTS


@attrs.frozen
class Good:
    """The caller gets the whole answer."""

    text: str = "Hello"

    outcome = "complete"
    ended_by = "complete"


Result = Told | Framed | Good


@attrs.frozen
class Fault:
    """One row: what the provider does to a streamed and to a whole call, and what becomes of each."""

    name: str
    script: Callable[[bool], Script]
    stream: Result
    whole: Result
    model: str = "test-model"


def _row(
    name: str,
    script: Script | Callable[[bool], Script],
    stream: Result,
    whole: Result | None = None,
    model: str = "test-model",
) -> Fault:
    """A row; without a result of its own a whole call ends like a streamed one."""
    made = script if callable(script) else lambda _stream: script
    return Fault(name, made, stream, stream if whole is None else whole, model)


def _both(streamed: Script, whole: Script) -> Callable[[bool], Script]:
    return lambda stream: streamed if stream else whole


def _events(*steps: Step, frames: Sequence[bytes] = BEGUN) -> list[Step]:
    """A streamed answer as far as these frames, then the steps."""
    return sse(frames, *steps)


def _half_body(*last: Step) -> list[Step]:
    """The head and the first half of a whole answer, then the last step."""
    return [Head(200, JSON, "length", len(WHOLE)), Send(WHOLE[: len(WHOLE) // 2]), Sleep(0), *last]


def _plain(
    body: bytes, content_type: bytes, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()
) -> list[Step]:
    """A whole answer of any kind."""
    return [Head(status, [(b"content-type", content_type), *headers], "length"), Send(body), End()]


def _head_only(last: Step) -> Callable[[bool], Script]:
    """A good head, and nothing behind it."""
    return _both([Head(200, EVENTS), last], [Head(200, JSON), last])


DECODE = Told(502, "upstream_decode_error", "upstream returned an unparseable body: ")
ABORTED = Told(502, "stream_aborted", "upstream cancelled the response mid-stream")
TRANSPORT = Told(502, "transport_error", "transport error: ")
CUT_SHORT = Framed("stream_aborted")
GARBLED = Framed("upstream_decode_error")
BROKEN = Framed("transport_error")


LATE = f"upstream request timed out after {HASTE * 1000:.0f}ms"
FIRST = Told(504, "timeout", LATE, "first_event_timeout")
REQUEST = Told(504, "timeout", LATE, "request_timeout")
SILENT = Framed("timeout", "stalled", "silence_timeout")

BEFORE_THE_HEAD = [
    _row("close before the head", [Close()], TRANSPORT),
    _row("reset before the head", [Reset()], TRANSPORT),
    _row("half a head, then close", [Raw(b"HTTP/1.1 200 OK\r\ncontent-ty"), Close()], TRANSPORT),
    _row("stall before the head", [Stall()], FIRST, REQUEST, model="hasty"),
    _row("half a head, then stall", [Raw(b"HTTP/1.1 200 OK\r\n"), Stall()], FIRST, REQUEST, model="hasty"),
    _row("not HTTP at all", [Raw(b"SSH-2.0-OpenSSH_9.9\r\n"), Stall()], TRANSPORT),
    _row("a bad status line", [Raw(b"HTTP/1.1 two hundred\r\n\r\n"), Stall()], TRANSPORT),
    _row("a bad header line", [Raw(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), Stall()], TRANSPORT),
    _row(
        "two lengths",
        [Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"), Stall()],
        TRANSPORT,
    ),
    _row("an endless head", [Raw(b"HTTP/1.1 200 OK\r\n"), Endless(b"x-filler: abcdefghij\r\n" * 64)], TRANSPORT),
    _row("endless interim heads", [Endless(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 8)], TRANSPORT),
    _row("an upgrade nobody asked for", [Raw(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n"), Stall()], TRANSPORT),
    _row(
        "interim heads, then a good answer",
        lambda stream: [
            Raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"),
            Sleep(0),
            *(sse(FRAMES) if stream else json_answer(chat_object("Hello"))),
        ],
        Good(),
    ),
]

HTML = b"<html><body><h1>Bad gateway</h1></body></html>"
BODIES = {
    "JSON": json.dumps(ERROR).encode(),
    "HTML": HTML,
    "empty": b"",
    "huge": b"<p>" + b"x" * 300_000,
}


def _status_message(status: int, kind: str) -> str:
    if status >= 500:
        return f"upstream returned {status}"
    words = {"JSON": "the provider's own words", "HTML": HTML.decode(), "huge": "<p>" + "x" * 1021 + "…"}
    return words.get(kind, f"upstream returned {status}")


def _status_rows() -> list[Fault]:
    rows = []
    for status in (500, 503, 529, 429, 401, 404):
        for kind, body in BODIES.items():
            content_type = b"application/json" if kind == "JSON" else b"text/html"
            kept = status == 529 or status < 500
            ended_by = "upstream_error"
            after = "7" if status in (429, 529) else None
            told = Told(status if kept else 502, "upstream_error", _status_message(status, kind), ended_by, after)
            script = _plain(body, content_type, status, [(b"retry-after", b"7")])
            rows.append(_row(f"status {status}, {kind}", script, told))
    return rows


def _redirect(status: int) -> Fault:
    script = _plain(HTML, b"text/html", status, [(b"location", b"/v1/elsewhere")])
    return _row(f"redirect {status}", script, Told(502, "upstream_error", f"upstream returned {status}"))


HEADS = [
    *_status_rows(),
    *map(_redirect, (301, 302, 307, 308)),
    _row(
        "500, and its body stalls",
        [Head(500, JSON, "length", 100), Send(b'{"error":'), Stall()],
        Told(502, "upstream_error", "upstream returned 500"),
        model="hasty",
    ),
    _row(
        "500, and its body is reset",
        [Head(500, JSON, "length", 100), Send(b'{"error":'), Reset()],
        Told(502, "upstream_error", "upstream returned 500"),
    ),
]

GZIP = (b"content-encoding", b"gzip")
TOLD_429 = Told(429, "upstream_error", "too many", "upstream_in_band_error")
TOLD_IN_BAND = Told(502, "upstream_error", "the provider's own words", "upstream_in_band_error")
IN_BAND_429 = {"error": {"message": "too many", "type": "rate_limit", "code": 429}}
NOT_THE_ANSWER = [
    _row("200 HTML", _plain(HTML, b"text/html"), DECODE),
    _row("200 broken JSON", _plain(b'{"id": "x", "choi', b"application/json"), DECODE),
    _row("200 JSON without choices", _plain(b'{"object": "list"}', b"application/json"), DECODE),
    _row("200 JSON that is no object", _plain(b"[1]", b"application/json"), DECODE),
    _row("200 with an empty body", _plain(b"", b"application/json"), ABORTED),
    _row("200 with an empty stream", [Head(200, EVENTS), End()], ABORTED),
    _row("204", [Head(204, framing="close"), End()], ABORTED),
    _row("200 JSON, though a stream may be wanted", json_answer(chat_object("Hello")), Good()),
    _row("200 JSON error object", json_answer(ERROR), TOLD_IN_BAND),
    _row("200 JSON error with a status", json_answer(IN_BAND_429), TOLD_429),
    _row("200 JSON without its content type", _plain(WHOLE, b"text/plain"), Good()),
    _row("gzip", [Head(200, [*EVENTS, GZIP]), Send(b"\x1f\x8b\x08" + b"\0" * 99), End()], DECODE),
    _row("gzip, and the body stalls", [Head(200, [*JSON, GZIP]), Stall()], DECODE),
    _row("a stream", sse(FRAMES), Good(), DECODE),
    _row(
        "a body over max_body_bytes",
        _plain(json.dumps(chat_object("x" * SMALL)).encode(), b"application/json"),
        DECODE,
    ),
    _row("an endless body", [Head(200, JSON), Endless(b" " * 8192)], DECODE),
]


def _data(obj: object) -> bytes:
    return b"data: " + json.dumps(obj).encode() + b"\n\n"


COMMENT = b": a comment\n\n"
COMMENTS = [*(step for _ in range(400) for step in (Send(b": \n\n"), Sleep(0.005))), Stall()]
"""For longer than anybody waits, and fewer bytes than anybody minds."""
NOISE = [COMMENT, b"data: ping\n\n", b'data: {"type":"ping"}\n\n', b"event: x\n\n", b"data:\n\n", b"retry: 5\n\n"]
NOISY = [piece for frame in FRAMES for piece in (*NOISE, frame)]

FIRST_EVENT = [
    _row("head, then stall", _head_only(Stall()), FIRST, REQUEST, model="hasty"),
    _row("head, then close", _head_only(Close()), ABORTED),
    _row("head, then reset", _head_only(Reset()), TRANSPORT),
    _row("comments, then the end", _events(frames=[COMMENT] * 3), ABORTED, DECODE),
    _row("comments for ever", [Head(200, EVENTS), *COMMENTS], FIRST, REQUEST, model="hasty"),
    _row("half a first frame, then the end", _events(frames=[HALF]), ABORTED, DECODE),
    _row("a first frame of broken JSON", _events(frames=[b'data: {"id":\n\n', *FRAMES]), DECODE),
    _row("an error first", _events(frames=[_data(IN_BAND_429)]), TOLD_429, DECODE),
    _row(
        "an error first, its text hidden",
        _events(frames=[_data({"error": {"message": "stack trace", "code": 500}})]),
        Told(502, "upstream_error", "upstream returned 500"),
        DECODE,
    ),
    _row("an endless first line", [Head(200, EVENTS), Endless(b"data: " + b"x" * 8192)], DECODE),
]


def _half(last: Step) -> Callable[[bool], Script]:
    """An answer as far as the middle of a frame, or of its body."""
    return _both(_events(last, frames=[*BEGUN, HALF]), _half_body(last))


def _at_once(*frames: bytes) -> list[Step]:
    """A streamed answer of which these frames come in one read."""
    return [Head(200, EVENTS), Send(BEGUN[0]), Sleep(0), Send(b"".join(frames)), Sleep(0), End()]


MID_STREAM = [
    _row(
        "an error later",
        _both(_events(frames=[*BEGUN, _data(ERROR), *FRAMES]), json_answer(ERROR)),
        Framed("upstream_in_band_error"),
        TOLD_IN_BAND,
    ),
    _row("half a frame, then close", _half(Close()), CUT_SHORT, ABORTED),
    _row("half a frame, then the end", _events(frames=[*BEGUN, HALF]), CUT_SHORT, DECODE),
    _row("half a frame, then reset", _half(Reset()), BROKEN, TRANSPORT),
    _row("half a frame, then stall", _half(Stall()), SILENT, REQUEST, model="hasty"),
    _row("stall", _both(_events(Stall()), _half_body(Stall())), SILENT, REQUEST, model="hasty"),
    _row(
        "nothing but comments from here on",
        _both([*_events(Stall())[:-1], *COMMENTS], _half_body(Stall())),
        SILENT,
        REQUEST,
        model="hasty",
    ),
    _row("close without an end", _events(Close()), CUT_SHORT, ABORTED),
    _row("a proper end of half an answer", _events(), CUT_SHORT, DECODE),
    _row("reset after the finish", _both(_events(Reset(), frames=FINISHED), _half_body(Reset())), Good(), TRANSPORT),
    _row("close after the finish", _both(_events(Close(), frames=FINISHED), _half_body(Close())), Good(), ABORTED),
    _row("the end after the finish", _both(_events(frames=FINISHED), json_answer(chat_object("Hello"))), Good()),
    _row("[DONE] without a finish", _events(frames=[*BEGUN, FRAMES[-1]]), Good(), DECODE),
    _row("frames after [DONE]", _events(frames=[*FRAMES, *FRAMES]), Good(), DECODE),
    _row("[DONE], and then for ever", [*_events(frames=FRAMES)[:-1], Endless(FRAMES[1] * 50)], Good(), DECODE),
    _row("[DONE] without a blank line", _events(frames=[*FRAMES[:-1], b"data: [DONE]"]), Good(), DECODE),
    _row("broken JSON", _events(frames=[*BEGUN, b'data: {"id":\n\n', *FRAMES]), GARBLED, DECODE),
    _row("broken JSON in the read of a text", _at_once(*BEGUN[1:], b'data: {"id":\n\n', *FRAMES), GARBLED, DECODE),
    _row(
        "broken JSON in the first read",
        [Head(200, EVENTS), Send(b"".join([*BEGUN, b"data: {\n\n"])), End()],
        GARBLED,
        DECODE,
    ),
    _row(
        "an error in the read of a text",
        _both(_at_once(*BEGUN[1:], _data(ERROR), *FRAMES), json_answer(ERROR)),
        Framed("upstream_in_band_error"),
        TOLD_IN_BAND,
    ),
    _row("a close in the read of a text", [*_at_once(*BEGUN[1:], HALF)[:-2], Close()], CUT_SHORT, ABORTED),
    _row("everything in one read", _both(_at_once(*FRAMES[1:]), json_answer(chat_object("Hello"))), Good()),
    _row("broken UTF-8 of no text", _events(frames=[*BEGUN, b"data: {\xff\xfe}\n\n", *FRAMES]), GARBLED, DECODE),
    _row("choices that are no objects", _events(frames=[*BEGUN, b'data: {"choices":[1]}\n\n']), GARBLED, DECODE),
    _row("a nesting bomb", _events(frames=[*BEGUN, b"data: " + b"[" * 50_000 + b"\n\n"]), GARBLED, DECODE),
    _row(
        "an endless line in place of the first event",
        _both([Head(200, EVENTS), Endless(b"x" * 8192)], [Head(200, JSON), Endless(b"x" * 8192)]),
        DECODE,
    ),
    _row("noise between the frames", _events(frames=NOISY), Good(), DECODE),
]

FRAMING = [
    _row(
        "a length too short",
        _both(
            [Head(200, EVENTS, "length", len(b"".join(BEGUN)) + 9), *_events(frames=FRAMES)[1:]],
            [Head(200, JSON, "length", len(WHOLE) - 9), Send(WHOLE), End()],
        ),
        CUT_SHORT,
        DECODE,
    ),
    _row(
        "a length too long",
        _both(
            [Head(200, EVENTS, "length", 9999), *_events(Close())[1:]],
            [Head(200, JSON, "length", len(WHOLE) + 9), Send(WHOLE), Close()],
        ),
        CUT_SHORT,
        ABORTED,
    ),
    _row(
        "chunks that are none",
        _both([*_events()[:-1], Raw(b"zz\r\n"), Stall()], [Head(200, JSON), Send(WHOLE), Raw(b"zz\r\n"), Stall()]),
        BROKEN,
        TRANSPORT,
    ),
    _row(
        "a chunk longer than it says",
        _both([*_events()[:-1], Raw(b"1\r\nabc\r\n"), Stall()], [Head(200, JSON), Raw(b"1\r\nabc\r\n"), Stall()]),
        BROKEN,
        TRANSPORT,
    ),
    _row(
        "garbage behind the answer",
        _both(
            [*_events(frames=FRAMES)[:-1], Raw(b"0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"), Stall()],
            [*json_answer(chat_object("Hello"))[:-1], Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"), Stall()],
        ),
        Good(),
    ),
    _row(
        "the connection's end is the body's",
        _both(
            [Head(200, EVENTS, "close"), *_events(frames=FRAMES)[1:]],
            [Head(200, JSON, "close"), Send(WHOLE), End()],
        ),
        Good(),
    ),
    _row(
        "HTTP/1.0",
        _both(
            [Raw(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + b"".join(FRAMES)), Close()],
            [Raw(b"HTTP/1.0 200 OK\r\n\r\n" + WHOLE), Close()],
        ),
        Good(),
    ),
]

FAULTS = [*BEFORE_THE_HEAD, *HEADS, *NOT_THE_ANSWER, *FIRST_EVENT, *MID_STREAM, *FRAMING]
