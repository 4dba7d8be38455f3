"""One timer that is moved often and rings seldom (`DESIGN.md` section 7, item 15).

A call has several, and nearly all of them are stopped before they ring: so all alarms of a clock share one of the
reactor's timers. It is never later than the earliest alarm, and may come for nobody: it is not moved when alarms are
stopped, so that a call, whose alarms are later than those before them, costs the reactor nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

from twisted.internet.interfaces import IDelayedCall, IReactorTime

_MANY = 64
_AHEAD = 0.25
"""Seconds before its time that an alarm is asked whether it was moved: so many are asked when the timer comes."""


class Moving(Protocol):
    """Whoever does again and again what alarms wait for."""

    at: float
    """When it did so last."""


class Alarm:
    """Rings once, `seconds` after it was last set. Moving it costs a comparison, not a new timer.

    `off` silences it and keeps its place among the timers; `stop` gives that up, for good. Nobody needs to set it for
    what its `leader` does: it looks there before it rings.
    """

    __slots__ = ("_board", "_clock", "_due", "_interval", "_place", "_ring", "leader")

    def __init__(self, clock: IReactorTime, ring: Callable[[], None]) -> None:
        self._clock = clock
        board = _latest
        self._board = board if board is not None and board.clock() is clock else _board(clock)
        self._ring = ring
        self._due: float | None = None
        self._place: _Place | None = None
        self._interval = 0.0
        self.leader: Moving | None = None

    def set(self, seconds: float) -> None:
        """Ring that many seconds from now, instead of when it was to ring before."""
        self._interval = seconds
        self._due = due = self._clock.seconds() + seconds
        place = self._place
        if place is None:
            self._place = self._board.put(due, self)
        elif place[0] > due:
            self._board.remove(place)
            self._place = self._board.put(due, self)

    def off(self) -> None:
        """Do not ring until set again."""
        self._due = None

    def stop(self) -> None:
        """Give up the timer, and whoever was to be told."""
        self._due = self.leader = None
        self._ring = _nobody
        place, self._place = self._place, None
        if place is not None:
            self._board.remove(place)

    def look(self, place: _Place, now: float) -> bool:
        """Give the place up and ring; for a later one where the alarm was moved. False: its time has not come."""
        due = self._due
        if due is not None and self.leader is not None:
            due = self._due = max(due, self.leader.at + self._interval)
        if due is not None and due - now > 1e-9:
            if due <= place[0]:
                return False
            self._board.drop()
            self._place = self._board.put(due, self)
        else:
            self._board.drop()
            self._place = self._due = None
            if due is not None:
                self._ring()
        return True


def _nobody() -> None:
    """Nobody is told."""


_Place = list[Any]
"""When an alarm looks at the clock again: the time, a number of its own, the alarm (None once it is given up)."""


class _Board:
    """All alarms of one clock, the earliest first."""

    __slots__ = ("_call", "_comes", "_given_up", "_places", "_put", "clock")

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = ref(clock)
        self._places: list[_Place] = []
        self._given_up = 0
        self._put = 0
        self._call: IDelayedCall | None = None
        self._comes = 0.0

    def put(self, due: float, alarm: Alarm) -> _Place:
        """A place for an alarm."""
        self._put += 1
        place: _Place = [due, self._put, alarm]
        places = self._places
        heappush(places, place)
        if self._call is None or due < self._comes:
            self._arm(due)
        return place

    def remove(self, place: _Place) -> None:
        """Nobody waits for it any more."""
        place[2] = None
        self._given_up += 1
        given_up, places = self._given_up, self._places
        if given_up == len(places):
            places.clear()
            self._given_up = 0
        elif given_up > _MANY and given_up * 2 > len(places):
            self._places = [entry for entry in places if entry[2] is not None]
            heapify(self._places)
            self._given_up = 0

    def _arm(self, due: float) -> None:
        """Have the reactor's timer come then."""
        clock = self.clock()
        assert clock is not None, "its alarms hold it"
        self._comes = due
        wait = max(0.0, due - clock.seconds())
        if self._call is None:
            self._call = clock.callLater(wait, self._come, clock)
        else:
            self._call.reset(wait)

    def drop(self) -> None:
        """The earliest place is not needed any more."""
        heappop(self._places)

    def _come(self, clock: IReactorTime) -> None:
        now = clock.seconds()
        self._comes = -inf  # nobody else asks for a call meanwhile
        try:
            while self._places and ((place := self._places[0])[2] is None or place[0] <= now + _AHEAD):
                if place[2] is None:
                    self.drop()
                    self._given_up -= 1
                elif not place[2].look(place, now):
                    break
        finally:
            self._call = None
            if self._places:
                self._arm(self._places[0][0])


_boards: WeakKeyDictionary[IReactorTime, _Board] = WeakKeyDictionary()


_latest: _Board | None = None
"""The one that was asked for last: a process has one clock."""


def _board(clock: IReactorTime) -> _Board:
    global _latest
    _latest = _boards.get(clock)
    if _latest is None:
        _latest = _boards[clock] = _Board(clock)
    return _latest
