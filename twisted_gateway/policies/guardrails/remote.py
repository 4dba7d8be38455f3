"""Asks a service about texts: a few questions at a time, each within its time (`guardrails.md` 11 and 12)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_gateway.facts import define
from twisted_gateway.policies.guardrails import asking
from twisted_gateway.policies.guardrails.asking import Answer, CheckFailed, FailureRule, Fetch, Question, Service
from twisted_gateway.policies.guardrails.together import together
from twisted_gateway.policies.guardrails.verdict import ALLOW, Asked, Block, Verdict

AT_ONCE = 4
"""Questions of one check that are under way together."""

QUIET_SECONDS = 10.0
"""A failure like the last one is not logged again so soon: a dead service would fill the log."""


class Complaints:
    """Tells the log of failed checks, never of texts or keys. `now` gives seconds."""

    log = Logger()

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._told: dict[tuple[str, str], float] = {}

    def failed(self, asked: Asked, reason: str, detail: str) -> None:
        """A check did not come about."""
        key, now = (asked.guardrail, reason), self._now()
        if now - self._told.get(key, -QUIET_SECONDS) >= QUIET_SECONDS:
            self._told[key] = now
            self.log.warn(
                'guardrail "{guardrail}": {reason} ({detail}), {hook} of {request_id}',
                guardrail=asked.guardrail,
                reason=reason,
                detail=detail or "no detail",
                hook=asked.hook,
                request_id=asked.request_id,
            )

    def broken(self, asked: Asked, failure: Failure) -> None:
        """A fault of ours. Where it happened is told, and not what the exception says: that may be a text."""
        places = [f"{frame[0]} line {frame[2]}" for frame in failure.frames[-3:]]
        self.log.error(
            'guardrail "{guardrail}": {kind} in {places}, {hook} of {request_id}',
            guardrail=asked.guardrail,
            kind=type(failure.value).__name__,
            places=places,
            hook=asked.hook,
            request_id=asked.request_id,
        )


@define
class _Round:
    """The questions of one check, and what came of them so far."""

    asked: Asked
    questions: Iterator[tuple[int, Question]]
    verdicts: dict[int, Verdict] = attrs.field(factory=dict)
    failure: Verdict | None = None


class _Decided(Exception):
    """Nothing that is still under way can change this verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__()
        self.verdict = verdict


class RemoteCheck:
    """A `verdict.Check` that asks one service. `timeout` (seconds) is for each call to it.

    A block ends the check at once. After a failure that may be skipped no further question is begun, but the answers to
    those under way still count.
    """

    def __init__(
        self, service: Service, rule: FailureRule, fetch: Fetch, timeout: float, complaints: Complaints
    ) -> None:
        self._service = service
        self._rule = rule
        self._fetch = fetch
        self._timeout = timeout
        self._complaints = complaints

    def __call__(self, asked: Asked) -> Deferred[Verdict]:
        """The verdict. Empty texts are not asked about."""
        if not any(asked.texts):
            return succeed(ALLOW)
        return Deferred.fromCoroutine(self._judged(asked))

    async def _judged(self, asked: Asked) -> Verdict:
        run = _Round(asked, enumerate(self._service.questions(asked)))
        workers = [Deferred.fromCoroutine(self._work(run)) for _ in range(AT_ONCE)]
        try:
            await together(workers)
        except _Decided as decided:
            return decided.verdict
        except CancelledError:
            raise
        except Exception:
            self._complaints.broken(asked, Failure())
            return Block("a fault of the gateway", unavailable=True)
        if run.failure is not None:
            return run.failure
        return self._service.joined(asked, [run.verdicts[index] for index in sorted(run.verdicts)])

    async def _work(self, run: _Round) -> None:
        for index, question in run.questions:
            try:
                verdict = await self._answered(question)
            except CheckFailed as failed:
                verdict = self._failed(run.asked, failed)
                run.failure = run.failure or verdict
            if isinstance(verdict, Block):
                raise _Decided(verdict)
            if run.failure is not None:
                return
            run.verdicts[index] = verdict

    async def _answered(self, question: Question) -> Verdict:
        """Take a question to its end. Raises `CheckFailed`."""
        try:
            request = next(question)
            while True:
                request = question.send(await self._fetched(request))
        except StopIteration as end:
            verdict: Verdict = end.value
            return verdict
        finally:
            question.close()

    async def _fetched(self, request: asking.Request) -> Answer:
        try:
            return Answer(*await self._fetch("POST", request.url, request.headers, request.body, self._timeout))
        except TimeoutError:
            raise CheckFailed(asking.TIMEOUT, f"no whole answer within {self._timeout:g} s") from None
        except ConnectionError as error:
            raise CheckFailed(asking.SERVER, str(error)) from None

    def _failed(self, asked: Asked, failed: CheckFailed) -> Verdict:
        reason = f"{self._service.prefix}_{failed.kind}"
        self._complaints.failed(asked, reason, str(failed))
        return self._rule.verdict(asked.hook, reason)
