"""The body of one provider's answer, from its head to its end; and what is left of one that is an error."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionRefusedError, DNSLookupError
from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from zope.interface import implementer

from twisted_gateway.alarm import Alarm
from twisted_gateway.connection import BrokenConnection
from twisted_gateway.errors import (
    AttemptFailed,
    Problem,
    StrayFrame,
    broken_off,
    our_fault,
    transport_error,
    undecodable,
)
from twisted_gateway.exchange import Call
from twisted_gateway.formats.row import Format
from twisted_gateway.lane import Lane
from twisted_gateway.wire.series import WholeBody
from twisted_gateway.wire.sse import Frame, Reader, TooLong

_ERROR_BODY = 65_536
_LEFTOVER_SECONDS = 1.0
_log = Logger()
_WHOLE = (ResponseDone, PotentialDataLoss)
"""How the transfer of a body ends that is not broken off, as far as framing tells."""


class Limits(Protocol):
    """Sizes in bytes (`extensions.md` 1)."""

    @property
    def max_event_bytes(self) -> int:
        """One event of a stream."""

    @property
    def max_body_bytes(self) -> int:
        """One whole answer."""


class Sink(Protocol):
    """Whoever joins an open answer."""

    def answer_began(self, frames: list[Frame], data: bytes) -> None:
        """What was read before: frames, and bytes behind them that no reader has seen."""

    def answer_read(self, data: bytes) -> None:
        """One read of the provider's connection."""

    def answer_ended(self, problem: Problem | None, frames: list[Frame]) -> None:
        """Nothing more will come but these frames. `problem` is None when the transfer ended cleanly."""


class OpenAnswer(Protocol):
    """What a sink can do with an answer whose first data event is read: one of a provider, or one from memory."""

    @property
    def reader(self) -> Reader | WholeBody:
        """What makes frames of its bytes."""

    def join(self, sink: Sink) -> None:
        """Give what was read so far, and all that comes, to `sink`."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Go on reading."""

    def hasten(self, lane: Lane) -> None:
        """Let the usual reads go by `lane`."""

    def cut(self) -> None:
        """No more of it is wanted."""

    def release(self, clock: IReactorTime) -> None:
        """It is whole; what may still come is of no use."""


