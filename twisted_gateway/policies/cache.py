"""The cache: whole chat answers for those who ask the same again (`policy.md` 12, `guardrails.md` 14, docs/cache.md).

Only calls that are not streamed; a streamed one neither reads nor fills it. Two equal calls at the same time both go
upstream: the second does not wait for the first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Protocol

import msgspec

from twisted_gateway.config.caching import CachePolicy, chosen
from twisted_gateway.exchange import CHAT, CacheUse, Call, Exchange, Headers, Joint, Outcome, Ticket
from twisted_gateway.facts import define, frozen
from twisted_gateway.formats.row import Learnt
from twisted_gateway.stores.cached import Entry
from twisted_gateway.wire.series import Gate
from twisted_gateway.wire.sse import Frame

_DISABLED = CacheUse("disabled")
_VERSION = 1
"""Of what is hashed: raised when equal calls would get another key."""
_FINE = 1000
"""Parts of 1 to which `temperature` and `top_p` are told apart."""
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(order="sorted").encode


class Store(Protocol):
    """Where entries are kept. It never raises, and asking takes it no longer than a store may (`extensions.md` 6)."""

    def get(self, key: str) -> Entry | Awaitable[Entry | None] | None:
        """The entry under a key, None where there is none, or the store cannot be asked."""

    def put(self, key: str, entry: Entry, seconds: int) -> None:
        """Keep an entry for so long, if it can be kept. Returns at once."""


@define
class Cache:
    """The policy. `stores` by the name that a cache policy's `backend` has."""

    stores: Mapping[str, Store]

    def admit(self, exchange: Exchange) -> Ticket | Awaitable[Ticket | None] | None:
        """Look a call up, where a policy says so."""
        call, caller = exchange.call, exchange.caller
        assert call is not None
        if exchange.endpoint.path != CHAT or call.stream or caller is None:
            return None
        policy = chosen(exchange.snapshot.cache_policies, call.model, caller.id)
        store = self.stores.get(policy.backend) if policy is not None else None
        if policy is None or store is None:
            exchange.cache = _DISABLED
            return None
        reads, writes = wishes(exchange.headers)
        try:
            key = fingerprint(call, policy, caller.id)
        except Exception:  # a call that cannot be told apart from others with certainty
            return self._ticket(exchange, policy, None, None if reads else "bypass")
        keep = Keeping(store, key, policy.ttl_seconds) if writes else None
        if not reads:
            return self._ticket(exchange, policy, keep, "bypass")
        found = store.get(key)
        if found is None or isinstance(found, Entry):
            return self._found(exchange, policy, keep, found)
        return self._asked(exchange, policy, keep, found)

    async def _asked(
        self, exchange: Exchange, policy: CachePolicy, keep: Keeping | None, asked: Awaitable[Entry | None]
    ) -> Ticket:
        return self._found(exchange, policy, keep, await asked)

    def _found(self, exchange: Exchange, policy: CachePolicy, keep: Keeping | None, entry: Entry | None) -> Ticket:
        if entry is None:
            return self._ticket(exchange, policy, keep)
        exchange.cache = CacheUse("hit", policy.name, "exact", entry.prompt, entry.completion)
        return Hit(entry.body)

    def _ticket(
        self, exchange: Exchange, policy: CachePolicy, keep: Keeping | None, status: str | None = None
    ) -> CacheTicket:
        exchange.cache = CacheUse(status or "miss", policy.name)
        return CacheTicket(status or "miss", keep)


@frozen
class Hit(Ticket):
    """The call is answered from the cache."""

    ready: bytes | None

    def headers(self) -> list[tuple[bytes, bytes]]:
        """See `Ticket`."""
        return [(b"x-aisix-cache", b"hit"), (b"x-aisix-cache-layer", b"exact")]


@frozen
class Keeping:
    """Where a good answer is kept, under which key, for how many seconds."""

    store: Store
    key: str
    seconds: int


@define
class CacheTicket(Ticket):
    """The call goes upstream; its answer is kept when it was good to the end, if it may be."""

    status: str
    keep: Keeping | None
    _recorder: Recorder | None = None

    def headers(self) -> list[tuple[bytes, bytes]]:
        """See `Ticket`."""
        return [(b"x-aisix-cache", self.status.encode("ascii"))]

    def gates(self, joint: Joint) -> Sequence[Gate]:
        """The recorder of this answer, behind all other policies': it sees what the caller gets."""
        if self.keep is None:
            return ()
        self._recorder = Recorder(joint.learnt)
        return (self._recorder,)

    def settle(self, outcome: Outcome) -> None:
        """Keep it, or not."""
        keep, recorder = self.keep, self._recorder
        if keep is not None and recorder is not None and outcome is Outcome.COMPLETE:
            entry = recorder.entry()
            if entry is not None:
                keep.store.put(keep.key, entry, keep.seconds)


class Recorder:
    """A gate that lets everything pass and remembers a whole answer."""

    held = 0
    full = False
    halted = None
    withheld = 0

    def __init__(self, learnt: Learnt) -> None:
        self._learnt = learnt
        self._body: bytes | None = None

    def received(self, frames: list[Frame]) -> list[Frame]:
        """The frames themselves."""
        for frame in frames:
            self._body = frame.data if self._body is None else b""
        return frames

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing more."""
        return []

    def entry(self) -> Entry | None:
        """What was recorded: one whole body, or nothing."""
        usage = self._learnt.usage
        return Entry(self._body, usage.prompt, usage.completion) if self._body else None


def wishes(headers: Headers) -> tuple[bool, bool]:
    """What a caller's `cache-control` lets the cache do: read, write (`policy.md` 12.3)."""
    words = {word.strip().lower() for value in headers.all("cache-control") for word in value.split(",")}
    return "no-cache" not in words, "no-store" not in words


def fingerprint(call: Call, policy: CachePolicy, key: str) -> str:
    """What equal calls have in common and others have not, as 64 hexadecimal digits (`policy.md` 12.2).

    Raises an exception for a body that cannot be told apart from others with certainty, such as halves of surrogates.
    """
    apart = ("model", "stream")
    members: dict[str, Any] = {name: _decode(raw) for name, raw in call.extra.items() if name not in apart}
    for name in ("temperature", "top_p"):
        value = members.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            members[name] = round(value * _FINE)
    holder = key if policy.scope == "api_key" else ""
    return sha256(_encode([_VERSION, policy.id, policy.purge_generation, holder, call.model, members])).hexdigest()
