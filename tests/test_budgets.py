"""Budgets, trial keys and `usage.cost` in a whole house in memory."""

import json

import attrs
import pytest

from twisted_gateway.config.money import Budget, Cost
from twisted_gateway.policies.budgets import Budgets
from twisted_gateway.policies.costs import IncludeCost
from twisted_gateway.spending import Spending

from .exchanges import Headers, exchange, model, provider_key
from .formats import anthropic_grammar
from .formats.making import ROLE, chunk, dumps, say
from .fronts import NOW
from .test_gateway import KEY, STOP, USAGE, WHOLE, House, sse
from .test_streams import ALL, BEGUN, SAID, START, TEXT, ask, events, numbered
from .test_streams import begun as begun_at
from .test_streams import stop as stop_stream

PRICES = Cost(1.0, 10.0)
"""A dollar for 1,000 tokens in, ten for as many out: a token out costs a cent."""


def budget(name="b", limit=1.0, **more):
    ref = {"scope": "api_key", "scope_ref": KEY.id} | more
    return Budget(id=f"id-{name}", name=name, limit_usd=limit, **ref)


class Funded(House):
    """A house in memory with budgets."""

    def __init__(self, *budgets, provider="openai", key=KEY, **shelf):
        adapter = "anthropic" if provider == "anthropic" else "openai"
        reach = provider_key(provider=provider, adapter=adapter, api_base="http://provider/v1")
        super().__init__(
            shelf=[model(**({"provider": provider, "provider_key": reach, "cost": PRICES} | shelf))],
        )
        self.speak(ALL, bridge=True)
        self.books = Spending(NOW)
        self.time = NOW
        self.policy = Budgets(self.books, lambda: self.time, self.clock.seconds)
        self.gateway.after = (*self.gateway.after, self.policy, IncludeCost())
        known = self.front.snapshot()
        self.known = attrs.evolve(known, budgets=budgets, caller_keys_by_hash={key.key_hash: key})
        self.front.snapshot = lambda: self.known


def begun(house, *said, **members):
    return begun_at(house, sse(ROLE, *map(say, said)), **members)


def finish(house, request, usage=None):
    house.write(request, sse(STOP, *([chunk(usage=usage)] if usage else []), b"[DONE]"))
    house.end(request)


# Refusals


def test_a_spent_budget_refuses():
    house = Funded(budget("team-a", 5.0, period="day"))
    house.books.spend(house.known.budgets[0], 5.25, NOW)
    made = ask(house)
    assert (made.response.code, made.header("retry-after")) == (429, "54400")
    assert made.json == {
        "error": {
            "message": 'budget "team-a" is spent',
            "type": "billing_error",
            "code": "budget_exceeded",
            "scope": "api_key",
            "scope_ref": KEY.id,
            "limit_usd": 5.0,
            "spent_usd": 5.25,
            "period": "day",
            "period_resets_at": "2025-10-10T00:00:00Z",
            "retry_after_seconds": 54400,
        }
    }
    assert house.provider.requests == []
    assert house.settled("refused")
    house.time = NOW + 54400
    ask(house)
    assert len(house.provider.requests) == 1


def test_a_total_never_resets():
    house = Funded(budget(limit=1.0, period="total"))
    house.books.spend(house.known.budgets[0], 1.0, NOW)
    made = ask(house)
    assert made.header("retry-after") is None
    assert "period_resets_at" not in made.json["error"]
    assert "retry_after_seconds" not in made.json["error"]


def test_messages_are_refused_in_their_own_words():
    house = Funded(budget(limit=1.0), provider="anthropic")
    house.books.spend(house.known.budgets[0], 1.0, NOW)
    made = ask(house, "anthropic")
    assert made.json == {"type": "error", "error": {"type": "rate_limit_error", "message": 'budget "b" is spent'}}


@pytest.mark.parametrize("scope", ["api_key", "team"])
def test_whose_budget_it_is(scope):
    mine = budget(scope=scope, scope_ref=KEY.id if scope == "api_key" else KEY.team_id)
    other = budget("other", 0.1, scope=scope, scope_ref="somebody")
    house = Funded(other, mine)
    house.books.spend(other, 9.0, NOW)
    assert ask(house).response is None
    house.books.spend(mine, 9.0, NOW)
    assert ask(house).response.code == 429


