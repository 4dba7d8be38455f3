"""The throughput floor's meter: a sliding window over text, in time spent reading."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_gateway.config.routes import ThroughputFloor
from twisted_gateway.floor import Floor

RULE = ThroughputFloor(10.0, 5.0)
"""200 bytes in 5 seconds."""


def test_nothing_is_judged_before_a_window_is_over():
    floor = Floor(RULE, 100.0)
    assert floor.left(100.0) == 5.0
    assert floor.left(104.0) == pytest.approx(1.0)
    assert floor.left(105.0) == 0.0


def test_it_says_when_what_came_will_not_be_enough():
    floor = Floor(RULE, 100.0)
    floor.fed(101.0, 150)
    floor.fed(103.0, 250)
    assert floor.left(103.0) == pytest.approx(3.0), "at 106 the first 150 bytes are too old"
    floor.fed(105.5, 400)
    assert floor.left(105.9) == pytest.approx(2.1), "the last 250 do until 108"
    assert floor.left(108.0) == 0.0


def test_a_steady_stream_is_never_too_slow():
    floor = Floor(RULE, 0.0)
    for step in range(1, 400):
        floor.fed(step * 0.1, step * 4 + 8)
        assert floor.left(step * 0.1) > 0


def test_a_pause_does_not_count():
    floor = Floor(RULE, 0.0)
    floor.fed(1.0, 500)
    floor.pause(2.0)
    floor.pause(3.0)
    floor.resume(1000.0)
    floor.resume(1001.0)
    assert floor.left(1000.0) == pytest.approx(4.0)
    assert floor.left(1003.9) == pytest.approx(0.1)


def test_many_small_reads_need_little_memory():
    floor = Floor(RULE, 0.0)
    for step in range(100_000):
        floor.fed(step * 0.001, step)
        if step % 100 == 0:
            floor.left(step * 0.001)
    assert len(floor._samples) <= 60


@given(st.lists(st.tuples(st.floats(0.01, 3.0), st.integers(0, 300)), max_size=40))
def test_it_agrees_with_adding_up(reads):
    floor, now, total, log = Floor(RULE, 0.0), 0.0, 0, []
    for gap, size in reads:
        now += gap
        total += size
        floor.fed(now, total)
        log.append((now, size))
        left = floor.left(now)
        kept = sum(size for at, size in log if at > now - RULE.window_secs)
        shorter = sum(size for at, size in log if at > now - RULE.window_secs * 0.97)
        longer = sum(size for at, size in log if at > now - RULE.window_secs * 1.03)
        if now >= RULE.window_secs and longer < 200:
            assert left == 0.0
        if shorter >= 200:
            assert left > 0
        assert kept >= shorter
