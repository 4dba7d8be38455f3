"""Accounting: the only writer of metrics about calls, of usage records and of the access log.

It comes first in the tuple of policies, so it sees every call that has an exchange, and its ticket is settled last.
What is written for whom: `operations.md` 5 (metrics), 6 (lines), 7 and `extensions.md` 9 (records); `policy.md` 2 for
callers who were not let in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import attrs
from twisted.logger import Logger, LogLevel

from twisted_gateway.call_metrics import UNKNOWN, CallLabels
from twisted_gateway.charging import Charge, charge
from twisted_gateway.client_types import ClientTypes
from twisted_gateway.exchange import Attempt, Exchange, Outcome, Ticket
from twisted_gateway.facts import define
from twisted_gateway.metrics import Metrics
from twisted_gateway.records import (
    HEDGE_LOST,
    LEFT,
    Record,
    ended_at,
    ended_by,
    milliseconds,
    record,
    row_of,
    status_of,
    ttft,
)
from twisted_gateway.route_metrics import RouteMetrics
from twisted_gateway.spending import Spending

if TYPE_CHECKING:
    from twisted_gateway.config.resources import Row

ACCESS = "aisix::access"
"""The target of access and provider call lines."""

NO_MODEL_ENDPOINTS = frozenset({"/v1/models", "/v1/models/{id}", "/v1/streams", "/v1/streams/{id}/stop", "other"})
"""Endpoints that the `aisix_llm_*` request families do not count."""

ROUTED_ENDPOINTS = frozenset({"/v1/chat/completions", "/v1/messages", "/v1/responses"})
"""Endpoints whose attempts are counted one by one (`operations.md` 5.3)."""

_UNRESOLVED = "unresolved"
_QUIET_DENIALS = frozenset({"missing_credentials", "unknown_key"})
_LONGEST_TEXT = 2048


class AccessLog(Protocol):
    """Where lines that come with every call go (`logs.Log` is one)."""

    def enabled(self, level: object) -> bool:
        """Whether lines of this level are shown."""

    def write_all(self, level: object, target: str, lines: Sequence[tuple[str, Mapping[str, object]]]) -> None:
        """Show lines, messages and their fields, that tell of the same moment; None is left out."""


@define
class Accounting:
    """The policy. Each of `records` is handed each call's record at settlement; it must neither wait nor change it.

    `access_log` says whether access lines are written (`observability.access_log`); provider call lines are, anyway.
    """

    metrics: Metrics
    lines: AccessLog
    records: list[Callable[[Record], None]] = attrs.field(factory=list)
    access_log: bool = True
    books: Spending | None = None
    """Where the use of keys, teams and models is summed up."""
    client_types: ClientTypes = attrs.field(factory=ClientTypes)
    log: Logger = attrs.field(factory=lambda: Logger(namespace="aisix::accounting"))
    auth_log: Logger = attrs.field(factory=lambda: Logger(namespace="aisix::auth"))

    def admit(self, exchange: Exchange) -> AccountingTicket:
        """Begin to count a call; nobody is ever refused here."""
        self.metrics.arrived(exchange.endpoint.path, exchange.endpoint.dialect)
        return AccountingTicket(self, exchange)

    def denied(
        self, exchange: Exchange, reason: str, *, api_key_id: str | None = None, method: str = "api_key"
    ) -> None:
        """A caller was not let in (401): counted, and told to the log `aisix::auth`, which is all that is written.

        `method` is `api_key`, `jwt`, `none` or `anonymous`; `reason` is one of `operations.md` 5.4:
        missing_credentials, unknown_key, key_disabled, key_expired, jwt_*.
        """
        self.metrics.decided(method, "denied", reason)
        known = {"api_key_id": api_key_id} if api_key_id is not None else {}
        self.auth_log.emit(
            LogLevel.debug if reason in _QUIET_DENIALS else LogLevel.warn,
            "caller denied",
            method=method,
            reason=reason,
            http_method=exchange.method,
            path=exchange.path,
            request_id=exchange.id,
            source_ip=exchange.peer,
            **known,
        )


@define
class AccountingTicket(Ticket):
    """What accounting knows of one call: whether its gauges are still up."""

    accounting: Accounting
    exchange: Exchange
    _waiting: bool = True
    _streaming: bool = False
    _settled: bool = False

    def opened(self) -> None:
        """The response head was written: told by the trunk at once, for the gauges to be right while a stream runs."""
        if not self._waiting or self._settled:
            return
        self._waiting = False
        exchange, metrics = self.exchange, self.accounting.metrics
        endpoint, call = exchange.endpoint, exchange.call
        metrics.headed(endpoint.path, endpoint.dialect)
        if call is not None and call.stream:
            self._streaming = True
            metrics.stream_opened(endpoint.path)

    def settle(self, outcome: Outcome) -> None:
        """Write everything about the call, once; a second time does nothing."""
        if self._settled:
            return
        self._settled = True
        exchange, accounting = self.exchange, self.accounting
        if self._waiting:
            accounting.metrics.headed(exchange.endpoint.path, exchange.endpoint.dialect)
        if self._streaming:
            accounting.metrics.stream_closed(exchange.endpoint.path)
        status = status_of(exchange, outcome)
        if exchange.caller is None and status == 401:
            return
        settled = settlement(exchange, outcome, status)
        labels = labels_of(settled)
        _count(accounting, settled, labels)
        if exchange.caller is not None:
            _keep(accounting, settled, labels)
        _tell(accounting, settled)


class Settled(NamedTuple):
    """A call that is over, and what all who tell of it need. Times in seconds."""

    exchange: Exchange
    outcome: Outcome
    status: int
    charged: Charge
    attempt: Attempt | None
    row: Row | None
    head: float
    """To the response head, or to the end when none was written."""
    duration: float
    first: float | None
    """From the attempt to its first data event."""


def settlement(exchange: Exchange, outcome: Outcome, status: int) -> Settled:
    """All that is to be told of a call."""
    ended = ended_at(exchange)
    head = ended if exchange.committed is None else exchange.committed
    return Settled(
        exchange,
        outcome,
        status,
        charge(exchange, outcome),
        exchange.attempt,
        row_of(exchange),
        max(0.0, head - exchange.arrived),
        max(0.0, ended - exchange.arrived),
        ttft(exchange),
    )


def labels_of(settled: Settled) -> CallLabels:
    """The call's labels: configured names only (`operations.md` 5, bounded labels)."""
    exchange, attempt, row = settled.exchange, settled.attempt, settled.row
    caller = exchange.caller
    if row is not None:
        model = row.display_name
    else:
        model = _UNRESOLVED if exchange.call is not None and exchange.call.model else UNKNOWN
    target = attempt.target.model if attempt is not None else None
    key = target.provider_key if target is not None else None
    return CallLabels(
        exchange.endpoint.path,
        exchange.endpoint.dialect,
        target.provider if target is not None else UNKNOWN,
        model,
        target.model_name if target is not None else UNKNOWN,
        key.id if key is not None else UNKNOWN,
        key.display_name if key is not None else UNKNOWN,
        caller.id if caller is not None else UNKNOWN,
        (caller.team_id if caller is not None else None) or UNKNOWN,
        (caller.user_id if caller is not None else None) or UNKNOWN,
        (caller.user_name if caller is not None else None) or UNKNOWN,
    )


