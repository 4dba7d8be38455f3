"""The client's side of HTTP/1.1, sans-IO: a request to bytes, bytes of a response to head and body.

Strict (RFC 9112): what is ambiguous is refused, since a misread frame would give one caller another caller's answer.
A `ResponseReader` gives one batch of body bytes per read, however many chunks the read held.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from twisted_gateway.facts import fact, frozen
from twisted_gateway.wire.framing import BAD_VALUE, HEADER_LINES, MAX_HEAD, TOKEN, Body, Headers, header_pairs
from twisted_gateway.wire.framing import Malformed as Malformed

_MOST_HEADS = 100
_FRAMING = (b"connection", b"content-length", b"transfer-encoding")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_GOOD = b"HTTP/1.1 200 OK"
"""What nearly every head begins with, and need not be taken apart."""
_NAME = re.compile(TOKEN)


@fact
class Head:
    """Status line and headers of a response; names are lower case."""

    minor: int
    status: int
    phrase: bytes
    headers: Headers

    def values(self, name: bytes) -> list[bytes]:
        """All values of one header (lower case), in order."""
        return [value for key, value in self.headers if key == name]

    def framing(self) -> dict[bytes, bytes]:
        """What is said about the message itself, perhaps among other headers: a value for each name.

        Those of several lines have commas between them.
        """
        found = dict(self.headers)
        if len(found) < len(self.headers):
            return {name: b",".join(self.values(name)) for name in _FRAMING if name in found}
        return found

    @property
    def length(self) -> int | None:
        """Declared length of the body in bytes, None when it is chunked or ends with the connection."""
        given = self.values(b"content-length")
        return int(given[0].split(b",")[0]) if given and not self.values(b"transfer-encoding") else None


def request_line(method: bytes, path: bytes) -> bytes:
    """The first line of a request, without its end. Raises `Malformed` for a path that would break it."""
    if BAD_VALUE.search(path) or b" " in path:
        raise Malformed("a path that cannot be sent")
    return method + b" " + path + b" HTTP/1.1"


def header_lines(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Header lines, a line end before each. Raises `Malformed` for anything that would break them."""
    lines = b""
    for name, value in headers:
        if _NAME.fullmatch(name) is None or BAD_VALUE.search(value):
            raise Malformed("a header that cannot be sent")
        lines += b"\r\n" + name + b": " + value
    return lines


def request_head(method: bytes, path: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The bytes of a request's head. Raises `Malformed` for anything that would break its lines."""
    return request_line(method, path) + header_lines(headers) + b"\r\n\r\n"


@frozen
class Lines:
    """Headers that many requests have in common: checked once (raises `Malformed`), and written once."""

    headers: Headers = attrs.field(default=(), repr=False)
    data: bytes = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(lambda self: header_lines(self.headers), takes_self=True),
    )


_TAKEN = Head(1, 200, b"", ())
_CHUNK_SIZE = Body._chunk_size


class ResponseReader(Body):
    """Reads one response. Feed it with `received` until `finished`, or `ended` when the connection closes.

    `head` is the final head once it is read (1xx are skipped), `until_close` says that only the close ends the body,
    `reusable` whether another request may follow on the connection, `unread` is what came behind the response.
    """

    __slots__ = (
        "_buffer",
        "_method",
        "head",
        "reusable",
        "unread",
        "until_close",
    )

    def __init__(self, method: bytes) -> None:
        self._method = method
        self._buffer = b""
        self._state = ResponseReader._head
        self._left = 0
        self._total = 0
        self.head: Head | None = None
        self.finished = False
        self.until_close = False
        self.reusable = False
        self.unread = b""

    def let_go(self) -> None:
        """The head is taken over by whoever wants it: its headers need not stay here for as long as the body takes."""
        if self.head is not None:
            self.head = _TAKEN

    @property
    def between_chunks(self) -> bool:
        """The next read begins with a chunk."""
        return self._state is _CHUNK_SIZE and not self._buffer

    def received(self, data: bytes) -> bytes:
        """The body bytes that `data` completes, joined. Raises `Malformed`."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        if self._state is _CHUNK_SIZE:
            whole = self._one_chunk(data)
            if whole is not None:
                return whole
        parts: list[bytes] = []
        at = 0
        while not self.finished:
            moved = self._state(self, data, at, parts)
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

    # States, as those of `Body`

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
        said = head.framing()
        connection = said.get(b"connection")
        if connection is None:
            self.reusable = head.minor == 1
        else:
            tokens = [token.strip() for token in connection.lower().split(b",")]
            self.reusable = b"close" not in tokens if head.minor == 1 else b"keep-alive" in tokens
        length = _one_length(said[b"content-length"]) if b"content-length" in said else None
        coding = said.get(b"transfer-encoding")
        if coding is not None and (head.minor == 0 or coding.strip().lower() != b"chunked"):
            raise Malformed("a transfer coding other than chunked")
        if self._method == b"HEAD" or head.status in (204, 304):
            self.finished = True
        elif coding is not None:
            if length is not None:
                self.reusable = False
            self._state = Body._chunk_size
        elif length is not None:
            self._left = length
            self._state = Body._counted
            self.finished = self._left == 0
        else:
            self.until_close = True
            self.reusable = False
            self._state = ResponseReader._rest

    def _rest(self, data: bytes, at: int, parts: list[bytes]) -> int:
        parts.append(data[at:] if at else data)
        return len(data)


def _one_length(said: bytes) -> int:
    """What `content-length` says, which may say it more than once. Raises `Malformed`."""
    if b"," in said:
        lengths = {part.strip() for part in said.split(b",")}
        said = lengths.pop() if len(lengths) == 1 else b""
    if not said.isdigit() or len(said) > 15:
        raise Malformed("conflicting or invalid content-length")
    return int(said)


def _parse_head(data: bytes) -> Head:
    lines = data.split(b"\r\n")
    first = lines.pop(0)
    minor, status, phrase = (1, 200, b"OK") if first == _GOOD else _parse_status(first)
    if HEADER_LINES.fullmatch(data, len(first)) is None:
        raise Malformed("an invalid header line")
    return Head(minor, status, phrase, header_pairs(lines))


def _parse_status(line: bytes) -> tuple[int, int, bytes]:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise Malformed("an invalid status line")
    minor, status, phrase = match.groups()
    return int(minor), int(status), phrase or b""
