"""Verdicts about whole texts: a request, or a whole answer (`guardrails.md` 3). What blocks comes first, then masks.

Local guardrails are asked here and now, or in a thread where there is much to search; those that must ask somebody are
asked all at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from twisted_gateway.config.guarding import Guardrail
from twisted_gateway.facts import define, frozen
from twisted_gateway.formats.slots import Channel, Slot, put, text_of
from twisted_gateway.policies.guardrails.arguments import leaves, masked_arguments, replaced
from twisted_gateway.policies.guardrails.matching import Matcher
from twisted_gateway.policies.guardrails.notes import INPUT, Notes
from twisted_gateway.policies.guardrails.rules import Guard, Token
from twisted_gateway.policies.guardrails.together import together
from twisted_gateway.policies.guardrails.verdict import Allow, Asked, Block, Bypass, Check, Mask, Verdict

INLINE = 16 * 1024
"""Characters that are searched at once; more than that is searched in a thread."""

Run = Callable[[Callable[[], Any]], Deferred[Any]]
"""A function's result, from a thread."""


@frozen(eq=False)
class Member:
    """One guardrail, ready to look: `guard` where it is checked here, else `check`."""

    guardrail: Guardrail
    guard: Guard | None = None
    check: Check | None = None

    def sees(self, slots: Sequence[Slot]) -> list[Slot]:
        """The slots that it looks at."""
        return [slot for slot in slots if self.guardrail.scan_reasoning or not slot.reasoning]


class Blocked(Exception):
    """A member blocks. `reason` is for operators, `seconds` is how long it took."""

    def __init__(self, member: Member, reason: str, seconds: float, unavailable: bool = False) -> None:
        super().__init__(reason)
        self.member = member
        self.reason = reason
        self.seconds = seconds
        self.unavailable = unavailable


