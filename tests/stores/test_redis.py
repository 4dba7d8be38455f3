"""The connection to a Redis, with real servers that are stopped, frozen and started again."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, DeferredList

from tests.doubles.process import free_port
from tests.doubles.redis import RedisServer, Sentinel, needs_redis
from tests.doubles.waiting import PATIENCE, Conditions
from tests.network.test_trust import AUTHORITY, BOTH
from twisted_gateway.config.redis import RedisBlock, RedisTls
from twisted_gateway.stores.redis import Redis, RedisError, Unavailable
from twisted_gateway.stores.redis_boot import check

pytestmark = needs_redis
TIMEOUT = 1.0
"""Seconds: long enough that only a frozen server does not answer in time, however loaded the machine is."""


class Watched:
    """A connection, and a way to wait until it is up or down."""

    def __init__(self, block, timeout=PATIENCE):
        self.redis = Redis(block, reactor, timeout, "test")
        self.seen = []
        self._changes = Conditions(reactor)
        self.redis.watch(self._changed)

    def _changed(self, up):
        self.seen.append(up)
        self._changes.look()

    def when(self, up):
        return self._changes.when(lambda: self.redis.up is up, PATIENCE, lambda: f"never up={up}: {self.seen}")


@pytest_twisted.async_yield_fixture
async def made():
    every = []

    def make(block, timeout=PATIENCE):
        watched = Watched(block, timeout)
        every.append(watched)
        return watched

    yield make
    for watched in every:
        await watched.redis.stop()


@pytest.fixture
def server():
    with RedisServer() as running:
        yield running


def single(server):
    return RedisBlock(url=server.url)


async def failure_of(deferred):
    try:
        await deferred
    except Exception as error:
        return type(error)
    return None


@pytest_twisted.ensureDeferred
async def test_commands_scripts_and_refusals(made, server):
    watched = made(single(server))
    script = watched.redis.script("return {redis.call('INCR', KEYS[1]), tonumber(ARGV[1]) + 1}")
    watched.redis.start()
    assert not watched.redis.up
    await watched.when(True)
    redis = watched.redis
    body = bytes(range(256)) * 100
    assert await redis.command("SET", "a", body) == "OK"
    assert await redis.command("GET", "a") == body
    assert await redis.command("GET", "b") is None
    assert await redis.run(script, ["n"], [41]) == [1, 42]
    assert await failure_of(redis.command("INCR", "a")) is RedisError
    assert redis.up


@pytest_twisted.ensureDeferred
async def test_answers_come_in_order_and_a_cancelled_one_shifts_none(made, server):
    watched = made(single(server))
    watched.redis.start()
    await watched.when(True)
    answers = [watched.redis.command("INCR", "n") for _ in range(50)]
    answers[7].cancel()
    found = await DeferredList(answers, consumeErrors=True)
    assert [value for good, value in found if good] == [n for n in range(1, 51) if n != 8]
    assert found[7][1].check(CancelledError)


@pytest_twisted.ensureDeferred
async def test_a_frozen_server_costs_one_wait_and_comes_back_by_itself(made, server):
    watched = made(single(server), TIMEOUT)
    watched.redis.start()
    await watched.when(True)
    server.freeze()
    begun = reactor.seconds()
    waiting = [watched.redis.command("INCR", "n") for _ in range(20)]
    found = await DeferredList(waiting, consumeErrors=True)
    assert reactor.seconds() - begun >= TIMEOUT
    assert all(failure.check(Unavailable) for _, failure in found)
    at_once = watched.redis.command("GET", "n")
    assert at_once.called
    assert await failure_of(at_once) is Unavailable
    server.thaw()
    await watched.when(True)
    assert watched.seen == [True, False, True]
    await watched.redis.command("GET", "n")


@pytest_twisted.ensureDeferred
async def test_a_dead_server_is_noticed_at_once_and_found_again(made, server):
    watched = made(single(server))
    script = watched.redis.script("return redis.call('INCR', KEYS[1])")
    watched.redis.start()
    await watched.when(True)
    waiting = watched.redis.run(script, ["n"])
    server.stop()
    await failure_of(waiting)
    await watched.when(False)
    server.start()
    await watched.when(True)
    assert await watched.redis.run(script, ["m"]) == 1  # loaded anew


@pytest_twisted.ensureDeferred
async def test_scripts_that_were_flushed_are_loaded_again(made, server):
    watched = made(single(server))
    script = watched.redis.script("return 7")
    watched.redis.start()
    await watched.when(True)
    server.ask("SCRIPT", "FLUSH")
    assert await failure_of(watched.redis.run(script)) is Unavailable
    await watched.when(True)
    assert await watched.redis.run(script) == 7


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_not_there_yet(made):
    server = RedisServer()
    watched = made(single(server))
    watched.redis.start()
    assert await failure_of(watched.redis.command("PING")) is Unavailable
    with server:
        await watched.when(True)


@pytest_twisted.ensureDeferred
async def test_a_password_and_a_database(made):
    with RedisServer(password="sesame") as server:
        watched = made(RedisBlock(url=server.url + "/3"))
        watched.redis.start()
        await watched.when(True)
        await watched.redis.command("SET", "a", 1)
        assert server.ask("DBSIZE") == 0
        wrong = made(RedisBlock(url=f"redis://:wrong@127.0.0.1:{server.port}"))
        wrong.redis.start()
        assert await failure_of(wrong.when(True).addTimeout(0.3, reactor)) is not None
        assert not wrong.redis.up


@pytest_twisted.ensureDeferred
async def test_a_replica_is_not_good_enough(made, server):
    with RedisServer("--replicaof", "127.0.0.1", str(server.port)) as replica:
        watched = made(single(replica))
        watched.redis.start()
        assert await failure_of(watched.when(True).addTimeout(0.3, reactor)) is not None
        replica.ask("REPLICAOF", "NO", "ONE")
        await watched.when(True)


@pytest_twisted.ensureDeferred
async def test_sentinels_lead_to_the_new_master(made, server):
    with (
        RedisServer("--replicaof", "127.0.0.1", str(server.port)) as replica,
        Sentinel(server, 1) as sentinel,
        RedisServer() as no_sentinel,
    ):
        block = RedisBlock(
            mode="sentinel", sentinels=(no_sentinel.url, f"redis://127.0.0.1:{sentinel.port}"), master_name="main"
        )
        watched = made(block)
        watched.redis.start()
        await watched.when(True)
        await watched.redis.command("SET", "a", 1)
        assert server.ask("GET", "a") == "1"
        server.stop()
        await watched.when(False)
        await watched.when(True)
        await watched.redis.command("SET", "b", 1)
        assert replica.ask("GET", "b") == "1"


@pytest_twisted.ensureDeferred
async def test_tls_trusts_nobody_but_the_given_authority(made, tmp_path):
    for name, data in (("ca", AUTHORITY.pem), ("cert", BOTH.pem), ("key", BOTH.key_pem)):
        (tmp_path / name).write_bytes(data)
    port = free_port()
    files = [f"--tls-{kind}-file" for kind in ("ca-cert", "cert", "key")]
    options = [word for flag, name in zip(files, ("ca", "cert", "key"), strict=True) for word in (flag, name)]
    options = [str(tmp_path / word) if word in ("ca", "cert", "key") else word for word in options]
    with RedisServer("--tls-port", str(port), "--tls-auth-clients", "yes", *options):
        url, path = f"rediss://localhost:{port}", str(tmp_path)
        own = {"client_cert_file": f"{path}/cert", "client_key_file": f"{path}/key"}
        good = RedisBlock(url=url, tls=RedisTls(ca_file=f"{path}/ca", **own))
        watched = made(good)
        watched.redis.start()
        await watched.when(True)
        await watched.redis.command("SET", "a", 1)
        check(good)
        for tls in (RedisTls(**own), RedisTls(ca_file=f"{path}/ca")):
            stranger = made(RedisBlock(url=url, tls=tls))
            stranger.redis.start()
            assert await failure_of(stranger.when(True).addTimeout(0.3, reactor)) is not None
            with pytest.raises(OSError, match=r"\w"):
                check(RedisBlock(url=url, tls=tls))
        trusting = made(RedisBlock(url=url, tls=RedisTls(verify=False, **own)))
        trusting.redis.start()
        await trusting.when(True)


def test_whether_it_is_there_at_the_start(server):
    check(single(server))
    with RedisServer(password="sesame") as locked:
        check(single(locked))
        with pytest.raises(OSError, match="NOAUTH"):
            check(RedisBlock(url=f"redis://127.0.0.1:{locked.port}"))
        with pytest.raises(OSError, match="WRONGPASS") as caught:
            check(RedisBlock(url=f"redis://:wrong-one@127.0.0.1:{locked.port}"))
        assert "wrong-one" not in str(caught.value)
    with pytest.raises(OSError, match="refused"):
        check(single(locked), patience=0.5)
    with Sentinel(server) as sentinel:
        block = RedisBlock(mode="sentinel", sentinels=(locked.url, sentinel.url), master_name="main")
        check(block)
        with pytest.raises(OSError, match="knows no master"):
            check(RedisBlock(mode="sentinel", sentinels=(sentinel.url,), master_name="other"))
