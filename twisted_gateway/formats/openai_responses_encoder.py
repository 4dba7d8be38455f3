"""Neutral events as a Responses answer, streamed or whole: machine C (`translation.md` 7.2 and 7.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from twisted_gateway.errors import Problem, StrayFrame
from twisted_gateway.formats.neutral import (
    Arguments,
    Called,
    Calling,
    Declined,
    Event,
    Finished,
    Mused,
    Said,
)
from twisted_gateway.formats.openai_responses_events import STOPPED, Script, dump, usage_object
from twisted_gateway.formats.openai_responses_items import Call, Item, Message, Reasoning
from twisted_gateway.formats.row import Learnt, Told
from twisted_gateway.wire.sse import Frame

AnyItem = TypeVar("AnyItem", bound=Item)

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter", STOPPED: STOPPED}


class ResponsesEncoder:
    """Writes one answer: a stream of events, or the whole object at the end.

    A message and a summary of reasoning end when another item begins; calls may stay open side by side, as each of
    their events names its item.
    """

    def __init__(self, told: Told) -> None:
        self._stream = told.call.stream
        self._script = Script(mute=not self._stream)
        self._fresh = told.fresh
        thought = told.prompt.thought
        self._shows_reasoning = thought is not None and thought.shown
        self._head = {"id": f"resp_{told.fresh()}", "object": "response", "created_at": int(told.now)}
        self._echo = {"model": told.shown, **echoed(told.call.extra)}
        self._items: list[Item] = []
        self._open: Message | Reasoning | None = None
        self._calls: dict[int, Call] = {}
        self._reason: str | None = None
        self._begun = False

    def received(self, events: Sequence[Event], learnt: Learnt) -> list[Frame]:
        """The frames of these events. Other choices than the first have no place in this dialect."""
        for event in events:
            self._begin()
            if getattr(event, "choice", 0) == 0:
                self._write(event)
        return self._script.taken()

    def stopped(self, learnt: Learnt) -> list[Frame]:
        """The terminal event with everything in it; or the whole object."""
        self._begin()
        self._close_all()
        reason = _INCOMPLETE.get(self._reason or "")
        status = "incomplete" if reason else "completed"
        details = {"reason": reason} if reason else None
        snapshot = self._snapshot(status, usage=usage_object(learnt.usage), incomplete_details=details)
        if not self._stream:
            data = dump(snapshot)
            return [Frame(data, b"", data)]
        self._script.say(f"response.{status}", response=snapshot)
        return self._script.taken()

    def ending(self, learnt: Learnt) -> list[Frame]:
        """See `row.Encoder`: incomplete, as the caller has stopped it."""
        self._begin()
        self._reason = self._reason or STOPPED
        return self.stopped(learnt)

    def complaint(self, problem: Problem) -> list[Frame] | None:
        """The error event, then `response.failed` with what there is (`streaming.md` 11.3)."""
        if not self._stream:
            return None
        code = "rate_limit_exceeded" if problem.status == 429 else "server_error"
        self._script.complain(problem)
        usage = usage_object(problem.usage) if problem.usage is not None else None
        failed = self._snapshot("failed", usage, error={"code": code, "message": problem.message})
        self._script.say("response.failed", response=failed)
        return self._script.taken()

    def progress(self) -> list[Frame]:
        """`response.in_progress` once more, with what there is by now (`streaming.md` 8); nothing before the begin."""
        if self._begun:
            self._script.say("response.in_progress", response=self._snapshot("in_progress"))
        return self._script.taken()

    @property
    def shown_bytes(self) -> int:
        """See `row.Encoder`."""
        return self._script.shown_bytes

    # Events

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._script.say("response.created", response=self._snapshot("in_progress"))
            self._script.say("response.in_progress", response=self._snapshot("in_progress"))

    def _write(self, event: Event) -> None:
        match event:
            case Said(text) if text:
                self._message().say(text)
            case Declined(text) if text:
                self._message().decline(text)
            case Mused(text) if text and self._shows_reasoning:
                self._reasoning().add(text)
            case Calling(index, id, name):
                self._call(index, id, name)
            case Arguments(index, text) if text:
                self._called(index).add(text)
            case Called(index):
                self._called(index).close("completed")
            case Finished(reason):
                self._reason = reason
                self._close_all()

    def _message(self) -> Message:
        if not isinstance(self._open, Message):
            self._make_room()
            self._open = self._added(Message(self._script, f"msg_{self._fresh()}", len(self._items)))
        return self._open

    def _reasoning(self) -> Reasoning:
        if not isinstance(self._open, Reasoning):
            self._make_room()
            self._open = self._added(Reasoning(self._script, f"rs_{self._fresh()}", len(self._items)))
        return self._open

    def _call(self, index: int, id: str, name: str) -> None:
        if index in self._calls:
            return
        self._make_room()
        id = id or f"call_{self._fresh()[:24]}"
        call = Call(self._script, f"fc_{self._fresh()}", len(self._items), id, name)
        self._calls[index] = self._added(call)

    def _called(self, index: int) -> Call:
        call = self._calls.get(index)
        if call is None:
            raise StrayFrame(f"arguments of tool call {index}, which has not begun")
        return call

    def _added(self, item: AnyItem) -> AnyItem:
        self._items.append(item)
        return item

    def _make_room(self) -> None:
        """Another item begins: what is open ends, calls only when they are whole."""
        if self._open is not None:
            self._open.close("completed")
            self._open = None
        for call in self._calls.values():
            if call.done is None and call.is_whole:
                call.close("completed")

    def _close_all(self) -> None:
        status = "incomplete" if self._reason in _INCOMPLETE else "completed"
        for item in self._items:
            item.close(status)
        self._open = None

    # The object

    def _snapshot(self, status: str, usage: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
        """The response as it is now; every member is mandatory (`translation.md` 7.2)."""
        open_status = "in_progress" if status == "in_progress" else "incomplete"
        return {
            **self._head,
            "status": status,
            "error": None,
            "incomplete_details": None,
            **members,
            **self._echo,
            "output": [item.shown(open_status) if item.done is None else item.done for item in self._items],
            "usage": usage,
        }


def echoed(found: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a response that say again what was asked."""
    asked = {name: msgspec.json.decode(found[name]) for name in _ECHOED if name in found}
    reasoning, text = asked.get("reasoning") or {}, asked.get("text") or {}
    parallel = asked.get("parallel_tool_calls")
    limit = asked.get("max_output_tokens")
    return {
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_tokens") if limit is None else limit,
        "metadata": asked.get("metadata") or {},
        "parallel_tool_calls": True if parallel is None else parallel,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "store": False,
        "temperature": asked.get("temperature"),
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tool_choice": asked.get("tool_choice") or "auto",
        "tools": [_tool(tool) for tool in asked.get("tools") or ()],
        "top_p": asked.get("top_p"),
        "truncation": "disabled",
        "user": asked.get("user"),
    }


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool with all that strict clients read of a function."""
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": False, **tool}


_ECHOED = (
    "instructions",
    "max_output_tokens",
    "max_tokens",
    "metadata",
    "parallel_tool_calls",
    "reasoning",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "user",
)
