"""Guardrails that only take notes disturb nobody."""

import json

from twisted.internet.defer import Deferred

from tests.policies.guardrails.answers import sse, whole
from tests.policies.guardrails.house import Guarded
from tests.policies.guardrails.making import keyword, say
from twisted_gateway.formats import openai_chat
from twisted_gateway.policies.guardrails.monitoring import Listening

MONITOR = keyword("forbidden", enforcement_mode="monitor")


def long_event(*entries):
    """What the caller gets of a stream with an event that is longer than may be read."""
    house = Guarded(*entries, max_event_bytes=1000)
    ask, request = house.call()
    say = {"id": "c", "object": "chat.completion.chunk", "created": 5, "model": "up"}
    chunks = [
        say | {"choices": [{"index": 0, "delta": {"content": f"forb{n}"}, "finish_reason": None}]} for n in range(4)
    ]
    compact = [json.dumps(chunk, separators=(",", ":")).encode() for chunk in chunks]
    house.write(request, sse(*compact))
    house.write(request, b"data: " + b"x" * 2000)
    house.write(request, b"y\n\n" + sse(*compact))
    house.write(
        request, sse(compact[0].replace(b"forb0", b"forbidden"), compact[0].replace(b"null", b'"stop"'), b"[DONE]")
    )
    house.end(request)
    return ask.got.data, house.settled("complete")


def test_an_event_that_is_too_long_passes_a_monitor():
    plain, _ = long_event()
    watched, exchange = long_event(MONITOR)
    assert b"x" * 2000 in plain
    assert watched == plain
    assert [hit["action"] for hit in exchange.guarded.monitored] == ["would_block"]


def test_a_frame_that_a_monitor_cannot_read_goes_on(monkeypatch):
    def broken(*_):
        raise ValueError("forbidden")

    listening = Listening(openai_chat.FORMAT.texts, True, 1000)
    monkeypatch.setattr(listening._hearing, "heard", broken)
    frames = [say("forb"), say("idden")]
    assert listening.received(frames) == frames
    assert listening.received(frames) == frames
    assert listening.heard() == ([], [])


def test_a_long_whole_answer_is_looked_at_in_a_thread():
    threads = []

    def run(function):
        threads.append((Deferred(), function))
        return threads[-1][0]

    house = Guarded(MONITOR, run=run)
    ask, request = house.call(stream=False)
    house.play(request, [whole("openai_chat", "content", "word " * 20_000 + "forbidden")])
    assert ask.response.code == 200
    exchange = house.settled("complete")
    for _ in range(2):
        waiting, function = threads.pop()
        waiting.callback(function())
    assert not threads
    assert [hit["action"] for hit in exchange.guarded.monitored] == ["would_block"]
