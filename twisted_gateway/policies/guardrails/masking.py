"""Masks: what is written where something was found, and how a text is rewritten (`guardrails.md` 8). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_ODD = re.compile(r"[\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]")


class Edit(NamedTuple):
    """Characters [start, end) of a text are replaced by `token`. `name` is what was found there."""

    start: int
    end: int
    token: str
    name: str = ""


def token(name: str) -> str:
    """The usual mask: `email` gives `[EMAIL_REDACTED]`."""
    return f"[{_label(name)}_REDACTED]"


def placeholder(name: str, number: int) -> str:
    """The mask of a value that comes back (`extensions.md` 7.1, `unmask`)."""
    return f"[{_label(name)}_{number}]"


def _label(name: str) -> str:
    return _ODD.sub("_", name.upper())


def settled(found: Iterable[Edit]) -> list[Edit]:
    """Edits that do not overlap, in order: the earliest wins, then the longest, then the one that was found first."""
    kept: list[Edit] = []
    end = 0
    for edit in sorted(found, key=lambda one: (one.start, -one.end)):
        if edit.start >= end:
            kept.append(edit)
            end = edit.end
    return kept


def rewritten(text: str, edits: Sequence[Edit], start: int = 0, end: int | None = None) -> str:
    """The part [start, end) of a text with these edits made. A token stands where its edit begins."""
    end = len(text) if end is None else end
    parts: list[str] = []
    at = start
    for edit in edits:
        if edit.end <= at and edit.start < at:
            continue
        if edit.start >= end:
            break
        parts.append(text[at : max(at, edit.start)])
        if edit.start >= start:
            parts.append(edit.token)
        at = max(at, min(edit.end, end))
    parts.append(text[at:end])
    return "".join(parts)


_TOKENS = re.compile(r"\w+|\W")


def aligned(before: str, after: str) -> list[Edit]:
    """The edits that make one text of another, for a service that only says what came of it.

    Word by word, so that they are small; what can be explained in more than one way is explained as few edits.
    """
    from difflib import SequenceMatcher

    old, new = _TOKENS.findall(before), _TOKENS.findall(after)
    at = 0
    while at < min(len(old), len(new)) and old[at] == new[at]:
        at += 1
    back = 0
    while back < min(len(old), len(new)) - at and old[-1 - back] == new[-1 - back]:
        back += 1
    middle_old, middle_new = old[at : len(old) - back], new[at : len(new) - back]
    first = sum(map(len, old[:at]))
    if len(middle_old) * len(middle_new) > 250_000:
        return [Edit(first, first + sum(map(len, middle_old)), "".join(middle_new))]
    starts = [first]
    for one in middle_old:
        starts.append(starts[-1] + len(one))
    codes = SequenceMatcher(None, middle_old, middle_new, autojunk=False).get_opcodes()
    return [Edit(starts[i], starts[j], "".join(middle_new[k:m])) for kind, i, j, k, m in codes if kind != "equal"]
