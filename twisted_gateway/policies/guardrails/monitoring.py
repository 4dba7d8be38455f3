"""Guardrails that only take notes: what they would have done, said when nobody waits for it (`guardrails.md` 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from twisted_gateway.errors import StrayFrame
from twisted_gateway.formats import bodies
from twisted_gateway.formats.slots import Hearing, Texts, text_of
from twisted_gateway.policies.guardrails.judging import Member, fields
from twisted_gateway.policies.guardrails.notes import Notes
from twisted_gateway.policies.guardrails.verdict import Asked, Block, Bypass, Mask, Verdict
from twisted_gateway.wire.sse import Frame


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


class Listening:
    """Guardrails that only take notes: every frame goes on at once, its texts are kept for later."""

    held = 0
    full = False
    halted = None
    withheld = 0

    def __init__(self, texts: Texts, stream: bool, cap: int) -> None:
        self._texts = texts
        self._stream = stream
        self._cap = cap
        self._size = 0
        self._frames: list[Frame] = []

    def received(self, frames: list[Frame]) -> list[Frame]:
        """All of them."""
        if self._size <= self._cap:
            self._frames += frames
            self._size += sum(len(frame.data) for frame in frames)
        return frames

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing."""
        return []

    def heard(self) -> tuple[list[str], list[str]]:
        """The texts of the answer, and those among them that are no reasoning."""
        every: dict[Any, str] = {}
        loose: list[tuple[bool, str]] = []
        hearing: Hearing = self._texts.hearing()
        for frame in self._frames:
            if not self._stream:
                try:
                    document, _ = bodies.read(frame.data)
                except StrayFrame:
                    continue
                for slot in self._texts.answered(document):
                    loose += [(slot.reasoning, text) for text in fields([slot])]
                continue
            heard = hearing.heard(frame)
            if heard is None:
                continue
            if heard.document is None and heard.text:
                every[heard.channel] = every.get(heard.channel, "") + heard.text
            for slot in heard.slots:
                every[slot.channel] = every.get(slot.channel, "") + text_of(slot)
        loose += [(channel[1] == "reasoning", text) for channel, text in every.items()]
        return [text for _, text in loose], [text for thought, text in loose if not thought]
