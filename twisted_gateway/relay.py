"""Joins one open answer to the downstream: line, deadlines, outcome (`DESIGN.md` section 3, steps 6 to 8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from twisted_gateway.alarm import Alarm
from twisted_gateway.answer import OpenAnswer
from twisted_gateway.charging import so_far
from twisted_gateway.config.routes import ThroughputFloor
from twisted_gateway.downstream import Downstream, HeadLines
from twisted_gateway.errors import (
    AttemptFailed,
    Problem,
    StrayFrame,
    broken_off,
    ended_by,
    our_fault,
    timed_out,
    too_slow,
    undecodable,
    without,
)
from twisted_gateway.exchange import Attempt, Exchange, Joint, Outcome, Usage
from twisted_gateway.facts import fact
from twisted_gateway.floor import Floor
from twisted_gateway.formats.row import Learnt, Passage
from twisted_gateway.lane import Lane
from twisted_gateway.line import Line
from twisted_gateway.wire.series import NOTHING, Batch, Gate
from twisted_gateway.wire.sse import Frame, TooLong, encode

_TRIES = 8
"""How often a lane is opened for frames none of which is like the one before."""

P = ParamSpec("P")
_log = Logger()
Gates = Callable[[Joint], Sequence[Gate]]


class Unbound(AttemptFailed):
    """An open answer failed before a data frame of it was written: another attempt may still be made.

    When none is, the call ends by `outcome`, told by `frames` where the dialect has its own way.
    """

    def __init__(self, problem: Problem, outcome: Outcome, frames: list[Frame] | None) -> None:
        super().__init__(problem, status=problem.embedded, retryable=True)
        self.outcome = outcome
        self.frames = frames


@fact
class Waits:
    """Seconds. `silence` is the longest gap between data events, None = no limit.

    `progress`: after so long without a frame the passage says that the answer is still being made, 0 = never.
    """

    silence: float | None = None
    progress: float = 0.0
    floor: ThroughputFloor | None = None


def _safely(step: Callable[Concatenate[Relay, P], None]) -> Callable[Concatenate[Relay, P], None]:
    """A step of a relay that does not raise."""

    @wraps(step)
    def safe(relay: Relay, /, *args: P.args, **more: P.kwargs) -> None:
        try:
            step(relay, *args, **more)
        except Exception as error:
            relay.faulty(error)

    return safe


class Relay:
    """One answer on its way. `run` gives the outcome, or fails as `Unbound`; cancelling it cuts the provider.

    All the frames of one read go through the line synchronously and leave in one write.
    """

    __slots__ = (
        "_alarm", "_alarms", "_answer", "_attempt", "_clock", "_delivered", "_downstream", "_every",
        "_exchange", "_finishing", "_floor", "_full", "_hasty", "_headers", "_lane", "_line", "_over", "_passage",
        "_patience", "_plain", "_progress", "_result", "_rule", "_shows", "_silence", "_slow", "_stopping", "_stream",
        "_waiter", "_whole",
    )  # fmt: skip

    def __init__(
        self,
        exchange: Exchange,
        attempt: Attempt,
        answer: OpenAnswer,
        passage: Passage,
        gates: Gates,
        downstream: Downstream,
        clock: IReactorTime,
        waits: Waits,
    ) -> None:
        self._waiter: Deferred[Outcome] | None = None
        self._result: Outcome | Unbound | None = None
        self._exchange = exchange
        self._attempt = attempt
        self._answer = answer
        self._passage = passage
        checked = () if downstream.gone else gates(Joint(attempt, passage, self.woken, self.settle))
        self._line = Line(answer.reader, passage, checked)
        if downstream.gone:
            self._line.discard()
        self._downstream = downstream
        self._clock = clock
        assert exchange.call is not None
        self._stream = exchange.call.stream
        self._silence = waits.silence or 0.0
        self._patience: float = getattr(passage, "patience", 0.0)
        self._shows = hasattr(passage, "shown_bytes")
        self._plain = not self._shows and self._line.gates is None  # all that is read is shown
        waited = self._stream and (self._silence or self._patience)
        self._alarm = Alarm(clock, self._silent) if waited else None
        # a policy that holds text back must not be passed by, so there is no progress beside one
        told = self._stream and waits.progress and self._line.gates is None and hasattr(passage, "progress")
        self._every = waits.progress
        self._progress = Alarm(clock, self._tell_progress) if told else None
        self._floor: Floor | None = None
        self._rule = waits.floor if self._stream else None
        self._slow = Alarm(clock, self._check_floor) if self._rule is not None else None
        self._alarms = [alarm for alarm in (self._alarm, self._progress, self._slow) if alarm is not None]
        self._hasty = self._stream and self._line.gates is None and self._rule is None
        self._lane: Lane | None = None
        self._over = False
        self._finishing = False
        self._full = False
        self._stopping = False
        self._delivered = 0
        self._whole: bytes | None = None
        self._headers: HeadLines = []

    async def run(self, headers: HeadLines) -> Outcome:
        """Commit, let the frames flow, and give the outcome once it is over. Raises `Unbound`."""
        self._begin(headers)
        result, self._result = self._result, None
        if result is None:
            self._waiter = Deferred(lambda _: self._abandoned())
            return await self._waiter
        if isinstance(result, Unbound):
            raise result
        return result

    def _begin(self, headers: HeadLines) -> None:
        self._headers = headers
        if self._stream and not self._exchange.late_head:
            self._downstream.commit(headers)
        if self._rule is not None and self._slow is not None:
            self._floor = Floor(self._rule, self._clock.seconds())
            self._slow.set(self._rule.window_secs)
        if self._stream:
            self._downstream.join(self)
        self._answer.join(self)
        if not self._stream and not self._over:  # only gates can still hold an answer that is whole
            self._downstream.join(self)
        if self._alarm is not None and not (self._over or self._finishing or self._full or self._downstream.paused):
            self._wait(self._alarm)
        if self._stream and not self._over and not self._exchange.late_head:
            self._downstream.flush_head()
        if self._downstream.paused and not self._over:  # joining goes on reading
            self._answer.pause()

    @property
    def exchange(self) -> Exchange:
        """Whose answer it is."""
        return self._exchange

    @property
    def learnt(self) -> Learnt:
        """What is known of the answer so far."""
        self.settle()
        return self._passage

    def settle(self) -> None:
        """Count what a lane has carried so far."""
        if self._lane is not None:
            self._delivered += self._lane.settle()

    # Sink of the answer

    @_safely
    def answer_began(self, frames: list[Frame], data: bytes) -> None:
        """What was read before the relay joined: one write."""
        self._take(frames, data)

    def answer_read(self, data: bytes) -> None:
        """One read: through the line and out, in one write."""
        if self._over:
            return
        if self._lane is not None:
            self._delivered += self._lane.close()
        try:
            try:
                batch = self._line.read(data)
            except (StrayFrame, TooLong) as error:
                self._broken(undecodable(str(error)))
            else:
                self._pass(batch)
        except Exception as error:
            self.faulty(error)

    @_safely
    def answer_ended(self, problem: Problem | None, frames: list[Frame]) -> None:
        """The provider's transfer is over; whether the answer is whole is the dialect's own question (section 10)."""
        if frames:
            self._take(frames)
        if self._over or self._finishing:
            return
        if self._passage.complete:
            self._finish(NOTHING)
        else:
            self._broken(problem or broken_off())

    def _take(self, frames: list[Frame], data: bytes = b"") -> None:
        """What frames and the bytes behind them become, in one write; what is before a bad one is still told."""
        if self._over:
            return
        line, passage, batch = self._line, self._passage, NOTHING
        try:
            if frames and not passage.ended and passage.failure is None:
                batch = line.frames(frames)
            if data and not passage.ended and passage.failure is None:
                batch = _joined(batch, line.read(data))
        except (StrayFrame, TooLong) as error:
            self._write(batch)
            self._broken(undecodable(str(error)))
        else:
            self._pass(batch)

    def _pass(self, batch: Batch) -> None:
        """Write what a read has become, and see whether that was all."""
        passage, gates = self._passage, self._line.gates
        halted: Any = gates.halted if gates is not None else None
        if halted is not None:
            self._write(batch)
            self._broken(*halted)
        elif passage.failure is not None:
            self._write(batch)
            self._broken(passage.failure)
        elif passage.ended:
            self._finish(batch)
        else:
            self._write(batch)
            if self._full or gates is not None:
                self._pace(gates is not None and gates.full)
            if self._floor is not None:
                self._floor.fed(self._clock.seconds(), passage.text_bytes)
            if batch.events and self._alarm is not None and not self._downstream.paused and not self._full:
                self._wait(self._alarm)
            if self._hasty and batch.events == 1 and self._line.knew:
                self._hasten()

    def _hasten(self) -> None:
        """Frames like the last ones may go the short way."""
        shape = getattr(self._passage, "alike", None)
        if shape is None:
            return
        if self._lane is None:
            self._downstream.flush()
            self._lane = self._downstream.lane(self._passage)
            if self._lane is None:
                self._hasty = False
                return
            for alarm in self._alarms:
                alarm.leader = self._lane
            self._answer.hasten(self._lane)
        self._lane.open(shape)
        self._hasty = self._lane.vain < _TRIES

    def _leave_lane(self) -> None:
        """The relay is told of every read from now on."""
        self._hasty = False
        if self._lane is not None:
            self._delivered += self._lane.close()

    def _wait(self, alarm: Alarm) -> None:
        """For the next data event; behind a whole answer, for its end marker."""
        seconds = self._silence
        if self._patience and self._passage.complete:
            seconds = min(seconds or self._patience, self._patience)
        if seconds:
            alarm.set(seconds)

    @_safely
    def _tell_progress(self) -> None:
        """Nothing was written for a while."""
        frames = self._passage.progress()  # type: ignore[attr-defined]
        self._write(Batch(b"".join(map(encode, frames)), len(frames), 0))
        if self._progress is not None and not self._downstream.paused:
            self._progress.set(self._every)

    # For gates

    @_safely
    def woken(self) -> None:
        """A gate can give what it held: the line runs once more, without new frames."""
        if self._over:
            return
        batch = self._line.frames([])
        if not self._finishing:
            self._pass(batch)
            return
        self._write(batch)
        self._settled()

    def _pace(self, full: bool) -> None:
        """Read no further while a gate waits for somebody and holds all it may."""
        if full is self._full:
            return
        self._full = full
        if full:
            self.pause()
        elif not self._downstream.paused:
            self.resume()

    # Producer, for the downstream

    def pause(self) -> None:
        """The caller is slow: read no further, and do not count that as the provider's silence."""
        for alarm in self._alarms:
            alarm.off()
        if self._floor is not None:
            self._floor.pause(self._clock.seconds())
        self._answer.pause()

    def resume(self) -> None:
        """The caller has caught up."""
        if self._over or self._finishing or self._full:
            return
        if self._alarm is not None:
            self._wait(self._alarm)
        if self._progress is not None:
            self._progress.set(self._every)
        if self._floor is not None:
            self._floor.resume(self._clock.seconds())
            self._check_floor()
        if not self._over:
            self._answer.resume()

    # Ends

    @_safely
    def discard(self) -> None:
        """The caller has left: read on for the provider's figures, and write and check nothing more."""
        if self._over:
            return
        self._leave_lane()
        if self._finishing:  # only gates were waited for
            self._end(Outcome.ABANDONED)
            return
        self._line.discard()
        self._full = False
        self.resume()

    @_safely
    def stop(self, empty: Callable[[Usage], list[Frame]]) -> None:
        """The caller wants no more: a legal ending behind what it has got, or an answer that is `empty`."""
        if self._over or self._finishing:
            return
        self._answer.cut()
        self._stopping = self._finishing = True
        for alarm in self._alarms:
            alarm.off()
        passage, call = self.learnt, self._exchange.call
        assert call is not None
        usage = so_far(passage.usage, call.prompt_bytes, passage.text_bytes)
        ending: Callable[[Usage], list[Frame] | None] | None = getattr(passage, "ending", None)
        frames = ending(usage) if ending is not None else None
        self._write(self._line.ending(empty(usage) if frames is None else frames))
        self._settled()

    @_safely
    def cut(self, problem: Problem, outcome: Outcome) -> None:
        """End the answer from our side by an error frame."""
        if not self._over:
            self._broken(problem, outcome)

    def faulty(self, error: Exception) -> None:
        """A format or a policy of ours has failed: it ends the answer, and nobody is left to wait for the rest."""
        _log.failure("call {id} failed in the gateway", id=self._exchange.id)
        if not self._over:
            self._answer.cut()
            self._downstream.complain(our_fault(repr(error)))
            self._end(Outcome.BROKEN)

    def _write(self, batch: Batch) -> None:
        data, downstream = batch.data, self._downstream
        if not data:
            return
        if not self._stream:
            self._whole = data if self._whole is None else self._whole + data
            return
        if self._exchange.committed is None:
            downstream.commit(self._headers)
        downstream.write(data, batch.frames)
        if self._progress is not None and not downstream.paused:
            self._progress.set(self._every)
        if not downstream.gone:
            self._delivered = self._passage.text_bytes if self._plain else self._shown()

    def _shown(self) -> int:
        """UTF-8 bytes of text that came out of the line so far."""
        passage, gates = self._passage, self._line.gates
        shown: int = passage.shown_bytes if self._shows else passage.text_bytes  # type: ignore[attr-defined]
        return shown if gates is None else shown - gates.withheld

    def _finish(self, batch: Batch) -> None:
        """The provider has said everything: the success ending follows, when no gate holds anything any more."""
        self._finishing = True
        for alarm in self._alarms:
            alarm.off()
        self._write(_joined(batch, self._line.stopped(True)))
        self._answer.release(self._clock)
        self._settled()

    def _settled(self) -> None:
        """Whether a finished answer was let through, was stopped, or is still being judged."""
        gates = self._line.gates
        halted: Any = gates.halted if gates is not None else None
        if halted is not None:
            self._broken(*halted)
        elif gates is None or not gates.held:
            self._complete()

    def _complete(self) -> None:
        if self._stream:
            self._downstream.commit(self._headers)
            self._downstream.finish()
        elif self._whole is not None:
            self._downstream.answer(self._whole, self._headers)
            if not self._downstream.gone:
                self._delivered = self._shown()
        self._end(Outcome.STOPPED if self._stopping else Outcome.COMPLETE)

    def _broken(self, problem: Problem, outcome: Outcome | None = None) -> None:
        if not self._finishing:
            self._answer.cut()
        rest = self._line.stopped(False)
        problem = (self._passage.failure if outcome is None else None) or problem
        problem = self._attempt.problem = without(problem, self._attempt.target.model.provider_key.api_key)
        if outcome is None:
            problem = self._attempt.problem = attrs.evolve(problem, message=self._line.cleaned(problem.message))
        if self._stream:
            self._write(rest)
        own = getattr(self._passage, "complaint", None)
        frames = own(problem) if own is not None and self._stream else None
        if frames and self._line.gates is not None:  # what follows the error may repeat what a policy has kept back
            frames = frames[:1]
        if outcome is None:
            outcome = Outcome.STALLED if problem.kind == "timeout" else Outcome.TRUNCATED
            if self._exchange.bound is None:
                self._end(outcome, Unbound(problem, outcome, frames))
                return
        self._downstream.complain(problem, frames)
        self._end(outcome)

    @_safely
    def _silent(self) -> None:
        if self._passage.complete:  # the answer is whole, only its end marker did not come (section 10)
            self._answer.cut()
            self._finish(NOTHING)
            return
        self._broken(timed_out("silence_timeout", self._silence * 1000))

    @_safely
    def _check_floor(self) -> None:
        """As late as the stream can have become too slow since it was last looked at."""
        floor, rule = self._floor, self._rule
        if floor is None or rule is None or self._slow is None or self._passage.complete:
            return
        left = floor.left(self._clock.seconds())
        if left > 0:
            self._slow.set(left)
        else:
            self._broken(too_slow(rule.tokens_per_second, rule.window_secs))

    def _abandoned(self) -> None:
        self._answer.cut()
        self._end(Outcome.ABANDONED)

    def _end(self, outcome: Outcome, unbound: Unbound | None = None) -> None:
        if self._over:
            return
        self._over = True
        self._leave_lane()
        self._lane = None
        for alarm in self._alarms:
            alarm.stop()
        passage, attempt = self._passage, self._attempt
        self._exchange.delivered_bytes = self._delivered
        attempt.usage = passage.usage
        attempt.received_bytes = passage.text_bytes
        attempt.provider_request_id = passage.provider_request_id
        attempt.provider_model = passage.provider_model
        attempt.finish_reason = passage.finish_reason
        attempt.noise = passage.noise
        attempt.ended = self._clock.seconds()
        problem = attempt.problem
        attempt.ended_by = str(outcome) if problem is None else ended_by(problem)
        self._downstream.join(None)
        if self._waiter is None:
            self._result = unbound or outcome
        elif not self._waiter.called:
            self._waiter.callback(outcome) if unbound is None else self._waiter.errback(unbound)


def _joined(first: Batch, second: Batch) -> Batch:
    if first is NOTHING:
        return second
    if second is NOTHING:
        return first
    return Batch(first.data + second.data, first.frames + second.frames, first.events + second.events)
