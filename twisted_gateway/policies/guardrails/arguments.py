"""Arguments of tool calls: JSON in a text, looked at raw and decoded (`guardrails.md` 2 and 8.5).

They are read as a row of strings, not as a document: so what stands twice, or in JSON that was cut off or is none to
us, is seen as well. Somebody's parser may be less strict than ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import msgspec

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*+)("?)(\s*:)?|(-?[0-9][0-9.eE+-]*+)', re.DOTALL)
"""A string, its end, the colon that makes it a name; or a number."""
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def leaves(text: str) -> Iterator[str]:
    """The strings in some JSON, and names that are not spelled out; where it is none, what has escapes in it."""
    found: list[str] = []

    def write(said: str) -> str:
        found.append(said)
        return said

    _rewritten(text, write)
    return iter(found)


def masked_arguments(text: str, mask: Callable[[str], str]) -> str:
    """The JSON with its strings, names and numbers rewritten; where it is none, as a plain text too."""
    made = _rewritten(text, mask, every=True)
    return made if _is_json(text) else mask(made)


def replaced(text: str, strings: Sequence[str]) -> str:
    """The JSON with other strings in it, as many as `leaves` gave."""
    left = iter(strings)
    return _rewritten(text, lambda _: next(left))


def _rewritten(text: str, write: Callable[[str], str], every: bool = False) -> str:
    """`every`: names and numbers are rewritten as well."""
    sound = _is_json(text)

    def one(token: re.Match[str]) -> str:
        inner, end, colon, number = token.groups()
        if number is not None:
            made = write(number) if every and sound else number
            return number if made == number else _encode(made).decode()
        if "\\" not in inner and not (sound and (every or not colon)):
            return token[0]
        said = _unescaped(inner)
        made = write(said)
        return token[0] if made == said else _encode(made).decode()[:-1] + end + (colon or "")

    made = _TOKEN.sub(one, text)
    if made == text or not sound:
        return made
    return _encode(_decode(made.encode("utf-8", "replace"))).decode()


def _is_json(text: str) -> bool:
    try:
        _decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _unescaped(inner: str) -> str:
    if "\\" not in inner:
        return inner
    said = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _SHORT.get(found[2], found[2]), inner)
    return said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
