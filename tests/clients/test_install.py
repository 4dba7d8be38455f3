"""The pins of the npm packages."""

from __future__ import annotations

import json
import re

from .install import HERE


def test_every_package_is_pinned_and_none_to_a_host() -> None:
    wished = json.loads((HERE / "package.json").read_text())
    versions = {**wished["dependencies"], **wished["optionalDependencies"]}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions.values())
    text = (HERE / "package-lock.json").read_text()
    assert "resolved" not in text
    assert "://" not in text
    locked = json.loads(text)["packages"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in versions} == versions
    assert all("integrity" in package for path, package in locked.items() if path)
