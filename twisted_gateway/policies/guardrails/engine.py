"""The release engine: frames wait in one queue until every character they carry is known to be safe. Sans-IO.

Reference: `guardrails.md` 7. A frame that was not changed leaves as it came, byte for byte.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import attrs

from twisted_gateway.facts import define, frozen
from twisted_gateway.formats.slots import REASONING, TOOL, Channel, Heard, Hearing, Slot, put, text_of, twins, written
from twisted_gateway.policies.guardrails.arguments import leaves, masked_arguments
from twisted_gateway.policies.guardrails.channels import Found, Scanner, Text
from twisted_gateway.policies.guardrails.masking import rewritten
from twisted_gateway.wire.sse import Frame


@define(eq=False)
class Call:
    """A tool call: nobody can run it before it is whole, so it is judged as a whole, and held until then."""

    name: str = ""
    arguments: str = ""
    done: bool = False
    """It is complete."""
    ready: bool = False
    """It was judged, and may go."""
    pieces: list[Piece] = attrs.field(factory=list)


@define(eq=False)
class Piece:
    """A piece of a text in a frame: its slot, unless the frame was never decoded, and its place in the text."""

    slot: Slot | None
    owner: Text | Call
    start: int = 0
    end: int = 0
    text: str | None = None
    """What is written instead, once that is known for a call."""


@define(eq=False)
class Held:
    """A frame in the queue."""

    frame: Frame
    pieces: list[Piece]
    document: Any
    size: int
    """UTF-8 bytes of its pieces' texts."""
    changed: bool = False


