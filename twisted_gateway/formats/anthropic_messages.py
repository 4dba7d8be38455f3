"""The turns of a neutral prompt as Anthropic's `system` and `messages` (`translation.md` 2.2 and 2.3)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NoReturn

import msgspec

from twisted_gateway.formats import bodies
from twisted_gateway.formats.neutral import (
    Audio,
    Document,
    Foreign,
    Image,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
)

TTL = {"1h": {"ttl": "1h"}}
_Object = dict[str, Any]
_ILLEGAL = re.compile(r"[^A-Za-z0-9_-]")
_SPACE = re.compile(r"\s+")
_IMAGES = {f"image/{kind}": f"image/{kind}" for kind in ("png", "jpeg", "gif", "webp")} | {"image/jpg": "image/jpeg"}
_PDF = "application/pdf"
_KINDS: dict[type, str] = {Image: "image_url", Audio: "input_audio"}


def system(turns: Sequence[Turn], wish: str | None) -> str | list[_Object] | None:
    """The leading instructions, None where there are none. `wish` is one more of ours."""
    leading = list(takewhile(_is_system, turns))
    parts = [part for turn in leading for part in turn.parts]
    texts = [part for part in parts if isinstance(part, Text) and part.text.strip()]
    for part in parts:
        if not isinstance(part, Text):
            _unsupported(_KINDS.get(type(part), "file"))
    if wish is None and all(turn.plain for turn in leading):
        return "\n\n".join(part.text for part in texts) or None
    blocks = [*map(_text, texts), *([] if wish is None else [{"type": "text", "text": wish}])]
    return blocks or None


def conversation(turns: Sequence[Turn]) -> list[_Object]:
    """The messages: strictly alternating, results of tools first; raises `Refused` when nothing is left."""
    blocks = _Blocks()
    messages: list[_Object] = []
    rest = list(turns)[len(list(takewhile(_is_system, turns))) :]
    for turn in rest:
        role = "assistant" if turn.role == "assistant" else "user"
        content = blocks.of(turn)
        if not content:
            continue
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += content
        else:
            messages.append({"role": role, "content": content})
    for message in messages:
        if message["role"] == "user":
            message["content"].sort(key=lambda block: block.get("type") != "tool_result")
    _trim(messages)
    if not messages:
        bodies.refuse("messages have no content", "messages")
    return messages


def mark_for_cache(request: _Object, ttl: _Object) -> None:
    """Cache marks on the last block of the instructions and of the last message."""
    mark = {"type": "ephemeral", **ttl}
    instructions = request.get("system")
    if isinstance(instructions, str):
        request["system"] = instructions = [{"type": "text", "text": instructions}]
    last = request["messages"][-1]["content"]
    for content in (instructions, last):
        if (
            content
            and isinstance(content[-1], dict)
            and content[-1].get("type") not in ("thinking", "redacted_thinking")
        ):
            content[-1] = {**content[-1], "cache_control": mark}


def _is_system(turn: Turn) -> bool:
    return turn.role == "system"


def _trim(messages: list[_Object]) -> None:
    """White space at the end of a prefill is refused."""
    if not messages or messages[-1]["role"] != "assistant":
        return
    content = messages[-1]["content"]
    last = content[-1]
    if last.get("type") != "text":
        return
    text = last["text"].rstrip()
    if text:
        content[-1] = {**last, "text": text}
    else:
        content.pop()
    if not content:
        messages.pop()


class Ids:
    """Ids of calls as Anthropic accepts them, the same for a call and its result."""

    def __init__(self) -> None:
        self._made: dict[str, str] = {}
        self._used: set[str] = set()

    def of(self, given: str) -> str:
        """The id to send for `given`."""
        made = self._made.get(given)
        if made is None:
            base = made = _ILLEGAL.sub("_", given) or "call"
            count = 2
            while made in self._used:
                made = f"{base}_{count}"
                count += 1
            self._used.add(made)
            self._made[given] = made
        return made


class _Blocks:
    """Blocks out of parts."""

    def __init__(self) -> None:
        self._ids = Ids()

    def of(self, turn: Turn) -> list[_Object]:
        """The blocks of one turn, blank texts left out; an assistant's in the order that Anthropic wants."""
        parts = turn.parts
        if turn.role == "assistant":
            parts = tuple(sorted(parts, key=_rank))
        made = [self._block(part, turn.role) for part in parts]
        return [block for block in made if block is not None]

    def _block(self, part: Part, role: str) -> _Object | None:
        if isinstance(part, Text):
            return _text(part) if part.text.strip() else None
        if isinstance(part, Refusal):
            return {"type": "text", "text": part.text} if part.text.strip() else None
        if isinstance(part, Thinking):
            return _thinking(part) if role == "assistant" else None
        if isinstance(part, ToolCall):
            return self._call(part)
        if isinstance(part, ToolResult):
            return self._result(part)
        if isinstance(part, Foreign):
            return _foreign(part, self._ids)
        return _file(part)

    def _call(self, call: ToolCall) -> _Object:
        made = {"type": "tool_use", "id": self._ids.of(call.id), "name": call.name, "input": _input(call.arguments)}
        return _marked(made, call)

    def _result(self, result: ToolResult) -> _Object:
        if not result.call_id:
            bodies.refuse("a tool message has no tool_call_id", "messages")
        made: _Object = {"type": "tool_result", "tool_use_id": self._ids.of(result.call_id)}
        if result.plain and all(isinstance(part, Text) for part in result.parts):
            made["content"] = "".join(part.text for part in result.parts if isinstance(part, Text))
        else:
            blocks = [block for part in result.parts if (block := self._block(part, "tool")) is not None]
            if blocks:
                made["content"] = blocks
        if result.is_error:
            made["is_error"] = True
        return _marked(made, result)


