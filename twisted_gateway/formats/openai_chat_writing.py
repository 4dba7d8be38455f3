"""Neutral turns as the messages of a chat request (`translation.md` 5.2, writing half)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from twisted_gateway.formats.bodies import refuse
from twisted_gateway.formats.names import short_name
from twisted_gateway.formats.neutral import (
    Audio,
    Document,
    Foreign,
    Image,
    Part,
    Prompt,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
)
from twisted_gateway.formats.openai_chat_messages import DIALECT

_Object = dict[str, Any]
_ERROR = "Error: "


def messages(prompt: Prompt, *, files: bool) -> list[_Object]:
    """The messages; raises `Refused` for a part that chat has no word for. `files`: the target reads `file` parts."""
    writer = _Writer(prompt.dialect == DIALECT, files)
    return [message for turn in prompt.turns for message in writer.messages(turn)]


class _Writer:
    """Writes turns. `own`: they came from chat, so what `neutral` cannot say is written as it was."""

    def __init__(self, own: bool, files: bool) -> None:
        self._own = own
        self._files = files

    def messages(self, turn: Turn) -> Iterable[_Object]:
        """What one turn becomes."""
        if turn.role == "system":
            return self._system(turn)
        if turn.role == "assistant":
            return [self._assistant(turn)]
        return self._user(turn)

    def _system(self, turn: Turn) -> Iterable[_Object]:
        """Blocks are joined with LF; nothing is said by blank ones."""
        text = "\n".join(part.text for part in turn.parts if isinstance(part, Text))
        for part in turn.parts:
            if not isinstance(part, Text):
                _unsupported(part)
        if text.strip():
            yield _named({"role": "system", "content": text}, turn)

    def _user(self, turn: Turn) -> Iterable[_Object]:
        """Results of tools first, each a message of its own; then what else the user says, if anything."""
        results = [part for part in turn.parts if isinstance(part, ToolResult)]
        for result in results:
            yield {"role": "tool", "tool_call_id": result.call_id, "content": self._result(result)}
        said = [part for part in turn.parts if not isinstance(part, ToolResult)]
        if said or not results:
            yield _named({"role": "user", "content": self._content(said)}, turn)

    def _content(self, parts: Iterable[Part]) -> str | list[_Object]:
        """One string where there are only texts, else a list of parts."""
        found = [self._part(part) for part in parts]
        if all(part.get("type") == "text" for part in found):
            return "\n".join(part["text"] for part in found)
        return found

    def _result(self, result: ToolResult) -> str | list[_Object]:
        """A tool's result: one string where there are only texts; a failure says that it is one."""
        found = [self._part(part) for part in result.parts]
        if all(part.get("type") == "text" for part in found):
            text = "".join(part["text"] for part in found)
            return _failed(text) if result.is_error else text
        if result.is_error:
            first = next((part for part in found if part.get("type") == "text"), None)
            if first is None:
                return [{"type": "text", "text": _ERROR.strip()}, *found]
            first["text"] = _failed(first["text"])
        return found

    def _assistant(self, turn: Turn) -> _Object:
        """One message: texts without a separator, then the calls. Reasoning is not sent back, but to its own kind."""
        message: _Object = {"role": "assistant", "content": None}
        texts = "".join(part.text for part in turn.parts if isinstance(part, Text))
        refusal = "".join(part.text for part in turn.parts if isinstance(part, Refusal))
        calls = [_tool_call(part) for part in turn.parts if isinstance(part, ToolCall)]
        for part in turn.parts:
            if isinstance(part, Image | Document | Audio | ToolResult) or _is_unknown(part):
                _unsupported(part)
        if texts or not (calls or refusal):
            message["content"] = texts
        if refusal:
            message["refusal"] = refusal
        if self._own:
            message.update(_kept(turn))
        if calls:
            message["tool_calls"] = calls
        return _named(message, turn)

    def _part(self, part: Part) -> _Object:
        if isinstance(part, Text | Refusal):
            return {"type": "text", "text": part.text}
        if isinstance(part, Image):
            return _image(part)
        if isinstance(part, Document):
            return self._document(part)
        if isinstance(part, Audio):
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
        if isinstance(part, Foreign) and self._own and part.dialect == DIALECT:
            return dict(part.block)
        return _unsupported(part)

    def _document(self, document: Document) -> _Object:
        """A file to those who read files, else a data URL in the place of a picture; plain text is said."""
        if document.text or (not document.data and document.media_type.startswith("text/")):
            return {"type": "text", "text": document.text}
        file: _Object = {"filename": document.title or "document.pdf"}
        if document.data:
            url = f"data:{document.media_type};base64,{document.data}"
            if not self._files:
                return {"type": "image_url", "image_url": {"url": url}}
            return {"type": "file", "file": {**file, "file_data": url}}
        if document.file_id and self._own:
            return {"type": "file", "file": {"file_id": document.file_id}}
        return _unsupported(document)


def _image(image: Image) -> _Object:
    url = image.url or f"data:{image.media_type or 'image/png'};base64,{image.data}"
    given: _Object = {"url": url}
    if "detail" in image.marks:
        given["detail"] = image.marks["detail"]
    return {"type": "image_url", "image_url": given}


def _tool_call(call: ToolCall) -> _Object:
    function = {"name": short_name(call.name), "arguments": call.arguments if call.arguments.strip() else "{}"}
    return {"id": call.id, "type": "function", "function": function}


def _is_unknown(part: Part) -> bool:
    """A part of chat's own that no assistant can have said. What Anthropic's server tools did is left out instead."""
    return isinstance(part, Foreign) and part.dialect == DIALECT and part.block.get("type") != "audio"


def _kept(turn: Turn) -> _Object:
    """What a chat caller's own message had besides: reasoning, and an answer that was spoken."""
    kept: _Object = {}
    thoughts = [part for part in turn.parts if isinstance(part, Thinking)]
    blocks = [part.block for part in thoughts if part.block is not None]
    if blocks:
        kept["thinking_blocks"] = blocks
    elif thoughts:
        kept["reasoning_content"] = "".join(part.text for part in thoughts)
    for part in turn.parts:
        if isinstance(part, Foreign) and part.dialect == DIALECT and part.block.get("type") == "audio":
            kept["audio"] = part.block["audio"]
    return kept


def _named(message: _Object, turn: Turn) -> _Object:
    if turn.name is not None:
        message["name"] = turn.name
    return message


def _failed(text: str) -> str:
    return text if text.startswith(_ERROR) else _ERROR + text


def _unsupported(part: Part) -> NoReturn:
    """The 400 that names what chat cannot say."""
    if isinstance(part, Foreign):
        kind = part.block.get("type")
    elif isinstance(part, Document):
        kind = "document" if part.url or not part.file_id else "file"
    else:
        kind = _KINDS.get(type(part), "tool_use")
    refuse(f'content part type "{kind}" is not supported by this model', "messages")


_KINDS: Mapping[type, str] = {
    Image: "image",
    Audio: "input_audio",
    Refusal: "refusal",
    Thinking: "thinking",
    ToolResult: "tool_result",
}
