"""The events of the Responses dialect: numbered, and named twice (`streaming.md` 6, `translation.md` 7.3)."""

from __future__ import annotations

from typing import Any

import msgspec

from twisted_gateway.errors import Problem
from twisted_gateway.exchange import Usage
from twisted_gateway.formats.bodies import size
from twisted_gateway.formats.openai_usage import count
from twisted_gateway.wire.sse import Frame, escape_separators

STOPPED = "stopped_by_caller"
"""Why an answer is incomplete that its caller has stopped (`extensions.md` 8)."""
_encode = msgspec.json.Encoder().encode


class Script:
    """Writes events one after the other, numbered from 0 without a gap. A mute one writes nothing."""

    __slots__ = ("_frames", "_mute", "_number", "shown_bytes")

    def __init__(self, mute: bool = False) -> None:
        self._frames: list[Frame] = []
        self._mute = mute
        self._number = 0
        self.shown_bytes = 0

    def say(self, kind: str, **members: Any) -> None:
        """One event."""
        if not self._mute:
            event = {"type": kind, "sequence_number": self._number, **members}
            self._frames.append(Frame(dump(event), kind.encode()))
            self._number += 1

    def delta(self, kind: bytes, head: bytes, text: str, tail: bytes) -> None:
        """One event of many that differ in number and text alone: `head` and `tail` are the JSON around the text."""
        self.shown_bytes += size(text)
        if not self._mute:
            start = b'{"type":"' + kind + b'","sequence_number":%d' % self._number
            self._frames.append(Frame(start + head + dump(text) + tail, kind))
            self._number += 1

    def complain(self, problem: Problem) -> None:
        """The error event."""
        self._frames.append(error_frame(problem, self._number))
        self._number += 1

    def taken(self) -> list[Frame]:
        """What was written since it was asked last."""
        frames, self._frames = self._frames, []
        return frames


def error_frame(problem: Problem, number: int) -> Frame:
    """An error in mid-stream. It has no member `error`, on which the SDKs raise (`streaming.md` 11.3)."""
    event: dict[str, Any] = {
        "type": "error",
        "code": problem.frame_type if problem.usage is None else problem.code,
        "message": problem.message,
        "param": problem.param,
        "sequence_number": number,
    }
    if problem.usage is not None:
        event["usage"] = usage_object(problem.usage)
    return Frame(dump(event), b"error")


def dump(value: Any) -> bytes:
    """JSON as it is written into a frame."""
    return escape_separators(_encode(value))


def read_usage(usage: Usage, report: Any) -> None:
    """Merge a `usage` object of this dialect into the counters (`streaming.md` 14.1)."""
    if not isinstance(report, dict):
        return
    details = report.get("input_tokens_details")
    completion = count(report, "output_tokens")
    usage.merge(
        prompt=count(report, "input_tokens"),
        completion=completion,
        total=count(report, "total_tokens"),
        cache_read=count(details, "cached_tokens"),
        cache_write=count(details, "cache_write_tokens"),
        reasoning=count(report.get("output_tokens_details"), "reasoning_tokens"),
    )
    if completion:
        usage.final = True


def usage_object(usage: Usage) -> dict[str, Any]:
    """The counters in this dialect: every member is mandatory (`translation.md` 6)."""
    marks = {"estimated": True} if usage.estimated else {}
    return {
        **marks,
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total or usage.prompt + usage.completion,
    }
