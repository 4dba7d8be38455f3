"""Just enough HTTP/1.1 to read one message after the other from a connection, byte-fed, strict about framing."""

from __future__ import annotations

from typing import Protocol

import attrs

Headers = list[tuple[bytes, bytes]]


class BadMessage(Exception):
    """The peer sent something that is not HTTP/1.1 as we know it."""


@attrs.frozen
class Head:
    """A start line and the headers below it, names as they came."""

    start: bytes
    headers: Headers

    def get(self, name: str) -> bytes | None:
        """The first header of that name, whatever its case."""
        wanted = name.lower().encode("ascii")
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    def says(self, name: str, token: str) -> bool:
        """Whether a comma-separated header has this token."""
        value = (self.get(name) or b"").decode("latin-1").lower()
        return token in [part.strip() for part in value.split(",")]


class Body(Protocol):
    """Reads one body: bytes of the wire in, content out."""

    done: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes: ...


class SizedBody:
    """A body with a content-length; what comes behind it is in `rest`."""

    def __init__(self, size: int) -> None:
        self._left, self.rest = size, b""
        self.done = size == 0

    def feed(self, data: bytes) -> bytes:
        content, over = data[: self._left], data[self._left :]
        self._left -= len(content)
        self.done = self._left == 0
        self.rest += over
        return content


class OpenBody:
    """A body that ends with the connection."""

    done = False
    rest = b""

    def feed(self, data: bytes) -> bytes:
        return data


class ChunkedBody:
    """A chunked body; `sizes` remembers how its sender cut it."""

    def __init__(self) -> None:
        self.done, self.rest = False, b""
        self.sizes: list[int] = []
        self._buffer, self._left, self._trailer = b"", 0, False

    def feed(self, data: bytes) -> bytes:
        self._buffer += data
        content: list[bytes] = []
        while not self.done and self._step(content):
            pass
        if self.done:
            self.rest, self._buffer = self.rest + self._buffer, b""
        return b"".join(content)

    def _step(self, content: list[bytes]) -> bool:
        return self._content(content) if self._left else self._line()

    def _content(self, content: list[bytes]) -> bool:
        """`_left` counts the CRLF behind the chunk, too."""
        wanted = max(0, self._left - 2)
        if not self._buffer or (not wanted and len(self._buffer) < self._left):
            return False
        taken = self._buffer[: wanted or self._left]
        if wanted:
            content.append(taken)
        elif taken != b"\r\n":
            raise BadMessage(f"{taken!r} where a chunk should end")
        self._buffer, self._left = self._buffer[len(taken) :], self._left - len(taken)
        return True

    def _line(self) -> bool:
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            return False
        self._buffer = rest
        if self._trailer:
            self.done = line == b""
            return True
        self._begin_chunk(line)
        return True

    def _begin_chunk(self, line: bytes) -> None:
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise BadMessage(f"{line[:80]!r} is not a chunk size") from None
        self.sizes.append(size)
        self._trailer = size == 0
        self._left = size + 2 if size else 0


def read_head(data: bytes) -> tuple[Head, bytes] | None:
    """The head at the front of the data and what follows, or nothing while it is not all there."""
    block, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return None
    start, *lines = block.split(b"\r\n")
    return Head(start, [_header(line) for line in lines]), rest


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name or name != name.strip():
        raise BadMessage(f"{line[:80]!r} is not a header")
    return name, value.strip(b" \t")


def request_body(head: Head) -> Body:
    """How the body of a request is framed."""
    return (
        ChunkedBody() if head.says("transfer-encoding", "chunked") else SizedBody(int(head.get("content-length") or 0))
    )


def answer_body(head: Head, status: int, method: str) -> Body:
    """How the body of an answer is framed."""
    if method == "HEAD" or status in (204, 304) or status < 200:
        return SizedBody(0)
    if head.says("transfer-encoding", "chunked"):
        return ChunkedBody()
    length = head.get("content-length")
    return OpenBody() if length is None else SizedBody(int(length))


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; nothing stays nothing, as an empty chunk would end it."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def head_bytes(start: str, headers: Headers) -> bytes:
    """A head for the wire."""
    return b"".join([start.encode("latin-1"), b"\r\n", *(b"%b: %b\r\n" % pair for pair in headers), b"\r\n"])


def header_pairs(headers: object) -> Headers:
    """Headers as pairs of bytes, from a mapping or from pairs, text or bytes."""
    pairs = headers.items() if isinstance(headers, dict) else headers
    return [(_as_bytes(name), _as_bytes(value)) for name, value in pairs]  # type: ignore[attr-defined]


def _as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1")
