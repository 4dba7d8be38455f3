"""Hooks of the boot file in a whole gateway over sockets, from the examples of docs/hooks.md."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred

from tests.doubles.provider import ScriptedProvider, Stall, sse, sse_chat
from tests.policies.test_hook_examples import EXAMPLES
from twisted_gateway.config.settings import SettingsError

from .house import Running, chat, contents, until

TEXTS = ["a se", "cret", " and a sec", "ond"]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with the examples, under names that nobody else has."""
    for name, code in EXAMPLES.items():
        (tmp_path / f"example_{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, f"example_{name}", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def hooks(folder: Path) -> dict[str, object]:
    """The boot file's part."""
    return {
        "hooks": [
            {"use": "example_redact:Redact", "config": {"word": "secret"}},
            {"use": "example_usage:Usage", "config": {"path": str(folder / "usage.db")}},
        ]
    }


@ensureDeferred
async def test_the_examples_at_work(provider: ScriptedProvider, shelf: Path) -> None:
    provider.answers(sse(sse_chat(TEXTS)))
    running = Running(shelf, {"upstream": provider.url}, hooks(shelf)).start()
    caller = await running.ask(chat())
    assert contents(caller) == "a *** and a second"
    (record,) = await running.when_records(1)
    await until(lambda: not running.house.hooks.running, lambda: "the row is not written")
    with sqlite3.connect(shelf / "usage.db") as database:
        rows = list(database.execute("select request_id, outcome, prompt_tokens, completion_tokens from usage"))
    assert rows == [(record["request_id"], "complete", record["prompt_tokens"], record["completion_tokens"])]
    await running.close()


@ensureDeferred
async def test_the_caller_leaves_while_a_hook_keeps_text(provider: ScriptedProvider, shelf: Path) -> None:
    provider.answers(sse(sse_chat(["a se"], done=False, finish=None), Stall()))
    running = Running(shelf, {"upstream": provider.url}, hooks(shelf)).start()
    caller = await running.open(chat())
    await caller.when(lambda seen: len(seen.frames) >= 2)
    await caller.leave()
    (record,) = await running.when_records(1)
    assert record["outcome"] == "abandoned"
    await running.close()


def test_a_hook_that_cannot_be_had_ends_the_start(tmp_path: Path) -> None:
    boot = {"hooks": [{"use": "no_such_module:Hook"}]}
    with pytest.raises(SettingsError) as caught:
        Running(tmp_path, {"upstream": "http://127.0.0.1:1"}, boot)
    assert "hooks[0].use: cannot import no_such_module: ModuleNotFoundError" in str(caught.value)


@ensureDeferred
async def test_records_that_are_being_written_when_the_process_ends(provider: ScriptedProvider, shelf: Path) -> None:
    provider.answers(sse(sse_chat(["x"])))
    running = Running(shelf, {"upstream": provider.url}, hooks(shelf)).start()
    await running.ask(chat())
    await running.when_records(1)
    await running.close()
    with sqlite3.connect(shelf / "usage.db") as database:
        assert list(database.execute("select count(*) from usage")) == [(1,)]
