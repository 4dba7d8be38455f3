"""Checks that call an object of the operator's own: plain or async, slow, wrong, given up."""

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from twisted_gateway.policies.guardrails.asking import FailureRule
from twisted_gateway.policies.guardrails.callables import CallableCheck
from twisted_gateway.policies.guardrails.remote import Complaints
from twisted_gateway.policies.guardrails.verdict import ALLOW, Block, Bypass, Mask

from ...doubles.timers import timers
from .answering import asked


class Threads:
    """Runs calls when the test says so."""

    def __init__(self):
        self.calls, self.given_up = [], []

    def run(self, function, *arguments):
        job = (function, arguments, Deferred(lambda _: self.given_up.append(job)))
        self.calls.append(job)
        return job[2]

    def go(self):
        function, arguments, done = self.calls.pop()
        try:
            value = function(*arguments)
        except Exception as error:
            done.errback(error)
        else:
            done.callback(value)


class Room:
    def __init__(self, function, **rule):
        self.threads, self.clock = Threads(), Clock()
        complaints = Complaints(self.clock.seconds)
        self.check = CallableCheck(function, self.threads.run, self.clock, FailureRule(**rule), 5.0, complaints)

    def ask(self, *texts, **more):
        self.verdicts = []
        self.waiting = self.check(asked(*texts, **more))
        self.waiting.addBoth(self.verdicts.append)
        return self

    @property
    def verdict(self):
        (verdict,) = self.verdicts
        assert timers(self.clock) == []
        return verdict


def test_a_plain_function_is_called_in_a_thread_with_what_a_webhook_is_told():
    seen = []

    def function(question):
        seen.append(question)
        return {"action": "mask", "texts": [text.upper() for text in question["texts"]]}

    room = Room(function).ask("a", "b", stream=True, final=False, hook="output")
    assert seen == []
    assert room.verdicts == []
    room.threads.go()
    assert room.verdict == Mask(("A", "B"))
    assert list(seen[0]) == [
        "version", "hook", "guardrail", "request_id", "api_key_id", "team_id", "model", "endpoint", "stream", "final",
        "texts",
    ]  # fmt: skip
    assert (seen[0]["hook"], seen[0]["stream"], seen[0]["final"]) == ("output", True, False)


def test_a_coroutine_function_is_awaited_without_a_thread():
    gate = Deferred()

    async def function(question):
        await gate
        return {"action": "block", "reason": "no"}

    room = Room(function).ask("a")
    assert room.threads.calls == []
    assert room.verdicts == []
    gate.callback(None)
    assert room.verdict == Block("no")


def test_an_object_with_a_coroutine_as_its_call():
    class Asks:
        async def __call__(self, question):
            return {"action": "allow"}

    room = Room(Asks()).ask("a")
    assert room.verdict == ALLOW


@pytest.mark.parametrize("kind", ["coroutine", "deferred"])
def test_a_plain_function_may_give_something_to_await(kind):
    gate = Deferred()

    async def later():
        return await gate

    room = Room(lambda question: gate if kind == "deferred" else later()).ask("a")
    room.threads.go()
    assert room.verdicts == []
    gate.callback({"action": "allow"})
    assert room.verdict == ALLOW


def test_one_that_never_returns_costs_its_callers_the_failure_rule():
    room = Room(lambda question: None, fail_open=True).ask("a")
    room.clock.advance(4.9)
    assert room.verdicts == []
    room.clock.advance(0.2)
    assert room.verdict == Bypass("callable_timeout")
    assert len(room.threads.given_up) == 1


def test_an_awaitable_that_never_comes():
    gone = []

    async def function(question):
        await Deferred(gone.append)

    room = Room(function).ask("a", hook="output")
    room.clock.advance(5)
    assert room.verdict == Block("callable_timeout", unavailable=True)
    assert len(gone) == 1


def test_one_that_raises():
    def function(question):
        raise ValueError(question["texts"])

    room = Room(function).ask("a")
    room.threads.go()
    assert room.verdict == Bypass("callable_5xx")


def test_an_async_one_that_raises_at_once():
    async def function(question):
        raise ValueError

    assert Room(function, mandatory=True).ask("a").verdict == Block("callable_5xx", unavailable=True)


@pytest.mark.parametrize(
    "said", [None, True, "allow", {}, {"action": "mask"}, {"action": "mask", "texts": []}, object()]
)
def test_wrong_answers(said):
    room = Room(lambda question: said).ask("a")
    room.threads.go()
    assert room.verdict == Bypass("callable_5xx")


def test_empty_texts_ask_nobody():
    assert Room(lambda question: 1 / 0).ask("", "").verdict == ALLOW


def test_the_caller_leaves():
    room = Room(lambda question: None).ask("a")
    room.waiting.cancel()
    assert room.verdict.check(CancelledError)
    assert len(room.threads.given_up) == 1


def test_one_that_cancels_itself_has_failed():
    async def function(question):
        raise CancelledError

    assert Room(function).ask("a").verdict == Bypass("callable_5xx")
