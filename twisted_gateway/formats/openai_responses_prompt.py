"""A Responses request in neutral words, for targets that speak another dialect (`translation.md` 7.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import attrs
import msgspec

from twisted_gateway.exchange import Call
from twisted_gateway.formats.bodies import INVALID, Members, member, refuse
from twisted_gateway.formats.neutral import (
    Audio,
    Document,
    Image,
    Part,
    Prompt,
    Text,
    Thought,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)

_STATE = ("previous_response_id", "conversation", "prompt")
_OPENAI_ONLY = {"safety_identifier": str, "service_tier": str, "prompt_cache_key": str, "metadata": dict}
_SCHEMA = ("name", "description", "schema", "strict")
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_Object = dict[str, Any]


def prompt(call: Call) -> Prompt:
    """The call in neutral words; raises `Refused` (400) for what only OpenAI itself could do."""
    found: Members = dict(call.extra)
    _refuse_state(found)
    conversation = _conversation(found)
    tools = _tools(found, conversation.tools)
    schema, json_object, verbosity = _text(found, conversation.updates.get("text"))
    extra = {name: member(found, name, kind | None, None) for name, kind in _OPENAI_ONLY.items()}
    return Prompt(
        dialect="openai_responses",
        turns=tuple(conversation.turns),
        stream=call.stream,
        max_tokens=_max_tokens(found),
        temperature=member(found, "temperature", float | None, None),
        top_p=member(found, "top_p", float | None, None),
        tools=tools,
        tool_choice=_tool_choice(found, bool(tools)),
        parallel_tools=member(found, "parallel_tool_calls", bool | None, None),
        json_schema=schema,
        json_object=json_object,
        thought=_thought(found, conversation.updates.get("reasoning")),
        user=member(found, "user", str | None, None),
        extra={name: value for name, value in {**extra, "verbosity": verbosity}.items() if value is not None},
    )


def _refuse_state(found: Members) -> None:
    """What stands for a state at OpenAI cannot be carried, and would be missed."""
    for name in _STATE:
        if member(found, name, Any, None) is not None:
            refuse(f"{name} is not supported for this model", name)
    if member(found, "background", bool | None, None):
        refuse("background is not supported for this model", "background")


def _max_tokens(found: Members) -> int | None:
    limit: int | None = member(found, "max_output_tokens", int | None, None)
    return member(found, "max_tokens", int | None, None) if limit is None else limit


def _thought(found: Members, update: _Object | None) -> Thought | None:
    asked = {**(member(found, "reasoning", _Object | None, None) or {}), **(update or {})}
    effort = asked.get("effort")
    shown = asked.get("summary") or asked.get("generate_summary")
    if effort is None and not shown:
        return None
    if effort is not None and not isinstance(effort, str):
        _invalid("reasoning.effort")
    return Thought(effort=effort, shown=bool(shown))


def _text(found: Members, update: _Object | None) -> tuple[Mapping[str, Any] | None, bool, str | None]:
    """The schema of a structured answer, whether any JSON object is asked for, and the verbosity."""
    asked = {**(member(found, "text", _Object | None, None) or {}), **(update or {})}
    form = asked.get("format") or {}
    if not isinstance(form, dict):
        _invalid("text.format")
    kind = form.get("type", "text")
    if kind not in ("text", "json_object", "json_schema"):
        refuse(f'text format "{kind}" is not supported for this model', "text.format")
    schema = None
    if kind == "json_schema":
        if not isinstance(form.get("schema"), dict):
            _invalid("text.format.schema")
        schema = {name: form[name] for name in _SCHEMA if form.get(name) is not None}
    verbosity = asked.get("verbosity")
    if not isinstance(verbosity, str | None):
        _invalid("text.verbosity")
    return schema, kind == "json_object", verbosity


# --- Tools


def _tools(found: Members, added: list[Tool]) -> tuple[Tool, ...]:
    """The functions, those of the input behind the others; tools that the provider would run itself are dropped."""
    given = member(found, "tools", list[_Object] | None, None) or []
    return (*_functions(given, "tools"), *added)


def _functions(given: list[_Object], where: str) -> list[Tool]:
    return [_tool(tool, f"{where}[{at}]") for at, tool in enumerate(given) if tool.get("type") == "function"]


def _tool(tool: _Object, where: str) -> Tool:
    name, description, schema = tool.get("name"), tool.get("description"), tool.get("parameters")
    if not isinstance(name, str) or not isinstance(schema, dict | None):
        _invalid(where)
    strict = tool.get("strict")
    return Tool(
        name=name,
        description=description if isinstance(description, str) else None,
        schema=schema,
        strict=strict if isinstance(strict, bool) else None,
    )


def _tool_choice(found: Members, any_tools: bool) -> ToolChoice | None:
    given = member(found, "tool_choice", Any, None)
    choice = _choice(given) if given is not None else None
    return choice if any_tools else None


def _choice(given: Any) -> ToolChoice:
    if given in ("auto", "none", "required"):
        return ToolChoice(given)
    if not isinstance(given, dict):
        _invalid("tool_choice")
    kind, name = given.get("type"), given.get("name")
    if kind == "function" and isinstance(name, str):
        return ToolChoice("tool", name)
    if kind == "allowed_tools" and given.get("mode") in ("auto", "required", None):
        return _allowed(given)
    return refuse(f'tool_choice of type "{kind}" is not supported for this model', "tool_choice")


def _allowed(given: _Object) -> ToolChoice:
    tools = given.get("tools")
    listed = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    names = tuple(str(tool.get("name")) for tool in listed if tool.get("type") == "function")
    if not names:
        refuse("tool_choice allows no function, which is not supported for this model", "tool_choice")
    return ToolChoice(given.get("mode") or "auto", allowed=names)


# --- Input


def _conversation(found: Members) -> _Conversation:
    conversation = _Conversation()
    instructions = member(found, "instructions", str | None, None)
    if instructions:
        conversation.turns.append(Turn("system", (Text(instructions),)))
    given = member(found, "input", str | list[_Object] | None, None)
    if isinstance(given, str):
        conversation.turns.append(Turn("user", (Text(given),)))
    for at, item in enumerate(given if isinstance(given, list) else ()):
        conversation.add(item, f"input[{at}]")
    if not any(turn.role != "system" for turn in conversation.turns):
        refuse("`input` field missing" if given is None else "input must not be empty", "input")
    return conversation


class _Conversation:
    """The turns that input items make, and what items change of the call: more `tools`, newer settings (`updates`)."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.tools: list[Tool] = []
        self.updates: dict[str, _Object] = {}

    def add(self, item: _Object, where: str) -> None:
        """One item; raises `Refused` for one that no other provider can have."""
        kind = item.get("type")
        if kind is None:
            kind = "message" if "role" in item else "item_reference"
        write = _ITEMS.get(kind) if isinstance(kind, str) else None
        if write is None:
            refuse(f'input item type "{kind}" is not supported for this model', where)
        write(self, item, where)

    def message(self, item: _Object, where: str) -> None:
        role = _ROLES.get(str(item.get("role")))
        if role is None:
            refuse(f'role "{item.get("role")}" is not supported for this model', f"{where}.role")
        parts, plain = _content(item.get("content"), f"{where}.content")
        if not parts:
            return
        last = self.turns[-1] if self.turns else None
        if role == "assistant" and last is not None and _calls(last):
            # what is said after a call belongs to the same message: its result must follow the call
            self.turns[-1] = _joined(last, parts, plain)
        else:
            self.turns.append(Turn(role, parts, plain))

    def function_call(self, item: _Object, where: str) -> None:
        arguments = item.get("arguments")
        if arguments is None:
            arguments = ""
        self._call(item, where, arguments if isinstance(arguments, str) else _dumps(arguments))

    def custom_tool_call(self, item: _Object, where: str) -> None:
        self._call(item, where, _dumps({"input": item.get("input") or ""}))

    def _call(self, item: _Object, where: str, arguments: str) -> None:
        name = item.get("name")
        if not isinstance(name, str) or not name:
            _invalid(f"{where}.name")
        call = ToolCall(_call_id(item, where), name, arguments)
        last = self.turns[-1] if self.turns else None
        if last is not None and last.role == "assistant":
            self.turns[-1] = attrs.evolve(last, parts=(*last.parts, call))
        else:
            self.turns.append(Turn("assistant", (call,)))

    def output(self, item: _Object, where: str) -> None:
        given = item.get("output")
        if not isinstance(given, str | list | None):
            given = _dumps(given)
        parts, plain = _content(given, f"{where}.output")
        result = ToolResult(_call_id(item, where), parts or (Text(""),), plain=plain)
        self.turns.append(Turn("tool", (result,)))

    def reasoning(self, item: _Object, where: str) -> None:
        """Dropped: what another provider signed is of no use."""

    def additional_tools(self, item: _Object, where: str) -> None:
        """Tools in the input, as codex gives them."""
        given = item.get("tools")
        if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
            _invalid(f"{where}.tools")
        self.tools += _functions(given, f"{where}.tools")

    def configuration_update(self, item: _Object, where: str) -> None:
        """Settings that hold from here on, so for the answer."""
        for name in ("reasoning", "text"):
            given = item.get(name)
            if not isinstance(given, dict | None):
                _invalid(f"{where}.{name}")
            self.updates[name] = {**self.updates.get(name, {}), **(given or {})}