def test_every_matching_budget_must_have_room():
    house = Funded(budget("wide", 100.0), budget("team", 1.0, scope="team", scope_ref=KEY.team_id))
    house.books.spend(house.known.budgets[1], 1.0, NOW)
    made = ask(house)
    assert made.json["error"]["message"] == 'budget "team" is spent'
    assert house.policy._running == {}


def test_a_call_books_what_it_cost():
    house = Funded(budget(limit=1.0))
    _, request = begun(house, "hello")
    finish(house, request, USAGE)
    assert house.books.spent(house.known.budgets[0], NOW) == pytest.approx(0.075)
    assert house.policy.spent(house.known.budgets[0]) == pytest.approx(0.075)
    assert house.policy._running == {}
    house.settled("complete")


def test_running_calls_count():
    house = Funded(budget(limit=1.0))
    begun(house, "x" * 400)
    house.clock.advance(0.1)
    assert house.policy.spent(house.known.budgets[0]) == pytest.approx(1.001)
    assert ask(house).response.code == 429
    assert house.books.spent(house.known.budgets[0], NOW) == 0.0


def test_the_prompt_of_a_running_call_counts_at_once():
    house = Funded(budget(limit=0.1))
    ask(house, messages=[{"role": "user", "content": "x" * 400}])
    assert ask(house).response.code == 429
    assert len(house.provider.requests) == 1


def test_a_call_that_failed_gives_its_estimate_back():
    house = Funded(budget(limit=0.1))
    ask(house, messages=[{"role": "user", "content": "x" * 400}])
    request = house.provider.requests[0]
    request.setResponseCode(400)
    house.end(request)
    assert house.policy.spent(house.known.budgets[0]) == 0.0
    assert ask(house).response is None


def test_a_free_model_costs_nothing():
    house = Funded(budget(limit=0.001, on_exhausted="stop"), cost=None)
    _, request = begun(house, "x" * 4000)
    finish(house, request, USAGE)
    assert house.policy.spent(house.known.budgets[0]) == 0.0
    house.settled("complete")


def test_the_report():
    house = Funded(budget(limit=2.0), budget("all", 3.0, period="total", scope="team", scope_ref="x"))
    house.books.spend(house.known.budgets[0], 0.5, NOW)
    assert house.policy.report(house.known.budgets) == [
        {"name": "b", "spent_usd": 0.5, "limit_usd": 2.0, "period_resets_at": "2025-11-01T00:00:00Z"},
        {"name": "all", "spent_usd": 0.0, "limit_usd": 3.0, "period_resets_at": None},
    ]


# Running streams that are ended


def ended(house, made):
    house.flush()
    exchange = house.settled("blocked")
    assert exchange.problem.code == "budget_exceeded"
    assert len(house.provider.gone) == 1
    assert house.policy._running == {}
    return exchange


def test_a_stream_is_ended_at_the_frame_at_which_the_budget_is_spent():
    house = Funded(budget(limit=0.5, on_exhausted="stop"))
    made, request = begun(house)
    for _ in range(8):
        house.write(request, sse(say("x" * 40)))
    ended(house, made)
    data = made.got.data
    assert data.count(b"xxxx" * 10) == 5, "0.1 cent for the question, 10 cents for each frame"
    assert made.frames[-1] == "error"
    error = json.loads(data.strip().split(b"\n")[-1][6:])["error"]
    assert {name: value for name, value in error.items() if value is not None} == {
        "message": 'budget "b" is spent',
        "type": "billing_error",
        "code": "budget_exceeded",
        "usage": {"prompt_tokens": 1, "completion_tokens": 50, "total_tokens": 51, "estimated": True},
    }
    assert house.books.spent(house.known.budgets[0], NOW) == pytest.approx(0.501)


def test_refuse_alone_lets_running_streams_end():
    house = Funded(budget(limit=0.1))
    made, request = begun(house, "x" * 400)
    finish(house, request)
    house.settled("complete")
    assert made.frames[-1] == "[DONE]"


