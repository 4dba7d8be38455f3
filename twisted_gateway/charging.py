"""How many tokens a call is charged, what they cost, and where the figures come from (`streaming.md` 14.2, 14.3)."""

from __future__ import annotations

from typing import NamedTuple

import attrs

from twisted_gateway.exchange import Attempt, Exchange, Outcome, Usage
from twisted_gateway.pricing import price

BYTES_PER_TOKEN = 4

_CALLER_ENDED = frozenset({Outcome.ABANDONED, Outcome.STOPPED})
_NO_TOKENS = frozenset({"/v1/messages/count_tokens"})
"""Endpoints whose calls use none (`policy.md` 1.2)."""
_FREE = frozenset({Outcome.REFUSED, Outcome.FAILED})


class Charge(NamedTuple):
    """Token counters of one call as limits, metrics and the record count them (`streaming.md` 14.3).

    `prompt` includes `cache_read` and `cache_write`; `total` is prompt and completion, or the provider's own total
    where that is larger and nothing was estimated. `completion_reported` is what the provider said (0: nothing);
    `completion_delivered` estimates the text that was written to the caller.
    """

    prompt: int = 0
    completion: int = 0
    total: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    source: str = "reported"
    """`reported`, `estimated` or `mixed` (one of prompt and completion estimated)."""
    completion_reported: int = 0
    completion_delivered: int = 0
    cache_write_1h: int = 0
    cost_usd: float = 0.0
    """US dollars by the model's prices; 0 where it has none."""

    @property
    def estimated(self) -> bool:
        """Whether any of it is an estimate (`usage_estimated`)."""
        return self.source != "reported"


NOTHING = Charge()


def estimate(size: int) -> int:
    """The tokens of a text of `size` UTF-8 bytes: a quarter of it, rounded up."""
    return -(-size // BYTES_PER_TOKEN)


def charge(exchange: Exchange, outcome: Outcome) -> Charge:
    """What this call is charged, given how it ended: all of it to `charged_attempt`, nothing to the others."""
    attempt = charged_attempt(exchange, outcome)
    if attempt is None:
        return NOTHING
    usage = attempt.usage
    prompt, prompt_known = usage.prompt, usage.prompt > 0
    if not prompt_known and exchange.call is not None:
        prompt = estimate(exchange.call.prompt_bytes)
    counters = outcome is not Outcome.ABANDONED or exchange.bound is not None  # else the caller left before any text
    completion = reported = usage.completion if usage.final and counters else 0
    if not reported and counters:
        completion = estimate(exchange.delivered_bytes if outcome is Outcome.ABANDONED else attempt.received_bytes)
    known = (prompt_known or not prompt) and (reported or not completion)
    source = "reported" if known else _source((prompt, prompt_known), (completion, reported > 0))
    total = prompt + completion
    if known and completion and usage.total > total:
        total = usage.total
    charged = Charge(
        prompt,
        completion,
        total,
        usage.cache_read if counters else 0,
        usage.cache_write if counters else 0,
        usage.reasoning if reported else 0,
        source,
        usage.completion if usage.final else 0,
        estimate(exchange.delivered_bytes),
        usage.cache_write_1h if counters else 0,
    )
    prices = attempt.target.model.cost
    return charged if prices is None else charged._replace(cost_usd=price(prices, charged))


def so_far(usage: Usage, prompt_bytes: int, text_bytes: int) -> Usage:
    """What a running answer has used: reported figures, else estimates of the bytes, which are then marked."""
    prompt = usage.prompt or estimate(prompt_bytes)
    completion = _reported(usage) or estimate(text_bytes)
    return attrs.evolve(
        usage,
        prompt=prompt,
        completion=completion,
        total=max(prompt + completion, usage.total if usage.final else 0),
        estimated=not (usage.prompt and _reported(usage)),
    )


def lost_race(exchange: Exchange, attempt: Attempt) -> Charge:
    """What the loser of a hedge is written down with: its prompt, which nobody's limits are charged (section 5)."""
    prompt = estimate(exchange.call.prompt_bytes) if exchange.call is not None else 0
    charged = Charge(prompt=prompt, total=prompt, source="estimated")
    return charged._replace(cost_usd=price(attempt.target.model.cost, charged))


def charged_attempt(exchange: Exchange, outcome: Outcome) -> Attempt | None:
    """The attempt whose tokens are charged: it gave an open answer, or the caller ended it before it could."""
    attempt = exchange.attempt
    if attempt is None or outcome in _FREE or exchange.endpoint.path in _NO_TOKENS:
        return None
    if attempt.first_event is not None or outcome is Outcome.COMPLETE:
        return attempt
    if outcome in _CALLER_ENDED and attempt.problem is None:
        return attempt
    return None


def _reported(usage: Usage) -> int:
    """The provider's final figure for the completion; 0 when only a floor, or nothing, was seen."""
    return usage.completion if usage.final else 0


def _source(*figures: tuple[int, bool]) -> str:
    known = [reported for figure, reported in figures if figure]
    if all(known):
        return "reported"
    return "mixed" if any(known) else "estimated"
