"""Literals: forbidden texts in any case, however many (`guardrails.md` 9). Pure.

Whether one is in a text is asked of one RE2 automaton over all of them. How far a text may be released is asked of the
sorted list: which of its ends is the beginning of a literal. Both cost the same however many literals there are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from twisted_gateway.config.regexes import MOST_MEMORY, compiled, search

_HEAD = 3
_MEMORY_PER_CHARACTER = 2048


def fold(text: str) -> str:
    """Lower case, character by character, so that offsets stay: `İ` is one character in lower case too."""
    if not text.isascii():
        text = text.replace("\u0130", "i").replace("\u03a3", "\u03c3")  # the two that str.lower treats otherwise
    return text.lower()


class Literals:
    """A set of literals. All texts given to it are folded ones."""

    __slots__ = ("_find", "_find_head", "_heads", "_sorted", "longest")

    def __init__(self, values: Iterable[str]) -> None:
        self._sorted = sorted({fold(value) for value in values})
        self.longest = max(map(len, self._sorted), default=0)
        """Characters."""
        self._heads = {value[:size] for value in self._sorted for size in range(1, _HEAD + 1)}
        size = sum(map(len, self._sorted))
        memory = max(MOST_MEMORY, size * _MEMORY_PER_CHARACTER)
        self._find = search(compiled("|".join(map(_quoted, self._sorted)), min(memory, 2**30)))
        heads = (_quoted(head) + ("" if len(head) == _HEAD else r"\z") for head in sorted(self._heads))
        self._find_head = search(compiled("|".join(heads), 8 * MOST_MEMORY))

    def found(self, data: bytes) -> bool:
        """Whether one of them is in a folded text, given as UTF-8."""
        return bool(self._find(data, 0, len(data))[0][0] >= 0)

    def pending(self, text: str, start: int) -> int:
        """Where the longest end of the folded text begins, from `start` on, that may still become a literal."""
        size = len(text)
        start = max(start, size - self.longest + 1)
        if not text.isascii():
            heads = self._heads
            return next(
                (at for at in range(start, size) if text[at : at + _HEAD] in heads and self._begins(text[at:])), size
            )
        data, find = text.encode(), self._find_head
        while start < size:
            start = find(data, start, size)[0][0]
            if start < 0:
                return size
            if self._begins(text[start:]):
                return start
            start += 1
        return size

    def _begins(self, rest: str) -> bool:
        """Whether a literal begins with this text, and goes on."""
        every = self._sorted
        index = bisect_left(every, rest)
        if index < len(every) and every[index] == rest:
            index += 1
        return index < len(every) and every[index].startswith(rest)


def _quoted(value: str) -> str:
    return "".join(
        char if char.isalnum() or char == " " or ord(char) > 127 else f"\\x{{{ord(char):x}}}" for char in value
    )
