"""What the SDKs read in Messages, Responses and legacy completions: a `Reading`, and what each dialect has besides."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import attrs

from .reading import COUNTERS, Choice, JsonObject, Reading, Tool, differences, digest, plain, same_text

SERVER_CALLS = ("server_tool_use", "mcp_tool_use")
SPOKEN = {"response.output_text.delta": "text", "response.refusal.delta": "refusal"}
MUSED = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")


@attrs.define
class Message(Reading):
    """A message of Anthropic's."""

    blocks: list[dict[str, Any]] = attrs.field(factory=list)
    stop_sequence: str | None = None
    ended: bool = False
    """`message_stop` was seen, in a stream."""

    def take(self, message: JsonObject) -> Message:
        """A whole message, or the snapshot of a stream."""
        self.models.add(message.get("model") or "")
        self.ids.add(message.get("id") or "")
        self.blocks = list(message["content"])
        self.stop_sequence = message.get("stop_sequence")
        said = self.choices[0] = Choice(finish_reason=message.get("stop_reason"))
        for position, block in enumerate(self.blocks):
            if block["type"] == "text":
                said.text += block["text"]
            elif block["type"] == "thinking":
                said.reasoning += block["thinking"]
            elif block["type"] == "tool_use":
                said.tools[position] = Tool(block["id"], block["name"], json.dumps(block.get("input")))
        self.usage = message_counters(message.get("usage") or {})
        return self

    @property
    def block_types(self) -> list[str]:
        """The kinds of its blocks, in order."""
        return [block["type"] for block in self.blocks]

    @property
    def server_calls(self) -> list[tuple[str, Any]]:
        """Name and input of what the provider ran itself."""
        return [(block["name"], block["input"]) for block in self.blocks if block["type"] in SERVER_CALLS]

    def read_events(self, stream: Any) -> Message:
        """All events of the SDK's stream, up to its error; the message is the SDK's own accumulation."""
        import anthropic

        try:
            for event in stream:
                self.ended = self.ended or event.type == "message_stop"
        except (anthropic.AnthropicError, json.JSONDecodeError) as error:
            self.error = error
        try:
            self.take(plain(stream.current_message_snapshot))
        except AssertionError:
            assert self.error is not None, "nothing was read"
        return self


@attrs.define
class Response(Reading):
    """A response of OpenAI's."""

    output: list[dict[str, Any]] = attrs.field(factory=list)
    output_types: list[str] = attrs.field(factory=list)
    status: str | None = None
    incomplete_reason: str | None = None
    final_text: str = ""
    argument_deltas: dict[str, str] = attrs.field(factory=dict)
    event_types: Counter[str] = attrs.field(factory=Counter)
    numbers: list[int] = attrs.field(factory=list)
    errors: list[dict[str, Any]] = attrs.field(factory=list)
    """`error` events, which the SDK gives out like others: code, message and param."""
    last: dict[str, Any] | None = None
    """The response that the last event brought."""
    _done: list[dict[str, Any]] = attrs.field(factory=list)

    def take(self, response: JsonObject) -> Response:
        """A whole response."""
        said = self.choices.setdefault(0, Choice())
        self._end(response)
        for item in self.output:
            kind = item.get("type")
            for part in item.get("content") or ():
                said.text += part.get("text") or "" if kind == "message" else ""
                said.refusal += part.get("refusal") or ""
                said.reasoning += part.get("text") or "" if kind == "reasoning" else ""
            for part in item.get("summary") or ():
                said.reasoning += part.get("text") or ""
        return self

    def read_events(self, events: Iterable[Any]) -> Response:
        """All events, up to the SDK's error."""
        import openai

        said = self.choices.setdefault(0, Choice())
        try:
            for event in events:
                self._event(plain(event), said)
        except openai.OpenAIError as error:
            self.error = error
        return self

    def _event(self, event: JsonObject, said: Choice) -> None:
        kind = event["type"]
        self.event_types[kind] += 1
        if "sequence_number" in event:
            self.numbers.append(event["sequence_number"])
        if kind in SPOKEN:
            setattr(said, SPOKEN[kind], getattr(said, SPOKEN[kind]) + event["delta"])
        elif kind in MUSED:
            said.reasoning += event["delta"]
        elif kind.endswith("_arguments.delta"):
            index = str(event["output_index"])
            self.argument_deltas[index] = self.argument_deltas.get(index, "") + event["delta"]
        elif kind == "error":
            self.errors.append({name: event.get(name) for name in ("code", "message", "param")})
        elif kind == "response.output_item.done":
            self._done.append(event["item"])
            self._item(event["item"], said)
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            tools = dict(said.tools)
            self._end(event["response"])
            said.tools = tools or said.tools

    def _item(self, item: JsonObject, said: Choice) -> None:
        if item["type"] in ("function_call", "custom_tool_call"):
            arguments = item.get("arguments", item.get("input"))
            said.tools[item["id"]] = Tool(item["call_id"], item["name"], arguments or "")

    def _end(self, response: JsonObject) -> None:
        self.last = dict(response)
        self.models.add(response.get("model") or "")
        self.ids.add(response.get("id") or "")
        self.output = list(response.get("output") or self._done)
        self.output_types = [item["type"] for item in self.output]
        self.status = self.choices[0].finish_reason = response.get("status")
        self.incomplete_reason = (response.get("incomplete_details") or {}).get("reason")
        self.usage = response_counters(response.get("usage") or {})
        messages = [item for item in response.get("output") or () if item["type"] == "message"]
        self.final_text = "".join(part.get("text") or "" for item in messages for part in item["content"])
        for position, item in enumerate(self.output):
            self._item({"id": position, **item}, self.choices[0])


