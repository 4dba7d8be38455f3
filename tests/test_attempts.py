"""Retries at one target, budgets, limits of targets, targets that cannot be asked (`policy.md` 8 to 11)."""

import json

import pytest

from twisted_gateway.config.routes import Cooldown, RetryBudget
from twisted_gateway.errors import Problem

from .exchanges import group, model, provider_key
from .fleet import (
    NO_CONNECT,
    REFUSED,
    STALL,
    Fleet,
    Limits,
    each_dialect,
    each_mode,
    error_of,
    in_band,
    status,
    target,
)
from .test_every_road import SAID
from .test_gates import say as saying
from .test_gateway import MESSAGES

hold = saying("hold")



# Retries at one target


def direct(faults, dialect="chat", **settings):
    return Fleet(dialect, target("gpt", dialect), faults, [target("a", dialect)], **{"retries": 2} | settings)


@each_mode
@each_dialect
def test_a_direct_model_is_asked_again(dialect, stream):
    fleet = direct([status(500), REFUSED], dialect)
    ask = fleet.call(stream)
    assert fleet.contacts == ["gpt"]
    fleet.clock.advance(0.24)
    assert fleet.contacts == ["gpt"]
    fleet.clock.advance(0.02)
    fleet.flush()
    assert fleet.contacts == ["gpt"] * 2
    fleet.clock.advance(0.49)
    assert fleet.contacts == ["gpt"] * 2
    fleet.clock.advance(0.02)
    fleet.flush()
    fleet.good(ask)
    assert [one[0] for one in fleet.kinds] == ["initial", "retry", "retry"]
    assert ask.header("x-aisix-served-by") is None
    fleet.settled("complete")
    fleet.idle()


def test_retries_come_to_an_end():
    fleet = direct([status(500)] * 9)
    ask = fleet.call()
    fleet.advance(5)
    assert fleet.contacts == ["gpt"] * 3
    assert ask.response.code == 502
    fleet.settled("failed")


@pytest.mark.parametrize("fault", [status(429), status(400), in_band(429)], ids=str)
def test_what_a_direct_model_is_not_asked_again_for(fault):
    fleet = direct([fault])
    fleet.call()
    fleet.advance(5)
    assert fleet.contacts == ["gpt"]
    fleet.settled("failed")


@pytest.mark.parametrize("fault", [STALL, NO_CONNECT], ids=str)
def test_unwritten_retries_do_not_cover_timeouts(fault):
    fleet = direct([fault] * 3)
    fleet.call()
    fleet.advance(10)
    assert fleet.contacts == ["gpt"]
    fleet.settled("failed")


def test_written_retries_do():
    shelf = [target("a", retries=1), target("b")]
    fleet = Fleet("chat", group("gpt", "a", "b"), [STALL, STALL], shelf)
    ask = fleet.call()
    fleet.advance(8)
    assert fleet.contacts == ["a", "a", "b"]
    fleet.good(ask)


def test_in_a_group_only_the_last_target_has_the_boot_files_retries():
    fleet = Fleet("chat", group("gpt", "a", "b"), [status(500)] * 9, retries=2)
    fleet.call()
    fleet.advance(5)
    assert fleet.contacts == ["a", "b", "b", "b"]
    assert [one[0] for one in fleet.kinds] == ["initial", "fallback", "retry", "retry"]


def test_the_groups_own_retries():
    fleet = Fleet("chat", group("gpt", "a", "b", retries=1), [status(500)] * 9, retries=5)
    fleet.call()
    fleet.advance(5)
    assert fleet.contacts == ["a", "a", "b", "b"]


def test_the_providers_wish_is_waited_for_when_it_is_short():
    fleet = direct([status(503, retry_after="3"), status(503, retry_after="60")], uniform=0.1)
    fleet.call()
    fleet.clock.advance(3.05)
    assert fleet.contacts == ["gpt"]
    fleet.clock.advance(0.1)
    fleet.flush()
    assert fleet.contacts == ["gpt"] * 2
    fleet.clock.advance(0.65)
    fleet.flush()
    assert fleet.contacts == ["gpt"] * 3


def test_moving_on_never_waits():
    fleet = Fleet("chat", group("gpt", "a", "b"), [status(503, retry_after="3")])
    fleet.good(fleet.call())
    assert fleet.clock.seconds() == 0.0


