"""The short way of what nearly all reads of a stream are: one chunk with one frame that is like those before it.

Such a read needs no reader, no line and no decision, only its text looked at. A chunk costs what is touched for it,
since most of that the processor has to fetch: so everything is here in one step, from the chunk as it came to the
chunk as it goes out. What is anything else is not taken, and goes the long way (`connection`, `answer`, `relay`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted_gateway.exchange import Exchange
from twisted_gateway.formats.bodies import text_bytes
from twisted_gateway.formats.shapes import Shape, is_easy, is_text
from twisted_gateway.wire.framing import CHUNK_SIZES

_LINES = (b"", *CHUNK_SIZES)
"""Chunk sizes as they are written."""
_LONGEST = len(_LINES) - 1
_SEPARATORS = b"\xe2\x80"
"""Begins the line separators that are escaped on their way out (`streaming.md` 2)."""
_CLOSED: tuple[bytes, ...] = ()
"""Nothing begins with any of these."""


class Way(Protocol):
    """Where the chunks of an answer go: the caller's connection."""

    written: int
    transport: Any


class Lane:
    """What carries the usual chunks of one answer while it is open. `relay` opens and closes it.

    `at` is when it last carried one, in seconds of `now`; `text_bytes` is how much since the relay looked.
    """

    __slots__ = (
        "_around", "_around_out", "_exchange", "_head", "_head_out", "_heard", "_learnt", "_left", "_middle", "_middle_out",
        "_now", "_right", "_tail", "_tail_out", "_way", "at", "text_bytes",
    )  # fmt: skip

    def __init__(self, way: Way, exchange: Exchange, learnt: Any, now: Callable[[], float]) -> None:
        self._way = way
        self._exchange = exchange
        self._learnt = learnt
        self._heard: Callable[[int], None] | None = getattr(learnt, "heard", None)
        self._now = now
        self._head: bytes | tuple[bytes, ...] = _CLOSED
        self.at = now()
        self.text_bytes = 0

    def open(self, shape: Shape) -> None:
        """Carry frames of this shape."""
        self._head = shape.head
        self._left = 2 + shape.left
        self._tail = shape.tail + b"\r\n"
        self._right = shape.right + 2
        self._middle = shape.middle
        self._head_out = b"\r\n" + shape.head_out
        self._middle_out = shape.middle_out
        self._tail_out = shape.tail_out + b"\r\n"
        self._around = shape.left + shape.right
        self._around_out = len(shape.head_out) + len(shape.tail_out)

    def close(self) -> None:
        """Carry nothing."""
        self._head = _CLOSED

    def read(self, data: bytes) -> bool:
        """One read of the provider's connection between two chunks; False when it is to go the long way."""
        end = data.find(b"\r\n")
        if not data.startswith(self._head, end + 2) or not data.endswith(self._tail):
            return False
        text = data[end + self._left : -self._right]
        size = len(text)
        if not size or CHUNK_SIZES.get(data[:end]) != size + self._around:
            return False
        told = size
        if self._middle or not is_easy(text):
            told = self._size(text)
            if told < 0:
                return False
            if self._middle:
                text = text.replace(self._middle, self._middle_out)
                size = len(text)
        frame = size + self._around_out
        if frame > _LONGEST:
            return False
        data = b"".join((_LINES[frame], self._head_out, text, self._tail_out))
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
        if not is_text(text) or _SEPARATORS in text:
            return -1
        return len(text) if b"\\" not in text else text_bytes(b'"' + text + b'"')
