"""Calls to services that are no providers: one request, one small answer, one time limit (`guardrails.md` 11).

Redirects are not followed, nothing is tried twice but a request on a stale connection (`agent`), and nothing is logged:
URLs, headers and bodies may hold keys and texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse
from zope.interface import implementer

from twisted_gateway.agent import Agent, Pool
from twisted_gateway.config.settings import Upstream
from twisted_gateway.messages import Body, HeaderLines, first_value
from twisted_gateway.trust import Endpoints, tuner

MOST_BYTES = 2**20
"""The longest answer that is read."""


class Outside:
    """Fetches answers over an agent of its own, so that a slow service takes no provider's connections."""

    def __init__(self, agent: Agent, clock: IReactorTime, most_bytes: int = MOST_BYTES) -> None:
        self._agent = agent
        self._clock = clock
        self._most_bytes = most_bytes

    @classmethod
    def over_own_pool(cls, reactor: Any, settings: Upstream) -> Outside:
        """With the boot file's trust and pool settings; the time for connecting is part of each call's own."""
        pool = Pool(reactor, settings.pool_idle_timeout_secs, settings.pool_max_idle_per_host, tuner(settings))
        return cls(Agent(reactor, pool, Endpoints(reactor, settings.tls), None), reactor)

    @property
    def pool(self) -> Pool:
        """The connections to these services."""
        return self._agent.pool

    def fetch(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes, seconds: float
    ) -> Deferred[tuple[int, bytes]]:
        """Status and body of the answer, whatever the status.

        `seconds` is for all of it: name, connection, TLS, request, the last byte. Fails with `TimeoutError`, or with
        `ConnectionError`, whose text names no host. Cancelling it closes the connection.
        """

        def late(result: object, seconds: float) -> Any:
            raise TimeoutError("no whole answer in time")

        fetched: Deferred[tuple[int, bytes]] = Deferred.fromCoroutine(self._fetch(method, url, headers, body))
        return fetched.addTimeout(seconds, self._clock, late)

    async def _fetch(self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> tuple[int, bytes]:
        lines = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
        lines.append((b"accept-encoding", b"identity"))
        try:
            response = await self._agent.request(
                method.encode("ascii"), url.encode("ascii"), HeaderLines(lines), Body(body, lambda: None)
            )
        except CancelledError:
            raise
        except Exception as error:
            raise ConnectionError(f"{type(error).__name__} before an answer came") from None
        whole = _Whole(response, self._most_bytes)
        response.deliverBody(whole)
        return response.code, await whole.done


@implementer(IProtocol)
class _Whole:
    """Gathers one body. Too long, compressed or broken off, it is none."""

    transport: Any = None

    def __init__(self, response: IResponse, most_bytes: int) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._stop())
        self._coding = (first_value(response.headers, b"content-encoding") or b"identity").strip().lower()
        self._most_bytes = most_bytes
        self._parts: list[bytes] = []
        self._bytes = 0
        self._over = False

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        if self._coding not in (b"identity", b""):
            self._refuse("the answer is compressed")

    def connectionMade(self) -> None:
        pass

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            return
        self._bytes += len(data)
        self._parts.append(data)
        if self._bytes > self._most_bytes:
            self._refuse("the answer is too long")

    def connectionLost(self, reason: Failure) -> None:
        if self._over:
            return
        self._over = True
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(ConnectionError("the answer broke off"))

    def _refuse(self, why: str) -> None:
        self._stop()
        self.done.errback(ConnectionError(why))

    def _stop(self) -> None:
        """Close the connection; whatever it still says is not heard."""
        self._over = True
        self._parts.clear()
        if self.transport is not None:
            (getattr(self.transport, "abortConnection", None) or self.transport.stopProducing)()
