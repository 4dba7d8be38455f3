"""What is constant in frames that are alike: a frame with exactly these bytes around its holes is understood already.

A hole is the inside of a JSON string (a text, or the filler that hides its length), or a usage object.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Any, NamedTuple

import msgspec

from twisted_gateway.formats import bodies
from twisted_gateway.wire.series import Batch
from twisted_gateway.wire.sse import Frame, encode, escape_separators

_SHORT = 20
_FILLERS = ("obfuscation", "p")
"""The member that only hides how long a text is: OpenAI's and Mistral's name for it."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
is_easy = re.compile(rb"[\x20\x21\x23-\x5b\x5d-\x7e]*").fullmatch
_TEXT = re.compile(rb'(?:[^\x00-\x1f\\"]|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4})*').fullmatch
"""The inside of a JSON string: without anything special, and in general; surrogates are left to the decoder."""
EASY = bytes(byte if is_easy(bytes((byte,))) else byte ^ 1 for byte in range(256))
"""Translates what is easy to itself: for a short text that is sooner seen than matched."""
_OBJECT = re.compile(rb"\{[\x20-\x7e]*\}").fullmatch


_OF_CHUNKS = frozenset(
    (
        "id",
        "object",
        "created",
        "model",
        "system_fingerprint",
        "service_tier",
        "provider",
        "choices",
        "usage",
        *_FILLERS,
    )
)
_OF_CHOICES = frozenset(("index", "delta", "text", "finish_reason", "native_finish_reason", "logprobs"))
_GRADES = frozenset(("safe", "low", "medium", "high"))
"""What content filters say of each category."""


Pieces = tuple[bytes, bytes, bytes, bytes, bytes, bytes]
"""A frame's constant bytes around at most two holes, as it came, and the same as it goes out."""


class Shape(NamedTuple):
    """head + text + middle + filler + tail; `middle` is empty where there is no second hole (`obfuscation`).

    `tail` ends with the frame's blank line.
    """

    head: bytes
    middle: bytes
    tail: bytes
    head_out: bytes
    middle_out: bytes
    tail_out: bytes
    left: int
    right: int
    """How much is before a text, and behind it."""

    @classmethod
    def of(cls, found: Pieces) -> Shape:
        """The shape of these pieces."""
        return cls(*found, len(found[0]), len(found[2]))

    def take(self, data: bytes, *, empty: bool = True) -> Batch | None:
        """As many whole frames of this shape as `data` begins with, edited; None when there is none.

        `empty`: also those whose text is empty.
        """
        head, middle, tail, head_out, _, tail_out, left, right = self
        if not data.startswith(head):
            return None
        if not middle and data.endswith(tail):  # most often: one frame
            text = data[left:-right]
            if is_easy(text):
                size, whole = len(text), len(data)
                if left + size + right == whole and (size or empty):  # they do not overlap
                    return Batch(head_out + text + tail_out, 1, 1, size, whole)
        texts = self._texts(data)
        if not empty and b"" in texts:
            texts = texts[: texts.index(b"")]
        said = b"".join(texts)
        if middle or not is_easy(said):
            texts = list(takewhile(self._is_plain, texts))
            said = b"".join(texts)
        if not texts:
            return None
        count = len(texts)
        used = count * (left + right) + len(said)
        if middle:
            texts, said = self._refilled(texts)
        out = head_out + (tail_out + head_out).join(texts) + tail_out
        text_bytes = len(said) if b"\\" not in said else bodies.text_bytes(b'"' + said + b'"')
        return Batch(escape_separators(out), count, count, text_bytes, used)

    def _texts(self, data: bytes) -> list[bytes]:
        """The texts of the whole frames of this shape that `data` begins with.

        Cut at the end of the tail, since looking for all that is between two texts would take three times as long.
        """
        head, tail = self.head, self.tail
        end = tail[-_SHORT:]
        rest = tail[: -len(end)]
        left, right = len(head), -len(rest) or None
        pieces = data.split(end)
        pieces.pop()
        texts = [piece[left:right] for piece in pieces]
        if not texts or data.startswith(head + (tail + head).join(texts) + tail):
            return texts
        fit = takewhile(lambda p: len(p) >= left + len(rest) and p.startswith(head) and p.endswith(rest), pieces)
        return [piece[left:right] for piece in fit]

    def _is_plain(self, text: bytes) -> bool:
        """Whether the text (and its filler) is the inside of a JSON string."""
        if self.middle:
            text, found, filler = text.partition(self.middle)
            if not found or not is_text(filler):
                return False
        return is_text(text)

    def _refilled(self, texts: list[bytes]) -> tuple[list[bytes], bytes]:
        """The texts with what goes out between them and their fillers; the texts alone."""
        parts = [text.partition(self.middle) for text in texts]
        return [text + self.middle_out + filler for text, _, filler in parts], b"".join([text for text, _, _ in parts])


