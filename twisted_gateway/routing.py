"""From an alias to the targets that may serve it, best first (`policy.md` sections 3 and 7)."""

from __future__ import annotations

from collections.abc import Iterator

from twisted_gateway.config.snapshot import Resolution
from twisted_gateway.exchange import Target


def plan(resolution: Resolution) -> Iterator[Target]:
    """The targets of a resolved name, lazily. A direct model is a list of one."""
    yield Target(resolution.model, resolution.upstream_model)


def shown_name(asked: str, resolution: Resolution) -> str | None:
    """The model's name in answers: what the caller asked; None for a wildcard, which keeps the provider's own."""
    return None if resolution.wildcard else asked
