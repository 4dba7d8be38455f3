"""Threads for an operator's functions: a bounded number, stuck ones, calls given up. Real threads, no sleep."""

import gc
import threading
import warnings
import weakref
from queue import SimpleQueue

import pytest
from twisted.internet.defer import CancelledError

from twisted_gateway.threads import Overrun, Threads


class Room:
    """Threads whose results wait in a queue until the test, which is the reactor here, takes them."""

    def __init__(self, size=4):
        self.queue = SimpleQueue()
        self.threads = Threads(lambda *call: self.queue.put(call), size)
        self.results = []

    def run(self, function, *arguments):
        job = self.threads.run(function, *arguments)
        job.addBoth(self.results.append)
        return job

    def turn(self):
        function, *arguments = self.queue.get(timeout=60)
        function(*arguments)


@pytest.fixture
def stuck():
    gate = threading.Event()
    yield gate
    gate.set()


def test_a_call_runs_elsewhere():
    room = Room()
    room.run(lambda a: (a, threading.current_thread().name), 3)
    assert room.results == []
    room.turn()
    assert room.results == [(3, "callable-1")]


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt()])
def test_whatever_it_raises_comes_back_and_the_thread_goes_on(error):
    def function():
        raise error

    room = Room(1)
    room.run(function)
    room.turn()
    assert room.results[0].value is error
    room.run(lambda: 5)
    room.turn()
    assert room.results[1] == 5


def test_a_thread_is_used_again():
    room = Room()
    for _ in range(6):
        room.run(threading.get_ident)
        room.turn()
    assert len(set(room.results)) == 1


def test_at_most_so_many_and_the_next_waits(stuck):
    room = Room(2)
    for _ in range(2):
        room.run(stuck.wait)
    room.run(lambda: "next")
    assert room.threads.waiting == 1
    assert room.queue.empty()
    stuck.set()
    for _ in range(3):
        room.turn()
    assert sorted(map(str, room.results)) == ["True", "True", "next"]


def test_one_that_waits_and_is_given_up_is_never_begun_and_kept_by_nobody(stuck):
    class Argument:
        pass

    room, argument = Room(1), Argument()
    known = weakref.ref(argument)
    room.run(stuck.wait)
    begun = []
    room.run(begun.append, argument).cancel()
    room.run(lambda: "last")
    assert room.threads.waiting == 1
    assert room.results[0].check(CancelledError)
    room.results.clear()
    del argument
    gc.collect()
    assert known() is None
    stuck.set()
    for _ in range(2):
        room.turn()
    assert begun == []
    assert room.results == [True, "last"]


def test_one_that_runs_and_is_given_up_ends_unheard(stuck):
    async def answer():
        return 1

    def function():
        stuck.wait()
        return answer()

    room = Room(1)
    room.run(function).cancel()
    assert room.results[0].check(CancelledError)
    stuck.set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        room.turn()
        gc.collect()
    room.run(lambda: 2)
    room.turn()
    assert room.results[1:] == [2]


def test_they_are_daemons_and_stop(stuck):
    room = Room(2)
    room.run(threading.current_thread)
    room.run(stuck.wait)
    room.turn()
    idle = room.results[0]
    assert idle.daemon
    room.threads.stop()
    idle.join(60)
    assert not idle.is_alive()
    room.run(lambda: 1)
    stuck.set()
    room.turn()
    assert len(room.results) == 2


def test_no_more_wait_than_are_let(stuck):
    room = Room(1)
    room.threads._longest = 2
    for _ in range(4):
        room.run(stuck.wait)
    assert room.results[0].check(Overrun)
    assert room.threads.waiting == 2
    stuck.set()
