"""A Messages request in neutral words, for targets that speak another dialect (`translation.md` 5.1 and 5.2).

What no other dialect has a word for but the caller *said* is a 400 that names it; server tools and reasoning of earlier
turns go along as `Foreign`, `ForeignTool` and `Thinking`, to be dropped by targets that do not know them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from twisted_gateway.exchange import Call
from twisted_gateway.formats import bodies
from twisted_gateway.formats.neutral import (
    Document,
    Foreign,
    ForeignTool,
    Image,
    Part,
    Prompt,
    Text,
    Thinking,
    Thought,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)

DIALECT = "anthropic"
_Object = dict[str, Any]
_EFFORTS = ((16384, "max"), (8192, "xhigh"), (4096, "high"), (2048, "medium"), (1024, "low"))
_CHOICES = {"auto": "auto", "any": "required", "none": "none", "tool": "tool"}
_encode = msgspec.json.Encoder().encode


def prompt(call: Call) -> Prompt:
    """The call in neutral words; raises `Refused` (400 `invalid Anthropic body: ...`) for what cannot be carried."""
    found = _Members(call.extra)
    config = found.read("output_config", _Object | None) or {}
    choice, parallel = _tool_choice(found.read("tool_choice", _Object | None))
    metadata = found.read("metadata", _Object | None) or {}
    user = metadata.get("user_id")
    return Prompt(
        dialect=DIALECT,
        turns=_turns(found),
        stream=call.stream,
        max_tokens=found.read("max_tokens", int | None),
        temperature=found.read("temperature", float | None),
        top_p=found.read("top_p", float | None),
        top_k=found.read("top_k", int | None),
        stop=tuple(found.read("stop_sequences", list[str] | None) or ()),
        tools=tuple(map(_tool, found.read("tools", list[_Object] | None) or ())),
        tool_choice=choice,
        parallel_tools=parallel,
        json_schema=_json_schema(config.get("format") or found.read("output_format", _Object | None)),
        thought=_thought(found.read("thinking", _Object | None), config.get("effort")),
        user=user if isinstance(user, str) else None,
    )


def refuse(why: str) -> NoReturn:
    """The 400 for a body that cannot be carried."""
    bodies.refuse(f"invalid Anthropic body: {why}")


class _Members:
    """Top-level members, decoded on demand."""

    def __init__(self, found: Mapping[str, msgspec.Raw]) -> None:
        self._found = found

    def read(self, name: str, kind: Any) -> Any:
        """One member as `kind`, None where it is absent."""
        raw = self._found.get(name)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.ValidationError as error:
            refuse(f"{name}: {error}")
        except (msgspec.DecodeError, RecursionError) as error:
            refuse(f"{name}: {error}")


# --- Parameters


def _thought(given: _Object | None, effort: Any) -> Thought | None:
    """`thinking`, with the effort that other dialects ask for."""
    if given is None:
        return None
    kind, budget = given.get("type"), given.get("budget_tokens")
    shown = given.get("display") != "omitted"
    if kind == "enabled":
        if not isinstance(budget, int) or isinstance(budget, bool):
            refuse("thinking.budget_tokens must be an integer")
        return Thought(effort=_effort(budget), budget=budget, shown=shown, raw=given)
    if kind == "disabled":
        return Thought(raw=given)
    if kind != "adaptive":
        refuse(f'thinking of type "{kind}" is not supported for this model')
    return Thought(effort=effort if isinstance(effort, str) and effort else "medium", shown=shown, raw=given)


def _effort(budget: int) -> str:
    return next((effort for least, effort in _EFFORTS if budget >= least), "minimal")


def _json_schema(given: Any) -> _Object | None:
    if given is None:
        return None
    if not isinstance(given, dict) or given.get("type") != "json_schema" or not isinstance(given.get("schema"), dict):
        refuse('output_config.format must be of type "json_schema" and have a schema')
    return {"schema": given["schema"]}


def _tool(given: _Object) -> Tool | ForeignTool:
    """A function, or a tool that the provider runs itself."""
    if given.get("type") not in (None, "custom"):
        return ForeignTool(DIALECT, given)
    name, description, schema = given.get("name"), given.get("description"), given.get("input_schema")
    if not isinstance(name, str) or not name:
        refuse("a tool has no name")
    if not isinstance(description, str | None) or not isinstance(schema, dict | None):
        refuse(f"tool {name}: description must be a string and input_schema an object")
    strict = given.get("strict")
    return Tool(name, description, schema, strict if isinstance(strict, bool) else None, _marks(given))


def _tool_choice(given: _Object | None) -> tuple[ToolChoice | None, bool | None]:
    if given is None:
        return None, None
    mode, name = _CHOICES.get(str(given.get("type"))), given.get("name")
    if mode is None or (mode == "tool" and not isinstance(name, str)):
        refuse('tool_choice must be of type "auto", "any", "none" or "tool", the last with a name')
    parallel = False if given.get("disable_parallel_tool_use") is True else None
    return ToolChoice(mode, name if mode == "tool" and isinstance(name, str) else ""), parallel


# --- Messages


def _turns(found: _Members) -> tuple[Turn, ...]:
    turns = [turn for turn in (_system(found.read("system", str | list[_Object] | None)),) if turn is not None]
    messages = found.read("messages", list[_Object] | None)
    if messages is None:
        refuse("messages: field missing")
    if not messages:
        refuse("messages: must not be empty")
    for at, message in enumerate(messages):
        turns += _message(message, f"messages[{at}]")
    return tuple(turns)


def _system(given: str | list[_Object] | None) -> Turn | None:
    if isinstance(given, str):
        return Turn("system", (Text(given),)) if given.strip() else None
    parts = tuple(_text(block, "system") for block in given or ())
    parts = tuple(part for part in parts if part.text.strip())
    return Turn("system", parts, plain=False) if parts else None


def _message(message: _Object, where: str) -> list[Turn]:
    """One message. Results of tools are turns of their own, before what else the user says."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        refuse(f'{where}: role "{role}" is not known')
    if isinstance(content, str):
        return [Turn(role, (Text(content),))]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        refuse(f"{where}: content must be a string or a list of blocks")
    if role == "system":
        return [Turn(role, tuple(_text(block, where) for block in content), plain=False)]
    if role == "assistant":
        return [Turn(role, tuple(_answered(block, where) for block in content), plain=False)]
    results = [block for block in content if block.get("type") == "tool_result"]
    said = [part for block in content if block.get("type") != "tool_result" for part in _said(block, where)]
    turns = [Turn("tool", (_tool_result(block, where),), plain=False) for block in results]
    if said or not results:
        turns.append(Turn("user", tuple(said) or (Text(""),), plain=not said))
    return turns


