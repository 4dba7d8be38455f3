"""The labels of calls and the families that are summed up of them (`operations.md` 5.1, 5.2 and 5.6).

A handled request adds to one cell, its tokens to another; the many families of these figures are made of the cells when
somebody reads the metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily

from twisted_gateway.tallies import Labels, Spread, Sum, Summary, Table

UNKNOWN = "unknown"


class CallLabels(NamedTuple):
    """U of `operations.md` 5.1: where a call came in, where it went, and whose it is. Absent values are `unknown`."""

    endpoint: str
    inbound_protocol: str
    provider: str = UNKNOWN
    model: str = UNKNOWN
    upstream_model: str = UNKNOWN
    provider_key_id: str = UNKNOWN
    provider_key_name: str = UNKNOWN
    api_key_id: str = UNKNOWN
    team_id: str = UNKNOWN
    user_id: str = UNKNOWN
    user_name: str = UNKNOWN


CALL: tuple[str, ...] = CallLabels._fields
_R = (*CALL, "stream", "status", "outcome")
_COUNTED = (*_R, "is_fallback")
_KEY = ("model", "provider_key_id", "provider_key_name")


def status_class(status: int) -> str:
    """`2xx`, `3xx`, `4xx`, `5xx` or `other`."""
    return f"{status // 100}xx" if 200 <= status < 600 else "other"


def status_outcome(status: int) -> str:
    """The label `outcome` of the request families, from the status alone (`operations.md` 5)."""
    if status == 429:
        return "rate_limited"
    if 200 <= status < 400:
        return "success"
    return "client_error" if 400 <= status < 500 else "upstream_error"


class Handled:
    """Requests with the same labels: how many, the seconds to their response heads, and to their ends."""

    __slots__ = ("count", "first_tokens", "head", "labels", "latency", "model_endpoint")

    def __init__(self, labels: Labels, model_endpoint: bool, latency: Spread) -> None:
        self.labels, self.model_endpoint, self.latency = labels, model_endpoint, latency
        self.count, self.head = 0, 0.0
        self.first_tokens: tuple[Spread, Sum] | None = None
        """Seconds to those of streams, where one came."""


class Tokens:
    """Tokens of calls with the same labels and client."""

    __slots__ = ("completion", "prompt", "total")

    def __init__(self) -> None:
        self.prompt, self.completion, self.total = 0, 0, 0


UsageEvent = tuple[str, int, str, str, str, str, str | None]
"""Handler, status, inbound protocol, model, id and name of the provider key, and why it was lost, if it was."""


def request_families(calls: Iterable[Handled]) -> Iterator[Table | Summary]:
    """The request families of `operations.md` 5.1, summed up of the cells of handled requests."""
    few = ("provider", "model", "status")
    head = "Time to the response head of a handled request."
    requests = Table(CounterMetricFamily, "aisix_requests_total", "Handled requests.", (*few, "outcome"))
    duration = Summary("aisix_request_duration_seconds", head, few)
    proxy = Table(CounterMetricFamily, "aisix_proxy_requests_total", "Handled requests.", _COUNTED)
    failed = Table(
        CounterMetricFamily, "aisix_proxy_failed_requests_total", "Handled requests that did not succeed.", _COUNTED
    )
    proxy_duration = Summary("aisix_proxy_request_duration_seconds", head, _R)
    llm = Table(CounterMetricFamily, "aisix_llm_requests_total", "Requests to model endpoints.", _COUNTED)
    llm_duration = Summary("aisix_llm_request_duration_seconds", head, _R)
    for cell in calls:
        key = cell.labels
        provider, model, (code, outcome) = key[2], key[3], key[-3:-1]
        requests[provider, model, code, outcome] += cell.count
        duration[provider, model, code].add(cell.head, cell.count)
        proxy[key] = cell.count
        proxy_duration[key[:-1]].add(cell.head, cell.count)
        if outcome != "success":
            failed[key] = cell.count
        if cell.model_endpoint:
            llm[key] = cell.count
            llm_duration[key[:-1]].add(cell.head, cell.count)
    yield from (requests, duration, proxy, failed, proxy_duration, llm, llm_duration)


def token_families(charged: Mapping[tuple[CallLabels, str], Tokens]) -> Iterator[Table]:
    """The token families of `operations.md` 5.2. Zeros make no series."""
    named = {
        "input": Table(CounterMetricFamily, "aisix_llm_input_tokens_total", "Prompt tokens, cache included.", CALL),
        "output": Table(CounterMetricFamily, "aisix_llm_output_tokens_total", "Completion tokens.", CALL),
        "total": Table(CounterMetricFamily, "aisix_llm_total_tokens_total", "Prompt and completion tokens.", CALL),
    }
    consumed = Table(
        CounterMetricFamily, "aisix_tokens_consumed_total", "Prompt and completion tokens.", ("provider", "model")
    )
    by_client = Table(
        CounterMetricFamily,
        "aisix_llm_tokens_by_client_total",
        "Tokens by client software.",
        ("client_type", "model", "token_type"),
    )
    for (labels, client), cell in charged.items():
        for kind, number in (("input", cell.prompt), ("output", cell.completion), ("total", cell.total)):
            if number:
                named[kind][labels] += number
                by_client[client, labels.model, kind] += number
        if cell.total:
            consumed[labels.provider, labels.model] += cell.total
    yield from (*named.values(), consumed, by_client)


def event_families(events: Mapping[UsageEvent, int]) -> Iterator[Table]:
    """Usage events and those that were lost (`operations.md` 5.6)."""
    emitted = Table(
        CounterMetricFamily,
        "aisix_usage_events_emitted_total",
        "Usage events, one per attempt, or one for a call without any.",
        ("handler", "status_code", "inbound_protocol", *_KEY),
    )
    lost = Table(
        CounterMetricFamily, "aisix_usage_event_drops_total", "Usage events that reached no sink.", ("reason", *_KEY)
    )
    for (handler, status, protocol, *key, dropped), count in events.items():
        emitted[handler, status_class(status), protocol, *key] += count
        if dropped is not None:
            lost[dropped, *key] += count
    yield from (emitted, lost)
