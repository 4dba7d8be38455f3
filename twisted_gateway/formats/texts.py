"""How much text one frame of an answer carries, whichever dialect it is in: for policies that change or drop frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twisted_gateway.formats.bodies import size

_CHAT = ("content", "reasoning_content", "reasoning", "refusal", "text")
_BLOCK = ("text", "thinking", "partial_json", "refusal")
_SILENT = "response.audio.delta"


def text_bytes(answer: Mapping[str, Any]) -> int:
    """UTF-8 bytes of the text (all channels) in one frame's JSON, or in a whole answer.

    It counts what the passages count (`Learnt.text_bytes`): of a stream what is said for the first time, not what a
    closing event repeats.
    """
    kind = answer.get("type")
    if isinstance(answer.get("choices"), list):
        return sum(map(_choice, _objects(answer["choices"])))
    if kind == "content_block_delta":
        return _sizes(answer.get("delta"), _BLOCK)
    if isinstance(kind, str) and kind.endswith(".delta") and kind != _SILENT:
        return size(answer.get("delta"))
    if kind == "message":
        return sum(_sizes(block, _BLOCK) for block in _objects(answer.get("content")))
    if answer.get("object") == "response":
        return sum(map(_item, _objects(answer.get("output"))))
    return 0


def _choice(choice: Mapping[str, Any]) -> int:
    total = size(choice.get("text"))
    for said in _objects([choice.get("delta"), choice.get("message")]):
        total += _sizes(said, _CHAT)
        calls = [call.get("function") for call in _objects(said.get("tool_calls"))]
        total += sum(_sizes(function, ("name", "arguments")) for function in (*calls, said.get("function_call")))
    return total


def _item(item: Mapping[str, Any]) -> int:
    parts = (*_objects(item.get("content")), *_objects(item.get("summary")))
    return size(item.get("arguments")) + size(item.get("input")) + sum(_sizes(part, _BLOCK) for part in parts)


def _sizes(holder: Any, names: tuple[str, ...]) -> int:
    return sum(size(holder.get(name)) for name in names) if isinstance(holder, Mapping) else 0


def _objects(found: Any) -> Iterator[Mapping[str, Any]]:
    return (one for one in found if isinstance(one, Mapping)) if isinstance(found, list) else iter(())
