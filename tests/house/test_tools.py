"""ruff and mypy have nothing to say; the package carries its types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> None:
    told = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert told.returncode == 0, told.stdout + told.stderr


def test_ruff() -> None:
    run("ruff", "check", ".")


def test_mypy() -> None:
    run("mypy")


def test_types_are_shipped() -> None:
    assert (ROOT / "twisted_gateway" / "py.typed").exists()


def test_the_plugin_folder_is_no_package() -> None:
    """An `__init__` there would hide every other plugin, Twisted's own included."""
    assert [path.name for path in (ROOT / "twisted").rglob("__init__.py")] == []
