"""The line of one answer: reader, passage, gates, the bytes of one write (`DESIGN.md` section 3, step 6). Sans-IO."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted_gateway.formats.row import Passage
from twisted_gateway.wire.series import NOTHING, Batch, Gate, Series, WholeBody
from twisted_gateway.wire.sse import Frame, Reader, TooLong, encode

_MOST_MISSES = 5


class Line:
    """Everything a provider's bytes pass through on their way to the caller.

    Frames that the passage knows by their bytes are not understood, and only taken apart for a policy that sees them.
    """

    __slots__ = ("_lasting", "_mute", "_passage", "_passes_overruns", "_reader", "_take", "gates", "knew")

    def __init__(self, reader: Reader | WholeBody, passage: Passage, gates: Sequence[Gate] = ()) -> None:
        self._reader = reader
        self._passage = passage
        self.gates = Series(gates) if gates else None
        """Those of policies, where there are any."""
        self._lasting = tuple([gate for gate in gates if getattr(gate, "lasting", False)]) if gates else ()
        streams = isinstance(reader, Reader)
        self._mute = False
        self.knew = False
        """All of the last read was known, so that the reader has not seen it, and no policy wanted to."""
        self._take: Callable[[bytes], Batch | None] | None = getattr(passage, "take", None) if streams else None
        hearing_only = not gates or all(getattr(gate, "listening", False) for gate in gates)
        self._passes_overruns: bool = streams and hearing_only and getattr(passage, "passes_overruns", False)

    def cleaned(self, words: str) -> str:
        """Words of the provider that are told in its error, as far as the gates let them be said."""
        return self.gates.cleaned(words) if self.gates is not None else words

    def discard(self) -> None:
        """Nobody reads what comes out any more: it is only learnt from, and only `lasting` gates see it."""
        self.gates = Series(self._lasting) if self._lasting else None
        self._mute = True
        if self.gates is None and not self._passes_overruns:
            self._take = None

    def read(self, data: bytes) -> Batch:
        """One read. An event over the size limit passes unread where nobody needs to read it (`streaming.md` 7).

        Raises `wire.sse.TooLong` where somebody does, and `errors.StrayFrame` where the passage cannot carry on.
        """
        reader, take, gates = self._reader, self._take, self.gates
        taken = take(data) if take is not None and (self.knew or reader.between_frames) else None
        self.knew = gates is None and taken is not None and taken.used == len(data)
        if self.knew and taken is not None:  # most often: one frame
            return taken
        if not isinstance(reader, Reader):
            return self.frames(reader.received(data))
        if self._passes_overruns or (gates is None and take is not None):
            return self._passed(reader, data, taken)
        if gates is None or take is None:
            return self.frames(reader.received(data))
        return self._taken(reader, gates, data, taken)

    def _passed(self, reader: Reader, data: bytes, taken: Batch | None) -> Batch:
        """One read, of which only the passage must understand something. `taken` is what it begins with, if known."""
        passage, take = self._passage, self._take
        parts: list[bytes] = []
        count = events = 0
        misses = 0 if take is not None else _MOST_MISSES
        while True:
            if taken is not None:
                if self.gates is not None:
                    self.gates.received(_frames(taken.data))
                parts.append(taken.data)
                count += taken.frames
                events += taken.events
                data = data[taken.used :]
                misses, taken = 0, None
            if not data or passage.failure is not None or passage.ended:
                break
            if reader.in_overrun:
                passed, data = reader.overrun(data)
                parts.append(passed)
                events += not reader.in_overrun
                continue
            end = data.find(b"\n\n") + 2 if misses < _MOST_MISSES else 0
            piece, data = (data[:end], data[end:]) if end >= 2 else (data, b"")
            misses += 1
            passed = b""
            try:
                frames = reader.received(piece)
            except TooLong as error:
                if not self._passes_overruns:
                    raise
                frames = error.frames
                passed, _ = reader.overrun()
            made = passage.received(frames)
            if self.gates is not None:
                made = self.gates.received(made)
            parts += map(encode, made)
            parts.append(passed) if passed else None
            count += len(made) + bool(passed)
            events += len(frames)
            if take is not None and data and misses < _MOST_MISSES and reader.between_frames:
                taken = take(data)
        return Batch(parts[0] if len(parts) == 1 else b"".join(parts), count, events)

    def _taken(self, reader: Reader, gates: Gate, data: bytes, taken: Batch | None) -> Batch:
        """One read for gates: frames that are known by their bytes are taken apart, but not understood."""
        passage, take = self._passage, self._take
        made: list[Frame] = []
        events = misses = 0
        while True:
            if taken is not None:
                made += _frames(taken.data)
                events += taken.events
                data = data[taken.used :]
                misses, taken = 0, None
            if not data or passage.failure is not None or passage.ended:
                break
            end = data.find(b"\n\n") + 2 if misses < _MOST_MISSES else 0
            piece, data = (data[:end], data[end:]) if end >= 2 else (data, b"")
            misses += 1
            frames = reader.received(piece)
            made += passage.received(frames)
            events += len(frames)
            if take is not None and data and misses < _MOST_MISSES and reader.between_frames:
                taken = take(data)
        return _batch(gates.received(made), events)

    def frames(self, frames: list[Frame]) -> Batch:
        """Frames that were read already; none, for a gate that was woken."""
        made = self._passage.received(frames) if frames else []
        if self._mute:
            if self.gates is not None:
                self.gates.received(made)
            return Batch(b"", 0, len(frames))
        return _batch(made if self.gates is None else self.gates.received(made), len(frames))

    def ending(self, frames: list[Frame]) -> Batch:
        """The last frames of an answer that is stopped early: behind everything that gates have held."""
        if self._mute:
            return NOTHING
        if self.gates is not None:
            frames = [*self.gates.received(frames), *self.gates.stopped(True)]
        return _batch(frames, 0)

    def stopped(self, clean: bool) -> Batch:
        """The last frames of an answer that is over. Gates may still hold some: then come back with `frames`."""
        made = self._passage.stopped(clean)
        if self._mute:
            return NOTHING
        if self.gates is not None:
            made = [*self.gates.received(made), *self.gates.stopped(clean)]
        batch = _batch(made, 0) if made else NOTHING
        if isinstance(self._reader, Reader) and self._reader.in_overrun:  # what follows must not become a part of it
            return Batch(b"\n\n" + batch.data, batch.frames, batch.events)
        return batch


def _frames(data: bytes) -> list[Frame]:
    """Frames of one `data:` line each, taken apart."""
    return list(map(_frame, data.split(b"\n\n")[:-1]))


def _frame(raw: bytes) -> Frame:
    """A frame of one `data:` line, out of its bytes without the blank line."""
    head, _, data = raw.partition(b"data: ")
    return Frame(data, head[7:-1], raw + b"\n\n")


def _batch(made: list[Frame], events: int) -> Batch:
    return Batch(encode(made[0]) if len(made) == 1 else b"".join(map(encode, made)), len(made), events)
