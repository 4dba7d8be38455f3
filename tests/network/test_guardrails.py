"""Guardrails that are checked here, over real sockets: pace, cuts, threads, reload."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import yaml
from pytest_twisted import ensureDeferred

from tests.doubles.provider import (
    Head,
    ScriptedProvider,
    Send,
    Stall,
    chat_object,
    json_answer,
    sse,
    sse_chat,
)
from twisted_gateway.policies.guardrails.plan import Plan
from twisted_gateway.policies.guardrails.policy import Guardrails

from .house import Running, chat, contents

PHRASE = "secret plan"
WORDS = {"name": "words", "kind": "keyword", "patterns": [{"kind": "literal", "value": PHRASE}]}
PRIVATE = {"name": "private", "kind": "pii", "detectors": [{"type": "email"}], "hook_point": "output"}
SSE = [("content-type", "text/event-stream")]

Start = Callable[..., Running]


@pytest_twisted.async_yield_fixture
async def guarded(provider: ScriptedProvider, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway with guardrails."""
    running: list[Running] = []

    def start(*entries: dict[str, Any], **boot: Any) -> Running:
        made = Running(tmp_path, {"upstream": provider.url}, boot, resources={"guardrails": list(entries)})
        running.append(made.start())
        return made

    yield start
    for one in running:
        await one.close()


@ensureDeferred
async def test_words_leave_while_the_provider_still_speaks(guarded: Start, provider: ScriptedProvider) -> None:
    first = list(sse_chat(["Hello, ", "world ", "sec"], done=False, finish=None))
    provider.answers([Head(headers=SSE), *(Send(frame) for frame in first), Stall()])
    running = guarded(WORDS, PRIVATE)
    caller = await running.open(chat())
    await caller.when(lambda one: bool(one.answers) and "world" in contents(one))
    assert contents(caller) == "Hello, world "
    await caller.reset()
    (record,) = await running.when_records(1)
    assert record["outcome"] == "abandoned"


@pytest.mark.parametrize("size", [1, 7, 1000])
@ensureDeferred
async def test_a_blocked_stream_cut_anywhere(size: int, guarded: Start, provider: ScriptedProvider) -> None:
    body = b"".join(sse_chat(["it is ", "the sec", "ret pl", "an", " of the king"]))
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    provider.answers([Head(headers=SSE), *map(Send, pieces), Stall()])
    running = guarded(WORDS)
    caller = await running.ask(chat())
    assert contents(caller) in ("it is ", "")
    assert caller.frames[-1].event == "error"
    assert PHRASE.encode() not in caller.body
    (record,) = await running.when_records(1)
    assert (record["outcome"], record["guardrail_blocked"], record["status_code"]) == ("blocked", True, 200)
    await provider.when_connections(0)


@ensureDeferred
async def test_masks_with_lines_of_another_kind(guarded: Start, provider: ScriptedProvider) -> None:
    frames = [frame.replace(b"\n", b"\r\n") for frame in sse_chat(["mail a", "@b.exam", "ple", " now"])]
    provider.answers(sse(frames))
    running = guarded(PRIVATE)
    assert contents(await running.ask(chat())) == "mail [EMAIL_REDACTED] now"


@ensureDeferred
async def test_a_large_request_is_searched_in_a_thread(guarded: Start, provider: ScriptedProvider) -> None:
    provider.answers(json_answer(chat_object("ok")))
    running = guarded(WORDS)
    blocked = await running.ask(chat(False, text="lorem ipsum " * 100_000 + PHRASE))
    assert blocked.status == 422
    passed = await running.ask(chat(False, text="lorem ipsum " * 100_000))
    assert passed.status == 200


@ensureDeferred
async def test_a_word_without_end(guarded: Start, provider: ScriptedProvider) -> None:
    frame = list(sse_chat(["a" * 4096], done=False, finish=None))[-1]
    provider.answers([Head(headers=SSE), *[Send(frame)] * 100, Stall()])
    nasty = {"name": "nasty", "kind": "keyword", "patterns": [{"kind": "regex", "value": r"(a+)+$"}]}
    running = guarded(nasty, PRIVATE)
    caller = await running.ask(chat())
    assert b"blocked by content policy" in caller.body
    (record,) = await running.when_records(1)
    assert record["outcome"] == "blocked"


@ensureDeferred
async def test_a_reload_brings_new_rules(guarded: Start, provider: ScriptedProvider) -> None:
    provider.answers(json_answer(chat_object(f"the {PHRASE}")), json_answer(chat_object(f"the {PHRASE}")))
    running = guarded()
    assert (await running.ask(chat(False))).status == 200
    path = Path(running.house.settings.resources_file)
    document = yaml.safe_load(path.read_text())
    document["guardrails"] = [WORDS]
    path.write_text(yaml.safe_dump(document))
    await running.house.reload()
    assert (await running.ask(chat(False))).status == 422


@ensureDeferred
async def test_calls_are_served_while_new_rules_are_compiled(
    guarded: Start, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload of many rules takes seconds: it is a thread's work, and holds nobody up."""
    go_on, compiled, threads = threading.Event(), Guardrails.compiled, []

    def compile_slowly(*args: Any) -> Plan:
        threads.append(threading.current_thread())
        assert go_on.wait(60)
        return compiled(*args)

    provider.answers(json_answer(chat_object(f"the {PHRASE}")), json_answer(chat_object(f"the {PHRASE}")))
    running = guarded()
    path = Path(running.house.settings.resources_file)
    document = yaml.safe_load(path.read_text())
    document["guardrails"] = [WORDS]
    path.write_text(yaml.safe_dump(document))
    monkeypatch.setattr(Guardrails, "compiled", compile_slowly)
    reloaded = running.house.reload()
    try:
        assert (await running.ask(chat(False))).status == 200
        assert not reloaded.called
    finally:
        go_on.set()
    await reloaded
    assert (await running.ask(chat(False))).status == 422
    assert [thread.name for thread in threads] == ["reload-1"]