class Found(NamedTuple):
    """A frame without a text: where it ends, its bytes as they go out, the reason or the usage in it.

    No bytes: the caller does not get it.
    """

    end: int
    data: bytes
    reason: str | None
    usage: dict[str, Any] | None


class Lone(NamedTuple):
    """A frame without a text, behind what all frames begin with. Its holes are a usage and a filler, or less.

    It is the first one of its choice, or has the `reason` why that ended, or else the usage. The caller does not get
    one that is `hidden`.
    """

    head: bytes
    middle: bytes
    tail: bytes
    head_out: bytes
    middle_out: bytes
    tail_out: bytes
    first: bool
    reason: str | None
    hidden: bool

    def found(self, data: bytes, at: int, goes: bytes) -> Found | None:
        """The frame that goes on there; None when it is another. `goes`: what all frames begin with as they go out."""
        head, middle, tail, head_out, middle_out, tail_out, first, reason, hidden = self
        if not data.startswith(head, at):
            return None
        if not tail:  # there is no hole
            return Found(at + len(head), goes + head_out, reason, None)
        end = data.find(b"\n\n", at) + 2
        begins, stops = at + len(head), end - len(tail)
        if stops < begins or not data.startswith(tail, stops):
            return None
        hole, between, filler = data[begins:stops].partition(middle) if middle else (data[begins:stops], b"", b"")
        if between != middle or not is_easy(filler):
            return None
        counts = reason is None and not first
        usage = _usage(hole) if counts else None
        if usage is None and (counts or not is_easy(hole)):
            return None
        return Found(end, b"" if hidden else goes + head_out + hole + middle_out + filler + tail_out, reason, usage)


def _usage(data: bytes) -> dict[str, Any] | None:
    """An object as providers write usage; None for what may need an edit on its way."""
    if not _OBJECT(data) or b'"model"' in data:
        return None
    try:
        return _decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None


def is_text(data: bytes) -> bool:
    """Whether it is the inside of a JSON string, in UTF-8; what is not is for whoever decodes the frame."""
    if is_easy(data):
        return True
    if not _TEXT(data):
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def pieces(frame: Frame, made: Frame | None, holes: list[bytes]) -> Pieces | None:
    """The constant bytes of a frame that goes out as `made`, None: not at all. None where they cannot be told.

    `holes` are members of its JSON with names, of which what is behind the colon is left out, less its quotes.
    """
    raw = frame.raw
    if raw is None or frame.event:
        return None
    before = _cut(raw, holes)
    after = _cut(encode(made), holes) if made is not None else (b"", b"", b"")
    if before is None or after is None:
        return None
    constant = b"".join(before)
    if b"\r" in constant or constant.count(b"\n") != 2 or not constant.endswith(b"\n\n"):
        return None
    return (*before, *after) if before != after else (*before, *before)


def around(text: str, frame: Frame, made: Frame) -> Shape | None:
    """The shape of a frame with this text that goes out in other words: `made`, with the same text in it.

    None for one that may say something of a tool call besides, which is remembered.
    """
    raw, hole = frame.raw, _encode(text)
    if raw is None or b"\\" in hole or raw.count(hole) != 1:
        return None
    out = encode(made)
    if out.count(hole) != 1:
        return None
    if b"_call" in raw or b"\r" in raw or raw.count(b"\n\n") != 1 or not raw.endswith(b"\n\n"):
        return None
    (head, _, tail), (head_out, _, tail_out) = raw.partition(hole), out.partition(hole)
    return Shape.of((head + b'"', b"", b'"' + tail, head_out + b'"', b"", b'"' + tail_out))


