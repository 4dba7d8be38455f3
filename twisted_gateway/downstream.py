"""One answer to one caller: head, heartbeats, frames, complaint, end. It outlives attempts.

It is the caller's producer for the whole exchange and passes pausing on to whichever answer is joined
(`DESIGN.md` section 3, step 6). Rules: `streaming.md` sections 4 to 6, 8, 11 and 13.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer, IReactorTime
from zope.interface import implementer

from twisted_gateway.alarm import Alarm
from twisted_gateway.errors import Problem
from twisted_gateway.exchange import Exchange
from twisted_gateway.formats.row import Format
from twisted_gateway.lane import Lane
from twisted_gateway.wire.sse import Frame, encode

HeadLines = list[tuple[bytes, bytes]]


def _unbuffered(content_type: bytes) -> HeadLines:
    return [(b"Content-Type", content_type), (b"Cache-Control", b"no-cache"), (b"X-Accel-Buffering", b"no")]


_STREAM = _unbuffered(b"text/event-stream")
_STREAM_LINES = b"\r\n".join([name + b": " + value for name, value in _STREAM])


def when_left(request: Any, tell: Callable[[Any], None]) -> None:
    """Call that if the caller leaves before the answer is whole."""
    own = getattr(request, "when_left", None)
    if own is not None:
        own(tell)
    else:
        request.notifyFinish().addErrback(tell)


@implementer(IPushProducer)
class Downstream:
    """Writes the answer of one exchange. Everything is a no-op once the caller has left.

    `heartbeat_seconds` 0 = no heartbeats. `head` are headers that every answer carries.
    """

    __slots__ = (
        "_beat", "_clock", "_exchange", "_format", "_heartbeat_seconds", "_joined", "_producing", "_request",
        "_told_committed", "also", "finished", "gone", "headers_of_stream", "paused",
    )  # fmt: skip

    def __init__(
        self,
        request: Any,
        exchange: Exchange,
        format: Format,
        clock: IReactorTime,
        heartbeat_seconds: float,
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        self._request: Any = request
        self._exchange = exchange
        self._format = format
        self._clock = clock
        self._heartbeat_seconds = heartbeat_seconds
        self._told_committed = committed
        self._beat: Alarm | None = None
        self._joined: Any = None
        self.gone = False
        self.finished = False
        self.paused = False
        self.also: Callable[[], HeadLines] | None = None
        """Headers of every answer that are only known when its head is written."""
        self.headers_of_stream: Callable[[], HeadLines] | None = None
        self._producing = False
        when_left(request, self._left)

    # What the trunk and the relay ask of it

    @property
    def committed(self) -> bool:
        """Status line and headers are written: from here on an error is a frame."""
        return self._exchange.committed is not None

    def join(self, producer: Any) -> None:
        """The answer whose reading is paused while the caller is slow; None when there is none."""
        self._joined = producer
        if producer is not None and not self.gone:
            if not self._producing:
                self._producing = True
                self._request.registerProducer(self, True)
            if self.paused:
                producer.pause()

    def promise(self, seconds: float) -> None:
        """A good head came from upstream: commit by a heartbeat if there is no event for so long (section 4 rule 2)."""
        if not self.committed and not self.gone:
            self._set_beat(seconds)

    def retract(self) -> None:
        """The good head that was promised for is worth nothing any more: wait for another."""
        if not self.committed and self._beat is not None:
            self._beat.off()

    def commit(self, headers: HeadLines, content_type: bytes = b"text/event-stream") -> None:
        """Write status 200 and the headers of a stream with the next write (or heartbeat)."""
        if self._exchange.committed is not None or self.gone:
            return
        self._head(200, _STREAM if content_type == b"text/event-stream" else _unbuffered(content_type), headers)
        self._mark_committed(200)
        if self._heartbeat_seconds:
            self._set_beat(self._heartbeat_seconds)
        elif self._beat is not None:
            self._beat.off()

    def write(self, data: bytes, frames: int) -> None:
        """Whole data frames, in one write. The first ones bind the target."""
        if self.gone or self.finished:
            return
        exchange = self._exchange
        exchange.frames += frames
        exchange.bytes += len(data)
        self._request.write(data)
        if exchange.bound is None:
            self._bind()
        if self._beat is not None and self._heartbeat_seconds and not self.paused:
            self._beat.set(self._heartbeat_seconds)

    def lane(self, learnt: Any) -> Lane | None:
        """A lane that leads to the caller: its frames come past this. None where there is no such way."""
        request = self._request
        way = None if self.gone or self.finished else getattr(request, "way", None)
        if way is None:
            return None
        lane = Lane(way, self._exchange, learnt, self._clock.seconds)
        if self._beat is not None:
            self._beat.leader = lane
        return lane

    def flush(self) -> None:
        """There is more to do now, and the caller need not wait for it to be done: what is written may go before."""
        flush = getattr(self._request, "flush", None)
        if flush is not None:
            flush()

    def flush_head(self) -> None:
        """Send the head though there is no frame to send with it: the first ones are held, or not for the caller."""
        if not self.gone and not self._request.startedWriting:
            self._request.write(b"")

    def answer(self, data: bytes, headers: HeadLines, content_type: bytes = b"application/json") -> None:
        """A whole body with status 200, and the end."""
        self._whole(200, data, headers, content_type)

    def complain(self, problem: Problem, frames: list[Frame] | None = None) -> None:
        """Tell an error in the caller's dialect: as JSON with its status, or as the last frame of a stream.

        `frames` are what a dialect says in mid-stream, where that depends on what was sent before.
        """
        complaints = self._format.complaints
        if self.gone or self.finished:
            return
        self._exchange.problem = problem
        if not self.committed:
            headers = [(b"retry-after", b"%d" % problem.retry_after)] if problem.retry_after is not None else []
            self._whole(problem.status, complaints.body(problem), headers, b"application/json")
            return
        if not problem.told:
            data = b"".join(map(encode, [complaints.frame(problem)] if frames is None else frames))
            self._exchange.bytes += len(data)
            self._request.write(data)
        self.finish()

    def finish(self) -> None:
        """End the HTTP body cleanly."""
        self._end()
        if not self.gone and not self.finished:
            self.finished = True
            self._request.finish()

    def abort(self) -> None:
        """Close the caller's connection without the end of the body: there is no other way to tell (raw audio)."""
        self._end()
        if not self.gone and not self.finished:
            self._request.transport.abortConnection()

    # IPushProducer, of the caller's connection

    def pauseProducing(self) -> None:
        """The caller is slow: stop reading, and do not queue heartbeats."""
        self.paused = True
        if self._beat is not None:
            self._beat.off()
        if self._joined is not None:
            self._joined.pause()

    def resumeProducing(self) -> None:
        """The caller has taken what was written."""
        self.paused = False
        if self._beat is not None and self._heartbeat_seconds:
            self._beat.set(self._heartbeat_seconds)
        if self._joined is not None:
            self._joined.resume()

    def stopProducing(self) -> None:
        """The caller's connection is closed; `notifyFinish` tells."""

    # Inside

    def _whole(self, status: int, data: bytes, headers: HeadLines, content_type: bytes) -> None:
        if self.gone or self.finished:
            return
        whole = [(b"Content-Type", content_type), (b"Content-Length", b"%d" % len(data))]
        self._head(status, whole, headers)
        self._mark_committed(status)
        if status == 200:
            self._exchange.bound = self._exchange.committed
            self._exchange.frames += 1
        self._exchange.bytes += len(data)
        self._request.write(data)
        self.finish()

    def _head(self, status: int, first: HeadLines, more: HeadLines) -> None:
        """Set status and headers; a request of our own listener takes them as lines."""
        request = self._request
        if status != 200:
            request.setResponseCode(status)
        headers = more if self.also is None else more + self.also()
        put = getattr(request, "put", None)
        if put is None:
            for name, value in first + headers:
                request.responseHeaders.setRawHeaders(name, [value])
        elif first is _STREAM:
            request.lines.append(_STREAM_LINES)
            put(headers)
        else:
            put(first + headers)

    def _mark_committed(self, status: int) -> None:
        self._exchange.committed = self._clock.seconds()
        self._exchange.status = status
        self._told_committed()

    def _bind(self) -> None:
        """The first frames are written. What was only needed to ask a provider is let go: the prompt, and its share of
        the budget for bodies.
        """
        self.flush()
        self._exchange.bind(self._clock.seconds())
        self.headers_of_stream = None
        let_go = getattr(self._request, "let_go", None)
        if let_go is not None:
            let_go()

    def _set_beat(self, seconds: float) -> None:
        if self._beat is None:
            self._beat = Alarm(self._clock, self._heartbeat)
        if not self.paused:
            self._beat.set(seconds)

    def _heartbeat(self) -> None:
        """The stream was silent for an interval."""
        if self.gone or self.finished:
            return
        if not self.committed:
            self.commit(self._exchange_headers())
        data = self._format.heartbeat(self._exchange.bound is not None)
        self._exchange.bytes += len(data)
        self._request.write(data)
        if self._heartbeat_seconds and self._beat is not None:
            self._beat.set(self._heartbeat_seconds)

    def _exchange_headers(self) -> HeadLines:
        return self.headers_of_stream() if self.headers_of_stream is not None else []

    def _end(self) -> None:
        if self._beat is not None:
            self._beat.stop()
            self._beat = None
        self._joined = None
        if self._producing:
            self._producing = False
            if not self.gone:
                self._request.unregisterProducer()

    def _left(self, reason: Any) -> None:
        self.gone = True
        self.paused = False
        self._end()
