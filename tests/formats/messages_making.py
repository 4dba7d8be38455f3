"""Messages answers out of neutral events, and what the official SDK reads in them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import anthropic as sdk
import httpx2
from anthropic.types import Message

from twisted_gateway.exchange import Usage
from twisted_gateway.formats import anthropic
from twisted_gateway.formats.neutral import Began
from twisted_gateway.formats.row import Told
from twisted_gateway.wire.sse import encode

from ..exchanges import Headers
from .anthropic_grammar import check, events_of
from .chat_making import Learnt, place
from .making import LETTERS, NOW, dumps

JSON = Headers({"content-type": "application/json"})
MUSING = {"thinking": {"type": "enabled", "budget_tokens": 2048}}
BEGAN = Began("c1", "up", 5)


def told(stream: bool = True, on_model: dict[str, Any] | None = None, **members: Any) -> Told:
    """What an encoder is told of a Messages caller."""
    body = {"model": "alias", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    asked = anthropic.read_call(dumps({**body, **members}), JSON)
    counter = itertools.count(1)
    target = place(**(on_model or {}))
    return Told(asked, anthropic.prompt(asked), target, "alias", NOW, LETTERS, lambda: f"{next(counter):032x}")


def streamed(events: Sequence[Any], usage: Usage | None = None, **members: Any) -> bytes:
    """The bytes of a stream, each event for itself; its grammar is checked."""
    writer, learnt = anthropic.encoder(told(**members)), Learnt()
    learnt.usage = usage or Usage()
    frames = [frame for event in events for frame in writer.received([event], learnt)]
    data = b"".join(map(encode, [*frames, *writer.stopped(learnt)]))
    check(data)
    return data


def whole(events: Sequence[Any], usage: Usage | None = None, **members: Any) -> Any:
    """The whole answer."""
    writer, learnt = anthropic.encoder(told(stream=False, **members)), Learnt()
    learnt.usage = usage or Usage()
    assert writer.received(events, learnt) == []
    (frame,) = writer.stopped(learnt)
    made = json.loads(frame.data)
    Message.model_validate(made)
    return made


def accumulated(data: bytes) -> Message:
    """The message that the official SDK makes of a stream."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=data)

    client = sdk.Anthropic(
        api_key="k", max_retries=0, http_client=httpx2.Client(transport=httpx2.MockTransport(answer))
    )
    with client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]) as stream:
        return stream.get_final_message()


def deltas(events: Sequence[Any], **members: Any) -> list[Any]:
    """The events of a stream between its start and its end, in short."""
    found = [event for _, event in events_of(streamed(events, **members))]
    assert (found[0]["type"], found[-2]["type"], found[-1]) == (
        "message_start",
        "message_delta",
        {"type": "message_stop"},
    )
    short = {
        "content_block_start": lambda event: ("start", event["index"], event["content_block"]),
        "content_block_delta": lambda event: (event["index"], *list(event["delta"].values())),
        "content_block_stop": lambda event: ("stop", event["index"]),
    }
    return [short[event["type"]](event) for event in found[1:-2]]
