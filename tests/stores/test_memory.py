"""Fixed windows, slots and reservations of one process, with a clock of the test's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_gateway.config.limits import RateLimit
from twisted_gateway.stores.buckets import Ask, Refusal, Standing
from twisted_gateway.stores.memory import Memory

START = 1_800_000_000 - 1_800_000_000 % 86400
"""A midnight."""


class Clocked:
    def __init__(self):
        self.now = float(START)
        self.store = Memory(lambda: self.now)
        self.names = iter(range(10**9))

    def take(self, *asks):
        """The refusal, or the name of the hold."""
        hold = f"h{next(self.names)}"
        taken = self.store.take(asks, hold)
        return taken.refusal or hold

    def room(self, ask, most=50):
        """How many places are left, which are taken now."""
        return sum(isinstance(self.take(ask), str) for _ in range(most))


@pytest.fixture
def clocked():
    return Clocked()


def ask(bucket="b", estimate=0, **limits):
    return Ask(bucket, RateLimit(**limits), estimate)


@pytest.mark.parametrize(("name", "seconds"), [("rps", 1), ("rpm", 60), ("rph", 3600), ("rpd", 86400)])
def test_windows_are_fixed_on_the_wall_clock(clocked, name, seconds):
    one = ask(**{name: 3})
    clocked.now = START + seconds - 0.5
    assert clocked.room(one) == 3
    assert clocked.take(one) == Refusal(0, "requests", 1)
    clocked.now = START + seconds
    assert clocked.room(one) == 3
    assert clocked.take(one) == Refusal(0, "requests", seconds)


def test_a_refused_request_is_not_counted_in_its_bucket(clocked):
    one = ask(rps=1, rpm=2)
    assert isinstance(clocked.take(one), str)
    assert clocked.take(one) == Refusal(0, "requests", 1)
    clocked.now += 1
    assert isinstance(clocked.take(one), str)
    clocked.now += 1
    assert clocked.take(one) == Refusal(0, "requests", 58)


def test_zero_refuses_everything(clocked):
    assert clocked.take(ask("a", rpm=0)).what == "requests"
    assert clocked.take(ask("b", concurrency=0)) == Refusal(0, "concurrency", None)
    tokens = ask("c", tpm=0)
    hold = clocked.take(tokens)
    clocked.store.release([tokens], hold, 1)
    assert clocked.take(tokens) == Refusal(0, "tokens", 60)


def test_tokens_refuse_only_when_the_limit_was_passed(clocked):
    one = ask(tpm=100, tpd=1000)
    for tokens in (100, 1):
        hold = clocked.take(one)
        clocked.store.release([one], hold, tokens)
    assert clocked.take(one) == Refusal(0, "tokens", 60)
    clocked.now += 60
    hold = clocked.take(one)
    clocked.store.release([one], hold, 900)
    clocked.now += 60
    assert clocked.take(one) == Refusal(0, "tokens", 86400 - 120)


def test_tokens_count_in_the_window_in_which_the_call_ends(clocked):
    one = ask(tpm=100)
    hold = clocked.take(one)
    clocked.now += 60
    clocked.store.release([one], hold, 200)
    assert clocked.take(one) == Refusal(0, "tokens", 60)


def test_slots_are_freed_once(clocked):
    one = ask(concurrency=2)
    first, _second = clocked.take(one), clocked.take(one)
    assert clocked.take(one) == Refusal(0, "concurrency", None)
    for _ in range(3):
        clocked.store.release([one], first, 0)
    assert clocked.room(one) == 1


def test_order_within_a_bucket(clocked):
    one = ask(concurrency=1, tpm=0, rpm=0)
    assert clocked.take(one).what == "requests"
    clocked.store.release([one], "?", 5)
    assert clocked.take(one).what == "tokens"
    full = ask(concurrency=0, tpm=0, rpm=0)
    assert clocked.take(full).what == "concurrency"


def test_a_later_bucket_refuses_earlier_ones_keep_the_request_and_lose_the_slot(clocked):
    key, model = ask("key", rpm=2, concurrency=1, tpm=100, reserve=True, estimate=60), ask("model", rpm=0)
    assert clocked.take(key, model) == Refusal(1, "requests", 60)
    assert clocked.store.standing("key") == Standing(1, 0, 0)
    assert isinstance(clocked.take(key), str)
    assert clocked.take(key).what == "concurrency"


def test_reservations_hold_until_the_end(clocked):
    one = ask(tpm=100, reserve=True, estimate=40)
    first, second = clocked.take(one), clocked.take(one)
    assert clocked.take(one) == Refusal(0, "tokens", 60)
    clocked.store.release([one], first, 10)
    assert clocked.store.standing("b").tokens == 50
    third = clocked.take(one)
    assert isinstance(third, str)
    clocked.store.release([one], second, 40)
    clocked.store.release([one], third, 50)
    assert clocked.take(one) == Refusal(0, "tokens", 60)
    clocked.now += 60
    assert isinstance(clocked.take(one), str)


def test_one_that_is_larger_than_the_limit_may_run_alone(clocked):
    one = ask(tpm=100, reserve=True, estimate=500)
    hold = clocked.take(one)
    assert clocked.take(one).what == "tokens"
    clocked.store.release([one], hold, 0)
    assert isinstance(clocked.take(one), str)


def test_an_enlarged_reservation_counts_against_the_next(clocked):
    one = ask(tpm=100, reserve=True, estimate=30)
    hold = clocked.take(one)
    clocked.store.enlarge([one], hold, 45)
    assert clocked.take(one).what == "tokens"
    clocked.store.release([one], hold, 20)
    assert clocked.store.standing("b").tokens == 20
    clocked.store.enlarge([one], hold, 45)  # too late
    assert clocked.store.standing("b").tokens == 20


def test_held_tokens_outlive_their_window(clocked):
    one = ask(tpm=100, reserve=True, estimate=60)
    clocked.take(one)
    clocked.now += 60
    assert clocked.take(one).what == "tokens"


def test_calls_admitted_by_somebody_else_count(clocked):
    one = ask(rpm=3, concurrency=2)
    clocked.store.note([one], "x")
    clocked.store.note([one], None)
    assert clocked.store.standing("b") == Standing(2, 0, 1)


def test_old_buckets_are_forgotten_and_used_ones_are_not(clocked):
    held = clocked.take(ask("held", concurrency=1))
    clocked.take(ask("day", rpd=9))
    for each in range(1000):
        clocked.take(ask(f"b{each}", rpm=1, tpm=1))
    clocked.now += 60
    for _ in range(1100):
        clocked.take(ask("other", rps=1))
    assert len(clocked.store) == 3
    assert clocked.take(ask("held", concurrency=1)).what == "concurrency"
    clocked.store.release([ask("held", concurrency=1)], held, 0)
    clocked.now += 86400
    for _ in range(20):
        clocked.take(ask("other", rps=1))
    assert len(clocked.store) == 1


@given(st.lists(st.tuples(st.sampled_from("tre"), st.integers(0, 5), st.integers(0, 400)), max_size=80), st.booleans())
def test_counters_are_exact_whatever_the_order(steps, reserve):
    clocked = Clocked()
    limits = {"concurrency": 4, "tpm": 1000, "rpm": 30, "reserve": reserve}
    running, used, requests = [], 0, 0
    for verb, at, amount in steps:
        one = ask(**limits, estimate=amount)
        if verb == "t":
            hold = clocked.take(one)
            if isinstance(hold, str):
                running.append([hold, one, amount])
                requests += 1
        elif running and verb == "e":
            hold = running[at % len(running)]
            clocked.store.enlarge([hold[1]], hold[0], amount)
            hold[2] += amount
        elif running:
            hold, asked, _ = running.pop(at % len(running))
            clocked.store.release([asked], hold, amount)
            used += amount
    held = sum(hold[2] for hold in running) if reserve else 0
    assert clocked.store.standing("b") == Standing(requests, used + held, len(running))
    assert len(running) <= 4
