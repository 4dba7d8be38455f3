"""Most frames of a stream are known by their bytes and need no JSON: they are like one before, but for a text.

A decoded and edited frame teaches a `Shape`: the constant bytes around its text, as they came and as they went out.
A later frame with exactly these around a text without a bare quote in it is the same JSON but for that text, so it
needs the same edits. A frame that is not recognised is decoded like the first one: a shortcut never changes what is
written, only what it costs (`DESIGN.md` section 4, road (a)).

Streams of one target differ from each other in an id, a time and a fingerprint too, all of which their frames begin
with. What is behind that are the target's `Habits`: most frames of its next stream are known before they come.
"""

from __future__ import annotations

import re
from collections import deque
from functools import lru_cache
from typing import Any, NamedTuple

import attrs

from twisted_gateway.facts import define
from twisted_gateway.formats.shapes import Found, Lone, Pieces, Shape, is_usual, lone_holes, pieces, text_holes
from twisted_gateway.wire.series import Batch
from twisted_gateway.wire.sse import Frame, encode

_MOST = 4
_LONGEST = 2048
_LESSONS = 16
_STREAMS_A_LESSON = 64
_CHOICES = b'"choices":['
_EASY = rb"[\x20\x21\x23-\x5b\x5d-\x7e]"
_STAMP = {
    "id": b'"(' + _EASY + b'+)"',
    "created": b"([1-9][0-9]{0,14})",
    "system_fingerprint": b'"(' + _EASY + b'*)"',
}
"""What each stream has for itself, as it is written where nothing is odd."""
_OWN = (b'"id":', b'"created":', b'"model":')
"""What a frame says of its stream and not of itself; behind the choices it would say it again."""


class Opening(NamedTuple):
    """What all frames of one stream begin with, as they come and as they go out, and what that says."""

    came: bytes
    goes: bytes
    id: str
    created: int
    model: str


@define
class Envelope:
    """What frames of a target begin with, up to their choices.

    `came` matches that, `goes` are the bytes for the caller, with `%b` for each group; `model` is the provider's name.
    """

    came: re.Pattern[bytes]
    goes: bytes
    model: str
    texts: deque[Pieces] = attrs.field(factory=lambda: deque(maxlen=_MOST), eq=False)
    """How frames with a text go on behind it."""
    first: deque[Lone] = attrs.field(factory=lambda: deque(maxlen=_MOST), eq=False)
    """Those that begin a choice; behind it, those that end it or tell the usage."""
    lone: deque[Lone] = attrs.field(factory=lambda: deque(maxlen=2 * _MOST), eq=False)

    def opening(self, data: bytes) -> Opening | None:
        """What a stream begins with whose first frame is that; None when it begins otherwise."""
        found = self.came.match(data)
        if found is None:
            return None
        return Opening(found[0], self.goes % found.groups(), found["id"].decode(), int(found["created"]), self.model)

    def keep(self, found: Pieces, opening: Opening, first: bool | None = None, reason: str | None = None) -> None:
        """How a frame goes on behind the opening, for later streams: one with a text, where `first` is None."""
        head, middle, tail, head_out, middle_out, tail_out = found
        hidden = not head_out
        rest = b"".join(found[:3])[len(opening.came) :]
        if not head.startswith(opening.came) or not (hidden or head_out.startswith(opening.goes)):
            return
        if len(rest) > _LONGEST or any(name in rest for name in _OWN):
            return
        kept = (head[len(opening.came) :], middle, tail, head_out[len(opening.goes) :], middle_out, tail_out)
        if first is None:
            if kept not in self.texts:
                self.texts.append(kept)
            return
        lone, known = Lone(*kept, first, reason, hidden), self.first if first else self.lone
        if lone not in known:
            known.append(lone)


def _envelope(raw: bytes, made: bytes, chunk: dict[str, Any], model: str) -> Envelope | None:
    """The envelope of a frame that was decoded as `chunk`; None where it has none, or an odd one."""
    came, _, rest = raw.partition(_CHOICES)
    goes, _, rest_out = made.partition(_CHOICES)
    if not rest or not rest_out or came.count(b'"model":') != 1 or len(came) > _LONGEST:
        return None
    stamp, stamp_out = _stamp(came, chunk), _stamp(goes, chunk)
    if stamp is None or stamp_out is None or [name for *_, name in stamp] != [name for *_, name in stamp_out]:
        return None
    pattern, template, at, at_out = b"", b"", 0, 0
    for (begin, end, name), (begin_out, end_out, _) in zip(stamp, stamp_out, strict=True):
        pattern += re.escape(came[at:begin]) + _STAMP[name].replace(b"(", b"(?P<%b>" % name.encode())
        template += goes[at_out:begin_out].replace(b"%", b"%%") + (b"%b" if name == "created" else b'"%b"')
        at, at_out = end, end_out
    pattern += re.escape(came[at:] + _CHOICES)
    return Envelope(re.compile(pattern), template + (goes[at_out:] + _CHOICES).replace(b"%", b"%%"), model)


def _stamp(data: bytes, chunk: dict[str, Any]) -> list[tuple[int, int, str]] | None:
    """Where a stream's own values are, in their order; None where they are not all there as they are expected."""
    places = []
    for name, plain in _STAMP.items():
        value = chunk.get(name)
        found = list(re.finditer(b'"%b"(?::%b,)?' % (name.encode(), plain), data))
        if name == "system_fingerprint" and (not found or not isinstance(value, str)):
            continue  # it need not have one
        if len(found) != 1 or found[0][1] != str(value).encode():
            return None
        places.append((found[0].start() + len(name) + 3, found[0].end() - 1, name))
    return sorted(places)


