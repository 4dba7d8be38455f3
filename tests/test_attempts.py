"""The attempts of a call: {fault} x {strategy} x {stream, not} x {dialect}, with every contact and what the caller got.

`policy.md` 8 and 10, `streaming.md` 4, 11 and 12.
"""

import json

import pytest
from twisted.internet.defer import Deferred
from twisted.web.client import ResponseDone

from twisted_gateway.config.money import Cost
from twisted_gateway.config.routes import Cooldown, HashSource, RetryBudget, ThroughputFloor
from twisted_gateway.errors import Problem, shutting_down
from twisted_gateway.ring import Ring
from twisted_gateway.wire.sse import Reader

from .exchanges import group, model, provider_key
from .fleet import (
    DIALECTS,
    LOST,
    NO_CONNECT,
    REFUSED,
    SILENT,
    STALL,
    Fault,
    Fleet,
    Limits,
    body,
    error_of,
    in_band,
    status,
    target,
)
from .test_every_road import SAID
from .test_gateway import MESSAGES, sse

NO_BODY = body("no body", b"")
WORDS = body("not an answer", b"<html>maintenance</html>")
HALF = body("half a body", b'{"choices":', only="whole")
COMMENTS = body("comments, then silence", b": hold on\n\n", end=False, late=SILENT, only="stream")
SLOW = body("half a body, then silence", b'{"id":', end=False, late=SILENT, only="whole")
BAD_FRAME = body("a frame that is no JSON", b"data: {\n\n", only="stream")

MOVES_ON = [REFUSED, NO_CONNECT, LOST, STALL, NO_BODY, WORDS, HALF, COMMENTS, SLOW, BAD_FRAME]
MOVES_ON += [status(500), status(503, b"", retry_after="1"), status(301, location="http://elsewhere/")]
MOVES_ON += [in_band(), in_band(500), in_band(503)]
STAYS = [(status(400), 400), (status(401), 401), (status(404), 404), (status(429), 429), (in_band(429), 429)]
STAYS += [(in_band(400), 400)]

STRATEGIES = {
    "failover": ["a", "b", "c"],
    "round_robin": ["b", "c", "a"],
    "consistent_hash": None,
    "least_cost": ["b", "c", "a"],
    "least_latency": ["c", "b", "a"],
    "least_busy": ["b", "a", "c"],
}
KEY = "somebody"
each_dialect = pytest.mark.parametrize("dialect", DIALECTS)
each_mode = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
each_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def fleet_of(strategy, dialect, faults, **more):
    """A fleet that tries its targets in a known order, and that order."""
    prices = {"a": Cost(3, 3), "b": Cost(1, 1), "c": Cost(2, 2)}
    shelf = [target(name, dialect, cost=prices[name]) for name in "abc"]
    targets = ["a", {"model": "b", "weight": 3}, "c"]
    fleet = Fleet(dialect, group("gpt", *targets, strategy=strategy), faults, shelf, **more)
    for name, seconds in (("a", 0.3), ("b", 0.2)):
        fleet.gateway.health.succeeded(next(one for one in shelf if one.display_name == name), seconds)
    order = STRATEGIES[strategy]
    if order is None:
        order = ["abc"[at] for at in Ring((("a", 1), ("b", 3), ("c", 1))).preference(KEY)]
    return fleet, order


def sensible(fault, stream):
    if fault.only is not None and (fault.only == "stream") is not stream:
        pytest.skip("makes sense in the other mode only")


@pytest.mark.parametrize("fault", MOVES_ON, ids=str)
@each_strategy
@each_mode
@each_dialect
def test_what_another_target_may_repair(dialect, stream, strategy, fault):
    sensible(fault, stream)
    fleet, (first, second, _) = fleet_of(strategy, dialect, [fault])
    ask = fleet.call(stream, {"x-aisix-routing-key": KEY})
    if fault.late:
        assert ask.response is None
        fleet.settle()
    assert fleet.contacts == [first, second]
    fleet.good(ask)
    assert ask.header("x-aisix-served-by") == (second if dialect == "chat" else None)
    assert [one[:2] for one in fleet.kinds] == [("initial", first), ("fallback", second)]
    assert fleet.gateway.health.cooling(f"m-{first}") is (fault.name != "status 301")
    assert not fleet.gateway.health.cooling(f"m-{second}")
    assert fleet.limits.taken == [second], "what was reserved for the first was given back"
    fleet.settled("complete")
    fleet.idle()


@pytest.mark.parametrize(("fault", "told"), STAYS, ids=str)
@each_strategy
@each_mode
@each_dialect
def test_what_no_other_target_is_asked_for(dialect, stream, strategy, fault, told):
    fleet, (first, *_) = fleet_of(strategy, dialect, [fault])
    ask = fleet.call(stream, {"x-aisix-routing-key": KEY})
    assert fleet.contacts == [first]
    assert error_of(ask) == (told, "no")
    assert ask.header("x-aisix-served-by") is None
    assert fleet.gateway.health.cooling(f"m-{first}") is (told in (401, 429))
    fleet.settled("failed")
    fleet.idle()


