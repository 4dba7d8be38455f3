"""Most frames of a stream are known by their bytes and need no JSON: they are like one before, but for a text.

A decoded and edited frame teaches a `Shape`: the constant bytes around its text, as they came and as they went out.
A later frame with exactly these around a text without a bare quote in it is the same JSON but for that text, so it
needs the same edits. A frame that is not recognised is decoded like the first one: a shortcut never changes what is
written, only what it costs (`DESIGN.md` section 4, road (a)).

From stream to stream of one target an id, a time and a fingerprint differ too. What is left is its `Habits`; with
these three put in again, the frames behind the first one of the next stream are known before they come.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Any, NamedTuple

from twisted_gateway.formats import shapes
from twisted_gateway.formats.shapes import Found, Lone, Pieces, Shape, is_easy
from twisted_gateway.wire.series import Batch
from twisted_gateway.wire.sse import Frame

_MOST = 4
_LONGEST = 4096
_LESSONS = 32
_STREAMS_A_LESSON = 16


class Stamp(NamedTuple):
    """What the frames of one stream have in common and those of the next have otherwise, as it is written in JSON."""

    id: bytes
    created: bytes
    fingerprint: bytes

    @classmethod
    def of(cls, chunk: dict[str, Any], created: int) -> Stamp | None:
        """The stamp of the stream with this chunk, if it has a plain one. `created` is the stream's, 0 is not known yet."""
        given, time, mark = chunk.get("id"), chunk.get("created"), chunk.get("system_fingerprint")
        if type(given) is not str or not given or type(time) is not int or time <= 0 or time != (created or time):
            return None
        stamp = cls(given.encode(), b"%d" % time, mark.encode() if type(mark) is str else b"")
        return stamp if is_easy(stamp.id) and is_easy(stamp.fingerprint) else None


class _Habit(NamedTuple):
    """A frame's constant bytes, with bytes that no JSON has between them and where the stamp was.

    `reason` is that of a `Lone`.
    """

    known: bytes
    has_text: bool
    reason: str | None


class Habits:
    """What the frames of one target's streams are like. All of these meet the same edits (`habits`).

    What was learnt last is kept. A lesson has its price: who never writes the same way again soon gives few.
    """

    __slots__ = ("_habits", "_joined", "_lessons", "_streams")

    def __init__(self) -> None:
        self._habits: deque[_Habit] = deque(maxlen=2 * _MOST)
        self._joined = b""
        self._lessons = _LESSONS
        self._streams = 0

    def expected(self, stamp: Stamp) -> tuple[list[Shape], list[Lone]]:
        """The frames of a stream with this stamp, if it is like those before."""
        self._streams += 1
        if self._streams % _STREAMS_A_LESSON == 0 and self._lessons < _LESSONS:
            self._lessons += 1
        with_text: list[Shape] = []
        lone: list[Lone] = []
        known = self._joined.replace(b"\1", stamp.id).replace(b"\2", stamp.created).replace(b"\3", stamp.fingerprint)
        found = known.split(b"\0")
        for at, (_, has_text, reason) in enumerate(self._habits):
            own = found[6 * at : 6 * at + 6]
            if has_text:
                with_text.append(Shape(*own))
            else:
                lone.append(Lone(*own, reason))
        return with_text, lone

    def learn(self, found: Pieces, stamp: Stamp, has_text: bool, reason: str | None = None) -> None:
        """Keep a frame for later streams, if nothing but the stamp is this stream's own."""
        self._lessons -= 1
        before, after = b"\0".join(found[:3]), b"\0".join(found[3:])
        hidden = not found[3]
        if len(before) + len(after) > _LONGEST or not (_is_stamped(before, stamp) and (hidden or _is_stamped(after, stamp))):
            return
        known = before + b"\0" + after
        for name, value, mark in _written(stamp):
            known = known.replace(name + value, name + mark)
        habit = _Habit(known, has_text, reason)
        if habit not in self._habits:
            self._habits.append(habit)
            self._joined = b"\0".join([habit.known for habit in self._habits])

    @property
    def curious(self) -> bool:
        """Whether another lesson is worth its price."""
        return self._lessons > 0


