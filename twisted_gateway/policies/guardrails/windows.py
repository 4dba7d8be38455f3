"""Streams that somebody must be asked about: held as a whole, or released window by window (`guardrails.md` 7.5, 7.6).

Sans-IO: `Windows` is a queue of frames like any `engine.Release`, but its texts become safe when a verdict says so.
What is to be asked next is `wanted`; what came of it is told to `answered`.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted_gateway.facts import frozen
from twisted_gateway.formats.slots import REASONING, Channel, Heard, Hearing, text_of
from twisted_gateway.policies.guardrails.arguments import leaves, replaced
from twisted_gateway.policies.guardrails.channels import Scanner, Text
from twisted_gateway.policies.guardrails.engine import Call, Held, Piece, Release
from twisted_gateway.policies.guardrails.masking import Edit, aligned
from twisted_gateway.policies.guardrails.matching import Matcher
from twisted_gateway.wire.sse import Frame

_NOBODY = Scanner((), None, Matcher(()))


class Unchecked(Text):
    """A text that nobody here can judge. `over`: nothing more will come; `asked`: how far it was asked about.

    `owed`: a mask was put off, so that its end is asked about once more.
    """

    __slots__ = ("asked", "over", "owed", "reasoning")

    def __init__(self, reasoning: bool) -> None:
        super().__init__(_NOBODY)
        self.reasoning = reasoning
        self.over = False
        self.owed = False
        self.asked = 0

    def look(self, final: bool = False) -> None:
        """Nothing is decided here; but an end that was asked about already need not wait for more."""
        self.over = self.over or final
        if self.over and not self.open:
            self._release(len(self._text))

    @property
    def open(self) -> bool:
        """Whether there is something that must be asked about."""
        return self.asked < self.end or (self.over and self.owed)

    @property
    def rest(self) -> str:
        """What is not released."""
        return self._text[self._start :]

    @property
    def fresh(self) -> int:
        """Characters that nobody was asked about."""
        return self.end - self.asked

    def passed(self, upto: int, edits: Sequence[Edit], overlap: int) -> None:
        """It was asked about up to `upto`, and these are the masks; their offsets begin where it was released up to.

        The last `overlap` characters are asked about once more, and so is a mask that reaches into them.
        """
        start = self._base + self._start
        self.asked = upto
        self.owed = False
        safe = upto if self.over and upto == self.end else max(start, upto - overlap)
        for edit in edits:
            if start + edit.end > safe:
                safe = max(start, min(safe, start + edit.start))
                self.owed = True
                break
            self.edits.append(edit._replace(start=start + edit.start, end=start + edit.end))
        self._release(safe - self._base)


@frozen(eq=False)
class Question:
    """What is asked about: the ends of texts, then of each tool call its name, its arguments, the strings in them."""

    texts: tuple[str, ...]
    reasoning: tuple[bool, ...]
    """For each text, whether it is what the model thought."""
    ends: tuple[tuple[Unchecked, int], ...]
    calls: tuple[Call, ...]
    final: bool


class Windows(Release):
    """The queue of one streamed answer. `size` 0: the whole answer is asked about, at its end."""

    def __init__(self, hearing: Hearing, *, size: int, overlap: int, cap: int, open: bool, reasoning: bool) -> None:
        thoughts = _NOBODY if reasoning else None
        super().__init__(_NOBODY, hearing, holds=not size, cap=cap, open=open, thoughts=thoughts)
        self._size = size
        self._overlap = overlap if size else 0
        self._over = False
        self.running = False
        """A question is being asked."""

    @property
    def full(self) -> bool:
        """It holds all it may while it waits for a verdict."""
        return self.running and self.waiting > self._cap

    def wanted(self) -> Question | None:
        """What to ask now, or None. Whoever takes it must tell `answered` before he asks again."""
        if self.running or self.blocked:
            return None
        texts, calls = self._open_ones()
        if not self._due(texts, calls):
            return None
        asked = [text.rest for text in texts]
        for call in calls:
            asked += [call.name, call.arguments, *leaves(call.arguments)]
        thoughts = [text.reasoning for text in texts] + [False] * (len(asked) - len(texts))
        self.running = True
        ends = tuple((text, text.end) for text in texts)
        return Question(tuple(asked), tuple(thoughts), ends, tuple(calls), self._over or self._spoken)

    @property
    def _spoken(self) -> bool:
        """Every text and call that has begun is complete: nothing but the ends of the stream is to come."""
        return all(text.over for text in self._unchecked()) and all(call.done for call in self._calls.values())

    def _open_ones(self) -> tuple[list[Unchecked], list[Call]]:
        texts = [text for text in self._unchecked() if text.open]
        return texts, [call for call in self._calls.values() if call.done and not call.ready]

    def _due(self, texts: Sequence[Unchecked], calls: Sequence[Call]) -> bool:
        if not texts and not calls:
            return False
        if self._over:
            return True
        if not self._size:
            return False
        if calls or any(text.over for text in texts):
            return True
        fresh = sum(text.fresh for text in texts)
        return fresh >= self._size - self._overlap and sum(len(text.rest) for text in texts) >= self._size

    def answered(self, question: Question, texts: Sequence[str]) -> None:
        """The texts may go, as they stand in `texts`."""
        self.running = False
        for (text, upto), before, after in zip(question.ends, question.texts, texts, strict=False):
            text.passed(upto, aligned(before, after) if before != after else (), self._overlap)
        at = len(question.ends)
        for call in question.calls:
            inner = list(leaves(call.arguments))
            name, arguments, *said = texts[at : at + 2 + len(inner)]
            at += 2 + len(inner)
            self._spread(call, False, call.name, name)
            if said != inner:
                arguments = replaced(call.arguments, said)
            self._spread(call, True, call.arguments, arguments)
            call.ready = True

    def stopped(self, clean: bool) -> list[Frame]:
        """See `Release.stopped`; what is left is to be asked about first."""
        if not clean or self.blocked:
            return super().stopped(False)
        self._over = True
        self._end(())
        return self._leaving()

    def _unchecked(self) -> list[Unchecked]:
        return [text for text in self._texts.values() if isinstance(text, Unchecked)]

    def _text(self, channel: Channel) -> Text:
        return Unchecked(channel[1] == REASONING)

    def _judge(self, call: Call) -> bool:
        call.done = True
        return False

    def _wholes(self, held: Held, heard: Heard) -> bool:
        """Texts that stand in a frame as a whole are texts of their own."""
        for slot in heard.wholes:
            if slot.reasoning and self._thoughts is None:
                continue
            text = text_of(slot)
            known = Unchecked(slot.reasoning)
            known.add(text)
            known.over = True
            self._texts[("whole", slot.channel[1], len(self._texts))] = known
            held.pieces.append(Piece(slot, known, 0, len(text)))
            held.size += len(text.encode())
        return False

    def _too_much(self) -> bool:
        return self.waiting > self._cap and not self.running and not self._due(*self._open_ones())

    def _overflow(self) -> bool:
        went = super()._overflow()
        if went:
            for text in self._unchecked():
                text.asked, text.owed, text.over = text.end, False, True
                text.look()
                text.over = False
        return went

    def _leaving(self) -> list[Frame]:
        if self._over and not self.running and not any(text.open for text in self._unchecked()):
            self._holds = any(call.done and not call.ready for call in self._calls.values())
        return super()._leaving()
