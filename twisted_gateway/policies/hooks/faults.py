"""What became of a hook's exception: counted, and told to the log without the text of any call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from traceback import extract_tb

import attrs
from twisted.logger import Logger

from twisted_gateway.errors import Problem
from twisted_gateway.facts import define


@define
class Faults:
    """Exceptions and time-outs of hooks. `count(hook, method)` adds one to `aisix_hook_errors_total`."""

    count: Callable[[str, str], None]
    log: Logger = attrs.field(factory=lambda: Logger(namespace="aisix::hooks"))

    def note(self, hook: str, method: str, call: str, error: BaseException) -> None:
        """One of them. An exception's own text may quote a call, so that only its type and place are shown."""
        self.count(hook, method)
        self.log.warn(
            "hook failed", hook=hook, method=method, request_id=call, error=type(error).__name__, at=_place(error)
        )


def _place(error: BaseException) -> str | None:
    steps = extract_tb(error.__traceback__)
    if not steps:
        return None
    last = steps[-1]
    return f"{Path(last.filename).name}:{last.lineno} in {last.name}"


def failed(hook: str, in_answer: bool) -> Problem:
    """The 500 of a hook that failed; once there is an answer, as its error frame has it (`extensions.md` 7.3)."""
    kind = "internal_error" if in_answer else "hook_error"
    return Problem(status=500, type=kind, message=f'hook "{hook}" failed', kind="hook_error")