_ITEMS: Mapping[str, Callable[[_Conversation, _Object, str], None]] = {
    "message": _Conversation.message,
    "function_call": _Conversation.function_call,
    "custom_tool_call": _Conversation.custom_tool_call,
    "function_call_output": _Conversation.output,
    "custom_tool_call_output": _Conversation.output,
    "reasoning": _Conversation.reasoning,
    "additional_tools": _Conversation.additional_tools,
    "configuration_update": _Conversation.configuration_update,
}


def _calls(turn: Turn) -> bool:
    return turn.role == "assistant" and any(isinstance(part, ToolCall) for part in turn.parts)


def _joined(turn: Turn, parts: tuple[Part, ...], plain: bool) -> Turn:
    """An assistant's turn that says more: its words first, then its calls."""
    said = [part for part in turn.parts if not isinstance(part, ToolCall)]
    calls = [part for part in turn.parts if isinstance(part, ToolCall)]
    words = [*said, *parts]
    texts = [part.text for part in words if isinstance(part, Text)]
    if turn.plain and plain and len(texts) == len(words):
        words = [Text("\n".join(texts))]
    return attrs.evolve(turn, parts=(*words, *calls), plain=turn.plain and plain)


def _call_id(item: _Object, where: str) -> str:
    found = item.get("call_id") or item.get("id")
    if not isinstance(found, str):
        _invalid(f"{where}.call_id")
    return found


