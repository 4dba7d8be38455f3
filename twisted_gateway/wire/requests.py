"""The server's side of HTTP/1.1, sans-IO: bytes of a connection to requests, one after the other.

Strict (RFC 9112, and stricter where it leaves a choice): what two servers could read in two ways is refused.
"""

from __future__ import annotations

import re

from twisted_gateway.facts import fact
from twisted_gateway.wire.framing import TOKEN, Body, Headers, Malformed, header_pairs

_MOST_HEADERS = 500
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])")
_HEADER_LINES = re.compile(rb"(?:\r\n" + TOKEN + rb":[^\x00\r\n]*)*")
"""Other control characters in a value are no framing: they are left to whoever reads the value."""
_TARGET = re.compile(rb"/[\x21-\x7e]*|\*")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_LENGTH_SAID = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_MOST_REMEMBERED = 8192
_NOT_HTTP = "malformed HTTP request"


class TooLarge(Malformed):
    """The head is longer than it may be."""


@fact
class RequestHead:
    """Request line and headers. `length` is the body's declared length, None where it comes in chunks."""

    method: bytes
    target: bytes
    minor: int
    headers: Headers
    length: int | None

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    def values(self, name: bytes) -> list[bytes]:
        """All values of one header (lower case), in order."""
        return [value for key, value in self.headers if key == name]


