"""Records as JSON lines in a file, and a state file that is replaced as a whole (`extensions.md` 6).

Both are written by one thread of their own, so that a slow or full disk costs records, never a call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import msgspec

from twisted_gateway.config.money import UsageFile

MOST_WAITING = 32 * 2**20
"""Bytes of lines that wait for the disk; more are lost."""
_STOP_SECONDS = 5.0
_encode = msgspec.json.Encoder().encode


class Writer:
    """A thread that does what it is given, one thing after the other. It begins with the first."""

    def __init__(self, name: str = "aisix-usage") -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def do(self, job: Callable[[], None]) -> None:
        """Do this soon. The job catches its own errors."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        """Wait until all is done, but not for ever: a disk may hang."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(seconds)
            self._thread = None

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class UsageLog:
    """The file of records. What comes while the disk is busy is written in one batch.

    `lost(count, error)` is called in the writer's thread, with None for the error when too much waited already.
    """

    def __init__(self, file: UsageFile, writer: Writer, lost: Callable[[int, OSError | None], None]) -> None:
        self._path, self._max_bytes, self._backups = file.path, file.max_bytes, file.backups
        self._writer = writer
        self._lost = lost
        self._lock = Lock()
        self._lines: list[bytes] = []
        self._waiting = 0
        self._fd: int | None = None
        self._size = 0

    def put(self, record: Mapping[str, Any]) -> None:
        """Write a record soon. Never waits, never raises for the disk's sake."""
        line = _encode(record) + b"\n"
        with self._lock:
            full = self._waiting + len(line) > MOST_WAITING
            idle = not self._lines
            if not full:
                self._lines.append(line)
                self._waiting += len(line)
        if full:
            self._lost(1, None)
        elif idle:
            self._writer.do(self._write)

    def reopen(self) -> None:
        """Somebody has moved the file away: go on in a new one."""
        self._writer.do(self._close)

    def stop(self) -> None:
        """Close the file behind the last line; the writer is stopped by its owner."""
        self._writer.do(self._close)

    # In the writer's thread

    def _write(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
            self._waiting = 0
        at = 0
        while at < len(lines):
            try:
                at += self._append(lines[at:])
            except OSError as error:
                self._close()
                self._lost(len(lines) - at, error)
                return

    def _append(self, lines: list[bytes]) -> int:
        """Write as many lines as the file has room for, one at least; how many these were."""
        if self._fd is None:
            self._open()
        assert self._fd is not None
        if self._size and self._size + len(lines[0]) > self._max_bytes:
            self._rotate()
        count = size = 0
        for line in lines:
            if count and self._size + size + len(line) > self._max_bytes:
                break
            count, size = count + 1, size + len(line)
        data = memoryview(b"".join(lines[:count]))
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            os.ftruncate(self._fd, self._size)  # no half line: whoever reads the file must be able to
            raise
        self._size += size
        return count

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self._close()
        if self._backups:
            for number in range(self._backups - 1, 0, -1):
                if os.path.exists(f"{self._path}.{number}"):
                    os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
            os.replace(self._path, f"{self._path}.1")
        else:
            os.unlink(self._path)
        self._open()

    def _close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


class StateFile:
    """A file that always holds one whole state: replaced atomically, at most once a second and at the end.

    `later(seconds, act)` is the reactor's; `failed(error)` is called in the writer's thread.
    """

    def __init__(
        self,
        path: str,
        writer: Writer,
        state: Callable[[], Mapping[str, Any]],
        later: Callable[[float, Callable[[], None]], Any],
        failed: Callable[[OSError], None],
    ) -> None:
        self._path = path
        self._writer = writer
        self._state = state
        self._later = later
        self._failed = failed
        self._due: Any = None

    def read(self) -> Mapping[str, Any] | None:
        """What was written last; None when there is no file yet. Raises OSError, and ValueError for what is no JSON."""
        try:
            with open(self._path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return None
        try:
            found = msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise ValueError(f"it is not JSON ({error})") from None
        if not isinstance(found, dict):
            raise ValueError("it is not one of ours")
        return found

    def changed(self) -> None:
        """The state is another one now: write it within a second."""
        if self._due is None:
            self._due = self._later(1.0, self._write)

    def stop(self) -> None:
        """Write what has changed last."""
        if self._due is not None:
            self._due.cancel()
            self._write()

    def _write(self) -> None:
        self._due = None
        data = _encode(self._state())
        self._writer.do(lambda: self._replace(data))

    def _replace(self, data: bytes) -> None:
        beside = f"{self._path}.new"
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._path)
        except OSError as error:
            self._failed(error)
