"""Where the texts of Anthropic's messages are (`guardrails.md` 2 and 7).

All text blocks of a message are one channel: citations split sentences over blocks.
"""

from __future__ import annotations

import re
from typing import Any

from twisted_gateway.errors import StrayFrame
from twisted_gateway.formats import bodies
from twisted_gateway.formats.slots import EVERYTHING, REASONING, TEXT, TOOL, Channel, Heard, Slot, Texts, strings
from twisted_gateway.wire.sse import Frame

_WORDS: Channel = (0, TEXT)
_THOUGHTS: Channel = (0, REASONING)
_TEXT_DELTA = re.compile(
    rb'\{"type":"content_block_delta","index":\d{1,9},"delta":\{"type":"text_delta",'
    rb'"text":"([\x20\x21\x23-\x5b\x5d-\x7e]+)"\} *\} *'
).fullmatch
"""Most frames of most answers, as Anthropic writes them."""


def asked(document: dict[str, Any]) -> list[Slot]:
    """The texts of a request."""
    return [slot for name in document for slot in strings(document, name, (name, TEXT))]


def answered(document: Any) -> list[Slot]:
    """The texts of a whole answer."""
    if not isinstance(document, dict) or "content" not in document:
        return []
    return list(strings(document, "content", _WORDS))


class Events:
    """Hears the events of one stream."""

    def heard(self, frame: Frame, decoded: bool = False) -> Heard | None:
        """See `slots.Hearing`."""
        if not decoded:
            found = _TEXT_DELTA(frame.data)
            if found is not None:
                return Heard((), (), (), None, _WORDS, found[1].decode("ascii"))
        try:
            event, _ = bodies.read(frame.data)
        except StrayFrame:
            return None
        if not isinstance(event, dict):
            return None
        kind = event.get("type") or frame.event.decode("ascii", "replace")
        if kind == "content_block_delta":
            return _delta(event)
        if kind == "content_block_start":
            return _begun(event)
        if kind == "content_block_stop":
            return Heard(ends=((0, TOOL, event.get("index")),), document=event)
        if kind in ("message_delta", "message_stop"):
            return Heard(ends=(EVERYTHING,), document=event)
        if kind == "message_start":
            message = event.get("message")
            if isinstance(message, dict) and message.get("content"):
                return Heard(wholes=list(strings(message, "content", _WORDS)), document=event)
            return None
        if kind in ("ping", "error"):
            return None
        return Heard(wholes=[slot for name in event for slot in strings(event, name, _WORDS)], document=event)

    def empty(self, document: Any) -> bool:
        """See `slots.Hearing`."""
        return bool(document.get("type") == "content_block_delta")


def _delta(event: dict[str, Any]) -> Heard:
    delta = event.get("delta")
    if not isinstance(delta, dict):
        return Heard(document=event)
    kind = delta.get("type")
    if kind == "text_delta" and isinstance(delta.get("text"), str):
        return Heard((Slot(delta, "text", _WORDS),), document=event)
    if kind == "input_json_delta" and isinstance(delta.get("partial_json"), str):
        return Heard((Slot(delta, "partial_json", (0, TOOL, event.get("index")), True),), document=event)
    if kind == "thinking_delta" and isinstance(delta.get("thinking"), str):
        return Heard((Slot(delta, "thinking", _THOUGHTS),), document=event)
    if kind == "signature_delta":
        return Heard(document=event)
    return Heard(wholes=list(strings(event, "delta", _WORDS)), document=event)


def _begun(event: dict[str, Any]) -> Heard:
    block = event.get("content_block")
    if not isinstance(block, dict):
        return Heard(document=event)
    kind = block.get("type")
    if kind == "text":
        slots = (Slot(block, "text", _WORDS),) if isinstance(block.get("text"), str) and block["text"] else ()
        return Heard(slots, document=event)
    if kind == "thinking":
        given = isinstance(block.get("thinking"), str) and block["thinking"]
        return Heard((Slot(block, "thinking", _THOUGHTS),) if given else (), document=event)
    if isinstance(kind, str) and kind.endswith("tool_use"):
        channel = (0, TOOL, event.get("index"))
        slots = (Slot(block, "name", channel),) if isinstance(block.get("name"), str) else ()
        wholes = [Slot(block, "input", channel, True)] if block.get("input") else []
        return Heard(slots, wholes, document=event)
    return Heard(wholes=list(strings(event, "content_block", _WORDS)), document=event)


TEXTS = Texts(("system", "messages"), asked, answered, Events)
