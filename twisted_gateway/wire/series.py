"""Tubes: what frames pass through between a provider and a caller (`DESIGN.md` section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted_gateway.facts import fact
from twisted_gateway.wire.sse import Frame, TooLong


@fact
class Batch:
    """What a read becomes: bytes for one write, how many data frames they are, how many data events were read.

    Of a read that was known by its bytes also: the bytes of its text, and how many of its own bytes are used up.
    """

    data: bytes
    frames: int
    events: int
    text_bytes: int = 0
    used: int = 0


NOTHING = Batch(b"", 0, 0)
"""No bytes of no event. It is known by being this very one, and then need not be joined to another."""


class Tube(Protocol):
    """One stage of the line. Synchronous; keeps its per-exchange state in itself and has no say over its rate."""

    @property
    def held(self) -> int:
        """Bytes it keeps back because it cannot decide yet."""

    def received(self, frames: list[Frame]) -> list[Frame]:
        """The frames that may go on, in order."""

    def stopped(self, clean: bool) -> list[Frame]:
        """The answer is over: the last frames, if it ended well."""


class Gate(Tube, Protocol):
    """A policy's tube: it may keep frames back until it knows more, change them, and end the answer.

    `received` is also called with no frames, after it asked to be woken. `stopped` is called when nothing is held
    before it any more; what it holds even then comes out of a later `received`. One with an attribute `lasting` sees an
    answer too that is only read on for its figures, after its caller has left.
    """

    @property
    def halted(self) -> object | None:
        """Why the answer ends here, or None. The frames given before are still written; from now on it gives none."""

    @property
    def full(self) -> bool:
        """It waits for somebody and holds all it may: read no further before it asks to be woken."""

    @property
    def withheld(self) -> int:
        """UTF-8 bytes of text that came in and did not go on, whether held or dropped."""


class Series:
    """Gates one after the other: a gate itself."""

    __slots__ = ("_asked", "_clean", "_tubes")

    def __init__(self, tubes: Sequence[Gate]) -> None:
        self._tubes = tuple(tubes)
        self._clean: bool | None = None
        self._asked = 0

    @property
    def held(self) -> int:
        """Bytes kept back by all of them."""
        return sum(tube.held for tube in self._tubes)

    @property
    def halted(self) -> object | None:
        """The first that has ended the answer says why."""
        for tube in self._tubes:
            if tube.halted is not None:
                return tube.halted
        return None

    @property
    def full(self) -> bool:
        """Whether one of them wants no more for now."""
        return any(tube.full for tube in self._tubes)

    @property
    def withheld(self) -> int:
        """UTF-8 bytes of text that did not go on."""
        return sum(tube.withheld for tube in self._tubes)

    def cleaned(self, words: str) -> str:
        """Words of an error, as far as every gate lets them be said."""
        for tube in self._tubes:
            clean = getattr(tube, "cleaned", None)
            words = clean(words) if clean is not None else words
        return words

    def received(self, frames: list[Frame]) -> list[Frame]:
        """`frames` through every gate. A gate is called with no frames too: one that was woken may have some."""
        if self._clean is not None:
            return self._stopping(frames, self._clean)
        for tube in self._tubes:
            frames = tube.received(frames)
        return frames

    def stopped(self, clean: bool) -> list[Frame]:
        """Stops the gates in order; the last frames of each pass through those behind it.

        One that still holds something afterwards keeps those behind it running until it gives it.
        """
        self._clean = clean
        return self._stopping([], clean)

    def _stopping(self, frames: list[Frame], clean: bool) -> list[Frame]:
        for at, tube in enumerate(self._tubes):
            frames = tube.received(frames)
            if at == self._asked and (at == 0 or not self._tubes[at - 1].held or not clean):
                self._asked += 1
                frames = [*frames, *tube.stopped(clean)]
        return frames


class WholeBody:
    """A reader for answers that are not streamed: the whole body is one frame, given at its end."""

    __slots__ = ("_limit", "_pieces", "_size", "noise")

    between_frames = False
    """None of its bytes may pass it by."""

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