def test_messages_are_ended():
    house = Funded(budget(limit=0.02, on_exhausted="stop"), provider="anthropic")
    made, _ = begun_at(house, events(START, *TEXT), "anthropic")
    ended(house, made)
    anthropic_grammar.check(made.got.data, whole=False)
    name, event = anthropic_grammar.events_of(made.got.data)[-1]
    assert name == "error"
    assert event == {
        "type": "error",
        "error": {"type": "billing_error", "message": 'budget "b" is spent'},
        "usage": {"input_tokens": 9, "cache_read_input_tokens": 3, "output_tokens": 2, "estimated": True},
    }


@pytest.mark.parametrize("road", ["native", "translated"])
def test_responses_are_ended(road):
    native = road == "native"
    house = Funded(budget(limit=0.01, on_exhausted="stop"), provider="openai" if native else "deepseek")
    data = numbered(*BEGUN, *SAID) if native else sse(ROLE, say("Hello wo"))
    made, _ = begun_at(house, data, "openai_responses")
    ended(house, made)
    found = [json.loads(line[6:]) for line in made.got.data.decode().split("\n") if line.startswith("data: ")]
    error = found[-1]
    assert (error["type"], error["code"], error["message"]) == ("error", "budget_exceeded", 'budget "b" is spent')
    assert (error["usage"]["output_tokens"], error["usage"]["estimated"]) == (2, True)
    assert [one["sequence_number"] for one in found] == list(range(len(found)))


def test_the_others_of_the_budget_are_ended_too():
    house = Funded(budget(limit=0.5, on_exhausted="stop"))
    first, request = begun(house, "a" * 40)
    second, _ = begun(house, "b" * 40)
    house.write(request, sse(say("a" * 200)))
    house.flush()
    assert [made.frames[-1] for made in (first, second)] == ["error", "error"]
    assert [line for line in house.ledger.log if line != "opened"] == ["blocked", "blocked"]
    assert len(house.provider.gone) == 2


def test_a_drain_is_ended_too():
    house = Funded(budget(limit=0.5, on_exhausted="stop"), on_disconnect="drain")
    made, request = begun(house, "a" * 40)
    made.got.transport.stopProducing()
    house.flush()
    house.write(request, sse(say("a" * 40)))
    assert house.provider.gone == []
    for _ in range(4):
        house.write(request, sse(say("a" * 40)))
    house.flush()
    house.settled("abandoned")
    assert len(house.provider.gone) == 1


def test_an_answer_that_is_whole_is_not_ended():
    house = Funded(budget(limit=0.01, on_exhausted="stop"))
    made, request = begun_at(house, sse(ROLE, say("x" * 400), STOP, b"[DONE]"))
    house.end(request)
    house.settled("complete")
    assert made.frames[-1] == "[DONE]"
    made = house.ask(stream=False)
    assert made.response.code == 429


def test_a_whole_answer_is_not_ended():
    house = Funded(budget(limit=0.001, on_exhausted="stop"))
    made = house.ask()
    request = house.provider.requests[0]
    request.setHeader("content-type", "application/json")
    request.write(dumps(WHOLE))
    house.end(request)
    assert made.json["usage"] == WHOLE["usage"]
    house.settled("complete")


def test_a_stopped_stream_gives_its_money_back():
    house = Funded(budget(limit=50.0, on_exhausted="stop"))
    begun(house, "x" * 40)
    stop_stream(house)
    house.flush()
    house.settled("stopped")
    assert house.policy.spent(house.known.budgets[0]) == pytest.approx(0.101)


# Trial keys


def trial(calls, **more):
    return Funded(key=attrs.evolve(KEY, max_calls=calls), **more)


def test_a_trial_key():
    house = trial(2)
    for _ in range(2):
        _, request = begun(house, "a")
        finish(house, request)
    made = ask(house)
    assert (made.response.code, made.header("retry-after")) == (429, None)
    assert made.json["error"] == {
        "message": "all 2 calls of this key are used",
        "type": "billing_error",
        "code": "call_quota_exceeded",
    }
    assert len(house.provider.requests) == 2
    assert house.policy._pending == {}


def test_running_calls_of_a_trial_key_are_not_given_twice():
    house = trial(1)
    ask(house)
    assert ask(house).response.code == 429
    assert len(house.provider.requests) == 1


