"""A neutral prompt as a chat request: parameters, tools, reasoning (`translation.md` 5.1, writing half).

Only what has a mapping is written, but for callers of OpenAI's own dialects: their other members mean the same here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from twisted_gateway.config.resources import Model
from twisted_gateway.exchange import Call, Target
from twisted_gateway.formats import openai_body
from twisted_gateway.formats.names import short_name
from twisted_gateway.formats.neutral import ForeignTool, Prompt, Thought, Tool
from twisted_gateway.formats.openai_chat_messages import DIALECT
from twisted_gateway.formats.openai_chat_writing import messages
from twisted_gateway.formats.row import Sent

_Object = dict[str, Any]
_VENDORS = ("openai", "azure", "azure-openai")
_REASONS = re.compile(r"(?:^|[/:])(?:o\d|gpt-(?:[5-9]|\d{2}))", re.IGNORECASE)
"""Ids of OpenAI's reasoning models: `max_tokens` is refused there."""
_MOST_STOPS = 4
_EFFORTS = ((16384, "max"), (8192, "xhigh"), (4096, "high"), (2048, "medium"), (1024, "low"))
_RARE = {"xhigh": ("xhigh", "max"), "max": ("max",)}
"""Efforts that few models know, and the values of `reasoning_effort_max` that allow them."""
_encode = msgspec.json.Encoder().encode


def body(prompt: Prompt, target: Target) -> Sent:
    """The prompt in chat's words, the provider key's edits made; raises `Refused` (400) for what it cannot say."""
    request = _request(prompt, target)
    members = {name: msgspec.Raw(_encode(value)) for name, value in request.items() if value is not None}
    call = Call(model=target.upstream_model, stream=prompt.stream, body=b"", extra=members)
    data, asked = openai_body.edited(call, target, ask_usage=prompt.count)
    return Sent("/chat/completions", data, "text/event-stream" if prompt.stream else "application/json", asked)


def is_openai(model: Model) -> bool:
    """OpenAI itself or Azure, whose limits are known."""
    key = model.provider_key
    return model.provider in _VENDORS or key.provider in _VENDORS or key.adapter == "azure-openai"


def _request(prompt: Prompt, target: Target) -> _Object:
    own = prompt.dialect.startswith("openai_")
    official = is_openai(target.model)
    limit = "max_completion_tokens" if official and _REASONS.search(target.upstream_model) else "max_tokens"
    tools = _tools(prompt)
    request: _Object = {
        "model": target.upstream_model,
        "messages": messages(prompt, files=official or own),
        limit: prompt.max_tokens,
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "top_k": prompt.top_k if own else None,
        "n": prompt.choices if prompt.choices != 1 else None,
        "stop": list(prompt.stop[:_MOST_STOPS] if official else prompt.stop) or None,
        "stream": prompt.stream or None,
        "tools": tools or None,
        "tool_choice": _tool_choice(prompt) if tools else None,
        "parallel_tool_calls": prompt.parallel_tools if tools else None,
        "response_format": _response_format(prompt),
        "reasoning_effort": _effort(prompt, target.model),
        "user": prompt.user,
    }
    extra = prompt.extra if own else {}
    return request | {name: value for name, value in extra.items() if request.get(name) is None}


def _response_format(prompt: Prompt) -> _Object | None:
    schema = prompt.json_schema
    if schema is None:
        return {"type": "json_object"} if prompt.json_object else None
    known: Mapping[str, Any] = schema if prompt.dialect.startswith("openai_") else {"strict": True, **schema}
    return {"type": "json_schema", "json_schema": {"name": "output", **known}}


def _effort(prompt: Prompt, model: Model) -> str | None:
    """How much reasoning, in a word that the model knows; None where none is asked for, or must not be."""
    if prompt.thought is None or model.reasoning_effort_max == "none":
        return None
    effort = _wanted(prompt.thought, prompt.dialect)
    allowed = _RARE.get(effort or "")
    return effort if allowed is None or model.reasoning_effort_max in allowed else "high"


def _wanted(thought: Thought, dialect: str) -> str | None:
    """The effort, by the budget where that is what the caller gave. Anthropic's own `thinking` may be switched off."""
    if dialect.startswith("openai_"):
        return thought.effort
    kind = thought.raw.get("type") if thought.raw is not None else None
    if kind == "disabled" or (kind is None and not thought.shown):
        return None
    if thought.budget is not None and kind != "adaptive":
        budget = thought.budget
        return next((effort for least, effort in _EFFORTS if budget >= least), "minimal")
    return thought.effort or "medium"


def _tools(prompt: Prompt) -> list[_Object]:
    """The functions, those alone that `tool_choice` allows; tools that a provider runs itself have no counterpart."""
    allowed = prompt.tool_choice.allowed if prompt.tool_choice is not None else None
    made = []
    for tool in prompt.tools:
        if isinstance(tool, ForeignTool):
            if tool.dialect == DIALECT == prompt.dialect:
                made.append(dict(tool.block))
        elif allowed is None or tool.name in allowed:
            made.append({"type": "function", "function": _function(tool)})
    return made


def _function(tool: Tool) -> _Object:
    function: _Object = {"name": short_name(tool.name)}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.schema is not None:
        function["parameters"] = tool.schema
    if tool.strict is not None:
        function["strict"] = tool.strict
    return function


def _tool_choice(prompt: Prompt) -> Any:
    choice = prompt.tool_choice
    if choice is None or choice.mode != "tool":
        return None if choice is None else choice.mode
    return {"type": "function", "function": {"name": short_name(choice.name)}}