@pytest.mark.parametrize("fault", MOVES_ON, ids=str)
@each_mode
@each_dialect
def test_when_all_fail_the_last_error_is_told(dialect, stream, fault):
    sensible(fault, stream)
    fleet = Fleet(dialect, group("gpt", "a", "b"), [status(503), fault], retries=0)
    ask = fleet.call(stream)
    if fault.late:
        fleet.settle()
    assert fleet.contacts == ["a", "b"]
    assert ask.response.code == (504 if fault in (STALL, NO_CONNECT, COMMENTS, SLOW) else 502)
    fleet.settled("failed")
    fleet.idle()


# Cut after event k


CUTS = [(dialect, k) for dialect, name in DIALECTS.items() for k in range(1, len(SAID[name]) - 1)]


@pytest.mark.parametrize(("dialect", "k"), CUTS)
@each_strategy
@pytest.mark.parametrize("how", ["end", "silence", "error"])
def test_after_the_first_data_frame_no_other_target_is_asked(dialect, k, strategy, how):
    fleet, (first, *_) = fleet_of(strategy, dialect, [])
    fleet.answering = False
    ask = fleet.call(True, {"x-aisix-routing-key": KEY})
    request = fleet.provider.requests[0]
    request.setHeader("content-type", "text/event-stream")
    frames = SAID[DIALECTS[dialect]]
    fleet.write(request, b"".join(frames[:k]))
    if b'finish_reason":"stop' in b"".join(frames[:k]) or b"message_delta" in b"".join(frames[:k]):
        pytest.skip("the answer is whole by then")
    if how == "end":
        fleet.end(request)
    elif how == "silence":
        fleet.settle()
    else:
        error = {"type": "error", "error": {"type": "api_error", "message": "no"}}
        fleet.write(request, b"event: error\n" + sse(error))
        if dialect == "responses":
            fleet.end(request)
    assert fleet.contacts == [first], "the others saw nothing"
    assert ask.response.code == 200
    assert ask.got.reason.check(ResponseDone)
    last = Reader().received(ask.got.data)[-1]
    assert last.event == b"error"
    for success in (b"[DONE]", b"message_stop", b"response.completed"):
        assert success not in ask.got.data
    fleet.settled("stalled" if how == "silence" else "truncated")
    fleet.idle()


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


# Deadlines and the heartbeat's promise


def test_a_groups_own_deadlines():
    fleet = Fleet("chat", group("gpt", "a", "b", first_event_timeout=500), [STALL])
    ask = fleet.call(True)
    fleet.advance(0.75)
    fleet.good(ask)
    assert fleet.kinds[0] == ("initial", "a", "first_event_timeout")


def test_heartbeats_alone_do_not_bind():
    late = body("comments", b": wait\n\n", end=False)
    fleet = Fleet("chat", group("gpt", "a", "b"), [late], heartbeat=1.0)
    ask = fleet.call(True)
    fleet.advance(1.25)
    assert ask.response.code == 200
    assert ask.got.data == b":\n\n"
    fleet.settle()
    fleet.good(ask)
    assert fleet.contacts == ["a", "b"]
    assert ask.header("x-aisix-served-by") is None, "it would have been a guess"
    assert fleet.exchange.attempt.target.model.display_name == "b"


def test_when_all_fail_behind_a_heartbeat_the_error_is_a_frame():
    late = body("comments", b": wait\n\n", end=False)
    fleet = Fleet("chat", group("gpt", "a", "b"), [late, status(500)], heartbeat=1.0, retries=0)
    ask = fleet.call(True)
    fleet.settle()
    (frame,) = Reader().received(ask.got.data)
    assert (frame.event, json.loads(frame.data)["error"]["type"]) == (b"error", "upstream_error")
    assert b"[DONE]" not in ask.got.data
    fleet.settled("failed")


def test_the_promise_of_a_failed_attempt_is_taken_back():
    late = body("comments, then the end", b": wait\n\n", end=False)
    fleet = Fleet("chat", group("gpt", "a", "b"), [late, STALL], heartbeat=1.5, timeout_ms=60_000)
    ask = fleet.call(True)
    fleet.advance(1)
    fleet.end(fleet.provider.requests[0])
    assert fleet.contacts == ["a", "b"]
    fleet.advance(3)
    assert ask.response is None, "the second provider has not even sent a head: an error may still have its status"
    fleet.provider.requests[1].setResponseCode(400)
    fleet.provider.requests[1].write(b'{"error":{"message":"no"}}')
    fleet.end(fleet.provider.requests[1])
    assert error_of(ask) == (400, "no")


