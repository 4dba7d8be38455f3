"""Chat requests as Anthropic gets them, strictly checked, for the tables of `translation.md` 2."""

from __future__ import annotations

import json
from typing import Any

from twisted_gateway.formats import anthropic

from .chat_making import chat_prompt, place, refusal
from .strict import anthropics_mistakes

ADAPTIVE, BUDGET, NONE = "claude-opus-4-6", "claude-sonnet-4-5-20250929", "claude-3-5-haiku-20241022"
EPHEMERAL = {"cache_control": {"type": "ephemeral"}}
SAID = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
BASE = {"model": NONE, "max_tokens": 4096, "messages": SAID}


def asks(*messages: Any, upstream: str = NONE, on_model: dict[str, Any] | None = None, **members: Any) -> Any:
    """The body that Anthropic gets for a chat request; whatever it would refuse fails the test."""
    target = place(upstream, provider="anthropic", **(on_model or {}))
    made = json.loads(anthropic.FORMAT.body(chat_prompt(*messages, **members), target).body)
    assert anthropics_mistakes(made) == []
    return made


def refused(*messages: Any, **members: Any) -> str:
    """The message of the 400 that this chat request gets."""
    problem = refusal(anthropic.FORMAT.body, chat_prompt(*messages, **members), place(NONE))
    return problem.message.removeprefix("request payload is invalid: ")


def system(content: Any, role: str = "system") -> dict[str, Any]:
    """Instructions."""
    return {"role": role, "content": content}
