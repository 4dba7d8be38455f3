"""Expectations carried over into another dialect by the tables of `translation.md` (3, 5.3, 6, 7.2), losses apart."""

from __future__ import annotations

import json
from typing import Any

from tests.doubles.recordings import Recording

from .dialects import message_counters
from .items import events

Expected = dict[str, Any]
CHAT_OF_MESSAGES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
MESSAGES_OF_CHAT = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def chat_of_messages(item: Recording) -> Expected:
    """An Anthropic item as chat callers must read it."""
    read = item.read
    usage = _figures(read)
    explanation = _explanation(item)
    return {
        **read,
        "refusal": {"text": explanation} if explanation else None,
        "finish_reason": CHAT_OF_MESSAGES[read["finish_reason"]] if read["finish_reason"] else None,
        "usage": {
            "input": usage["input"] + usage["cache_read"] + usage["cache_write"],
            "output": usage["output"],
            "cache_read": usage["cache_read"],
            "cache_write": usage["cache_write"],
            "reasoning": _thinking_tokens(item),
        },
    }


def messages_of_chat(item: Recording, *, thinking: bool) -> Expected:
    """A chat item as Messages callers must read it: its first choice; a legacy function call is a call without id."""
    choice = _first_choice(item)
    usage = _figures(item.read)
    calls = _calls(choice)
    reason = choice.get("finish_reason")
    refusal = choice.get("refusal")
    return {
        "text": {"text": _in_order(item)} if refusal and says_and_declines(item) else refusal or choice.get("text"),
        "reasoning": choice.get("reasoning") if thinking else None,
        "tool_calls": calls,
        "finish_reason": _stop_reason(reason, bool(refusal), bool(calls)),
        "usage": {**usage, "input": max(0, usage["input"] - usage["cache_read"] - usage["cache_write"])},
    }


def responses_of_chat(item: Recording) -> Expected:
    """A chat item as Responses callers must read it through the bridge, a summary of the reasoning asked for."""
    choice = _first_choice(item)
    reason = choice.get("finish_reason")
    return {
        **{name: choice.get(name) for name in ("text", "reasoning", "refusal")},
        "tool_calls": _calls(choice),
        "finish_reason": "incomplete" if reason in INCOMPLETE else "completed",
        "incomplete_reason": INCOMPLETE.get(reason or ""),
        "usage": _figures(item.read),
    }


def responses_of_messages(item: Recording) -> Expected:
    """An Anthropic item the same way: over chat."""
    chat = chat_of_messages(item)
    reason = chat["finish_reason"]
    return {
        **chat,
        "finish_reason": "incomplete" if reason in INCOMPLETE else "completed",
        "incomplete_reason": INCOMPLETE.get(reason or ""),
    }


def _first_choice(item: Recording) -> Expected:
    found: Expected = (item.read.get("choices") or {"0": item.read})["0"]
    return found


def _calls(choice: Expected) -> list[Expected]:
    function = choice.get("function_call")
    return [*(choice.get("tool_calls") or ()), *([{**function, "id": None}] if function else [])]


def says_and_declines(item: Recording) -> bool:
    """Whether it has both a text and a refusal, which are one text in a message."""
    choice = _first_choice(item)
    return all((choice.get(name) or {}).get("text") for name in ("text", "refusal"))


def _in_order(item: Recording) -> str:
    """Text and refusal of a chat stream's first choice, as they came."""
    choices = [choice for chunk in sent(item) for choice in chunk.get("choices") or () if not choice.get("index")]
    deltas = [choice.get("delta") or {} for choice in choices]
    return "".join((delta.get("content") or "") + (delta.get("refusal") or "") for delta in deltas)


def _stop_reason(reason: str | None, refused: bool, called: bool) -> str:
    if refused:
        return "refusal"
    if reason in (None, "stop") and called:
        return "tool_use"
    return MESSAGES_OF_CHAT.get(reason or "", "end_turn")


def _figures(read: Expected) -> dict[str, int]:
    usage = read.get("usage") or {}
    return {name: usage.get(name) or 0 for name in ("input", "output", "cache_read", "cache_write", "reasoning")}


def sent(item: Recording) -> list[Expected]:
    """The objects that were sent: events, or the one body."""
    found = events(item) if item.kind == "stream" else [json.loads(item.body)]
    return [one for one in found if isinstance(one, dict)]


def _thinking_tokens(item: Recording) -> int:
    usages = [one.get("usage") or (one.get("message") or {}).get("usage") or {} for one in sent(item)]
    return max((message_counters(usage)["reasoning"] for usage in usages), default=0)


def _explanation(item: Recording) -> str:
    told = [one.get("stop_details") or (one.get("delta") or {}).get("stop_details") or {} for one in sent(item)]
    return next((details["explanation"] for details in told if details.get("explanation")), "")


def signed_blocks(item: Recording) -> list[Expected]:
    """What an Anthropic answer holds of thinking, whole, with its signatures, to be sent back byte for byte."""
    from .folding import message

    whole = message(item) if item.kind == "stream" else json.loads(item.body)
    kinds = ("thinking", "redacted_thinking")
    return [
        block for block in whole["content"] if block["type"] in kinds and (block.get("signature") or "data" in block)
    ]
