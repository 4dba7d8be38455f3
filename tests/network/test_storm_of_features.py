"""Random calls, left at random, with everything switched on at once: nothing stays held, counted or open."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.doubles.caller import post
from tests.doubles.guards import Webhook
from tests.doubles.provider import (
    Close,
    Request,
    Script,
    ScriptedProvider,
    Sleep,
    Stall,
    chat_object,
    json_answer,
    sse,
    sse_chat,
)
from tests.doubles.redis import RedisServer, needs_redis

from .house import KEY, Running, until

REACTOR: Any = default_reactor
CALLS = int(os.environ.get("STORM_CALLS", "300"))
AT_ONCE = 40
HOOK = '''
from twisted.internet import reactor
from twisted.internet.task import deferLater


class Moody:
    """Sends some calls elsewhere, takes its time, and drops a frame now and then."""

    def __init__(self):
        self.calls = 0

    async def pre_call(self, call):
        self.calls += 1
        if self.calls % 3 == 0:
            await deferLater(reactor, 0.002 * (self.calls % 4))
        if self.calls % 5 == 0:
            call.body["model"] = "grouped"

    def during(self, call):
        return Frames() if self.calls % 2 else None


class Frames:
    def frame(self, frame):
        return frame
'''


def moody(seed: int) -> Any:
    """A provider that does whatever may happen."""
    chance = random.Random(seed)

    def answer(request: Request) -> Script:
        stream = request.json().get("stream")
        texts = [f"{n} me@example.org " for n in range(chance.randrange(1, 25))]
        pick = chance.random()
        late = [Sleep(chance.choice([0, 0, 0.01, 0.05]))]
        if pick < 0.08:
            return [*late, *json_answer({"error": {"message": "no", "type": "server_error"}}, 500)]
        if pick < 0.12:
            return [*late, *json_answer({"error": {"message": "slow down", "type": "rate_limit"}}, 429)]
        if pick < 0.16:
            return [*late, Close()]
        if not stream:
            return [*late, *json_answer(chat_object("hello me@example.org"))]
        if pick < 0.24:
            return [*late, *sse(sse_chat([], done=False, finish=None), Close())]
        if pick < 0.32:
            return [*late, *sse(sse_chat(texts, done=False, finish=None), Close())]
        if pick < 0.37:
            return [*late, *sse(sse_chat(texts[:2], done=False, finish=None), Stall())]
        if pick < 0.42:
            return [
                *late,
                *sse([*sse_chat(texts[:2], done=False, finish=None), b'data: {"error":{"message":"x"}}\n\n']),
            ]
        if pick < 0.45:
            return [*late, *sse(sse_chat(["xyzzy"]))]
        return [*late, *sse(sse_chat(texts, usage=(3, 2)))]

    return answer


def everything(made: dict[str, Any], service: str, seed: int) -> None:
    """Switch it all on."""
    prices = {"input_per_1k": 0.001, "output_per_1k": 0.002}
    for name in ("a", "b", "c"):
        made["models"].append(
            {
                "display_name": name,
                "provider": "openai",
                "model_name": f"up-{name}",
                "provider_key": "hasty",
                "cost": prices,
                "rate_limit": {"concurrency": 30, "tpm": 10_000_000, "reserve": True},
                "on_disconnect": "drain" if name == "b" else "cancel",
                "drain_max_secs": 1,
                "cooldown": {"enabled": False},
            }
        )
    targets = [{"model": "a"}, {"model": "b"}, {"model": "c"}]
    routing = {"strategy": "round_robin", "retries": 1, "hedge": {"after_ms": 15, "max_extra_ratio": 1.0}}
    made["models"].append({"display_name": "grouped", "routing": {**routing, "targets": targets}})
    made["api_keys"][0]["rate_limit"] = {"concurrency": 1000, "tpm": 100_000_000, "reserve": True}
    made["rate_limit_policies"] = [
        {"name": "one", "scope": "model", "scope_ref": "a", "window": "minute", "max_requests": 1_000_000},
        {"name": "all", "group_by": ["api_key", "model"], "limits": {"concurrency": 1000}, "conditions": []},
    ]
    made["cache_policies"] = [{"name": "answers", "applies_to": "all", "ttl_seconds": 600}]
    made["budgets"] = [
        {"name": "much", "scope": "api_key", "scope_ref": "caller", "limit_usd": 1000.0, "on_exhausted": "stop"}
    ]
    made["guardrails"] = [
        {
            "name": "asked",
            "kind": "webhook",
            "url": f"{service}/check",
            "secret": "s3",
            "stream_output": "scan" if seed % 2 else "hold",
        },
        {"name": "words", "kind": "keyword", "patterns": [{"kind": "literal", "value": "xyzzy"}]},
        {"name": "pii", "kind": "pii", "detectors": [{"type": "email"}], "unmask": True, "hook_point": "input"},
        {"name": "mask", "kind": "pii", "detectors": [{"type": "email"}], "hook_point": "output"},
    ]


def request_of(chance: random.Random) -> bytes:
    model = chance.choice(["a", "b", "grouped", "grouped", "grouped"])
    said = [{"role": "user", "content": chance.choice(["hi", "write to me@example.org", "again"])}]
    stream = chance.random() < 0.75
    path = chance.choice(["chat/completions", "chat/completions", "messages", "responses"])
    body: dict[str, Any] = {"model": model, "stream": stream}
    body |= {"input": "hi me@example.org"} if path == "responses" else {"messages": said, "max_tokens": 9}
    return post(f"/v1/{path}", body, key=KEY)


async def stormy(running: Running, chance: random.Random) -> None:
    caller = await running.open(request_of(chance))
    pick = chance.random()
    if pick < 0.3:
        for _ in range(chance.randrange(30)):
            await deferLater(REACTOR, 0)
    elif pick < 0.6:
        await deferLater(REACTOR, chance.random() * 0.12)
    elif pick < 0.8:
        frames = chance.randrange(1, 20)
        await caller.when(lambda seen: seen.ended or len(seen.frames) >= frames)
    elif pick < 0.87:
        await deferLater(REACTOR, chance.random() * 0.05)
        (key,) = running.house.snapshot().caller_keys_by_hash.values()
        for one in running.gateway.streams.listed(key):
            if chance.random() < 0.3:
                running.gateway.streams.stop(key, one["id"])
        await caller.when_ended()
    else:
        await caller.when_ended()
    if not caller.closed:
        await (caller.leave() if chance.random() < 0.5 else caller.reset())


def check_free(house: Any) -> None:
    """Nobody holds anything any more."""
    gateway = house.gateway
    (quota, _) = gateway.limits
    store = quota._store
    buckets = getattr(store, "local", store)._buckets
    assert getattr(store, "_live", {}) == {}
    assert buckets
    assert {key: (one.slots, one.reserved, one.holds) for key, one in buckets.items() if one.holds or one.slots} == {}
    assert all(one.reserved == 0 for one in buckets.values())
    assert quota._measured == {}
    assert quota._tick is None
    assert house.budgets._running == {}
    assert house.budgets._pending == {}
    assert gateway.streams._running == {}
    assert gateway._calls == {}
    assert gateway.drains._running == {}
    assert {key: state.in_flight for key, state in gateway.health._states.items() if state.in_flight} == {}
    assert house.guard_threads.waiting == house.threads.waiting == house.hook_threads.waiting == 0


@pytest.fixture(params=["memory", pytest.param("redis", marks=needs_redis)])
def limits(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The boot file's part about where limits are counted."""
    if request.param == "memory":
        yield {}
        return
    with RedisServer() as server:
        yield {"ratelimit": {"backend": "redis", "redis": {"url": server.url}}}


