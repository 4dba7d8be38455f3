"""The check that asks a service: a few questions at once, failures, cancelling. `fetch` is a list of Deferreds."""

import itertools

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher

from twisted_gateway.config import guarding_remote as kinds
from twisted_gateway.policies.guardrails.asking import FailureRule, pieces
from twisted_gateway.policies.guardrails.azure_content_safety import PromptShield
from twisted_gateway.policies.guardrails.presidio import Analysis
from twisted_gateway.policies.guardrails.remote import Complaints, RemoteCheck
from twisted_gateway.policies.guardrails.verdict import ALLOW, Block, Bypass, Mask

from .answering import asked

GOOD = b'{"userPromptAnalysis": {"attackDetected": false}}'
BAD = b'{"userPromptAnalysis": {"attackDetected": true}}'


@attrs.define
class Fetched:
    """One call of fetch."""

    arguments: tuple
    answer: Deferred
    cancelled: bool = False


class Net:
    """Keeps every call for the test to answer."""

    def __init__(self):
        self.calls = []

    def fetch(self, *arguments):
        def cancel(_):
            call.cancelled = True

        call = Fetched(arguments, Deferred(cancel))
        self.calls.append(call)
        return call.answer


class Room:
    """A check, its net, and the log."""

    def __init__(self, service=None, rule=FailureRule()):  # noqa: B008
        self.net, self.clock, self.log = Net(), Clock(), []
        service = service or PromptShield(kinds.AzureContentSafety(endpoint="http://r", api_key="the-key"))
        self.check = RemoteCheck(service, rule, self.net.fetch, 2.5, Complaints(self.clock.seconds))

    def ask(self, *texts, **more):
        self.verdicts = []
        self.waiting = self.check(asked(*texts, **more))
        self.waiting.addBoth(self.verdicts.append)
        return self

    def say(self, index, said=GOOD, status=200):
        answer = self.net.calls[index].answer
        answer.errback(said) if isinstance(said, Exception) else answer.callback((status, said))

    @property
    def verdict(self):
        (verdict,) = self.verdicts
        return verdict


@pytest.fixture
def log():
    events = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def told(log):
    return [event for event in log if event.get("log_namespace", "").endswith("remote.Complaints")]


LONG = "x" * 90_000  # ten pieces for Azure


def test_a_verdict():
    room = Room().ask("text")
    (call,) = room.net.calls
    method, url, headers, body, seconds = call.arguments
    assert (method, seconds) == ("POST", 2.5)
    assert url.startswith("http://r/contentsafety/")
    assert ("ocp-apim-subscription-key", "the-key") in headers
    assert b"text" in body
    assert room.verdicts == []
    room.say(0)
    assert room.verdict == ALLOW


@pytest.mark.parametrize("texts", [(), ("",), ("", "")])
def test_empty_texts_ask_nobody(texts):
    room = Room().ask(*texts)
    assert room.verdict == ALLOW
    assert room.net.calls == []


def test_a_few_questions_at_once():
    room = Room().ask(LONG)
    for number in range(10):
        assert len(room.net.calls) == min(10, 4 + number)
        room.say(number)
    assert room.verdict == ALLOW


def test_a_block_ends_the_others_at_once():
    room = Room().ask(LONG)
    room.say(2, BAD)
    assert room.verdict == Block("attack detected")
    assert len(room.net.calls) == 4
    assert [call.cancelled for call in room.net.calls] == [True, True, False, True]


def test_answers_in_any_order():
    service = Analysis(kinds.Presidio(analyzer_url="http://a", anonymizer_url="http://b"))
    room = Room(service).ask("one", "two", "six")
    found = b'[{"entity_type": "N", "start": 0, "end": 3, "score": 1}]'
    room.say(2, found)
    room.say(1, b"[]")
    room.say(0, found)
    room.say(4, b'{"text": "<1>", "items": []}')
    room.say(3, b'{"text": "<6>", "items": []}')
    assert room.verdict == Mask(("<1>", "two", "<6>"), {"N": 2})


FAILURES = [
    (TimeoutError("late"), "azure_cs_timeout"),
    (ConnectionError("refused"), "azure_cs_5xx"),
    (ConnectionResetError("reset"), "azure_cs_5xx"),
    (429, "azure_cs_throttled"),
    (500, "azure_cs_5xx"),
    (503, "azure_cs_5xx"),
    (400, "azure_cs_config_error"),
    (401, "azure_cs_config_error"),
    (302, "azure_cs_config_error"),
    (b"garbage", "azure_cs_5xx"),
    (b"{}", "azure_cs_5xx"),
]
FLAGS = list(itertools.product(("input", "output"), (False, True), (False, True), (False, True)))


