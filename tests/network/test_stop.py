"""Streams that are stopped over real sockets, in every phase."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from tests.doubles.caller import Caller, request_bytes
from tests.doubles.provider import End, Head, Script, ScriptedProvider, Send, Sleep, Stall, sse, sse_chat

from .conftest import Starter
from .faults import BEGUN, EVENTS
from .house import KEY, Running, chat, contents, until

WITH_USAGE = {"stream_options": {"include_usage": True}}
MORE = [step for _ in range(5000) for step in (Send(sse_chat(["x"])[1]), Sleep(0))]


async def stop(running: Running, id: str, key: str = KEY) -> Caller:
    headers = {"authorization": f"Bearer {key}", "x-aisix-request-id": "the-stop"}
    return await running.ask(request_bytes("POST", f"/v1/streams/{id}/stop", b"", headers))


async def listed(running: Running) -> list[dict[str, Any]]:
    caller = await running.ask(request_bytes("GET", "/v1/streams", b"", {"authorization": f"Bearer {KEY}"}))
    found: list[dict[str, Any]] = caller.answer.json()["data"]
    return found


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([Stall()], id="before the head"),
        pytest.param([Head(200, EVENTS), Stall()], id="before the first event"),
        pytest.param(sse(BEGUN, Stall()), id="in the stream"),
        pytest.param([*sse(BEGUN)[:-1], *MORE, End()], id="in full flow"),
    ],
)
@ensureDeferred
async def test_a_stream_is_stopped(script: Script, provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(script, sse(sse_chat(["Hello"])))
    running = start({"downstream": {"sse_keepalive_interval_secs": 0}})
    caller = await running.open(chat(**WITH_USAGE))
    request = await provider.when_request(1)
    if len(script) > 2:
        await caller.when(lambda seen: len(seen.frames) >= len(BEGUN))
    (one,) = await listed(running)
    assert (one["model"], one["endpoint"]) == ("test-model", "/v1/chat/completions")
    stopping = await stop(running, one["id"])
    assert stopping.answer.json() == {"id": one["id"], "object": "stream", "stopped": True}
    await caller.when_ended()
    await request.connection.when_closed()
    *_, end, usage, done = caller.frames
    assert done.data == "[DONE]"
    assert end.json()["choices"][0]["finish_reason"] == "stop"
    (record,) = await running.when_records(1)
    shown = usage.json()["usage"]
    assert (record["outcome"], record["status_code"]) == ("stopped", 200)
    assert (shown["prompt_tokens"], shown["completion_tokens"]) == (
        record["prompt_tokens"],
        record["completion_tokens"],
    )
    assert shown["estimated"] is True
    assert record["completion_tokens"] == -(-len(contents(caller)) // 4)
    assert record["attempts"][0]["ended_by"] == "stopped"
    assert await listed(running) == []
    assert (await stop(running, one["id"])).status == 404
    assert contents(await running.ask(chat())) == "Hello"


@ensureDeferred
async def test_nobody_else_may(provider: ScriptedProvider, start: Starter) -> None:
    provider.answers(sse(BEGUN, Stall()))
    running = start()
    caller = await running.open(chat())
    await caller.when(lambda seen: len(seen.frames) >= len(BEGUN))
    (one,) = await listed(running)
    refused = await stop(running, one["id"], "another-key")
    assert (refused.status, refused.answer.json()["error"]["type"]) == (401, "invalid_api_key")
    unknown = await stop(running, "another-id")
    assert (unknown.status, unknown.answer.json()["error"]["code"]) == (404, "stream_not_found")
    await until(lambda: running.gateway.in_flight == 1, lambda: "it was stopped")
    await caller.leave()
    await running.when_records(1)
