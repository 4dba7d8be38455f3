"""Metrics of targets and routing, counted from the attempts of settled calls (`operations.md` 5.3)."""

from twisted_gateway.config.snapshot import Resolution
from twisted_gateway.exchange import Outcome
from twisted_gateway.metrics import Metrics
from twisted_gateway.policies.accounting import Accounting
from twisted_gateway.route_metrics import deployment

from .exchanges import attempt, exchange, group, model, snapshot, timeout
from .test_metrics import value


class Lines:
    """A log that nobody reads."""

    def enabled(self, level):
        return False

    def write(self, *_):
        """Nothing is kept."""


A, B = model("a"), model("b")
GROUP = group("all", "a", "b")


def failed(served, **more):
    return attempt(served, first_event=None, problem=timeout(), ended_by="timeout", contacted=True, **more)


def good(served, **more):
    return attempt(served, contacted=True, ended_by="complete", **more)


def counted(*attempts, **more):
    """The metrics of one settled call with these attempts."""
    metrics = Metrics()
    served = {"snapshot": snapshot(A, B, GROUP), "resolution": Resolution(GROUP, "", False)} | more
    made = exchange(attempts=list(attempts), **served)
    Accounting(metrics, Lines()).admit(made).settle(Outcome.COMPLETE)
    return metrics


def of(metrics, name, served):
    return value(metrics, f"aisix_deployment_{name}", **deployment(served)._asdict())


def test_each_attempt_counts_at_its_own_target():
    metrics = counted(failed(A, cooled=True, unretried=True), good(B, index=1, kind="fallback"))
    assert (of(metrics, "requests_total", A), of(metrics, "requests_total", B)) == (1, 1)
    assert (of(metrics, "failure_responses_total", A), of(metrics, "success_responses_total", B)) == (1, 1)
    assert of(metrics, "cooled_down_total", A) == 1
    assert value(metrics, "aisix_routing_successful_fallbacks_total", model="all", fallback_model="b") == 1
    assert value(metrics, "aisix_retry_budget_exhausted_total", model="a") == 1
    text = metrics.exposition().decode()
    assert "aisix_routing_failed_fallbacks_total" not in text
    assert 'aisix_deployment_success_responses_total{model="a"' not in text


def test_failed_fallbacks():
    metrics = counted(failed(A), failed(B, index=1, kind="fallback"))
    assert value(metrics, "aisix_routing_failed_fallbacks_total", model="all", fallback_model="b") == 1


def test_what_never_reached_a_provider_is_no_request():
    refused = attempt(A, first_event=None, problem=timeout(), ended_by="rate_limit_exceeded", contacted=False)
    metrics = counted(refused, good(B, index=1, kind="fallback"))
    assert of(metrics, "requests_total", A) is None
    assert of(metrics, "requests_total", B) == 1


def test_other_endpoints_are_not_counted():
    endpoint = exchange().endpoint
    counting = type(endpoint)("/v1/messages/count_tokens", "anthropic_count_tokens", "anthropic")
    assert b"aisix_deployment" not in counted(good(A), endpoint=counting).exposition()


def test_the_state_of_targets():
    metrics = Metrics()
    assert b"aisix_deployment_state" not in metrics.exposition()
    metrics.routes.standing = lambda: [(deployment(A), True), (deployment(B), False)]
    assert (of(metrics, "state", A), of(metrics, "state", B)) == (0, 2)