@pytest.mark.parametrize("fault", [status(429, retry_after="9"), in_band(429)], ids=str)
def test_a_group_may_move_on_for_429(fault):
    fleet = Fleet("chat", group("gpt", "a", "b", retry_on_429=True), [fault])
    fleet.good(fleet.call())
    assert fleet.contacts == ["a", "b"]


def test_a_429_that_is_told_keeps_its_retry_after():
    fleet = Fleet("chat", group("gpt", "a", "b"), [status(429, retry_after="9")])
    assert fleet.call().header("retry-after") == "9"


def test_other_statuses_that_move_on():
    fleet = Fleet("chat", group("gpt", "a", "b", fallback_on_statuses=(404,)), [status(404)])
    fleet.good(fleet.call())
    assert fleet.contacts == ["a", "b"]


def test_max_fallbacks():
    fleet = Fleet("chat", group("gpt", "a", "b", "c", max_fallbacks=1), [status(500)] * 3, retries=0)
    fleet.call()
    assert fleet.contacts == ["a", "b"]


def test_who_cools_down_is_not_asked_by_the_next_call():
    fleet = Fleet("chat", group("gpt", "a", "b"), [status(500)])
    for _ in range(2):
        fleet.good(fleet.call())
    assert fleet.contacts == ["a", "b", "b"]
    fleet.advance(30)
    fleet.call()
    assert fleet.contacts == ["a", "b", "b", "a"]


def test_direct_calls_cool_a_target_down_too():
    shelf = [target("a"), target("b")]
    fleet = Fleet("chat", group("gpt", "a", "b"), [status(500)], shelf)
    fleet.call(model="a")
    assert fleet.exchange.attempts[0].cooled
    fleet.good(fleet.call())
    assert fleet.contacts == ["a", "b"]


def test_a_failure_behind_the_commit_cools_nobody_down():
    fleet = Fleet("chat", group("gpt", "a", "b"))
    fleet.answering = False
    fleet.call(True)
    request = fleet.provider.requests[0]
    request.setHeader("content-type", "text/event-stream")
    fleet.write(request, SAID["openai_chat"][0])
    fleet.end(request)
    fleet.settled("truncated")
    assert not fleet.gateway.health.cooling("m-a")


# The retry budget


def test_the_retry_budget_moves_on():
    budget = RetryBudget(ratio=0.0, min_retries=1, window_secs=10.0)
    fleet = Fleet("chat", group("gpt", "a", "b", retries=3), [status(500)] * 5, retry_budget=budget)
    ask = fleet.call()
    fleet.advance(2)
    assert fleet.contacts == ["a", "a", "b", "b"]
    assert ask.response.code == 502
    assert [one.unretried for one in fleet.exchange.attempts] == [False, True, False, True]
    fleet.call()
    fleet.advance(2)
    assert fleet.contacts[4:] == ["a", "b"], "nothing is left for the next call"
    fleet.advance(11)
    fleet.call()


def test_a_total_outage_is_not_multiplied():
    """300 calls, each of which may have two retries: beyond the floor there is one retry for ten calls."""
    row = target("gpt", cooldown=Cooldown(enabled=False))
    fleet = Fleet("chat", row, [status(500)] * 2000, [target("a")], retries=2, retry_budget=RetryBudget(0.1, 5, 10.0))
    for _ in range(300):
        fleet.call()
    fleet.advance(4)
    assert all(one.ended is not None for one in fleet.ledger.exchanges)
    assert 300 < len(fleet.contacts) <= 300 + 30
    fleet.idle()


# Limits of targets


def test_a_target_over_its_limit_is_skipped_without_contact_retry_or_cooldown():
    fleet = Fleet("chat", group("gpt", "a", "b", retries=2), limits=Limits(["a"]))
    fleet.good(fleet.call())
    assert fleet.contacts == ["b"]
    assert fleet.limits.log == ["a", "b"]
    assert fleet.kinds == [("initial", "a", "rate_limit_exceeded"), ("fallback", "b", "complete")]
    assert not fleet.gateway.health.cooling("m-a")
    assert not fleet.exchange.attempts[0].contacted


LIMIT = "request limit exceeded (requests)"


