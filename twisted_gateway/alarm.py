"""One timer that is moved often and rings seldom (`DESIGN.md` section 7, item 15)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Alarm:
    """Rings once, `seconds` after it was last set. Moving it costs a comparison, not a new timer.

    `off` silences it and keeps the timer; `stop` cancels the timer, for good.
    """

    __slots__ = ("_call", "_clock", "_due", "_fires", "_ring")

    def __init__(self, clock: IReactorTime, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._due: float | None = None
        self._call: IDelayedCall | None = None
        self._fires = 0.0

    def set(self, seconds: float) -> None:
        """Ring that many seconds from now, instead of when it was to ring before."""
        due = self._due = self._clock.seconds() + seconds
        if self._call is None:
            self._fires = due
            self._call = self._clock.callLater(seconds, self._fired)
        elif self._fires > due:
            self._fires = due
            self._call.reset(seconds)

    def off(self) -> None:
        """Do not ring until set again."""
        self._due = None

    def stop(self) -> None:
        """Cancel the timer."""
        self._due = None
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _fired(self) -> None:
        self._call = None
        due = self._due
        if due is None:
            return
        late = due - self._clock.seconds()
        if late > 1e-9:
            self._fires = due
            self._call = self._clock.callLater(late, self._fired)
        else:
            self._due = None
            self._ring()
