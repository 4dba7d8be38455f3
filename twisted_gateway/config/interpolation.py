"""`${VAR}` in the strings of a resources file (`configuration.md` 5.3). Pure.

It works on the values of the parsed tree, so that a variable can never bring structure with it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from twisted_gateway.config.checks import Path

_PART = re.compile(r"\$\$|\$\{([^}]*)(\})?")


class Unresolved(ValueError):
    """A string whose variables cannot be filled in; the text names the variable, never a value."""


def interpolated(written: str, environ: Mapping[str, str]) -> str:
    """Fill in one string: `${VAR}` its value, `$$` one dollar; a lone `$` stays. Raises `Unresolved`."""

    def one(part: re.Match[str]) -> str:
        if part[0] == "$$":
            return "$"
        if part[2] is None:
            raise Unresolved("`${` without `}` (write `$$` for a dollar)")
        name = part[1]
        if not name:
            raise Unresolved("`${}` names no variable")
        if not environ.get(name):
            raise Unresolved(f"environment variable `{name}` is {'empty' if name in environ else 'not set'}")
        return environ[name]

    return _PART.sub(one, written)


def interpolated_tree(value: Any, environ: Mapping[str, str]) -> tuple[Any, list[tuple[Path, str]]]:
    """Fill in every string value below a node; give the new tree and (path, reason) of all that failed.

    Keys that are not strings and numbers that are not finite are reported here too.
    """
    problems: list[tuple[Path, str]] = []

    def walk(node: Any, path: Path) -> Any:
        if isinstance(node, str):
            try:
                return interpolated(node, environ)
            except Unresolved as error:
                problems.append((path, str(error)))
                return node
        if isinstance(node, float) and not math.isfinite(node):
            problems.append((path, "not a finite number"))
        if isinstance(node, list):
            return [walk(member, (*path, index)) for index, member in enumerate(node)]
        if isinstance(node, Mapping):
            if any(not isinstance(key, str) for key in node):
                problems.append((path, "every key must be a string"))
            return {key: walk(member, (*path, key)) for key, member in node.items() if isinstance(key, str)}
        return node

    return walk(value, ()), problems
