"""What a hook does to an answer: each data frame passes through its `frame`, as JSON in the caller's dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from twisted_gateway.errors import Problem, StrayFrame, undecodable
from twisted_gateway.exchange import Halt, Outcome
from twisted_gateway.formats import bodies
from twisted_gateway.formats.texts import text_bytes
from twisted_gateway.hooks import Stop
from twisted_gateway.policies.hooks.faults import failed
from twisted_gateway.policies.hooks.loading import Hook
from twisted_gateway.wire.sse import Frame, escape_separators

_encode = msgspec.json.Encoder().encode


class FrameGate:
    """A gate that asks one hook about every frame. It never holds any: a hook that waits for more keeps it itself.

    `note` is told of an exception; a frame that the hook leaves as it was keeps its bytes.
    """

    held = 0
    full = False

    def __init__(
        self, hook: Hook, frame: Callable[[Any], Any], stream: bool, note: Callable[[BaseException], None]
    ) -> None:
        self.halted: Halt | None = None
        self.withheld = 0
        self._hook = hook
        self._frame: Callable[[Any], Any] | None = frame
        self._stream = stream
        self._note = note

    def received(self, frames: list[Frame]) -> list[Frame]:
        """What the hook makes of these frames."""
        passed: list[Frame] = []
        for frame in frames:
            made = self._asked(frame)
            if made is not frame:
                self.withheld += _said(frame) - (0 if made is None else _said(made))
            if made is not None:
                passed.append(made)
        return passed

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing: the hook is not asked about an end."""
        return []

    def _asked(self, frame: Frame) -> Frame | None:
        if self.halted is not None:
            return None
        if self._frame is None or frame.data.lstrip()[:1] != b"{":
            return frame
        try:
            answer, _ = bodies.read(frame.data)
        except StrayFrame as stray:
            self.halted = Halt(undecodable(str(stray)), Outcome.TRUNCATED)
            return None
        return self._changed(frame, answer)

    def _changed(self, frame: Frame, answer: dict[str, Any]) -> Frame | None:
        """The frame as the hook wants it: itself, another, or None. Sets `halted` where the answer must end."""
        assert self._frame is not None
        before = _encode(answer)
        try:
            said = self._frame(answer)
            after = None if said is None else _encode(_object(said))
        except Stop as stop:
            self.halted = Halt(_stopped(str(stop.message)), Outcome.BLOCKED)
        except Exception as error:
            self._note(error)
            if self._hook.skip:
                self._frame = None
                return frame
            self.halted = Halt(failed(self._hook.name, in_answer=True), Outcome.BROKEN)
        else:
            if after is not None:
                return frame if after == before else self._made(frame, after)
            if not self._stream:  # there is no answer without its one frame
                self.halted = Halt(_stopped(f'hook "{self._hook.name}" dropped the answer'), Outcome.BLOCKED)
        return None

    def _made(self, frame: Frame, data: bytes) -> Frame:
        data = escape_separators(data)
        return Frame(data, frame.event, None if self._stream else data)


class NoGate:
    """Stands for a hook that failed before the first frame: the answer ends at once."""

    held = 0
    full = False
    withheld = 0

    def __init__(self, hook: Hook) -> None:
        self.halted = Halt(failed(hook.name, in_answer=True), Outcome.BROKEN)

    def received(self, frames: list[Frame]) -> list[Frame]:
        """Nothing passes."""
        return []

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing."""
        return []


def _said(frame: Frame) -> int:
    """UTF-8 bytes of the text in a frame; 0 for one that is no JSON object."""
    try:
        answer, _ = bodies.read(frame.data)
    except StrayFrame:
        return 0
    return text_bytes(answer) if isinstance(answer, dict) else 0


def _object(said: Any) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise TypeError("frame must return a dict or None")
    return said


def _stopped(message: str) -> Problem:
    return Problem(status=422, type="hook_stopped", message=message, kind="hook_stopped")
