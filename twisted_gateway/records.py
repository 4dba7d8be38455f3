"""The record of one call: what usage files, hooks and the metrics per attempt are made from. Pure.

Field names: `operations.md` 7 and `extensions.md` 9. Members that those lists mark with a star are left out when they
are empty, zero or false. Times are milliseconds with one decimal; no content and no credential ever is in a record.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from twisted_gateway.charging import NOTHING, Charge, charge, charged_attempt, lost_race
from twisted_gateway.exchange import Attempt, Exchange, Outcome

if TYPE_CHECKING:
    from twisted_gateway.config.resources import Row

Record = dict[str, Any]

LEFT = "client_disconnected"
HEDGE_LOST = "hedge_lost"
_USD_DIGITS = 9
CALLER_LEFT_STATUS = 499
_LONGEST_TEXT = 2048


def record(exchange: Exchange, outcome: Outcome, charged: Charge | None = None) -> Record:
    """The record of a settled call. `charged` is `charge(exchange, outcome)`, handed in where it is known already.

    Raises nothing for an exchange that ended early: what is not known is left out.
    """
    charged = charge(exchange, outcome) if charged is None else charged
    made = _call_part(exchange, outcome)
    made.update(_token_part(charged))
    made.update(_present(_caller_part(exchange)))
    made.update(_present(_cache_part(exchange)))
    made.update(_present(_guarded_part(exchange)))
    if (attempt := exchange.attempt) is not None:
        made["attempt_index"] = attempt.index
        made.update(_present(_attempt_part(exchange, attempt)))
    if error := _present(_error_part(exchange, outcome)):
        made.update(error)
    winner = charged_attempt(exchange, outcome)
    made["attempts"] = [
        _attempt_entry(exchange, attempt, outcome, charged if attempt is winner else _lost(exchange, attempt))
        for attempt in exchange.attempts
    ]
    return made


def status_of(exchange: Exchange, outcome: Outcome) -> int:
    """The status a call is counted with: 499 when the caller left, else what was written, or would have been."""
    if outcome is Outcome.ABANDONED:
        return CALLER_LEFT_STATUS
    if exchange.status is not None:
        return exchange.status
    if exchange.problem is not None:
        return exchange.problem.status
    return 200 if outcome is Outcome.COMPLETE else 500


def row_of(exchange: Exchange) -> Row | None:
    """The configured model that the caller's name resolved to, or None."""
    return exchange.resolution.model if exchange.resolution is not None else None


def is_group(exchange: Exchange) -> bool:
    """Whether the name was served by a target with a row of its own."""
    row, attempt = row_of(exchange), exchange.attempt
    return row is not None and attempt is not None and attempt.target.model.id != row.id


def ended_by(exchange: Exchange, outcome: Outcome) -> str | None:
    """What ended a call early: the attempt's own word for it, a deadline's name, or the error's kind."""
    if outcome in (Outcome.COMPLETE, Outcome.STOPPED):
        return None
    if outcome is Outcome.ABANDONED:
        return LEFT
    attempt = exchange.attempt
    if attempt is not None and attempt.ended_by:
        return attempt.ended_by
    problem = exchange.problem or (attempt.problem if attempt is not None else None)
    return (problem.code or problem.kind or problem.type) if problem is not None else None


def ttft(exchange: Exchange) -> float | None:
    """Seconds from the start of the last attempt to its first data event (`streaming.md` 14.3), or None."""
    attempt = exchange.attempt
    if attempt is None or attempt.first_event is None:
        return None
    return max(0.0, attempt.first_event - attempt.started)


def milliseconds(seconds: float) -> float:
    """Seconds as milliseconds with one decimal, never negative."""
    return int(seconds * 10_000 + 0.5) / 10 if seconds > 0 else 0.0  # `round` takes three times as long


def ended_at(exchange: Exchange) -> float:
    """When the call ended, on the exchange's clock; its last known moment when nobody said."""
    if exchange.ended is not None:
        return exchange.ended
    return exchange.bound or exchange.committed or exchange.arrived


def _present(fields: Mapping[str, Any]) -> Record:
    return {name: value for name, value in fields.items() if value}


def _call_part(exchange: Exchange, outcome: Outcome) -> Record:
    call, row = exchange.call, row_of(exchange)
    made: Record = {
        "request_id": exchange.id,
        "occurred_at": rfc3339(exchange.arrived_at),
        "model_id": row.id if row is not None else "",
        "api_key_id": exchange.caller.id if exchange.caller is not None else "",
        "status_code": status_of(exchange, outcome),
        "outcome": str(outcome),
        "endpoint": exchange.endpoint.path,
        "stream": call is not None and call.stream,
        "frames": exchange.frames,
        "bytes": exchange.bytes,
        "upstream_latency_ms": 0.0,
        "guardrail_blocked": _blocked(exchange),
        "inbound_protocol": exchange.endpoint.dialect,
    }
    if call is not None and call.model:
        made["requested_model"] = call.model[:_LONGEST_TEXT]
    first = exchange.bound if exchange.bound is not None else ended_at(exchange)
    if waited := milliseconds(first - exchange.arrived):
        made["downstream_latency_ms"] = waited
    if by := ended_by(exchange, outcome):
        made["ended_by"] = by
    if exchange.drained:
        made["drained"] = True
    return made


