"""The `usage` object of OpenAI-family answers (`streaming.md` 14.1)."""

from __future__ import annotations

from typing import Any

from twisted_gateway.exchange import Usage

_MOST = 2**53


def read_usage(usage: Usage, report: Any) -> None:
    """Merge one `usage` object into the counters; anything that is not one is ignored."""
    if not isinstance(report, dict):
        return
    prompt_details = report.get("prompt_tokens_details")
    completion_details = report.get("completion_tokens_details")
    cached = count(prompt_details, "cached_tokens") if prompt_details else 0
    if not cached and not isinstance(prompt_details, dict):
        cached = count(report, "prompt_cache_hit_tokens") or count(report, "cached_tokens")
    completion = count(report, "completion_tokens")
    usage.merge(
        prompt=count(report, "prompt_tokens"),
        completion=completion,
        total=count(report, "total_tokens"),
        cache_read=cached,
        cache_write=count(prompt_details, "cache_write_tokens") if prompt_details else 0,
        reasoning=(completion_details and count(completion_details, "reasoning_tokens"))
        or count(report, "reasoning_tokens"),
    )
    if completion:
        usage.final = True


def count(report: Any, name: str) -> int:
    """A counter of a report: a non-negative number that a JSON reader keeps whole, else 0."""
    value = report.get(name) if isinstance(report, dict) else None
    if type(value) is int:
        return value if 0 < value < _MOST else 0
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MOST else 0


def usage_object(usage: Usage) -> dict[str, Any]:
    """The counters in these dialects; details only where there are any (`translation.md` section 6)."""
    made: dict[str, Any] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total or usage.prompt + usage.completion,
    }
    prompt = {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write}
    if any(prompt.values()):
        made["prompt_tokens_details"] = {name: value for name, value in prompt.items() if value}
    if usage.reasoning:
        made["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning}
    if usage.estimated:
        made["estimated"] = True
    return made
