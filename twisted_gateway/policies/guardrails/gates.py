"""Local guardrails on the line of a stream: what the relay sees of the release engine (`wire.series.Gate`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_gateway.exchange import Halt
from twisted_gateway.policies.guardrails.channels import Scanner
from twisted_gateway.policies.guardrails.engine import Release
from twisted_gateway.policies.guardrails.judging import Member, Run
from twisted_gateway.policies.guardrails.notes import OUTPUT, Notes
from twisted_gateway.wire.sse import Frame

_log = Logger(namespace="aisix::guardrails")

HEAVY = 2048
"""Bytes of long frames, or of undecided text, from which on a stream's texts are searched in a thread: whatever the
rules are, a search on the reactor is soon over."""

_LONG_FRAME = 1024

WITHHELD = "the provider's error is withheld by content policy"


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

    def cleaned(self, words: str) -> str:
        """What may be said of a provider's error, which may quote the answer."""
        for scanner in self._scanners:
            if scanner.whole(words) is not None:
                return WITHHELD
            words = scanner.masked(words, count=False)
        return words

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
