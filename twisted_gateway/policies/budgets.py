"""Budgets of keys and teams, and the free calls of trial keys (`extensions.md` 6, 6.2).

Spent is what settled calls have cost, and what running ones have cost so far. What running calls have cost is summed up
at most every `SUM_EVERY` seconds, except for budgets that end running streams: these follow every read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from twisted_gateway.charging import charge, estimate, so_far
from twisted_gateway.config.money import Budget, Cost
from twisted_gateway.config.resources import Model
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.errors import Problem, Refused
from twisted_gateway.exchange import Exchange, Halt, Joint, Outcome, Target, Ticket, Usage
from twisted_gateway.facts import define
from twisted_gateway.pricing import price
from twisted_gateway.records import rfc3339_seconds
from twisted_gateway.spending import Spending, period_of
from twisted_gateway.wire.series import Gate
from twisted_gateway.wire.sse import Frame

SUM_EVERY = 0.05
_UNANSWERED = frozenset({Outcome.REFUSED, Outcome.FAILED})
_CENTS = 6


@define(eq=False)
class _Running:
    """The running calls of one budget, and what they had cost when it was asked last."""

    tickets: set[BudgetTicket] = attrs.field(factory=set)
    usd: float = 0.0
    summed: float = -math.inf
    ending: bool = False


@define(eq=False)
class Budgets:
    """The policy. `now` is seconds since the epoch, `seconds` a monotonic clock."""

    spending: Spending
    now: Callable[[], float]
    seconds: Callable[[], float]
    _running: dict[str, _Running] = attrs.field(factory=dict)
    _pending: dict[str, int] = attrs.field(factory=dict)
    """Calls of trial keys that run now."""

    def idle(self, snapshot: Snapshot) -> bool:
        """See `Policy`."""
        return not snapshot.budgets and all(key.max_calls is None for key in snapshot.caller_keys_by_hash.values())

    def admit(self, exchange: Exchange) -> BudgetTicket | None:
        """Refuse a call for which there is no money or no free call left."""
        key = exchange.caller
        assert key is not None
        budgets = exchange.snapshot.budgets_of(key)
        if not budgets and key.max_calls is None:
            return None
        if key.max_calls is not None:
            pending = self._pending.get(key.id, 0)
            if self.spending.calls(key.id) + pending >= key.max_calls:
                raise Refused(_used_up(key.max_calls))
        for budget in budgets:
            spent = self.spent(budget)
            if spent >= budget.limit_usd:
                raise Refused(_refusal(budget, spent, self.now()))
        if key.max_calls is not None:
            self._pending[key.id] = self._pending.get(key.id, 0) + 1
        ticket = BudgetTicket(self, exchange, budgets)
        for budget in budgets:
            self._running.setdefault(budget.id, _Running()).tickets.add(ticket)
        row = exchange.resolution.model if exchange.resolution is not None else None
        if isinstance(row, Model):  # of a group's targets each has its own prices
            ticket.reprice(row.cost)
        return ticket

    def spent(self, budget: Budget) -> float:
        """What is spent of a budget in this period, running calls included."""
        running = self._running.get(budget.id)
        if running is None:
            return self.spending.spent(budget, self.now())
        at = self.seconds()
        if at - running.summed >= SUM_EVERY:
            running.summed = at
            for ticket in running.tickets:
                ticket.look()
        return self.spending.spent(budget, self.now()) + running.usd

    def running(self, budget: Budget) -> float:
        """What the running calls of this process have cost a budget so far."""
        running = self._running.get(budget.id)
        if running is None:
            return 0.0
        for ticket in running.tickets:
            ticket.look()
        return running.usd

    def pending(self, key_id: str) -> int:
        """The running calls of a trial key."""
        return self._pending.get(key_id, 0)

    def report(self, budgets: Sequence[Budget]) -> list[dict[str, Any]]:
        """The budgets' part of `/status/usage`."""
        made = []
        for budget in budgets:
            _, end = period_of(budget.period, self.now())
            row = {"name": budget.name, "spent_usd": round(self.spent(budget), 9), "limit_usd": budget.limit_usd}
            made.append({**row, "period_resets_at": rfc3339_seconds(end) if end is not None else None})
        return made

    def grown(self, budgets: Sequence[Budget], usd: float) -> None:
        """A running call of these budgets has cost so much more."""
        for budget in budgets:
            self._running[budget.id].usd += usd

    def exhausted(self, budgets: Sequence[Budget]) -> Budget | None:
        """The first of these budgets that is spent and ends running streams."""
        for budget in budgets:
            if budget.on_exhausted == "stop":
                spent = self.spending.spent(budget, self.now()) + self._running[budget.id].usd
                if spent >= budget.limit_usd:
                    return budget
        return None

    def end_others(self, budget: Budget) -> None:
        """Let every stream of this budget see that it is spent, now: before more of them is read."""
        running = self._running[budget.id]
        if running.ending:
            return  # one of those that are being told
        running.ending = True
        try:
            for ticket in tuple(running.tickets):
                if ticket.wake is not None:
                    ticket.wake()
        finally:
            running.ending = False

    def settled(self, ticket: BudgetTicket, outcome: Outcome) -> None:
        """Book a call that is over in place of what it had cost so far."""
        exchange = ticket.exchange
        ticket.reprice(None)
        for budget in ticket.budgets:
            running = self._running[budget.id]
            running.tickets.discard(ticket)
            if not running.tickets:
                del self._running[budget.id]
        if ticket.budgets:
            usd = charge(exchange, outcome).cost_usd
            for budget in ticket.budgets:
                self.spending.spend(budget, usd, self.now())
        key = exchange.caller
        assert key is not None
        if key.max_calls is not None:
            self._pending[key.id] -= 1
            if not self._pending[key.id]:
                del self._pending[key.id]
            if _was_answered(exchange, outcome):
                self.spending.answered(key.id)


