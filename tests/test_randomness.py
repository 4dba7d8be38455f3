"""Random names: their form, and that nobody else's seed repeats them."""

import os
import random
from uuid import UUID

import pytest

from twisted_gateway.randomness import choose, new_id, seed


@pytest.fixture
def seed_python():
    """Seeds Python's shared source, which is put back afterwards."""
    before = random.getstate()
    yield random.seed
    random.setstate(before)


def test_an_id_is_a_uuid_of_version_4():
    for _ in range(100):
        found = UUID(made := new_id())
        assert (str(found), found.version, found.variant) == (made, 4, "specified in RFC 4122")


def test_letters_are_chosen_out_of_those_given():
    assert set(choose("ab", k=200)) == {"a", "b"}
    assert len(choose("abc", k=24)) == 24


def test_a_hook_that_seeds_random_repeats_no_name(seed_python):
    made = []
    for _ in range(3):
        seed_python(7)
        made += [new_id(), choose("0123456789abcdef", k=32)]
    assert len(set(made)) == 6


def test_a_child_gives_other_names_than_its_parent():
    new_id()  # some more are made with it
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.write(writing, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(reading, 100).decode()
    os.close(reading)
    os.close(writing)
    assert told not in {new_id() for _ in range(200)}


def test_a_seed_tells_which_names_come():
    new_id()
    seed(3)
    first = [new_id() for _ in range(3)]
    seed(3)
    assert [new_id() for _ in range(3)] == first
    seed()
    assert new_id() not in first
