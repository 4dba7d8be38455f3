"""Every example of configuration in the pages loads, whatever it leaves out put beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from twisted_gateway.config.boot import structure
from twisted_gateway.config.resources import COLLECTIONS
from twisted_gateway.config.snapshot import Snapshot, build

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DIRECT = {"display_name": "m", "provider": "openai", "model_name": "m", "provider_key": "k"}
GROUP = {"display_name": "g", "routing": {"targets": [{"model": "m"}]}}


def examples() -> Iterator[Any]:
    for page in PAGES:
        text = page.read_text()
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            if found[1] in ("yaml", "yml"):
                line = text.count("\n", 0, found.start()) + 1
                yield pytest.param(found[2], id=f"{page.name}:{line}")


def placed(document: Any) -> dict[str, Any]:
    """A document around an example that is a part of one."""
    if isinstance(document, list):
        return {"guardrails": document}
    match [*document]:
        case ["background_model_check"]:
            return {"models": [DIRECT | document]}
        case ["hedge"]:
            return {"models": [DIRECT, GROUP | {"routing": GROUP["routing"] | document}]}
        case ["conditions"]:
            return {"rate_limit_policies": [{"name": "p", "limits": {"rpm": 1}, **document}]}
    return document


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """A resources document with the entries that an example only names."""
    named: dict[str, set[str]] = {"provider_keys": set(), "models": set(), "api_keys": set()}
    for model in document.get("models", ()):
        named["provider_keys"].update({model.get("provider_key")} - {None})
        named["models"].update(target["model"] for target in model.get("routing", {}).get("targets", ()))
    for key in document.get("api_keys", ()):
        named["models"].update(name for name in key["allowed_models"] if "*" not in name)
    for budget in document.get("budgets", ()):
        named["api_keys"].update({budget["scope_ref"]} if budget["scope"] == "api_key" else ())
    known = {kind: {entry.get("display_name") for entry in document.get(kind, ())} for kind in named}
    missing = {kind: sorted(names - known[kind]) for kind, names in named.items()}
    made: dict[str, list[dict[str, Any]]] = {
        "models": [DIRECT | {"display_name": name} for name in missing["models"]],
        "api_keys": [
            {"display_name": name, "key": f"secret-{name}", "allowed_models": []} for name in missing["api_keys"]
        ],
    }
    keys = {*missing["provider_keys"], *({"k"} if made["models"] else ())} - known["provider_keys"]
    made["provider_keys"] = [{"display_name": name, "provider": "openai", "api_key": "x"} for name in sorted(keys)]
    return {"_format_version": "1", **document, **{kind: [*document.get(kind, ()), *made[kind]] for kind in made}}


@pytest.mark.parametrize("text", list(examples()))
def test_an_example_loads(text: str) -> None:
    environ = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "x")
    environ |= {name: f"x-{name}" for name in re.findall(r"key_env: (\w+)", text)}
    document = placed(yaml.safe_load(dedent(text)))
    if document.keys() & {"_format_version", *COLLECTIONS}:
        built = build(completed(document), environ, now=1.0)
        assert isinstance(built, Snapshot), [str(finding) for finding in built]
    else:
        structure(
            {**document, "resources_file": "r.yaml", "proxy": {"addr": "127.0.0.1:0", **document.get("proxy", {})}}, {}
        )


def test_there_are_examples() -> None:
    assert len(list(examples())) > 20
