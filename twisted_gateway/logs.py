"""Lines on stderr: what they look like, and a writer that never makes the reactor wait (`operations.md` section 6).

Every record is one line, whoever speaks: `Log` is the observer of `twisted.logger` for the whole process, and takes
the access log's lines on a shorter road. Control characters and line separators are taken out of everything, so that
no value can forge a line; a traceback keeps its line ends as the two characters `\\n`. Locals are never shown.
"""

from __future__ import annotations

import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import NoneType
from typing import Any, Protocol

import attrs
import msgspec
from constantly import NamedConstant  # type: ignore[import-untyped]
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_gateway.facts import define

ATOMIC = 4096
"""Bytes that a pipe found writable takes without waiting, and without another process's bytes between them."""

_MOST_NOTED = 32
_LONGEST_VALUE = 2048
_LONGEST_TRACEBACK = 16384
_SEPARATORS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029))
_HARMLESS = bytes(range(0x20, 0x7F)).replace(b"\\", b"")
"""Characters that may be in a line as they are; to see whether there are others costs a third of `isprintable`."""
_OURS = ("aisix", "twisted_gateway")
_LEVELS = {
    "trace": LogLevel.debug,
    "debug": LogLevel.debug,
    "info": LogLevel.info,
    "warn": LogLevel.warn,
    "warning": LogLevel.warn,
    "error": LogLevel.error,
    "critical": LogLevel.critical,
    "off": LogLevel.critical,
}
_LEGACY = frozenset({"message", "system", "isError", "time", "format", "failure", "why"})
_PLAIN = (int, float, NoneType)
_ORDER = {level: rank for rank, level in enumerate(LogLevel.iterconstants())}

Fields = Mapping[str, object]
Layout = Callable[[str, str, str, str, Fields], str]
"""Makes a line (without its end) of time, level, target, message and fields."""


def level_named(written: str) -> NamedConstant:
    """The least level that `observability.log_level` lets through: of a filter list the bare level, else info."""
    for part in written.split(","):
        if (level := _LEVELS.get(part.strip().lower())) is not None:
            return level
    return LogLevel.info


def clean(text: str, longest: int = _LONGEST_VALUE) -> str:
    """`text` without control characters and line separators, at most `longest` characters, encodable."""
    if len(text) > longest:
        text = text[:longest]
    if text.isprintable():
        return text
    return text.translate(_SEPARATORS).encode("utf-8", "replace").decode("utf-8")


def text_layout(when: str, level: str, target: str, message: str, fields: Fields) -> str:
    """`TIME LEVEL target: message key="text" key=1`; None is left out, quotes and backslashes are escaped."""
    values = fields.values()
    form, quotes = _form(*fields, *map(type, values))
    if form:
        line = form % (when, level.upper(), target, message, *values)
        if line.count('"') == quotes and "\\" not in line and "\n" not in line:
            return line
    return _escaped(f"{when} {level.upper():>5} {target}: {message}", fields)


@lru_cache(maxsize=512)
def _form(*names_and_types: Any) -> tuple[str, int]:
    """How lines with such fields look where no value has a quote of its own, and their quotes; empty for flags."""
    half = len(names_and_types) // 2
    names = [name.replace("%", "%%") for name in names_and_types[:half]]
    form, quotes = "%s %5s %s: %s", 0
    for name, kind in zip(names, names_and_types[half:], strict=True):
        if kind is bool:
            return "", 0
        if kind is NoneType:
            form += "%.0s"
        elif kind is int or kind is float:
            form += f" {name}=%s"
        else:
            form += f' {name}="%s"'
            quotes += 2
    return form, quotes


def _escaped(head: str, fields: Fields) -> str:
    """The same for all fields: flags, and values with a quote or a backslash of their own."""
    parts = [head]
    for name, value in fields.items():
        kind = type(value)
        if kind is int or kind is float:
            parts.append(f"{name}={value}")
        elif kind is bool:
            parts.append(f"{name}=true" if value else f"{name}=false")
        elif value is not None:
            shown = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            parts.append(f'{name}="{shown}"')
    return " ".join(parts)


def json_layout(service: str) -> Layout:
    """A layout of one JSON object a line: `timestamp`, `level`, `target`, `message`, `service`, then the fields."""
    encode = msgspec.json.Encoder(enc_hook=str).encode

    def layout(when: str, level: str, target: str, message: str, fields: Fields) -> str:
        head = {"timestamp": when, "level": level, "target": target, "message": message, "service": service}
        rest = {name: value for name, value in fields.items() if value is not None and name not in head}
        return encode(head | rest).decode()

    return layout


