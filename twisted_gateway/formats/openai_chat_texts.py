"""Where the texts of chat completions are (`guardrails.md` 2 and 7)."""

from __future__ import annotations

from typing import Any

from twisted_gateway.errors import StrayFrame
from twisted_gateway.formats import bodies
from twisted_gateway.formats.slots import (
    EVERYTHING,
    REASONING,
    REFUSAL,
    TEXT,
    TOOL,
    Channel,
    Heard,
    Shape,
    Slot,
    Texts,
    shape,
    strings,
)
from twisted_gateway.wire.sse import Frame

_MOST_SHAPES = 4
_CHANNELS = {"content": TEXT, "refusal": REFUSAL, "reasoning_content": REASONING, "reasoning": REASONING}
_OWN = {*_CHANNELS, "role", "tool_calls", "function_call"}


def asked(document: dict[str, Any]) -> list[Slot]:
    """The texts of a request."""
    return [slot for name in document for slot in strings(document, name, (name, TEXT))]


def answered(document: Any) -> list[Slot]:
    """The texts of a whole answer."""
    found: list[Slot] = []
    choices = document.get("choices") if isinstance(document, dict) else None
    for index, choice in enumerate(choices if isinstance(choices, list) else ()):
        if isinstance(choice, dict) and "message" in choice:
            found += [slot._replace(spelled=choice) for slot in strings(choice, "message", (index, TEXT))]
    return found


class Chunks:
    """Hears the chunks of one stream."""

    def __init__(self) -> None:
        self._open: dict[Any, Channel] = {}
        self._shapes: list[Shape] = []

    def heard(self, frame: Frame, decoded: bool = False) -> Heard | None:
        """See `slots.Hearing`."""
        data = frame.data
        if not decoded:
            for known in self._shapes:
                found = known.heard(data)
                if found is not None:
                    return found
        if data == b"[DONE]":
            return Heard(ends=(EVERYTHING,))
        try:
            chunk, _ = bodies.read(data)
        except StrayFrame:
            return None
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        if not isinstance(choices, list):
            return None
        if not choices:
            return Heard(ends=(EVERYTHING,), document=chunk)
        heard = _Choices(self._open)
        for choice in choices:
            if isinstance(choice, dict):
                heard.choice(choice)
        self._learn(data, chunk, heard)
        return Heard(heard.slots, heard.wholes, heard.ends, chunk)

    def _learn(self, data: bytes, chunk: dict[str, Any], heard: _Choices) -> None:
        if len(heard.slots) != 1 or heard.wholes or heard.ends or len(self._shapes) >= _MOST_SHAPES:
            return
        (slot,) = heard.slots
        if slot.channel[1] not in (TEXT, REASONING) or slot.spelled is None or slot.spelled.get("logprobs"):
            return
        made = shape(data, slot.key, slot.holder[slot.key], slot.channel)
        if made is not None:
            self._shapes.append(made)

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
                kind = _CHANNELS.get(name)
                if kind is not None and isinstance(value, str):
                    if value:
                        self.slots.append(Slot(delta, name, (index, kind), False, choice))
                elif kind is not None:  # some providers send parts
                    found = strings(delta, name, (index, kind))
                    self.slots += [slot._replace(spelled=choice) for slot in found]
                elif name == "tool_calls" and isinstance(value, list):
                    for call in value:
                        if isinstance(call, dict):
                            self._call(call, index, (index, TOOL, call.get("index", 0)))
                elif name == "function_call" and isinstance(value, dict):
                    self._call({"function": value}, index, (index, TOOL, -1))
                elif name == "audio" and isinstance(value, dict):
                    if isinstance(value.get("transcript"), str):
                        self.slots.append(Slot(value, "transcript", (index, "audio"), False, choice))
                elif name not in _OWN:
                    self.wholes += strings(delta, name, (index, TEXT))
        if choice.get("finish_reason") is not None:
            self._open.pop(index, None)
            self.ends.append((index,))

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


TEXTS = Texts(("messages", "prediction"), asked, answered, Chunks)
