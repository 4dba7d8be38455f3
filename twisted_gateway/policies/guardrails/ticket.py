"""The guardrails' gates on the answers of one exchange, and what is noted when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from twisted_gateway.config.guarding import HOLD, Guardrail
from twisted_gateway.exchange import Joint, Outcome, Ticket
from twisted_gateway.facts import define
from twisted_gateway.policies.guardrails.asking_gate import Asking
from twisted_gateway.policies.guardrails.channels import Scanner
from twisted_gateway.policies.guardrails.engine import Release
from twisted_gateway.policies.guardrails.gates import Incremental
from twisted_gateway.policies.guardrails.judging import Board, Member
from twisted_gateway.policies.guardrails.matching import Matcher
from twisted_gateway.policies.guardrails.monitoring import Listening
from twisted_gateway.policies.guardrails.notes import OUTPUT, Notes
from twisted_gateway.policies.guardrails.rules import Guard
from twisted_gateway.policies.guardrails.verdict import Asked
from twisted_gateway.policies.guardrails.whole_gate import Whole
from twisted_gateway.policies.guardrails.windows import Windows
from twisted_gateway.wire.series import Gate

if TYPE_CHECKING:
    from twisted_gateway.policies.guardrails.guarding import Guarding


@define(eq=False)
class GuardTicket(Ticket):
    """The guardrails' gates on the answers of one exchange."""

    guarding: Guarding
    _made: list[Incremental | Asking | Whole] = attrs.field(factory=list)
    _listening: Listening | None = None
    _applied: bool = False

    def gates(self, joint: Joint) -> Sequence[Gate]:
        """What judges an answer, and what only listens."""
        guarding, plan = self.guarding, self.guarding.plan
        call = guarding.exchange.call
        assert call is not None
        self._made.clear()
        made: list[Gate] = []
        watching = [member for member in plan.monitors if member.guardrail.output]
        if not self._applied:
            self._applied = True
            for member in (*plan.output.members, *watching):
                guarding.notes.applied(member.guardrail, OUTPUT)
        if watching:
            cap = max(member.guardrail.max_buffer_bytes for member in watching)
            self._listening = Listening(self._texts, call.stream, 16 * cap)
            made.append(self._listening)
        if plan.output.members:
            self._made += self._streamed(joint) if call.stream else [self._whole(joint)]
        return [*made, *self._made]

    def last_gates(self, joint: Joint) -> Sequence[Gate]:
        """What puts the caller's own values back."""
        guarding = self.guarding
        call, values = guarding.exchange.call, guarding.placeholders.values
        if not values or guarding.plan.unmasking is None:
            return ()
        assert call is not None
        scanner = guarding.placeholders.scanner(guarding.plan.unmasking)
        quiet = Quiet()
        notes = Notes(attrs.evolve(guarding.exchange, guarded=None), quiet, guarding.policy.clock)
        if call.stream:
            release = Release(scanner, self._texts.hearing(), holds=False, cap=2**62, open=True, thoughts=scanner)
            return (Incremental(release, (), (), notes, guarding.policy.run, joint.wake),)
        (restoring,) = scanner.guards
        own = attrs.evolve(guarding.plan.unmasking, scan_reasoning=True)
        board = Board((Member(own, guard=restoring),))
        return (Whole(self._texts, board, notes, self._about, guarding.policy.run, joint.wake),)

    def settle(self, outcome: Outcome) -> None:
        """Stop what is still asked, note what was done, let the listeners look."""
        guarding = self.guarding
        for gate in self._made:
            gate.settle()
        if outcome in (Outcome.ABANDONED, Outcome.BROKEN):
            for running in tuple(guarding.beside):
                running.cancel()
            return
        listening = self._listening
        if listening is not None and listening.large:
            running = guarding.policy.run(listening.heard)
            guarding.besides(running.addCallback(self._observe))
        elif listening is not None:
            self._observe(listening.heard())

    def _observe(self, heard: tuple[list[str], list[str]]) -> None:
        every, spoken = heard
        for member in self.guarding.plan.monitors:
            if member.guardrail.output:
                self.guarding.observe(member, every if member.guardrail.scan_reasoning else spoken, OUTPUT)

    @property
    def _texts(self) -> Any:
        guarding = self.guarding
        return guarding.policy.formats[guarding.exchange.endpoint.format].texts

    def _about(self, name: str, texts: tuple[str, ...], final: bool) -> Asked:
        return self.guarding.about(OUTPUT, final, name, texts)

    def _whole(self, joint: Joint) -> Whole:
        guarding = self.guarding
        return Whole(self._texts, guarding.plan.output, guarding.notes, self._about, guarding.policy.run, joint.wake)

    def _streamed(self, joint: Joint) -> list[Incremental | Asking]:
        """First what blocks here, then whoever must be asked, then the masks (`guardrails.md` 3)."""
        plan = self.guarding.plan
        made: list[Incremental | Asking] = []
        maskers = list(zip(plan.maskers, plan.later, strict=True))
        if plan.output.guards:
            first = maskers.pop(0)[0] if maskers and not plan.asked else None
            made.append(self._incremental(joint, plan.output.guards, plan.output.matcher, first))
        if plan.asked:
            made.append(self._asking(plan.asked, joint))
        made += [self._incremental(joint, (masker,), matcher, masker, blocks=False) for masker, matcher in maskers]
        return made

    def _incremental(
        self, joint: Joint, guards: Sequence[Guard], matcher: Matcher, masker: Guard | None, blocks: bool = True
    ) -> Incremental:
        plan, notes = self.guarding.plan, self.guarding.notes
        about = [one.guardrail for one in guards]
        scanner = Scanner(guards if blocks else (), masker, matcher)
        thoughts = None
        thoughtful = [one for one in plan.thoughtful if one in guards]
        if thoughtful:
            thoughts = Scanner(
                thoughtful if blocks else (),
                masker if masker in thoughtful else None,
                plan.thoughts if blocks else matcher,
            )
        release = Release(
            scanner,
            self._texts.hearing(),
            holds=self._holds(about),
            cap=min(one.max_buffer_bytes for one in about),
            open=all(one.on_buffer_exceeded == "fail_open" for one in about),
            thoughts=thoughts,
        )
        scanners = [scanner] if thoughts is None else [scanner, thoughts]
        told = [
            member
            for member in plan.output.members
            if member.guard in guards and (member.guard is masker or member.guard not in plan.maskers)
        ]
        return Incremental(release, told, scanners, notes, self.guarding.policy.run, joint.wake)

    def _asking(self, members: Sequence[Member], joint: Joint) -> Asking:
        guardrails = [member.guardrail for member in members]
        holds = self._holds(guardrails)
        windows = Windows(
            self._texts.hearing(),
            size=0 if holds else min(one.window_size for one in guardrails),
            overlap=max(one.window_overlap_size for one in guardrails),
            cap=min(one.max_buffer_bytes for one in guardrails),
            open=all(one.on_buffer_exceeded == "fail_open" for one in guardrails),
            reasoning=any(one.scan_reasoning for one in guardrails),
        )
        return Asking(windows, members, self.guarding.notes, self._about, joint.wake)

    def _holds(self, guardrails: Sequence[Guardrail]) -> bool:
        return self.guarding.exchange.late_head or any(one.stream_output == HOLD for one in guardrails)


class Quiet:
    """Counts nothing."""

    def guarded(
        self, guardrail: str, kind: str, phase: str, result: str, seconds: float, error_type: str = "none"
    ) -> None:
        """Nothing."""

    def guard_blocked(self) -> None:
        """Nothing."""

    def guard_bypassed(self, reason: str) -> None:
        """Nothing."""
