"""Runs a call's coroutine from one Deferred that it awaits to the next.

That is what `Deferred.fromCoroutine` does too, with some ten times the code, which a gateway that was idle for some
milliseconds must fetch anew for each call. It does less: no generators, and nobody is told of the end of a coroutine
that goes on waiting after it was cancelled.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


def run(coroutine: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
    """Begin it, in a copy of the context. The Deferred fires at its end, or fails as it does.

    Cancelled, it cancels what is waited for; it fails with `CancelledError` where that does not end the coroutine.
    """
    steps = _Steps(coroutine)
    steps.go_on(None)
    return steps.done


class _Steps:
    __slots__ = ("_awaited", "_context", "_coroutine", "done")

    def __init__(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        self._coroutine = coroutine
        self._context = copy_context()
        self._awaited: Deferred[Any] | None = None
        self.done: Deferred[None] = Deferred(self._cancel)

    def go_on(self, result: object) -> None:
        """What was waited for has come: a value, or a failure."""
        try:
            if isinstance(result, Failure):
                awaited = self._context.run(result.throwExceptionIntoGenerator, self._coroutine)
            else:
                awaited = self._context.run(self._coroutine.send, result)
        except StopIteration:
            self._awaited = None
            if not self.done.called:
                self.done.callback(None)
        except BaseException:
            self._awaited = None
            if not self.done.called:
                self.done.errback()
        else:
            self._awaited = awaited
            awaited.addBoth(self.go_on)

    def _cancel(self, done: object) -> None:
        if self._awaited is not None:
            self._awaited.cancel()
