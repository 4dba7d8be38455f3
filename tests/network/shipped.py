"""The gateway as it is shipped: the files in `conf/`, unchanged, and only the ports set from the environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.doubles.process import COMMAND, ROOT, GatewayFiles, GatewayProcess

CALLER_KEY = "YOUR_CALLER_API_KEY"
MODEL = "gpt-4o-prod"


@attrs.define
class ShippedFiles(GatewayFiles):
    """A copy of `conf/` in a folder, as an installed gateway has it; `edit` changes one of the files."""

    resources: dict[str, Any] = attrs.field(factory=dict)
    edits: list[tuple[str, str, str]] = attrs.field(factory=list)

    @property
    def boot_path(self) -> Path:
        """The boot file."""
        return self.folder / "conf" / "aisix.yaml"

    @property
    def resources_path(self) -> Path:
        """The resources file."""
        return self.folder / "conf" / "resources.yaml"

    def write(self) -> Path:
        """Copy the files and lay the edits over them."""
        shutil.copytree(ROOT / "conf", self.folder / "conf", dirs_exist_ok=True)
        for name, old, new in self.edits:
            path = self.folder / "conf" / name
            text = path.read_text()
            assert old in text, f"{name} has no {old!r}"
            path.write_text(text.replace(old, new))
        return self.boot_path

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text of a file, now and whenever the files are written."""
        self.edits.append((name, old, new))
        self.write()

    @property
    def ports(self) -> dict[str, str]:
        """The variables that move the listeners to free ports."""
        return {
            "AISIX_PROXY__ADDR": f"127.0.0.1:{self.port}",
            "AISIX_OBSERVABILITY__METRICS__PROMETHEUS__ADDR": f"127.0.0.1:{self.metrics_port}",
        }


def shipped(
    folder: Path,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = COMMAND,
    files: GatewayFiles | None = None,
) -> GatewayProcess:
    """A gateway of the shipped files, run by `twistd -n aisix`, not started yet."""
    files = files or ShippedFiles(folder)
    files.write()
    assert isinstance(files, ShippedFiles)
    return GatewayProcess(files, command, {**files.ports, **(environment or {})})


def outcome(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """What a command that ends by itself says; twistd and `aisix` are of this checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AISIX_")}
    path = os.pathsep.join(filter(None, [str(ROOT), clean.get("PYTHONPATH")]))
    return subprocess.run(
        command,
        cwd=folder,
        env={**clean, "PYTHONPATH": path, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def until(met: Callable[[], bool], story: Callable[[], str], seconds: float = 60) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, story()
        time.sleep(0.02)
