"""What was said so far of a Responses answer that is relayed: needed only where we must end it ourselves.

The terminal event of this dialect holds the whole answer, so an early end needs the items so far and the text of those
that are open (`extensions.md` 8, graceful stop). Bytes are kept as they came and read only then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from twisted_gateway.facts import define
from twisted_gateway.formats import bodies

_Object = dict[str, Any]
_TEXTS = {
    "response.output_text.delta": "content",
    "response.refusal.delta": "content",
    "response.reasoning_text.delta": "content",
    "response.reasoning_summary_text.delta": "summary",
    "response.function_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
}
_PARTS = {
    "response.content_part.added": ("content", "content_index"),
    "response.content_part.done": ("content", "content_index"),
    "response.reasoning_summary_part.added": ("summary", "summary_index"),
    "response.reasoning_summary_part.done": ("summary", "summary_index"),
}
_KINDS = {"output_text": "output_text", "refusal": "refusal", "reasoning_text": "reasoning_text"}


@define
class _Open:
    """An item that has begun: its first event, its parts by place, and the JSON texts that came for them."""

    added: bytes
    parts: dict[tuple[str, Any], bytes] = attrs.field(factory=dict)
    ended: set[tuple[str, Any]] = attrs.field(factory=set)
    texts: dict[tuple[str, Any], list[bytes]] = attrs.field(factory=dict)

    def text(self, member: str, place: Any) -> str:
        return "".join(str(bodies.plain(piece) or "") for piece in self.texts.get((member, place), ()))


class Kept:
    """Notes the events of one answer. `begun` once its response object is known."""

    def __init__(self) -> None:
        self._response = b""
        self._done: dict[Any, bytes] = {}
        self._open: dict[Any, _Open] = {}

    @property
    def begun(self) -> bool:
        """The caller has seen the beginning."""
        return bool(self._response)

    def delta(self, kind: str, index: Any, place: Any, text: bytes) -> None:
        """A piece of text, as JSON."""
        item = self._open.get(index)
        member = _TEXTS.get(kind)
        if item is not None and member is not None:
            item.texts.setdefault((member, place), []).append(text)

    def event(self, kind: str, index: Any, data: bytes) -> None:
        """Any other event that is not the last one."""
        if kind in ("response.created", "response.in_progress"):
            self._response = data
        elif kind == "response.output_item.added":
            self._open[index] = _Open(data)
        elif kind == "response.output_item.done":
            self._open.pop(index, None)
            self._done[index] = data
        elif kind in _PARTS and index in self._open:
            member, name = _PARTS[kind]
            place = (member, bodies.read(data)[0].get(name))
            self._open[index].parts[place] = data
            if kind.endswith(".done"):
                self._open[index].ended.add(place)

    def ended(self, reason: str, usage: _Object) -> Iterator[tuple[str, _Object]]:
        """The events of an early end: open items end as incomplete, then `response.incomplete`."""
        output = {index: bodies.read(data)[0].get("item") for index, data in self._done.items()}
        for index in sorted(self._open, key=_order):
            item = self._open[index]
            shown = dict(bodies.read(item.added)[0].get("item") or {})
            about = {"item_id": shown.get("id"), "output_index": index}
            yield from _ended_item(item, shown, about)
            output[index] = shown
            yield "response.output_item.done", {"output_index": index, "item": shown}
        self._open.clear()
        response = dict(bodies.read(self._response)[0].get("response") or {})
        response |= {
            "status": "incomplete",
            "incomplete_details": {"reason": reason},
            "output": [output[index] for index in sorted(output, key=_order)],
            "usage": usage,
        }
        yield "response.incomplete", {"response": response}


def _ended_item(item: _Open, shown: _Object, about: _Object) -> Iterator[tuple[str, _Object]]:
    """The events before an item's own last one; `shown` becomes what the item came to."""
    for (member, place), data in sorted(item.parts.items(), key=lambda one: (one[0][0], _order(one[0][1]))):
        part = dict(bodies.read(data)[0].get("part") or {})
        if (member, place) not in item.ended:
            yield from _ended_part(item, member, place, part, about)
        shown[member] = [*(shown.get(member) or ()), part]
    if shown.get("type") == "function_call":
        shown["arguments"] = item.text("arguments", None)
        name = {"name": shown["name"]} if "name" in shown else {}
        yield "response.function_call_arguments.done", {**about, **name, "arguments": shown["arguments"]}
    elif shown.get("type") == "custom_tool_call":
        shown["input"] = item.text("input", None)
        yield "response.custom_tool_call_input.done", {**about, "input": shown["input"]}
    if "status" in shown:
        shown["status"] = "incomplete"


def _ended_part(item: _Open, member: str, place: Any, part: _Object, about: _Object) -> Iterator[tuple[str, _Object]]:
    text = item.text(member, place)
    if member == "summary":
        part["text"] = text
        where = {**about, "summary_index": place}
        yield "response.reasoning_summary_text.done", {**where, "text": text}
        yield "response.reasoning_summary_part.done", {**where, "part": part}
        return
    kind = _KINDS.get(str(part.get("type")), "output_text")
    name = "refusal" if kind == "refusal" else "text"
    part[name] = text
    where = {**about, "content_index": place}
    more: _Object = {"logprobs": []} if kind == "output_text" else {}
    yield f"response.{kind}.done", {**where, name: text, **more}
    yield "response.content_part.done", {**where, "part": part}


def _order(index: Any) -> int:
    return index if isinstance(index, int) else -1
