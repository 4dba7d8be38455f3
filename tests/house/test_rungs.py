"""A module imports only from rungs below its own (CONTRIBUTING.md, "The rungs").

The rungs themselves are contracts of import-linter in pyproject.toml. What each may use of Twisted is finer than a
whole distribution, so it is stated here.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "twisted_gateway"

BYTES = ("wire", "facts")
NOUNS = ("errors", "exchange", "hooks")
KNOWLEDGE = (
    "formats",
    "line",
    "lane",
    "roads",
    "providers",
    "routing",
    "ring",
    "turns",
    "retrying",
    "floor",
    "timing",
    "route_metrics", "call_metrics",
    "metrics",
    "tallies",
    "client_types",
    "charging",
    "pricing",
    "spending",
    "records",
    "deadlines",
    "addresses",
    "named_code", "randomness",
    "config",
)
JUDGEMENT = ("policies", "logs", "alarm", "pulse", "steps", "layers", "stores", "health")
MOTION = (
    "upstream",
    "answer",
    "downstream",
    "relay",
    "agent",
    "connection",
    "messages",
    "sockets",
    "intake",
    "listener",
    "trust",
    "demo",
    "outside",
    "threads",
    "reloading",
    "drains",
    "streams",
    "replay",
    "sharing", "clients",
    "bookkeeping",
    "usage_file",
    "config.file",
    "stores.redis",
    "stores.redis_boot",
    "stores.redis_buckets",
    "stores.redis_scripts",
    "stores.redis_spending",
)
TRUNK = ("gateway", "attempts", "opening", "hedging", "probes")
DOORS = ("front", "cors", "admin")

_QUIET = ("twisted.internet.interfaces", "twisted.internet.defer", "twisted.logger", "twisted.python.failure")
_DATA = ("attrs", "cattrs", "msgspec")
ALLOWED: dict[tuple[str, ...], tuple[str, ...]] = {
    BYTES: ("attrs",),
    NOUNS: ("attrs",),
    KNOWLEDGE: (*_DATA, "prometheus_client", "re2"),
    JUDGEMENT: (*_DATA, *_QUIET, "zope.interface", "constantly", "re2"),
    MOTION: (*_DATA, "twisted", "zope.interface", "treq", "yaml", "OpenSSL", "service_identity", "txredisapi"),
    TRUNK: (*_DATA, *_QUIET, "twisted.web.iweb"),
    DOORS: (*_DATA, *_QUIET, "twisted.web", "klein", "werkzeug"),
}
"""What each rung may use beyond the standard library and the rungs below it."""

DIALECTS = ("openai_chat", "openai_completions", "openai_responses", "anthropic", "opaque")
"""Their modules in `formats` begin with these names; what begins otherwise is for all of them."""

MAY_NAME_THE_REACTOR = ("tap", "command", "reactor", "workers")


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def imported(path: Path) -> Iterator[str]:
    """Everything a file imports, with the imported name, which may be a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def rung(name: str) -> tuple[str, ...] | None:
    if name in MOTION:
        return MOTION
    return next((places for places in ALLOWED if inside(name, places)), None)


def test_contracts_of_import_linter() -> None:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    told = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize(("name", "path"), [pytest.param(*each, id=each[0]) for each in modules()])
def test_uses_only_what_its_rung_may(name: str, path: Path) -> None:
    places = rung(name)
    if places is None:
        assert name in ("__init__", "__main__", "command", "parts", "tap", "reactor"), f"{name} stands on no rung"
        return
    odd = {
        module
        for module in imported(path)
        if module.partition(".")[0] not in (*sys.stdlib_module_names, "twisted_gateway")
        and not inside(module, ALLOWED[places])
    }
    assert not odd, f"{name} may not import {sorted(odd)}"


def dialect(module: str) -> str | None:
    stem = module.removeprefix("twisted_gateway.").removeprefix("formats.").partition(".")[0]
    return next((name for name in DIALECTS if stem.startswith(name)), None)


@pytest.mark.parametrize("path", sorted((PACKAGE / "formats").glob("*.py")), ids=lambda path: path.stem)
def test_a_format_never_imports_another(path: Path) -> None:
    own = dialect(path.stem)
    met = {
        dialect(module.removeprefix("twisted_gateway."))
        for module in imported(path)
        if module.startswith("twisted_gateway.formats.")
    }
    assert met <= {None, own}


def test_only_the_root_names_the_reactor() -> None:
    named = {name for name, path in modules() if "twisted.internet.reactor" in imported(path)}
    assert named <= set(MAY_NAME_THE_REACTOR)
