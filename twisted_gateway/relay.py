"""Joins one open answer to the downstream: line, deadlines, outcome (`DESIGN.md` section 3, steps 6 to 8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from twisted_gateway.alarm import Alarm
from twisted_gateway.downstream import Downstream, HeadLines
from twisted_gateway.errors import Problem, StrayFrame, broken_off, timed_out, undecodable
from twisted_gateway.exchange import Attempt, Exchange, Outcome
from twisted_gateway.formats.row import Passage, Taken
from twisted_gateway.upstream import Answer
from twisted_gateway.wire.series import Series, Tube
from twisted_gateway.wire.sse import Frame, encode


class Relay:
    """One answer on its way. `done` fires with the outcome; cancelling it cuts the provider.

    All the frames of one read go through the line synchronously and leave in one write. `silence` is the longest gap
    between data events in seconds, None = no limit.
    """

    def __init__(
        self,
        exchange: Exchange,
        attempt: Attempt,
        answer: Answer,
        passage: Passage,
        tubes: Sequence[Tube],
        downstream: Downstream,
        clock: IReactorTime,
        silence: float | None,
    ) -> None:
        self.done: Deferred[Outcome] = Deferred(lambda _: self._abandoned())
        self._exchange = exchange
        self._attempt = attempt
        self._answer = answer
        self._passage = passage
        self._line: Tube = Series((passage, *tubes)) if tubes else passage
        self._take: Callable[[bytes], Taken | None] | None = None if tubes else getattr(passage, "take", None)
        self._downstream = downstream
        self._clock = clock
        assert exchange.call is not None
        self._stream = exchange.call.stream
        self._silence = silence or 0.0
        self._alarm = Alarm(clock, self._silent) if self._silence and self._stream else None
        self._over = False
        self._whole: bytes | None = None
        self._headers: HeadLines = []

    def start(self, headers: HeadLines) -> Deferred[Outcome]:
        """Commit, and let the frames flow."""
        self._headers = headers
        if self._stream:
            self._downstream.commit(headers)
        self._downstream.join(self)
        if self._alarm is not None and not self._downstream.paused:
            self._alarm.set(self._silence)
        self._answer.join(self)
        return self.done

    # Sink of the answer

    def bytes_received(self, data: bytes) -> bool:
        """A read that the passage knows by its bytes, and no policy wants to see, needs no frames."""
        if self._take is None or self._over:
            return False
        taken = self._take(data)
        if taken is None:
            return False
        self._downstream.write(taken.data, taken.frames)
        self._exchange.delivered_bytes = self._passage.text_bytes
        if self._alarm is not None and not self._downstream.paused:
            self._alarm.set(self._silence)
        return True

    def frames_received(self, frames: list[Frame]) -> None:
        """The frames of one read: through the line and out."""
        if self._over:
            return
        passage = self._passage
        try:
            out = self._line.received(frames)
        except StrayFrame as stray:
            self._broken(undecodable(str(stray)))
            return
        ended = passage.ended and passage.failure is None
        if ended:
            out = [*out, *self._line.stopped(True)]
        if out:
            self._write(out)
        if passage.failure is not None:
            self._broken(passage.failure)
        elif ended:
            self._complete()
        elif self._alarm is not None and not self._downstream.paused:
            self._alarm.set(self._silence)

    def answer_ended(self, problem: Problem | None) -> None:
        """The provider's transfer is over; whether the answer is whole is the dialect's own question (section 10)."""
        if self._over:
            return
        if self._passage.complete:
            last = self._line.stopped(True)
            if last:
                self._write(last)
            self._complete()
        else:
            self._broken(problem or broken_off())

    # Producer, for the downstream

    def pause(self) -> None:
        """The caller is slow: read no further, and do not count that as the provider's silence."""
        if self._alarm is not None:
            self._alarm.off()
        self._answer.pause()

    def resume(self) -> None:
        """The caller has caught up."""
        if self._over:
            return
        if self._alarm is not None:
            self._alarm.set(self._silence)
        self._answer.resume()

    # Ends

    def cut(self, problem: Problem, outcome: Outcome) -> None:
        """End the answer from our side by an error frame."""
        if not self._over:
            self._broken(problem, outcome)

    def _write(self, frames: list[Frame]) -> None:
        data = encode(frames[0]) if len(frames) == 1 else b"".join(map(encode, frames))
        if self._stream:
            self._downstream.write(data, len(frames))
        else:
            self._whole = data if self._whole is None else self._whole + data
        self._exchange.delivered_bytes = self._passage.text_bytes

    def _complete(self) -> None:
        if self._stream:
            self._downstream.finish()
        elif self._whole is not None:
            self._downstream.answer(self._whole, self._headers)
        self._answer.release(self._clock)
        self._end(Outcome.COMPLETE)

    def _broken(self, problem: Problem, outcome: Outcome | None = None) -> None:
        self._answer.cut()
        self._attempt.problem = problem
        self._downstream.complain(problem)
        if outcome is None:
            outcome = Outcome.STALLED if problem.kind == "timeout" else Outcome.TRUNCATED
        self._end(outcome)

    def _silent(self) -> None:
        self._broken(timed_out("silence_timeout", self._silence * 1000))

    def _abandoned(self) -> None:
        self._answer.cut()
        self._end(Outcome.ABANDONED)

    def _end(self, outcome: Outcome) -> None:
        if self._over:
            return
        self._over = True
        if self._alarm is not None:
            self._alarm.stop()
        passage, attempt = self._passage, self._attempt
        attempt.usage = passage.usage
        attempt.received_bytes = passage.text_bytes
        attempt.provider_request_id = passage.provider_request_id
        attempt.provider_model = passage.provider_model
        attempt.finish_reason = passage.finish_reason
        attempt.noise = passage.noise
        attempt.ended = self._clock.seconds()
        attempt.ended_by = attempt.problem.code or attempt.problem.type if attempt.problem is not None else outcome.value
        self._downstream.join(None)
        if not self.done.called:
            self.done.callback(outcome)
