"""Rate limits as a policy: which buckets a call meets, what it is told, what it is charged, what it holds."""

from __future__ import annotations

import attrs
import pytest
from twisted.internet.task import Clock

from tests import exchanges
from tests.exchanges import MESSAGES, attempt, call, caller, exchange, model, snapshot
from twisted_gateway.config.conditions import read_conditions
from twisted_gateway.config.limits import Policies, RateLimit, RateLimitPolicy, Schedule, read_zone
from twisted_gateway.config.snapshot import Resolution
from twisted_gateway.errors import Refused
from twisted_gateway.exchange import Joint, Outcome, Target, Usage
from twisted_gateway.formats.complaints import OPENAI
from twisted_gateway.layers import stated_output
from twisted_gateway.policies.quota import MEASURED_SECONDS, Quota
from twisted_gateway.stores.buckets import Standing, namer
from twisted_gateway.stores.memory import Memory

from ..doubles.timers import timers

NOW = 1_800_000_000.0 - 1_800_000_000 % 86400 + 12 * 3600 + 15
"""15 s into a minute."""


class Counted:
    def __init__(self):
        self.refusals, self.left = [], []

    def rate_limited(self, *labels):
        self.refusals.append(labels)

    def remaining(self, *told):
        self.left.append(told)


class Room:
    """The policy over a store in memory, with a clock of its own."""

    def __init__(self):
        self.now = NOW
        self.store = Memory(lambda: self.now)
        self.counted = Counted()
        self.clock = Clock()
        self.quota = Quota(self.store, lambda: self.now, namer(), self.counted, self.clock)

    def admit(self, one):
        return self.quota.admit(one)

    def refused(self, one):
        with pytest.raises(Refused) as caught:
            self.quota.admit(one)
        return caught.value.problem


@pytest.fixture
def room():
    return Room()


def many(**more):
    """A group of several models."""
    return attrs.evolve(exchanges.group("auto", "small", **more), id="m-auto")


def limit(**members):
    return RateLimit(**members)


def policy(name="p", **members):
    if "limits" not in members:
        members = {"scope": "team", "scope_ref": "team-a", "window": "minute"} | members
    return RateLimitPolicy(id=f"id-{name}", name=name, **members)


def made(key=None, served=None, row=None, policies=(), **more):
    """An exchange before its first attempt; `key` and `served` are limits."""
    small = model(rate_limit=served)
    shelf = attrs.evolve(snapshot(small), rate_limit_policies=Policies(policies))
    members = {
        "snapshot": shelf,
        "caller": caller(rate_limit=key),
        "resolution": Resolution(row or small, "gpt-4o", False),
        "attempts": [],
    }
    return exchange(**(members | more))


def answered(one, tokens=19):
    """It was answered: so many tokens, as the provider says."""
    usage = Usage(prompt=tokens - 7, completion=7, total=tokens, final=True)
    one.attempts.append(attempt(one.resolution.model, usage=usage))
    return one


# What a call meets


def test_no_limits_no_ticket(room):
    assert room.admit(made()) is None
    assert len(room.store) == 0


def test_buckets_in_their_order(room):
    policies = [
        policy("team", max_requests=9),
        policy("split", limits=limit(rpd=9), group_by=("api_key", "provider")),
        policy("other", scope_ref="team-b", max_requests=9),
        policy("mine", scope="team_member", max_requests=9),
    ]
    room.admit(made(key=limit(rpm=5), served=limit(rph=5), policies=policies))
    assert list(room.store._buckets) == [
        "ck-1",
        "model:gpt",
        "policy:team:team-a:id-team",
        "policy:v2:id-split:api_key=ck-1:provider=openai",
        "policy:team_member:team-a:id-mine:u1",
    ]


def test_the_first_that_refuses_answers(room):
    one = made(key=limit(rpm=5), served=limit(rpm=0), policies=[policy(max_requests=1)])
    problem = room.refused(one)
    assert (problem.status, problem.type, problem.retry_after) == (429, "rate_limit_exceeded", 45)
    assert OPENAI.body(problem) == (
        b'{"error":{"message":"request limit exceeded (requests)","type":"rate_limit_exceeded"}}'
    )
    assert room.counted.refusals == [("requests", "model", "")]
    assert room.store.standing("ck-1").requests == 1


