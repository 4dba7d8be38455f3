"""One text of a streamed answer, as it comes: what may go, what is masked, what blocks (`guardrails.md` 7.3, 8). Pure.

Offsets are characters of the whole text, of which only the undecided end is kept, and a little context before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from twisted_gateway.policies.guardrails.masking import Edit
from twisted_gateway.policies.guardrails.matching import Matcher
from twisted_gateway.policies.guardrails.rules import Guard, Rule

CONTEXT = 64
LONGEST_RUN = 4096
KEPT_OF_A_RUN = 512
_LONG = 8192
_GROWTH = 16


class Found(NamedTuple):
    """A guardrail blocks; `reason` is for operators."""

    guard: Guard
    reason: str


class Scanner:
    """What the texts of one answer are scanned for: blocks of all `guards`, masks of `masker` alone.

    `counts` are the masks made, by what was found.
    """

    def __init__(self, guards: Sequence[Guard], masker: Guard | None, matcher: Matcher) -> None:
        self.guards = guards
        self.masker = masker
        self.matcher = matcher
        self.counts: Counter[str] = Counter()

    def whole(self, text: str) -> Found | None:
        """Whether a whole text breaks a rule."""
        if self.matcher.scan(text, 0)[0]:
            for guard in self.guards:
                reason = guard.blocked(text)
                if reason is not None:
                    return Found(guard, reason)
        return None

    def masked(self, text: str, count: bool = True) -> str:
        """A whole text, rewritten."""
        if self.masker is None:
            return text
        made, counts = self.masker.masked(text)
        if count:
            self.counts.update(counts)
        return made


class Text:
    """One text. `safe` is how far it may go; `edits` are the masks of what is not gone yet."""

    __slots__ = ("_base", "_edge", "_known", "_scanner", "_start", "_swallowing", "_text", "edits", "safe")

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self._text = ""
        self._start = 0
        self._base = 0
        self._known = 0
        self._swallowing: Rule | None = None
        self._edge: int | None = None
        self.safe = 0
        self.edits: list[Edit] = []

    @property
    def end(self) -> int:
        """Where the text ends so far."""
        return self._base + len(self._text)

    def add(self, text: str) -> None:
        """More of it."""
        self._text += text

    def look(self, final: bool = False) -> Found | None:
        """Decide what can be decided; `final`: nothing more will come for now."""
        if self._edge is not None and self._start < len(self._text):  # what was said to be complete goes on
            self._start, self._edge = self._edge - self._base, None
        text, scanner = self._text, self._scanner
        size = len(text)
        if not final and size - self._start > _LONG and size - self._known < (size - self._start) // _GROWTH:
            return None  # so that a long wait costs no more than its length
        self._known = size
        if self._swallowing is not None:
            self._swallow(self._swallowing, final)
            if self._swallowing is not None:
                return None
            text, size = self._text, len(self._text)
        if self._start == size:
            return None
        hit, safe = scanner.matcher.scan(text, self._start)
        if final:
            self._edge = self._base + safe
            safe = size
        if hit:
            for guard in scanner.guards:
                reason = guard.blocked(text, self._start, None if final else safe)
                if reason is not None:
                    return Found(guard, reason)
            if scanner.masker is not None:
                edits, safe = scanner.masker.edits(text, self._start, safe)
                self._edit(edits)
        if size - safe > LONGEST_RUN and not final:
            return self._overlong(safe)
        self._release(safe)
        return None

    def force(self) -> None:
        """Let go of it: it is longer than may be held."""
        self._release(max(self._start, len(self._text) - KEPT_OF_A_RUN))

    def forget(self, gone: int) -> None:
        """Everything before this offset has left: its edits are history."""
        if self.edits:
            self.edits = [edit for edit in self.edits if edit.end > gone or edit.start >= gone]

    def _edit(self, edits: Sequence[Edit]) -> None:
        base = self._base
        for edit in edits:
            self.edits.append(edit._replace(start=edit.start + base, end=edit.end + base))
            self._scanner.counts[edit.name] += 1

    def _release(self, safe: int) -> None:
        self.safe = self._base + safe
        cut = (safe if self._edge is None else self._edge - self._base) - CONTEXT
        if cut > 0:
            self._text = self._text[cut:]
            self._base += cut
            safe -= cut
            self._known = max(0, self._known - cut)
        self._start = safe

    def _overlong(self, safe: int) -> Found | None:
        """A match that is too long to wait for its end, or a run of characters that is none (`guardrails.md` 8.3)."""
        scanner = self._scanner
        for guard in scanner.guards:
            for rule in guard.rules:
                if not rule.is_long:
                    continue
                first, edit = next(rule.found(self._text, safe), (-1, None))
                if first != safe or edit is None:
                    continue
                if rule.blocks:
                    return Found(guard, rule.name)
                if guard is scanner.masker:
                    end = edit.end if rule.rest is not None else edit.start
                    self._edit([edit._replace(end=end)])
                    self._release(end)
                    self._swallowing = rule
                    self._swallow(rule, False)
                    return None
        others = scanner.matcher.others(self._text, self._start)  # an operator's rule waits as long as it must
        return self._passed_over(safe, max(safe, min(others, len(self._text) - KEPT_OF_A_RUN)))

    def _passed_over(self, safe: int, cut: int) -> Found | None:
        """Let go of the beginning of such a run, [safe, cut), but for what is found inside it."""
        text, scanner = self._text, self._scanner
        for guard in scanner.guards:
            for rule in guard.rules:
                cut = min(cut, rule.begun(text, safe))
        for guard in scanner.guards:
            for rule in guard.rules:
                if rule.blocks and any(first < cut for first, _ in rule.found(text, safe)):
                    return Found(guard, rule.name)
        if scanner.masker is not None:
            edits, cut = scanner.masker.edits(text, safe, cut)
            self._edit(edits)
        self._release(cut)
        return None

    def _swallow(self, rule: Rule, final: bool) -> None:
        """Drop what still belongs to a match whose mask is written already."""
        text, start, size = self._text, self._start, len(self._text)
        end, over = size, False
        if rule.rest is not None:
            match = rule.rest.match(text, start)
            end = match.end() if match is not None else start
            over = end < size
        elif rule.until is not None:
            match = rule.until.search(text, start)
            if match is not None:
                end, over = match.end(), True
            elif not final:
                waits = rule.until_prefix.search(text, start)
                end = waits.start() if waits is not None else size
        if end > start:
            self.edits.append(Edit(self._base + start, self._base + end, "", rule.name))
        self._release(end)
        if over:
            self._swallowing = None
