"""From an alias to the targets that may serve it, best first (`policy.md` sections 3 and 7). Pure.

What changes from call to call (turns, latencies, who is cooling down) is asked of a `Standing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Protocol

from twisted_gateway.config.resources import Group, Model
from twisted_gateway.config.routes import HashSource, RouteTarget
from twisted_gateway.config.snapshot import Resolution
from twisted_gateway.errors import Problem, Refused, bad_request, ip_restricted, quoted
from twisted_gateway.exchange import Exchange, Target
from twisted_gateway.facts import frozen
from twisted_gateway.ring import Weighted, ring

TAGS = "x-aisix-routing-tags"
_DEFAULT_TAG = "default"


class Standing(Protocol):
    """How targets are doing, in this process; models by their ids."""

    def turn(self, group: str, priority: int, configured: Weighted, usable: Weighted) -> int:
        """The position in `usable` whose turn it is."""

    def in_flight(self, model: str) -> int:
        """Attempts at it that are running, streams to their end."""

    def latency(self, model: str) -> float | None:
        """The moving average of its successful attempts in ms, None before the first."""

    def cooling(self, model: str) -> bool:
        """It failed a moment ago."""

    def unhealthy(self, model: Model) -> bool:
        """The last background check failed."""


@frozen
class Candidate:
    """A target of a group with its model."""

    route: RouteTarget
    model: Model

    @property
    def weighted(self) -> tuple[str, int]:
        """Name and weight, as rings and turns know it."""
        return self.route.model, self.route.weight


def plan(exchange: Exchange, standing: Standing) -> list[Target]:
    """The targets of a call, in the order in which they are tried. A direct model is a list of one.

    Raises `Refused`: 400, 403 or 503 where a group has none for this call.
    """
    resolution = exchange.resolution
    assert resolution is not None
    row = resolution.model
    if isinstance(row, Model):
        return [Target(row, resolution.upstream_model)]
    if not exchange.endpoint.groups:
        raise Refused(no_provider(row.display_name))
    candidates = _usable(exchange, row, _loaded(exchange, row))
    ordered = _ordered(exchange, row, candidates, standing)
    most = row.routing.max_fallbacks
    tried = ordered if most is None else ordered[: most + 1]
    chosen = _available(row, tried, standing)
    return [Target(one.model, one.model.model_name) for one in chosen]


def shown_name(asked: str, resolution: Resolution) -> str | None:
    """The model's name in answers: what the caller asked; None for a wildcard, which keeps the provider's own."""
    return None if resolution.wildcard else asked


def no_provider(name: str) -> Problem:
    """The 400 for a group where only a direct model will do."""
    return bad_request(f"model {quoted(name)} has no provider (routing models can't be dispatched directly)")


def no_candidates() -> Problem:
    """The 503 of a group all of whose targets are unhealthy."""
    return Problem(
        status=503,
        type="all_candidates_unavailable",
        message="all routing candidates are unavailable",
        retry_after=30,
        kind="unavailable",
    )


def _loaded(exchange: Exchange, group: Group) -> list[Candidate]:
    found = []
    for route in group.routing.targets:
        model = exchange.snapshot.models_by_name.get(route.model)
        if model is None:
            name = quoted(group.display_name)
            raise Refused(bad_request(f"model {name} references unknown routing target {quoted(route.model)}"))
        if not isinstance(model, Model):
            raise Refused(no_provider(route.model))
        found.append(Candidate(route, model))
    return found


def _usable(exchange: Exchange, group: Group, candidates: list[Candidate]) -> list[Candidate]:
    """Those whose tags, address lists and switches let them serve this call."""
    tagged = _tagged(exchange.headers.get(TAGS) or "", candidates)
    admitting = [one for one in tagged if one.model.admits(exchange.peer)]
    if not admitting:
        raise Refused(ip_restricted())
    call = exchange.call
    if call is None or not call.stream:
        return admitting
    streaming = [one for one in admitting if one.model.streaming]
    if not streaming:
        raise Refused(bad_request(f"model `{call.model}` does not support streaming"))
    return streaming


def _tagged(header: str, candidates: list[Candidate]) -> list[Candidate]:
    if not any(one.route.tags for one in candidates):
        return candidates
    wanted = [tag for tag in (part.strip() for part in header.split(",")) if tag]
    defaults = [one for one in candidates if _DEFAULT_TAG in one.route.tags]
    if not wanted:
        return defaults or candidates
    sharing = [one for one in candidates if not set(wanted).isdisjoint(one.route.tags)]
    if not sharing and not defaults:
        raise Refused(bad_request(f"no routing target matches request tags [{', '.join(wanted)}]"))
    return sharing or defaults


def _ordered(exchange: Exchange, group: Group, candidates: list[Candidate], standing: Standing) -> list[Candidate]:
    """By priority, higher first; inside a tier by the strategy, ties as written."""
    order = _STRATEGIES[group.routing.strategy]
    found: list[Candidate] = []
    by_priority = sorted(candidates, key=lambda one: -one.route.priority)
    for priority, tier in groupby(by_priority, key=lambda one: one.route.priority):
        found += order(Tier(exchange, group, priority, list(tier), standing))
    return found


@frozen
class Tier:
    """What a strategy puts into order: the usable targets of one priority, as written."""

    exchange: Exchange
    group: Group
    priority: int
    members: list[Candidate]
    standing: Standing

    @property
    def weighted(self) -> Weighted:
        """Names and weights."""
        return tuple(one.weighted for one in self.members)

    @property
    def configured(self) -> Weighted:
        """Names and weights of the whole tier, whoever may use it."""
        targets = self.group.routing.targets
        return tuple((one.model, one.weight) for one in targets if one.priority == self.priority)


def _as_written(tier: Tier) -> list[Candidate]:
    return tier.members


def _round_robin(tier: Tier) -> list[Candidate]:
    first = tier.standing.turn(tier.group.display_name, tier.priority, tier.configured, tier.weighted)
    return tier.members[first:] + tier.members[:first]


def _consistent_hash(tier: Tier) -> list[Candidate]:
    key = hash_key(tier.exchange, tier.group.routing.hash_on)
    return [tier.members[at] for at in ring(tier.weighted).preference(key)]


def _least_cost(tier: Tier) -> list[Candidate]:
    def price(one: Candidate) -> float:
        cost = one.model.cost
        return float("inf") if cost is None else cost.input_per_1k + cost.output_per_1k

    return sorted(tier.members, key=price)


def _least_latency(tier: Tier) -> list[Candidate]:
    def mean(one: Candidate) -> float:
        known = tier.standing.latency(one.model.id)
        return -1.0 if known is None else known

    return sorted(tier.members, key=mean)


def _least_busy(tier: Tier) -> list[Candidate]:
    return sorted(tier.members, key=lambda one: (tier.standing.in_flight(one.model.id) + 1) / (one.route.weight or 1))


_STRATEGIES: dict[str, Callable[[Tier], list[Candidate]]] = {
    "failover": _as_written,
    "round_robin": _round_robin,
    "consistent_hash": _consistent_hash,
    "least_cost": _least_cost,
    "least_latency": _least_latency,
    "least_busy": _least_busy,
}


def hash_key(exchange: Exchange, sources: Iterable[HashSource]) -> str:
    """The first value that a source yields, trimmed; none: the empty key, which all such calls share."""
    for source in sources:
        if value := (_value(exchange, source) or "").strip():
            return value
    return ""


def _value(exchange: Exchange, source: HashSource) -> str | None:
    if source.type == "api_key":
        return exchange.caller.id if exchange.caller is not None else None
    if source.type == "client_ip":
        return exchange.peer
    if source.name is None:
        return None
    if source.type == "header":
        return exchange.headers.get(source.name)
    return _cookie(exchange.headers.get("cookie") or "", source.name)


def _cookie(header: str, wanted: str) -> str | None:
    """The raw value of the first cookie of that name."""
    for part in header.split(";"):
        name, sign, value = part.partition("=")
        if sign and name.strip() == wanted:
            return value
    return None


def _available(group: Group, tried: Sequence[Candidate], standing: Standing) -> Sequence[Candidate]:
    """Those that are up; else those that are only cooling down; else what the group says."""
    healthy = [one for one in tried if not standing.unhealthy(one.model)]
    ready = [one for one in healthy if not standing.cooling(one.model.id)]
    if ready or healthy:
        return ready or healthy
    if group.routing.when_all_unavailable == "try_anyway":
        return tried
    raise Refused(no_candidates())
