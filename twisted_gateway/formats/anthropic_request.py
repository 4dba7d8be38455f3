"""A neutral prompt as a Messages request (`translation.md` section 2): parameters, tools, reasoning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from twisted_gateway.config.resources import Model
from twisted_gateway.exchange import Target
from twisted_gateway.formats import bodies
from twisted_gateway.formats.anthropic_events import STRUCTURED
from twisted_gateway.formats.anthropic_messages import TTL, conversation, mark_for_cache, system
from twisted_gateway.formats.neutral import ForeignTool, Prompt, Tool, ToolChoice
from twisted_gateway.formats.row import Sent

_JSON_ONLY = "Answer with a single valid JSON object and nothing else: no explanation, no code fence."
_NAMES = (
    "stream_options logprobs top_logprobs logit_bias frequency_penalty presence_penalty seed store prediction"
    " modalities audio verbosity web_search_options prompt_cache_key prompt_cache_options prompt_cache_retention"
    " moderation metadata safety_identifier user n messages model stream"
)
_DROPPED = frozenset(_NAMES.split())
"""What only OpenAI knows, and what a field of the prompt stands for."""
_OPENAIS_OWN = "openai_responses"
"""Whose other members are for OpenAI's family alone, whatever their names say here (`translation.md` 7.1)."""
_TIERS = ("auto", "standard_only")
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
_LEAST_BUDGET = 1024
_VERSION = re.compile(r"claude.*?[-. @](\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?", re.IGNORECASE)
_Object = dict[str, Any]
_encode = msgspec.json.Encoder().encode


def body(prompt: Prompt, target: Target) -> Sent:
    """The prompt in Anthropic's words; raises `Refused` (400) for what it cannot say."""
    if prompt.dialect == _OPENAIS_OWN:
        prompt = attrs.evolve(prompt, extra={})
    if prompt.choices > 1:
        bodies.refuse("n greater than 1 is not supported by this model", "n")
    if "audio" in (_given(prompt, "modalities") or ()):
        bodies.refuse('modality "audio" is not supported by this model', "modalities")
    request = _request(prompt, target.model, target.upstream_model)
    made = bodies.edit({name: _encode(value) for name, value in request.items()}, target)
    return Sent("/messages", bodies.joined(made), "text/event-stream" if prompt.stream else "application/json")


def _request(prompt: Prompt, model: Model, upstream_model: str) -> _Object:
    tools, choice = _tools(prompt, model)
    config = _output_config(prompt, model)
    thinking, limit = _thinking(prompt, config, choice, model, upstream_model)
    request: _Object = {"model": upstream_model, "max_tokens": limit}
    cached = _holds_mark(prompt)
    instructions = system(prompt.turns, _JSON_ONLY if prompt.json_object else None)
    if instructions:
        request["system"] = instructions
    request["messages"] = conversation(prompt.turns)
    if not cached:
        _mark_for_cache(request, model)
    request |= _sampling(prompt, thinking)
    stops = [text for text in prompt.stop if text.strip()]
    rest = {
        "stop_sequences": stops,
        "stream": prompt.stream,
        "tools": tools,
        "tool_choice": choice if tools else None,
        "thinking": thinking,
        "output_config": config,
        "metadata": _metadata(prompt),
    }
    request |= {name: value for name, value in rest.items() if value}
    return request | {name: value for name, value in _extra(prompt).items() if name not in request}


def _given(prompt: Prompt, name: str) -> Any:
    """A member that no field of the prompt knows, None when it is absent."""
    value = prompt.extra.get(name)
    return bodies.plain(value) if isinstance(value, msgspec.Raw) else value


def _extra(prompt: Prompt) -> _Object:
    """Members that Anthropic may know: all but OpenAI's own (`translation.md` 2.1)."""
    made = {name: value for name, value in prompt.extra.items() if name not in _DROPPED}
    if _given(prompt, "service_tier") not in _TIERS:
        made.pop("service_tier", None)
    return made


def _metadata(prompt: Prompt) -> _Object | None:
    """Who the caller's own user is; Anthropic accepts nothing else there."""
    metadata = _given(prompt, "metadata")
    below = metadata.get("user_id") if isinstance(metadata, dict) else None
    for user in (prompt.user, _given(prompt, "safety_identifier"), below):
        if isinstance(user, str) and user:
            return {"user_id": user}
    return None


def _sampling(prompt: Prompt, thinking: Any) -> _Object:
    """Temperature within 0..1, which is refused with reasoning; `top_p` 1 says nothing beside it."""
    made: _Object = {}
    if prompt.temperature is not None:
        temperature = min(max(prompt.temperature, 0.0), 1.0)
        if temperature == 1 or not _is_on(thinking):
            made["temperature"] = temperature
    if prompt.top_p is not None and not (prompt.top_p == 1 and "temperature" in made):
        made["top_p"] = prompt.top_p
    if prompt.top_k is not None:
        made["top_k"] = prompt.top_k
    return made


def _is_on(thinking: Any) -> bool:
    return isinstance(thinking, Mapping) and thinking.get("type") in ("enabled", "adaptive")


# --- Reasoning


