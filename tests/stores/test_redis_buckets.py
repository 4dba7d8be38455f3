"""Counters in a real Redis: the same answers as in memory, for several gateways at once, through every outage."""

from __future__ import annotations

import random
import time

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from tests.doubles.redis import RedisServer, Sentinel, needs_redis
from tests.doubles.waiting import PATIENCE, Conditions
from tests.network.house import until
from twisted_gateway.config.limits import RateLimit
from twisted_gateway.config.redis import RedisBlock
from twisted_gateway.stores.buckets import Ask, namer
from twisted_gateway.stores.memory import Memory
from twisted_gateway.stores.redis import Redis
from twisted_gateway.stores.redis_buckets import Shared

pytestmark = needs_redis
TIMEOUT = 1.0
"""Seconds: long enough that only a frozen server does not answer in time, however loaded the machine is."""


class Gate:
    """One gateway's store."""

    def __init__(self, server, timeout=PATIENCE, ttl=300, env_id="", block=None):
        self.name = namer()
        self.told = []
        self._changes = Conditions(reactor)
        redis = Redis(block or RedisBlock(url=server.url), reactor, timeout, "test")
        self.local = Memory(time.time)
        process = f"p{id(self)}"
        self.store = Shared(redis, self.local, reactor, process, self._degraded, ttl, env_id)

    def _degraded(self, degraded):
        self.told.append(degraded)
        self._changes.look()

    def when(self, degraded):
        return self._changes.when(lambda: self.told[-1] is degraded, PATIENCE, lambda: f"never {degraded}: {self.told}")

    async def start(self):
        self.store.start()
        await self.when(False)
        return self

    async def take(self, *asks):
        """The refusal, or the name of the hold."""
        hold = self.name()
        found = self.store.take(asks, hold)
        taken = await found if isinstance(found, Deferred) else found
        return taken.refusal or hold

    async def room(self, ask, most):
        found = await DeferredList([Deferred.fromCoroutine(self.take(ask)) for _ in range(most)])
        return [hold for _, hold in found if isinstance(hold, str)]

    async def told_all(self):
        """Redis has heard everything."""
        while self.store._queue or self.store._flight or self.store._again:
            await deferLater(reactor, 0.001)


@pytest.fixture
def server():
    with RedisServer() as running:
        yield running


@pytest_twisted.async_yield_fixture
async def gates(server):
    every = []

    async def make(**more):
        every.append(Gate(server, **more))
        return await every[-1].start()

    yield make
    for gate in every:
        await gate.store.stop()


def ask(bucket="b", estimate=0, **limits):
    return Ask(bucket, RateLimit(**limits), estimate)


def number(server, pattern):
    """The only counter that there is of this kind."""
    keys = server.ask("KEYS", f"aisix:rl:{pattern}:*")
    assert len(keys) == 1, keys
    return int(server.ask("GET", keys[0]))


@pytest.mark.parametrize("reserve", [False, True])
@pytest_twisted.ensureDeferred
async def test_the_same_answers_as_in_memory(gates, server, reserve):
    gate = await gates()
    now = [time.time()]
    memory, chance = Memory(lambda: now[0]), random.Random(7)
    limits = [
        {"concurrency": 5, "tpd": 4000, "rpd": 60, "reserve": reserve},
        {"tpd": 2500, "reserve": reserve},
        {"concurrency": 3, "rpd": 40},
    ]
    running = []
    for _ in range(400):
        deed = chance.choice(("take", "take", "release", "enlarge"))
        if deed == "take":
            estimate = chance.randint(1, 900)
            first = chance.randint(0, 2)
            asks = tuple(ask(f"b{at}", estimate, **limits[at]) for at in range(first, 3))
            hold = gate.name()
            shared = await gate.store.take(asks, hold)
            now[0] = shared.at  # the same second, also where one ends between the two
            local = memory.take(asks, hold)
            assert attrs.evolve(shared, at=0) == attrs.evolve(local, at=0)
            if local.refusal is None:
                running.append((asks, hold))
        elif running:
            asks, hold = running[chance.randrange(len(running))]
            if deed == "release":
                running.remove((asks, hold))
            tokens = chance.randint(0, 50)
            for store in (gate.store, memory):
                getattr(store, deed)(asks, hold, tokens)
    for asks, hold in running:
        gate.store.release(asks, hold, 0)
    await gate.told_all()
    for at in range(3):
        assert server.ask("ZCARD", f"aisix:rl:b{at}:concurrency") == 0
        assert int(server.ask("HGET", f"aisix:rl:b{at}:reserved", "sum") or 0) == 0


