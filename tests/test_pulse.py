"""How late the reactor is, and when the collector works."""

import gc
import linecache

import pytest
from twisted.internet.task import Clock

from twisted_gateway.pulse import Pulse


class Collector:
    """In place of the process's own."""

    def __init__(self, monkeypatch):
        self.looks, self.new = [], 0
        monkeypatch.setattr(gc, "collect", lambda generation=2: self.looks.append(generation))
        monkeypatch.setattr(gc, "get_count", lambda: (self.new, 0, 0))
        monkeypatch.setattr(gc, "freeze", lambda: self.looks.append("freeze"))
        monkeypatch.setattr(gc, "disable", lambda: self.looks.append("disable"))


@pytest.fixture
def collector(monkeypatch):
    return Collector(monkeypatch)


def test_lateness_is_told():
    clock, late = Clock(), []
    pulse = Pulse(clock, late.append, lambda: False)
    pulse._wait()
    clock.advance(0.25)
    clock.advance(0.75)
    assert late == [0, pytest.approx(0.5)]


def test_what_lives_at_the_start_is_for_ever(collector):
    Pulse(Clock(), lambda late: None, lambda: False).start()
    assert collector.looks == [2, "freeze", "disable"]


def test_sources_of_generated_methods_are_not_kept(collector):
    linecache.getline(__file__, 1)
    assert linecache.cache
    Pulse(Clock(), lambda late: None, lambda: False).start()
    assert not linecache.cache


def test_everything_is_looked_at_only_when_nobody_calls(collector):
    clock, busy = Clock(), [True]
    Pulse(clock, lambda late: None, lambda: busy[0]).start()
    collector.looks.clear()
    clock.pump([0.25] * 4)
    assert collector.looks == [], "nothing is new"
    collector.new = 5000
    clock.pump([0.25] * 3)
    assert collector.looks == [0, 0, 0]
    collector.new, busy[0] = 0, False
    clock.pump([0.25] * 3)
    assert collector.looks == [0, 0, 0, 2]


def test_a_load_without_end_is_no_reason_to_grow_for_ever(collector):
    clock = Clock()
    Pulse(clock, lambda late: None, lambda: True).start()
    collector.looks.clear()
    collector.new = 5000
    clock.advance(0.25)
    clock.advance(1801)
    assert collector.looks == [0, 0, 2]
