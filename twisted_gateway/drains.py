"""Answers that are read to their end though their callers have left: how many, and for how long (`extensions.md` 4)."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from twisted_gateway.exchange import Exchange
from twisted_gateway.facts import define

RUNNING, FINISHED, CUT, REFUSED = "running", "finished", "cut", "refused"


@define(eq=False)
class _Drain:
    cancel: Callable[[], None]
    timer: IDelayedCall | None = None
    was_cut: bool = False

    def cut(self) -> None:
        """It has lasted long enough: the provider is cut, and the call settled."""
        self.was_cut = True
        self.cancel()


@define(eq=False)
class Drains:
    """The drains of one process, `most` at once. `tell(state, change)` counts them for the metric."""

    clock: IReactorTime
    most: int
    tell: Callable[[str, int], None] = lambda state, change: None
    _running: dict[int, _Drain] = attrs.field(factory=dict)
    _closed: bool = False

    def begin(self, exchange: Exchange, cancel: Callable[[], None], seconds: float) -> bool:
        """Let the call run on, to be cancelled after so many seconds; False when there is no room for it."""
        if self._closed or len(self._running) >= self.most:
            self.tell(REFUSED, 1)
            return False
        drain = self._running[id(exchange)] = _Drain(cancel)
        drain.timer = self.clock.callLater(seconds, drain.cut)
        self.tell(RUNNING, 1)
        return True

    def ended(self, exchange: Exchange) -> None:
        """The call is settled; nothing happens where it was no drain."""
        drain = self._running.pop(id(exchange), None)
        if drain is None:
            return
        if drain.timer is not None and drain.timer.active():
            drain.timer.cancel()
        self.tell(RUNNING, -1)
        self.tell(CUT if drain.was_cut else FINISHED, 1)

    def close(self) -> None:
        """The process ends: cut those that run, and begin none."""
        self._closed = True
        for drain in tuple(self._running.values()):
            drain.cut()
