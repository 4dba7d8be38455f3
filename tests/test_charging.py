"""What a call is charged, by outcome (`streaming.md` 14.2, 14.3)."""

from typing import Any

import pytest

from tests.exchanges import attempt, exchange, timeout
from twisted_gateway.charging import NOTHING, charge, estimate
from twisted_gateway.exchange import Endpoint, Exchange, Outcome, Usage

REPORTED = {"prompt": 12, "completion": 7, "total": 19, "final": True}
FULL = {**REPORTED, "cache_read": 4, "cache_write": 2, "reasoning": 3}
FLOOR = {"prompt": 12, "completion": 1}
NEVER_OPEN = {"first_event": None, "received_bytes": 0}


def ended(usage: dict[str, Any], of_attempt: dict[str, Any] | None = None, **of_exchange: Any) -> Exchange:
    return exchange(attempts=[attempt(usage=Usage(**usage), **(of_attempt or {}))], **of_exchange)


@pytest.mark.parametrize(("size", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (41, 11)])
def test_estimate_rounds_up(size: int, tokens: int) -> None:
    assert estimate(size) == tokens


@pytest.mark.parametrize(
    ("outcome", "call", "prompt", "completion", "source"),
    [
        pytest.param(Outcome.COMPLETE, ended(REPORTED), 12, 7, "reported", id="complete, reported"),
        pytest.param(Outcome.COMPLETE, ended({}), 11, 6, "estimated", id="complete, nothing reported"),
        pytest.param(Outcome.COMPLETE, ended(FLOOR), 12, 6, "mixed", id="complete, only a floor"),
        pytest.param(
            Outcome.COMPLETE, ended({"prompt": 12}, {"received_bytes": 0}), 12, 0, "reported", id="embeddings"
        ),
        pytest.param(Outcome.COMPLETE, exchange(attempts=[]), 0, 0, "reported", id="from the cache"),
        pytest.param(Outcome.TRUNCATED, ended(FLOOR), 12, 6, "mixed", id="truncated: text received"),
        pytest.param(Outcome.TRUNCATED, ended(REPORTED), 12, 7, "reported", id="truncated, reported"),
        pytest.param(Outcome.STALLED, ended({}), 11, 6, "estimated", id="stalled"),
        pytest.param(Outcome.BROKEN, ended({}), 11, 6, "estimated", id="broken"),
        pytest.param(Outcome.STOPPED, ended({}), 11, 6, "estimated", id="stopped"),
        pytest.param(Outcome.STOPPED, ended({}, NEVER_OPEN), 11, 0, "estimated", id="stopped before the first event"),
        pytest.param(Outcome.BLOCKED, ended(REPORTED), 12, 7, "reported", id="output blocked: provider bills it"),
        pytest.param(Outcome.BLOCKED, ended({}, bound=None), 11, 6, "estimated", id="output blocked, held"),
        pytest.param(Outcome.BLOCKED, exchange(attempts=[]), 0, 0, "reported", id="input blocked"),
        pytest.param(Outcome.REFUSED, exchange(attempts=[]), 0, 0, "reported", id="refused"),
        pytest.param(Outcome.FAILED, ended({}, {"problem": timeout(), **NEVER_OPEN}), 0, 0, "reported", id="failed"),
        pytest.param(Outcome.STALLED, ended({}, NEVER_OPEN, bound=None), 0, 0, "reported", id="never open"),
        pytest.param(Outcome.ABANDONED, ended(REPORTED, bound=None), 12, 0, "reported", id="left, nothing delivered"),
        pytest.param(Outcome.ABANDONED, ended({}, bound=None), 11, 0, "estimated", id="left, nothing at all"),
        pytest.param(Outcome.ABANDONED, ended(REPORTED), 12, 7, "reported", id="left after a final figure"),
        pytest.param(Outcome.ABANDONED, ended(FLOOR), 12, 3, "mixed", id="left: text written"),
        pytest.param(Outcome.ABANDONED, exchange(attempts=[]), 0, 0, "reported", id="left in the queue"),
        pytest.param(
            Outcome.ABANDONED,
            ended({}, {"problem": timeout(), **NEVER_OPEN}, bound=None),
            *(0, 0, "reported"),
            id="left between two attempts",
        ),
        pytest.param(
            Outcome.ABANDONED, ended({}, NEVER_OPEN, bound=None), 11, 0, "estimated", id="left waiting for the head"
        ),
    ],
)
def test_by_outcome(outcome: Outcome, call: Exchange, prompt: int, completion: int, source: str) -> None:
    charged = charge(call, outcome)

    assert (charged.prompt, charged.completion, charged.source) == (prompt, completion, source)
    assert charged.total == prompt + completion
    assert charged.estimated == (source != "reported")


def test_counters_of_cache_and_reasoning() -> None:
    kept = charge(ended(FULL), Outcome.COMPLETE)
    assert (kept.cache_read, kept.cache_write, kept.reasoning) == (4, 2, 3)

    undelivered = charge(ended(FULL, bound=None), Outcome.ABANDONED)
    assert (undelivered.cache_read, undelivered.cache_write, undelivered.reasoning) == (0, 0, 0)


def test_total_of_the_provider_counts_when_larger_and_nothing_is_estimated() -> None:
    assert charge(ended({**REPORTED, "total": 50}), Outcome.COMPLETE).total == 50
    assert charge(ended({"prompt": 12, "total": 50}), Outcome.COMPLETE).total == 18


def test_only_the_last_attempt_is_charged() -> None:
    lost = attempt(usage=Usage(prompt=99, completion=99, final=True), problem=timeout())
    charged = charge(exchange(attempts=[lost, attempt(index=1, kind="fallback")]), Outcome.COMPLETE)

    assert (charged.prompt, charged.completion) == (12, 7)


def test_what_was_reported_and_delivered_is_kept_beside() -> None:
    charged = charge(ended(FLOOR), Outcome.ABANDONED)

    assert (charged.completion_reported, charged.completion_delivered) == (0, 3)


def test_counting_tokens_uses_none() -> None:
    count = exchange(endpoint=Endpoint("/v1/messages/count_tokens", "anthropic_count_tokens", "anthropic"))
    assert charge(count, Outcome.COMPLETE) == NOTHING
