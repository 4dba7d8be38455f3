"""Guardrails as a policy: requests are judged before a provider is asked, answers on their way (`guardrails.md` 2, 3).

What is compiled of a snapshot's guardrails is a `Plan`; `Guardrails.prepare` makes it when resources are loaded. All
that judges is imported with the first of them: a gateway without guardrails does not carry it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import attrs
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_gateway.config.guarding import Guardrail
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.exchange import Exchange, Ticket
from twisted_gateway.facts import define
from twisted_gateway.formats.row import Format

if TYPE_CHECKING:
    from twisted_gateway.policies.guardrails.judging import Run
    from twisted_gateway.policies.guardrails.notes import Counters
    from twisted_gateway.policies.guardrails.plan import Plan
    from twisted_gateway.policies.guardrails.verdict import Check

_REMEMBERED = 4


@define(eq=False)
class Guardrails:
    """The policy. `checks` makes the check of a guardrail that asks somebody; `run` runs a function in a thread.

    `clock` gives seconds. `buffer_responses`: a stream of Responses is judged as a whole before its head is written.
    """

    formats: Mapping[str, Format]
    checks: Callable[[Guardrail], Check]
    run: Run
    counters: Counters
    clock: Callable[[], float]
    buffer_responses: bool = True
    log: Logger = attrs.field(factory=lambda: Logger(namespace="aisix::guardrails"))
    _plans: list[tuple[Snapshot, Plan | None]] = attrs.field(factory=list)

    def prepare(self, snapshot: Snapshot) -> Plan | None:
        """Compile what a snapshot says, if anything; the same guardrails are not compiled twice."""
        for known, made in self._plans:
            if known is snapshot:
                return made
        plan = self.compiled(snapshot)
        self.take(snapshot, plan)
        if plan is not None:
            self.run(plan.warm).addErrback(_lukewarm)
        return plan

    def compiled(self, snapshot: Snapshot) -> Plan | None:
        """What a snapshot says, compiled, if anything; may be asked in a thread, for large rules take seconds."""
        if not snapshot.guardrails:
            return None
        from twisted_gateway.policies.guardrails.plan import Plan

        known = (old for _, old in self._plans if old is not None and old.guardrails == snapshot.guardrails)
        return next(known, None) or Plan(snapshot.guardrails, self.checks)

    def take(self, snapshot: Snapshot, plan: Plan | None) -> None:
        """Calls of this snapshot are judged by this plan."""
        self._plans = [(snapshot, plan), *self._plans[: _REMEMBERED - 1]]

    def idle(self, snapshot: Snapshot) -> bool:
        """See `Policy`."""
        return not snapshot.guardrails

    def admit(self, exchange: Exchange) -> Ticket | Awaitable[Ticket | None] | None:
        """Judge the request. Raises `Refused` (422) when it is blocked."""
        if not exchange.snapshot.guardrails:
            return None
        if self.formats[exchange.endpoint.format].texts is None:
            return None
        plan = self.prepare(exchange.snapshot)
        return None if plan is None else plan.begin(self, exchange)


def _lukewarm(failure: Failure) -> None:
    """It was only a kindness: whatever went wrong shows when somebody needs it."""
