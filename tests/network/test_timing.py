"""When things reach the caller: each frame at once and whole, heartbeats in silence (`streaming.md` 4, 6, 8)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from tests.doubles.caller import Caller
from tests.doubles.provider import (
    Close,
    Cut,
    End,
    Gate,
    Head,
    Reset,
    Script,
    ScriptedProvider,
    Send,
    Stall,
    Step,
    WaitFor,
    chat_object,
    json_answer,
    sse,
    sse_chat,
)
from twisted_gateway import listener

from .conftest import Starter
from .faults import ERROR, EVENTS
from .house import Running, chat, contents

REACTOR: Any = default_reactor
TEXTS = ["Grüße, ", "世界 ", "\U0001f30d", "!"]
FRAMES = sse_chat(TEXTS, usage=(3, 2))
BEAT = 0.04
BEATS = {"downstream": {"sse_keepalive_interval_secs": BEAT}}


def gated(frames: Sequence[bytes]) -> tuple[Script, list[Gate]]:
    """An answer of which each frame waits for its gate."""
    gates = [Gate() for _ in frames]
    pairs = zip(gates, frames, strict=True)
    steps: list[Step] = [step for gate, frame in pairs for step in (WaitFor(gate), Send(frame))]
    return [Head(200, EVENTS), *steps, End()], gates


def seen(frames: Sequence[bytes]) -> list[bytes]:
    """The frames as the caller gets them: its own name, no usage."""
    return [frame.replace(b"upstream-model", b"test-model") for frame in frames if b'"choices":[]' not in frame]


# At once


@ensureDeferred
async def test_each_frame_arrives_before_the_next_is_sent(provider: ScriptedProvider, start: Starter) -> None:
    frames = sse_chat([f"{number} " for number in range(20)])
    script, gates = gated(frames)
    provider.answers(script)
    running = start()
    caller = await running.open(chat())
    for number, gate in enumerate(gates, 1):
        gate.open()
        await caller.when(lambda seen, number=number: len(seen.frames) == number)
        assert len(caller.reads) == number, "one event, one write"
    await caller.when_ended()
    assert [frame.raw for frame in caller.frames] == seen(frames)


@ensureDeferred
async def test_each_frame_is_one_chunk_of_one_read(provider: ScriptedProvider, start: Starter) -> None:
    """A client that takes every network read for a whole frame is served well: chunk framing, frame, nothing torn."""
    frames = sse_chat(["x" * 10_000, "y" * 30_000, "z"])
    script, gates = gated(frames)
    provider.answers(script)
    running = start()
    caller = await running.open(chat())
    for number, gate in enumerate(gates, 1):
        gate.open()
        await caller.when(lambda seen, number=number: len(seen.frames) == number)
    await caller.when_ended()
    framing: Any = caller.answer.framing
    assert framing.sizes == [len(frame) for frame in seen(frames)] + [0]


@ensureDeferred
async def test_the_head_comes_with_the_first_frame(provider: ScriptedProvider, start: Starter) -> None:
    """A role without a text is a first frame: nobody waits for words."""
    script, gates = gated(sse_chat(["x"]))
    provider.answers(script)
    running = start()
    caller = await running.open(chat())
    await provider.when_request(1)
    assert caller.status is None
    gates[0].open()
    await caller.when(lambda seen: len(seen.frames) == 1)
    assert (caller.status, caller.header("content-type")) == (200, "text/event-stream")
    assert (caller.header("x-accel-buffering"), caller.header("content-length")) == ("no", None)
    for gate in gates:
        gate.open()
    await caller.when_ended()


@pytest.mark.usefixtures("unhurried")
@ensureDeferred
async def test_done_ends_the_answer_though_the_provider_does_not(provider: ScriptedProvider, start: Starter) -> None:
    gate = Gate()
    provider.answers([*sse(FRAMES)[:-1], WaitFor(gate), End()])
    running = start()
    await running.ask(chat())
    assert not gate.is_open
    assert (await running.when_records(1))[0]["outcome"] == "complete"
    gate.open()
    await running.quiet()
    assert running.pool.idle == 1


# Cut anywhere

AS_LF = b"".join(FRAMES)
WIRES = {"LF": AS_LF, "CRLF": AS_LF.replace(b"\n", b"\r\n"), "CR": AS_LF.replace(b"\n", b"\r")}


async def asked_in_lots(running: Running, count: int, lot: int = 40) -> list[Caller]:
    """So many calls, some at a time."""
    callers: list[Caller] = []
    while len(callers) < count:
        some = [await running.open(chat()) for _ in range(min(lot, count - len(callers)))]
        callers += await gatherResults([caller.when_ended() for caller in some])
        await gatherResults([caller.leave() for caller in some])
    return callers


@pytest.mark.parametrize("ends", WIRES)
@ensureDeferred
async def test_frames_may_be_cut_at_every_byte(ends: str, provider: ScriptedProvider, start: Starter) -> None:
    wire = WIRES[ends]
    places = range(1, len(wire), 1 if ends == "LF" else 3)
    provider.answers(*([Head(200, EVENTS), Cut(wire, [place]), End()] for place in places))
    running = start()
    callers = await asked_in_lots(running, len(places))
    assert {caller.body for caller in callers} == {b"".join(seen(FRAMES))}
    assert contents(callers[0]) == "".join(TEXTS)


@pytest.mark.parametrize("ends", WIRES)
@pytest.mark.parametrize("one_chunk", [False, True])
@ensureDeferred
async def test_frames_may_come_byte_by_byte(
    one_chunk: bool, ends: str, provider: ScriptedProvider, start: Starter
) -> None:
    """Each byte in a chunk of its own, or one chunk byte by byte, its framing too."""
    provider.answers([Head(200, EVENTS), Cut(WIRES[ends], 1, one_chunk=one_chunk), End()])
    running = start()
    caller = await running.ask(chat())
    assert caller.body == b"".join(seen(FRAMES))
    assert set(caller.answer.framing.sizes) <= {len(frame) for frame in seen(FRAMES)} | {0}  # type: ignore[attr-defined]


# Heartbeats


@ensureDeferred
async def test_heartbeats_before_the_first_event(provider: ScriptedProvider, start: Starter) -> None:
    script, gates = gated(FRAMES)
    provider.answers(script)
    running = start(BEATS)
    began = REACTOR.seconds()
    caller = await running.open(chat())
    await caller.when(lambda seen: len(seen.comments) >= 3)
    assert REACTOR.seconds() - began >= 3 * BEAT * 0.9
    assert caller.body == b":\n\n" * len(caller.comments)
    assert (caller.status, caller.header("content-type")) == (200, "text/event-stream")
    assert caller.header("x-aisix-request-id") is not None
    for gate in gates:
        gate.open()
    await caller.when_ended()
    assert [frame.raw for frame in caller.frames] == seen(FRAMES)
    (record,) = await running.when_records(1)
    assert (record["outcome"], record["frames"]) == ("complete", len(seen(FRAMES)))


@ensureDeferred
async def test_heartbeats_in_silence_stand_between_frames(provider: ScriptedProvider, start: Starter) -> None:
    """A provider that stalls in the middle of a frame, at several places."""
    gates = [Gate() for _ in range(4)]
    first, second, *rest = FRAMES
    parts = [first + second[:1], second[1:9], second[9:-1], second[-1:] + b"".join(rest)]
    steps = [step for part, gate in zip(parts, gates, strict=True) for step in (Send(part), WaitFor(gate))]
    provider.answers([Head(200, EVENTS), *steps, End()])
    running = start(BEATS)
    caller = await running.open(chat())
    for gate in gates:
        beats = len(caller.comments)
        await caller.when(lambda seen, beats=beats: seen.ended or len(seen.comments) > beats)
        assert caller.answer.events.rest == b""
        gate.open()
    await caller.when_ended()
    assert [frame.raw for frame in caller.frames] == seen(FRAMES)
    assert caller.body.replace(b":\n\n", b"") == b"".join(seen(FRAMES))


@ensureDeferred
async def test_one_heartbeat_an_interval(
    provider: ScriptedProvider, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By when they are written: a caller that is late reads two at once."""
    times: list[float] = []
    write = listener.Channel.write

    def noted(channel: Any, data: bytes) -> None:
        times.append(REACTOR.seconds())
        write(channel, data)

    monkeypatch.setattr(listener.Channel, "write", noted)
    provider.answers(sse(FRAMES[:2], Stall()))
    running = start(BEATS)
    caller = await running.open(chat())
    await caller.when(lambda seen: len(seen.frames) == 2)
    frames = len(times)
    await caller.when(lambda seen: len(seen.comments) >= 6)
    beats = times[frames - 1 :]
    assert len(beats) >= 7
    assert min(later - earlier for earlier, later in pairwise(beats)) >= BEAT * 0.9
    await caller.leave()


