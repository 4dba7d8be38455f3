"""Masks: what is written where something was found, and how a text is rewritten (`guardrails.md` 8). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
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


_MOST_COMPARED = 250_000
_TOKENS = re.compile(r"\w+|\W")


def aligned(before: str, after: str) -> list[Edit]:
    """The edits that make one text of another, for a service that only says what came of it.

    Word by word, so that they are small; what can be explained in more than one way is explained as few edits.
    """
    old, new = _TOKENS.findall(before), _TOKENS.findall(after)
    at = 0
    while at < min(len(old), len(new)) and old[at] == new[at]:
        at += 1
    back = 0
    while back < min(len(old), len(new)) - at and old[-1 - back] == new[-1 - back]:
        back += 1
    middle_old, middle_new = old[at : len(old) - back], new[at : len(new) - back]
    starts = [0]
    for one in old:
        starts.append(starts[-1] + len(one))
    if len(middle_old) * len(middle_new) > _MOST_COMPARED:
        return [Edit(starts[at], starts[at + len(middle_old)], "".join(middle_new))]
    edits: list[Edit] = []
    codes = SequenceMatcher(None, middle_old, middle_new, autojunk=False).get_opcodes()
    for kind, i, j, k, m in codes:
        if kind != "equal":
            _put(edits, old, starts, at + i, at + j, "".join(middle_new[k:m]))
    return edits


def _put(edits: list[Edit], old: Sequence[str], starts: Sequence[int], first: int, last: int, text: str) -> None:
    """Words [first, last) become `text`; what is only inserted takes a neighbour along, as an edit has a place."""
    if first == last and edits and edits[-1].end == starts[first]:
        edits[-1] = edits[-1]._replace(token=edits[-1].token + text)
        return
    if first == last and first > 0:
        first, text = first - 1, old[first - 1] + text
    elif first == last and old:
        last, text = 1, text + old[0]
    edits.append(Edit(starts[first], starts[last], text))
