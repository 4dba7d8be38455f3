"""What the provider of these tests says, written once and spoken in each dialect: as events of a stream or as one body.

The words are cut into pieces in the stream, arguments of tools too. Written by hand after the providers' documentation,
without a line of the gateway's own.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

Event = tuple[str, Mapping[str, Any] | str]
"""Name, empty where the dialect has none, and data."""

CREATED = 1_750_000_000


@attrs.frozen
class Tool:
    """A call of a tool."""

    id: str
    name: str
    arguments: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def json(self) -> str:
        """The arguments as text."""
        return json.dumps(self.arguments)


@attrs.frozen
class Said:
    """One answer. `error`: it breaks off behind the text with this message; `length`: it ran out of tokens."""

    text: str = ""
    thinking: str = ""
    tools: tuple[Tool, ...] = ()
    length: bool = False
    error: str = ""
    fresh: int = 31
    cached: int = 0
    output: int = 12


def pieces(text: str, size: int = 7) -> Iterator[str]:
    """A text as it streams."""
    for start in range(0, len(text), size):
        yield text[start : start + size]


def sse(events: Iterator[Event]) -> bytes:
    """The body of a stream."""
    made = []
    for name, data in events:
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
        made.append(f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n")
    return "".join(made).encode()


# Chat completions


def chat_usage(said: Said) -> dict[str, Any]:
    """Usage: cached tokens are part of the prompt's."""
    prompt = said.fresh + said.cached
    return {
        "prompt_tokens": prompt,
        "completion_tokens": said.output,
        "total_tokens": prompt + said.output,
        "prompt_tokens_details": {"cached_tokens": said.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def chat_reason(said: Said) -> str:
    """The finish reason."""
    return "length" if said.length else "tool_calls" if said.tools else "stop"


def chat_stream(said: Said, asked: Mapping[str, Any]) -> Iterator[Event]:
    """Chunks; usage only where it was asked for."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": CREATED, "model": asked["model"]}

    def chunk(delta: Mapping[str, Any], reason: str | None = None) -> Event:
        return "", {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}

    yield chunk({"role": "assistant", "content": "" if said.text else None})
    for piece in pieces(said.thinking):
        yield chunk({"reasoning_content": piece})
    for piece in pieces(said.text):
        yield chunk({"content": piece})
    if said.error:
        yield "", {"error": {"message": said.error, "type": "server_error", "param": None, "code": None}}
        return
    for index, tool in enumerate(said.tools):
        function = {"name": tool.name, "arguments": ""}
        yield chunk({"tool_calls": [{"index": index, "id": tool.id, "type": "function", "function": function}]})
        for piece in pieces(tool.json):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, chat_reason(said))
    if (asked.get("stream_options") or {}).get("include_usage"):
        yield "", {**head, "choices": [], "usage": chat_usage(said)}
    yield "", "[DONE]"


def chat_whole(said: Said, asked: Mapping[str, Any]) -> dict[str, Any]:
    """A completion."""
    message: dict[str, Any] = {"role": "assistant", "content": said.text or None, "refusal": None}
    if said.thinking:
        message["reasoning_content"] = said.thinking
    if said.tools:
        message["tool_calls"] = [
            {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": tool.json}}
            for tool in said.tools
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": chat_reason(said)}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": CREATED, "model": asked["model"]}
    return {**head, "choices": [choice], "usage": chat_usage(said)}


# Messages


def messages_usage(said: Said) -> dict[str, Any]:
    """Usage: cached tokens stand beside the input's."""
    return {
        "input_tokens": said.fresh,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": said.cached,
        "output_tokens": said.output,
    }


def messages_reason(said: Said) -> str:
    """The stop reason."""
    return "max_tokens" if said.length else "tool_use" if said.tools else "end_turn"


def messages_blocks(said: Said) -> list[dict[str, Any]]:
    """The content."""
    blocks: list[dict[str, Any]] = []
    if said.thinking:
        blocks.append({"type": "thinking", "thinking": said.thinking, "signature": "c2lnbmVk"})
    if said.text:
        blocks.append({"type": "text", "text": said.text})
    blocks += [
        {"type": "tool_use", "id": tool.id, "name": tool.name, "input": dict(tool.arguments)} for tool in said.tools
    ]
    return blocks


def _message(said: Said, asked: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"]}


def messages_whole(said: Said, asked: Mapping[str, Any]) -> dict[str, Any]:
    """A message."""
    return {
        **_message(said, asked),
        "content": messages_blocks(said),
        "stop_reason": messages_reason(said),
        "stop_sequence": None,
        "usage": messages_usage(said),
    }


def _messages_deltas(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if block["type"] == "text":
        return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
    if block["type"] == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas
    parts = pieces(json.dumps(block["input"]))
    return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in ("", *parts)]


def messages_stream(said: Said, asked: Mapping[str, Any]) -> Iterator[Event]:
    """Events from `message_start` to `message_stop`."""
    for data in _messages_stream(said, asked):
        yield data["type"], data


def _messages_stream(said: Said, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    start = {"content": [], "stop_reason": None, "stop_sequence": None}
    usage = {**messages_usage(said), "output_tokens": 1}
    yield {"type": "message_start", "message": {**_message(said, asked), **start, "usage": usage}}
    yield {"type": "ping"}
    for index, block in enumerate(messages_blocks(said)):
        empty, deltas = _messages_deltas(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        if said.error and block["type"] == "text":
            yield {"type": "error", "error": {"type": "overloaded_error", "message": said.error}}
            return
        yield {"type": "content_block_stop", "index": index}
    ending = {"stop_reason": messages_reason(said), "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": said.output}}
    yield {"type": "message_stop"}


# Responses


def responses_usage(said: Said) -> dict[str, Any]:
    """Usage: cached tokens are part of the input's."""
    total = said.fresh + said.cached
    return {
        "input_tokens": total,
        "input_tokens_details": {"cached_tokens": said.cached, "cache_write_tokens": 0},
        "output_tokens": said.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": total + said.output,
    }


def _response(said: Said, asked: Mapping[str, Any], status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    over = status in ("completed", "incomplete")
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": {"code": "server_error", "message": said.error} if status == "failed" else None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "metadata": {},
        "model": asked["model"],
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": responses_usage(said) if over else None,
        "user": None,
    }


def responses_items(said: Said) -> list[dict[str, Any]]:
    """The output."""
    items: list[dict[str, Any]] = []
    if said.thinking:
        items.append({"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": said.thinking}]})
    if said.text:
        part = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}
        items.append({"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]})
    items += [
        {
            "id": f"fc_{number}",
            "type": "function_call",
            "call_id": tool.id,
            "name": tool.name,
            "arguments": tool.json,
            "status": "completed",
        }
        for number, tool in enumerate(said.tools, 1)
    ]
    return items


def responses_whole(said: Said, asked: Mapping[str, Any]) -> dict[str, Any]:
    """A response."""
    return _response(said, asked, "incomplete" if said.length else "completed", responses_items(said))


def responses_stream(said: Said, asked: Mapping[str, Any]) -> Iterator[Event]:
    """Events from `response.created` to the terminal one."""
    for number, data in enumerate(_responses_stream(said, asked)):
        yield data["type"], {**data, "sequence_number": number}


def _responses_stream(said: Said, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    running = _response(said, asked, "in_progress", [])
    yield {"type": "response.created", "response": running}
    yield {"type": "response.in_progress", "response": running}
    for index, item in enumerate(responses_items(said)):
        place = {"item_id": item["id"], "output_index": index}
        if item["type"] == "message":
            parts = _responses_text(item, place)
            yield from itertools.islice(parts, 2 + len(list(pieces(said.text)))) if said.error else parts
        else:
            yield from (_responses_summary if item["type"] == "reasoning" else _responses_call)(item, place)
        if said.error and item["type"] == "message":
            yield {"type": "response.failed", "response": _response(said, asked, "failed", [])}
            return
    whole = responses_whole(said, asked)
    yield {"type": f"response.{whole['status']}", "response": whole}


def _responses_text(item: Mapping[str, Any], place: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    (part,) = item["content"]
    inside = {**place, "content_index": 0}
    index = place["output_index"]
    begun = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    yield {"type": "response.content_part.added", **inside, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield {"type": "response.output_text.delta", **inside, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **inside, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **inside, "part": part}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _responses_summary(item: Mapping[str, Any], place: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    (part,) = item["summary"]
    inside = {**place, "summary_index": 0}
    index, kind = place["output_index"], "response.reasoning_summary"
    yield {"type": "response.output_item.added", "output_index": index, "item": {**item, "summary": []}}
    yield {"type": f"{kind}_part.added", **inside, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield {"type": f"{kind}_text.delta", **inside, "delta": piece}
    yield {"type": f"{kind}_text.done", **inside, "text": part["text"]}
    yield {"type": f"{kind}_part.done", **inside, "part": part}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _responses_call(item: Mapping[str, Any], place: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    index, kind = place["output_index"], "response.function_call_arguments"
    begun = {**item, "arguments": "", "status": "in_progress"}
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    for piece in pieces(item["arguments"]):
        yield {"type": f"{kind}.delta", **place, "delta": piece}
    yield {"type": f"{kind}.done", **place, "name": item["name"], "arguments": item["arguments"]}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


# Completions


def completions_stream(said: Said, asked: Mapping[str, Any]) -> Iterator[Event]:
    """Chunks of text."""
    head = {"id": "cmpl-1", "object": "text_completion", "created": CREATED, "model": asked["model"]}

    def chunk(text: str, reason: str | None = None) -> Event:
        return "", {**head, "choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": reason}]}

    for piece in pieces(said.text):
        yield chunk(piece)
    if said.error:
        yield "", {"error": {"message": said.error, "type": "server_error", "param": None, "code": None}}
        return
    yield chunk("", "length" if said.length else "stop")
    if (asked.get("stream_options") or {}).get("include_usage"):
        yield "", {**head, "choices": [], "usage": chat_usage(said)}
    yield "", "[DONE]"


def completions_whole(said: Said, asked: Mapping[str, Any]) -> dict[str, Any]:
    """A completion."""
    choice = {"text": said.text, "index": 0, "logprobs": None, "finish_reason": "length" if said.length else "stop"}
    head = {"id": "cmpl-1", "object": "text_completion", "created": CREATED, "model": asked["model"]}
    return {**head, "choices": [choice], "usage": chat_usage(said)}
