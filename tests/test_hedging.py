"""Races of two attempts, alone and in a call (`extensions.md` 5)."""

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from twisted_gateway.charging import estimate
from twisted_gateway.config.money import Cost
from twisted_gateway.config.routes import Hedge
from twisted_gateway.errors import shutting_down
from twisted_gateway.exchange import Outcome
from twisted_gateway.hedging import Race
from twisted_gateway.metrics import Metrics
from twisted_gateway.policies.accounting import _count_attempts
from twisted_gateway.records import record

from .exchanges import group
from .fleet import STALL, Fleet, Limits, status, target
from .test_every_road import SAID


class Runner:
    """One side of a race, as the test wants it."""

    def __init__(self):
        self.result, self.cancelled = Deferred(), False

    async def run(self):
        try:
            return await self.result
        except CancelledError:
            self.cancelled = True
            raise


class Track:
    """A race with a note of everything that happens."""

    def __init__(self, second=True):
        self.clock, self.one, self.two = Clock(), Runner(), Runner()
        self.decided, self.dropped, self.got, self.asked = [], [], [], 0
        self.second = second
        self.race = Race(self.clock, 1.0, self.one.run(), self._second, self.decided.append, self.dropped.append)
        self.race.done.addBoth(self.got.append)

    def _second(self):
        self.asked += 1
        return self.two.run() if self.second else None

    def over(self):
        assert self.clock.getDelayedCalls() == []


def test_a_first_in_time_runs_alone():
    track = Track()
    track.clock.advance(0.9)
    track.one.result.callback("one")
    assert (track.got, track.asked, track.decided) == (["one"], 0, ["one"])
    track.over()


def test_a_first_that_fails_in_time_is_no_race():
    track = Track()
    track.one.result.errback(ValueError())
    assert track.got[0].check(ValueError)
    assert track.asked == 0
    track.over()


def test_a_late_first_still_wins_when_it_comes_first():
    track = Track()
    track.clock.advance(1.0)
    track.one.result.callback("one")
    assert (track.got, track.two.cancelled) == (["one"], True)
    track.over()


def test_the_second_wins():
    track = Track()
    track.clock.advance(1.0)
    track.two.result.callback("two")
    track.clock.advance(0)
    assert (track.got, track.one.cancelled, track.dropped) == (["two"], True, [])
    track.over()


def test_a_tie_is_the_older_ones():
    track = Track()
    track.clock.advance(1.0)
    track.two.result.callback("two")
    track.one.result.callback("one")
    assert (track.got, track.dropped) == (["one"], ["two"])
    track.over()


@pytest.mark.parametrize(("first", "second"), [("one", "two"), ("two", "one")])
def test_when_one_fails_the_other_is_waited_for(first, second):
    track = Track()
    track.clock.advance(1.0)
    getattr(track, first).result.errback(ValueError())
    assert track.got == []
    getattr(track, second).result.callback("good")
    track.clock.advance(0)
    assert track.got == ["good"]
    track.over()


def test_when_both_fail_the_last_failure_is_told():
    track = Track()
    track.clock.advance(1.0)
    track.two.result.errback(KeyError())
    track.one.result.errback(ValueError())
    assert track.got[0].check(ValueError)
    track.over()


def test_a_first_that_fails_beside_a_second_that_has_come_in():
    track = Track()
    track.clock.advance(1.0)
    track.two.result.callback("two")
    track.one.result.errback(ValueError())
    track.clock.advance(0)
    assert track.got == ["two"]
    track.over()


def test_without_a_second_the_first_goes_on():
    track = Track(second=False)
    track.clock.advance(1.0)
    assert track.asked == 1
    track.one.result.callback("one")
    assert track.got == ["one"]
    track.over()


@pytest.mark.parametrize("stage", ["alone", "both", "second in"])
def test_cancelling_ends_both(stage):
    track = Track()
    if stage != "alone":
        track.clock.advance(1.0)
    if stage == "second in":
        track.two.result.callback("two")
    track.race.done.cancel()
    assert track.got[0].check(CancelledError)
    assert track.one.cancelled
    assert track.two.cancelled is (stage == "both")
    assert track.dropped == (["two"] if stage == "second in" else [])
    track.over()


# In a call


def hedged(faults=(), hedge=None, **more):
    made = group("gpt", "a", "b", "c", hedge=hedge or Hedge(500, 1.0), **more.pop("routing", {}))
    fleet = Fleet("chat", made, faults, **{"timeout_ms": 20_000} | more)
    fleet.answering = False
    return fleet


