"""The caller's side of HTTP/1.1: strict parsing, bounds and deadlines on top of twisted.web (`DESIGN.md` section 7).

`Site` keeps all connections in view with two lazy timers: one for requests that are still coming in, one for callers
who do not take what is written to them. Nothing here knows what a request is about.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.resource import IResource

from twisted_gateway.errors import Problem, bad_request, no_room, too_large
from twisted_gateway.intake import Bounds, Budget, Request

_DRAIN_BYTES = 32 * 1024 * 1024
_DRAIN_SECONDS = 5.0
_SMALL_BODY = 65_536
_RATE_WINDOW = 20
_SWEEP = 1.0
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?")
_TARGET = re.compile(rb"/[\x21-\x7e]*|\*")


def header_too_large() -> Problem:
    """The 431 for a request line and headers over the limit."""
    return Problem(
        status=431, type="invalid_request_error", message="request header fields are too large", kind="header_too_large"
    )


def too_slow(what: str) -> Problem:
    """The 408 for a request that comes in too slowly."""
    return Problem(status=408, type="timeout", message=f"the request's {what} came too slowly", kind="request_timeout")


class Channel(http.HTTPChannel):
    """One caller's connection. What twisted.web takes too easily is refused, in words the caller can read."""

    requestFactory: Any = Request
    site: Site
    transport: Any
    timeOut: Any
    callLater: Any
    refusing = False

    _headers_done = False
    _drained = 0
    _linger: Any = None
    _refused_by: Problem | None = None

    def connectionMade(self) -> None:
        """A caller has connected."""
        bounds = self.site.bounds
        self.totalHeadersSize = self.MAX_LENGTH = bounds.max_header_bytes
        self.written = 0
        self.taken = 0
        self.taken_at = self.site.clock.seconds()
        self.began = 0.0
        self.samples: deque[int] = deque(maxlen=_RATE_WINDOW + 1)
        super().connectionMade()
        self.site.connected(self)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The connection is closed."""
        self.site.disconnected(self)
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        super().connectionLost(reason)

    # Reading

    def dataReceived(self, data: bytes) -> None:
        """One read of the caller's socket."""
        if self.refusing:
            self._drained += len(data)
            if self._drained > _DRAIN_BYTES:
                self.transport.abortConnection()
            return
        self.resetTimeout()
        LineReceiver.dataReceived(self, data)
        receiving = not self._handlingRequest and not self.refusing and bool(self.requests or self._buffer)
        self.site.note_receiving(self, receiving)

    def lineReceived(self, line: bytes) -> None:
        """One line of a head."""
        if self.refusing:
            return
        if self._receivedHeaderSize + len(line) > self.totalHeadersSize:
            self.refuse(header_too_large())
        elif line[:1] in (b" ", b"\t"):
            self.refuse(bad_request("a folded header line"))
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line longer than all headers may be together."""
        self.refuse(header_too_large())

    def rawDataReceived(self, data: bytes) -> None:
        """Body bytes, or the next request while one is being answered."""
        if self.refusing:
            return
        super().rawDataReceived(data)
        if self._handlingRequest and sum(map(len, self._dataBuffer)) > self._optimisticEagerReadSize:
            self.transport.abortConnection()  # reading would pause, and this caller's leaving go unseen

    def headerReceived(self, line: bytes) -> bool:
        """One whole header."""
        lower = line[:18].lower()
        headers = self.requests[-1].requestHeaders
        if lower.startswith(b"content-length:") and headers.hasHeader(b"content-length"):
            self.refuse(bad_request("conflicting Content-Length headers"))
            return False
        if lower.startswith(b"transfer-encoding:") and self._version != b"HTTP/1.1":
            self.refuse(bad_request("Transfer-Encoding needs HTTP/1.1"))
            return False
        return not self.refusing and super().headerReceived(line)

    def allHeadersReceived(self) -> None:
        """The head is in: everything that can be refused without the body is refused here."""
        if self.refusing:
            return
        request = self.requests[-1]
        problem = self._head_problem(request) or self._length_problem(request) or self._early_problem(request)
        if problem is not None:
            self.refuse(problem)
            return
        self._headers_done = True
        self.samples.clear()
        self.persistent = self.checkPersistence(request, self._version)
        request.gotLength(self.length)
        wanted = self.length != 0 and self._version == b"HTTP/1.1"
        if wanted and (request.getHeader(b"expect") or b"").lower() == b"100-continue":
            self._send100Continue()

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether another request may follow on this connection."""
        tokens = b",".join(request.requestHeaders.getRawHeaders(b"connection") or []).lower().split(b",")
        if b"close" in (token.strip() for token in tokens):
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            return False
        return bool(version == b"HTTP/1.1")

    def _head_problem(self, request: Request) -> Problem | None:
        headers = request.requestHeaders
        hosts = headers.getRawHeaders(b"host") or []
        if self._version not in (b"HTTP/1.1", b"HTTP/1.0"):
            return bad_request("HTTP version")
        if len(hosts) > 1 or (self._version == b"HTTP/1.1" and not hosts):
            return bad_request("exactly one Host header is needed")
        if hosts and hosts[0] and _HOST.fullmatch(hosts[0]) is None:
            return bad_request("Host header")
        if _TARGET.fullmatch(self._path) is None:
            return bad_request("request target must be a path")
        codings = headers.getRawHeaders(b"transfer-encoding") or []
        if codings and (len(codings) > 1 or codings[0].lower() != b"chunked"):
            return bad_request("Transfer-Encoding")
        return None

    def _early_problem(self, request: Request) -> Problem | None:
        if self.length is not None and self.length <= _SMALL_BODY:
            return None
        return self.site.early(request, self._path.partition(b"?")[0])

    def _length_problem(self, request: Request) -> Problem | None:
        length = self.length
        limit = self.site.bounds.request_body_limit_bytes
        if length and limit and length > limit:
            return too_large(limit)
        if length and not self.site.budget.has_room(length):  # room is taken by what comes, not by what is promised
            return no_room()
        return None

    def allContentReceived(self) -> None:
        """The body is in."""
        self._headers_done = False
        if not self.refusing:
            super().allContentReceived()

    @property
    def in_headers(self) -> bool:
        """Whether a head is still coming in."""
        return not self._headers_done

    @property
    def body_bytes(self) -> int:
        """Bytes of the body that have come in."""
        return self.requests[-1]._size if self.requests else 0

    # Refusing without a handler

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(bad_request("malformed HTTP request"))

    def refuse(self, problem: Problem) -> None:
        """Answer `problem` at once and end the connection, leaving a writing caller time to read the answer."""
        if self.refusing:
            return
        self.refusing = True
        self.site.note_receiving(self, False)
        self.setTimeout(None)
        request = self.requests[-1] if self.requests else None
        if request is not None:
            request.drop()
        path = getattr(self, "_path", b"/").partition(b"?")[0]
        self.write(self.site.refusal(problem, getattr(self, "_command", b""), path, request))
        self._linger = self.site.clock.callLater(_DRAIN_SECONDS, self._end)

    def _end(self) -> None:
        self._linger = self.site.clock.callLater(_DRAIN_SECONDS, self.transport.abortConnection)
        self.loseConnection()

    # Writing, counted

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Whoever writes behind an answer that the caller has not taken yet waits from the beginning."""
        super().registerProducer(producer, streaming)
        if self._waitingForTransport:
            producer.pauseProducing()

    def write(self, data: bytes) -> None:
        """Bytes to the caller."""
        self.written += len(data)
        self.transport.write(data)

    def writeSequence(self, iovec: Any) -> None:
        """Bytes to the caller."""
        self.write(b"".join(iovec))

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
        refusal: Callable[[Problem, bytes, bytes, Request | None], bytes],
        stalled: Callable[[], None] = lambda: None,
        early: Callable[[Request, bytes], Problem | None] = lambda request, path: None,
    ) -> None:
        super().__init__(
            resource, Request, timeout=bounds.idle_timeout_secs or None, reactor=clock, parsePOSTFormSubmission=False
        )
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
        self._date = (0, b"")

    def buildProtocol(self, addr: Any) -> Channel | None:  # type: ignore[override]
        """A channel for a new connection; None when there are too many."""
        most = self.bounds.max_connections
        if most and len(self.channels) >= most:
            self.turned_away += 1
            return None
        channel = Channel()
        channel.factory = channel.site = self
        channel.requestFactory = self.requestFactory
        channel.callLater = self.clock.callLater
        channel.timeOut = self.timeOut
        return channel

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
            self._date = (now, http.datetimeToString())
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

    def note_receiving(self, channel: Channel, receiving: bool) -> None:
        """Whether a request is half in on a connection: only those are watched."""
        if receiving:
            if channel not in self._receiving:
                channel.began = self.clock.seconds()
                channel.samples.clear()
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
                samples.append(channel.body_bytes)
                if len(samples) > _RATE_WINDOW and samples[-1] - samples[0] < bounds.body_min_rate_bytes * _RATE_WINDOW:
                    channel.refuse(too_slow("body"))
        if self._receiving:
            self._receiving_call = self.clock.callLater(_SWEEP, self._sweep_receiving)

    def _sweep_stalled(self) -> None:
        """Callers who have taken nothing of what is pending for so long have left (`streaming.md` section 9)."""
        stall = self.bounds.send_stall_timeout_secs
        self._stall_call = self.clock.callLater(min(stall / 4, 15.0), self._sweep_stalled)
        now = self.clock.seconds()
        for channel in tuple(self.channels):
            unsent = channel.unsent()
            taken = channel.written - unsent
            if not unsent or taken > channel.taken:
                channel.taken = taken
                channel.taken_at = now
            elif now - channel.taken_at >= stall:
                self._stalled()
                channel.transport.abortConnection()


def _cancel(call: Any) -> None:
    if call is not None and call.active():
        call.cancel()
