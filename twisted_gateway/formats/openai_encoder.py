"""Neutral events as answers of the OpenAI family: what chat and legacy completions have in common.

Envelope, usage and ends: `translation.md` sections 3, 4, 6 and 8. A chunk is written around what differs from chunk to
chunk, so that the envelope is encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from twisted_gateway.errors import Problem
from twisted_gateway.formats.neutral import Began, Event
from twisted_gateway.formats.openai_usage import usage_object
from twisted_gateway.formats.row import Learnt, Told
from twisted_gateway.wire.sse import Frame, escape_separators

DONE = Frame(b"[DONE]", b"", b"data: [DONE]\n\n")
_encode = msgspec.json.Encoder().encode


def dump(value: Any) -> bytes:
    """JSON as it is written into a frame."""
    return escape_separators(_encode(value))


class AnswerEncoder:
    """Writes one answer: chunks, or the whole object at the end."""

    chunk_kind: ClassVar[str]
    whole_kind: ClassVar[str]
    """The member `object` of a chunk and of a whole answer."""

    def __init__(self, told: Told) -> None:
        self.stream = told.call.stream
        self._told = told
        self._usage_shown = told.call.usage_shown
        self._envelope: dict[str, Any] = {}
        self._head = b""
        self._tail = b',"usage":null}' if self._usage_shown else b"}"
        self._frames: list[Frame] = []
        self.cut = False
        """The caller has stopped the answer: choices that have not ended end by `stop`."""

    def received(self, events: Sequence[Event], learnt: Learnt) -> list[Frame]:
        """The frames of these events; none of a whole answer."""
        for event in events:
            if not self._envelope:
                self._begin(event if isinstance(event, Began) else Began())
            self.write(event)
        frames, self._frames = self._frames, []
        return frames

    def stopped(self, learnt: Learnt) -> list[Frame]:
        """The ends of choices that have none, usage, `[DONE]`; or the whole object."""
        if not self._envelope:
            self._begin(Began())
        self.close()
        if not self.stream:
            data = dump({**self._envelope, "choices": self.choices(), "usage": usage_object(learnt.usage)})
            return [Frame(data, b"", data)]
        frames, self._frames = self._frames, []
        usage = usage_object(learnt.usage)
        if self._usage_shown and any(usage.values()):
            frames.append(Frame(dump({**self._envelope, "choices": [], "usage": usage})))
        return [*frames, DONE]

    def ending(self, learnt: Learnt) -> list[Frame]:
        """See `row.Encoder`."""
        self.cut = True
        return self.stopped(learnt)

    def complaint(self, problem: Problem) -> list[Frame] | None:
        """None: the usual error frame."""
        return None

    def chunk(self, entry: bytes) -> None:
        """Writes a chunk with this one entry of `choices`."""
        self._frames.append(Frame(self._head + entry + b"]" + self._tail))

    def id_of(self, given: str) -> str:
        """The answer's id, of the provider's."""
        raise NotImplementedError

    def write(self, event: Event) -> None:
        """Writes one event, or remembers it for the whole answer."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the choices that have not ended; there is one at least."""
        raise NotImplementedError

    def choices(self) -> list[dict[str, Any]]:
        """`choices` of the whole answer."""
        raise NotImplementedError

    def _begin(self, began: Began) -> None:
        self._envelope = {
            "id": self.id_of(began.id),
            "object": self.chunk_kind if self.stream else self.whole_kind,
            "created": began.created or int(self._told.now),
            "model": self._told.shown,
        }
        self._head = dump(self._envelope)[:-1] + b',"choices":['
