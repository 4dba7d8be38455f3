"""A caller that notes what it reads and when, and can stop reading, leave or vanish: a raw HTTP/1.1 client.

caller = Caller("127.0.0.1", port)
await caller.open(post("/v1/chat/completions", {"model": "m", "stream": True}))
await caller.when(lambda seen: len(seen.frames) >= 2)
await caller.leave()
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from . import http1
from .events import EventReader, SseFrame
from .waiting import PATIENCE, Conditions, Gate

__all__ = ["Answer", "Caller", "SseFrame", "post", "request_bytes"]


def request_bytes(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, host: str = "gateway"
) -> bytes:
    """A request for the wire; headers given here win over the usual ones, and one that is empty is left out."""
    usual = {"host": host, "content-length": str(len(body))}
    merged = usual | {name.lower(): value for name, value in (headers or {}).items()}
    sent = http1.header_pairs({name: value for name, value in merged.items() if value})
    return http1.head_bytes(f"{method} {path} HTTP/1.1", sent) + body


def post(path: str, obj: object, headers: Mapping[str, str] | None = None, key: str | None = None) -> bytes:
    """A POST of JSON, with a caller key if there is one."""
    usual = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    return request_bytes("POST", path, json.dumps(obj).encode(), usual | dict(headers or {}))


@attrs.define(eq=False)
class Answer:
    """One answer, as far as it has been read."""

    head: http1.Head
    status: int
    framing: http1.Body
    head_at: float
    body: bytearray = attrs.field(factory=bytearray)
    frames: list[SseFrame] = attrs.field(factory=list)
    events: EventReader = attrs.field(factory=EventReader)
    ended: bool = False

    def header(self, name: str) -> str | None:
        """The first header of that name, whatever its case."""
        value = self.head.get(name)
        return None if value is None else value.decode("latin-1")

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(bytes(self.body))

    def feed(self, data: bytes, at: float) -> bytes:
        """Bytes of the wire; gives back those that belong to the next answer."""
        content = self.framing.feed(data)
        self.body += content
        if (self.header("content-type") or "").startswith("text/event-stream"):
            self.frames += self.events.feed(content, at)
        self.ended = self.framing.done
        rest, self.framing.rest = self.framing.rest, b""
        return rest


class _Line(Protocol):
    """The connection of a caller."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def dataReceived(self, data: bytes) -> None:
        self._caller.received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._caller.lost(reason)


class Caller:
    """One connection to the gateway and everything that came over it; the latest answer's parts are its own."""

    def __init__(self, host: str, port: int, reactor: Any = default_reactor) -> None:
        self.reads: list[tuple[float, bytes]] = []
        self.answers: list[Answer] = []
        self.closed = False
        self.close_reason: BaseException | None = None
        self._host, self._port, self._reactor = host, port, reactor
        self._changes, self._gone = Conditions(reactor), Gate()
        self._buffer = b""
        self._method = ""
        self._line: Any = None

    # doing

    async def open(self, request: bytes = b"") -> Caller:
        """Connect and send a request, or any bytes."""
        endpoint = TCP4ClientEndpoint(self._reactor, self._host, self._port)
        self._line = await connectProtocol(endpoint, _Line(self))
        self._line.transport.setTcpNoDelay(True)
        self.send(request)
        return self

    def send(self, data: bytes) -> None:
        """More bytes: the rest of a body that is sent slowly, or another request on the same connection."""
        self._method = "HEAD" if data.startswith(b"HEAD ") else ""
        self._line.transport.write(data)

    def leave(self) -> Deferred[None]:
        """Hang up as a client does that has had enough."""
        self._line.transport.loseConnection()
        return self._gone.wait()

    def reset(self) -> Deferred[None]:
        """Vanish with an RST."""
        self._line.transport.abortConnection()
        return self._gone.wait()

    def pause(self) -> None:
        """Read nothing more; the kernel's buffers fill up."""
        self._line.transport.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        self._line.transport.resumeProducing()

    # waiting

    def when(self, met: Callable[[Caller], bool], patience: float = PATIENCE) -> Deferred[Caller]:
        """A Deferred that fires with the caller when the condition is met, and fails when that takes too long."""
        return self._changes.when(lambda: met(self), patience, self._story).addCallback(lambda _none: self)

    def when_ended(self, patience: float = PATIENCE) -> Deferred[Caller]:
        """A Deferred that fires when the latest answer has come to the proper end of its framing."""
        return self.when(lambda seen: seen.ended, patience)

    def when_closed(self, patience: float = PATIENCE) -> Deferred[Caller]:
        """A Deferred that fires when the connection is closed, by whichever side."""
        return self.when(lambda seen: seen.closed, patience)

    def _story(self) -> str:
        read = b"".join(data for _, data in self.reads)
        return f"the condition was not met; closed: {self.closed}; {len(read)} bytes read, last {read[-300:]!r}"

    # seeing

    @property
    def answer(self) -> Answer:
        """The latest answer."""
        assert self.answers, "no answer has begun"
        return self.answers[-1]

    @property
    def status(self) -> int | None:
        """The status of the latest answer, when its head has come."""
        return self.answers[-1].status if self.answers else None

    @property
    def headers(self) -> http1.Headers:
        """The headers of the latest answer."""
        return self.answers[-1].head.headers if self.answers else []

    def header(self, name: str) -> str | None:
        """One header of the latest answer."""
        return self.answers[-1].header(name) if self.answers else None

    @property
    def body(self) -> bytes:
        """The content of the latest answer so far, framing taken off."""
        return bytes(self.answers[-1].body) if self.answers else b""

    @property
    def frames(self) -> list[SseFrame]:
        """The frames of the latest answer that carry data."""
        return [frame for frame in self.all_frames if frame.data is not None]

    @property
    def all_frames(self) -> list[SseFrame]:
        """The frames of the latest answer, those with nothing but comments too."""
        return self.answers[-1].frames if self.answers else []

    @property
    def comments(self) -> list[str]:
        """The comments of the latest answer: heartbeats."""
        return [comment for frame in self.all_frames for comment in frame.comments]

    @property
    def ended(self) -> bool:
        """Whether the latest answer came to the proper end of its framing."""
        return bool(self.answers) and self.answers[-1].ended

    # what the connection tells

    def received(self, data: bytes) -> None:
        """Bytes came."""
        now = self._reactor.seconds()
        self.reads.append((now, data))
        self._buffer += data
        while self._buffer and self._parse(now):
            pass
        self._changes.look()

    def _parse(self, now: float) -> bool:
        """Go on with an answer or begin one; false when more bytes are needed."""
        if not self.answers or self.answers[-1].ended:
            return self._begin(now)
        data, self._buffer = self._buffer, b""
        self._buffer = self.answers[-1].feed(data, now)
        return self.answers[-1].ended

    def _begin(self, now: float) -> bool:
        found = http1.read_head(self._buffer)
        if found is None:
            return False
        head, self._buffer = found
        status = int(head.start.split(b" ")[1])
        framing = http1.answer_body(head, status, self._method)
        self.answers.append(Answer(head, status, framing, now, ended=framing.done))
        return True

    def lost(self, reason: Failure) -> None:
        """The connection is closed; that is also the proper end of an answer without a length."""
        self.closed, self.close_reason = True, reason.value
        if self.answers and isinstance(self.answer.framing, http1.OpenBody) and reason.check(ConnectionDone):
            self.answers[-1].ended = True
        self._gone.open()
        self._changes.look()
