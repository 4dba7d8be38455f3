"""Protocols that note what they see, on whichever reactor it is: for `transports.py` and `reactors.py`."""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.python import log
from zope.interface import implementer

HANGS = 60.0
"""Seconds; nothing needs one of them."""
SMALL = 32_768
BIG = bytes(range(256)) * 4096
"""A megabyte, which no small buffer takes."""

reactor: Any = None
logged: list[str] = []
"""The types of the failures that were logged."""


def choose(which: str) -> Any:
    """Install Twisted's reactor (`epoll`) or ours (`aisix`)."""
    global reactor
    if which == "aisix":
        from twisted_gateway.reactor import install
    else:
        from twisted.internet.epollreactor import install
    install()
    from twisted.internet import reactor as installed

    reactor = installed
    log.startLoggingWithObserver(
        lambda event: logged.append(event["failure"].type.__name__) if event.get("isError") else None, setStdout=False
    )
    return installed


def short(data: bytes) -> str:
    """Bytes as a record has them."""
    return data.decode("latin-1") if len(data) < 100 else f"{len(data)} bytes, {zlib.crc32(data):08x}"


class Speaker(Protocol):
    """Notes what it is told, and does what the scene says: `hooks` by event."""

    def __init__(self, **hooks: Callable[[Any], Any]) -> None:
        self.hooks = hooks
        self.seen: list[str | bytes] = []
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def note(self, what: str | bytes) -> None:
        if isinstance(what, bytes) and self.seen and isinstance(self.seen[-1], bytes):
            self.seen[-1] += what
        else:
            self.seen.append(what)
        self._look()
        if isinstance(what, bytes):
            what = "data"
        hook = self.hooks.get(what.split()[0])
        if hook is not None:
            hook(self)

    def _look(self) -> None:
        for one in list(self._waiting):
            if one[0]():
                self._waiting.remove(one)
                reactor.callLater(0, one[1].callback, None)

    def until(self, met: Callable[[], bool]) -> Deferred[None]:
        """Fires in a turn after that in which it is so."""
        done: Deferred[None] = Deferred()
        self._waiting.append((met, done))
        self._look()
        return done

    def saw(self, what: str | bytes) -> Deferred[None]:
        if isinstance(what, bytes):
            return self.until(lambda: self.data().endswith(what))
        return self.until(lambda: any(isinstance(one, str) and one.split()[0] == what for one in self.seen))

    def data(self) -> bytes:
        return b"".join(one for one in self.seen if isinstance(one, bytes))

    def record(self) -> list[str]:
        return [one if isinstance(one, str) else "data " + short(one) for one in self.seen]

    def connectionMade(self) -> None:
        self.note("made")

    def dataReceived(self, data: bytes) -> None:
        self.note(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.note(f"lost {reason.type.__name__}")

    # a producer's

    def pauseProducing(self) -> None:
        self.note("pause")

    def resumeProducing(self) -> None:
        self.note("resume")

    def stopProducing(self) -> None:
        self.note("stop")


@implementer(IHalfCloseableProtocol)
class HalfSpeaker(Speaker):
    """Is told of halves."""

    def readConnectionLost(self) -> None:
        self.note("half-read")

    def writeConnectionLost(self) -> None:
        self.note("half-write")


async def pair(side: str, speaker: Speaker) -> socket.socket:
    """Connects it; the other end."""
    if side == "server":
        factory = Factory()
        factory.buildProtocol = lambda _: speaker
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        peer = socket.create_connection(("127.0.0.1", port.getHost().port))
        await speaker.saw("made")
        await port.stopListening()
    else:
        listener = socket.create_server(("127.0.0.1", 0))
        client = ClientFactory()
        client.noisy = False
        client.buildProtocol = lambda _: speaker
        reactor.connectTCP("127.0.0.1", listener.getsockname()[1], client)
        await speaker.saw("made")
        peer, _ = listener.accept()
        listener.close()
    peer.settimeout(HANGS)
    return peer


def narrow(speaker: Speaker, peer: socket.socket) -> None:
    """Little goes into the kernel's buffers."""
    speaker.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)


def _read(peer: socket.socket, size: int) -> tuple[bytes, str]:
    got = bytearray()
    while len(got) < size:
        try:
            data = peer.recv(65_536)
        except ConnectionError:
            return bytes(got), "reset"
        if not data:
            return bytes(got), "end"
        got += data
    return bytes(got), "more"


async def hears(peer: socket.socket, size: int = 10**9) -> str:
    """What the peer reads: until the end, or so much."""
    from twisted.internet.threads import deferToThread

    data, end = await deferToThread(_read, peer, size)
    return f"{short(data)}, {end}"


def turn(seconds: float = 0.0) -> Deferred[None]:
    """Once around."""
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def refused(attempt: Callable[[], Any]) -> str:
    try:
        return str(attempt())
    except Exception as error:
        return type(error).__name__


def explode(_: Any) -> None:
    raise ZeroDivisionError
