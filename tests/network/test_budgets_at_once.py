"""500 streams at once against one budget, over real sockets; `/status/usage` and the usage file on the way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import globalLogPublisher

from tests.doubles.caller import Caller, request_bytes
from tests.doubles.provider import Request, Script, ScriptedProvider, Send, Sleep, Stall, WaitFor, sse, sse_chat
from tests.doubles.redis import RedisServer, needs_redis
from tests.doubles.waiting import Gate

from .house import Running, chat, until

STREAMS = 500
TEXT = "x" * 40
"""Ten tokens: ten cents."""
QUESTION = "?" * 400
"""A hundred tokens: ten cents."""
LIMIT = 80.0


def change(**budget: Any) -> Any:
    """The resources with prices and one budget of the caller's team."""

    def changed(resources: dict[str, Any]) -> None:
        resources["models"][0]["cost"] = {"input_per_1k": 1.0, "output_per_1k": 10.0}
        resources["api_keys"][0]["team_id"] = "team-a"
        one = {"name": "team-a", "scope": "team", "scope_ref": "team-a", "limit_usd": LIMIT, "period": "total"}
        resources["budgets"] = [one | budget]

    return changed


class Crowd:
    """500 callers of one gateway."""

    def __init__(self, folder: Path, provider: ScriptedProvider) -> None:
        self.folder, self.provider = folder, provider
        self.go = Gate()
        self.running: Running | None = None

    def start(self, **budget: Any) -> Running:
        self.provider.answers(self._script)
        boot = {
            "usage": {"file": {"path": str(self.folder / "usage.jsonl")}, "state_file": str(self.folder / "state")},
            "observability": {"metrics": {"prometheus": {"enabled": True, "addr": "127.0.0.1:0"}}},
        }
        self.running = Running(self.folder, {"upstream": self.provider.url}, boot, change=change(**budget)).start()
        return self.running

    def _script(self, _request: Request) -> Script:
        """A first text at once; the others, one after the other, when all callers have theirs."""
        first, text, more = sse_chat([TEXT, TEXT], done=False, finish=None)
        rest = [step for _ in range(40) for step in (Send(more), Sleep(0))]
        return [*sse([first, text])[:-1], WaitFor(self.go), *rest, Stall()]

    async def ask(self, count: int) -> list[Caller]:
        assert self.running is not None
        opening = [Deferred.fromCoroutine(self.running.open(chat(text=QUESTION))) for _ in range(count)]
        return list(await gatherResults(opening))


@pytest_twisted.async_yield_fixture
async def crowd(tmp_path: Path, provider: ScriptedProvider) -> AsyncIterator[Crowd]:
    made = Crowd(tmp_path, provider)
    yield made
    if made.running is not None:
        await made.running.close()


@ensureDeferred
async def test_500_streams_are_ended_when_their_budget_is_spent(crowd: Crowd) -> None:
    running = crowd.start(limit_usd=LIMIT * 2, on_exhausted="stop")
    callers = await crowd.ask(STREAMS)
    await gatherResults([caller.when(lambda seen: len(seen.frames) >= 2, 60) for caller in callers])
    (before,) = running.house._usage()["budgets"]
    assert before["spent_usd"] == pytest.approx(STREAMS * 0.2)
    crowd.go.open()
    await gatherResults([caller.when_ended(60) for caller in callers])
    records = await running.when_records(STREAMS, 60)
    assert {record["outcome"] for record in records} == {"blocked"}
    spent = sum(record["cost_usd"] for record in records)
    assert spent + 1e-6 >= LIMIT * 2
    assert spent <= LIMIT * 2 + STREAMS * 0.2, "one read for each running stream, at the very most"
    print(f"{STREAMS} streams, limit {LIMIT * 2:.2f}, spent {spent:.2f} USD")
    for caller in callers:
        error = caller.frames[-1]
        assert error.event == "error"
        told = error.json()["error"]
        assert (told["code"], told["message"]) == ("budget_exceeded", 'budget "team-a" is spent')
        assert told["usage"]["estimated"] is True
    refused = await running.ask(chat())
    assert (refused.status, refused.answer.json()["error"]["spent_usd"]) == (429, round(spent, 6))
    (budget,) = running.house._usage()["budgets"]
    assert budget["spent_usd"] == pytest.approx(spent)
    assert running.house.budgets._running == {}
    await check_files(crowd, STREAMS + 1)


