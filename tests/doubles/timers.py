"""What a clock will still do for somebody."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IDelayedCall

from twisted_gateway import alarm


def timers(clock: Any) -> list[IDelayedCall]:
    """The delayed calls of a clock, less the one that alarms share, where no alarm is set."""
    board = alarm._boards.get(clock)
    spare = board._call if board is not None and not board._places else None
    return [call for call in clock.getDelayedCalls() if call is not spare]
