"""What the gateway does not edit survives it: every member of every recorded event (`streaming.md` 15.1 and 15.5).

Both sides lose the members that section 15.1 edits; what is left must be equal, event for event.
"""

from __future__ import annotations

import json
from typing import Any

from tests.doubles.recordings import Recording
from twisted_gateway.exchange import Usage
from twisted_gateway.formats.openai_usage import read_usage

from .house import House
from .items import CHAT_STREAMS, CHAT_WHOLE, each, events
from .reading import COUNTERS
from .replay import Delivery
from .test_naive import ENVELOPE

EDITED = ("id", "object", "created", "model")


def silent(choice: dict[str, Any]) -> bool:
    """An entry of `choices` that says nothing."""
    delta = choice.get("delta") or {}
    return not choice.get("finish_reason") and not any(value for name, value in delta.items() if name != "role")


def shown(event: dict[str, Any], begun: set[int]) -> dict[str, Any] | None:
    """A recorded event as a caller who asked for usage must see it, or nothing when it is not shown (15.2)."""
    choices = event["choices"]
    first = {choice.get("index") or 0 for choice in choices} - begun
    begun |= first
    if event.get("usage") and not first and all(map(silent, choices)):
        return {**event, "choices": []}
    if not choices and not event.get("usage") and event.keys() <= ENVELOPE:
        return None
    return event


def bare(event: dict[str, Any]) -> dict[str, Any]:
    """An event without the members that may be edited."""
    kept = {name: value for name, value in event.items() if name not in EDITED and not (name == "error" and not value)}
    kept["choices"] = [bare_choice(choice) for choice in event["choices"]]
    return kept


def bare_choice(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice without them. `reasoning` is compared under its new name."""
    delta = {name: value for name, value in (choice.get("delta") or {}).items() if name != "role"}
    if isinstance(delta.get("reasoning"), str):
        text = delta.pop("reasoning")
        delta["reasoning_content"] = delta.get("reasoning_content") or text
    if isinstance(delta.get("tool_calls"), list):
        delta["tool_calls"] = [bare_call(call) for call in delta["tool_calls"]]
    rest = {"index": 0, "finish_reason": None, **choice}
    return {**rest, "delta": delta}


def bare_call(call: dict[str, Any]) -> dict[str, Any]:
    """A part of a tool call without what may be added, or taken away because it was sent before."""
    kept = {name: value for name, value in call.items() if name not in ("index", "id", "type")}
    if isinstance(kept.get("function"), dict):
        kept["function"] = {name: value for name, value in kept["function"].items() if name != "name"}
    return kept


@each(CHAT_STREAMS)
def test_every_member_of_a_stream_survives(item: Recording, house: House) -> None:
    answer = house.raw(item, Delivery("random", seed=8), stream_options={"include_usage": True})
    begun: set[int] = set()
    recorded = [event for event in events(item) if isinstance(event, dict) and "choices" in event]
    wanted = [bare(event) for one in recorded if (event := shown(one, begun)) is not None]
    assert [bare(frame) for frame in answer.frames()] == wanted


@each(CHAT_STREAMS)
def test_the_envelope_is_the_same_on_every_chunk(item: Recording, house: House) -> None:
    """Whatever the provider did: the caller's name, one legal object and time; each choice has its role once."""
    frames = house.raw(item, Delivery("random", seed=9)).frames()
    assert {(frame["object"], frame["model"]) for frame in frames} == {("chat.completion.chunk", f"our-{item.name}")}
    times = {frame["created"] for frame in frames}
    assert len(times) == 1
    assert times.pop() > 0
    roles: list[int] = []
    for frame in frames:
        for choice in frame["choices"]:
            if "role" in choice["delta"]:
                assert choice["delta"]["role"] == "assistant"
                roles.append(choice["index"])
            assert not isinstance(choice["delta"].get("reasoning"), str), "it is told as reasoning_content"
    assert sorted(roles) == sorted({choice["index"] for frame in frames for choice in frame["choices"]})


@each(CHAT_STREAMS, CHAT_WHOLE)
def test_every_counter_is_read(item: Recording) -> None:
    """What the gateway itself takes from `usage` objects, cache and reasoning counters included (14.1)."""
    usage = Usage()
    for event in events(item) if item.kind == "stream" else [json.loads(item.body)]:
        read_usage(usage, event.get("usage"))
    read = (usage.prompt, usage.completion, usage.cache_read, usage.cache_write, usage.reasoning)
    figures = item.read.get("usage") or {}
    assert read == tuple(figures.get(name) or 0 for name in COUNTERS)


@each(CHAT_WHOLE)
def test_every_member_of_a_whole_answer_survives(item: Recording, house: House) -> None:
    answer = house.raw(item, Delivery("random", seed=8))
    assert (answer.status, answer.content_type) == (200, "application/json")
    recorded = json.loads(item.body)
    assert json.loads(answer.body) == {**recorded, "model": f"our-{item.name}"}
    line = house.access_line(answer.request_id)
    figures = item.read["usage"]
    assert (line["prompt_tokens"], line["completion_tokens"]) == (figures["input"], figures["output"])
