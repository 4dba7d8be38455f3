"""One attempt over one connection: a request out, an open answer back, Twisted's failures as ours.

An *open answer* has a good status and its first data event is read; whoever joins it gets that and everything after.
Deadlines: `streaming.md` section 9. What becomes of non-streams and errors: section 4 and `errors-and-headers.md` 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs
import msgspec
from treq.client import HTTPClient
from treq.response import _Response
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.python.failure import Failure
from twisted.web.client import PotentialDataLoss, ResponseDone, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from zope.interface import implementer

from twisted_gateway.alarm import Alarm
from twisted_gateway.config.resources import ProviderKey
from twisted_gateway.connection import Body, BrokenConnection
from twisted_gateway.deadlines import Deadlines
from twisted_gateway.errors import AttemptFailed, Problem, StrayFrame, broken_off, timed_out, transport_error, undecodable
from twisted_gateway.exchange import Attempt, Call
from twisted_gateway.formats.row import Format, Sent
from twisted_gateway.wire.series import WholeBody
from twisted_gateway.wire.sse import Frame, Reader, TooLong

_ERROR_BODY = 65_536
_LEFTOVER_SECONDS = 1.0


class Client(HTTPClient):  # type: ignore[misc]
    """treq's client, less what a gateway must not do (cookies, redirects, decompression, buffering)."""

    def __init__(self, agent: IAgent) -> None:
        super().__init__(agent)

    def post(  # type: ignore[override]
        self, url: str, *, headers: Headers, data: bytes, started: Callable[[], None]
    ) -> Deferred[_Response]:
        """A streaming POST. `started` is called once the connection is up and the request begins to be written."""
        request: Deferred[Any] = self._agent.request(b"POST", url.encode("ascii"), headers, Body(data, started))
        return request.addCallback(_Response, self._cookiejar)


class Sink(Protocol):
    """Whoever joins an open answer."""

    def bytes_received(self, data: bytes) -> bool:
        """A read that begins with a new frame. True when it was taken as it is; else it comes as frames."""

    def frames_received(self, frames: list[Frame]) -> None:
        """The frames of one read."""

    def answer_ended(self, problem: Problem | None) -> None:
        """Nothing more will come. `problem` is None when the transfer ended cleanly, else what broke it."""