@ensureDeferred
async def test_frames_put_heartbeats_off(provider: ScriptedProvider, start: Starter) -> None:
    frames = sse_chat([f"{number} " for number in range(20)])
    script, gates = gated(frames)
    provider.answers(script)
    interval = 1.5
    running = start({"downstream": {"sse_keepalive_interval_secs": interval}})
    caller = await running.open(chat())
    for gate in gates:
        gate.open()
        await deferLater(REACTOR, 0.08)
    await caller.when_ended()
    assert caller.comments == []
    assert REACTOR.seconds() - caller.answer.head_at > interval


@pytest.mark.parametrize("script", [[Stall()], [Head(200, [(b"content-type", b"application/json")]), Stall()]])
@ensureDeferred
async def test_a_whole_answer_has_no_heartbeats(script: Script, provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(script)
    running = start({"downstream": {"sse_keepalive_interval_secs": 0.02}})
    caller = await running.ask(chat(stream=False, model="hasty"))
    assert (caller.status, caller.answer.json()["error"]["type"]) == (504, "timeout")


@ensureDeferred
async def test_no_heartbeat_before_the_provider_has_accepted(provider: ScriptedProvider, start: Starter) -> None:
    """Its status may still be an error."""
    provider.answers([Stall()])
    running = start({"downstream": {"sse_keepalive_interval_secs": 0.02}})
    caller = await running.ask(chat(model="hasty"))
    assert (caller.status, caller.answer.json()["error"]["type"]) == (504, "timeout")


@ensureDeferred
async def test_heartbeats_may_be_off(provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(sse(FRAMES[:2], Stall()))
    running = start({"downstream": {"sse_keepalive_interval_secs": 0}})
    caller = await running.ask(chat(model="hasty"))
    assert caller.comments == []


# Errors behind a heartbeat

LATER = {
    "an error object": ([Send(b'data: {"error":{"message":"no","code":429}}\n\n'), End()], "upstream_in_band_error"),
    "broken JSON": ([Send(b"data: {\n\n"), End()], "upstream_decode_error"),
    "the end": ([End()], "stream_aborted"),
    "a close": ([Close()], "stream_aborted"),
    "a reset": ([Reset()], "transport_error"),
    "nothing": ([Stall()], "timeout"),
}


@pytest.mark.parametrize("later", LATER)
@ensureDeferred
async def test_an_error_behind_a_heartbeat_is_a_frame(later: str, provider: ScriptedProvider, start: Starter) -> None:
    steps, kind = LATER[later]
    gate = Gate()
    provider.answers([Head(200, EVENTS), WaitFor(gate), *steps], json_answer(chat_object("Hello")))
    running = start(BEATS)
    caller = await running.open(chat(model="hasty" if later == "nothing" else "test-model"))
    await caller.when(lambda seen: len(seen.comments) >= 1)
    gate.open()
    await caller.when_ended()
    (frame,) = caller.frames
    assert (caller.status, frame.event, frame.json()["error"]["type"]) == (200, "error", kind)
    (record,) = await running.when_records(1)
    assert (record["outcome"], record["status_code"], record["frames"]) == ("failed", 200, 0)
    assert (await running.ask(chat(stream=False))).status == 200


@ensureDeferred
async def test_deadlines_are_kept(provider: ScriptedProvider, start: Starter) -> None:
    """Neither early nor late, and restarted by each event."""
    deadline = 2.5
    script, gates = gated(FRAMES[:4])
    provider.answers([*script[:-1], Stall()])
    running = start({"upstream": dict.fromkeys(("stream_timeout_ms", "first_event_timeout_ms"), int(deadline * 1000))})
    caller = await running.open(chat())
    for gate in gates:
        await deferLater(REACTOR, deadline * 0.3)
        gate.open()
    last = REACTOR.seconds()
    await caller.when_ended()
    assert deadline * 0.9 < REACTOR.seconds() - last < deadline + 10
    assert caller.frames[-1].json()["error"]["type"] == "timeout"
    assert len(caller.frames) == 5


@ensureDeferred
async def test_an_error_before_any_heartbeat_is_a_status(provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(json_answer(ERROR, 404))
    running = start(BEATS)
    caller = await running.ask(chat())
    assert (caller.status, caller.header("content-type")) == (404, "application/json")
