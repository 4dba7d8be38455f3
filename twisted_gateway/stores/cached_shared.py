"""Answers that are kept in a Redis, for all gateways that use it (`policy.md` 12.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from twisted_gateway.facts import define
from twisted_gateway.stores.cached import Entry

MOST_BYTES = 8 * 2**20
"""A larger answer would keep the connection, and who waits for it, busy for too long."""


class _Kept(msgspec.Struct):
    """An entry as JSON. The body is a text, so that it keeps its bytes."""

    body: str
    prompt: int = 0
    completion: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Kept).decode


@define
class SharedAnswers:
    """`command` is `stores.redis.Redis.command`, which never waits long. Whatever is wrong with the Redis, or with what
    is found there, is a miss.
    """

    command: Callable[..., Deferred[Any]]
    environment: str = ""

    def get(self, key: str) -> Deferred[Entry | None]:
        """The entry under a key; None also where the Redis cannot be asked."""
        return self.command("GET", self._name(key)).addCallbacks(_entry, _missed)

    def put(self, key: str, entry: Entry, seconds: int) -> None:
        """Keep an entry, if that is possible; nobody waits for it."""
        if len(entry.body) > MOST_BYTES:
            return
        try:
            data = _encode(_Kept(entry.body.decode("utf-8"), entry.prompt, entry.completion))
        except UnicodeDecodeError:
            return
        self.command("SET", self._name(key), data, "EX", max(1, seconds)).addErrback(_missed)

    def _name(self, key: str) -> str:
        return f"aisix:cache:{self.environment}:{key}" if self.environment else f"aisix:cache:{key}"


def _entry(data: Any) -> Entry | None:
    if not isinstance(data, bytes):
        return None
    try:
        kept = _decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None
    return Entry(kept.body.encode("utf-8"), kept.prompt, kept.completion)


def _missed(failure: Failure) -> None:
    """A fault of the cache is a miss; that the caller has left is none of its faults."""
    if failure.check(CancelledError):
        failure.raiseException()
