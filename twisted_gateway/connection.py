"""One connection to a provider and one request at a time on it (`DESIGN.md` section 7, items 1-5).

The head comes as an `IResponse`; the body reaches its protocol in one call per read of the socket. Cancelling the
Deferred, or `abortConnection()` on the body's transport, closes the socket at once. `agent` is above it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import _WrappingProtocol
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IProtocol,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from zope.interface import implementer

from twisted_gateway.messages import SLICE, Body, BodyTransport, Response, Upload
from twisted_gateway.wire.http1 import Malformed, ResponseReader

if TYPE_CHECKING:
    from twisted_gateway.agent import Pool
    from twisted_gateway.lane import Lane

_DONE = Failure(ResponseDone())
_LOST = Failure(PotentialDataLoss())


class BrokenConnection(Exception):
    """The connection ended before the response did.

    `received` is the number of its bytes that had come, less what a lane took.
    """

    def __init__(self, cause: str, received: int) -> None:
        super().__init__(cause)
        self.received = received


class Origin(NamedTuple):
    """Whom a connection leads to: connections are shared by requests to the same one."""

    scheme: str
    host: str
    port: int


@implementer(IHandshakeListener)
class Connection(Protocol):
    """One connection to one origin: idle in the pool, or busy with one request."""

    transport: Any

    def __init__(self, pool: Pool, origin: Origin, secure: bool) -> None:
        self.origin = origin
        self.alive = False
        self.idle_since = 0.0
        self._reading = True
        self._paused = False
        self._held = False
        self._is_up = False
        self._waiting: Deferred[Connection] | None = None
        self._second: Deferred[Response] | None = None
        self._secure = secure
        self._pool = pool
        self._clear()

    def _clear(self) -> None:
        self._reader: ResponseReader | None = None
        self._answer: Deferred[Response] | None = None
        self._again: Callable[[], Deferred[Response]] | None = None
        self._request: Any = None
        self._body: Any = None
        self._handle: BodyTransport | None = None
        self._unread = b""
        self._received = 0
        self._upload: Upload | None = None
        self._over = False
        self._hastened: Lane | None = None
        self._lane: Lane | None = None
        """It has the next read first: there is nothing of a chunk left over."""

    # Coming up

    def connectionMade(self) -> None:
        """TCP is up; a secure connection still shakes hands."""
        self.alive = True
        transport = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
            self._pool.tune(transport)
        if isinstance(getattr(transport, "protocol", None), _WrappingProtocol):
            transport.protocol = self  # an endpoint's wrapper has done its work: reads need not pass through it
        if not self._secure:
            self._up()

    def handshakeCompleted(self) -> None:
        """TLS is up."""
        self._up()

    def _up(self) -> None:
        self._is_up = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(self)

    def when_up(self) -> Deferred[Connection]:
        """Fires when a request can be sent. Cancelling it closes the connection."""
        if self._is_up:
            return succeed(self)
        self._waiting = Deferred(lambda _: self.abort())
        return self._waiting

    # One request

    def send(
        self, method: bytes, head: bytes, body: Body | None, again: Callable[[], Deferred[Response]] | None = None
    ) -> Deferred[Response]:
        """Write a request; the Deferred gives the response's head. Cancelling it closes the connection.

        `again`: where the request is made once more if the connection breaks before a byte of the response came.
        """
        data = b""
        if body is not None:
            data = body.data
            body.started()
        self._clear()
        self._reader = ResponseReader(method)
        self._again = again
        answer: Deferred[Response] = Deferred(self._cancel)
        self._answer = answer
        if len(data) <= SLICE:
            self.transport.write(head + data)
            if hasattr(self.transport, "flush"):
                self.transport.flush()
        else:
            self.transport.write(head)
            self._upload = Upload(self.transport, data)
            self._upload.start()
        return answer

    def _cancel(self, answer: Deferred[Response]) -> None:
        if self._second is not None:
            self._second.cancel()
            return
        self._answer = None
        self.abort()
        answer.errback(CancelledError())

    def dataReceived(self, data: bytes) -> None:
        """One read of the socket."""
        lane = self._lane
        if lane is not None and lane.read(data):
            return
        reader = self._reader
        if reader is None:  # idle: whatever a provider says unasked ends the connection
            self.abort()
            return
        self._received += len(data)
        try:
            body = reader.received(data)
        except Malformed as error:
            self._fail(BrokenConnection(f"malformed response: {error}", self._received))
            self.abort()
            return
        if self._body is not None:
            if body:
                self._body.dataReceived(body)
            if reader.finished and self._reader is reader:
                self._give_back(reader)
                self._tell_end()
            elif self._hastened is not None:
                self._lead(self._hastened if reader.between_chunks else None)
        elif self._answer is None:
            self._unread += body
            self._over = reader.finished
            if not self._over:
                self.pause(True)
        elif reader.head is not None:
            self._headed(reader, body)

    def _headed(self, reader: ResponseReader, body: bytes) -> None:
        """The head is there, and perhaps some of the body or all of it, which whoever wants it may have at once."""
        answer, self._answer = self._answer, None
        assert answer is not None
        self._again = None
        self._unread, self._over = body, reader.finished
        self._held = True
        answer.callback(Response(self, reader, None))
        self._held = False
        if self._reader is reader and self._body is None and not self._over:
            self.pause(True)
        else:
            self._obey()

    def deliver(self, protocol: IProtocol) -> None:
        """Hand the body to its protocol: what is there now, the rest as it comes."""
        assert self._body is None, "a body can be delivered once"
        if self._reader is not None:
            self._reader.let_go()
        self._body = protocol
        self._handle = BodyTransport(self)
        protocol.makeConnection(self._handle)
        self.pause(False)
        data, self._unread = self._unread, b""
        if data:
            protocol.dataReceived(data)
        if self._over:
            self._tell_end()

    def hasten(self, lane: Lane) -> None:
        """From the next read on, which begins with a chunk: it has those between two chunks first."""
        self._hastened = lane

    def _lead(self, lane: Lane | None) -> None:
        """Who has the next read first; a transport of our own asks by itself.

        Not below TLS, whose transport shows the attributes of the one below it, but never asks.
        """
        if not self._secure and hasattr(self.transport, "lane"):
            self.transport.lane = lane
        else:
            self._lane = lane

    def _give_back(self, reader: ResponseReader) -> None:
        uploading = self._upload is not None and not self._upload.done
        self._reader = None
        if reader.reusable and self.alive and not uploading:
            self._pool.keep(self)
        elif self.alive:
            self.abort()

    def _tell_end(self, reason: Failure | None = None) -> None:
        reader, body, handle = self._reader, self._body, self._handle
        if reader is not None and self._over:
            self._give_back(reader)
        if reason is None:
            reason = _LOST if reader is not None and reader.until_close else _DONE
        if self._hastened is not None:
            self._lead(None)
        self._body = self._handle = self._hastened = None
        if handle is not None:
            handle.detach()
        if body is not None:
            body.connectionLost(reason)

    def _fail(self, error: Exception) -> None:
        """The response will not be whole: whoever waits for it is told."""
        self._reader = None
        answer, self._answer = self._answer, None
        again, self._again = self._again, None
        if answer is not None:
            if again is not None and not self._received:
                self._second = again()
                self._second.chainDeferred(answer)
            else:
                answer.errback(Failure(error))
        elif self._body is not None:
            self._tell_end(Failure(error))

    # The end of the connection

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The socket is closed, by either side."""
        self.alive = False
        self._pool.forget(self)
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.errback(reason)
        reader = self._reader
        if reader is None:
            return
        if reader.ended() and not self._over:
            if self._body is None:
                self._over = True
            else:
                self._reader = None
                self._tell_end(_LOST)
            return
        if not self._over:
            cause = "connection closed" if reason.check(ConnectionDone) else "connection reset"
            if reason.check(ConnectionAborted):
                cause = "connection aborted"
            elif not reason.check(ConnectionDone):
                cause = f"connection lost ({reason.type.__name__ if reason.type else 'unknown'})"
            self._fail(BrokenConnection(cause, self._received))

    def address(self, *, peer: bool) -> IAddress:
        """One end of the connection."""
        address: IAddress = self.transport.getPeer() if peer else self.transport.getHost()
        return address

    def pause(self, on: bool) -> None:
        """Stop or go on reading. While a head is told, what was asked for last is done when that is over."""
        self._paused = on
        if not self._held:
            self._obey()

    def _obey(self) -> None:
        if self._paused is self._reading and self.alive:
            self._reading = not self._paused
            if self._reading:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def abort(self) -> None:
        """Close at once; what is not answered then is not asked again."""
        self._again = None
        if self.alive:
            self.alive = False
            self._pool.forget(self)
            self.transport.abortConnection()
