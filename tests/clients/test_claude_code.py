"""`claude -p` from npm, with nothing set but address and key, on a provider that speaks Messages and on another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from . import agents
from .house import KEY, PROVIDER_KEY, House
from .install import Clients
from .scripts import PRINTED

PLACES = ("anthropic", "openai")
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
}
Ask = Callable[..., agents.Ended]


@pytest.fixture
def ask(clients: Clients, house: Callable[[str], House], tmp_path: Path) -> Ask:
    """Runs `claude -p` against a kind of provider."""

    def give(place: str, *arguments: str, key: str = KEY, **more: str) -> agents.Ended:
        only = {"ANTHROPIC_BASE_URL": house(place).url, "ANTHROPIC_API_KEY": key}
        environment = clients.environment(tmp_path, TMPDIR=str(tmp_path), **only, **QUIET, **more)
        return agents.run(clients.claude("-p", *arguments), tmp_path / "work", environment)

    return give


@pytest.mark.parametrize("place", PLACES)
def test_prints_the_answer(place: str, ask: Ask, house: Callable[[str], House]) -> None:
    mark = house(place).mark()
    ask(place, agents.PLAIN).check("The heron waits in the shallows.")
    (asked,) = mark.asked()
    assert asked.path.partition("?")[0] == PATHS[place]
    assert agents.PLAIN in str(asked.body["messages"])
    mark.check_complete(1)


@pytest.mark.parametrize("place", PLACES)
def test_runs_a_command_and_tells_its_output(place: str, ask: Ask, house: Callable[[str], House]) -> None:
    mark = house(place).mark()
    ask(place, agents.RUN, "--allowedTools", "Bash").check(f"The command printed {PRINTED}.")
    assert [one.path.partition("?")[0] for one in mark.asked()] == [PATHS[place]] * 2
    mark.check_complete(2)


def test_its_own_headers_reach_anthropic(ask: Ask, house: Callable[[str], House]) -> None:
    mark = house("anthropic").mark()
    ask("anthropic", agents.PLAIN)
    for one in mark.asked():
        assert one.path == "/v1/messages?beta=true"
        assert "claude-code-" in one.headers["anthropic-beta"]
        assert one.headers["x-api-key"] == PROVIDER_KEY
        assert KEY not in str(one.headers)


@pytest.mark.parametrize("place", PLACES)
def test_a_wrong_key_is_said_to_be_one(place: str, ask: Ask) -> None:
    ended = ask(place, agents.PLAIN, key="sk-wrong", CLAUDE_CODE_MAX_RETRIES="0")
    assert ended.status != 0
    assert "invalid API key" in ended.stdout
