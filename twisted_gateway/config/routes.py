"""How calls are spread over targets, and how targets are watched (`configuration.md` 7.2 and 7.3). Pure.

Times are in the unit that a key's name says; statuses are HTTP statuses.
"""

from __future__ import annotations

from typing import Annotated

from twisted_gateway.config.checks import (
    LARGEST,
    Choice,
    Count,
    Filled,
    Flag,
    NonEmpty,
    Number,
    Whole,
)
from twisted_gateway.config.readers import LONGEST_MS, WholeSeconds
from twisted_gateway.facts import frozen

STRATEGIES = ("failover", "round_robin", "consistent_hash", "least_cost", "least_latency", "least_busy")

Retries = Annotated[int, Whole(high=1000)]
Status = Annotated[int, Whole(low=100, high=599)]
LongSeconds = Annotated[int, Whole(low=1, high=LONGEST_MS // 1000)]


@frozen
class ThroughputFloor:
    """How slow a stream may be: estimated tokens per second over the last `window_secs` (`extensions.md` 5)."""

    tokens_per_second: Annotated[float, Number(above=0)]
    window_secs: Annotated[float, Number(low=1, high=LONGEST_MS // 1000)] = 10.0


@frozen
class Cooldown:
    """When and for how long a target that failed is left alone (`policy.md` 10.1)."""

    enabled: Flag = True
    default_seconds: WholeSeconds = 30
    max_seconds: LongSeconds = 600
    honor_retry_after: Flag = True
    trigger_statuses: tuple[Status, ...] = (401, 408, 429, 500, 502, 503, 504)
    trigger_on_timeout: Flag = True
    trigger_on_transport: Flag = True


@frozen
class BackgroundCheck:
    """A small call that is made now and then to see whether a model answers (`policy.md` 10.2)."""

    enabled: Flag
    interval_seconds: Annotated[int, Whole(low=5, high=LONGEST_MS // 1000)]
    timeout_seconds: LongSeconds
    prompt: str
    max_tokens: Annotated[int, Whole(low=1)]
    stale_after_seconds: Annotated[int, Whole(low=1)]
    ignore_statuses: tuple[Status, ...] = ()


@frozen
class RouteTarget:
    """One place of a group, by the `display_name` of its model. Higher priorities come first; weight 0 counts as 1."""

    model: NonEmpty
    weight: Count = 1
    priority: Annotated[int, Whole(low=-LARGEST)] = 0
    tags: tuple[str, ...] = ()


@frozen
class HashSource:
    """What of a call may choose its place on the ring; `name` is the header's or cookie's."""

    type: Annotated[str, Choice(("header", "cookie", "api_key", "client_ip"))]
    name: NonEmpty | None = None


@frozen
class Hedge:
    """A second target is started when the first event is later than `after_ms` (`extensions.md` 5)."""

    after_ms: Annotated[int, Whole(low=1, high=LONGEST_MS)]
    max_extra_ratio: Annotated[float, Number(low=0, high=1)] = 0.1


ROUTING_KEY = HashSource("header", "x-aisix-routing-key")


@frozen
class Routing:
    """What makes a model a group: its targets, and in which order they are tried (`policy.md` 7, 8)."""

    targets: Annotated[tuple[RouteTarget, ...], Filled()]
    strategy: Annotated[str, Choice(STRATEGIES)] = "failover"
    retries: Retries | None = None
    max_fallbacks: Count | None = None
    retry_on_429: Flag = False
    fallback_on_statuses: tuple[Annotated[int, Whole(low=400, high=599)], ...] = ()
    when_all_unavailable: Annotated[str, Choice(("fail", "try_anyway"))] = "fail"
    hash_on: Annotated[tuple[HashSource, ...], Filled()] = (ROUTING_KEY, HashSource("api_key"))
    hedge: Hedge | None = None


@frozen
class RetryBudget:
    """How many retries one target may get: the larger of a number and a part of its calls in the window."""

    ratio: Annotated[float, Number(low=0)] = 0.1
    min_retries: Count = 50
    window_secs: Annotated[float, Number(low=0.001, high=LONGEST_MS // 1000)] = 10.0
