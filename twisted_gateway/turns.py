"""Whose turn it is: smooth weighted round robin, kept for each tier of each group (`policy.md` 7). Pure state."""

from __future__ import annotations

import attrs

from twisted_gateway.facts import define
from twisted_gateway.ring import Weighted

_MOST_SUBSETS = 64


@define
class _Tier:
    """One tier of a group as configured, and the state of each part of it that calls could use."""

    configured: Weighted
    counters: dict[Weighted, list[int]] = attrs.field(factory=dict)


@define
class Turns:
    """The state of every tier. A tier whose configured targets or weights change begins anew."""

    _tiers: dict[tuple[str, int], _Tier] = attrs.field(factory=dict)

    def next(self, group: str, priority: int, configured: Weighted, usable: Weighted) -> int:
        """The position in `usable` whose turn it is.

        Each pick adds its weight to every counter, takes the largest (the first of equals) and subtracts the total
        from it. Tags and address lists may leave a part of the tier to a call: each such part has its own counters.
        """
        tier = self._tiers.get((group, priority))
        if tier is None or tier.configured != configured:
            tier = self._tiers[group, priority] = _Tier(configured)
        counters = tier.counters.get(usable)
        if counters is None:
            if len(tier.counters) >= _MOST_SUBSETS:
                tier.counters.clear()
            counters = tier.counters[usable] = [0] * len(usable)
        weights = [weight or 1 for _, weight in usable]
        for at, weight in enumerate(weights):
            counters[at] += weight
        picked = max(range(len(counters)), key=lambda at: (counters[at], -at))
        counters[picked] -= sum(weights)
        return picked
