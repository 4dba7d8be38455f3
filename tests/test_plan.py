"""The attempt list of a group: tags, addresses, tiers, strategies, truncation, availability (`policy.md` 7)."""

import pytest

from twisted_gateway.addresses import parse_network
from twisted_gateway.config.money import Cost
from twisted_gateway.config.resources import Group
from twisted_gateway.config.routes import BackgroundCheck, HashSource
from twisted_gateway.config.snapshot import Resolution
from twisted_gateway.errors import AttemptFailed, Refused, timed_out
from twisted_gateway.exchange import Endpoint
from twisted_gateway.health import Health
from twisted_gateway.ring import Ring
from twisted_gateway.routing import hash_key, plan

from .exchanges import Headers, call, caller, exchange, group, model, snapshot

CHECK = BackgroundCheck(True, 5, 1, "ping", 1, 60)


class Watched:
    """A clock that tests move, and the health by it."""

    def __init__(self):
        self.now = 0.0
        self.health = Health(lambda: self.now)

    def cool(self, served):
        self.health.failed(served, AttemptFailed(timed_out("x", 1), retryable=True), True)


@pytest.fixture
def watched():
    return Watched()


def asked(made, models, *, headers=(), **more):
    """A call of a group."""
    return exchange(
        snapshot=snapshot(made, *models),
        resolution=Resolution(made, "", wildcard=False),
        headers=Headers(headers),
        **more,
    )


def names(made, models, watched=None, **more):
    standing = (watched or Watched()).health
    return [target.model.display_name for target in plan(asked(made, models, **more), standing)]


ABC = [model(name) for name in "abc"]


def test_failover_is_as_written():
    made = group("g", "c", "a", "b")
    assert names(made, ABC) == ["c", "a", "b"]
    assert [one.upstream_model for one in plan(asked(made, ABC), Watched().health)] == ["gpt-4o"] * 3


def test_priorities_come_first_higher_before_lower():
    made = group("g", {"model": "a", "priority": -1}, "b", {"model": "c", "priority": 5})
    assert names(made, ABC) == ["c", "b", "a"]


@pytest.mark.parametrize(("most", "kept"), [(None, 3), (0, 1), (1, 2), (9, 3)])
def test_truncation(most, kept):
    assert names(group("g", "a", "b", "c", max_fallbacks=most), ABC) == ["a", "b", "c"][:kept]


TAGGED = ({"model": "a", "tags": ("eu", "fast")}, {"model": "b", "tags": ("default",)}, "c")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, ["b"]),
        ("", ["b"]),
        (" , ,", ["b"]),
        ("eu", ["a"]),
        (" fast , nowhere", ["a"]),
        ("nowhere", ["b"]),
        ("default", ["b"]),
        ("EU", ["b"]),
    ],
)
def test_tags(header, found):
    headers = {} if header is None else {"x-aisix-routing-tags": header}
    assert names(group("g", *TAGGED), ABC, headers=headers) == found


def test_tags_without_a_default():
    made = group("g", {"model": "a", "tags": ("eu",)}, "b")
    assert names(made, ABC) == ["a", "b"]
    with pytest.raises(Refused) as refused:
        names(made, ABC, headers={"x-aisix-routing-tags": "us, asia"})
    problem = refused.value.problem
    assert (problem.status, problem.message) == (
        400,
        "request payload is invalid: no routing target matches request tags [us, asia]",
    )
    assert names(group("g", "a", "b"), ABC, headers={"x-aisix-routing-tags": "us"}) == ["a", "b"], "nobody has tags"


def test_addresses():
    inside = model("a", allowed_cidrs=(parse_network("10.0.0.0/8", bare=False),))
    made = group("g", "a", "b")
    assert names(made, [inside, model("b")], peer="10.1.1.1") == ["a", "b"]
    assert names(made, [inside, model("b")], peer="192.0.2.1") == ["b"]
    with pytest.raises(Refused) as refused:
        names(group("g", "a"), [inside], peer="192.0.2.1")
    assert (refused.value.problem.status, refused.value.problem.code) == (403, "ip_restricted")


def test_targets_that_do_not_stream_are_left_out_of_streams():
    whole = model("a", streaming=False)
    made = group("g", "a", "b")
    assert names(made, [whole, model("b")]) == ["b"]
    assert names(made, [whole, model("b")], call=call(stream=False)) == ["a", "b"]
    with pytest.raises(Refused) as refused:
        names(group("g", "a"), [whole], call=call(model="g"))
    assert refused.value.problem.message == "request payload is invalid: model `g` does not support streaming"


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (group("g", "nobody"), 'model "g" references unknown routing target "nobody"'),
        (group("g", "g"), 'model "g" has no provider (routing models can\'t be dispatched directly)'),
    ],
)
def test_targets_that_lead_nowhere(made, text):
    with pytest.raises(Refused) as refused:
        names(made, ABC)
    assert (refused.value.problem.status, refused.value.problem.message) == (400, f"request payload is invalid: {text}")


def test_a_group_where_only_a_direct_model_will_do():
    with pytest.raises(Refused) as refused:
        names(group("g", "a"), ABC, endpoint=Endpoint("/v1/completions", "openai_completions"))
    assert refused.value.problem.status == 400
    assert "has no provider (routing models can't be dispatched directly)" in refused.value.problem.message


# Strategies


def test_round_robin_walks_on_from_the_pick(watched):
    made = group("g", "a", {"model": "b", "weight": 2}, "c", strategy="round_robin")
    assert [names(made, ABC, watched) for _ in range(4)] == [
        ["b", "c", "a"],
        ["a", "b", "c"],
        ["c", "a", "b"],
        ["b", "c", "a"],
    ]


