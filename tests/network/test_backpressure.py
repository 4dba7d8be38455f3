"""Callers who are slower than their provider: nothing piles up, nothing is lost (`streaming.md` 13)."""

from __future__ import annotations

import json
import socket
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from tests.doubles.caller import Caller
from tests.doubles.provider import (
    End,
    Endless,
    Flood,
    Head,
    Request,
    Script,
    ScriptedProvider,
    Send,
    Stall,
    chat_object,
    sse,
    sse_chat,
)

from .conftest import Starter
from .faults import EVENTS, JSON
from .house import HASTE, Running, chat, contents, until

REACTOR: Any = default_reactor
MEGABYTE = 2**20
ROLE, *BLOCK = sse_chat([f"{number:03}" + "x" * 4000 for number in range(64)], done=False, finish=None)
"""Numbered frames of 4 KB: a flood repeats them, so that a lost, doubled or torn one shows."""
TAIL = sse_chat([])[1:]
SMALL_BUFFER = 65_536


def shown(frames: list[bytes], alias: str = "test-model") -> bytes:
    """These frames as the caller gets them: its own name for the model, nothing else changed."""
    return b"".join(frames).replace(b"upstream-model", alias.encode())


def flood(limit: int | None = None) -> Script:
    """A role, the block over and over, up to a number of times; then the end."""
    block = b"".join(BLOCK)
    if limit is None:
        return [Head(200, EVENTS), Send(ROLE), Endless(block)]
    return [Head(200, EVENTS), Send(ROLE), Endless(block, limit * len(block)), *(Send(frame) for frame in TAIL), End()]


def narrow(running: Running) -> None:
    """Small kernel buffers between the gateway and its callers, so that little hides how far they have read."""
    running.house.port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)


def narrow_caller(caller: Caller) -> None:
    """The same on the caller's side."""
    caller._line.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)


async def flooding(provider: ScriptedProvider, number: int = 0) -> Flood:
    """The flood of one of the provider's connections, once it flows."""
    await until(
        lambda: len(provider.connections) > number and provider.connections[number].flood is not None,
        lambda: "no flood",
    )
    found = provider.connections[number].flood
    assert found is not None
    return found


async def stuck(running: Running, provider: ScriptedProvider, request: bytes) -> tuple[Caller, Flood]:
    """A caller who has read some of a flood and nothing since, with all buffers full."""
    caller = await running.open(request)
    narrow_caller(caller)
    await caller.when(lambda seen: len(seen.frames) > 5)
    caller.pause()
    flood = await flooding(provider)
    await flood.settled()
    return caller, flood


def kept(running: Running) -> int:
    """Bytes that the gateway itself holds back, for all callers."""
    return sum(channel.unsent() for channel in running.site.channels)


