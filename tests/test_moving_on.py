"""When a call moves on and when it ends: deadlines, heartbeats, leaving callers, floors, held answers."""

import json

import pytest
from twisted.internet.defer import Deferred

from twisted_gateway.config.routes import HashSource, ThroughputFloor
from twisted_gateway.errors import shutting_down
from twisted_gateway.wire.sse import Reader

from .exchanges import group, model
from .fleet import (
    STALL,
    Fault,
    Fleet,
    Limits,
    body,
    each_mode,
    error_of,
    status,
    target,
)
from .test_every_road import SAID
from .test_gates import gated
from .test_gates import say as saying
from .test_gateway import sse

hold = saying("hold")



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


# Answers that were open and broke before a data frame was written


def held(how, **more):
    """A fleet with a policy that holds every frame, and a first answer that breaks behind it."""
    fleet = Fleet("chat", group("gpt", "a", "b", **more.pop("routing", {})), **more)
    policy = gated(fleet, late_head=True)
    fleet.answering = False
    ask = fleet.call(True)
    request = fleet.provider.requests[0]
    request.setHeader("content-type", "text/event-stream")
    fleet.write(request, hold)
    if how == "end":
        fleet.end(request)
    elif how == "error":
        fleet.write(request, sse({"error": {"message": "no"}}))
    elif how == "status":
        fleet.write(request, sse({"error": {"message": "no", "code": 403}}))
    else:
        fleet.settle()
    return fleet, ask, policy


@pytest.mark.parametrize("how", ["end", "error", "silence"])
def test_an_answer_that_breaks_while_it_is_held_is_repaired(how):
    fleet, ask, policy = held(how)
    assert fleet.contacts == ["a", "b"]
    assert fleet.gateway.health.cooling("m-a")
    assert fleet.limits.taken == ["b"]
    request = fleet.provider.requests[1]
    request.setHeader("content-type", "text/event-stream")
    fleet.write(request, b"".join(SAID["openai_chat"]))
    for gate in policy.made:
        gate.release()
    fleet.flush()
    fleet.good(ask)
    assert ask.header("x-aisix-served-by") == "b"
    assert [one[:2] for one in fleet.kinds] == [("initial", "a"), ("fallback", "b")]
    fleet.settled("complete")
    fleet.idle()


def test_an_error_with_a_status_of_the_callers_making_is_told():
    fleet, ask, _ = held("status")
    assert fleet.contacts == ["a"]
    assert error_of(ask)[0] == 403
    fleet.idle()


def test_a_held_stream_that_is_too_slow_moves_on():
    shelf = [target("a", throughput_floor=FLOOR), target("b")]
    fleet, _, _ = held("silence", shelf=shelf, timeout_ms=60_000)
    assert fleet.contacts == ["a", "b"]
    assert fleet.kinds[0] == ("initial", "a", "throughput_floor")
    assert fleet.gateway.health.report(shelf[0]).reason == "request_timeout"


def test_it_may_be_tried_again_at_the_same_target():
    fleet, _, _ = held("end", routing={"retries": 1})
    fleet.advance(1)
    assert fleet.contacts == ["a", "a"]
    assert [one[0] for one in fleet.kinds] == ["initial", "retry"]