def _answered(block: _Object, where: str) -> Part:
    """A block of an assistant's message. What is not said, thought or called was the provider's own doing."""
    kind = block.get("type")
    if kind == "text":
        return _text(block, where)
    if kind == "thinking":
        text = block.get("thinking")
        return Thinking(text if isinstance(text, str) else "", block)
    if kind == "redacted_thinking":
        return Thinking("", block)
    if kind != "tool_use":
        return Foreign(DIALECT, block)
    given, name, wanted = block.get("id"), block.get("name"), block.get("input")
    if not isinstance(given, str) or not isinstance(name, str):
        refuse(f"{where}: a tool_use block has no id or no name")
    return ToolCall(given, name, "{}" if wanted is None else _encode(wanted).decode(), _marks(block))


def _said(block: _Object, where: str) -> list[Part]:
    """A block of a user's message, as parts."""
    kind = block.get("type")
    if kind == "text":
        return [_text(block, where)]
    if kind == "image":
        return [_image(block, where)]
    if kind == "document":
        return _document(block, where)
    if kind == "search_result":
        return [_search_result(block, where)]
    refuse(f'{where}: content block type "{kind}" is not supported for this model')


def _text(block: _Object, where: str) -> Text:
    text = block.get("text")
    if block.get("type") != "text" or not isinstance(text, str):
        refuse(f"{where}: expected a text block")
    return Text(text, _marks(block))


def _image(block: _Object, where: str) -> Image:
    source = _source(block, where)
    kind, data, url = source.get("type"), source.get("data"), source.get("url")
    if kind == "base64" and isinstance(data, str):
        return Image(media_type=str(source.get("media_type") or "image/png"), data=data, marks=_marks(block))
    if kind == "url" and isinstance(url, str):
        return Image(url=url, marks=_marks(block))
    refuse(f'{where}: image source type "{kind}" is not supported for this model')


def _document(block: _Object, where: str) -> list[Part]:
    """A document; what the caller says about it (`context`) goes before it."""
    source, title, context = _source(block, where), block.get("title"), block.get("context")
    before: list[Part] = [Text(context)] if isinstance(context, str) and context.strip() else []
    title = title if isinstance(title, str) else ""
    kind, data = source.get("type"), source.get("data")
    if kind == "base64" and isinstance(data, str):
        media_type = str(source.get("media_type") or "application/pdf")
        return [*before, Document(media_type, data=data, title=title, marks=_marks(block))]
    if kind == "text" and isinstance(data, str):
        return [*before, Document("text/plain", text=data, title=title, marks=_marks(block))]
    content = source.get("content")
    if kind == "content" and isinstance(content, str):
        return [*before, Text(content, _marks(block))]
    if kind == "content" and isinstance(content, list) and all(isinstance(one, dict) for one in content):
        return [*before, *(part for one in content for part in _said(one, where))]
    refuse(f'{where}: document source type "{kind}" is not supported for this model')


def _search_result(block: _Object, where: str) -> Text:
    """Title, source and texts, in lines."""
    content = block.get("content")
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        refuse(f"{where}: a search_result has no content")
    lines = [block.get("title"), block.get("source"), *(_text(one, where).text for one in content)]
    return Text("\n".join(line for line in lines if isinstance(line, str) and line), _marks(block))


def _source(block: _Object, where: str) -> _Object:
    source = block.get("source")
    if not isinstance(source, dict):
        refuse(f"{where}: a block of type {block.get('type')} has no source")
    return source


def _tool_result(block: _Object, where: str) -> ToolResult:
    call_id, content = block.get("tool_use_id"), block.get("content")
    if not isinstance(call_id, str):
        refuse(f"{where}: a tool_result has no tool_use_id")
    is_error = block.get("is_error") is True
    if content is None or isinstance(content, str):
        return ToolResult(call_id, (Text(content or ""),), is_error, marks=_marks(block))
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        refuse(f"{where}: the content of a tool_result must be a string or a list of blocks")
    parts = tuple(part for one in content for part in _said(one, where))
    return ToolResult(call_id, parts, is_error, plain=False, marks=_marks(block))


def _marks(block: _Object) -> _Object:
    return {name: block[name] for name in ("cache_control", "citations") if block.get(name) is not None}
