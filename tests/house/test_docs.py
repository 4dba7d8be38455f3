"""The pages name every key that the files may have, and only what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from twisted_gateway.config import resources, settings
from twisted_gateway.exchange import Outcome

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SECTIONS = ("proxy", "downstream", "upstream", "observability", "shutdown", "demo", "admin", "etcd", "managed", "cache")


def named() -> set[str]:
    """Everything that stands between backticks in the pages."""
    return {text for page in PAGES for text in re.findall(r"`([^`\n]+)`", page.read_text())}


@pytest.mark.parametrize("keys", [settings.keys, resources.keys], ids=["boot", "resources"])
def test_every_key_is_documented(keys) -> None:  # type: ignore[no-untyped-def]
    assert sorted(set(keys()) - named()) == []


def test_every_documented_key_exists() -> None:
    known = {*settings.keys(), *resources.keys()}
    prefixes = tuple(f"{section}." for section in SECTIONS) + tuple(f"{kind}[]." for kind in resources.RECORDS)
    rows = [line for line in (ROOT / "docs/configuration.md").read_text().splitlines() if line.startswith("| `")]
    cells = {text for row in rows for text in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert {cell for cell in cells if cell.startswith(prefixes)} - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_table_has_a_head(page: Path) -> None:
    """Without one it is not shown as a table."""
    lines = [line.strip() for line in page.read_text().splitlines()]
    tops = [at for at, line in enumerate(lines) if line.startswith("|") and not lines[at - 1].startswith("|")]
    assert [lines[at] for at in tops if not re.fullmatch(r"\|[ :|-]+\|", lines[at + 1])] == []


def test_every_outcome_is_explained() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {str(outcome) for outcome in Outcome} - {*rows} == set()


def test_modules_named_in_contributing_exist() -> None:
    """The map must not lead into walls, and has every room on the first floor."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    tree = re.search(r"```\ntwisted_gateway/\n(.*?)\ntwisted/", text, re.DOTALL)
    assert tree is not None
    drawn = set(re.findall(r"([a-z_0-9]+)\.py", tree[1]))
    package = ROOT / "twisted_gateway"
    assert drawn - {path.stem for path in package.rglob("*.py")} == set()
    assert {path.stem for path in package.glob("*.py")} - drawn == set()
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    assert folders - set(re.findall(r"([a-z]+)/", tree[1])) == set()
