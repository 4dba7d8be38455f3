"""The attempts of one call, one after the other, until one gives an open answer (`policy.md` 8, `extensions.md` 5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from twisted_gateway.config.resources import Group
from twisted_gateway.config.routes import Hedge
from twisted_gateway.config.settings import Upstream as UpstreamSettings
from twisted_gateway.downstream import Downstream
from twisted_gateway.errors import AttemptFailed, Problem, Refused, over_target_limit
from twisted_gateway.exchange import CHAT, Attempt, Exchange, Target, Ticket
from twisted_gateway.facts import define
from twisted_gateway.health import Health
from twisted_gateway.hedging import Race
from twisted_gateway.opening import Opened, Opener, Way, begun
from twisted_gateway.records import HEDGE_LOST
from twisted_gateway.retrying import HedgeRatios, RetryBudgets, allowance, pause, retryable

TakeBack = Callable[[], None]


class Skipped(AttemptFailed):
    """A target that was not asked: a limit of ours, or its own configuration, stands before it. The next may do."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, retryable=True)


@define
class Means:
    """What the attempts of all calls share. `uniform` is `random.uniform`."""

    opener: Opener
    health: Health
    settings: UpstreamSettings
    clock: IReactorTime
    uniform: Callable[[float, float], float]
    budgets: RetryBudgets = attrs.field(init=False)
    hedges: HedgeRatios = attrs.field(factory=HedgeRatios)

    def __attrs_post_init__(self) -> None:
        self.budgets = RetryBudgets(self.settings.retry_budget)


