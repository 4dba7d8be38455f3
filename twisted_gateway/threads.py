"""A few threads for code that may block: an operator's own, never ours. They do not keep the process from ending."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

Task = tuple["Deferred[Any]", Callable[..., Any], tuple[Any, ...]]


class Overrun(Exception):
    """So many tasks wait for a thread that another one is not taken."""


class Threads:
    """At most `most` threads, started when they are needed; `longest` tasks may wait for one.

    A task whose Deferred is cancelled is not begun any more; one that runs cannot be stopped, and keeps its thread.
    """

    def __init__(self, reactor: IReactorFromThreads, most: int = 4, longest: int = 1000, name: str = "hooks") -> None:
        self._reactor = reactor
        self._most = most
        self._longest = longest
        self._name = name
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._busy = 0
        self._waiting = 0

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """What a function returns or raises, in a thread. Fails as `Overrun` at once when too many wait."""
        done: Deferred[Any] = Deferred()
        if self._waiting >= self._longest:
            done.errback(Overrun())
            return done
        if self._busy + self._waiting >= len(self._threads) < self._most:
            thread = Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._waiting += 1
        self._tasks.put((done, function, args))
        return done

    def stop(self) -> None:
        """Let the threads end when they have done what waits. Nobody waits for them."""
        for _ in self._threads:
            self._tasks.put(None)
        self._threads = []

    def _work(self) -> None:
        tell = self._reactor.callFromThread
        while (task := self._tasks.get()) is not None:
            done, function, args = task
            if done.called:
                tell(self._dropped)
                continue
            tell(self._begun)
            result: Any
            try:
                result = function(*args)
            except BaseException:
                result = Failure()
            tell(self._ended, done, result)

    def _begun(self) -> None:
        self._waiting -= 1
        self._busy += 1

    def _dropped(self) -> None:
        self._waiting -= 1

    def _ended(self, done: Deferred[Any], result: Any) -> None:
        self._busy -= 1
        if not done.called:
            done.callback(result)
