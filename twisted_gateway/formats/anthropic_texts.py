"""Where the texts of Anthropic's messages are (`guardrails.md` 2 and 7).

All text blocks of a message are one channel: citations split sentences over blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from twisted_gateway.formats.slots import (
    EVERYTHING,
    REASONING,
    TEXT,
    TOOL,
    Channel,
    Heard,
    Slot,
    Texts,
    document_of,
    kind_of,
    others,
    strings,
)
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
    return list(others(document, (), _WORDS)) if isinstance(document, dict) else []


class Events:
    """Hears the events of one stream."""

    def heard(self, frame: Frame, decoded: bool = False) -> Heard | None:
        """See `slots.Hearing`."""
        if not decoded:
            found = _TEXT_DELTA(frame.data)
            if found is not None:
                return Heard((), (), (), None, _WORDS, found[1].decode("ascii"))
        event = document_of(frame)
        if event is None:
            return None
        kind = kind_of(frame, event)
        about = _ABOUT.get(kind)
        heard = about(event) if about is not None else Heard(wholes=list(others(event, (), _WORDS)))
        return heard._replace(document=event)

    def empty(self, document: Any) -> bool:
        """See `slots.Hearing`."""
        return bool(document.get("type") == "content_block_delta")


def _delta(event: dict[str, Any]) -> Heard:
    delta = event.get("delta")
    if not isinstance(delta, dict):
        return Heard(wholes=list(others(event, (), _WORDS)))
    name, channel = _PIECES.get(str(delta.get("type")), ("", _WORDS))
    wholes = list(others(event, ("delta",), _WORDS))
    if not isinstance(delta.get(name), str):
        return Heard((), [*wholes, *others(delta, (), channel)])
    if name == "partial_json":
        channel = (0, TOOL, event.get("index"))
    wholes += others(delta, (name,), _WORDS)
    return Heard((Slot(delta, name, channel, name == "partial_json"),), wholes)


_PIECES: dict[str, tuple[str, Channel]] = {
    "text_delta": ("text", _WORDS),
    "input_json_delta": ("partial_json", _WORDS),
    "thinking_delta": ("thinking", _THOUGHTS),
}


def _begun(event: dict[str, Any]) -> Heard:
    block = event.get("content_block")
    if not isinstance(block, dict):
        return Heard(wholes=list(others(event, (), _WORDS)))
    kind = block.get("type")
    wholes = list(others(event, ("content_block",), _WORDS))
    name, channel = {"text": ("text", _WORDS), "thinking": ("thinking", _THOUGHTS)}.get(str(kind), ("", _WORDS))
    if isinstance(kind, str) and kind.endswith("tool_use"):
        name, channel = "name", (0, TOOL, event.get("index"))
        if block.get("input"):
            wholes.append(Slot(block, "input", channel, True))
    if not name:
        return Heard((), [*wholes, *strings(event, "content_block", _WORDS)])
    said = isinstance(block.get(name), str) and (block[name] or name == "name")
    known = (name, "input") if name == "name" else (name,) if said else ()
    wholes += others(block, known, channel if channel == _THOUGHTS else _WORDS)
    return Heard((Slot(block, name, channel),) if said else (), wholes)


def _stopped(event: dict[str, Any]) -> Heard:
    return Heard((), list(others(event, (), _WORDS)), ((0, TOOL, event.get("index")),))


def _ended(event: dict[str, Any]) -> Heard:
    return Heard((), list(others(event, (), _WORDS)), (EVERYTHING,))


_ABOUT: dict[str, Callable[[dict[str, Any]], Heard]] = {
    "content_block_start": _begun,
    "content_block_delta": _delta,
    "content_block_stop": _stopped,
    "message_delta": _ended,
    "message_stop": _ended,
}


TEXTS = Texts(("system", "messages"), asked, answered, Events)