class RequestReader(Body):
    """Reads the requests of one connection: `feed` it, then ask for a `head`, then for the `body` until `finished`.

    Then the next one may be asked for. What was fed and is not read yet is `rest`. A head may have `limit` bytes,
    its line ends not counted.
    """

    __slots__ = ("_checked", "_last", "_limit", "_reused", "_scanned", "rest")

    _sizes = _SIZE

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._last: Familiar | None = None
        self._reused = False
        self._scanned = 0
        self._checked = 0
        self._total = 0
        self.rest = b""
        self.finished = True

    @property
    def begun(self) -> bool:
        """Whether any of a request is there: an empty line is none."""
        return not self.finished or self.rest not in (b"", b"\r", b"\r\n")

    def feed(self, data: bytes) -> None:
        """One read of the socket."""
        self.rest = self.rest + data if self.rest else data

    def head(self) -> RequestHead | None:
        """The next request's head, once it is there. Raises `Malformed`, or `TooLarge`."""
        data = self.rest
        start = 2 if data[:2] == b"\r\n" else 0  # an empty line behind a body is forgiven, once
        end = data.find(b"\r\n\r\n", max(start, self._scanned - 3))
        if end < 0:
            self._check_part(data, start)
            self._scanned = len(data)
            return None
        if end - start > self._limit:
            self._check_size(data[start:end])
        said = data[start:end]
        found = self._last.again(said) if self._last is not None else None
        if found is None:
            found = self._new(said)
        self.rest = data[end + 4 :]
        self._scanned = self._checked = self._total = 0
        if found.length is None:
            self._state = Body._chunk_size
        else:
            self._left = found.length
            self._state = Body._counted
        self.finished = found.length == 0
        return found

    def _new(self, data: bytes) -> RequestHead:
        """A head that is not the one before again; mostly callers say that, with another length at most.

        A connection's first one is not remembered: it may be the only one, of a stream that lasts.
        """
        found = _parse(data)
        if self._reused and len(data) <= _MOST_REMEMBERED:
            self._last = Familiar(data, found)
        self._reused = True
        return found

    def glimpse(self) -> RequestHead:
        """What can be made out of a head that is bad, too large or not whole, to answer it in its own dialect."""
        first, *lines = self.rest[: 2 * self._limit].lstrip(b"\r\n").partition(b"\r\n\r\n")[0].split(b"\r\n")
        match = _REQUEST_LINE.fullmatch(first)
        method, target = (match[1], match[2]) if match else (b"", b"/")
        good = [line for line in lines if _HEADER_LINES.fullmatch(b"\r\n" + line)]
        return RequestHead(method, target, 1, header_pairs(good), 0)

    def body(self) -> bytes:
        """The bytes of the body that are there. Raises `Malformed`."""
        data, at = self.rest, 0
        if self._state is Body._counted and len(data) <= self._left:  # mostly: nothing behind it has come yet
            self.rest = b""
            self._left -= len(data)
            self.finished = self._left == 0
            return data
        parts: list[bytes] = []
        while not self.finished and at < len(data):
            moved = self._state(self, data, at, parts)
            if moved < 0:
                break
            at = moved
        self.rest = data[at:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _check_part(self, data: bytes, start: int) -> None:
        """Look at a head that is not whole: nobody need wait for the rest of one that is bad already."""
        if len(data) - start > self._limit:
            self._check_size(data[start:])
        end = data.rfind(b"\r\n", max(start, self._scanned - 1))
        if end <= self._checked:
            return
        first = data.find(b"\r\n", start)
        if not self._checked and _REQUEST_LINE.fullmatch(data, start, first) is None:
            raise Malformed(_NOT_HTTP)
        _check_lines(data, self._checked or first, end)
        self._checked = end

    def _check_size(self, head: bytes) -> None:
        if len(head) - 2 * head.count(b"\r\n") > self._limit:
            raise TooLarge("request header fields are too large")


class Familiar:
    """A head that was read, which is known again by its bytes, whatever length of a body it tells."""

    __slots__ = ("_around", "_data", "_head")

    def __init__(self, data: bytes, head: RequestHead) -> None:
        self._data = data
        self._head = head
        self._around: tuple[bytes, bytes] | None = None
        """What comes before and behind the length; looked for when it is first needed."""

    def again(self, data: bytes) -> RequestHead | None:
        """The head that these bytes say; None where more than the length is new."""
        if data == self._data:
            return self._head
        before, behind = self._around or self._cut()
        if not before or not data.startswith(before) or not data.endswith(behind):
            return None
        said = data[len(before) : len(data) - len(behind)]
        if _LENGTH.fullmatch(said) is None:
            return None
        head = self._head
        headers = tuple([pair if pair[0] != b"content-length" else (pair[0], said) for pair in head.headers])
        self._data, self._head = data, RequestHead(head.method, head.target, head.minor, headers, int(said))
        return self._head

    def _cut(self) -> tuple[bytes, bytes]:
        match = _LENGTH_SAID.search(self._data)
        self._around = around = (self._data[: match.start(1)], self._data[match.end(1) :]) if match else (b"", b"")
        return around


def _check_lines(data: bytes, start: int, end: int) -> None:
    if _HEADER_LINES.fullmatch(data, start, end) is None:
        folded = any(line[:1] in (b" ", b"\t") for line in data[start:end].split(b"\r\n"))
        raise Malformed("a folded header line" if folded else _NOT_HTTP)


def _parse(data: bytes) -> RequestHead:
    first, *lines = data.split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise Malformed(_NOT_HTTP)
    _check_lines(data, len(first), len(data))
    if len(lines) > _MOST_HEADERS:
        raise Malformed(_NOT_HTTP)
    method, target, version = match.groups()
    headers = header_pairs(lines)
    minor = 1 if version == b"1" else 0
    if _TARGET.fullmatch(target) is None:
        raise Malformed("request target must be a path")
    return RequestHead(method, target, minor, headers, _length(minor, headers))


def _length(minor: int, headers: Headers) -> int | None:
    """The body's length as its headers tell it, None for chunks. Raises `Malformed` for whatever leaves a doubt."""
    host = length = coding = None
    for name, value in headers:
        if name == b"host":
            if host is not None:
                raise Malformed("exactly one Host header is needed")
            host = value
        elif name == b"content-length":
            if length is not None:
                raise Malformed("conflicting Content-Length headers")
            length = value
        elif name == b"transfer-encoding":
            if coding is not None:
                raise Malformed("Transfer-Encoding")
            coding = value
    if host is None:
        if minor:
            raise Malformed("exactly one Host header is needed")
    elif host and _HOST.fullmatch(host) is None:
        raise Malformed("Host header")
    if coding is not None:
        if not minor:
            raise Malformed("Transfer-Encoding needs HTTP/1.1")
        if coding.lower() != b"chunked":
            raise Malformed("Transfer-Encoding")
        if length is not None:
            raise Malformed(_NOT_HTTP)
        return None
    if length is None:
        return 0
    if _LENGTH.fullmatch(length) is None:
        raise Malformed(_NOT_HTTP)
    return int(length)
