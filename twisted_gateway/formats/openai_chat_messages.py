"""The messages of a chat request as neutral turns (`translation.md` 2.2 and 2.3, reading half)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec

from twisted_gateway.formats.bodies import INVALID, refuse
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

DIALECT = "openai_chat"
ANTHROPIC = "anthropic"
_Object = dict[str, Any]
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_NAMES = (
    "image document search_result tool_use tool_result server_tool_use web_search_tool_result web_fetch_tool_result"
    " code_execution_tool_result bash_code_execution_tool_result text_editor_code_execution_tool_result"
    " container_upload mcp_tool_use mcp_tool_result"
)
_ANTHROPIC_BLOCKS = frozenset(_NAMES.split())
"""Blocks that callers write into chat messages for Anthropic targets: kept as they are."""
_encode = msgspec.json.Encoder().encode


def turns(messages: Sequence[_Object]) -> tuple[Turn, ...]:
    """The turns; raises `Refused` for an unknown role, and for a result that names no call."""
    reader = _Reader()
    return tuple(reader.turn(message, f"messages[{at}]") for at, message in enumerate(messages))


class _Reader:
    """Reads the messages in order: a `function` message answers the `function_call` before it."""

    def __init__(self) -> None:
        self._made = 0

    def turn(self, message: _Object, where: str) -> Turn:
        """One message."""
        given = message.get("role")
        role = _ROLES.get(given) if isinstance(given, str) else None
        if role is None:
            refuse(f'role "{given}" is not supported by this model', f"{where}.role")
        name = message.get("name")
        name = name if isinstance(name, str) else None
        if role == "tool":
            return Turn(role, (self._result(message, where),), name=name)
        parts, plain = _content(message.get("content"), f"{where}.content")
        mark = message.get("cache_control")
        if mark and parts:
            parts, plain = _marked(parts, mark), False
        if role == "assistant":
            parts = (*_thoughts(message), *parts, *_refusal(message), *_sound(message), *self._calls(message, where))
        return Turn(role, parts, plain, name)

    def _result(self, message: _Object, where: str) -> ToolResult:
        call_id = message.get("tool_call_id")
        if message["role"] == "function":
            call_id = _legacy_id(self._made)
        if not isinstance(call_id, str) or not call_id:
            refuse("a tool message has no tool_call_id", f"{where}.tool_call_id")
        parts, plain = _content(message.get("content"), f"{where}.content")
        mark = message.get("cache_control")
        marks = {"cache_control": mark} if mark else {}
        return ToolResult(call_id, parts, message.get("is_error") is True, plain, marks)

    def _calls(self, message: _Object, where: str) -> Iterator[ToolCall]:
        calls = message.get("tool_calls")
        if not isinstance(calls, list | None):
            refuse(INVALID, f"{where}.tool_calls")
        for at, call in enumerate(calls or ()):
            yield _call(call, f"{where}.tool_calls[{at}]")
        legacy = message.get("function_call")
        if isinstance(legacy, dict):
            self._made += 1
            name = legacy.get("name")
            if not isinstance(name, str):
                refuse(INVALID, f"{where}.function_call.name")
            yield ToolCall(_legacy_id(self._made), name, _arguments(legacy.get("arguments")))


def _legacy_id(number: int) -> str:
    """The id of a call that has none: the same whenever the conversation is sent again."""
    return f"call_function_{number}"


def _call(call: Any, where: str) -> ToolCall:
    if not isinstance(call, dict) or not isinstance(call.get("id"), str):
        refuse(INVALID, f"{where}.id")
    custom = call.get("custom")
    if isinstance(custom, dict) and isinstance(custom.get("name"), str):
        return ToolCall(call["id"], custom["name"], _encode({"input": custom.get("input") or ""}).decode())
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        refuse(INVALID, f"{where}.function.name")
    mark = call.get("cache_control")
    marks = {"cache_control": mark} if mark else {}
    return ToolCall(call["id"], function["name"], _arguments(function.get("arguments")), marks)


def _arguments(given: Any) -> str:
    """The arguments' JSON text, as it was written."""
    if given is None or isinstance(given, str):
        return given or ""
    return _encode(given).decode()


