"""How long a call may wait for its provider, in seconds: resolved from model, provider key and boot file.

Search order: `extensions.md` section 3 on top of `policy.md` section 9.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import attrs

from twisted_gateway.config.resources import Model
from twisted_gateway.config.settings import Upstream as UpstreamSettings

Wishes = tuple[int | None, int | None, int | None]
_NONE = 0
"""A search that ends with "no limit"."""


@attrs.frozen
class Deadlines:
    """Seconds; None = no limit. `configured`: the model asked for first-chunk failover (`streaming.md` 4 rule 2)."""

    request: float | None
    first_event: float | None
    silence: float | None
    configured: bool


def deadlines(model: Model, boot: UpstreamSettings) -> Deadlines:
    """The deadlines of an attempt at `model`."""
    key = model.provider_key
    return _resolved(
        (model.timeout, model.stream_timeout, model.first_event_timeout),
        (key.timeout_ms, key.stream_timeout_ms, key.first_event_timeout_ms),
        (boot.timeout_ms, boot.stream_timeout_ms, boot.first_event_timeout_ms),
    )


@lru_cache(1024)
def _resolved(model: Wishes, key: Wishes, boot: Wishes) -> Deadlines:
    """The same from the milliseconds written at each level: whole call, silence, first event."""
    request = [*_written(model[0]), *_written(key[0]), *_positive(boot[0])]
    levels = [
        [*_positive(model[1]), *_written(model[0])],
        [*_positive(key[1]), *_written(key[0])],
        [*_positive(boot[1]), *_positive(boot[0])],
    ]
    firsts = [model[2], key[2], boot[2]]
    silence = [value for level in levels for value in level]
    first = [value for own, level in zip(firsts, levels, strict=True) for value in (*_positive(own), *level)]
    return Deadlines(
        request=_seconds(request),
        first_event=_seconds(first),
        silence=_seconds(silence),
        configured=bool(levels[0] or _positive(model[2])),
    )


def _positive(value: int | None) -> list[int]:
    """A value where 0 defers to the next step."""
    return [value] if value else []


def _written(value: int | None) -> list[int]:
    """A value where a written 0 means none and ends the search."""
    return [] if value is None else [value]


def _seconds(found: list[int]) -> float | None:
    first: Iterator[int] = iter(found)
    value = next(first, _NONE)
    return value / 1000 if value else None
