"""Runs a call's coroutine from one Deferred that it awaits to the next.

That is what `Deferred.fromCoroutine` does too, with some ten times the code, which a gateway that was idle for some
milliseconds must fetch anew for each call.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


def run(coroutine: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
    """Begin it, in a copy of the context. The Deferred fires at its end, or fails as it does.

    Cancelled, it cancels what is awaited, as often as it is cancelled, and fires when the coroutine has ended.
    """
    running = _Running(coroutine)
    running.go_on(None)
    return running


class _Running(Deferred[None]):
    def __init__(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        super().__init__()
        self._coroutine = coroutine
        self._context = copy_context()
        self._awaited: Deferred[Any] | None = None

    def go_on(self, result: object) -> None:
        """What was waited for has come: a value, or a failure."""
        self._awaited = None
        while True:
            try:
                if isinstance(result, Failure):
                    awaited = self._context.run(result.throwExceptionIntoGenerator, self._coroutine)
                else:
                    awaited = self._context.run(self._coroutine.send, result)
            except StopIteration:
                self.callback(None)
                return
            except BaseException:
                self.errback()
                return
            if isinstance(awaited, Deferred):
                self._awaited = awaited
                awaited.addBoth(self.go_on)
                return
            result = awaited  # what awaits something else gets that back, which it understands, or raises

    def cancel(self) -> None:
        """Cancel what is awaited; whatever a callback has given, once the coroutine has ended."""
        if self.called:
            super().cancel()
        elif self._awaited is not None:
            self._awaited.cancel()