class Habits:
    """What the frames of one target's streams are like. All of these meet the same edits (`habits`).

    No text is kept. What was learnt last is; a lesson has its price, and who never repeats itself soon gives few.
    """

    __slots__ = ("_envelopes", "_lessons", "_streams")

    def __init__(self) -> None:
        self._envelopes: deque[Envelope] = deque(maxlen=_MOST)
        self._lessons = _LESSONS
        self._streams = 0

    def met(self, data: bytes) -> tuple[Envelope, Opening] | None:
        """The envelope of a stream whose first frame is that, if it is like those before."""
        self._streams += 1
        if self._streams % _STREAMS_A_LESSON == 0 and self._lessons < _LESSONS:
            self._lessons += 1
        for envelope in self._envelopes:
            opening = envelope.opening(data)
            if opening is not None:
                return envelope, opening
        return None

    def learn(self, frame: Frame, made: Frame, chunk: dict[str, Any], model: str) -> tuple[Envelope, Opening] | None:
        """The envelope of a stream that begins with a frame unlike those before."""
        if frame.raw is None or frame.event or not is_usual(chunk) or not self.lesson():
            return None
        envelope = _envelope(frame.raw, encode(made), chunk, model)
        opening = envelope.opening(frame.raw) if envelope is not None else None
        if envelope is None or opening is None:
            return None
        if envelope in self._envelopes:  # another stream has just taught it
            return self._envelopes[self._envelopes.index(envelope)], opening
        self._envelopes.append(envelope)
        return envelope, opening

    def lesson(self) -> bool:
        """Whether another one is worth its price, which is paid then."""
        if self._lessons <= 0:
            return False
        self._lessons -= 1
        return True


@lru_cache(256)
def habits(*edits: object) -> Habits:
    """The habits of a target whose answers get these edits."""
    return Habits()


class Shortcuts:
    """The frames that one stream is known to have: those it has taught, and those that its target's habits expect."""

    __slots__ = ("_envelope", "_habits", "_lessons", "_opening", "_own", "_shapes", "latest")

    def __init__(self, habits: Habits) -> None:
        self._habits = habits
        self._envelope: Envelope | None = None
        self._opening: Opening | None = None
        self._shapes: list[Shape] = []
        self._own = 0
        self._lessons = 0
        self.latest: Shape | None = None
        """Of the frames that were taken last."""

    def open(self, data: bytes) -> Opening | None:
        """The stream's first frame: if it begins as those of other streams did, its next frames are known."""
        met = self._habits.met(data)
        if met is None:
            return None
        self._envelope, opening = met
        self._opening = opening
        for head, middle, tail, head_out, middle_out, tail_out in self._envelope.texts:
            known = (opening.came + head, middle, tail, opening.goes + head_out, middle_out, tail_out)
            self._shapes.append(Shape.of(known))
        return opening

    def take(self, data: bytes) -> Batch | None:
        """The frames of one known shape that `data` begins with, as they go out; None when it begins otherwise."""
        for shape in self._shapes:
            taken = shape.take(data)
            if taken is not None:
                self.latest = shape
                return taken
        return None

    def lone(self, data: bytes, at: int = 0, *, first: bool = False) -> Found | None:
        """The known frame without a text that begins there, as it goes out."""
        envelope, opening = self._envelope, self._opening
        if envelope is None or opening is None or not data.startswith(opening.came, at):
            return None
        at += len(opening.came)
        for lone in envelope.first if first else envelope.lone:
            found = lone.found(data, at, opening.goes)
            if found is not None:
                return found
        return None

    def begin(self, frame: Frame, made: Frame | None, chunk: dict[str, Any], model: Any) -> None:
        """The stream's first frame was decoded as `chunk`, with the provider's `model`: keeps what it begins with.

        Where that was known, but the frame says otherwise further on, nothing is.
        """
        opening = self._opening
        if opening is not None:
            if (opening.id, opening.created, opening.model) != (chunk["id"], chunk["created"], model):
                self._envelope = self._opening = None
                self._shapes.clear()
        elif made is not None and isinstance(model, str) and model:
            learnt = self._habits.learn(frame, made, chunk, model)
            if learnt is not None:
                self._envelope, self._opening = learnt

    def learn(self, frame: Frame, made: Frame, chunk: dict[str, Any]) -> None:
        """Takes the shape of a frame with a text that was decoded as `chunk` and goes out as `made`, if it has one."""
        if self._own >= _MOST or self._lessons > 4 * _MOST:
            return
        holes = text_holes(chunk)
        if holes is None:
            return
        self._lessons += 1
        found = pieces(frame, made, holes)
        if found is None:
            return
        self._own += 1
        self._shapes.append(Shape.of(found))
        if self._envelope is None or self._opening is None or chunk["choices"][0].get("index") != 0:
            return
        if is_usual(chunk) and self._habits.lesson():
            self._envelope.keep(found, self._opening)

    def learn_lone(self, frame: Frame, made: Frame | None, chunk: dict[str, Any], *, first: bool) -> None:
        """Keeps a frame without a text for later streams: the first one, the last one of a choice, the usage."""
        choices, opening = chunk["choices"], self._opening
        if opening is None or self._envelope is None:
            return
        reason = choices[0].get("finish_reason") if choices else None
        if bool(choices) is not (first or reason is not None) or (first and reason is not None):
            return
        if not is_usual(chunk) or not self._habits.lesson():
            return
        holes = lone_holes(frame, chunk)
        found = pieces(frame, made, holes) if holes is not None else None
        if found is not None:
            self._envelope.keep(found, opening, first, reason)
