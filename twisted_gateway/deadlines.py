"""How long a call may wait for its provider, in seconds: resolved from model, provider key and boot file.

Search order: `extensions.md` section 3 on top of `policy.md` section 9.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from twisted_gateway.config.resources import Group, Model, Row
from twisted_gateway.config.settings import Upstream as UpstreamSettings

_NONE = 0
"""A search that ends with "no limit"."""


@attrs.frozen
class Deadlines:
    """Seconds; None = no limit. `configured`: by model or group (`streaming.md` 4 rule 2)."""

    request: float | None
    first_event: float | None
    silence: float | None
    configured: bool


def deadlines(model: Model, boot: UpstreamSettings, group: Group | None = None) -> Deadlines:
    """The deadlines of an attempt at `model`, for a call of `group` where it came through one."""
    key = model.provider_key
    rows: list[Row] = [model] if group is None else [model, group]
    whole = [value for row in rows for value in _written(row.timeout)]
    first_here = [value for row in rows for value in _positive(row.first_event_timeout)]
    request = [*whole, *_written(key.timeout_ms), *_positive(boot.timeout_ms)]
    levels = [
        [*(value for row in rows for value in _positive(row.stream_timeout)), *whole],
        [*_positive(key.stream_timeout_ms), *_written(key.timeout_ms)],
        [*_positive(boot.stream_timeout_ms), *_positive(boot.timeout_ms)],
    ]
    firsts = [first_here, _positive(key.first_event_timeout_ms), _positive(boot.first_event_timeout_ms)]
    silence = [value for level in levels for value in level]
    first = [value for own, level in zip(firsts, levels, strict=True) for value in (*own, *level)]
    return Deadlines(
        request=_seconds(request),
        first_event=_seconds(first),
        silence=_seconds(silence),
        configured=bool(levels[0] or first_here),
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
