"""An answer that is not streamed, on the line: its one frame waits until everybody has looked at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_gateway.errors import StrayFrame
from twisted_gateway.exchange import Halt
from twisted_gateway.formats import bodies
from twisted_gateway.formats.slots import Texts, body, text_of, twins
from twisted_gateway.policies.guardrails.asking_gate import About
from twisted_gateway.policies.guardrails.judging import Blocked, Board, Judging, Run
from twisted_gateway.policies.guardrails.notes import OUTPUT, Notes
from twisted_gateway.policies.guardrails.verdict import Asked
from twisted_gateway.wire.sse import Frame

_log = Logger(namespace="aisix::guardrails")


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
        before = 0
        try:
            slots = self._texts.answered(document)
            judging = Judging(self._board, slots, OUTPUT, self._notes, self._asked, self._in_thread)
            judging.ambiguous = twins(document, frame.data)
            before = sum(len(text_of(slot).encode()) for slot in slots)
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
        if judging.changed or judging.ambiguous:
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
