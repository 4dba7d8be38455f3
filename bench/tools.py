"""The two C tools: building them, starting the mock provider, asking it, and running the load client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent
BIN = BENCH / "bin"
OUT = BENCH / "out"
MOCK_PORT = 9000
FRESH = {
    "n": 20, "b": 16, "d": 0, "m": 1, "ttft": 0, "endless": 0, "status": 0,
    "stall": -1, "disconnect": -1, "split": 0, "gather": 0,
}  # fmt: skip

Number = int | float


class Failed(Exception):
    """A measurement that gave no figure, and why."""


@dataclass(frozen=True)
class Cores:
    """Which core each part is pinned to."""

    gateway: int
    mock: int
    client: int

    @classmethod
    def pick(cls) -> Cores:
        """A core for each where there are three; the tools share one on two."""
        free = sorted(os.sched_getaffinity(0))
        return cls(free[0], free[min(1, len(free) - 1)], free[min(2, len(free) - 1)])


def compiler() -> str | None:
    """The C compiler, if there is one."""
    names = (os.environ.get("CC"), "cc", "gcc", "clang")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def build() -> None:
    """Compile what is older than its source."""
    BIN.mkdir(exist_ok=True)
    for source in sorted((BENCH / "src").glob("*.c")):
        binary = BIN / source.stem
        if binary.exists() and binary.stat().st_mtime > source.stat().st_mtime:
            continue
        if (cc := compiler()) is None:
            raise SystemExit("bench: no C compiler; install one, for example: apt-get install -y gcc libc6-dev")
        subprocess.run([cc, "-O2", "-g", "-Wall", "-Wextra", "-o", binary, source, "-lm"], check=True)


def pinned(core: int) -> Callable[[], None]:
    """To be run in a child before its program starts."""
    return lambda: os.sched_setaffinity(0, {core})


def end(process: subprocess.Popen[Any], patience: float = 3) -> None:
    """End the group of a process started with `start_new_session`."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, sign)
        try:
            process.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue


class Mock:
    """The mock provider, `ssemock`."""

    def __init__(self, port: int = MOCK_PORT, core: int | None = None) -> None:
        self.port = port
        self.process = subprocess.Popen(
            [BIN / "ssemock", "-p", str(port)],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=None if core is None else pinned(core),
        )
        self._wait()

    def _wait(self) -> None:
        for _ in range(1500):
            try:
                self.stats()
                return
            except OSError:
                time.sleep(0.02)
        self.stop()
        raise SystemExit(f"bench: the mock provider does not answer on port {self.port}")

    def _get(self, path: str) -> dict[str, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            found: dict[str, int] = json.loads(answer.read())
            return found

    def set(self, **options: int) -> None:
        """Every option back to its default, but these."""
        self._get("/set?" + "&".join(f"{key}={value}" for key, value in (FRESH | options).items()))

    def reset(self) -> None:
        """Zero the counters."""
        self._get("/reset")

    def stats(self) -> dict[str, int]:
        """The counters."""
        return self._get("/stats")

    def stop(self) -> None:
        """End it."""
        end(self.process)


def client(url: str, *args: str | Number, core: int | None = None) -> subprocess.Popen[str]:
    """Start the load client, `sseload`; what it found comes as JSON on its standard output."""
    return subprocess.Popen(
        [str(BIN / "sseload"), "-j", "-u", url, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=None if core is None else pinned(core),
    )


def finish(process: subprocess.Popen[str], patience: float = 60) -> dict[str, Any]:
    """What the load client found, errors included."""
    try:
        out, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        raise Failed(f"the load client did not end in {patience:.0f} s") from None
    finally:
        end(process)
    try:
        found: dict[str, Any] = json.loads(out)
    except ValueError:
        raise Failed(f"the load client failed: {err.strip()[:200]}") from None
    return found


def complaint(found: dict[str, Any]) -> str:
    """What went wrong in a run of the load client; empty if nothing did."""
    kinds = [f"{kind} {count}" for kind, count in found["e"].items() if count]
    statuses = [f"HTTP {code} x {count}" for code, count in found["statuses"].items() if code != "200"]
    return f"{found['errors']} errors of {found['started']} ({', '.join(kinds + statuses)})" if found["errors"] else ""
