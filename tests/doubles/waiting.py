"""Waiting for something without ever hanging: gates that a test opens, and conditions that must come true in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds until a test that waits is told that nothing came: a machine may be loaded, and only a failure takes them."""


class NeverCame(AssertionError):
    """What a test waited for did not happen in time."""


class Gate:
    """Closed until somebody opens it; any number may wait, each with a Deferred of its own."""

    def __init__(self) -> None:
        self.is_open = False
        self._waiting: list[Deferred[None]] = []

    def open(self) -> None:
        """Let everybody through, now and later."""
        self.is_open = True
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def wait(self) -> Deferred[None]:
        """A fresh Deferred that fires when the gate is open; it may be cancelled."""
        waiter: Deferred[None] = Deferred(lambda gone: self._waiting.remove(gone))
        if self.is_open:
            waiter.callback(None)
        else:
            self._waiting.append(waiter)
        return waiter


def gate_after(wanted: Gate | Deferred[Any]) -> Gate:
    """The gate itself, or one that opens when the Deferred has a result, which it leaves as it is."""
    if isinstance(wanted, Gate):
        return wanted
    gate = Gate()

    def fired(result: T) -> T:
        gate.open()
        return result

    wanted.addBoth(fired)
    return gate


class Conditions:
    """Conditions that somebody waits for; whoever changes anything calls `look`."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def when(self, met: Callable[[], bool], patience: float, story: Callable[[], str]) -> Deferred[None]:
        """A Deferred that fires when the condition is met, or fails with the story when patience ends."""
        waiter: Deferred[None] = Deferred()
        entry = (met, waiter)
        self._waiting.append(entry)
        waiter.addTimeout(patience, self._reactor, lambda _result, _seconds: self._give_up(story))
        waiter.addBoth(self._forget, entry)
        self.look()
        return waiter

    def look(self) -> None:
        """Something has changed."""
        for met, waiter in list(self._waiting):
            if not waiter.called and met():
                waiter.callback(None)

    def _give_up(self, story: Callable[[], str]) -> None:
        raise NeverCame(story())

    def _forget(self, result: T, entry: tuple[Callable[[], bool], Deferred[None]]) -> T:
        if entry in self._waiting:
            self._waiting.remove(entry)
        return result