async def check_files(crowd: Crowd, count: int) -> None:
    """The file of records, the state, and what the status listener says."""
    running = crowd.running
    assert running is not None
    await running.when_records(count)
    path = crowd.folder / "usage.jsonl"
    await until(lambda: path.exists() and path.read_bytes().count(b"\n") == count, lambda: "not all are written")
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(one["request_id"] for one in written) == sorted(one["request_id"] for one in running.records)
    (port,) = [port for port in running.house.ports if port is not running.house.port]
    caller = Caller("127.0.0.1", port.getHost().port)
    running.callers.append(caller)
    await caller.open(request_bytes("GET", "/status/usage"))
    await caller.when_ended()
    usage = caller.answer.json()
    (row,) = usage["by_team"]
    assert (row["id"], row["calls"]) == ("team-a", count)
    assert row["cost_usd"] == pytest.approx(sum(one["cost_usd"] for one in written))
    assert usage["budgets"] == running.house._usage()["budgets"]
    state = crowd.folder / "state"
    await until(state.exists, lambda: "no state")


@ensureDeferred
async def test_a_budget_that_refuses_lets_in_what_it_can_pay_for(crowd: Crowd) -> None:
    running = crowd.start(limit_usd=5.05)
    callers = await crowd.ask(STREAMS)
    let_in = [caller for caller in callers if await answered(caller) == 200]
    assert 26 <= len(let_in) <= 51, "a question is ten cents, and ten more once the first text is there"
    others = [caller for caller in callers if caller.status == 429]
    assert len(let_in) + len(others) == STREAMS
    assert {caller.answer.json()["error"]["code"] for caller in others} == {"budget_exceeded"}
    await gatherResults([caller.when(lambda seen: len(seen.frames) >= 2) for caller in let_in])
    crowd.go.open()
    await gatherResults([caller.when(lambda seen: len(seen.frames) >= 5) for caller in let_in])
    await gatherResults([caller.leave() for caller in let_in])
    assert {record["outcome"] for record in await running.when_records(STREAMS)} == {"abandoned", "refused"}


async def answered(caller: Caller) -> int | None:
    await caller.when(lambda seen: seen.status is not None, 60)
    return caller.status


@needs_redis
@ensureDeferred
async def test_two_gateways_have_one_budget(tmp_path: Path, provider: ScriptedProvider) -> None:
    provider.answers(sse(sse_chat([TEXT], usage=(100, 10))))
    houses = []
    with RedisServer() as redis:
        boot = {"ratelimit": {"backend": "redis", "redis": {"url": redis.url}, "store_timeout_ms": 5000}}
        try:
            for name in "ab":
                folder = tmp_path / name
                folder.mkdir()
                houses.append(Running(folder, {"upstream": provider.url}, boot, change=change(limit_usd=0.3)).start())
            first, second = houses
            for house in houses:
                await until(lambda house=house: house.house.sharing._spending._redis.up, lambda: "no Redis")
            assert (await first.ask(chat(text=QUESTION))).status == 200
            assert (await second.ask(chat(text=QUESTION))).status == 200
            for house in houses:
                spent = house.house._usage
                await until(lambda spent=spent: spent()["budgets"][0]["spent_usd"] > 0.39, lambda: "not shared")
                refused = await house.ask(chat(text=QUESTION))
                assert (refused.status, refused.answer.json()["error"]["spent_usd"]) == (429, 0.4)
        finally:
            for house in houses:  # `close` looks for what is left of one gateway, and here are two
                await gatherResults([caller.leave() for caller in house.callers])
                house.check_books()
                globalLogPublisher.removeObserver(house.trouble)
                await house.house.stopService()
