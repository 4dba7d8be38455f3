"""Every remote kind through a whole gateway: requests, whole answers, streams held or scanned, two dialects."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import yaml

from tests.doubles import guards
from tests.doubles.caller import Caller, post
from tests.doubles.provider import ScriptedProvider, chat_object, json_answer, sse, sse_chat
from tests.doubles.steps import Script, Stall
from tests.doubles.waiting import Gate
from tests.network.guarding import FORBIDDEN, KINDS, MASKABLE, MASKING, kinds

from .house import KEY, Running

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
ENDPOINTS = pytest.mark.parametrize("endpoint", [CHAT, MESSAGES])
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
MODES = pytest.mark.parametrize("mode", ["hold", "scan"])
NAME = 'the "rules"'
SMALL = {"window_size": 60, "window_overlap_size": 30}

Start = Callable[..., Running]


@pytest_twisted.async_yield_fixture
async def service() -> AsyncIterator[ScriptedProvider]:
    """The service that guardrails ask."""
    scripted = ScriptedProvider().start()
    yield scripted
    await scripted.stop()


@pytest_twisted.async_yield_fixture
async def guarded(provider: ScriptedProvider, service: ScriptedProvider, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway with one guardrail, whose service is a double."""
    running: list[Running] = []

    def start(kind: str, answer: Any = None, boot: Any = None, **fields: Any) -> Running:
        own, double = kinds(service.url).get(kind, ({}, None))
        if answer or double:
            service.answers(answer or double)
        entry = {"name": NAME, "kind": kind, **own, **fields}
        made = Running(tmp_path, {"upstream": provider.url}, boot, resources={"guardrails": [entry]})
        running.append(made.start())
        return made

    yield start
    for one in running:
        await one.close()


def asking(endpoint: str, text: str = "hello", stream: bool = False) -> bytes:
    body = {"model": "test-model", "stream": stream, "messages": [{"role": "user", "content": text}]}
    return post(endpoint, body if endpoint == CHAT else body | {"max_tokens": 9}, key=KEY)


def said(caller: Caller) -> str:
    """The text of an answer, streamed or whole, in either dialect."""
    if not caller.answers:
        return ""
    if not (caller.header("content-type") or "").startswith("text/event-stream"):
        answer = caller.answer.json()
        return str(answer["content"][0]["text"] if "content" in answer else answer["choices"][0]["message"]["content"])
    text = ""
    for frame in caller.frames:
        if frame.data == "[DONE]":
            continue
        chunk = frame.json()
        text += (chunk.get("delta") or {}).get("text") or ""
        text += "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices") or ())
    return text


def in_stream(endpoint: str, hook: str = "response") -> dict[str, Any]:
    message = f"{hook} blocked by content policy (guardrail '{NAME}')"
    error = {"message": message, "type": "content_filter"}
    return {"error": error} if endpoint == CHAT else {"type": "error", "error": error}


def refused(endpoint: str, hook: str) -> dict[str, Any]:
    message = f"{hook} blocked by content policy (guardrail '{NAME}')"
    if endpoint == CHAT:
        return {"error": {"message": message, "type": "content_filter"}}
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


def told(caller: Caller) -> dict[str, Any]:
    """The complaint in an answer, without what is not of interest here (a request id, nulls)."""
    body = caller.answer.json() if caller.frames == [] else caller.frames[-1].json()
    kept = {key: value for key, value in body.items() if key in ("type", "error")}
    kept["error"] = {key: value for key, value in body["error"].items() if value is not None}
    return kept


# Requests


@EVERY_KIND
@ENDPOINTS
async def test_a_blocked_request_reaches_no_provider(guarded, provider, kind, endpoint):
    running = guarded(kind)
    caller = await running.ask(asking(endpoint, f"say {FORBIDDEN}", stream=True))
    assert caller.status == 422
    assert told(caller) == refused(endpoint, "request")
    assert FORBIDDEN.encode() not in caller.body
    assert provider.requests == []
    (record,) = await running.when_records(1)
    assert record["guardrail_blocked"]


@pytest.mark.parametrize(("kind", "token"), MASKING.items())
@ENDPOINTS
async def test_a_masked_request(guarded, provider, kind, token, endpoint):
    provider.answers(json_answer(chat_object("fine")))
    caller = await guarded(kind, hook_point="input").ask(asking(endpoint, f"write to {MASKABLE} now"))
    assert caller.status == 200
    assert said(caller) == "fine"
    assert provider.requests[0].json()["messages"][-1]["content"] == f"write to {token} now"


def with_a_tool(arguments: str) -> bytes:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "find it"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
    ]
    return post(CHAT, {"model": "test-model", "messages": messages}, key=KEY)