def _thinking(
    prompt: Prompt, config: _Object, choice: _Object | None, model: Model, upstream_model: str
) -> tuple[Any, int]:
    """`thinking`, and `max_tokens` with room for it; puts the effort into `config` (`translation.md` 2.6)."""
    limit = model.default_max_tokens if prompt.max_tokens is None else prompt.max_tokens
    written = _given(prompt, "thinking")
    if written is not None:
        return written, limit
    effort = prompt.thought.effort if prompt.thought is not None else None
    style = model.thinking_style or thinking_style(upstream_model)
    forced = choice is not None and choice["type"] in ("any", "tool")
    if effort is None or style == "none" or (forced and effort != "none"):
        return None, limit
    if style == "adaptive":
        return _adaptive(effort, config), limit
    budget = _BUDGETS.get(effort, 0)
    if budget and prompt.max_tokens is None:
        limit += budget
    budget = min(budget, limit - 1)
    return ({"type": "enabled", "budget_tokens": budget} if budget >= _LEAST_BUDGET else None), limit


def _adaptive(effort: str, config: _Object) -> _Object | None:
    if effort == "none":
        return {"type": "disabled"}
    if effort not in _BUDGETS:
        return None
    config.setdefault("effort", "low" if effort == "minimal" else effort)
    return {"type": "adaptive"}


def thinking_style(upstream_model: str) -> str:
    """How a model is asked to reason, by its id: Claude 4.6 and later adaptive, 3.7 to 4.5 by a budget, else not."""
    found = _VERSION.search(upstream_model)
    version = (int(found[1]), int(found[2] or 0)) if found else (0, 0)
    if version >= (4, 6):
        return "adaptive"
    return "budget" if version >= (3, 7) else "none"


# --- Structured answers


def _output_config(prompt: Prompt, model: Model) -> _Object:
    """The caller's own `output_config`, with the schema of a structured answer (`translation.md` 2.5)."""
    written = _given(prompt, "output_config")
    config = dict(written) if isinstance(written, dict) else {}
    if prompt.json_schema is not None and not model.json_schema_via_tool:
        config.setdefault("format", {"type": "json_schema", "schema": prompt.json_schema.get("schema") or {}})
    return config


# --- Tools


def _tools(prompt: Prompt, model: Model) -> tuple[list[_Object], _Object | None]:
    """`tools` and `tool_choice` (`translation.md` 2.4)."""
    choice = prompt.tool_choice
    allowed = choice.allowed if choice is not None else None
    tools = [block for tool in prompt.tools if (block := _tool(tool, allowed)) is not None]
    wanted = _choice(choice)
    if prompt.json_schema is not None and model.json_schema_via_tool:
        wanted = {"type": "any"} if tools and wanted != {"type": "none"} else {"type": "tool", "name": STRUCTURED}
        tools = [*tools, _structured(prompt.json_schema)]
    if prompt.parallel_tools is False and tools:
        wanted = wanted or {"type": "auto"}
        if wanted["type"] != "none":
            wanted["disable_parallel_tool_use"] = True
    return tools, wanted if tools else None


def _tool(tool: Tool | ForeignTool, allowed: tuple[str, ...] | None) -> _Object | None:
    """A function, or a tool of Anthropic's own that the caller wrote; None for those of others."""
    if isinstance(tool, ForeignTool):
        block = dict(tool.block)
        known = isinstance(block.get("name"), str) and "function" not in block and block.get("type") != "custom"
        return block if known and (allowed is None or block["name"] in allowed) else None
    if allowed is not None and tool.name not in allowed:
        return None
    schema = dict(tool.schema) if tool.schema is not None else {"type": "object", "properties": {}}
    if "type" not in schema:
        schema = {"type": "object", **schema}
    made: _Object = {"name": tool.name}
    if tool.description is not None:
        made["description"] = tool.description
    made["input_schema"] = schema
    if tool.strict is not None:
        made["strict"] = tool.strict
    if tool.marks.get("cache_control") is not None:
        made["cache_control"] = tool.marks["cache_control"]
    return made


def _structured(schema: Mapping[str, Any]) -> _Object:
    wanted = dict(schema.get("schema") or {})
    return {
        "name": STRUCTURED,
        "description": str(schema.get("description") or "Gives the final answer. Call it exactly once."),
        "input_schema": wanted if "type" in wanted else {"type": "object", **wanted},
    }


def _choice(choice: ToolChoice | None) -> _Object | None:
    if choice is None:
        return None
    if choice.mode == "tool":
        return {"type": "tool", "name": choice.name}
    return {"type": {"required": "any", "none": "none"}.get(choice.mode, "auto")}


# --- Prompt caching


def _holds_mark(prompt: Prompt) -> bool:
    """Whether the caller wrote `cache_control` anywhere."""
    if "cache_control" in prompt.extra:
        return True
    tools = any("cache_control" in (tool.marks if isinstance(tool, Tool) else tool.block) for tool in prompt.tools)
    return tools or any(_is_marked(part) for turn in prompt.turns for part in turn.parts)


def _is_marked(part: Any) -> bool:
    held = getattr(part, "marks", None) or getattr(part, "block", None) or {}
    return "cache_control" in held or any(_is_marked(inner) for inner in getattr(part, "parts", ()))


def _mark_for_cache(request: _Object, model: Model) -> None:
    """`auto_prompt_caching` of the model: marks at the end of the instructions and of the conversation."""
    wish = getattr(model, "auto_prompt_caching", None)
    if wish is None or not wish.enabled:
        return
    mark_for_cache(request, TTL.get(wish.ttl, {}))
