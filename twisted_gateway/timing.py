"""Where the time of an answer went, as its `server-timing` header says (`extensions.md` 8). Pure."""

from __future__ import annotations

from twisted_gateway.exchange import Exchange


def server_timing(exchange: Exchange, now: float) -> bytes:
    """Milliseconds: to the first attempt, connecting, from the request to the first event, and the rest up to `now`.

    What is not known yet is left out: before the first event there is no rest either.
    """
    parts = []
    attempt = exchange.attempt
    spent = 0.0
    if exchange.attempts:
        spent = exchange.attempts[0].started - exchange.arrived
        parts.append(("queue", spent))
    if attempt is not None and attempt.sent is not None:
        connecting = attempt.sent - attempt.started
        parts.append(("connect", connecting))
        spent += connecting
        if attempt.first_event is not None:
            waiting = attempt.first_event - attempt.sent
            parts.append(("upstream", waiting))
            spent += waiting
    if attempt is None or attempt.first_event is not None or attempt.ended is not None:
        parts.append(("own", now - exchange.arrived - spent))
    return ", ".join(f"{name};dur={max(0.0, seconds) * 1000:.1f}" for name, seconds in parts).encode("ascii")
