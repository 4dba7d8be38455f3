"""Caller connections in memory: a front, a site on a clock, and what is said over one connection."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import h11
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from twisted_gateway.addresses import Address
from twisted_gateway.config.settings import Proxy
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.errors import Refused
from twisted_gateway.front import Condition, Front
from twisted_gateway.intake import Bounds
from twisted_gateway.listener import Site
from twisted_gateway.policies.access import identify

from .exchanges import model, snapshot

NOW = 1_760_000_000.0


def front(
    serve: Callable[..., Awaitable[None]] | None = None,
    known: Snapshot | None = None,
    clock: IReactorTime | None = None,
    condition: Condition | None = None,
    **proxy: Any,
) -> Front:
    """A front with numbered request ids; `serve` answers the endpoints, by default with their exchange's id."""
    ids = iter(range(1, 1000))
    resources = known or snapshot(model())
    return Front(
        serve=serve or _echo,
        snapshot=lambda: resources,
        identify=lambda headers, found: identify(headers, found, NOW),
        proxy=Proxy(addr=Address("127.0.0.1", 0), **proxy),
        condition=condition or Condition(),
        clock=clock or Clock(),
        now=lambda: NOW,
        new_id=lambda: f"id-{next(ids)}",
    )


async def _echo(exchange: Any, request: Any) -> None:
    facts = {"id": exchange.id, "path": exchange.path, "peer": exchange.peer, "body": exchange.body.decode("latin-1")}
    request.responseHeaders.setRawHeaders(b"content-type", [b"application/json"])
    request.write(json.dumps(facts).encode())
    request.finish()


class Wire(StringTransport):
    """The caller's side of a connection."""

    def __init__(self, host: str = "192.0.2.7") -> None:
        super().__init__(peerAddress=IPv4Address("TCP", host, 4000))
        self.aborting = False

    def abortConnection(self) -> None:
        """The gateway closes at once."""
        self.aborting = True

    @property
    def open(self) -> bool:
        """Neither closed nor to be closed."""
        return not (self.aborting or self.disconnecting)


@attrs.define
class Said:
    """One answer, read by h11."""

    status: int
    headers: dict[str, str]
    body: bytes
    version: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class Talk:
    """One connection to a site, in memory."""

    def __init__(self, site: Site, host: str = "192.0.2.7") -> None:
        self.site = site
        self.wire = Wire(host)
        self.channel = site.buildProtocol(None)
        if self.channel is not None:
            self.channel.makeConnection(self.wire)

    def send(self, *pieces: bytes) -> Talk:
        """What the caller sends, a read for each piece; nothing after the connection is closed."""
        for piece in pieces:
            if self.wire.aborting:
                break
            self.channel.dataReceived(piece)
        return self

    def leave(self) -> None:
        """The connection is closed."""
        self.channel.connectionLost(Failure(ConnectionDone()))

    @property
    def raw(self) -> bytes:
        """All bytes written so far."""
        return self.wire.value()

    def answers(self, method: str = "POST") -> list[Said]:
        """The final answers so far, as h11 reads them; a broken one fails the test."""
        data, found = self.raw, []
        while data:
            connection = h11.Connection(h11.CLIENT)
            connection.send(h11.Request(method=method, target="/", headers=[("host", "x"), ("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            connection.receive_data(data)
            if not self.wire.open:
                connection.receive_data(b"")
            head: Any = None
            body = b""
            while True:
                event = connection.next_event()
                if isinstance(event, h11.Response):
                    head = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif not isinstance(event, h11.InformationalResponse):
                    break
            assert isinstance(event, h11.EndOfMessage), (event, self.raw)
            names = [bytes(name).decode() for name, _ in head.headers]
            assert len(names) == len(set(names)), f"a header twice: {names}"
            headers = {bytes(name).decode(): bytes(value).decode() for name, value in head.headers}
            found.append(Said(head.status_code, headers, body, bytes(head.http_version)))
            data = connection.trailing_data[0]
        return found

    def answer(self, method: str = "POST") -> Said:
        """The only answer."""
        (said,) = self.answers(method)
        return said


def site(resource: IResource, clock: Clock, refusals: Front, **bounds: Any) -> Site:
    """A site for a resource."""
    return Site(resource, clock, Bounds(**bounds), refusals.refusal)


def refused(status: int, message: str) -> Refused:
    """A refusal that a test's own `serve` may raise."""
    from twisted_gateway.errors import Problem

    return Refused(Problem(status=status, type="t", message=message))
