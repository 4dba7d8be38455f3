"""Guardrails that are checked here, ready to be run: literals, and regexes with what happens to their matches. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from twisted_gateway.config.guarding import Guardrail
from twisted_gateway.config.guarding_local import CustomPattern, Keyword, Pii
from twisted_gateway.config.regexes import Regex, compiled, parse
from twisted_gateway.facts import frozen
from twisted_gateway.policies.guardrails.detectors import DETECTORS
from twisted_gateway.policies.guardrails.literals import Literals, fold
from twisted_gateway.policies.guardrails.masking import Edit, rewritten, settled, token


@frozen(eq=False)
class Rule:
    """One regex and what happens to its matches: they block, or `write` gives what is put in their place.

    `limit`: the most characters of a match that are held back, for a regex without an upper bound. `rest`, `until`: of
    a match that is too long to be held, and `half`: see `detectors.Detector`.
    """

    name: str
    regex: Regex
    program: Any
    blocks: bool
    write: Callable[[str], str]
    check: Callable[[str], bool] | None = None
    limit: int | None = None
    rest: Any = None
    until: Any = None
    until_prefix: Any = None
    half: Any = None
    builtin: bool = False

    @property
    def is_long(self) -> bool:
        """Whether a match may be too long to be held."""
        return self.rest is not None or self.until is not None

    def begun(self, text: str, start: int) -> int:
        """Where a match begins from `start` on that is so far on its way that its end is waited for, else the end."""
        found = self.half.finditer(text, start) if self.half is not None else ()
        return next((one.start() for one in found if one.end() == len(text)), len(text))

    def found(self, text: str, start: int = 0) -> Iterator[tuple[int, Edit]]:
        """Its matches from `start` on: where each begins, and the edit that would mask it."""
        grouped = self.program.groups > 0 and not self.builtin
        for match in self.program.finditer(text, start):
            first, last = match.span()
            if first == last or (self.check is not None and not self.check(text[first:last])):
                continue
            begin, end = match.span(1) if grouped else (first, last)
            if begin < 0 or begin == end:
                if self.blocks:
                    begin, end = first, last
                else:
                    continue
            yield first, Edit(begin, end, self.write(text[begin:end]) if not self.blocks else "", self.name)


Token = Callable[["Guard", str, str], str]
"""What is written in place of something: (the guardrail that found it, what it is, the text) to another text."""


@frozen(eq=False)
class Guard:
    """One guardrail of a local kind."""

    guardrail: Guardrail
    literals: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    set: Literals | None = None

    @property
    def name(self) -> str:
        """Its name, as callers see it."""
        return self.guardrail.name

    @property
    def masks(self) -> bool:
        """Whether it may rewrite anything."""
        return any(not rule.blocks for rule in self.rules)

    def blocked(self, text: str, start: int = 0, before: int | None = None) -> str | None:
        """The name of what must not be said in a text, or None.

        With `before` only regex matches count that begin before it: those behind it are not decided yet.
        """
        if self.set is not None and self.set.found(fold(text[start:]).encode()):
            return "literal"
        for rule in self.rules:
            if rule.blocks and any(before is None or first < before for first, _ in rule.found(text, start)):
                return rule.name
        return None

    def edits(self, text: str, start: int = 0, before: int | None = None) -> tuple[list[Edit], int]:
        """The masks of a text from `start` on, and how far they are decided.

        A match that reaches beyond `before` is not: then it ends where that match begins.
        """
        before = len(text) if before is None else before
        found: list[tuple[int, Edit]] = []
        for rule in self.rules:
            if not rule.blocks:
                for first, edit in rule.found(text, start):
                    if first >= before:
                        break
                    found.append((first, edit))
        if not found:
            return [], before
        ends = [(first, max(edit.end, first + 1)) for first, edit in found]
        safe = before
        changed = True
        while changed:
            lowest = min((first for first, end in ends if first < safe < end), default=safe)
            changed = lowest < safe
            safe = lowest
        return settled(edit for first, edit in found if first < safe), safe

    def masked(self, text: str, token: Token | None = None) -> tuple[str, Counter[str]]:
        """A whole text, rewritten, and what was found how often. `token` writes other masks than the rules do."""
        edits, _ = self.edits(text)
        if not edits:
            return text, Counter()
        if token is not None:
            edits = [edit._replace(token=token(self, edit.name, text[edit.start : edit.end])) for edit in edits]
        return rewritten(text, edits), Counter(edit.name for edit in edits)

    def spread(self, texts: Sequence[str]) -> tuple[list[str], Counter[str]]:
        """Several texts that are read as one, rewritten: a mask stands where it begins."""
        whole = "".join(texts)
        edits, _ = self.edits(whole)
        made, at = [], 0
        for text in texts:
            made.append(rewritten(whole, edits, at, at + len(text)) if edits else text)
            at += len(text)
        return made, Counter(edit.name for edit in edits)


def guard(guardrail: Guardrail) -> Guard:
    """A guardrail of a local kind, compiled."""
    own = guardrail.own
    if isinstance(own, Keyword):
        literals = tuple(one.value for one in own.patterns if one.kind == "literal")
        regexes = [one.value for one in own.patterns if one.kind == "regex"]
        rules = [_rule("regex", value, True, own.max_match_chars) for value in regexes]
        return Guard(guardrail, literals, tuple(rules), Literals(literals) if literals else None)
    assert isinstance(own, Pii)
    return Guard(guardrail, (), tuple(_pii(own)))


def _pii(own: Pii) -> Iterator[Rule]:
    for one in own.detectors:
        detector = DETECTORS[one.type]
        rule = _rule(one.type, detector.regex, (one.action or own.default_action) == "block", None)
        until = compiled(detector.until) if detector.until else None
        yield attrs.evolve(
            rule,
            check=detector.check,
            rest=compiled(detector.rest) if detector.rest else None,
            until=until,
            half=compiled(detector.half) if detector.half else None,
            until_prefix=compiled(f"(?:{parse(detector.until).prefix})\\z") if detector.until else None,
            builtin=True,
        )
    for custom in own.custom_patterns:
        yield _custom(custom, own)


def _custom(custom: CustomPattern, own: Pii) -> Rule:
    blocks = (custom.action or own.default_action) == "block"
    rule = _rule(custom.name, custom.regex, blocks, own.max_match_chars)
    return rule if custom.replacement is None else attrs.evolve(rule, write=_always(custom.replacement))


def _rule(name: str, pattern: str, blocks: bool, limit: int | None) -> Rule:
    regex = parse(pattern)
    return Rule(
        name, regex, compiled(pattern), blocks, _always(token(name)), limit=limit if regex.width is None else None
    )


def _always(text: str) -> Callable[[str], str]:
    return lambda found: text
