"""Runs a coding agent from npm once, without a terminal, in a home folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

SECONDS = 300
PLAIN = "What does the heron do?"
RUN = "RUN THE COMMAND"
"""A prompt that makes the scripted model call the agent's tool for commands."""


@attrs.frozen
class Ended:
    """How a program ended and what it printed."""

    status: int
    stdout: str
    stderr: str

    def check(self, answer: str) -> None:
        """It printed the answer and nothing else, and is content."""
        assert (self.status, self.stdout.strip()) == (0, answer), self.stderr


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Ended:
    """The program in an empty folder; with all that it started it is killed when it takes too long."""
    folder.mkdir(exist_ok=True)
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"not over after {SECONDS} s:\n{out}{err}") from None
    return Ended(process.returncode, out, err)
