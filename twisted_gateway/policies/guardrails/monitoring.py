"""Guardrails that only take notes: what they would have done, said when nobody waits for it (`guardrails.md` 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_gateway.errors import StrayFrame
from twisted_gateway.formats import bodies
from twisted_gateway.formats.slots import REASONING, Hearing, Texts, text_of
from twisted_gateway.policies.guardrails.judging import INLINE, Member, fields
from twisted_gateway.policies.guardrails.notes import Notes
from twisted_gateway.policies.guardrails.verdict import Asked, Block, Bypass, Mask, Verdict
from twisted_gateway.wire.sse import Frame

_log = Logger(namespace="aisix::guardrails")


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

    listening = True
    held = 0
    full = False
    halted = None
    withheld = 0

    def __init__(self, texts: Texts, stream: bool, cap: int) -> None:
        self._texts = texts
        self._hearing: Hearing | None = texts.hearing() if stream else None
        self._cap = cap
        self._size = 0
        self._pieces: dict[Any, list[str]] = {}
        self._bodies: list[Frame] = []

    @property
    def large(self) -> bool:
        """Whether `heard` takes long."""
        return sum(len(frame.data) for frame in self._bodies) > INLINE

    def received(self, frames: list[Frame]) -> list[Frame]:
        """All of them. They are heard one by one: to do so at the end, all at once, would hold up other calls."""
        if self._size > self._cap:
            return frames
        self._size += sum(len(frame.data) for frame in frames)
        if self._hearing is None:
            self._bodies += frames
            return frames
        try:
            for frame in frames:
                self._hear(self._hearing, frame)
        except Exception:
            _log.failure("a guardrail that takes notes failed")
            self._size = self._cap + 1
        return frames

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing."""
        return []

    def heard(self) -> tuple[list[str], list[str]]:
        """The texts of the answer, and those among them that are no reasoning."""
        loose = [(channel[1] == REASONING, "".join(pieces)) for channel, pieces in self._pieces.items()]
        for frame in self._bodies:
            try:
                document, _ = bodies.read(frame.data)
            except StrayFrame:
                continue
            for slot in self._texts.answered(document):
                loose += [(slot.reasoning, text) for text in fields([slot])]
        return [text for _, text in loose], [text for thought, text in loose if not thought]

    def _hear(self, hearing: Hearing, frame: Frame) -> None:
        heard = hearing.heard(frame)
        if heard is None:
            return
        if heard.document is None and heard.text:
            self._pieces.setdefault(heard.channel, []).append(heard.text)
        for slot in heard.slots:
            self._pieces.setdefault(slot.channel, []).append(text_of(slot))
