"""What becomes of a call when its provider misbehaves, streamed or not (`streaming.md` 4, 7, 9 to 11)."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

from tests.doubles.caller import Caller
from tests.doubles.process import free_port
from tests.doubles.provider import (
    Close,
    End,
    Head,
    Raw,
    Reset,
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

from .conftest import Starter
from .faults import BEGUN, BOOT, ERROR, FAULTS, Fault, Framed, Good, Result, Told
from .house import Running, chat, contents

GOOD = sse(sse_chat(["Hel", "lo"]))
KINDS = ((True, "stream"), (False, "whole"))
PAIRS = [pytest.param(fault, stream, id=f"{fault.name}-{kind}") for fault in FAULTS for stream, kind in KINDS]


@pytest.mark.parametrize(("fault", "stream"), PAIRS)
@ensureDeferred
async def test_fault(fault: Fault, stream: bool, provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(fault.script(stream), GOOD)
    running = start(BOOT)
    caller = await running.ask(chat(stream, fault.model))
    expected = fault.stream if stream else fault.whole
    check_answer(caller, expected, stream)
    (record,) = await running.when_records(1)
    check_record(record, expected, stream)
    assert len(provider.requests) == 1
    await check_next_call(running)


async def check_next_call(running: Running) -> None:
    """The next call, over the same pool, gets its own answer and nothing of the one before."""
    caller = await running.ask(chat())
    assert (caller.status, contents(caller)) == (200, "Hello")
    assert caller.frames[-1].data == "[DONE]"
    assert (await running.when_records(2))[1]["outcome"] == "complete"


def check_answer(caller: Caller, expected: Result, stream: bool) -> None:
    """What the caller got is what the table says, in a legal form."""
    assert b"127.0.0.1" not in caller.body
    assert b"provider-key" not in caller.body
    if isinstance(expected, Told):
        check_told(caller, expected)
    elif isinstance(expected, Framed):
        check_framed(caller, expected)
    else:
        check_good(caller, expected, stream)


def check_told(caller: Caller, expected: Told) -> None:
    """A JSON error with its status, though a stream may have been asked for."""
    assert caller.header("content-type") == "application/json"
    error = caller.answer.json()["error"]
    assert (caller.status, error["type"]) == (expected.status, expected.type)
    assert expected.message in error["message"]
    assert len(error["message"].encode()) <= 1100
    assert caller.header("retry-after") == expected.retry_after


def check_framed(caller: Caller, expected: Framed) -> None:
    """The frames that came, then one error frame in the contract's form, then the proper end of the body."""
    assert caller.status == 200
    assert contents(caller) == "".join(expected.texts)
    last = caller.frames[-1]
    assert last.event == "error"
    assert last.json()["error"]["type"] == expected.type
    assert list(last.json()) == ["error"]
    assert [frame for frame in caller.frames[:-1] if frame.event or frame.data == "[DONE]"] == []
    assert caller.answer.events.rest == b""


def check_good(caller: Caller, expected: Good, stream: bool) -> None:
    """The whole answer; a streamed one ends with [DONE], once, and nothing but chunks came before."""
    assert (caller.status, contents(caller)) == (200, expected.text)
    if not stream:
        assert caller.answer.json()["model"] == "test-model"
        return
    done = [frame.data for frame in caller.frames].count("[DONE]")
    assert (done, caller.frames[-1].data) == (1, "[DONE]")
    chunks = [frame.json() for frame in caller.frames[:-1]]
    assert [chunk["object"] for chunk in chunks] == ["chat.completion.chunk"] * len(chunks)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert caller.answer.events.rest == b""


def check_record(record: dict[str, Any], expected: Result, stream: bool) -> None:
    """Outcome, status and the attempt's end, as written down."""
    status = expected.status if isinstance(expected, Told) else 200
    assert (record["outcome"], record["status_code"], record["stream"]) == (expected.outcome, status, stream)
    (attempt,) = record["attempts"]
    ended_by = expected.ended_by or (expected.type if isinstance(expected, Told | Framed) else None)
    assert attempt["ended_by"] == ended_by


# Before a request can be read


@pytest.mark.parametrize("stream", [True, False])
@ensureDeferred
async def test_the_provider_refuses_connections(stream: bool, provider: ScriptedProvider, start: Starter) -> None:
    running = start(BOOT, dead=f"http://127.0.0.1:{free_port()}")
    expected = Told(502, "transport_error", "transport error: connection refused")
    caller = await running.ask(chat(stream, "dead"))
    check_answer(caller, expected, stream)
    (record,) = await running.when_records(1)
    check_record(record, expected, stream)


