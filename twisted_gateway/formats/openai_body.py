"""Request bodies of the OpenAI dialects: read member by member, sent on with few edits (`streaming.md` 2 and 3).

A body is taken apart into its top-level members, whose bytes are kept: order, unknown members and the spelling of
numbers survive, and a member that is written twice is sent on once, as it was understood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

import msgspec

from twisted_gateway.errors import Problem, Refused, bad_request
from twisted_gateway.exchange import Call, Headers, Target

T = TypeVar("T")
Members = dict[str, msgspec.Raw]

_INVALID = "invalid JSON request body"
_JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
_WHERE = re.compile(r" - at `\$(?:\[\.\.\.\])?\.?(.*)`$")
_IMAGE_BYTES = 4 * 85
_NULL = b"null"
_MISSING = object()
_members_decoder = msgspec.json.Decoder(Members)
_encode = msgspec.json.Encoder().encode


class Message(msgspec.Struct):
    """What is read of a message: that it has a role, and its content for an estimate."""

    role: str
    content: msgspec.Raw = msgspec.Raw(_NULL)


class _Part(msgspec.Struct):
    type: str = ""
    text: str = ""


def refuse(detail: str, param: str | None = None) -> NoReturn:
    """Raise the 400 of a bad body. `param` says where in the body, when known."""
    problem = bad_request(detail)
    if param:
        problem = Problem(
            status=400, type=problem.type, message=problem.message, param=param, kind=problem.kind
        )
    raise Refused(problem)


def members(body: bytes, headers: Headers) -> Members:
    """The top-level members of a JSON body, undecoded. Raises `Refused` unless it is a UTF-8 JSON object."""
    kind = headers.get("content-type")
    if kind is None or _JSON_TYPE.fullmatch(kind.strip()) is None:
        refuse(_INVALID)
    if body.startswith(b"\xef\xbb\xbf"):
        body = body[3:]
    try:
        if not body.isascii():
            body.decode("utf-8")
        return _members_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        refuse(_INVALID)


def member(found: Members, name: str, kind: type[T] | Any, default: Any = _MISSING) -> Any:
    """One member, decoded as `kind`. Raises `Refused` naming the member when it is missing or of another type."""
    raw = found.get(name)
    if raw is None:
        if default is _MISSING:
            refuse(_INVALID, name)
        return default
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        where = _WHERE.search(str(error))
        inner = where[1] if where else ""
        refuse(_INVALID, name + (inner if inner.startswith("[") else f".{inner}" if inner else ""))
    except (msgspec.DecodeError, RecursionError):
        refuse(_INVALID, name)


def usage_shown(found: Members) -> bool:
    """Whether the caller asked for the usage chunk."""
    options = _object(found.get("stream_options"))
    return options is not None and _plain(options.get("include_usage")) is True


def prompt_bytes(messages: list[Message], found: Members) -> int:
    """UTF-8 bytes of the text the model will read, for an estimate (`streaming.md` 14.2)."""
    total = sum(_content_bytes(bytes(message.content)) for message in messages)
    for name in ("tools", "functions", "response_format"):
        if name in found:
            total += len(bytes(found[name]))
    return total


def text_bytes(raw: bytes) -> int:
    """UTF-8 bytes of a JSON string, given with its quotes."""
    if b"\\" not in raw:
        return max(0, len(raw) - 2)
    try:
        return len(msgspec.json.decode(raw, type=str).encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return len(raw)


def _content_bytes(raw: bytes) -> int:
    if raw[:1] == b'"':
        return text_bytes(raw)
    if raw[:1] != b"[":
        return 0
    try:
        parts = msgspec.json.decode(raw, type=list[_Part])
    except (msgspec.DecodeError, RecursionError):
        return 0
    return sum(len(part.text.encode("utf-8", "replace")) if part.text else _IMAGE_BYTES for part in parts)


def edited(call: Call, target: Target, *, ask_usage: bool) -> tuple[bytes, bool]:
    """The body for an attempt, and whether we added `stream_options.include_usage` to it.

    Edits in the order of `streaming.md` section 3: model, renames, temperature, default fields, flattened contents,
    usage.
    """
    found: dict[str, Any] = dict(call.extra)
    key = target.model.provider_key
    found["model"] = _encode(target.upstream_model)
    for source, name in (key.request.param_renames or {}).items():
        if source in found and source != name:
            found = _renamed(found, source, name)
    _clamp(found, key.request.param_constraints)
    for name, value in (key.request.default_body_fields or {}).items():
        found.setdefault(name, _encode(value))
    if key.response.content_list_to_string and "messages" in found:
        found["messages"] = _flattened(found["messages"])
    asked = call.stream and ask_usage and _ask_usage(found)
    parts = [_encode(name) + b":" + bytes(raw) for name, raw in found.items()]
    return b"{" + b",".join(parts) + b"}", asked


def _renamed(found: dict[str, Any], source: str, name: str) -> dict[str, Any]:
    """`source` called `name`, in its place; an older member of that name gives way."""
    value = found[source]
    return {
        (name if key == source else key): (value if key == source else old)
        for key, old in found.items()
        if key != name
    }


def _clamp(found: dict[str, Any], bounds: Any) -> None:
    value = _plain(found.get("temperature"))
    if bounds is None or not isinstance(value, int | float) or isinstance(value, bool):
        return
    low, high = bounds.temperature_min, bounds.temperature_max
    clamped = max(value, low) if low is not None else value
    clamped = min(clamped, high) if high is not None else clamped
    if clamped != value:
        found["temperature"] = _encode(clamped)


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
    """Adds `include_usage: true`; False when the caller asked already or sent something that is no object."""
    raw = found.get("stream_options")
    if raw is None or bytes(raw).strip() == _NULL:
        found["stream_options"] = b'{"include_usage":true}'
        return True
    options = _object(raw)
    if options is None or _plain(options.get("include_usage")) is True:
        return False
    merged: Mapping[str, Any] = {**options, "include_usage": True}
    found["stream_options"] = _encode(merged)
    return True


def _object(raw: Any) -> Members | None:
    if raw is None or bytes(raw)[:1] != b"{":
        return None
    try:
        return _members_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def _plain(raw: Any) -> Any:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