def _thoughts(message: _Object) -> Iterator[Thinking]:
    """Reasoning of an earlier turn: signed blocks, else its text alone."""
    blocks = message.get("thinking_blocks")
    signed = [block for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []
    if signed:
        yield from map(_thinking, signed)
        return
    for name in ("reasoning_content", "reasoning"):
        text = message.get(name)
        if isinstance(text, str) and text:
            yield Thinking(text)
            return


def _refusal(message: _Object) -> Iterator[Refusal]:
    text = message.get("refusal")
    if isinstance(text, str) and text:
        yield Refusal(text)


def _sound(message: _Object) -> Iterator[Foreign]:
    """An answer of the assistant that was spoken, and is kept by OpenAI."""
    sound = message.get("audio")
    if isinstance(sound, dict):
        yield Foreign(DIALECT, {"type": "audio", "audio": sound})


def _thinking(block: _Object) -> Thinking:
    """Anthropic's block, or Mistral's, whose thinking is a list of texts and is not signed."""
    text = block.get("thinking")
    if isinstance(text, list):
        return Thinking("".join(str(part.get("text") or "") for part in text if isinstance(part, dict)))
    return Thinking(text if isinstance(text, str) else "", block)


def _marked(parts: tuple[Part, ...], mark: Any) -> tuple[Part, ...]:
    """The mark that a message bears, put on its last text that has none."""
    *before, last = parts
    if isinstance(last, Text) and "cache_control" not in last.marks:
        last = Text(last.text, {**last.marks, "cache_control": mark})
    return (*before, last)


# --- Content


def _content(given: Any, where: str) -> tuple[tuple[Part, ...], bool]:
    """The parts, and whether they were written as one string."""
    if given is None:
        return (), True
    if isinstance(given, str):
        return (Text(given),), True
    if not isinstance(given, list) or not all(isinstance(part, dict | str) for part in given):
        refuse(INVALID, where)
    return tuple(_part(part, f"{where}[{at}]") for at, part in enumerate(given)), False


def _part(part: _Object | str, where: str) -> Part:
    if isinstance(part, str):
        return Text(part)
    kind = part.get("type")
    if kind == "text":
        return Text(_string(part, "text", where), _marks(part, "cache_control", "citations"))
    if kind == "refusal":
        return Refusal(_string(part, "refusal", where))
    if kind == "image_url":
        return _image(part, where)
    if kind == "file":
        return _file(part, where)
    if kind == "input_audio":
        return _audio(part, where)
    if kind in ("thinking", "redacted_thinking"):
        return _thinking(part)
    return Foreign(ANTHROPIC if kind in _ANTHROPIC_BLOCKS else DIALECT, part)


def _image(part: _Object, where: str) -> Part:
    """A picture, or a document that is sent as one. Other data is for the target to refuse."""
    given = part.get("image_url")
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str) or not url:
        refuse(INVALID, f"{where}.image_url.url")
    marks = _marks(part, "cache_control")
    if isinstance(given, dict) and isinstance(given.get("detail"), str):
        marks["detail"] = given["detail"]
    if url[:5].lower() != "data:":
        known = url.lower().startswith(("http://", "https://"))
        return Image(url=url, marks=marks) if known else Foreign(DIALECT, part)
    media_type, data, coded = _data_url(url)
    if not coded:
        return Foreign(DIALECT, part)
    if media_type == "application/pdf":
        return Document(media_type, data=data, marks=_marks(part, "cache_control"))
    return Image(media_type, data, marks=marks) if media_type.startswith("image/") else Foreign(DIALECT, part)


def _file(part: _Object, where: str) -> Part:
    given = part.get("file")
    if not isinstance(given, dict):
        refuse(INVALID, f"{where}.file")
    title, marks = given.get("filename"), _marks(part, "cache_control", "citations")
    title = title if isinstance(title, str) else ""
    data, file_id = given.get("file_data"), given.get("file_id")
    if isinstance(data, str) and data:
        return _document(part, data, title, marks, where)
    if not isinstance(file_id, str) or not file_id:
        refuse(INVALID, f"{where}.file.file_data")
    return Document(file_id=file_id, title=title, marks=marks)


def _document(part: _Object, data: str, title: str, marks: _Object, where: str) -> Part:
    """A file's data: a data URL, or base64 alone, which is that of a PDF."""
    if data[:5].lower() != "data:":
        return Document(data="".join(data.split()), title=title, marks=marks)
    media_type, held, coded = _data_url(data)
    if media_type.startswith("text/"):
        return Document(media_type, text=_decoded(held, where) if coded else unquote(held), title=title, marks=marks)
    if media_type == "application/pdf" and coded:
        return Document(media_type, data=held, title=title, marks=marks)
    return Foreign(DIALECT, part)


def _audio(part: _Object, where: str) -> Part:
    given = part.get("input_audio")
    if not isinstance(given, dict):
        refuse(INVALID, f"{where}.input_audio")
    marks = _marks(part, "cache_control")
    return Audio(_string(given, "data", where), _string(given, "format", where), marks)


def _data_url(url: str) -> tuple[str, str, bool]:
    """Media type, data and whether it is base64: split at the first comma, parameters ignored, white space removed."""
    head, _, data = url[5:].partition(",")
    kind, *parameters = (word.strip().lower() for word in head.split(";"))
    media_type = "image/jpeg" if kind == "image/jpg" else kind or "text/plain"
    coded = "base64" in parameters
    return media_type, "".join(data.split()) if coded else data, coded


def _decoded(data: str, where: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        refuse(INVALID, f"{where}.file.file_data")


def _string(holder: _Object, name: str, where: str) -> str:
    value = holder.get(name)
    return value if isinstance(value, str) else refuse(INVALID, f"{where}.{name}")


def _marks(part: _Object, *names: str) -> _Object:
    return {name: part[name] for name in names if part.get(name) is not None}
