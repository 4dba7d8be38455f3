"""Running streams: listed and stopped by their own key; whatever was going on, the caller gets a legal end."""

import json

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from openai import NOT_GIVEN
from openai._models import construct_type
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from twisted.web.http_headers import Headers as HttpHeaders

from twisted_gateway.charging import charge
from twisted_gateway.config.routes import ThroughputFloor
from twisted_gateway.exchange import Outcome
from twisted_gateway.formats import anthropic, openai_chat, openai_completions, openai_responses

from .exchanges import caller, model, provider_key
from .formats import anthropic_grammar
from .formats.chat_making import accumulated
from .formats.making import ROLE, chunk, dumps, say
from .test_gates import Gating
from .test_gateway import MESSAGES, STOP, USAGE, Got, House, sse

ROWS = (openai_chat.FORMAT, openai_completions.FORMAT, openai_responses.FORMAT, anthropic.FORMAT)
ALL = {row.name: row for row in ROWS}


def house_of(provider="openai", **more):
    adapter = "anthropic" if provider == "anthropic" else "openai"
    key = provider_key(provider=provider, adapter=adapter, api_base="http://provider/v1")
    house = House(shelf=[model(provider=provider, provider_key=key, **more)])
    house.speak(ALL, bridge=True)
    return house


class Request:
    """A request to the streams' own endpoints."""

    def __init__(self, house, method, path, token="secret"):
        self.got = Got()
        headers = HttpHeaders({"authorization": [f"Bearer {token}"]})
        house.callers.request(method, b"http://gateway" + path, headers).addCallback(self._answered)
        house.flush()

    def _answered(self, response):
        self.status = response.code
        response.deliverBody(self.got)

    @property
    def json(self):
        return json.loads(self.got.data)


def stop(house, id="id-1", **more):
    return Request(house, b"POST", f"/v1/streams/{id}/stop".encode(), **more)


def listed(house):
    return Request(house, b"GET", b"/v1/streams").json


PATHS = {
    "openai_chat": b"/v1/chat/completions",
    "openai_completions": b"/v1/completions",
    "anthropic": b"/v1/messages",
    "openai_responses": b"/v1/responses",
}


def ask(house, dialect="openai_chat", **members):
    asked = {
        "openai_chat": {"messages": MESSAGES, "stream_options": {"include_usage": True}},
        "openai_completions": {"prompt": "hi", "stream_options": {"include_usage": True}},
        "anthropic": {"messages": MESSAGES, "max_tokens": 99},
        "openai_responses": {"input": "hi"},
    }[dialect]
    return house.ask({"model": "gpt", "stream": True, **asked, **members}, path=PATHS[dialect])


def begun(house, data, dialect="openai_chat", **members):
    made = ask(house, dialect, **members)
    request = house.provider.requests[-1]
    request.setHeader("content-type", "text/event-stream")
    house.write(request, data)
    return made, request


def ended(house, made):
    """The stopped stream's only exchange; the provider was cut, the body has ended."""
    house.flush()
    exchange = house.settled("stopped")
    assert (exchange.status, made.response.code) == (200, 200)
    assert made.got.reason is not None
    assert len(house.provider.gone) == 1
    assert house.gateway.streams._running == {}
    return exchange


def sdk(data, dialect):
    """What the official SDKs' own accumulators make of a stream: they must take every event of it."""
    found = [json.loads(line[6:]) for line in data.decode().split("\n") if line.startswith("data: {")]
    if dialect == "openai_chat":
        return accumulated([*found, "[DONE]"])
    if dialect == "anthropic":
        message, buffers = None, {}
        for one in found:
            event = TypeAdapter(RawMessageStreamEvent).validate_python(one)
            message = accumulate_event(event=event, current_snapshot=message, json_bufs=buffers)
        return message
    state = ResponseStreamState(input_tools=[], text_format=NOT_GIVEN)
    for one in found:
        state.handle_event(construct_type(type_=ResponseStreamEvent, value=one))
    return found


# The list


