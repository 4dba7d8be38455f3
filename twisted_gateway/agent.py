"""An `IAgent` of our own below treq: requests over pooled connections (`DESIGN.md` section 7, item 5)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectingCancelledError, TimeoutError
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from twisted_gateway.connection import Connection, Origin
from twisted_gateway.facts import define
from twisted_gateway.messages import Body, HeaderLines
from twisted_gateway.wire.http1 import Malformed, header_lines, request_line


class Pool:
    """Idle connections per origin: the newest is taken first, the old ones are closed."""

    def __init__(
        self,
        clock: IReactorTime,
        idle_seconds: float,
        most_idle: int | None = None,
        tune: Callable[[Any], None] | None = None,
    ) -> None:
        self._clock = clock
        self._idle_seconds = idle_seconds
        self._most_idle = most_idle
        self._idle: dict[Origin, list[Connection]] = {}
        self._sweep: Any = None
        self.tune = tune or (lambda transport: None)
        self.open: set[Connection] = set()

    def take(self, origin: Origin) -> Connection | None:
        """The connection that was used last, if one is idle."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.alive:
                return connection
        return None

    def keep(self, connection: Connection) -> None:
        """Take back a connection whose response is whole."""
        idle = self._idle.setdefault(connection.origin, [])
        if self._most_idle is not None and len(idle) >= self._most_idle:
            connection.abort()
            return
        connection.idle_since = self._clock.seconds()
        idle.append(connection)
        connection.pause(False)
        if self._sweep is None and self._idle_seconds:
            self._sweep = self._clock.callLater(self._idle_seconds, self._close_old)

    def forget(self, connection: Connection) -> None:
        """The connection is closed."""
        self.open.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle and connection in idle:
            idle.remove(connection)

    def close_idle(self) -> None:
        """Close what is idle, and what becomes so: nobody will ask for it any more."""
        self._most_idle = 0
        for idle in tuple(self._idle.values()):
            for connection in tuple(idle):
                connection.abort()

    def close(self) -> None:
        """Close every connection, idle or busy."""
        if self._sweep is not None and self._sweep.active():
            self._sweep.cancel()
        self._sweep = None
        for connection in tuple(self.open):
            connection.abort()

    @property
    def idle(self) -> int:
        """Number of idle connections."""
        return sum(map(len, self._idle.values()))

    def _close_old(self) -> None:
        self._sweep = None
        now = self._clock.seconds()
        oldest = None
        for origin in list(self._idle):
            for connection in tuple(self._idle[origin]):
                if now - connection.idle_since >= self._idle_seconds - 1e-6:
                    connection.abort()
            if not self._idle[origin]:
                del self._idle[origin]
            else:
                first = self._idle[origin][0].idle_since
                oldest = first if oldest is None else min(oldest, first)
        if oldest is not None:
            self._sweep = self._clock.callLater(oldest + self._idle_seconds - now, self._close_old)


@define
class _Factory(Factory):
    connection: Connection

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return self.connection


@lru_cache(1024)
def _parse(method: bytes, uri: bytes) -> tuple[Origin, bytes]:
    """Origin of a URL, and the first lines of a request for it, `Host` included. Raises `Malformed`."""
    parts = urlsplit(uri.decode("ascii"))
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    shown = f"[{host}]" if ":" in host else host
    if parts.port is not None and parts.port != (443 if parts.scheme == "https" else 80):
        shown = f"{shown}:{port}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = request_line(method, path.encode("ascii")) + header_lines([(b"host", shown.encode("ascii"))])
    return Origin(parts.scheme, host, port), head


def _written(headers: Headers) -> bytes:
    lines = headers.getAllRawHeaders()
    return header_lines([(name, value) for name, values in lines for value in values])


@implementer(IAgent)
class Agent:
    """HTTP/1.1 requests over pooled connections.

    `endpoint(origin)` gives where to connect to, TLS included; `connect_timeout` (seconds, None = none) covers TCP
    and TLS and fails with `twisted.internet.error.TimeoutError`. A request that fails on a *reused* connection before
    a byte of its response came is sent once more, on a fresh one.
    """

    def __init__(
        self,
        clock: IReactorTime,
        pool: Pool,
        endpoint: Callable[[Origin], IStreamClientEndpoint],
        connect_timeout: float | None,
    ) -> None:
        self._clock = clock
        self.pool = pool
        self._endpoint = endpoint
        self._connect_timeout = connect_timeout

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """See `IAgent`. `bodyProducer` is None or a `Body`."""
        body: Any = bodyProducer
        try:
            origin, head = _parse(method, uri)
            if isinstance(headers, HeaderLines):
                head += headers.shared.data + header_lines(headers.lines)
            elif headers is not None:
                head += _written(headers)
        except Malformed:  # nothing is written
            return fail()
        head += b"\r\n\r\n" if body is None else b"\r\ncontent-length: %d\r\n\r\n" % body.length
        fresh = partial(self._fresh, origin, method, head, body)
        connection = self.pool.take(origin)
        return fresh() if connection is None else connection.send(method, head, body, fresh)  # type: ignore[return-value]

    def _fresh(self, origin: Origin, method: bytes, head: bytes, body: Body | None) -> Deferred[Any]:
        return self._connect(origin).addCallback(lambda connection: connection.send(method, head, body))

    def _connect(self, origin: Origin) -> Deferred[Connection]:
        try:
            endpoint = self._endpoint(origin)
        except Exception:  # a host that is no name
            return fail()
        connection = Connection(self.pool, origin, origin.scheme == "https")
        self.pool.open.add(connection)
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            ready.cancel()

        timer = None if self._connect_timeout is None else self._clock.callLater(self._connect_timeout, give_up)
        connecting = endpoint.connect(_Factory(connection))

        def done(result: Any) -> Any:
            if timer is not None and timer.active():
                timer.cancel()
            if isinstance(result, Failure):
                self.pool.forget(connection)
                if late:
                    return Failure(TimeoutError("connecting took too long"))
                if result.check(ConnectingCancelledError):
                    return Failure(CancelledError())
            return result

        ready: Deferred[Connection] = connecting.addCallback(lambda _: connection.when_up())
        return ready.addBoth(done)