@pytest.mark.parametrize(
    ("limits", "message", "after", "scope"),
    [
        ({"rps": 0}, "request limit exceeded (requests)", 1, "requests"),
        ({"rpd": 0}, "request limit exceeded (requests)", 12 * 3600 - 15, "requests"),
        ({"concurrency": 0}, "concurrency limit exceeded", None, "requests"),
    ],
)
def test_texts(room, limits, message, after, scope):
    problem = room.refused(made(key=limit(**limits)))
    assert (problem.message, problem.retry_after) == (message, after)
    assert room.counted.refusals == [(scope, "api_key", "")]


def test_a_policy_is_named(room):
    one = made(policies=[policy("house", limits=limit(rpm=0))])
    problem = room.refused(one)
    assert OPENAI.body(problem) == (
        b'{"error":{"message":"request limit exceeded (requests) (policy \'house\')","type":"rate_limit_exceeded",'
        b'"policy":{"id":"id-house","name":"house"}}}'
    )
    assert room.counted.refusals == [("requests", "policy", "id-house")]


def test_a_suspended_policy_reserves_nothing(room):
    noon = Schedule(read_zone("UTC"), 12 * 60, 13 * 60, ("mon", "tue", "wed", "thu", "fri", "sat", "sun"))
    one = made(policies=[policy(max_requests=1, schedules=(noon,))])
    assert room.admit(one) is None
    room.now += 3600
    assert room.admit(one) is not None
    assert room.refused(one).message.endswith("(policy 'p')")


def test_conditions_choose(room):
    only_azure = read_conditions([{"dimension": "provider", "operator": "==", "value": "azure"}])
    assert room.admit(made(policies=[policy(limits=limit(rpm=0), conditions=only_azure)])) is None


# Tokens and slots


def test_tokens_are_counted_at_the_end_in_every_bucket(room):
    one = made(key=limit(tpm=100), served=limit(tpd=18, rpm=9), policies=[policy(max_tokens=1000)])
    ticket = room.admit(one)
    assert room.store.standing("ck-1").tokens == 0
    answered(one)
    room.now += 60
    ticket.settle(Outcome.COMPLETE)
    assert room.store.standing("ck-1").tokens == 19
    assert room.store.standing("policy:team:team-a:id-p").tokens == 19
    problem = room.refused(made(served=limit(tpd=18)))
    assert problem.message == "token limit exceeded (tokens)"
    assert room.counted.refusals == [("tokens", "model", "")]


@pytest.mark.parametrize(
    ("outcome", "tokens"),
    [
        (Outcome.COMPLETE, 19), (Outcome.TRUNCATED, 19), (Outcome.BLOCKED, 19), (Outcome.ABANDONED, 19),
        (Outcome.FAILED, 0), (Outcome.REFUSED, 0),
    ],
)  # fmt: skip
def test_what_an_end_costs(room, outcome, tokens):
    one = made(key=limit(tpm=100, concurrency=1))
    ticket = room.admit(one)
    answered(one)
    ticket.settle(outcome)
    assert room.store.standing("ck-1") == Standing(0, tokens, 0)


def test_an_answer_without_an_attempt_costs_a_request_and_no_token(room):
    one = made(key=limit(tpm=100, rpm=5))
    room.admit(one).settle(Outcome.COMPLETE)  # from the cache
    assert room.store.standing("ck-1") == Standing(1, 0, 0)


def test_a_slot_is_held_until_the_end_and_freed_once(room):
    one = made(key=limit(concurrency=1))
    ticket = room.admit(one)
    assert room.refused(one).retry_after is None
    ticket.settle(Outcome.ABANDONED)
    ticket.settle(Outcome.ABANDONED)
    assert room.store.standing("ck-1").in_flight == 0
    assert room.admit(one) is not None


# What callers see


def test_headers_of_a_chat_answer(room):
    one = made(key=limit(rpm=5, tpm=100, concurrency=3, rpd=9), served=limit(rpm=2))
    ticket = room.admit(one)
    assert ticket.headers() == [
        (b"x-ratelimit-limit-requests", b"5"),
        (b"x-ratelimit-remaining-requests", b"4"),
        (b"x-ratelimit-reset-requests", b"45s"),
        (b"x-ratelimit-limit-tokens", b"100"),
        (b"x-ratelimit-remaining-tokens", b"100"),
        (b"x-ratelimit-reset-tokens", b"45s"),
        (b"x-ratelimit-limit-concurrent", b"3"),
        (b"x-ratelimit-remaining-concurrent", b"2"),
    ]
    assert room.counted.left == [("ck-1", "gpt", 4, 100)]