class Attempts:
    """The way from a call's targets to one open answer, and, when that breaks before it is bound, to the next.

    `headed(way)` is called when a 2xx head has come that may be committed to by a heartbeat.
    """

    __slots__ = (
        "_current", "_group", "_hedge", "_last", "_now", "_pause", "_promised", "_reserved", "_retries", "_running",
        "downstream", "exchange", "headed", "means", "targets", "tickets",
    )  # fmt: skip

    def __init__(
        self,
        means: Means,
        exchange: Exchange,
        targets: list[Target],
        tickets: Sequence[Ticket],
        downstream: Downstream,
        headed: Callable[[Way], None],
    ) -> None:
        self.means = means
        self.exchange = exchange
        self.targets = targets
        self.tickets = tickets
        self.downstream = downstream
        self.headed = headed
        self._now = means.clock.seconds
        self._current: Target | None = None
        self._retries = 0
        self._pause = 0.0
        self._last: AttemptFailed | None = None
        self._reserved: dict[int, list[TakeBack]] = {}
        """What policies reserved for the attempts that run or serve, by their targets' `id()`."""
        self._running: dict[int, Target] = {}
        self._promised: set[int] = set()
        """Those of them whose good head has come."""
        self._group: Group | None = None
        self._hedge: Hedge | None = None
        row = exchange.resolution.model if exchange.resolution is not None else None
        if isinstance(row, Group):
            self._group = row
            if row.routing.hedge is not None and exchange.call is not None and exchange.call.stream:
                self._hedge = row.routing.hedge
                means.hedges.called(row.id, self._now())

    async def open(self) -> Opened | bytes:
        """The next open answer, or the bytes of an answer that needs no provider.

        Raises what the caller is told when there is none: `AttemptFailed`, or `Refused` where nobody was asked.
        Cancelled, everything that was begun is closed at once.
        """
        while True:
            if self._pause:
                await _asleep(self.means.clock, self._pause)
            target = self._current or self._next()
            kind = "initial" if not self.exchange.attempts else "retry" if self._retries else "fallback"
            try:
                way = self._way(target)
                if way.ready is not None:
                    return way.ready
                if self._hedge is None or not self.targets:
                    return await self._one(way, kind)
                return await self._raced(way, kind, self._hedge)
            except AttemptFailed as failed:
                self._failed(failed)

    def broke(self, attempt: Attempt, failed: AttemptFailed) -> None:
        """Its relayed answer failed before a data frame of it was written. Raises `failed` when that was the last."""
        exchange = self.exchange
        exchange.serving = None
        self._give_back(attempt.target)
        if exchange.committed is None and not self.downstream.gone:
            self._note(attempt, failed)
        self._failed(failed)

    def left(self, attempt: Attempt) -> None:
        """The relay is done with its answer."""
        self.means.health.ended(attempt.target.model)

    # Which target, and when

    def _next(self) -> Target:
        """Turn to the next target. Raises what is told when there is none."""
        if not self.targets:
            raise self._end()
        target = self._current = self.targets.pop(0)
        self._retries = 0
        self.means.budgets.called(target.model.id, self._now())
        return target

    def _failed(self, failed: AttemptFailed) -> None:
        """Decide what follows; raises `failed` when nothing may."""
        failed.let_go()
        self._last, self._pause = failed, 0.0
        if self.downstream.gone:
            raise CancelledError
        target = self._current
        assert target is not None
        if isinstance(failed, Skipped):
            self._current = None
            return
        if not retryable(failed, self._group.routing if self._group is not None else None):
            raise failed
        allowed = allowance(target.model, self._group, self.means.settings, bool(self.targets))
        if allowed.covers(failed, self._retries):
            if self.means.budgets.take(target.model.id, self._now()):
                self._retries += 1
                self._pause = pause(failed, self._retries, self.means.uniform)
                return
            self._latest(target).unretried = True
        self._current = None

    def _end(self) -> Exception:
        """What is told when no target is left: the last failure."""
        last = self._last
        assert last is not None, "a plan has at least one target"
        if isinstance(last, Skipped) and not any(one.contacted for one in self.exchange.attempts):
            return Refused(last.problem)
        return last

    # One attempt

    def _way(self, target: Target) -> Way:
        """How to ask a target. Of a group's targets one that cannot be asked is skipped.

        Raises `Refused` for a direct model, and where a target's own settings are wrong (a 400 that names them).
        """
        opener, group = self.means.opener, self._group
        try:
            lead = opener.lead(target, group)
        except Refused as refused:
            if group is None or refused.problem.status == 400:
                raise
            raise Skipped(refused.problem) from None
        try:
            return opener.way(self.exchange, target, lead)
        except Refused as refused:
            if group is None:
                raise
            raise Skipped(refused.problem) from None

    async def _raced(self, way: Way, kind: str, hedge: Hedge) -> Opened:
        """An open answer of this target, or of the next one where this one is late."""
        race: Race[Opened] = Race(
            self.means.clock,
            hedge.after_ms / 1000,
            self._one(way, kind),
            lambda: self._hedged(hedge),
            self._decided,
            self._drop,
        )
        opened = await race.done
        if opened.attempt.target is not way.target:
            self._current, self._retries = opened.attempt.target, 0
        self.exchange.serving = opened.attempt
        return opened

    def _hedged(self, hedge: Hedge) -> Any:
        """The second runner, if the group's ratio allows one more."""
        assert self._group is not None
        if self.downstream.gone or not self.targets:
            return None
        if not self.means.hedges.take(self._group.id, hedge.max_extra_ratio, self._now()):
            return None
        self._hedge = None  # one for each call
        return self._second()

    async def _second(self) -> Opened:
        """An open answer of the first of the other targets that admits the call."""
        while True:
            target = self.targets.pop(0)
            self.means.budgets.called(target.model.id, self._now())
            try:
                return await self._one(self._way(target), "hedge")
            except Refused as refused:
                raise Skipped(refused.problem) from None
            except Skipped:
                if not self.targets:
                    raise

    def _decided(self, opened: Opened) -> None:
        """A race is won: whoever still runs has lost it."""
        for target in self._running.values():
            if target is not opened.attempt.target:
                self._latest(target).ended_by = HEDGE_LOST  # before it is cancelled, which is no failure then

    def _drop(self, opened: Opened) -> None:
        """An open answer that nobody wants."""
        opened.attempt.ended_by = HEDGE_LOST
        opened.attempt.ended = self._now()
        opened.answer.cut()
        self._give_back(opened.attempt.target)
        self.means.health.ended(opened.attempt.target.model)

    async def _one(self, way: Way, kind: str) -> Opened:
        """One attempt. Its target counts as busy until it has failed, or the relay is done with its answer."""
        exchange, health, target = self.exchange, self.means.health, way.target
        attempt = begun(exchange, kind, target, self._now())
        self._running[id(target)] = target
        reserved = self._reserved[id(target)] = []
        health.began(target.model)
        opened = None
        try:
            await self._allowed(attempt, reserved)
            opened = await self.means.opener.open(exchange, way, attempt, lambda: self._accepted(way))
            made = opened.attempt
            assert made.first_event is not None
            health.succeeded(target.model, made.first_event - made.started)
            exchange.serving = made
            return opened
        except AttemptFailed as failed:
            latest = self._latest(target)
            if self.downstream.gone and not exchange.drained:  # some connections call it a failure when cancelled
                latest.problem, latest.ended_by = None, "abandoned"
                raise CancelledError from None
            if not isinstance(failed, Skipped):
                self._note(latest, failed)
            raise
        finally:
            del self._running[id(target)]
            if opened is None:
                health.ended(target.model)
                self._give_back(target)
                self._retract(target)

    def _latest(self, target: Target) -> Attempt:
        return next(one for one in reversed(self.exchange.attempts) if one.target is target)

    async def _allowed(self, attempt: Attempt, reserved: list[TakeBack]) -> None:
        """Ask every policy; one that refuses makes the target be skipped."""
        try:
            for ticket in self.tickets:
                found = ticket.allow(attempt.target)
                if found is not None and isinstance(found, Awaitable):
                    found = await found
                if found is not None:
                    reserved.append(found)
        except Refused as refused:
            problem = refused.problem
            if self._group is not None and self.exchange.endpoint.path == CHAT:
                problem = over_target_limit(attempt.target.model.display_name, problem)
            attempt.problem, attempt.ended_by, attempt.ended = problem, refused.problem.type, self._now()
            raise Skipped(problem) from None
        except BaseException:
            attempt.ended_by, attempt.ended = attempt.ended_by or "abandoned", self._now()
            raise

    def _give_back(self, target: Target) -> None:
        """The attempt has failed or lost: what was reserved for it is free again."""
        for take_back in reversed(self._reserved.pop(id(target), [])):
            take_back()

    def _note(self, attempt: Attempt, failed: AttemptFailed) -> None:
        routing = self._group.routing if self._group is not None else None
        attempt.cooled = self.means.health.failed(attempt.target.model, failed, retryable(failed, routing))

    # The promise of a heartbeat

    def _accepted(self, way: Way) -> None:
        call = self.exchange.call
        if call is not None and call.stream and not way.wait.configured and not self.exchange.late_head:
            self._promised.add(id(way.target))
            self.headed(way)

    def _retract(self, target: Target) -> None:
        """Its good head is worth nothing any more; another's may still be."""
        if id(target) in self._promised:
            self._promised.discard(id(target))
            if not self._promised:
                self.downstream.retract()


def _asleep(clock: IReactorTime, seconds: float) -> Deferred[None]:
    """Fires after so long; cancelled, it leaves no timer behind."""
    waking: Deferred[None] = Deferred(lambda _: timer.cancel())
    timer = clock.callLater(seconds, waking.callback, None)
    return waking
