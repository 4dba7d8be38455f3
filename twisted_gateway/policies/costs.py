"""`usage.cost`: what a call cost, in the usage that its caller is shown (`extensions.md` 8)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from twisted_gateway.charging import so_far
from twisted_gateway.config.money import Cost
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.exchange import Exchange, Joint, Ticket
from twisted_gateway.formats import bodies
from twisted_gateway.pricing import price
from twisted_gateway.wire.series import Gate
from twisted_gateway.wire.sse import Frame, escape_separators

HEADER = "x-aisix-include-cost"
_DIGITS = 9
_encode = msgspec.json.Encoder().encode


class IncludeCost:
    """The policy: nothing for callers who have not asked."""

    def idle(self, snapshot: Snapshot) -> bool:
        """See `Policy`: what has no price has no cost."""
        return all(model.cost is None for model in snapshot.direct_models)

    def admit(self, exchange: Exchange) -> CostTicket | None:
        """Nobody is refused."""
        key = exchange.caller
        asked = (exchange.headers.get(HEADER) or "").strip().lower() == "true"
        return CostTicket(exchange) if asked or (key is not None and key.include_cost) else None


class CostTicket(Ticket):
    """Puts the cost of one call into its answer."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def last_gates(self, joint: Joint) -> Sequence[Gate]:
        """The gate, where the model has prices."""
        prices = joint.attempt.target.model.cost
        if prices is not None and joint.attempt.kind == "cache":
            prices = Cost(0.0, 0.0)  # an answer from memory costs nothing
        return (CostGate(self._exchange, joint, prices),) if prices is not None else ()


class CostGate:
    """Writes `cost` into each usage object that it sees; every other byte stays. An upstream's own figure gives way."""

    held = 0
    halted = None
    full = False
    withheld = 0

    def __init__(self, exchange: Exchange, joint: Joint, prices: Cost) -> None:
        assert exchange.call is not None
        self._call = exchange.call
        self._joint = joint
        self._prices = prices

    def received(self, frames: list[Frame]) -> list[Frame]:
        """See `wire.series.Gate`."""
        return [self._priced(frame) if b'"usage"' in frame.data else frame for frame in frames]

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing is held."""
        return []

    def _priced(self, frame: Frame) -> Frame:
        members = bodies.inner_members(frame.data.strip())
        if members is None:
            return frame
        if "response" in members:  # a terminal event of Responses
            inner = bodies.inner_members(members["response"])
            priced = self._with_cost(inner) if inner is not None else None
            data = None if priced is None else bodies.joined({**members, "response": priced})
        else:
            data = self._with_cost(members)
        if data is None:
            return frame
        if not self._call.stream:
            return Frame(data, b"", data)
        return frame._replace(data=escape_separators(data), raw=None)

    def _with_cost(self, members: bodies.Members) -> bytes | None:
        """The object with the cost in its usage; None where it has none."""
        usage = bodies.inner_members(members.get("usage"))
        if usage is None:
            return None
        learnt, call = self._joint.learnt, self._call
        usd = price(self._prices, so_far(learnt.usage, call.prompt_bytes, learnt.text_bytes))
        return bodies.joined({**members, "usage": bodies.joined({**usage, "cost": _encode(round(usd, _DIGITS))})})
