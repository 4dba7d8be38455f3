"""The gateway in memory: nothing on the hot road makes a cycle, and the budget has a row for each piece."""

import gc

import pytest
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from bench import budget
from bench.inside import AT_ONCE, PIECEMEAL, STREAM, WHOLE, Inside, request
from bench.profile import hottest
from bench.targets import CALLER_KEY, PLAIN


@pytest.fixture
def inside(tmp_path):
    return Inside(tmp_path)


LIVES = {
    "at once": (STREAM, AT_ONCE),
    "piecemeal": (STREAM, PIECEMEAL),
    "not streamed": (PLAIN, WHOLE),
    "left in the middle": (STREAM, PIECEMEAL[:6]),
}


@pytest.mark.parametrize(("body", "reads"), LIVES.values(), ids=LIVES)
def test_a_call_that_is_over_is_freed_without_the_collector(inside, body, reads):
    answer = inside.once(reads, body)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    for _ in range(5):
        inside.once(reads, body)
    inside.reactor.advance(10)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            inside.once(reads, body)
        inside.reactor.advance(10)
        assert gc.collect() < 20, "objects of 20 calls were left to the collector"
    finally:
        gc.enable()


def said(status, body):
    return b"HTTP/1.1 %d Well\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


FAILURES = {
    "a wrong call": ([said(400, b'{"error":{"message":"no","type":"invalid_request_error"}}')], b"400"),
    "too many calls": ([said(429, b'{"error":{"message":"later"}}')], b"429"),
    "a fault": ([said(500, b"broken")], b"502"),
    "an answer that is none": ([said(200, b"nonsense")], b"502"),
    "no HTTP": ([b"nonsense\r\n\r\n"], b"502"),
    "closed before the head": ([], b"502"),
    "closed in the head": ([b"HTTP/1.1 200"], b"502"),
    "closed before the first frame": (PIECEMEAL[:1], b"502"),
    "closed in the middle": (PIECEMEAL[:6], b"200"),
}


def failing(inside, reads):
    """A call that the provider fails as often as it is asked; what the caller got."""
    caller, out = inside.caller()
    caller.dataReceived(request(STREAM))
    got = b""
    while not got:
        provider, _ = inside.provider()
        for read in reads:
            provider.dataReceived(read)
        if provider.alive:
            provider.connectionLost(Failure(ConnectionDone()))
        got = out.take()
        if not got:
            inside.reactor.advance(5)  # until it is asked again
    caller.connectionLost(Failure(ConnectionDone()))
    return got


@pytest.mark.parametrize(("reads", "status"), FAILURES.values(), ids=FAILURES)
def test_a_call_that_fails_is_freed_without_the_collector(inside, reads, status):
    """Or a provider's bad hour would fill the memory of a busy gateway."""
    for _ in range(5):
        assert failing(inside, reads).startswith(b"HTTP/1.1 " + status)
    inside.reactor.advance(100)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            failing(inside, reads)
        inside.reactor.advance(100)
        assert gc.collect() < 20, "objects of 20 calls were left to the collector"
    finally:
        gc.enable()


REFUSED = {
    "no key of ours": (request(STREAM).replace(CALLER_KEY.encode(), b"sk-other"), b"401"),
    "no such model": (request(STREAM.replace('"mock"', '"none"')), b"404"),
    "no JSON": (request("{nonsense"), b"400"),
    "no HTTP": (b"nonsense\r\n\r\n", b"400"),
    "left before the head": (request(STREAM), b""),
}


@pytest.mark.parametrize(("said", "status"), REFUSED.values(), ids=REFUSED)
def test_a_call_that_is_not_answered_is_freed_without_the_collector(inside, said, status):
    def once():
        caller, out = inside.caller()
        caller.dataReceived(said)
        provider = inside.provider()[0] if not status else None
        got = out.take()
        caller.connectionLost(Failure(ConnectionDone()))
        if provider is not None and provider.alive:
            provider.connectionLost(Failure(ConnectionDone()))
        return got

    for _ in range(5):
        assert once().partition(b" ")[2].startswith(status)
    inside.reactor.advance(100)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            once()
        inside.reactor.advance(100)
        assert gc.collect() < 20, "objects of 20 calls were left to the collector"
    finally:
        gc.enable()


def test_the_answer_is_the_whole_one(inside):
    said = inside.once(PIECEMEAL)
    assert said.count(b'"content":"token') == 20
    assert b'"model":"mock-1"' not in said
    assert said.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_every_piece_has_a_row_with_a_figure(inside, monkeypatch):
    monkeypatch.setattr(budget, "cost", lambda run, times=1, rounds=1: float(run() is NotImplemented) + 1.5)
    found = list(budget.rows(inside))
    names = [name for name, _, _ in found]
    assert len(set(names)) == len(names) > 20
    assert {"policy Authentication: admit", "policy ModelAccess: admit"} < set(names)
    assert all(stream or each for _, stream, each in found)
    table = budget.render(found)
    assert "| charging | 1.50 |  |" in table


def test_the_hottest_functions():
    folded = "main (a.py:1);work (a.py:7) 3\nmain (a.py:2);work (a.py:9);deep (b.py:1) 1\n"
    assert {name: (own, whole) for name, own, whole in hottest(folded)} == {
        "main (a.py)": (0, 1),
        "work (a.py)": (0.75, 1),
        "deep (b.py)": (0.25, 0.25),
    }
