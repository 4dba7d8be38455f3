"""Answers that are kept for whoever asks the same again: in this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush

import attrs

from twisted_gateway.facts import define, frozen

MOST_ENTRIES = 10_000
_EIGHTH = 8
_OWN_BYTES = 400
"""What an entry costs beside its body: key, records, places in three tables."""
_SPARED = 0.8
"""Of the bytes, how many entries that were asked for again may have, safe from entries that nobody asks for twice."""


@frozen
class Entry:
    """One whole answer as the caller got it, and the tokens it was charged."""

    body: bytes
    prompt: int = 0
    completion: int = 0

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return len(self.body) + _OWN_BYTES


@define
class _Held:
    entry: Entry
    until: float


@define(eq=False)
class Memory:
    """At most so many entries and bytes. What has expired goes first; then the least valuable entry, which is the one
    that was not asked for since it came and is there longest, then that which was asked for the longest time ago.

    `now` gives seconds on a clock that only moves forward; an entry larger than an eighth of `max_bytes` is not taken.
    """

    now: Callable[[], float]
    max_bytes: int
    max_entries: int = MOST_ENTRIES
    bytes: int = attrs.field(default=0, init=False)
    _new: OrderedDict[str, _Held] = attrs.field(factory=OrderedDict, init=False)
    _asked: OrderedDict[str, _Held] = attrs.field(factory=OrderedDict, init=False)
    _asked_bytes: int = attrs.field(default=0, init=False)
    _ends: list[tuple[float, str]] = attrs.field(factory=list, init=False)

    def __len__(self) -> int:
        return len(self._new) + len(self._asked)

    def get(self, key: str) -> Entry | None:
        """The entry under a key, if there is one that has not expired."""
        self._expire()
        held = self._take(key)
        if held is None:
            return None
        self._asked[key] = held
        self._asked_bytes += held.entry.size
        self.bytes += held.entry.size
        while self._asked_bytes > _SPARED * self.max_bytes or len(self._asked) > _SPARED * self.max_entries:
            old, other = self._asked.popitem(last=False)
            self._asked_bytes -= other.entry.size
            self._new[old] = other
        return held.entry

    def put(self, key: str, entry: Entry, seconds: float) -> None:
        """Keep an entry for so many seconds, in place of an older one under its key."""
        self._expire()
        self._take(key)
        if entry.size > self.max_bytes // _EIGHTH:
            return
        held = _Held(entry, self.now() + seconds)
        self._new[key] = held
        self.bytes += entry.size
        self._note(key, held)
        while self.bytes > self.max_bytes or len(self) > self.max_entries:
            self._take(next(iter(self._new or self._asked)))

    def _take(self, key: str) -> _Held | None:
        held = self._new.pop(key, None)
        if held is None:
            held = self._asked.pop(key, None)
            if held is None:
                return None
            self._asked_bytes -= held.entry.size
        self.bytes -= held.entry.size
        return held

    def _note(self, key: str, held: _Held) -> None:
        """Remember when it ends. Ends of entries that went early stay in the list, so it is made anew now and then."""
        heappush(self._ends, (held.until, key))
        if len(self._ends) > 2 * len(self) + 64:
            self._ends = [(one.until, name) for table in (self._new, self._asked) for name, one in table.items()]
            heapify(self._ends)

    def _expire(self) -> None:
        now = self.now()
        while self._ends and self._ends[0][0] <= now:
            _, key = heappop(self._ends)
            held = self._new.get(key) or self._asked.get(key)
            if held is not None and held.until <= now:
                self._take(key)
