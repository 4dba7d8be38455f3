"""Tubes: what frames pass through between a provider and a caller (`DESIGN.md` section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted_gateway.wire.sse import Frame, TooLong


class Tube(Protocol):
    """One stage of the line. Synchronous; keeps its per-exchange state in itself and has no say over its rate."""

    @property
    def held(self) -> int:
        """Bytes it keeps back because it cannot decide yet."""

    def received(self, frames: list[Frame]) -> list[Frame]:
        """The frames that may go on, in order."""

    def stopped(self, clean: bool) -> list[Frame]:
        """The answer is over: the last frames, if it ended well."""


class Series:
    """Tubes one after the other: a tube itself."""

    __slots__ = ("_tubes",)

    def __init__(self, tubes: Sequence[Tube]) -> None:
        self._tubes = tuple(tubes)

    @property
    def held(self) -> int:
        """Bytes kept back by all of them."""
        return sum(tube.held for tube in self._tubes)

    def received(self, frames: list[Frame]) -> list[Frame]:
        """`frames` through every tube. A tube is called with no frames too: one that was woken may have some."""
        for tube in self._tubes:
            frames = tube.received(frames)
        return frames

    def stopped(self, clean: bool) -> list[Frame]:
        """Stops the tubes in order; the last frames of each pass through those behind it."""
        frames: list[Frame] = []
        for tube in self._tubes:
            frames = [*tube.received(frames), *tube.stopped(clean)] if frames else tube.stopped(clean)
        return frames


class WholeBody:
    """A reader for answers that are not streamed: the whole body is one frame, given at its end."""

    __slots__ = ("_limit", "_pieces", "_size", "noise")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0
        self.noise = 0

    @property
    def held(self) -> int:
        """Bytes gathered so far."""
        return self._size

    def received(self, data: bytes) -> list[Frame]:
        """Gathers; raises `TooLong` past the limit in bytes."""
        self._size += len(data)
        if self._limit and self._size > self._limit:
            raise TooLong(f"a body of more than {self._limit} bytes")
        self._pieces.append(data)
        return []

    def ended(self) -> list[Frame]:
        """The body, as one frame whose bytes are the body's own."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        return [Frame(data, b"", data)] if data else []
