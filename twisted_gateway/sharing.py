"""What several gateways share in a Redis: the counters of limits, budgets, and cached answers (`configuration.md` 3.9).

The client library is only imported where the boot file names a Redis.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from twisted_gateway.config.money import Budget
from twisted_gateway.config.redis import RedisBlock
from twisted_gateway.config.settings import Settings, SettingsError
from twisted_gateway.randomness import new_id
from twisted_gateway.spending import Spending
from twisted_gateway.stores.buckets import Store
from twisted_gateway.stores.cached_shared import SharedAnswers
from twisted_gateway.stores.memory import Memory

if TYPE_CHECKING:
    from twisted_gateway.stores.redis import Redis
    from twisted_gateway.stores.redis_buckets import Shared
    from twisted_gateway.stores.redis_spending import SharedSpending

_NO_HURRY = 1.0
"""Seconds for a Redis that no call waits for."""
LIMITS, CACHE = "ratelimit", "cache"


class Sharing:
    """The stores of a process. `told(store, degraded)` hears how those in a Redis are.

    Raises `SettingsError` for certificates that cannot be read.
    """

    def __init__(self, settings: Settings, reactor: Any, told: Callable[[str, bool], None]) -> None:
        self._reactor = reactor
        self._told = told
        self._timeout = settings.ratelimit.store_timeout_ms / 1000
        self._env_id = settings.etcd.env_id
        limits = settings.ratelimit
        self._block = limits.redis
        self._counters: Shared | None = None
        self.limiter: Store = Memory(time.time)
        if limits.backend == "redis" and limits.redis is not None:
            self.limiter = self._counters = self._shared(limits.redis, limits.concurrency_ttl_secs)
        self._spending: SharedSpending | None = None
        self.cache: Redis | None = None
        self.answers: SharedAnswers | None = None
        """The cache that is in a Redis, if there is one."""
        self._cache_block = settings.cache.redis
        if settings.cache.redis is not None:
            cache = self.cache = self._redis(settings.cache.redis, CACHE)
            cache.watch(lambda up: told(CACHE, not up))
            self.answers = SharedAnswers(cache.command, self._env_id)

    def spend_together(
        self,
        spending: Spending,
        budgets: Callable[[], Iterable[Budget]],
        trials: Callable[[], Iterable[str]],
        running: Callable[[Budget], float],
        pending: Callable[[str], int],
    ) -> None:
        """Share budgets and trial keys where limits are shared; see `stores.redis_spending`."""
        if self._counters is None or self._block is None:
            return
        from twisted_gateway.stores.redis_spending import SharedSpending

        redis = self._redis(self._block, LIMITS, _NO_HURRY)
        self._spending = SharedSpending(
            redis, spending, self._reactor, time.time, new_id(), budgets, trials, running, pending, self._env_id
        )

    def _redis(self, block: RedisBlock, name: str, timeout: float | None = None) -> Redis:
        from twisted_gateway.stores.redis import Redis

        try:
            return Redis(block, self._reactor, timeout or self._timeout, name)
        except (OSError, ValueError) as error:
            raise SettingsError(f"{name}.redis.tls: {error}") from None

    def _shared(self, block: RedisBlock, ttl: int) -> Shared:
        from twisted_gateway.stores.redis_buckets import Shared

        redis, told = self._redis(block, LIMITS), self._told
        local = Memory(time.time)
        return Shared(
            redis, local, self._reactor, new_id(), lambda degraded: told(LIMITS, degraded), ttl, self._env_id
        )

    def start(self) -> None:
        """Connect. Without its Redis a gateway does not start (`SettingsError`); later it may go away and come back."""
        self._reach(LIMITS, self._block if self._counters is not None else None)
        self._reach(CACHE, self._cache_block)
        if self._counters is not None:
            self._counters.start()
        if self._spending is not None:
            self._spending.start()
        if self.cache is not None:
            self._told(CACHE, True)
            self.cache.start()

    def _reach(self, name: str, block: RedisBlock | None) -> None:
        if block is None:
            return
        from twisted_gateway.stores.redis_boot import check

        try:
            check(block)
        except (OSError, ValueError) as error:
            raise SettingsError(f"{name}.redis: cannot connect: {error}") from None

    async def stop(self) -> None:
        """Tell what is left to tell, and let go."""
        if self._counters is not None:
            await self._counters.stop()
        if self._spending is not None:
            await self._spending.stop()
        if self.cache is not None:
            await self.cache.stop()
