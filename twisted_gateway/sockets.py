"""TCP transports of `reactor`: Twisted's own, but a read and a write that take the short way where nothing is special.

A chunk passes two of them. Most of what it costs is code that the processor has not seen since the last chunk, so
steps that have nothing to do are left out: what is read goes to the protocol at once, and what is written is noted
with the reactor and sent in one call when its turn is over. TLS, half-closed connections and whatever else is rare
takes Twisted's way, which works on the same attributes.
"""

from __future__ import annotations

from errno import EAGAIN, ENOBUFS
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.tcp import Client, Connector, Port, Server

_MOST_READ = 65_536


class _Quick:
    """What both sides' transports do in their own way."""

    socket: Any
    protocol: Any
    reactor: Any
    producer: Any
    connected: int
    disconnecting: int
    offset: int
    dataBuffer: bytes
    bufferSize: int
    streamingProducer: bool
    producerPaused: bool
    TLS: bool
    _aborting: bool
    _writeDisconnecting: bool
    _writeDisconnected: bool
    _tempDataBuffer: list[bytes]
    _tempDataLen: int

    awaited = False
    """Whether the reactor is going to send what is written: at the end of this turn, or when the socket takes more."""

    def doRead(self) -> Any:
        """One read of the socket, for the protocol."""
        try:
            data = self.socket.recv(_MOST_READ)
        except OSError as error:
            return None if error.errno == EAGAIN else CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None

    def write(self, data: bytes) -> None:
        """Have that sent behind what was written before; pauses the producer when that is much."""
        if self.TLS or data.__class__ is not bytes:
            super().write(data)  # type: ignore[misc]
            return
        if not data or not self.connected or self._writeDisconnected:
            return
        self._tempDataBuffer.append(data)
        self._tempDataLen = size = self._tempDataLen + len(data)
        if size + len(self.dataBuffer) > self.bufferSize and self.producer is not None and self.streamingProducer:
            self.producerPaused = True
            self.producer.pauseProducing()
        if not self.awaited:
            self.awaited = True
            self.reactor.written.append(self)

    def startWriting(self) -> None:
        """Twisted's way to say that there is something to send, or to do once all is sent."""
        if not self.connected:
            super().startWriting()  # type: ignore[misc]
        elif not self.awaited:
            self.awaited = True
            self.reactor.written.append(self)

    def stopWriting(self) -> None:
        """There is nothing to send any more."""
        self.awaited = False
        super().stopWriting()  # type: ignore[misc]

    def send(self) -> Any:
        """The turn is over: send what was written in it. Gives the reason if the connection is to be closed."""
        if not self.awaited or self._aborting:
            return None
        pieces = self._tempDataBuffer
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        sent = 0
        if data:
            try:
                sent = self.socket.send(data)
            except OSError as error:
                if error.errno not in (EAGAIN, ENOBUFS):
                    return CONNECTION_LOST
            pieces.clear()
            self._tempDataLen = 0
            if sent < len(data):
                self.dataBuffer, self.offset = data, sent
                self.reactor.block(self)
                return None
        self.awaited = False
        if self.producerPaused or self.disconnecting or self._writeDisconnecting or self._is_pulled:
            return FileDescriptor.doWrite(self)  # type: ignore[arg-type]  # nothing left to send, but more to do
        return None

    @property
    def _is_pulled(self) -> bool:
        return self.producer is not None and not self.streamingProducer


class QuickServer(_Quick, Server):
    """A caller's connection."""


class QuickClient(_Quick, Client):
    """A connection to a provider."""


class QuickPort(Port):
    """A listener."""

    transport = QuickServer


class QuickConnector(Connector):
    """Makes connections to providers."""

    def _makeTransport(self) -> Client:
        return QuickClient(self.host, self.port, self.bindAddress, self, self.reactor)  # type: ignore[no-untyped-call]
