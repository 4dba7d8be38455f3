"""The cache over sockets: in memory, and in a real Redis that is stopped, frozen and started again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred

from tests.doubles.caller import Caller
from tests.doubles.provider import Head, ScriptedProvider, Send, Stall, chat_object, json_answer, sse, sse_chat
from tests.doubles.redis import RedisServer, needs_redis

from .house import Running, chat, until

POLICY = {"name": "answers", "scope": "env", "ttl_seconds": 600}
GOOD = json_answer(chat_object("cached text"))
PATIENT = {"ratelimit": {"store_timeout_ms": 5000}}
"""For tests on a loaded machine that are not about how long a store may take."""


class Start:
    """Starts gateways with a cache policy, one after the other."""

    def __init__(self, provider: ScriptedProvider, folder: Path) -> None:
        self._provider, self._folder = provider, folder
        self._running: Running | None = None

    def __call__(self, boot: dict[str, Any] | None = None, **policy: Any) -> Running:
        resources = {"cache_policies": [POLICY | policy]}
        self._running = Running(self._folder, {"upstream": self._provider.url}, boot, resources=resources)
        return self._running.start()

    async def close(self) -> None:
        """End the one that runs."""
        running, self._running = self._running, None
        if running is not None:
            await running.close()


@pytest_twisted.async_yield_fixture
async def cached(provider: ScriptedProvider, tmp_path: Path) -> Any:
    start = Start(provider, tmp_path)
    yield start
    await start.close()


def whole(**more: Any) -> bytes:
    return chat(stream=False, **more)


def told(caller: Caller) -> str | None:
    return caller.header("x-aisix-cache")


@ensureDeferred
async def test_a_hit(provider: ScriptedProvider, cached: Start) -> None:
    provider.answers(GOOD)
    running = cached()
    first = await running.ask(whole())
    second = await running.ask(whole())
    assert (told(first), told(second), second.header("x-aisix-cache-layer")) == ("miss", "hit", "exact")
    assert second.answer.body == first.answer.body
    assert second.header("content-length") == str(len(first.answer.body))
    assert second.header("x-aisix-served-by") is None
    assert len(provider.requests) == 1
    missed, hit = await running.when_records(2)
    assert (missed["cache_status"], hit["cache_status"]) == ("miss", "hit")
    assert hit["cache_hit_saved_output_tokens"] == missed["completion_tokens"] > 0
    assert (hit["outcome"], hit["attempts"], hit["prompt_tokens"], hit["completion_tokens"]) == ("complete", [], 0, 0)
    assert hit["cost_usd"] == 0


@ensureDeferred
async def test_hits_on_one_kept_connection_with_pipelining(provider: ScriptedProvider, cached: Start) -> None:
    provider.answers(GOOD)
    running = cached()
    await running.ask(whole())
    caller = await running.open(whole() * 3)
    await until(lambda: len(running.records) == 4, lambda: f"{len(running.records)} records")
    assert len(provider.requests) == 1
    await caller.leave()


@ensureDeferred
async def test_streams_go_upstream(provider: ScriptedProvider, cached: Start) -> None:
    provider.answers(GOOD, sse(sse_chat(["a"])), sse(sse_chat(["b"])))
    running = cached()
    await running.ask(whole())
    for _ in range(2):
        assert told(await running.ask(chat())) is None
    assert told(await running.ask(whole())) == "hit"
    assert len(provider.requests) == 3


async def in_the_answer(caller: Caller, provider: ScriptedProvider) -> None:
    await provider.when_request(1)


@pytest.mark.parametrize("way", ["fin", "rst"])
@pytest.mark.parametrize(
    "script",
    [[Stall()], [Head(200, [(b"content-type", b"application/json")]), Send(b'{"id":'), Stall()]],
    ids=["before the head", "in the body"],
)
@ensureDeferred
async def test_a_caller_who_leaves_a_miss(provider: ScriptedProvider, cached: Start, script: Any, way: str) -> None:
    provider.answers(script, GOOD)
    running = cached()
    caller = await running.open(whole())
    await in_the_answer(caller, provider)
    await (caller.leave() if way == "fin" else caller.reset())
    (record,) = await running.when_records(1)
    assert (record["outcome"], record["cache_status"]) == ("abandoned", "miss")
    assert len(running.house.kept) == 0
    assert told(await running.ask(whole())) == "miss"


@ensureDeferred
async def test_callers_who_leave_with_their_request_on_a_hit(provider: ScriptedProvider, cached: Start) -> None:
    provider.answers(GOOD)
    running = cached()
    await running.ask(whole())
    for _ in range(20):
        caller = await running.open(whole())
        await caller.reset()
    assert told(await running.ask(whole())) == "hit"
    await running.quiet()
    assert {record["outcome"] for record in running.records} <= {"complete", "abandoned"}
    assert len(provider.requests) == 1


# A Redis


@pytest.fixture
def server() -> Any:
    with RedisServer() as running:
        yield running


def shared(server: RedisServer, **more: Any) -> dict[str, Any]:
    return {**PATIENT, "cache": {"redis": {"url": server.url}}, **more}


async def up(running: Running, wanted: bool = True) -> None:
    await until(lambda: running.house.sharing.cache.up is wanted, lambda: f"the Redis is never up={wanted}")


def degraded(running: Running) -> float:
    return float(running.house.metrics._degraded[("cache",)])


@needs_redis
@ensureDeferred
async def test_two_gateways_share_their_answers(provider: ScriptedProvider, server: RedisServer, cached: Start) -> None:
    provider.answers(GOOD)
    one = cached(shared(server), backend="redis")
    await up(one)
    assert degraded(one) == 0
    first = await one.ask(whole())
    await until(lambda: server.ask("DBSIZE") >= 2, lambda: "nothing is kept")
    assert len(one.house.kept) == 0, "a policy of one backend does not use the other"
    await cached.close()
    two = cached(shared(server), backend="redis")
    await up(two)
    second = await two.ask(whole())
    assert (told(first), told(second)) == ("miss", "hit")
    assert first.answer.body == second.answer.body
    (name,) = server.ask("KEYS", "aisix:cache:*")
    assert len(name) == len("aisix:cache:") + 64
    assert 500 <= server.ask("TTL", name) <= 600
    assert two.records[0]["cache_hit_saved_output_tokens"] > 0


@needs_redis
@ensureDeferred
async def test_what_is_found_there_may_be_anything(
    provider: ScriptedProvider, server: RedisServer, cached: Start
) -> None:
    provider.answers(*[GOOD] * 4)
    running = cached(shared(server), backend="redis")
    await up(running)
    await running.ask(whole())
    await until(lambda: server.ask("DBSIZE") >= 2, lambda: "nothing is kept")
    (name,) = server.ask("KEYS", "aisix:cache:*")
    for number, rubbish in enumerate(("", "{", '{"body": 7}', None)):
        if rubbish is None:
            server.ask("DEL", name)
            server.ask("LPUSH", name, "x")
        else:
            server.ask("SET", name, rubbish)
        if number < 3:
            assert told(await running.ask(whole(), 20)) == "miss"
            await until(lambda: "cached text" in (server.ask("GET", name) or ""), lambda: "it was not replaced")
    server.ask("DEL", name)


@needs_redis
@ensureDeferred
async def test_a_redis_that_stops_and_comes_back(
    provider: ScriptedProvider, server: RedisServer, cached: Start
) -> None:
    provider.answers(*[GOOD] * 5)
    running = cached(shared(server), backend="redis")
    await up(running)
    await running.ask(whole())
    await until(lambda: server.ask("DBSIZE") >= 2, lambda: "nothing is kept")
    server.stop()
    await up(running, False)
    assert degraded(running) == 1
    for _ in range(2):
        caller = await running.ask(whole())
        assert (caller.status, told(caller)) == (200, "miss")
    server.start()
    await up(running)
    assert degraded(running) == 0
    assert told(await running.ask(whole())) == "miss", "it has forgotten everything"
    await until(lambda: server.ask("DBSIZE") >= 2, lambda: "nothing is kept")
    assert told(await running.ask(whole())) == "hit"


@needs_redis
@ensureDeferred
async def test_a_frozen_redis_costs_one_wait(provider: ScriptedProvider, server: RedisServer, cached: Start) -> None:
    provider.answers(*[GOOD] * 4)
    running = cached({"cache": {"redis": {"url": server.url}}, "ratelimit": {"store_timeout_ms": 50}}, backend="redis")
    await up(running)
    server.freeze()
    first = await running.ask(whole())
    assert (first.status, told(first)) == (200, "miss")
    assert not running.house.sharing.cache.up, "the first one waited and opened the circuit"
    second = await running.ask(whole())
    assert (second.status, told(second)) == (200, "miss")
    server.thaw()
    await up(running)
    for wanted in ("miss", "hit"):
        # on a loaded machine even a good Redis may be late once: then that was a miss
        caller = await running.ask(whole())
        assert told(caller) in (wanted, "miss")
        await up(running)


@needs_redis
@pytest.mark.parametrize("way", ["fin", "rst"])
@ensureDeferred
async def test_a_caller_who_leaves_while_the_redis_is_asked(
    provider: ScriptedProvider, server: RedisServer, cached: Start, way: str
) -> None:
    provider.answers(GOOD)
    running = cached(shared(server), backend="redis")
    await up(running)
    server.freeze()
    caller = await running.open(whole())
    await until(lambda: running.gateway.in_flight == 1, lambda: "the call has not come")
    await (caller.leave() if way == "fin" else caller.reset())
    (record,) = await running.when_records(1)
    assert record["outcome"] == "abandoned"
    assert provider.requests == []
    server.thaw()
    assert running.house.sharing.cache.up, "it is not the Redis that is at fault"
    assert told(await running.ask(whole())) == "miss"


@needs_redis
@ensureDeferred
async def test_a_gateway_without_its_redis_does_not_start(server: RedisServer, cached: Start, capfd: Any) -> None:
    server.stop()
    with pytest.raises(SystemExit):
        cached(shared(server), backend="redis")
    assert ": cache.redis: cannot connect: " in capfd.readouterr().err
