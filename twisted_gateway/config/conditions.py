"""Which requests a conditional rate-limit policy speaks of: a tree of conditions (`configuration.md` 7.6). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from twisted_gateway.config.checks import Choice, Mistyped, Path, boolean, describe, text
from twisted_gateway.config.regexes import engine, options
from twisted_gateway.facts import frozen

DIMENSIONS = ("team", "member", "api_key", "model", "model_name", "provider")
MODEL_DIMENSIONS = frozenset(("model", "model_name", "provider"))
"""What of a group's request is only known when a target is chosen (`policy.md` 11.2)."""

DEEPEST = 3
MOST_LEAVES = 16
MOST_ITEMS = 64
LONGEST_REGEX = 256

_EQUAL = ("==", "~=", "in")
_REGEX = ("~~", "~*")
_LATER = ("has", ">", ">=", "<", "<=", "ipmatch")
_REGEX_DIMENSIONS = frozenset(("model_name", "provider"))

Facts = Mapping[str, tuple[str, ...]]
"""What is known of a request, by dimension; a group's attempt has two values of the model's dimensions, target first.
A dimension that it lacks is absent."""


@frozen
class Leaf:
    """One comparison. A positive operator holds if any value matches, `~=` only if all differ."""

    dimension: str
    operator: str
    value: str | tuple[str, ...]
    negate: bool
    _test: Callable[[str], Any] = attrs.field(repr=False, eq=False)

    def holds(self, facts: Facts) -> bool:
        """Whether the request is meant; one that lacks the dimension never is."""
        values = facts.get(self.dimension)
        if not values:
            return False
        if self.operator == "~=":
            return all(map(self._test, values)) is not self.negate
        return any(map(self._test, values)) is not self.negate


@frozen
class Group:
    """Several conditions, of which all must hold (`and`) or one (`or`)."""

    logic: str
    children: tuple[Node, ...]
    negate: bool

    def holds(self, facts: Facts) -> bool:
        """Whether the request is meant."""
        told = (child.holds(facts) for child in self.children)
        return (all(told) if self.logic == "and" else any(told)) is not self.negate


Node = Leaf | Group


def leaves(nodes: tuple[Node, ...]) -> Iterator[Leaf]:
    """Every comparison in these trees."""
    for node in nodes:
        if isinstance(node, Leaf):
            yield node
        else:
            yield from leaves(node.children)


def read_conditions(value: Any) -> tuple[Node, ...]:
    """Read the list; raises `Mistyped` with the place of what is wrong."""
    nodes = _nodes(value, (), 1)
    if sum(1 for _ in leaves(nodes)) > MOST_LEAVES:
        raise Mistyped(f"expected at most {MOST_LEAVES} comparisons")
    return nodes


def _nodes(value: Any, path: Path, depth: int) -> tuple[Node, ...]:
    if not isinstance(value, list | tuple):
        raise Mistyped(f"expected a list, got {describe(value)}", path)
    if len(value) > MOST_ITEMS:
        raise Mistyped(f"expected at most {MOST_ITEMS} items", path)
    return tuple(_node(member, (*path, index), depth) for index, member in enumerate(value))


def _node(value: Any, path: Path, depth: int) -> Node:
    if not isinstance(value, Mapping):
        raise Mistyped(f"expected a mapping, got {describe(value)}", path)
    if depth > DEEPEST:
        raise Mistyped(f"conditions may be nested {DEEPEST} deep at most", path)
    known = ("logic", "children", "negate") if "logic" in value or "children" in value else _LEAF
    for key in value:
        if key not in known:
            raise Mistyped(f"unknown key (expected one of {', '.join(known)})", (*path, key))
    for key in known:
        if key != "negate" and key not in value:
            raise Mistyped("missing", (*path, key))
    negate = _at(path, "negate", boolean, value.get("negate", False))
    if known is _LEAF:
        return _leaf(value, path, negate)
    logic = _at(path, "logic", Choice(("and", "or")).read, value["logic"])
    children = _nodes(value["children"], (*path, "children"), depth + 1)
    if not children:
        raise Mistyped("expected at least one item", (*path, "children"))
    return Group(logic, children, negate)


_LEAF = ("dimension", "operator", "value", "negate")


def _leaf(value: Mapping[str, Any], path: Path, negate: bool) -> Leaf:
    dimension = _at(path, "dimension", Choice(DIMENSIONS).read, value["dimension"])
    operator = _at(path, "operator", Choice((*_EQUAL, *_REGEX, *_LATER)).read, value["operator"])
    allowed = (*_EQUAL, *_REGEX) if dimension in _REGEX_DIMENSIONS else _EQUAL
    if operator not in allowed:
        reason = f'"{operator}" does not apply to {dimension} (expected one of {", ".join(allowed)})'
        raise Mistyped(reason, (*path, "operator"))
    wanted = value["value"]
    place = (*path, "value")
    if operator != "in":
        wanted = _at(path, "value", text, wanted)
        if not wanted:
            raise Mistyped("expected a non-empty string", place)
        test = _matcher(wanted, operator, place) if operator in _REGEX else _comparison(wanted, operator)
        return Leaf(dimension, operator, wanted, negate, test)
    if not isinstance(wanted, list | tuple):
        raise Mistyped(f"expected a list, got {describe(wanted)}", place)
    if not 1 <= len(wanted) <= MOST_ITEMS:
        raise Mistyped(f"expected 1 to {MOST_ITEMS} items", place)
    names = tuple(_at(place, index, text, member) for index, member in enumerate(wanted))
    return Leaf(dimension, operator, names, negate, frozenset(names).__contains__)


def _comparison(wanted: str, operator: str) -> Callable[[str], bool]:
    return wanted.__ne__ if operator == "~=" else wanted.__eq__


def _matcher(pattern: str, operator: str, place: Path) -> Callable[[str], Any]:
    if len(pattern.encode("utf-8", "surrogatepass")) > LONGEST_REGEX:
        raise Mistyped(f"expected a regex of at most {LONGEST_REGEX} bytes", place)
    made = options()
    made.case_sensitive = operator == "~~"
    re2 = engine()
    try:
        compiled = re2.compile(pattern, made)
    except (re2.error, UnicodeError):
        raise Mistyped("expected a regex in RE2's syntax", place) from None
    return lambda name: compiled.search(name) is not None


def _at(path: Path, step: str | int, read: Callable[[Any], Any], value: Any) -> Any:
    try:
        return read(value)
    except Mistyped as error:
        raise Mistyped(str(error), (*path, step)) from None
