"""Reading plain trees into frozen records, strictly, with an exact reason and place for everything that is wrong.

cattrs walks the records; this module says what a number, a text or a list may be (`Annotated` rules), and flattens
cattrs' nested exception groups into a list of (path, error). A reason never repeats the value it speaks of, except
where a rule's own sentence (`Invalid`) shows it: documents hold secrets.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Protocol, TypeVar, Union, get_args, get_origin, runtime_checkable

import attrs
import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn, override

from twisted_gateway.facts import frozen

Path = tuple[str | int, ...]
"""Where in a document: keys and list indexes from the root."""

Lines = Mapping[Path, int]
"""The source line (from 1) of each path, as far as it is known."""

LARGEST = 2**63 - 1
T = TypeVar("T")


class Mistyped(ValueError):
    """A value has the wrong type or form, or a key is unknown or missing; the text is the reason alone.

    `path` leads on from the value that was read to what is wrong in it.
    """

    def __init__(self, reason: str, path: Path = ()) -> None:
        super().__init__(reason)
        self.path = path


class Unknown(Mistyped):
    """A key that the record does not have."""


class Invalid(ValueError):
    """A well-typed value breaks a rule; the text is a sentence that continues the key's name."""


@runtime_checkable
class Rule(Protocol):
    """What stands in `Annotated[type, rule]`: reads one plain value, or raises `Mistyped` or `Invalid`."""

    def read(self, value: Any) -> Any:
        """Give the value as the record holds it."""


def describe(value: object) -> str:
    """Name the type of a plain value in a document's words, never the value itself."""
    if value is None:
        return "null"
    for types, name in (
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a float"),
        (str, "a string"),
        (list, "a list"),
        (Mapping, "a mapping"),
    ):
        if isinstance(value, types):
            return name
    return "a date or time"


def boolean(value: Any) -> bool:
    """Read true or false, and nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise Mistyped(f"expected true or false, got {describe(value)}")
    return value


def text(value: Any) -> str:
    """Read a string; a number is not one."""
    if not isinstance(value, str):
        raise Mistyped(f"expected a string, got {describe(value)}")
    return value


@frozen
class Whole:
    """An integer from `low` to `high`, both included; `true` is not one."""

    low: int = 0
    high: int = LARGEST

    def read(self, value: Any) -> int:
        """Give the integer."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise Mistyped(f"expected an integer, got {describe(value)}")
        if not self.low <= value <= self.high:
            bound = f"of at least {self.low}" if self.high == LARGEST else f"from {self.low} to {self.high}"
            raise Mistyped(f"expected an integer {bound}")
        return value


