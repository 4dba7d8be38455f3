"""Reading the resources anew while calls are served: in a thread, one load at a time, in the order of the asking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from twisted_gateway.facts import define

Loaded = TypeVar("Loaded")


@define(eq=False)
class Reloading(Generic[Loaded]):
    """Loads when it is asked to, and once more if it was asked meanwhile: the file may have changed since it was read.

    `run` runs a function in a thread; `load` is what runs there, so that thousands of keys or rules hold no stream
    up. `apply` and `refused` run in the reactor with what it gave or raised.
    """

    run: Callable[[Callable[[], Loaded]], Deferred[Loaded]]
    load: Callable[[], Loaded]
    apply: Callable[[Loaded], None]
    refused: Callable[[Failure], None]
    _waiting: list[Deferred[None]] = attrs.field(factory=list)
    """Those who asked since the load that runs was begun."""
    _running: Deferred[Loaded] | None = None

    def ask(self) -> Deferred[None]:
        """Load; fires when a load that began after this has been applied or refused."""
        asked: Deferred[None] = Deferred()
        self._waiting.append(asked)
        if self._running is None:
            self._begin()
        return asked

    def stop(self) -> None:
        """The process ends: what is loaded now is not applied, and nothing is loaded any more."""
        self._waiting.clear()
        if self._running is not None:
            self._running.cancel()

    def _begin(self) -> None:
        asked, self._waiting = self._waiting, []
        self._running = loading = self.run(self.load)
        loading.addCallback(self.apply).addErrback(self._failed).addBoth(self._ended, asked)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.refused(failure)

    def _ended(self, result: object, asked: list[Deferred[None]]) -> object:
        self._running = None
        if self._waiting:
            self._begin()
        for one in asked:
            one.callback(None)
        return result
