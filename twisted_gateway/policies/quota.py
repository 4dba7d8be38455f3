"""Rate limits: who may use how much at once and in a while (`policy.md` 11, `extensions.md` 6.1).

A call takes a place in every bucket that its key, its model and the matching policies have, in that order, and, behind
a group, in those of each target that is tried. At settlement its tokens are counted there and what it held is free.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from twisted_gateway.charging import charge, estimate
from twisted_gateway.config.resources import Group
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.errors import Problem, Refused
from twisted_gateway.exchange import CHAT, Exchange, Joint, Outcome, Target, Ticket
from twisted_gateway.facts import frozen
from twisted_gateway.formats.row import Learnt
from twisted_gateway.layers import API_KEY, Layer, at_entry, at_target
from twisted_gateway.stores.buckets import CONCURRENCY, TOKENS, Ask, Refusal, Store, Taken, seconds_left
from twisted_gateway.wire.series import Gate

T = TypeVar("T")
_TEXTS = {TOKENS: "token limit exceeded (tokens)", CONCURRENCY: "concurrency limit exceeded"}
MEASURED_SECONDS = 0.25
"""How often streams whose tokens are held are measured."""
_REQUESTS = "request limit exceeded (requests)"


class Counters(Protocol):
    """What is counted about limits (`operations.md` 5.4; `metrics.Metrics` is one)."""

    def rate_limited(self, scope: str, layer: str, policy_id: str) -> None:
        """A call was refused."""

    def remaining(self, api_key_id: str, model: str, requests: int | None, tokens: int | None) -> None:
        """What a key has left in this minute; None where it has no such limit."""


class Quota:
    """The policy. `now` gives seconds since the epoch; `name` a name for a hold, never the same twice.

    Streams whose tokens are held are looked at a few times in a second, not frame by frame: a gate on the line would
    make each frame ten times as dear.
    """

    def __init__(
        self,
        store: Store,
        now: Callable[[], float],
        name: Callable[[], str],
        counters: Counters,
        clock: IReactorTime,
    ) -> None:
        self._store = store
        self._clock = clock
        self._measured: dict[QuotaTicket, Joint] = {}
        self._tick: IDelayedCall | None = None
        self.now = now
        self._name = name
        self._counters = counters

    def idle(self, snapshot: Snapshot) -> bool:
        """See `Policy`: no limit is written anywhere, not at a group's targets either."""
        rows = (*snapshot.caller_keys_by_hash.values(), *snapshot.models_by_name.values())
        return not snapshot.rate_limit_policies and all(row.rate_limit is None for row in rows)

    def admit(self, exchange: Exchange) -> QuotaTicket | Deferred[QuotaTicket] | None:
        """Raises `Refused` (429) when a bucket has no place."""
        layers = at_entry(exchange, self.now())
        assert exchange.resolution is not None
        if not layers and not isinstance(exchange.resolution.model, Group):
            return None
        ticket = QuotaTicket(self, exchange)
        if not layers:
            return ticket

        def taken(place: _Place) -> QuotaTicket:
            ticket.enter(place)
            return ticket

        return self.take(layers, taken)

    def take(self, layers: Sequence[Layer], taken: Callable[[_Place], T]) -> T | Deferred[T]:
        """A place in all of these layers, handed to `taken`. Raises `Refused`: now, or later."""
        hold = self._name()
        asks = tuple(layer.ask for layer in layers)
        found = self._store.take(asks, hold)

        def answered(found: Taken) -> T:
            if found.refusal is None:
                return taken(_Place(tuple(layers), asks, hold, found))
            layer = layers[found.refusal.index]
            self._count(layer, found.refusal)
            raise Refused(refused(layer, found.refusal))

        return found.addCallback(answered) if isinstance(found, Deferred) else answered(found)

    def enlarge(self, ask: Ask, hold: str, tokens: int) -> None:
        """Hold more tokens in one bucket."""
        self._store.enlarge((ask,), hold, tokens)

    def measure(self, ticket: QuotaTicket, joint: Joint) -> None:
        """A stream whose tokens are held has begun."""
        self._measured[ticket] = joint
        if self._tick is None:
            self._tick = self._clock.callLater(MEASURED_SECONDS, self._look)

    def measured(self, ticket: QuotaTicket) -> None:
        """It is over."""
        self._measured.pop(ticket, None)
        if not self._measured and self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def _look(self) -> None:
        self._tick = self._clock.callLater(MEASURED_SECONDS, self._look)
        for ticket, joint in self._measured.items():
            joint.settle()
            ticket.grown(joint.learnt)

    def release(self, place: _Place, tokens: int) -> None:
        """Give a place back."""
        self._store.release(place.asks, place.hold, tokens)

    def told(self, exchange: Exchange, requests: int | None, tokens: int | None) -> None:
        """A key was told what it has left."""
        assert exchange.caller is not None
        assert exchange.resolution is not None
        self._counters.remaining(exchange.caller.id, exchange.resolution.model.display_name, requests, tokens)

    def _count(self, layer: Layer, refusal: Refusal) -> None:
        scope = "tokens" if refusal.what == TOKENS else "requests"
        self._counters.rate_limited(scope, layer.kind, layer.policy.id if layer.policy is not None else "")


