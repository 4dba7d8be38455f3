"""What holds on every road, native and translated: each event at once, deadlines, heartbeats, cuts, callers who leave.

The rows of `streaming.md` 24 that chat alone does not show, through a whole gateway in memory.
"""

import json

import attrs
import pytest
from twisted.web.client import ResponseDone

from twisted_gateway.formats.names import short_name
from twisted_gateway.tap import FORMATS
from twisted_gateway.wire.sse import Reader

from .exchanges import group, model, provider_key
from .test_gateway import MESSAGES, House, dumps, sse

CHUNKS = [
    {"id": "c1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}, "finish_reason": None}]},
    {"id": "c1", "choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": None}]},
    {"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"id": "c1", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}},
]
TEXTS = [
    {"id": "c1", "choices": [{"index": 0, "text": "Hel", "finish_reason": None}]},
    {"id": "c1", "choices": [{"index": 0, "text": "lo", "finish_reason": None}]},
    {"id": "c1", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]},
]
EVENTS = [
    {
        "type": "message_start",
        "message": {"type": "message", "id": "msg_1", "model": "gpt-4o", "content": [], "usage": {"input_tokens": 5}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]
ITEMS = [
    {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "model": "gpt-4o"}},
    {"type": "response.output_text.delta", "sequence_number": 1, "delta": "Hel"},
    {"type": "response.output_text.delta", "sequence_number": 2, "delta": "lo"},
    {"type": "response.completed", "sequence_number": 3, "response": {"id": "resp_1", "status": "completed"}},
]


def named(*events):
    return [f"event: {event['type']}\n".encode() + sse(event) for event in events]


SAID = {
    "openai_chat": [*(sse(chunk) for chunk in CHUNKS), sse(b"[DONE]")],
    "openai_completions": [*(sse(chunk) for chunk in TEXTS), sse(b"[DONE]")],
    "anthropic": named(*EVENTS),
    "openai_responses": named(*ITEMS),
}
ASKED = {
    "openai_chat": ("/v1/chat/completions", {"messages": MESSAGES}),
    "openai_completions": ("/v1/completions", {"prompt": "hi"}),
    "anthropic": ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9}),
    "openai_responses": ("/v1/responses", {"input": "hi"}),
}


@attrs.frozen
class Road:
    """A caller's dialect and a provider's. `silent` counts the provider's events that say nothing to this caller."""

    asked: str
    said: str
    vendor: str = "openai"
    silent: int = 0

    def house(self, **settings):
        base = "http://provider" if self.vendor == "anthropic" else "http://provider/v1"
        key = provider_key(provider="anthropic" if self.vendor == "anthropic" else "openai", api_base=base)
        house = House(shelf=[model(provider=self.vendor, provider_key=key, completions_via_chat=True)], **settings)
        house.speak(FORMATS, bridge=True)
        return house

    def ask(self, house):
        path, members = ASKED[self.asked]
        ask = house.ask({"model": "gpt", "stream": True, **members}, path=path.encode())
        (request,) = house.provider.requests
        request.setHeader("content-type", "text/event-stream")
        return ask, request

    @property
    def frames(self):
        return SAID[self.said]


ROADS = {
    "chat": Road("openai_chat", "openai_chat", silent=1),
    "completions": Road("openai_completions", "openai_completions"),
    "messages": Road("anthropic", "anthropic", "anthropic"),
    "responses": Road("openai_responses", "openai_responses"),
    "chat at anthropic": Road("openai_chat", "anthropic", "anthropic", silent=2),
    "messages at openai": Road("anthropic", "openai_chat"),
    "responses at chat": Road("openai_responses", "openai_chat", "deepseek"),
    "responses at anthropic": Road("openai_responses", "anthropic", "anthropic", silent=3),
    "completions at anthropic": Road("openai_completions", "anthropic", "anthropic", silent=4),
}
each_road = pytest.mark.parametrize("road", ROADS.values(), ids=list(ROADS))
TERMINAL = {
    "openai_chat": b"data: [DONE]\n\n",
    "openai_completions": b"data: [DONE]\n\n",
    "anthropic": b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    "openai_responses": b"response.completed",
}


def said(ask, asked):
    """The text that a caller has read so far."""
    text = ""
    for frame in Reader().received(ask.got.data):
        one = {} if frame.data == b"[DONE]" else json.loads(frame.data)
        for choice in one.get("choices", ()):
            text += choice.get("text", "") if asked == "openai_completions" else choice["delta"].get("content") or ""
        delta = one.get("delta")
        if one.get("type") in ("content_block_delta", "response.output_text.delta"):
            text += delta if isinstance(delta, str) else delta["text"]
    return text