@define(eq=False)
class BudgetTicket(Ticket):
    """One call's part in its budgets. `usd` is what it has cost so far."""

    policy: Budgets
    exchange: Exchange
    budgets: tuple[Budget, ...]
    usd: float = 0.0
    wake: Callable[[], None] | None = None
    _prices: Cost | None = None
    _joint: Joint | None = None

    def allow(self, target: Target) -> None:
        """The call goes to this target: its prices are the call's."""
        if self._joint is None:
            self.reprice(target.model.cost)

    def gates(self, joint: Joint) -> Sequence[Gate]:
        """Follow the answer; with a gate where a budget would end it."""
        self._joint = joint
        self.reprice(None if joint.attempt.kind == "cache" else joint.attempt.target.model.cost)
        call = self.exchange.call
        ends = any(budget.on_exhausted == "stop" for budget in self.budgets)
        if not ends or self._prices is None or call is None or not call.stream:
            return ()
        self.wake = joint.wake
        return (SpendGate(self, joint),)

    def settle(self, outcome: Outcome) -> None:
        """Book the call."""
        self.wake = self._joint = None
        self.policy.settled(self, outcome)

    def reprice(self, prices: Cost | None) -> None:
        """Other prices hold from now on."""
        self._prices = prices
        self.look()

    def used(self) -> Usage:
        """The tokens so far."""
        call, joint = self.exchange.call, self._joint
        prompt_bytes = call.prompt_bytes if call is not None else 0
        if joint is None:
            return Usage(prompt=estimate(prompt_bytes))
        return so_far(joint.learnt.usage, prompt_bytes, joint.learnt.text_bytes)

    def look(self) -> None:
        """Bring the budgets up to date with what this call has cost."""
        usd = price(self._prices, self.used()) if self._prices is not None else 0.0
        if usd != self.usd:
            self.policy.grown(self.budgets, usd - self.usd)
            self.usd = usd


class SpendGate:
    """Ends a stream at the read at which a budget is spent. It holds and changes nothing."""

    held = 0
    full = False
    withheld = 0
    lasting = True
    """What nobody reads any more costs the same (`on_disconnect: drain`)."""

    def __init__(self, ticket: BudgetTicket, joint: Joint) -> None:
        self._ticket = ticket
        self._joint = joint
        self.halted: Halt | None = None

    def received(self, frames: list[Frame]) -> list[Frame]:
        """See `wire.series.Gate`. What was paid for is still given; an answer that is whole is not ended."""
        ticket = self._ticket
        if self.halted is not None or ticket.wake is None:
            return [] if self.halted is not None else frames
        ticket.look()
        budget = ticket.policy.exhausted(ticket.budgets)
        if budget is not None and not self._joint.learnt.complete:
            self.halted = Halt(_ended(budget, ticket.used()), Outcome.BLOCKED)
            ticket.wake = None
            ticket.policy.end_others(budget)
        return frames

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing is held."""
        self._ticket.wake = None
        return []


def _was_answered(exchange: Exchange, outcome: Outcome) -> bool:
    if outcome in _UNANSWERED:
        return False
    attempt = exchange.attempt
    return outcome is Outcome.COMPLETE or (attempt is not None and attempt.first_event is not None)


def _problem(budget: Budget, **more: Any) -> Problem:
    return Problem(
        status=429,
        type="billing_error",
        code="budget_exceeded",
        message=f'budget "{budget.name}" is spent',
        kind="budget_exceeded",
        **more,
    )


def _ended(budget: Budget, used: Usage) -> Problem:
    """What a stream ends by (`extensions.md` 6.2)."""
    return _problem(budget, usage=used, anthropic_type="billing_error")


def _refusal(budget: Budget, spent: float, now: float) -> Problem:
    """What a new call is told (`errors-and-headers.md` 1.1)."""
    _, end = period_of(budget.period, now)
    members: dict[str, Any] = {
        "scope": budget.scope,
        "scope_ref": budget.scope_ref,
        "limit_usd": budget.limit_usd,
        "spent_usd": round(spent, _CENTS),
        "period": budget.period,
    }
    wait = None
    if end is not None:
        wait = max(1, math.ceil(end - now))
        members |= {"period_resets_at": rfc3339_seconds(end), "retry_after_seconds": wait}
    return _problem(budget, members=members, retry_after=wait)


def _used_up(calls: int) -> Problem:
    return Problem(
        status=429,
        type="billing_error",
        code="call_quota_exceeded",
        message=f"all {calls} calls of this key are used",
        kind="call_quota_exceeded",
    )
