"""Rate limits over sockets: what callers see, slots that live as long as the stream, crowds, several gateways."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.doubles.caller import Caller, post, request_bytes
from tests.doubles.provider import (
    End,
    Gate,
    Head,
    Request,
    ScriptedProvider,
    Send,
    Sleep,
    Stall,
    WaitFor,
    chat_object,
    json_answer,
    sse,
    sse_chat,
)
from tests.doubles.redis import RedisServer, needs_redis
from twisted_gateway.config.resources import derived_id

from .house import KEY, Running, chat, until

REACTOR: Any = default_reactor
ME = derived_id("api_keys", "caller")
STREAM = sse(sse_chat(["Hel", "lo"], usage=(5, 7)))
WHOLE = json_answer(chat_object("Hello", usage=(5, 7)))
PATIENT = {"ratelimit": {"store_timeout_ms": 5000}}


class Starts:
    """Starts gateways whose caller key and model have limits."""

    def __init__(self, provider: ScriptedProvider, folder: Path) -> None:
        self._provider, self._folder = provider, folder
        self.running: list[Running] = []

    def __call__(
        self,
        key: dict[str, Any] | None = None,
        model: dict[str, Any] | None = None,
        boot: dict[str, Any] | None = None,
        models: tuple[dict[str, Any], ...] = (),
        more: dict[str, str] | None = None,
        **lists: Any,
    ) -> Running:
        def change(tree: dict[str, Any]) -> None:
            if key is not None:
                tree["api_keys"][0]["rate_limit"] = key
            if model is not None:
                tree["models"][0]["rate_limit"] = model
            for one in tree["models"]:
                one.update(*(changes for changes in models if changes["display_name"] == one["display_name"]))
            known = {one["display_name"] for one in tree["models"]}
            tree["models"] += [one for one in models if one["display_name"] not in known]

        folder = self._folder / str(len(self.running))
        folder.mkdir()
        providers = {"upstream": self._provider.url, **(more or {})}
        self.running.append(Running(folder, providers, boot, resources=lists, change=change).start())
        return self.running[-1]


@pytest_twisted.async_yield_fixture
async def starts(provider: ScriptedProvider, tmp_path: Path) -> Any:
    made = Starts(provider, tmp_path)
    yield made
    for running in made.running:
        if len(made.running) > 1:
            running._held = set  # what the other one holds is none of its business
        await running.close()


def limits(caller: Caller) -> dict[str, str]:
    """The `x-ratelimit-*` headers of an answer, without the times."""
    return {
        name.decode().lower().removeprefix("x-ratelimit-"): value.decode()
        for name, value in caller.answer.head.headers
        if name.lower().startswith(b"x-ratelimit-") and b"reset" not in name.lower()
    }


def standing(running: Running, bucket: str = ME) -> Any:
    """How a bucket stands in the process."""
    limiter = running.house.sharing.limiter
    return getattr(limiter, "local", limiter).standing(bucket)


async def early_in_the_minute(seconds: float = 30) -> None:
    """Until no minute ends within the test. For hours and days see `tests.conftest`."""
    left = 60 - time.time() % 60
    if left < seconds:
        await deferLater(REACTOR, left + 0.05)


# What callers see


@ensureDeferred
async def test_headers_on_streams_and_whole_answers(provider: ScriptedProvider, starts: Starts) -> None:
    await early_in_the_minute()
    provider.answers(STREAM, WHOLE)
    running = starts({"rpm": 10, "tpm": 100, "concurrency": 4})
    first = await running.ask(chat())
    assert limits(first) == {
        "limit-requests": "10",
        "remaining-requests": "9",
        "limit-tokens": "100",
        "remaining-tokens": "100",
        "limit-concurrent": "4",
        "remaining-concurrent": "3",
    }
    reset = first.header("x-ratelimit-reset-requests") or ""
    assert reset.endswith("s")
    assert 1 <= int(reset[:-1]) <= 60
    second = await running.ask(chat(stream=False))
    assert limits(second)["remaining-tokens"] == "88"
    assert limits(second)["remaining-requests"] == "8"


@ensureDeferred
async def test_tokens_of_the_final_chunk_are_charged(provider: ScriptedProvider, starts: Starts) -> None:
    await early_in_the_minute()
    provider.answers(STREAM)
    running = starts({"tpm": 11})
    for _ in range(1):
        await running.ask(chat())
    refused = await running.ask(chat())
    assert refused.answer.status == 429
    assert refused.answer.json()["error"] == {
        "message": "token limit exceeded (tokens)",
        "type": "rate_limit_exceeded",
    }
    assert 1 <= int(refused.header("retry-after") or 0) <= 60
    assert limits(refused) == {}
    messages = {"model": "test-model", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    other = await running.ask(post("/v1/messages", messages, key=KEY))
    assert other.answer.json() == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "token limit exceeded (tokens)"},
    }
    assert other.header("retry-after") is not None
    records = await running.when_records(3)
    assert [record["outcome"] for record in records] == ["complete", "refused", "refused"]


@ensureDeferred
async def test_a_slot_lives_as_long_as_the_byte_stream(provider: ScriptedProvider, starts: Starts) -> None:
    provider.answers([Head(200, [(b"content-type", b"text/event-stream")]), Send(sse_chat(["a"])[0]), Stall()])
    running = starts(model={"concurrency": 1})
    streaming = await running.open(chat())
    await streaming.when(lambda seen: len(seen.frames) >= 1)
    second = await running.ask(chat())
    assert (second.answer.status, second.header("retry-after")) == (429, None)
    assert second.answer.json()["error"]["message"] == "concurrency limit exceeded"
    await streaming.leave()
    await running.when_records(2)
    provider.answers(STREAM)
    assert standing(running, "model:test-model").in_flight == 0
    third = await running.open(chat())
    await third.when(lambda seen: len(seen.frames) >= 1)
    await third.leave()


@ensureDeferred
async def test_a_slot_is_held_until_a_drain_ends(provider: ScriptedProvider, starts: Starts) -> None:
    gate, pieces = Gate(), sse_chat(["a", "b"], usage=(5, 7))
    provider.answers(sse([pieces[0]], WaitFor(gate), *map(Send, pieces[1:]), End()))
    draining = {"display_name": "test-model", "on_disconnect": "drain"}
    running = starts({"concurrency": 1, "tpd": 1000}, models=(draining,))
    streaming = await running.open(chat())
    await streaming.when(lambda seen: len(seen.frames) >= 1)
    await streaming.leave()
    assert (await running.ask(chat())).answer.status == 429
    gate.open()
    (_, record) = await running.when_records(2)
    assert (record["outcome"], record["drained"]) == ("abandoned", True)
    assert standing(running).in_flight == 0
    bucket = running.house.sharing.limiter._bucket(ME)
    assert bucket.used("tpd", 86400, time.time()) == record["prompt_tokens"] + record["completion_tokens"]


@ensureDeferred
async def test_a_policy_s_own_words(provider: ScriptedProvider, starts: Starts) -> None:
    provider.answers(WHOLE)
    policy = {"name": "house", "limits": {"rpd": 1}, "group_by": ["api_key", "model"]}
    running = starts(rate_limit_policies=[policy])
    await running.ask(chat(stream=False))
    refused = await running.ask(chat(stream=False))
    assert refused.answer.json()["error"] == {
        "message": "request limit exceeded (requests) (policy 'house')",
        "type": "rate_limit_exceeded",
        "policy": {"id": derived_id("rate_limit_policies", "house"), "name": "house"},
    }
    lines = running.house.metrics.exposition().decode()
    labels = f'layer="policy",policy_id="{derived_id("rate_limit_policies", "house")}",scope="requests"'
    assert f"aisix_ratelimit_rejections_total{{{labels}}} 1.0" in lines


@ensureDeferred
async def test_a_reload_keeps_what_was_counted(provider: ScriptedProvider, starts: Starts, tmp_path: Path) -> None:
    provider.answers(WHOLE)
    running = starts({"rpd": 2})
    await running.ask(chat(stream=False))
    await running.house.reload()
    assert (await running.ask(chat(stream=False))).answer.status == 200
    assert (await running.ask(chat(stream=False))).answer.status == 429


# Groups

GROUP = {"display_name": "auto", "routing": {"targets": [{"model": "test-model"}, {"model": "other"}]}}


@ensureDeferred
async def test_a_target_over_its_limit_is_skipped(provider: ScriptedProvider, starts: Starts) -> None:
    provider.answers(WHOLE)
    spare = {"display_name": "other", "rate_limit": {"rpd": 1, "concurrency": 1}}
    running = starts(model={"rpd": 1}, models=(GROUP, spare), more={"other": provider.url})
    served = [await running.ask(chat(stream=False, model="auto")) for _ in range(3)]
    assert [one.answer.status for one in served] == [200, 200, 429]
    assert [one.header("x-aisix-served-by") for one in served] == ["test-model", "other", None]
    assert served[2].answer.json()["error"] == {
        "message": 'routing target "other" is over its model rate limit: request limit exceeded (requests)',
        "type": "upstream_error",
    }
    assert served[2].header("retry-after") is not None
    assert standing(running, "model:other").in_flight == 0


# Crowds


def ask_for(most: int | None, text: str = "hi") -> bytes:
    more = {} if most is None else {"max_tokens": most}
    return chat(text=text, **more)


@pytest.mark.parametrize("stated", [True, False])
@ensureDeferred
async def test_500_streams_at_once_never_pass_a_token_limit(
    provider: ScriptedProvider, starts: Starts, stated: bool
) -> None:
    """Slack: none but the estimate's own error where maxima are stated, else one enlargement for each open stream."""
    top, output, step = 20_000, 99, 60
    gate = Gate()
    # each stream says 99 tokens' worth (a quarter of the bytes), the provider counts 1 and 99
    pieces = sse_chat(["x" * 99] * 4, usage=(1, output))

    def answer(request: Request) -> list[Any]:
        return sse([pieces[0]], WaitFor(gate), *(Send(piece) for piece in pieces[1:]), End())

    provider.answers(answer)
    running = starts({"tpd": top, "reserve": True, "reserve_output_tokens": step})
    store, seen = running.house.sharing.limiter, []
    bucket = store._bucket(ME)
    callers = await gatherResults(
        [Deferred.fromCoroutine(running.open(ask_for(output if stated else None))) for _ in range(500)]
    )
    begun = [Deferred.fromCoroutine(_when(one, _answering)) for one in callers]
    await gatherResults(begun)
    streams = sum(one.answer.status == 200 for one in callers)
    seen.append(bucket.reserved)
    assert bucket.reserved <= top
    estimate = 1 + (output if stated else step)
    assert streams == top // estimate
    gate.open()
    await gatherResults([one.when_ended() for one in callers])
    await running.quiet()
    spent = bucket.used("tpd", 86400, time.time())
    assert spent == streams * (1 + output)
    assert spent <= (top if stated else top + streams * step)
    assert bucket.reserved == bucket.slots == 0
    assert not bucket.holds


