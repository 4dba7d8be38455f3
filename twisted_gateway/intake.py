"""A caller's request as it comes in: its body is bounded, counted over all calls, and kept as bytes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property
from http import HTTPStatus
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import NO_BODY_CODES
from twisted.web.http_headers import Headers

from twisted_gateway.errors import Problem, no_room, too_large
from twisted_gateway.facts import define, frozen
from twisted_gateway.wire.requests import RequestHead

_PHRASES = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}


def status_of(code: int) -> bytes:
    """A status as an answer's first line says it; providers' own ones are passed on too."""
    return b"%d %b" % (code, _PHRASES.get(code, b"Unknown Status"))


@frozen(kw_only=True)
class Bounds:
    """Limits of the caller's side (`extensions.md` 1): bytes and seconds, 0 = none."""

    request_body_limit_bytes: int = 64 * 2**20
    body_budget_bytes: int = 256 * 2**20
    max_header_bytes: int = 65536
    header_timeout_secs: float = 20.0
    body_min_rate_bytes: int = 512
    send_stall_timeout_secs: float = 300.0
    idle_timeout_secs: float = 0.0
    max_connections: int = 0


@define
class Budget:
    """Bytes of request bodies in memory, over all calls."""

    limit: int
    used: int = 0

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes would fit: room is taken by what comes, not by what is promised."""
        return not self.limit or self.used + size <= self.limit

    def take(self, size: int) -> bool:
        """Reserve `size` bytes; False when there is no room."""
        if self.limit and self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        """Free them."""
        self.used -= size


class Request(server.Request):
    """A request whose body is bounded and kept as bytes; nothing is parsed, and nothing made, that nobody asked for.

    It is twisted.web's to whoever wants that (klein does), with its `Headers` made on demand. The trunk's answers go
    out by `begin`, as lines.
    """

    defaultContentType = None
    channel: Any
    site: Any
    body = b""
    aisix_id = ""
    caller_headers: Any = None
    received_cookies: Any = {}
    cookies: Any = ()
    notifications: Any = ()
    queued = False
    host: Any = property(lambda self: self.channel.getHost())
    transport: Any = property(lambda self: self.channel.transport)
    _reserved = 0
    _counted = False
    """`Content-Length` is among the lines."""
    _bodiless = False
    """There is a head only; known when it is written."""

    def __init__(self, channel: Any, head: RequestHead) -> None:
        self.channel = channel
        self.site = channel.site
        self.head = head
        self.method, self.uri = head.method, head.target
        self.path = head.target.partition(b"?")[0]
        self.clientproto = b"HTTP/1.1" if head.minor else b"HTTP/1.0"
        self.client, self.client_host = channel.peer, channel.peer_host
        self.lines: list[bytes] = []
        """Lines of the answer's head, beside `responseHeaders`; one piece may be several."""
        self._leaving: list[Callable[[Failure], object]] = []
        self._data: bytes | bytearray = b""

    # What twisted.web's has made from the beginning

    @cached_property
    def requestHeaders(self) -> Headers:  # type: ignore[override]
        """The caller's headers, as twisted.web has them."""
        made = Headers()
        for name, value in self.head.headers:
            made.addRawHeader(name, value)
        return made

    @cached_property
    def responseHeaders(self) -> Headers:  # type: ignore[override]
        """Headers of the answer; `lines` cost less."""
        return Headers()

    @cached_property
    def args(self) -> Any:  # type: ignore[override]
        """Nothing is parsed."""
        return {}

    @cached_property
    def _adapterCache(self) -> Any:  # type: ignore[override]
        return {}

    # The body comes in

    @property
    def size(self) -> int:
        """Bytes of the body so far."""
        return self._reserved

    def take(self, data: bytes) -> Problem | None:
        """A piece of the body; what is wrong when it is more than there may be."""
        site = self.site
        size = len(data)
        limit = site.bounds.request_body_limit_bytes
        if limit and self._reserved + size > limit:
            return too_large(limit)
        if not site.budget.take(size):
            return no_room()
        self._reserved += size
        if not self._data:
            self._data = data
        elif isinstance(self._data, bytearray):
            self._data += data
        else:
            self._data = bytearray(self._data) + data
        return None

    def whole(self) -> None:
        """The request is whole: hand it to the one resource there is."""
        self.body = bytes(self._data)
        self._data = b""
        try:
            self.site.resource.render(self)
        except BaseException:
            self.processingFailed(Failure())

    # The answer goes out

    def put(self, headers: Collection[tuple[bytes, bytes]]) -> None:
        """Headers of the answer. What would break a line is made a blank."""
        lines = self.lines
        values = b"".join([value for _, value in headers])
        if b"\n" in values or b"\r" in values:  # one look at all of them: each costs as much as a call
            headers = [(name, _in_one_line(value)) for name, value in headers]
        for name, value in headers:
            if name == b"Content-Length":
                self._counted = True
            lines.append(name + b": " + value)

    def notifyFinish(self) -> Deferred[None]:
        """See `IRequest`."""
        told: Deferred[None] = Deferred()
        self.notifications = [*self.notifications, told]
        return told

    def when_left(self, tell: Callable[[Failure], object]) -> None:
        """Call that if the caller leaves before the answer is whole: what `notifyFinish` tells, without a Deferred."""
        self._leaving.append(tell)

    def write(self, data: bytes) -> None:
        """Write to the caller; the head goes first."""
        if self._disconnected:
            return
        if self.finished:
            raise RuntimeError("the answer is whole already")
        if not self.startedWriting:
            self._begin(data)
        elif self.chunked:
            if data:
                self.channel.write(b"%x\r\n%b\r\n" % (len(data), data))
        elif data and not self._bodiless:
            self.channel.write(data)

    @property
    def way(self) -> Any:
        """The connection, where the answer's body goes out in chunks that may be written there; else None."""
        open = self.chunked and self.startedWriting and not (self.finished or self._disconnected)
        return self.channel if open else None

    def _begin(self, data: bytes) -> None:
        self.startedWriting = 1
        self._bodiless = self.method == b"HEAD" or self.code in NO_BODY_CODES
        head = self._head()
        if self._bodiless:
            data = b""
        elif self.chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.channel.write(head + data)

    def _head(self) -> bytes:
        """Status line and headers; decides whether the body is chunked."""
        channel, lines = self.channel, self.lines
        if self.code == 200:
            first = self.clientproto + b" 200 OK\r\nDate: " + self.site.date()
        else:
            first = b"%b %b\r\nDate: %b" % (self.clientproto, status_of(self.code), self.site.date())
        counted = self._counted
        self.lines = []
        made = self.__dict__.get("responseHeaders")
        if made is not None:
            for name, values in made.getAllRawHeaders():
                counted = counted or name == b"Content-Length"
                lines += [name + b": " + value for value in values]
        if self.site.draining:
            channel.persistent = False
        if not channel.persistent and self.head.minor:
            lines.append(b"Connection: close")
        if not counted and self.head.minor and not self._bodiless:
            lines.append(b"Transfer-Encoding: chunked")
            self.chunked = 1
        return b"\r\n".join((first, *lines, b"", b""))

    def finish(self) -> None:
        """The answer is whole."""
        if self._disconnected or self.finished:
            raise RuntimeError("the answer is over already")
        if not self.startedWriting:
            self._begin(b"")
        if self.chunked:
            self.channel.write(b"0\r\n\r\n")
        self.finished = 1
        self._release()
        self._leaving.clear()
        self.channel.answered()
        told, self.notifications = self.notifications, ()
        for one in told:
            one.callback(None)

    def connectionLost(self, reason: Failure) -> None:
        """The caller has left."""
        self.drop()
        self._disconnected = True
        self.producer = None
        leaving, self._leaving = self._leaving, []
        for tell in leaving:
            tell(reason)
        told, self.notifications = self.notifications, ()
        for one in told:
            one.errback(reason)

    def drop(self) -> None:
        """Nobody wants what has come of the body."""
        self._data = b""
        self._release()

    def let_go(self) -> None:
        """Nobody needs the body any more, though its answer goes on."""
        self.body = b""
        self._release()

    def flush(self) -> None:
        """Somebody waits for what was written last."""
        transport = self.channel.transport
        if hasattr(transport, "flush"):
            transport.flush()

    def _release(self) -> None:
        reserved, self._reserved = self._reserved, 0
        if reserved:
            self.site.budget.give_back(reserved)


def _in_one_line(value: bytes) -> bytes:
    return b" ".join(value.split()) if b"\n" in value or b"\r" in value else value