def layout_named(log_format: str, service: str = "aisix") -> Layout:
    """The layout that `observability.log_format` names: `text` or `json`. Raises ValueError for another name."""
    if log_format == "json":
        return json_layout(service)
    if log_format == "text":
        return text_layout
    raise ValueError(f"unknown log format {log_format!r}")


class Writer(Protocol):
    """Where lines go."""

    dropped: int
    """Lines lost so far."""

    def put(self, line: bytes) -> None:
        """Take a line, its end included; it may be kept for a while."""

    def expect(self, make: Callable[[], None]) -> None:
        """Call that before the next write, and soon: it has lines to put, which are not laid out yet."""

    def flush(self) -> None:
        """Write what is kept, as far as that needs no waiting."""

    def stop(self, patience: float = 1.0) -> None:
        """Write all that is kept, waiting at most `patience` seconds."""


class LineWriter:
    """Gathers lines and writes them to a file descriptor in one go, 50 ms after the first or when 64 KiB are there.

    The descriptor may be shared (stderr), so its flags are left alone: before each write (of at most `ATOMIC` bytes,
    cut between lines, unless it is a regular file) `poll` is asked whether it would wait. A reader that is too slow
    costs lines, not the reactor: beyond `bound` bytes kept, new lines are dropped and counted in `dropped`. `put` from
    another thread keeps the line for the next flush. (Where another process fills the same pipe between `poll` and the
    write, that write waits for the pipe's reader.)
    """

    def __init__(
        self,
        clock: IReactorTime,
        fd: int = 2,
        *,
        delay: float = 0.05,
        size: int = 65536,
        bound: int = 1 << 20,
    ) -> None:
        self.dropped = 0
        """Lines lost so far."""
        self._clock, self._fd = clock, fd
        self._delay, self._size, self._bound = delay, size, bound
        self._lines: deque[bytes] = deque()
        self._kept = 0
        self._stuck = False
        self._expected: Callable[[], None] | None = None
        self._timer: IDelayedCall | None = None
        self._lock = threading.RLock()
        self._thread = threading.get_ident()
        self._piece_size = size if stat.S_ISREG(os.fstat(fd).st_mode) else ATOMIC
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def put(self, line: bytes) -> None:
        """Take a line, its end included; it is written within the delay."""
        with self._lock:
            if self._kept + len(line) > self._bound:
                self.dropped += 1
                return
            self._lines.append(line)
            self._kept += len(line)
            if threading.get_ident() != self._thread:
                return
            if self._kept >= self._size and not self._stuck:
                self._write(0)
            self._arm()

    def expect(self, make: Callable[[], None]) -> None:
        """Call that before the next write, within the delay. For the reactor's thread only."""
        with self._lock:  # a thread that flushes may be taking the one before
            self._expected = make
        self._arm()

    def flush(self) -> None:
        """Write what is kept, as far as the descriptor takes it at once."""
        with self._lock:
            self._write(0)

    def stop(self, patience: float = 1.0) -> None:
        """At the process's end: write all that is kept, waiting at most `patience` seconds for a slow reader."""
        with self._lock:
            self._write(patience)
            if self._timer is not None and self._timer.active():
                self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is None and (self._lines or self._expected is not None):
            self._timer = self._clock.callLater(self._delay, self._due)

    def _due(self) -> None:
        try:
            self.flush()
        finally:
            with self._lock:
                self._timer = None
                self._arm()

    def _write(self, patience: float) -> None:
        make, self._expected = self._expected, None
        if make is not None:
            make()
        until = time.monotonic() + patience if patience else 0.0
        while self._lines:
            wait = max(0, int((until - time.monotonic()) * 1000)) if patience else 0
            self._stuck = not self._poll.poll(wait)
            if self._stuck:
                return
            piece = self._piece()
            try:
                written = os.write(self._fd, piece)
            except InterruptedError:
                written = 0
            except BlockingIOError:
                self._put_back(piece)
                return
            except OSError:
                self._put_back(piece)
                self._lose_all()
                return
            if written < len(piece):
                self._put_back(piece[written:])

    def _piece(self) -> bytes:
        """Take as many whole lines as fit into one write, or that much of a longer one."""
        most = self._piece_size
        first = self._lines.popleft()
        if len(first) > most:
            self._lines.appendleft(first[most:])
            first = first[:most]
        pieces, size = [first], len(first)
        while self._lines and size + len(self._lines[0]) <= most:
            pieces.append(self._lines.popleft())
            size += len(pieces[-1])
        self._kept -= size
        return b"".join(pieces)

    def _put_back(self, piece: bytes) -> None:
        self._lines.appendleft(piece)
        self._kept += len(piece)

    def _lose_all(self) -> None:
        self.dropped += sum(line.count(b"\n") for line in self._lines)
        self._lines.clear()
        self._kept = 0


