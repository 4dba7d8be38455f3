"""`codex exec` from npm, with nothing set but address and key: on OpenAI itself, and on others through the bridge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from . import agents
from .house import KEY, House
from .install import Clients
from .scripts import PRINTED

PLACES = ("openai", "compatible", "anthropic")
PATHS = {"openai": "/v1/responses", "compatible": "/v1/chat/completions", "anthropic": "/v1/messages"}
FREE = ("--sandbox", "danger-full-access")
"""Its own sandbox needs more rights than a container has."""
Ask = Callable[..., agents.Ended]


@pytest.fixture
def ask(clients: Clients, house: Callable[[str], House], tmp_path: Path) -> Ask:
    """Runs `codex exec` against a kind of provider."""

    def give(place: str, *arguments: str, key: str = KEY) -> agents.Ended:
        home = tmp_path / "codex"
        home.mkdir(exist_ok=True)
        base = f"openai_base_url={json.dumps(house(place).url + '/v1')}"
        command = clients.codex("exec", "--skip-git-repo-check", "-c", base, *arguments)
        environment = clients.environment(tmp_path, CODEX_API_KEY=key, CODEX_HOME=str(home))
        return agents.run(command, tmp_path / "work", environment)

    return give


@pytest.mark.parametrize("place", PLACES)
def test_prints_the_answer(place: str, ask: Ask, house: Callable[[str], House]) -> None:
    mark = house(place).mark()
    ended = ask(place, agents.PLAIN)
    ended.check("The heron waits in the shallows.")
    assert "Reconnecting" not in ended.stderr, "it tries a WebSocket first, and should see at once that there is none"
    assert [one.path for one in mark.asked()] == [PATHS[place]]
    assert agents.PLAIN in json.dumps(mark.asked()[0].body)
    mark.check_complete(1)


@pytest.mark.parametrize("place", PLACES)
def test_runs_a_command_and_tells_its_output(place: str, ask: Ask, house: Callable[[str], House]) -> None:
    mark = house(place).mark()
    ask(place, "-m", "our-agent", *FREE, agents.RUN).check(f"The command printed {PRINTED}.")
    assert [one.path for one in mark.asked()] == [PATHS[place]] * 2
    mark.check_complete(2)


def test_a_wrong_key_is_said_to_be_one(ask: Ask) -> None:
    ended = ask("openai", agents.PLAIN, key="sk-wrong")
    assert ended.status != 0
    assert "401 Unauthorized" in ended.stderr