@each_road
def test_each_event_reaches_the_caller_before_the_next_is_sent(road):
    house = road.house()
    ask, request = road.ask(house)
    silent = 0
    for frame in road.frames:
        if ask.got.reason is not None:
            break  # the answer was whole: a usage chunk is an end, too, and `[DONE]` comes behind it
        before = len(ask.got.data)
        house.write(request, frame)
        silent += len(ask.got.data) == before
        if b"Hel" in frame:
            assert said(ask, road.asked) == "Hel"
    assert silent <= road.silent
    assert said(ask, road.asked) == "Hello"
    assert ask.got.reason.check(ResponseDone), "the end marker is the end, whatever the provider still does"
    assert TERMINAL[road.asked] in ask.got.data[-1200:]
    if road.asked != "openai_responses":
        assert ask.got.data.endswith(TERMINAL[road.asked])
    house.end(request)
    house.settled("complete")


@each_road
def test_the_callers_name_for_the_model(road):
    """Everywhere but in native Responses (`streaming.md` 19.2)."""
    house = road.house()
    ask, request = road.ask(house)
    for frame in road.frames:
        house.write(request, frame)
    assert (b'"model":"gpt"' in ask.got.data) == (ROADS["responses"] != road)
    assert (b"gpt-4o" in ask.got.data) == (ROADS["responses"] == road)


def told(ask, asked):
    """The type of the error at the end of a stream, which has no good end besides."""
    assert ask.got.reason.check(ResponseDone), "the HTTP body ends cleanly"
    frames = Reader().received(ask.got.data)
    assert not any(
        frame.data == b"[DONE]" or frame.event in (b"message_stop", b"response.completed") for frame in frames
    )
    last = frames[-1]
    if asked == "openai_responses" and last.event == b"response.failed":
        last = frames[-2]
    error = json.loads(last.data)
    assert last.event == b"error"
    if asked == "openai_responses":
        assert "error" not in error, "on which the SDKs raise"
        return error["code"]
    return error["error"]["type"]


def begun(road, **settings):
    """A house, and a call whose answer has begun."""
    house = road.house(**settings)
    ask, request = road.ask(house)
    for frame in road.frames:
        house.write(request, frame)
        if b"Hel" in frame:
            break
    assert "Hel" in said(ask, road.asked)
    return house, ask, request


@each_road
def test_silence_in_the_middle(road):
    house, ask, _ = begun(road, heartbeat=0, stream_timeout_ms=5000)
    house.advance(5.5)
    assert told(ask, road.asked) == ("timeout_error" if road.asked == "anthropic" else "timeout")
    assert b"upstream request timed out after 5000ms" in ask.got.data
    assert len(house.provider.gone) == 1
    assert house.settled("stalled").status == 200


@each_road
def test_a_provider_that_ends_in_the_middle(road):
    house, ask, request = begun(road)
    house.end(request)
    assert told(ask, road.asked) == ("api_error" if road.asked == "anthropic" else "stream_aborted")
    assert b"upstream cancelled the response mid-stream" in ask.got.data
    assert house.settled("truncated").status == 200


@each_road
def test_an_error_object_in_the_middle(road):
    """In the caller's dialect, with the provider's message."""
    house, ask, request = begun(road)
    error = {"error": {"message": "out of luck", "type": "server_error"}}
    if road.said == "anthropic":
        house.write(request, named({"type": "error", "error": {"type": "api_error", "message": "out of luck"}})[0])
    elif road.said == "openai_responses":
        house.write(request, named({"type": "error", "code": "server_error", "message": "out of luck"})[0])
        house.write(request, named({"type": "response.failed", "response": {"error": {"message": "out of luck"}}})[0])
    else:
        house.write(request, sse(error))
    kind = "api_error" if road.asked == "anthropic" else "upstream_in_band_error"
    if road.said == "openai_responses":
        kind = "server_error"  # the provider's own frame
    assert told(ask, road.asked) == kind
    assert b"out of luck" in ask.got.data
    house.settled("truncated")


@each_road
def test_heartbeats_in_silence(road):
    """A comment; to Messages callers whose message has begun an event besides, in the same write (section 8)."""
    house = road.house(heartbeat=10.0)
    ask, request = road.ask(house)
    house.write(request, b": wait\n\n")
    house.advance(10.5)
    assert ask.got.data == b":\n\n"
    for frame in road.frames:
        house.write(request, frame)
        if b"Hel" in frame:
            break
    before = len(ask.got.data)
    house.write(request, road.frames[-1][:9])  # half a frame: nothing of it is passed on, nothing gets into it
    house.advance(10.5)
    ping = b'event: ping\ndata: {"type": "ping"}\n\n' if road.asked == "anthropic" else b""
    assert ask.got.data[before:] == b":\n\n" + ping


@each_road
def test_a_caller_who_leaves_in_the_middle(road):
    house, ask, _ = begun(road)
    ask.got.transport.stopProducing()
    house.flush()
    assert len(house.provider.gone) == 1
    exchange = house.settled("abandoned")
    assert exchange.status == 499
    assert exchange.delivered_bytes == len("Hel")


