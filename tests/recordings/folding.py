"""Recorded streams folded into the JSON answers that would have said the same, as items of the same shape."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.doubles.recordings import Recording

from .items import events
from .reading import Choice, Reading

PREFIX = "folded-"


def write(items: Iterable[Recording], folder: Path) -> None:
    """The twins of these streams, named `folded-NAME`, in a folder for the replaying provider."""
    folder.mkdir(parents=True, exist_ok=True)
    for item in items:
        name = f"{PREFIX}{item.name}"
        twin = (message if item.expect["protocol"] == "anthropic-messages" else completion)(item)
        (folder / f"{name}.body.json").write_text(json.dumps(twin), encoding="utf-8")
        expect = {
            "name": name,
            "kind": "json",
            "body_file": f"{name}.body.json",
            "headers": [["content-type", "application/json"]],
        }
        (folder / f"{name}.expect.json").write_text(json.dumps(expect))


def completion(item: Recording) -> dict[str, Any]:
    """A chat stream as a completion."""
    chunks = [event for event in events(item) if isinstance(event, dict) and "choices" in event]
    reading = Reading(tolerant=True)
    for chunk in chunks:
        reading.add(chunk)
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    return {
        "id": next((chunk["id"] for chunk in chunks if chunk.get("id")), "folded"),
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": item.name,
        "choices": [
            {"index": index, "message": _message(choice), "finish_reason": choice.finish_reason}
            for index, choice in sorted(reading.choices.items())
        ],
        **({"usage": usages[-1]} if usages else {}),
    }


def _message(choice: Choice) -> dict[str, Any]:
    made: dict[str, Any] = {"role": "assistant", "content": choice.text or None, "refusal": choice.refusal or None}
    if choice.reasoning:
        made["reasoning_content"] = choice.reasoning
    if choice.tools:
        made["tool_calls"] = [
            {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}}
            for tool in choice.tools.values()
        ]
    if choice.function is not None:
        made["function_call"] = {"name": choice.function.name, "arguments": choice.function.arguments}
    return made


def message(item: Recording) -> dict[str, Any]:
    """An Anthropic stream as a message."""
    made: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    inputs: dict[int, str] = {}
    for event in events(item):
        kind = event.get("type") if isinstance(event, dict) else None
        if kind == "message_start":
            made = {**event["message"]}
        elif kind == "content_block_start":
            blocks[event["index"]] = {**event["content_block"]}
        elif kind == "content_block_delta":
            _add(blocks[event["index"]], event["delta"], inputs, event["index"])
        elif kind == "message_delta":
            given = event.get("usage") or {}
            made["usage"] = {**made["usage"], **{name: count for name, count in given.items() if count is not None}}
            made.update({name: value for name, value in event["delta"].items() if value is not None})
    for index, text in inputs.items():
        blocks[index]["input"] = json.loads(text or "{}")
    return {**made, "content": [blocks[index] for index in sorted(blocks)]}


def _add(block: dict[str, Any], delta: dict[str, Any], inputs: dict[int, str], index: int) -> None:
    kind = delta["type"]
    if kind == "input_json_delta":
        inputs[index] = inputs.get(index, "") + delta["partial_json"]
    elif kind == "citations_delta":
        block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
    else:
        name = kind.removesuffix("_delta")
        if isinstance(delta.get(name), str):
            block[name] = (block.get(name) or "") + delta[name]