@EVERY_KIND
async def test_arguments_are_judged_as_they_are_and_as_they_are_meant(guarded, provider, kind):
    running = guarded(kind)
    escaped = "".join(f"\\u{ord(char):04x}" for char in FORBIDDEN)
    for arguments in (json.dumps({"q": [FORBIDDEN]}), f'{{"q": ["{escaped}"]}}', f'{{"q": "{FORBIDDEN}'):
        caller = await running.ask(with_a_tool(arguments))
        assert told(caller) == refused(CHAT, "request")
    assert provider.requests == []


@pytest.mark.parametrize(("kind", "token"), MASKING.items())
async def test_masked_arguments(guarded, provider, kind, token):
    provider.answers(json_answer(chat_object("fine")))
    running = guarded(kind, hook_point="input")
    escaped = MASKABLE.replace("@", "\\u0040")
    for number, text in enumerate((MASKABLE, escaped)):
        await running.ask(with_a_tool(f'{{"to": "{text}", "n": 1}}'))
        sent = provider.requests[number].json()["messages"][1]["tool_calls"][0]["function"]
        assert json.loads(sent["arguments"]) == {"to": token, "n": 1}


@EVERY_KIND
async def test_a_harmless_call(guarded, provider, service, kind):
    provider.answers(sse(sse_chat(["all ", "is ", "well"])))
    running = guarded(kind)
    caller = await running.ask(asking(CHAT, stream=True))
    assert said(caller) == "all is well"
    assert caller.frames[-1].data == "[DONE]"
    assert len(service.requests) >= 2
    (record,) = await running.when_records(1)
    assert not record["guardrail_blocked"]


# Answers


@EVERY_KIND
@ENDPOINTS
async def test_a_blocked_answer(guarded, provider, kind, endpoint):
    provider.answers(json_answer(chat_object(f"well, {FORBIDDEN}")))
    caller = await guarded(kind, hook_point="output").ask(asking(endpoint))
    assert caller.status == 422
    assert told(caller) == refused(endpoint, "response")
    assert FORBIDDEN.encode() not in caller.body


@pytest.mark.parametrize(("kind", "token"), MASKING.items())
@ENDPOINTS
async def test_a_masked_answer(guarded, provider, kind, token, endpoint):
    provider.answers(json_answer(chat_object(f"write to {MASKABLE} now")))
    caller = await guarded(kind, hook_point="output").ask(asking(endpoint))
    assert said(caller) == f"write to {token} now"


def pieces(text: str, size: int = 3) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


LONG = "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals. "


@EVERY_KIND
@ENDPOINTS
@MODES
async def test_a_blocked_stream(guarded, provider, kind, endpoint, mode):
    provider.answers(sse(sse_chat(pieces(f"{LONG}the {FORBIDDEN} is it. {LONG}"))))
    running = guarded(kind, hook_point="output", stream_output=mode, **SMALL)
    caller = await running.ask(asking(endpoint, stream=True))
    assert caller.status == 200
    assert caller.frames[-1].event == "error"
    assert told(caller) == in_stream(endpoint)
    assert b"[DONE]" not in caller.body
    assert b"message_stop" not in caller.body
    assert FORBIDDEN[:2] not in said(caller)
    if mode == "hold":
        assert said(caller) == ""
    else:
        assert said(caller)
        assert LONG.startswith(said(caller))
    (record,) = await running.when_records(1)
    assert record["guardrail_blocked"]


@EVERY_KIND
@ENDPOINTS
@MODES
async def test_a_harmless_stream(guarded, provider, kind, endpoint, mode):
    provider.answers(sse(sse_chat(pieces(LONG * 4))))
    caller = await guarded(kind, hook_point="output", stream_output=mode, **SMALL).ask(asking(endpoint, stream=True))
    assert said(caller) == LONG * 4
    assert (b"[DONE]" if endpoint == CHAT else b"message_stop") in caller.body


@pytest.mark.parametrize(("kind", "token"), MASKING.items())
@ENDPOINTS
@MODES
async def test_a_masked_stream(guarded, provider, kind, token, endpoint, mode):
    provider.answers(sse(sse_chat(pieces(f"{LONG}write to {MASKABLE} now. {LONG}"))))
    caller = await guarded(kind, hook_point="output", stream_output=mode, **SMALL).ask(asking(endpoint, stream=True))
    assert said(caller) == f"{LONG}write to {token} now. {LONG}"


async def test_windows_leave_while_the_provider_still_speaks(guarded, provider):
    frames = sse_chat(pieces(LONG * 2), done=False, finish=None)
    provider.answers([*sse(frames)[:-1], Stall()])
    running = guarded("webhook", hook_point="output", stream_output="scan", **SMALL)
    caller = await running.open(asking(CHAT, stream=True))
    await caller.when(lambda seen: len(said(seen)) > 60)
    assert LONG.startswith(said(caller)[: len(LONG)])
    await caller.leave()


