"""Guardrails as a policy: requests are judged before a provider is asked, answers on their way (`guardrails.md` 2, 3).

What is compiled of a snapshot's guardrails is a `Plan`; `Guardrails.prepare` makes it when resources are loaded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_gateway.config.guarding import HOLD, Guardrail
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.errors import Refused
from twisted_gateway.exchange import Call, Exchange, Joint, Outcome, Ticket
from twisted_gateway.formats import bodies
from twisted_gateway.formats.row import Format
from twisted_gateway.formats.slots import Texts, text_of
from twisted_gateway.policies.guardrails import monitoring
from twisted_gateway.policies.guardrails.channels import Scanner
from twisted_gateway.policies.guardrails.engine import Release
from twisted_gateway.policies.guardrails.gates import Asking, Incremental, Listening, Whole
from twisted_gateway.policies.guardrails.judging import INLINE, Blocked, Board, Judging, Member, Run, fields
from twisted_gateway.policies.guardrails.matching import Matcher
from twisted_gateway.policies.guardrails.notes import INPUT, OUTPUT, Counters, Notes
from twisted_gateway.policies.guardrails.rules import Guard, guard
from twisted_gateway.policies.guardrails.unmasking import Placeholders
from twisted_gateway.policies.guardrails.verdict import Asked, Check
from twisted_gateway.policies.guardrails.windows import Windows
from twisted_gateway.wire.series import Gate

_REMEMBERED = 4
LARGE = 256 * 1024
"""Bytes of a request from which on it is taken apart in a thread."""
_encode = msgspec.json.Encoder().encode


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


@attrs.define(eq=False)
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
    _plans: list[tuple[Snapshot, Plan]] = attrs.field(factory=list)

    def prepare(self, snapshot: Snapshot) -> Plan:
        """Compile what a snapshot says; the same guardrails are not compiled twice."""
        for known, plan in self._plans:
            if known is snapshot:
                return plan
        same = next((plan for _, plan in self._plans if plan.guardrails == snapshot.guardrails), None)
        plan = same if same is not None else Plan(snapshot.guardrails, self.checks)
        self._plans = [(snapshot, plan), *self._plans[: _REMEMBERED - 1]]
        return plan

    def admit(self, exchange: Exchange) -> Ticket | Awaitable[Ticket | None] | None:
        """Judge the request. Raises `Refused` (422) when it is blocked."""
        if not exchange.snapshot.guardrails:
            return None
        texts = self.formats[exchange.endpoint.format].texts
        if texts is None:
            return None
        guarding = Guarding(self, self.prepare(exchange.snapshot), exchange)
        return guarding.begin()


@attrs.frozen(eq=False)
class Reading:
    """A request, taken apart: the members that hold texts, who judges them, and what those look at who take notes."""

    document: dict[str, Any]
    judging: Judging
    originals: dict[Member, list[str]]


@attrs.define(eq=False)
class Guarding:
    """The guardrails' look at one exchange."""

    policy: Guardrails
    plan: Plan
    exchange: Exchange
    notes: Notes = attrs.field(init=False)
    placeholders: Placeholders = attrs.field(factory=Placeholders)
    beside: list[Deferred[Any]] = attrs.field(factory=list)
    """Checks that nobody waits for."""

    def __attrs_post_init__(self) -> None:
        self.notes = Notes(self.exchange, self.policy.counters, self.policy.clock)

    def begin(self) -> Ticket | Awaitable[Ticket | None]:
        """Look at the request; what must be waited for is given to await."""
        exchange, plan = self.exchange, self.plan
        assert exchange.call is not None
        texts = self.policy.formats[exchange.endpoint.format].texts
        assert texts is not None
        if exchange.call.stream and texts.buffers and self.policy.buffer_responses and plan.output.members:
            exchange.late_head = True
        watching = [member for member in plan.monitors if member.guardrail.input]
        for member in (*plan.input.members, *watching):
            self.notes.applied(member.guardrail, INPUT)
        if not plan.input.members and not watching:
            return GuardTicket(self)
        if len(exchange.call.body) > LARGE:
            return self._judge_large(watching, texts)
        reading = self._read(watching, texts)
        try:
            ready = reading.judging.now()
        except Blocked as blocked:
            raise self._refused(blocked) from None
        except Exception:
            raise self._faulty() from None
        if ready:
            return self._judged(reading)
        return self._judge(reading)

    def _read(self, watching: Sequence[Member], texts: Texts) -> Reading:
        """The texts of the request, and who looks at them."""
        call, plan = self.exchange.call, self.plan
        assert call is not None
        document = _members(call, texts.members)
        slots = texts.asked(document)
        token = None
        if plan.unmasking is not None:
            self.placeholders.texts = tuple(text_of(slot) for slot in slots if "[" in text_of(slot))
            token = self.placeholders.token
        about = partial(self.about, INPUT, True)
        judging = Judging(plan.input, slots, INPUT, self.notes, about, self.policy.run, token)
        return Reading(document, judging, {member: fields(member.sees(slots)) for member in watching})

    async def _judge_large(self, watching: Sequence[Member], texts: Texts) -> Ticket:
        """Taking a large request apart takes a while, too."""
        try:
            reading = await self.policy.run(partial(self._read, watching, texts))
        except CancelledError:
            raise
        except Exception:
            raise self._faulty() from None
        return await self._judge(reading)

    async def _judge(self, reading: Reading) -> Ticket:
        try:
            await reading.judging.judge()
        except Blocked as blocked:
            raise self._refused(blocked) from None
        except CancelledError:
            raise
        except Exception:
            raise self._faulty() from None
        return self._judged(reading)

    def _refused(self, blocked: Blocked) -> Refused:
        member = blocked.member.guardrail
        return Refused(self.notes.blocked(member, INPUT, blocked.seconds, blocked.reason, blocked.unavailable))

    def _faulty(self) -> Refused:
        """A fault of ours: never let pass what was not looked at (`guardrails.md` 12)."""
        self.policy.log.failure("a guardrail failed at {id}", id=self.exchange.id)
        return Refused(self.notes.blocked(None, INPUT, 0.0, "a fault of the gateway"))

    def _judged(self, reading: Reading) -> GuardTicket:
        """Send what the masks have made of the request; let those who take notes look at what it was."""
        exchange = self.exchange
        if reading.judging.changed:
            assert exchange.call is not None
            body = _written(exchange.call.extra, reading.document)
            exchange.call = self.policy.formats[exchange.endpoint.format].read_call(body, exchange.headers)
        for member, texts in reading.originals.items():
            self._observe(member, texts, INPUT)
        return GuardTicket(self)

    def _observe(self, member: Member, texts: list[str], hook: str) -> None:
        """One that takes notes looks at some texts; nobody waits for it."""
        if member.guard is None:
            about = partial(self._about_now, hook)
            running = monitoring.ask(member, tuple(texts), hook, self.notes, about)
        elif _size(texts) > INLINE:
            running = self.policy.run(partial(monitoring.look, member, texts, hook, self.notes))
        else:
            running = maybeDeferred(monitoring.look, member, texts, hook, self.notes)
        self.beside.append(running)

        def over(result: Any) -> None:
            self.beside.remove(running)
            if isinstance(result, Failure) and not result.check(CancelledError):
                self.policy.log.failure("a guardrail that takes notes failed", result)

        running.addBoth(over)

    def _about_now(self, hook: str, name: str, texts: tuple[str, ...]) -> Asked:
        return self.about(hook, True, name, texts)

    def about(self, hook: str, final: bool, name: str, texts: tuple[str, ...]) -> Asked:
        """What a remote check is asked."""
        exchange, call, caller = self.exchange, self.exchange.call, self.exchange.caller
        assert call is not None
        return Asked(
            hook=hook,
            guardrail=name,
            request_id=exchange.id,
            model=call.model,
            endpoint=exchange.endpoint.path,
            texts=texts,
            api_key_id=caller.id if caller is not None else None,
            team_id=caller.team_id if caller is not None else None,
            stream=call.stream,
            final=final,
        )


@attrs.define(eq=False)
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
        if self._listening is not None:
            every, spoken = self._listening.heard()
            for member in guarding.plan.monitors:
                if member.guardrail.output:
                    texts = every if member.guardrail.scan_reasoning else spoken
                    guarding._observe(member, texts, OUTPUT)

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


def _members(call: Call, names: Sequence[str]) -> dict[str, Any]:
    """Those members of a request that hold texts, decoded; one that cannot be is taken as a text."""
    found: Mapping[str, Any] = call.extra  # what the format took the body apart into
    made: dict[str, Any] = {}
    for name in names:
        if name in found:
            raw = bytes(found[name])
            try:
                made[name] = msgspec.json.decode(raw)
            except (msgspec.DecodeError, RecursionError):
                made[name] = raw.decode("utf-8", "replace")
    return made


def _written(extra: Mapping[str, Any], document: Mapping[str, Any]) -> bytes:
    """The body with these members as they are now; the others keep their bytes."""
    found: dict[str, Any] = dict(extra)
    for name, value in document.items():
        found[name] = _encode(value)
    return bodies.joined(found)


def _size(texts: Iterable[str]) -> int:
    return sum(map(len, texts))
