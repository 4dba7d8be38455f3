"""Callers who leave, in every phase of a call (`streaming.md` section 12)."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.doubles.caller import Caller
from tests.doubles.provider import (
    End,
    Endless,
    Head,
    Request,
    Script,
    ScriptedProvider,
    Send,
    Sleep,
    Stall,
    chat_object,
    json_answer,
    sse,
    sse_chat,
)
from twisted_gateway.errors import shutting_down

from .conftest import Starter
from .faults import BEGUN, EVENTS, HALF, JSON, WHOLE
from .house import Running, chat, contents, until

REACTOR: Any = default_reactor
GOOD = sse(sse_chat(["Hel", "lo"]))
SOON = 5.0
"""Seconds within which the provider must see that the caller has gone: 0.1 is aimed at, on a machine at rest."""
BEATS = {"downstream": {"sse_keepalive_interval_secs": 0.03}}
BY_FIN = "fin"
BY_RST = "rst"
WAYS = pytest.mark.parametrize("way", [BY_FIN, BY_RST])


def gone(caller: Caller, way: str) -> Deferred[None]:
    """The caller hangs up or vanishes."""
    return caller.leave() if way == BY_FIN else caller.reset()


async def nothing(_caller: Caller, _running: Running) -> None:
    """The phase begins with the provider's request."""


async def frames_read(caller: Caller, _running: Running) -> None:
    """Until what the provider sends has been read."""
    await caller.when(lambda seen: len(seen.frames) >= len(BEGUN))


async def beats_read(caller: Caller, _running: Running) -> None:
    """Until two heartbeats have been read."""
    await caller.when(lambda seen: len(seen.comments) >= 2)


async def connection_busy(_caller: Caller, running: Running) -> None:
    """Until the answer's first bytes are with the gateway, which shows nothing of them to its caller."""
    (connection,) = running.pool.open
    await until(lambda: connection._received > 0, lambda: "nothing of the answer came")


@attrs.frozen
class Phase:
    """Where a call stands when its caller leaves."""

    name: str
    script: Script
    stream: bool = True
    reached: Callable[[Caller, Running], Awaitable[None]] = nothing
    attempt_status: int | None = 200


MORE = [step for text in ("x", "y") * 5000 for step in (Send(sse_chat([text])[1]), Sleep(0))]
PHASES = [
    Phase("waiting for the head", [Stall()], attempt_status=None),
    Phase("waiting for the head of a whole answer", [Stall()], stream=False, attempt_status=None),
    Phase("waiting for the first event", [Head(200, EVENTS), Stall()], reached=connection_busy),
    Phase("half a first event", [Head(200, EVENTS), Send(HALF), Stall()], reached=connection_busy),
    Phase("mid-stream", [*sse(BEGUN)[:-1], *MORE, End()], reached=frames_read),
    Phase("mid-flood", [*sse(BEGUN)[:-1], Endless(BEGUN[1] * 100)], reached=frames_read),
    Phase("a stalled stream", sse(BEGUN, Stall()), reached=frames_read),
    Phase("half a frame", sse([*BEGUN, HALF], Stall()), reached=frames_read),
    Phase("silence with heartbeats", sse(BEGUN, Stall()), reached=beats_read),
    Phase("heartbeats before the first event", [Head(200, EVENTS), Stall()], reached=beats_read),
    Phase(
        "half a whole answer",
        [Head(200, JSON, "length", len(WHOLE)), Send(WHOLE[:40]), Stall()],
        stream=False,
        reached=connection_busy,
    ),
    Phase(
        "half the body of an error",
        [Head(500, JSON, "length", 100), Send(b'{"error":'), Stall()],
        reached=connection_busy,
        attempt_status=500,
    ),
]


