"""The short way of what nearly all reads of a stream are: one chunk with one frame that is like those before it.

Such a read needs no reader, no line and no decision, only its text looked at. A chunk costs what is touched for it,
since most of that the processor has to fetch: so everything is here in one step, from the chunk as it came to the
chunk as it goes out. What is anything else is not taken, and goes the long way (`connection`, `answer`, `relay`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Protocol

from twisted_gateway.exchange import Exchange
from twisted_gateway.formats.bodies import text_bytes
from twisted_gateway.formats.shapes import Shape, is_easy, is_text
from twisted_gateway.wire.framing import CHUNK_SIZES
from twisted_gateway.wire.sse import escape_separators

_LINES = (b"", *CHUNK_SIZES)
"""Chunk sizes as they are written."""
_CLOSED: tuple[Any, ...] = ((), b"", 0, 0, 0, b"", b"", 0)
"""Nothing begins with any of these."""


class Way(Protocol):
    """Where the chunks of an answer go: the caller's connection."""

    written: int
    transport: Any


class Lane:
    """What carries the usual chunks of one answer while it is open. `relay` opens and closes it.

    `at` is when it last carried one, in seconds of `now`; `text_bytes` is how much since the relay looked; `vain` is
    how many times in a row it was opened for nothing.
    """

    __slots__ = (
        "_exchange", "_heard", "_learnt", "_middle", "_middle_out", "_now", "_opened", "_shape", "_way", "at",
        "text_bytes", "vain",
    )  # fmt: skip

    def __init__(self, way: Way, exchange: Exchange, learnt: Any, now: Callable[[], float]) -> None:
        self._way = way
        self._exchange = exchange
        self._learnt = learnt
        self._heard: Callable[[int], None] | None = getattr(learnt, "heard", None)
        self._now = now
        self._shape = _CLOSED
        self._middle = self._middle_out = b""
        self.at = self._opened = -inf
        self.text_bytes = 0
        self.vain = -1

    def open(self, shape: Shape) -> None:
        """Carry frames of this shape."""
        self.vain = self.vain + 1 if self.at == self._opened else 0
        self._opened = self.at
        self._middle, self._middle_out = shape.middle, shape.middle_out
        self._shape = (
            shape.head,
            shape.tail + b"\r\n",
            2 + shape.left,
            -2 - shape.right,
            shape.left + shape.right,
            b"\r\n" + shape.head_out,
            shape.tail_out + b"\r\n",
            len(shape.head_out) + len(shape.tail_out),
        )

    def close(self) -> None:
        """Carry nothing."""
        self._shape = _CLOSED

    def read(self, data: bytes) -> bool:
        """One read of the provider's connection between two chunks; False when it is to go the long way."""
        head, tail, begins, ends, around, head_out, tail_out, around_out = self._shape
        end = data.find(b"\r\n")
        if not data.startswith(head, end + 2) or not data.endswith(tail):
            return False
        text = data[end + begins : ends]
        told = size = len(text)
        if not size:
            return False
        if self._middle or not is_easy(text):
            told = self._size(text)
            if told < 0:
                return False
        try:
            if data[:end] != _LINES[size + around]:
                return False
            if self._middle:
                text = text.replace(self._middle, self._middle_out)
            frame = len(text) + around_out
            data = b"".join((_LINES[frame], head_out, text, tail_out))
        except IndexError:
            return False
        self.at = self._now()
        self.text_bytes += told
        if self._heard is None:
            self._learnt.text_bytes += told
        else:
            self._heard(told)
        exchange, way = self._exchange, self._way
        exchange.frames += 1
        exchange.bytes += frame
        way.written += len(data)
        way.transport.write(data)
        return True

    def _size(self, text: bytes) -> int:
        """UTF-8 bytes of the text, where that is not easy to tell; -1 where the frame is better decoded."""
        if self._middle:
            text, found, filler = text.partition(self._middle)
            if not text or not found or not is_easy(filler):
                return -1
        if not is_text(text) or escape_separators(text) is not text:
            return -1
        return len(text) if b"\\" not in text else text_bytes(b'"' + text + b'"')
