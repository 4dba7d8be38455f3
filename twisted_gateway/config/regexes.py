"""Regexes of guardrails: RE2's syntax, read when they are loaded (`guardrails.md` 7.3 and 9). Pure.

A streamed text may leave as far as no match can begin in it any more. So beside the regex itself we need one for *what
may still become a match*: the proper prefixes of its matches. `a(b|cd)` has `(?:a(?:c)?)?`. It is written from the
syntax tree by `_Reader`; what that does not know, RE2 may still understand, but then nobody knows how long a match is.

The library is only imported for the first regex: it takes 2.5 MB, and most gateways have none.
"""

from __future__ import annotations

import math
import re
from functools import cache, partial
from typing import Any

from twisted_gateway.facts import frozen

MOST_MEMORY = 8 * 2**20
"""Bytes that a compiled program may take."""

LONGEST_BOUNDED = 1024
"""Characters; a wider regex counts as one without an upper bound (7.3)."""

_MOST_PREFIX = 64 * 1024
"""Characters of a regex for prefixes. Nested counts can make it grow beyond all sense."""

_DEEPEST = 200


class BadRegex(ValueError):
    """A regex that is not accepted; the text is the reason."""


class _Strange(Exception):
    """Syntax that this reader does not know."""


@frozen
class Regex:
    """A regex that was accepted. `width` is the most characters a match may have, None without an upper bound.

    `prefix` is a regex for the proper prefixes of its matches, the empty one too; None where it is not known.
    """

    pattern: str
    width: int | None
    prefix: str | None


@cache
def engine() -> Any:
    """The module `re2`."""
    import re2

    return re2


def options(memory: int = MOST_MEMORY) -> Any:
    """RE2's options for every regex of ours. `memory` is for the program and what it learns, in bytes."""
    made = engine().Options()
    made.max_mem = memory
    made.log_errors = False
    return made


def compiled(pattern: str, memory: int = MOST_MEMORY) -> Any:
    """A compiled regex; raises `BadRegex`. (Not RE2's own cache: it would keep what a reload has thrown away.)"""
    re2 = engine()
    try:
        return re2._Regexp(pattern, options(memory))
    except re2.error as error:
        told = error.args[0]
        raise BadRegex(told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)) from None


def search(program: Any) -> Any:
    """The search without the module's own wrappers, which take longer than a short text.

    `search(program)(data, at, len(data))[0][0]` is where the first match begins; -1 where there is none.
    """
    return partial(program._regexp.Match, engine()._Anchor.UNANCHORED)


def parse(pattern: str) -> Regex:
    """Read a regex; raises `BadRegex` for what we do not accept (`guardrails.md` 9)."""
    _refuse_other_dialects(pattern)
    program = compiled(pattern)
    if program.search("") is not None:
        raise BadRegex("it matches the empty text, so it would match everything")
    try:
        node = _Reader(pattern).whole()
    except (_Strange, RecursionError):
        return Regex(pattern, None, None)
    if node.low == 0:
        raise BadRegex("it matches the empty text, so it would match everything")
    width = int(node.high) if node.high <= LONGEST_BOUNDED else None
    prefix = node.prefix
    if len(prefix) > _MOST_PREFIX or not _compiles(prefix):
        return Regex(pattern, width, None)
    return Regex(pattern, width, prefix)


def _compiles(pattern: str) -> bool:
    try:
        compiled(pattern)
    except BadRegex:
        return False
    return True


_FLAGS = re.compile(r"\(\?([a-zA-Z]*)(?:-[a-zA-Z]*)?[:)]")
_ESCAPED = re.compile(r"\\(?:Q.*?(?:\\E|\Z)|.)", re.DOTALL)
_POSIX = re.compile(r"\[:\^?[a-z]+:\]")


def _refuse_other_dialects(pattern: str) -> None:
    """What means something else in the engine that such rules are written for (`guardrails.md` 9)."""
    at, in_class = 0, False
    while at < len(pattern):
        escaped = _ESCAPED.match(pattern, at)
        if escaped is not None:
            at = escaped.end()
            continue
        if not in_class:
            flags = _FLAGS.match(pattern, at)
            if flags is not None and "x" in flags[1]:
                raise BadRegex("verbose mode, (?x), is not supported")
            if pattern[at] == "[":
                in_class = True
                at += 2 if pattern.startswith("[^", at) else 1
                at += pattern.startswith("]", at)
                continue
        elif pattern[at] == "]":
            in_class = False
        elif pattern[at] == "[":
            posix = _POSIX.match(pattern, at)
            if posix is None:
                raise BadRegex(r"a class inside a class is not supported (write \[ for the character)")
            at = posix.end()
            continue
        elif pattern[at : at + 2] in ("&&", "--", "~~"):
            raise BadRegex(f"the class operation {pattern[at : at + 2]} is not supported")
        at += 1


@frozen
class _Node:
    """A piece of a regex: what matches it, what matches its proper prefixes ("" = only the empty text), its length."""

    full: str
    prefix: str
    low: float
    high: float


_EMPTY = _Node("", "", 0, 0)
_QUANTIFIER = re.compile(r"(?:([*+?])|\{([0-9]+)(?:(,)([0-9]*))?\})(\??)")
_ONE = re.compile(
    r"\\(?:[pP](?:\{\^?\w+\}|\w)|x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|[dDsSwW]|[afnrtv]|[^\w\s]|[1-7][0-7]{2}|0[0-7]{0,2})"
)
_CLASS_ITEM = re.compile(r"\[:\^?[a-z]+:\]|\\(?:[pP](?:\{\^?\w+\}|\w)|x\{[0-9A-Fa-f]+\}|.)|[^\]\\]", re.DOTALL)
_GROUP = re.compile(r"\(\?(?:P?<(\w+)>|([imsU]*)(?:-([imsU]+))?([:)]))")


