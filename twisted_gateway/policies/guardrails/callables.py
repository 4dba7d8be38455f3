"""A Python object of the operator's own as a check (`extensions.md` 7.2).

A coroutine function runs in the reactor; anything else in a thread, since it may do what it likes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from twisted_gateway.policies.guardrails import asking
from twisted_gateway.policies.guardrails.asking import CheckFailed, FailureRule
from twisted_gateway.policies.guardrails.remote import Complaints
from twisted_gateway.policies.guardrails.verdict import ALLOW, Asked, Verdict
from twisted_gateway.policies.guardrails.webhook import heard, told

Threads = Callable[..., Deferred[Any]]
"""`run(function, *arguments)` in a thread of a bounded number; cancelled, it forgets the call, begun or not."""


class CallableCheck:
    """A `verdict.Check` that calls an object. `timeout` (seconds) covers waiting for a thread, too."""

    prefix = "callable"

    def __init__(
        self,
        function: Callable[[dict[str, Any]], Any],
        threads: Threads,
        clock: IReactorTime,
        rule: FailureRule,
        timeout: float,
        complaints: Complaints,
    ) -> None:
        self._function = function
        self._is_async = iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
        self._threads = threads
        self._clock = clock
        self._rule = rule
        self._timeout = timeout
        self._complaints = complaints

    def __call__(self, asked: Asked) -> Deferred[Verdict]:
        """The verdict. Empty texts are not asked about."""
        if not any(asked.texts):
            return succeed(ALLOW)
        if self._is_async:
            said = maybeDeferred(self._function, told(asked))
        else:
            said = self._threads(self._function, told(asked))
        said.addCallback(lambda value: _awaited(value) if isawaitable(value) else value)
        said.addTimeout(self._timeout, self._clock)
        said.addCallback(heard, asked)
        gone = False

        def leave(_: Deferred[Verdict]) -> None:
            nonlocal gone
            gone = True
            said.cancel()

        verdict: Deferred[Verdict] = Deferred(leave)
        said.addErrback(lambda failure: None if gone else self._failed(failure, asked))
        said.addCallback(lambda value: None if gone else verdict.callback(value))
        return verdict

    def _failed(self, failure: Failure, asked: Asked) -> Verdict:
        """A failure of the object itself is told by its type: its text may hold what it was called with."""
        failed = failure.value
        if isinstance(failed, TimeoutError):
            failed = CheckFailed(asking.TIMEOUT, f"no answer within {self._timeout:g} s")
        elif not isinstance(failed, CheckFailed):
            failed = CheckFailed(asking.SERVER, f"it raised {type(failed).__name__}")
        reason = f"{self.prefix}_{failed.kind}"
        self._complaints.failed(asked, reason, str(failed))
        return self._rule.verdict(asked.hook, reason)


def _awaited(waiting: Awaitable[Any]) -> Deferred[Any]:
    async def told() -> Any:
        return await waiting

    return Deferred.fromCoroutine(told())
