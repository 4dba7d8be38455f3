"""The official npm packages `openai` and `@anthropic-ai/sdk`: every way of asking, whoever serves the alias."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from .errors import check_failures
from .house import KEY, House
from .install import HERE, Clients
from .provider import COUNTED, Provider
from .scripts import DEGREES, PLAIN, chat_reading, loop_reading, messages_reading, responses_reading

SECONDS = 300
OPENAI = ("openai", "compatible", "anthropic")
ANTHROPIC = ("anthropic", "openai")
DIRECT = "direct"
"""No gateway: what the client makes of the provider itself."""
OPENAI_WAYS = [f"{kind} {way}" for kind in ("chat", "responses") for way in ("stream", "whole", "helper")]
Run = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def run(
    clients: Clients, house: Callable[[str], House], scripted: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Runs a script against a kind of provider, once, and gives what it printed."""

    @cache
    def give(script: str, place: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("script")
        (folder / "node_modules").symlink_to(clients.modules)
        shutil.copy(HERE / script, folder)
        url = scripted.url if place == DIRECT else house(place).url
        only = {
            "openai.mjs": {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": KEY},
            "anthropic.mjs": {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": KEY},
        }
        wishes = json.dumps({"aliases": list(PLAIN), "degrees": DEGREES})
        return _printed(
            [str(clients.node), "--preserve-symlinks-main", script, wishes],
            folder,
            clients.environment(folder, **only[script]),
        )

    return give


def _printed(command: list[str], folder: Path, environment: Any) -> dict[str, Any]:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


@pytest.mark.parametrize("alias", PLAIN)
@pytest.mark.parametrize("way", OPENAI_WAYS)
@pytest.mark.parametrize("place", [DIRECT, *OPENAI])
def test_openai_reads_what_was_said(place: str, way: str, alias: str, run: Run) -> None:
    if way.startswith("chat"):
        expected = chat_reading(alias)
    else:
        expected = responses_reading(alias, alias if place == "openai" else f"our-{alias}")
    if way == "chat helper":
        del expected["thinking"]
    assert run("openai.mjs", place)["read"][f"{way} {alias}"] == expected


@pytest.mark.parametrize("alias", ["text", "length"])
@pytest.mark.parametrize("way", ["stream", "whole"])
@pytest.mark.parametrize("place", OPENAI)
def test_openai_reads_legacy_completions(place: str, way: str, alias: str, run: Run) -> None:
    expected = chat_reading(alias)
    del expected["thinking"], expected["tools"]
    assert run("openai.mjs", place)["read"][f"completions {way} {alias}"] == expected


@pytest.mark.parametrize("place", OPENAI)
def test_openai_runs_tools(place: str, run: Run) -> None:
    assert run("openai.mjs", place)["loop"] == loop_reading()


@pytest.mark.parametrize("kind", ["chat", "responses"])
@pytest.mark.parametrize("place", OPENAI)
def test_openai_raises_its_own_errors(place: str, kind: str, run: Run) -> None:
    failed = run("openai.mjs", place)["failed"]
    check_failures({name.removeprefix(f"{kind} "): one for name, one in failed.items() if name.startswith(kind)})


@pytest.mark.parametrize("place", OPENAI)
def test_openai_lists_the_aliases(place: str, run: Run) -> None:
    assert {f"our-{alias}" for alias in PLAIN} <= set(run("openai.mjs", place)["models"])


@pytest.mark.parametrize("alias", PLAIN)
@pytest.mark.parametrize("way", ["stream", "whole", "helper"])
@pytest.mark.parametrize("place", [DIRECT, *ANTHROPIC])
def test_anthropic_reads_what_was_said(place: str, way: str, alias: str, run: Run) -> None:
    assert run("anthropic.mjs", place)["read"][f"{way} {alias}"] == messages_reading(alias)


@pytest.mark.parametrize("loop", ["loop", "streamedLoop"])
@pytest.mark.parametrize("place", ANTHROPIC)
def test_anthropic_runs_tools(place: str, loop: str, run: Run) -> None:
    assert run("anthropic.mjs", place)[loop] == loop_reading()


@pytest.mark.parametrize("place", ANTHROPIC)
def test_anthropic_raises_its_own_errors(place: str, run: Run) -> None:
    check_failures(run("anthropic.mjs", place)["failed"])


def test_anthropic_counts_tokens(run: Run) -> None:
    assert run("anthropic.mjs", "anthropic")["count"] == COUNTED
    assert run("anthropic.mjs", "openai")["count"] == "BadRequestError 400"
