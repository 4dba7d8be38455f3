"""Frames that differ from one before in a text alone need no JSON: they are recognised by their bytes.

A decoded and edited frame teaches a `_Shape`: the constant bytes around its text, as they came and as they went out.
A later frame with exactly these around a text without a bare quote in it is the same JSON but for that text, so it
needs the same edits. A frame that is not recognised is decoded like the first one: a shortcut never changes what is
written, only what it costs (`DESIGN.md` section 4, road (a)).
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Any, NamedTuple

import attrs
import msgspec

from twisted_gateway.wire.sse import Frame, encode, escape_separators

_MOST = 4
_SHORT = 20
_encode = msgspec.json.Encoder().encode
_EASY = re.compile(rb"[\x20\x21\x23-\x5b\x5d-\x7e]*").fullmatch
_TEXT = re.compile(rb'(?:[^\x00-\x1f\\"]|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4})*').fullmatch
"""The inside of a JSON string: without anything special, and in general; surrogates are left to the decoder."""


class Taken(NamedTuple):
    """Frames that were recognised: their bytes for the caller, how many, the bytes of their text, the bytes used up."""

    data: bytes
    frames: int
    text_bytes: int
    used: int


@attrs.frozen
class _Shape:
    """head + text + middle + filler + tail; `middle` is empty where there is no second hole (`obfuscation`).

    `tail` ends with the frame's blank line.
    """

    head: bytes
    middle: bytes
    tail: bytes
    head_out: bytes
    middle_out: bytes
    tail_out: bytes
    around: int
    """Length of head and tail."""

    def take(self, data: bytes) -> Taken | None:
        """As many whole frames of this shape as `data` begins with, edited; None when there is none."""
        if not data.startswith(self.head):
            return None
        if not self.middle and data.endswith(self.tail) and len(data) >= self.around:  # most often: one frame
            text = data[len(self.head) : len(data) - len(self.tail)]
            if _EASY(text):
                return Taken(self.head_out + text + self.tail_out, 1, len(text), len(data))
        texts = self._texts(data)
        if self.middle or not _EASY(b"".join(texts)):
            texts = list(takewhile(self._is_plain, texts))
        return self._edited(texts) if texts else None

    def _texts(self, data: bytes) -> list[bytes]:
        """The texts of the whole frames of this shape that `data` begins with.

        Cut at the end of the tail, since looking for all that is between two texts would take three times as long.
        """
        end = self.tail[-_SHORT:]
        rest = self.tail[: -len(end)]
        left, right = len(self.head), -len(rest) or None
        pieces = data.split(end)
        pieces.pop()
        texts = [piece[left:right] for piece in pieces]
        if not texts or data.startswith(self.head + (self.tail + self.head).join(texts) + self.tail):
            return texts
        fit = takewhile(lambda p: len(p) >= left + len(rest) and p.startswith(self.head) and p.endswith(rest), pieces)
        return [piece[left:right] for piece in fit]

    def _is_plain(self, text: bytes) -> bool:
        """Whether the text (and its filler) is the inside of a JSON string."""
        if self.middle:
            text, found, filler = text.partition(self.middle)
            if not found or not _is_text(filler):
                return False
        return _is_text(text)

    def _edited(self, texts: list[bytes]) -> Taken:
        count = len(texts)
        text_bytes = sum(map(len, texts))
        used = count * self.around + text_bytes
        if self.middle:
            parts = [text.partition(self.middle) for text in texts]
            text_bytes = sum(len(text) for text, _, _ in parts)
            texts = [text + self.middle_out + filler for text, _, filler in parts]
        out = self.head_out + (self.tail_out + self.head_out).join(texts) + self.tail_out
        return Taken(escape_separators(out), count, text_bytes, used)


def _is_text(data: bytes) -> bool:
    """Whether it is the inside of a JSON string, in UTF-8; what is not is for whoever decodes the frame."""
    if _EASY(data):
        return True
    if not _TEXT(data):
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class Shortcuts:
    """The shapes of one stream: a few at most, as choices and channels may take turns."""

    __slots__ = ("_lessons", "_shapes")

    def __init__(self) -> None:
        self._shapes: list[_Shape] = []
        self._lessons = 0

    def take(self, data: bytes) -> Taken | None:
        """The frames of one known shape that `data` begins with, as they go out; None when it begins otherwise."""
        for shape in self._shapes:
            taken = shape.take(data)
            if taken is not None:
                return taken
        return None

    def learn(self, frame: Frame, made: Frame, chunk: dict[str, Any]) -> None:
        """Takes the shape of a frame that was decoded as `chunk` and goes out as `made`, if it has one."""
        if frame.raw is None or frame.event or len(self._shapes) >= _MOST or self._lessons > 4 * _MOST:
            return
        holes = _holes(chunk)
        if holes is None:
            return
        self._lessons += 1
        before, after = _cut(frame.raw, holes), _cut(encode(made), holes)
        if before is None or after is None:
            return
        constant = b"".join(before)
        if b"\r" in constant or constant.count(b"\n") != 2:
            return
        head, middle, tail = (old if old == new else new for old, new in zip(before, after, strict=True))  # once
        self._shapes.append(_Shape(*before, head, middle, tail, len(before[0]) + len(before[2])))


def _holes(chunk: dict[str, Any]) -> list[bytes] | None:
    """The texts that differ from frame to frame, in order, with the names before them: `"content":"Hel`."""
    choices = chunk["choices"]
    if len(choices) != 1 or chunk.get("usage") or choices[0].get("finish_reason") is not None:
        return None
    choice = choices[0]
    delta = choice["delta"] if "delta" in choice else {"text": choice.get("text")}  # legacy completions have no delta
    said = [(name, text) for name, text in delta.items() if text]
    if len(said) != 1 or choice.get("logprobs"):
        return None
    ((name, text),) = said
    if name not in ("content", "reasoning_content", "text") or not isinstance(text, str) or not text:
        return None
    holes = [_hole(name, text)]
    filler = chunk.get("obfuscation")
    if isinstance(filler, str):
        holes.append(_hole("obfuscation", filler))
    return None if any(hole is None for hole in holes) else [hole for hole in holes if hole is not None]


def _hole(name: str, text: str) -> bytes | None:
    inner = _encode(text)[1:-1]
    if b'"' in inner or b"\\" in inner:
        return None
    return b'"' + name.encode() + b'":"' + inner + b'"'


def _cut(raw: bytes, holes: list[bytes]) -> tuple[bytes, bytes, bytes] | None:
    """The constant bytes around the holes, or None when they are not found exactly once and in order."""
    if any(raw.count(hole) != 1 for hole in holes):
        return None
    start, end = _span(raw, holes[0])
    if len(holes) == 1:
        return raw[:start], b"", raw[end:]
    second, last = _span(raw, holes[1])
    if second < end:
        return None
    return raw[:start], raw[end:second], raw[last:]


def _span(raw: bytes, hole: bytes) -> tuple[int, int]:
    at = raw.index(hole)
    return at + hole.index(b'":"') + 3, at + len(hole) - 1
