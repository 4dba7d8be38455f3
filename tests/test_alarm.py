"""One timer that is moved often and rings seldom."""

from types import SimpleNamespace

import pytest
from twisted.internet.task import Clock

from twisted_gateway.alarm import Alarm

from .doubles.timers import timers


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def rung():
    return []


@pytest.fixture
def alarm(clock, rung):
    return Alarm(clock, lambda: rung.append(clock.seconds()))


def run(clock, until, step=0.25):
    while clock.seconds() < until:
        clock.advance(step)


def test_it_rings_once(alarm, clock, rung):
    alarm.set(2)
    run(clock, 10)
    assert rung == [2]
    assert timers(clock) == []


@pytest.mark.parametrize("later", [3, 1, 0.5])
def test_moved(alarm, clock, rung, later):
    alarm.set(2)
    clock.advance(1)
    alarm.set(later)
    run(clock, 10)
    assert rung == [1 + later]


def test_moving_it_a_thousand_times_makes_few_timers(alarm, clock, rung, monkeypatch):
    made = []
    call_later = clock.callLater
    monkeypatch.setattr(clock, "callLater", lambda *args: made.append(args) or call_later(*args))
    for _ in range(1000):
        alarm.set(5)
        clock.advance(0.01)
        assert len(timers(clock)) == 1
    run(clock, 30)
    assert rung == [pytest.approx(9.99 + 5, abs=0.26)]
    assert len(made) <= 4


def test_off_keeps_the_timer_and_silences_it(alarm, clock, rung):
    alarm.set(2)
    alarm.off()
    assert len(timers(clock)) == 1
    run(clock, 10)
    assert rung == []
    alarm.set(1)
    run(clock, 20)
    assert rung == [11]


@pytest.mark.parametrize("seconds", [0.5, 2, 4])
def test_set_again_after_off(alarm, clock, rung, seconds):
    alarm.set(2)
    alarm.off()
    alarm.set(seconds)
    run(clock, 10)
    assert rung == [seconds]


def test_stop_leaves_nothing(alarm, clock, rung):
    alarm.set(2)
    alarm.stop()
    assert timers(clock) == []
    alarm.stop()
    run(clock, 5)
    assert rung == []


def test_it_can_be_set_from_its_own_ring(clock):
    rung = []

    def ring():
        rung.append(clock.seconds())
        if len(rung) < 3:
            alarm.set(1)

    alarm = Alarm(clock, ring)
    alarm.set(1)
    run(clock, 10)
    assert rung == [1, 2, 3]


def test_it_can_be_stopped_from_its_own_ring(clock):
    alarm = Alarm(clock, lambda: alarm.stop())
    alarm.set(1)
    run(clock, 2)
    assert timers(clock) == []


def test_later_alarms_cost_the_reactor_nothing(clock, monkeypatch):
    asked = []
    call_later = clock.callLater
    monkeypatch.setattr(clock, "callLater", lambda *args: asked.append(args) or call_later(*args))
    rung = []
    for n in range(20):
        alarm = Alarm(clock, lambda n=n: rung.append((n, clock.seconds())))
        alarm.set(5)
        clock.advance(0.125)
        if n < 19:
            alarm.stop()
    assert len(asked) == 1
    run(clock, 20, 0.125)
    assert rung == [(19, 19 * 0.125 + 5)]
    assert len(asked) == 2  # what was asked for first came for nobody
    assert clock.getDelayedCalls() == []


def test_the_shared_timer_comes_earlier_for_an_earlier_alarm(clock):
    rung = []
    late, soon = Alarm(clock, lambda: rung.append("late")), Alarm(clock, lambda: rung.append("soon"))
    late.set(5)
    late.stop()
    soon.set(1)
    clock.advance(1)
    assert rung == ["soon"]
    assert clock.getDelayedCalls() == []


def test_many_alarms_that_a_leader_moves_cost_the_reactor_a_call_each_quarter_of_a_second(clock, monkeypatch):
    """Which is what a gateway with thousands of streams would otherwise do all day."""
    asked = []
    call_later = clock.callLater
    monkeypatch.setattr(clock, "callLater", lambda *args: asked.append(args) or call_later(*args))
    rung, alarms = [], []
    for n in range(100):
        alarm = Alarm(clock, lambda n=n: rung.append((n, clock.seconds())))
        alarm.set(10)
        alarm.leader = SimpleNamespace(at=clock.seconds())
        alarms.append(alarm)
        clock.advance(2**-6)
    begun = clock.seconds()
    asked.clear()
    while clock.seconds() < begun + 40:
        for alarm in alarms:
            alarm.leader.at = clock.seconds()
        clock.advance(2**-6)
    assert rung == []
    assert 4 <= len(asked) <= 4 * 8  # some 1.6 s of each 10, four times a second
    last = alarms[0].leader.at
    run(clock, last + 20, 2**-6)
    assert rung == [(n, last + 10) for n in range(100)]
    assert clock.getDelayedCalls() == []


def test_one_that_is_asked_before_its_time_rings_at_its_time(clock):
    rung = []
    first, second = (Alarm(clock, lambda n=n: rung.append((n, clock.seconds()))) for n in range(2))
    first.set(1)
    second.set(1.125)
    run(clock, 5, 0.125)
    assert rung == [(0, 1), (1, 1.125)]


def test_one_that_is_silent_is_forgotten_before_its_time(clock):
    rung = []
    first, second = (Alarm(clock, lambda n=n: rung.append((n, clock.seconds()))) for n in range(2))
    first.set(1)
    second.set(1.125)
    second.off()
    clock.advance(1)
    assert clock.getDelayedCalls() == []
    second.set(0.0625)
    run(clock, 5, 0.0625)
    assert rung == [(0, 1), (1, 1.0625)]


def test_one_whose_ring_fails_is_alone_in_that(clock):
    rung = []
    Alarm(clock, lambda: 1 // 0).set(1)
    second = Alarm(clock, lambda: rung.append(clock.seconds()))
    second.set(1)
    with pytest.raises(ZeroDivisionError):
        clock.advance(1)
    clock.advance(0)
    assert rung == [1]


def test_places_that_were_given_up_are_counted_off_when_their_time_comes(clock):
    """Else a count that is too high would clear away those that are waited for."""
    rung = []
    gone, rings, waits, last = (Alarm(clock, lambda n=n: rung.append((n, clock.seconds()))) for n in range(4))
    gone.set(1)
    rings.set(1)
    gone.stop()
    clock.advance(1)
    waits.set(5)
    last.set(6)
    last.stop()
    run(clock, 8, 1)
    assert rung == [(1, 1), (2, 6)]
