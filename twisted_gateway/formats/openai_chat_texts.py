"""Where the texts of chat completions are (`guardrails.md` 2 and 7)."""

from __future__ import annotations

from typing import Any

from twisted_gateway.formats.slots import (
    EVERYTHING,
    NEVER,
    REASONING,
    REASONING_MEMBERS,
    REFUSAL,
    TEXT,
    TOOL,
    Channel,
    Heard,
    Shapes,
    Slot,
    Texts,
    document_of,
    others,
    spelled,
    strings,
)
from twisted_gateway.wire.sse import Frame

_CHANNELS = {"content": TEXT, "refusal": REFUSAL, "reasoning_content": REASONING, "reasoning": REASONING}
_CHOICE = ("delta",)
_CALL = ("function", "custom")
_FUNCTION = ("name", "arguments", "input")


def asked(document: dict[str, Any]) -> list[Slot]:
    """The texts of a request."""
    return [slot for name in document for slot in strings(document, name, (name, TEXT))]


def answered(document: Any) -> list[Slot]:
    """The texts of a whole answer."""
    if not isinstance(document, dict):
        return []
    found: list[Slot] = []
    choices = document.get("choices")
    for index, choice in enumerate(choices if isinstance(choices, list) else ()):
        if isinstance(choice, dict):
            found += [slot._replace(spelled=choice) for slot in others(choice, (), (index, TEXT))]
            if choice.get("logprobs"):
                found += spelled(choice, choice.get("message"))
    return found + list(others(document, ("choices",) if isinstance(choices, list) else (), (0, TEXT)))


class Chunks:
    """Hears the chunks of one stream."""

    def __init__(self) -> None:
        self._open: dict[Any, Channel] = {}
        self._shapes = Shapes()

    def heard(self, frame: Frame, decoded: bool = False) -> Heard | None:
        """See `slots.Hearing`."""
        data = frame.data
        known = None if decoded else self._shapes.heard(data)
        if known is not None:
            return known
        if data == b"[DONE]":
            return Heard(ends=(EVERYTHING,))
        chunk = document_of(frame)
        choices = chunk.get("choices") if chunk is not None else None
        if chunk is None or not isinstance(choices, list):
            return None
        if not choices:
            return Heard((), list(others(chunk, ("choices",), (0, TEXT))), (), chunk)
        heard = _Choices(self._open)
        for choice in choices:
            if isinstance(choice, dict):
                heard.choice(choice)
        heard.wholes += others(chunk, ("choices",), (0, TEXT))
        self._learn(data, chunk, heard)
        return Heard(heard.slots, heard.wholes, heard.ends, chunk)

    def _learn(self, data: bytes, chunk: dict[str, Any], heard: _Choices) -> None:
        if len(heard.slots) != 1 or heard.wholes or heard.ends:
            return
        (slot,) = heard.slots
        if slot.channel[1] in (TEXT, REASONING) and slot.spelled is not None and not slot.spelled.get("logprobs"):
            self._shapes.learn(data, chunk, slot)

    def empty(self, document: Any) -> bool:
        """See `slots.Hearing`."""
        if document.get("usage"):
            return False
        for choice in document["choices"]:
            delta = choice.get("delta")
            if choice.get("finish_reason") is not None or choice.get("logprobs"):
                return False
            if isinstance(delta, dict) and any(delta.values()):
                return False
        return True


class _Choices:
    """What the choices of one chunk say."""

    def __init__(self, begun: dict[Any, Channel]) -> None:
        self.slots: list[Slot] = []
        self.wholes: list[Slot] = []
        self.ends: list[Channel] = []
        self._open = begun

    def choice(self, choice: dict[str, Any]) -> None:
        index = choice.get("index", 0)
        delta = choice.get("delta")
        if isinstance(delta, dict):
            for name, value in delta.items():
                kind = _CHANNELS.get(name) or (REASONING if name in REASONING_MEMBERS else None)
                if kind is None:
                    self._other(delta, name, index, choice)
                elif not isinstance(value, str):  # some send a list of parts
                    self.slots += [slot._replace(spelled=choice) for slot in strings(delta, name, (index, kind))]
                elif value:
                    self.slots.append(Slot(delta, name, (index, kind), False, choice))
            if choice.get("logprobs"):
                self.wholes += spelled(choice, delta)
        self.wholes += others(choice, _CHOICE, (index, TEXT))
        if choice.get("finish_reason") is not None:
            self._open.pop(index, None)
            self.ends.append((index,))

    def _other(self, delta: dict[str, Any], name: str, index: Any, choice: dict[str, Any]) -> None:
        """A member of a delta that is no plain text."""
        value = delta[name]
        if name == "tool_calls" and isinstance(value, list):
            for call in value:
                if isinstance(call, dict):
                    self._call(call, index, (index, TOOL, call.get("index", 0)))
        elif name == "function_call" and isinstance(value, dict):
            self._call({"function": value}, index, (index, TOOL, -1))
        elif name == "audio" and isinstance(value, dict):
            if isinstance(value.get("transcript"), str):
                self.slots.append(Slot(value, "transcript", (index, "audio"), False, choice))
                self.wholes += others(value, ("transcript",), (index, TEXT))
            else:
                self.wholes += others(value, (), (index, TEXT))
        elif name not in NEVER:
            self.wholes += strings(delta, name, (index, TEXT))

    def _call(self, call: dict[str, Any], index: Any, channel: Channel) -> None:
        before = self._open.get(index)
        if before is not None and before != channel:
            self.ends.append(before)
        self._open[index] = channel
        for member in ("function", "custom"):
            said = call.get(member)
            if isinstance(said, dict):
                for name in ("name", "arguments", "input"):
                    if isinstance(said.get(name), str):
                        self.slots.append(Slot(said, name, channel, name != "name"))
                    elif isinstance(said.get(name), dict | list):
                        self.wholes.append(Slot(said, name, channel, True))
                self.wholes += others(said, _FUNCTION, (index, TEXT))
            elif said is not None:
                self.wholes += strings(call, member, (index, TEXT))
        self.wholes += others(call, _CALL, (index, TEXT))


TEXTS = Texts(("messages", "prediction"), asked, answered, Chunks)