@ensureDeferred
async def test_what_a_caller_does_not_read_is_not_taken(provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(flood())
    running = start()
    caller, flowing = await stuck(running, provider, chat())
    assert await flowing.settled(0.3) < 12 * MEGABYTE
    assert flowing.paused
    assert kept(running) < MEGABYTE / 2
    (relay,) = running.gateway.running
    assert relay._downstream.paused
    await caller.leave()


@ensureDeferred
async def test_a_caller_that_comes_back_gets_everything(provider: ScriptedProvider, start: Starter) -> None:
    """Byte for byte, though it slept longer than its provider may; and not one heartbeat was queued meanwhile."""
    rounds = 40
    provider.answers(flood(rounds))
    running = start({"downstream": {"sse_keepalive_interval_secs": 0.05}})
    narrow(running)
    caller, flowing = await stuck(running, provider, chat(model="hasty"))
    before = running.gateway.running.copy()
    written = running.site.channels.copy().pop().written
    await deferLater(REACTOR, 1.5 * HASTE)
    assert running.gateway.running == before != set()
    assert running.site.channels.copy().pop().written == written
    assert flowing.sent < rounds * len(b"".join(BLOCK))
    caller.resume()
    await caller.when_ended()
    assert caller.comments == []
    expected = shown([ROLE, *BLOCK * rounds, *TAIL], "hasty")
    assert len(caller.body) == len(expected)
    assert caller.body == expected
    (record,) = await running.when_records(1)
    assert (record["outcome"], record["frames"]) == ("complete", 1 + 64 * rounds + len(TAIL))


@ensureDeferred
async def test_the_silence_that_follows_a_pause_is_counted_from_its_end(
    provider: ScriptedProvider, start: Starter
) -> None:
    """The provider's time runs again when the caller reads again: then a stall is found."""
    block = b"".join(BLOCK)
    provider.answers([Head(200, EVENTS), Send(ROLE), Endless(block, 8 * len(block)), Stall()])
    running = start()
    narrow(running)
    caller = await running.open(chat(model="hasty"))
    narrow_caller(caller)
    await caller.when(lambda seen: len(seen.frames) > 5)
    caller.pause()
    await until(lambda: kept(running) > 0, lambda: "the caller's buffers are not full")
    await deferLater(REACTOR, 1.5 * HASTE)
    assert running.records == []
    resumed = REACTOR.seconds()
    caller.resume()
    await caller.when_ended()
    assert caller.frames[-1].event == "error"
    assert caller.frames[-1].json()["error"]["type"] == "timeout"
    assert REACTOR.seconds() - resumed >= HASTE * 0.9
    assert len(caller.frames) == 1 + 64 * 8 + 1
    assert (await running.when_records(1))[0]["outcome"] == "stalled"


@ensureDeferred
async def test_a_large_whole_answer_waits_for_its_caller_and_not_its_provider(
    provider: ScriptedProvider, start: Starter
) -> None:
    text = "x" * (8 * MEGABYTE)
    provider.answers([Head(200, JSON), Send(json.dumps(chat_object(text)).encode()), End()])
    running = start()
    narrow(running)
    caller = await running.open(chat(stream=False))
    narrow_caller(caller)
    await caller.when(lambda seen: seen.status is not None)
    caller.pause()
    await running.when_records(1)
    await until(lambda: running.pool.idle == 1, lambda: "the provider's connection waits for the caller")
    caller.resume()
    await caller.when_ended()
    assert contents(caller) == text


# Callers who stay away


@ensureDeferred
async def test_a_caller_that_takes_nothing_for_long_has_left(provider: ScriptedProvider, start: Starter) -> None:
    limit = 1.5
    provider.answers(flood())
    running = start({"downstream": {"send_stall_timeout_secs": limit}})
    narrow(running)
    caller = await running.open(chat())
    narrow_caller(caller)
    await caller.when(lambda seen: len(seen.frames) > 5)
    caller.pause()
    paused = REACTOR.seconds()
    flowing = await flooding(provider)
    (record,) = await running.when_records(1)
    assert limit * 0.7 < REACTOR.seconds() - paused < limit + 10
    assert (record["outcome"], record["status_code"]) == ("abandoned", 499)
    await provider.connections[0].when_closed()
    assert not running.pool.open
    assert flowing.sent > 0
    caller.resume()
    await caller.when_closed()
    assert not caller.ended


@ensureDeferred
async def test_a_slow_caller_who_reads_on_stays(provider: ScriptedProvider, start: Starter) -> None:
    limit = 2.0
    provider.answers(flood())
    running = start({"downstream": {"send_stall_timeout_secs": limit}})
    narrow(running)
    caller = await running.open(chat())
    narrow_caller(caller)
    until_then = REACTOR.seconds() + 1.5 * limit
    while REACTOR.seconds() < until_then:
        caller.pause()
        await deferLater(REACTOR, limit / 10)
        reads = len(caller.reads)
        caller.resume()
        await caller.when(lambda seen, reads=reads: len(seen.reads) >= reads + 4)
    assert running.records == []
    assert running.gateway.in_flight == 1
    await caller.leave()


@ensureDeferred
async def test_a_caller_who_waits_for_a_silent_provider_has_not_left(
    provider: ScriptedProvider, start: Starter
) -> None:
    """Nothing is pending: there is nothing that it could take."""
    provider.answers(sse(sse_chat(["x"], done=False, finish=None), Stall()))
    running = start({"downstream": {"send_stall_timeout_secs": 0.1}})
    caller = await running.open(chat())
    await caller.when(lambda seen: len(seen.frames) == 2)
    await deferLater(REACTOR, 0.4)
    assert not caller.closed
    await caller.leave()


# Many at once


@ensureDeferred
async def test_one_stalled_caller_does_not_hold_up_two_hundred(provider: ScriptedProvider, start: Starter) -> None:
    texts = [f"{number} " for number in range(40)]

    def script(request: Request) -> Script:
        stalled = request.json()["messages"][0]["content"] == "flood"
        return flood() if stalled else sse(sse_chat(texts))

    provider.answers(script)
    running = start()
    stalled, flowing = await stuck(running, provider, chat(text="flood"))
    callers = [await running.open(chat()) for _ in range(200)]
    await gatherResults([caller.when_ended() for caller in callers])
    assert {caller.body for caller in callers} == {shown(sse_chat(texts))}
    assert flowing.paused
    read = len(stalled.frames)
    stalled.resume()
    await stalled.when(lambda seen: len(seen.frames) > read + 500)
    await stalled.leave()
    outcomes = sorted(record["outcome"] for record in await running.when_records(201))
    assert outcomes == ["abandoned", *["complete"] * 200]


@ensureDeferred
async def test_a_stalled_caller_who_leaves_frees_its_provider(provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(flood())
    running = start()
    caller, _ = await stuck(running, provider, chat())
    await caller.reset()
    await provider.connections[0].when_closed()
    assert (await running.when_records(1))[0]["outcome"] == "abandoned"


@ensureDeferred
async def test_a_first_write_that_is_still_under_way_is_no_stall(provider: ScriptedProvider, start: Starter) -> None:
    """The look at who takes nothing may come between a connection's first write and its going out."""
    running = start()
    caller = await running.open()
    await until(lambda: bool(running.site.channels), lambda: "no connection")
    (channel,) = running.site.channels
    REACTOR.callLater(0, channel.write, b"HTTP/1.1 200 OK\r\n")
    running.site._stall_call.reset(0)
    await caller.when(lambda seen: bool(seen.reads) or seen.closed)
    assert not caller.closed
