"""Whether a failed attempt may be made again, how soon, and how often (`policy.md` 8, `extensions.md` 5). Pure."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from twisted_gateway.config.resources import Group, Model
from twisted_gateway.config.routes import RetryBudget, Routing
from twisted_gateway.config.settings import Upstream as UpstreamSettings
from twisted_gateway.errors import AttemptFailed
from twisted_gateway.facts import define, frozen

_LONGEST_WISH = 5
"""Seconds: a longer Retry-After is not waited for."""
_FIRST_PAUSE, _LONGEST_PAUSE, _JITTER = 0.25, 2.0, 0.25
_SLOTS = 10
_FORGOTTEN = 4096


def retryable(failed: AttemptFailed, routing: Routing | None) -> bool:
    """Whether another attempt may follow, at the same target or another. `routing` is the group's, if it is one."""
    status = failed.status
    if status is None:
        return failed.retryable
    if routing is not None:
        if status in routing.fallback_on_statuses:
            return True
        if status == 429:
            return routing.retry_on_429
    return not 400 <= status < 500


def pause(failed: AttemptFailed, retry: int, uniform: Callable[[float, float], float]) -> float:
    """Seconds before the n-th retry (from 1) at one target: the provider's own wish where it is short, else growing."""
    wish = failed.retry_after
    wished = wish is not None and 0 < wish <= _LONGEST_WISH
    base = wish if wished and wish is not None else min(_FIRST_PAUSE * 2 ** min(retry - 1, 8), _LONGEST_PAUSE)
    return base + uniform(0.0, _JITTER)


@frozen
class Allowance:
    """How many retries one target gets in a call; one that nobody wrote down does not cover timeouts."""

    retries: int
    written: bool

    def covers(self, failed: AttemptFailed, made: int) -> bool:
        """Whether it lets this failure be followed by one more retry, after so many."""
        return made < self.retries and (self.written or failed.problem.kind != "timeout")


def allowance(model: Model, group: Group | None, boot: UpstreamSettings, more: bool) -> Allowance:
    """The same-target budget. `more`: another target is still queued."""
    if model.retries is not None:
        return Allowance(model.retries, True)
    if group is not None and group.routing.retries is not None:
        return Allowance(group.routing.retries, True)
    return Allowance(0 if more else boot.retries, False)


class Window:
    """Counts calls and extras of the last `seconds`, in slots of a tenth of it.

    Calls are counted over a little less than the window, extras over a little more, so that a bound is kept.
    """

    __slots__ = ("_at", "_calls", "_extras", "_latest", "_slot", "_until")

    def __init__(self, seconds: float) -> None:
        self._slot = seconds / _SLOTS
        self._latest = 0
        self._at = 0
        """Where the latest slot is counted, and when it is over."""
        self._until = self._slot
        self._calls = [0] * (_SLOTS + 1)
        self._extras = [0] * (_SLOTS + 1)

    def called(self, now: float) -> None:
        """One more call."""
        if now >= self._until:
            self._go_on(now)
        self._calls[self._at] += 1

    def added(self, now: float) -> None:
        """One more extra."""
        if now >= self._until:
            self._go_on(now)
        self._extras[self._at] += 1

    def figures(self, now: float) -> tuple[int, int]:
        """Calls and extras in the window."""
        if now >= self._until:
            self._go_on(now)
        oldest = (self._at + 1) % (_SLOTS + 1)
        return sum(self._calls) - self._calls[oldest], sum(self._extras)

    def _go_on(self, now: float) -> None:
        """The latest slot is over."""
        slot = int(now / self._slot)
        for passed in range(max(self._latest + 1, slot - _SLOTS), slot + 1):
            self._calls[passed % (_SLOTS + 1)] = self._extras[passed % (_SLOTS + 1)] = 0
        self._latest = max(slot, self._latest)
        self._at = self._latest % (_SLOTS + 1)
        self._until = (self._latest + 1) * self._slot


class Windows(dict[str, Window]):
    """A window for each target or group, made when it is first asked for; `seconds` long each."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def __missing__(self, name: str) -> Window:
        if len(self) >= _FORGOTTEN:  # ids of models that reloads have taken away
            self.clear()
        window = self[name] = Window(self._seconds)
        return window


@define
class RetryBudgets:
    """`upstream.retry_budget`: how many retries each target may have, in this process. `budget` None = any number."""

    budget: RetryBudget | None
    _windows: Windows = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._windows = Windows(self.budget.window_secs if self.budget is not None else 1.0)

    def called(self, model: str, now: float) -> None:
        """A call turned to this target."""
        if self.budget is not None:
            self._windows[model].called(now)

    def take(self, model: str, now: float) -> bool:
        """Use up one retry, if there is one."""
        budget = self.budget
        if budget is None:
            return True
        window = self._windows[model]
        calls, retries = window.figures(now)
        if retries + 1 > max(budget.min_retries, budget.ratio * calls):
            return False
        window.added(now)
        return True


_HEDGE_WINDOW = 60.0


@define
class HedgeRatios:
    """How many hedges each group may start for its calls of the last 60 s; the first one always."""

    _windows: Windows = attrs.field(factory=lambda: Windows(_HEDGE_WINDOW))

    def called(self, group: str, now: float) -> None:
        """A call of this group began that could be hedged."""
        self._windows[group].called(now)

    def take(self, group: str, most: float, now: float) -> bool:
        """Use up one hedge, if the ratio allows one."""
        window = self._windows[group]
        calls, hedges = window.figures(now)
        if hedges and hedges + 1 > most * calls:
            return False
        window.added(now)
        return True
