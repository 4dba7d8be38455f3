"""A provider that does what a script says, however wrong: a raw HTTP/1.1 server in the reactor of the test.

provider = ScriptedProvider().start()
provider.answers(sse(sse_chat(["Hel", "lo"])), [Head(), Send(b"data: {"), Reset()])
... call provider.url ...
assert provider.requests[0].json()["model"] == "m"
await provider.stop()
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import singledispatchmethod
from typing import Any

import attrs
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IAddress, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from . import cutting, http1
from .http1 import Headers
from .steps import (
    Close,
    Cut,
    End,
    Endless,
    Head,
    Raw,
    Reset,
    Script,
    Send,
    Sleep,
    Stall,
    Step,
    WaitFor,
    chat_object,
    check,
    content_length,
    json_answer,
    sse,
    sse_chat,
    usage_object,
)
from .waiting import PATIENCE, Conditions, Gate, NeverCame

__all__ = [
    "Close",
    "Connection",
    "Cut",
    "End",
    "Endless",
    "Flood",
    "Gate",
    "Head",
    "Raw",
    "Request",
    "Reset",
    "Script",
    "ScriptedProvider",
    "Send",
    "Sleep",
    "Stall",
    "Step",
    "WaitFor",
    "chat_object",
    "json_answer",
    "sse",
    "sse_chat",
    "usage_object",
]

TURNS_PER_WRITE = 2
"""Turns of the reactor until a write of this turn has been sent and read by a peer in the same reactor."""
QUIET_TURNS = 50
"""Turns without a byte, after which none will come: seconds alone may pass while the process is stopped."""


@attrs.frozen(eq=False)
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: Headers
    body: bytes
    arrived: float
    connection: Connection

    def header(self, name: str) -> str | None:
        """The first header of that name, whatever its case."""
        value = http1.Head(b"", self.headers).get(name)
        return None if value is None else value.decode("latin-1")

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


@implementer(IPushProducer)
class Flood:
    """Writes the same bytes for ever, and stops when told; `sent`, `paused` and `pauses` tell how it goes."""

    def __init__(self, connection: Connection, step: Endless) -> None:
        self.sent, self.paused, self.pauses = 0, False, 0
        self._connection, self._step, self._stopped = connection, step, False

    async def play(self) -> None:
        """Until the limit is reached, else until the connection is lost."""
        transport = self._connection.tcp
        transport.registerProducer(self, True)
        try:
            while not self._stopped and (self._step.limit is None or self.sent < self._step.limit):
                self._write_unless_paused()
                await self._connection.turns(1)
        finally:
            transport.unregisterProducer()

    async def settled(self, quiet: float = 0.1, patience: float = PATIENCE) -> int:
        """The bytes sent, once nothing has gone out for `quiet` seconds: every buffer on the way is full."""
        reactor = self._connection.reactor
        deadline, last = reactor.seconds() + patience, -1
        while not self.paused or self.sent != last:
            if reactor.seconds() > deadline:
                raise NeverCame(f"the flood still flows after {self.sent} bytes")
            last = self.sent
            await deferLater(reactor, quiet)
            await self._connection.turns(QUIET_TURNS)
        return self.sent

    def _write_unless_paused(self) -> None:
        if self.paused:
            return
        left = len(self._step.data) if self._step.limit is None else self._step.limit - self.sent
        piece = self._step.data[:left]
        self.sent += len(piece)
        self._connection.send(piece)

    def pauseProducing(self) -> None:
        self.paused, self.pauses = True, self.pauses + 1

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self._stopped = True


class Connection(Protocol):
    """One connection of a caller to the provider; reads requests and plays a script for each, one after the other."""

    def __init__(self, provider: ScriptedProvider, number: int) -> None:
        self.number = number
        self.requests: list[Request] = []
        self.flood: Flood | None = None
        self.closed = False
        self.close_reason: BaseException | None = None
        self._provider, self._gone = provider, Gate()
        self._buffer = b""
        self._head: http1.Head | None = None
        self._body: http1.Body | None = None
        self._content: list[bytes] = []
        self._script: Script = ()
        self._framing = "close"
        self._playing: Deferred[None] | None = None
        self._keeps = True

    @property
    def reactor(self) -> Any:
        """The reactor of the provider."""
        return self._provider.reactor

    @property
    def tcp(self) -> Any:
        """The transport, for what only a transport can do."""
        assert self.transport is not None
        return self.transport

    def when_closed(self) -> Deferred[None]:
        """A fresh Deferred that fires when the end of the connection is noticed."""
        return self._gone.wait()

    def connectionMade(self) -> None:
        self.tcp.setTcpNoDelay(True)
        self._provider.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed, self.close_reason = True, reason.value
        if self._playing is not None:
            self._playing.cancel()
        self._provider.lost(self)
        self._gone.open()

    # reading

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        try:
            self._read()
        except (http1.BadMessage, ValueError) as error:
            self._provider.failures.append(error)
            self.tcp.abortConnection()

    def _read(self) -> None:
        """Take one request out of the buffer, unless one is being answered."""
        if self._playing is not None:
            return
        if self._head is None and (found := http1.read_head(self._buffer)):
            self._head, self._buffer = found
            self._body, self._content = http1.request_body(self._head), []
        if self._head is None or self._body is None:
            return
        self._content.append(self._body.feed(self._buffer))
        self._buffer = b""
        if self._body.done:
            self._complete(self._head, self._body)

    def _complete(self, head: http1.Head, body: http1.Body) -> None:
        method, path, version = head.start.decode("latin-1").split(" ")
        self._buffer, self._head, self._body = body.rest, None, None
        self._keeps = version == "HTTP/1.1" and not head.says("connection", "close")
        arrived = self.reactor.seconds()
        request = Request(method, path, head.headers, b"".join(self._content), arrived, self)
        self.requests.append(request)
        self._playing = Deferred.fromCoroutine(self._play(self._provider.script_for(request)))
        self._playing.addErrback(self._broke)
        self._provider.arrived(request)

    # answering

    def send(self, content: bytes) -> None:
        """Content, framed as the head said."""
        self.tcp.write(http1.chunk(content) if self._framing == "chunked" else content)

    def turns(self, count: int = TURNS_PER_WRITE) -> Deferred[None]:
        """Let the reactor turn."""
        waiting: Deferred[None] = deferLater(self.reactor, 0)
        for _ in range(count - 1):
            waiting.addCallback(lambda _none: deferLater(self.reactor, 0))
        return waiting

    async def _play(self, script: Script) -> None:
        await deferLater(self.reactor, 0)
        self._script, self._framing = script, "close"
        for step in script:
            await self._do(step)

    def _broke(self, failure: Failure) -> None:
        """A script ends early when the peer leaves; anything else is a fault of the test."""
        if failure.value is not None and not failure.check(CancelledError):
            self._provider.failures.append(failure.value)
            self.tcp.abortConnection()

    @singledispatchmethod
    async def _do(self, step: object) -> None:
        raise TypeError(f"{step!r} is not a step")

    @_do.register
    async def _(self, step: Head) -> None:
        headers = list(step.headers)
        if step.framing == "chunked":
            headers.append((b"transfer-encoding", b"chunked"))
        if step.framing == "length":
            length = content_length(self._script) if step.length is None else step.length
            headers.append((b"content-length", b"%d" % length))
        self._framing = step.framing
        self._keeps = self._keeps and not http1.Head(b"", headers).says("connection", "close")
        self.tcp.write(http1.head_bytes(f"HTTP/1.1 {step.status} {step.reason}", headers))

    @_do.register
    async def _(self, step: Send) -> None:
        self.send(step.data)

    @_do.register
    async def _(self, step: Raw) -> None:
        self.tcp.write(step.data)

    @_do.register
    async def _(self, step: Cut) -> None:
        whole = step.one_chunk and self._framing == "chunked"
        data = http1.chunk(step.data) if whole else step.data
        pieces = cutting.at_random(data, step.seed) if step.sizes is None else cutting.by_sizes(data, step.sizes)
        for piece in pieces:
            await self.turns()
            if whole:
                self.tcp.write(piece)
            else:
                self.send(piece)
        await self.turns()

    @_do.register
    async def _(self, step: WaitFor) -> None:
        await step.gate.wait()

    @_do.register
    async def _(self, step: Sleep) -> None:
        await (deferLater(self.reactor, step.seconds) if step.seconds else self.turns())

    @_do.register
    async def _(self, step: Endless) -> None:
        self.flood = Flood(self, step)
        await self.flood.play()

    @_do.register
    async def _(self, step: Stall) -> None:
        await Gate().wait()

    @_do.register
    async def _(self, step: End) -> None:
        if self._framing == "chunked":
            self.tcp.write(b"0\r\n\r\n")
        if self._framing == "close" or not self._keeps:
            self.tcp.loseConnection()
            return
        self.reactor.callLater(0, self._next)

    def _next(self) -> None:
        self._playing = None
        if not self.closed:
            self.dataReceived(b"")

    @_do.register
    async def _(self, step: Close) -> None:
        self.tcp.loseConnection()

    @_do.register
    async def _(self, step: Reset) -> None:
        while not step.abrupt and self._unsent():
            await self.turns()
        if not step.abrupt:
            await self.turns()
        self.tcp.abortConnection()

    def _unsent(self) -> int:
        """Bytes that wait in the transport, which has no public way to say so."""
        transport: Any = self.tcp
        return len(transport.dataBuffer) - int(transport.offset) + int(transport._tempDataLen)


Chooser = Callable[[Request], Script]


class ScriptedProvider:
    """The server: scripts in, requests and connections out."""

    def __init__(self, reactor: Any = default_reactor) -> None:
        self.reactor = reactor
        self.requests: list[Request] = []
        self.connections: list[Connection] = []
        self.failures: list[BaseException] = []
        self._scripts: list[Script | Chooser] = []
        self._changes = Conditions(reactor)
        self._port: Any = None

    def start(self) -> ScriptedProvider:
        """Listen on a free loopback port."""
        self._port = self.reactor.listenTCP(0, _Connections(self), backlog=1024, interface="127.0.0.1")
        return self

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._port.getHost().port
        return port

    @property
    def url(self) -> str:
        """The address of the server, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def answers(self, *scripts: Script | Chooser) -> ScriptedProvider:
        """Queue scripts, one for each request; the last repeats. A function is asked with the request instead."""
        self._scripts += [script if callable(script) else check(script) for script in scripts]
        return self

    @property
    def open_connections(self) -> list[Connection]:
        """The connections that nobody has closed yet."""
        return [connection for connection in self.connections if not connection.closed]

    @property
    def connections_opened(self) -> int:
        """How many connections there have been."""
        return len(self.connections)

    def when_request(self, number: int, patience: float = PATIENCE) -> Deferred[Request]:
        """A Deferred that fires with request `number`, counted from 1, as soon as all of it is there."""

        def story() -> str:
            return f"request {number} never came; there were {len(self.requests)}"

        come = self._changes.when(lambda: len(self.requests) >= number, patience, story)
        return come.addCallback(lambda _none: self.requests[number - 1])

    def when_connections(self, open: int, patience: float = PATIENCE) -> Deferred[None]:
        """A Deferred that fires when so many connections are open."""

        def story() -> str:
            return f"{len(self.open_connections)} connections are open, not {open}"

        return self._changes.when(lambda: len(self.open_connections) == open, patience, story)

    async def stop(self) -> None:
        """Stop listening and cut every connection; raises what a script did wrong."""
        if self._port is not None:
            await self._port.stopListening()
        gone = [connection.when_closed() for connection in self.open_connections]
        for connection in self.open_connections:
            connection.tcp.abortConnection()
        await gatherResults(gone)
        if self.failures:
            raise self.failures[0]

    # what connections tell

    def opened(self, connection: Connection) -> None:
        """A caller has connected."""
        self.connections.append(connection)
        self._changes.look()

    def lost(self, _connection: Connection) -> None:
        """A connection is closed."""
        self._changes.look()

    def arrived(self, request: Request) -> None:
        """A request is complete."""
        self.requests.append(request)
        self._changes.look()

    def script_for(self, request: Request) -> Script:
        """What to answer to this request."""
        if not self._scripts:
            return json_answer({"error": {"message": "the test has given no script"}}, 500)
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        return check(script(request)) if callable(script) else script


class _Connections(Factory):
    """Makes a connection for each caller."""

    noisy = False

    def __init__(self, provider: ScriptedProvider) -> None:
        self._provider = provider

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return Connection(self._provider, self._provider.connections_opened + 1)
