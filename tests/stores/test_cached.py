"""Answers in memory: bounds, what is worth keeping, time."""

from hypothesis import given, settings
from hypothesis import strategies as st

from twisted_gateway.stores.cached import Entry, Memory


def memory(max_bytes=100_000, max_entries=10_000):
    now = [0.0]
    made = Memory(lambda: now[0], max_bytes, max_entries)
    return made, now


def entry(size=600, **more):
    return Entry(b"x" * (size - 400), **more)


def test_what_is_kept_is_found_until_its_time_is_over():
    cache, now = memory()
    first = entry(prompt=3, completion=4)
    cache.put("a", first, 10)
    assert cache.get("a") is first
    assert cache.get("b") is None
    now[0] = 9.99
    assert cache.get("a") is first, "asking does not lengthen its life"
    now[0] = 10.0
    assert cache.get("a") is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_a_newer_answer_takes_the_place_of_an_older_one():
    cache, now = memory()
    cache.put("a", entry(700), 10)
    now[0] = 5
    cache.put("a", entry(600), 10)
    assert (len(cache), cache.bytes) == (1, 600)
    now[0] = 12
    assert cache.get("a") is not None, "the end of the older one is not its end"


def test_an_entry_of_more_than_an_eighth_is_not_taken_and_ends_what_was_there():
    cache, _ = memory(max_bytes=8000)
    cache.put("a", entry(1000), 10)
    assert cache.get("a") is not None
    cache.put("a", entry(1001), 10)
    assert cache.get("a") is None
    assert cache.bytes == 0


def test_entries_nobody_asked_for_go_first_the_oldest_of_them_before_others():
    cache, _ = memory(max_bytes=8000)
    for name in "abcdefgh":
        cache.put(name, entry(1000), 10)
    assert cache.get("a")
    for name in "ij":
        cache.put(name, entry(1000), 10)
    assert [name for name in "abcdefghij" if name in cache._new or name in cache._asked] == list("adefghij")


def test_those_asked_for_often_do_not_keep_new_ones_out():
    cache, _ = memory(max_bytes=8000)
    for name in "abcdefgh":
        cache.put(name, entry(1000), 10)
        assert cache.get(name)
    assert cache._asked_bytes <= 6400
    cache.put("new", entry(1000), 10)
    assert cache.get("new")
    assert cache.get("a") is None, "it was not asked for the longest"
    assert cache.get("h")


def test_a_bound_on_the_number_of_entries():
    cache, _ = memory(max_bytes=10_000_000, max_entries=10_000)
    for number in range(10_050):
        cache.put(str(number), entry(450), 10)
    assert len(cache) == 10_000
    assert cache.get("49") is None
    assert cache.get("50") is not None


def test_what_has_expired_goes_before_what_is_good():
    cache, now = memory(max_bytes=8000)
    cache.put("good", entry(1000), 1000)
    for number in range(7):
        cache.put(f"short {number}", entry(1000), 5)
    now[0] = 6
    cache.put("new", entry(1000), 5)
    assert cache.get("good") is not None
    assert len(cache) == 2


def test_ends_of_what_has_gone_early_do_not_pile_up():
    cache, _ = memory(max_bytes=8000)
    for number in range(5000):
        cache.put(str(number), entry(1000), 604_800)
    assert len(cache._ends) <= 2 * len(cache) + 65


STEPS = st.lists(
    st.tuples(st.sampled_from(["get", "put", "wait"]), st.integers(0, 12), st.integers(400, 1100), st.integers(1, 20))
)


@settings(max_examples=200)
@given(STEPS)
def test_the_books_are_right_whatever_happens(steps):
    cache, now = memory(max_bytes=8000, max_entries=9)
    good = {}
    for verb, number, size, seconds in steps:
        key = str(number)
        if verb == "wait":
            now[0] += seconds
        elif verb == "put":
            cache.put(key, made := entry(size), seconds)
            good[key] = (made, now[0] + seconds)
        elif (found := cache.get(key)) is not None:
            assert found is good[key][0]
            assert now[0] < good[key][1]
        held = [*cache._new.values(), *cache._asked.values()]
        assert cache.bytes == sum(one.entry.size for one in held) <= 8000
        assert cache._asked_bytes == sum(one.entry.size for one in cache._asked.values())
        assert len(cache) == len(held) <= 9
        assert not set(cache._new) & set(cache._asked)