# Failures

FAILURES = {
    "timeout": guards.silence,
    "5xx": guards.closes_in_the_answer,
    "throttled": lambda _: json_answer({"error": "slow down"}, 429),
    "config_error": guards.redirects,
}


@pytest.mark.parametrize("reason", FAILURES)
@pytest.mark.parametrize("mandatory", [False, True])
@pytest.mark.parametrize("passes", [False, True])
@pytest.mark.parametrize("hook", ["input", "output"])
async def test_failures(guarded, provider, reason, hook, passes, mandatory):
    provider.answers(sse(sse_chat(["fine"])))
    flags = {"fail_open" if hook == "input" else "output_fail_open": passes, "mandatory": mandatory}
    patience = 300 if reason == "timeout" else 5000
    running = guarded("webhook", FAILURES[reason], hook_point=hook, timeout_ms=patience, **flags)
    caller = await running.ask(asking(CHAT, stream=True))
    (record,) = await running.when_records(1)
    if passes and not mandatory:
        assert said(caller) == "fine"
        assert record["guardrail_bypassed_reason"] == f"webhook_{reason}"
    else:
        assert caller.status == (422 if hook == "input" else 200)
        assert told(caller) == (refused(CHAT, "request") if hook == "input" else in_stream(CHAT))
        assert record["guardrail_blocked"]
    assert bool(provider.requests) == (hook == "output" or (passes and not mandatory))


HOSTILE = [guards.a_byte_a_second, guards.a_head_byte_a_second, guards.babbles, guards.speaks_no_http]


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: answer.__name__)
@MODES
async def test_hostile_services(guarded, provider, service, answer, mode):
    provider.answers(sse(sse_chat(pieces(LONG))))
    running = guarded("webhook", answer, hook_point="output", stream_output=mode, timeout_ms=300, **SMALL)
    caller = await running.ask(asking(CHAT, stream=True))
    assert said(caller) == ""
    assert told(caller) == in_stream(CHAT)
    await service.when_connections(0)


# Callers who leave


@EVERY_KIND
async def test_the_caller_leaves_while_his_request_is_judged(guarded, provider, service, kind):
    running = guarded(kind, guards.silence)
    caller = await running.open(asking(CHAT, stream=True))
    await service.when_request(1)
    await caller.leave()
    await service.when_connections(0)
    (record,) = await running.when_records(1)
    assert record["outcome"] == "abandoned"
    assert not record["guardrail_blocked"]
    assert provider.requests == []


@EVERY_KIND
@MODES
async def test_the_caller_leaves_while_his_answer_is_judged(guarded, provider, service, kind, mode):
    provider.answers(sse(sse_chat(pieces(LONG))))
    running = guarded(kind, guards.silence, hook_point="output", stream_output=mode, **SMALL)
    caller = await running.open(asking(CHAT, stream=True))
    await service.when_request(1)
    await caller.leave()
    await service.when_connections(0)
    (record,) = await running.when_records(1)
    assert record["outcome"] == "abandoned"
    assert not record["guardrail_blocked"]


async def test_a_verdict_that_comes_late(guarded, provider, service):
    provider.answers(sse(sse_chat(pieces(LONG))))
    gate, (_, double) = Gate(), kinds(service.url)["webhook"]
    running = guarded("webhook", guards.when(gate, double), hook_point="output", stream_output="hold")
    caller = await running.open(asking(CHAT, stream=True))
    await service.when_request(1)
    assert said(caller) == ""
    gate.open()
    await caller.when_ended()
    assert said(caller) == LONG


# What they are told


async def test_what_a_webhook_is_told(guarded, provider, service):
    provider.answers(sse(sse_chat(["fine"])))
    running = guarded("webhook")
    await running.ask(asking(CHAT, "hello", stream=True))
    (record,) = await running.when_records(1)
    first, second = (json.loads(request.body) for request in service.requests)
    assert first["hook"], second["hook"] == ("input", "output")
    for one in (first, second):
        assert one["guardrail"] == NAME
        assert one["request_id"] == record["request_id"]
        assert one["api_key_id"]
        assert (one["model"], one["endpoint"], one["stream"], one["final"]) == ("test-model", CHAT, True, True)
    assert first["texts"] == ["hello"]
    assert second["texts"] == ["fine"]


async def test_windows_say_whether_they_are_the_last(guarded, provider, service):
    provider.answers(sse(sse_chat(pieces(LONG * 2))))
    await guarded("webhook", hook_point="output", stream_output="scan", **SMALL).ask(asking(CHAT, stream=True))
    final = [json.loads(request.body)["final"] for request in service.requests]
    assert len(final) > 2
    assert final == [False] * (len(final) - 1) + [True]