def test_the_list():
    house = house_of()
    assert listed(house) == {"object": "list", "data": []}
    begun(house, sse(ROLE, say("x" * 40)))
    ask(house)
    first, second = listed(house)["data"]
    assert first == {
        "id": "id-2",
        "object": "stream",
        "model": "gpt",
        "endpoint": "/v1/chat/completions",
        "created": 1_760_000_000,
        "ttft_ms": 0.0,
        "frames": 2,
        "output_tokens": 10,
    }
    assert (second["id"], second["ttft_ms"], second["frames"], second["output_tokens"]) == ("id-3", None, 0, 0)


def test_others_see_and_stop_nothing():
    house = house_of()
    other = caller(id="other", key_hash="f5f4a5c2a4ed9ec6bb6b4ea73b1d2e7bb5a1fc0e2dd5f5a7a0b66f3ab5e0d8b2")
    begun(house, sse(ROLE))
    gateway = house.gateway.streams
    assert gateway.listed(other) == []
    assert not gateway.stop(other, "id-1")
    found = stop(house, token="wrong")
    assert found.status == 401
    assert house.gateway.in_flight == 1


@pytest.mark.parametrize("kind", ["unknown", "whole"])
def test_what_is_no_stream(kind):
    house = house_of()
    if kind == "whole":
        house.ask()
    found = stop(house, "id-1" if kind == "whole" else "nobody")
    assert found.status == 404
    assert found.json["error"]["code"] == "stream_not_found"
    assert house.gateway.in_flight == (kind == "whole")


def test_an_id_that_several_streams_have():
    house = house_of()
    house.front.new_id = lambda: "same/id"
    one, _ = begun(house, sse(ROLE, say("a")))
    two, _ = begun(house, sse(ROLE, say("b")))
    assert len(listed(house)["data"]) == 2
    assert stop(house, "same%2Fid").json == {"id": "same/id", "object": "stream", "stopped": True}
    house.flush()
    assert [made.frames[-1] for made in (one, two)] == ["[DONE]"] * 2
    assert listed(house)["data"] == []
    assert stop(house, "same/id").status == 404


# Native endings


def test_chat_is_stopped():
    house = house_of()
    made, _ = begun(house, sse(ROLE, say("Hello wo")))
    assert stop(house, "id-1").json == {"id": "id-1", "object": "stream", "stopped": True}
    exchange = ended(house, made)
    (choice,) = sdk(made.got.data, "openai_chat")["choices"]
    assert (choice["content"], choice["finish_reason"]) == ("Hello wo", "stop")
    *_, text, end, usage, done = made.frames
    assert text["choices"][0]["delta"] == {"content": "Hello wo"}
    assert end["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "estimated": True}
    assert {one["id"] for one in made.frames[:-1]} == {ROLE["id"]}
    assert {one["model"] for one in made.frames[:-1]} == {"gpt"}
    assert done == "[DONE]"
    charged = charge(exchange, Outcome.STOPPED)
    assert (charged.prompt, charged.completion, charged.source) == (1, 2, "estimated")


def test_usage_that_was_not_asked_for_is_not_shown():
    house = house_of()
    made, _ = begun(house, sse(ROLE, say("a")), stream_options=None)
    stop(house)
    ended(house, made)
    assert b"usage" not in made.got.data
    assert made.frames[-1] == "[DONE]"


@pytest.mark.parametrize("when", ["finished", "counted"])
def test_chat_is_stopped_before_its_last_frame(when):
    house = house_of()
    last = [STOP, chunk(usage=USAGE)][: 2 if when == "counted" else 1]
    made, _ = begun(house, sse(ROLE, say("a"), *last))
    stop(house)
    ended(house, made)
    reasons = [c["finish_reason"] for one in made.frames[:-1] for c in one["choices"]]
    assert reasons == [None, None, "stop"]
    counted = [one["usage"] for one in made.frames[:-1] if one.get("usage")]
    assert len(counted) == 1
    assert counted[0].get("estimated", False) is (when == "finished")


def test_several_choices():
    house = house_of()
    two = {**say("b"), "choices": [{**say("b")["choices"][0], "index": 1}]}
    made, _ = begun(house, sse(ROLE, say("a"), two, STOP))
    stop(house)
    ended(house, made)
    ends = [(c["index"], c["finish_reason"]) for one in made.frames[:-1] for c in one["choices"] if c["finish_reason"]]
    assert ends == [(0, "stop"), (1, "stop")]


def test_completions_are_stopped():
    house = house_of()
    piece = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    made, _ = begun(
        house,
        sse({**piece, "choices": [{"index": 0, "text": "ab", "logprobs": None, "finish_reason": None}]}),
        "openai_completions",
    )
    stop(house)
    ended(house, made)
    assert made.frames[-3]["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
    assert made.frames[-2]["usage"]["estimated"]


def events(*made):
    return b"".join(b"event: " + one["type"].encode() + b"\ndata: " + dumps(one) + b"\n\n" for one in made)


START = {
    "type": "message_start",
    "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": 9, "cache_read_input_tokens": 3, "output_tokens": 1},
    },
}  # fmt: skip


