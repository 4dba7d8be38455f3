"""Budgets and trial keys of several gateways on one real Redis: one sum, through restarts and outages."""

from __future__ import annotations

import time

import pytest
import pytest_twisted
from twisted.internet import reactor

from tests.doubles.redis import RedisServer, needs_redis
from tests.doubles.waiting import PATIENCE, Conditions
from tests.test_spending import budget
from twisted_gateway.config.redis import RedisBlock
from twisted_gateway.spending import Spending
from twisted_gateway.stores import redis_spending
from twisted_gateway.stores.redis import Redis
from twisted_gateway.stores.redis_spending import SharedSpending

pytestmark = needs_redis
BUDGET = budget(period="total")
HOURLY = budget("hourly", period="hour")
TRIAL = "trial-key"


class Books:
    """One gateway's books; `share` is done by hand unless `EVERY` is short."""

    def __init__(self, server, name, env_id=""):
        self.spending = Spending(time.time())
        self.at = time.time()
        self.running = {}
        self.pending = 0
        self._changes = Conditions(reactor)
        self.redis = Redis(RedisBlock(url=server.url), reactor, PATIENCE, "spending")
        self.shared = SharedSpending(
            self.redis,
            self.spending,
            reactor,
            lambda: self.at,
            name,
            lambda: (BUDGET, HOURLY),
            lambda: (TRIAL,),
            lambda one: self.running.get(one.id, 0.0),
            lambda key: self.pending,
            env_id,
        )
        self.redis.watch(lambda up: self._changes.look())

    async def start(self):
        self.shared.start()
        await self.when(True)
        return self

    def when(self, up):
        return self._changes.when(lambda: self.redis.up is up, PATIENCE, lambda: f"never {up}")

    def spend(self, usd, one=BUDGET):
        self.spending.spend(one, usd, self.at)

    def spent(self, one=BUDGET):
        return self.spending.spent(one, self.at)


@pytest.fixture(autouse=True)
def by_hand(monkeypatch):
    monkeypatch.setattr(redis_spending, "SHARE_EVERY", 3600)


@pytest.fixture
def server():
    with RedisServer() as running:
        yield running


@pytest_twisted.async_yield_fixture
async def gateways(server):
    every = []

    async def make(name, **more):
        every.append(Books(server, name, **more))
        return await every[-1].start()

    yield make
    for one in every:
        await one.shared.stop()


async def told(*books):
    """Everybody has told, and then learnt from all."""
    for one in (*books, *books):
        await one.shared.share()


@pytest_twisted.ensureDeferred
async def test_one_sum(gateways):
    one, two, three = [await gateways(name) for name in "abc"]
    one.spend(1.25)
    two.spend(2.5)
    two.spend(0.25, HOURLY)
    await told(one, two, three)
    assert [each.spent() for each in (one, two, three)] == pytest.approx([3.75] * 3)
    assert [each.spent(HOURLY) for each in (one, two, three)] == pytest.approx([0.25] * 3)
    one.spend(0.25)
    assert one.spent() == pytest.approx(4.0), "one's own is known at once"
    for _ in range(5):
        await told(one, two, three)
    assert three.spent() == pytest.approx(4.0), "told again it is not more"


@pytest_twisted.ensureDeferred
async def test_what_runs_elsewhere_counts(gateways):
    one, two = [await gateways(name) for name in "ab"]
    one.running[BUDGET.id] = 0.75
    await told(one, two)
    assert (one.spent(), two.spent()) == pytest.approx((0.0, 0.75)), "the policy adds its own running calls itself"
    one.running.clear()
    one.spend(0.5)
    await told(one, two)
    assert two.spent() == pytest.approx(0.5)


@pytest_twisted.ensureDeferred
async def test_the_running_calls_of_a_dead_gateway_are_forgotten(gateways, monkeypatch):
    one, two = [await gateways(name) for name in "ab"]
    one.running[BUDGET.id] = 0.75
    one.spend(0.25)
    await told(one, two)
    monkeypatch.setattr(redis_spending, "_STALE", -1)
    await two.shared.share()
    assert two.spent() == pytest.approx(0.25), "but not what it has spent"


@pytest_twisted.ensureDeferred
async def test_trial_calls(gateways):
    one, two = [await gateways(name) for name in "ab"]
    one.spending.answered(TRIAL)
    one.spending.answered(TRIAL)
    one.pending = 3
    two.spending.answered(TRIAL)
    await told(one, two)
    assert (one.spending.calls(TRIAL), two.spending.calls(TRIAL)) == (3, 6)
    assert (one.spending.own_calls(TRIAL), two.spending.own_calls(TRIAL)) == (2, 1)


@pytest_twisted.ensureDeferred
async def test_a_restart_keeps_what_was_spent(gateways):
    one = await gateways("first")
    one.spend(1.5)
    await one.shared.stop()
    two = await gateways("second")
    await told(two)
    assert two.spent() == pytest.approx(1.5)
    two.spend(0.5)
    assert two.spent() == pytest.approx(2.0)


@pytest_twisted.ensureDeferred
async def test_a_new_period_begins_with_nothing(gateways):
    one, two = [await gateways(name) for name in "ab"]
    one.spend(1.5, HOURLY)
    await told(one, two)
    assert two.spent(HOURLY) == pytest.approx(1.5)
    one.at = two.at = two.at + 3600
    assert two.spent(HOURLY) == 0.0
    await told(one, two)
    assert two.spent(HOURLY) == 0.0
    one.spend(0.25, HOURLY)
    await told(one, two)
    assert two.spent(HOURLY) == pytest.approx(0.25)


@pytest_twisted.ensureDeferred
async def test_an_outage(gateways, server):
    one, two = [await gateways(name) for name in "ab"]
    one.spend(1.0)
    await told(one, two)
    server.stop()
    await one.when(False)
    await two.when(False)
    one.spend(0.5)
    assert (one.spent(), two.spent()) == pytest.approx((1.5, 1.0)), "with what is known"
    await told(one, two)
    server.start()
    await one.when(True)
    await two.when(True)
    await told(one, two)
    assert (one.spent(), two.spent()) == pytest.approx((1.5, 1.5)), "though Redis has forgotten everything"


@pytest_twisted.ensureDeferred
async def test_environments_do_not_mix(gateways):
    one, two = await gateways("a", env_id="blue"), await gateways("b", env_id="green")
    one.spend(1.0)
    await told(one, two)
    assert two.spent() == 0.0


@pytest_twisted.ensureDeferred
async def test_keys_of_a_period_end(gateways, server):
    one = await gateways("a")
    one.spend(1.0)
    one.spend(1.0, HOURLY)
    await told(one)
    (lasting,) = server.ask("KEYS", f"aisix:spend:budget:{BUDGET.id}:*")
    (ending,) = server.ask("KEYS", f"aisix:spend:budget:{HOURLY.id}:*")
    assert server.ask("TTL", lasting) in (-1, "-1")
    assert 86_000 < int(server.ask("TTL", ending)) < 93_600


@pytest_twisted.ensureDeferred
async def test_it_shares_by_itself(gateways, monkeypatch):
    monkeypatch.setattr(redis_spending, "SHARE_EVERY", 0.01)
    changes = Conditions(reactor)
    one, two = [await gateways(name) for name in "ab"]
    elsewhere = two.spending.elsewhere
    two.spending.elsewhere = lambda *what: (elsewhere(*what), changes.look())
    one.spend(2.0)
    await changes.when(lambda: two.spent() == pytest.approx(2.0), PATIENCE, lambda: f"only {two.spent()}")