# Callables


class Rules:
    """The operator's own objects."""

    stuck = threading.Event()

    @staticmethod
    def plain(question: dict[str, Any]) -> dict[str, Any]:
        if any(FORBIDDEN in text for text in question["texts"]):
            return {"action": "block", "reason": "house rule"}
        return {"action": "mask", "texts": [text.replace(MASKABLE, "***") for text in question["texts"]]}

    @staticmethod
    async def awaited(question: dict[str, Any]) -> dict[str, Any]:
        return Rules.plain(question)

    @staticmethod
    def never(question: dict[str, Any]) -> None:
        Rules.stuck.wait()


HERE = "tests.network.test_remote_guardrails:Rules"


@pytest.mark.parametrize("name", ["plain", "awaited"])
@ENDPOINTS
@pytest.mark.parametrize("mode", ["hold", "scan", None])
async def test_callables(guarded, provider, name, endpoint, mode):
    text = f"{LONG}write to {MASKABLE} now. {LONG}"
    bad = f"{LONG}the {FORBIDDEN}"
    scripts: list[Script] = [
        sse(sse_chat(pieces(each))) if mode else json_answer(chat_object(each)) for each in (text, bad)
    ]
    provider.answers(*scripts)
    modes = {"stream_output": mode} if mode else {}
    running = guarded("callable", boot={"callables": {"r": f"{HERE}.{name}"}}, use="r", **modes, **SMALL)
    caller = await running.ask(asking(endpoint, stream=bool(mode)))
    assert said(caller) == text.replace(MASKABLE, "***")
    caller = await running.ask(asking(endpoint, stream=bool(mode)))
    assert told(caller) == (in_stream(endpoint) if mode else refused(endpoint, "response"))
    caller = await running.ask(asking(endpoint, FORBIDDEN))
    assert told(caller) == refused(endpoint, "request")
    assert len(provider.requests) == 2


async def test_a_callable_that_never_returns(guarded, provider):
    provider.answers(json_answer(chat_object("fine")))
    Rules.stuck.clear()
    boot = {"callables": {"r": f"{HERE}.never"}}
    running = guarded("callable", boot=boot, use="r", hook_point="input", fail_open=False, timeout_ms=200)
    try:
        for _ in range(6):  # more than there are threads
            caller = await running.ask(asking(CHAT))
            assert told(caller) == refused(CHAT, "request")
        assert running.house.threads.waiting == 0
        assert provider.requests == []
    finally:
        Rules.stuck.set()


# Other endpoints, and those that only take notes


async def test_a_stream_of_responses_is_judged_before_its_head(guarded, provider):
    provider.answers(json_answer({"id": "r1", "object": "response", "status": "completed", "model": "m", "output": [
        {"type": "message", "id": "m1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": f"well, {FORBIDDEN}", "annotations": []}]},
    ]}))  # fmt: skip
    body = {"model": "test-model", "input": "hello", "stream": True}
    caller = await guarded("webhook", hook_point="output").ask(post("/v1/responses", body, key=KEY))
    assert caller.status == 422
    assert told(caller) == refused(CHAT, "response")


@pytest.mark.parametrize("stream", [False, True])
async def test_whoever_takes_notes_delays_nobody(guarded, provider, service, stream):
    provider.answers(sse(sse_chat([f"the {FORBIDDEN}"])) if stream else json_answer(chat_object(f"the {FORBIDDEN}")))
    gate, (_, double) = Gate(), kinds(service.url)["webhook"]
    running = guarded("webhook", guards.when(gate, double), enforcement_mode="monitor")
    caller = await running.ask(asking(CHAT, f"say {FORBIDDEN}", stream=stream))
    assert said(caller) == f"the {FORBIDDEN}"
    await service.when_request(2)
    assert [json.loads(request.body)["hook"] for request in service.requests] == ["input", "output"]
    gate.open()


async def test_a_keyword_spares_the_service_a_question(guarded, provider, service):
    """Local guardrails are asked first; whoever blocks, the first in order is named."""
    running = guarded("webhook")
    keyword = {"name": "words", "kind": "keyword", "patterns": [{"kind": "literal", "value": "password"}]}
    path = Path(running.house.settings.resources_file)
    document = yaml.safe_load(path.read_text())
    document["guardrails"].insert(0, keyword)
    path.write_text(yaml.safe_dump(document))
    await running.house.reload()
    caller = await running.ask(asking(CHAT, f"the password is {FORBIDDEN}"))
    assert "guardrail 'words'" in caller.answer.json()["error"]["message"]
    assert service.requests == []
