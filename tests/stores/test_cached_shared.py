"""Answers in a Redis, as far as no server is needed: what is sent, what is not, and that no fault is told."""

import json

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from twisted_gateway.stores.cached import Entry
from twisted_gateway.stores.cached_shared import MOST_BYTES, SharedAnswers

KEY = "ab" * 32


class Redis:
    def __init__(self, answer=None):
        self.answer = answer
        self.asked = []

    def command(self, *words):
        self.asked.append(words)
        return fail(self.answer) if isinstance(self.answer, Exception) else succeed(self.answer)


def got(deferred):
    found = []
    deferred.addBoth(found.append)
    return found[0]


def test_what_is_sent_comes_back():
    redis = Redis("OK")
    entry = Entry('{"a":"é\u2028"}'.encode(), 3, 4)
    SharedAnswers(redis.command).put(KEY, entry, 60)
    ((verb, name, data, ex, seconds),) = redis.asked
    assert (verb, name, ex, seconds) == ("SET", f"aisix:cache:{KEY}", "EX", 60)
    assert json.loads(data) == {"body": '{"a":"é\u2028"}', "prompt": 3, "completion": 4}
    redis.answer = data
    assert got(SharedAnswers(redis.command).get(KEY)) == entry
    SharedAnswers(redis.command, "prod").get(KEY)
    assert redis.asked[-1] == ("GET", f"aisix:cache:prod:{KEY}")


@pytest.mark.parametrize("body", [b"x" * (MOST_BYTES + 1), b"\xff"])
def test_what_cannot_be_kept_is_not_sent(body):
    redis = Redis("OK")
    SharedAnswers(redis.command).put(KEY, Entry(body), 60)
    assert redis.asked == []


@pytest.mark.parametrize("answer", [None, 7, b"", b"[]", b'{"body":7}', b'{"prompt":1}', b"[" * 100_000, OSError("x")])
def test_whatever_is_wrong_is_a_miss(answer):
    redis = Redis(answer)
    assert got(SharedAnswers(redis.command).get(KEY)) is None
    SharedAnswers(redis.command).put(KEY, Entry(b"{}"), 60)


def test_a_caller_who_leaves_is_no_miss():
    asked = SharedAnswers(lambda *words: Deferred()).get(KEY)
    failures = []
    asked.addErrback(failures.append)
    asked.cancel()
    assert failures[0].check(CancelledError)
