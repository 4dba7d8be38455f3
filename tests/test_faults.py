"""The attempts of a call: {fault} x {strategy} x {stream, not} x {dialect}, with every contact and what the caller got.

`policy.md` 8 and 10, `streaming.md` 4, 11 and 12.
"""

import pytest
from twisted.web.client import ResponseDone

from twisted_gateway.config.money import Cost
from twisted_gateway.ring import Ring
from twisted_gateway.wire.sse import Reader

from .exchanges import group
from .fleet import (
    DIALECTS,
    LOST,
    NO_CONNECT,
    REFUSED,
    SILENT,
    STALL,
    Fleet,
    body,
    each_dialect,
    each_mode,
    error_of,
    in_band,
    status,
    target,
)
from .test_every_road import SAID
from .test_gateway import sse

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


each_repairable = pytest.mark.parametrize(
    ("fault", "stream"),
    [
        pytest.param(fault, mode == "stream", id=f"{fault}-{mode}")
        for fault in MOVES_ON
        for mode in ("stream", "whole")
        if fault.only in (None, mode)
    ],
)


@each_repairable
@each_strategy
@each_dialect
def test_what_another_target_may_repair(dialect, stream, strategy, fault):
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


@each_repairable
@each_dialect
def test_when_all_fail_the_last_error_is_told(dialect, stream, fault):
    fleet = Fleet(dialect, group("gpt", "a", "b"), [status(503), fault], retries=0)
    ask = fleet.call(stream)
    if fault.late:
        fleet.settle()
    assert fleet.contacts == ["a", "b"]
    assert ask.response.code == (504 if fault in (STALL, NO_CONNECT, COMMENTS, SLOW) else 502)
    fleet.settled("failed")
    fleet.idle()


# Cut after event k


WHOLE_AT = {"chat": 3, "messages": 6, "responses": 4}
"""With how many of its events a dialect's answer is whole."""
CUTS = [(dialect, k) for dialect, end in WHOLE_AT.items() for k in range(1, end)]


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
