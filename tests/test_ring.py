"""Rings and turns: the exact formulas of `policy.md` 7 and 7.1."""

from collections import Counter
from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_gateway.ring import Ring, fnv1a, mix, units
from twisted_gateway.turns import Turns


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"", 0xCBF29CE484222325), (b"a", 0xAF63DC4C8601EC8C), (b"foobar", 0x85944171F73967E8)],
)
def test_fnv1a_is_the_published_one(data, value):
    assert fnv1a(data) == value


def test_a_hash_may_be_continued():
    assert fnv1a(b"bar", fnv1a(b"foo")) == fnv1a(b"foobar")


def test_the_mixer_is_that_of_splitmix64():
    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # the first output of splitmix64 seeded with 0


def slow_points(tier):
    """The ring as the reference words it, without a shortcut."""
    weights = [weight or 1 for _, weight in tier]
    factor = gcd(*weights)
    weights = [weight // factor for weight in weights]
    if sum(weights) > 64:
        weights = [max(1, weight * 64 // sum(weights)) for weight in weights]
    points = []
    for index, (name, _) in enumerate(tier):
        for i in range(160 * weights[index]):
            points.append((mix(fnv1a(name.encode() + b"\x00" + i.to_bytes(4, "little"))), index))
    return sorted(points)


@pytest.mark.parametrize("tier", [(("a", 1),), (("a", 1), ("b", 3)), (("a", 0), ("ü", 2), ("c", 200))])
def test_preference_walks_clockwise(tier):
    points = slow_points(tier)
    for key in ("", "alice", "bob", "x" * 200):
        place = mix(fnv1a(key.encode()))
        after = [one for one in points if one[0] >= place] + [one for one in points if one[0] < place]
        assert Ring(tier).preference(key) == list(dict.fromkeys(owner for _, owner in after))


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ([1, 1], [1, 1]),
        ([0, 0], [1, 1]),
        ([4, 2], [2, 1]),
        ([64, 0], [63, 1]),
        ([1000, 1], [63, 1]),
        ([65, 130], [1, 2]),
    ],
)
def test_units(weights, shares):
    assert units(weights) == shares


KEYS = [f"user-{n}" for n in range(2000)]


def first_choice(names):
    made = Ring(tuple((name, 1) for name in names))
    return {key: names[made.preference(key)[0]] for key in KEYS}


def test_a_target_that_goes_moves_only_its_own_keys():
    before = first_choice(["a", "b", "c", "d"])
    after = first_choice(["a", "b", "d"])
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {before[key] for key in moved} == {"c"}
    assert len(moved) == Counter(before.values())["c"]
    assert {after[key] for key in moved} == {"a", "b", "d"}, "and spreads them over the others"


def test_a_target_that_comes_takes_keys_only_to_itself():
    before, after = first_choice(["a", "b", "c"]), first_choice(["new", "a", "b", "c"])
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} == {"new"}
    assert 0.15 < len(moved) / len(KEYS) < 0.35


def test_the_order_of_writing_does_not_matter():
    assert first_choice(["a", "b", "c"]) == first_choice(["c", "a", "b"])


def test_weights_are_kept():
    made = Ring((("a", 1), ("b", 3)))
    share = Counter(made.preference(key)[0] for key in KEYS)[1] / len(KEYS)
    assert 0.70 < share < 0.80


# Turns


def picks(turns, tier, count, **where):
    where = {"group": "g", "priority": 0, "configured": tier} | where
    return [tier[turns.next(usable=tier, **where)][0] for _ in range(count)]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6))
def test_shares_are_exact(weights):
    tier = tuple((str(at), weight) for at, weight in enumerate(weights))
    counted = [weight or 1 for weight in weights]
    made = Counter(picks(Turns(), tier, 3 * sum(counted)))
    assert [made[str(at)] for at in range(len(weights))] == [3 * weight for weight in counted]


def test_it_is_smooth():
    assert "".join(picks(Turns(), (("a", 5), ("b", 1), ("c", 1)), 7)) == "aabacaa"


def test_weights_over_a_hundred_calls_are_exact():
    assert Counter(picks(Turns(), (("a", 70), ("b", 20), ("c", 10)), 100)) == {"a": 70, "b": 20, "c": 10}


def test_groups_and_tiers_have_turns_of_their_own():
    turns, tier = Turns(), (("a", 1), ("b", 1))
    assert picks(turns, tier, 1) == picks(turns, tier, 1, priority=1) == picks(turns, tier, 1, group="h") == ["a"]
    assert picks(turns, tier, 1) == ["b"]


def test_another_configuration_begins_anew():
    turns, tier, other = Turns(), (("a", 1), ("b", 1)), (("a", 1), ("b", 2))
    picks(turns, tier, 1)
    assert picks(turns, other, 1) == ["b"]
    assert picks(turns, tier, 1) == ["a"], "and so does the old one when it comes back"


def test_a_part_of_a_tier_has_turns_of_its_own():
    turns, whole, part = Turns(), (("a", 1), ("b", 1), ("c", 1)), (("b", 1), ("c", 1))
    seen = []
    for _ in range(3):
        seen.append(picks(turns, whole, 1)[0])
        seen.append(picks(turns, part, 1, configured=whole)[0])
    assert seen == ["a", "b", "b", "c", "c", "b"]