def _count(accounting: Accounting, settled: Settled, labels: CallLabels) -> None:
    """All metrics of a settled call but those of its usage events."""
    exchange, outcome, status, charged, attempt, *_ = settled
    metrics = accounting.metrics
    stream = exchange.call is not None and exchange.call.stream
    path = exchange.endpoint.path
    metrics.handled(
        labels,
        status=status,
        stream=stream,
        fallback=attempt is not None and attempt.kind == "fallback",
        model_endpoint=path not in NO_MODEL_ENDPOINTS,
        head=settled.head,
        duration=settled.duration,
        first_event=settled.first,
    )
    metrics.ended(path, str(outcome))
    if outcome is Outcome.ABANDONED and exchange.committed is None:
        metrics.left_early(labels)
    if exchange.problem is not None and exchange.problem.kind == "request_too_large":
        metrics.too_large(path, exchange.endpoint.dialect, exchange.body_drain or UNKNOWN)
    if charged.total:
        client = accounting.client_types.of(exchange.headers.get("user-agent"))
        metrics.tokens(labels, client, prompt=charged.prompt, completion=charged.completion, total=charged.total)
    if charged.cost_usd:
        metrics.spent(labels, charged.cost_usd * 1e6)
    if path in ROUTED_ENDPOINTS:
        _count_attempts(metrics.routes, exchange)
    if exchange.cache is not None and exchange.cache.policy is not None:
        metrics.cached(exchange.cache.policy, exchange.cache.status, exchange.cache.layer)
    for one in exchange.attempts:
        if one.noise:
            metrics.noise("frame", one.noise)


def _count_attempts(metrics: RouteMetrics, exchange: Exchange) -> None:
    """Each attempt that turned to a provider, and what it was made for."""
    row = row_of(exchange)
    for attempt in exchange.attempts:
        model = attempt.target.model
        lost = attempt.ended_by == HEDGE_LOST
        good = None if lost else True if attempt.first_event is not None else False if attempt.problem else None
        if attempt.contacted:
            metrics.attempted(model, good=good, cooled=attempt.cooled)
        if attempt.unretried:
            metrics.unretried(model.display_name)
        if row is None:
            continue
        if attempt.kind == "fallback" and good is not None:
            metrics.fell_back(row.display_name, model.display_name, good)
        elif attempt.kind == "hedge":
            result = "lost" if lost else "abandoned" if good is None else "won" if good else "failed"
            metrics.hedged(row.display_name, result)


