"""The whole gateway in one process without a network: its caller's and its provider's connections are in memory.

What a call costs in here is the Python of it alone, without the kernel's part, which is why figures repeat well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IConsumer, ITCPTransport
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer

from bench.targets import BOOT, CALLER_KEY, RESOURCES
from twisted_gateway.config.settings import structure
from twisted_gateway.logs import Log
from twisted_gateway.tap import House

PROVIDER = 9000


class Lines:
    """A writer of the log that counts the bytes it is given."""

    dropped = 0

    def __init__(self) -> None:
        self.size = 0

    def put(self, line: bytes) -> None:
        self.size += len(line)

    def flush(self) -> None:
        """Nothing is held back."""

    def stop(self, patience: float = 0) -> None:
        """Nothing is held back."""


@implementer(ITCPTransport, IConsumer)
class Wire:
    """One end of a connection: what is written to it is kept until it is asked for."""

    disconnecting = False

    def __init__(self) -> None:
        self._written: list[bytes] = []
        self.closed = False
        self._peer = IPv4Address("TCP", "127.0.0.1", 4000)

    def take(self) -> bytes:
        """What was written since the last time."""
        data, self._written = b"".join(self._written), []
        return data

    def write(self, data: bytes) -> None:
        self._written.append(data)

    def writeSequence(self, data: Any) -> None:
        self._written += data

    def loseConnection(self) -> None:
        self.closed = True

    abortConnection = loseConnection

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Whoever takes everything at once never pauses anybody."""

    def unregisterProducer(self) -> None:
        """See `registerProducer`."""

    pauseProducing = resumeProducing = stopProducing = unregisterProducer

    def setTcpNoDelay(self, on: bool) -> None:
        """No packets here."""

    setTcpKeepAlive = setTcpNoDelay

    def getPeer(self) -> IPv4Address:
        return self._peer

    getHost = getPeer


class Inside:
    """A gateway with the bench's configuration. `call` opens a stream at its provider and gives both ends of it."""

    def __init__(self, folder: Path) -> None:
        resources = folder / "resources.yaml"
        resources.write_text(RESOURCES.format(mock=PROVIDER, key=CALLER_KEY))
        boot = folder / "aisix.yaml"
        boot.write_text(BOOT.format(port=0, resources=resources, metrics="127.0.0.1:0".rpartition(":")[2]))
        import yaml

        self.reactor = MemoryReactorClock()
        self.lines = Lines()
        self.house = House(structure(yaml.safe_load(boot.read_text()), {}), self.reactor, Log(self.lines), alone=False)
        self.idle: list[tuple[Any, Wire]] = []

    def caller(self) -> tuple[Any, Wire]:
        """A new connection of a caller: its protocol and its wire."""
        wire = Wire()
        protocol = self.house.site.buildProtocol(wire.getPeer())
        assert protocol is not None
        protocol.makeConnection(wire)
        return protocol, wire

    def provider(self) -> tuple[Any, Wire]:
        """The provider's side of the connection that the gateway has asked for last."""
        _, _, factory, _, _ = self.reactor.tcpClients.pop()
        wire = Wire()
        protocol = factory.buildProtocol(wire.getPeer())
        protocol.makeConnection(wire)
        pool = self.house._pools[0]
        (connection,) = [one for one in pool.open if one.transport is not None and _raw(one) is wire] or [protocol]
        return connection, wire


def _raw(connection: Any) -> Any:
    return connection.transport
