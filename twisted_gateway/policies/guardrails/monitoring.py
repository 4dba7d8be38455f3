"""Guardrails that only take notes: what they would have done, said when nobody waits for it (`guardrails.md` 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from twisted_gateway.policies.guardrails.judging import Member
from twisted_gateway.policies.guardrails.notes import Notes
from twisted_gateway.policies.guardrails.verdict import Asked, Block, Bypass, Mask, Verdict


def look(member: Member, texts: Sequence[str], hook: str, notes: Notes) -> None:
    """A local member looks at some texts."""
    guard = member.guard
    assert guard is not None
    begun = notes.clock()
    reason = next((found for text in texts if (found := guard.blocked(text)) is not None), None)
    counts: Counter[str] = Counter()
    if reason is None and guard.masks:
        for text in texts:
            counts.update(guard.masked(text)[1])
    seconds = notes.clock() - begun
    if reason is not None:
        notes.monitored(member.guardrail, hook, seconds, "would_block", reason, {})
    elif counts:
        notes.monitored(member.guardrail, hook, seconds, "would_mask", ", ".join(counts), counts)
    else:
        notes.allowed(member.guardrail, hook, seconds)


def ask(member: Member, texts: tuple[str, ...], hook: str, notes: Notes, about: Callable[..., Asked]) -> Deferred[Any]:
    """A remote member is asked about some texts; nothing waits for it."""
    begun = notes.clock()

    async def asked() -> None:
        assert member.check is not None
        verdict: Verdict = await member.check(about(member.guardrail.name, texts))
        seconds = notes.clock() - begun
        if isinstance(verdict, Block) and not verdict.unavailable:
            notes.monitored(member.guardrail, hook, seconds, "would_block", verdict.reason, {})
        elif isinstance(verdict, Mask):
            notes.monitored(member.guardrail, hook, seconds, "would_mask", "", verdict.counts)
        elif isinstance(verdict, Bypass | Block):
            notes.bypassed(member.guardrail, hook, seconds, verdict.reason)
        else:
            notes.allowed(member.guardrail, hook, seconds)

    return Deferred.fromCoroutine(asked())