@pytest.mark.parametrize(
    ("dialect", "kind", "message"),
    [
        ("chat", "upstream_error", f'routing target "b" is over its model rate limit: {LIMIT}'),
        ("messages", "rate_limit_error", LIMIT),
        ("responses", "rate_limit_exceeded", LIMIT),
    ],
)
def test_all_over_their_limits(dialect, kind, message):
    fleet = Fleet(dialect, group("gpt", "a", "b"), limits=Limits("ab"))
    ask = fleet.call()
    assert error_of(ask) == (429, message)
    assert json.loads(ask.got.data)["error"]["type"] == kind
    assert ask.header("retry-after") == "9"
    assert fleet.contacts == []
    fleet.settled("refused")
    fleet.idle()


def test_a_policys_own_limit_keeps_its_words_on_chat():
    problem = Problem(
        status=429,
        type="rate_limit_exceeded",
        message=f"{LIMIT} (policy 'p')",
        members={"policy": {"id": "1", "name": "p"}},
    )
    fleet = Fleet("chat", group("gpt", "a"), limits=Limits("a", problem))
    error = fleet.call().json["error"]
    assert (error["type"], error["message"]) == ("rate_limit_exceeded", f"{LIMIT} (policy 'p')")


def test_a_direct_model_asks_too_before_every_attempt():
    fleet = direct([status(500)])
    fleet.call()
    fleet.advance(1)
    assert fleet.limits.log == ["gpt", "gpt"]
    assert fleet.limits.taken == ["gpt"]
    fleet = Fleet("chat", target("gpt"), limits=Limits(["gpt"]))
    assert error_of(fleet.call()) == (429, LIMIT)
    fleet.settled("refused")


def test_a_refused_last_target_is_the_error_even_when_another_failed():
    fleet = Fleet("chat", group("gpt", "a", "b"), [status(500)], limits=Limits(["b"]))
    assert error_of(fleet.call())[0] == 429
    fleet.settled("failed")


# Targets that cannot be asked


def test_a_target_without_a_client_is_skipped():
    lost = model("a", provider_key=provider_key("a", provider="x"))
    fleet = Fleet("chat", group("gpt", "a", "b"), shelf=[lost, target("b")])
    fleet.good(fleet.call())
    assert fleet.contacts == ["b"]


def test_a_target_whose_settings_are_wrong_is_told():
    lost = model("a", provider_key=provider_key("a", provider="x", adapter="openai"))
    fleet = Fleet("chat", group("gpt", "a", "b"), shelf=[lost, target("b")])
    assert error_of(fleet.call()) == (400, 'request payload is invalid: provider_key "a" has no api_base configured')
    assert fleet.contacts == []


def test_counting_skips_targets_of_another_dialect():
    shelf = [target("a", "chat"), target("b", "messages")]
    fleet = Fleet("messages", group("gpt", "a", "b"), shelf=shelf)
    fleet.answering = False
    ask = fleet.ask({"model": "gpt", "messages": MESSAGES}, path=b"/v1/messages/count_tokens")
    assert fleet.contacts == ["b"]
    request = fleet.provider.requests[0]
    request.setHeader("content-type", "application/json")
    request.write(b'{"input_tokens": 5}')
    fleet.end(request)
    assert ask.json == {"input_tokens": 5}
    fleet = Fleet("messages", group("gpt", "a"), shelf=shelf)
    ask = fleet.ask({"model": "gpt", "messages": MESSAGES}, path=b"/v1/messages/count_tokens")
    assert ask.response.code == 400
    assert "not backed by an Anthropic-protocol upstream" in error_of(ask)[1]


def test_completions_serve_no_group():
    fleet = Fleet("chat", group("gpt", "a"))
    ask = fleet.ask({"model": "gpt", "prompt": "hi"}, path=b"/v1/completions")
    assert error_of(ask) == (
        400,
        'request payload is invalid: model "gpt" has no provider (routing models can\'t be dispatched directly)',
    )


def test_a_single_target_is_looked_at_before_limits_on_chat():
    fleet = Fleet("chat", model("gpt", provider_key=provider_key(provider="x")), shelf=[target("a")])
    admitted = []
    fleet.gateway.limits = (type("Seen", (), {"admit": lambda self, exchange: admitted.append(exchange)})(),)
    assert fleet.call().response.code == 503
    assert admitted == []
