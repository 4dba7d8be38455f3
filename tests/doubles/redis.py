"""A real redis-server (or sentinel) for a test: it can be stopped, frozen and started again on the same port.

with RedisServer() as server: ...
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .process import free_port

BINARY = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")
_READY_SECONDS = 60.0


class RedisServer:
    """One server on a loopback port. Everything here blocks, for a few milliseconds."""

    def __init__(self, *options: str, port: int | None = None, password: str | None = None) -> None:
        self.port = port or free_port()
        self.password = password
        self._options = [*options, *(("--requirepass", password) if password else ())]
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")

    @property
    def url(self) -> str:
        """For the boot file."""
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}"

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> RedisServer:
        """Start it; it has nothing of what an earlier one had."""
        assert BINARY is not None
        command = [BINARY, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        return self._started([*command, "--repl-diskless-sync-delay", "0", *self._options])

    def _started(self, command: list[str]) -> RedisServer:
        folder = self._folder.name
        self._process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait(self._answers)
        return self

    def _answers(self) -> bool:
        try:
            self.ask("PING")
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Kill it, as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its sockets and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was, with all that was sent to it meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> Any:
        """The answer to one command, on a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.port), 60) as sock, sock.makefile("rb") as lines:
            if self.password:
                sock.sendall(_command("AUTH", self.password))
                _reply(lines)
            sock.sendall(_command(*words))
            return _reply(lines)


class Sentinel(RedisServer):
    """A sentinel that watches one master, which it declares dead after a second; it knows its replicas once it runs."""

    def __init__(self, master: RedisServer, replicas: int = 0) -> None:
        super().__init__()
        self._master, self._replicas = master, replicas

    def start(self) -> RedisServer:
        """Start it."""
        assert BINARY is not None
        path = Path(self._folder.name) / "sentinel.conf"
        path.write_text(
            f"port {self.port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {self._master.port} 1\n"
            "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 1000\n"
        )
        _wait(lambda: self._master.ask("INFO", "replication").count("state=online") == self._replicas)
        self._started([BINARY, str(path), "--sentinel"])
        _wait(lambda: len(self.ask("SENTINEL", "REPLICAS", "main")) == self._replicas)
        return self


def _wait(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not met():
        if time.monotonic() > deadline:
            raise AssertionError("redis-server did not come up")
        time.sleep(0.01)


def _command(*words: str) -> bytes:
    parts = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
    return b"*%d\r\n%s" % (len(words), parts)


def _reply(lines: Any) -> Any:
    line = lines.readline()
    if not line:
        raise ConnectionError("closed")
    kind, rest = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise ConnectionError(rest)
    if kind == b"$":
        return None if rest == "-1" else lines.read(int(rest) + 2)[:-2].decode()
    if kind == b"*":
        return [_reply(lines) for _ in range(int(rest))]
    return int(rest) if kind == b":" else rest