@pytest.mark.parametrize(("said", "reason"), FAILURES)
@pytest.mark.parametrize(("hook", "fail_open", "output_fail_open", "mandatory"), FLAGS)
def test_failures(said, reason, hook, fail_open, output_fail_open, mandatory):
    room = Room(rule=FailureRule(fail_open, output_fail_open, mandatory)).ask("text", hook=hook)
    room.say(0, GOOD, said) if isinstance(said, int) else room.say(0, said)
    passes = {"input": fail_open, "output": output_fail_open}[hook] and not mandatory
    assert room.verdict == (Bypass(reason) if passes else Block(reason, unavailable=True))


def test_after_a_failure_nothing_new_is_begun_and_a_block_still_counts():
    room = Room().ask(LONG)
    room.say(0, TimeoutError())
    room.say(1)
    assert room.verdicts == []
    assert len(room.net.calls) == 4
    room.say(2)
    room.say(3, BAD)
    assert room.verdict == Block("attack detected")


def test_after_a_failure_the_rest_is_awaited():
    room = Room().ask(LONG)
    for index in range(4):
        room.say(index, TimeoutError() if index == 2 else GOOD)
        assert len(room.net.calls) == (6 if index else 5) if index < 2 else 6
    for index in (4, 5):
        assert room.verdicts == []
        room.say(index)
    assert room.verdict == Bypass("azure_cs_timeout")


def test_a_failure_that_blocks_waits_for_nobody():
    room = Room(rule=FailureRule(mandatory=True)).ask(LONG)
    room.say(0, b"garbage")
    assert room.verdict == Block("azure_cs_5xx", unavailable=True)
    assert all(call.cancelled for call in room.net.calls[1:])


def test_cancelling_cancels_every_call(log):
    room = Room().ask(LONG)
    room.waiting.cancel()
    assert room.verdict.check(CancelledError)
    assert all(call.cancelled for call in room.net.calls)
    assert len(room.net.calls) == 4
    assert told(log) == []


def test_cancelling_in_the_second_step(log):
    service = Analysis(kinds.Presidio(analyzer_url="http://a", anonymizer_url="http://b"))
    room = Room(service).ask("one")
    room.say(0, b'[{"entity_type": "N", "start": 0, "end": 3, "score": 1}]')
    room.waiting.cancel()
    assert room.net.calls[1].cancelled
    assert room.verdict.check(CancelledError)


def test_the_log_names_no_text_and_no_key_and_not_every_failure(log):
    room = Room()
    for seconds in (0, 3, 6, 4):
        room.clock.advance(seconds)
        room.ask("a secret text")
        room.say(-1, b'{"userPromptAnalysis": "secret"}')
    room.ask("a secret text")
    room.say(-1, GOOD, 429)
    lines = [event["log_format"].format(**event) for event in told(log)]
    assert lines == [
        'guardrail "g": azure_cs_5xx (the answer cannot be read: ValidationError), input of req-1',
        'guardrail "g": azure_cs_5xx (the answer cannot be read: ValidationError), input of req-1',
        'guardrail "g": azure_cs_throttled (status 429), input of req-1',
    ]
    assert "secret" not in str(lines)
    assert "the-key" not in str([sorted(event.items(), key=str) for event in told(log)])


def test_a_fault_of_ours_blocks_even_where_failures_pass(log):
    class Broken:
        prefix = "x"

        def questions(self, asked):
            raise KeyError("a secret text")
            yield

    room = Room(Broken()).ask("text")
    assert room.verdict == Block("a fault of the gateway", unavailable=True)
    (event,) = told(log)
    assert event["log_level"] == LogLevel.error
    assert "secret" not in event["log_format"].format(**event)
    assert "KeyError in" in event["log_format"].format(**event)


def test_the_number_of_pieces_is_what_the_tests_above_think():
    assert len(pieces(LONG, 10_000)) == 10


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("cbf"), min_size=1, max_size=12), st.randoms(use_true_random=False), st.booleans())
def test_any_order_of_any_answers(outcomes, random, open_):
    """Nothing is left under way; a block that was heard is the verdict; all clear needs every answer."""
    room = Room(rule=FailureRule(fail_open=open_))
    room.ask("x" * (9_744 * len(outcomes) + 256))
    answered = []
    while not room.verdicts:
        index = random.choice([index for index in range(len(room.net.calls)) if index not in answered])
        answered.append(index)
        room.say(index, {"c": GOOD, "b": BAD, "f": TimeoutError()}[outcomes[index]])
    heard = {outcomes[index] for index in answered}
    if "b" in heard:
        assert room.verdict == Block("attack detected")
    elif "f" in heard:
        assert room.verdict == FailureRule(fail_open=open_).verdict("input", "azure_cs_timeout")
    else:
        assert room.verdict == ALLOW
        assert sorted(answered) == list(range(len(outcomes)))
    assert all(call.cancelled for index, call in enumerate(room.net.calls) if index not in answered)