def _blocked(exchange: Exchange) -> bool:
    if exchange.guarded is not None and exchange.guarded.blocked:
        return True
    return exchange.problem is not None and exchange.problem.type == "content_filter"


def _guarded_part(exchange: Exchange) -> Record:
    """What guardrails did (`guardrails.md` 13)."""
    guarded = exchange.guarded
    if guarded is None:
        return {}
    return {
        "applied_guardrails": guarded.applied,
        "guardrail_enforced_hits": guarded.enforced,
        "guardrail_monitor_hits": guarded.monitored,
        "redacted_entity_counts": guarded.redacted,
        "guardrail_bypassed_reason": guarded.bypassed,
    }


def _token_part(charged: Charge) -> Record:
    made = {
        "prompt_tokens": charged.prompt,
        "completion_tokens": charged.completion,
        "completion_tokens_delivered": charged.completion_delivered,
        "usage_source": charged.source,
        "cost_usd": round(charged.cost_usd, _USD_DIGITS),
    }
    made.update(
        _present(
            {
                "completion_tokens_reported": charged.completion_reported,
                "cached_prompt_tokens": charged.cache_read,
                "cache_read_tokens": charged.cache_read,
                "cache_creation_tokens": charged.cache_write,
                "reasoning_tokens": charged.reasoning,
                "usage_estimated": charged.estimated,
            }
        )
    )
    return made


def _caller_part(exchange: Exchange) -> Record:
    agent = exchange.headers.get("user-agent")
    return {
        "auth_type": "api_key" if exchange.caller is not None else None,
        "client_source_ip": exchange.peer,
        "client_user_agent": agent[:_LONGEST_TEXT] if agent else None,
    }


def _cache_part(exchange: Exchange) -> Record:
    use = exchange.cache
    if use is None:
        return {}
    return {
        "cache_status": use.status,
        "cache_hit_saved_input_tokens": use.saved_prompt,
        "cache_hit_saved_output_tokens": use.saved_completion,
        "cache_hit_layer": use.layer,
    }


def _attempt_part(exchange: Exchange, attempt: Attempt) -> Record:
    first, tags = ttft(exchange), attempt.target.model.provider_key.telemetry_tags
    return {
        "upstream_latency_ms": milliseconds(_until(exchange, attempt) - attempt.started),
        "upstream_ttft_ms": milliseconds(first) if first is not None else None,
        "provider_request_id": attempt.provider_request_id,
        "provider_model_version": attempt.provider_model,
        "finish_reason": attempt.finish_reason,
        "attempt_kind": attempt.kind,
        "attempt_model": attempt.target.model.display_name if is_group(exchange) else None,
        "provider_kind": tags.kind,
        "provider_featured": tags.featured,
        "branded_provider": tags.branded_provider,
        "pk_label": tags.pk_label,
        "byo_label": tags.byo_label,
    }


def _error_part(exchange: Exchange, outcome: Outcome) -> Record:
    if outcome is Outcome.ABANDONED:
        return {"error_class": LEFT}
    problem = exchange.problem
    if outcome is Outcome.COMPLETE or problem is None:
        return {}
    return {"error_class": problem.kind or problem.type, "error_message": problem.message[:_LONGEST_TEXT]}


def _lost(exchange: Exchange, attempt: Attempt) -> Charge:
    """What an attempt that did not win is written down with."""
    return lost_race(exchange, attempt) if attempt.ended_by == HEDGE_LOST else NOTHING


def _attempt_entry(exchange: Exchange, attempt: Attempt, outcome: Outcome, charged: Charge) -> Record:
    model, problem = attempt.target.model, attempt.problem
    entry: Record = {
        "index": attempt.index,
        "kind": attempt.kind,
        "model": model.display_name,
        "provider_key_id": model.provider_key.id,
        "duration_ms": milliseconds(_until(exchange, attempt) - attempt.started),
        "ended_by": attempt.ended_by
        or ((problem.code or problem.kind or problem.type) if problem is not None else str(outcome)),
        "prompt_tokens": charged.prompt,
        "completion_tokens": charged.completion,
        "cost_usd": round(charged.cost_usd, _USD_DIGITS),
    }
    if attempt.status is not None:
        entry["status"] = attempt.status
    if attempt.first_event is not None:
        entry["ttft_ms"] = milliseconds(attempt.first_event - attempt.started)
    return entry


def _until(exchange: Exchange, attempt: Attempt) -> float:
    return attempt.ended if attempt.ended is not None else ended_at(exchange)


def rfc3339(at: float) -> str:
    """Seconds since the epoch as RFC 3339, UTC, with milliseconds."""
    whole = int(at)
    return f"{_second(whole)}.{int((at - whole) * 1000):03d}Z"


def rfc3339_seconds(at: float) -> str:
    """The same in whole seconds."""
    return f"{_second(int(at))}Z"


@lru_cache(maxsize=8)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
