"""How long a call may wait for its provider, in seconds: resolved from model, provider key and boot file.

Search order: `extensions.md` section 3 on top of `policy.md` section 9.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from twisted_gateway.config.resources import Model
from twisted_gateway.config.settings import Upstream as UpstreamSettings

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
    request = [*_written(model.timeout), *_written(key.timeout_ms), *_positive(boot.timeout_ms)]
    levels = [
        [*_positive(model.stream_timeout), *_written(model.timeout)],
        [*_positive(key.stream_timeout_ms), *_written(key.timeout_ms)],
        [*_positive(boot.stream_timeout_ms), *_positive(boot.timeout_ms)],
    ]
    firsts = [model.first_event_timeout, key.first_event_timeout_ms, boot.first_event_timeout_ms]
    silence = [value for level in levels for value in level]
    first = [value for own, level in zip(firsts, levels, strict=True) for value in (*_positive(own), *level)]
    return Deadlines(
        request=_seconds(request),
        first_event=_seconds(first),
        silence=_seconds(silence),
        configured=bool(levels[0] or _positive(model.first_event_timeout)),
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