def is_usual(chunk: dict[str, Any]) -> bool:
    """Whether an edited chunk has only members of which it is known what they say.

    What others say may be of the answer (search results, citations), which is not to be kept for other streams.
    """
    choices = [item for choice in chunk["choices"] for item in choice.items()]
    return all(name in _OF_CHUNKS or _is_silent(value) for name, value in chunk.items()) and all(
        name in _OF_CHOICES or _is_silent(value) for name, value in choices
    )


def _is_silent(value: Any) -> bool:
    """Whether it is nothing, a number or a grade, however deep."""
    if isinstance(value, dict | list):
        return all(map(_is_silent, value.values() if isinstance(value, dict) else value))
    return not value or isinstance(value, int | float) or value in _GRADES


def text_holes(chunk: dict[str, Any]) -> list[bytes] | None:
    """The texts that differ from frame to frame, in order, with the names before them: `"content":"Hel`."""
    choices = chunk["choices"]
    if len(choices) != 1 or choices[0].get("finish_reason") is not None:
        return None
    if chunk.get("usage") is not None or "x_groq" in chunk:  # usage is read, and an empty text beside it tells it
        return None
    choice = choices[0]
    delta = choice["delta"] if "delta" in choice else {"text": choice.get("text")}  # legacy completions have no delta
    said = [(name, text) for name, text in delta.items() if text]
    if len(said) != 1 or choice.get("logprobs"):
        return None
    ((name, text),) = said
    if name not in ("content", "reasoning_content", "text") or not isinstance(text, str) or not text:
        return None
    hole = _hole(name, text)
    filler = filler_holes(chunk)
    return None if hole is None or filler is None else [hole, *filler]


def lone_holes(frame: Frame, chunk: dict[str, Any]) -> list[bytes] | None:
    """What differs in a frame that brings no text; None where it is of no known kind."""
    choices, usage = chunk["choices"], chunk.get("usage")
    filler = filler_holes(chunk)
    if filler is None or "x_groq" in chunk:
        return None
    if not choices:
        raw = (bodies.inner_members(frame.data) or {}).get("usage")
        if raw is None or not usage or not isinstance(usage, dict):
            return None
        return [b'"usage":' + bytes(raw), *filler]
    if usage or len(choices) != 1 or choices[0].get("index") != 0:
        return None
    said = {"logprobs": choices[0].get("logprobs"), **(choices[0].get("delta") or {}), "role": None}
    return None if any(said.values()) else filler


def filler_holes(chunk: dict[str, Any]) -> list[bytes] | None:
    """The member that only hides how long a text is, if there is one."""
    for name in _FILLERS:
        filler = chunk.get(name)
        if isinstance(filler, str):
            hole = _hole(name, filler)
            return None if hole is None else [hole]
    return []


def _hole(name: str, text: str) -> bytes | None:
    inner = _encode(text)[1:-1]
    if b'"' in inner or b"\\" in inner:
        return None
    return b'"' + name.encode() + b'":"' + inner + b'"'


def _cut(raw: bytes, holes: list[bytes]) -> tuple[bytes, bytes, bytes] | None:
    """The constant bytes around the holes, or None when they are not found exactly once and in order."""
    if any(raw.count(hole) != 1 for hole in holes):
        return None
    if not holes:
        return raw, b"", b""
    start, end = _span(raw, holes[0])
    if len(holes) == 1:
        return raw[:start], b"", raw[end:]
    second, last = _span(raw, holes[1])
    if second < end:
        return None
    return raw[:start], raw[end:second], raw[last:]


def _span(raw: bytes, hole: bytes) -> tuple[int, int]:
    """Where what is behind the name is, less the quotes of a text."""
    at = raw.index(hole)
    begins = hole.index(b'":') + 2
    quote = hole[begins : begins + 1] == b'"'
    return at + begins + quote, at + len(hole) - quote
