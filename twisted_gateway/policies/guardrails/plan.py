"""The guardrails of one snapshot, compiled, by what they look at and whether they act."""

from __future__ import annotations

import string
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from twisted_gateway.config.guarding import Guardrail
from twisted_gateway.exchange import Exchange, Ticket
from twisted_gateway.policies.guardrails.guarding import Guarding
from twisted_gateway.policies.guardrails.judging import Board, Member
from twisted_gateway.policies.guardrails.matching import Matcher
from twisted_gateway.policies.guardrails.rules import guard
from twisted_gateway.policies.guardrails.verdict import Check

if TYPE_CHECKING:
    from twisted_gateway.policies.guardrails.policy import Guardrails

_WARM = 1024


class Plan:
    """The guardrails of one snapshot, compiled, by what they look at and whether they act."""

    def __init__(self, guardrails: Sequence[Guardrail], checks: Callable[[Guardrail], Check]) -> None:
        self.guardrails = tuple(guardrails)
        members = [Member(one, guard=guard(one)) if one.local else Member(one, check=checks(one)) for one in guardrails]
        acting = [member for member in members if not member.guardrail.monitor]
        self.input = Board([member for member in acting if member.guardrail.input])
        self.output = Board([member for member in acting if member.guardrail.output])
        self.monitors = tuple(member for member in members if member.guardrail.monitor)
        self.unmasking = next((one for one in guardrails if getattr(one.own, "unmask", False)), None)
        self.thoughtful = tuple(one for one in self.output.guards if one.guardrail.scan_reasoning)
        self.thoughts = Matcher(self.thoughtful)
        self.maskers = tuple(one for one in self.output.guards if one.masks)
        self.later = [Matcher((one,)) for one in self.maskers]
        self.asked = tuple(member for member in self.output.members if member.check is not None)
        self._warmed = False

    def begin(self, policy: Guardrails, exchange: Exchange) -> Ticket | Awaitable[Ticket | None]:
        """Look at the request of an exchange; what must be waited for is given to await. Raises `Refused`."""
        return Guarding(policy, self, exchange).begin()

    def warm(self) -> None:
        """Search some texts, so that RE2 has learnt what it can before anybody waits for it; once."""
        if self._warmed:
            return
        self._warmed = True
        for letter in string.ascii_letters + string.digits:
            text = letter * _WARM
            for board in (self.input, self.output):
                board.matcher.scan(text, 0)
                for each in board.guards:
                    each.blocked(text)