def test_no_headers_elsewhere(room):
    assert room.admit(made(key=limit(rpm=5), endpoint=MESSAGES)).headers() == []
    assert room.admit(made(served=limit(rpm=5))).headers() == []
    assert room.admit(made(key=limit(rpd=5, rps=3))).headers() == []
    assert room.counted.left == []


def test_what_remains_is_never_less_than_nothing(room):
    one = answered(made(key=limit(tpm=18)))
    room.admit(one).settle(Outcome.COMPLETE)
    room.now += 60
    ticket = room.admit(one)
    room.admit(one).settle(Outcome.COMPLETE)
    assert dict(ticket.headers())[b"x-ratelimit-remaining-tokens"] == b"18"
    room.now += 60
    late = room.admit(one)
    room.store.release(late._places[0].asks, "x", 18)
    assert dict(room.admit(one).headers())[b"x-ratelimit-remaining-tokens"] == b"0"


# Groups


def group(room, policies=(), row=None, **more):
    one = made(row=row or many(), policies=policies, **more)
    return one, room.admit(one)


def target(name="small", **limits):
    return Target(model(name, rate_limit=limit(**limits) if limits else None), "gpt-4o")


def test_a_group_is_asked_at_the_entry_and_its_targets_at_each_attempt(room):
    policies = [
        policy("whole", scope="model", scope_ref="m-auto", max_requests=9),
        policy("part", scope="model", scope_ref="m-small", max_requests=9),
        policy("team", max_requests=9),
        policy("split", limits=limit(rpm=9), group_by=("team", "model")),
        policy("vague", limits=limit(rpm=9)),
    ]
    _one, ticket = group(room, policies, row=many(rate_limit=limit(rpm=9)), key=limit(rpm=9))
    assert list(room.store._buckets) == [
        "ck-1",
        "model:auto",
        "policy:model:m-auto:id-whole",
        "policy:team:team-a:id-team",
        "policy:v2:id-vague",
    ]
    back = ticket.allow(target(rpm=9))
    assert list(room.store._buckets)[5:] == [
        "model:small",
        "policy:model:m-small:id-part",
        "policy:v2:id-split:team=team-a:model=m-small",
    ]
    assert callable(back)


def test_a_model_is_not_asked_twice(room):
    one = made(served=limit(rpm=9))
    ticket = room.admit(one)
    assert ticket.allow(Target(one.resolution.model, "gpt-4o")) is None
    assert room.store.standing("model:gpt").requests == 1


def test_conditions_on_the_model_see_target_and_group(room):
    for value in ("m-auto", "m-small"):
        conditions = read_conditions([{"dimension": "model", "operator": "==", "value": value}])
        _one, ticket = group(room, [policy(value, limits=limit(rpm=0), conditions=conditions)])
        with pytest.raises(Refused, match="request limit exceeded"):
            ticket.allow(target())
    differ = read_conditions([{"dimension": "model", "operator": "~=", "value": "m-auto"}])
    _one, ticket = group(room, [policy("differ", limits=limit(rpm=0), conditions=differ)])
    assert ticket.allow(target()) is None


def test_a_target_over_its_limit_is_refused(room):
    _one, ticket = group(room)
    with pytest.raises(Refused) as caught:
        ticket.allow(target(rpm=0))
    problem = caught.value.problem
    assert (problem.status, problem.type, problem.retry_after) == (429, "rate_limit_exceeded", 45)
    assert problem.message == "request limit exceeded (requests)"
    assert room.counted.refusals == [("requests", "model", "")]


def test_only_the_winner_s_limits_are_charged(room):
    one, ticket = group(room, key=limit(tpm=100))
    loser, winner = target("loser", tpm=100, concurrency=1), target("winner", tpm=100, concurrency=1)
    back = ticket.allow(loser)
    ticket.allow(winner)
    assert room.store.standing("model:loser").in_flight == 1
    back()
    back()
    assert room.store.standing("model:loser").in_flight == 0
    one.attempts.append(attempt(winner.model))
    ticket.settle(Outcome.COMPLETE)
    assert room.store.standing("model:loser") == Standing(0, 0, 0)
    assert room.store.standing("model:winner") == Standing(0, 19, 0)
    assert room.store.standing("ck-1").tokens == 19
    back()
    assert room.store.standing("model:loser") == Standing(0, 0, 0)


