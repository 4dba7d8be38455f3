"""Budgets and trial keys of several gateways on one Redis (`extensions.md` 6).

Each process keeps its own books, and writes under its own name what it has spent in the period and what its running
calls have cost so far; it reads the sums of all others. So nothing is asked while a call waits, telling something twice
does no harm, and a Redis that is out of reach or has forgotten everything costs only the others' part, as long as that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from twisted_gateway.config.money import Budget
from twisted_gateway.spending import Spending
from twisted_gateway.stores.redis import Redis, RedisError, Unavailable

SHARE_EVERY = 0.5
"""Seconds: how old the knowledge of what other gateways spend may be."""
_STALE = 10_000
"""Milliseconds after which the running calls of a process that says nothing any more do not count."""
_GRACE = 86_400_000
_SHARE = """
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
if ARGV[2] ~= '0' then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
if ARGV[4] ~= '0' then redis.call('PEXPIREAT', KEYS[1], ARGV[4]) end
if ARGV[3] == '0' then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[3] .. ' ' .. now)
  redis.call('PEXPIRE', KEYS[2], 6 * ARGV[5])
end
local settled, running = 0, 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if all[i] ~= ARGV[1] then settled = settled + tonumber(all[i + 1]) end
end
all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  local much, when = string.match(all[i + 1], '(%S+) (%S+)')
  if all[i] ~= ARGV[1] and now - tonumber(when) <= tonumber(ARGV[5]) then running = running + tonumber(much) end
end
return {string.format('%.9f', settled), string.format('%.9f', running)}
"""


class Share(NamedTuple):
    """One figure that is shared: its name in Redis, our part of it, when it may be forgotten, who takes the others'."""

    name: str
    settled: float
    running: float
    until: float | None
    take: Callable[[float], None]


class SharedSpending:
    """Keeps `spending` up to date with other gateways. `process` names this process, for good.

    `budgets` and `trials` give what is configured now; `running` what the running calls of a budget have cost so far,
    `pending` the running calls of a trial key.
    """

    def __init__(
        self,
        redis: Redis,
        spending: Spending,
        clock: IReactorTime,
        now: Callable[[], float],
        process: str,
        budgets: Callable[[], Iterable[Budget]],
        trials: Callable[[], Iterable[str]],
        running: Callable[[Budget], float],
        pending: Callable[[str], int],
        env_id: str = "",
    ) -> None:
        self._redis = redis
        self._script = redis.script(_SHARE)
        self._spending = spending
        self._clock = clock
        self._now = now
        self._process = process
        self._budgets, self._trials = budgets, trials
        self._running, self._pending = running, pending
        self._prefix = f"aisix:spend:{env_id}" if env_id else "aisix:spend"
        self._next: IDelayedCall | None = None
        self._stopped = False
        redis.watch(lambda up: self._hurry() if up else None)

    def start(self) -> None:
        """Begin to share; at first what others have spent is not known."""
        self._redis.start()

    async def stop(self) -> None:
        """Say the last word, where somebody listens."""
        self._stopped = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._redis.up:
            await self.share()
        await self._redis.stop()

    async def share(self) -> None:
        """Tell everything once, and learn what others have told."""
        shares = [*map(self._of_budget, self._budgets()), *map(self._of_trial, self._trials())]
        asked = [(share, self._ask(share)) for share in shares]
        for share, answer in asked:
            with suppress(Unavailable, RedisError):
                settled, running = await answer
                share.take(float(settled) + float(running))

    def _hurry(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._tick()

    def _tick(self) -> None:
        self._next = None
        if not self._stopped and self._redis.up:
            Deferred.fromCoroutine(self.share()).addBoth(self._again)

    def _again(self, _: Any) -> None:
        if not self._stopped and self._next is None:
            self._next = self._clock.callLater(SHARE_EVERY, self._tick)

    def _ask(self, share: Share) -> Deferred[Any]:
        name = f"{self._prefix}:{share.name}"
        until = "0" if share.until is None else str(int(share.until * 1000) + _GRACE)
        figures = (_figure(share.settled), _figure(share.running))
        return self._redis.run(self._script, (name, f"{name}:running"), (self._process, *figures, until, _STALE))

    def _of_budget(self, budget: Budget) -> Share:
        since, until, own = self._spending.own(budget, self._now())

        def take(usd: float) -> None:
            self._spending.elsewhere(budget, since, usd)

        return Share(f"budget:{budget.id}:{int(since)}", own, self._running(budget), until, take)

    def _of_trial(self, key_id: str) -> Share:
        def take(calls: float) -> None:
            self._spending.calls_elsewhere(key_id, round(calls))

        own = self._spending.own_calls(key_id)
        return Share(f"calls:{key_id}", float(own), float(self._pending(key_id)), None, take)


def _figure(number: float) -> str:
    return "0" if not number else f"{number:.9f}"
