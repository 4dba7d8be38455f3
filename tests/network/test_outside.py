"""Calls to services over real sockets: whole answers, hostile servers, time limits, cancelling."""

import socket

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError

from tests.doubles import guards
from tests.doubles.provider import ScriptedProvider
from tests.doubles.steps import End, Head, Raw, Send, json_answer
from tests.network.house import until
from twisted_gateway.config.settings import Upstream
from twisted_gateway.outside import Outside

from ..doubles.timers import timers

SOON = 0.3
"""Seconds that a call may take whose server never says enough."""


@pytest_twisted.async_yield_fixture
async def outside():
    made = Outside.over_own_pool(reactor, Upstream())
    held = len(timers(reactor))
    yield made
    assert len(timers(reactor)) <= held + 1  # the pool's own
    made.pool.close()
    await until(lambda: not made.pool.open, lambda: "connections are left")


def ask(outside, provider, path="/x", seconds=5.0, headers=(), body=b"{}"):
    return outside.fetch("POST", provider.url + path, headers, body, seconds)


async def test_an_answer_whatever_its_status(outside, provider):
    provider.answers(json_answer({"a": 1}), json_answer({"b": 2}, 503))
    assert await ask(outside, provider, headers=[("x-key", "k")], body=b"[1]") == (200, b'{"a": 1}')
    assert await ask(outside, provider) == (503, b'{"b": 2}')
    first = provider.requests[0]
    assert (first.method, first.path, first.body) == ("POST", "/x", b"[1]")
    assert (first.header("x-key"), first.header("accept-encoding")) == ("k", "identity")
    assert first.header("host") == f"127.0.0.1:{provider.port}"
    assert provider.connections_opened == 1


async def test_chunked_and_until_close(outside, provider):
    provider.answers([Head(200), Send(b"ab"), Send(b"cd"), End()], [Head(200, [], "close"), Send(b"efg"), End()])
    assert await ask(outside, provider) == (200, b"abcd")
    assert await ask(outside, provider) == (200, b"efg")


async def test_redirects_are_not_followed(outside, provider):
    provider.answers(guards.redirects)
    assert (await ask(outside, provider))[0] == 307
    assert len(provider.requests) == 1


BROKEN = [guards.closes, guards.closes_in_the_answer, guards.babbles, guards.speaks_no_http, guards.compresses]


@pytest.mark.parametrize("answer", BROKEN, ids=lambda answer: answer.__name__)
async def test_an_answer_that_is_none(outside, provider, answer):
    provider.answers(answer)
    with pytest.raises(ConnectionError) as failed:
        await ask(outside, provider)
    assert "127.0.0.1" not in str(failed.value)
    await provider.when_connections(0)


async def test_a_megabyte_is_read_and_no_byte_more(outside, provider):
    provider.answers([Head(200), Send(b"x" * 2**20), End()], [Head(200), Send(b"x" * (2**20 + 1)), End()])
    assert len((await ask(outside, provider))[1]) == 2**20
    with pytest.raises(ConnectionError, match="too long"):
        await ask(outside, provider)


SLOW = [guards.a_byte_a_second, guards.a_head_byte_a_second, guards.silence]


@pytest.mark.parametrize("answer", SLOW, ids=lambda answer: answer.__name__)
async def test_the_time_limit_is_for_all_of_it(outside, provider, answer):
    provider.answers(answer)
    with pytest.raises(TimeoutError):
        await ask(outside, provider, seconds=SOON)
    await provider.when_connections(0)
    assert not outside.pool.open


async def test_nobody_listens(outside):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionError):
            await outside.fetch("POST", f"http://127.0.0.1:{free.getsockname()[1]}/", (), b"", 5)


async def test_nobody_accepts(outside):
    """A listener whose queue is full: connections hang in the kernel."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        waiting = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
            waiting.append(one)
        with pytest.raises(TimeoutError):
            await outside.fetch("POST", f"http://127.0.0.1:{deaf.getsockname()[1]}/", (), b"", SOON)
        assert not outside.pool.open
        for one in waiting:
            one.close()


@pytest.mark.parametrize("answer", SLOW, ids=lambda answer: answer.__name__)
async def test_cancelling_closes_the_connection(outside, provider, answer):
    provider.answers(answer)
    waiting = ask(outside, provider)
    await provider.when_request(1)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    await provider.when_connections(0)


async def test_cancelling_while_connecting(outside, provider):
    waiting = ask(outside, provider)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    assert not outside.pool.open


async def test_a_stale_connection_costs_nobody_anything(outside, provider):
    provider.answers(json_answer({"n": 1}), guards.closes, json_answer({"n": 3}))
    await ask(outside, provider)
    assert await ask(outside, provider) == (200, b'{"n": 3}')
    assert provider.connections_opened == 2


async def test_an_interim_head(outside, provider):
    provider.answers([Raw(b"HTTP/1.1 103 Early Hints\r\n\r\n"), *json_answer({})])
    assert await ask(outside, provider) == (200, b"{}")


@pytest.mark.parametrize(("path", "headers"), [("/ x", []), ("/", [("x-key", "a\r\nb")])])
async def test_what_cannot_be_sent_is_not(outside, provider, path, headers):
    with pytest.raises(ConnectionError, match="Malformed"):
        await ask(outside, provider, path, headers=headers)
    assert provider.requests == []


async def test_a_large_question(outside, provider):
    provider.answers(json_answer({}))
    await ask(outside, provider, body=b"x" * 3_000_000)
    assert len(provider.requests[0].body) == 3_000_000


async def test_two_services_share_no_connection(outside, provider):
    other = ScriptedProvider().start()
    try:
        for one in (provider, other):
            one.answers(json_answer({}))
            await ask(outside, one)
        assert provider.connections_opened == other.connections_opened == 1
    finally:
        await other.stop()