def answered(fleet, at):
    """The provider's request at that position gets its first event, and later the rest."""
    request = fleet.provider.requests[at]
    request.setHeader("content-type", "text/event-stream")
    fleet.write(request, SAID["openai_chat"][0])
    fleet.clock.advance(0)
    fleet.flush()
    return request


def finish(fleet, request):
    fleet.write(request, b"".join(SAID["openai_chat"][1:]))
    fleet.end(request)


def test_a_late_first_event_starts_the_next_target():
    fleet = hedged()
    ask = fleet.call(True)
    fleet.clock.advance(0.49)
    assert fleet.contacts == ["a"]
    fleet.advance(0.25)
    assert fleet.contacts == ["a", "b"]
    request = answered(fleet, 1)
    assert len(fleet.provider.gone) == 1, "the loser is cut at once"
    finish(fleet, request)
    fleet.good(ask)
    assert ask.header("x-aisix-served-by") == "b"
    assert fleet.kinds == [("initial", "a", "hedge_lost"), ("hedge", "b", "complete")]
    assert not fleet.gateway.health.cooling("m-a"), "to lose is no failure"
    assert fleet.limits.taken == ["b"]
    fleet.settled("complete")
    fleet.idle()


def test_a_first_event_in_time_starts_nobody():
    fleet = hedged()
    ask = fleet.call(True)
    fleet.clock.advance(0.4)
    finish(fleet, answered(fleet, 0))
    fleet.advance(1)
    fleet.good(ask)
    assert fleet.contacts == ["a"]
    fleet.settled("complete")


def test_the_first_may_still_win():
    fleet = hedged()
    ask = fleet.call(True)
    fleet.advance(0.5)
    finish(fleet, answered(fleet, 0))
    fleet.good(ask)
    assert fleet.kinds == [("initial", "a", "complete"), ("hedge", "b", "hedge_lost")]
    assert len(fleet.provider.gone) == 1
    assert ask.header("x-aisix-served-by") == "a"
    assert fleet.limits.taken == ["a"]
    assert fleet.exchange.attempt.kind == "initial"
    fleet.settled("complete")
    fleet.idle()


def test_a_tie_in_a_call():
    fleet = hedged()
    ask = fleet.call(True)
    fleet.advance(0.5)
    for request in reversed(fleet.provider.requests):
        request.setHeader("content-type", "text/event-stream")
        request.write(SAID["openai_chat"][0])
    fleet.flush()
    fleet.clock.advance(0)
    fleet.flush()
    finish(fleet, fleet.provider.requests[0])
    fleet.good(ask)
    assert fleet.kinds == [("initial", "a", "complete"), ("hedge", "b", "hedge_lost")]
    fleet.settled("complete")
    fleet.idle()


def test_whole_answers_are_not_hedged():
    fleet = hedged()
    fleet.call(False)
    fleet.advance(2)
    assert fleet.contacts == ["a"]


def test_when_the_first_fails_the_hedge_is_waited_for():
    fleet = hedged()
    ask = fleet.call(True)
    fleet.advance(0.5)
    fleet.provider.requests[0].setResponseCode(400)
    fleet.end(fleet.provider.requests[0])
    assert ask.response is None
    finish(fleet, answered(fleet, 1))
    fleet.good(ask)
    assert fleet.kinds == [("initial", "a", "upstream_error"), ("hedge", "b", "complete")]
    fleet.settled("complete")
    fleet.idle()


def test_when_both_fail_the_next_target_is_asked():
    fleet = hedged()
    ask = fleet.call(True)
    fleet.advance(0.5)
    for request in fleet.provider.requests[:2]:
        request.setResponseCode(500)
        fleet.end(request)
    assert fleet.contacts == ["a", "b", "c"]
    fleet.advance(2)
    assert fleet.contacts == ["a", "b", "c"], "one hedge for each call"
    finish(fleet, answered(fleet, 2))
    fleet.good(ask)
    assert [one[:2] for one in fleet.kinds] == [("initial", "a"), ("hedge", "b"), ("fallback", "c")]
    fleet.settled("complete")
    fleet.idle()


def test_a_hedge_is_a_fallback_for_the_count():
    fleet = hedged(routing={"max_fallbacks": 1})
    fleet.call(True)
    fleet.advance(0.5)
    for request in fleet.provider.requests[:2]:
        request.setResponseCode(500)
        fleet.end(request)
    fleet.advance(3)
    assert set(fleet.contacts) == {"a", "b"}
    fleet.settled("failed")


