"""Counters that several gateways share in one Redis, and this process's own when it is out of reach.

Every call is counted in the process too, so when Redis fails the local counters know what this process has going on.
What is *asked* waits for Redis, as long as `redis.Redis` lets it. What is *told* is kept until Redis has acknowledged
it, told once more after an outage, and done once (`redis_scripts.TELL`). After an outage Redis hears it a piece at a
time, and is asked again when all but the last piece was heard: that one goes before the first question, and in a busy
gateway there is always one. `policy.md` 11.5, `extensions.md` 6.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_gateway.stores.buckets import CONCURRENCY, REQUESTS, TOKENS, Ask, Refusal, Standing, Taken
from twisted_gateway.stores.memory import Memory
from twisted_gateway.stores.redis import Redis, RedisError, Unavailable
from twisted_gateway.stores.redis_scripts import TAKE, TELL

MOST_TOLD = 50_000
"""What is kept for a Redis that is out of reach; then the oldest is lost."""
_BATCH = 100
_MOST_IN_FLIGHT = 8
"""Batches on their way, once Redis has caught up; before that one, so that a long tale does not make it late."""
_FAREWELL_SECONDS = 1.0
_WHY = (REQUESTS, TOKENS, CONCURRENCY)
_FLAGS = {"rps": "s", "rpm": "m", "rph": "h", "rpd": "d", "tpm": "M", "tpd": "D"}


class _Told(NamedTuple):
    """One thing to tell; `at` is when it happened, on our clock."""

    at: float
    verb: str
    bucket: str
    hold: str
    amount: int
    flags: str


class Shared:
    """A `buckets.Store`. `ttl` in seconds is the age at which holds of a gateway that died are dropped.

    `degraded` is told True when this process counts for itself, False when Redis does.
    """

    def __init__(
        self,
        redis: Redis,
        local: Memory,
        clock: IReactorTime,
        process: str,
        degraded: Callable[[bool], None],
        ttl: int = 300,
        env_id: str = "",
    ) -> None:
        self.redis = redis
        self.local = local
        self._clock = clock
        self._process = process
        self._degraded = degraded
        self._prefix = f"aisix:rl:{env_id}:" if env_id else "aisix:rl:"
        self._ttl = ttl
        self._take, self._tell = redis.script(TAKE), redis.script(TELL)
        self._live: dict[str, tuple[Ask, ...]] = {}
        """Holds that Redis must know of."""
        self._queue: deque[_Told] = deque()
        self._flight: deque[tuple[int, list[_Told]]] = deque()
        """Batches that were sent and not acknowledged, with the number of their first."""
        self._again: deque[tuple[int, list[_Told]]] = deque()
        """Batches of which it is not known whether they were heard."""
        self._ready = False
        """Redis knows all that we know, or hears it before the next question, and is asked."""
        self._number = 0
        self._epoch = 0
        """Connections so far."""
        self._soon: IDelayedCall | None = None
        self._renewing: IDelayedCall | None = None
        self._lost = 0
        self._waiting: list[Deferred[None]] = []
        self._log = Logger(namespace="aisix::ratelimit")
        redis.watch(self._changed)

    def start(self) -> None:
        """Begin to connect."""
        self._degraded(True)
        self._renewing = self._clock.callLater(self._ttl / 3, self._renew)
        self.redis.start()

    async def stop(self) -> None:
        """Tell what is to be told, if Redis listens, and let go of it."""
        if self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None
        self._send()
        if self._flight:
            told: Deferred[None] = Deferred()
            self._waiting.append(told)
            with suppress(TimeoutError):
                await told.addTimeout(_FAREWELL_SECONDS, self._clock)
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        await self.redis.stop()

    # Asking

    def take(self, asks: Sequence[Ask], hold: str) -> Taken | Deferred[Taken]:
        """See `buckets.Store`."""
        asks = tuple(asks)
        if not self._ready:
            return self._alone(asks, hold, True)
        self._send()  # what was freed before is free
        found: Deferred[Taken] = Deferred(lambda _: self._forsaken(asks, hold))

        def answered(values: list[int]) -> None:
            if not found.called:
                found.callback(self._taken(asks, hold, values))

        def failed(failure: Failure) -> None:
            if found.called:
                return
            if not failure.check(Unavailable):
                self._log.failure("limits: Redis refused a script", failure=failure)
            self._let_go(asks, hold)  # it may have been carried out
            found.callback(self._alone(asks, hold, False))

        self.redis.run(self._take, (), self._words(asks, hold)).addCallbacks(answered, failed)
        return found

    def _words(self, asks: Sequence[Ask], hold: str) -> list[str | int]:
        words: list[str | int] = [*self._head(), hold, len(asks)]
        for ask in asks:
            limits = ask.limits
            numbers = (limits.rps, limits.rpm, limits.rph, limits.rpd, limits.tpm, limits.tpd, limits.concurrency)
            words += [ask.bucket, *(-1 if number is None else number for number in numbers)]
            words.append(ask.estimate if limits.reserve else -1)
        return words

    def _head(self) -> tuple[str | int, ...]:
        return self._prefix, self._ttl, self._process, self._epoch

    def _taken(self, asks: tuple[Ask, ...], hold: str, values: list[int]) -> Taken:
        index, why, after, millis = values[:4]
        at = millis / 1000
        if index >= 0:
            self.local.note(asks[:index], None)
            return Taken(at, refusal=Refusal(index, _WHY[why], after if after > 0 else None))
        self.local.note(asks, hold)
        self._remember(asks, hold)
        rows = values[4:]
        return Taken(at, tuple(Standing(*rows[row : row + 3]) for row in range(0, len(rows), 3)))

    def _alone(self, asks: tuple[Ask, ...], hold: str, tell: bool) -> Taken:
        """What this process decides by itself; Redis hears of it later."""
        taken = self.local.take(asks, hold)
        counted = asks if taken.refusal is None else asks[: taken.refusal.index]
        if taken.refusal is None:
            self._remember(asks, hold)
            if self.redis.up:  # it was told already what runs, and must know of this one too
                self._renews(hold)
        for ask in counted if tell else ():
            if ask.limits.requests:
                self._tells("count", ask, hold, 1, "".join(_FLAGS[window.name] for window in ask.limits.requests))
        return taken

    def _remember(self, asks: tuple[Ask, ...], hold: str) -> None:
        held = tuple(ask for ask in asks if ask.slot or ask.limits.reserve)
        if held:
            self._live[hold] = held

    def _forsaken(self, asks: tuple[Ask, ...], hold: str) -> None:
        """Nobody waits for the answer any more: whatever it is, nothing is held."""
        self.local.note(asks, None)
        self._let_go(asks, hold)

    def _let_go(self, asks: tuple[Ask, ...], hold: str) -> None:
        for ask in asks:
            self._tells("release", ask, hold, 0, _held_flags(ask))

    # Telling

    def enlarge(self, asks: Sequence[Ask], hold: str, tokens: int) -> None:
        """See `buckets.Store`."""
        self.local.enlarge(asks, hold, tokens)
        for ask in asks:
            if ask.limits.reserve:
                self._tells("enlarge", ask, hold, tokens, "r")

    def release(self, asks: Sequence[Ask], hold: str, tokens: int) -> None:
        """See `buckets.Store`."""
        self.local.release(asks, hold, tokens)
        self._live.pop(hold, None)
        for ask in asks:
            counted = "".join(_FLAGS[window.name] for window in ask.limits.tokens) if tokens else ""
            self._tells("release", ask, hold, tokens, _held_flags(ask) + counted)

    def _renew(self) -> None:
        self._renewing = self._clock.callLater(self._ttl / 3, self._renew)
        self._renew_all()

    def _renew_all(self) -> None:
        """Our holds live: Redis must not drop them, and gets those that it has lost or never had."""
        if self.redis.up:
            for hold in self._live:
                self._renews(hold)

    def _renews(self, hold: str) -> None:
        for ask in self._live.get(hold, ()):
            self._tells("renew", ask, hold, self.local.held(ask.bucket, hold) or 0, _held_flags(ask))

    def _tells(self, verb: str, ask: Ask, hold: str, amount: int, flags: str) -> None:
        if not flags:
            return
        if len(self._queue) >= MOST_TOLD:
            self._queue.popleft()
            self._lost += 1
        self._queue.append(_Told(self._clock.seconds(), verb, ask.bucket, hold, amount, flags))
        if self._soon is None and self.redis.up:
            self._soon = self._clock.callLater(0, self._send)

    def _send(self) -> None:
        """All that is to be told, in its order."""
        if self._soon is not None:
            if self._soon.active():
                self._soon.cancel()
            self._soon = None
        most = _MOST_IN_FLIGHT if self._ready else 1
        while self.redis.up and len(self._flight) < most:
            if self._again:
                batch = self._again.popleft()
            elif self._queue:
                batch = self._number, [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
                self._number += len(batch[1])
            else:
                break
            self._flight.append(batch)
            self._sent(*batch)

    def _sent(self, number: int, batch: list[_Told]) -> None:
        words: list[Any] = [*self._head(), number]
        now = self._clock.seconds()
        for one in batch:
            words += [one.verb, max(0, int((now - one.at) * 1000)), one.bucket, one.hold, one.amount, one.flags]
        self.redis.run(self._tell, (), words).addCallbacks(self._acknowledged, self._unheard)

    def _acknowledged(self, _: Any) -> None:
        self._flight.popleft()
        self._look()
        self._send()

    def _unheard(self, failure: Failure) -> None:
        if failure.check(RedisError):
            self._log.failure("limits: Redis refused a script", failure=failure)
            self._acknowledged(None)

    def _look(self) -> None:
        """Whether Redis has caught up, and whether everything was told."""
        if self._flight or self._again:
            return
        if not self._ready and self.redis.up and len(self._queue) <= _BATCH:
            self._ready = True
            self._degraded(False)
        if not self._queue:
            self._all_told()

    def _all_told(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    def _changed(self, up: bool) -> None:
        if not up:
            self._again.extendleft(reversed(self._flight))
            self._flight.clear()
            if self._ready:
                self._ready = False
                self._degraded(True)
            self._all_told()
            return
        self._epoch += 1
        if self._lost:
            self._log.warn("limits: {lost} changes were lost while Redis was away", lost=self._lost)
            self._lost = 0
        self._renew_all()
        self._send()
        self._look()


def _held_flags(ask: Ask) -> str:
    return ("c" if ask.slot else "") + ("r" if ask.limits.reserve else "")
