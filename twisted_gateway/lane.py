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
from twisted_gateway.formats.shapes import EASY, Shape, is_easy, is_text
from twisted_gateway.wire.framing import CHUNK_SIZES
from twisted_gateway.wire.sse import escape_separators

_LINES = (b"", *CHUNK_SIZES)
"""Chunk sizes as they are written, by size."""
_BY_READ = [b"-" * 4096] * (len(_LINES) + 8)
"""The same by the length of a whole chunk with its size and line ends; too long where no chunk is as long as that."""
for _size, _line in enumerate(_LINES[1:], 1):
    _BY_READ[len(_line) + _size + 4] = _line


class Way(Protocol):
    """Where the chunks of an answer go: the caller's connection."""

    written: int
    transport: Any
    lane: Lane | None
    """What carries chunks past it: they are in its own `written` before it is settled."""


class Lane:
    """What carries the usual chunks of one answer while it is open. `relay` opens and closes it.

    `to` is the transport it leads to; `at` is when it last carried a chunk, in seconds of `now`; `vain` is how many
    times in a row it was opened for nothing. What it has carried is added up when `relay` asks (`settle`), who alone
    does; `written` is what the way has not counted yet.
    """

    __slots__ = (
        "_bytes", "_exchange", "_frames", "_heard", "_learnt", "_middle", "_middle_out", "_now", "_opened", "_shape",
        "_text_bytes", "_way", "at", "to", "vain", "written",
    )  # fmt: skip

    def __init__(self, way: Way, exchange: Exchange, learnt: Any, now: Callable[[], float]) -> None:
        self._way = way
        self.to = way.transport
        self._exchange = exchange
        self._learnt = learnt
        self._heard: Callable[[int], None] | None = getattr(learnt, "heard", None)
        self._now = now
        self._shape: tuple[Any, ...] | None = None
        self._middle = self._middle_out = b""
        self.at = self._opened = -inf
        self._frames = self._bytes = self.written = self._text_bytes = 0
        self.vain = -1

    def open(self, shape: Shape) -> None:
        """Carry frames of this shape."""
        self.vain = self.vain + 1 if self.at == self._opened else 0
        self._opened = self.at
        self._middle, self._middle_out = shape.middle, shape.middle_out
        self._shape = (
            b"\r\n" + shape.head,
            shape.tail + b"\r\n",
            2 + shape.left,
            -2 - shape.right,
            b"\r\n" + shape.head_out,
            shape.tail_out + b"\r\n",
            len(shape.head_out) + len(shape.tail_out),
        )
        self._way.lane = self

    def close(self) -> int:
        """Carry nothing. Gives what `settle` does."""
        if self._shape is None:
            return 0
        self._shape = self._way.lane = None
        return self.settle()

    def settle(self) -> int:
        """Count what was carried since the last time; gives the UTF-8 bytes of its text."""
        exchange, text_bytes = self._exchange, self._text_bytes
        exchange.frames += self._frames
        exchange.bytes += self._bytes
        self._way.written += self.written
        if self._heard is None:
            self._learnt.text_bytes += text_bytes
        elif text_bytes:
            self._heard(text_bytes)
        self._frames = self._bytes = self.written = self._text_bytes = 0
        return text_bytes

    def carry(self, data: bytes) -> bytes | None:
        """One read of the provider's connection between two chunks, as it goes out; None: it is to go the long way."""
        if self._shape is None:
            return None
        head, tail, begins, ends, head_out, tail_out, around_out = self._shape
        try:
            line = _BY_READ[len(data)]
            text = data[len(line) + begins : ends]
            if not text or b"".join((line, head, text, tail)) != data:
                return None
            told = len(text)
            if self._middle or text.translate(EASY) != text:
                told = self._size(text)
                if told < 0:
                    return None
                text = text.replace(self._middle, self._middle_out) if self._middle else text
            frame = len(text) + around_out
            data = b"".join((_LINES[frame], head_out, text, tail_out))
        except IndexError:  # it is too long
            return None
        self.at = self._now()
        self._frames += 1
        self._bytes += frame
        self.written += len(data)
        self._text_bytes += told
        return data

    def read(self, data: bytes) -> bool:
        """Carry that, if it can be; gives whether it was."""
        out = self.carry(data)
        if out is not None:
            self.to.write(out)
        return out is not None

    def _size(self, text: bytes) -> int:
        """UTF-8 bytes of the text, where that is not easy to tell; -1 where the frame is better decoded."""
        if self._middle:
            text, found, filler = text.partition(self._middle)
            if not text or not found or not is_easy(filler):
                return -1
        if not is_text(text) or escape_separators(text) is not text:
            return -1
        return len(text) if b"\\" not in text else text_bytes(b'"' + text + b'"')