@implementer(ILogObserver)
@define
class Log:
    """All lines of the process: an observer of `twisted.logger`, and `write` for lines that come with every call.

    The latter are laid out some calls at a time, which takes half as long as one after each call. `level` is the least
    that is shown, `now` gives seconds since the epoch for lines that bring no time of their own.
    """

    writer: Writer
    layout: Layout = text_layout
    level: NamedConstant = LogLevel.info
    now: Callable[[], float] = time.time
    _second: tuple[int, str] = attrs.field(default=(-1, ""), init=False)
    """The one that was shown last, and how."""
    _told: int = attrs.field(default=0, init=False)
    _noted: deque[tuple[float, NamedConstant, str, Sequence[tuple[str, Fields]]]] = attrs.field(
        factory=deque, init=False
    )
    """Lines that are not laid out yet, with their moments."""

    def enabled(self, level: NamedConstant) -> bool:
        """Whether lines of this level are shown."""
        return level is self.level or _ORDER[level] >= _ORDER[self.level]

    def write(self, level: NamedConstant, target: str, message: str, fields: Fields) -> None:
        """Show a line with the next batch. Field names must be our own; values are cleaned here. None is left out."""
        self.write_all(level, target, [(message, fields)])

    def write_all(self, level: NamedConstant, target: str, lines: Sequence[tuple[str, Fields]]) -> None:
        """Show lines, messages and their fields, that tell of the same moment."""
        if self.enabled(level):
            noted = self._noted
            noted.append((self.now(), level, target, lines))
            if len(noted) == 1:
                self.writer.expect(self._lay_out)
            elif len(noted) >= _MOST_NOTED:
                self._lay_out()

    def _lay_out(self) -> None:
        """Put the lines that are noted; another thread may be doing the same."""
        while True:
            try:
                when, level, target, lines = self._noted.popleft()
            except IndexError:
                return
            shown_when = self._time(when)
            if self.writer.dropped != self._told:
                self._tell_lost(shown_when)
            for message, fields in lines:
                self.writer.put(self._line(shown_when, level, target, message, fields))

    def __call__(self, event: LogEvent) -> None:
        """Show an event of `twisted.logger` at once: its message, its fields if it is ours, its failure's text."""
        level = event.get("log_level", LogLevel.info)
        if not self.enabled(level):
            return
        target = str(event.get("log_namespace", "-"))
        fields: Fields = {}
        if target.startswith(_OURS):
            fields = {
                name: value for name, value in event.items() if not name.startswith("log_") and name not in _LEGACY
            }
        message, traceback = formatEvent(event).rstrip(), None
        if isinstance(failure := event.get("log_failure"), Failure):
            traceback = failure_text(failure)
            if "isError" in event and "log_text" in event:
                message = str(event.get("why") or "unhandled error")
        shown_when = self._time(event.get("log_time") or self.now())
        self._lay_out()
        if self.writer.dropped != self._told:
            self._tell_lost(self._time(self.now()))
        self.writer.put(self._line(shown_when, level, target, message, fields, traceback))
        self.writer.flush()

    def _tell_lost(self, shown_when: str) -> None:
        lost = self.writer.dropped
        fields = {"count": lost - self._told}
        self.writer.put(self._line(shown_when, LogLevel.warn, "aisix::logs", "log lines lost", fields))
        if self.writer.dropped == lost:
            self._told = lost

    def _line(
        self,
        shown_when: str,
        level: NamedConstant,
        target: str,
        message: str,
        fields: Fields,
        traceback: str | None = None,
    ) -> bytes:
        """Lay a line out. Most have nothing to take out, which one look at the whole line tells."""
        if traceback is None:
            try:
                line = self.layout(shown_when, level.name, target, message, fields)
                data = line.encode()
            except UnicodeEncodeError:
                line, data = "", b""
            if 0 < len(line) <= _LONGEST_VALUE and (
                not data.translate(None, _HARMLESS) or (line.isprintable() and "\\" not in line)
            ):
                return data + b"\n"
        shown = {name: value if isinstance(value, _PLAIN) else clean(str(value)) for name, value in fields.items()}
        if traceback is not None:
            shown["traceback"] = "\n".join(clean(part) for part in traceback.splitlines())
        line = self.layout(shown_when, level.name, clean(target), clean(message.replace("\n", " ")), shown)
        return (line + "\n").encode("utf-8", "replace")

    def _time(self, when: float) -> str:
        now = int(when)
        second, shown = self._second
        if now != second:
            shown = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
            self._second = now, shown
        return f"{shown}.{int((when - now) * 1e6):06d}Z"


def failure_text(failure: Failure) -> str:
    """A failure's traceback and text: source lines, never values of locals; at most 16 KiB, the end kept."""
    return failure.getTraceback(detail="default")[-_LONGEST_TRACEBACK:].strip()
