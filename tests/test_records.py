"""The record of a call (`operations.md` 7, `extensions.md` 9)."""

import json

import pytest

from tests.exchanges import CANARY, MESSAGES, attempt, call, exchange, model, timeout
from twisted_gateway.config.resources import ProviderKey
from twisted_gateway.config.snapshot import Resolution
from twisted_gateway.errors import Problem
from twisted_gateway.exchange import Outcome, Usage
from twisted_gateway.records import ended_by, record, status_of


def test_a_complete_stream() -> None:
    assert record(exchange(), Outcome.COMPLETE) == {
        "request_id": "req-1",
        "occurred_at": "2026-01-02T03:04:05.250Z",
        "model_id": "m-gpt",
        "requested_model": "gpt",
        "api_key_id": "ck-1",
        "status_code": 200,
        "outcome": "complete",
        "endpoint": "/v1/chat/completions",
        "stream": True,
        "frames": 9,
        "bytes": 900,
        "cost_usd": 0.0,
        "guardrail_blocked": False,
        "inbound_protocol": "openai",
        "downstream_latency_ms": 400.0,
        "upstream_latency_ms": 900.0,
        "upstream_ttft_ms": 250.0,
        "prompt_tokens": 12,
        "completion_tokens": 7,
        "completion_tokens_reported": 7,
        "completion_tokens_delivered": 3,
        "usage_source": "reported",
        "provider_request_id": "chatcmpl-1",
        "provider_model_version": "gpt-4o-2024",
        "finish_reason": "stop",
        "attempt_index": 0,
        "attempt_kind": "initial",
        "provider_kind": "byo",
        "provider_featured": True,
        "pk_label": "blue",
        "auth_type": "api_key",
        "client_source_ip": "192.0.2.7",
        "client_user_agent": "OpenAI-Python 1.0",
        "attempts": [
            {
                "index": 0,
                "kind": "initial",
                "model": "gpt",
                "provider_key_id": "pk-prod",
                "status": 200,
                "duration_ms": 900.0,
                "ttft_ms": 250.0,
                "ended_by": "complete",
                "prompt_tokens": 12,
                "completion_tokens": 7,
                "cost_usd": 0.0,
            }
        ],
    }


def test_a_call_that_never_got_anywhere() -> None:
    problem = Problem(status=404, type="model_not_found", message='model "x" not found')
    made = record(
        exchange(
            resolution=None, attempts=[], bound=None, problem=problem, status=404, frames=0, bytes=20, delivered_bytes=0
        ),
        Outcome.REFUSED,
    )

    assert made["model_id"] == ""
    assert made["status_code"] == 404
    assert made["error_class"] == "model_not_found"
    assert made["attempts"] == []
    assert (made["prompt_tokens"], made["completion_tokens"], made["usage_source"]) == (0, 0, "reported")
    assert "attempt_index" not in made
    assert "usage_estimated" not in made


def test_attempts_add_up_to_the_call() -> None:
    failed = attempt(
        first_event=None, status=503, problem=timeout(code=None, kind="upstream_status"), usage=Usage(), ended=100.3
    )
    won = attempt(model("other"), index=1, kind="fallback", usage=Usage(prompt=5))
    group = model("group")
    made = record(exchange(attempts=[failed, won], resolution=Resolution(group, "", False)), Outcome.COMPLETE)

    assert [one["ended_by"] for one in made["attempts"]] == ["upstream_status", "complete"]
    assert [one.get("ttft_ms") for one in made["attempts"]] == [None, 250.0]
    assert sum(one["prompt_tokens"] for one in made["attempts"]) == made["prompt_tokens"] == 5
    assert sum(one["completion_tokens"] for one in made["attempts"]) == made["completion_tokens"] == 6
    assert made["usage_source"] == "mixed"
    assert made["usage_estimated"] is True
    assert (made["model_id"], made["attempt_model"], made["attempt_index"]) == ("m-group", "other", 1)


def test_the_caller_left() -> None:
    made = record(exchange(), Outcome.ABANDONED)

    assert (made["status_code"], made["error_class"], made["ended_by"]) == (
        499,
        "client_disconnected",
        "client_disconnected",
    )


@pytest.mark.parametrize("outcome", list(Outcome))
def test_no_outcome_and_no_stage_breaks_it(outcome: Outcome) -> None:
    bare = exchange(
        caller=None, call=None, resolution=None, attempts=[], committed=None, bound=None, ended=None, status=None
    )
    assert record(bare, outcome)["outcome"] == outcome
    assert json.loads(json.dumps(record(exchange(), outcome)))["outcome"] == outcome.value


def test_no_secret_and_no_content() -> None:
    for outcome in Outcome:
        assert CANARY not in json.dumps(record(exchange(problem=timeout()), outcome))


def test_long_texts_are_cut() -> None:
    made = record(exchange(call=call(model="m" * 10_000)), Outcome.COMPLETE)

    assert len(made["requested_model"]) == 2048


@pytest.mark.parametrize(
    ("outcome", "problem", "word"),
    [
        (Outcome.COMPLETE, None, None),
        (Outcome.STOPPED, None, None),
        (Outcome.ABANDONED, None, "client_disconnected"),
        (Outcome.STALLED, timeout(), "silence_timeout"),
        (Outcome.FAILED, timeout(code=None, kind="transport"), "transport"),
        (Outcome.BROKEN, Problem(status=500, type="internal_error", message="x"), "internal_error"),
    ],
)
def test_what_ended_it(outcome: Outcome, problem: Problem | None, word: str | None) -> None:
    assert ended_by(exchange(problem=problem), outcome) == word


def test_the_attempts_own_word_goes_first() -> None:
    call_ = exchange(problem=timeout(), attempts=[attempt(ended_by="status_529")])

    assert ended_by(call_, Outcome.TRUNCATED) == "status_529"


def test_status_without_an_answer() -> None:
    assert status_of(exchange(status=None, problem=timeout()), Outcome.FAILED) == 504
    assert status_of(exchange(status=None), Outcome.BROKEN) == 500
    assert status_of(exchange(endpoint=MESSAGES), Outcome.TRUNCATED) == 200


def test_a_provider_key_without_tags() -> None:
    plain = model(provider_key=ProviderKey(id="pk", display_name="p", api_key="k"))
    made = record(exchange(attempts=[attempt(plain)]), Outcome.COMPLETE)

    assert "provider_kind" not in made
    assert "provider_featured" not in made
