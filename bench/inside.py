"""The whole gateway in one process without a network: its callers' and its provider's connections are in memory.

What a call costs in here is the Python of it alone, without the kernel's part, which is why figures repeat well.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConsumer, ITCPTransport
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface import implementer

from bench.targets import BOOT, CALLER_KEY, PLAIN, RESOURCES, STREAM
from twisted_gateway.config.boot import structure
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

    def expect(self, make: Callable[[], None]) -> None:
        """Nobody waits for lines; they come when there are many."""

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
        self.fresh = False
        """Written to since somebody last looked."""
        self.closed = False
        self._peer = IPv4Address("TCP", "127.0.0.1", 4000)

    def take(self) -> bytes:
        """What was written since the last time."""
        data, self._written = b"".join(self._written), []
        return data

    def write(self, data: bytes) -> None:
        self._written.append(data)
        self.fresh = True

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


def request(body: str = STREAM) -> bytes:
    """A caller's request."""
    head = f"host: bench\r\nauthorization: Bearer {CALLER_KEY}\r\ncontent-type: application/json\r\naccept: */*\r\n"
    return f"POST /v1/chat/completions HTTP/1.1\r\n{head}content-length: {len(body)}\r\n\r\n{body}".encode()


def _frame(*choices: dict[str, Any], **more: Any) -> bytes:
    whole = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "mock-1"}
    return b"data: " + json.dumps({**whole, "choices": choices, **more}, separators=(",", ":")).encode() + b"\n\n"


def text_frame(text: str) -> bytes:
    """A frame of a stream with a token in it."""
    return _frame({"index": 0, "delta": {"content": text}, "finish_reason": None})


USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
FRAMES = (
    _frame({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}),
    *(text_frame(f"token{n:02} ") for n in range(20)),
    _frame({"index": 0, "delta": {}, "finish_reason": "stop"}),
    _frame(usage=USAGE),
    b"data: [DONE]\n\n",
)
"""An answer of 20 tokens."""


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
AT_ONCE = (HEAD + b"".join(map(chunk, FRAMES)) + b"0\r\n\r\n",)
"""The answer in one read."""
PIECEMEAL = (HEAD, *map(chunk, FRAMES), b"0\r\n\r\n")
"""The answer in a read for each frame."""
_MESSAGE = {"index": 0, "message": {"role": "assistant", "content": "hello " * 20}, "finish_reason": "stop"}
_ANSWER = {"id": "c", "object": "chat.completion", "created": 1, "model": "mock-1"}
_BODY = json.dumps({**_ANSWER, "choices": [_MESSAGE], "usage": USAGE})
WHOLE = (f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n{_BODY}".encode(),)
"""An answer that is not streamed."""


class Reactor(MemoryReactorClock):
    """A reactor in memory that nothing runs in."""

    def callFromThread(self, call: Callable[..., Any], *args: Any) -> None:
        """Whatever is told by another thread is told at once."""
        call(*args)


class Inside:
    """A gateway with the bench's configuration, and both ends of its connections."""

    def __init__(self, folder: Path) -> None:
        resources = folder / "resources.yaml"
        resources.write_text(RESOURCES.format(mock=PROVIDER, key=CALLER_KEY))
        settings = structure(yaml.safe_load(BOOT.format(port=0, resources=resources, metrics=0)), {})
        self.reactor = Reactor()
        self.lines = Lines()
        self.house = House(settings, self.reactor, Log(self.lines), alone=False)

    def caller(self) -> tuple[Any, Wire]:
        """A new connection of a caller: its protocol and its wire."""
        wire = Wire()
        protocol: Any = self.house.site.buildProtocol(wire.getPeer())
        protocol.makeConnection(wire)
        return protocol, wire

    def provider(self) -> tuple[Any, Wire]:
        """The connection that the gateway has sent its last request on: its protocol and its wire."""
        for *_, factory, _, _ in self.reactor.tcpClients:
            wire = Wire()
            factory.buildProtocol(wire.getPeer()).makeConnection(wire)
        self.reactor.tcpClients.clear()
        ((protocol, wire),) = [(one, one.transport) for one in self.house.clients.pools[0].open if one.transport.fresh]
        wire.fresh = False
        return protocol, wire

    def repeated(self, body: str, reads: tuple[bytes, ...]) -> Callable[[], None]:
        """A call that can be made again and again over one pair of connections."""
        said = request(body)
        caller, out = self.caller()
        caller.dataReceived(said)
        provider, asked = self.provider()
        for read in reads:
            provider.dataReceived(read)
        asked.take()

        def again() -> None:
            caller.dataReceived(said)
            for read in reads:
                provider.dataReceived(read)
            if not out.take() or not asked.take():
                raise AssertionError("nothing came")
            asked.fresh = False

        return again

    def once(self, reads: tuple[bytes, ...], body: str = STREAM) -> bytes:
        """A call over connections of its own, which are closed behind these reads; what the caller got."""
        caller, out = self.caller()
        caller.dataReceived(request(body))
        provider, _ = self.provider()
        for read in reads:
            provider.dataReceived(read)
        for one in (caller, provider):
            one.connectionLost(Failure(ConnectionDone()))
        return out.take()


__all__ = ["AT_ONCE", "FRAMES", "PIECEMEAL", "PLAIN", "STREAM", "WHOLE", "Inside", "chunk", "request", "text_frame"]
