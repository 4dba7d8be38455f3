"""Arguments of tool calls: JSON in a text, looked at raw and decoded (`guardrails.md` 2 and 8.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def leaves(text: str) -> Iterator[str]:
    """The strings in some JSON; nothing where it is none."""
    try:
        value = _decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return
    if not isinstance(value, str) or value != text:
        yield from _strings(value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _strings(one)


def masked_arguments(text: str, mask: Callable[[str], str]) -> str:
    """The JSON with its strings rewritten; as a plain text where it is no JSON."""
    try:
        value = _decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return mask(text)
    if not isinstance(value, dict | list | str):
        return mask(text)
    made = _rewritten(value, mask)
    return text if made == value else _encode(made).decode()


def _rewritten(value: Any, mask: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        return [_rewritten(one, mask) for one in value]
    if isinstance(value, dict):
        return {name: _rewritten(one, mask) for name, one in value.items()}
    return value


def replaced(text: str, strings: Sequence[str]) -> str:
    """The JSON with other strings in it, as many as `leaves` gave."""
    left = iter(strings)
    return masked_arguments(text, lambda _: next(left))
