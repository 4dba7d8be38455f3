"""One choice of a streamed chat answer: the edits of its deltas (`streaming.md` 15.1)."""

from __future__ import annotations

from typing import Any

import attrs

from twisted_gateway.errors import StrayFrame
from twisted_gateway.facts import define

MOST = 1024
"""Choices of an answer, and tool calls of a choice: what is remembered of each must not grow without end."""

_LONGEST_PART = 1024


@define
class ToolCall:
    """What was already sent of one tool call: parts that are not to be sent again, as accumulators join them."""

    id: str | None = None
    type: str | None = None
    name: str | None = None


@define
class Choice:
    """What one choice has shown so far; `edit` makes its next delta legal for accumulating callers."""

    finish_reason: str | None = None
    text_bytes: int = 0
    """UTF-8 bytes of text in the delta edited last."""
    _begun: bool = False
    _tools: dict[int, ToolCall] = attrs.field(factory=dict)
    _last_tool: int = -1

    @property
    def finished(self) -> bool:
        """A finish reason was seen."""
        return self.finish_reason is not None

    def edit(self, choice: dict[str, Any], reasoning_field: str | None = None) -> bool:
        """Edits one entry of `choices` in place; True when it changed."""
        changed = False
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = choice["delta"] = {}
            changed = True
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish_reason = reason
        elif reason is not None or "finish_reason" not in choice:
            choice["finish_reason"] = None
            changed = True
        changed = self._edit_role(delta) or changed
        if "reasoning" in delta:
            changed = _move_reasoning(delta, "reasoning") or changed
        if reasoning_field:
            changed = _move_reasoning(delta, reasoning_field) or changed
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            for call in calls:
                changed = self._edit_tool(call) or changed
        self.text_bytes = measured(delta)
        return changed

    def silent(self, choice: dict[str, Any]) -> bool:
        """An entry that says nothing: no finish reason and nothing in its delta."""
        if choice["finish_reason"] is not None:
            return False
        return not any(value for name, value in choice["delta"].items() if name != "role") and not (
            choice["delta"].get("role")
        )

    def _edit_role(self, delta: dict[str, Any]) -> bool:
        if not self._begun:
            self._begun = True
            if delta.get("role"):
                return False
            rest = {name: value for name, value in delta.items() if name != "role"}
            delta.clear()
            delta.update({"role": "assistant"}, **rest)
            return True
        if "role" in delta:
            del delta["role"]
            return True
        return False

    def _edit_tool(self, call: Any) -> bool:
        if not isinstance(call, dict):
            raise StrayFrame("an entry of tool_calls is not an object")
        changed = False
        index = call.get("index")
        given = call.get("id")
        if not isinstance(index, int) or isinstance(index, bool):
            known = next((i for i, tool in self._tools.items() if given and tool.id == given), None)
            if known is not None:
                index = known
            elif given or self._last_tool < 0:
                index = max(self._tools, default=-1) + 1
            else:
                index = self._last_tool
            call["index"] = index
            changed = True
        self._last_tool = index
        tool = self._tools.get(index)
        first = tool is None
        if tool is None:
            if len(self._tools) >= MOST:
                raise StrayFrame(f"more than {MOST} tool calls")
            tool = self._tools[index] = ToolCall()
        function = call.get("function")
        for name, holder in (("id", call), ("type", call), ("name", function)):
            if isinstance(holder, dict) and name in holder:
                changed = _sent_once(tool, name, holder, first) or changed
        return changed


def _sent_once(tool: ToolCall, name: str, holder: dict[str, Any], first: bool) -> bool:
    """Removes a part that is empty or was sent before; True when it did."""
    value = holder[name]
    sent = getattr(tool, name)
    if not value or value == sent:
        if first and value == "" and name == "name":
            return False
        del holder[name]
        return True
    if isinstance(value, str):
        setattr(tool, name, value if sent is None else (sent + value)[:_LONGEST_PART])
    return False


def _move_reasoning(delta: dict[str, Any], name: str) -> bool:
    """`delta.<name>` becomes `reasoning_content`, unless there is some already; dots in `name` are a path."""
    holder: Any = delta
    *path, last = name.split(".")
    for step in path:
        holder = holder.get(step) if isinstance(holder, dict) else None
    if not isinstance(holder, dict) or not isinstance(holder.get(last), str):
        return False
    if holder is delta and last == "reasoning_content":
        return False
    text = holder.pop(last)
    if not delta.get("reasoning_content"):
        delta["reasoning_content"] = text
    return True


_TEXTS = frozenset(("content", "reasoning_content", "reasoning", "refusal"))


def measured(delta: Any) -> int:
    """UTF-8 bytes of all text in a delta or message."""
    if not isinstance(delta, dict):
        return 0
    total = 0
    for name, value in delta.items():
        if name in _TEXTS:
            total += _size(value)
    if "tool_calls" not in delta and "function_call" not in delta:
        return total
    calls = delta.get("tool_calls")
    functions = (
        [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    )
    for function in (*functions, delta.get("function_call")):
        if isinstance(function, dict):
            total += _size(function.get("name")) + _size(function.get("arguments"))
    return total


def _size(text: Any) -> int:
    if not text:
        return 0
    if not isinstance(text, str):
        return sum(_size(part.get("text")) for part in text if isinstance(part, dict)) if isinstance(text, list) else 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