def block(index, kind, **more):
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **more}}


def delta(index, kind, name, text):
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: text}}


TEXT = [block(0, "text", text=""), delta(0, "text_delta", "text", "Hello wo")]
CALL = [
    block(0, "tool_use", id="t", name="f", input={}),
    delta(0, "input_json_delta", "partial_json", '{"a": 1}'),
]
MESSAGES_SO_FAR = {
    "text": [START, *TEXT],
    "between blocks": [START, *TEXT, {"type": "content_block_stop", "index": 0}],
    "a call": [START, *CALL],
    "start alone": [START],
    "the reason": [
        START,
        *TEXT,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 7}},
    ],
}


@pytest.mark.parametrize("so_far", MESSAGES_SO_FAR)
def test_messages_are_stopped(so_far):
    house = house_of("anthropic")
    made, _ = begun(house, events(*MESSAGES_SO_FAR[so_far]), "anthropic")
    stop(house)
    exchange = ended(house, made)
    anthropic_grammar.check(made.got.data)
    found = anthropic_grammar.events_of(made.got.data)
    assert sdk(made.got.data, "anthropic").stop_reason == ("max_tokens" if so_far == "the reason" else "end_turn")
    (last,) = [event for name, event in found if name == "message_delta"]
    if so_far == "the reason":
        assert (last["delta"]["stop_reason"], last["usage"]) == ("max_tokens", {"output_tokens": 7})
        assert charge(exchange, Outcome.STOPPED).source == "reported"
        return
    assert last["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    output = {"text": 2, "between blocks": 2, "a call": 2, "start alone": 0}[so_far]
    assert last["usage"] == {
        "input_tokens": 9,
        "cache_read_input_tokens": 3,
        "output_tokens": output,
        "estimated": True,
    }
    charged = charge(exchange, Outcome.STOPPED)
    assert (charged.prompt, charged.completion) == (12, output)


# Translated, empty, held


@pytest.mark.parametrize("dialect", ["openai_chat", "anthropic", "openai_completions", "openai_responses"])
@pytest.mark.parametrize("moment", ["begun", "nothing", "said"])
def test_translated_answers_are_stopped(dialect, moment):
    provider = "deepseek" if dialect == "anthropic" else "anthropic"
    house = house_of(provider, completions_via_chat=True)
    if provider == "anthropic":
        data = events(START, *(TEXT if moment == "said" else []))
    else:
        data = sse(ROLE, *([say("Hello wo")] if moment == "said" else []))
    made, _ = begun(house, b": nothing yet\n\n" if moment == "nothing" else data, dialect)
    stop(house)
    exchange = ended(house, made)
    check_end(made, dialect, "Hello wo" if moment == "said" else "")
    assert charge(exchange, Outcome.STOPPED).completion == (2 if moment == "said" else 0)


def check_end(made, dialect, said):
    """A legal stream of the dialect that says so much, with an estimate of its usage."""
    frames = [one for one in made.frames if isinstance(one, dict)]
    if dialect != "openai_completions":
        sdk(made.got.data, dialect)
    if dialect == "anthropic":
        anthropic_grammar.check(made.got.data)
        found = [event for _, event in anthropic_grammar.events_of(made.got.data)]
        text = "".join(one["delta"].get("text", "") for one in found if one["type"] == "content_block_delta")
        assert (text, found[-2]["delta"]["stop_reason"]) == (said, "end_turn")
        assert found[-2]["usage"]["estimated"] is True
    elif dialect == "openai_responses":
        found = [json.loads(line[6:]) for line in made.got.data.decode().split("\n") if line.startswith("data: ")]
        assert [one["sequence_number"] for one in found] == list(range(len(found)))
        last = found[-1]["response"]
        assert (found[-1]["type"], last["status"]) == ("response.incomplete", "incomplete")
        assert last["incomplete_details"] == {"reason": "stopped_by_caller"}
        assert "".join(part["text"] for item in last["output"] for part in item["content"]) == said
        assert last["usage"]["estimated"] is True
    else:
        assert made.frames[-1] == "[DONE]"
        pieces = [c["delta"].get("content") if "delta" in c else c["text"] for one in frames for c in one["choices"]]
        assert "".join(piece or "" for piece in pieces) == said
        assert [c["finish_reason"] for one in frames for c in one["choices"]][-1] == "stop"
        assert frames[-1]["usage"]["estimated"] is True


@pytest.mark.parametrize("dialect", PATHS)
def test_stopped_before_the_first_event(dialect):
    house = house_of("anthropic" if dialect == "anthropic" else "openai")
    made = ask(house, dialect)
    request = house.provider.requests[-1]
    request.setHeader("content-type", "text/event-stream")
    house.write(request, b": a comment\n\n")
    stop(house)
    exchange = ended(house, made)
    if dialect == "openai_completions":
        assert [one if isinstance(one, str) else one["choices"] for one in made.frames] == [
            [{"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}],
            [],
            "[DONE]",
        ]
    else:
        check_end(made, dialect, "")
    assert exchange.attempt.ended_by == "stopped"
    assert (charge(exchange, Outcome.STOPPED).prompt, charge(exchange, Outcome.STOPPED).completion) == (1, 0)


def test_held_text_is_released_before_the_end():
    house = house_of()
    policy = Gating()
    house.gateway.after = (*house.gateway.after, policy)
    made, _ = begun(house, sse(ROLE, say("hold")))
    stop(house)
    house.flush()
    assert listed(house)["data"], "it is still being judged"
    assert made.got.reason is None
    policy.made[0].release()
    ended(house, made)
    texts = [c["delta"].get("content") for one in made.frames if isinstance(one, dict) for c in one.get("choices", [])]
    assert texts == ["", "hold", None]
    assert "[DONE]" in made.frames


def test_held_text_that_is_bad_ends_a_stopped_stream():
    house = house_of()
    policy = Gating()
    house.gateway.after = (*house.gateway.after, policy)
    made, _ = begun(house, sse(ROLE, say("hold"), say("bad")))
    stop(house)
    policy.made[0].release()
    house.flush()
    house.settled("blocked")
    assert made.frames[-1] == "error"


@pytest.mark.parametrize("dialect", PATHS)
def test_a_stopped_stream_that_is_judged_is_not_too_slow(dialect):
    house = house_of("deepseek", throughput_floor=ThroughputFloor(1.0, 10.0), completions_via_chat=True)
    policy = Gating()
    house.gateway.after = (*house.gateway.after, policy)
    data = sse(chunk(choices=[{"index": 0, "text": "hold", "finish_reason": None}]))
    made, _ = begun(house, data if dialect == "openai_completions" else sse(ROLE, say("hold")), dialect)
    stop(house)
    house.advance(30)
    assert house.ledger.log == ["opened"]
    policy.made[0].release()
    ended(house, made)


def test_a_stop_while_the_end_is_judged_changes_nothing():
    house = house_of()
    policy = Gating()
    house.gateway.after = (*house.gateway.after, policy)
    made, request = begun(house, sse(ROLE, say("hold"), STOP, b"[DONE]"))
    assert stop(house).status == 200
    policy.made[0].release()
    house.end(request)
    house.settled("complete")
    assert made.frames.count("[DONE]") == 1


def test_who_leaves_after_a_stop_is_done():
    house = house_of()
    made, _ = begun(house, sse(ROLE, say("a")))
    stop(house)
    made.got.transport.stopProducing()
    ended(house, made)


# Native Responses


def numbered(*made):
    return events(*({**one, "sequence_number": number} for number, one in enumerate(made)))


RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt", "status": "in_progress", "output": [],
    "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True,
    "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0, "usage": None,
}  # fmt: skip
MESSAGE = {"type": "message", "id": "msg_1", "status": "in_progress", "role": "assistant", "content": []}
PART = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
AT = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
BEGUN = [
    {"type": "response.created", "response": RESPONSE},
    {"type": "response.in_progress", "response": RESPONSE},
]
SAID = [
    {"type": "response.output_item.added", "output_index": 0, "item": MESSAGE},
    {"type": "response.content_part.added", **AT, "part": PART},
    {"type": "response.output_text.delta", **AT, "delta": "Hello", "logprobs": []},
    {"type": "response.output_text.delta", **AT, "delta": " wo", "logprobs": []},
]
SAID_ALL = [
    {"type": "response.output_text.done", **AT, "text": "Hello wo", "logprobs": []},
    {"type": "response.content_part.done", **AT, "part": {**PART, "text": "Hello wo"}},
]
ITEM_DONE = {
    "type": "response.output_item.done",
    "output_index": 0,
    "item": {**MESSAGE, "status": "completed", "content": [{**PART, "text": "Hello wo"}]},
}
FUNCTION = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "c",
    "name": "f",
    "arguments": "",
    "status": "in_progress",
}
CALLED = [
    {"type": "response.output_item.added", "output_index": 1, "item": FUNCTION},
    {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "output_index": 1, "delta": '{"a":'},
]
RESPONSES_SO_FAR = {
    "created": (BEGUN, [], []),
    "text": ([*BEGUN, *SAID], ["incomplete"], ["output_text.done", "content_part.done", "output_item.done"]),
    "item added": ([*BEGUN, SAID[0]], ["incomplete"], ["output_item.done"]),
    "part done": ([*BEGUN, *SAID, *SAID_ALL], ["incomplete"], ["output_item.done"]),
    "item done": ([*BEGUN, *SAID, *SAID_ALL, ITEM_DONE], ["completed"], []),
    "a call": (
        [*BEGUN, *SAID, *SAID_ALL, ITEM_DONE, *CALLED],
        ["completed", "incomplete"],
        ["function_call_arguments.done", "output_item.done"],
    ),
}


@pytest.mark.parametrize("so_far", RESPONSES_SO_FAR)
def test_native_responses_are_stopped(so_far):
    told, statuses, closing = RESPONSES_SO_FAR[so_far]
    house = house_of()
    made, _ = begun(house, numbered(*told), "openai_responses")
    stop(house)
    ended(house, made)
    found = [json.loads(line[6:]) for line in made.got.data.decode().split("\n") if line.startswith("data: ")]
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    sdk(made.got.data, "openai_responses")
    assert [one["type"] for one in found[len(told) :]] == [f"response.{kind}" for kind in [*closing, "incomplete"]]
    last = found[-1]["response"]
    assert (last["id"], last["status"], last["incomplete_details"]) == (
        "resp_1",
        "incomplete",
        {"reason": "stopped_by_caller"},
    )
    assert [item["status"] for item in last["output"]] == statuses
    if so_far not in ("created", "item added"):
        assert last["output"][0]["content"][0]["text"] == "Hello wo"
    if so_far == "a call":
        assert last["output"][1]["arguments"] == '{"a":'
    assert last["usage"]["output_tokens"] == {"created": 0, "item added": 0, "a call": 4}.get(so_far, 2)
    assert last["usage"]["estimated"] is True


def test_reasoning_that_is_open():
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    at = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
    part = {"type": "summary_text", "text": ""}
    told = [
        *BEGUN,
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.reasoning_summary_part.added", **at, "part": part},
        {"type": "response.reasoning_summary_text.delta", **at, "delta": "Hm"},
    ]
    house = house_of()
    made, _ = begun(house, numbered(*told), "openai_responses")
    stop(house)
    ended(house, made)
    found = [json.loads(line[6:]) for line in made.got.data.decode().split("\n") if line.startswith("data: ")]
    assert found[-1]["response"]["output"] == [{**item, "summary": [{**part, "text": "Hm"}]}]
    assert [one["type"] for one in found[-4:-1]] == [
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
    ]
