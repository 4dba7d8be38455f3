"""What guardrails did with a call, for its record, the metrics and the log (`guardrails.md` 13). Never a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import attrs
from twisted.logger import Logger

from twisted_gateway.config.guarding import Guardrail
from twisted_gateway.errors import Problem
from twisted_gateway.exchange import CHAT, Exchange, Guarded, Halt, Outcome
from twisted_gateway.facts import define

INPUT, OUTPUT = "input", "output"


class Counters(Protocol):
    """Where metrics go (`metrics.Metrics` is one)."""

    def guarded(
        self, guardrail: str, kind: str, phase: str, result: str, seconds: float, error_type: str = "none"
    ) -> None:
        """A guardrail has looked at something."""

    def guard_blocked(self) -> None:
        """A guardrail has blocked a chat."""

    def guard_bypassed(self, reason: str) -> None:
        """A check of a chat could not be made and was skipped."""


@define
class Notes:
    """The notes on one call. `clock` gives seconds."""

    exchange: Exchange
    counters: Counters
    clock: Callable[[], float]
    log: Logger = attrs.field(factory=lambda: Logger(namespace="aisix::guardrails"))

    @property
    def guarded(self) -> Guarded:
        """What the record will show."""
        if self.exchange.guarded is None:
            self.exchange.guarded = Guarded()
        return self.exchange.guarded

    def applied(self, guardrail: Guardrail, hook: str) -> None:
        """It looks at this call."""
        self.guarded.applied.append({"kind": guardrail.kind, "hook": hook})

    def allowed(self, guardrail: Guardrail, hook: str, seconds: float) -> None:
        """It had nothing against it."""
        self.counters.guarded(guardrail.name, guardrail.kind, hook, "allowed", seconds)

    def blocked(
        self, guardrail: Guardrail | None, hook: str, seconds: float, reason: str = "", unavailable: bool = False
    ) -> Problem:
        """It blocks; None: nobody in particular. Gives what the caller is told."""
        self.guarded.blocked = True
        if self.exchange.endpoint.path == CHAT:
            self.counters.guard_blocked()
        if guardrail is not None:
            error_type = reason if unavailable else "none"
            self.counters.guarded(guardrail.name, guardrail.kind, hook, "blocked", seconds, error_type)
            entry = self._entry(guardrail, hook, "blocked_unavailable" if unavailable else "blocked", seconds)
            self.guarded.enforced.append(entry | ({"error_type": reason} if unavailable else {}))
        self.log.info(
            'guardrail "{guardrail}" blocked the {hook} of {request_id}: {reason}',
            guardrail=guardrail.name if guardrail is not None else "",
            hook=hook,
            request_id=self.exchange.id,
            reason=reason,
        )
        return problem(guardrail, hook)

    def halt(self, guardrail: Guardrail | None, seconds: float, reason: str = "", unavailable: bool = False) -> Halt:
        """It ends an answer."""
        return Halt(self.blocked(guardrail, OUTPUT, seconds, reason, unavailable), Outcome.BLOCKED)

    def masked(self, guardrail: Guardrail, hook: str, seconds: float, counts: Mapping[str, int]) -> None:
        """It has rewritten something."""
        self.counters.guarded(guardrail.name, guardrail.kind, hook, "masked", seconds)
        self.guarded.enforced.append(self._entry(guardrail, hook, "masked", seconds) | {"counts": dict(counts)})
        redacted = self.guarded.redacted
        for name, count in counts.items():
            redacted[name] = redacted.get(name, 0) + count

    def monitored(
        self, guardrail: Guardrail, hook: str, seconds: float, action: str, reason: str, counts: Mapping[str, int]
    ) -> None:
        """It would have acted: `action` is `would_block` or `would_mask`."""
        self.counters.guarded(guardrail.name, guardrail.kind, hook, action, seconds)
        entry = {"guardrail_name": guardrail.name, "hook": hook, "action": action}
        self.guarded.monitored.append(entry | {"reason": reason, "counts": dict(counts)})

    def bypassed(self, guardrail: Guardrail, hook: str, seconds: float, reason: str) -> None:
        """It could not look, and that is allowed."""
        self.counters.guarded(guardrail.name, guardrail.kind, hook, "bypassed", seconds, reason)
        if self.exchange.endpoint.path == CHAT:
            self.counters.guard_bypassed(reason)
        self.guarded.bypassed = self.guarded.bypassed or reason

    def _entry(self, guardrail: Guardrail, hook: str, action: str, seconds: float) -> dict[str, object]:
        return {
            "guardrail_name": guardrail.name,
            "hook": hook,
            "action": action,
            "duration_us": round(seconds * 1_000_000),
        }


def problem(guardrail: Guardrail | None, hook: str) -> Problem:
    """The 422 of a block (`guardrails.md` 4)."""
    subject = "request" if hook == INPUT else "response"
    by = f" (guardrail '{guardrail.name}')" if guardrail is not None else ""
    return Problem(
        status=422, type="content_filter", message=f"{subject} blocked by content policy{by}", kind="content_filter"
    )
