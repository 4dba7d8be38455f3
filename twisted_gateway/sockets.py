"""TCP transports of `reactor`: Twisted's own, but what is read and written goes the short way where nothing is special.

Most of what a chunk costs is code that the processor has not seen since the chunk before, because the kernel's came
between. So the work of a turn is sorted: first sockets are read, then protocols are given what came (`receive`), then
what lanes have carried is sent, and what protocols write when the turn is over (`send`); and steps that have nothing to
do are left out, above all where one chunk is all there is to do (`pass_on`). TLS, half-closed connections and whatever
else is rare takes Twisted's way, which works on the same attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from errno import EAGAIN, ENOBUFS
from itertools import repeat
from select import EPOLLIN
from socket import socket
from typing import TYPE_CHECKING, Any

from twisted.internet.endpoints import _WrappingFactory
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.tcp import Client, Connector, Port, Server
from twisted.python import log

if TYPE_CHECKING:
    from twisted_gateway.lane import Lane

_MOST_READ = 65_536
_MUCH = 65_536
"""Bytes to send from which a producer is to wait."""
_FEW, _MANY = 4, 16
"""Sockets that are read before their protocols are given what came: many where few have brought little."""
_LITTLE = 16_384
_AGAIN = (EAGAIN, ENOBUFS)
_SIZES = repeat(_MOST_READ)
_recv, _send = socket.recv, socket.send


class Quick:
    """What both sides' transports do in their own way. The attributes are Twisted's, but those that are explained.

    What a chunk needs of it is in slots: side by side, not all over a dictionary.
    """

    __slots__ = (
        "TLS", "_aborting", "_tempDataBuffer", "_tempDataLen", "_writeDisconnected", "_writeDisconnecting", "awaited",
        "came", "connected", "dataBuffer", "disconnecting", "lane", "more", "offset", "producer", "producerPaused",
        "protocol", "reactor", "reading", "socket", "streamingProducer",
    )  # fmt: skip

    socket: Any
    protocol: Any
    reactor: Any
    _tempDataBuffer: list[bytes]
    _tempDataLen: int

    def __init__(self, *args: Any) -> None:
        self.TLS = self._aborting = self._writeDisconnected = self._writeDisconnecting = False
        self.producer: Any = None
        self.producerPaused = self.streamingProducer = False
        self.connected = self.disconnecting = self.offset = 0
        self.dataBuffer = b""
        self.awaited = False
        """The reactor is going to send what is written: at the end of this turn, or when the socket takes more."""
        self.more = False
        """Sending is not all that is to be done then: there is a producer to be told, or a connection to be closed."""
        self.reading = False
        self.came: bytes | None = None
        """What was read before reading was to stop."""
        self.lane: Lane | None = None
        """Asked before the protocol is."""
        super().__init__(*args)

    def doRead(self) -> Any:
        """One read of the socket, for the protocol; none when another one's has stopped this one meanwhile."""
        return super().doRead() if self.reading else None  # type: ignore[misc]

    def write(self, data: bytes) -> None:
        """Have that sent behind what was written before; pauses the producer when that is much."""
        if self.TLS or data.__class__ is not bytes:
            super().write(data)  # type: ignore[misc]
            return
        if not data or not self.connected or self._writeDisconnected:
            return
        self._tempDataBuffer.append(data)
        self._tempDataLen = size = self._tempDataLen + len(data)
        if size + len(self.dataBuffer) > _MUCH and self.producer is not None and self.streamingProducer:
            self.producerPaused = self.more = True
            self.producer.pauseProducing()
        if not self.awaited:
            self.awaited = True
            self.reactor.written.append(self)

    def flush(self) -> None:
        """Somebody waits for what was written: send it now, unless others have something to do in this turn too.

        What goes wrong is seen when the turn is over, as ever: nobody is told from inside his own write.
        """
        pieces = self._tempDataBuffer
        if not pieces or self.dataBuffer or self._aborting or not (self.connected and self.reactor.unhurried):
            return
        data = b"".join(pieces)
        try:
            sent = self.socket.send(data)
        except OSError:
            return
        pieces.clear()
        self._tempDataLen = len(data) - sent
        if self._tempDataLen:
            pieces.append(data[sent:])

    def put_back(self, data: bytes) -> None:
        """That was to be sent, but the socket did not take it: it goes before whatever was written since."""
        self._tempDataBuffer.insert(0, data)
        self._tempDataLen += len(data)
        if not self.awaited:
            self.awaited = True
            self.reactor.written.append(self)

    def startWriting(self) -> None:
        """Twisted's way to say that there is something to send, or to do once all is sent."""
        if self._aborting:
            return
        self.more = True
        if not self.connected:
            super().startWriting()  # type: ignore[misc]
        elif not self.awaited:
            self.awaited = True
            self.reactor.written.append(self)

    def stopWriting(self) -> None:
        """There is nothing to send any more."""
        self.awaited = False
        super().stopWriting()  # type: ignore[misc]

    def connectionLost(self, reason: Any) -> None:
        """It is closed: nothing is kept for it."""
        self.came = self.lane = None
        self._tempDataBuffer.clear()
        self.dataBuffer = b""
        super().connectionLost(reason)  # type: ignore[misc]

    def abortConnection(self) -> None:
        """Close it in the next turn, without sending anything more."""
        super().abortConnection()  # type: ignore[misc]
        self.write = _ignore  # type: ignore[assignment,method-assign]

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Have it paused while there is much to send; one that does not stream is asked for each piece."""
        self.more = self.more or not streaming
        super().registerProducer(producer, streaming)  # type: ignore[misc]

    def startReading(self) -> None:
        """Go on reading; what was read too much comes first."""
        if self._aborting:
            return
        self.reading = True
        if self.came is None:
            super().startReading()  # type: ignore[misc]
        else:
            self.reactor.callLater(0, self._give)  # and is read on only then, lest the newer come first

    def stopReading(self) -> None:
        """Read no further."""
        self.reading = False
        super().stopReading()  # type: ignore[misc]

    def _give(self) -> None:
        if self.came is not None and self.reading:
            data, self.came = self.came, None
            _hand_out((self,), (data,), self.reactor.lose)
            if self.reading:
                super().startReading()  # type: ignore[misc]


def _ignore(_data: bytes) -> None:
    """It is aborted."""


class QuickServer(Quick, Server):
    """A caller's connection."""


