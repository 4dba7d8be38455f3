"""The package as pip installs it: built as an sdist, made a wheel of that, run far away from the checkout.

No network: the new environment sees the distributions of this one through a `.pth` file, but not this checkout.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import requests

from tests.doubles.process import ROOT, TWISTD
from twisted_gateway import __version__

from .shipped import CALLER_KEY, MODEL, outcome, shipped

_NOT_OURS = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "out", "bin", "dropin.cache")
_BACKEND = "import sys, setuptools.build_meta as backend; getattr(backend, sys.argv[1])(sys.argv[2])"


@attrs.frozen
class Installed:
    """What was built, and the environment it was put into."""

    sdist: Path
    wheel: Path
    python: Path

    def script(self, name: str) -> str:
        """A command of that environment."""
        return str(self.python.parent / name)

    @property
    def twistd(self) -> Sequence[str]:
        """twistd by that environment's interpreter, with its options."""
        return (str(self.python), *TWISTD[1:])


def run(*command: object, cwd: Path) -> None:
    told = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    source, dist = folder / "source", folder / "dist"
    shutil.copytree(ROOT, source, ignore=_NOT_OURS)
    dist.mkdir()
    run(sys.executable, "-c", _BACKEND, "build_sdist", dist, cwd=source)
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        packed.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    run(sys.executable, "-c", _BACKEND, "build_wheel", dist, cwd=unpacked)
    (wheel,) = dist.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(sdist, wheel, python)


NOWHERE = {"PYTHONPATH": ""}


def test_what_the_sdist_holds(installed: Installed) -> None:
    with tarfile.open(installed.sdist) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    wanted = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "requirements.lock", "requirements-test.lock"}
    wanted |= {"conf/aisix.yaml", "conf/resources.yaml", "conf/aisix.service", "docs/configuration.md", "bench/run"}
    assert wanted <= names
    assert not {name for name in names if name.endswith(".pyc")}


def test_what_the_wheel_holds(installed: Installed) -> None:
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "twisted_gateway").rglob("*.py")}
    assert modules | {"twisted_gateway/py.typed", "twisted/plugins/aisix_plugin.py"} <= names
    assert {name.partition("/")[0] for name in names} == {
        "twisted",
        "twisted_gateway",
        f"aisix_twisted-{__version__}.dist-info",
    }
    assert [name for name in names if name.startswith("twisted/")] == ["twisted/plugins/aisix_plugin.py"]


def test_it_is_not_the_checkout(installed: Installed, tmp_path: Path) -> None:
    told = outcome([str(installed.python), "-c", "import twisted_gateway as t; print(t.__file__)"], tmp_path, NOWHERE)
    assert Path(told.stdout.strip()).is_relative_to(installed.python.parents[1])


def test_version(installed: Installed, tmp_path: Path) -> None:
    told = outcome([installed.script("aisix"), "--version"], tmp_path, NOWHERE)
    assert (told.returncode, told.stdout, told.stderr) == (0, f"aisix {__version__}\n", "")


def test_validate(installed: Installed, tmp_path: Path) -> None:
    good = ROOT / "conf" / "resources.yaml"
    told = outcome([installed.script("aisix"), "validate", "--resources", str(good)], tmp_path, NOWHERE)
    assert (told.returncode, told.stdout, told.stderr) == (0, f"OK: {good} loaded 10 resource(s)\n", "")
    (tmp_path / "bad.yaml").write_text('_format_version: "1"\nmodelz: []\n')
    told = outcome([installed.script("aisix"), "validate", "--resources", "bad.yaml"], tmp_path, NOWHERE)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("resources file bad.yaml: 1 error(s):\n  - (file): unknown top-level key `modelz`")


def streams(url: str) -> bool:
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    headers = {"Authorization": f"Bearer {CALLER_KEY}"}
    answer = requests.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120)
    return answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n")


def test_twistd_in_the_folder_of_the_files(installed: Installed, tmp_path: Path) -> None:
    command = (*installed.twistd, "aisix", "--config", "conf/aisix.yaml")
    with shipped(tmp_path, NOWHERE, command) as gateway:
        assert streams(gateway.base_url)


def test_twistd_in_another_folder(installed: Installed, tmp_path: Path) -> None:
    """The path of the resources file belongs to the working directory; a variable says where it is instead."""
    other = tmp_path / "other"
    other.mkdir()
    where = {**NOWHERE, "AISIX_RESOURCES_FILE": str(tmp_path / "conf" / "resources.yaml")}
    command = ("env", "-C", str(other), *installed.twistd, "aisix", "--config", "{config}")
    with shipped(tmp_path, where, command) as gateway:
        assert streams(gateway.base_url)


def test_aisix_serves(installed: Installed, tmp_path: Path) -> None:
    with shipped(tmp_path, NOWHERE, (installed.script("aisix"), "--config", "{config}")) as gateway:
        assert streams(gateway.base_url)