def _answering(caller: Caller) -> bool:
    return bool(caller.answers) and (bool(caller.answer.frames) or caller.answer.status == 429)


async def _when(caller: Caller, met: Callable[[Caller], Any]) -> None:
    await caller.when(lambda got: bool(met(got)))


@ensureDeferred
async def test_500_streams_at_once_against_one_slot_limit(provider: ScriptedProvider, starts: Starts) -> None:
    gate = Gate()
    provider.answers(sse([sse_chat(["a"])[0]], WaitFor(gate), *map(Send, sse_chat(["a"])[1:]), End()))
    running = starts({"concurrency": 120})
    callers = await gatherResults([Deferred.fromCoroutine(running.open(chat())) for _ in range(500)])
    await gatherResults([Deferred.fromCoroutine(_when(one, lambda got: got.answers)) for one in callers])
    assert sum(one.answer.status == 200 for one in callers) == 120
    assert standing(running).in_flight == 120
    gate.open()
    await gatherResults([one.when_ended() for one in callers])
    await running.quiet()
    assert standing(running).in_flight == 0


async def _aborted(running: Running, chance: random.Random, times: int) -> None:
    """Callers who leave whenever they like: before the head, within the answer, or behind it."""
    for _ in range(times):
        stalls = chance.random() < 0.1
        text = "stall" if stalls else "x" * chance.randint(1, 200)
        caller = await running.open(ask_for(chance.choice((None, 20, 50)), text))
        frames = chance.choice((None, None, 1, 2, 3, 5, 7 if stalls else 99))
        if frames is None:
            await deferLater(REACTOR, chance.random() * 0.004)
        else:
            await _when(caller, lambda got, n=frames: got.answers and (len(got.frames) >= n or got.answer.ended))
        if not caller.closed:
            await (caller.leave() if chance.random() < 0.5 else caller.reset())
        running.callers.remove(caller)