@frozen
class Number:
    """A finite number from `low` to `high`, both included, and `above` another; an integer will do."""

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf

    def read(self, value: Any) -> float:
        """Give the number as a float."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Mistyped(f"expected a number, got {describe(value)}")
        try:
            number = float(value)
        except OverflowError:
            raise Mistyped("expected a finite number") from None
        if not math.isfinite(number):
            raise Mistyped("expected a finite number")
        if not self.low <= number <= self.high:
            upper = "" if math.isinf(self.high) else f" and at most {self.high:g}"
            raise Mistyped(f"expected a number of at least {self.low:g}{upper}")
        if number <= self.above:
            raise Mistyped(f"expected a number above {self.above:g}")
        return number


@frozen
class Text:
    """A string that `pattern` matches wholly; `what` says in words what is expected."""

    pattern: str
    what: str

    def read(self, value: Any) -> str:
        """Give the string."""
        if re.fullmatch(self.pattern, text(value)) is None:
            raise Mistyped(f"expected {self.what}")
        return str(value)


@frozen
class Choice:
    """One of a few strings."""

    options: tuple[str, ...]

    def read(self, value: Any) -> str:
        """Give the string."""
        if text(value) not in self.options:
            raise Mistyped("expected " + " or ".join(f'"{option}"' for option in self.options))
        return str(value)


@frozen
class Parsed:
    """A value with a reader of its own, such as an address or a time."""

    read: Callable[[Any], Any]


@frozen
class Filled:
    """Stands in `Annotated[tuple[...], Filled()]`: a list that must not be empty."""


MEANT_NULL = {"meant_null": True}
"""Metadata of a field where null says something else than nothing written."""

Flag = bool
NonEmpty = Annotated[str, Text(r"(?s).+", "a non-empty string")]
Count = Annotated[int, Whole()]

HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"


def converter() -> cattrs.Converter:
    """Make a strict converter: exact types, no unknown keys, null only where a value may be left out."""
    made = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    made.register_structure_hook(bool, lambda value, _: boolean(value))
    made.register_structure_hook(str, lambda value, _: text(value))
    made.register_structure_hook(int, lambda value, _: Whole(low=-LARGEST).read(value))
    made.register_structure_hook(float, lambda value, _: Number().read(value))
    made.register_structure_hook_factory(attrs.has, lambda cls: _record_hook(cls, made))
    made.register_structure_hook_factory(_is_tuple, lambda cls: _tuple_hook(cls, made))
    made.register_structure_hook_factory(_is_mapping, lambda cls: _mapping_hook(cls, made))
    made.register_structure_hook_factory(lambda cls: rule_of(cls) is not None, _rule_hook)
    made.register_structure_hook_factory(_is_filled, lambda cls: _filled_hook(cls, made))
    return made


def rule_of(kind: Any) -> Rule | None:
    """Find the rule in an `Annotated` type, or None."""
    if get_origin(kind) is not Annotated:
        return None
    return next((extra for extra in kind.__metadata__ if isinstance(extra, Rule)), None)


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _is_filled(kind: Any) -> bool:
    return get_origin(kind) is Annotated and any(isinstance(extra, Filled) for extra in kind.__metadata__)


def _is_mapping(kind: Any) -> bool:
    return isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping)


def _rule_hook(kind: Any) -> Callable[[Any, Any], Any]:
    rule = rule_of(kind)
    assert rule is not None
    return lambda value, _: rule.read(value)


def _record_hook(cls: Any, made: cattrs.Converter) -> Callable[[Any, Any], Any]:
    attrs.resolve_types(cls)
    derived = {field.name: override(omit=True) for field in attrs.fields(cls) if field.metadata.get("derived")}
    build = make_dict_structure_fn(cls, made, _cattrs_forbid_extra_keys=True, **derived)  # type: ignore[arg-type]
    nullable = {
        field.name
        for field in attrs.fields(cls)
        if field.init and _may_be_null(field.type) and not field.metadata.get("meant_null")
    }

    def structure(value: Any, _: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise Mistyped(f"expected a mapping, got {describe(value)}")
        return build({key: member for key, member in value.items() if member is not None or key not in nullable}, cls)

    return structure


def _tuple_hook(cls: Any, made: cattrs.Converter) -> Callable[[Any, Any], Any]:
    item = get_args(cls)[0]

    def structure(value: Any, _: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise Mistyped(f"expected a list, got {describe(value)}")
        return tuple(_each(cls, enumerate(value), lambda member: made.structure(member, item)))

    return structure


def _filled_hook(cls: Any, made: cattrs.Converter) -> Callable[[Any, Any], Any]:
    read = _tuple_hook(get_args(cls)[0], made)

    def structure(value: Any, _: Any) -> Any:
        if isinstance(value, list | tuple) and not value:
            raise Mistyped("expected a list of at least one member")
        return read(value, _)

    return structure


def _mapping_hook(cls: Any, made: cattrs.Converter) -> Callable[[Any, Any], Any]:
    item = get_args(cls)[1]

    def structure(value: Any, _: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise Mistyped(f"expected a mapping, got {describe(value)}")
        members = _each(cls, value.items(), lambda member: member if item is Any else made.structure(member, item))
        return dict(zip(value, members, strict=True))

    return structure


def _each(cls: Any, members: Any, read: Callable[[Any], Any]) -> list[Any]:
    """Read every member, and raise all errors together as cattrs does."""
    done: list[Any] = []
    errors: list[Exception] = []
    for index, member in members:
        try:
            done.append(read(member))
        except Exception as error:
            error.add_note(IterableValidationNote(f"member {index}", index, cls))
            errors.append(error)
    if errors:
        raise IterableValidationError("members", errors, cls)
    return done


def bare(kind: Any) -> Any:
    """Strip `| None` from a type."""
    if get_origin(kind) in (Union, UnionType):
        return next(arm for arm in get_args(kind) if arm is not NoneType)
    return kind


def _may_be_null(kind: Any) -> bool:
    if bare(kind) is not kind:
        return True
    inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return _is_tuple(inner) or _is_mapping(inner) or (attrs.has(kind) and rule_of(kind) is None)


def _is_written(field: Any) -> bool:
    """Whether an operator may write this field: not `derived` (made later), not `injected` (put in before reading)."""
    return bool(field.init and not field.metadata.get("derived") and not field.metadata.get("injected"))


def written_names(cls: type[Any]) -> list[str]:
    """The keys of a record that an operator may write."""
    return [field.name for field in attrs.fields(cls) if _is_written(field)]


def leaves(error: BaseException, path: Path = ()) -> Iterator[tuple[Path, Exception]]:
    """Flatten what a converter raised into (path, `Mistyped` or `Invalid`), in the order of the record's fields."""
    if isinstance(error, ClassValidationError):
        grouped, others = error.group_exceptions()
        for inner, note in grouped:
            yield from leaves(inner, (*path, note.name))
        for other in others:
            yield from leaves(other, path)
    elif isinstance(error, IterableValidationError):
        for inner, position in error.group_exceptions()[0]:
            yield from leaves(inner, (*path, position.index))
    elif isinstance(error, ForbiddenExtraKeysError):
        known = ", ".join(written_names(error.cl))
        for name in sorted(error.extra_fields):
            yield (*path, name), Unknown(f"unknown key (expected one of {known})")
    elif isinstance(error, KeyError):
        yield path, Mistyped("missing")
    elif isinstance(error, Mistyped):
        yield (*path, *error.path), error
    elif isinstance(error, Invalid):
        yield path, error
    else:
        raise error


