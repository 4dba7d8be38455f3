"""Where the time of an answer went, as its `server-timing` header says (`extensions.md` 8). Pure."""

from __future__ import annotations

from twisted_gateway.exchange import Exchange


def server_timing(exchange: Exchange, now: float) -> bytes:
    """Milliseconds: to the first attempt, connecting, from the request to the first event, and the rest up to `now`.

    What is not known yet is left out: before the first event there is no rest either.
    """
    parts = []
    attempt, spent = exchange.attempt, 0.0
    if exchange.attempts:
        spent = exchange.attempts[0].started - exchange.arrived
        parts.append(_part(b"queue", spent))
    if attempt is not None and attempt.sent is not None:
        connecting = attempt.sent - attempt.started
        parts.append(_part(b"connect", connecting))
        spent += connecting
        if attempt.first_event is not None:
            waiting = attempt.first_event - attempt.sent
            parts.append(_part(b"upstream", waiting))
            spent += waiting
    if attempt is None or attempt.first_event is not None or attempt.ended is not None:
        parts.append(_part(b"own", now - exchange.arrived - spent))
    return b", ".join(parts)


def _part(name: bytes, seconds: float) -> bytes:
    return b"%b;dur=%.1f" % (name, seconds * 1000 if seconds > 0 else 0.0)