@pytest_twisted.ensureDeferred
async def test_keys_and_how_long_they_live(gates, server):
    gate = await gates(env_id="prod", ttl=90)
    hold = await gate.take(ask(rps=9, rpm=9, rph=9, rpd=9, concurrency=9))
    gate.store.release([ask(tpm=9, tpd=9)], hold, 5)
    await gate.told_all()
    lives = {key.rpartition(":")[0]: server.ask("TTL", key) for key in server.ask("KEYS", "aisix:rl:prod:b:r*")}
    for name, seconds in (("rps", 1), ("rpm", 60), ("rph", 3600), ("rpd", 86400)):
        assert 0 < lives[f"aisix:rl:prod:b:{name}"] <= seconds + 5
    (key,) = server.ask("KEYS", "aisix:rl:prod:b:tpm:*")
    assert int(key.rpartition(":")[2]) % 60 == 0
    assert server.ask("GET", key) == "5"
    assert server.ask("ZRANGE", "aisix:rl:prod:b:concurrency", "0", "-1") == [hold]
    assert 0 < server.ask("TTL", "aisix:rl:prod:b:concurrency") <= 185


@pytest_twisted.ensureDeferred
async def test_two_gateways_hold_one_limit(gates):
    one, two = await gates(), await gates()
    for limits, places, asked in (({"rpd": 37}, 37, 20), ({"concurrency": 11}, 11, 8)):
        each = ask(f"b{places}", **limits)
        found = await DeferredList([Deferred.fromCoroutine(gate.room(each, asked)) for gate in (one, two)])
        (_, first), (_, second) = found
        assert len(first) + len(second) == places
        assert first
        assert second
    one.store.release([each], first[0], 0)
    await one.told_all()
    assert len(await two.room(each, 5)) == 1


@pytest_twisted.ensureDeferred
async def test_what_was_freed_is_free_for_the_very_next(gates):
    gate = await gates()
    one = ask(concurrency=1)
    for _ in range(50):
        hold = await gate.take(one)
        assert isinstance(hold, str)
        gate.store.release([one], hold, 0)


@pytest_twisted.ensureDeferred
async def test_one_who_leaves_while_waiting_holds_nothing(gates, server):
    gate = await gates()
    one = ask(concurrency=1, tpm=100, reserve=True, estimate=50)
    waiting = gate.store.take([one], "gone")
    waiting.addErrback(lambda failure: None)
    waiting.cancel()
    assert isinstance(await gate.take(one), str)
    await gate.told_all()
    assert server.ask("ZCARD", "aisix:rl:b:concurrency") == 1
    assert server.ask("HGET", "aisix:rl:b:reserved", "sum") == "50"


@pytest_twisted.ensureDeferred
async def test_a_frozen_redis_costs_one_wait_and_the_process_goes_on_with_what_it_knows(gates, server):
    gate = await gates(timeout=TIMEOUT)
    one = ask(rpd=10, concurrency=5, tpd=1000)
    before = await gate.room(one, 4)
    server.freeze()
    begun = time.monotonic()
    assert isinstance(await gate.take(one), str)
    assert time.monotonic() - begun >= TIMEOUT * 0.9
    assert gate.told[-1] is True
    found = gate.store.take([one], "x")  # at once
    assert found.refusal.what == "concurrency"
    gate.store.release([one], before[0], 7)
    gate.store.release([one], before[1], 8)
    assert gate.store.take([one], "y").refusal is None
    server.thaw()
    await gate.when(False)
    await gate.told_all()
    assert number(server, "b:tpd") == 15
    assert server.ask("ZCARD", "aisix:rl:b:concurrency") == 4  # with those of the outage
    assert len(await gate.room(one, 9)) == 1


@pytest_twisted.ensureDeferred
async def test_a_redis_that_lost_everything_gets_back_what_runs(gates, server):
    gate = await gates()
    one = ask(concurrency=5, tpd=1000, reserve=True, estimate=30)
    holds = await gate.room(one, 3)
    gate.store.enlarge([one], holds[0], 12)
    server.stop()
    await gate.when(True)
    gate.store.release([one], holds[2], 9)
    server.start()
    await gate.when(False)
    await gate.told_all()
    assert server.ask("ZCARD", "aisix:rl:b:concurrency") == 2
    assert server.ask("HGET", "aisix:rl:b:reserved", "sum") == "72"
    assert number(server, "b:tpd") == 9


