"""Counters of this process (`policy.md` 11.3). Time is handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from twisted_gateway.config.limits import DAY
from twisted_gateway.stores.buckets import (
    CONCURRENCY,
    REQUESTS,
    TOKENS,
    Ask,
    Refusal,
    Standing,
    Taken,
    seconds_left,
    window_start,
)

_SWEPT_AT_ONCE = 2


class _Bucket:
    """Counters of one key. A window's counter stands for the window it was last used in."""

    __slots__ = ("counts", "holds", "reserved", "slots", "touched")

    def __init__(self) -> None:
        self.counts: dict[str, tuple[int, int]] = {}
        """Name of a window to (its start, used)."""
        self.holds: dict[str, tuple[bool, int]] = {}
        """Name of a hold to (has a slot, tokens held)."""
        self.slots = 0
        self.reserved = 0
        self.touched = 0.0

    def used(self, name: str, seconds: int, now: float) -> int:
        start, used = self.counts.get(name, (0, 0))
        return used if start == window_start(now, seconds) else 0

    def add(self, name: str, seconds: int, now: float, amount: int) -> None:
        self.counts[name] = window_start(now, seconds), self.used(name, seconds, now) + amount

    def refusal(self, index: int, ask: Ask, now: float) -> Refusal | None:
        """Why there is no place, if so."""
        limits = ask.limits
        if limits.concurrency is not None and self.slots >= limits.concurrency:
            return Refusal(index, CONCURRENCY, None)
        for name, seconds, limit in limits.tokens:
            used = self.used(name, seconds, now)
            if not limits.reserve:
                full = used > limit
            else:
                full = used + self.reserved + ask.estimate > limit and bool(used or self.reserved)
            if full:
                return Refusal(index, TOKENS, seconds_left(now, seconds))
        for name, seconds, limit in limits.requests:
            if self.used(name, seconds, now) + 1 > limit:
                return Refusal(index, REQUESTS, seconds_left(now, seconds))
        return None

    def count(self, ask: Ask, now: float) -> None:
        self.touched = now
        for name, seconds, _ in ask.limits.requests:
            self.add(name, seconds, now, 1)

    def hold(self, ask: Ask, hold: str) -> None:
        if hold not in self.holds and (ask.slot or ask.limits.reserve):
            self.holds[hold] = ask.slot, ask.held
            self.slots += ask.slot
            self.reserved += ask.held

    def free(self, hold: str) -> None:
        slot, tokens = self.holds.pop(hold, (False, 0))
        self.slots -= slot
        self.reserved -= tokens

    def standing(self, now: float) -> Standing:
        return Standing(self.used("rpm", 60, now), self.used("tpm", 60, now) + self.reserved, self.slots)

    def idle(self, now: float) -> bool:
        """Whether nothing is lost when it is forgotten."""
        if self.holds:
            return False
        ages = {"rps": 1, "rpm": 60, "tpm": 60, "rph": 3600}
        return not any(used and self.used(name, ages.get(name, DAY), now) for name, (_, used) in self.counts.items())


class Memory:
    """A `buckets.Store` that answers at once. `now` gives seconds since the epoch.

    Its size is bounded by the buckets used within a day: each take looks whether another two can be forgotten.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._buckets: dict[str, _Bucket] = {}
        self._sweep: Iterator[str] = iter(())

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, asks: Sequence[Ask], hold: str) -> Taken:
        """See `buckets.Store`."""
        now = self._now()
        self._forget(now)
        for index, ask in enumerate(asks):
            bucket = self._bucket(ask.bucket)
            refusal = bucket.refusal(index, ask, now)
            if refusal is not None:
                for earlier in asks[:index]:
                    self._bucket(earlier.bucket).free(hold)
                return Taken(now, refusal=refusal)
            bucket.count(ask, now)
            bucket.hold(ask, hold)
        return Taken(now, tuple(self._bucket(ask.bucket).standing(now) for ask in asks))

    def note(self, asks: Sequence[Ask], hold: str | None) -> None:
        """Count a call that somebody else has admitted; without a hold it was refused in the end."""
        now = self._now()
        self._forget(now)
        for ask in asks:
            bucket = self._bucket(ask.bucket)
            bucket.count(ask, now)
            if hold is not None:
                bucket.hold(ask, hold)

    def enlarge(self, asks: Sequence[Ask], hold: str, tokens: int) -> None:
        """See `buckets.Store`."""
        for ask in asks:
            bucket = self._buckets.get(ask.bucket)
            if bucket is not None and ask.limits.reserve and hold in bucket.holds:
                slot, held = bucket.holds[hold]
                bucket.holds[hold] = slot, held + tokens
                bucket.reserved += tokens

    def release(self, asks: Sequence[Ask], hold: str, tokens: int) -> None:
        """See `buckets.Store`."""
        now = self._now()
        for ask in asks:
            bucket = self._bucket(ask.bucket)
            bucket.free(hold)
            if tokens:
                for name, seconds, _ in ask.limits.tokens:
                    bucket.add(name, seconds, now, tokens)

    def standing(self, key: str) -> Standing:
        """How a bucket stands now."""
        bucket = self._buckets.get(key)
        return Standing() if bucket is None else bucket.standing(self._now())

    def held(self, key: str, hold: str) -> int | None:
        """The tokens held in a bucket under a name; None where nothing is."""
        bucket = self._buckets.get(key)
        return bucket.holds[hold][1] if bucket is not None and hold in bucket.holds else None

    def _bucket(self, key: str) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket()
        return bucket

    def _forget(self, now: float) -> None:
        for _ in range(_SWEPT_AT_ONCE):
            key = next(self._sweep, None)
            if key is None:
                self._sweep = iter(tuple(self._buckets))
                return
            bucket = self._buckets.get(key)
            if bucket is not None and bucket.idle(now):
                del self._buckets[key]
