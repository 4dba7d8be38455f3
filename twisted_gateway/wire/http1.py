"""The client's side of HTTP/1.1, sans-IO: a request to bytes, bytes of a response to head and body.

Strict (RFC 9112): what is ambiguous is refused, since a misread frame would give one caller another caller's answer.
A `ResponseReader` gives one batch of body bytes per read, however many chunks the read held.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs

MAX_HEAD = 65_536
_MAX_CHUNK_LINE = 4_096
_MOST_HEADS = 100
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NAMES = re.compile(_NAME.pattern + rb"|")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HEADER_LINES = re.compile(rb"(?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*)*")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")


class Malformed(Exception):
    """The peer sent what HTTP/1.1 does not allow, or more than we take."""


@attrs.frozen
class Head:
    """Status line and headers of a response; names are lower case."""

    minor: int
    status: int
    phrase: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    def values(self, name: bytes) -> list[bytes]:
        """All values of one header (lower case), in order."""
        return [value for key, value in self.headers if key == name]


def request_head(method: bytes, path: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The bytes of a request's head. Raises `Malformed` for anything that would break its lines."""
    given = list(headers)
    names, values = [name for name, _ in given], [value for _, value in given]
    if not all(names) or _NAMES.fullmatch(b"".join(names)) is None or _BAD_VALUE.search(b"".join(values)):
        raise Malformed("a header that cannot be sent")
    if _BAD_VALUE.search(path) or b" " in path:
        raise Malformed("a path that cannot be sent")
    lines = [name + b": " + value for name, value in given]
    return b"\r\n".join((method + b" " + path + b" HTTP/1.1", *lines, b"\r\n"))


