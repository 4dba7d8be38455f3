"""The markdown table: medians over the rounds, ratios to nginx, and below it what needs a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

BASE = "nginx"
NOISY = 0.3  # spread over the rounds, as part of the median, from which a figure gets a warning
IDLE = 0.9  # busy share of the gateway's core below which a rate is only a lower bound


@dataclass(frozen=True)
class Row:
    """A line of the table: a figure `key` of the measurement `metric`."""

    metric: str
    key: str
    label: str
    unit: str
    bounded: bool = False  # a rate, capped by the tools where the gateway's core was idle
    ratio: bool = True  # a ratio to nginx says something


ROWS = (
    Row("paced", "us", "CPU per paced chunk (64 streams, 20 ms apart)", "µs"),
    Row("lone", "us", "CPU per lone chunk (2 streams, 1 ms apart)", "µs"),
    Row("burst", "us", "CPU per chunk in bursts (8 streams of 2,000)", "µs"),
    Row("stream", "us", "CPU per stream (20 chunks at once, 64 connections)", "µs"),
    Row("drip", "us", "CPU per stream (20 chunks 5 ms apart, 64 connections)", "µs"),
    Row("crossed", "us", "CPU per paced chunk translated from Anthropic to chat", "µs", ratio=False),
    Row("crossed", "times", "that, as a multiple of the passed-through one", "", ratio=False),
    Row("crossed", "burst", "CPU per translated chunk in bursts", "µs", ratio=False),
    Row("plain", "us", "CPU per plain request (64 connections)", "µs"),
    Row("plain", "rate", "plain requests per second (64 connections)", "1/s", bounded=True),
    Row("saturate", "rate", "streams per second (20 chunks in one write, 64 connections)", "1/s", bounded=True),
    Row("saturate", "us", "CPU per stream in that", "µs"),
    Row("ttft", "p50", "added time to first token, p50 (open loop, 40/s)", "ms"),
    Row("ttft", "p99", "added time to first token, p99", "ms"),
    Row("ttft", "chunk_p50", "delay of a chunk in that, p50", "ms"),
    Row("ttft", "chunk_p99", "delay of a chunk in that, p99", "ms"),
    Row("abort", "p50", "caller's close until the provider sees it, p50", "ms"),
    Row("abort", "p99", "caller's close until the provider sees it, p99", "ms"),
    Row("abort", "seen", "closes the provider saw within 0.5 s", "%", ratio=False),
    Row("ready", "seconds", "start of the process until its first good answer", "s", ratio=False),
    Row("memory", "base", "memory with no stream open", "MB"),
    Row("memory", "kb", "memory per open stream, at {streams}", "KB"),
    Row("slow", "us", "CPU per chunk at {slow} streams, a chunk a second each", "µs"),
    Row("slow", "kb", "memory per open stream, at {slow}", "KB"),
    Row("slow", "pause", "longest delay of a chunk while they open and run", "ms"),
    Row("stall", "grown", "4 callers stop reading: memory grown in 3.5 s", "MB", ratio=False),
    Row("stall", "taken", "provider's bytes taken by then, per caller (kernel's buffers included)", "MB", ratio=False),
    Row("stall", "flow", "still flowing at the end", "MB/s", ratio=False),
    Row("stall", "left", "provider streams left 0.5 s after those callers close", "", ratio=False),
)


@dataclass
class Results:
    """All that was measured, by target, measurement and figure."""

    values: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, target: str, metric: str, figures: dict[str, float] | str) -> None:
        """Note a round: its figures, or why there are none."""
        if isinstance(figures, str):
            self.failures.append((target, metric, figures))
            return
        for key, value in figures.items():
            self.values.setdefault((target, metric, key), []).append(value)

    def median(self, target: str, metric: str, key: str) -> float | None:
        """The figure to print, if it was measured at all."""
        found = self.values.get((target, metric, key))
        return median(found) if found else None

    def idle(self, target: str, metric: str) -> bool:
        """Whether the tools, not the target, set the pace."""
        share = self.median(target, metric, "share")
        return share is not None and share < IDLE


def number(value: float) -> str:
    """Three digits that count, thousands kept."""
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _cell(results: Results, target: str, row: Row) -> str:
    value = results.median(target, row.metric, row.key)
    if value is None:
        failed = any((target, row.metric) == failure[:2] for failure in results.failures)
        return "-" if failed or target != "direct" else "n/a"
    return ("≥ " if row.bounded and results.idle(target, row.metric) else "") + number(value)


def _ratio(results: Results, target: str, row: Row) -> str:
    value, base = (results.median(name, row.metric, row.key) for name in (target, BASE))
    if not row.ratio:
        return ""
    if value is None or not base:
        return "-"
    bounds = [row.bounded and results.idle(name, row.metric) for name in (target, BASE)]
    signs = {(True, False): "≥ ", (False, True): "≤ ", (True, True): "~ "}
    return signs.get((bounds[0], bounds[1]), "") + f"{value / base:.2f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _failures(results: Results) -> list[str]:
    grouped: dict[tuple[str, str], dict[str, int]] = {}
    for target, metric, reason in results.failures:
        counts = grouped.setdefault((target, reason), {})
        counts[metric] = counts.get(metric, 0) + 1
    notes = []
    for (target, reason), counts in grouped.items():
        where = ", ".join(metric if n == 1 else f"{metric} ({n} rounds)" for metric, n in counts.items())
        notes.append(f"{target}: no figure from {where}: {reason}")
    return notes


def _bounds(results: Results, targets: Sequence[str]) -> list[str]:
    notes = []
    for target in targets:
        for metric in dict.fromkeys(row.metric for row in ROWS if row.bounded):
            share, tools = (results.median(target, metric, key) for key in ("share", "tools"))
            if results.idle(target, metric) and share is not None and tools is not None:
                busy = f"its core was {share:.0%} busy, the tools' {tools:.0%}"
                notes.append(f"{target}, {metric}: the rate is a lower bound; {busy}")
    return notes


def _noise(results: Results, targets: Sequence[str], rows: Sequence[Row]) -> list[str]:
    noisy = []
    for row in rows:
        for target in targets:
            found = results.values.get((target, row.metric, row.key), [])
            if len(found) > 1 and max(found) - min(found) > NOISY * abs(median(found)):
                noisy.append(f"{target} {row.metric}.{row.key} {number(min(found))} to {number(max(found))}")
    return [f"spread over the rounds above {NOISY:.0%} of the median: {'; '.join(noisy)}"] if noisy else []


def render(results: Results, targets: Sequence[str], metrics: Sequence[str], facts: dict[str, str]) -> str:
    """The whole report."""
    rows = [row for row in ROWS if row.metric in metrics]
    ratios = [target for target in targets if target not in (BASE, "direct")] if BASE in targets else []
    head = ["", "unit", *targets, *(f"{target} / {BASE}" for target in ratios)]
    lines = [f"{name}: {value}  " for name, value in facts.items()]
    lines += ["", _line(head), _line(["---", "---", *["---:"] * (len(head) - 2)])]
    for row in rows:
        cells = [_cell(results, target, row) for target in targets]
        label = row.label.format(streams=facts.get("streams", "?"), slow=facts.get("slow", "?"))
        lines.append(_line([label, row.unit, *cells, *(_ratio(results, target, row) for target in ratios)]))
    notes = _failures(results) + _bounds(results, targets) + results.remarks + _noise(results, targets, rows)
    return "\n".join(lines + [""] + [f"* {note}" for note in notes]) + "\n"