@implementer(IProtocol)
class Answer:
    """One answer, which is open when its first data event is read and is no error.

    Until somebody joins, what was read is kept, and reading is paused once the first event is there. After `cut`
    nothing is told any more.
    """

    __slots__ = (
        "_bytes", "_call", "_cut", "_decided", "_failed", "_format", "_frames", "_is_stream", "_last", "_limits",
        "_over", "_problem", "_reader", "_released", "_sink", "_unread", "_waiting", "transport",
    )  # fmt: skip

    def __init__(self, call: Call, format: Format, reader: Reader | WholeBody | None, limits: Limits) -> None:
        self.transport: Any = None
        self._decided = False
        self._failed: AttemptFailed | None = None
        self._waiting: Deferred[None] | None = None
        self._call = call
        self._format = format
        self._reader = reader
        self._is_stream = isinstance(reader, Reader)
        self._limits = limits
        self._frames: list[Frame] = []
        self._unread = b""
        self._sink: Sink | None = None
        self._bytes = 0
        self._cut = False
        self._over = False
        self._problem: Problem | None = None
        self._last: list[Frame] = []
        self._released: Alarm | None = None

    @property
    def reader(self) -> Reader | WholeBody:
        """Whoever joins goes on with it."""
        assert self._reader is not None
        return self._reader

    # IProtocol

    def makeConnection(self, transport: Any) -> None:
        """The body begins."""
        self.transport = transport

    def connectionMade(self) -> None:
        """See `makeConnection`."""

    def dataReceived(self, data: bytes) -> None:
        """One read of the provider's connection, framing taken off."""
        if self._sink is not None:
            self._sink.answer_read(data)
        elif self._decided:
            if self._released is None and not self._cut:
                self._unread += data
        elif not self._cut:
            self._bytes += len(data)
            self._look(data)

    def connectionLost(self, reason: Failure) -> None:
        """The body is over."""
        if self._released is not None:
            self._released.stop()
        if self._cut or self._over:
            return
        problem = _broken_by(reason)
        try:
            frames = [] if problem is not None and isinstance(self._reader, WholeBody) else self._last_frames()
        except StrayFrame as stray:
            frames, problem = [], undecodable(str(stray))
        except Exception as error:
            frames, problem = [], _ours(error)
        self._end(problem, frames)

    # For whoever asked

    def waited(self) -> Deferred[None] | None:
        """What is to be waited for until it is open, None where it is already; cancelling that cuts it.

        Raises `AttemptFailed`, or fails with it, where it is no answer.
        """
        if self._failed is not None:
            raise self._failed
        if not self._decided:
            self._waiting = Deferred(lambda _: self.cut())
        return self._waiting

    # For whoever joins

    def join(self, sink: Sink) -> None:
        """Give what was read so far, and all that comes, to `sink`."""
        self._sink = sink
        frames, self._frames = self._frames, []
        data, self._unread = self._unread, b""
        if frames or data:
            sink.answer_began(frames, data)
        if self._over:
            last, self._last = self._last, []
            if self._sink is sink:  # what was unread may have a last frame without its blank line
                sink.answer_ended(self._problem, last or self._last_frames())
        elif self._sink is sink:
            self.resume()

    def pause(self) -> None:
        """Stop reading: the caller is the slow one."""
        if self.transport is not None:
            self.transport.pauseProducing()

    def resume(self) -> None:
        """Go on reading."""
        if self.transport is not None:
            self.transport.resumeProducing()

    def hasten(self, lane: Lane) -> None:
        """Let the usual reads go by `lane`, where what is below can do that."""
        hasten = getattr(self.transport, "hasten", None)
        if hasten is not None:
            hasten(lane)

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
        self._sink = None
        if not self._over and not self._cut:
            self._released = Alarm(clock, self.cut)
            self._released.set(_LEFTOVER_SECONDS)
            self.resume()

    # Inside

    def _look(self, data: bytes) -> None:
        """Look for the first data event, frame by frame; what comes behind it is left unread."""
        if self._reader is None:
            data = self._unread + data
            self._unread = b""
            if not data.strip():
                self._unread = data[:1]  # blank so far: what it is is not told yet
                return
            self._reader = self._choose(data)
        at, by_frames = 0, isinstance(self._reader, Reader)
        while at < len(data) and not self._decided and not self._cut:
            begun, blank = at, data.find(b"\n\n", at) if by_frames else -1
            at = blank + 2 if blank >= 0 else len(data)
            try:
                frames = self._reader.received(data[begun:at])
            except TooLong as error:
                self._refuse(undecodable(str(error)))
                return
            self._first(frames, data, at)

    def _choose(self, data: bytes) -> Reader | WholeBody:
        """A body that begins like JSON is one, whatever its content type says."""
        if data.lstrip()[:1] in (b"{", b"["):
            return WholeBody(self._limits.max_body_bytes)
        return Reader(self._limits.max_event_bytes)

    def _first(self, frames: list[Frame], data: bytes = b"", at: int = 0) -> None:
        """What the first data event is decides about the attempt. Of `data` what is behind `at` is still unread."""
        for position, frame in enumerate(frames):
            verdict = self._judged(frame)
            if verdict is True:
                self._frames = frames[position:]
                self._unread = data[at:]
                self._decide(None)
                if self._sink is None and self._released is None and not self._cut and not self._over:
                    self.pause()
                return
            if verdict is not False:
                self._refuse(verdict)
                return

    def _judged(self, frame: Frame) -> Problem | bool:
        """What the dialect says of a first event."""
        try:
            return self._format.judge(self._call, frame)
        except Exception as error:
            return _ours(error)

    def _last_frames(self) -> list[Frame]:
        """What the end of the transfer makes of the bytes that were kept."""
        reader = self._reader
        if reader is None or self._released is not None:
            return []
        frames = reader.ended()
        if isinstance(reader, WholeBody):
            if frames and self._call.stream and self._judged(frames[0]) is True:
                return self._format.unfolded(frames[0].data)
            return frames
        return [frame for frame in frames if _whole(frame.data)]

    def _end(self, problem: Problem | None, frames: list[Frame]) -> None:
        self._over = True
        self._problem = problem
        if self._sink is not None:
            self._sink.answer_ended(problem, frames)
            return
        if self._decided:
            self._last = frames
            return
        self._first(frames)
        if not self._decided and not self._cut:
            if problem is None:
                problem = undecodable("no answer in it") if self._bytes and not self._is_stream else broken_off()
            self._decide(AttemptFailed(problem, retryable=True))

    def _refuse(self, problem: Problem) -> None:
        """The answer is none: the attempt has failed."""
        self.cut()
        status = problem.embedded
        retryable = status is None or not 400 <= status < 500
        if not self._decided:
            self._decide(AttemptFailed(problem, status=status, retryable=retryable))

    def _decide(self, failed: AttemptFailed | None) -> None:
        self._decided = True
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            self._failed = failed
        elif failed is None:
            waiting.callback(None)
        else:
            waiting.errback(failed)


@implementer(IProtocol)
class ErrorBody:
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

    def enough(self) -> None:
        """It takes too long: the status is known, and what has come of the text must do."""
        self.stop()
        if not self.done.called:
            self.done.callback(self._data)

    def stop(self) -> None:
        """Close the connection: no more of it is wanted."""
        if self.transport is not None:
            (getattr(self.transport, "abortConnection", None) or self.transport.stopProducing)()


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


def _ours(error: Exception) -> Problem:
    """A dialect of ours has failed: that must fail the attempt, or its call would wait for ever."""
    _log.failure("an answer could not be read")
    return our_fault(repr(error))


def _broken_by(reason: Failure) -> Problem | None:
    """What the end of a body's transfer means: nothing bad, an end that came early, or a broken connection."""
    value = reason.value
    if isinstance(value, _WHOLE):
        return None
    inner = value.reasons if isinstance(value, ResponseFailed) else [reason]
    if any(str(one.value) == "connection closed" or one.check(ConnectionDone, ResponseDone) for one in inner):
        return broken_off(detail_of(reason))
    return transport_error(cause_of(reason), detail_of(reason))


def cause_of(failure: Failure) -> str:
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


def detail_of(failure: Failure) -> str:
    return f"{type(failure.value).__name__}: {failure.value}"[:2048]
