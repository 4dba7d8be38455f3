"""Every metric of the process, by the names and labels of `operations.md` section 5 and `extensions.md` section 9.

Label values come only from the configuration or from fixed sets, so the number of series is bounded by the
configuration, and so are the tables here that keep the child object of each tuple of label values (prometheus_client's
own `labels()` is slow). Summaries have `_sum` and `_count` only. This module does not decide what is counted when:
`policies.accounting` does for calls, `admin.state` for the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase

CONTENT_TYPE = "text/plain; version=0.0.4"
UNKNOWN = "unknown"

E2E_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 420, 600)
"""Seconds (`operations.md` 5.7)."""
TTFT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

RELOAD_FAILURES = ("fetch", "parse", "validate")
RESOURCE_KINDS = (
    "provider_keys", "models", "api_keys", "guardrails", "mcp_servers", "a2a_agents", "cache_policies",
    "observability_exporters", "rate_limit_policies", "oidc_providers", "claim_mappings", "passthrough_routes",
    "budgets", "mcp_auth_settings",
)  # fmt: skip
"""The collections of the configuration (`configuration.md` 5.1): the values of the label `kind`."""

M = TypeVar("M", bound=MetricWrapperBase)


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


_R = (*CallLabels._fields, "stream", "status", "outcome")
_LATENCY = ("env_id", "endpoint", "model", "provider", "status_class", "streaming")
_KEY = ("provider_key_id", "provider_key_name")


class _Children(dict[tuple[str, ...], M], Generic[M]):
    """The series of one metric by their label values, made when first asked for."""

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: tuple[str, ...]) -> M:
        child = self[values] = self._metric.labels(*values)
        return child


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


class Metrics:
    """One registry with all metrics of a process. Buckets are upper bounds in seconds, ascending, without infinity."""

    def __init__(
        self, *, request_e2e_latency: Sequence[float] = E2E_BUCKETS, request_ttft: Sequence[float] = TTFT_BUCKETS
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._hash: str | None = None
        self._declare_requests()
        self._declare_latencies(tuple(request_e2e_latency), tuple(request_ttft))
        self._declare_tokens()
        self._declare_config()
        self._declare_ours()

    def exposition(self) -> bytes:
        """All series in the Prometheus text format 0.0.4."""
        return generate_latest(self.registry)

    # What is counted about calls.

    def arrived(self, endpoint: str, protocol: str) -> None:
        """A call came in: one more without a response head."""
        self._in_flight[endpoint, protocol].inc()

    def headed(self, endpoint: str, protocol: str) -> None:
        """The call's response head was written, or it ended without one."""
        self._in_flight[endpoint, protocol].dec()

    def stream_opened(self, endpoint: str) -> None:
        """A streamed answer began."""
        self._open_streams[(endpoint,)].inc()

    def stream_closed(self, endpoint: str) -> None:
        """A streamed answer is over."""
        self._open_streams[(endpoint,)].dec()

    def handled(
        self, labels: CallLabels, *, status: int, stream: bool, fallback: bool, model_endpoint: bool, head: float
    ) -> None:
        """A request was handled: `operations.md` 5.1, first six. `head` is seconds to the response head."""
        code, outcome = str(status), status_outcome(status)
        provider, model = labels.provider, labels.model
        self._requests[provider, model, code, outcome].inc()
        self._request_duration[provider, model, code].observe(head)
        full = (*labels, "true" if stream else "false", code, outcome)
        counted = (*full, "true" if fallback else "false")
        self._proxy_requests[counted].inc()
        if outcome != "success":
            self._proxy_failed[counted].inc()
        self._proxy_duration[full].observe(head)
        if model_endpoint:
            self._llm_requests[counted].inc()
            self._llm_duration[full].observe(head)

    def timed(
        self, labels: CallLabels, *, status: int, stream: bool, duration: float, first_event: float | None
    ) -> None:
        """How long a call took to its end, and a stream to its first token (None: none came). Seconds."""
        where = (UNKNOWN, labels.endpoint, labels.model, labels.provider, status_class(status))
        self._e2e[(*where, "true" if stream else "false")].observe(duration)
        if stream and first_event is not None:
            self._ttft[(*where, "true")].observe(first_event)
            self._llm_ttft[labels].observe(first_event)

    def ended(self, endpoint: str, outcome: str) -> None:
        """A call is settled with this outcome (`extensions.md` 9)."""
        self._outcomes[endpoint, outcome].inc()

    def left_early(self, labels: CallLabels) -> None:
        """The caller left before the response head."""
        self._cancelled[labels.endpoint, labels.model, labels.provider_key_id, labels.provider_key_name].inc()

    def too_large(self, endpoint: str, protocol: str, drain: str) -> None:
        """A request body was refused with 413; `drain` tells how reading the rest of it ended."""
        self._too_large[endpoint, protocol, drain].inc()

    def tokens(self, labels: CallLabels, client_type: str, *, prompt: int, completion: int, total: int) -> None:
        """Tokens charged to a call (`operations.md` 5.2). Zeros make no series."""
        if prompt:
            self._input_tokens[labels].inc(prompt)
            self._tokens_by_client[client_type, labels.model, "input"].inc(prompt)
        if completion:
            self._output_tokens[labels].inc(completion)
            self._tokens_by_client[client_type, labels.model, "output"].inc(completion)
        if total:
            self._total_tokens[labels].inc(total)
            self._tokens_by_client[client_type, labels.model, "total"].inc(total)
            self._consumed[labels.provider, labels.model].inc(total)

    def spent(self, labels: CallLabels, micro_usd: float) -> None:
        """What a call cost, in millionths of a US dollar; only for models with prices."""
        if micro_usd:
            self._spend[labels].inc(micro_usd)

    def usage_event(
        self, labels: CallLabels, handler: str, status: int, key: tuple[str, str], dropped: str | None = None
    ) -> None:
        """A usage event (one per attempt) was emitted, and, with `dropped`, lost for that reason (`operations.md` 5.6).

        `key` is id and name of the attempt's provider key.
        """
        self._usage_events[handler, status_class(status), labels.inbound_protocol, labels.model, *key].inc()
        if dropped is not None:
            self._usage_drops[dropped, labels.model, *key].inc()

    def decided(self, method: str, result: str, reason: str) -> None:
        """Who is calling was decided (`operations.md` 5.4): method, `allowed` or `denied`, and why."""
        self._auth[method, result, reason].inc()

    # What is counted about the process.

    def lagged(self, seconds: float) -> None:
        """A timer of the reactor fired so much later than it should have."""
        self._lag.observe(seconds)

    def noise(self, kind: str, count: int = 1) -> None:
        """Frames of a provider that say nothing and were ignored (`streaming.md` 7); `kind` is from a fixed set."""
        self._noise[(kind,)].inc(count)

    def reloaded(self, config_hash: str, at: float, rejected: Mapping[str, int]) -> None:
        """A configuration was applied. `at` is seconds since the epoch, `rejected` the refused entries by kind."""
        self._reloads.inc()
        self._reload_successful.set(1)
        self._reload_success_time.set(at)
        if self._hash is not None:
            self._hash_info[(self._hash,)].set(0)
        self._hash = config_hash
        self._hash_info[(config_hash,)].set(1)
        self._set_rejected(rejected)

    def reload_failed(self, reason: str, rejected: Mapping[str, int]) -> None:
        """A configuration was refused; `reason` is one of `RELOAD_FAILURES`."""
        self._reloads.inc()
        self._reload_successful.set(0)
        self._reload_failures[(reason,)].inc()
        self._set_rejected(rejected)

    def _set_rejected(self, rejected: Mapping[str, int]) -> None:
        for kind in {*RESOURCE_KINDS, *rejected}:
            self._rejected[(kind,)].set(rejected.get(kind, 0))

    # The declarations.

    def _counter(self, name: str, text: str, labels: Sequence[str]) -> _Children[Counter]:
        return _Children(Counter(name, text, labels, registry=self.registry))

    def _gauge(self, name: str, text: str, labels: Sequence[str]) -> _Children[Gauge]:
        return _Children(Gauge(name, text, labels, registry=self.registry))

    def _summary(self, name: str, text: str, labels: Sequence[str]) -> _Children[Summary]:
        return _Children(Summary(name, text, labels, registry=self.registry))

    def _histogram(self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> _Children[Histogram]:
        return _Children(Histogram(name, text, labels, registry=self.registry, buckets=buckets))

    def _declare_requests(self) -> None:
        counted = (*_R, "is_fallback")
        few = ("provider", "model", "status")
        door = ("endpoint", "inbound_protocol")
        self._requests = self._counter("aisix_requests_total", "Handled requests.", (*few, "outcome"))
        self._request_duration = self._summary(
            "aisix_request_duration_seconds", "Time to the response head of a handled request.", few
        )
        self._proxy_requests = self._counter("aisix_proxy_requests_total", "Handled requests.", counted)
        self._proxy_failed = self._counter(
            "aisix_proxy_failed_requests_total", "Handled requests that did not succeed.", counted
        )
        self._proxy_duration = self._summary(
            "aisix_proxy_request_duration_seconds", "Time to the response head of a handled request.", _R
        )
        self._llm_requests = self._counter("aisix_llm_requests_total", "Requests to model endpoints.", counted)
        self._llm_duration = self._summary(
            "aisix_llm_request_duration_seconds", "Time to the response head on model endpoints.", _R
        )
        self._in_flight = self._gauge(
            "aisix_proxy_in_flight_requests", "Requests whose response head is not written yet.", door
        )
        self._cancelled = self._counter(
            "aisix_proxy_client_cancelled_requests_total",
            "Requests whose caller left before the response head.",
            ("endpoint", "model", *_KEY),
        )
        self._too_large = self._counter(
            "aisix_proxy_request_body_limit_rejections_total",
            "Requests refused because of their body's size, by how draining the rest ended.",
            (*door, "outcome"),
        )

    def _declare_latencies(self, e2e: Sequence[float], ttft: Sequence[float]) -> None:
        self._e2e = self._histogram(
            "aisix_request_e2e_latency_seconds", "Time to the end of the answer, streams included.", _LATENCY, e2e
        )
        self._ttft = self._histogram(
            "aisix_request_ttft_seconds",
            "Time from the winning attempt's start to its first data event.",
            _LATENCY,
            ttft,
        )
        self._llm_ttft = self._summary(
            "aisix_llm_time_to_first_token_seconds",
            "Time from the winning attempt's start to its first data event.",
            CallLabels._fields,
        )

    def _declare_tokens(self) -> None:
        labels = CallLabels._fields
        self._input_tokens = self._counter("aisix_llm_input_tokens_total", "Prompt tokens, cache included.", labels)
        self._output_tokens = self._counter("aisix_llm_output_tokens_total", "Completion tokens.", labels)
        self._total_tokens = self._counter("aisix_llm_total_tokens_total", "Prompt and completion tokens.", labels)
        self._spend = self._counter("aisix_llm_spend_micro_usd_total", "Cost in millionths of a US dollar.", labels)
        self._consumed = self._counter(
            "aisix_tokens_consumed_total", "Prompt and completion tokens.", ("provider", "model")
        )
        self._tokens_by_client = self._counter(
            "aisix_llm_tokens_by_client_total", "Tokens by client software.", ("client_type", "model", "token_type")
        )
        self._usage_events = self._counter(
            "aisix_usage_events_emitted_total",
            "Usage events, one per attempt, or one for a call without any.",
            ("handler", "status_code", "inbound_protocol", "model", *_KEY),
        )
        self._usage_drops = self._counter(
            "aisix_usage_event_drops_total", "Usage events that reached no sink.", ("reason", "model", *_KEY)
        )
        self._auth = self._counter(
            "aisix_auth_decisions_total", "Decisions about who is calling.", ("method", "result", "reason")
        )

    def _declare_config(self) -> None:
        registry = self.registry
        self._reload_successful = Gauge(
            "aisix_config_last_reload_successful", "Whether the last load was applied.", registry=registry
        )
        self._reload_success_time = Gauge(
            "aisix_config_last_reload_success_timestamp_seconds", "When one was last applied.", registry=registry
        )
        self._reloads = Counter(
            "aisix_config_reloads_total", "Loads of the configuration, boot included.", registry=registry
        )
        self._reload_failures = self._counter(
            "aisix_config_reload_failures_total", "Loads that were refused.", ("reason",)
        )
        self._rejected = self._gauge("aisix_config_rejected_resources", "Entries refused by the last load.", ("kind",))
        partial = self._gauge(
            "aisix_config_partially_compatible_resources", "Entries served with unknown fields (etcd).", ("kind",)
        )
        stale = self._gauge(
            "aisix_config_stale_served_resources", "Entries served in an older version (etcd).", ("kind",)
        )
        self._hash_info = self._gauge("aisix_config_hash_info", "1 for the hash of what serves.", ("hash",))
        for reason in RELOAD_FAILURES:
            self._reload_failures[(reason,)].inc(0)
        for kind in RESOURCE_KINDS:
            for gauge in (self._rejected, partial, stale):
                gauge[(kind,)].set(0)

    def _declare_ours(self) -> None:
        self._outcomes = self._counter(
            "aisix_call_outcomes_total", "Settled calls by how they ended.", ("endpoint", "outcome")
        )
        self._open_streams = self._gauge("aisix_open_streams", "Streamed answers that are running.", ("endpoint",))
        self._lag = Histogram(
            "aisix_reactor_lag_seconds",
            "How late the reactor's timers fire.",
            registry=self.registry,
            buckets=LAG_BUCKETS,
        )
        self._noise = self._counter("aisix_sse_noise_total", "Ignored frames of providers.", ("kind",))
