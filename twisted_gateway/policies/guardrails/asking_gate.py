"""Streams that somebody must be asked about, on the line: their frames wait for a verdict (`guardrails.md` 7.5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_gateway.exchange import Halt
from twisted_gateway.policies.guardrails.judging import Member
from twisted_gateway.policies.guardrails.notes import OUTPUT, Notes
from twisted_gateway.policies.guardrails.together import together
from twisted_gateway.policies.guardrails.verdict import Asked, Block, Bypass, Mask, Verdict
from twisted_gateway.policies.guardrails.windows import Question, Windows
from twisted_gateway.wire.sse import Frame

_log = Logger(namespace="aisix::guardrails")

About = Callable[[str, tuple[str, ...], bool], Asked]
"""(guardrail, texts, the answer's last text is in it): what a remote check is asked."""


class Asking:
    """Somebody is asked about a stream: its frames wait for his verdict."""

    def __init__(
        self, windows: Windows, members: Sequence[Member], notes: Notes, about: About, wake: Callable[[], None]
    ) -> None:
        self.halted: Halt | None = None
        self._windows = windows
        self._members = members
        self._notes = notes
        self._about = about
        self._wake = wake
        self._running: Deferred[Any] | None = None
        self._inside = False
        self._masked: dict[Member, Counter[str]] = {}
        self._bypassed: set[Member] = set()
        self._seconds = 0.0
        self._told = False

    @property
    def held(self) -> int:
        """Bytes kept back."""
        return 0 if self.halted is not None else self._windows.held

    @property
    def full(self) -> bool:
        """Whether it holds all it may while it waits."""
        return self.halted is None and self._windows.full

    @property
    def withheld(self) -> int:
        """UTF-8 bytes of text that did not go on."""
        return self._windows.withheld

    def received(self, frames: list[Frame]) -> list[Frame]:
        """See `wire.series.Tube`."""
        return self._step(lambda: self._windows.received(frames))

    def stopped(self, clean: bool) -> list[Frame]:
        """See `wire.series.Tube`."""
        if not clean:
            self.cancel()
        return self._step(lambda: self._windows.stopped(clean))

    def cancel(self) -> None:
        """Nobody waits for the verdict any more."""
        if self._running is not None:
            self._running.cancel()

    def settle(self) -> None:
        """The answer is over: what was masked is noted."""
        self.cancel()
        if self._told:
            return
        self._told = True
        for member in self._members:
            if member in self._masked:
                self._notes.masked(member.guardrail, OUTPUT, self._seconds, self._masked[member])
            elif member not in self._bypassed and self.halted is None:
                self._notes.allowed(member.guardrail, OUTPUT, self._seconds)

    def _step(self, step: Callable[[], list[Frame]]) -> list[Frame]:
        if self.halted is not None:
            return []
        self._inside = True
        try:
            made = step()
            self._ask()
            if self.halted is None:
                made += self._windows.received([])
        except Exception:
            _log.failure("a guardrail failed")
            self.cancel()
            self.halted = self._notes.halt(None, self._seconds, "a fault of the gateway")
            return []
        finally:
            self._inside = False
        if self._windows.blocked and self.halted is None:
            self.halted = self._notes.halt(None, self._seconds, "stream_buffer_exceeded")
        return made

    def _ask(self) -> None:
        """Ask until there is nothing to ask, or somebody takes his time."""
        while self.halted is None and self._running is None:
            question = self._windows.wanted()
            if question is None:
                return
            running = Deferred.fromCoroutine(self._asked(question))
            self._running = running
            running.addBoth(self._over)

    def _over(self, result: Any) -> None:
        self._running = None
        if isinstance(result, Failure) and not result.check(CancelledError):
            _log.failure("a guardrail failed", result)
            self.halted = self._notes.halt(None, self._seconds, "a fault of the gateway")
        if not self._inside and not (isinstance(result, Failure) and result.check(CancelledError)):
            self._wake()

    async def _asked(self, question: Question) -> None:
        begun = self._notes.clock()
        asked = [self._verdict(member, question, question.texts) for member in self._members]
        try:
            verdicts = await together(asked)
        finally:
            self._seconds += self._notes.clock() - begun
        texts = question.texts
        for member, verdict in zip(self._members, verdicts, strict=True):
            if texts is not question.texts and isinstance(verdict, Mask):
                verdict = await self._verdict(member, question, texts)
            texts = self._obeyed(member, verdict, texts)
            if self.halted is not None:
                return
        self._windows.answered(question, texts)

    def _verdict(self, member: Member, question: Question, texts: Sequence[str]) -> Deferred[Verdict]:
        """The verdict about those texts that this member looks at, its masks put among the others."""
        seen = [at for at, thought in enumerate(question.reasoning) if member.guardrail.scan_reasoning or not thought]

        async def ask() -> Verdict:
            assert member.check is not None
            about = self._about(member.guardrail.name, tuple(texts[at] for at in seen), question.final)
            verdict = await member.check(about)
            if isinstance(verdict, Mask):
                every = list(texts)
                for at, text in zip(seen, verdict.texts, strict=True):
                    every[at] = text
                return Mask(tuple(every), verdict.counts)
            return verdict

        return Deferred.fromCoroutine(ask())

    def _obeyed(self, member: Member, verdict: Verdict, texts: tuple[str, ...]) -> tuple[str, ...]:
        guardrail, notes = member.guardrail, self._notes
        if isinstance(verdict, Block):
            self.halted = notes.halt(guardrail, self._seconds, verdict.reason, verdict.unavailable)
        elif isinstance(verdict, Bypass):
            if member not in self._bypassed:
                self._bypassed.add(member)
                notes.bypassed(guardrail, OUTPUT, self._seconds, verdict.reason)
        elif isinstance(verdict, Mask):
            self._masked.setdefault(member, Counter()).update(verdict.counts)
            return verdict.texts
        return texts