@frozen(eq=False)
class _Place:
    """What a call holds: its layers, and how they stood."""

    layers: tuple[Layer, ...]
    asks: tuple[Ask, ...]
    hold: str
    taken: Taken


class QuotaTicket(Ticket):
    """A call's places: those of the request, and those of the target that is tried or serves it."""

    __slots__ = ("_exchange", "_first", "_places", "_quota", "_sizes")

    def __init__(self, quota: Quota, exchange: Exchange) -> None:
        self._quota = quota
        self._exchange = exchange
        self._first: _Place | None = None
        self._places: list[_Place] = []
        self._sizes: dict[tuple[str, str], int] = {}
        """Tokens held, by bucket and hold."""

    def enter(self, place: _Place) -> None:
        """The request was admitted."""
        self._first = place
        self._places.append(place)

    def allow(self, target: Target) -> Callable[[], None] | Awaitable[Callable[[], None] | None] | None:
        """Takes a place in the target's own limits; what it gives back frees it again."""
        layers = at_target(self._exchange, target, self._quota.now())
        if not layers:
            return None

        def taken(place: _Place) -> Callable[[], None]:
            self._places.append(place)
            return lambda: self._take_back(place)

        return self._quota.take(layers, taken)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What the key has left, on chat (`policy.md` 11.6)."""
        place = self._first
        if place is None or place.layers[0].kind != API_KEY or self._exchange.endpoint.path != CHAT:
            return []
        limits, standing, at = place.asks[0].limits, place.taken.standings[0], place.taken.at
        reset = b"%ds" % seconds_left(at, 60)
        lines: list[tuple[bytes, bytes]] = []
        left: list[int | None] = []
        for name, limit, used in (
            (b"requests", limits.rpm, standing.requests),
            (b"tokens", limits.tpm, standing.tokens),
        ):
            left.append(None if limit is None else max(0, limit - used))
            lines += _header(name, limit, used, reset)
        lines += _header(b"concurrent", limits.concurrency, standing.in_flight, None)
        if left != [None, None]:
            self._quota.told(self._exchange, *left)
        return lines

    def gates(self, joint: Joint) -> Sequence[Gate]:
        """None; but a stream whose tokens are held is measured from now on."""
        call = self._exchange.call
        if call is not None and call.stream and any(ask.limits.reserve for place in self._places for ask in place.asks):
            self._quota.measure(self, joint)
        return ()

    def grown(self, learnt: Learnt) -> None:
        """So much of the answer has come: reservations that it has outgrown are enlarged."""
        call = self._exchange.call
        assert call is not None
        prompt = max(estimate(call.prompt_bytes), learnt.usage.prompt)
        tokens = prompt + max(estimate(learnt.text_bytes), learnt.usage.completion)
        for place in self._places:
            for ask in place.asks:
                if not ask.limits.reserve:
                    continue
                key = ask.bucket, place.hold
                size, more = self._sizes.get(key, ask.estimate), 0
                while size + more < tokens:
                    more += ask.limits.reserve_output_tokens
                if more:
                    self._sizes[key] = size + more
                    self._quota.enlarge(ask, place.hold, more)

    def settle(self, outcome: Outcome) -> None:
        """Counts the call's tokens in every bucket that it is in, and frees its places."""
        self._quota.measured(self)
        tokens = charge(self._exchange, outcome).total
        places, self._places = self._places, []
        for place in places:
            self._quota.release(place, tokens)

    def _take_back(self, place: _Place) -> None:
        if place in self._places:
            self._places.remove(place)
            self._quota.release(place, 0)


def refused(layer: Layer, refusal: Refusal) -> Problem:
    """The 429 of `errors-and-headers.md` 2.1."""
    message = _TEXTS.get(refusal.what, _REQUESTS)
    policy = layer.policy
    if policy is not None:
        message += f" (policy '{policy.name}')"
    return Problem(
        status=429,
        type="rate_limit_exceeded",
        message=message,
        retry_after=refusal.retry_after,
        members={"policy": {"id": policy.id, "name": policy.name}} if policy is not None else {},
        kind="rate_limit_exceeded",
    )


def _header(name: bytes, limit: int | None, used: int, reset: bytes | None) -> list[tuple[bytes, bytes]]:
    if limit is None:
        return []
    lines = [
        (b"x-ratelimit-limit-" + name, b"%d" % limit),
        (b"x-ratelimit-remaining-" + name, b"%d" % max(0, limit - used)),
    ]
    if reset is not None:
        lines.append((b"x-ratelimit-reset-" + name, reset))
    return lines