class Board:
    """The members that look at one hook, in order, and one matcher for those that are local."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)
        self.guards = tuple(member.guard for member in members if member.guard is not None)
        self.matcher = Matcher(self.guards)
        self.remote = any(member.check is not None for member in members)


def rows(slots: Sequence[Slot]) -> list[list[Slot]]:
    """Texts that a caller of an answer reads as one: its blocks, of which a sentence with citations has many."""
    found: dict[Channel, list[Slot]] = {}
    for slot in slots:
        if slot.key == "text" and not slot.arguments:
            found.setdefault(slot.channel, []).append(slot)
    return [row for row in found.values() if len(row) > 1]


def fields(slots: Sequence[Slot]) -> list[str]:
    """The texts that are searched: arguments of tools raw, and each string in them."""
    found: list[str] = []
    for slot in slots:
        text = text_of(slot)
        found.append(text)
        if slot.arguments:
            found += leaves(text)
    return found


@define
class Judging:
    """One look of a board at some texts. `about` makes what a remote check is asked; `token` writes other masks."""

    board: Board
    slots: list[Slot]
    hook: str
    notes: Notes
    about: Callable[[str, tuple[str, ...]], Asked]
    run: Run
    token: Token | None = None
    changed: bool = False
    ambiguous: bool = False
    """Others may read something else in what came: what was read here is to be written."""
    _begun: float = 0.0
    _hits: bool = False

    def now(self) -> bool:
        """Judge without waiting, where that is possible; False where it is not. Raises `Blocked`."""
        if self.board.remote or self._large:
            return False
        self._begun = self.notes.clock()
        found = self._local()
        if found is not None:
            raise Blocked(found[0], found[1], self._seconds)
        for member in self.board.members:
            self._noted(member, self._masked(member))
        return True

    async def judge(self) -> None:
        """Judge, waiting for whoever must be asked. Raises `Blocked`."""
        self._begun = self.notes.clock()
        members = self.board.members
        found = await self._searched(self._local)
        last = len(members) if found is None else members.index(found[0])
        asked = [member for member in members[:last] if member.check is not None]
        verdicts = dict(zip(asked, await self._ask(asked), strict=True))
        for member, verdict in verdicts.items():
            self._raise(member, verdict)
        if found is not None:
            raise Blocked(found[0], found[1], self._seconds)
        for member in members:
            if member.guard is not None:
                self._noted(member, await self._searched(partial(self._masked, member)))
            else:
                await self._obey(member, verdicts[member])

    @property
    def _large(self) -> bool:
        return sum(len(text_of(slot)) for slot in self.slots) > INLINE

    @property
    def _seconds(self) -> float:
        return self.notes.clock() - self._begun

    async def _searched(self, search: Callable[[], Any]) -> Any:
        return await self.run(search) if self._large else search()

    def _local(self) -> tuple[Member, str] | None:
        """The first local member that blocks, and why."""
        self._hits = any(self.board.matcher.hit(text) for text in self._searched_texts(self.slots))
        if self._hits:
            for member in self.board.members:
                if member.guard is not None:
                    for text in self._searched_texts(member.sees(self.slots)):
                        reason = member.guard.blocked(text)
                        if reason is not None:
                            return member, reason
        return None

    def _searched_texts(self, slots: Sequence[Slot]) -> list[str]:
        if self.hook == INPUT:
            return fields(slots)
        return fields(slots) + ["".join(map(text_of, row)) for row in rows(slots)]

    def _masked(self, member: Member) -> Counter[str]:
        """Make a local member's masks, and count them."""
        counts: Counter[str] = Counter()
        guard = member.guard
        if guard is None or not guard.masks or not self._hits:
            return counts

        def mask(text: str) -> str:
            made, found = guard.masked(text, self.token)
            counts.update(found)
            return made

        seen = member.sees(self.slots)
        done: set[int] = set()
        for row in rows(seen) if self.hook != INPUT else ():
            texts, found = guard.spread([text_of(slot) for slot in row])
            counts.update(found)
            for slot, text in zip(row, texts, strict=True):
                if text != text_of(slot):
                    put(slot, text)
            done.update(map(id, row))
        for slot in seen:
            if id(slot) in done:
                continue
            before = text_of(slot)
            after = masked_arguments(before, mask) if slot.arguments else mask(before)
            if after != before:
                put(slot, after)
        return counts

    def _noted(self, member: Member, counts: Counter[str]) -> None:
        if counts:
            self.changed = True
            self.notes.masked(member.guardrail, self.hook, self._seconds, counts)
        else:
            self.notes.allowed(member.guardrail, self.hook, self._seconds)

    async def _ask(self, members: Sequence[Member]) -> list[Verdict]:
        return await together([Deferred.fromCoroutine(self._asked(member)) for member in members])

    async def _asked(self, member: Member) -> Verdict:
        assert member.check is not None
        texts = tuple(fields(member.sees(self.slots)))
        if not any(texts):
            return Allow()
        return await member.check(self.about(member.guardrail.name, texts))

    async def _obey(self, member: Member, verdict: Verdict) -> None:
        """Make a remote member's masks; where others have masked before, it is asked about what they wrote."""
        if self.changed and isinstance(verdict, Mask):
            (verdict,) = await self._ask([member])
            self._raise(member, verdict)
        if isinstance(verdict, Mask):
            left = iter(verdict.texts)
            for slot in member.sees(self.slots):
                before, after = text_of(slot), next(left)
                inner = list(leaves(before)) if slot.arguments else []
                said = [next(left) for _ in inner]
                if said != inner:
                    after = replaced(before, said)
                if after != before:
                    put(slot, after)
                    self.changed = True
            self.notes.masked(member.guardrail, self.hook, self._seconds, verdict.counts)
        elif isinstance(verdict, Bypass):
            self.notes.bypassed(member.guardrail, self.hook, self._seconds, verdict.reason)
        else:
            self.notes.allowed(member.guardrail, self.hook, self._seconds)

    def _raise(self, member: Member, verdict: Verdict) -> None:
        if isinstance(verdict, Block):
            raise Blocked(member, verdict.reason, self._seconds, verdict.unavailable)
