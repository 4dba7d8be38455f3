"""An answer from memory as an open answer, so that it takes the same line to the caller as a provider's."""

from __future__ import annotations

import msgspec
from twisted.internet.interfaces import IReactorTime

from twisted_gateway.answer import Sink
from twisted_gateway.errors import Problem
from twisted_gateway.exchange import Usage
from twisted_gateway.formats.texts import text_bytes
from twisted_gateway.lane import Lane
from twisted_gateway.wire.series import WholeBody
from twisted_gateway.wire.sse import Frame


class Kept:
    """A whole body in the caller's format, as an answer of which everything is read already."""

    def __init__(self, body: bytes) -> None:
        self.reader = WholeBody(0)
        self._body = body

    def join(self, sink: Sink) -> None:
        """Give all of it at once."""
        sink.answer_began([Frame(self._body, b"", self._body)], b"")
        sink.answer_ended(None, [])

    def pause(self) -> None:
        """Nothing is read."""

    def resume(self) -> None:
        """Nothing is read."""

    def hasten(self, lane: Lane) -> None:
        """There is one frame."""

    def cut(self) -> None:
        """Nobody is asked."""

    def release(self, clock: IReactorTime) -> None:
        """Nobody is asked."""


class Verbatim:
    """A passage that carries a whole answer in the caller's own format as it is. No tokens were used for it."""

    held = 0
    noise = 0
    failure: Problem | None = None
    provider_request_id: str | None = None
    provider_model: str | None = None
    finish_reason: str | None = None

    def __init__(self, body: bytes) -> None:
        self.usage = Usage()
        self.text_bytes = _text(body)
        self.complete = self.ended = False

    def received(self, frames: list[Frame]) -> list[Frame]:
        """The frames themselves."""
        self.complete = self.ended = True
        return frames

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing more."""
        return []


def _text(body: bytes) -> int:
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return 0
    return text_bytes(answer) if isinstance(answer, dict) else 0
