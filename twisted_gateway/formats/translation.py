"""A passage between two dialects: one's decoder and the other's encoder, met in neutral events."""

from __future__ import annotations

from collections.abc import Callable

from twisted_gateway.errors import Problem, StrayFrame, undecodable
from twisted_gateway.exchange import Usage
from twisted_gateway.facts import frozen
from twisted_gateway.formats.neutral import Event, Said
from twisted_gateway.formats.row import Decoder, Encoder
from twisted_gateway.formats.shapes import Shape, around
from twisted_gateway.wire.series import Batch
from twisted_gateway.wire.sse import Frame

_LESSONS = 8


@frozen
class Seen:
    """A `row.Learnt` of an answer that ends early: these are its counters."""

    usage: Usage
    text_bytes: int = 0
    complete: bool = True
    ended: bool = True
    failure: Problem | None = None
    provider_request_id: str | None = None
    provider_model: str | None = None
    finish_reason: str | None = None
    noise: int = 0


class Translation:
    """A `row.Passage`: what is learnt is the decoder's, what is written is the encoder's."""

    held = 0
    patience = 5.0
    """Seconds that an end marker is waited for behind a whole answer (`translation.md` 5.4 and 7.3)."""

    def __init__(self, decoder: Decoder, encoder: Encoder) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self._failure: Problem | None = None
        self._stopped = False
        self._shape: Shape | None = None
        self._lessons = _LESSONS
        passed = [getattr(half, "passed", None) for half in (decoder, encoder)]
        self._passed: list[Callable[[int], None]] = [] if None in passed else [one for one in passed if one is not None]

    def take(self, data: bytes) -> Batch | None:
        """The texts that `data` begins with and that are like the last frame's, as they go out; else None."""
        taken = self._shape.take(data, empty=False) if self._shape is not None else None
        if taken is not None:
            self._lessons = _LESSONS
            for passed in self._passed:
                passed(taken.text_bytes)
        return taken

    @property
    def alike(self) -> Shape | None:
        """See `row.Passage`."""
        return self._shape

    def heard(self, text_bytes: int) -> None:
        """So much text in frames that are alike has passed this by."""
        for passed in self._passed:
            passed(text_bytes)

    def _learn(self, frame: Frame, events: list[Event], made: list[Frame]) -> None:
        """A frame that says nothing but a text, and becomes one that does the same, is like the next ones most often.

        They need not be read while nothing else comes between them.
        """
        self._shape = None
        if len(made) == len(events) == 1 and self._lessons and self._passed and type(events[0]) is Said:
            self._shape = around(events[0].text, frame, made[0])
            self._lessons -= self._shape is not None

    def received(self, frames: list[Frame]) -> list[Frame]:
        """The caller's frames for these of the provider; what came before a bad one is still told."""
        made: list[Frame] = []
        decoder = self._decoder
        for frame in frames:
            if self.failure is not None or decoder.ended:
                break
            try:
                events = decoder.received([frame])
                said = self._encoder.received(events, decoder) if events else []
                made += said
                self._learn(frame, events, said)
            except StrayFrame as stray:
                self._failure, self._shape = undecodable(str(stray)), None
                break
        return made

    def stopped(self, clean: bool) -> list[Frame]:
        """The encoder's last frames, once."""
        if not clean or self._stopped:
            return []
        self._stopped = True
        events = self._decoder.stopped()
        made = self._encoder.received(events, self._decoder) if events else []
        return [*made, *self._encoder.stopped(self._decoder)]

    def ending(self, usage: Usage) -> list[Frame] | None:
        """See `row.Passage`."""
        self._stopped = True
        return self._encoder.ending(Seen(usage))

    def complaint(self, problem: Problem) -> list[Frame] | None:
        """The encoder's own way to tell an error in mid-stream, if it has one."""
        return self._encoder.complaint(problem)

    def progress(self) -> list[Frame]:
        """The encoder's word that the answer is still being made, where its dialect has one."""
        tell = getattr(self._encoder, "progress", None)
        return [] if tell is None or self._stopped else tell()

    @property
    def failure(self) -> Problem | None:
        """See `row.Learnt`."""
        return self._failure or self._decoder.failure

    @property
    def usage(self) -> Usage:
        """See `row.Learnt`."""
        return self._decoder.usage

    @property
    def text_bytes(self) -> int:
        """See `row.Learnt`."""
        return self._decoder.text_bytes

    @property
    def shown_bytes(self) -> int:
        """See `row.Passage`."""
        shown: int = getattr(self._encoder, "shown_bytes", self._decoder.text_bytes)
        return shown

    @property
    def complete(self) -> bool:
        """See `row.Learnt`."""
        return self._decoder.complete

    @property
    def ended(self) -> bool:
        """See `row.Learnt`."""
        return self._decoder.ended

    @property
    def provider_request_id(self) -> str | None:
        """See `row.Learnt`."""
        return self._decoder.provider_request_id

    @property
    def provider_model(self) -> str | None:
        """See `row.Learnt`."""
        return self._decoder.provider_model

    @property
    def finish_reason(self) -> str | None:
        """See `row.Learnt`."""
        return self._decoder.finish_reason

    @property
    def noise(self) -> int:
        """See `row.Learnt`."""
        return self._decoder.noise
