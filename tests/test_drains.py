"""Answers read to their end though their callers have left (`extensions.md` 4), in memory and on a clock."""

import attrs
import pytest
from twisted.internet.defer import Deferred

from twisted_gateway.charging import charge
from twisted_gateway.exchange import Outcome, Ticket
from twisted_gateway.records import record

from .exchanges import model, provider_key
from .formats.making import ROLE, chunk, dumps, say
from .test_gates import Gating
from .test_gateway import MESSAGES, STOP, USAGE, WHOLE, House, sse

END = sse(STOP, chunk(usage=USAGE), b"[DONE]")


def served(**more):
    key = provider_key(provider="openai", api_base="http://provider/v1")
    return model(provider_key=key, on_disconnect="drain", **more)


@pytest.fixture
def house():
    return House(shelf=[served()])


def leave(house, ask):
    if ask.response is None:
        ask.deferred.cancel()
    else:
        ask.got.transport.stopProducing()
    house.flush()


def streaming(house, *texts):
    ask, request = house.stream()
    house.write(request, sse(ROLE, *map(say, texts)))
    return ask, request


def settled(house):
    """The only exchange, abandoned; what it is charged, and its record."""
    exchange = house.settled("abandoned")
    assert exchange.status == 499
    return exchange, charge(exchange, Outcome.ABANDONED), record(exchange, Outcome.ABANDONED)


def test_a_stream_is_read_to_its_end_for_its_figures(house):
    ask, request = streaming(house, "four")
    leave(house, ask)
    assert house.provider.gone == []
    assert house.gateway.in_flight == 1, "its slots are held until the drain ends"
    house.write(request, sse(say("five!")))
    house.write(request, END)
    assert house.provider.gone == []
    house.end(request)
    exchange, charged, made = settled(house)
    assert (exchange.frames, charged.completion, charged.completion_reported) == (2, 7, 7)
    assert charged.completion_delivered == 1
    assert (charged.prompt, charged.source) == (5, "reported")
    assert (made["drained"], made["outcome"], made["usage_source"]) == (True, "abandoned", "reported")
    assert house.drains == {"running": 0, "finished": 1}


def test_nothing_is_written_any_more(house):
    ask, request = streaming(house, "a")
    leave(house, ask)
    before = house.ledger.exchanges[0].bytes, house.ledger.exchanges[0].frames
    house.write(request, sse(say("b")) * 50)
    house.advance(16)
    house.write(request, END)
    house.end(request)
    exchange, _, _ = settled(house)
    assert (exchange.bytes, exchange.frames) == before


def test_nothing_is_checked_any_more(house):
    policy = Gating()
    house.gateway.after = (*house.gateway.after, policy)
    ask, request = streaming(house, "a")
    leave(house, ask)
    house.write(request, sse(say("bad")))
    house.write(request, END)
    house.end(request)
    assert settled(house)[1].completion == 7


def test_who_waits_for_a_gate_alone_is_over(house):
    policy = Gating()
    house.gateway.after = (*house.gateway.after, policy)
    ask, request = streaming(house)
    policy.made[0].withheld = len("hold")
    house.write(request, sse(say("hold")))
    house.write(request, END)
    house.end(request)
    leave(house, ask)
    exchange, charged, _ = settled(house)
    assert (charged.completion, charged.completion_delivered) == (7, 0)
    assert exchange.drained


@pytest.mark.parametrize("when", ["before the head", "before the first event", "whole"])
def test_before_the_answer_is_open(house, when):
    ask = house.ask(stream=when != "whole")
    request = house.provider.requests[0]
    if when == "before the first event":
        request.setHeader("content-type", "text/event-stream")
        house.write(request, b": ping\n\n")
    leave(house, ask)
    assert house.provider.gone == []
    if when == "whole":
        request.setHeader("content-type", "application/json")
        request.write(dumps(WHOLE))
    else:
        request.setHeader("content-type", "text/event-stream")
        request.write(sse(ROLE, say("a")) + END)
    house.end(request)
    exchange, charged, _ = settled(house)
    assert exchange.frames == 0
    assert (charged.prompt, charged.completion) == (3 if when == "whole" else 5, 0)
    assert charged.completion_reported == (1 if when == "whole" else 7)
    assert house.drains["finished"] == 1


