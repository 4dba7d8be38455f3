"""Request bodies of the OpenAI dialects (`streaming.md` 2 and 3): what `bodies` does not know of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from twisted_gateway.exchange import Call, Target
from twisted_gateway.formats import bodies
from twisted_gateway.formats.bodies import Members as Members
from twisted_gateway.formats.bodies import member as member
from twisted_gateway.formats.bodies import members as members
from twisted_gateway.formats.bodies import refuse as refuse
from twisted_gateway.formats.bodies import text_bytes as text_bytes

_NULL = b"null"
_encode = msgspec.json.Encoder().encode


class Message(msgspec.Struct):
    """What is read of a message: that it has a role, and its content for an estimate."""

    role: str
    content: msgspec.Raw = msgspec.Raw(_NULL)


class _Part(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Options(msgspec.Struct):
    """What is read of `stream_options`."""

    include_usage: Any = None


_parts = msgspec.json.Decoder(list[_Part]).decode
_options = msgspec.json.Decoder(_Options).decode


def usage_shown(found: Mapping[str, Any]) -> bool:
    """Whether these members ask for the usage chunk."""
    raw = found.get("stream_options")
    try:
        return raw is not None and _options(raw).include_usage is True
    except (msgspec.DecodeError, RecursionError):
        return False


def prompt_bytes(messages: list[Message], found: Members) -> int:
    """UTF-8 bytes of the text the model will read, for an estimate (`streaming.md` 14.2)."""
    total = 0
    for message in messages:
        raw = bytes(message.content)
        total += len(raw) - 2 if raw[:1] == b'"' and b"\\" not in raw else _content_bytes(raw)
    for name in ("tools", "functions", "response_format"):
        if name in found:
            total += len(bytes(found[name]))
    return total


def _content_bytes(raw: bytes) -> int:
    if raw[:1] == b'"':
        return text_bytes(raw)
    if raw[:1] != b"[":
        return 0
    try:
        parts = _parts(raw)
    except (msgspec.DecodeError, RecursionError):
        return 0
    return sum(bodies.size(part.text) if part.text else bodies.IMAGE_BYTES for part in parts)


def edited(call: Call, target: Target, *, ask_usage: bool) -> tuple[bytes, bool]:
    """The body for an attempt, and whether we added `stream_options.include_usage` to it.

    Edits in the order of `streaming.md` section 3: those of `bodies.edit`, flattened contents, usage.
    """
    found = bodies.edit(call.extra, target)
    if target.model.provider_key.response.content_list_to_string and "messages" in found:
        found["messages"] = _flattened(found["messages"])
    asked = call.stream and ask_usage and not usage_shown(found) and _ask_usage(found)
    return bodies.joined(found), asked


def _flattened(raw: msgspec.Raw) -> bytes | msgspec.Raw:
    """Messages whose content is a list of texts get one string."""
    messages = msgspec.json.decode(raw)
    changed = False
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and all(
            isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
            for part in content
        ):
            message["content"] = "".join(part["text"] for part in content)
            changed = True
    return _encode(messages) if changed else raw


def _ask_usage(found: dict[str, Any]) -> bool:
    """Adds `include_usage: true`; False when the caller sent something that is no object."""
    raw = found.get("stream_options")
    if raw is None or bytes(raw).strip() == _NULL:
        found["stream_options"] = b'{"include_usage":true}'
        return True
    options = bodies.inner_members(raw)
    if options is None:
        return False
    merged: Mapping[str, Any] = {**options, "include_usage": True}
    found["stream_options"] = _encode(merged)
    return True
