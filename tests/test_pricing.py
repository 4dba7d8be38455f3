"""What calls cost: golden figures by cache and road, and the rules for prices that are not written."""

import json
from types import SimpleNamespace

import pytest

from twisted_gateway.charging import charge, so_far
from twisted_gateway.config.money import Cost
from twisted_gateway.config.snapshot import Resolution
from twisted_gateway.exchange import Outcome, Target, Usage
from twisted_gateway.formats import anthropic, openai_chat
from twisted_gateway.pricing import price
from twisted_gateway.records import record
from twisted_gateway.roads import road
from twisted_gateway.wire.sse import Frame

from .exchanges import Headers, attempt, exchange, model, provider_key

SONNET = Cost(0.003, 0.015, 0.0003, 0.00375, 0.006)
JSON = Headers({"content-type": "application/json"})
FRESH = {"input_tokens": 1200}
CACHES = {
    "none": ({}, 0.01035),
    "write 5m": (
        {
            "cache_creation_input_tokens": 5000,
            "cache_creation": {"ephemeral_5m_input_tokens": 5000, "ephemeral_1h_input_tokens": 0},
        },
        0.0291,
    ),
    "write, not said which": ({"cache_creation_input_tokens": 5000}, 0.0291),
    "write 1h": (
        {
            "cache_creation_input_tokens": 5000,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 5000},
        },
        0.04035,
    ),
    "write both": (
        {
            "cache_creation_input_tokens": 5000,
            "cache_creation": {"ephemeral_5m_input_tokens": 3000, "ephemeral_1h_input_tokens": 2000},
        },
        0.0336,
    ),
    "read": ({"cache_read_input_tokens": 8000}, 0.01275),
}
"""What Anthropic reports beside 1,200 fresh and 450 output tokens, and the dollars, worked out by hand."""

OFFICIAL = Cost(0.0025, 0.01, 0.00125)
CHAT = {
    "none": ({"prompt_tokens": 1200}, 0.0075),
    "read": ({"prompt_tokens": 9200, "prompt_tokens_details": {"cached_tokens": 8000}}, 0.0175),
    "write": ({"prompt_tokens": 6200, "prompt_tokens_details": {"cache_write_tokens": 5000}}, 0.02),
    "hit": ({"prompt_tokens": 9200, "prompt_cache_hit_tokens": 8000}, 0.0175),
}


def sse(events):
    return [Frame(json.dumps(event).encode(), str(event.get("type", "")).encode()) for event in events]


def claude(usage, stream):
    """Anthropic's answer with this usage: the breakdown of writes stands in the first event alone."""
    counters = {name: value for name, value in usage.items() if name != "cache_creation"}
    message = {"id": "m", "type": "message", "model": "c", "role": "assistant", "stop_reason": None}
    if not stream:
        whole = {**message, "content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn"}
        return [Frame(json.dumps({**whole, "usage": {**usage, "output_tokens": 450}}).encode())]
    return sse(
        [
            {"type": "message_start", "message": {**message, "content": [], "usage": {**usage, "output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn"},
                "usage": {**counters, "output_tokens": 450},
            },
            {"type": "message_stop"},
        ]
    )


def gpt(usage, stream):
    usage = {**usage, "completion_tokens": 450, "total_tokens": usage["prompt_tokens"] + 450}
    if not stream:
        choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        return [Frame(json.dumps({"id": "c", "choices": [choice], "usage": usage}).encode())]
    chunks = [
        {"id": "c", "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]},
        {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"id": "c", "choices": [], "usage": usage},
    ]
    return [*(Frame(json.dumps(chunk).encode()) for chunk in chunks), Frame(b"[DONE]")]


def settled(frames, family, caller, stream, prices):
    """The cost in the record of a call that was answered so, on the way from this family to this caller."""
    served = model(cost=prices, provider_key=provider_key(provider=family, adapter=family))
    body = {"model": "gpt", "stream": stream, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    asked = caller.read_call(json.dumps(body).encode(), JSON)
    formats = {"openai_chat": openai_chat.FORMAT, "anthropic": anthropic.FORMAT}
    way = road(caller, formats, asked, Target(served, "up"), family, False)
    passage = way.passage("gpt", 1.0, lambda: "x" * 24, lambda: "0" * 32)
    passage.received(frames)
    assert passage.complete
    tried = attempt(served, usage=passage.usage)
    settled = exchange(call=asked, attempts=[tried], resolution=Resolution(served, "up", False))
    made = record(settled, Outcome.COMPLETE)
    assert made["usage_source"] == "reported"
    assert [one["cost_usd"] for one in made["attempts"]] == [made["cost_usd"]]
    return made["cost_usd"]


@pytest.mark.parametrize("caller", [anthropic.FORMAT, openai_chat.FORMAT], ids=["native", "translated"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("cache", CACHES)
def test_golden_costs_of_anthropic(cache, stream, caller):
    usage, dollars = CACHES[cache]
    frames = claude(FRESH | usage, stream)
    assert settled(frames, "anthropic", caller, stream, SONNET) == pytest.approx(dollars, rel=1e-4)


@pytest.mark.parametrize("caller", [openai_chat.FORMAT, anthropic.FORMAT], ids=["native", "translated"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("cache", CHAT)
def test_golden_costs_of_openai(cache, stream, caller):
    usage, dollars = CHAT[cache]
    assert settled(gpt(usage, stream), "openai", caller, stream, OFFICIAL) == pytest.approx(dollars, rel=1e-4)


def test_what_is_not_written_costs_as_much_as_its_neighbour():
    counted = Usage(prompt=1000, completion=0, cache_read=200, cache_write=300, cache_write_1h=100)
    assert price(Cost(1.0, 9.0), counted) == pytest.approx(1.0)
    assert price(Cost(1.0, 9.0, cache_read_per_1k=0.0), counted) == pytest.approx(0.8)
    assert price(Cost(1.0, 9.0, cache_write_per_1k=2.0), counted) == pytest.approx(1.3)
    assert price(Cost(1.0, 9.0, cache_write_1h_per_1k=3.0), counted) == pytest.approx(1.2)
    assert price(None, counted) == 0.0


def test_counters_that_contradict_each_other_never_cost_less_than_nothing():
    odd = SimpleNamespace(prompt=10, completion=0, cache_read=50, cache_write=5, cache_write_1h=9)
    assert price(Cost(1.0, 1.0, 0.0, 1.0, 2.0), odd) == pytest.approx(0.01)


def test_the_running_figure():
    known = Usage(prompt=7, completion=9, total=16, final=True)
    assert so_far(known, 400, 400) == known
    floor = so_far(Usage(prompt=7, completion=1), 400, 401)
    assert (floor.prompt, floor.completion, floor.total, floor.estimated) == (7, 101, 108, True)
    nothing = so_far(Usage(), 41, 0)
    assert (nothing.prompt, nothing.completion, nothing.estimated) == (11, 0, True)


def test_a_lost_hedge_is_priced_by_its_prompt_and_not_charged():
    served = model(cost=Cost(1.0, 1.0))
    loser = attempt(served, index=0, ended_by="hedge_lost", usage=Usage())
    winner = attempt(served, index=1, kind="hedge")
    made = record(exchange(attempts=[loser, winner]), Outcome.COMPLETE)
    assert [one["cost_usd"] for one in made["attempts"]] == [0.011, 0.019]
    assert [one["prompt_tokens"] for one in made["attempts"]] == [11, 12]
    assert made["cost_usd"] == charge(exchange(attempts=[winner]), Outcome.COMPLETE).cost_usd == 0.019
