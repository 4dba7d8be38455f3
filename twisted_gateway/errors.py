"""What can go wrong, as facts: one record, two exceptions. How it is told to a caller is `formats.complaints`' affair.

Statuses, types and texts: reference `errors-and-headers.md` sections 2 and 3, `streaming.md` section 11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from twisted_gateway.facts import frozen

if TYPE_CHECKING:
    from twisted_gateway.exchange import Usage

_SHOWN_BYTES = 1024
_SHORTEST_SECRET = 12


@frozen(kw_only=True)
class Problem:
    """One thing that went wrong, as the caller may know it.

    `detail` is for the operator's log alone: it may name hosts and causes. `kind` is the record's `error_class`;
    `anthropic_type` is an Anthropic provider's own error type, kept for callers who speak that dialect.
    """

    status: int
    type: str
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None
    members: Mapping[str, Any] = attrs.field(factory=dict)
    kind: str | None = None
    detail: str | None = None
    anthropic_type: str | None = None
    in_stream_type: str | None = None
    """The `type` an error frame has where it differs from that of a JSON error (`streaming.md` 11.3)."""

    embedded: int | None = None
    """The status inside an error object that came with a good status, where it has one (`streaming.md` 11.2)."""

    usage: Usage | None = None
    """What was used until then, told with the error in the dialect's own form (`extensions.md` 6.2)."""
    told: bool = False
    """The caller was told already, in the provider's own frame: nothing more is written."""

    @property
    def frame_type(self) -> str:
        """The `type` in an error frame."""
        return self.in_stream_type or self.type


class Refused(Exception):
    """Raised by whoever will not let a call go on before any attempt: the caller is answered with `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class AttemptFailed(Exception):
    """One attempt at one target gave no open answer.

    `status` is the provider's own status where it gave one, `retryable` says whether another attempt may be made
    (`policy.md` section 8), `retry_after` the provider's wish in seconds.
    """

    def __init__(
        self, problem: Problem, *, status: int | None = None, retryable: bool = False, retry_after: int | None = None
    ) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.status = status
        self.retryable = retryable
        self.retry_after = retry_after

    def let_go(self) -> None:
        """Forget where it was raised, which nobody asks: those frames hold what holds it, till the collector looks."""
        self.__traceback__ = self.__context__ = None


class StrayFrame(Exception):
    """A frame that this dialect cannot carry: broken JSON or an event over the size limit (`upstream_decode_error`)."""


def shown(text: str) -> str:
    """`text` as far as a caller is shown a provider's words: at most 1024 bytes, cut on a character boundary."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= _SHOWN_BYTES:
        return text
    return raw[:_SHOWN_BYTES].decode("utf-8", "ignore") + "…"


def ended_by(problem: Problem) -> str:
    """What ended an attempt, in words of our own: the timer's name, else the type."""
    return problem.code if problem.kind == "timeout" and problem.code else problem.frame_type


def without(problem: Problem, secret: str) -> Problem:
    """`problem` with a credential blotted out wherever a provider's words quote it.

    One that is shorter than any real key (`none`, `ollama`) is a word like others.
    """
    if len(secret) < _SHORTEST_SECRET:
        return problem
    fields = {name: getattr(problem, name) for name in ("message", "code", "param", "detail")}
    clean = {name: text.replace(secret, "***") for name, text in fields.items() if text and secret in text}
    return attrs.evolve(problem, **clean) if clean else problem


def quoted(name: str) -> str:
    """A name as 403 and 404 texts show it: in double quotes, `"` and `\\` escaped."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def bad_request(detail: str) -> Problem:
    """A 400 of our own making (`errors-and-headers.md` 2.2)."""
    return Problem(
        status=400,
        type="invalid_request_error",
        message=f"request payload is invalid: {detail}",
        kind="invalid_request",
    )


def ip_restricted() -> Problem:
    """The 403 for a caller whose address a model's list does not admit; the text does not name it."""
    return Problem(
        status=403,
        type="permission_denied",
        code="ip_restricted",
        message="Access denied: your client IP is not allowed to access this model",
        kind="permission_denied",
    )


def over_target_limit(target: str, problem: Problem) -> Problem:
    """A group's target that is over its own limit, as chat tells it (`policy.md` 11.2); other problems as they are."""
    if problem.type != "rate_limit_exceeded" or "policy" in problem.members:
        return problem
    message = f"routing target {quoted(target)} is over its model rate limit: {problem.message}"
    return attrs.evolve(problem, type="upstream_error", message=message)


def too_large(limit: int) -> Problem:
    """The 413 for a request body over `limit` bytes."""
    return Problem(
        status=413,
        type="invalid_request_error",
        message=f"request body exceeds {limit}-byte limit",
        kind="request_too_large",
    )


def no_room() -> Problem:
    """The 503 for a body that would pass the process's budget of bytes in memory (`extensions.md` 1)."""
    return Problem(
        status=503,
        type="overloaded",
        message="gateway has no room for this request body now",
        retry_after=1,
        kind="overloaded",
    )


def timed_out(timer: str, milliseconds: float) -> Problem:
    """A deadline passed. `timer` names it: connect_timeout, first_event_timeout, silence_timeout, request_timeout."""
    return Problem(
        status=504,
        type="timeout",
        code=timer,
        message=f"upstream request timed out after {_number(milliseconds)}ms",
        kind="timeout",
        detail=timer,
    )


def too_slow(tokens_per_second: float, seconds: float) -> Problem:
    """A stream fell below its throughput floor (`extensions.md` 5)."""
    return Problem(
        status=504,
        type="timeout",
        code="throughput_floor",
        message=f"upstream slower than {_number(tokens_per_second)} tokens/s over {_number(seconds)} s",
        kind="timeout",
        detail="throughput_floor",
    )


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def transport_error(cause: str, detail: str) -> Problem:
    """The connection could not be made or broke. `cause` names no host; `detail` may."""
    return Problem(
        status=502, type="transport_error", message=f"transport error: {cause}", kind="transport", detail=detail
    )


def undecodable(cause: str, detail: str | None = None) -> Problem:
    """A 2xx answer that is not what its dialect allows."""
    return Problem(
        status=502,
        type="upstream_decode_error",
        message=f"upstream returned an unparseable body: {cause}",
        kind="upstream_decode",
        detail=detail,
    )


def broken_off(detail: str | None = None) -> Problem:
    """The provider ended before the answer did (`streaming.md` section 10)."""
    return Problem(
        status=502,
        type="stream_aborted",
        message="upstream cancelled the response mid-stream",
        kind="stream_aborted",
        detail=detail,
    )


def our_fault(detail: str) -> Problem:
    """A fault of the gateway itself; what it was is only logged."""
    return Problem(
        status=500, type="internal_error", message="the gateway failed on this request", kind="internal", detail=detail
    )


def shutting_down() -> Problem:
    """The process ends before this call did (`extensions.md` 10)."""
    return Problem(
        status=503, type="shutting_down", message="the gateway is shutting down", kind="shutting_down", retry_after=1
    )