def test_round_robin_in_each_tier(watched):
    low = {"model": "c", "priority": -1}
    made = group("g", "a", "b", low, {"model": "d", "priority": -1}, strategy="round_robin")
    shelf = [*ABC, model("d")]
    assert [names(made, shelf, watched) for _ in range(2)] == [["a", "b", "c", "d"], ["b", "a", "d", "c"]]


def test_consistent_hash_follows_the_ring(watched):
    made = group("g", "a", "b", {"model": "c", "weight": 4}, strategy="consistent_hash")
    ring = Ring((("a", 1), ("b", 1), ("c", 4)))
    for key in ("alice", "bob", "carol", "dave"):
        found = names(made, ABC, watched, headers={"x-aisix-routing-key": key})
        assert found == ["abc"[at] for at in ring.preference(key)]


SOURCES = (
    HashSource("header", "X-User"),
    HashSource("cookie", "sid"),
    HashSource("header"),
    HashSource("api_key"),
    HashSource("client_ip"),
)


@pytest.mark.parametrize(
    ("headers", "more", "key"),
    [
        ({"x-user": " u7 ", "cookie": "sid=1"}, {}, "u7"),
        ({"x-user": "  ", "cookie": 'a=b; sid="raw=1" ; sid=2'}, {}, '"raw=1"'),
        ({"cookie": "sidx=1; sid"}, {}, "ck-1"),
        ({}, {}, "ck-1"),
        ({}, {"caller": None}, "192.0.2.7"),
        ({}, {"caller": None, "peer": ""}, ""),
    ],
)
def test_hash_keys(headers, more, key):
    lower = tuple(HashSource(one.type, one.name and one.name.lower()) for one in SOURCES)
    assert hash_key(exchange(headers=Headers(headers), **{"caller": caller()} | more), lower) == key


def test_least_cost():
    shelf = [
        model("a"),
        model("b", cost=Cost(0.002, 0.002)),
        model("c", cost=Cost(0.001, 0.002)),
        model("d"),
        model("e", cost=Cost(0.002, 0.001)),
    ]
    assert names(group("g", *"abcde", strategy="least_cost"), shelf) == ["c", "e", "b", "a", "d"]


def test_least_latency(watched):
    made = group("g", "a", "b", "c", strategy="least_latency")
    for served, seconds in ((ABC[0], 0.3), (ABC[1], 0.1)):
        watched.health.succeeded(served, seconds)
    assert names(made, ABC, watched) == ["c", "b", "a"], "whoever has no sample comes first"
    watched.health.succeeded(ABC[2], 0.2)
    watched.health.succeeded(ABC[1], 1.1)
    assert watched.health.latency(ABC[1].id) == pytest.approx(0.3 * 1100 + 0.7 * 100)
    assert names(made, ABC, watched) == ["c", "a", "b"]


def test_least_busy(watched):
    made = group("g", "a", {"model": "b", "weight": 4}, {"model": "c", "weight": 0}, strategy="least_busy")
    assert names(made, ABC, watched) == ["b", "a", "c"]
    for _ in range(4):
        watched.health.began(ABC[1])
    assert names(made, ABC, watched) == ["a", "c", "b"]
    watched.health.ended(ABC[1])
    assert names(made, ABC, watched) == ["a", "b", "c"], "a tie is as written"


# Availability


def test_who_is_cooling_down_is_left_out(watched):
    watched.cool(ABC[0])
    made = group("g", "a", "b", "c", max_fallbacks=1)
    assert names(made, ABC, watched) == ["b"], "after the list was cut"
    watched.now = 30.0
    assert names(made, ABC, watched) == ["a", "b"]


def test_when_all_are_cooling_down_they_are_asked_anyway(watched):
    for one in ABC:
        watched.cool(one)
    assert names(group("g", "a", "b"), ABC, watched) == ["a", "b"]


def sick(watched):
    shelf = [model(name, background_model_check=CHECK) for name in "ab"]
    for one in shelf:
        watched.health.checked(one, 500, False)
    return shelf


def test_when_all_are_unhealthy(watched):
    shelf = sick(watched)
    with pytest.raises(Refused) as refused:
        names(group("g", "a", "b"), shelf, watched)
    problem = refused.value.problem
    assert (problem.status, problem.type, problem.retry_after) == (503, "all_candidates_unavailable", 30)
    assert problem.message == "all routing candidates are unavailable"
    assert names(group("g", "a", "b", when_all_unavailable="try_anyway"), shelf, watched) == ["a", "b"]
    watched.now = 60.5
    assert names(group("g", "a", "b"), shelf, watched) == ["a", "b"], "a verdict grows old"


def test_cooling_is_better_than_unhealthy(watched):
    shelf = [*sick(watched), model("c")]
    watched.cool(shelf[2])
    assert names(group("g", "a", "b", "c"), shelf, watched) == ["c"]


def test_a_direct_model_is_asked_whatever_its_health(watched):
    served = model(background_model_check=CHECK)
    watched.health.checked(served, 500, False)
    watched.cool(served)
    assert [one.model for one in plan(exchange(resolution=Resolution(served, "up", False)), watched.health)] == [served]


def test_the_group_is_a_row_like_others():
    made = group("g", "a", allowed_cidrs=(parse_network("10.0.0.0/8", bare=False),))
    assert isinstance(made, Group)
    assert not made.admits("11.1.1.1")
