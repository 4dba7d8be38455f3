"""Every metric of the process, by the names and labels of `operations.md` section 5 and `extensions.md` section 9.

Label values come only from the configuration or from fixed sets, so the number of series is bounded by the
configuration. Counting must cost next to nothing, reading may cost more: a call adds to a few cells, one for each tuple
of label values, and the many families that share these figures are summed up when somebody reads the metrics.
Summaries have `_sum` and `_count` only. Everything is for one thread. This module does not decide what is counted
when: `policies.accounting` does for calls, `admin.state` for the configuration.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from twisted_gateway.call_metrics import (
    CALL,
    UNKNOWN,
    CallLabels,
    Handled,
    Tokens,
    UsageEvent,
    event_families,
    request_families,
    status_class,
    status_outcome,
    token_families,
)
from twisted_gateway.route_metrics import RouteMetrics
from twisted_gateway.tallies import Histogram, Labels, Summary, Table

CONTENT_TYPE = "text/plain; version=0.0.4"

E2E_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 420, 600)
"""Seconds (`operations.md` 5.7)."""
TTFT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
GUARDRAIL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

RELOAD_FAILURES = ("fetch", "parse", "validate")
RESOURCE_KINDS = (
    "provider_keys", "models", "api_keys", "guardrails", "mcp_servers", "a2a_agents", "cache_policies",
    "observability_exporters", "rate_limit_policies", "oidc_providers", "claim_mappings", "passthrough_routes",
    "budgets", "mcp_auth_settings",
)  # fmt: skip
"""The collections of the configuration (`configuration.md` 5.1): the values of the label `kind`."""


_LATENCY = ("env_id", "endpoint", "model", "provider", "status_class", "streaming")
_KEY = ("provider_key_id", "provider_key_name")


class Metrics(Collector):
    """One registry with all metrics of a process. Buckets are upper bounds in seconds, ascending, without infinity."""

    def __init__(
        self,
        *,
        request_e2e_latency: Sequence[float] = E2E_BUCKETS,
        request_ttft: Sequence[float] = TTFT_BUCKETS,
        guardrail_latency: Sequence[float] = GUARDRAIL_BUCKETS,
    ) -> None:
        self.registry = CollectorRegistry()
        self._tables: list[Table | Summary | Histogram] = []
        self._calls: dict[tuple[CallLabels, int, bool, bool], Handled] = {}
        self._charged: defaultdict[tuple[CallLabels, str], Tokens] = defaultdict(Tokens)
        self._usage_events: defaultdict[UsageEvent, int] = defaultdict(int)
        self._hash: str | None = None
        self.routes = RouteMetrics()
        self._declare_calls()
        self._declare_latencies(request_e2e_latency, request_ttft)
        self._declare_config()
        self._declare_limits()
        self._declare_ours()
        self._guardrail_latency = self._histogram(
            "aisix_guardrail_latency_seconds",
            "Time that a guardrail took to look at something.",
            ("env_id", "guardrail", "kind", "phase", "result", "error_type"),
            guardrail_latency,
        )
        self.registry.register(self)

    def exposition(self) -> bytes:
        """All series in the Prometheus text format 0.0.4."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """All families, for the registry."""
        calls, charged, events = self._calls.values(), self._charged, self._usage_events
        for table in (*self._tables, *request_families(calls), *token_families(charged), *event_families(events)):
            yield from table.families()
        yield from self.routes.families()

    # What is counted about calls.

    def arrived(self, endpoint: str, protocol: str) -> None:
        """A call came in: one more without a response head."""
        self._in_flight[endpoint, protocol] += 1

    def headed(self, endpoint: str, protocol: str) -> None:
        """The call's response head was written, or it ended without one."""
        self._in_flight[endpoint, protocol] -= 1

    def stream_opened(self, endpoint: str) -> None:
        """A streamed answer began."""
        self._open_streams[(endpoint,)] += 1

    def stream_closed(self, endpoint: str) -> None:
        """A streamed answer is over."""
        self._open_streams[(endpoint,)] -= 1

    def handled(
        self,
        labels: CallLabels,
        *,
        status: int,
        stream: bool,
        fallback: bool,
        model_endpoint: bool,
        head: float,
        duration: float,
        first_event: float | None,
    ) -> None:
        """A request was handled: `operations.md` 5.1 and 5.7.

        Seconds: `head` to the response head, `duration` to the end, `first_event` to a stream's first token (None:
        none came).
        """
        key = (labels, status, stream, fallback)
        cell = self._calls.get(key)
        if cell is None:
            cell = self._calls[key] = self._first_handled(*key, model_endpoint)
        cell.count += 1
        cell.head += head
        cell.latency.add(duration)
        if stream and first_event is not None:
            if cell.first_tokens is None:
                cell.first_tokens = self._ttft[_latency_labels(labels, status, stream)], self._llm_ttft[labels]
            for one in cell.first_tokens:
                one.add(first_event)

    def _first_handled(
        self, labels: CallLabels, status: int, stream: bool, fallback: bool, model_endpoint: bool
    ) -> Handled:
        flags = ("true" if stream else "false", str(status), status_outcome(status), "true" if fallback else "false")
        return Handled((*labels, *flags), model_endpoint, self._e2e[_latency_labels(labels, status, stream)])

    def ended(self, endpoint: str, outcome: str) -> None:
        """A call is settled with this outcome (`extensions.md` 9)."""
        self._outcomes[endpoint, outcome] += 1

    def left_early(self, labels: CallLabels) -> None:
        """The caller left before the response head."""
        self._cancelled[labels.endpoint, labels.model, labels.provider_key_id, labels.provider_key_name] += 1

    def drained(self, state: str, change: int) -> None:
        """Answers read on for callers who have left: `running` now; `finished`, `cut`, `refused` so far."""
        self._drains[(state,)] += change

    def usage_file_dropped(self, count: int) -> None:
        """Records were lost on their way into the usage file."""
        self._file_drops[()] += count

    def too_large(self, endpoint: str, protocol: str, drain: str) -> None:
        """A request body was refused with 413; `drain` tells how reading the rest of it ended."""
        self._too_large[endpoint, protocol, drain] += 1

    def tokens(self, labels: CallLabels, client_type: str, *, prompt: int, completion: int, total: int) -> None:
        """Tokens charged to a call (`operations.md` 5.2). Zeros make no series."""
        cell = self._charged[labels, client_type]
        cell.prompt += prompt
        cell.completion += completion
        cell.total += total

    def spent(self, labels: CallLabels, micro_usd: float) -> None:
        """What a call cost, in millionths of a US dollar; only for models with prices."""
        if micro_usd:
            self._spend[labels] += micro_usd

    def usage_event(
        self, labels: CallLabels, handler: str, status: int, key: tuple[str, str], dropped: str | None = None
    ) -> None:
        """A usage event (one per attempt) was emitted, and, with `dropped`, lost for that reason (`operations.md` 5.6).

        `key` is id and name of the attempt's provider key.
        """
        self._usage_events[handler, status, labels.inbound_protocol, labels.model, *key, dropped] += 1

    def decided(self, method: str, result: str, reason: str) -> None:
        """Who is calling was decided (`operations.md` 5.4): method, `allowed` or `denied`, and why."""
        self._auth[method, result, reason] += 1

    def cached(self, policy: str, status: str, layer: str | None) -> None:
        """A cache policy was meant for a call: `hit` (in a layer), `miss` or `bypass` (`operations.md` 5.4)."""
        self._cache_requests[policy, f"hit_{layer}" if status == "hit" else status] += 1

    def store_degraded(self, store: str, degraded: bool) -> None:
        """Whether a store that several gateways share cannot be used now (`extensions.md` 9)."""
        self._degraded[(store,)] = int(degraded)

    def hook_failed(self, hook: str, method: str) -> None:
        """A hook of the boot file raised, or took too long, in one of its three methods."""
        self._hook_errors[hook, method] += 1

    def rate_limited(self, scope: str, layer: str, policy_id: str) -> None:
        """A limit refused a call: `scope` is `requests` or `tokens`, `layer` is `api_key`, `model` or `policy`."""
        self._rate_limited[scope, layer, policy_id] += 1

    def remaining(self, api_key_id: str, model: str, requests: int | None, tokens: int | None) -> None:
        """What a key has left in this minute; None where it has no such limit."""
        if requests is not None:
            self._remaining_requests[api_key_id, model] = requests
        if tokens is not None:
            self._remaining_tokens[api_key_id, model] = tokens

    # What is counted about the process.

    def guarded(
        self, guardrail: str, kind: str, phase: str, result: str, seconds: float, error_type: str = "none"
    ) -> None:
        """A guardrail has looked at something; `phase` is `input` or `output`, `result` as in `operations.md` 5.4."""
        self._guardrail_latency[UNKNOWN, guardrail, kind, phase, result, error_type].add(seconds)

    def guard_blocked(self) -> None:
        """A guardrail has blocked a chat."""
        self._guardrail_blocks[()] += 1

    def guard_bypassed(self, reason: str) -> None:
        """A guardrail of a chat could not be asked and was skipped."""
        self._guardrail_bypasses[(reason,)] += 1

    def lagged(self, seconds: float) -> None:
        """A timer of the reactor fired so much later than it should have."""
        self._lag[()].add(seconds)

    def noise(self, kind: str, count: int = 1) -> None:
        """Frames of a provider that say nothing and were ignored (`streaming.md` 7); `kind` is from a fixed set."""
        self._noise[(kind,)] += count

    def reloaded(self, config_hash: str, at: float, rejected: Mapping[str, int]) -> None:
        """A configuration was applied. `at` is seconds since the epoch, `rejected` the refused entries by kind."""
        self._reloads[()] += 1
        self._reload_successful[()] = 1
        self._reload_success_time[()] = at
        if self._hash is not None:
            self._hash_info[(self._hash,)] = 0
        self._hash = config_hash
        self._hash_info[(config_hash,)] = 1
        self._set_rejected(rejected)

    def reload_failed(self, reason: str, rejected: Mapping[str, int]) -> None:
        """A configuration was refused; `reason` is one of `RELOAD_FAILURES`."""
        self._reloads[()] += 1
        self._reload_successful[()] = 0
        self._reload_failures[(reason,)] += 1
        self._set_rejected(rejected)

    def _set_rejected(self, rejected: Mapping[str, int]) -> None:
        for kind in {*RESOURCE_KINDS, *rejected}:
            self._rejected[(kind,)] = rejected.get(kind, 0)

    # The declarations.

    def _counter(self, name: str, text: str, labels: Labels = ()) -> Table:
        table = Table(CounterMetricFamily, name, text, labels)
        self._tables.append(table)
        return table

    def _gauge(self, name: str, text: str, labels: Labels = ()) -> Table:
        table = Table(GaugeMetricFamily, name, text, labels)
        self._tables.append(table)
        return table

    def _histogram(self, name: str, text: str, labels: Labels, bounds: Sequence[float]) -> Histogram:
        table = Histogram(name, text, labels, bounds)
        self._tables.append(table)
        return table

    def _declare_calls(self) -> None:
        door = ("endpoint", "inbound_protocol")
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
        self._spend = self._counter("aisix_llm_spend_micro_usd_total", "Cost in millionths of a US dollar.", CALL)
        self._auth = self._counter(
            "aisix_auth_decisions_total", "Decisions about who is calling.", ("method", "result", "reason")
        )

    def _declare_latencies(self, e2e: Sequence[float], ttft: Sequence[float]) -> None:
        text = "Time from the winning attempt's start to its first data event."
        self._e2e = self._histogram(
            "aisix_request_e2e_latency_seconds", "Time to the end of the answer, streams included.", _LATENCY, e2e
        )
        self._ttft = self._histogram("aisix_request_ttft_seconds", text, _LATENCY, ttft)
        self._llm_ttft = Summary("aisix_llm_time_to_first_token_seconds", text, CALL)
        self._tables.append(self._llm_ttft)

    def _declare_config(self) -> None:
        self._reload_successful = self._gauge(
            "aisix_config_last_reload_successful", "Whether the last load was applied."
        )
        self._reload_success_time = self._gauge(
            "aisix_config_last_reload_success_timestamp_seconds", "When one was last applied."
        )
        self._reloads = self._counter("aisix_config_reloads_total", "Loads of the configuration, boot included.")
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
        for table in (self._reload_successful, self._reload_success_time, self._reloads):
            table[()] = 0
        self._reload_failures.update({(reason,): 0 for reason in RELOAD_FAILURES})
        for table in (self._rejected, partial, stale):
            table.update({(kind,): 0 for kind in RESOURCE_KINDS})

    def _declare_limits(self) -> None:
        self._rate_limited = self._counter(
            "aisix_ratelimit_rejections_total",
            "Calls and attempts refused by a limit.",
            ("scope", "layer", "policy_id"),
        )
        whose = ("api_key_id", "model")
        self._remaining_requests = self._gauge(
            "aisix_ratelimit_remaining_requests", "Requests left to a key in this minute.", whose
        )
        self._remaining_tokens = self._gauge(
            "aisix_ratelimit_remaining_tokens", "Tokens left to a key in this minute.", whose
        )

    def _declare_ours(self) -> None:
        self._outcomes = self._counter(
            "aisix_call_outcomes_total", "Settled calls by how they ended.", ("endpoint", "outcome")
        )
        self._open_streams = self._gauge("aisix_open_streams", "Streamed answers that are running.", ("endpoint",))
        self._drains = self._gauge(
            "aisix_drains",
            "Answers read on though their callers left: running now; finished, cut, refused so far.",
            ("state",),
        )
        self._file_drops = self._counter("aisix_usage_file_drops_total", "Records that the usage file has lost.")
        self._lag = self._histogram("aisix_reactor_lag_seconds", "How late the reactor's timers fire.", (), LAG_BUCKETS)
        self._noise = self._counter("aisix_sse_noise_total", "Ignored frames of providers.", ("kind",))
        self._cache_requests = self._counter(
            "aisix_cache_requests_total", "Calls that a cache policy was meant for.", ("policy", "outcome")
        )
        self._degraded = self._gauge("aisix_store_degraded", "1 while a shared store cannot be used.", ("store",))
        self._guardrail_blocks = self._counter("aisix_guardrail_blocks_total", "Chats that a guardrail has blocked.")
        self._guardrail_bypasses = self._counter(
            "aisix_guardrail_bypasses_total", "Checks of chats that could not be made and were skipped.", ("reason",)
        )
        self._hook_errors = self._counter(
            "aisix_hook_errors_total", "Exceptions and time-outs of an operator's hooks.", ("hook", "method")
        )


def _latency_labels(labels: CallLabels, status: int, stream: bool) -> Labels:
    where = (UNKNOWN, labels.endpoint, labels.model, labels.provider)
    return (*where, status_class(status), "true" if stream else "false")
