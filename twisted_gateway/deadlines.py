"""How long a call may wait for its provider, in seconds: resolved from model, provider key and boot file.

Search order: `extensions.md` section 3 on top of `policy.md` section 9.
"""

from __future__ import annotations

from collections.abc import Iterator

from twisted_gateway.config.resources import Group, Model, Row
from twisted_gateway.config.settings import Upstream as UpstreamSettings
from twisted_gateway.facts import frozen

Wishes = tuple[int | None, int | None, int | None]
_NONE = 0
"""A search that ends with "no limit"."""


@frozen
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
    return _resolved(
        tuple((row.timeout, row.stream_timeout, row.first_event_timeout) for row in rows),
        (key.timeout_ms, key.stream_timeout_ms, key.first_event_timeout_ms),
        (boot.timeout_ms, boot.stream_timeout_ms, boot.first_event_timeout_ms),
    )


def _resolved(rows: tuple[Wishes, ...], key: Wishes, boot: Wishes) -> Deadlines:
    """The same from the milliseconds written at each level: whole call, silence, first event."""
    whole = [value for row in rows for value in _written(row[0])]
    first_here = [value for row in rows for value in _positive(row[2])]
    request = [*whole, *_written(key[0]), *_positive(boot[0])]
    levels = [
        [*(value for row in rows for value in _positive(row[1])), *whole],
        [*_positive(key[1]), *_written(key[0])],
        [*_positive(boot[1]), *_positive(boot[0])],
    ]
    firsts = [first_here, _positive(key[2]), _positive(boot[2])]
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