@pytest_twisted.ensureDeferred
async def test_slots_of_a_gateway_that_died_are_given_back_and_those_of_a_live_one_are_not(gates, server):
    dead, live = await gates(ttl=4), await gates(ttl=4)
    one = ask(concurrency=2)
    assert isinstance(await dead.take(one), str)
    assert isinstance(await live.take(one), str)
    dead.store._live.clear()  # it renews no more
    hold = None
    for _ in range(600):
        hold = await live.take(one)
        if isinstance(hold, str):
            break
        await deferLater(reactor, 0.1)
    assert isinstance(hold, str)
    await deferLater(reactor, 4.2)
    assert not isinstance(await live.take(one), str)  # both are of the living


@pytest_twisted.ensureDeferred
async def test_under_load_through_freezes_nothing_is_lost_and_nothing_counted_twice(gates, server):
    gate = await gates(timeout=TIMEOUT)
    one, done, running = ask(concurrency=30, tpd=10**9), [], [True]

    async def work():
        while running[0]:
            hold = await gate.take(one)
            await deferLater(reactor, 0.002)
            if isinstance(hold, str):
                gate.store.release([one], hold, 3)
                done.append(hold)

    workers = [Deferred.fromCoroutine(work()) for _ in range(40)]
    try:
        for _ in range(2):
            await deferLater(reactor, 0.1)
            server.freeze()
            await gate.when(True)
            await deferLater(reactor, 0.1)
            server.thaw()
            await gate.when(False)
    finally:
        running[0] = False
    await DeferredList(workers, fireOnOneErrback=True)
    await gate.when(False)
    await gate.told_all()
    assert len(done) > 100
    assert number(server, "b:tpd") == 3 * len(done)
    assert server.ask("ZCARD", "aisix:rl:b:concurrency") == 0
    assert gate.local.standing("b").in_flight == 0


@pytest_twisted.ensureDeferred
async def test_under_load_through_restarts_every_slot_comes_free(gates, server):
    gate = await gates(timeout=TIMEOUT)
    one, done, running, most = ask(concurrency=10, rpm=10**9), [], [True], [0]

    async def work():
        while running[0]:
            hold = await gate.take(one)
            if isinstance(hold, str):
                most[0] = max(most[0], gate.local.standing("b").in_flight)
                await deferLater(reactor, 0.002)
                gate.store.release([one], hold, 0)
                done.append(hold)
            else:
                await deferLater(reactor, 0.002)

    workers = [Deferred.fromCoroutine(work()) for _ in range(40)]
    try:
        await deferLater(reactor, 0.1)
        server.stop()
        await gate.when(True)
        await deferLater(reactor, 0.1)
        server.start()
        await gate.when(False)
        await deferLater(reactor, 0.1)
    finally:
        running[0] = False
    await DeferredList(workers, fireOnOneErrback=True)
    await gate.told_all()
    assert len(done) > 100
    assert most[0] <= 10
    assert server.ask("ZCARD", "aisix:rl:b:concurrency") == 0
    assert len(await gate.room(one, 20)) == 10


@pytest_twisted.ensureDeferred
async def test_what_is_told_at_the_end_arrives(gates, server):
    gate = Gate(server)
    await gate.start()
    one = ask(concurrency=1, tpd=100)
    hold = await gate.take(one)
    gate.store.release([one], hold, 5)
    await gate.store.stop()
    assert number(server, "b:tpd") == 5
    assert server.ask("ZCARD", "aisix:rl:b:concurrency") == 0


@pytest_twisted.ensureDeferred
async def test_a_failover_keeps_what_was_counted(server):
    with RedisServer("--replicaof", "127.0.0.1", str(server.port)) as replica, Sentinel(server, 1) as sentinel:
        block = RedisBlock(mode="sentinel", sentinels=(sentinel.url,), master_name="main")
        gate = await Gate(server, block=block).start()
        one = ask(rpd=5, concurrency=4)
        holds = await gate.room(one, 3)
        await until(lambda: replica.ask("ZCARD", "aisix:rl:b:concurrency") == 3, lambda: "never replicated")
        server.stop()
        await gate.when(True)
        gate.store.release([one], holds[0], 0)
        await gate.when(False)
        assert replica.ask("ZCARD", "aisix:rl:b:concurrency") == 2
        assert len(await gate.room(one, 5)) == 2
        await gate.store.stop()
