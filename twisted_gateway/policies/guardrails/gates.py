"""Guardrails on the line of an answer: what the relay sees of them (`wire.series.Gate`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_gateway.errors import StrayFrame
from twisted_gateway.exchange import Halt
from twisted_gateway.formats import bodies
from twisted_gateway.formats.slots import Hearing, Texts, body, text_of
from twisted_gateway.policies.guardrails.channels import Scanner
from twisted_gateway.policies.guardrails.engine import Release
from twisted_gateway.policies.guardrails.judging import Blocked, Board, Judging, Member, Run, fields
from twisted_gateway.policies.guardrails.notes import OUTPUT, Notes
from twisted_gateway.policies.guardrails.together import together
from twisted_gateway.policies.guardrails.verdict import Asked, Block, Bypass, Mask, Verdict
from twisted_gateway.policies.guardrails.windows import Question, Windows
from twisted_gateway.wire.sse import Frame

_log = Logger(namespace="aisix::guardrails")

About = Callable[[str, tuple[str, ...], bool], Asked]
"""(guardrail, texts, the answer's last text is in it): what a remote check is asked."""


HEAVY = 2048
"""Bytes of long frames, or of undecided text, from which on a stream's texts are searched in a thread: whatever the
rules are, a search on the reactor is soon over."""

_LONG_FRAME = 1024


class Incremental:
    """The release engine on the line: local guardrails on a stream.

    What takes long to search is searched in a thread. Meanwhile frames wait here; reading stops when they are too many.
    """

    def __init__(
        self,
        release: Release,
        members: Sequence[Member],
        scanners: Sequence[Scanner],
        notes: Notes,
        run: Run | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self.halted: Halt | None = None
        self._release = release
        self._members = members
        self._scanners = scanners
        self._notes = notes
        self._in_thread = run
        self._wake = wake
        self._busy: Deferred[Any] | None = None
        self._backlog: list[Frame] = []
        self._ready: list[Frame] = []
        self._clean = False
        self._inside = False
        self._seconds = 0.0
        self._told = False

    @property
    def held(self) -> int:
        """Bytes kept back."""
        if self.halted is not None:
            return 0
        if self._busy is None:
            return self._release.held + len(self._ready)
        return 1 + sum(len(frame.data) for frame in self._backlog)

    @property
    def full(self) -> bool:
        """Whether a thread is busy and enough waits for it."""
        return self._busy is not None and len(self._backlog) > 0

    @property
    def withheld(self) -> int:
        """UTF-8 bytes of text that did not go on."""
        return self._release.withheld

    def received(self, frames: list[Frame]) -> list[Frame]:
        """See `wire.series.Tube`."""
        if self._busy is not None:
            self._backlog += frames
            return []
        ready, self._ready = self._ready, []
        if not frames:
            return ready
        return ready + self._run(frames)

    def stopped(self, clean: bool) -> list[Frame]:
        """See `wire.series.Tube`."""
        if self._busy is None:
            return self._stepped(lambda: self._release.stopped(clean))
        if clean:
            self._clean = True
        else:
            self.cancel()
        return []

    def cancel(self) -> None:
        """Nobody waits for a thread any more."""
        if self._busy is not None:
            self._backlog.clear()
            self._busy.cancel()

    def _run(self, frames: list[Frame]) -> list[Frame]:
        if self._in_thread is None or self.halted is not None or not self._heavy(frames):
            return self._stepped(lambda: self._release.received(frames))
        self._inside = True
        searching = self._busy = self._in_thread(lambda: self._release.received(frames))
        searching.addBoth(self._searched, self._notes.clock())
        self._inside = False
        ready, self._ready = self._ready, []
        return ready

    def _heavy(self, frames: list[Frame]) -> bool:
        size = self._release.undecided
        for frame in frames:
            if len(frame.data) > _LONG_FRAME:
                size += len(frame.data)
        return size > HEAVY

    def _searched(self, result: Any, begun: float) -> None:
        """A thread is done: go on with what has come meanwhile."""
        self._busy = None
        self._seconds += self._notes.clock() - begun
        if isinstance(result, Failure):
            if result.check(CancelledError):
                return
            _log.failure("a guardrail failed", result)
            self.halted = self._notes.halt(None, self._seconds, "a fault of the gateway")
        else:
            self._ready += result
            self._judged()
        backlog, self._backlog = self._backlog, []
        if backlog and self.halted is None:
            self._ready += self._run(backlog)
        if self._clean and self._busy is None:
            self._ready += self._stepped(lambda: self._release.stopped(True))
        if not self._inside:
            self._wake()

    def _stepped(self, step: Callable[[], list[Frame]]) -> list[Frame]:
        if self.halted is not None:
            return []
        begun = self._notes.clock()
        try:
            made = step()
        except Exception:
            _log.failure("a guardrail failed")
            self.halted = self._notes.halt(None, self._seconds, "a fault of the gateway")
            return []
        self._seconds += self._notes.clock() - begun
        self._judged()
        return made

    def _judged(self) -> None:
        release = self._release
        if release.found is not None:
            found = release.found
            self.halted = self._notes.halt(found.guard.guardrail, self._seconds, found.reason)
        elif release.blocked:
            self.halted = self._notes.halt(None, self._seconds, "stream_buffer_exceeded")

    def settle(self) -> None:
        """The answer is over: what was masked is noted."""
        self.cancel()
        if self._told:
            return
        self._told = True
        counts: Counter[str] = sum((scanner.counts for scanner in self._scanners), Counter())
        masker = next((scanner.masker for scanner in self._scanners if scanner.masker is not None), None)
        for member in self._members:
            if counts and member.guard is masker:
                self._notes.masked(member.guardrail, OUTPUT, self._seconds, counts)
            elif self.halted is None:
                self._notes.allowed(member.guardrail, OUTPUT, self._seconds)
        if self._release.overflowed and not self._release.blocked:
            self._notes.guarded.bypassed = self._notes.guarded.bypassed or "stream_buffer_exceeded"


class Asking:
    """Somebody is asked about a stream: its frames wait for his verdict."""

    def __init__(
        self, windows: Windows, members: Sequence[Member], notes: Notes, about: About, wake: Callable[[], None]
    ) -> None:
        self.halted: Halt | None = None
        self._windows = windows
        self._members = members
        self._notes = notes
        self._about = about
        self._wake = wake
        self._running: Deferred[Any] | None = None
        self._inside = False
        self._masked: dict[Member, Counter[str]] = {}
        self._bypassed: set[Member] = set()
        self._seconds = 0.0
        self._told = False

    @property
    def held(self) -> int:
        """Bytes kept back."""
        return 0 if self.halted is not None else self._windows.held

    @property
    def full(self) -> bool:
        """Whether it holds all it may while it waits."""
        return self.halted is None and self._windows.full

    @property
    def withheld(self) -> int:
        """UTF-8 bytes of text that did not go on."""
        return self._windows.withheld

    def received(self, frames: list[Frame]) -> list[Frame]:
        """See `wire.series.Tube`."""
        return self._step(lambda: self._windows.received(frames))

    def stopped(self, clean: bool) -> list[Frame]:
        """See `wire.series.Tube`."""
        if not clean:
            self.cancel()
        return self._step(lambda: self._windows.stopped(clean))

    def cancel(self) -> None:
        """Nobody waits for the verdict any more."""
        if self._running is not None:
            self._running.cancel()

    def settle(self) -> None:
        """The answer is over: what was masked is noted."""
        self.cancel()
        if self._told:
            return
        self._told = True
        for member in self._members:
            if member in self._masked:
                self._notes.masked(member.guardrail, OUTPUT, self._seconds, self._masked[member])
            elif member not in self._bypassed and self.halted is None:
                self._notes.allowed(member.guardrail, OUTPUT, self._seconds)

    def _step(self, step: Callable[[], list[Frame]]) -> list[Frame]:
        if self.halted is not None:
            return []
        self._inside = True
        try:
            made = step()
            self._ask()
            if self.halted is None:
                made += self._windows.received([])
        finally:
            self._inside = False
        if self._windows.blocked and self.halted is None:
            self.halted = self._notes.halt(None, self._seconds, "stream_buffer_exceeded")
        return made

    def _ask(self) -> None:
        """Ask until there is nothing to ask, or somebody takes his time."""
        while self.halted is None and self._running is None:
            question = self._windows.wanted()
            if question is None:
                return
            running = Deferred.fromCoroutine(self._asked(question))
            self._running = running
            running.addBoth(self._over)

    def _over(self, result: Any) -> None:
        self._running = None
        if isinstance(result, Failure) and not result.check(CancelledError):
            _log.failure("a guardrail failed", result)
            self.halted = self._notes.halt(None, self._seconds, "a fault of the gateway")
        if not self._inside and not (isinstance(result, Failure) and result.check(CancelledError)):
            self._wake()

    async def _asked(self, question: Question) -> None:
        begun = self._notes.clock()
        asked = [self._verdict(member, question, question.texts) for member in self._members]
        try:
            verdicts = await together(asked)
        finally:
            self._seconds += self._notes.clock() - begun
        texts = question.texts
        for member, verdict in zip(self._members, verdicts, strict=True):
            if texts is not question.texts and isinstance(verdict, Mask):
                verdict = await self._verdict(member, question, texts)
            texts = self._obeyed(member, verdict, texts)
            if self.halted is not None:
                return
        self._windows.answered(question, texts)

    def _verdict(self, member: Member, question: Question, texts: Sequence[str]) -> Deferred[Verdict]:
        """The verdict about those texts that this member looks at, its masks put among the others."""
        seen = [at for at, thought in enumerate(question.reasoning) if member.guardrail.scan_reasoning or not thought]

        async def ask() -> Verdict:
            assert member.check is not None
            about = self._about(member.guardrail.name, tuple(texts[at] for at in seen), question.final)
            verdict = await member.check(about)
            if isinstance(verdict, Mask):
                every = list(texts)
                for at, text in zip(seen, verdict.texts, strict=True):
                    every[at] = text
                return Mask(tuple(every), verdict.counts)
            return verdict

        return Deferred.fromCoroutine(ask())

    def _obeyed(self, member: Member, verdict: Verdict, texts: tuple[str, ...]) -> tuple[str, ...]:
        guardrail, notes = member.guardrail, self._notes
        if isinstance(verdict, Block):
            self.halted = notes.halt(guardrail, self._seconds, verdict.reason, verdict.unavailable)
        elif isinstance(verdict, Bypass):
            if member not in self._bypassed:
                self._bypassed.add(member)
                notes.bypassed(guardrail, OUTPUT, self._seconds, verdict.reason)
        elif isinstance(verdict, Mask):
            self._masked.setdefault(member, Counter()).update(verdict.counts)
            return verdict.texts
        return texts


class Whole:
    """An answer that is not streamed: its one frame waits until everybody has looked at it."""

    full = False

    def __init__(
        self, texts: Texts, board: Board, notes: Notes, about: About, run: Run, wake: Callable[[], None]
    ) -> None:
        self.halted: Halt | None = None
        self.withheld = 0
        self._texts = texts
        self._board = board
        self._notes = notes
        self._about = about
        self._in_thread = run
        self._wake = wake
        self._frame: Frame | None = None
        self._ready: list[Frame] = []
        self._running: Deferred[Any] | None = None
        self._inside = False

    @property
    def held(self) -> int:
        """Bytes kept back."""
        kept = sum(len(frame.data) for frame in self._ready)
        return kept + (len(self._frame.data) if self._frame is not None and self.halted is None else 0)

    def received(self, frames: list[Frame]) -> list[Frame]:
        """See `wire.series.Tube`."""
        self._inside = True
        try:
            for frame in frames:
                self._look(frame)
        finally:
            self._inside = False
        ready, self._ready = self._ready, []
        return ready if self.halted is None else []

    def stopped(self, clean: bool) -> list[Frame]:
        """See `wire.series.Tube`."""
        if not clean:
            self.settle()
            self._frame = None
        return []

    def settle(self) -> None:
        """Nobody waits any more."""
        if self._running is not None:
            self._running.cancel()

    def _look(self, frame: Frame) -> None:
        try:
            document, _ = bodies.read(frame.data)
        except StrayFrame:
            self._ready.append(frame)
            return
        slots = self._texts.answered(document)
        judging = Judging(self._board, slots, OUTPUT, self._notes, self._asked, self._in_thread)
        before = sum(len(text_of(slot).encode()) for slot in slots)
        try:
            waits = not judging.now()
        except Blocked as blocked:
            self._block(blocked, before)
            return
        except Exception:
            _log.failure("a guardrail failed")
            self.halted = self._notes.halt(None, 0.0, "a fault of the gateway")
            return
        if not waits:
            self._pass(judging, frame, document, before)
            return
        self._frame = frame
        self.withheld = before
        self._running = Deferred.fromCoroutine(judging.judge())
        self._running.addCallbacks(
            lambda _: self._pass(judging, frame, document, before), lambda failure: self._failed(failure, before)
        )
        self._running.addBoth(self._over)

    def _asked(self, name: str, texts: tuple[str, ...]) -> Asked:
        return self._about(name, texts, True)

    def _pass(self, judging: Judging, frame: Frame, document: Any, before: int) -> None:
        if judging.changed:
            self.withheld = before - sum(len(text_of(slot).encode()) for slot in judging.slots)
            frame = body(document)
        else:
            self.withheld = 0
        self._frame = None
        self._ready.append(frame)

    def _failed(self, failure: Failure, before: int) -> None:
        if failure.check(CancelledError):
            return
        if isinstance(failure.value, Blocked):
            self._block(failure.value, before)
        else:
            _log.failure("a guardrail failed", failure)
            self.halted = self._notes.halt(None, 0.0, "a fault of the gateway")

    def _block(self, blocked: Blocked, before: int) -> None:
        self.withheld = before
        self.halted = self._notes.halt(blocked.member.guardrail, blocked.seconds, blocked.reason, blocked.unavailable)

    def _over(self, result: Any) -> None:
        self._running = None
        if not self._inside and (self._ready or self.halted is not None):
            self._wake()


class Listening:
    """Guardrails that only take notes: every frame goes on at once, its texts are kept for later."""

    held = 0
    full = False
    halted = None
    withheld = 0

    def __init__(self, texts: Texts, stream: bool, cap: int) -> None:
        self._texts = texts
        self._stream = stream
        self._cap = cap
        self._size = 0
        self._frames: list[Frame] = []

    def received(self, frames: list[Frame]) -> list[Frame]:
        """All of them."""
        if self._size <= self._cap:
            self._frames += frames
            self._size += sum(len(frame.data) for frame in frames)
        return frames

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing."""
        return []

    def heard(self) -> tuple[list[str], list[str]]:
        """The texts of the answer, and those among them that are no reasoning."""
        every: dict[Any, str] = {}
        loose: list[tuple[bool, str]] = []
        hearing: Hearing = self._texts.hearing()
        for frame in self._frames:
            if not self._stream:
                try:
                    document, _ = bodies.read(frame.data)
                except StrayFrame:
                    continue
                for slot in self._texts.answered(document):
                    loose += [(slot.reasoning, text) for text in fields([slot])]
                continue
            heard = hearing.heard(frame)
            if heard is None:
                continue
            if heard.document is None and heard.text:
                every[heard.channel] = every.get(heard.channel, "") + heard.text
            for slot in heard.slots:
                every[slot.channel] = every.get(slot.channel, "") + text_of(slot)
        loose += [(channel[1] == "reasoning", text) for channel, text in every.items()]
        return [text for _, text in loose], [text for thought, text in loose if not thought]