def test_refused_and_failed_calls_are_not_counted():
    house = trial(1)
    house.ask(messages=[])
    house.ask(model="other")
    ask(house)
    request = house.provider.requests[0]
    request.setResponseCode(400)
    house.end(request)
    assert house.books.calls(KEY.id) == 0
    made = ask(house)
    made.deferred.cancel()
    house.flush()
    assert house.books.calls(KEY.id) == 0, "nothing was answered"
    made, request = begun(house, "a")
    made.got.transport.stopProducing()
    house.flush()
    assert house.books.calls(KEY.id) == 1
    assert ask(house).response.code == 429


def test_no_calls_at_all():
    assert ask(trial(0)).json["error"]["message"] == "all 0 calls of this key are used"


# The cost in the answer


def asking(**shelf):
    return Funded(key=attrs.evolve(KEY, include_cost=True), **shelf)


def test_the_cost_of_a_whole_answer():
    house = asking()
    made = house.ask()
    request = house.provider.requests[0]
    request.setHeader("content-type", "application/json")
    request.write(dumps({**WHOLE, "usage": {**WHOLE["usage"], "cost": 99}, "big": 12345678901234567890}))
    house.end(request)
    assert made.json["usage"] == {**WHOLE["usage"], "cost": 0.013}
    assert made.json["big"] == 12345678901234567890
    house.settled("complete")


def test_the_cost_of_a_stream():
    house = asking()
    made, request = begun(house, "a", stream_options={"include_usage": True})
    finish(house, request, USAGE)
    assert made.frames[-2]["usage"] == {**USAGE, "cost": 0.075}
    assert b"cost" not in made.got.data.split(b'"usage":{')[0]


def test_the_cost_of_messages():
    house = asking(provider="anthropic")
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}}
    stop = {"type": "content_block_stop", "index": 0}
    made, request = begun_at(house, events(START, *TEXT, stop, end, {"type": "message_stop"}), "anthropic")
    house.end(request)
    anthropic_grammar.check(made.got.data)
    found = dict(anthropic_grammar.events_of(made.got.data))
    assert found["message_delta"]["usage"] == {"output_tokens": 7, "cost": 0.082}
    assert "cost" not in found["message_start"]["message"]["usage"]


@pytest.mark.parametrize("provider", ["openai", "deepseek"])
def test_the_cost_of_responses(provider):
    house = asking(provider=provider)
    usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
    done = {"type": "response.completed", "response": {**BEGUN[0]["response"], "status": "completed", "usage": usage}}
    native = numbered(*BEGUN, *SAID, done)
    data = native if provider == "openai" else sse(ROLE, say("a"), STOP, chunk(usage=USAGE), b"[DONE]")
    made, request = begun_at(house, data, "openai_responses")
    house.end(request)
    last = json.loads(made.got.data.decode().strip().split("\n")[-1][6:])
    assert last["response"]["usage"]["cost"] == 0.075
    assert last["type"] == "response.completed"


def test_a_stopped_stream_shows_its_cost():
    house = asking()
    made, _ = begun(house, "x" * 40)
    stop_stream(house)
    house.flush()
    assert made.frames[-2]["usage"] == {
        "prompt_tokens": 1,
        "completion_tokens": 10,
        "total_tokens": 11,
        "estimated": True,
        "cost": 0.101,
    }


@pytest.mark.parametrize(("shelf", "key"), [({"cost": None}, {"include_cost": True}), ({}, {})])
def test_no_cost_without_prices_or_without_asking(shelf, key):
    house = Funded(key=attrs.evolve(KEY, **key), **shelf)
    made = house.ask()
    request = house.provider.requests[0]
    request.setHeader("content-type", "application/json")
    request.write(dumps({**WHOLE, "usage": {**WHOLE["usage"], "cost": 99}}))
    house.end(request)
    assert made.json["usage"] == {**WHOLE["usage"], "cost": 99}, "the provider's own stays"


@pytest.mark.parametrize(("value", "gets"), [("true", True), ("True", True), ("1", False), ("false", False)])
def test_the_header(value, gets):
    made = IncludeCost().admit(exchange(headers=Headers({"x-aisix-include-cost": value})))
    assert (made is not None) is gets
