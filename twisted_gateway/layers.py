"""Which limits a call meets, in their order, and how much of them it may take (`policy.md` 11.1, 11.2). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from twisted_gateway.charging import estimate
from twisted_gateway.config.limits import RateLimit, RateLimitPolicy
from twisted_gateway.config.resources import Group, Row
from twisted_gateway.exchange import Call, Exchange, Target
from twisted_gateway.facts import frozen
from twisted_gateway.stores.buckets import Ask

API_KEY, MODEL, POLICY = "api_key", "model", "policy"


@frozen
class Layer:
    """One limit that a call meets. `kind` is `api_key`, `model` or `policy`; only the last has a policy."""

    ask: Ask
    kind: str
    policy: RateLimitPolicy | None = None


def at_entry(exchange: Exchange, now: float) -> list[Layer]:
    """What the request meets before any target is chosen. `now` in seconds since the epoch."""
    caller, resolution, call = exchange.caller, exchange.resolution, exchange.call
    assert caller is not None
    assert resolution is not None
    assert call is not None
    row = resolution.model
    if caller.rate_limit is None and row.rate_limit is None and not len(exchange.snapshot.rate_limit_policies):
        return []
    direct = not isinstance(row, Group)
    layers = []
    need = _Need(call)
    if caller.rate_limit is not None and caller.rate_limit.anything:
        layers.append(Layer(need.ask(caller.id, caller.rate_limit), API_KEY))
    layers += _inline(row, need)

    def here(policy: RateLimitPolicy) -> bool:
        return direct or policy.limits is None or not policy.of_models

    if len(exchange.snapshot.rate_limit_policies):
        layers += _policies(exchange, _facts(exchange, row), here, now, need)
    return layers


def at_target(exchange: Exchange, target: Target, now: float) -> list[Layer]:
    """What an attempt at one of a group's targets meets besides."""
    resolution, call = exchange.resolution, exchange.call
    assert resolution is not None
    assert call is not None
    if target.model.id == resolution.model.id:
        return []
    need = _Need(call)
    layers = list(_inline(target.model, need))
    if len(exchange.snapshot.rate_limit_policies):
        facts = _facts(exchange, target.model, resolution.model)
        layers += _policies(exchange, facts, lambda policy: policy.of_models, now, need)
    return layers


def stated_output(call: Call) -> int | None:
    """The most tokens of output that the caller has asked for, over all choices; None where it has not said."""
    try:
        stated = _STATED.decode(call.body)
    except (msgspec.DecodeError, RecursionError):
        return None
    for most in (stated.max_completion_tokens, stated.max_output_tokens, stated.max_tokens):
        if isinstance(most, int) and not isinstance(most, bool) and most > 0:
            choices = stated.n if isinstance(stated.n, int) and stated.n > 1 else 1
            return most * choices
    return None


class _Stated(msgspec.Struct):
    """The members of all dialects that bound the output."""

    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    n: Any = None


_STATED = msgspec.json.Decoder(_Stated)


class _Need:
    """What one call may take of a limit; looked up once, and only where a limit holds it back."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._output: int | None = None
        self._known = False

    def ask(self, bucket: str, limits: RateLimit) -> Ask:
        if not limits.reserve:
            return Ask(bucket, limits)
        if not self._known:
            self._output, self._known = stated_output(self._call), True
        output = limits.reserve_output_tokens if self._output is None else self._output
        return Ask(bucket, limits, estimate(self._call.prompt_bytes) + output)


def _inline(row: Row, need: _Need) -> Iterator[Layer]:
    limits = row.rate_limit
    if limits is not None and limits.anything:
        yield Layer(need.ask(f"model:{row.display_name}", limits), MODEL)


def _facts(exchange: Exchange, row: Row, parent: Row | None = None) -> dict[str, tuple[str, ...]]:
    """What conditions may ask of a request; those of the model for the target first, then for the group."""
    caller = exchange.caller
    assert caller is not None
    rows = (row,) if parent is None else (row, parent)
    facts = {
        "api_key": (caller.id,),
        "model": tuple(one.id for one in rows),
        "model_name": tuple(one.display_name for one in rows),
        "provider": tuple(one.provider for one in rows if one.provider),
    }
    if caller.team_id:
        facts["team"] = (caller.team_id,)
    if caller.user_id:
        facts["member"] = (caller.user_id,)
    return facts


def _policies(
    exchange: Exchange,
    facts: dict[str, tuple[str, ...]],
    wanted: Callable[[RateLimitPolicy], bool],
    now: float,
    need: _Need,
) -> Iterator[Layer]:
    for policy, bucket in exchange.snapshot.rate_limit_policies.matching(facts, wanted):
        if policy.allows.anything and not policy.suspended(now):
            yield Layer(need.ask(bucket, policy.allows), POLICY, policy)
