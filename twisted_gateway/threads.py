"""A few threads for an operator's own functions, which may block, or never return (`extensions.md` 7.2).

The threads are daemons: one that is stuck does not keep the process from ending. A call that is given up while it
waits is never begun, and keeps nothing alive.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from twisted_gateway.facts import define

SWITCH_SECONDS = 0.0005
"""How long a thread that searches texts may keep the interpreter while the reactor wants it."""


def behind_the_reactor() -> None:
    """This thread runs when nobody else wants the core. Where that cannot be said, it runs like any other."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


@define(eq=False)
class _Job:
    function: Callable[..., Any] | None
    arguments: tuple[Any, ...]
    done: Deferred[Any]
    given_up: bool = False


class Overrun(Exception):
    """So many calls wait for a thread that another one is not taken."""


class Threads:
    """Runs calls in at most `size` threads, begun when they are needed; `longest` calls may wait for one.

    `from_thread` is `reactor.callFromThread`; each thread calls `begin` first.
    """

    def __init__(
        self,
        from_thread: Callable[..., Any],
        size: int = 4,
        name: str = "callable",
        longest: int = 1000,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._begin_in_thread = begin
        self._from_thread = from_thread
        self._size = size
        self._longest = longest
        self._name = name
        self._begun = 0
        self._idle: list[SimpleQueue[_Job | None]] = []
        self._waiting: deque[_Job] = deque()
        self._stopped = False

    def run(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """What the function gives or raises; `Overrun` at once when too many wait.

        Cancelled, a call that runs goes on, but nobody hears of it.
        """
        job = _Job(function, arguments, Deferred(lambda _: self._give_up(job)))
        if len(self._waiting) >= self._longest:
            job.done.errback(Overrun())
            return job.done
        self._waiting.append(job)
        self._next()
        return job.done

    def stop(self) -> None:
        """End the idle threads, and the others when their calls return; nothing that waits is begun."""
        self._stopped = True
        self._waiting.clear()
        while self._idle:
            self._idle.pop().put(None)

    @property
    def waiting(self) -> int:
        """Calls that have no thread yet."""
        return len(self._waiting)

    def _next(self) -> None:
        while self._waiting and not self._stopped:
            if not self._idle and self._begun < self._size:
                self._begin()
            if not self._idle:
                return
            self._idle.pop().put(self._waiting.popleft())

    def _begin(self) -> None:
        queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._begun += 1
        Thread(target=self._work, args=(queue,), name=f"{self._name}-{self._begun}", daemon=True).start()
        self._idle.append(queue)

    def _give_up(self, job: _Job) -> None:
        job.given_up = True
        if job in self._waiting:
            self._waiting.remove(job)

    # In a thread

    def _work(self, queue: SimpleQueue[_Job | None]) -> None:
        self._begin_in_thread()
        while (job := queue.get()) is not None:
            function, arguments = job.function, job.arguments
            job.function, job.arguments = None, ()
            try:
                assert function is not None
                value: Any = function(*arguments)
            except BaseException as error:  # a function that calls sys.exit must not end its thread
                value = error
                good = False
            else:
                good = True
            del function, arguments
            self._from_thread(self._finished, queue, job, value, good)
            del job, value

    # Back in the reactor

    def _finished(self, queue: SimpleQueue[_Job | None], job: _Job, value: Any, good: bool) -> None:
        if self._stopped:
            queue.put(None)
        else:
            self._idle.append(queue)
            self._next()
        if job.given_up:
            if hasattr(value, "close") and hasattr(value, "send"):
                value.close()  # a coroutine that nobody will await
        elif good:
            job.done.callback(value)
        else:
            job.done.errback(Failure(value))