class QuickClient(Quick, Client):
    """A connection to a provider."""

    def connectionLost(self, reason: Any) -> None:
        """It is closed: it and its connector let go of each other, which nobody but the collector would do."""
        super().connectionLost(reason)
        connector = self.__dict__.pop("connector", None)  # Twisted deletes it, too, where it could not connect
        if connector is not None and connector.transport is self:  # else it connects again
            connector.transport = None


_QUICK = (QuickServer, QuickClient)


class QuickPort(Port):
    """A listener."""

    transport = QuickServer  # type: ignore[assignment]  # it is a `Server` for whoever types


class QuickConnector(Connector):
    """Makes connections to providers."""

    def _makeTransport(self) -> Client:
        return QuickClient(self.host, self.port, self.bindAddress, self, self.reactor)

    def connectionLost(self, reason: Any) -> None:
        """The connection is closed. An endpoint's factory, which connects once, is let go of in the same way."""
        super().connectionLost(reason)
        if isinstance(self.factory, _WrappingFactory):
            self.factory._connector = None


def receive(
    events: Iterable[tuple[int, int]],
    selectables: Mapping[int, Any],
    other: Callable[[Any, int, int], None],
    lose: Callable[[Any, Any], None],
) -> None:
    """Read the sockets that the kernel says can be read, and then give their protocols what came.

    `other` is told of what else there is to do, `lose` of a transport that is closed, or whose protocol has failed,
    and why.
    """
    ready = []
    rest = []
    for fd, event in events:
        transport = selectables.get(fd)
        if event == EPOLLIN and transport.__class__ in _QUICK and transport.connected:
            ready.append(transport)
        elif transport is not None:
            rest.append((transport, fd, event))
    if ready:
        _take(ready, lose)
    for transport, fd, event in rest:
        if selectables.get(fd) is transport:
            other(transport, fd, event)


def pass_on(
    only: tuple[int, int], selectables: Mapping[int, Any], lose: Callable[[Any, Any], None]
) -> bool | None:
    """`receive` for the only event there is, where that is something to read for a lane; else None: nothing is done.

    True when that was carried, and sent: nobody else needs to know of it.
    """
    fd, event = only
    transport = selectables.get(fd)
    if event != EPOLLIN or transport.__class__ is not QuickClient or transport.lane is None or not transport.reading:
        return None
    try:
        data = _recv(transport.socket, _MOST_READ)
    except OSError as error:
        if error.errno != EAGAIN:
            lose(transport, CONNECTION_LOST)
        return False
    lane = transport.lane
    to, out = lane.to, None
    if data and to.__class__ is QuickServer and to.connected and not to.awaited and not to._aborting:
        try:
            out = lane.carry(data)
        except BaseException:
            out = None  # it is asked again, by whom this is logged
    if out is None:
        _hand_out((transport,), (data,), lose)
        return False
    try:
        sent = _send(to.socket, out)
    except OSError:
        sent = 0
    if sent < len(out):
        to.put_back(out[sent:])
        return False
    return True