def _written(stamp: Stamp) -> tuple[tuple[bytes, bytes, bytes], ...]:
    """The members of a stamp: name, value, and what stands for the value."""
    return (
        (b'"id":', b'"' + stamp.id + b'"', b'"\1"'),
        (b'"created":', stamp.created, b"\2"),
        (b'"system_fingerprint":', b'"' + stamp.fingerprint + b'"', b'"\3"'),
    )


def _is_stamped(known: bytes, stamp: Stamp) -> bool:
    """Whether each member of the stamp is there once, as it is expected; the last one may be missing."""
    for name, value, _ in _written(stamp):
        count = known.count(name)
        if count == 0 and name == b'"system_fingerprint":':
            continue
        if count != 1 or known.count(name.rstrip(b":")) != 1:
            return False
        rest = known[known.index(name) + len(name) :]
        if name == b'"system_fingerprint":' and not rest.startswith(b'"'):
            continue
        if not rest.startswith(value) or rest[len(value) : len(value) + 1] not in (b",", b"}"):
            return False
    return True


@lru_cache(1024)
def habits(*edits: object) -> Habits:
    """The habits of a target whose answers get these edits."""
    return Habits()


class Shortcuts:
    """The frames that one stream is known to have: those it has taught, and those that its target's habits expect."""

    __slots__ = ("_habits", "_lessons", "_lone", "_own", "_shapes", "_stamp")

    def __init__(self, habits: Habits) -> None:
        self._habits = habits
        self._shapes: list[Shape] = []
        self._lone: list[Lone] = []
        self._stamp: Stamp | None = None
        self._own = 0
        self._lessons = 0

    def meet(self, chunk: dict[str, Any], created: int) -> None:
        """A chunk of the stream as it came: the first one with a stamp tells which frames to expect."""
        if self._stamp is None:
            self._stamp = Stamp.of(chunk, created)
            if self._stamp is not None:
                self._shapes, self._lone = self._habits.expected(self._stamp)

    def take(self, data: bytes) -> Batch | None:
        """The frames of one known shape that `data` begins with, as they go out; None when it begins otherwise."""
        for shape in self._shapes:
            taken = shape.take(data)
            if taken is not None:
                return taken
        return None

    def lone(self, data: bytes, at: int) -> tuple[Lone, Found] | None:
        """The known frame without a text that begins there, and what was found in it."""
        for lone in self._lone:
            found = lone.found(data, at)
            if found is not None:
                return lone, found
        return None

    def learn(self, frame: Frame, made: Frame, chunk: dict[str, Any], lasts: bool) -> None:
        """Takes the shape of a frame with a text that was decoded as `chunk` and goes out as `made`, if it has one.

        `lasts`: in another stream it would get the same edits.
        """
        if self._own >= _MOST or self._lessons > 4 * _MOST:
            return
        holes = shapes.text_holes(chunk)
        if holes is None:
            return
        self._lessons += 1
        found = shapes.pieces(frame, made, holes)
        if found is None:
            return
        self._own += 1
        self._shapes.append(Shape(*found))
        if lasts and self._stamp is not None and self._habits.curious and chunk["choices"][0].get("index") == 0:
            self._habits.learn(found, self._stamp, has_text=True)

    def learn_lone(self, frame: Frame, made: Frame | None, chunk: dict[str, Any]) -> None:
        """Keeps a frame without a text for later streams, if it is one that ends a choice or tells the usage."""
        if self._stamp is None or not self._habits.curious:
            return
        holes, reason = shapes.lone_holes(frame, chunk)
        found = shapes.pieces(frame, made, holes) if holes is not None else None
        if found is not None:
            self._habits.learn(found, self._stamp, has_text=False, reason=reason)
