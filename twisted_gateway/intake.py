"""A caller's request as it comes in: its body is bounded, counted over all calls, and kept as bytes."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.python.failure import Failure
from twisted.web import http, server

from twisted_gateway.errors import no_room, too_large

_write, _finish, _lost = http.Request.write, http.Request.finish, http.Request.connectionLost


@attrs.frozen(kw_only=True)
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


@attrs.define
class Budget:
    """Bytes of request bodies in memory, over all calls."""

    limit: int
    used: int = 0

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes would fit."""
        return not self.limit or self.used + size <= self.limit

    def take(self, size: int) -> bool:
        """Reserve `size` bytes; False when there is no room."""
        if not self.has_room(size):
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        """Free them."""
        self.used -= size


class Request(server.Request):
    """A request whose body is bounded and kept as bytes; nothing is parsed that nobody asked for."""

    defaultContentType = None
    body = b""
    channel: Any

    def __init__(self, channel: Any, *args: Any, **kw: Any) -> None:
        super().__init__(channel, *args, **kw)
        self._data = bytearray()
        self._size = 0
        self._reserved = 0

    def gotLength(self, length: int | None) -> None:
        """The headers are in, the body is not."""
        self.content = None

    def reserve(self, size: int) -> bool:
        """Take room for `size` bytes of body that have come."""
        if not self.channel.site.budget.take(size):
            return False
        self._reserved += size
        return True

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body."""
        channel = self.channel
        if channel.refusing:
            return
        self._size += len(data)
        limit = channel.site.bounds.request_body_limit_bytes
        if limit and self._size > limit:
            channel.refuse(too_large(limit))
        elif not self.reserve(len(data)):
            channel.refuse(no_room())
        else:
            self._data += data

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The request is whole: render it."""
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.args = {}
        self.body = bytes(self._data)
        self._data.clear()
        self.process()

    def process(self) -> None:
        """Hand the request to the one resource there is."""
        self.site = self.channel.site
        self.prepath = []
        self.postpath = self.path[1:].split(b"/")
        try:
            self.site.resource.render(self)
        except BaseException:
            self.processingFailed(Failure())

    def write(self, data: bytes) -> None:
        """Write to the caller; the head goes first."""
        if self.startedWriting and self.chunked and data and not self.finished and not self._disconnected:
            self.sentLength += len(data)
            self.channel.write(b"%x\r\n%b\r\n" % (len(data), data))
            return
        if self.startedWriting or self._disconnected:
            _write(self, data)
            return
        self.startedWriting = 1
        head = self._head()
        self.sentLength += len(data)
        if self.method == b"HEAD" or self.code in http.NO_BODY_CODES:
            self.write = lambda data: None  # type: ignore[method-assign]
            data = b""
        elif self.chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.channel.write(head + data)

    def _head(self) -> bytes:
        """Status line and headers; decides whether the body is chunked."""
        channel = self.channel
        lines = [b"%b %d %b" % (self.clientproto, self.code, self.code_message), b"Date: " + channel.site.date()]
        if channel.site.draining:
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
            channel.persistent = False
        counted = False
        for name, values in self.responseHeaders.getAllRawHeaders():
            counted = counted or name == b"Content-Length"
            lines += [name + b": " + value for value in values]
        bodiless = self.method == b"HEAD" or self.code in http.NO_BODY_CODES
        if not counted and not bodiless and self.clientproto == b"HTTP/1.1":
            lines.append(b"Transfer-Encoding: chunked")
            self.chunked = 1
        return b"\r\n".join((*lines, b"", b""))

    def finish(self) -> None:
        """The answer is whole."""
        self._release()
        _finish(self)

    def connectionLost(self, reason: Failure) -> None:
        """The caller has left."""
        self.drop()
        _lost(self, reason)

    def drop(self) -> None:
        """Nobody wants what has come of the body."""
        self._data.clear()
        self._release()

    def _release(self) -> None:
        reserved, self._reserved = self._reserved, 0
        if reserved:
            self.channel.site.budget.give_back(reserved)