# The caller leaves


def leaving(fleet, ask, contacts):
    ask.deferred.cancel()
    fleet.flush()
    fleet.advance(40)
    assert fleet.contacts == contacts
    exchange = fleet.settled("abandoned")
    assert exchange.status == 499
    assert not fleet.gateway.health.cooling("m-b")
    assert fleet.limits.taken == []
    fleet.idle()


@each_mode
def test_a_caller_who_leaves_in_the_first_attempt(stream):
    fleet = Fleet("chat", group("gpt", "a", "b"), [STALL])
    leaving(fleet, fleet.call(stream), ["a"])
    assert not fleet.gateway.health.cooling("m-a"), "an abort is no failure of the provider's"


@each_mode
def test_a_caller_who_leaves_in_the_second_attempt(stream):
    fleet = Fleet("chat", group("gpt", "a", "b", "c"), [status(500), STALL])
    leaving(fleet, fleet.call(stream), ["a", "b"])


@each_mode
def test_a_caller_who_leaves_while_we_wait_for_a_retry(stream):
    fleet = Fleet("chat", group("gpt", "a", "b", retries=3), [status(500)] * 9)
    leaving(fleet, fleet.call(stream), ["a"])


def test_a_caller_who_leaves_while_a_policy_thinks():
    thinking = Deferred()

    class Slow(Limits):
        def allow(self, target):
            super().allow(target)
            self.taken.clear()
            return thinking

    fleet = Fleet("chat", group("gpt", "a", "b"), limits=Slow())
    leaving(fleet, fleet.call(), [])


def test_the_end_of_the_process_ends_backoffs():
    fleet = Fleet("chat", group("gpt", "a", retries=3), [status(500)] * 9)
    ask = fleet.call()
    fleet.gateway.end_all(shutting_down())
    fleet.flush()
    assert error_of(ask)[0] == 503
    fleet.settled("broken")
    fleet.idle()


# The throughput floor


FLOOR = ThroughputFloor(10.0, 2.0)


def floored(**more):
    fleet = Fleet("chat", group("gpt", "a", "b", throughput_floor=FLOOR), **{"timeout_ms": 60_000} | more)
    fleet.answering = False
    ask = fleet.call(True)
    request = fleet.provider.requests[0]
    request.setHeader("content-type", "text/event-stream")
    fleet.write(request, SAID["openai_chat"][0])
    return fleet, ask, request


def text(size):
    return sse({"id": "c", "choices": [{"index": 0, "delta": {"content": "x" * size}, "finish_reason": None}]})


def test_a_stream_that_becomes_too_slow():
    fleet, ask, request = floored()
    for _ in range(8):
        fleet.write(request, text(90))
        fleet.advance(1)
    assert ask.got.reason is None
    fleet.write(request, text(10))
    fleet.advance(2.25)
    error = json.loads(Reader().received(ask.got.data)[-1].data)["error"]
    assert (error["type"], error["message"]) == ("timeout", "upstream slower than 10 tokens/s over 2 s")
    assert fleet.contacts == ["a"]
    fleet.settled("stalled")
    assert fleet.exchange.attempt.ended_by == "throughput_floor"


def test_a_stream_that_is_whole_is_not_too_slow():
    fleet, ask, request = floored()
    fleet.write(request, b"".join(SAID["openai_chat"][1:3]))
    fleet.advance(0.75)
    assert ask.got.reason is None
    fleet.end(request)
    fleet.settled("complete")


def test_a_targets_own_floor_wins():
    own = [target("a", throughput_floor=ThroughputFloor(0.001, 60.0)), target("b")]
    fleet, ask, _ = floored(shelf=own)
    fleet.advance(5)
    assert ask.got.reason is None


def test_server_timing_and_its_absence():
    fleet = Fleet("chat", group("gpt", "a", "b"))
    fleet.gateway.timing = True
    assert fleet.call().header("server-timing") == ("queue;dur=0.0, connect;dur=0.0, upstream;dur=0.0, own;dur=0.0")
    assert Fleet("chat", group("gpt", "a")).call().header("server-timing") is None


def test_a_name_that_is_no_header_value_is_not_told():
    fleet = Fleet("chat", group("gpt", "ä"), shelf=[target("a"), model("ä", provider_key=target("a").provider_key)])
    ask = fleet.call()
    assert ask.response.code == 200
    assert ask.header("x-aisix-served-by") is None


def test_the_order_of_attempts_is_fixed_when_the_call_begins():
    made = group("gpt", "a", "b", strategy="consistent_hash", hash_on=(HashSource("client_ip"),))
    fleet = Fleet("chat", made, [status(500)])
    fleet.good(fleet.call())
    assert sorted(fleet.contacts) == ["a", "b"]


def test_a_fault_says_its_name():
    assert str(Fault("x")) == "x"
