"""Chat answers as neutral events: chunks or a whole completion (`translation.md` 5.3 and 5.4, reading half)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import msgspec

from twisted_gateway.errors import StrayFrame
from twisted_gateway.facts import define
from twisted_gateway.formats.neutral import Arguments, Called, Calling, Declined, Event, Mused, Said
from twisted_gateway.formats.openai_decoder import AnswerDecoder, ChoiceReader
from twisted_gateway.formats.openai_delta import MOST

_REASONING = ("reasoning_content", "reasoning", "thinking")


class ChatDecoder(AnswerDecoder):
    """Reads one chat answer. `reasoning_field` is a provider key's own name for reasoning, dots make a path."""

    def __init__(self, stream: bool, reasoning_field: str | None = None) -> None:
        super().__init__(stream)
        self._path = tuple(reasoning_field.split(".")) if reasoning_field else ()

    def new_choice(self, index: int) -> ChoiceReader:
        """See `AnswerDecoder`."""
        return ChatChoice(index, "delta" if self._stream else "message", self._path)


class ChatChoice(ChoiceReader):
    """One choice: each `delta` of a stream, or the `message` of a whole answer. Some providers send both."""

    def __init__(self, index: int, holder: str, path: tuple[str, ...]) -> None:
        super().__init__(index)
        self._holder = holder
        self._path = path
        self._calls = _Calls(index)

    def say(self, entry: dict[str, Any], events: list[Event]) -> None:
        """See `ChoiceReader`."""
        delta = entry.get(self._holder)
        if not isinstance(delta, dict):
            return
        whole = self._holder == "message"
        thought = self._thought(delta)
        if thought:
            events.append(Mused(thought, self.index))
        self._content(delta.get("content"), events)
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and refusal:
            events.append(Declined(refusal, self.index))
        calls = delta.get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            self._calls.add({**call, "index": position} if whole and isinstance(call, dict) else call, events)
        if isinstance(delta.get("function_call"), dict):
            self._calls.add_legacy(delta["function_call"], events)

    def finish(self, native: str | None, stop_sequence: str | None, events: list[Event]) -> None:
        """See `ChoiceReader`: the calls end before the choice does."""
        self._calls.close(events)
        super().finish(native, stop_sequence, events)

    def reason(self, native: str) -> str:
        """See `ChoiceReader`. Several providers report `stop` for calls."""
        if native == "function_call" or (native == "stop" and self._calls.any):
            return "tool_calls"
        return native

    def _thought(self, delta: dict[str, Any]) -> str:
        """The reasoning, whatever the provider calls it."""
        for name in _REASONING:
            if name in delta and (text := _text(delta[name])):
                return text
        return _at(delta, self._path) if self._path else ""

    def _content(self, content: Any, events: list[Event]) -> None:
        """Content is a text; Mistral has a list of parts when it reasons."""
        if isinstance(content, str):
            if content:
                events.append(Said(content, self.index))
            return
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict):
                continue
            thought = "".join(_texts(part.get("thinking")))
            if thought:
                events.append(Mused(thought, self.index))
            text = part.get("text")
            if isinstance(text, str) and text:
                events.append(Said(text, self.index))


@define
class _Call:
    """One tool call on its way. `number` is its place in order of beginning, None before it has begun."""

    id: str = ""
    name: str = ""
    waiting: list[str] = attrs.field(factory=list)
    number: int | None = None
    filled: bool = False
    """Arguments have come that are not only white space."""


class _Calls:
    """The tool calls of one choice, put in order: an index may be missing, id and name may come late, or in each part.

    A call begins when its id and name are known, and without an id when its first arguments come.
    """

    def __init__(self, choice: int) -> None:
        self._choice = choice
        self._known: dict[int, _Call] = {}
        self._all: list[_Call] = []
        self._last: _Call | None = None
        self._begun = 0

    @property
    def any(self) -> bool:
        """A call has begun."""
        return self._begun > 0

    def add(self, part: Any, events: list[Event]) -> None:
        """One entry of `tool_calls`."""
        if not isinstance(part, dict):
            raise StrayFrame("an entry of tool_calls is not an object")
        function = part.get("function")
        function = function if isinstance(function, dict) else {}
        given, name = _text(part.get("id")), _text(function.get("name"))
        call = self._find(part.get("index"), given, name)
        if call.number is None:
            call.id = call.id or given
            call.name = call.name if name == call.name else call.name + name
        arguments = function.get("arguments")
        self._fill(call, arguments if isinstance(arguments, str) else _dumped(arguments), events)
        if call.number is None and call.name and (call.id or call.waiting):
            self._begin(call, events)

    def add_legacy(self, function: dict[str, Any], events: list[Event]) -> None:
        """A part of `function_call`: the one call, which has no id."""
        call = self._find(0, "", "")
        if call.number is None:
            call.name += _text(function.get("name"))
        self._fill(call, _text(function.get("arguments")), events)
        if call.number is None and call.name:
            self._begin(call, events)

    def close(self, events: list[Event]) -> None:
        """All calls are whole: those that have waited in vain for a name begin without."""
        for call in self._all:
            if call.number is None and (call.name or call.waiting):
                self._begin(call, events)
        for call in sorted(self._all, key=lambda call: call.number or 0):
            if call.number is not None:
                if not call.filled:
                    self._fill(call, "{}", events)
                events.append(Called(call.number, self._choice))

    def _find(self, index: Any, given: str, name: str) -> _Call:
        """The call that a part belongs to, by its index, else by its id, else the last one."""
        call: _Call | None
        if isinstance(index, int) and not isinstance(index, bool):
            call = self._known.get(index)
            if call is not None and given and name and call.id not in ("", given):
                call = None  # some providers send each of their calls whole, all with the same index
            if call is None:
                call = self._known[index] = self._new()
        else:
            call = next((one for one in self._all if given and one.id == given), None)
            if call is None:
                call = self._new() if given or self._last is None else self._last
        self._last = call
        return call

    def _new(self) -> _Call:
        if len(self._all) >= MOST:
            raise StrayFrame(f"more than {MOST} tool calls")
        self._all.append(_Call())
        return self._all[-1]

    def _begin(self, call: _Call, events: list[Event]) -> None:
        call.number = self._begun
        self._begun += 1
        events.append(Calling(call.number, call.id, call.name, self._choice))
        events += [Arguments(call.number, text, self._choice) for text in call.waiting]
        call.waiting.clear()

    def _fill(self, call: _Call, text: str, events: list[Event]) -> None:
        if not text:
            return
        call.filled = call.filled or not text.isspace()
        if call.number is None:
            call.waiting.append(text)
        else:
            events.append(Arguments(call.number, text, self._choice))


def _at(delta: dict[str, Any], path: tuple[str, ...]) -> str:
    """The text at a path of names, "" where there is none."""
    holder: Any = delta
    for name in path:
        holder = holder.get(name) if isinstance(holder, dict) else None
    return _text(holder)


def _texts(thinking: Any) -> Iterator[str]:
    for part in thinking if isinstance(thinking, list) else ():
        if isinstance(part, dict):
            yield _text(part.get("text"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _dumped(arguments: Any) -> str:
    """Arguments that a server sends as an object, not as its text."""
    return msgspec.json.encode(arguments).decode() if isinstance(arguments, dict) else ""