@ensureDeferred
async def test_after_2000_random_aborts_every_counter_is_exact(provider: ScriptedProvider, starts: Starts) -> None:
    chance = random.Random(11)
    pieces = sse_chat(["some words "] * 6, usage=(5, 7))

    def answer(request: Request) -> list[Any]:
        if b'"stall"' in request.body:
            return [Head(200, [(b"content-type", b"text/event-stream")]), *map(Send, pieces[:7]), Stall()]
        rest = [step for piece in pieces[1:] for step in (Send(piece), Sleep(0))]
        return sse([pieces[0]], Sleep(chance.choice((0, 0, 0.002))), *rest, End())

    provider.answers(answer)
    key = {"concurrency": 1000, "tpd": 10**9, "rpd": 10**9, "reserve": True, "reserve_output_tokens": 30}
    running = starts(key, model={"concurrency": 1000, "tpd": 10**9})
    store = running.house.sharing.limiter
    await gatherResults([Deferred.fromCoroutine(_aborted(running, chance, 100)) for _ in range(20)])
    await running.quiet()
    records = running.records
    arrived = sum(record["outcome"] != "refused" for record in records)
    tokens = sum(record["prompt_tokens"] + record["completion_tokens"] for record in records)
    assert len(records) > 1200  # some left before their request was whole
    assert {record["outcome"] for record in records} >= {"complete", "abandoned"}
    for name in (ME, "model:test-model"):
        bucket = store._bucket(name)
        assert (bucket.slots, bucket.reserved, bucket.holds) == (0, 0, {})
        assert bucket.used("tpd", 86400, time.time()) == tokens
    assert store._bucket(ME).used("rpd", 86400, time.time()) == arrived


