"""Names, labels and presence of the metrics (`operations.md` 5)."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from twisted_gateway.call_metrics import CallLabels, status_class, status_outcome
from twisted_gateway.metrics import Metrics

LABELS = CallLabels("/v1/chat/completions", "openai", "openai", "gpt", "gpt-4o", "pk-1", "prod", "ck", "t", "u", "U")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The one sample of that name whose labels include these."""
    found = [
        sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) <= 1
    return found[0] if found else None


def names(metrics: Metrics) -> set[str]:
    return {
        sample.name
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def handled(metrics: Metrics, **more: Any) -> None:
    members = {"status": 200, "stream": True, "fallback": False, "model_endpoint": True}
    times = {"head": 0.5, "duration": 1.5, "first_event": 0.25}
    metrics.handled(LABELS, **(members | times | more))


@pytest.mark.parametrize(
    ("status", "outcome", "klass"),
    [
        (200, "success", "2xx"),
        (302, "success", "3xx"),
        (429, "rate_limited", "4xx"),
        (404, "client_error", "4xx"),
        (499, "client_error", "4xx"),
        (502, "upstream_error", "5xx"),
        (0, "upstream_error", "other"),
    ],
)
def test_what_a_status_means(status: int, outcome: str, klass: str) -> None:
    assert (status_outcome(status), status_class(status)) == (outcome, klass)


def test_only_configuration_and_lag_exist_at_first() -> None:
    present = names(Metrics())

    assert {name for name in present if not name.startswith(("aisix_config_", "aisix_reactor_lag"))} == set()
    assert "aisix_config_last_reload_successful" in present
    assert "aisix_config_reloads_total" in present
    assert value(Metrics(), "aisix_config_reload_failures_total", reason="fetch") == 0
    assert value(Metrics(), "aisix_config_stale_served_resources", kind="models") == 0


def test_nothing_is_called_created_and_summaries_have_no_quantiles() -> None:
    metrics = Metrics()
    handled(metrics)
    text = metrics.exposition().decode()

    assert "_created" not in text
    assert "quantile" not in text
    assert "# TYPE aisix_request_duration_seconds summary" in text


def test_a_success_is_in_all_request_families_but_the_failures() -> None:
    metrics = Metrics()
    handled(metrics)

    full = {
        **LABELS._asdict(),
        "stream": "true",
        "status": "200",
        "outcome": "success",
        "is_fallback": "false",
    }
    assert value(metrics, "aisix_requests_total", provider="openai", model="gpt", status="200", outcome="success") == 1
    assert value(metrics, "aisix_proxy_requests_total", **full) == 1
    assert value(metrics, "aisix_llm_requests_total", **full) == 1
    assert value(metrics, "aisix_proxy_failed_requests_total") is None
    del full["is_fallback"]
    assert value(metrics, "aisix_proxy_request_duration_seconds_sum", **full) == 0.5
    assert value(metrics, "aisix_llm_request_duration_seconds_count", **full) == 1
    assert value(metrics, "aisix_request_duration_seconds_count", provider="openai", model="gpt", status="200") == 1


def test_a_failure_elsewhere_than_at_a_model() -> None:
    metrics = Metrics()
    handled(metrics, status=500, model_endpoint=False, fallback=True)

    assert value(metrics, "aisix_proxy_failed_requests_total", is_fallback="true", outcome="upstream_error") == 1
    assert value(metrics, "aisix_llm_requests_total") is None


def test_latency_histograms_have_the_configured_edges() -> None:
    metrics = Metrics(request_e2e_latency=(1.0, 2.0), request_ttft=(3.0,))
    handled(metrics)

    edges = {"env_id": "unknown", "status_class": "2xx", "streaming": "true"}
    assert value(metrics, "aisix_request_e2e_latency_seconds_bucket", le="1.0", **edges) == 0
    assert value(metrics, "aisix_request_e2e_latency_seconds_bucket", le="2.0", **edges) == 1
    assert value(metrics, "aisix_request_e2e_latency_seconds_bucket", le="+Inf", **edges) == 1
    assert value(metrics, "aisix_request_ttft_seconds_bucket", le="3.0", **edges) == 1
    assert value(metrics, "aisix_llm_time_to_first_token_seconds_sum", **LABELS._asdict()) == 0.25


def test_no_first_token_outside_streams() -> None:
    metrics = Metrics()
    handled(metrics, stream=False)

    assert value(metrics, "aisix_request_e2e_latency_seconds_count", streaming="false") == 1
    assert value(metrics, "aisix_request_ttft_seconds_count") is None


def test_zero_tokens_make_no_series() -> None:
    metrics = Metrics()
    metrics.tokens(LABELS, "curl", prompt=3, completion=0, total=3)

    assert value(metrics, "aisix_llm_input_tokens_total", **LABELS._asdict()) == 3
    assert value(metrics, "aisix_llm_output_tokens_total") is None
    assert value(metrics, "aisix_tokens_consumed_total", provider="openai", model="gpt") == 3
    assert value(metrics, "aisix_llm_tokens_by_client_total", client_type="curl", token_type="total") == 3
    assert value(metrics, "aisix_llm_tokens_by_client_total", token_type="output") is None


def test_configuration() -> None:
    metrics = Metrics()
    metrics.reloaded("aa", 10.0, {})
    metrics.reload_failed("validate", {"models": 2})
    metrics.reloaded("bb", 20.0, {})

    assert value(metrics, "aisix_config_hash_info", hash="aa") == 0
    assert value(metrics, "aisix_config_hash_info", hash="bb") == 1
    assert value(metrics, "aisix_config_reloads_total") == 3
    assert value(metrics, "aisix_config_reload_failures_total", reason="validate") == 1
    assert value(metrics, "aisix_config_rejected_resources", kind="models") == 0
    assert value(metrics, "aisix_config_last_reload_success_timestamp_seconds") == 20

    metrics.reloaded("aa", 30.0, {})
    assert value(metrics, "aisix_config_hash_info", hash="aa") == 1


def test_the_others() -> None:
    metrics = Metrics()
    metrics.lagged(0.002)
    metrics.noise("frame", 2)
    metrics.decided("api_key", "denied", "unknown_key")
    metrics.too_large("/v1/messages", "anthropic", "complete")
    metrics.spent(LABELS, 12.5)
    metrics.usage_event(LABELS, "openai_chat", 200, ("pk-1", "prod"), "sink_disabled")

    assert value(metrics, "aisix_reactor_lag_seconds_count") == 1
    assert value(metrics, "aisix_sse_noise_total", kind="frame") == 2
    assert value(metrics, "aisix_auth_decisions_total", method="api_key", result="denied", reason="unknown_key") == 1
    assert value(metrics, "aisix_proxy_request_body_limit_rejections_total", outcome="complete") == 1
    assert value(metrics, "aisix_llm_spend_micro_usd_total", api_key_id="ck") == 12.5
    assert value(metrics, "aisix_usage_events_emitted_total", handler="openai_chat", status_code="2xx") == 1
    assert value(metrics, "aisix_usage_event_drops_total", reason="sink_disabled", provider_key_name="prod") == 1
