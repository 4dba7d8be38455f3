"""How slow a stream may be (`throughput_floor`, `extensions.md` 5): a window over the text that came. Sans-IO."""

from __future__ import annotations

from collections import deque

from twisted_gateway.charging import BYTES_PER_TOKEN
from twisted_gateway.config.routes import ThroughputFloor

_SLOTS = 50
"""Reads that are closer together than this part of the window are kept as one: the window is too long by that much."""


class Floor:
    """Bytes of text in the last seconds of reading. Times in seconds on one clock; pauses do not count."""

    __slots__ = ("_begun", "_needed", "_paused", "_samples", "_seen", "_slot", "_sum", "_window")

    def __init__(self, rule: ThroughputFloor, now: float) -> None:
        self._window = rule.window_secs
        self._needed = rule.tokens_per_second * rule.window_secs * BYTES_PER_TOKEN
        self._slot = rule.window_secs / _SLOTS
        self._begun = now
        self._paused: float | None = None
        self._samples: deque[list[float]] = deque()
        """First and last moment of a slot, its bytes."""
        self._sum = 0.0
        self._seen = 0

    def fed(self, now: float, text_bytes: int) -> None:
        """A read is over, and so much text has come since the beginning."""
        more = text_bytes - self._seen
        if more <= 0:
            return
        self._seen = text_bytes
        self._sum += more
        at = now - self._begun
        if self._samples and at - self._samples[-1][0] < self._slot:
            last = self._samples[-1]
            last[1] = at
            last[2] += more
        else:
            self._samples.append([at, at, float(more)])

    def pause(self, now: float) -> None:
        """We stop reading: time stands still."""
        if self._paused is None:
            self._paused = now

    def resume(self, now: float) -> None:
        """We read again."""
        if self._paused is not None:
            self._begun += now - self._paused
            self._paused = None

    def left(self, now: float) -> float:
        """Seconds until the stream is below the floor if nothing more comes; 0 when it is."""
        at = now - self._begun
        while self._samples and self._samples[0][1] <= at - self._window:
            self._sum -= self._samples.popleft()[2]
        if at < self._window:
            return max(self._window - at, self._until(at))
        return self._until(at)

    def _until(self, at: float) -> float:
        kept = self._sum
        if kept < self._needed:
            return 0.0
        for _, last, size in self._samples:
            kept -= size
            if kept < self._needed:
                return last + self._window - at
        return 0.0
