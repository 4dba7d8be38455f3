"""Input masks that come back: numbered placeholders for the provider, the values again for the caller (`unmask`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import attrs

from twisted_gateway.config.guarding import Guardrail
from twisted_gateway.config.regexes import Regex, compiled, parse
from twisted_gateway.facts import define
from twisted_gateway.policies.guardrails.channels import Scanner
from twisted_gateway.policies.guardrails.masking import placeholder, token
from twisted_gateway.policies.guardrails.matching import Matcher
from twisted_gateway.policies.guardrails.rules import Guard, Rule

_BRACKETED = re.compile(r"\[[^\[\]]*\]")


def bracketed(texts: Iterable[str]) -> frozenset[str]:
    """What in these texts could be taken for a placeholder."""
    return frozenset(found for text in texts if "[" in text for found in _BRACKETED.findall(text))


@define
class Placeholders:
    """The placeholders of one call. `taken` is what the request holds already: that is not used again."""

    taken: frozenset[str] = frozenset()
    values: dict[str, str] = attrs.field(factory=dict)
    _given: dict[tuple[str, str], str] = attrs.field(factory=dict)
    _numbers: dict[str, int] = attrs.field(factory=dict)

    def token(self, guard: Guard, name: str, found: str) -> str:
        """What is written for something that was found: the same for the same."""
        if not getattr(guard.guardrail.own, "unmask", False):
            return self._usual(guard, name, found)
        known = self._given.get((name, found))
        if known is not None:
            return known
        number = self._numbers.get(name, 0)
        while True:
            number += 1
            made = placeholder(name, number)
            if made not in self.values and made not in self.taken:
                break
        self._numbers[name] = number
        self._given[(name, found)] = made
        self.values[made] = found
        return made

    def _usual(self, guard: Guard, name: str, found: str) -> str:
        rule = next((rule for rule in guard.rules if rule.name == name and not rule.blocks), None)
        return rule.write(found) if rule is not None else token(name)

    def scanner(self, guardrail: Guardrail) -> Scanner:
        """What puts the values back."""
        return _restoring(guardrail, self.values)


def _restoring(guardrail: Guardrail, values: dict[str, str]) -> Scanner:
    labels = {made[1 : made.rindex("_")] for made in values}
    regex, program = _shaped(tuple(sorted(labels)))
    rule = Rule("unmask", regex, program, False, values.__getitem__, check=values.__contains__)
    guard = Guard(guardrail, (), (rule,))
    return Scanner((guard,), guard, Matcher((guard,)))


@lru_cache(64)
def _shaped(labels: tuple[str, ...]) -> tuple[Regex, Any]:
    """What placeholders with these labels look like: it must not grow with a caller's number of values."""
    pattern = rf"\[(?:{'|'.join(_quoted(labels))})_[0-9]{{1,8}}\]"
    return parse(pattern), compiled(pattern)


def _quoted(texts: Iterable[str]) -> list[str]:
    return ["".join(char if char.isalnum() else f"\\x{{{ord(char):x}}}" for char in text) for text in texts]
