"""A race of two attempts: the second starts when the first is late (`extensions.md` 5)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

T = TypeVar("T")
Run = Coroutine[Deferred[Any], Any, T]


class Race(Generic[T]):
    """`done` fires with what the first good one gives, or fails as the last one did; cancelling it cancels both.

    `second` is asked after `after` seconds for another runner and may have none. Before the loser is cancelled,
    `decided` is told the winner's result; `drop` gets the result of a loser that came in at the same moment. A younger
    runner waits for the end of the reactor's turn, so that a tie is the older one's.
    """

    def __init__(
        self,
        clock: IReactorTime,
        after: float,
        first: Run[T],
        second: Callable[[], Run[T] | None],
        decided: Callable[[T], None],
        drop: Callable[[T], None],
    ) -> None:
        self.done: Deferred[T] = Deferred(lambda _: self._stop())
        self._clock, self._second, self._decided, self._drop = clock, second, decided, drop
        self._running: list[Deferred[None]] = []
        self._second_best: T | None = None
        self._over = False
        self._timer: IDelayedCall | None = clock.callLater(after, self._late)
        self._entered = False
        self._enter(first)

    def _late(self) -> None:
        self._timer = None
        runner = self._second()
        if runner is not None:
            self._enter(runner)

    def _enter(self, runner: Run[T]) -> None:
        run: Deferred[Any] = Deferred.fromCoroutine(runner)
        older = not self._entered
        self._entered = True
        self._running.append(run)
        run.addCallbacks(self._came_in, self._fell, callbackArgs=(run, older), errbackArgs=(run,))

    def _came_in(self, result: T, run: Deferred[Any], older: bool) -> None:
        self._running.remove(run)
        if self._over:
            self._drop(result)
        elif self._running and not older:
            self._second_best = result  # the other one may still come in at this moment
            self._timer = self._clock.callLater(0, self._decide)
        else:
            spare, self._second_best = self._second_best, None
            self._finish(result)
            if spare is not None:
                self._drop(spare)

    def _decide(self) -> None:
        self._timer = None
        best, self._second_best = self._second_best, None
        assert best is not None
        self._finish(best)

    def _fell(self, failure: Failure, run: Deferred[Any]) -> None:
        self._running.remove(run)
        if self._over or self._running or self._second_best is not None:
            return
        self._close()
        self.done.errback(failure)

    def _finish(self, result: T) -> None:
        self._close()
        self._decided(result)
        for run in tuple(self._running):
            run.cancel()
        self.done.callback(result)

    def _close(self) -> None:
        self._over = True
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _stop(self) -> None:
        self._close()
        for run in tuple(self._running):
            run.cancel()
        best, self._second_best = self._second_best, None
        if best is not None:
            self._drop(best)
        self.done.errback(CancelledError())