@each_road
@pytest.mark.parametrize("stream", [True, False])
def test_an_error_before_everything_is_a_status(road, stream):
    house = road.house()
    path, members = ASKED[road.asked]
    ask = house.ask({"model": "gpt", "stream": stream, **members}, path=path.encode())
    (request,) = house.provider.requests
    request.setResponseCode(400)
    request.write(dumps({"type": "error", "error": {"type": "invalid_request_error", "message": "no", "code": "c"}}))
    house.end(request)
    kind = "invalid_request_error" if road.asked == "anthropic" else "upstream_error"
    assert (ask.response.code, ask.json["error"]["type"], ask.json["error"]["message"]) == (400, kind, "no")
    assert ("type" in ask.json) == (road.asked == "anthropic")
    house.settled("failed")


AUDIO = [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}]}]
UPLOAD = [{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}]


@pytest.mark.parametrize(
    ("vendor", "path", "members", "status", "message"),
    [
        ("anthropic", "/v1/chat/completions", {"messages": AUDIO}, 400, 'content part type "input_audio"'),
        ("deepseek", "/v1/messages", {"messages": UPLOAD, "max_tokens": 5}, 400, 'document source type "file"'),
        ("deepseek", "/v1/responses", {"input": "hi"}, 400, "model `gpt` is not an OpenAI provider"),
        ("anthropic", "/v1/responses", {"input": "hi"}, 400, "supports only openai providers"),
        ("anthropic", "/v1/completions", {"prompt": "hi"}, 501, "this provider does not support text completions"),
        ("openai", "/v1/messages/count_tokens", {"messages": MESSAGES}, 400, "`gpt` is not backed by an Anthropic-"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_cannot_be_carried_asks_no_provider(vendor, path, members, status, message, stream):
    key = provider_key(provider="anthropic" if vendor == "anthropic" else "openai", api_base="http://provider")
    house = House(shelf=[model(provider=vendor, provider_key=key)])
    house.speak(FORMATS)
    ask = house.ask({"model": "gpt", "stream": stream, **members}, path=path.encode())
    assert (ask.response.code, ask.header("content-type")) == (status, "application/json")
    assert message in ask.json["error"]["message"]
    assert house.provider.requests == []
    house.settled("refused")


# A group with targets of both families (`translation.md` 10, row 10)

AT_OPENAI = model(
    "a", model_name="at-a", provider_key=provider_key("a", provider="openai", api_base="http://provider/v1")
)
AT_ANTHROPIC = model(
    "b",
    model_name="at-b",
    provider="anthropic",
    provider_key=provider_key("b", provider="anthropic", api_base="http://provider"),
)
LONG = "n" * 70


@pytest.mark.parametrize("first", [AT_OPENAI, AT_ANTHROPIC], ids=["openai first", "anthropic first"])
@pytest.mark.parametrize("asked", ["openai_chat", "anthropic"])
def test_a_fallback_to_another_family_translates_the_callers_own_body(asked, first):
    second = AT_ANTHROPIC if first is AT_OPENAI else AT_OPENAI
    house = House(shelf=[group("gpt", first.display_name, second.display_name), first, second])
    house.speak(FORMATS)
    path, members = ASKED[asked]
    schema = {"type": "object", "properties": {}}
    if asked == "openai_chat":
        tools = [{"type": "function", "function": {"name": LONG, "parameters": schema}}]
        members = {**members, "stop": "x", "seed": 5, "tools": tools}
    else:
        members = {**members, "stop_sequences": ["x"], "top_k": 5, "tools": [{"name": LONG, "input_schema": schema}]}
    ask = house.ask({"model": "gpt", **members}, path=path.encode())
    request = house.provider.requests[0]
    request.setResponseCode(500)
    house.end(request)
    assert [one.uri for one in house.provider.requests] == [
        b"/v1/chat/completions" if one is AT_OPENAI else b"/v1/messages" for one in (first, second)
    ]
    bodies = {one.display_name: body for one, body in zip((first, second), house.provider.bodies, strict=True)}
    function = {"name": LONG if asked == "openai_chat" else short_name(LONG), "parameters": schema}
    assert bodies["a"]["tools"] == [{"type": "function", "function": function}]
    assert bodies["b"]["tools"] == [{"name": LONG, "input_schema": schema}]
    assert bodies["b"]["stop_sequences"] == ["x"]
    assert bodies["a"]["stop"] in ("x", ["x"])
    assert (bodies["a"].get("seed"), bodies["b"].get("top_k")) == ((5, None) if asked == "openai_chat" else (None, 5))
    assert "seed" not in bodies["b"]
    assert "top_k" not in bodies["a"]
    assert bodies["a"]["model"] == "at-a"
    assert bodies["b"]["model"] == "at-b"
    (_, answering) = house.provider.requests
    chat = {"id": "c", "choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]}
    message = {
        "type": "message",
        "id": "msg_1",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
    }
    answering.write(dumps(chat if second is AT_OPENAI else message))
    house.end(answering)
    assert ask.response.code == 200
    text = ask.json["choices"][0]["message"]["content"] if asked == "openai_chat" else ask.json["content"][0]["text"]
    assert text == "Hello"
    house.settled("complete")