def completion(answer: JsonObject) -> JsonObject:
    """A chunk, or a whole answer, of legacy completions as one of chat."""
    told = [{**choice, "delta": {"content": choice.get("text")}} for choice in answer.get("choices") or ()]
    return {**answer, "choices": told}


def message_counters(usage: JsonObject) -> dict[str, int]:
    """The counters of Anthropic's `usage`; what is absent is 0."""
    return {
        "input": usage.get("input_tokens") or 0,
        "output": usage.get("output_tokens") or 0,
        "cache_read": usage.get("cache_read_input_tokens") or 0,
        "cache_write": usage.get("cache_creation_input_tokens") or 0,
        "reasoning": (usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0,
    }


def response_counters(usage: JsonObject) -> dict[str, int]:
    """The counters of a Responses `usage`; what is absent is 0."""
    inward, outward = usage.get("input_tokens_details") or {}, usage.get("output_tokens_details") or {}
    return {
        "input": usage.get("input_tokens") or 0,
        "output": usage.get("output_tokens") or 0,
        "cache_read": inward.get("cached_tokens") or 0,
        "cache_write": inward.get("cache_write_tokens") or 0,
        "reasoning": outward.get("reasoning_tokens") or 0,
    }


def message_differences(reading: Message, expected: JsonObject) -> list[str]:
    """In what a message is not the expectation of its own dialect. Reasoning tokens are not in these expectations."""
    reading = attrs.evolve(reading, usage={**reading.usage, "reasoning": 0})
    found = differences(reading, expected)
    have: dict[str, Any] = {
        "block_types": reading.block_types,
        "stop_sequence": reading.stop_sequence,
        "message_stop": reading.ended,
    }
    found += [f"{name} {have[name]}" for name in have if name in expected and have[name] != expected[name]]
    calls = [(call["name"], call["arguments"]) for call in expected.get("server_tool_calls") or ()]
    names = [name for name, _ in reading.server_calls]
    found += [f"server calls {names}"] if names != [name for name, _ in calls] else []
    for (_, given), (_, wanted) in zip(reading.server_calls, calls, strict=False):
        found += [f"server call {given} instead of {wanted}"] if canonical(given) != wanted["sha256"] else []
    return found


def response_differences(reading: Response, expected: JsonObject) -> list[str]:
    """In what a response is not the expectation of its own dialect."""
    found = differences(reading, expected)
    have: dict[str, Any] = {
        "output_types": reading.output_types,
        "incomplete_reason": reading.incomplete_reason,
        "event_types": dict(reading.event_types),
    }
    found += [f"{name} {have[name]}" for name in have if name in expected and have[name] != expected[name]]
    if "final_text" in expected and not same_text(reading.final_text, expected["final_text"]):
        found.append(f"final text {reading.final_text!r}")
    for index, wanted in (expected.get("argument_deltas") or {}).items():
        if not same_text(reading.argument_deltas.get(index, ""), wanted):
            found.append(f"arguments of {index}: {reading.argument_deltas.get(index)}")
    return found


def canonical(value: Any) -> str:
    """The digest of a JSON value, as the expectations have it."""
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def facts(reading: Reading) -> dict[str, Any]:
    """What two readings of one answer in one dialect must have in common."""
    found = {}
    for index, choice in reading.choices.items():
        tools = [(tool.name, _value(tool.arguments)) for tool in choice.tools.values()]
        function = choice.function and (choice.function.name, _value(choice.function.arguments))
        found[index] = (choice.text, choice.reasoning, choice.refusal, tools, function, choice.finish_reason)
    return {"choices": found, "usage": {name: reading.usage.get(name) or 0 for name in COUNTERS}}


def _value(arguments: str) -> Any:
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments
