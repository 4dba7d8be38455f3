"""What goes over a connection to a provider, as treq and Twisted know it: headers, a request's body, a response.

All of it is below `connection`, which is asked for what a response's reader wants: to pause, to go on, to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IConsumer, IProtocol, IPushProducer, ITransport
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer, IResponse
from zope.interface import implementer

from twisted_gateway.wire.http1 import Lines, ResponseReader

if TYPE_CHECKING:
    from twisted_gateway.connection import Connection
    from twisted_gateway.lane import Lane

SLICE = 65_536
"""Bytes of an upload that are written at once."""
_NO_LINES = Lines()


class HeaderLines(Headers):
    """Headers that stay the lines they were given as, until somebody asks for more than lines.

    `shared` are those before them that other messages have too.
    """

    def __init__(self, lines: Sequence[tuple[bytes, bytes]], shared: Lines = _NO_LINES) -> None:
        self.lines = lines
        self.shared = shared
        self._made: Headers | None = None

    @property
    def _rawHeaders(self) -> Any:  # type: ignore[override]
        if self._made is None:
            self._made = Headers()
            for name, value in (*self.shared.headers, *self.lines):
                self._made.addRawHeader(name, value)
        return self._made._rawHeaders

    def copy(self) -> Headers:
        """A copy, as ordinary headers."""
        return Headers(dict(self._rawHeaders))


def first_value(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a response's header, or None. `name` is lower case."""
    if isinstance(headers, HeaderLines):
        for key, value in headers.lines:
            if key == name:
                return value
        return None
    values = headers.getRawHeaders(name)
    return values[0] if values else None


@implementer(IBodyProducer)
class Body:
    """A request body in memory. `started` is called when it begins to be written: the connection is up."""

    def __init__(self, data: bytes, started: Callable[[], None]) -> None:
        self.data = data
        self.length = len(data)
        self.started = started

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """For agents other than ours: everything in one write."""
        self.started()
        consumer.write(self.data)
        return succeed(None)

    def stopProducing(self) -> None:
        """Nothing to stop."""

    def pauseProducing(self) -> None:
        """Nothing to pause."""

    def resumeProducing(self) -> None:
        """Nothing to resume."""


@implementer(IPushProducer)
class Upload:
    """Writes a large body as the socket takes it, so that a provider's early answer stops it."""

    def __init__(self, transport: Any, data: bytes) -> None:
        self._transport = transport
        self._data = memoryview(data)
        self._paused = False
        self.done = False

    def start(self) -> None:
        self._transport.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        while self._data and not self._paused:
            piece, self._data = self._data[:SLICE], self._data[SLICE:]
            self._transport.write(bytes(piece))
        if not self._data and not self.done:
            self.stopProducing()
            self.done = True

    def stopProducing(self) -> None:
        if not self.done:
            self._data = memoryview(b"")
            self._transport.unregisterProducer()


@implementer(IResponse)
class Response:
    """A response whose head is read. Its body waits, unread, until `deliverBody`."""

    previousResponse = None

    def __init__(self, connection: Connection, reader: ResponseReader, request: Any) -> None:
        head = reader.head
        assert head is not None
        self.version = (b"HTTP", 1, head.minor)
        self.code = head.status
        self.phrase = head.phrase
        self.request = request
        self.headers: Headers = HeaderLines(head.headers)
        self._connection = connection
        self._head = head

    @property
    def length(self) -> Any:
        """Declared length of the body, or `UNKNOWN_LENGTH`."""
        found = self._head.length
        return UNKNOWN_LENGTH if found is None else found

    def deliverBody(self, protocol: IProtocol) -> None:
        """Give the body to `protocol`, one call per read; its transport pauses, resumes and aborts."""
        self._connection.deliver(protocol)

    def setPreviousResponse(self, response: Any) -> None:
        """Redirects are never followed here."""


@implementer(IPushProducer, ITransport)
class BodyTransport:
    """What a body's protocol may do to the connection below it. Dead once the response is over."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection

    def detach(self) -> None:
        """The response is over: the connection is not this body's any more."""
        self._connection = None

    def pauseProducing(self) -> None:
        """Stop reading from the provider."""
        if self._connection is not None:
            self._connection.pause(True)

    def resumeProducing(self) -> None:
        """Go on reading."""
        if self._connection is not None:
            self._connection.pause(False)

    def stopProducing(self) -> None:
        """Close the connection at once."""
        self.abortConnection()

    loseConnection = stopProducing

    def abortConnection(self) -> None:
        """Close the connection at once, unread data and all: the provider sees it now."""
        if self._connection is not None:
            self._connection.abort()

    def hasten(self, lane: Lane) -> None:
        """Chunks that `lane` carries need not go any other way from now on."""
        if self._connection is not None:
            self._connection.hasten(lane)

    def write(self, data: bytes) -> None:
        """A body is only read."""
        raise NotImplementedError

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """A body is only read."""
        raise NotImplementedError

    def getPeer(self) -> IAddress:
        """The provider's address."""
        assert self._connection is not None
        return self._connection.address(peer=True)

    def getHost(self) -> IAddress:
        """Our own address."""
        assert self._connection is not None
        return self._connection.address(peer=False)
