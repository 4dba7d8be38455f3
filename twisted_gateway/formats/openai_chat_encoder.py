"""Neutral events as a chat answer, streamed or whole: machine A's writing half (`translation.md` sections 3 and 4)."""

from __future__ import annotations

from typing import Any

import attrs

from twisted_gateway.facts import define
from twisted_gateway.formats.names import full_names
from twisted_gateway.formats.neutral import (
    Arguments,
    Called,
    Calling,
    Declined,
    Event,
    Finished,
    Mused,
    Said,
    Signed,
    Tool,
)
from twisted_gateway.formats.openai_encoder import AnswerEncoder, dump
from twisted_gateway.formats.row import Told

_REASONS = {"stop", "length", "tool_calls", "content_filter"}


@define
class _Call:
    id: str
    name: str
    arguments: list[str] = attrs.field(factory=list)


@define
class _Choice:
    """What one choice has said. Texts are kept for a whole answer only."""

    texts: list[str] = attrs.field(factory=list)
    thoughts: list[str] = attrs.field(factory=list)
    refusals: list[str] = attrs.field(factory=list)
    blocks: list[Any] = attrs.field(factory=list)
    calls: dict[int, _Call] = attrs.field(factory=dict)
    filled: set[int] = attrs.field(factory=set)
    """Calls that have had arguments."""
    reason: str | None = None


class ChatEncoder(AnswerEncoder):
    """Writes one chat answer. Every choice begins with its role; a call without arguments gets `{}`."""

    chunk_kind = "chat.completion.chunk"
    whole_kind = "chat.completion"

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._new_id = f"chatcmpl-{told.letters}"
        self._fresh = told.fresh
        self._names = full_names([tool.name for tool in told.prompt.tools if isinstance(tool, Tool)])
        self._choices: dict[int, _Choice] = {}

    def id_of(self, given: str) -> str:
        """See `AnswerEncoder`: unchanged."""
        return given or self._new_id

    def write(self, event: Event) -> None:
        """See `AnswerEncoder`."""
        index = getattr(event, "choice", 0)
        choice = self._choices.get(index) or self._begun(index)
        match event:
            case Said(text) if text:
                self._say(index, choice.texts, "content", text)
            case Mused(text) if text:
                self._say(index, choice.thoughts, "reasoning_content", text)
            case Declined(text) if text:
                self._say(index, choice.refusals, "refusal", text)
            case Signed(block) if choice.reason is None:
                choice.blocks.append(block)
            case Calling(number, id, name):
                self._call(index, choice, number, id, name)
            case Arguments(number, text) if text:
                self._fill(index, choice, number, text)
            case Called(number):
                self._fill_empty(index, choice, number)
            case Finished(reason):
                self._finish(index, choice, reason)

    def passed(self, text_bytes: int) -> None:
        """See `row.Encoder`: nothing is counted here."""

    def close(self) -> None:
        """See `AnswerEncoder`."""
        if not self._choices:
            self._begun(0)
        for index, choice in self._choices.items():
            self._finish(index, choice, "tool_calls" if choice.calls and not self.cut else "stop")

    def choices(self) -> list[dict[str, Any]]:
        """See `AnswerEncoder`."""
        return [
            {"index": index, "message": _message(choice), "finish_reason": choice.reason}
            for index, choice in sorted(self._choices.items())
        ]

    def _begun(self, index: int) -> _Choice:
        choice = self._choices[index] = _Choice()
        self._delta(index, b'{"role":"assistant","content":""}')
        return choice

    def _delta(self, index: int, delta: bytes, reason: bytes = b"null") -> None:
        if self.stream:
            self.chunk(b'{"index":%d,"delta":%b,"finish_reason":%b}' % (index, delta, reason))

    def _say(self, index: int, kept: list[str], name: str, text: str) -> None:
        if self.stream:
            self._delta(index, b'{"%b":%b}' % (name.encode(), dump(text)))
        else:
            kept.append(text)

    def _call(self, index: int, choice: _Choice, number: int, id: str, name: str) -> None:
        if number in choice.calls:
            return
        call = choice.calls[number] = _Call(id or f"call_{self._fresh()[:24]}", self._names.get(name, name))
        function = {"name": call.name, "arguments": ""}
        entry = {"index": number, "id": call.id, "type": "function", "function": function}
        self._delta(index, dump({"tool_calls": [entry]}))

    def _fill(self, index: int, choice: _Choice, number: int, text: str) -> None:
        call = choice.calls.get(number)
        if call is None:
            return
        choice.filled.add(number)
        if self.stream:
            self._delta(index, b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (number, dump(text)))
        else:
            call.arguments.append(text)

    def _fill_empty(self, index: int, choice: _Choice, number: int) -> None:
        """Callers parse the arguments as JSON, which an empty text is not."""
        if number not in choice.filled:
            self._fill(index, choice, number, "{}")

    def _finish(self, index: int, choice: _Choice, reason: str) -> None:
        """The reason, in one of the words that typed callers know; before it all reasoning blocks in one chunk."""
        if choice.reason is not None:
            return
        for number in choice.calls:
            self._fill_empty(index, choice, number)
        choice.reason = reason if reason in _REASONS else "stop"
        if choice.blocks:
            self._delta(index, dump({"thinking_blocks": choice.blocks}))
        self._delta(index, b"{}", b'"%b"' % choice.reason.encode())


def _message(choice: _Choice) -> dict[str, Any]:
    """The message of a whole answer (`translation.md` section 3)."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(choice.texts) if choice.texts else None,
        "refusal": "".join(choice.refusals) if choice.refusals else None,
    }
    if choice.thoughts:
        message["reasoning_content"] = "".join(choice.thoughts)
    if choice.blocks:
        message["thinking_blocks"] = choice.blocks
    if choice.calls:
        message["tool_calls"] = [_tool_call(call) for _, call in sorted(choice.calls.items())]
    return message


def _tool_call(call: _Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": "".join(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}
