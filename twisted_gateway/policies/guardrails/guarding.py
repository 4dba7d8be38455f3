"""The guardrails' look at one exchange: its request taken apart, judged, and written anew where masks change it."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.python.failure import Failure

from twisted_gateway.errors import Refused, StrayFrame
from twisted_gateway.exchange import Call, Exchange, Ticket
from twisted_gateway.facts import define, frozen
from twisted_gateway.formats import bodies
from twisted_gateway.formats.slots import Texts, text_of, twins
from twisted_gateway.policies.guardrails import monitoring
from twisted_gateway.policies.guardrails.judging import INLINE, Blocked, Judging, Member, fields
from twisted_gateway.policies.guardrails.notes import INPUT, Notes
from twisted_gateway.policies.guardrails.ticket import GuardTicket
from twisted_gateway.policies.guardrails.unmasking import Placeholders, bracketed
from twisted_gateway.policies.guardrails.verdict import Asked

if TYPE_CHECKING:
    from twisted_gateway.policies.guardrails.plan import Plan
    from twisted_gateway.policies.guardrails.policy import Guardrails

LARGE = 256 * 1024
"""Bytes of a request from which on it is taken apart in a thread."""
_encode = msgspec.json.Encoder().encode


@frozen(eq=False)
class Reading:
    """A request, taken apart: the members that hold texts, who judges them, and what those look at who take notes."""

    document: dict[str, Any]
    judging: Judging
    originals: dict[Member, list[str]]


@define(eq=False)
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
        try:
            reading = self._read(watching, texts)
            if reading.judging.now():
                return self._judged(reading, self._written(reading))
        except Blocked as blocked:
            raise self._refused(blocked) from None
        except Refused:
            raise
        except Exception:
            raise self._faulty() from None
        return self._judge(reading)

    def _read(self, watching: Sequence[Member], texts: Texts) -> Reading:
        """The texts of the request, and who looks at them."""
        call, plan = self.exchange.call, self.plan
        assert call is not None
        document = _members(call, texts.members)
        slots = texts.asked(document)
        token = None
        if plan.unmasking is not None:
            self.placeholders.taken = bracketed(map(text_of, slots))
            token = self.placeholders.token
        about = partial(self.about, INPUT, True)
        judging = Judging(plan.input, slots, INPUT, self.notes, about, self.policy.run, token)
        judging.ambiguous = bool(plan.input.members) and _ambiguous(call, document)
        return Reading(document, judging, {member: fields(member.sees(slots)) for member in watching})

    async def _judge_large(self, watching: Sequence[Member], texts: Texts) -> Ticket:
        """Taking a large request apart takes a while, too."""
        try:
            reading = await self.policy.run(partial(self._read, watching, texts))
        except CancelledError:
            raise
        except Exception:
            raise self._faulty() from None
        return await self._judge(reading, large=True)

    async def _judge(self, reading: Reading, large: bool = False) -> Ticket:
        write = partial(self._written, reading)
        try:
            await reading.judging.judge()
            body = await self.policy.run(write) if large else write()
        except Blocked as blocked:
            raise self._refused(blocked) from None
        except CancelledError:
            raise
        except Exception:
            raise self._faulty() from None
        return self._judged(reading, body)

    def _refused(self, blocked: Blocked) -> Refused:
        member = blocked.member.guardrail
        return Refused(self.notes.blocked(member, INPUT, blocked.seconds, blocked.reason, blocked.unavailable))

    def _faulty(self) -> Refused:
        """A fault of ours: never let pass what was not looked at (`guardrails.md` 12)."""
        self.policy.log.failure("a guardrail failed at {id}", id=self.exchange.id)
        return Refused(self.notes.blocked(None, INPUT, 0.0, "a fault of the gateway"))

    def _written(self, reading: Reading) -> bytes | None:
        """The request as the masks have made it, where they have."""
        call = self.exchange.call
        assert call is not None
        changed = reading.judging.changed or reading.judging.ambiguous
        return _written(call.extra, reading.document) if changed else None

    def _judged(self, reading: Reading, body: bytes | None) -> GuardTicket:
        """Send what the masks have made of the request; let those who take notes look at what it was."""
        exchange = self.exchange
        if body is not None:
            exchange.call = self.policy.formats[exchange.endpoint.format].read_call(body, exchange.headers)
        for member, texts in reading.originals.items():
            self.observe(member, texts, INPUT)
        return GuardTicket(self)

    def observe(self, member: Member, texts: list[str], hook: str) -> None:
        """One that takes notes looks at some texts; nobody waits for it."""
        if member.guard is None:
            about = partial(self._about_now, hook)
            running = monitoring.ask(member, tuple(texts), hook, self.notes, about)
        elif _size(texts) > INLINE:
            running = self.policy.run(partial(monitoring.look, member, texts, hook, self.notes))
        else:
            running = maybeDeferred(monitoring.look, member, texts, hook, self.notes)
        self.besides(running)

    def besides(self, running: Deferred[Any]) -> None:
        """Something goes on that nobody waits for."""
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


def _members(call: Call, names: Sequence[str]) -> dict[str, Any]:
    """Those members of a request that hold texts, decoded; one that cannot be is taken as a text."""
    found: Mapping[str, Any] = call.extra  # what the format took the body apart into
    made: dict[str, Any] = {}
    for name in found:
        if name.lower() in names:  # some providers' parsers do not care for case
            raw = bytes(found[name])
            try:
                made[name], _ = bodies.read(raw)
            except StrayFrame:
                made[name] = raw.decode("utf-8", "replace")
    return made


def _ambiguous(call: Call, document: Mapping[str, Any]) -> bool:
    """Whether a provider might read something else in these members than we do: then it is sent what we read."""
    return any(not isinstance(value, str) and twins(value, bytes(call.extra[name])) for name, value in document.items())


def _written(extra: Mapping[str, Any], document: Mapping[str, Any]) -> bytes:
    """The body with these members as they are now; the others keep their bytes."""
    found: dict[str, Any] = dict(extra)
    for name, value in document.items():
        found[name] = _encode(value)
    return bodies.joined(found)


def _size(texts: Iterable[str]) -> int:
    return sum(map(len, texts))
