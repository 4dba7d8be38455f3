"""What is written about a call, by outcome: metrics, lines, records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel, LogPublisher

from bench.inside import PLAIN, WHOLE, Inside
from tests.exchanges import CANARY, CHAT, MESSAGES, Headers, attempt, call, caller, exchange, model, timeout
from tests.test_logs import Kept
from tests.test_metrics import names, value
from twisted_gateway.config.snapshot import Resolution
from twisted_gateway.errors import Problem, too_large
from twisted_gateway.exchange import Endpoint, Exchange, Outcome
from twisted_gateway.logs import Log, json_layout
from twisted_gateway.metrics import Metrics
from twisted_gateway.policies.accounting import Accounting
from twisted_gateway.records import Record


class Desk:
    """An accounting policy with everything it writes."""

    def __init__(self, level: Any = LogLevel.info, **more: Any) -> None:
        self.kept = Kept()
        self.log = Log(self.kept, json_layout("svc"), level, now=lambda: 0.0)
        self.metrics = Metrics()
        self.records: list[Record] = []
        self.policy = Accounting(self.metrics, self.log, **({"records": [self.records.append]} | more))
        publisher = LogPublisher(self.log)
        self.policy.log.observer = self.policy.auth_log.observer = publisher

    def settled(self, call_: Exchange, outcome: Outcome = Outcome.COMPLETE) -> None:
        ticket = self.policy.admit(call_)
        if call_.committed is not None:
            ticket.opened()
        ticket.settle(outcome)

    def lines(self, message: str = "proxy request completed") -> list[dict[str, Any]]:
        parsed = [json.loads(line) for line in self.kept.lines]
        return [line for line in parsed if line["message"] == message]


def test_a_complete_stream() -> None:
    desk = Desk()
    desk.settled(exchange())

    (line,) = desk.lines()
    assert line == {
        "timestamp": "1970-01-01T00:00:00.000000Z",
        "level": "info",
        "target": "aisix::access",
        "message": "proxy request completed",
        "service": "svc",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "outcome": "complete",
        "latency_ms": 400.0,
        "ttft_ms": 250.0,
        "duration_ms": 1000.0,
        "provider": "openai",
        "model": "gpt",
        "api_key_id": "ck-1",
        "request_id": "req-1",
        "prompt_tokens": 12,
        "completion_tokens": 7,
        "total_tokens": 19,
        "frames": 9,
        "bytes": 900,
    }
    assert len(desk.records) == 1
    labels = {"endpoint": CHAT.path, "api_key_id": "ck-1", "team_id": "team-a", "user_name": "Alice"}
    assert value(desk.metrics, "aisix_proxy_requests_total", provider_key_name="prod", **labels) == 1
    assert value(desk.metrics, "aisix_llm_total_tokens_total", upstream_model="gpt-4o", **labels) == 19
    assert (
        value(desk.metrics, "aisix_llm_tokens_by_client_total", client_type="openai-python", token_type="input") == 12
    )
    assert value(desk.metrics, "aisix_request_e2e_latency_seconds_sum") == pytest.approx(1.0)
    assert value(desk.metrics, "aisix_request_ttft_seconds_sum") == pytest.approx(0.25)
    assert value(desk.metrics, "aisix_request_duration_seconds_sum") == pytest.approx(0.4)
    assert value(desk.metrics, "aisix_usage_events_emitted_total", status_code="2xx") == 1
    assert value(desk.metrics, "aisix_usage_event_drops_total") is None


def test_the_provider_call_line() -> None:
    desk = Desk()
    desk.settled(exchange(attempts=[attempt(provider_request_id=None), attempt(index=1, kind="retry")]))

    (line,) = desk.lines("provider call completed")
    assert {name: line[name] for name in ("attempt_index", "attempt_kind", "handler", "status", "requested_model")} == {
        "attempt_index": 1,
        "attempt_kind": "retry",
        "handler": "openai_chat",
        "status": 200,
        "requested_model": "gpt",
    }


@pytest.mark.parametrize(
    ("outcome", "more", "status", "tokens"),
    [
        (Outcome.COMPLETE, {}, 200, 19),
        (Outcome.REFUSED, {"attempts": [], "status": 403, "bound": None}, 403, 0),
        (Outcome.FAILED, {"attempts": [attempt(first_event=None, problem=timeout())], "status": 504}, 504, 0),
        (Outcome.TRUNCATED, {"problem": timeout()}, 200, 19),
        (Outcome.STALLED, {"problem": timeout()}, 200, 19),
        (Outcome.BLOCKED, {"problem": Problem(status=422, type="content_filter", message="x")}, 200, 19),
        (Outcome.STOPPED, {}, 200, 19),
        (Outcome.ABANDONED, {"bound": None, "committed": None, "status": None}, 499, 12),
        (Outcome.ABANDONED, {}, 499, 19),
        (Outcome.BROKEN, {"problem": timeout()}, 200, 19),
    ],
)
def test_each_outcome_is_written_once(outcome: Outcome, more: dict[str, Any], status: int, tokens: int) -> None:
    desk = Desk()
    desk.settled(exchange(**more), outcome)

    (line,) = desk.lines()
    (record,) = desk.records
    assert (line["status"], line["outcome"]) == (status, outcome.value) == (record["status_code"], record["outcome"])
    assert value(desk.metrics, "aisix_call_outcomes_total", endpoint=CHAT.path, outcome=outcome.value) == 1
    assert value(desk.metrics, "aisix_requests_total", status=str(status)) == 1
    assert (value(desk.metrics, "aisix_tokens_consumed_total") or 0) == tokens
    assert value(desk.metrics, "aisix_proxy_in_flight_requests") == 0
    assert (value(desk.metrics, "aisix_open_streams") or 0) == 0


def test_the_error_is_told_in_full_to_the_operator() -> None:
    desk = Desk()
    desk.settled(exchange(problem=timeout(message="x" * 3000)), Outcome.STALLED)
    desk.settled(exchange(problem=timeout()), Outcome.STALLED)

    long, line = desk.lines()
    assert len(long["error"]) == 2048
    assert line["error"] == "upstream request timed out after 30ms: 10.0.0.1:443"
    assert (line["error_kind"], line["ended_by"]) == ("timeout", "silence_timeout")


def test_the_caller_left_before_the_head() -> None:
    desk = Desk()
    desk.settled(exchange(committed=None, bound=None, status=None), Outcome.ABANDONED)

    (line,) = desk.lines()
    assert (line["status"], line["error_kind"]) == (499, "client_disconnected")
    assert value(desk.metrics, "aisix_proxy_client_cancelled_requests_total", provider_key_id="pk-prod") == 1


def test_leaving_a_running_stream_is_not_a_cancelled_request() -> None:
    desk = Desk()
    desk.settled(exchange(), Outcome.ABANDONED)

    assert "aisix_proxy_client_cancelled_requests_total" not in names(desk.metrics)


def test_not_let_in() -> None:
    desk = Desk()
    call_ = exchange(
        caller=None, call=None, resolution=None, attempts=[], status=401, committed=None, bound=None,
        problem=Problem(status=401, type="invalid_api_key", message="API key has been disabled"),
    )  # fmt: skip
    ticket = desk.policy.admit(call_)
    desk.policy.denied(call_, "key_disabled", api_key_id="ck-9")
    ticket.settle(Outcome.REFUSED)

    assert desk.records == []
    assert desk.lines() == []
    (line,) = desk.lines("caller denied")
    assert (line["level"], line["target"], line["reason"], line["api_key_id"]) == (
        *("warn", "aisix::auth"),
        *("key_disabled", "ck-9"),
    )
    assert (line["method"], line["http_method"], line["source_ip"]) == ("api_key", "POST", "192.0.2.7")
    assert value(desk.metrics, "aisix_auth_decisions_total", result="denied", reason="key_disabled") == 1
    assert value(desk.metrics, "aisix_proxy_in_flight_requests") == 0
    assert not {"aisix_requests_total", "aisix_call_outcomes_total"} & names(desk.metrics)


@pytest.mark.parametrize("reason", ["missing_credentials", "unknown_key"])
def test_unknown_callers_are_told_of_at_debug_only(reason: str) -> None:
    desk, debug = Desk(), Desk(LogLevel.debug)
    desk.policy.denied(exchange(), reason)
    debug.policy.denied(exchange(), reason)

    assert desk.kept.lines == []
    assert [line["level"] for line in debug.lines("caller denied")] == ["debug"]


def test_allowed(tmp_path: Path) -> None:
    inside = Inside(tmp_path)
    inside.once(WHOLE, PLAIN)

    labels = {"method": "api_key", "result": "allowed", "reason": "none"}
    assert value(inside.house.metrics, "aisix_auth_decisions_total", **labels) == 1


def test_too_large_before_anyone_is_known() -> None:
    desk = Desk()
    desk.settled(
        exchange(
            caller=None, call=None, resolution=None, attempts=[], status=413, path="/v1/chat/completions/../x",
            problem=too_large(10), body_drain="complete", bound=None,
        ),
        Outcome.REFUSED,
    )  # fmt: skip

    (line,) = desk.lines()
    assert (line["status"], line["path"]) == (413, CHAT.path)
    assert "api_key_id" not in line
    assert desk.records == []
    rejected = "aisix_proxy_request_body_limit_rejections_total"
    assert value(desk.metrics, rejected, endpoint=CHAT.path, inbound_protocol="openai", outcome="complete") == 1
    assert value(desk.metrics, "aisix_requests_total", model="unknown", status="413", outcome="client_error") == 1
    assert value(desk.metrics, "aisix_usage_events_emitted_total") is None


def test_names_of_the_caller_never_become_labels() -> None:
    desk = Desk()
    desk.settled(exchange(call=call(model="anything-9"), resolution=None, attempts=[], status=404), Outcome.REFUSED)
    wild = model("openai/*", model_name="*")
    resolution = Resolution(wild, "anything-9", True)
    desk.settled(exchange(call=call(model="openai/anything-9"), resolution=resolution, attempts=[attempt(wild)]))

    assert b"anything-9" not in desk.metrics.exposition()
    assert value(desk.metrics, "aisix_requests_total", model="unresolved", status="404") == 1
    assert value(desk.metrics, "aisix_proxy_requests_total", model="openai/*", upstream_model="*") == 1


def test_protocol_of_messages_and_absent_labels() -> None:
    desk = Desk()
    nobody = caller(team_id=None, user_id=None, user_name=None)
    desk.settled(exchange(endpoint=MESSAGES, path=MESSAGES.path, caller=nobody, attempts=[]))

    unknown = {"team_id": "unknown", "user_id": "unknown", "user_name": "unknown", "provider": "unknown"}
    assert value(desk.metrics, "aisix_proxy_requests_total", inbound_protocol="anthropic", **unknown) == 1


def test_listing_models_is_no_llm_request() -> None:
    desk = Desk()
    models = Endpoint("/v1/models", "models")
    desk.settled(exchange(endpoint=models, call=None, resolution=None, attempts=[], bound=None))

    assert "aisix_proxy_requests_total" in names(desk.metrics)
    assert "aisix_llm_requests_total" not in names(desk.metrics)


def test_a_group_names_who_served() -> None:
    desk = Desk()
    failed = attempt(model("a"), first_event=None, status=503, problem=timeout(), provider_request_id=None)
    won = attempt(model("b"), index=1, kind="fallback")
    desk.settled(exchange(attempts=[failed, won], resolution=Resolution(model("group"), "", False)))

    (line,) = desk.lines()
    assert (line["served_by_model"], line["routing_attempt_count"], line["routing_fallback_count"]) == ("b", 2, 1)
    assert value(desk.metrics, "aisix_proxy_requests_total", model="group", is_fallback="true") == 1
    assert value(desk.metrics, "aisix_usage_events_emitted_total", status_code="5xx") == 1
    assert value(desk.metrics, "aisix_usage_events_emitted_total", status_code="2xx") == 1


def test_whole_answers_show_the_providers_id_and_no_first_token_metric() -> None:
    desk = Desk()
    desk.settled(exchange(call=call(stream=False)))

    (line,) = desk.lines()
    assert line["provider_request_id"] == "chatcmpl-1"
    assert "aisix_request_ttft_seconds_count" not in names(desk.metrics)
    assert "aisix_open_streams" not in names(desk.metrics)


def test_gauges_follow_the_call() -> None:
    desk = Desk()
    ticket = desk.policy.admit(exchange())
    assert value(desk.metrics, "aisix_proxy_in_flight_requests", endpoint=CHAT.path) == 1

    ticket.opened()
    ticket.opened()
    assert value(desk.metrics, "aisix_proxy_in_flight_requests") == 0
    assert value(desk.metrics, "aisix_open_streams", endpoint=CHAT.path) == 1

    ticket.settle(Outcome.COMPLETE)
    ticket.settle(Outcome.BROKEN)
    assert value(desk.metrics, "aisix_open_streams") == 0
    assert value(desk.metrics, "aisix_requests_total") == 1
    assert len(desk.records) == len(desk.lines()) == 1


def test_without_a_sink_the_event_is_dropped_and_counted() -> None:
    desk = Desk(records=[])
    desk.settled(exchange())

    assert value(desk.metrics, "aisix_usage_event_drops_total", reason="sink_disabled", model="gpt") == 1


def test_a_failing_sink_costs_only_the_record() -> None:
    def full(_: Record) -> None:
        raise OSError("disk full")

    desk = Desk()
    desk.policy.records.insert(0, full)
    desk.settled(exchange())

    assert len(desk.lines()) == 1
    assert len(desk.lines("a usage record was lost")) == 1
    assert len(desk.records) == 1, "and others have it"


def test_access_log_off_and_level_above_info() -> None:
    off, quiet = Desk(access_log=False), Desk(LogLevel.warn)
    off.settled(exchange())
    quiet.settled(exchange())

    assert off.lines() == []
    assert len(off.lines("provider call completed")) == 1
    assert quiet.kept.lines == []
    assert len(off.records) == len(quiet.records) == 1


def test_noise_is_counted() -> None:
    desk = Desk()
    desk.settled(exchange(attempts=[attempt(noise=2), attempt(noise=1)]))

    assert value(desk.metrics, "aisix_sse_noise_total", kind="frame") == 3


@pytest.mark.parametrize("outcome", list(Outcome))
def test_no_secret_and_no_content_anywhere(outcome: Outcome) -> None:
    desk = Desk(LogLevel.debug)
    call_ = exchange(problem=timeout())
    desk.settled(call_, outcome)
    desk.policy.denied(call_, "unknown_key")

    assert CANARY not in b"".join(desk.kept.lines).decode()
    assert CANARY not in json.dumps(desk.records)
    assert CANARY not in desk.metrics.exposition().decode()


def test_a_model_name_forges_no_line() -> None:
    desk = Desk()
    forged = 'gpt"\nTIME INFO proxy request completed status=200'
    headers = Headers({"user-agent": "x\r\ny"})
    desk.settled(exchange(call=call(model=forged), resolution=None, attempts=[], headers=headers), Outcome.REFUSED)

    assert len(desk.kept.lines) == 1
    assert desk.kept.lines[0].count(b"\n") == 1