class Release:
    """The queue of one streamed answer.

    `holds`: nothing leaves before the end. `cap`: UTF-8 bytes of text that may be held; past it the answer is let go if
    `open`, else it is blocked. `thoughts` scans reasoning, None: nobody looks at it.
    """

    def __init__(
        self, scanner: Scanner, hearing: Hearing, *, holds: bool, cap: int, open: bool, thoughts: Scanner | None = None
    ) -> None:
        self._scanner = scanner
        self._thoughts = thoughts
        self._hearing = hearing
        self._holds = holds
        self._cap = cap
        self._open = open
        self._texts: dict[Channel, Text] = {}
        self._calls: dict[Channel, Call] = {}
        self._queue: deque[Held] = deque()
        self._dirty: set[Text] = set()
        self.waiting = 0
        """UTF-8 bytes of text in the queue."""
        self.withheld = 0
        """UTF-8 bytes of text that came in and did not go on."""
        self.found: Found | None = None
        self.overflowed = False
        """More was held than may be."""

    @property
    def blocked(self) -> bool:
        """The answer ends here."""
        return self.found is not None or (self.overflowed and not self._open)

    @property
    def undecided(self) -> int:
        """Characters that will be searched again, or for the first time."""
        texts = sum(text.end - text.safe for text in self._texts.values())
        return texts + sum(len(call.arguments) for call in self._calls.values() if not call.done)

    @property
    def held(self) -> int:
        """Frames in the queue: bytes, and never 0 while there is one."""
        return self.waiting + len(self._queue)

    def received(self, frames: list[Frame]) -> list[Frame]:
        """The frames that may leave, in order."""
        if self.blocked:
            return []
        if len(frames) == 1 and not self._queue and not self._holds:
            passed = self._alone(frames[0])
            if passed is not None:
                return passed
        for frame in frames:
            if not self._take(frame):
                return self._dropped()
        for text in self._dirty:
            if self._look(text):
                return self._dropped()
        self._dirty.clear()
        return self._gone()

    def _gone(self) -> list[Frame]:
        """What may leave, now that all texts were looked at."""
        made = self._leaving()
        if self._too_much():
            if not self._overflow():
                return [*made, *self._dropped()]
            made += self._leaving()
        return made

    def stopped(self, clean: bool) -> list[Frame]:
        """The answer is over: well, and everything is judged; or not, and what is safe already leaves."""
        if self.blocked:
            return []
        if not clean:
            made = [] if self._holds else self._leaving()
            self._dropped()
            return made
        if self._end(()):
            return self._dropped()
        self._holds = False
        return self._leaving()

    # What comes

    def _alone(self, frame: Frame) -> list[Frame] | None:
        """Nothing waits, and here is a frame with one text: most often it just passes. None: it was not looked at."""
        heard = self._hearing.heard(frame)
        text = self._texts.get(heard.channel) if heard is not None and heard.document is None else None
        if heard is None or text is None or not heard.text:
            return None
        start = text.end
        text.add(heard.text)
        self.found = text.look()
        if self.found is not None:
            return self._dropped()
        if text.safe == text.end and not text.edits:
            return [frame]
        self._put(Held(frame, [Piece(None, text, start, text.end)], None, len(heard.text)))
        return self._gone()

    def _take(self, frame: Frame) -> bool:
        """Put a frame into the queue; False when it blocks."""
        heard = self._hearing.heard(frame)
        if heard is None:
            self._queue.append(Held(frame, [], None, 0))
            return True
        if heard.document is None and heard.text:
            pieces = []
            size = len(heard.text)
            if self._thoughts is not None or heard.channel[1] != REASONING:
                pieces.append(self._piece(None, heard.channel, heard.text))
            self._put(Held(frame, pieces, None, size))
            return True
        pieces, size = [], 0
        for slot in heard.slots:
            if self._thoughts is not None or not slot.reasoning:
                text = text_of(slot)
                size += len(text.encode())
                pieces.append(self._piece(slot, slot.channel, text))
        held = Held(frame, pieces, heard.document, size)
        held.changed = heard.document is not None and twins(heard.document, frame.data)
        for channel in heard.ends:
            if self._end(channel):
                return False
        if heard.wholes and self._wholes(held, heard):
            return False
        self._put(held)
        return True

    def _put(self, held: Held) -> None:
        self._queue.append(held)
        self.waiting += held.size
        self.withheld += held.size

    def _piece(self, slot: Slot | None, channel: Channel, text: str) -> Piece:
        if channel[1] == TOOL:
            assert slot is not None
            call = self._calls.get(channel)
            if call is None:
                call = self._calls[channel] = Call()
            call.done = call.ready = False
            if slot.arguments:
                call.arguments += text
            else:
                call.name += text
            piece = Piece(slot, call)
            call.pieces.append(piece)
            return piece
        owner = self._texts.get(channel)
        if owner is None:
            owner = self._texts[channel] = self._text(channel)
        start = owner.end
        owner.add(text)
        self._dirty.add(owner)
        return Piece(slot, owner, start, start + len(text))

    def _text(self, channel: Channel) -> Text:
        thoughts = self._thoughts if channel[1] == REASONING else None
        return Text(thoughts or self._scanner)

    def _wholes(self, held: Held, heard: Heard) -> bool:
        """Texts that stand in a frame as a whole: True when one blocks. They repeat others: nothing is counted."""
        for slot in heard.wholes:
            scanner = self._thoughts if slot.reasoning else self._scanner
            if scanner is None:
                continue
            text = text_of(slot)
            for said in (text, *(leaves(text) if slot.arguments else ())):
                self.found = scanner.whole(said)
                if self.found is not None:
                    return True
            mask = partial(scanner.masked, count=False)
            masked = masked_arguments(text, mask) if slot.arguments else mask(text)
            if masked != text:
                put(slot, masked)
                held.changed = True
        return False

    def _look(self, text: Text, final: bool = False) -> bool:
        self.found = text.look(final)
        return self.found is not None

    def _end(self, channel: Channel) -> bool:
        """These texts are complete: True when one blocks."""
        size = len(channel)
        for key, text in self._texts.items():
            if key[:size] == channel and self._look(text, True):
                return True
        return any(key[:size] == channel and not call.done and self._judge(call) for key, call in self._calls.items())

    def _judge(self, call: Call) -> bool:
        """A tool call is complete: True when it blocks."""
        call.done = True
        for said in (call.name, call.arguments, *leaves(call.arguments)):
            self.found = self._scanner.whole(said)
            if self.found is not None:
                return True
        if self._scanner.masker is not None:
            self._spread(call, True, call.arguments, masked_arguments(call.arguments, self._scanner.masked))
            self._spread(call, False, call.name, self._scanner.masked(call.name))
        call.ready = True
        return False

    def _spread(self, call: Call, arguments: bool, before: str, after: str) -> None:
        """A changed text goes into the first piece that is not gone, and the others become empty."""
        if before == after:
            return
        for piece in call.pieces:
            if piece.slot is not None and piece.slot.arguments == arguments:
                piece.text, after = after, ""

    def _too_much(self) -> bool:
        return self.waiting > self._cap

    def _overflow(self) -> bool:
        """More is held than may be: True where the answer may go on nevertheless."""
        self.overflowed = True
        if not self._open:
            return False
        self._holds = False
        for text in self._texts.values():
            text.force()
        for call in self._calls.values():
            call.done = call.ready = True
        return True

    # What leaves

    def _dropped(self) -> list[Frame]:
        self._queue.clear()
        self.waiting = 0
        return []

    def _leaving(self) -> list[Frame]:
        if self._holds:
            return []
        return list(self._left())

    def _left(self) -> Iterator[Frame]:
        queue = self._queue
        while queue:
            held = queue[0]
            for piece in held.pieces:
                owner = piece.owner
                if isinstance(owner, Text):
                    if piece.end > owner.safe:
                        return
                elif not owner.ready:
                    return
            queue.popleft()
            self.waiting -= held.size
            self.withheld -= held.size
            frame = self._frame(held)
            if frame is not None:
                yield frame

    def _frame(self, held: Held) -> Frame | None:
        """A frame as it leaves; None for one that has nothing to say any more."""
        changes: list[tuple[int, str]] = []
        for index, piece in enumerate(held.pieces):
            owner = piece.owner
            if isinstance(owner, Call):
                owner.pieces.remove(piece)
                if piece.text is not None:
                    changes.append((index, piece.text))
            elif owner.edits:
                edits = [
                    edit._replace(start=edit.start - piece.start, end=edit.end - piece.start)
                    for edit in owner.edits
                    if edit.start < piece.end and (edit.end > piece.start or edit.start >= piece.start)
                ]
                if edits:
                    changes.append((index, _Edits(edits)))  # type: ignore[arg-type]
                owner.forget(piece.end)
        if not changes:
            return written(held.frame, held.document) if held.changed else held.frame
        return self._changed(held, changes)

    def _changed(self, held: Held, changes: list[tuple[int, Any]]) -> Frame | None:
        if held.document is None:  # it was known by its bytes
            heard = self._hearing.heard(held.frame, decoded=True)
            assert heard is not None
            held.document = heard.document
            for piece, found in zip(held.pieces, heard.slots, strict=True):
                piece.slot = found
        size = 0
        for index, change in changes:
            slot = held.pieces[index].slot
            assert slot is not None
            before = text_of(slot)
            after = rewritten(before, change.edits) if isinstance(change, _Edits) else change
            size += len(before.encode()) - len(after.encode())
            put(slot, after)
        self.withheld += size
        if self._hearing.empty(held.document) and not any(
            text_of(piece.slot) for piece in held.pieces if piece.slot is not None
        ):
            return None
        return written(held.frame, held.document)


@frozen
class _Edits:
    edits: list[Any]
