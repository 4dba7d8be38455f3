"""What a gateway that is only started must not load: what features that its files do not use are made of."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNUSED = {
    "twisted_gateway.policies.guardrails.plan": "what judges texts comes with the first guardrail (1 MB)",
    "twisted_gateway.policies.guardrails.services": "and whom to ask about them with the first that asks somebody",
    "twisted_gateway.policies.hooks.steps": "the boot file names no hook",
    "twisted_gateway.stores.redis": "the boot file names no Redis",
    "twisted_gateway.demo": "the demo provider is off",
    "re2": "no rule has a pattern",
    "txredisapi": "the boot file names no Redis",
    "zoneinfo": "no limit has a time zone (0.3 MB, with what it brings)",
    "tomllib": "no file is TOML",
    "tzdata": "no limit has a time zone",
    "multiprocessing": "nobody needs it",
    "sqlite3": "nobody needs it",
    "unittest": "nobody needs it",
}
"""And why: whoever sees one of these come back should import it at the point of use."""
BOOT = "{proxy: {addr: '127.0.0.1:0'}, resources_file: RESOURCES, admin: {enabled: false}}"
RESOURCES = """
_format_version: "1"
provider_keys: [{display_name: one, provider: openai, api_key: sk-one, api_base: "http://127.0.0.1:9/v1"}]
models: [{display_name: one, provider: openai, model_name: one, provider_key: one}]
api_keys: [{display_name: one, key: sk-caller, allowed_models: ["*"]}]
"""
MADE = """
import sys
from twisted_gateway.reactor import install
install()
from twisted_gateway.tap import Options, makeService
options = Options()
options.parseOptions(["--config", sys.argv[1]])
makeService(options)
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The modules of a process with a gateway of one model and nothing else."""
    folder = tmp_path_factory.mktemp("idle")
    boot, resources = folder / "aisix.yaml", folder / "resources.yaml"
    boot.write_text(BOOT.replace("RESOURCES", str(resources)))
    resources.write_text(RESOURCES)
    told = subprocess.run(
        [sys.executable, "-c", MADE, str(boot)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    return set(told.stdout.split())


@pytest.mark.parametrize("name", UNUSED)
def test_what_belongs_to_features_that_are_off_is_not_loaded(name: str, loaded: set[str]) -> None:
    assert "twisted_gateway.front" in loaded
    assert name not in loaded, UNUSED[name]


@pytest.mark.parametrize("name", [name for name in UNUSED if name.startswith("twisted_gateway.")])
def test_our_own_are_called_so(name: str) -> None:
    assert find_spec(name) is not None


def test_attrs_decorators_are_the_houses_own() -> None:
    """Theirs make 6 KB more of every class (`facts`)."""
    package = ROOT / "twisted_gateway"
    theirs = re.compile(r"@attrs\.(define|frozen|mutable)|from attrs? import")
    found = [file.name for file in package.rglob("*.py") if theirs.search(file.read_text())]
    assert found == ["facts.py"]
