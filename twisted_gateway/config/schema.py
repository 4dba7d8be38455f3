"""One entry against its record: the first thing that is wrong with it (`configuration.md` 5.5). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from twisted_gateway.config.checks import Path, Unknown, bare, converter, leaves
from twisted_gateway.config.resources import SPELLINGS, Group

_CONVERTER = converter()


class Refused(Exception):
    """One entry cannot be used: the reason, and the path inside the entry that it speaks of."""

    def __init__(self, message: str, path: Path = ()) -> None:
        super().__init__(message)
        self.path = path


def structured(kind: str, tree: Mapping[str, Any], record: type[Any], known: list[str]) -> Any:
    """The record of an entry; `known` are the keys that it may have. Raises `Refused`."""
    try:
        return _CONVERTER.structure(tree, record)
    except Exception as error:
        known = known if record is Group else [*known, *SPELLINGS[kind]]
        raise worst(kind, list(leaves(error)), known) from None


def worst(kind: str, problems: list[tuple[Path, Exception]], known: list[str]) -> Refused:
    """The first schema error of an entry; an unknown key says more than the missing one it may stand for."""
    path, error = min(problems, key=lambda problem: not isinstance(problem[1], Unknown))
    reason: object = error
    if isinstance(error, Unknown) and len(path) == 1:
        names = [name for name in known if kind != "api_keys" or name != "name"]
        reason = f"unknown key (expected one of {', '.join(names)})"
    return misfit(path, reason)


def misfit(path: Path, reason: object) -> Refused:
    """What stands at this path does not fit."""
    pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return Refused(f"schema validation failed at `{pointer}`: {reason}", path)


def without_nulls(record: type[Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Drop nulls of the record's own keys, in its inner records too: there null means not written."""
    attrs.resolve_types(record)
    types = {field.name: bare(field.type) for field in attrs.fields(record)}
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        if value is None and (key in types or key in ("secret", "key", "key_env")):
            continue
        inner = types.get(key)
        kept[key] = without_nulls(inner, value) if inner and attrs.has(inner) and isinstance(value, Mapping) else value
    return kept
