"""How the body of an HTTP/1.1 message is framed, the same for both sides: counted, or in chunks. Sans-IO.

Strict (RFC 9112): what is ambiguous is refused, since a misread frame would give one caller another caller's answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

MAX_HEAD = 65_536
_MAX_CHUNK_LINE = 4_096
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
HEADER_LINES = re.compile(rb"(?:\r\n" + TOKEN + rb":[\t\x20-\x7e\x80-\xff]*)*")
"""Header lines, each with the line end before it."""
_NAME = re.compile(TOKEN)
BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_PADDED_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_NAMES = b"""accept accept-encoding authorization cache-control connection content-length content-type date host
server transfer-encoding user-agent x-api-key x-request-id""".split()
_USUAL = {spelling: name for name in _NAMES for spelling in (name, name.title())}
"""One object for a name that is in every message."""
_FEW_BYTES = 1024
CHUNK_SIZES = {b"%x" % size: size for size in range(1, 2048)}
"""Usual sizes of chunks, as they are written."""
_LAST_CHUNK = b"\r\n0\r\n\r\n"
Headers = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, and values, in the order of the message."""


class Malformed(Exception):
    """The peer sent what HTTP/1.1 does not allow, or more than we take."""


class Body:
    """The part of a reader that knows where a body ends.

    Each state takes (data, position, parts), appends the body's bytes to `parts`, and gives the new position, or -1
    when it needs more bytes than there are. `finished` is set with the body's last byte.
    """

    __slots__ = ("_left", "_state", "_total", "finished")

    _sizes = _PADDED_SIZE
    """What a chunk's line may look like."""

    _left: int
    _state: Callable[[Any, bytes, int, list[bytes]], int]  # a function, no bound one: that would be a cycle
    _total: int
    finished: bool

    def _counted(self, data: bytes, at: int, parts: list[bytes]) -> int:
        piece = data[at : at + self._left]
        self._left -= len(piece)
        parts.append(piece)
        self.finished = self._left == 0
        return at + len(piece)

    def _chunk_size(self, data: bytes, at: int, parts: list[bytes]) -> int:
        """Chunks, as many as are there in whole: a read of a busy stream holds hundreds."""
        find, startswith = data.find, data.startswith
        begun = at
        if len(data) - at > _FEW_BYTES:
            at = _plain_chunks(data, at, parts)
        last = b"\n"  # never a line
        size = 0
        while True:
            end = find(b"\r\n", at)
            if end < 0:
                if len(data) - at > _MAX_CHUNK_LINE:
                    raise Malformed("a chunk line of more than 4 KiB")
                return at if at > begun else -1
            line = data[at:end]
            if line != last:
                last, size = line, _chunk_length(line, self._sizes)
            start = end + 2
            after = start + size
            if not size:
                self._state = Body._trailer
                return start
            if not startswith(b"\r\n", after):
                self._left = size
                self._state = Body._chunk_data
                return start
            parts.append(data[start:after])
            at = after + 2

    def _one_chunk(self, data: bytes) -> bytes | None:
        """What a read most often is when chunks come slowly: one of them, and nothing else. Else None."""
        end = data.find(b"\r\n")
        if end <= 0 or not data.endswith(b"\r\n"):
            return None
        start = end + 2
        size = CHUNK_SIZES.get(data[:end]) or _chunk_length(data[:end], self._sizes)
        return data[start:-2] if size and start + size + 2 == len(data) else None

    def _chunk_data(self, data: bytes, at: int, parts: list[bytes]) -> int:
        have = len(data) - at
        left = self._left
        if have < left:
            parts.append(data[at:])
            self._left = left - have
            return len(data)
        if left:
            parts.append(data[at : at + left])
            self._left = 0
        end = at + left
        self._state = Body._chunk_end
        return end if have > left else len(data)

    def _chunk_end(self, data: bytes, at: int, parts: list[bytes]) -> int:
        if len(data) - at < 2:
            if data[at:] != b"\r":
                raise Malformed("no line end after a chunk")
            return -1
        if data[at : at + 2] != b"\r\n":
            raise Malformed("no line end after a chunk")
        self._state = Body._chunk_size
        return at + 2

    def _trailer(self, data: bytes, at: int, parts: list[bytes]) -> int:
        end = data.find(b"\r\n", at)
        if end < 0:
            if len(data) - at > MAX_HEAD:
                raise Malformed("trailers of more than 64 KiB")
            return -1
        if end == at:
            self.finished = True
        else:
            self._total += end - at
            if self._total > MAX_HEAD:
                raise Malformed("trailers of more than 64 KiB")
            _header(data[at:end])
        return end + 2


def _plain_chunks(data: bytes, at: int, parts: list[bytes]) -> int:
    """All chunks of a read at once, if they are what a stream's are: small, and no line end in them.

    Gives the position behind them, `at` if they are others. What is behind the last whole one is left.
    """
    line_end = data.find(b"\r\n", at)
    size = CHUNK_SIZES.get(data[at:line_end])
    if size is None or data.find(b"\r\n", line_end + 2) != line_end + 2 + size:  # the first one tells
        return at
    end = len(data) - 5 if data.endswith(_LAST_CHUNK) else len(data)
    pieces = data[at:end].split(b"\r\n")
    left = 1 if len(pieces) % 2 else 2  # a size alone, perhaps empty, or with some of its chunk
    lines, chunks = pieces[:-left:2], pieces[1:-left:2]
    if list(map(len, chunks)) != list(map(CHUNK_SIZES.get, lines)):
        return at
    parts += chunks
    return end - len(pieces[-1]) - (len(pieces[-2]) + 2 if left == 2 else 0)


def _chunk_length(line: bytes, sizes: re.Pattern[bytes]) -> int:
    if line.isalnum() and len(line) < 16 and line[1:2] not in (b"x", b"X"):  # `int` tells the rest, but takes `0x`
        try:
            return int(line, 16)
        except ValueError:
            pass
    match = sizes.fullmatch(line)
    if match is None:
        raise Malformed("an invalid chunk size")
    return int(match[1], 16)


def header_pairs(lines: list[bytes]) -> Headers:
    """Header lines that `HEADER_LINES` has matched."""
    pairs = []
    for line in lines:
        name, _, value = line.partition(b":")
        pairs.append((_USUAL.get(name) or name.lower(), value.strip(b" \t")))
    return tuple(pairs)


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    value = value.strip(b" \t")
    if not colon or _NAME.fullmatch(name) is None or BAD_VALUE.search(value):
        raise Malformed("an invalid header line")
    return name.lower(), value
