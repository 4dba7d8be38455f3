"""A chat request in neutral words, for targets that speak another dialect (`translation.md` 2, reading half).

A member or part that has no place in `neutral` goes along as it was written (`extra`, `Foreign`): whether that is
dropped, forwarded or refused is the affair of the dialect that cannot say it.
"""

from __future__ import annotations

from typing import Any

from twisted_gateway.exchange import Call
from twisted_gateway.formats.bodies import INVALID, Members, member, refuse
from twisted_gateway.formats.neutral import ForeignTool, Prompt, Thought, Tool, ToolChoice
from twisted_gateway.formats.openai_chat_messages import ANTHROPIC, DIALECT, turns

_Object = dict[str, Any]
_NAMES = (
    "model messages stream max_completion_tokens max_tokens temperature top_p top_k stop tools functions tool_choice"
    " function_call parallel_tool_calls response_format reasoning_effort user n"
)
_READ = frozenset(_NAMES.split())
"""Members that a field of the prompt stands for; `metadata`, `safety_identifier` and `thinking` are kept besides."""
_MODES = {"auto": "auto", "none": "none", "required": "required", "any": "required"}


def prompt(call: Call) -> Prompt:
    """The call in neutral words; raises `Refused` (400) for what is no chat request, and for unknown roles."""
    found: Members = dict(call.extra)
    schema, json_object = _response_format(found)
    return Prompt(
        dialect=DIALECT,
        turns=turns(member(found, "messages", list[_Object])),
        stream=call.stream,
        max_tokens=_max_tokens(found),
        temperature=member(found, "temperature", float | None, None),
        top_p=member(found, "top_p", float | None, None),
        top_k=member(found, "top_k", int | None, None),
        stop=_stop(found),
        tools=_tools(found),
        tool_choice=_tool_choice(found),
        parallel_tools=member(found, "parallel_tool_calls", bool | None, None),
        json_schema=schema,
        json_object=json_object,
        thought=_thought(found),
        user=_user(found),
        choices=_choices(found),
        extra={name: raw for name, raw in found.items() if name not in _READ and bytes(raw) != b"null"},
    )


def _max_tokens(found: Members) -> int | None:
    limit: int | None = member(found, "max_completion_tokens", int | None, None)
    return member(found, "max_tokens", int | None, None) if limit is None else limit


def _stop(found: Members) -> tuple[str, ...]:
    given = member(found, "stop", str | list[str] | None, None)
    return (given,) if isinstance(given, str) else tuple(given or ())


def _choices(found: Members) -> int:
    given: int | None = member(found, "n", int | None, None)
    return 1 if given is None else given


def _user(found: Members) -> str | None:
    """`user`, else `safety_identifier`, else `metadata.user_id`, where they are strings."""
    metadata = member(found, "metadata", Any, None)
    below = metadata.get("user_id") if isinstance(metadata, dict) else None
    given = (member(found, "user", Any, None), member(found, "safety_identifier", Any, None), below)
    return next((user for user in given if isinstance(user, str) and user), None)


def _thought(found: Members) -> Thought | None:
    """`reasoning_effort`; `thinking` where the caller wrote Anthropic's own."""
    effort: str | None = member(found, "reasoning_effort", str | None, None)
    raw = member(found, "thinking", Any, None)
    raw = raw if isinstance(raw, dict) else None
    if effort is None and raw is None:
        return None
    budget = raw.get("budget_tokens") if raw is not None else None
    wanted = effort != "none" if raw is None else raw.get("type") in ("enabled", "adaptive")
    return Thought(effort, budget if isinstance(budget, int) else None, shown=wanted, raw=raw)


def _response_format(found: Members) -> tuple[_Object | None, bool]:
    """The schema of a structured answer, and whether any JSON object is asked for."""
    given = member(found, "response_format", _Object | None, None)
    kind = "text" if given is None else given.get("type", "text")
    if given is None or kind == "text":
        return None, False
    if kind == "json_object":
        return None, True
    if kind != "json_schema":
        refuse(f'response_format of type "{kind}" is not supported by this model', "response_format")
    form = given.get("json_schema")
    if not isinstance(form, dict) or not isinstance(form.get("schema"), dict):
        refuse(INVALID, "response_format.json_schema.schema")
    names = ("name", "description", "schema", "strict")
    return {name: form[name] for name in names if form.get(name) is not None}, False


# --- Tools


def _tools(found: Members) -> tuple[Tool | ForeignTool, ...]:
    """`tools`, then the `functions` of old."""
    given = member(found, "tools", list[_Object] | None, None) or []
    made = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(given)]
    functions = member(found, "functions", list[_Object] | None, None) or []
    return (*made, *(_function(function, {}, f"functions[{at}]") for at, function in enumerate(functions)))


def _tool(tool: _Object, where: str) -> Tool | ForeignTool:
    """A function; Anthropic's own kind, which has a name and no `function`; or one that only OpenAI knows."""
    function = tool.get("function")
    if isinstance(function, dict):
        return _function(function, tool, f"{where}.function")
    if tool.get("type") == "function":
        refuse(INVALID, f"{where}.function")
    own = isinstance(tool.get("name"), str) and tool.get("type") != "custom"
    return ForeignTool(ANTHROPIC if own else DIALECT, tool)


def _function(function: _Object, holder: _Object, where: str) -> Tool:
    name, description, schema = function.get("name"), function.get("description"), function.get("parameters")
    if not isinstance(name, str) or not name:
        refuse(INVALID, f"{where}.name")
    if not isinstance(schema, dict | None):
        refuse(INVALID, f"{where}.parameters")
    strict, mark = function.get("strict"), holder.get("cache_control") or function.get("cache_control")
    return Tool(
        name=name,
        description=description if isinstance(description, str) else None,
        schema=schema,
        strict=strict if isinstance(strict, bool) else None,
        marks={"cache_control": mark} if mark else {},
    )


def _tool_choice(found: Members) -> ToolChoice | None:
    """`tool_choice` in all its forms, else the `function_call` of old."""
    given = member(found, "tool_choice", Any, None)
    if given is None:
        given = member(found, "function_call", Any, None)
        if isinstance(given, dict):
            return ToolChoice("tool", _name(given, "function_call"))
    if given is None:
        return None
    if isinstance(given, str):
        return ToolChoice(_MODES[given]) if given in _MODES else refuse(INVALID, "tool_choice")
    if not isinstance(given, dict):
        refuse(INVALID, "tool_choice")
    kind = given.get("type")
    if kind == "allowed_tools":
        return _allowed(given)
    if kind in ("function", "tool"):
        return ToolChoice("tool", _name(given, "tool_choice"))
    if kind in _MODES:
        return ToolChoice(_MODES[kind])
    return refuse(f'tool_choice of type "{kind}" is not supported by this model', "tool_choice")


def _allowed(given: _Object) -> ToolChoice:
    form = given["allowed_tools"] if isinstance(given.get("allowed_tools"), dict) else given
    tools, mode = form.get("tools"), form.get("mode", "auto")
    if not isinstance(tools, list) or mode not in ("auto", "required"):
        refuse(INVALID, "tool_choice.allowed_tools")
    names = [_name(tool, "tool_choice.allowed_tools") for tool in tools if isinstance(tool, dict)]
    return ToolChoice(mode, allowed=tuple(names))


def _name(given: _Object, where: str) -> str:
    """The name below `function`, or at the top where a dialect has it there."""
    holder = given.get("function") if isinstance(given.get("function"), dict) else given
    name = holder.get("name") if isinstance(holder, dict) else None
    return name if isinstance(name, str) and name else refuse(INVALID, where)
