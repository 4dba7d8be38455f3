"""What the vendors' own types allow in a request: checkers as strict as an API that refuses unknown members."""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, Required, Union, get_args, get_origin, get_type_hints

from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from typing_extensions import is_typeddict

_OLDER = {"temperature": int | float, "top_p": int | float, "top_k": int, "stream": bool}
"""Members that Anthropic takes and its newest SDK does not list any more, and the switch that its two types share."""
_UNIONS = (Union, types.UnionType)


def anthropics_mistakes(request: Mapping[str, Any]) -> list[str]:
    """What Anthropic would refuse in this Messages request, in words."""
    found = [name for name, kind in _OLDER.items() if name in request and not isinstance(request[name], kind)]
    rest = {name: value for name, value in request.items() if name not in _OLDER}
    return found + _mistakes(rest, MessageCreateParamsNonStreaming, "request")


def openais_mistakes(request: Mapping[str, Any]) -> list[str]:
    """What OpenAI would refuse in this chat request, in words."""
    stream = request.get("stream")
    found = [] if stream in (None, True, False) else [f"request.stream is {stream!r}"]
    rest = {name: value for name, value in request.items() if name != "stream"}
    return found + _mistakes(rest, CompletionCreateParamsNonStreaming, "request")


@cache
def _members(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The members of a typed dictionary, and those that must be there."""
    required = {
        name for name, hint in get_type_hints(kind, include_extras=True).items() if get_origin(hint) is Required
    }
    return get_type_hints(kind), frozenset(required)


def _mistakes(value: Any, kind: Any, where: str) -> list[str]:
    origin = get_origin(kind)
    if kind is Any or kind is object:
        return []
    if is_typeddict(kind):
        return _dictionary(value, kind, where)
    if origin in _UNIONS:
        return _any_of(value, get_args(kind), where)
    if origin is Literal:
        return [] if value in get_args(kind) else [f"{where} is {value!r}"]
    if origin is not None and issubclass(origin, Mapping):
        return [] if isinstance(value, dict) else [f"{where} is no object"]
    if origin is not None:
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [one for at, item in enumerate(value) for one in _mistakes(item, get_args(kind)[0], f"{where}[{at}]")]
    wanted = (int, float) if kind is float else kind
    return [] if isinstance(value, wanted) else [f"{where} is {value!r}, no {kind}"]


def _dictionary(value: Any, kind: Any, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} is no object"]
    members, required = _members(kind)
    found = [f"{where}.{name} is not known" for name in value if name not in members]
    found += [f"{where}.{name} is missing" for name in required if name not in value]
    return found + [
        one
        for name, inner in value.items()
        if name in members
        for one in _mistakes(inner, members[name], f"{where}.{name}")
    ]


def _any_of(value: Any, kinds: tuple[Any, ...], where: str) -> list[str]:
    """The mistakes against the kind that fits best: one with the same `type`, if there is one."""
    if value is None and type(None) in kinds:
        return []
    same = [kind for kind in kinds if is_typeddict(kind) and isinstance(value, dict) and _says(kind, value.get("type"))]
    return min((_mistakes(value, kind, where) for kind in same or kinds if kind is not type(None)), key=len)


def _says(kind: Any, name: Any) -> bool:
    return name in get_args(_members(kind)[0].get("type"))
