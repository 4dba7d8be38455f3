"""The hash ring of `consistent_hash`: which target a key prefers, the same in every process (`policy.md` 7.1). Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from math import gcd

_OFFSET = 0xCBF29CE484222325
_PRIME = 0x100000001B3
_MASK = 2**64 - 1
_POINTS = 160
"""Points of a target for each unit of weight."""
_MOST_UNITS = 64

Weighted = tuple[tuple[str, int], ...]
"""Names and weights of a tier's targets, as written."""


def fnv1a(data: bytes, seed: int = _OFFSET) -> int:
    """The 64-bit FNV-1a hash of some bytes, or of what follows those whose hash is `seed`."""
    value = seed
    for byte in data:
        value = (value ^ byte) * _PRIME & _MASK
    return value


def mix(value: int) -> int:
    """The finaliser of splitmix64: spreads a hash over all its bits."""
    value ^= value >> 30
    value = value * 0xBF58476D1CE4E5B9 & _MASK
    value ^= value >> 27
    value = value * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31


def units(weights: Sequence[int]) -> list[int]:
    """Weights as small whole numbers: 0 counts as 1, common factors are taken out, the sum is kept near 64."""
    counted = [weight or 1 for weight in weights]
    factor = gcd(*counted)
    reduced = [weight // factor for weight in counted]
    total = sum(reduced)
    return reduced if total <= _MOST_UNITS else [max(1, weight * _MOST_UNITS // total) for weight in reduced]


class Ring:
    """The points of one tier's targets."""

    def __init__(self, tier: Weighted) -> None:
        points = []
        for index, ((name, _), share) in enumerate(zip(tier, units([weight for _, weight in tier]), strict=True)):
            begun = fnv1a(name.encode() + b"\0")
            points += [(mix(fnv1a(at.to_bytes(4, "little"), begun)), index) for at in range(share * _POINTS)]
        points.sort()
        self._places = [place for place, _ in points]
        self._owners = [owner for _, owner in points]
        self._size = len(tier)

    def preference(self, key: str) -> list[int]:
        """The targets' positions in the order in which a key meets them, walking clockwise."""
        start = bisect_left(self._places, mix(fnv1a(key.encode("utf-8", "surrogateescape"))))
        met: dict[int, None] = {}
        for step in range(len(self._owners)):
            met.setdefault(self._owners[(start + step) % len(self._owners)])
            if len(met) == self._size:
                break
        return list(met)


@lru_cache(256)
def ring(tier: Weighted) -> Ring:
    """The ring of a tier; made once for each list of names and weights."""
    return Ring(tier)
