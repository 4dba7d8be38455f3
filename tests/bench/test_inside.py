"""The gateway in memory: nothing on the hot road makes a cycle, and the budget has a row for each piece."""

import gc

import pytest

from bench import budget
from bench.inside import AT_ONCE, PIECEMEAL, STREAM, WHOLE, Inside
from bench.profile import hottest
from bench.targets import PLAIN


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
