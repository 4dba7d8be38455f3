"""What the provider says to which model, and what a client should read of it.

A reading is a plain dictionary, the same whatever the client: text, thinking, tool calls as `[id, name, arguments]`,
the stop reason in the client's own words, and usage as `[fresh input, cached input, output]`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from . import answers
from .answers import Said, Tool
from .provider import Asked, Refusal, Script

WEATHER: Mapping[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
DEGREES = {"Bonn": "21 degrees", "Tromsø": "-4 degrees"}
COMMAND = "echo heron-$((6 * 7))"
PRINTED = "heron-42"

TEXT = Said('A grey heron says: "Reiher, 苍鹭, 🐦" \\ and waits.', cached=5)
THINKING = Said("Herons wait.", thinking="The user asks about herons; they wait, mostly.", output=40)
LENGTH = Said("Herons wait and wait and", length=True)
BROKEN = Said("Herons wa", error="the provider is overloaded")
TOOLS = Said(
    "Let me look.",
    tools=(
        Tool("call_a1", "get_weather", {"city": "Bonn"}),
        Tool("call_b2", "get_weather", {"city": "Tromsø"}),
    ),
)
EMPTY = Said(tools=(Tool("call_c3", "get_time"),))
LIMITED = Refusal(429, "too many herons", {"retry-after": "7"})
REFUSED = Refusal(400, "temperature: herons are cold")


def tools(asked: Asked) -> Said:
    """Two calls; when their results are there, a text that has them."""
    results = tool_results(asked)
    return Said("; ".join(results)) if results else TOOLS


def agent(asked: Asked) -> Said:
    """A coding agent's model: it runs a command when it is told to and can, and repeats what the command said."""
    results = tool_results(asked)
    if results:
        printed = next((line for line in results[-1].splitlines() if "heron-" in line), results[-1])
        return Said(f"The command printed {printed.strip()}.")
    said = json.dumps(asked.body, ensure_ascii=False)
    if "RUN THE COMMAND" not in said:
        return Said("The heron waits in the shallows.", cached=9)
    if '"exec_command"' in said:
        return Said("I will run it.", tools=(Tool("call_run", "exec_command", {"cmd": COMMAND}),))
    return Said("I will run it.", tools=(Tool("call_run", "Bash", {"command": COMMAND, "description": "Prints"}),))


def tool_results(asked: Asked) -> list[str]:
    """The texts of the tools' results in a request of any dialect, in order."""
    found = []
    for item in asked.body.get("messages") or asked.body.get("input") or ():
        if not isinstance(item, dict):
            continue
        if item.get("type") == "function_call_output":
            found.append(_text(item["output"]))
        elif item.get("role") == "tool":
            found.append(_text(item["content"]))
        elif isinstance(item.get("content"), list):
            found += [_text(block["content"]) for block in item["content"] if block.get("type") == "tool_result"]
    return found


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def _always(said: Said | Refusal) -> Script:
    return lambda asked: said


SCRIPTS: Mapping[str, Script] = {
    "text": _always(TEXT),
    "thinking": _always(THINKING),
    "length": _always(LENGTH),
    "broken": _always(BROKEN),
    "empty-arguments": _always(EMPTY),
    "limited": _always(LIMITED),
    "refused": _always(REFUSED),
    "tools": tools,
    "agent": agent,
}
PLAIN = {"text": TEXT, "thinking": THINKING, "length": LENGTH, "tools": TOOLS, "empty-arguments": EMPTY}
"""Scripts that give one answer that ends well, as every client can be asked for it."""


# Readings


def reading(said: Said, stop: str, model: str) -> dict[str, Any]:
    """What a client reads of an answer."""
    return {
        "text": said.text,
        "thinking": said.thinking,
        "tools": [[tool.id, tool.name, dict(tool.arguments)] for tool in said.tools],
        "stop": stop,
        "usage": [said.fresh, said.cached, said.output],
        "model": model,
    }


def chat_reading(name: str) -> dict[str, Any]:
    """In a chat completion."""
    return reading(PLAIN[name], answers.chat_reason(PLAIN[name]), f"our-{name}")


def messages_reading(name: str) -> dict[str, Any]:
    """In a message."""
    return reading(PLAIN[name], answers.messages_reason(PLAIN[name]), f"our-{name}")


def responses_reading(name: str, model: str) -> dict[str, Any]:
    """In a response, whose model is the provider's own where the provider made it (`streaming.md` 19.2)."""
    return reading(PLAIN[name], "incomplete" if PLAIN[name].length else "completed", model)


def loop_reading() -> str:
    """The last answer of a tool loop."""
    return "; ".join(DEGREES.values())
