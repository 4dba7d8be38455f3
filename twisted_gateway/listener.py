"""The caller's side of HTTP/1.1: connections, their bounds and deadlines (`DESIGN.md` section 7).

`Site` keeps all connections in view with two lazy timers: one for requests that are still coming in, one for callers
who do not take what is written to them. Nothing here knows what a request is about.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import (
    IConsumer,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
    ITransport,
)
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import datetimeToString
from twisted.web.resource import IResource
from zope.interface import implementer

from twisted_gateway.alarm import Alarm
from twisted_gateway.errors import Problem, bad_request, no_room, too_large
from twisted_gateway.intake import Bounds, Budget, Request
from twisted_gateway.wire.framing import Malformed
from twisted_gateway.wire.requests import RequestHead, RequestReader, TooLarge

if TYPE_CHECKING:
    from twisted_gateway.lane import Lane

_DRAIN_BYTES = 32 * 1024 * 1024
_DRAIN_SECONDS = 5.0
_SMALL_BODY = 65_536
_RATE_WINDOW = 20
_SWEEP = 1.0
_SWEPT = 256
"""Connections that are looked at in one turn."""
_READ_AHEAD = 16_384
_IDLE_LINGER = 15.0


def header_too_large() -> Problem:
    """The 431 for a request line and headers over the limit."""
    return Problem(
        status=431, type="invalid_request_error", message="request header fields are too large", kind="header_too_large"
    )


def too_slow(what: str) -> Problem:
    """The 408 for a request that comes in too slowly."""
    return Problem(status=408, type="timeout", message=f"the request's {what} came too slowly", kind="request_timeout")


@implementer(IProtocol, ITransport, IPushProducer, IConsumer)
class Channel:
    """One caller's connection: its requests one after the other, and the answers to them.

    What cannot be read in one way only, is too large or comes too slowly is refused, in words the caller can read.
    """

    __slots__ = (
        "_answering", "_going_on", "_idle", "_incoming", "_linger", "_producer", "_reader",
        "_waiting", "began", "drained", "factory", "lane", "peer", "peer_host", "persistent", "refusing", "samples",
        "site", "taken", "taken_at", "transport", "written",
    )  # fmt: skip

    transport: Any

    def __init__(self, site: Site) -> None:
        self.site = self.factory = site
        self.persistent = True
        self.lane: Lane | None = None
        self.refusing = False
        self.written = self.taken = self.drained = 0
        self.taken_at = self.began = 0.0
        self.samples: deque[int] | None = None
        self._reader = RequestReader(site.bounds.max_header_bytes)
        self._incoming: Request | None = None
        self._answering: Request | None = None
        self._going_on = False
        self._producer: Any = None
        self._waiting = False
        self._linger: Any = None
        self._idle: Alarm | None = None

    def makeConnection(self, transport: Any) -> None:
        """A caller has connected."""
        self.transport = transport
        self.peer = transport.getPeer()
        self.peer_host = getattr(self.peer, "host", "") or ""
        site = self.site
        self.taken_at = site.clock.seconds()
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)
        if site.bounds.idle_timeout_secs:
            self._idle = Alarm(site.clock, self._too_idle)
            self._idle.set(site.bounds.idle_timeout_secs)
        site.connected(self)

    def connectionMade(self) -> None:
        """See `makeConnection`."""

    def connectionLost(self, reason: Failure) -> None:
        """The connection is closed."""
        self.site.disconnected(self)
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        if self._idle is not None:
            self._idle.stop()
        for request in (self._answering, self._incoming):
            if request is not None:
                request.connectionLost(reason)
        self._answering = self._incoming = self._producer = None

    # Reading

    def dataReceived(self, data: bytes) -> None:
        """One read of the caller's socket."""
        if self.refusing:
            self.drained += len(data)
            if self.drained > _DRAIN_BYTES:
                self.transport.abortConnection()
            return
        reader = self._reader
        if not self.persistent and self._incoming is None:
            return  # behind the last request of a connection nothing is read
        reader.feed(data)
        if self._answering is not None:
            if len(reader.rest) > _READ_AHEAD:
                self.transport.abortConnection()  # reading would pause, and this caller's leaving go unseen
            return
        if self._idle is not None:
            self._idle.set(self.site.bounds.idle_timeout_secs)
        self._go_on()

    def _go_on(self) -> None:
        """Read requests as far as they are there; each waits for the answer to the one before."""
        self._going_on = True
        try:
            # answers that the caller does not take are no reason to make more of them
            while self._answering is None and not (self.refusing or self._waiting) and self._read():
                pass
        except Malformed as error:
            self.refuse(header_too_large() if isinstance(error, TooLarge) else bad_request(str(error)))
        finally:
            self._going_on = False
        ready = self._answering is None and not (self.refusing or self._waiting)
        receiving = ready and self._reader.begun
        self.site.note_receiving(self, receiving)

    def _read(self) -> bool:
        """One step; False when there is nothing more to read."""
        reader, request = self._reader, self._incoming
        if request is None:
            if not self.persistent or not reader.rest:
                return False
            head = reader.head()
            if head is None:
                return False
            request = self._incoming = Request(self, head)
            problem = self._judged(request, head)
            if problem is not None:
                self.refuse(problem)
                return False
        if reader.rest and not reader.finished:
            data = reader.body()
            problem = request.take(data) if data else None
            if problem is not None:
                self.refuse(problem)
                return False
        if not reader.finished:
            return False
        self._incoming, self._answering = None, request
        if self._idle is not None:
            self._idle.off()
        request.whole()
        return True

    def _judged(self, request: Request, head: RequestHead) -> Problem | None:
        """What can be refused without the body is refused here; else the caller may send it."""
        self.samples = None
        length = head.length
        limit = self.site.bounds.request_body_limit_bytes
        problem = None
        if length and limit and length > limit:
            problem = too_large(limit)
        elif length and not self.site.budget.has_room(length):
            problem = no_room()
        elif length is None or length > _SMALL_BODY:
            problem = self.site.early(request, request.path)
        if problem is not None:
            return problem
        self.persistent = bool(head.minor)
        for name, value in head.headers:
            if name == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]:
                self.persistent = False
            elif name == b"expect" and length != 0 and head.minor and value.lower() == b"100-continue":
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def answered(self) -> None:
        """The answer is whole: on with the next request, or the end."""
        self._answering = self._producer = None
        if not self.persistent:
            self.loseConnection()
            return
        if self._waiting:
            self.transport.pauseProducing()
        if self._idle is not None:
            self._idle.set(self.site.bounds.idle_timeout_secs)
        if self._reader.rest and not self._going_on:
            self._go_on()

    @property
    def in_headers(self) -> bool:
        """Whether a head is still coming in."""
        return self._incoming is None

    @property
    def body_bytes(self) -> int:
        """Bytes of the body that have come in."""
        return self._incoming.size if self._incoming is not None else 0

    # Refusing without a handler

    def refuse(self, problem: Problem) -> None:
        """Answer `problem` at once and end the connection, leaving a writing caller time to read the answer."""
        if self.refusing:
            return
        self.refusing = True
        self.site.note_receiving(self, False)
        if self._idle is not None:
            self._idle.off()
        request, self._incoming = self._incoming, None
        if request is not None:
            request.drop()
        head = self._reader.glimpse() if request is None else request.head
        self.write(self.site.refusal(problem, head))
        self._linger = self.site.clock.callLater(_DRAIN_SECONDS, self._end)

    def _end(self) -> None:
        self._linger = self.site.clock.callLater(_DRAIN_SECONDS, self.transport.abortConnection)
        self.loseConnection()

    def _too_idle(self) -> None:
        self._linger = self.site.clock.callLater(_IDLE_LINGER, self.transport.abortConnection)
        self.loseConnection()

    # The transport of requests

    def getPeer(self) -> Any:
        """The caller's address."""
        return self.peer

    def getHost(self) -> Any:
        """Our own."""
        return self.transport.getHost()

    def isSecure(self) -> bool:
        """Whether the caller speaks TLS."""
        return bool(ISSLTransport.providedBy(self.transport))

    def loseConnection(self) -> None:
        """Close, once everything is sent."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    stopProducing = loseConnection

    def abortConnection(self) -> None:
        """Close at once."""
        self.transport.abortConnection()

    # Writing, counted

    def write(self, data: bytes) -> None:
        """Bytes to the caller."""
        self.written += len(data)
        self.transport.write(data)

    def writeSequence(self, data: Any) -> None:
        """Bytes to the caller."""
        self.write(b"".join(data))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Whoever writes behind an answer that the caller has not taken yet waits from the beginning."""
        assert streaming, "nobody here is asked for each piece"
        self._producer = producer
        if self._waiting:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """Nobody writes more than once."""
        self._producer = None

    def pauseProducing(self) -> None:
        """The caller's socket is full: whoever writes waits, and so do the caller's next requests."""
        self._waiting = True
        if self._producer is not None:
            self._producer.pauseProducing()
        if self._answering is None:
            self.transport.pauseProducing()
            self.site.note_receiving(self, False)  # what does not come now is not the caller's slowness

    def resumeProducing(self) -> None:
        """The caller has taken what was written."""
        self._waiting = False
        if self._producer is not None:
            self._producer.resumeProducing()
        self.transport.resumeProducing()  # a `100 Continue` may have paused it before there was anything to answer
        if self._answering is None and not (self._going_on or self.refusing):
            self._go_on()

    def unsent(self) -> int:
        """Bytes written that the caller's kernel has not taken."""
        transport = self.transport
        raw = transport if hasattr(transport, "dataBuffer") else getattr(transport, "transport", None)
        if raw is None or not hasattr(raw, "dataBuffer"):
            return 0
        return int(len(raw.dataBuffer) - raw.offset + raw._tempDataLen)