def test_a_provider_that_was_not_asked_yet_is_not_asked_any_more(house):
    class Slow(Ticket):
        def allow(self, target):
            return waiting

        def admit(self, exchange):
            return self

    waiting = Deferred()
    house.gateway.limits = (Slow(),)
    ask = house.ask(stream=True)
    leave(house, ask)
    assert house.gateway.in_flight == 0
    house.flush()
    assert house.provider.requests == []
    exchange, _, _ = settled(house)
    assert not exchange.drained
    assert house.drains == {}


@pytest.mark.parametrize("path", [b"/v1/chat/completions/", b"//v1/chat/completions"])
def test_slashes_around_the_path_make_no_difference(house, path):
    ask = house.ask({"model": "gpt", "messages": MESSAGES, "stream": True}, path=path)
    leave(house, ask)
    assert house.provider.gone == []
    assert house.gateway.in_flight == 1
    house.advance(61)
    assert settled(house)[0].drained


@pytest.mark.parametrize("phase", ["opening", "open"])
def test_a_drain_is_cut_in_time(phase):
    house = House(shelf=[served(drain_max_secs=5)])
    ask, _request = streaming(house, "x" * 40) if phase == "open" else house.stream()
    leave(house, ask)
    house.advance(4.75)
    assert house.gateway.in_flight == 1
    house.advance(0.5)
    assert len(house.provider.gone) == 1
    exchange, charged, made = settled(house)
    assert made["drained"]
    assert charged.completion == (10 if phase == "open" else 0)
    assert house.drains == {"running": 0, "cut": 1}
    assert phase == "opening" or exchange.attempt.ended_by == "abandoned"


def test_a_provider_that_breaks_off_ends_its_drain(house):
    ask, request = streaming(house, "x" * 40)
    leave(house, ask)
    house.write(request, sse(say("y" * 40)))
    house.end(request)
    _, charged, _ = settled(house)
    assert (charged.completion, charged.source) == (10, "estimated")


def test_a_failure_before_the_answer_ends_it_without_another_attempt(house):
    ask = house.ask(stream=True)
    leave(house, ask)
    request = house.provider.requests[0]
    request.setResponseCode(500)
    house.end(request)
    exchange, charged, _ = settled(house)
    assert (len(exchange.attempts), charged.total) == (1, 0)


def test_silence_ends_a_drain():
    house = House(shelf=[served(stream_timeout=2000)])
    ask, _request = streaming(house, "a")
    leave(house, ask)
    house.advance(2.25)
    assert len(house.provider.gone) == 1
    settled(house)


def test_there_is_room_for_so_many():
    house = House(shelf=[served()])
    calls = [streaming(house, "a") for _ in range(3)]
    for ask, _ in calls:
        leave(house, ask)
    assert (len(house.provider.gone), house.gateway.in_flight) == (1, 2)
    assert [one.drained for one in house.ledger.exchanges] == [True, True, False]
    for _, request in calls[:2]:
        house.write(request, END)
    assert house.gateway.in_flight == 0
    assert house.drains == {"running": 0, "finished": 2, "refused": 1}


def test_the_end_of_the_process_cuts_drains(house):
    ask, _request = streaming(house, "a")
    leave(house, ask)
    house.gateway.drains.close()
    house.flush()
    assert len(house.provider.gone) == 1
    settled(house)
    ask, _request = streaming(house, "a")
    leave(house, ask)
    assert len(house.provider.gone) == 2
    assert house.drains["refused"] == 1


def test_a_slow_caller_who_leaves_does_not_stop_the_reading(house):
    ask, request = streaming(house, "a")
    (relay,) = house.gateway.running
    relay._downstream.pauseProducing()
    leave(house, ask)
    house.write(request, sse(say("b")) + END)
    house.end(request)
    assert settled(house)[1].completion == 7


def test_without_the_switch_the_provider_is_cut():
    house = House(shelf=[attrs.evolve(served(), on_disconnect="cancel")])
    ask, _request = streaming(house, "x" * 40)
    leave(house, ask)
    assert len(house.provider.gone) == 1
    exchange, charged, made = settled(house)
    assert (charged.completion, "drained" in made, exchange.drained) == (10, False, False)
