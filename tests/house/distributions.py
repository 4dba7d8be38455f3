"""Which distributions a set of requirements brings, and the lock files that name them all.

`make lock` runs this as a program in a new environment that has what `setup.py` allows at its newest.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "requirements.lock"
TEST = ROOT / "requirements-test.lock"
BUILDS = "setuptools"
"""What makes the package; it is locked too, but nothing that runs needs it."""

_RUN_HEAD = """\
# What runs: every distribution that setup.py brings, at the version it was tested with, and what builds the package.
# `make lock` writes both lock files anew.
"""
_TEST_HEAD = """\
# What tests and lints, beside what runs.
-r requirements.lock
"""


def declared() -> tuple[list[str], list[str]]:
    """The requirements in `setup.py`: of what runs, and of the extra `test`."""
    import_module("setuptools")  # brings distutils where Python has none
    setup = import_module("distutils.core").run_setup(str(ROOT / "setup.py"), stop_after="init")
    return list(setup.install_requires), list(setup.extras_require["test"])


def closure(requirements: Iterable[str]) -> dict[str, str]:
    """Name and installed version of every distribution that the requirements bring here, by canonical name."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        installed = distribution(name)
        found[name] = f"{installed.metadata['Name']}=={installed.version}"
        for text in installed.requires or ():
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append(inner)
    return found


def pinned(lock: Path) -> dict[str, str]:
    """The lines of a lock file by canonical name."""
    lines = [line.split("#")[0].strip() for line in lock.read_text().splitlines()]
    return {canonicalize_name(line.split("==")[0]): line for line in lines if "==" in line}


def main() -> None:
    """Write both lock files."""
    run, test = declared()
    runs = closure(run)
    tests = {name: line for name, line in closure(test).items() if name not in runs}
    builds = f"{BUILDS}=={distribution(BUILDS).version}"
    RUN.write_text(_RUN_HEAD + "".join(f"{runs[name]}\n" for name in sorted(runs)) + builds + "\n")
    TEST.write_text(_TEST_HEAD + "".join(f"{tests[name]}\n" for name in sorted(tests)))


if __name__ == "__main__":
    main()