class _Reader:
    """Recursive descent over RE2's syntax. Raises `_Strange` for what it does not know."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0

    def whole(self) -> _Node:
        node, _ = self._alternatives("")
        if self._at != len(self._text):
            raise _Strange
        return node

    def _alternatives(self, flags: str) -> tuple[_Node, str]:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _Strange
        arms = []
        while True:
            node, flags = self._sequence(flags)
            arms.append(node)
            if not self._text.startswith("|", self._at):
                break
            self._at += 1
        self._depth -= 1
        return _either(arms), flags

    def _sequence(self, flags: str) -> tuple[_Node, str]:
        nodes: list[_Node] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            found = _GROUP.match(self._text, self._at)
            if found is not None and found[4] == ")":
                self._at = found.end()
                flags = _flagged(flags, found)
                continue
            node = self._atom(flags)
            quoted = node if isinstance(node, list) else [node]
            nodes += quoted[:-1]
            nodes.append(self._repeated(quoted[-1]) if quoted else _EMPTY)
        return _then(nodes), flags

    def _repeated(self, node: _Node) -> _Node:
        while (found := _QUANTIFIER.match(self._text, self._at)) is not None:
            self._at = found.end()
            if found[1]:
                low, high = {"*": (0, math.inf), "+": (1, math.inf), "?": (0, 1)}[found[1]]
            else:
                low = int(found[2])
                high = low if found[3] is None else int(found[4]) if found[4] else math.inf
            node = _times(node, low, high)
        return node

    def _atom(self, flags: str) -> _Node | list[_Node]:
        text, char = self._text, self._text[self._at]
        if char == "(":
            return self._group(flags)
        if char == "[":
            return self._class(flags)
        if char == "\\":
            return self._escape(flags)
        self._at += 1
        if char in "*+?":
            raise _Strange
        if char in "^$":
            return _Node(f"(?m:{char})" if "m" in flags else char, "", 0, 0)
        if char == ".":
            return _Node("(?s:.)" if "s" in flags else ".", "", 1, 1)
        del text
        return _char(engine().escape(char), flags)

    def _group(self, flags: str) -> _Node:
        found = _GROUP.match(self._text, self._at)
        if found is None and self._text.startswith("(?", self._at):
            raise _Strange
        self._at = found.end() if found is not None else self._at + 1
        inner = _flagged(flags, found) if found is not None and found[4] else flags
        node, _ = self._alternatives(inner)
        if not self._text.startswith(")", self._at):
            raise _Strange
        self._at += 1
        return node

    def _class(self, flags: str) -> _Node:
        start, at = self._at, self._at + 1
        at += self._text.startswith("^", at)
        if self._text.startswith("]", at):
            at += 1
        while not self._text.startswith("]", at):
            item = _CLASS_ITEM.match(self._text, at)
            if item is None:
                raise _Strange
            at = item.end()
        self._at = at + 1
        return _char(self._text[start : self._at], flags)

    def _escape(self, flags: str) -> _Node | list[_Node]:
        text, at = self._text, self._at
        kind = text[at + 1 : at + 2]
        if kind == "Q":
            end = text.find("\\E", at + 2)
            inner = text[at + 2 : end if end >= 0 else len(text)]
            self._at = end + 2 if end >= 0 else len(text)
            return [_char(engine().escape(char), flags) for char in inner]
        if kind in ("A", "z", "b", "B"):
            self._at += 2
            return _Node(f"\\{kind}", "", 0, 0)
        found = _ONE.match(text, at)
        if found is None:
            raise _Strange
        self._at = found.end()
        return _char(found[0], flags)


def _flagged(flags: str, found: re.Match[str]) -> str:
    kept = "".join(flag for flag in flags if flag not in (found[3] or ""))
    return kept + (found[2] or "")


def _char(pattern: str, flags: str) -> _Node:
    return _Node(f"(?i:{pattern})" if "i" in flags else pattern, "", 1, 1)


def _either(arms: list[_Node]) -> _Node:
    if len(arms) == 1:
        return arms[0]
    full = "(?:" + "|".join(arm.full for arm in arms) + ")"
    prefixes = list(dict.fromkeys(arm.prefix for arm in arms))
    prefix = "" if prefixes == [""] else "(?:" + "|".join(prefixes) + ")"
    return _Node(full, prefix, min(arm.low for arm in arms), max(arm.high for arm in arms))


def _then(nodes: list[_Node]) -> _Node:
    if not nodes:
        return _EMPTY
    prefix = nodes[-1].prefix
    for node in reversed(nodes[:-1]):
        rest = node.full + prefix
        prefix = f"(?:{rest})?" if not node.prefix else f"(?:{rest}|{node.prefix})"
        if len(prefix) > 2 * _MOST_PREFIX:
            raise _Strange
    return _Node(
        "".join(node.full for node in nodes), prefix, sum(node.low for node in nodes), sum(node.high for node in nodes)
    )


def _times(node: _Node, low: int, high: float) -> _Node:
    full = f"(?:{node.full})"
    low_length = node.low * low
    high_length = 0 if node.high == 0 or high == 0 else node.high * high
    if high == 0:
        return _EMPTY
    most = "" if math.isinf(high) else str(int(high))
    count = f"{{{low},{most}}}"
    repeated = {(0, ""): "*", (1, ""): "+", (0, "1"): "?"}.get((low, most), count)
    before = "*" if math.isinf(high) else f"{{0,{int(high) - 1}}}"
    prefix = node.prefix if before == "{0,0}" else f"(?:{full}{before}{node.prefix})"
    return _Node(full + repeated, prefix, low_length, high_length)