def odd_key(tree: Any, path: Path = ()) -> Path | None:
    """The path of a mapping that has a key which is not a string; None when there is none."""
    if isinstance(tree, Mapping):
        if any(not isinstance(key, str) for key in tree):
            return path
        members: Any = tree.items()
    else:
        members = enumerate(tree) if isinstance(tree, list) else ()
    found = (odd_key(member, (*path, key)) for key, member in members)
    return next((inner for inner in found if inner is not None), None)


def dotted(path: Path) -> str:
    """Write a path as `routing.targets[0].model`."""
    out = ""
    for step in path:
        out += f"[{step}]" if isinstance(step, int) else f".{step}" if out else step
    return out


def one_line(sentence: str) -> str:
    """Keep a sentence on its line and printable, whatever a name in it holds."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in sentence)


def line_of(path: Path, lines: Lines) -> int | None:
    """The source line of a path, or of its nearest ancestor that has one; None when nothing is known."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


def keys_of(cls: type[Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every key that a record reads; members of listed records carry `[]`."""
    attrs.resolve_types(cls)
    for field in attrs.fields(cls):
        if not _is_written(field):
            continue
        name, kind = prefix + field.name, bare(field.type)
        if attrs.has(kind) and rule_of(kind) is None:
            yield from keys_of(kind, name + ".")
            continue
        yield name
        inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        if _is_tuple(inner) and attrs.has(get_args(inner)[0]):
            yield from keys_of(get_args(inner)[0], name + "[].")


def type_at(cls: type[Any], path: tuple[str, ...]) -> Any:
    """The declared type of a key (without `| None`), or None when there is no such key."""
    kind: Any = cls
    for step in path:
        if _is_mapping(kind):
            return str
        if not attrs.has(kind) or rule_of(kind) is not None:
            return None
        attrs.resolve_types(kind)
        field = next((field for field in attrs.fields(kind) if _is_written(field) and field.name == step), None)
        if field is None:
            return None
        kind = bare(field.type)
    return kind
