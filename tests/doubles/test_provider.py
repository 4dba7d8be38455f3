"""The scripted provider and the caller, each shown by the other."""

import json

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost

from .caller import Caller, post, request_bytes
from .provider import (
    Close,
    Cut,
    End,
    Endless,
    Gate,
    Head,
    Raw,
    Reset,
    ScriptedProvider,
    Send,
    Sleep,
    Stall,
    Step,
    WaitFor,
    json_answer,
    sse,
    sse_chat,
)
from .waiting import NeverCame

CHAT = post("/v1/chat/completions", {"model": "m", "stream": True}, key="k")


async def call(provider: ScriptedProvider, request: bytes = CHAT) -> Caller:
    return await Caller("127.0.0.1", provider.port).open(request)


@ensureDeferred
async def test_a_request_is_recorded(provider: ScriptedProvider) -> None:
    provider.answers(json_answer({"ok": True}))
    caller = await call(provider)
    request = await provider.when_request(1)
    assert (request.method, request.path, request.json()["model"]) == ("POST", "/v1/chat/completions", "m")
    assert request.header("Authorization") == "Bearer k"
    await caller.when_ended()
    assert caller.status == 200
    assert caller.answer.json() == {"ok": True}
    await caller.leave()


@ensureDeferred
async def test_chunked_requests_and_keep_alive(provider: ScriptedProvider) -> None:
    provider.answers(json_answer({"number": 1}), json_answer({"number": 2}, 429))
    chunked = request_bytes("POST", "/a", headers={"content-length": "", "transfer-encoding": "chunked"})
    caller = await call(provider, chunked + b"3\r\nabc\r\n2")
    caller.send(b"\r\nde\r\n0\r\n\r\n" + request_bytes("GET", "/b"))
    await caller.when(lambda seen: len(seen.answers) == 2 and seen.ended)
    assert [request.body for request in provider.requests] == [b"abcde", b""]
    assert [answer.status for answer in caller.answers] == [200, 429]
    assert provider.connections_opened == 1
    await caller.leave()
    await provider.when_connections(0)


@ensureDeferred
async def test_frames_arrive_one_by_one(provider: ScriptedProvider) -> None:
    frames = sse_chat(["Hel", "lo"], model="up", usage=(3, 2))
    provider.answers(sse(frames))
    caller = await (await call(provider)).when_ended()
    assert [frame.raw for frame in caller.frames] == frames
    assert caller.frames[-1].data == "[DONE]"
    assert caller.frames[-2].json()["usage"]["total_tokens"] == 5
    assert len(caller.reads) >= len(frames)
    await caller.leave()


@pytest.mark.parametrize("one_chunk", [True, False])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@ensureDeferred
async def test_cuts_are_delivered_alone(provider: ScriptedProvider, framing: str, one_chunk: bool) -> None:
    head = Head(headers=[("content-type", "text/plain")], framing=framing)  # type: ignore[arg-type]
    provider.answers([head, Cut(b"abcdefgh", sizes=1, one_chunk=one_chunk), End()])
    caller = await (await call(provider)).when_ended()
    assert caller.body == b"abcdefgh"
    assert len(caller.reads) >= 8
    await caller.reset()


@ensureDeferred
async def test_a_gate_or_a_deferred_holds_the_answer(provider: ScriptedProvider) -> None:
    gate, fired = Gate(), Deferred[None]()
    head = Head(headers=[("content-type", "text/event-stream")])
    provider.answers([head, Send(b": 1\n\n"), WaitFor(gate), Send(b"data: 2\n\n"), WaitFor(fired), End()])
    caller = await (await call(provider)).when(lambda seen: seen.comments == ["1"])
    assert caller.frames == []
    gate.open()
    await caller.when(lambda seen: len(seen.frames) == 1)
    assert not caller.ended
    fired.callback(None)
    await caller.when_ended()
    await caller.leave()


@pytest.mark.parametrize(("last", "reason"), [(Close(), ConnectionDone), (Reset(), ConnectionLost)])
@ensureDeferred
async def test_broken_ends(provider: ScriptedProvider, last: Step, reason: type[Exception]) -> None:
    provider.answers([Head(), Send(b"x" * 300_000), last])
    caller = await (await call(provider)).when_closed()
    assert isinstance(caller.close_reason, reason)
    assert not caller.ended
    assert len(caller.body) == 300_000


@ensureDeferred
async def test_garbage_and_lies(provider: ScriptedProvider) -> None:
    provider.answers([Raw(b"HELLO\r\n"), Sleep(0.01), Close()], [Head(framing="length", length=9), Send(b"1"), Close()])
    first = await (await call(provider)).when_closed()
    assert first.status is None
    second = await (await call(provider)).when_closed()
    assert (second.body, second.ended) == (b"1", False)


@pytest.mark.parametrize("go", [Caller.leave, Caller.reset])
@ensureDeferred
async def test_a_caller_who_goes_is_noticed(provider: ScriptedProvider, go: object) -> None:
    provider.answers([Head(), Stall()])
    caller = await (await call(provider)).when(lambda seen: seen.status == 200)
    connection = provider.open_connections[0]
    await go(caller)  # type: ignore[operator]
    await connection.when_closed()
    await connection.when_closed()
    assert provider.open_connections == []


@ensureDeferred
async def test_a_flood_heeds_a_caller_who_does_not_read(provider: ScriptedProvider) -> None:
    provider.answers([Head(), Endless(b"x" * 65_536)])
    caller = await (await call(provider)).when(lambda seen: len(seen.body) > 0)
    caller.pause()
    flood = provider.open_connections[0].flood
    assert flood is not None
    sent = await flood.settled()
    assert flood.paused
    assert sent < 50_000_000
    caller.resume()
    await caller.when(lambda seen: len(seen.body) > sent)
    await caller.leave()


@ensureDeferred
async def test_a_flood_may_have_a_limit(provider: ScriptedProvider) -> None:
    provider.answers([Head(framing="length"), Endless(b"abc", limit=10), End()])
    caller = await (await call(provider)).when_ended()
    assert caller.body == b"abcabcabca"
    await caller.leave()


@ensureDeferred
async def test_scripts_queue_and_the_last_repeats(provider: ScriptedProvider) -> None:
    provider.answers(json_answer({}, 500), lambda request: json_answer({"path": request.path}))
    statuses = []
    for _ in range(3):
        caller = await (await call(provider)).when_ended()
        statuses.append(caller.status)
        await caller.leave()
    assert statuses == [500, 200, 200]
    assert json.loads(caller.body) == {"path": "/v1/chat/completions"}


@ensureDeferred
async def test_waiting_has_an_end(provider: ScriptedProvider) -> None:
    with pytest.raises(NeverCame, match="there were 0"):
        await provider.when_request(1, patience=0.02)


def test_a_script_needs_one_final_step() -> None:
    scripts: list[list[Step]] = [[], [Head()], [Close(), End()]]
    for script in scripts:
        with pytest.raises(ValueError, match="final step"):
            ScriptedProvider().answers(script)