def _rank(part: Part) -> int:
    if isinstance(part, Thinking):
        return 0
    return 2 if isinstance(part, ToolCall) else 1


def _text(part: Text) -> _Object:
    made: _Object = _marked({"type": "text", "text": part.text}, part)
    if part.marks.get("citations") is not None:
        made["citations"] = part.marks["citations"]
    return made


def _thinking(part: Thinking) -> _Object | None:
    """A block of reasoning as it was signed; what is not signed is refused, so it is left out."""
    block = part.block
    if block is None or (block.get("type") == "thinking" and not block.get("signature")):
        return None
    return dict(block)


def _input(arguments: str) -> Any:
    """A call's arguments: the object that was written, number for number; `{}` for what is none."""
    raw = arguments.strip().encode("utf-8", "replace")
    return msgspec.Raw(raw) if bodies.inner_members(raw) is not None and bodies.plain(raw) is not None else {}


def _foreign(part: Foreign, ids: Ids) -> _Object:
    """A block that the caller wrote in Anthropic's own words."""
    block = dict(part.block)
    kind = block.get("type")
    if part.dialect != "anthropic":
        _unsupported(str(kind))
    for name in ("tool_use_id", "id"):
        if isinstance(block.get(name), str) and kind in ("tool_result", "tool_use"):
            block[name] = ids.of(block[name])
    return block


def _file(part: Image | Document | Audio) -> _Object:
    if isinstance(part, Audio):
        _unsupported("input_audio")
    if isinstance(part, Image) and part.media_type.lower() != _PDF:
        return _marked({"type": "image", "source": _image_source(part)}, part)
    document = part if isinstance(part, Document) else Document(_PDF, data=part.data, marks=part.marks)
    made = {"type": "document", "source": _document_source(document)}
    if document.title:
        made["title"] = document.title
    if document.marks.get("citations") is not None:
        made["citations"] = document.marks["citations"]
    return _marked(made, document)


def _image_source(image: Image) -> _Object:
    if image.url:
        return {"type": "url", "url": image.url}
    media_type = _IMAGES.get(image.media_type.lower())
    if media_type is None:
        _unsupported("image_url")
    return {"type": "base64", "media_type": media_type, "data": _SPACE.sub("", image.data)}


def _document_source(document: Document) -> _Object:
    media_type = document.media_type.lower()
    if document.file_id:
        return {"type": "file", "file_id": document.file_id}
    if document.url:
        return {"type": "url", "url": document.url}
    if document.text or (media_type.startswith("text/") and not document.data):
        return {"type": "text", "media_type": "text/plain", "data": document.text}
    data = _SPACE.sub("", document.data)
    if media_type == _PDF:
        return {"type": "base64", "media_type": _PDF, "data": data}
    if not media_type.startswith("text/"):
        _unsupported("file")
    try:
        text = base64.b64decode(data, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        bodies.refuse("file_data is not base64", "messages")
    return {"type": "text", "media_type": "text/plain", "data": text}


def _marked(made: _Object, part: Any) -> _Object:
    mark = part.marks.get("cache_control")
    return made if mark is None else {**made, "cache_control": mark}


def _unsupported(kind: str) -> NoReturn:
    bodies.refuse(f'content part type "{kind}" is not supported by this model', "messages")