def _content(given: Any, where: str) -> tuple[tuple[Part, ...], bool]:
    """The parts of a content, and whether it is one string: several texts are joined, when there is nothing else."""
    if given is None or given == []:
        return (), True
    if isinstance(given, str):
        return (Text(given),), True
    if not isinstance(given, list) or not all(isinstance(part, dict) for part in given):
        _invalid(where)
    parts = tuple(_part(part, f"{where}[{at}]") for at, part in enumerate(given))
    texts = [part.text for part in parts if isinstance(part, Text)]
    if len(texts) == len(parts):
        return (Text("\n".join(texts)),), True
    return parts, False


def _part(part: _Object, where: str) -> Part:
    kind = part.get("type")
    if isinstance(kind, str) and kind in _TEXTS:
        text = part.get(_TEXTS[kind])
        return Text(text) if isinstance(text, str) else _invalid(where)
    if kind == "input_image":
        return _image(part, where)
    if kind == "input_file":
        return _file(part, where)
    if kind == "input_audio":
        sound = part.get("input_audio")
        if isinstance(sound, dict) and isinstance(sound.get("data"), str) and isinstance(sound.get("format"), str):
            return Audio(sound["data"], sound["format"])
        _invalid(where)
    return refuse(f'content part type "{kind}" is not supported by this model', where)


def _image(part: _Object, where: str) -> Part:
    url = part.get("image_url")
    if part.get("file_id"):
        refuse("input_image.file_id is not supported for this model", f"{where}.file_id")
    if not isinstance(url, str) or not url:
        _invalid(f"{where}.image_url")
    held = _data_url(url)
    if held is None:
        marks = {"detail": part["detail"]} if isinstance(part.get("detail"), str) else {}
        return Image(url=url, marks=marks)
    media_type, data = held
    if media_type == "application/pdf":
        return Document(data=data)
    marks = {"detail": part["detail"]} if isinstance(part.get("detail"), str) else {}
    return Image(media_type=media_type, data=data, marks=marks)


def _file(part: _Object, where: str) -> Part:
    for name in ("file_id", "file_url"):
        if part.get(name):
            refuse(f"input_file.{name} is not supported for this model", f"{where}.{name}")
    data, title = part.get("file_data"), part.get("filename")
    if not isinstance(data, str) or not data:
        _invalid(f"{where}.file_data")
    title = title if isinstance(title, str) else ""
    media_type, held = _data_url(data) or ("application/pdf", data)
    return Document(media_type=media_type, data=held, title=title)


def _data_url(url: str) -> tuple[str, str] | None:
    """Media type and base64 of a data URL: split at the first comma, white space removed (`translation.md` 2.3)."""
    head, comma, data = url.partition(",")
    kind, *parameters = head.split(";")
    if not comma or not kind.lower().startswith("data:") or "base64" not in parameters:
        return None
    media_type = kind[5:].strip().lower() or "text/plain"
    return "image/jpeg" if media_type == "image/jpg" else media_type, "".join(data.split())


def _dumps(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _invalid(where: str) -> NoReturn:
    refuse(INVALID, where)
