"""Reads the boot file and the resources file: plain trees, and the line of every key (`configuration.md` 2, 5).

Whatever a file holds, the answer is a tree or a sentence: size, nesting and the number of values are bounded, aliases
are counted as often as they are used, and doubled keys are refused.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path as FilePath
from typing import Any

import attrs
import yaml

from twisted_gateway.config.boot import structure
from twisted_gateway.config.checks import Path
from twisted_gateway.config.report import Finding, ResourcesError
from twisted_gateway.config.settings import Settings, SettingsError
from twisted_gateway.config.snapshot import Snapshot, build
from twisted_gateway.facts import define

LARGEST_FILE = 64 * 2**20
DEEPEST = 64
MOST_VALUES = 2_000_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


class Unreadable(Exception):
    """A file that gives no tree: the reason, and the line if it is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


def load_settings(path: str, environ: Mapping[str, str]) -> Settings:
    """Read the boot file (YAML, TOML or JSON by its extension) and the environment over it. Raises `SettingsError`."""
    try:
        suffix = FilePath(path).suffix.lower()
        if suffix not in (".yaml", ".yml", ".toml", ".json"):
            raise Unreadable("the name must end in .yaml, .yml, .toml or .json")
        text = _decoded(_read(path))
        tree, lines = read_yaml(text) if suffix in (".yaml", ".yml") else (_read_other(text, suffix), {})
    except Unreadable as error:
        line = f" (line {error.line})" if error.line is not None else ""
        raise SettingsError(f"build: {path}: {error}{line}") from None
    return structure({} if tree is None else tree, environ, source=path, lines=lines)


def load_resources(path: str, environ: Mapping[str, str], now: float, generation: int = 1) -> Snapshot:
    """Read the resources file into a snapshot. Raises `ResourcesError` with everything that is wrong."""
    digest, stage = "", "fetch"
    try:
        raw = _read(path)
        digest, stage = sha256(raw).hexdigest(), "parse"
        tree, lines = read_yaml(_decoded(raw))
    except Unreadable as error:
        finding = Finding(str(error), line=error.line, reason="non_json")
        raise ResourcesError(path, [finding], stage=stage, source_hash=digest) from None
    built = build(tree, environ, now=now, generation=generation, config_hash=digest, lines=lines)
    if isinstance(built, Snapshot):
        return built
    raise ResourcesError(path, built, stage="validate", source_hash=digest)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a usable path"
        raise Unreadable(f"cannot read: {reason}") from None
    if len(raw) > LARGEST_FILE:
        raise Unreadable(f"larger than {LARGEST_FILE} bytes")
    return raw


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable("not UTF-8 text", raw.count(b"\n", 0, error.start) + 1) from None


def _read_other(text: str, suffix: str) -> Any:
    """Read TOML or JSON; these readers know no lines, except for what they cannot parse."""
    try:
        tree = _read_toml(text) if suffix == ".toml" else _read_json(text)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    except RecursionError:
        raise Unreadable(f"nested deeper than {DEEPEST}") from None
    _bound(tree)
    return tree


def _read_toml(text: str) -> Any:
    import tomllib  # few files are TOML

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Unreadable(f"not TOML: {error}") from None


def _read_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Unreadable(f"not JSON: {error.msg}", error.lineno) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise Unreadable(f"duplicate key `{twice}`")
    return tree


def _no_constant(name: str) -> Any:
    raise Unreadable(f"not JSON: {name}")


def _bound(tree: Any) -> None:
    level = [tree]
    for _ in range(DEEPEST):
        level = [
            member
            for node in level
            if isinstance(node, dict | list)
            for member in (node.values() if isinstance(node, dict) else node)
        ]
    if any(isinstance(node, dict | list) for node in level):
        raise Unreadable(f"nested deeper than {DEEPEST}")


def read_yaml(text: str) -> tuple[Any, dict[Path, int]]:
    """Read one YAML document: its tree, and the line of every path. Raises `Unreadable`.

    Plain words mean what YAML 1.2 says: `no` and `on` are strings, and so is a date; `<<` is a key like any other.
    """
    tree = _Tree()
    loader = None
    try:
        loader = _LOADER(text)
        while loader.check_event():
            tree.take(loader.get_event())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable text"
        raise Unreadable(f"not YAML: {problem}", mark.line + 1 if mark else None) from None
    finally:
        if loader is not None:
            loader.dispose()
    return tree.root, tree.lines