# Several gateways on one Redis


def shared(server: RedisServer, timeout: int = 5000) -> dict[str, Any]:
    return {"ratelimit": {"backend": "redis", "redis": {"url": server.url}, "store_timeout_ms": timeout}}


@pytest.fixture
def server() -> Any:
    with RedisServer() as running:
        yield running


async def is_ready(running: Running, wanted: bool = True) -> None:
    store = running.house.sharing.limiter
    await until(lambda: store._ready is wanted, lambda: f"never ready={wanted}")


async def readyz(running: Running) -> str:
    caller = await running.ask(request_bytes("GET", "/readyz?verbose"))
    assert caller.answer.status == 200
    return bytes(caller.answer.body).decode()


@needs_redis
@ensureDeferred
async def test_two_gateways_hold_one_limit(provider: ScriptedProvider, server: RedisServer, starts: Starts) -> None:
    provider.answers(STREAM)
    one, two = starts({"rpd": 30, "concurrency": 25}, boot=shared(server)), starts({"rpd": 30}, boot=shared(server))
    await gatherResults([Deferred.fromCoroutine(is_ready(each)) for each in (one, two)])
    asked: list[Deferred[Caller]] = [
        Deferred.fromCoroutine(running.ask(chat())) for _ in range(10) for running in (one, two, one, two)
    ]
    callers = await gatherResults(asked)
    assert sorted(caller.answer.status for caller in callers) == [200] * 30 + [429] * 10
    headers = sorted(
        int(limits(caller)["remaining-concurrent"]) for caller in callers if "limit-concurrent" in limits(caller)
    )
    assert headers
    assert all(0 <= number < 25 for number in headers)