# Reservations


@pytest.mark.parametrize(
    ("body", "most"),
    [
        (b'{"max_tokens":7}', 7), (b'{"max_completion_tokens":5,"max_tokens":7}', 5), (b'{"max_output_tokens":9}', 9),
        (b'{"max_tokens":7,"n":3}', 21), (b'{"max_tokens":null}', None), (b'{"max_tokens":"7"}', None),
        (b'{"max_tokens":true}', None), (b"{}", None), (b"[]", None), (b'{"n":2}', None),
    ],
)  # fmt: skip
def test_stated_output(body, most):
    assert stated_output(call(body=body)) == most


def reserving(most=None, **more):
    body = b"{}" if most is None else b'{"max_tokens":%d}' % most
    limits = limit(tpm=1000, reserve=True, reserve_output_tokens=200)
    return made(key=limits, call=call(body=body, prompt_bytes=40), **more)


def test_an_estimate_is_held_and_replaced_by_the_figure(room):
    one = reserving(most=490)
    ticket = room.admit(one)
    assert room.store.standing("ck-1").tokens == 500
    room.admit(reserving(most=490))
    assert room.refused(reserving(most=490)).message == "token limit exceeded (tokens)"
    answered(one)
    ticket.settle(Outcome.COMPLETE)
    assert room.store.standing("ck-1").tokens == 519
    room.admit(reserving(most=471))


def test_without_a_stated_maximum_one_is_assumed(room):
    room.admit(reserving())
    assert room.store.standing("ck-1").tokens == 210


class Known:
    """What is learnt of an answer."""

    def __init__(self):
        self.usage, self.text_bytes = Usage(), 0


def joined(learnt, settle=lambda: None):
    return Joint(attempt(), learnt, lambda: None, settle)


def test_what_came_by_another_way_is_counted_before_it_is_measured(room):
    ticket = room.admit(reserving(most=90))
    learnt = Known()
    ticket.gates(joined(learnt, lambda: setattr(learnt, "text_bytes", 361)))
    room.clock.advance(MEASURED_SECONDS)
    assert room.store.standing("ck-1").tokens == 300
    ticket.settle(Outcome.REFUSED)


def test_a_stream_that_outgrows_its_reservation_enlarges_it(room):
    ticket = room.admit(reserving(most=90))
    learnt = Known()
    assert ticket.gates(joined(learnt)) == ()
    for size, held in ((360, 100), (361, 300), (1160, 300), (1161, 500), (4000, 1100)):
        learnt.text_bytes = size
        room.clock.advance(MEASURED_SECONDS)
        assert room.store.standing("ck-1").tokens == held
    learnt.usage = Usage(prompt=900, completion=1200)
    room.clock.advance(MEASURED_SECONDS)
    assert room.store.standing("ck-1").tokens == 2100
    ticket.gates(joined(Known()))  # another attempt: what is held is held
    room.clock.advance(MEASURED_SECONDS)
    assert room.store.standing("ck-1").tokens == 2100
    ticket.settle(Outcome.REFUSED)
    assert room.store.standing("ck-1").tokens == 0
    assert timers(room.clock) == []


def test_measuring_goes_on_while_one_stream_is_left(room):
    first, second = (room.admit(reserving(most=90)) for _ in range(2))
    learnt = Known()
    first.gates(joined(Known()))
    second.gates(joined(learnt))
    first.settle(Outcome.COMPLETE)
    learnt.text_bytes = 361
    room.clock.advance(MEASURED_SECONDS)
    assert room.store.standing("ck-1").tokens == 300
    second.settle(Outcome.COMPLETE)
    assert timers(room.clock) == []


def test_only_streams_whose_tokens_are_held_are_measured(room):
    room.admit(made(key=limit(tpm=100))).gates(joined(Known()))
    room.admit(made(key=limit(tpm=100, reserve=True), call=call(stream=False))).gates(joined(Known()))
    assert timers(room.clock) == []