_ABSENT: Any = object()


@define
class _Open:
    """A mapping or list whose end has not come: the value so far, its path, and the key waiting for its value."""

    value: Any
    path: Path
    anchor: str | None
    key: Any = _ABSENT
    key_line: int = 0


@define
class _Tree:
    """Builds a plain tree of YAML events, without recursion."""

    root: Any = None
    lines: dict[Path, int] = attrs.field(factory=dict)
    stack: list[_Open] = attrs.field(factory=list)
    anchors: dict[str, tuple[Any, int]] = attrs.field(factory=dict)
    documents: int = 0
    values: int = 0

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise Unreadable("more than one document", line)
        elif isinstance(event, yaml.ScalarEvent):
            value = _scalar(event, line)
            self._count(1, line)
            self._place(value, line)
            self._remember(event.anchor, value)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor, line)
        elif isinstance(event, yaml.CollectionStartEvent):
            if event.tag is not None and not event.tag.startswith("tag:yaml.org,2002:"):
                raise Unreadable("tags are not accepted", line)
            if len(self.stack) >= DEEPEST:
                raise Unreadable(f"nested deeper than {DEEPEST}", line)
            self._count(1, line)
            value = {} if isinstance(event, yaml.MappingStartEvent) else []
            path = self._place(value, line)
            self.stack.append(_Open(value, path, event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self.stack.pop()
            self._remember(done.anchor, done.value)

    def _alias(self, anchor: str | None, line: int) -> None:
        if anchor is None or anchor not in self.anchors:
            raise Unreadable(f"unknown or recursive alias *{anchor}", line)
        value, depth = self.anchors[anchor]
        if len(self.stack) + depth > DEEPEST:
            raise Unreadable(f"nested deeper than {DEEPEST}", line)
        copied, count = _copied(value)
        self._count(count, line)
        self._place(copied, line)

    def _remember(self, anchor: str | None, value: Any) -> None:
        if anchor is not None:
            self.anchors[anchor] = (value, _depth(value))

    def _count(self, more: int, line: int) -> None:
        self.values += more
        if self.values > MOST_VALUES:
            raise Unreadable(f"more than {MOST_VALUES} values", line)

    def _place(self, value: Any, line: int) -> Path:
        """Put a value where it belongs: a key, a key's value, a list's member or the root. Gives its path."""
        if not self.stack:
            self.root = value
            return ()
        top = self.stack[-1]
        if isinstance(top.value, list):
            path: Path = (*top.path, len(top.value))
            top.value.append(value)
            self.lines[path] = line
            return path
        if top.key is _ABSENT:
            if isinstance(value, dict | list):
                raise Unreadable("a key must be a plain word", line)
            if value in top.value:
                raise Unreadable(f"duplicate key `{value}`", line)
            top.key, top.key_line = value, line
            return top.path
        path = (*top.path, top.key)
        top.value[top.key] = value
        self.lines[path] = top.key_line
        top.key = _ABSENT
        return path


def _copied(value: Any) -> tuple[Any, int]:
    """Copy an alias's value, and count what is in it. Bounded, since the original was counted and so is each copy."""
    count = 1
    if isinstance(value, dict | list):
        members = [_copied(member) for member in (value.values() if isinstance(value, dict) else value)]
        count += sum(size for _, size in members)
        if isinstance(value, dict):
            return dict(zip(value, (member for member, _ in members), strict=True)), count
        return [member for member, _ in members], count
    return value, count


def _depth(value: Any) -> int:
    members: Iterator[Any] = iter(())
    if isinstance(value, dict):
        members = iter(value.values())
    elif isinstance(value, list):
        members = iter(value)
    else:
        return 0
    return 1 + max((_depth(member) for member in members), default=0)


def _scalar(event: Any, line: int) -> Any:
    """What a YAML scalar means by the core schema of YAML 1.2."""
    written: str = event.value
    if event.tag is not None and event.tag != "!":
        if event.tag != "tag:yaml.org,2002:str":
            raise Unreadable("tags are not accepted", line)
        return written
    if not event.implicit[0]:
        return written
    if written in _WORDS:
        return _WORDS[written]
    if _INTEGER.fullmatch(written):
        return int(written)
    if re.fullmatch(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}", written):
        return int(written, 0)
    return float(written) if _FLOAT.fullmatch(written) else written
