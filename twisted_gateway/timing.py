"""Where the time of an answer went, as its `server-timing` header says (`extensions.md` 8). Pure."""

from __future__ import annotations

from twisted_gateway.exchange import Exchange

_ALL = b"queue;dur=%.1f, connect;dur=%.1f, upstream;dur=%.1f, own;dur=%.1f"


def server_timing(exchange: Exchange, now: float) -> bytes:
    """Milliseconds: to the first attempt, connecting, from the request to the first event, and the rest up to `now`.

    What is not known yet is left out: before the first event there is no rest either.
    """
    attempt, attempts = exchange.attempt, exchange.attempts
    if attempts and attempt is not None and attempt.sent is not None and attempt.first_event is not None:
        queue, connecting = attempts[0].started - exchange.arrived, attempt.sent - attempt.started
        waiting = attempt.first_event - attempt.sent
        own = max(0.0, now - exchange.arrived - queue - connecting - waiting)
        return _ALL % (queue * 1000, connecting * 1000, waiting * 1000, own * 1000)
    parts, spent = [], 0.0
    if attempts:
        spent = attempts[0].started - exchange.arrived
        parts.append(_part(b"queue", spent))
    if attempt is not None and attempt.sent is not None:
        connecting = attempt.sent - attempt.started
        parts.append(_part(b"connect", connecting))
        spent += connecting
    if attempt is None or attempt.first_event is not None or attempt.ended is not None:
        parts.append(_part(b"own", now - exchange.arrived - spent))
    return b", ".join(parts)


def _part(name: bytes, seconds: float) -> bytes:
    return b"%b;dur=%.1f" % (name, seconds * 1000 if seconds > 0 else 0.0)