@implementer(IProtocol)
class Answer:
    """The body of one provider's answer, from its head to its end.

    Until somebody joins, frames are kept (and reading is paused once the first event is there). After `cut` nothing
    is told any more.
    """

    transport: Any = None

    def __init__(self, call: Call, format: Format, reader: Reader | WholeBody | None, limits: Limits) -> None:
        self.opened: Deferred[Answer] = Deferred(lambda _: self.cut())
        self._call = call
        self._format = format
        self._reader = reader
        self._is_stream = isinstance(reader, Reader)
        self._limits = limits
        self._frames: list[Frame] = []
        self._sink: Sink | None = None
        self._bytes = 0
        self._cut = False
        self._lost = False
        self._released: Alarm | None = None

    # IProtocol

    def makeConnection(self, transport: Any) -> None:
        """The body begins."""
        self.transport = transport

    def connectionMade(self) -> None:
        """See `makeConnection`."""

    def dataReceived(self, data: bytes) -> None:
        """One read of the provider's connection, framing taken off."""
        if self._cut:
            return
        self._bytes += len(data)
        reader = self._reader
        if reader is None:
            reader = self._reader = self._choose(data)
        try:
            if self._sink is not None and isinstance(reader, Reader):
                data = self._quickly(reader, self._sink, data)
            frames = reader.received(data) if data else []
        except TooLong as error:
            self._broken(undecodable(str(error)))
            return
        if not frames:
            return
        if self._sink is not None:
            self._sink.frames_received(frames)
        elif not self._cut:
            self._first(frames)

    def _quickly(self, reader: Reader, sink: Sink, data: bytes) -> bytes:
        """Let the sink have all whole frames of a read at once, if it knows them; gives what is left to read."""
        if not reader.between_frames:
            end = data.find(b"\n\n") + 2
            if end < 2:
                return data
            frames, data = reader.received(data[:end]), data[end:]
            if frames:
                sink.frames_received(frames)
            if not reader.between_frames or self._sink is not sink:
                return data
        end = data.rfind(b"\n\n") + 2
        return data[end:] if end >= 2 and sink.bytes_received(data[:end]) else data

    def connectionLost(self, reason: Failure) -> None:
        """The body is over."""
        self._lost = True
        if self._released is not None:
            self._released.stop()
        if self._cut:
            return
        problem = _broken_by(reason)
        try:
            frames = [] if problem is not None and isinstance(self._reader, WholeBody) else self._last_frames()
        except StrayFrame as stray:
            frames, problem = [], undecodable(str(stray))
        if frames and self._sink is not None:
            self._sink.frames_received(frames)
        elif frames:
            self._first(frames)
        self._over(problem)

    # For whoever joins

    def join(self, sink: Sink) -> None:
        """Give the frames read so far, and all that come, to `sink`."""
        self._sink = sink
        frames, self._frames = self._frames, []
        if frames:
            sink.frames_received(frames)
        if self._ended is not _RUNNING and self._sink is not None:
            sink.answer_ended(self._ended)  # type: ignore[arg-type]
        elif not self._cut:
            self.resume()

    def pause(self) -> None:
        """Stop reading: the caller is the slow one."""
        if self.transport is not None:
            self.transport.pauseProducing()

    def resume(self) -> None:
        """Go on reading."""
        if self.transport is not None:
            self.transport.resumeProducing()

    def cut(self) -> None:
        """Close the provider's connection at once and say nothing more."""
        if not self._cut:
            self._cut = True
            self._sink = None
            if self.transport is not None:
                abort = getattr(self.transport, "abortConnection", None) or self.transport.stopProducing
                abort()

    def release(self, clock: IReactorTime) -> None:
        """The answer is whole: give the provider a second to end the transfer, so that the connection lives on."""
        if self._ended is _RUNNING and not self._cut and not self._lost:
            self._sink = None
            self._reader = _Discard()  # type: ignore[assignment]
            self._released = Alarm(clock, self.cut)
            self._released.set(_LEFTOVER_SECONDS)
            self.resume()

    # Inside

    _ended: Any = None

    def _choose(self, data: bytes) -> Reader | WholeBody:
        """A body that begins like JSON is one, whatever its content type says."""
        if data.lstrip()[:1] in (b"{", b"["):
            return WholeBody(self._limits.max_body_bytes)
        return Reader(self._limits.max_event_bytes)

    def _first(self, frames: list[Frame]) -> None:
        """Look for the first data event; what it is decides about the attempt."""
        unseen = len(self._frames)
        self._frames += frames
        if self.opened.called:
            return
        for frame in frames:
            unseen += 1
            verdict = self._format.judge(self._call, frame)
            if verdict is True:
                self.opened.callback(self)
                if self._sink is None and self._released is None and not self._cut and self._ended is _RUNNING:
                    self.pause()
                return
            if verdict is not False:
                self._broken(verdict)
                return

    def _last_frames(self) -> list[Frame]:
        reader = self._reader
        if reader is None:
            return []
        frames = reader.ended()
        if isinstance(reader, WholeBody):
            if frames and self._call.stream and self._format.judge(self._call, frames[0]) is True:
                return self._format.unfolded(frames[0].data)
            return frames
        return [frame for frame in frames if _whole(frame.data)]

    def _over(self, problem: Problem | None) -> None:
        self._ended = problem
        if self._sink is not None:
            self._sink.answer_ended(problem)
        elif not self.opened.called:
            if problem is None:
                problem = undecodable("no answer in it") if self._bytes and not self._is_stream else broken_off()
            self.opened.errback(AttemptFailed(problem, retryable=True))

    def _broken(self, problem: Problem) -> None:
        sink = self._sink
        self.cut()
        self._ended = problem
        if sink is not None:
            sink.answer_ended(problem)
        elif not self.opened.called:
            status = problem.status if problem.kind == "upstream_in_band" else None
            retryable = status is None or not 400 <= status < 500
            self.opened.errback(AttemptFailed(problem, status=status, retryable=retryable))


