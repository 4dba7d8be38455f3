"""Calls, targets and readers for the tests of the Responses format; what the official SDK reads, without a network."""

from __future__ import annotations

import itertools
import json
import typing
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import httpx2
import openai
from openai.types.responses import Response, ResponseStreamEvent

from twisted_gateway.exchange import Call, Target, Usage
from twisted_gateway.formats.neutral import Event
from twisted_gateway.formats.openai_responses import FORMAT, Events, passage, read_call
from twisted_gateway.formats.openai_responses_encoder import ResponsesEncoder
from twisted_gateway.formats.row import Told
from twisted_gateway.wire.sse import Frame, Reader, encode

from ..exchanges import Headers, model, provider_key
from .making import LETTERS, NOW, dumps

JSON = Headers({"content-type": "application/json"})

MANDATORY = {
    "id", "object", "created_at", "status", "error", "incomplete_details", "instructions", "max_output_tokens",
    "metadata", "model", "output", "parallel_tool_calls", "previous_response_id", "reasoning", "store", "temperature",
    "text", "tool_choice", "tools", "top_p", "truncation", "usage", "user",
}  # fmt: skip
"""Members of every snapshot (`translation.md` 7.2)."""


def responses_call(stream: bool = True, **members: Any) -> Call:
    """A call whose body has these members."""
    return read_call(dumps({"model": "gpt", "input": "hi", "stream": stream, **members}), JSON)


def target(provider: str = "openai", **request: Any) -> Target:
    """A target of this provider."""
    return Target(model(provider=provider, provider_key=provider_key(**request)), "gpt-5-2026")


def native(stream: bool = True) -> Any:
    """The tube of an answer of OpenAI's own."""
    return passage(responses_call(stream), target(), "gpt", NOW, lambda: LETTERS)


def relayed(pieces: Iterable[bytes]) -> tuple[bytes, Events]:
    """What a caller gets of a stream that comes in these pieces, and the tube that it went through."""
    reader, tube, out = Reader(), native(), []
    for piece in pieces:
        out += tube.received(reader.received(piece))
    out += tube.received(reader.ended())
    return b"".join(map(encode, out)), tube


class Learnt:
    """What an encoder is told of an answer on its way."""

    def __init__(self, **counters: int) -> None:
        self.usage = Usage(**counters)


def counting() -> Callable[[], str]:
    """Fresh ids, the same ones in every run."""
    numbers = itertools.count(1)
    return lambda: f"{next(numbers):032x}"


def encoder(call: Call | None = None) -> ResponsesEncoder:
    """Machine C for a call."""
    call = call or responses_call()
    assert FORMAT.prompt is not None
    return ResponsesEncoder(Told(call, FORMAT.prompt(call), target("groq"), "gpt", NOW, LETTERS, counting()))


def told(events: Iterable[Event], call: Call | None = None, **counters: int) -> list[dict[str, Any]]:
    """The events that a caller reads of these neutral ones, which come one by one; each is checked."""
    writer, learnt, frames = encoder(call), Learnt(**counters), []
    for event in events:
        frames += writer.received([event], learnt)
    return checked([*frames, *writer.stopped(learnt)])


def whole(events: Iterable[Event], call: Call, **counters: int) -> dict[str, Any]:
    """The whole object of the same events, for a caller who did not ask for a stream."""
    writer, learnt = encoder(call), Learnt(**counters)
    assert writer.received(list(events), learnt) == []
    (frame,) = writer.stopped(learnt)
    assert frame.raw == frame.data
    found: dict[str, Any] = json.loads(frame.data)
    check_snapshot(found)
    return found


def checked(frames: list[Frame]) -> list[dict[str, Any]]:
    """The events in frames, each of them legal for the SDK and all numbered without a gap."""
    found = Reader().received(b"".join(map(encode, frames)))
    events = [json.loads(frame.data) for frame in found]
    assert [frame.event.decode() for frame in found] == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        check(event)
    return events


@cache
def _models() -> dict[str, Any]:
    union = typing.get_args(typing.get_args(ResponseStreamEvent)[0])
    return {typing.get_args(one.model_fields["type"].annotation)[0]: one for one in union}


def check(event: dict[str, Any]) -> None:
    """One event against the SDK's own model."""
    assert "error" not in event
    _models()[event["type"]].model_validate(event)
    if "response" in event:
        check_snapshot(event["response"])


def check_snapshot(response: dict[str, Any]) -> None:
    """A response object against the SDK's own model, with no member missing."""
    assert set(response) == MANDATORY
    read = Response.model_validate(response)
    for item in read.output:
        assert type(item).__name__ in ("ResponseOutputMessage", "ResponseFunctionToolCall", "ResponseReasoningItem")


def client(body: bytes, content_type: str = "text/event-stream") -> openai.OpenAI:
    """The SDK, for whom every answer is this one."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": content_type}, content=body)

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="k", base_url="http://sdk.test/v1", http_client=transport, max_retries=0)


def accumulated(body: bytes) -> tuple[Any, list[Any]]:
    """What the SDK's accumulator makes of a stream: its final response and all its events."""
    with client(body).responses.stream(model="gpt", input="hi") as stream:
        events = list(stream)
    final = [event.response for event in events if event.type in ("response.completed", "response.incomplete")]
    return (final[-1] if final else None), events
