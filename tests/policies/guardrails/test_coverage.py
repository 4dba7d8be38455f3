"""Every text of every answer is looked at: field x endpoint x {stream, whole} x {native, translated}."""

import json

import pytest

from .answers import FIELDS, streamed, whole
from .house import ROADS, Guarded
from .making import keyword

PHRASE = 'the "forbidden" phrase\né'
PIECES = ["well, the ", '"forb', 'idden"', " phrase", "\n", "é", " and more"]
CASES = [
    (dialect, road, field)
    for (dialect, road), (_, speaks) in ROADS.items()
    for field in FIELDS[speaks]
    if field in FIELDS[dialect]
]


def guarded(dialect, road, field, **more):
    return Guarded(keyword(PHRASE, scan_reasoning=field == "reasoning"), dialect=dialect, road=road, **more)


def leaked(data):
    """Whether the phrase can be read out of these bytes, escaped or not."""
    raw = data.decode()
    spelled = json.dumps(PHRASE)[1:-1]
    twice = json.dumps(spelled)[1:-1]
    unescaped = json.dumps(PHRASE, ensure_ascii=False)[1:-1]
    return any(text in raw for text in (PHRASE, spelled, twice, unescaped, "idden"))


@pytest.mark.parametrize(
    ("dialect", "road", "field", "buffer"),
    [(*case, buffer) for case in CASES for buffer in (True, False) if not buffer or case[0] == "openai_responses"],
)
def test_blocked_in_a_stream(dialect, road, field, buffer):
    house = guarded(dialect, road, field, buffer=buffer)
    ask, request = house.call(**(house.think() if field == "reasoning" else {}))
    house.play(request, streamed(house.speaks, field, PIECES))
    assert not leaked(ask.got.data)
    message = "response blocked by content policy (guardrail 'g0')"
    if dialect == "openai_responses" and buffer:
        assert ask.response.code == 422
        assert house.json(ask) == {"error": {"message": message, "type": "content_filter"}}
    else:
        assert ask.response.code == 200
        data = ask.got.data
        assert data.count(b"event: error\n") == 1
        *_, last = data.decode().strip().split("\n\n")
        event, said = last.split("\n")
        assert event == "event: error"
        error = json.loads(said.removeprefix("data: "))
        if dialect == "anthropic":
            assert error == {"type": "error", "error": {"type": "content_filter", "message": message}}
        elif dialect == "openai_responses":
            number = error.pop("sequence_number", None)
            if error["type"] == "error":
                assert error == {"type": "error", "code": "content_filter", "message": message, "param": None}
                assert number > 0
        else:
            assert error == {"error": {"message": message, "type": "content_filter"}}
        for success in (b"[DONE]", b"message_stop", b"response.completed"):
            assert success not in data
    exchange = house.settled("blocked")
    assert exchange.guarded.blocked


@pytest.mark.parametrize(("dialect", "road", "field"), CASES)
def test_blocked_whole(dialect, road, field):
    house = guarded(dialect, road, field)
    ask, request = house.call(stream=False, **(house.think() if field == "reasoning" else {}))
    house.play(request, [whole(house.speaks, field, "".join(PIECES))])
    assert ask.response.code == 422
    assert not leaked(ask.got.data)
    message = "response blocked by content policy (guardrail 'g0')"
    if dialect == "anthropic":
        want = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    else:
        want = {"error": {"message": message, "type": "content_filter"}}
    assert house.json(ask) == want
    exchange = house.settled("blocked")
    assert exchange.attempt.usage.completion == 9


@pytest.mark.parametrize(("dialect", "road", "field"), CASES)
@pytest.mark.parametrize("stream", [True, False])
def test_allowed_is_the_same_as_unguarded(dialect, road, field, stream):
    answers = []
    for phrase in (PHRASE + "?", None):
        entries = [keyword(phrase, scan_reasoning=True)] if phrase else []
        house = Guarded(*entries, dialect=dialect, road=road)
        ask, request = house.call(stream=stream)
        said = streamed(house.speaks, field, PIECES) if stream else [whole(house.speaks, field, "".join(PIECES))]
        house.play(request, said)
        house.settled("complete")
        answers.append((ask.response.code, ask.got.data))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("dialect", "road"), ROADS)
@pytest.mark.parametrize("stream", [True, False])
def test_blocked_input_asks_no_provider(dialect, road, stream):
    house = Guarded(keyword("forbidden"), dialect=dialect, road=road)
    ask, request = house.call("this is FORBIDDEN", stream=stream)
    assert request is None
    assert ask.response.code == 422
    message = "request blocked by content policy (guardrail 'g0')"
    kind = {"type": "invalid_request_error"} if dialect == "anthropic" else {"type": "content_filter"}
    assert house.json(ask)["error"] == {"message": message} | kind
    exchange = house.settled("refused")
    assert exchange.attempts == []
    assert exchange.guarded.blocked


def test_reasoning_is_not_looked_at_unless_asked():
    house = Guarded(keyword("forbidden"))
    ask, request = house.call()
    house.play(request, streamed("openai_chat", "reasoning", ["forbidden"]))
    assert b"forbidden" in ask.got.data
    house.settled("complete")
