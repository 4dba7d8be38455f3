"""The `usage` objects of Anthropic answers (`streaming.md` 14.1, `translation.md` section 6)."""

from __future__ import annotations

from typing import Any

from twisted_gateway.exchange import Usage


class Counters:
    """Field-wise maxima of all reports, in `usage`; its `prompt` includes cached tokens, Anthropic's own does not.

    A final report that counts the input counts it anew.
    """

    __slots__ = ("_input", "usage")

    def __init__(self) -> None:
        self.usage = Usage()
        self._input = 0

    def read(self, report: Any, *, final: bool) -> bool:
        """Merge one report; True when there was one. `final`: its `output_tokens` is a result, not a floor."""
        if not isinstance(report, dict):
            return False
        usage = self.usage
        fresh = _count(report, "input_tokens")
        if final and fresh:  # a result says it anew, as after a compaction; the SDKs take it so too
            self._input = usage.cache_read = usage.cache_write = 0
        self._input = max(self._input, fresh)
        output = _count(report, "output_tokens")
        kinds = report.get("cache_creation")
        short, long = _count(kinds, "ephemeral_5m_input_tokens"), _count(kinds, "ephemeral_1h_input_tokens")
        usage.merge(
            completion=output,
            cache_read=_count(report, "cache_read_input_tokens"),
            cache_write=_count(report, "cache_creation_input_tokens") or short + long,
            reasoning=_count(report.get("output_tokens_details"), "thinking_tokens"),
        )
        usage.cache_write_1h = min(max(usage.cache_write_1h, long), usage.cache_write)
        usage.prompt = self._input + usage.cache_read + usage.cache_write
        usage.total = usage.prompt + usage.completion
        if final and output:
            usage.final = True
        return True


def written(usage: Usage, *, always_input: bool) -> dict[str, Any]:
    """A usage object as Anthropic writes it: cache members and details only where they say something."""
    made: dict[str, Any] = {}
    fresh = max(0, usage.prompt - usage.cache_read - usage.cache_write)
    if always_input or usage.prompt:
        made["input_tokens"] = fresh
    if usage.cache_write:
        made["cache_creation_input_tokens"] = usage.cache_write
    if usage.cache_read:
        made["cache_read_input_tokens"] = usage.cache_read
    made["output_tokens"] = usage.completion
    if usage.reasoning:
        made["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    if usage.estimated:
        made["estimated"] = True
    return made


def _count(report: Any, name: str) -> int:
    value = report.get(name) if isinstance(report, dict) else None
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0