class Site(server.Site):
    """All connections of one listener.

    `refusal` makes the bytes of an answer given without a handler; `date` gives the `Date` header. `early` is asked
    about requests with a large body, or one of unknown length, before any of it is read.
    """

    draining = False
    noisy = False

    def __init__(
        self,
        resource: IResource,
        clock: IReactorTime,
        bounds: Bounds,
        refusal: Callable[[Problem, RequestHead], bytes],
        stalled: Callable[[], None] = lambda: None,
        early: Callable[[Request, bytes], Problem | None] = lambda request, path: None,
    ) -> None:
        super().__init__(resource, Request, timeout=None, reactor=clock, parsePOSTFormSubmission=False)
        self.clock = clock
        self.bounds = bounds
        self.budget = Budget(bounds.body_budget_bytes)
        self.refusal = refusal
        self.early = early
        self.channels: set[Channel] = set()
        self.turned_away = 0
        self._stalled = stalled
        self._receiving: set[Channel] = set()
        self._receiving_call: Any = None
        self._stall_call: Any = None
        self._unswept: list[Channel] = []
        self._date = (0, b"")

    def buildProtocol(self, addr: Any) -> Channel | None:  # type: ignore[override]
        """A channel for a new connection; None when there are too many."""
        most = self.bounds.max_connections
        if most and len(self.channels) >= most:
            self.turned_away += 1
            return None
        return Channel(self)

    def startFactory(self) -> None:
        """No log file of twisted.web's."""

    def stopFactory(self) -> None:
        """The listener is closed: its timers with it, once the last connection is."""

    def log(self, request: Any) -> None:
        """The access log is accounting's."""

    def date(self) -> bytes:
        """The `Date` header, made once a second."""
        now = int(self.clock.seconds())
        if self._date[0] != now or not self._date[1]:
            self._date = (now, datetimeToString())
        return self._date[1]

    def connected(self, channel: Channel) -> None:
        """A connection is up."""
        self.channels.add(channel)
        stall = self.bounds.send_stall_timeout_secs
        if stall and self._stall_call is None:
            self._stall_call = self.clock.callLater(min(stall / 4, 15.0), self._sweep_stalled)

    def disconnected(self, channel: Channel) -> None:
        """A connection is closed."""
        self.channels.discard(channel)
        self._receiving.discard(channel)
        if not self.channels:
            _cancel(self._stall_call)
            _cancel(self._receiving_call)
            self._stall_call = self._receiving_call = None
            self._unswept = []

    def note_receiving(self, channel: Channel, receiving: bool) -> None:
        """Whether a request is half in on a connection: only those are watched."""
        if receiving:
            if channel not in self._receiving:
                channel.began = self.clock.seconds()
                channel.samples = None
                self._receiving.add(channel)
            if self._receiving_call is None:
                self._receiving_call = self.clock.callLater(_SWEEP, self._sweep_receiving)
        elif self._receiving:
            self._receiving.discard(channel)

    def _sweep_receiving(self) -> None:
        self._receiving_call = None
        now = self.clock.seconds()
        bounds = self.bounds
        for channel in tuple(self._receiving):
            if channel.in_headers:
                if bounds.header_timeout_secs and now - channel.began >= bounds.header_timeout_secs:
                    channel.refuse(too_slow("head"))
            elif bounds.body_min_rate_bytes:
                samples = channel.samples
                if samples is None:
                    samples = channel.samples = deque(maxlen=_RATE_WINDOW + 1)
                samples.append(channel.body_bytes)
                if len(samples) > _RATE_WINDOW and samples[-1] - samples[0] < bounds.body_min_rate_bytes * _RATE_WINDOW:
                    channel.refuse(too_slow("body"))
        if self._receiving:
            self._receiving_call = self.clock.callLater(_SWEEP, self._sweep_receiving)

    def _sweep_stalled(self) -> None:
        """Callers who have taken nothing of what is pending for so long have left (`streaming.md` section 9)."""
        stall, now = self.bounds.send_stall_timeout_secs, self.clock.seconds()
        unswept = self._unswept or [*self.channels]
        some, self._unswept = unswept[-_SWEPT:], unswept[:-_SWEPT]
        self._stall_call = self.clock.callLater(0 if self._unswept else min(stall / 4, 15.0), self._sweep_stalled)
        for channel in some:
            unsent, lane = channel.unsent(), channel.lane
            taken = channel.written - unsent + (0 if lane is None else lane.written)
            if not unsent or taken > channel.taken:
                channel.taken = taken
                channel.taken_at = now
            elif now - channel.taken_at >= stall and channel in self.channels:
                self._stalled()
                channel.transport.abortConnection()


def _cancel(call: Any) -> None:
    if call is not None and call.active():
        call.cancel()
