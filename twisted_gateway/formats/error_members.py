"""Members of a provider's error object, as every dialect reads them (`streaming.md` 11.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted_gateway.errors import shown


def status_of(facts: Mapping[str, Any]) -> int | None:
    """The HTTP status that the error gives as a number."""
    for name in ("code", "status_code", "status"):
        value = facts.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            return value
    return None


def message_of(facts: Mapping[str, Any]) -> str:
    """Its text, or what stands for one."""
    return word(facts, "message") or word(facts, "status") or "the provider sent an error"


def word(facts: Mapping[str, Any], name: str) -> str | None:
    """A member that is a text and not empty."""
    value = facts.get(name)
    return value if isinstance(value, str) and value else None


def shown_word(facts: Mapping[str, Any], name: str) -> str | None:
    """The same, as far as a caller is shown it."""
    value = word(facts, name)
    return None if value is None else shown(value)
