"""What is told to a Redis that is slow, away, or back: kept in order, bounded, one piece at a time. No Redis here."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from twisted_gateway.config.limits import RateLimit
from twisted_gateway.stores import redis_buckets
from twisted_gateway.stores.buckets import Ask
from twisted_gateway.stores.memory import Memory
from twisted_gateway.stores.redis import RedisError, Script, Unavailable
from twisted_gateway.stores.redis_buckets import Shared

ONE = Ask("b", RateLimit(concurrency=10**6, tpm=10**9))


class Away:
    """A `Redis` that answers when the test says so."""

    def __init__(self):
        self.up = False
        self.sent = []
        self.stopped = False

    def script(self, source):
        return Script(source)

    def watch(self, told):
        self.told = told

    def start(self):
        pass

    async def stop(self):
        self.stopped = True

    def run(self, script, keys=(), args=()):
        answer = Deferred()
        self.sent.append((script, list(args), answer))
        return answer

    def comes(self):
        self.up = True
        self.told(True)

    def goes(self):
        self.up = False
        self.told(False)
        sent, self.sent = self.sent, []
        for _, _, answer in sent:
            if not answer.called:
                answer.errback(Unavailable())

    def waiting(self):
        return [args for _, args, answer in self.sent if not answer.called]

    def answer(self):
        """The oldest is done."""
        next(answer for _, _, answer in self.sent if not answer.called).callback(0)


class Room:
    def __init__(self):
        self.clock, self.redis, self.degraded = Clock(), Away(), []
        self.store = Shared(self.redis, Memory(self.clock.seconds), self.clock, "p", self.degraded.append)
        self.store.start()

    def tell(self, count, tokens=1):
        for _ in range(count):
            self.store.release([ONE], "h", tokens)
        self.clock.advance(0)


@pytest.fixture
def room():
    return Room()


def numbers(told):
    """Number of the first, and how many."""
    return told[4], (len(told) - 5) // 6


def test_a_crowd_is_told_in_one_piece_a_turn(room):
    room.redis.comes()
    assert room.degraded == [True, False]
    for _ in range(5):
        room.store.release([ONE], "h", 1)
    assert room.redis.sent == []
    room.clock.advance(0)
    assert [numbers(told) for told in room.redis.waiting()] == [(0, 5)]
    room.redis.answer()
    assert room.redis.waiting() == []


def test_after_an_outage_one_piece_at_a_time_and_asked_behind_the_last(room):
    room.tell(250)
    assert room.redis.sent == []
    room.redis.comes()
    assert room.degraded == [True]
    assert [numbers(told) for told in room.redis.waiting()] == [(0, 100)]
    assert room.store.take([ONE], "x").refusal is None  # by ourselves
    room.redis.answer()
    assert [numbers(told) for told in room.redis.waiting()] == [(100, 100)]
    assert room.degraded == [True]
    room.redis.answer()
    assert room.degraded == [True, False]
    assert isinstance(room.store.take([ONE], "y"), Deferred)
    last, question = room.redis.waiting()
    assert numbers(last) == (200, 51)
    assert question[4] == "y"


def test_a_redis_catches_up_with_a_busy_gateway(room):
    room.tell(250)
    room.redis.comes()
    for _ in range(3):
        room.tell(30)
        room.redis.answer()
    assert room.degraded == [True, False]


def test_one_who_comes_while_redis_is_catching_up_is_told_too(room):
    room.store.take([ONE], "before")
    room.tell(150)
    room.redis.comes()
    room.store.take([ONE], "meanwhile")
    room.redis.answer()
    (told,) = room.redis.waiting()
    renewed = [told[at + 3] for at in range(5, len(told), 6) if told[at] == "renew"]
    assert renewed == ["before", "meanwhile"]


def test_what_was_not_heard_is_told_again_under_its_numbers(room):
    room.redis.comes()
    room.tell(3)
    room.tell(4)
    room.redis.answer()
    room.redis.goes()
    room.tell(2)
    room.redis.comes()
    assert [numbers(told) for told in room.redis.waiting()] == [(3, 4)]
    room.redis.answer()
    assert [numbers(told) for told in room.redis.waiting()] == [(7, 2)]
    assert room.degraded == [True, False, True, False]


def test_a_thing_is_told_with_its_age(room):
    room.tell(1, 7)
    room.clock.advance(2.5)
    room.redis.comes()
    (told,) = room.redis.waiting()
    assert told[:5] == ["aisix:rl:", 300, "p", 1, 0]
    assert told[5:] == ["release", 2500, "b", "h", 7, "cM"]


def test_the_oldest_is_lost_when_there_is_too_much(room, monkeypatch):
    monkeypatch.setattr(redis_buckets, "MOST_TOLD", 10)
    for each in range(25):
        room.store.release([ONE], f"h{each}", 1)
    room.redis.comes()
    (told,) = room.redis.waiting()
    assert told[8::6] == [f"h{each}" for each in range(15, 25)]


def test_a_script_that_is_refused_stops_nothing(room):
    room.redis.comes()
    room.tell(1)
    room.redis.sent[0][2].errback(RedisError("WRONGTYPE"))
    room.tell(1)
    assert [numbers(told) for told in room.redis.waiting()] == [(1, 1)]


def test_those_that_run_are_renewed(room):
    room.redis.comes()
    room.store.take([ONE], "mine")
    room.redis.sent[0][2].callback([-1, 0, 0, 1000, 0, 0, 1])
    room.clock.advance(100)
    room.clock.advance(0)
    (told,) = room.redis.waiting()
    assert told[5:] == ["renew", 0, "b", "mine", 0, "c"]


@pytest.mark.parametrize("heard", [True, False])
def test_the_end_waits_for_the_last_words_but_not_for_ever(room, heard):
    room.redis.comes()
    room.store.release([ONE], "h", 1)
    stopping = Deferred.fromCoroutine(room.store.stop())
    assert not stopping.called
    if heard:
        room.redis.answer()
    else:
        room.clock.advance(1)
    assert stopping.called
    assert room.redis.stopped
    assert room.clock.getDelayedCalls() == []
