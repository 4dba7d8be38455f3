"""The process's pulse: four times a second it tells how late the reactor is, and when the collector may work.

Nothing on the hot road makes cycles (`tests/bench/test_inside.py`), so what ends is freed at once and Python's
collector has next to nothing to find. Left to itself it would look at all that is alive, in the middle of whatever
runs: 0.2 to 0.6 s at 9,900 streams. Here it looks at what is new, a little at a time, and at everything only when
nobody calls.
"""

from __future__ import annotations

import gc
import linecache
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

_EVERY = 0.25
_NEW = 2_000
"""New containers from which a look at them is worth it."""
_LONGEST_WITHOUT = 1800.0
"""Seconds after which everything is looked at though somebody calls: no load may make the process grow for ever."""


def keep() -> None:
    """What lives now lives as long as the process: the collector never looks at it again."""
    linecache.clearcache()  # a megabyte of sources that attrs has generated; tracebacks read files anew
    gc.collect()
    gc.freeze()


class Pulse:
    """Ticks for as long as the process lives. `lagged` is told the seconds a tick came late, `busy` asks for calls."""

    def __init__(self, clock: IReactorTime, lagged: Callable[[float], None], busy: Callable[[], bool]) -> None:
        self._clock = clock
        self._lagged = lagged
        self._busy = busy
        self._looked = clock.seconds()
        self._grown = False
        self._due = 0.0

    def start(self) -> None:
        """Everything that lives now is for ever; from here on the collector works when it is told to."""
        keep()
        gc.disable()
        self._wait()

    def _wait(self) -> None:
        self._due = self._clock.seconds() + _EVERY
        self._clock.callLater(_EVERY, self._tick)

    def _tick(self) -> None:
        now = self._clock.seconds()
        self._lagged(max(0.0, now - self._due))
        if gc.get_count()[0] > _NEW:
            gc.collect(0)
            self._grown = True
        if self._grown and (not self._busy() or now - self._looked > _LONGEST_WITHOUT):
            gc.collect()
            self._grown = False
            self._looked = now
        self._wait()