class _Running:
    """The answer has not ended."""


_RUNNING = _Running()
Answer._ended = _RUNNING


class _Discard:
    """Reads nothing."""

    def received(self, data: bytes) -> list[Frame]:
        return []

    def ended(self) -> list[Frame]:
        return []


@implementer(IProtocol)
class _ErrorBody:
    """Gathers the beginning of an error answer, 64 KiB at most."""

    transport: Any = None

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self.stop())
        self._data = b""

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def connectionMade(self) -> None:
        pass

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > _ERROR_BODY and not self.done.called:
            self.stop()
            self.done.callback(self._data[:_ERROR_BODY])

    def connectionLost(self, reason: Failure) -> None:
        if not self.done.called:
            self.done.callback(self._data)

    def stop(self) -> None:
        """Close the connection: no more of it is wanted."""
        if self.transport is not None:
            (getattr(self.transport, "abortConnection", None) or self.transport.stopProducing)()


class Limits(Protocol):
    """Sizes in bytes (`extensions.md` 1)."""

    max_event_bytes: int
    max_body_bytes: int


class Upstream:
    """Makes attempts, through the client of each provider key. `connect_timeout_ms` is only told in errors."""

    def __init__(
        self,
        client: Callable[[ProviderKey], Client],
        clock: IReactorTime,
        limits: Limits,
        connect_timeout_ms: float,
    ) -> None:
        self._client = client
        self._clock = clock
        self._limits = limits
        self._connect_timeout_ms = connect_timeout_ms

    async def open(
        self,
        call: Call,
        attempt: Attempt,
        format: Format,
        url: str,
        headers: list[tuple[str, str]],
        sent: Sent,
        wait: Deadlines,
        accepted: Callable[[], None],
    ) -> Answer:
        """Send the request and give the open answer; `accepted` is called when a 2xx head has come.

        Raises `AttemptFailed`. Cancelled, it closes the connection at once.
        """
        timer = _Deadline(self._clock, call, wait)
        raw = Headers()
        for name, value in headers:
            raw.addRawHeader(name.encode("latin-1"), value.encode("latin-1"))
        try:
            client = self._client(attempt.target.model.provider_key)
            timer.watch(client.post(url, headers=raw, data=sent.body, started=timer.start))
            response = await timer.waiting
            attempt.status = response.code
            if not 200 <= response.code < 300:
                await self._refused(response, format, timer)
            reader = _reader(call, response, self._limits)
            accepted()
            answer = Answer(call, format, reader, self._limits)
            timer.watch(answer.opened)
            response.deliverBody(answer)
            await timer.waiting
        except AttemptFailed:
            raise
        except BaseException:
            failure = Failure()
            problem = timer.problem or self._problem(failure)
            if problem is None:
                raise
            raise AttemptFailed(problem, retryable=True) from None
        finally:
            timer.stop()
        attempt.first_event = self._clock.seconds()
        return answer

    async def _refused(self, response: Any, format: Format, timer: _Deadline) -> None:
        """A status that is no success, as `AttemptFailed`."""
        status = response.code
        body = _ErrorBody()
        timer.watch(body.done)
        response.deliverBody(body)
        text = await timer.waiting
        after = (response.headers.getRawHeaders(b"retry-after") or [b""])[0]
        retry_after = int(after) if after.isdigit() and len(after) < 7 else None
        problem = format.error_body(status, text)
        if retry_after is not None and status in (429, 529):
            problem = _with_retry_after(problem, retry_after)
        raise AttemptFailed(
            problem, status=status, retryable=not 400 <= status < 500, retry_after=retry_after
        )

    def _problem(self, failure: Failure) -> Problem | None:
        """What a failure of the connection is to the caller; None when it is a fault of ours or a cancellation."""
        if failure.check(CancelledError, GeneratorExit):
            return None
        if failure.check(TimeoutError):
            return timed_out("connect_timeout", self._connect_timeout_ms)
        if failure.check(StrayFrame):
            return undecodable(str(failure.value))
        if failure.check(AssertionError, TypeError, AttributeError, KeyError, NameError):
            return None
        return transport_error(_cause(failure), _detail(failure))