class Slammer(Protocol):
    """Closes every connection as soon as it is there."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.abortConnection()


@pytest.mark.parametrize("stream", [True, False])
@ensureDeferred
async def test_the_provider_accepts_and_resets(stream: bool, start: Starter) -> None:
    factory = Factory.forProtocol(Slammer)
    factory.noisy = False
    port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
    running = start(BOOT, slammer=f"http://127.0.0.1:{port.getHost().port}")
    expected = Told(502, "transport_error", "transport error: ")
    caller = await running.ask(chat(stream, "slammer"))
    check_answer(caller, expected, stream)
    (record,) = await running.when_records(1)
    check_record(record, expected, stream)
    await port.stopListening()


# Connections that are used again

STATUS_LINE = b"HTTP/1.1 200"


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize(
    ("scripts", "status", "requests"),
    [
        pytest.param([[Close()], GOOD], 200, 3, id="closed without a byte: asked again"),
        pytest.param([[Reset()], GOOD], 200, 3, id="reset without a byte: asked again"),
        pytest.param([[Close()], [Close()], GOOD], 502, 3, id="asked again once only"),
        pytest.param([[Raw(STATUS_LINE), Close()], GOOD], 502, 2, id="not with a byte received"),
        pytest.param([[Raw(STATUS_LINE), Reset()], GOOD], 502, 2, id="not with a byte received (reset)"),
        pytest.param([[Head(500, framing="length"), End()], GOOD], 502, 2, id="not for a status"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
@ensureDeferred
async def test_a_pooled_connection_has_gone_stale(
    stream: bool, scripts: list[Script], status: int, requests: int, provider: ScriptedProvider, start: Starter
) -> None:
    provider.answers(GOOD, *scripts)
    running = start()
    await running.ask(chat())
    await running.quiet()
    assert running.pool.idle == 1
    caller = await running.ask(chat(stream) if status != 200 else chat())
    assert caller.status == status
    assert len(provider.requests) == requests
    assert provider.requests[1].connection is provider.requests[0].connection
    assert len({request.body for request in provider.requests[1:]}) == 1
    assert {request.connection.number for request in provider.requests[2:]} <= {2}
    record = (await running.when_records(2))[1]
    assert len(record["attempts"]) == 1


@ensureDeferred
async def test_a_fresh_connection_is_not_retried(provider: ScriptedProvider, start: Starter) -> None:
    provider.answers([Close()], GOOD)
    running = start()
    assert (await running.ask(chat())).status == 502
    assert len(provider.requests) == 1


@pytest.mark.parametrize("last", [b"", b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n"])
@ensureDeferred
async def test_an_idle_connection_that_ends_is_forgotten(
    last: bytes, provider: ScriptedProvider, start: Starter
) -> None:
    provider.answers(GOOD)
    running = start()
    await running.ask(chat())
    await running.quiet()
    (connection,) = provider.connections
    connection.tcp.write(last)
    connection.tcp.loseConnection()
    await connection.when_closed()
    caller = await running.ask(chat())
    assert (caller.status, contents(caller)) == (200, "Hello")
    assert provider.connections_opened == 2


@pytest.mark.usefixtures("unhurried")
@ensureDeferred
async def test_a_connection_is_kept_when_only_the_transfer_ends_late(
    provider: ScriptedProvider, start: Starter
) -> None:
    head, *_ = GOOD
    provider.answers([head, Send(b"".join(sse_chat(["Hel", "lo"]))), Sleep(0), Sleep(0), End()])
    running = start()
    for _ in range(3):
        assert contents(await running.ask(chat())) == "Hello"
        await running.quiet()
    assert provider.connections_opened == 1


@pytest.mark.usefixtures("unhurried")
@ensureDeferred
async def test_connections_are_used_again(provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(GOOD, json_answer(chat_object("Hello")), json_answer(ERROR, 400), GOOD)
    running = start()
    for stream in (True, False, True, True):
        await running.ask(chat(stream))
        await running.quiet()
    assert provider.connections_opened == 1


# stream_options (`streaming.md` 3.1)

REFUSED = json_answer({"error": {"message": "Unknown parameter: stream_options", "param": "stream_options"}}, 400)


@ensureDeferred
async def test_refused_stream_options_are_left_out_and_that_is_remembered(
    provider: ScriptedProvider, start: Starter
) -> None:
    provider.answers(REFUSED, GOOD)
    running = start()
    for _ in range(2):
        caller = await running.ask(chat())
        assert (caller.status, contents(caller)) == (200, "Hello")
    asked = ["stream_options" in request.json() for request in provider.requests]
    assert asked == [True, False, False]


@ensureDeferred
async def test_refused_stream_options_of_the_caller_stay(provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(REFUSED, GOOD)
    running = start()
    caller = await running.ask(chat(stream_options={"include_usage": True}))
    assert (caller.status, len(provider.requests)) == (400, 1)


@ensureDeferred
async def test_another_400_is_not_repeated(provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(json_answer(ERROR, 400), GOOD)
    running = start()
    assert (await running.ask(chat())).status == 400
    assert len(provider.requests) == 1


# Heartbeats and faults


@ensureDeferred
async def test_no_heartbeat_inside_a_frame(provider: ScriptedProvider, start: Starter) -> None:
    """A provider that stalls in the middle of a frame: heartbeats go on, what came of the frame is not shown."""
    half = b'data: {"id":"half'
    provider.answers([*sse(BEGUN)[:-1], Send(half), Stall()])
    running = start({"downstream": {"sse_keepalive_interval_secs": 0.03}})
    caller = await running.ask(chat(model="hasty"))
    assert len(caller.comments) >= 2
    assert b"half" not in caller.body
    check_framed(caller, Framed("timeout"))
    assert (await running.when_records(1))[0]["outcome"] == "stalled"
