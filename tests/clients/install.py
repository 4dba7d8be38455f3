"""The npm packages of `package-lock.json`, installed once into a folder of their own below the user's cache.

The folder is named after the lock file, so another checkout with the same pins shares it. Nothing of a package is run
while it is installed: Node itself comes as a package (`node-linux-*`), and `claude` and `codex` are started from where
they lie.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import attrs

HERE = Path(__file__).resolve().parent
PINS = ("package.json", "package-lock.json")
SECONDS = 420
NPM = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=2")
UNREACHABLE = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONN|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET|EPIPE|EPROTO|FETCH_ERROR"
    r"|\bE429\b|\bE5\d\d\b|socket hang up|network timeout"
)
ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}


class Missing(Exception):
    """Why these clients cannot be had here."""


@attrs.frozen
class Clients:
    """The installed packages."""

    folder: Path

    @property
    def modules(self) -> Path:
        """`node_modules`."""
        return self.folder / "node_modules"

    @property
    def node(self) -> Path:
        """The Node that runs all of it."""
        return self.modules / f"node-linux-{ARCHITECTURES[platform.machine()]}" / "bin" / "node"

    def claude(self, *arguments: str) -> list[str]:
        """A command line of claude-code: its launcher, which needs no step of an installer."""
        return [str(self.node), str(self.modules / "@anthropic-ai/claude-code/cli-wrapper.cjs"), *arguments]

    def codex(self, *arguments: str) -> list[str]:
        """A command line of codex."""
        return [str(self.node), str(self.modules / "@openai/codex/bin/codex.js"), *arguments]

    def environment(self, home: Path, **more: str) -> Mapping[str, str]:
        """Nothing of this process's but the way to programs; whatever is not on this machine is out of reach."""
        nowhere = "http://127.0.0.1:9"
        return {
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join([str(self.node.parent), os.environ.get("PATH", os.defpath)]),
            "HTTP_PROXY": nowhere,
            "HTTPS_PROXY": nowhere,
            "NO_PROXY": "127.0.0.1,localhost",
            **more,
        }


def installed() -> Clients:
    """The packages, installed if they are not there yet. Raises `Missing`; anything else is a fault to see."""
    if platform.system() != "Linux" or platform.machine() not in ARCHITECTURES:
        raise Missing("the pinned Node is for Linux on x86_64 and aarch64")
    folder = _cache() / _name()
    if not folder.exists():
        if shutil.which("npm") is None:
            raise Missing("npm is not installed")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="installing-") as made:
            _install(Path(made) / "whole")
            _put(Path(made) / "whole", folder)
    return Clients(folder)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME") or tempfile.gettempdir()) / ".cache"
    return Path(home) / "aisix-real-clients"


def _name() -> str:
    digest = hashlib.sha256()
    for pin in PINS:
        digest.update((HERE / pin).read_bytes())
    return digest.hexdigest()[:16]


def _install(folder: Path) -> None:
    folder.mkdir()
    for pin in PINS:
        shutil.copy(HERE / pin, folder)
    until = time.monotonic() + SECONDS
    done = _npm(folder, until)
    if done.returncode:
        done = _npm(folder, until)  # it goes on with what its cache has
    if done.returncode and UNREACHABLE.search(done.stderr):
        raise Missing(f"the npm registry cannot be reached: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, f"npm ci:\n{done.stdout}{done.stderr}"


def _npm(folder: Path, until: float) -> subprocess.CompletedProcess[str]:
    try:
        left = max(until - time.monotonic(), 1.0)
        return subprocess.run(NPM, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        raise Missing(f"npm has not installed the clients in {SECONDS} s") from None


def _put(made: Path, folder: Path) -> None:
    """In one step, so that nobody sees half of it; another session may have been faster."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.exists():
            raise