class _Deadline:
    """The one timer of an attempt until its answer is open: it cancels whatever is waited for, and says so."""

    def __init__(self, clock: IReactorTime, call: Call, wait: Deadlines) -> None:
        self._alarm = Alarm(clock, self._ring)
        self._seconds = wait.first_event if call.stream else wait.request
        self._name = "first_event_timeout" if call.stream else "request_timeout"
        self.waiting: Deferred[Any] = Deferred()
        self.problem: Problem | None = None

    def watch(self, waiting: Deferred[Any]) -> None:
        self.waiting = waiting

    def start(self) -> None:
        """The request is being written."""
        if self._seconds is not None and self.problem is None:
            self._alarm.set(self._seconds)

    def stop(self) -> None:
        self._alarm.stop()

    def _ring(self) -> None:
        assert self._seconds is not None
        self.problem = timed_out(self._name, self._seconds * 1000)
        self.waiting.cancel()


def _reader(call: Call, response: Any, limits: Limits) -> Reader | WholeBody | None:
    """The reader for a 2xx answer; None when its first bytes must tell. Raises `StrayFrame` when it is compressed."""
    coding = (response.headers.getRawHeaders(b"content-encoding") or [b"identity"])[0].strip().lower()
    if coding not in (b"identity", b""):
        unwanted = _ErrorBody()
        response.deliverBody(unwanted)  # a body that nobody takes would keep its connection for ever
        unwanted.stop()
        raise StrayFrame("it is compressed though identity was asked for")
    if not call.stream:
        return WholeBody(limits.max_body_bytes)
    kind = (response.headers.getRawHeaders(b"content-type") or [b""])[0].split(b";")[0].strip().lower()
    if kind == b"text/event-stream":
        return Reader(limits.max_event_bytes)
    return WholeBody(limits.max_body_bytes) if kind.endswith((b"/json", b"+json")) else None


def _whole(data: bytes) -> bool:
    """Whether a last frame without its blank line is one to accept (`streaming.md` 7 rule 7)."""
    data = data.strip()
    if data == b"[DONE]":
        return True
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return False
    return data[:1] in (b"{", b"[")


def _with_retry_after(problem: Problem, seconds: int) -> Problem:
    return attrs.evolve(problem, retry_after=seconds)


def _broken_by(reason: Failure) -> Problem | None:
    """What the end of a body's transfer means: nothing bad, an end that came early, or a broken connection."""
    if reason.check(ResponseDone, PotentialDataLoss):
        return None
    value = reason.value
    inner = value.reasons if isinstance(value, ResponseFailed) else [reason]
    if any(str(one.value) == "connection closed" or one.check(ConnectionDone, ResponseDone) for one in inner):
        return broken_off(_detail(reason))
    return transport_error(_cause(reason), _detail(reason))


def _cause(failure: Failure) -> str:
    """What broke, without a host name."""
    value = failure.value
    if isinstance(value, BrokenConnection):
        return str(value)
    if failure.check(ConnectionRefusedError):
        return "connection refused"
    if failure.check(DNSLookupError):
        return "name lookup failed"
    if failure.check(ConnectError):
        return "cannot connect"
    if type(value).__module__.startswith(("OpenSSL", "service_identity", "twisted.internet._sslverify")):
        return "TLS handshake failed"
    return "connection lost"


def _detail(failure: Failure) -> str:
    return f"{type(failure.value).__name__}: {failure.value}"[:2048]


