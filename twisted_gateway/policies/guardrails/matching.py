"""All rules of some guardrails at once: is there anything in this text, and how much of it may go? Pure.

Innocent text costs a few searches, whatever the number of rules. What was found, and by which rule, is asked rule by
rule, and only then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted_gateway.config.regexes import BadRegex, compiled, search
from twisted_gateway.policies.guardrails.literals import Literals, fold
from twisted_gateway.policies.guardrails.rules import Guard, Rule

_MEMORY = 32 * 2**20


class Matcher:
    """The rules of `guards`. `scan` is what a stream asks for each piece of text."""

    __slots__ = ("_any", "_bounds", "_lag", "_limits", "_literals", "_others", "holds")

    def __init__(self, guards: Sequence[Guard]) -> None:
        literals = [value for one in guards for value in one.literals]
        self._literals = Literals(literals) if literals else None
        rules = [rule for one in guards for rule in one.rules]
        self._any = _joined(f"(?:{rule.regex.pattern})" for rule in rules)
        self._bounds = _ends(rule for rule in rules if rule.limit is None and rule.regex.prefix is not None)
        limited: dict[int, list[Rule]] = {}
        for rule in rules:
            if rule.limit is not None and rule.regex.prefix is not None:
                limited.setdefault(rule.limit, []).append(rule)
        self._limits = [(limit, _ends(some)) for limit, some in limited.items()]
        blind = [rule for rule in rules if rule.regex.prefix is None]
        lags = [rule.limit if rule.regex.width is None else rule.regex.width for rule in blind]
        self._lag = max((lag + 1 for lag in lags if lag is not None), default=0)
        self.holds = None in lags
        """There is a rule of which nobody knows where a match may begin: nothing may go before the end."""
        self._others = _ends(rule for rule in rules if not rule.builtin and rule.regex.prefix is not None)

    def scan(self, text: str, start: int) -> tuple[bool, int]:
        """Whether anything is found in a text from `start` on, and up to where no match can begin any more.

        What is before `start` is context.
        """
        safe = len(text)
        hit = False
        if self._literals is not None:
            folded = fold(text)
            hit = self._literals.found((folded[start:] if start else folded).encode())
            safe = self._literals.pending(folded, start)
        if not self._any:
            return hit, safe
        data = text.encode()
        ascii_only = len(data) == len(text)
        at = start if ascii_only else len(text[:start].encode())
        for program in self._any:
            if program(data, at, len(data))[0][0] >= 0:
                hit = True
                break
        for program in self._bounds:
            safe = min(safe, _begin(program, data, at, ascii_only))
        for limit, programs in self._limits:
            for program in programs:
                safe = min(safe, max(_begin(program, data, at, ascii_only), len(text) - limit - 1))
        if self._lag:
            safe = min(safe, len(text) - self._lag)
        if self.holds:
            safe = start
        return hit, max(start, safe)

    def hit(self, text: str) -> bool:
        """Whether anything is found in a whole text."""
        if self._literals is not None and self._literals.found(fold(text).encode("utf-8", "replace")):
            return True
        if not self._any:
            return False
        data = text.encode("utf-8", "replace")
        return any(program(data, 0, len(data))[0][0] >= 0 for program in self._any)

    def others(self, text: str, start: int) -> int:
        """Up to where no match can begin any more but one of a built-in detector."""
        safe = self._literals.pending(fold(text), start) if self._literals is not None else len(text)
        data = text.encode()
        at = len(text[:start].encode())
        for program in self._others:
            safe = min(safe, _begin(program, data, at, len(data) == len(text)))
        return start if self.holds else min(safe, len(text) - self._lag)


def _begin(program: Any, data: bytes, at: int, ascii_only: bool) -> int:
    """Where the longest end of the text begins that may still become a match, in characters."""
    offset: int = program(data, at, len(data))[0][0]
    if offset < 0:
        offset = len(data)
    return offset if ascii_only else len(data[:offset].decode())


def _ends(rules: Iterable[Rule]) -> list[Any]:
    return _joined((f"(?:{rule.regex.prefix})" for rule in rules), r"\z")


def _joined(patterns: Iterable[str], end: str = "") -> list[Any]:
    """The search for all of them, or a few, where one would be too large."""
    some = list(dict.fromkeys(patterns))
    if not some:
        return []
    try:
        return [search(compiled(f"(?:{'|'.join(some)}){end}", _MEMORY))]
    except BadRegex:
        if len(some) == 1:
            raise
        half = len(some) // 2
        return [*_joined(some[:half], end), *_joined(some[half:], end)]
