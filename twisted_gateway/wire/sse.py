"""Reads and writes `text/event-stream` (WHATWG event streams; reference `streaming.md` sections 6 and 7).

`Reader` turns bytes, cut anywhere, into frames; `encode` turns a frame into the bytes of one write.
"""

from __future__ import annotations

from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"
_SEPARATORS = (
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
    (b"\xc2\x85", b"\\u0085"),
)


class Frame(NamedTuple):
    """One server-sent event, remembering its bytes.

    `raw` is what it came as, line ends made LF, blank line included, or None when somebody made or changed it: then
    `encode` builds the bytes from `event` and `data`.
    """

    data: bytes
    event: bytes = b""
    raw: bytes | None = None


class TooLong(Exception):
    """An event is longer than the reader's limit, in bytes. `frames` are those before it in the same read."""

    def __init__(self, message: str, frames: list[Frame] | None = None) -> None:
        super().__init__(message)
        self.frames = frames or []


def encode(frame: Frame) -> bytes:
    """The bytes of one frame: its own where it has them, else one `event:` and one `data:` line."""
    if frame.raw is not None:
        return frame.raw
    data = frame.data
    if b"\n" in data:  # JSON may be broken over lines only where white space is allowed
        data = data.replace(b"\n", b" ")
    if frame.event:
        return b"event: " + frame.event + b"\ndata: " + data + b"\n\n"
    return b"data: " + data + b"\n\n"


def escape_separators(data: bytes) -> bytes:
    """JSON bytes with U+2028, U+2029 and U+0085 escaped: many callers' line readers split on them (section 6)."""
    if not data.isascii():
        for raw, escaped in _SEPARATORS:
            if raw in data:
                data = data.replace(raw, escaped)
    return data


class Reader:
    """Frames out of bytes, whatever the cuts between reads: a byte-fed parser with one pending event at most.

    `held` is the number of bytes of the event that is not whole yet. Past `limit` bytes of one event `received`
    raises `TooLong`. `noise` counts blocks that carried no data, comments most of all.
    """

    __slots__ = ("_after_cr", "_limit", "_overrun", "_rest", "_scanned", "_started", "noise")

    def __init__(self, limit: int = 16 * 1024 * 1024) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._scanned = 0
        self._after_cr = False
        self._started = False
        self._overrun: bool | None = None  # inside one; whether its last byte was an LF
        self.noise = 0

    @property
    def held(self) -> int:
        """Bytes kept back because their event is not whole."""
        return len(self._rest)

    @property
    def between_frames(self) -> bool:
        """Whether the next byte begins a frame: nothing is kept, not even the knowledge of a CR."""
        return self._started and not self._rest and not self._after_cr and self._overrun is None

    def received(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order."""
        if self._after_cr or b"\r" in data:
            data = self._line_ends(data)
        rest = self._rest
        if rest:
            rest += data
            if rest.find(b"\n\n", self._scanned) < 0:
                self._scanned = len(rest) - 1
                self._check(len(rest), [])
                return []
            data = bytes(rest)
            rest.clear()
        if not self._started:
            if len(data) < 3 and _BOM.startswith(data):  # whether it is a byte order mark cannot be told yet
                rest += data
                return []
            self._started = True
            data = data.removeprefix(_BOM)
        self._scanned = 0
        pieces = data.split(b"\n\n")
        last = pieces.pop()
        frames = self._frames(pieces)
        if last:
            rest += last
            self._scanned = len(last) - 1
            self._check(len(last), frames)
        return frames

    def overrun(self, data: bytes = b"") -> tuple[bytes, bytes]:
        """After `TooLong`: the event's bytes as far as they came (line ends made LF), and what is read behind its end.

        Called again with each further read while `in_overrun`, it gives the rest of that event.
        """
        if self._overrun is None:
            data, self._overrun = bytes(self._rest), False
            self._rest.clear()
        elif self._after_cr or b"\r" in data:
            data = self._line_ends(data)
        blank = data.find(b"\n\n")
        end = 1 if self._overrun and data[:1] == b"\n" else blank + 2 if blank >= 0 else 0
        if not end:
            if data:
                self._overrun = data[-1:] == b"\n"
            return data, b""
        self._overrun = None
        return data[:end], data[end:]

    @property
    def in_overrun(self) -> bool:
        """Whether the next bytes belong to an event that was too long."""
        return self._overrun is not None

    def ended(self) -> list[Frame]:
        """The frame left without its blank line at the end of the stream, if it has data (section 7 rule 7)."""
        piece = bytes(self._rest)
        self._rest.clear()
        if not self._started:  # the mark came in more than one read, and no blank line since
            piece = piece.removeprefix(_BOM)
        return self._frames([piece]) if piece else []

    def _check(self, length: int, frames: list[Frame]) -> None:
        if length > self._limit:
            raise TooLong(f"an event of more than {self._limit} bytes", frames)

    def _line_ends(self, data: bytes) -> bytes:
        """CRLF and CR made LF; an LF that follows the CR of the read before is swallowed."""
        if self._after_cr and data:
            self._after_cr = False
            if data[:1] == b"\n":
                data = data[1:]
        if data[-1:] == b"\r":
            self._after_cr = True
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _frames(self, pieces: list[bytes]) -> list[Frame]:
        frames = []
        for piece in pieces:
            if piece[:6] == b"data: " and b"\n" not in piece:
                frames.append(Frame(piece[6:], b"", piece + b"\n\n"))
            elif frame := _block(piece):
                frames.append(frame)
            else:
                self.noise += 1
        return frames


def _block(piece: bytes) -> Frame | None:
    """A frame from the lines of one block, or None when it has no `data` line."""
    event = b""
    lines: list[bytes] = []
    as_it_came = True
    for line in piece.split(b"\n"):
        name, colon, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if name == b"data":
            lines.append(value)
            as_it_came = as_it_came and line[:6] == b"data: "
        elif name == b"event":
            event = value
        elif line and not (name in (b"id", b"retry") and colon):
            as_it_came = False  # a comment or an unknown field: not forwarded
        else:
            as_it_came = as_it_came and bool(line)
    if not lines:
        return None
    raw = piece + b"\n\n" if as_it_came and len(lines) == 1 else None
    return Frame(b"\n".join(lines), event, raw)
