"""A second reader of text/event-stream, so that the tests do not read answers with the code under test."""

from __future__ import annotations

import json
from typing import Any

import attrs


@attrs.frozen
class SseFrame:
    """What stood between two blank lines, and when its end was read. A frame of comments only has no data."""

    event: str | None
    data: str | None
    comments: tuple[str, ...]
    raw: bytes
    at: float

    def json(self) -> Any:
        """The data, decoded."""
        assert self.data is not None, f"{self.raw!r} has no data"
        return json.loads(self.data)


class EventReader:
    """Frames out of bytes, however they are cut; what is not a whole frame yet stays in `rest`."""

    def __init__(self) -> None:
        self.rest = b""
        self._lines: list[bytes] = []
        self._raw, self._swallow = b"", False

    def feed(self, data: bytes, at: float) -> list[SseFrame]:
        """The frames that these bytes complete."""
        self.rest += data
        frames: list[SseFrame] = []
        while (line := self._line()) is not None:
            if line:
                self._lines.append(line)
            elif self._lines:
                frames.append(self._frame(at))
        return frames

    def _line(self) -> bytes | None:
        """The next line without its end; a CR ends it at once, and the LF behind a CR belongs to it."""
        if self._swallow and self.rest:
            self._swallow = False
            if self.rest.startswith(b"\n"):
                self._raw, self.rest = self._raw + b"\n", self.rest[1:]
        ends = [place for place in (self.rest.find(b"\n"), self.rest.find(b"\r")) if place >= 0]
        if not ends:
            return None
        end = min(ends)
        line, self._swallow = self.rest[:end], self.rest[end : end + 1] == b"\r"
        self._raw, self.rest = self._raw + self.rest[: end + 1], self.rest[end + 1 :]
        return line

    def _frame(self, at: float) -> SseFrame:
        fields = [line.decode("utf-8", "replace").partition(":") for line in self._lines]
        values = [(name, value.removeprefix(" ")) for name, _, value in fields]
        data = [value for name, value in values if name == "data"]
        events = [value for name, value in values if name == "event"]
        comments = tuple(value for name, value in values if not name)
        frame = SseFrame(events[-1] if events else None, "\n".join(data) if data else None, comments, self._raw, at)
        self._lines, self._raw = [], b""
        return frame