def _keep(accounting: Accounting, settled: Settled, labels: CallLabels) -> None:
    """Count the call's usage events and hand its record to all who want it."""
    exchange, outcome, status, charged, winner, row, *_ = settled
    handler = exchange.endpoint.format
    dropped = None if accounting.records else "sink_disabled"
    for attempt in exchange.attempts:
        key = attempt.target.model.provider_key
        code = status if attempt is winner else _attempt_status(attempt)
        accounting.metrics.usage_event(labels, handler, code, (key.id, key.display_name), dropped)
    if not exchange.attempts:
        accounting.metrics.usage_event(labels, handler, status, (UNKNOWN, UNKNOWN), dropped)
    if accounting.books is not None and exchange.caller is not None:
        caller, model = exchange.caller, row.id if row is not None else None
        accounting.books.use(charged, api_key=caller.id, team=caller.team_id, model=model)
    if not accounting.records:
        return
    made = record(exchange, outcome, charged)
    for keep in accounting.records:
        try:
            keep(made)
        except Exception:
            accounting.log.failure("a usage record was lost")


def _attempt_status(attempt: Attempt) -> int:
    if attempt.status is not None:
        return attempt.status
    return attempt.problem.status if attempt.problem is not None else 0


def _tell(accounting: Accounting, settled: Settled) -> None:
    """Write a line for each attempt that the provider gave an id, and the call's own line."""
    if not accounting.lines.enabled(LogLevel.info):
        return
    exchange = settled.exchange
    lines = [
        ("provider call completed", provider_fields(exchange, attempt))
        for attempt in exchange.attempts
        if attempt.provider_request_id
    ]
    if accounting.access_log:
        lines.append(("proxy request completed", access_fields(settled)))
    accounting.lines.write_all(LogLevel.info, ACCESS, lines)


def provider_fields(exchange: Exchange, attempt: Attempt) -> dict[str, object]:
    """The fields of a provider call line (`operations.md` 6.2)."""
    return {
        "request_id": exchange.id,
        "provider_request_id": attempt.provider_request_id,
        "attempt_index": attempt.index,
        "attempt_kind": attempt.kind,
        "handler": exchange.endpoint.format,
        "status": attempt.status,
        "requested_model": exchange.call.model[:_LONGEST_TEXT] if exchange.call is not None else None,
        "provider_model_version": attempt.provider_model,
    }


def access_fields(settled: Settled) -> dict[str, object]:
    """The fields of an access line (`operations.md` 6.1); None where a field does not apply."""
    exchange, outcome, status, charged, attempt, row, head, duration, first = settled
    call, caller = exchange.call, exchange.caller
    stream = call is not None and call.stream
    fields: dict[str, object] = {
        "method": exchange.method,
        "path": exchange.path if status != 413 else exchange.endpoint.path,
        "status": status,
        "outcome": str(outcome),
        "latency_ms": milliseconds(head),
        "ttft_ms": milliseconds(first) if first is not None else None,
        "duration_ms": milliseconds(duration),
        "provider": attempt.target.model.provider if attempt is not None else None,
        "model": call.model[:_LONGEST_TEXT] if call is not None else None,
        "api_key_id": caller.id if caller is not None else None,
        "request_id": exchange.id,
    }
    if attempt is not None:
        fields["prompt_tokens"] = charged.prompt
        fields["completion_tokens"] = charged.completion
        fields["total_tokens"] = charged.total
        if not stream:
            fields["provider_request_id"] = attempt.provider_request_id
        if row is not None and row.id != attempt.target.model.id:  # a group
            fields["served_by_model"] = attempt.target.model.display_name
            fields["routing_attempt_count"] = len(exchange.attempts)
            fields["routing_fallback_count"] = sum(one.kind == "fallback" for one in exchange.attempts)
    fields["frames"], fields["bytes"] = exchange.frames, exchange.bytes
    if outcome is not Outcome.COMPLETE:
        fields["ended_by"] = ended_by(exchange, outcome)
        fields["error_kind"], fields["error"] = _error(exchange, outcome)
    return fields


def _error(exchange: Exchange, outcome: Outcome) -> tuple[str | None, str | None]:
    """The error's type and its full text, for the operator's eyes."""
    if outcome is Outcome.ABANDONED:
        return LEFT, None
    problem = exchange.problem
    if problem is None:
        return None, None
    text = f"{problem.message}: {problem.detail}" if problem.detail else problem.message
    return problem.type, text[:_LONGEST_TEXT]