@WAYS
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
@ensureDeferred
async def test_the_caller_leaves(phase: Phase, way: str, provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(phase.script, GOOD)
    running = start(BEATS)
    caller = await running.open(chat(phase.stream))
    request = await provider.when_request(1)
    await phase.reached(caller, running)
    assert running.gateway.in_flight == 1
    left_at = REACTOR.seconds()
    await gone(caller, way)
    await request.connection.when_closed()
    assert REACTOR.seconds() - left_at < SOON
    (record,) = await running.when_records(1)
    check_abandoned(record, phase.attempt_status)
    assert running.gateway.in_flight == 0
    assert not running.pool.open
    assert contents(await running.ask(chat())) == "Hello"


def check_abandoned(record: dict[str, Any], attempt_status: int | None) -> None:
    """The record of a call whose caller has left: no failure of anybody."""
    assert (record["outcome"], record["status_code"]) == ("abandoned", 499)
    assert record["error_class"] == record["ended_by"] == "client_disconnected"
    (attempt,) = record["attempts"]
    assert attempt["ended_by"] == "abandoned"
    assert attempt.get("status") == attempt_status


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
@ensureDeferred
async def test_the_process_ends(phase: Phase, provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(phase.script)
    running = start(BEATS)
    caller = await running.open(chat(phase.stream))
    request = await provider.when_request(1)
    await phase.reached(caller, running)
    running.gateway.end_all(shutting_down())
    await request.connection.when_closed()
    (record,) = await running.when_records(1)
    assert (record["outcome"], record["error_class"]) == ("broken", "shutting_down")
    await caller.when_ended()
    assert b'"type":"shutting_down"' in caller.body
    assert caller.status == record["status_code"]
    assert running.gateway.in_flight == 0


# Before there is a call


@WAYS
@pytest.mark.parametrize("part", [b"POS", chat()[:60], chat()[:-1], chat(text="x" * 200_000)[:100_000]])
@ensureDeferred
async def test_the_caller_leaves_within_its_request(
    part: bytes, way: str, provider: ScriptedProvider, start: Starter
) -> None:
    provider.answers(GOOD)
    running = start()
    caller = await running.open(part)
    await until(lambda: len(running.site.channels) == 1, lambda: "no connection")
    await until(lambda: bool(running.site._receiving), lambda: "nothing came")
    await gone(caller, way)
    await until(lambda: not running.site.channels, lambda: "the connection is still there")
    assert running.site.budget.used == 0
    assert not running.site._receiving
    assert running.records == []
    assert provider.requests == []


# While connecting


@pytest_twisted.async_yield_fixture
async def blackhole() -> AsyncIterator[str]:
    """The address of a server whose queue is full: it never accepts, and a connection to it never comes up."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = []
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(listening.getsockname())
        waiting.append(one)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    for one in (*waiting, listening):
        one.close()


@WAYS
@pytest.mark.parametrize("stream", [True, False])
@ensureDeferred
async def test_the_caller_leaves_while_we_connect(way: str, stream: bool, blackhole: str, start: Starter) -> None:
    running = start(hole=blackhole)
    caller = await running.open(chat(stream, "hole"))
    await until(lambda: len(running.pool.open) == 1, lambda: "no attempt")
    await deferLater(REACTOR, 0.02)
    assert running.records == []
    await gone(caller, way)
    (record,) = await running.when_records(1)
    check_abandoned(record, None)
    assert not running.pool.open


@pytest.mark.parametrize("stream", [True, False])
@ensureDeferred
async def test_a_connection_never_comes_up(stream: bool, blackhole: str, start: Starter) -> None:
    running = start({"upstream": {"connect_timeout_ms": 100}}, hole=blackhole)
    caller = await running.ask(chat(stream, "hole"))
    assert (caller.status, caller.answer.json()["error"]["type"]) == (504, "timeout")
    (record,) = await running.when_records(1)
    assert (record["outcome"], record["attempts"][0]["ended_by"]) == ("failed", "connect_timeout")


# While our own request goes out


@WAYS
@ensureDeferred
async def test_the_caller_leaves_while_we_send_a_large_request(
    way: str, provider: ScriptedProvider, start: Starter
) -> None:
    running = start()
    caller = await running.open(chat(text="x" * 30_000_000))
    await until(lambda: bool(provider.connections), lambda: "no connection")
    (connection,) = provider.connections
    connection.tcp.pauseProducing()
    await until(lambda: running.gateway.in_flight == 1, lambda: "no call")
    await gone(caller, way)
    connection.tcp.resumeProducing()
    await connection.when_closed()
    (record,) = await running.when_records(1)
    check_abandoned(record, None)
    assert provider.requests == []


# After the end


@WAYS
@ensureDeferred
async def test_leaving_after_the_end_is_a_success(way: str, provider: ScriptedProvider, start: Starter) -> None:
    """The SDKs hang up on [DONE]; the provider that goes on is given a second, and its connection then cut."""
    provider.answers([*GOOD[:-1], Stall()])
    running = start()
    caller = await running.open(chat())
    await caller.when(lambda seen: bool(seen.frames) and seen.frames[-1].data == "[DONE]")
    await gone(caller, way)
    (record,) = await running.when_records(1)
    assert (record["outcome"], record["status_code"]) == ("complete", 200)


@ensureDeferred
async def test_what_was_delivered_is_charged(provider: ScriptedProvider, start: Starter) -> None:
    """An estimate of the text written to the caller, 4 bytes a token (`streaming.md` 14.3)."""
    provider.answers(sse(sse_chat(["x" * 400], done=False, finish=None), Stall()))
    running = start()
    caller = await running.open(chat())
    await caller.when(lambda seen: len(seen.frames) == 2)
    await caller.leave()
    (record,) = await running.when_records(1)
    assert (record["completion_tokens"], record["usage_estimated"]) == (100, True)


@ensureDeferred
async def test_others_are_not_affected(provider: ScriptedProvider, start: Starter) -> None:
    frames = sse_chat([f"{n} " for n in range(200)])
    provider.answers(sse(frames))
    running = start()
    staying, leaving = [[await running.open(chat()) for _ in range(10)] for _ in range(2)]
    for caller in leaving:
        await caller.when(lambda seen: len(seen.frames) >= 3)
        await caller.reset()
    await gatherResults([caller.when_ended() for caller in staying])
    assert {contents(caller) for caller in staying} == {"".join(f"{n} " for n in range(200))}
    outcomes = [record["outcome"] for record in await running.when_records(20)]
    assert sorted(outcomes) == ["abandoned"] * 10 + ["complete"] * 10


# Storm

CALLS = 2000
AT_ONCE = 50


def paced(request: Request) -> Script:
    """An answer of 30 frames, one at a time, or a whole one that takes some turns to begin."""
    if request.json()["stream"]:
        return sse(sse_chat([f"{n} " for n in range(30)]))
    return [Sleep(0), Sleep(0), *json_answer(chat_object("Hello"))]


async def stormy(running: Running, chance: random.Random) -> None:
    """One call, left at a point that chance decides: within the request, at once, after some turns or some frames."""
    request = chat(chance.random() < 0.7)
    whole = chance.random() < 0.85
    caller = await running.open(request if whole else request[: chance.randrange(len(request))])
    if chance.random() < 0.5:
        for _ in range(chance.randrange(12)):
            await deferLater(REACTOR, 0)
    elif whole:
        frames = chance.randrange(1, 31)
        await caller.when(lambda seen: seen.ended or len(seen.frames) >= frames)
    await gone(caller, chance.choice([BY_FIN, BY_RST]))


@pytest.mark.parametrize("seed", [1])
@ensureDeferred
async def test_a_storm_of_aborts_leaves_nothing_behind(seed: int, provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(paced)
    running = start()
    assert (await running.ask(chat())).status == 200
    await running.quiet()
    before = open_files()
    chances = [random.Random(seed * 1_000_000 + number) for number in range(CALLS)]

    async def one_after_the_other(mine: list[random.Random]) -> None:
        for chance in mine:
            await stormy(running, chance)

    lanes = [Deferred.fromCoroutine(one_after_the_other(chances[lane::AT_ONCE])) for lane in range(AT_ONCE)]
    await gatherResults(lanes, consumeErrors=True)
    await running.quiet()
    await until(lambda: len(running.site.channels) == 1, lambda: f"{len(running.site.channels)} callers")
    running.check_books()
    check_storm(running)
    assert contents(await running.ask(chat())) == "".join(f"{n} " for n in range(30))
    await running.quiet()
    await provider.when_connections(len(running.pool.open))
    assert open_files() - before <= 2 * (len(running.pool.open) + len(running.site.channels))


def check_storm(running: Running) -> None:
    """The storm was one: calls were left at all points, and both ends are written down."""
    outcomes = [record["outcome"] for record in running.records]
    assert set(outcomes) == {"abandoned", "complete"}
    assert CALLS * 0.3 < outcomes.count("abandoned") < CALLS
    abandoned = [record for record in running.records if record["outcome"] == "abandoned"]
    assert {0, 1, 5, 10, 20} <= {record["frames"] for record in abandoned}
    assert all(record["status_code"] == 499 for record in abandoned)


def open_files() -> int:
    """Open files of this process, those of the gateway's connections and of both its peers among them."""
    return len(os.listdir("/proc/self/fd"))