@needs_redis
@ensureDeferred
async def test_a_redis_that_freezes_under_load_and_comes_back(
    provider: ScriptedProvider, server: RedisServer, starts: Starts
) -> None:
    provider.answers(STREAM)
    running = starts({"tpd": 10**9, "concurrency": 50}, boot=shared(server, 500))
    await is_ready(running)
    assert "[+]redis ok\n" in await readyz(running)
    longest, done, going = [0.0], [], [True]

    async def calls() -> None:
        while going[0]:
            begun = REACTOR.seconds()
            caller = await running.ask(chat())
            longest[0] = max(longest[0], REACTOR.seconds() - begun)
            assert caller.answer.status == 200
            done.append(caller)
            running.callers.remove(caller)
            await caller.leave()

    crowd = [Deferred.fromCoroutine(calls()) for _ in range(8)]
    try:
        await until(lambda: len(done) > 30, lambda: f"{len(done)} calls")
        server.freeze()
        await is_ready(running, False)
        frozen = len(done)
        await until(lambda: len(done) > frozen + 100, lambda: f"{len(done)} calls")
        assert "[!]redis degraded: local limits\n" in await readyz(running)
        assert 'aisix_store_degraded{store="ratelimit"} 1.0' in running.house.metrics.exposition().decode()
        server.thaw()
        await is_ready(running)
        back = len(done)
        await until(lambda: len(done) > back + 30, lambda: f"{len(done)} calls")
    finally:
        going[0] = False
    await gatherResults(crowd)
    await running.quiet()
    assert "[+]redis ok\n" in await readyz(running)
    store = running.house.sharing.limiter
    await until(lambda: not (store._queue or store._flight or store._again), lambda: "not told")
    (key,) = server.ask("KEYS", f"aisix:rl:{ME}:tpd:*")
    assert int(server.ask("GET", key)) == 12 * len(done)
    assert server.ask("ZCARD", f"aisix:rl:{ME}:concurrency") == 0
    assert longest[0] < 20  # one wait, on a machine at rest


@needs_redis
@ensureDeferred
async def test_callers_who_leave_while_redis_is_asked(
    provider: ScriptedProvider, server: RedisServer, starts: Starts
) -> None:
    provider.answers(STREAM)
    running = starts({"concurrency": 3}, boot=shared(server, 5000))
    await is_ready(running)
    server.freeze()
    callers = [await running.open(chat()) for _ in range(3)]
    await until(lambda: running.gateway.in_flight == 3, lambda: "not all have come")
    await gatherResults([caller.reset() for caller in callers])
    await until(lambda: running.gateway.in_flight == 0, lambda: "they have not left")
    server.thaw()
    served = await gatherResults([Deferred.fromCoroutine(running.ask(chat())) for _ in range(3)])
    assert [caller.answer.status for caller in served] == [200] * 3
    assert len(provider.requests) == 3


@needs_redis
@ensureDeferred
async def test_what_ends_with_the_process_is_given_back(
    provider: ScriptedProvider, server: RedisServer, starts: Starts
) -> None:
    provider.answers([Head(200, [(b"content-type", b"text/event-stream")]), Send(sse_chat(["a"])[0]), Stall()])
    running = starts({"concurrency": 3, "tpd": 1000}, boot=shared(server))
    await is_ready(running)
    caller = await running.open(chat())
    await caller.when(lambda seen: len(seen.frames) >= 1)
    assert server.ask("ZCARD", f"aisix:rl:{ME}:concurrency") == 1
    await caller.leave()
    await running.close()
    starts.running.clear()
    assert server.ask("ZCARD", f"aisix:rl:{ME}:concurrency") == 0


@needs_redis
def test_without_its_redis_a_gateway_does_not_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    absent = RedisServer()
    running = Running(tmp_path, {"upstream": "http://127.0.0.1:1"}, shared(absent))
    with pytest.raises(SystemExit):
        running.house.startService()
    said = capfd.readouterr().err
    assert "aisix: config load failed: failed to load configuration: ratelimit.redis: cannot connect: " in said
