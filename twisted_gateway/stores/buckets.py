"""What a store of counters is asked and told (`policy.md` 11.3, `extensions.md` 6.1). Pure.

A **bucket** counts requests, tokens and calls at a time under one key. A call asks several, in their order, and then
**holds** its places in them until it is over.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred

from twisted_gateway.config.limits import RateLimit
from twisted_gateway.facts import frozen

REQUESTS, TOKENS, CONCURRENCY = "requests", "tokens", "concurrency"
"""What was used up when a bucket refuses."""


@frozen
class Ask:
    """A place for one more call in a bucket. `estimate`: tokens it may take, held where the limits say `reserve`."""

    bucket: str
    limits: RateLimit
    estimate: int = 0

    @property
    def slot(self) -> bool:
        """Whether it takes one of a number of places."""
        return self.limits.concurrency is not None

    @property
    def held(self) -> int:
        """Tokens that are held from now on."""
        return self.estimate if self.limits.reserve else 0


@frozen
class Standing:
    """A bucket when this call was counted: requests and tokens of this minute (held ones too), calls at a time."""

    requests: int = 0
    tokens: int = 0
    in_flight: int = 0


@frozen
class Refusal:
    """The ask that was refused, by its index; `what` was used up, and is free again in `retry_after` seconds."""

    index: int
    what: str
    retry_after: int | None


@frozen
class Taken:
    """The answer: a standing for each ask, or a refusal, with which nothing is held. `at`: epoch seconds there."""

    at: float
    standings: tuple[Standing, ...] = ()
    refusal: Refusal | None = None


class Store(Protocol):
    """Asking may give a Deferred, which is never late for long; it may be cancelled, and holds nothing then.

    Telling returns at once. A hold is known by a name that is never used twice.
    """

    def take(self, asks: Sequence[Ask], hold: str) -> Taken | Deferred[Taken]:
        """Count one call in all of these buckets, in order, and hold its places there under this name."""

    def enlarge(self, asks: Sequence[Ask], hold: str, tokens: int) -> None:
        """Hold so many tokens more where tokens are held."""

    def release(self, asks: Sequence[Ask], hold: str, tokens: int) -> None:
        """The call is over: count its tokens, now, and free what it held."""


def namer() -> Callable[[], str]:
    """Names for holds: never the same twice, in this process or any other."""
    process, count = secrets.token_hex(6), itertools.count()
    return lambda: f"{process}:{next(count)}"


def window_start(now: float, seconds: int) -> int:
    """The beginning of the window that `now` is in: windows are fixed on the wall clock, UTC."""
    second = int(now)
    return second - second % seconds


def seconds_left(now: float, seconds: int) -> int:
    """Whole seconds to the end of the window, at least 1."""
    return seconds - int(now) % seconds
