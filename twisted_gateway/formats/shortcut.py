"""Frames that differ from one before in a text alone need no JSON: they are recognised by their bytes.

A decoded and edited frame teaches a `_Shape`: the constant bytes around its text, as they came and as they went out.
A later frame with exactly these around a text without a bare quote in it is the same JSON but for that text, so it
needs the same edits. A frame that is not recognised is decoded like the first one: a shortcut never changes what is
written, only what it costs (`DESIGN.md` section 4, road (a)).
"""

from __future__ import annotations

from typing import Any

import attrs
import msgspec

from twisted_gateway.wire.sse import Frame, encode, escape_separators

_MOST = 4
_encode = msgspec.json.Encoder().encode


@attrs.frozen
class _Shape:
    """head + text + middle + filler + tail; `middle` is empty where there is no second hole (`obfuscation`)."""

    head: bytes
    middle: bytes
    tail: bytes
    head_out: bytes
    middle_out: bytes
    tail_out: bytes
    around: int
    """Length of all that is constant."""


class Shortcuts:
    """The shapes of one stream: a few at most, as choices and channels may take turns."""

    __slots__ = ("_lessons", "_shapes")

    def __init__(self) -> None:
        self._shapes: list[_Shape] = []
        self._lessons = 0

    def take(self, frame: Frame) -> tuple[Frame, int] | None:
        """The frame as it goes out and the bytes of its text, if its shape is known."""
        raw = frame.raw
        if raw is None:
            return None
        for shape in self._shapes:
            if len(raw) >= shape.around and raw.startswith(shape.head) and raw.endswith(shape.tail):
                inner = raw[len(shape.head) : len(raw) - len(shape.tail)]
                filler = b""
                if shape.middle:
                    inner, found, filler = inner.partition(shape.middle)
                    if not found or b'"' in filler or filler[-1:] == b"\\":
                        continue
                if b'"' in inner or inner[-1:] == b"\\":
                    continue
                text = inner if inner.isascii() else escape_separators(inner)
                out = b"".join((shape.head_out, text, shape.middle_out, filler, shape.tail_out))
                return Frame(b"", b"", out), len(inner)
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
        self._shapes.append(_Shape(*before, *after, around=sum(map(len, before))))


def _holes(chunk: dict[str, Any]) -> list[bytes] | None:
    """The texts that differ from frame to frame, in order, with the names before them: `"content":"Hel`."""
    choices = chunk["choices"]
    if len(choices) != 1 or chunk.get("usage") or choices[0].get("finish_reason") is not None:
        return None
    said = [(name, text) for name, text in choices[0]["delta"].items() if text]
    if len(said) != 1 or choices[0].get("logprobs"):
        return None
    ((name, text),) = said
    if name not in ("content", "reasoning_content") or not isinstance(text, str) or not text:
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
