"""Input masks that come back: numbered placeholders for the provider, the values again for the caller (`unmask`)."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from twisted_gateway.config.guarding import Guardrail
from twisted_gateway.config.regexes import compiled, parse
from twisted_gateway.policies.guardrails.channels import Scanner
from twisted_gateway.policies.guardrails.masking import placeholder, token
from twisted_gateway.policies.guardrails.matching import Matcher
from twisted_gateway.policies.guardrails.rules import Guard, Rule


@attrs.define
class Placeholders:
    """The placeholders of one call. `texts` are those of the request: what they hold already is not used again."""

    texts: tuple[str, ...] = ()
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
            if made not in self.values and not any(made in text for text in self.texts):
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
    pattern = "|".join(_quoted(sorted(values)))
    rule = Rule("unmask", parse(pattern), compiled(pattern), False, values.__getitem__)
    guard = Guard(guardrail, (), (rule,))
    return Scanner((guard,), guard, Matcher((guard,)))


def _quoted(texts: Iterable[str]) -> list[str]:
    return ["".join(char if char.isalnum() else f"\\x{{{ord(char):x}}}" for char in text) for text in texts]
