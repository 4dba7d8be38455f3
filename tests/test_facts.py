"""attrs' decorators as the house has them."""

import copy

import attrs
import pytest

from twisted_gateway.facts import define, fact, frozen


@frozen
class Point:
    x: int
    hidden: str = attrs.field(default="secret", repr=False)
    shortened: str = attrs.field(default="long", repr=len)


@define
class Node:
    next: "Node | None" = None


@define(eq=False)
class Other:
    x: int


@fact
class Made:
    x: int


def test_a_representation_shows_what_may_be_shown():
    assert repr(Point(1)) == "Point(x=1, shortened=4)"
    assert repr([Made(2), Other(3)]) == "[Made(x=2), Other(x=3)]"


def test_a_representation_ends():
    node = Node()
    node.next = Node(node)
    assert repr(node) == "Node(next=Node(next=...))"


def test_a_representation_of_what_is_only_half_made():
    assert repr(Made.__new__(Made)) == "Made(x=NOTHING)"


def test_ones_own_representation_stays():
    @frozen
    class Told:
        x: int

        def __repr__(self):
            return "told"

    @frozen
    class Heir(Told):
        y: int = 0

    assert (repr(Told(1)), repr(Heir(1))) == ("told", "told")


def test_a_heir_shows_all():
    @frozen
    class Heir(Point):
        y: int = 2

    assert repr(Heir(1)).endswith("Heir(x=1, shortened=4, y=2)")


def test_they_are_attrs_classes():
    assert attrs.asdict(Point(1)) == {"x": 1, "hidden": "secret", "shortened": "long"}
    assert attrs.evolve(Point(1), x=2) == Point(2)
    assert [field.name for field in attrs.fields(Point)] == ["x", "hidden", "shortened"]
    assert copy.copy(Made(1)) == Made(1)
    match Point(3):
        case Point(x):
            assert x == 3
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Point(1).x = 2
    assert {Made(1), Made(1), Point(1), Point(1)} == {Made(1), Point(1)}
    assert Other(1) != Other(1)
    for cls in (Point, Node, Other, Made):
        assert not hasattr(cls(1), "__dict__")
