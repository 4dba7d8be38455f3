"""Prompts, events and what the OpenAI SDK reads, for the tests of the chat dialect's translation half."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from twisted_gateway.errors import Problem, Refused, StrayFrame
from twisted_gateway.exchange import Call, Target, Usage
from twisted_gateway.formats import openai_chat
from twisted_gateway.formats.neutral import (
    Arguments,
    Calling,
    Declined,
    Event,
    Finished,
    Mused,
    Prompt,
    Said,
    Text,
    Turn,
)
from twisted_gateway.formats.row import Decoder, Format, Sent, Told
from twisted_gateway.wire.sse import Frame, Reader

from ..doubles.recordings import Recording
from ..exchanges import Headers, model, provider_key
from ..recordings.reading import Choice, Reading, Tool, differences
from .making import LETTERS, NOW, dumps, written

JSON = Headers({"content-type": "application/json"})
HELLO = [{"role": "user", "content": "hi"}]


def chat_prompt(*messages: Any, **members: Any) -> Prompt:
    """A chat request in neutral words."""
    body = {"model": "gpt", "messages": list(messages) or HELLO, **members}
    return openai_chat.FORMAT.prompt(openai_chat.read_call(dumps(body), JSON))


def place(upstream: str = "gpt-4o", **more: Any) -> Target:
    """A target: members of the model, and those of its key below `key`."""
    key = provider_key(**more.pop("key", {}))
    return Target(model(**{"provider": "deepseek", "provider_key": key, **more}), upstream)


def sent(prompt: Prompt, target: Target | None = None) -> Sent:
    """The attempt's request."""
    return openai_chat.FORMAT.body(prompt, target or place())


def body(prompt: Prompt, target: Target | None = None) -> dict[str, Any]:
    """Its body."""
    return json.loads(sent(prompt, target).body)


def said(*turns: Turn, dialect: str = "anthropic", **members: Any) -> Prompt:
    """A prompt of another dialect."""
    return Prompt(dialect, turns or (Turn("user", (Text("hi"),)),), **members)


def refusal(act: Any, *given: Any, **members: Any) -> Problem:
    """The 400 that this raises."""
    with pytest.raises(Refused) as caught:
        act(*given, **members)
    assert caught.value.problem.status == 400
    assert caught.value.problem.type == "invalid_request_error"
    return caught.value.problem


class Learnt:
    """What an encoder may ask a decoder."""

    def __init__(self, **counters: int) -> None:
        self.usage = Usage(**counters)


def told(stream: bool = True, usage: bool = True, prompt: Prompt | None = None, **more: Any) -> Told:
    """What an encoder is told of the caller."""
    counter = itertools.count(1)
    call = Call(model="gpt", stream=stream, body=b"", usage_shown=usage)
    target = more.get("target", place())
    return Told(call, prompt or said(), target, "gpt", NOW, LETTERS, lambda: f"{next(counter):032x}")


def encoded(events: Iterable[Event], *, format: Format = openai_chat.FORMAT, **more: Any) -> list[Any]:
    """What a caller reads of these events: the frames of a stream, or the one object."""
    learnt = Learnt(**more.pop("counters", {}))
    encoder = format.encoder(told(**more))
    frames = [frame for event in events for frame in encoder.received([event], learnt)]
    frames += encoder.stopped(learnt)
    if more.get("stream", True):
        return written(frames)
    (frame,) = frames
    assert frame.raw == frame.data
    return [json.loads(frame.data)]


def accumulated(objects: Sequence[Any]) -> dict[str, Any]:
    """The completion that the SDK's own accumulator makes of a stream's objects; its helper's events are built too."""
    assert objects[-1] == "[DONE]"
    state: ChatCompletionStreamState[Any] = ChatCompletionStreamState()
    for one in objects[:-1]:
        list(state.handle_chunk(ChatCompletionChunk.construct(**one)))
    return plain(state.current_completion_snapshot)


def read_whole(answer: dict[str, Any]) -> dict[str, Any]:
    """A whole answer, as the SDK's types have it."""
    ChatCompletion.model_validate(answer)
    return plain(ChatCompletion.construct(**answer))


def plain(answer: Any) -> dict[str, Any]:
    """What was said, by members; empty ones left out, as a stream cannot tell them from absent ones."""
    found = json.loads(answer.model_dump_json(warnings=False))
    choices = [
        {
            "index": choice["index"],
            "finish_reason": choice["finish_reason"],
            **{name: value for name, value in choice["message"].items() if value and name not in ("role", "parsed")},
        }
        for choice in sorted(found["choices"], key=lambda choice: choice["index"])
    ]
    for choice in choices:
        for call in choice.get("tool_calls") or ():
            call.pop("index", None)
            call["function"].pop("parsed_arguments", None)
    return {"id": found["id"], "model": found["model"], "created": found["created"], "choices": choices}


def decoded(decoder: Decoder, frames: Iterable[Frame]) -> list[Event]:
    """The events of these frames, up to a stray one; what was kept back is asked for after a whole answer."""
    events: list[Event] = []
    try:
        for frame in frames:
            events += decoder.received([frame])
    except StrayFrame:
        return events
    return events + decoder.stopped() if decoder.complete else events


def meaning(events: Iterable[Event]) -> Reading:
    """Events as a reading of the answer."""
    reading = Reading()
    for event in events:
        choice = reading.choices.setdefault(event.choice, Choice()) if hasattr(event, "choice") else Choice()
        match event:
            case Said(text):
                choice.text += text
            case Mused(text):
                choice.reasoning += text
            case Declined(text):
                choice.refusal += text
            case Calling(index, id, name):
                assert index == len(choice.tools)
                choice.tools[index] = Tool(id, name)
            case Arguments(index, text):
                choice.tools[index].arguments += text
            case Finished(native=native):
                choice.finish_reason = native
    return reading


def frames_of(item: Recording, pieces: Iterable[bytes]) -> list[Frame]:
    """The frames of a recording that comes in these pieces."""
    if item.kind != "stream":
        return [Frame(item.body, b"", item.body)]
    reader = Reader()
    return [frame for piece in pieces for frame in reader.received(piece)] + reader.ended()


def counters(usage: Usage) -> dict[str, int]:
    """As a `Reading` has them."""
    return {
        "input": usage.prompt,
        "output": usage.completion,
        "cache_read": usage.cache_read,
        "cache_write": usage.cache_write,
        "reasoning": usage.reasoning,
    }


def check_reading(reading: Reading, usage: Usage, item: Recording) -> None:
    """Everything as it is expected; the legacy function call is a tool call like others, without an id."""
    reading.usage = counters(usage)
    wanted = dict(item.read)
    if wanted.get("function_call"):
        wanted["tool_calls"] = [{"id": "", **wanted.pop("function_call")}]
    assert differences(reading, wanted, usage=not item.expect.get("sdk_error")) == []
