"""One attempt over one connection: a request out, an open answer back, Twisted's failures as ours.

An *open answer* has a good status and its first data event is read; whoever joins it gets that and everything after.
Deadlines: `streaming.md` section 9. What becomes of non-streams and errors: section 4 and `errors-and-headers.md` 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from twisted_gateway.alarm import Alarm
from twisted_gateway.answer import Answer, ErrorBody, Limits, cause_of, detail_of
from twisted_gateway.config.resources import ProviderKey
from twisted_gateway.deadlines import Deadlines
from twisted_gateway.errors import (
    AttemptFailed,
    Problem,
    StrayFrame,
    timed_out,
    transport_error,
    undecodable,
)
from twisted_gateway.exchange import Attempt, Call
from twisted_gateway.formats.row import Format, Sent
from twisted_gateway.messages import Body, HeaderLines, first_value
from twisted_gateway.wire.series import WholeBody
from twisted_gateway.wire.sse import Reader

T = TypeVar("T")
_STREAM = b"text/event-stream"
_JSON = (b"/json", b"+json")
_TOLD = re.compile(rb"[\x20-\x7e]{1,128}").fullmatch


class Client(HTTPClient):
    """treq's client, less what a gateway must not do (cookies, redirects, decompression, buffering)."""

    def __init__(self, agent: IAgent) -> None:
        super().__init__(agent)

    def post(  # type: ignore[override]
        self, url: str, *, headers: Headers, data: bytes, started: Callable[[], None]
    ) -> Deferred[IResponse]:
        """A streaming POST. `started` is called once the connection is up and the request begins to be written."""
        asked: Deferred[IResponse] = self._agent.request(b"POST", url.encode("ascii"), headers, Body(data, started))
        return asked


class Upstream:
    """Makes attempts, through the client of each provider key. `connect_timeout_ms` is only told in errors."""

    def __init__(
        self,
        client: Callable[[ProviderKey], Client],
        clock: IReactorTime,
        limits: Limits,
        connect_timeout_ms: float,
    ) -> None:
        self._client = client
        self._clock = clock
        self._limits = limits
        self._connect_timeout_ms = connect_timeout_ms

    async def open(
        self,
        call: Call,
        attempt: Attempt,
        format: Format,
        url: str,
        headers: HeaderLines,
        sent: Sent,
        wait: Deadlines,
        accepted: Callable[[], None],
    ) -> Answer:
        """Send the request and give the open answer; `accepted` is called for a 2xx head without an event behind it.

        Raises `AttemptFailed`. Cancelled, it closes the connection at once.
        """
        timer = _Deadline(self._clock, attempt, call, wait)
        try:
            client = self._client(attempt.target.model.provider_key)
            response = await timer.watch(client.post(url, headers=headers, data=sent.body, started=timer.started))
            attempt.status = response.code
            if not 200 <= response.code < 300:
                await self._refused(response, format, timer)
            said = first_value(response.headers, b"content-type") or b""
            kind = said.split(b";")[0].strip().lower()
            reader = _reader(call, response, kind, self._limits)
            attempt.content_type = _content_type(call, said, kind)
            answer = Answer(call, format, reader, self._limits)
            response.deliverBody(answer)
            waited = answer.waited()
            if waited is not None:
                accepted()
                await timer.watch(waited)
        except AttemptFailed:
            raise
        except BaseException:
            problem = timer.problem or self._problem(Failure())
            if problem is None:
                raise
            raise AttemptFailed(problem, retryable=True) from None
        finally:
            timer.stop()
        attempt.first_event = self._clock.seconds()
        return answer

    async def _refused(self, response: Any, format: Format, timer: _Deadline) -> None:
        """A status that is no success, as `AttemptFailed`."""
        status = response.code
        body = ErrorBody()
        done = timer.watch(body.done, body.enough)
        response.deliverBody(body)
        text = await done
        after = first_value(response.headers, b"retry-after") or b""
        retry_after = int(after) if after.isdigit() and len(after) < 7 else None
        problem = format.error_body(status, text)
        if retry_after is not None and status in (429, 529):
            problem = _with_retry_after(problem, retry_after)
        raise AttemptFailed(problem, status=status, retryable=not 400 <= status < 500, retry_after=retry_after)

    def _problem(self, failure: Failure) -> Problem | None:
        """What a failure of the connection is to the caller; None when it is a fault of ours or a cancellation."""
        if failure.check(CancelledError, GeneratorExit):
            return None
        if failure.check(TimeoutError):
            return timed_out("connect_timeout", self._connect_timeout_ms)
        if failure.check(StrayFrame):
            return undecodable(str(failure.value))
        if failure.check(AssertionError, TypeError, AttributeError, KeyError, NameError):
            return None
        return transport_error(cause_of(failure), detail_of(failure))


class _Deadline(Alarm):
    """The one timer of an attempt until its answer is open: it cancels whatever is waited for, and says so."""

    __slots__ = ("_attempt", "_give_up", "_name", "_seconds", "_waiting", "problem")

    def __init__(self, clock: IReactorTime, attempt: Attempt, call: Call, wait: Deadlines) -> None:
        super().__init__(clock, self._over)
        self._attempt = attempt
        self._seconds = wait.first_event if call.stream else wait.request
        self._name = "first_event_timeout" if call.stream else "request_timeout"
        self._waiting: Deferred[Any] | None = None
        self._give_up: Callable[[], None] | None = None
        self.problem: Problem | None = None

    def watch(self, waiting: Deferred[T], give_up: Callable[[], None] | None = None) -> Deferred[T]:
        """Wait for that; when the time is over, `give_up`, or cancel it."""
        self._waiting = waiting
        self._give_up = give_up
        return waiting

    def started(self) -> None:
        """The request is being written."""
        self._attempt.sent = self._clock.seconds()
        if self._seconds is not None and self.problem is None:
            self.set(self._seconds)

    def _over(self) -> None:
        assert self._seconds is not None
        if self._give_up is not None:
            self._give_up()
            return
        self.problem = timed_out(self._name, self._seconds * 1000)
        if self._waiting is not None:
            self._waiting.cancel()


def _reader(call: Call, response: Any, kind: bytes, limits: Limits) -> Reader | WholeBody | None:
    """The reader for a 2xx answer; None when its first bytes must tell. Raises `StrayFrame` when it is compressed."""
    coding = first_value(response.headers, b"content-encoding")
    if coding and coding.strip().lower() not in (b"identity", b""):
        unwanted = ErrorBody()
        response.deliverBody(unwanted)  # a body that nobody takes would keep its connection for ever
        unwanted.stop()
        raise StrayFrame("it is compressed though identity was asked for")
    if not call.stream:
        return WholeBody(limits.max_body_bytes)
    if kind == _STREAM:
        return Reader(limits.max_event_bytes)
    return WholeBody(limits.max_body_bytes) if kind.endswith(_JSON) else None


def _content_type(call: Call, said: bytes, kind: bytes) -> bytes | None:
    """The provider's own word for what was asked for, where it is one that may be told (`streaming.md` 5)."""
    if (kind == _STREAM) if call.stream else kind.endswith(_JSON):
        return said.strip() if _TOLD(said) else None
    return None


def _with_retry_after(problem: Problem, seconds: int) -> Problem:
    return attrs.evolve(problem, retry_after=seconds)