class ResponseReader:
    """Reads one response. Feed it with `received` until `finished`, or `ended` when the connection closes.

    `head` is the final head once it is read (1xx are skipped), `until_close` says that only the close ends the body,
    `reusable` whether another request may follow on the connection, `unread` is what came behind the response.
    """

    __slots__ = (
        "_buffer",
        "_left",
        "_method",
        "_state",
        "_total",
        "finished",
        "head",
        "reusable",
        "unread",
        "until_close",
    )

    def __init__(self, method: bytes) -> None:
        self._method = method
        self._buffer = b""
        self._state = self._head
        self._left = 0
        self._total = 0
        self.head: Head | None = None
        self.finished = False
        self.until_close = False
        self.reusable = False
        self.unread = b""

    @property
    def length(self) -> int | None:
        """Declared length of the body in bytes, None when it is chunked or ends with the connection."""
        if self.head is None or self.until_close:
            return None
        given = self.head.values(b"content-length")
        return int(given[0].split(b",")[0]) if given and not self.head.values(b"transfer-encoding") else None

    def received(self, data: bytes) -> bytes:
        """The body bytes that `data` completes, joined. Raises `Malformed`."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        parts: list[bytes] = []
        at = 0
        while not self.finished:
            moved = self._state(data, at, parts)
            if moved < 0:
                self._buffer = data[at:]
                break
            at = moved
            if at >= len(data):
                break
        if self.finished and at < len(data):
            self.unread += data[at:]
            self.reusable = False
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def ended(self) -> bool:
        """The connection is closed: whether the response is whole, as far as framing tells."""
        if self.until_close and self.head is not None:
            self.finished = True
        return self.finished

    # Each state takes (data, position, parts), and gives the new position, or -1 when it needs more bytes.

    def _head(self, data: bytes, at: int, parts: list[bytes]) -> int:
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            if len(data) - at > MAX_HEAD:
                raise Malformed("a response head of more than 64 KiB")
            if b"\n" in data[at:] and not data[at : at + 5].startswith(b"HTTP/"[: len(data) - at]):
                raise Malformed("not an HTTP response")
            return -1
        if end - at > MAX_HEAD:
            raise Malformed("a response head of more than 64 KiB")
        head = _parse_head(data[at:end])
        after = end + 4
        if head.status == 101:
            raise Malformed("an upgrade that was not asked for")
        self._total += 1
        if self._total > _MOST_HEADS:
            raise Malformed("one informational response after another")
        if head.status >= 200:
            self._total = 0
            self._choose_body(head)
        return after

    def _choose_body(self, head: Head) -> None:
        self.head = head
        tokens = {token.strip().lower() for value in head.values(b"connection") for token in value.split(b",")}
        self.reusable = (head.minor == 1 and b"close" not in tokens) or (head.minor == 0 and b"keep-alive" in tokens)
        codings = [c.strip().lower() for value in head.values(b"transfer-encoding") for c in value.split(b",")]
        lengths = {part.strip() for value in head.values(b"content-length") for part in value.split(b",")}
        if len(lengths) > 1 or any(not part.isdigit() or len(part) > 15 for part in lengths):
            raise Malformed("conflicting or invalid content-length")
        if codings and (codings != [b"chunked"] or head.minor == 0):
            raise Malformed("a transfer coding other than chunked")
        if self._method == b"HEAD" or head.status in (204, 304):
            self.finished = True
        elif codings:
            if lengths:
                self.reusable = False
            self._state = self._chunk_size
        elif lengths:
            self._left = int(lengths.pop())
            self._state = self._counted
            self.finished = self._left == 0
        else:
            self.until_close = True
            self.reusable = False
            self._state = self._rest

    def _rest(self, data: bytes, at: int, parts: list[bytes]) -> int:
        parts.append(data[at:] if at else data)
        return len(data)

    def _counted(self, data: bytes, at: int, parts: list[bytes]) -> int:
        piece = data[at : at + self._left]
        self._left -= len(piece)
        parts.append(piece)
        self.finished = self._left == 0
        return at + len(piece)

    def _chunk_size(self, data: bytes, at: int, parts: list[bytes]) -> int:
        """Chunks, as many as are there in whole: a read of a busy stream holds hundreds."""
        find = data.find
        begun = at
        while True:
            end = find(b"\r\n", at)
            if end < 0:
                if len(data) - at > _MAX_CHUNK_LINE:
                    raise Malformed("a chunk line of more than 4 KiB")
                return at if at > begun else -1
            size = _chunk_length(data[at:end])
            start = end + 2
            after = start + size
            if not size:
                self._state = self._trailer
                return start
            if data[after : after + 2] != b"\r\n":
                self._left = size
                self._state = self._chunk_data
                return start
            parts.append(data[start:after])
            at = after + 2

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
        self._state = self._chunk_end
        return end if have > left else len(data)

    def _chunk_end(self, data: bytes, at: int, parts: list[bytes]) -> int:
        if len(data) - at < 2:
            if data[at:] != b"\r":
                raise Malformed("no line end after a chunk")
            return -1
        if data[at : at + 2] != b"\r\n":
            raise Malformed("no line end after a chunk")
        self._state = self._chunk_size
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
            _parse_header(data[at:end])
        return end + 2


def _chunk_length(line: bytes) -> int:
    if line.isalnum() and len(line) < 16 and line[1:2] not in (b"x", b"X"):  # `int` tells the rest, but takes `0x`
        try:
            return int(line, 16)
        except ValueError:
            pass
    match = _SIZE.fullmatch(line)
    if match is None:
        raise Malformed("an invalid chunk size")
    return int(match[1], 16)


def _parse_head(data: bytes) -> Head:
    first, *rest = data.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise Malformed("an invalid status line")
    minor, status, phrase = match.groups()
    if _HEADER_LINES.fullmatch(data, len(first)) is None:
        raise Malformed("an invalid header line")
    pairs = [line.partition(b":") for line in rest]
    headers = tuple((name.lower(), value.strip(b" \t")) for name, _, value in pairs)
    return Head(int(minor), int(status), phrase or b"", headers)


def _parse_header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    value = value.strip(b" \t")
    if not colon or _NAME.fullmatch(name) is None or _BAD_VALUE.search(value):
        raise Malformed("an invalid header line")
    return name.lower(), value