def test_a_target_over_its_limit_is_no_hedge():
    fleet = hedged(limits=Limits(["b"]))
    ask = fleet.call(True)
    fleet.advance(0.5)
    assert fleet.contacts == ["a", "c"]
    finish(fleet, answered(fleet, 1))
    fleet.good(ask)
    assert fleet.limits.taken == ["c"]
    fleet.idle()


def test_when_no_other_target_admits_the_first_goes_on():
    fleet = hedged(limits=Limits("bc"))
    ask = fleet.call(True)
    fleet.advance(1)
    assert fleet.contacts == ["a"]
    finish(fleet, answered(fleet, 0))
    fleet.good(ask)
    fleet.idle()


def test_extra_calls_stay_within_the_ratio():
    fleet = hedged([STALL] * 500, Hedge(250, 0.1))
    for _ in range(100):
        fleet.call(True)
    fleet.advance(0.5)
    assert len(fleet.contacts) == 100 + 10
    assert sum(one.kind == "hedge" for each in fleet.ledger.exchanges for one in each.attempts) == 10


def test_the_first_hedge_is_always_allowed():
    fleet = hedged(hedge=Hedge(250, 0.0))
    for _ in range(3):
        fleet.call(True)
    fleet.advance(0.5)
    assert sorted(fleet.contacts) == ["a", "a", "a", "b"]


@pytest.mark.parametrize("seconds", [0.25, 0.75])
def test_a_caller_who_leaves_ends_both(seconds):
    fleet = hedged()
    ask = fleet.call(True)
    fleet.advance(seconds)
    begun = len(fleet.contacts)
    ask.deferred.cancel()
    fleet.flush()
    fleet.advance(3)
    assert len(fleet.contacts) == len(fleet.provider.gone) == begun
    fleet.settled("abandoned")
    assert fleet.limits.taken == []
    assert not any(fleet.gateway.health.cooling(f"m-{name}") for name in "abc")
    fleet.idle()


def test_the_end_of_the_process_ends_both():
    fleet = hedged()
    ask = fleet.call(True)
    fleet.advance(0.75)
    fleet.gateway.end_all(shutting_down())
    fleet.flush()
    assert ask.response.code == 503
    assert len(fleet.provider.gone) == 2
    fleet.settled("broken")
    fleet.idle()


def test_what_happens_to_the_winner_later_is_its_own_affair():
    fleet = hedged()
    ask = fleet.call(True)
    fleet.advance(0.5)
    fleet.end(answered(fleet, 1))
    assert b"event: error" in ask.got.data
    assert fleet.contacts == ["a", "b"]
    assert fleet.settled("truncated").attempt.target.model.display_name == "b"
    fleet.idle()


def test_both_are_written_down():
    shelf = [target(name, cost=Cost(2.0, 4.0)) for name in "abc"]
    fleet = hedged(shelf=shelf)
    fleet.call(True)
    fleet.advance(0.5)
    finish(fleet, answered(fleet, 1))
    exchange = fleet.settled("complete")
    made = record(exchange, Outcome.COMPLETE)
    loser, winner = made["attempts"]
    prompt = estimate(exchange.call.prompt_bytes)
    assert (loser["kind"], loser["ended_by"], loser["prompt_tokens"]) == ("initial", "hedge_lost", prompt)
    assert loser["cost_usd"] == pytest.approx(prompt * 2.0 / 1000)
    assert (winner["kind"], winner["prompt_tokens"], winner["completion_tokens"]) == ("hedge", 5, 2)
    assert (made["prompt_tokens"], made["completion_tokens"]) == (5, 2), "the loser's are not the caller's"
    metrics = Metrics()
    _count_attempts(metrics.routes, exchange)
    text = metrics.exposition().decode()
    assert 'aisix_hedges_total{model="gpt",result="won"} 1.0' in text
    assert text.count("aisix_deployment_requests_total{") == 2
    assert text.count("aisix_deployment_success_responses_total{") == 1
    assert "aisix_deployment_failure_responses_total{" not in text


@pytest.mark.parametrize(
    ("first", "second", "result"), [(STALL, status(500), "failed"), (STALL, STALL, "abandoned")], ids=str
)
def test_results_of_hedges(first, second, result):
    fleet = hedged([first, second])
    ask = fleet.call(True)
    fleet.advance(0.5)
    if result == "failed":
        finish(fleet, answered(fleet, 0))
    else:
        ask.deferred.cancel()
        fleet.flush()
    metrics = Metrics()
    _count_attempts(metrics.routes, fleet.exchange)
    assert f'aisix_hedges_total{{model="gpt",result="{result}"}} 1.0' in metrics.exposition().decode()
