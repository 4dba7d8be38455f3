"""Threads for an operator's code: results, failures, how many, and that nobody waits for a lost one."""

from threading import Event, current_thread, get_ident

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, gatherResults

from tests.network.house import until
from twisted_gateway.threads import Overrun, Threads


@pytest.fixture
def threads():
    made = Threads(reactor, most=2, longest=3)
    yield made
    made.stop()


@ensureDeferred
async def test_results_and_failures(threads):
    assert await threads.run(pow, 2, 5) == 32
    assert await threads.run(get_ident) != get_ident()
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 / 0)
    assert len(threads._threads) == 1, "one was always enough"
    assert (await threads.run(current_thread)).daemon


@ensureDeferred
async def test_no_more_threads_and_no_longer_queue_than_allowed(threads):
    go = Event()
    running = [threads.run(go.wait) for _ in range(2)]
    await until(lambda: threads._busy == 2, lambda: f"{threads._busy} run")
    running += [threads.run(go.wait) for _ in range(3)]
    with pytest.raises(Overrun):
        await threads.run(go.wait)
    assert len(threads._threads) == 2
    go.set()
    await gatherResults(running)
    await until(lambda: threads._busy == threads._waiting == 0, lambda: "some are left")


@ensureDeferred
async def test_what_is_cancelled_in_time_is_not_begun(threads):
    go, begun = Event(), []
    running = [threads.run(go.wait) for _ in range(2)]
    late = threads.run(begun.append, 1)
    late.cancel()
    with pytest.raises(CancelledError):
        await late
    go.set()
    await gatherResults(running)
    assert await threads.run(len, "abc") == 3
    assert begun == []


@ensureDeferred
async def test_one_that_never_returns_costs_its_thread_only(threads):
    go = Event()
    lost = threads.run(go.wait)
    await until(lambda: threads._busy == 1, lambda: "it does not run")
    lost.addErrback(lambda failure: failure.trap(CancelledError) and None)
    lost.cancel()
    assert await threads.run(len, "abc") == 3
    threads.stop()
    go.set()
