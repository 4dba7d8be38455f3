"""Running a coroutine from one Deferred to the next: results, failures, cancelling, contexts; as Twisted's own does."""

import gc
import weakref
from contextvars import ContextVar

import pytest
from twisted.internet.defer import CancelledError, Deferred

from twisted_gateway import steps

OWN = "ours"
TWISTED = "Twisted's"
RUN = {OWN: steps.run, TWISTED: Deferred.fromCoroutine}


@pytest.fixture(params=[OWN, TWISTED])
def run(request):
    return RUN[request.param]


def ended(running):
    """What it ended with, in a list; nothing yet."""
    found = []
    running.addBoth(found.append)
    return found


def test_one_that_never_waits_is_over_at_once(run):
    async def call():
        seen.append("ran")

    seen = []
    assert (ended(run(call())), seen) == ([None], ["ran"])


def test_results_and_failures_come_to_where_they_are_awaited(run):
    async def call():
        seen.append(await first)
        try:
            await second
        except ValueError as error:
            seen.append(str(error))
        seen.append(await third)

    seen, first, second, third = [], Deferred(), Deferred(), Deferred()
    third.callback("there already")
    end = ended(run(call()))
    first.callback("came")
    assert (seen, end) == (["came"], [])
    second.errback(ValueError("failed"))
    assert (seen, end) == (["came", "failed", "there already"], [None])


def test_what_is_not_caught_is_its_end(run):
    async def call():
        await waiting
        raise KeyError("lost")

    waiting = Deferred()
    end = ended(run(call()))
    waiting.callback(None)
    assert end[0].check(KeyError)


def test_the_coroutine_takes_the_result_of_what_it_awaits(run):
    async def call():
        seen.append(await waiting)

    seen, waiting = [], Deferred()
    run(call())
    waiting.callback("one")
    after = []
    waiting.addCallback(after.append)
    assert (seen, after) == (["one"], [None]), "its result is the coroutine's"


@pytest.mark.parametrize("caught", [True, False])
def test_cancelled_it_cancels_what_is_awaited(run, caught):
    async def call():
        try:
            await waiting
        except CancelledError:
            seen.append("told")
            if not caught:
                raise

    seen, cancelled = [], []
    waiting = Deferred(cancelled.append)
    running = run(call())
    end = ended(running)
    running.cancel()
    assert (seen, cancelled) == (["told"], [waiting])
    assert end == [None] if caught else end[0].check(CancelledError)


def test_one_that_goes_on_waiting_can_be_cancelled_again(run):
    async def call():
        try:
            await first
        finally:
            try:
                await second
            finally:
                seen.append(await third)

    seen, (first, second, third) = [], (Deferred(), Deferred(), Deferred())
    running = run(call())
    end = ended(running)
    running.cancel()
    assert first.called
    running.cancel()
    assert second.called
    assert (seen, end) == ([], [])
    third.callback("cleaned up")
    assert seen == ["cleaned up"]
    assert end[0].check(CancelledError)


def test_it_may_cancel_itself(run):
    async def call():
        await first
        running.cancel()
        seen.append(await second)

    seen, first, second = [], Deferred(), Deferred()
    running = run(call())
    end = ended(running)
    first.callback(None)
    second.callback("came")
    assert (seen, end) == (["came"], [None])


def test_cancelled_when_it_is_over_it_cancels_what_its_callbacks_wait_for(run):
    async def call():
        await waiting

    waiting, later = Deferred(), Deferred()
    running = run(call()).addCallback(lambda _: later)
    end = ended(running)
    waiting.callback(None)
    running.cancel()
    assert end[0].check(CancelledError)


def test_what_awaits_no_deferred_is_told_by_what_it_awaits(run):
    class Other:
        def __await__(self):
            answer = yield self
            seen.append(answer is self)

    class Wrong:
        def __await__(self):
            yield self
            raise RuntimeError("not here")

    async def call():
        await Other()
        await Wrong()

    seen = []
    assert ended(run(call()))[0].check(RuntimeError)
    assert seen == [True]


def test_many_that_fire_while_they_are_waited_for_need_no_deep_stack(run):
    async def call():
        for _ in range(5000):
            paused = Deferred()
            paused.pause()
            paused.callback(None)
            waiting.append(paused)
            await paused

    waiting = []
    end = ended(run(call()))
    while not end:
        waiting.pop().unpause()
    assert end == [None]


def test_each_has_a_context_of_its_own(run):
    name = ContextVar("name", default="nobody")

    async def call(own, waiting):
        name.set(own)
        await waiting
        seen.append(name.get())

    seen, first, second = [], Deferred(), Deferred()
    run(call("first", first))
    run(call("second", second))
    assert name.get() == "nobody"
    first.callback(None)
    second.callback(None)
    assert seen == ["first", "second"]


@pytest.mark.parametrize("end", ["callback", "cancel", "errback"])
def test_nothing_is_left_for_the_collector(end):
    class Held:
        pass

    async def call(held, waiting):
        try:
            await waiting
        except (CancelledError, ValueError) as error:
            error.__traceback__ = None

    gc.collect()
    gc.disable()
    try:
        waiting, held = Deferred(), Held()
        running, seen = steps.run(call(held, waiting)), weakref.ref(held)
        del held
        assert seen() is not None
        if end == "cancel":
            running.cancel()
        else:
            getattr(waiting, end)(*([ValueError()] if end == "errback" else [None]))
        del waiting, running
        assert seen() is None
    finally:
        gc.enable()
