"""Groups of targets over real sockets: many streams beside a dead target, hedges, callers who leave, reloads."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import yaml
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults

from tests.doubles.provider import End, Gate, Head, Reset, ScriptedProvider, Send, Stall, WaitFor, sse, sse_chat
from tests.doubles.waiting import PATIENCE
from twisted_gateway.config.resources import derived_id

from .house import Running, chat, contents, until

GOOD = sse(sse_chat(["Hel", "lo"]))
STREAMS = 200
LONG = 2 * PATIENCE


class Yard:
    """A gateway and the providers a, b and c; the group `all` is over their models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.providers = {name: ScriptedProvider().start() for name in "abc"}
        self.running: Running | None = None

    def start(
        self, *, boot: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **routing: Any
    ) -> Running:
        """Start the gateway; `model` is on each target, the rest is the group's `routing`."""
        group = {"display_name": "all", "routing": {"targets": [{"model": name} for name in "abc"]} | routing}
        resources = {"models": [*(_model(name) | (model or {}) for name in "abc"), group]}
        urls = {name: provider.url for name, provider in self.providers.items()}
        self.running = Running(self.folder, urls, resources=resources).start()
        return self.running

    def contacts(self) -> dict[str, int]:
        """How many requests each provider has got."""
        return {name: len(provider.requests) for name, provider in self.providers.items()}

    async def close(self) -> None:
        """Stop everything."""
        if self.running is not None:
            await self.running.close()
        for provider in self.providers.values():
            await provider.stop()


def _model(name: str) -> dict[str, Any]:
    return {"display_name": name, "provider": "openai", "model_name": f"at-{name}", "provider_key": name}


@pytest_twisted.async_yield_fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path)
    yield made
    await made.close()


def ask(**more: Any) -> bytes:
    return chat(model="all", **more)


@ensureDeferred
async def test_many_streams_beside_a_target_that_answers_nobody(yard: Yard) -> None:
    """Two thirds of them end while the rest waits for the black hole; when that is given up, all of them do."""
    hole = Gate()
    yard.providers["a"].answers([WaitFor(hole), Reset(abrupt=True)])
    for name in "bc":
        yard.providers[name].answers(GOOD)
    running = yard.start(strategy="round_robin", model={"cooldown": {"enabled": False}}, retries=0)
    callers = await gatherResults([Deferred.fromCoroutine(running.open(ask())) for _ in range(STREAMS)])
    await yard.providers["a"].when_request(67, LONG)
    await running.when_records(STREAMS - 67, LONG)
    assert yard.contacts() == {"a": 67, "b": 67, "c": 66}
    assert all(len(record["attempts"]) == 1 for record in running.records)
    hole.open()
    await gatherResults([caller.when_ended(LONG) for caller in callers])
    assert [contents(caller) for caller in callers] == ["Hello"] * STREAMS
    await running.when_records(STREAMS)
    assert Counter(len(record["attempts"]) for record in running.records) == {1: STREAMS - 67, 2: 67}
    assert {record["outcome"] for record in running.records} == {"complete"}
    assert yard.contacts()["a"] == 67


@ensureDeferred
async def test_a_dead_target_is_asked_once_and_then_left_alone(yard: Yard) -> None:
    yard.providers["b"].answers(GOOD)
    running = yard.start()
    await yard.providers.pop("a").stop()
    for _ in range(3):
        assert contents(await running.ask(ask())) == "Hello"
    await running.when_records(3)
    assert [[one["ended_by"] for one in record["attempts"]] for record in running.records] == [
        ["transport_error", "complete"],
        ["complete"],
        ["complete"],
    ]


@ensureDeferred
async def test_a_hedge_wins_and_the_loser_is_cut(yard: Yard) -> None:
    yard.providers["a"].answers([Head(headers={"content-type": "text/event-stream"}), Stall()])
    yard.providers["b"].answers(GOOD)
    running = yard.start(hedge={"after_ms": 30})
    caller = await running.ask(ask())
    assert contents(caller) == "Hello"
    assert caller.header("x-aisix-served-by") == "b"
    await yard.providers["a"].when_connections(0)
    (record,) = await running.when_records(1)
    assert [(one["kind"], one["ended_by"]) for one in record["attempts"]] == [
        ("initial", "hedge_lost"),
        ("hedge", "complete"),
    ]
    assert yard.contacts() == {"a": 1, "b": 1, "c": 0}


@ensureDeferred
async def test_a_caller_who_leaves_in_a_hedge_cuts_both(yard: Yard) -> None:
    for name in "ab":
        yard.providers[name].answers([Stall()])
    running = yard.start(hedge={"after_ms": 30})
    caller = await running.open(ask())
    await yard.providers["b"].when_request(1)
    await caller.reset()
    await yard.providers["a"].when_connections(0)
    await yard.providers["b"].when_connections(0)
    (record,) = await running.when_records(1)
    assert record["outcome"] == "abandoned"
    assert yard.contacts() == {"a": 1, "b": 1, "c": 0}


@ensureDeferred
async def test_a_caller_who_leaves_while_we_wait_ends_the_waiting(yard: Yard) -> None:
    yard.providers["a"].answers([Head(503, {"retry-after": "5", "content-length": "0"}, framing="length"), End()])
    running = yard.start(retries=5)
    caller = await running.open(ask())
    await yard.providers["a"].when_request(1)
    failed = derived_id("models", "a")
    await until(lambda: running.gateway.health.cooling(failed), lambda: "the attempt has not failed")
    await caller.leave()
    (record,) = await running.when_records(1)
    assert record["outcome"] == "abandoned"
    assert [one["status"] for one in record["attempts"]] == [503]
    assert yard.contacts() == {"a": 1, "b": 0, "c": 0}


@ensureDeferred
async def test_state_survives_a_reload(yard: Yard) -> None:
    for name in "abc":
        yard.providers[name].answers(GOOD)
    running = yard.start(strategy="round_robin")
    await running.ask(ask())
    path = yard.folder / "resources.yaml"
    document = yaml.safe_load(path.read_text())
    document["models"].append(_model("a") | {"display_name": "one-more"})
    path.write_text(yaml.safe_dump(document))
    await running.house.reload()
    assert running.house.snapshot().generation == 2
    for _ in range(2):
        await running.ask(ask())
    assert yard.contacts() == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("size", [1, 7, 64])
@ensureDeferred
async def test_a_first_event_in_pieces_decides_as_well(yard: Yard, size: int) -> None:
    error = b'data: {"error": {"message": "no", "code": 500}}\n\n'
    pieces = [Send(error[at : at + size]) for at in range(0, len(error), size)]
    yard.providers["a"].answers([Head(headers={"content-type": "text/event-stream"}), *pieces, End()])
    yard.providers["b"].answers(GOOD)
    running = yard.start()
    assert contents(await running.ask(ask())) == "Hello"
    assert yard.contacts() == {"a": 1, "b": 1, "c": 0}
