"""Cache policies of the resources file, and the boot file's `cache` (`configuration.md` 3.9 and 7.7). Pure."""

from collections.abc import Iterable
from typing import Annotated

import attrs

from twisted_gateway.config.checks import Choice, Flag, Text, Whole
from twisted_gateway.facts import frozen

MOST_SECONDS = 604_800
_ALL = "all"
_RANKS = {"api_key": 0, "model": 1}


@frozen
class CachePolicy:
    """Which calls may be answered from the cache, from which one, and for how many seconds.

    `scope` says whether an entry is private to a caller key (`api_key`) or serves all of them (`env`).
    """

    id: str = attrs.field(metadata={"injected": True})
    name: Annotated[str, Text(r"(?s).{1,120}", "1 to 120 characters")]
    enabled: Flag = True
    backend: Annotated[str, Choice(("memory", "redis"))] = "memory"
    ttl_seconds: Annotated[int, Whole(low=1, high=MOST_SECONDS)] = 3600
    applies_to: Annotated[str, Text(r"(?s).{1,255}", "1 to 255 characters")] = _ALL
    scope: Annotated[str, Choice(("api_key", "env"))] = "api_key"
    purge_generation: Annotated[int, Whole()] = 0

    @property
    def meant(self) -> tuple[str, str]:
        """What `applies_to` says: `api_key` or `model` and which, or `all`, which any other text means too."""
        kind, colon, name = self.applies_to.partition(":")
        return (kind, name) if colon and kind in _RANKS else (_ALL, "")

    @property
    def rank(self) -> tuple[int, str]:
        """Of several that match, the lowest counts: a key's before a model's before one for all, then by name."""
        return _RANKS.get(self.meant[0], len(_RANKS)), self.name

    def matches(self, model: str, key: str) -> bool:
        """Whether it is on and meant for this requested name and this caller key's id."""
        return self.enabled and self.meant in ((_ALL, ""), ("model", model), ("api_key", key))


def ranked(policies: Iterable[CachePolicy]) -> tuple[CachePolicy, ...]:
    """The most specific first."""
    return tuple(sorted(policies, key=lambda policy: policy.rank))


def chosen(policies: Iterable[CachePolicy], model: str, key: str) -> CachePolicy | None:
    """The policy for a call, of those that `ranked` gave; None: no cache."""
    for policy in policies:
        if policy.matches(model, key):
            return policy
    return None