@ensureDeferred
async def test_nothing_stays(
    limits: dict[str, Any], provider: ScriptedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moody_hook.py").write_text(HOOK)
    monkeypatch.delitem(sys.modules, "moody_hook", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    service = ScriptedProvider().start()
    double = Webhook({"masked": [], "blocked": ["xyzzy"]})
    seed = 2 if limits else 1
    chance = random.Random(seed)
    service.answers(lambda request: [Sleep(chance.choice([0, 0.002, 0.02])), *double(request)])
    provider.answers(moody(seed))
    boot = {
        "hooks": [{"use": "moody_hook:Moody"}],
        "upstream": {"retries": 0},
        "downstream": {"sse_keepalive_interval_secs": 0.03},
        "proxy": {"max_drains": 10},
        **limits,
    }
    running = Running(
        tmp_path, {"upstream": provider.url}, boot, change=lambda made: everything(made, service.url, seed)
    ).start()
    chances = [random.Random(seed * 1_000_000 + number) for number in range(CALLS)]

    async def one_after_the_other(mine: list[random.Random]) -> None:
        for chance in mine:
            await stormy(running, chance)

    lanes = [Deferred.fromCoroutine(one_after_the_other(chances[lane::AT_ONCE])) for lane in range(AT_ONCE)]
    await gatherResults(lanes, consumeErrors=True)
    await running.quiet()
    await until(lambda: not running.site.channels, lambda: f"{len(running.site.channels)} callers")
    check_free(running.house)
    outcomes = {record["outcome"] for record in running.records}
    assert outcomes >= {"abandoned", "complete"}
    kinds = {attempt["kind"] for record in running.records for attempt in record["attempts"]}
    assert kinds >= {"initial", "fallback", "hedge"}
    await running.close()
    await service.stop()
