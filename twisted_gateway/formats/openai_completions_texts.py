"""Where the texts of legacy completions are (`guardrails.md` 2 and 7)."""

from __future__ import annotations

from typing import Any

from twisted_gateway.formats.slots import (
    EVERYTHING,
    TEXT,
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


def asked(document: dict[str, Any]) -> list[Slot]:
    """The texts of a request; token numbers are none."""
    return [slot for name in document for slot in strings(document, name, (name, TEXT))]


def answered(document: Any) -> list[Slot]:
    """The texts of an answer, or of a chunk, which looks the same."""
    return [slot for pieces in _texts(document) for slot in pieces]


def _texts(document: Any) -> tuple[list[Slot], list[Slot]]:
    """The texts of the choices, and whatever else is text."""
    if not isinstance(document, dict):
        return [], []
    choices = document.get("choices")
    slots: list[Slot] = []
    wholes = list(others(document, ("choices",) if isinstance(choices, list) else (), (0, TEXT)))
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            channel = (choice.get("index", 0), TEXT)
            known = ("text",) if isinstance(choice.get("text"), str) else ()
            if known and choice["text"]:
                slots.append(Slot(choice, "text", channel, False, choice))
            wholes += [slot._replace(spelled=choice) for slot in others(choice, known, channel)]
            wholes += spelled(choice, choice)
    return slots, wholes


class Chunks:
    """Hears the chunks of one stream."""

    def __init__(self) -> None:
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
        slots, wholes = _texts(chunk)
        ends: list[Channel] = [
            (choice.get("index", 0),)
            for choice in choices
            if isinstance(choice, dict) and choice.get("finish_reason") is not None
        ]
        spelt = any(choice.get("logprobs") for choice in choices if isinstance(choice, dict))
        if len(slots) == 1 and not (wholes or ends or spelt):
            self._shapes.learn(data, chunk, slots[0])
        return Heard(slots, wholes, ends, chunk)

    def empty(self, document: Any) -> bool:
        """See `slots.Hearing`."""
        return not document.get("usage") and not any(
            choice.get("text") or choice.get("finish_reason") is not None or choice.get("logprobs")
            for choice in document["choices"]
        )


TEXTS = Texts(("prompt", "suffix"), asked, answered, Chunks)