def _take(ready: Sequence[Any], lose: Callable[[Any, Any], None]) -> None:
    """Read them and hand out what came, a part of them after the other."""
    at, size = 0, _FEW
    while at < len(ready):
        part = ready[at : at + size]
        if at:  # those before may have stopped or closed these
            part = [one for one in part if one.reading and one.connected]
        at += size
        got, failed = _read([one.socket for one in part])
        for index in failed:
            if part[index].connected:
                lose(part[index], CONNECTION_LOST)
        _hand_out(part, got, lose)
        if at < len(ready):
            size = _MANY if sum(len(data) for data in got if data) < _LITTLE else _FEW


def _read(sockets: Sequence[Any]) -> tuple[list[bytes | None], list[int]]:
    """What came from each (no bytes: it is closed; None: nothing yet), and which of them fail."""
    got: list[bytes | None] = []
    failed: list[int] = []
    while len(got) < len(sockets):
        try:
            got.extend(map(_recv, sockets[len(got) :], _SIZES))
        except OSError as error:
            if error.errno != EAGAIN:
                failed.append(len(got))
            got.append(None)
    return got, failed


def _hand_out(ready: Iterable[Any], got: Iterable[Any], lose: Callable[[Any, Any], None]) -> None:
    """Give protocols what came, unless a lane carries it."""
    carried: list[tuple[Any, bytes]] = []
    for transport, data in zip(ready, got, strict=True):
        if not transport.reading:  # another one's protocol has stopped this one
            if transport.connected:
                transport.came = data or None
        elif data:
            lane = transport.lane
            try:
                out = None if lane is None else lane.carry(data)
                if out is None:
                    transport.protocol.dataReceived(data)
                    continue
                to = lane.to
                if to.__class__ is QuickServer and not to.awaited:
                    carried.append((to, out))
                else:
                    to.write(out)
            except BaseException as error:
                log.err()
                lose(transport, error)
        elif data is not None:
            lose(transport, CONNECTION_DONE)
    if carried:
        _send_on([each for each in carried if each[0].connected and not each[0]._aborting])


def _send_on(carried: Sequence[tuple[Quick, bytes]]) -> None:
    """Send what lanes have carried, to transports that had nothing to send. Whatever goes wrong is seen by `send`."""
    sockets = [to.socket for to, _ in carried]
    datas = [data for _, data in carried]
    sizes: list[int] = []
    while len(sizes) < len(sockets):
        try:
            sizes.extend(map(_send, sockets[len(sizes) :], datas[len(sizes) :]))
        except OSError:
            sizes.append(0)
    if sizes != [*map(len, datas)]:
        for (to, data), size in zip(carried, sizes, strict=True):
            if size < len(data):
                to.put_back(data[size:])


def send(written: Iterable[Any], block: Callable[[Any], None], lose: Callable[[Any, Any], None]) -> None:
    """The turn is over: send what was written in it to these transports.

    `block` is told of one whose socket did not take everything, `lose` of one that is to be closed, and why.
    """
    for transport in written:
        if not transport.awaited or transport.dataBuffer:
            if transport.awaited:
                block(transport)  # Twisted's way has sent a part of it
            continue
        pieces = transport._tempDataBuffer
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            try:
                sent = transport.socket.send(data)
            except OSError as error:
                if error.errno not in _AGAIN:
                    lose(transport, CONNECTION_LOST)
                    continue
                sent = 0
            pieces.clear()
            transport._tempDataLen = 0
            if sent < len(data):
                transport.dataBuffer, transport.offset = data, sent
                block(transport)
                continue
        transport.awaited = False
        if transport.more:
            asked = transport.producer is not None and not transport.streamingProducer
            transport.more = asked or transport.disconnecting or transport._writeDisconnecting
            try:
                why = transport.doWrite()  # nothing is left to send, but there is more to do
            except BaseException as error:
                log.err()
                why = error
            if why:
                lose(transport, why)
