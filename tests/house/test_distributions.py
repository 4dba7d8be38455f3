"""What is installed with us stays small, and is what the lock files say."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import packages_distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from . import distributions
from .distributions import BUILDS, ROOT, RUN, TEST, closure, declared, pinned

MOST = 30
OURS = {"tests", "bench", "twisted_gateway"}


def test_what_runs_needs_at_most_30_distributions() -> None:
    run, _ = declared()
    brought = closure(run)
    assert len(brought) <= MOST, sorted(brought)
    assert len(closure(Requirement(text).name for text in run)) <= len(brought)


def test_lock_files_name_exactly_what_is_brought() -> None:
    run, test = declared()
    runs = closure(run)
    tests = closure(test)
    assert set(pinned(RUN)) == {*runs, BUILDS}
    assert set(pinned(TEST)) == set(tests) - set(runs)


def test_lock_files_allow_what_setup_py_asks_for() -> None:
    locked = pinned(RUN) | pinned(TEST)
    for text in (part for group in declared() for part in group):
        wanted = Requirement(text)
        version = locked[canonicalize_name(wanted.name)].split("==")[1]
        assert wanted.specifier.contains(version, prereleases=True), (text, version)


def test_every_import_is_of_a_declared_distribution() -> None:
    """What somebody happens to have installed beside ours is not there for a newcomer."""
    run, _ = declared()
    # of Twisted and klein, which cannot do without
    near = {"constantly", "pyopenssl", "service-identity", "werkzeug", "zope-interface"}
    allowed = {
        "twisted_gateway": {canonicalize_name(Requirement(text).name) for text in run} | near,
        "tests": set(pinned(RUN)) | set(pinned(TEST)),
        "bench": set(closure(run)),
    }
    owners = packages_distributions()
    strangers = []
    for folder, names in allowed.items():
        for path in (ROOT / folder).rglob("*.py"):
            if path.is_relative_to(ROOT / "bench" / "out"):
                continue  # peers that are measured bring their own
            for node in ast.walk(ast.parse(path.read_text())):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    modules = [node.module or ""]
                for module in modules:
                    top = module.partition(".")[0]
                    if top in OURS or top in sys.stdlib_module_names or path.parent.joinpath(f"{top}.py").exists():
                        continue
                    if not {canonicalize_name(owner) for owner in owners.get(top, ())} & names:
                        strangers.append(f"{path.relative_to(ROOT)}: {module}")
    assert strangers == []


def test_the_lock_is_written_as_it_is_read(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(distributions, "RUN", tmp_path / "run")
    monkeypatch.setattr(distributions, "TEST", tmp_path / "test")
    distributions.main()
    assert set(pinned(tmp_path / "run")) == set(pinned(RUN))
    assert set(pinned(tmp_path / "test")) == set(pinned(TEST))
