"""The streams that run now: who may list and stop them (`extensions.md` 8, graceful stop)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from twisted_gateway.charging import so_far
from twisted_gateway.config.resources import CallerKey
from twisted_gateway.exchange import Exchange, Outcome, Usage
from twisted_gateway.facts import define
from twisted_gateway.records import milliseconds, ttft
from twisted_gateway.relay import Relay
from twisted_gateway.wire.sse import Frame

Empty = Callable[[Usage], list[Frame]]
"""A whole stream that says nothing, with these counters."""


@define(eq=False)
class _Stream:
    exchange: Exchange
    empty: Empty
    stopped: bool = False


@define(eq=False)
class Streams:
    """Streamed calls between the choice of their targets and their end.

    `relays` are the answers among them; `cancel` ends one of which nothing is known yet: then `ended_early` says so.
    """

    relays: set[Relay]
    cancel: Callable[[Exchange], None]
    _running: dict[int, _Stream] = attrs.field(factory=dict)

    def began(self, exchange: Exchange, empty: Empty) -> None:
        """A streamed call is being answered, and can be listed and stopped from now on."""
        self._running[id(exchange)] = _Stream(exchange, empty)

    def ended_early(self, exchange: Exchange) -> list[Frame] | None:
        """The answer of a stream that was stopped before it had one; None where that was not so."""
        stream = self._running.get(id(exchange))
        if stream is None or not stream.stopped or exchange.call is None:
            return None
        if exchange.attempt is not None:
            exchange.attempt.ended_by = Outcome.STOPPED.value
        return stream.empty(so_far(Usage(), exchange.call.prompt_bytes, 0))

    def ended(self, exchange: Exchange) -> None:
        """The call is settled."""
        self._running.pop(id(exchange), None)

    def listed(self, caller: CallerKey) -> list[dict[str, Any]]:
        """This key's running streams, oldest first."""
        return [self._item(stream.exchange) for stream in self._of(caller)]

    def stop(self, caller: CallerKey, id: str) -> bool:
        """Stop this key's streams of this id; False when there is none."""
        found = [stream for stream in self._of(caller) if stream.exchange.id == id]
        for stream in found:
            relay = self._relay(stream.exchange)
            if relay is not None:
                relay.stop(stream.empty)
            else:
                stream.stopped = True
                self.cancel(stream.exchange)
        return bool(found)

    def _of(self, caller: CallerKey) -> list[_Stream]:
        return [
            stream
            for stream in self._running.values()
            if stream.exchange.caller is not None
            and stream.exchange.caller.id == caller.id
            and not stream.exchange.drained
            and not stream.stopped
        ]

    def _relay(self, exchange: Exchange) -> Relay | None:
        return next((relay for relay in self.relays if relay.exchange is exchange), None)

    def _item(self, exchange: Exchange) -> dict[str, Any]:
        relay, first, call = self._relay(exchange), ttft(exchange), exchange.call
        assert call is not None
        output = 0
        if relay is not None:
            learnt = relay.learnt
            output = so_far(learnt.usage, call.prompt_bytes, learnt.text_bytes).completion
        return {
            "id": exchange.id,
            "object": "stream",
            "model": call.model,
            "endpoint": exchange.endpoint.path,
            "created": int(exchange.arrived_at),
            "ttft_ms": milliseconds(first) if first is not None else None,
            "frames": exchange.frames,
            "output_tokens": output,
        }
