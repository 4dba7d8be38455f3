"""The whole house in memory: front, trunk, formats and upstream between two `RequestTraversalAgent`s and a clock."""

import json
from collections import Counter
from hashlib import sha256

import attrs
import pytest
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from twisted_gateway.config.settings import Upstream as UpstreamSettings
from twisted_gateway.drains import Drains
from twisted_gateway.errors import shutting_down
from twisted_gateway.exchange import Outcome, Ticket
from twisted_gateway.gateway import Gateway
from twisted_gateway.messages import Body
from twisted_gateway.policies.access import Authentication, ModelAccess
from twisted_gateway.tap import FORMATS
from twisted_gateway.upstream import Client, Upstream
from twisted_gateway.wire.sse import Reader

from .doubles.timers import timers
from .exchanges import caller, model, provider_key, snapshot
from .formats.making import ROLE, choice, chunk, dumps, say
from .fronts import NOW, front

KEY = caller(key_hash=sha256(b"secret").hexdigest())
MESSAGES = [{"role": "user", "content": "hi"}]
WHOLE = {
    "id": "c1", "object": "chat.completion", "created": 5, "model": "gpt-4o-2024",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ho"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}  # fmt: skip
STOP = chunk(choice({}, "stop"))
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}


def sse(*chunks):
    return b"".join(b"data: " + (one if isinstance(one, bytes) else dumps(one)) + b"\n\n" for one in chunks)


class Provider(Resource):
    """Keeps each request for the test to answer."""

    isLeaf = True

    def __init__(self):
        super().__init__()
        self.requests, self.bodies, self.gone = [], [], []

    def render(self, request):
        self.requests.append(request)
        self.bodies.append(json.loads(request.content.read()))
        request.notifyFinish().addErrback(self.gone.append)
        return NOT_DONE_YET


class Ledger:
    """A policy whose tickets note how their exchanges ended."""

    def __init__(self):
        self.log = []
        self.exchanges = []

    def admit(self, exchange):
        self.exchanges.append(exchange)
        return LedgerTicket(self, exchange)


@attrs.define
class LedgerTicket(Ticket):
    ledger: Ledger
    exchange: object

    def opened(self):
        self.ledger.log.append("opened")

    def settle(self, outcome):
        self.ledger.log.append(str(outcome))


class Got:
    """A caller's body."""

    def __init__(self):
        self.data, self.reason, self.transport = b"", None, None

    def makeConnection(self, transport):
        self.transport = transport

    def dataReceived(self, data):
        self.data += data

    def connectionLost(self, reason):
        self.reason = reason


class Ask:
    """One call of a caller."""

    def __init__(self, house, body, token, path, more=()):
        self.response = self.failure = None
        self.got = Got()
        headers = Headers({"content-type": ["application/json"]} | (dict(more) if isinstance(more, dict) else {}))
        if token:
            headers.addRawHeader("authorization", f"Bearer {token}")
        for name, value in () if isinstance(more, dict) else more or ():
            headers.addRawHeader(name, value)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.deferred = house.callers.request(b"POST", b"http://gateway" + path, headers, Body(data, lambda: None))
        self.deferred.addCallbacks(self._answered, lambda failure: setattr(self, "failure", failure))

    def _answered(self, response):
        self.response = response
        response.deliverBody(self.got)

    def header(self, name):
        return (self.response.headers.getRawHeaders(name) or [None])[0]

    @property
    def json(self):
        assert self.got.reason is not None
        assert self.got.reason.check(ResponseDone)
        return json.loads(self.got.data)

    @property
    def frames(self):
        return [
            f.event.decode() or ("[DONE]" if f.data == b"[DONE]" else json.loads(f.data))
            for f in Reader().received(self.got.data)
        ]


class House:
    """A gateway with one model, `gpt`, at one provider."""

    def __init__(self, heartbeat=15.0, shelf=None, known=None, **settings):
        self.clock = Clock()
        self.provider = Provider()
        self.ledger = Ledger()
        self.providers = RequestTraversalAgent(self.provider)
        boot = UpstreamSettings(**{"timeout_ms": 60_000, "retries": 0} | settings)
        client = Client(self.providers)
        self.gateway = Gateway(
            before=(self.ledger, Authentication(lambda: NOW, lambda *_: None, lambda *_: None)),
            after=(ModelAccess(),),
            limits=(),
            formats=FORMATS,
            upstream=Upstream(lambda key: client, self.clock, boot, boot.connect_timeout_ms),
            settings=boot,
            clock=self.clock,
            now=lambda: NOW,
            choose=lambda letters, k: (letters * k)[:k],
            heartbeat_seconds=heartbeat,
            demo_base=lambda: None,
            drains=Drains(self.clock, 2, lambda state, change: self.drains.update({state: change})),
        )
        self.drains = Counter()
        models = shelf or [model(provider_key=provider_key(provider="openai", api_base="http://provider/v1"))]
        members = {"caller_keys_by_hash": {KEY.key_hash: KEY}} | (known or {})
        resources = attrs.evolve(snapshot(*models), **members)
        self.front = front(self.gateway.serve, resources, self.clock)
        self.front.left = self.gateway.left
        self.front.listed, self.front.stop = self.gateway.streams.listed, self.gateway.streams.stop
        self.callers = RequestTraversalAgent(self.front.resource())

    def speak(self, formats, bridge=False):
        """Understand these formats from now on."""
        self.gateway.formats = self.gateway.means.opener.formats = formats
        self.gateway.means.opener.bridge = bridge

    def ask(self, body=None, token="secret", path=b"/v1/chat/completions", headers=None, **members):
        body = body if body is not None else {"model": "gpt", "messages": MESSAGES} | members
        ask = Ask(self, body, token, path, headers)
        self.flush()
        return ask

    def flush(self):
        for _ in range(6):
            self.callers.flush()
            self.providers.flush()

    def stream(self, ask_members=None, content_type="text/event-stream"):
        """A streamed call, and the provider's request with a good head."""
        ask = self.ask(stream=True, **(ask_members or {}))
        request = self.provider.requests[-1]
        request.setHeader("content-type", content_type)
        return ask, request

    def write(self, request, data):
        request.write(data)
        self.flush()

    def end(self, request):
        request.finish()
        self.flush()

    def advance(self, seconds):
        for _ in range(int(seconds * 4)):
            self.clock.advance(0.25)
            self.flush()

    def settled(self, outcome):
        """The call is settled so, once, and nothing of it is left."""
        self.flush()
        assert [line for line in self.ledger.log if line != "opened"] == [outcome]
        assert self.gateway.in_flight == 0
        assert not self.gateway.running
        self.clock.advance(2)
        self.flush()
        assert timers(self.clock) == []
        return self.ledger.exchanges[0]


@pytest.fixture
def house():
    return House()


# Good answers


def test_a_whole_answer(house):
    ask = house.ask(temperature=0.1)
    assert house.provider.bodies == [{"model": "gpt-4o", "messages": MESSAGES, "temperature": 0.1}]
    request = house.provider.requests[0]
    assert request.uri == b"/v1/chat/completions"
    sent = {name.lower(): values for name, values in request.requestHeaders.getAllRawHeaders()}
    assert sent[b"authorization"] == [b"Bearer sk-CANARY-provider"]
    assert sent[b"x-aisix-request-id"] == [b"id-1"]
    assert sent[b"accept"] == [b"application/json"]
    assert sent[b"accept-encoding"] == [b"identity"]
    request.setHeader("content-type", "application/json")
    request.write(dumps(WHOLE))
    house.end(request)
    assert (ask.response.code, ask.header("content-type")) == (200, "application/json")
    assert (ask.header("x-aisix-request-id"), ask.header("x-aisix-call-id")) == ("id-1", "id-1")
    assert ask.json == WHOLE | {"model": "gpt"}
    exchange = house.settled("complete")
    assert (exchange.status, exchange.frames, exchange.bytes) == (200, 1, len(ask.got.data))
    assert exchange.attempt.usage.prompt == 3


def test_a_streamed_answer(house):
    ask, request = house.stream({"stream_options": {"include_usage": True}})
    assert house.provider.bodies[0]["stream_options"] == {"include_usage": True}
    house.write(request, sse(ROLE))
    assert ask.response.code == 200
    assert (ask.header("content-type"), ask.header("cache-control"), ask.header("x-accel-buffering")) == (
        "text/event-stream",
        "no-cache",
        "no",
    )
    assert ask.header("x-aisix-call-id") == "id-1"
    assert len(ask.frames) == 1, "the first frame is relayed at once"
    for text in ("Hel", "lo"):
        house.write(request, sse(say(text)))
    house.write(request, sse(STOP, chunk(usage=USAGE), b"[DONE]"))
    assert ask.got.reason.check(ResponseDone), "the end marker is the end, whatever the provider still does"
    assert ask.frames[-1] == "[DONE]"
    assert ask.frames[-2]["usage"] == USAGE
    assert all(one["model"] == "gpt" for one in ask.frames[:-1])
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in ask.frames[:-2]) == "Hello"
    house.end(request)
    exchange = house.settled("complete")
    assert (exchange.frames, exchange.status, exchange.bound) == (6, 200, 0.0)
    assert house.ledger.log == ["opened", "complete"]


MESSAGE = {"type": "message", "id": "msg_1", "content": [], "stop_reason": "end_turn"}
NATIVE = {
    "messages": (
        "/v1/messages",
        model(provider="anthropic", provider_key=provider_key(provider="anthropic", api_base="http://provider")),
        {"messages": MESSAGES, "max_tokens": 5},
        {"type": "message_start", "message": MESSAGE},
        MESSAGE,
    ),
    "responses": (
        "/v1/responses",
        model(provider_key=provider_key(provider="openai", api_base="http://provider/v1")),
        {"input": "hi"},
        {"type": "response.created", "response": {}},
        {"object": "response", "id": "resp_1", "output": []},
    ),
}


@pytest.mark.parametrize("dialect", NATIVE)
@pytest.mark.parametrize(
    ("stream", "given", "told"),
    [
        (True, "text/event-stream", "text/event-stream"),
        (True, "text/event-stream; charset=utf-8", "text/event-stream; charset=utf-8"),
        (True, "Text/Event-Stream;charset=UTF-8", "Text/Event-Stream;charset=UTF-8"),
        (True, "text/plain", "text/event-stream"),
        (True, None, "text/event-stream"),
        (False, "application/json; charset=utf-8", "application/json; charset=utf-8"),
        (False, "text/plain", "application/json"),
        (False, None, "application/json"),
    ],
)
def test_native_answers_keep_their_content_type(dialect, stream, given, told):
    """Messages and Responses: `streaming.md` 5 and 17.3; nothing else is told than what was asked for."""
    path, served, members, event, whole = NATIVE[dialect]
    house = House(shelf=[served])
    ask = house.ask({"model": "gpt", "stream": stream, **members}, path=path.encode())
    (request,) = house.provider.requests
    if given is not None:
        request.setHeader("content-type", given)
    house.write(request, sse(event) if stream else dumps(whole))
    if not stream:
        house.end(request)
    assert (ask.response.code, ask.header("content-type")) == (200, told)


@pytest.mark.parametrize("kept", [True, False])
def test_a_stream_that_begins_with_a_heartbeat_has_the_content_type_too(kept):
    path, served, members, event, _ = NATIVE["messages"]
    house = House(heartbeat=5.0, shelf=[served])
    ask = house.ask({"model": "gpt", "stream": True, **members}, path=path.encode())
    (request,) = house.provider.requests
    request.setHeader("content-type", "text/event-stream; charset=utf-8" if kept else "text/event-streams")
    house.write(request, b": wait\n\n")
    house.advance(5.5)
    assert ask.got.data == b":\n\n"
    assert ask.header("content-type") == ("text/event-stream; charset=utf-8" if kept else "text/event-stream")
    house.write(request, sse(event))
    assert len(ask.frames) == 1


def test_a_translated_answer_has_a_content_type_of_its_own():
    path, _, members, _, _ = NATIVE["messages"]
    house = House()
    ask = house.ask({"model": "gpt", "stream": True, **members}, path=path.encode())
    (request,) = house.provider.requests
    request.setHeader("content-type", "text/event-stream; charset=utf-8")
    house.write(request, sse(ROLE))
    assert ask.header("content-type") == "text/event-stream"


def test_usage_that_was_not_asked_for_is_counted_and_hidden(house):
    ask, request = house.stream()
    assert house.provider.bodies[0]["stream_options"] == {"include_usage": True}
    house.write(request, sse(ROLE, say("a"), STOP, chunk(usage=USAGE), b"[DONE]"))
    house.end(request)
    assert "usage" not in ask.got.data.decode()
    assert house.settled("complete").attempt.usage.completion == 7


def test_a_stream_complete_without_its_end_marker(house):
    ask, request = house.stream()
    house.write(request, sse(ROLE, say("a"), STOP))
    house.end(request)
    assert ask.frames[-1] == "[DONE]"
    house.settled("complete")


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
def test_json_though_a_stream_was_asked(house, content_type):
    ask, request = house.stream(content_type=content_type)
    house.write(request, dumps(WHOLE))
    house.end(request)
    assert ask.header("content-type") == "text/event-stream"
    assert ask.frames[-1] == "[DONE]"
    assert ask.frames[0]["choices"][0]["delta"] == {"role": "assistant", "content": "ho"}
    house.settled("complete")


def test_two_calls_do_not_mix(house):
    first, one = house.stream()
    second, two = house.stream()
    house.write(two, sse(ROLE, say("two"), STOP, b"[DONE]"))
    house.write(one, sse(ROLE, say("one"), STOP, b"[DONE]"))
    assert "one" in first.got.data.decode()
    assert "one" not in second.got.data.decode()
    assert house.ledger.log == ["opened", "complete"] * 2


# Refusals and failures


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ({"token": None}, 401, "missing or malformed Authorization header"),
        ({"token": "other"}, 401, "invalid API key"),
        ({"token": "other", "body": b"{"}, 401, "invalid API key"),
        ({"body": b"{"}, 400, "request payload is invalid: invalid JSON request body"),
        ({"messages": []}, 400, "request payload is invalid: messages array must not be empty"),
        ({"model": "x"}, 404, 'model "x" not found'),
        ({"path": b"/api/v1/chat/completions", "model": "x"}, 404, 'model "x" not found'),
    ],
)
def test_refusals(house, options, status, message):
    ask = house.ask(**options)
    assert (ask.response.code, ask.json["error"]["message"]) == (status, message)
    assert ask.header("content-type") == "application/json"
    assert ask.header("x-aisix-call-id") is None
    assert house.provider.requests == []
    assert house.settled("refused").status == status


def test_a_key_that_leads_nowhere():
    house = House(shelf=[model(provider_key=provider_key(provider="x"))])
    ask = house.ask()
    assert (ask.response.code, ask.json["error"]["type"]) == (503, "provider_unavailable")
    house.settled("refused")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "body", "shown", "message"),
    [
        (400, b'{"error":{"message":"bad","code":"c","param":"p"}}', 400, "bad"),
        (401, b'{"error":{"message":"bad key"}}', 401, "bad key"),
        (404, b"no such page", 404, "no such page"),
        (429, b'{"error":{"message":"slow down"}}', 429, "slow down"),
        (500, b'{"error":{"message":"secret"}}', 502, "upstream returned 500"),
        (503, b"", 502, "upstream returned 503"),
        (529, b"", 529, "upstream returned 529"),
        (302, b"", 502, "upstream returned 302"),
    ],
)
def test_upstream_errors(house, stream, status, body, shown, message):
    ask = house.ask(stream=stream)
    request = house.provider.requests[0]
    request.setResponseCode(status)
    request.setHeader("retry-after", "7")
    request.setHeader("location", "http://elsewhere/")
    request.write(body)
    house.end(request)
    assert (ask.response.code, ask.json["error"]["message"], ask.json["error"]["type"]) == (
        shown,
        message,
        "upstream_error",
    )
    assert ask.header("content-type") == "application/json"
    assert ask.header("retry-after") == ("7" if status in (429, 529) else None)
    assert len(house.provider.requests) == 1
    exchange = house.settled("failed")
    assert [attempt.status for attempt in exchange.attempts] == [status]


@pytest.mark.parametrize(
    ("first", "status", "kind", "message"),
    [
        (sse({"error": {"message": "m", "code": 429}}), 429, "upstream_error", "m"),
        (sse({"error": {"message": "secret", "code": 500}}), 502, "upstream_error", "upstream returned 500"),
        (b": ping\n\n" + sse(b"ping", {"error": "text"}), 502, "upstream_error", "text"),
        (sse(b"{"), 502, "upstream_decode_error", None),
        (b"", 502, "stream_aborted", "upstream cancelled the response mid-stream"),
        (b": ping\n\n", 502, "stream_aborted", None),
        (b"data: {", 502, "stream_aborted", None),
    ],
)
def test_streams_that_never_begin(house, first, status, kind, message):
    ask, request = house.stream()
    house.write(request, first)
    if not ask.response:
        house.end(request)
    assert (ask.response.code, ask.json["error"]["type"]) == (status, kind)
    assert message is None or ask.json["error"]["message"] == message
    house.settled("failed")


@pytest.mark.parametrize("content_type", ["text/html", "", "application/octet-stream"])
def test_a_stream_that_is_none(house, content_type):
    ask, request = house.stream(content_type=content_type)
    house.write(request, b"<html>maintenance</html>")
    house.end(request)
    assert (ask.response.code, ask.json["error"]["type"]) == (502, "upstream_decode_error")
    house.settled("failed")


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"x":1}', b'{"choices":', b"<html>"])
def test_whole_answers_that_are_none(house, body):
    ask = house.ask()
    request = house.provider.requests[0]
    request.write(body)
    house.end(request)
    assert ask.response.code == 502
    assert ask.json["error"]["type"] in ("upstream_decode_error", "stream_aborted")
    house.settled("failed")


_WRONG_NUMBER = b'{"choices":[{"index":0,"message":{"content":"ho"}}],"x":%b}'


@pytest.mark.parametrize("wrong", [b"1e999", b"-1e400", b"1" * 5000])
@pytest.mark.parametrize("in_time", [True, False])
def test_a_whole_answer_with_a_number_that_cannot_be_read_is_none(house, wrong, in_time):
    ask = house.ask()
    request = house.provider.requests[0]
    if not in_time:
        request.write(b"  ")
        house.flush()
    request.write(_WRONG_NUMBER % wrong)
    house.end(request)
    assert (ask.response.code, ask.json["error"]["type"]) == (502, "upstream_decode_error")
    made = house.settled("failed")
    assert made.attempts[0].first_event is None, "no provider's success"


@pytest.mark.parametrize("name", [b"\xff", b"\xed\xa0\x80", b"\\ud800"])
def test_a_whole_answer_with_a_member_that_has_a_broken_name(house, name):
    ask = house.ask()
    request = house.provider.requests[0]
    request.write(dumps(WHOLE).replace(b"{", b'{"%b":1,' % name, 1))
    house.end(request)
    assert ask.response.code == 200
    assert ask.json["choices"] == WHOLE["choices"]
    house.settled("complete")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("split", [True, False])
def test_a_dialect_that_cannot_judge_an_answer_fails_the_attempt(house, stream, split):
    def judge(call, frame):
        raise KeyError("a fault of ours")

    house.gateway.formats = {**FORMATS, "openai_chat": attrs.evolve(FORMATS["openai_chat"], judge=judge)}
    house.gateway.means.opener.formats = house.gateway.formats
    ask = house.ask(stream=stream)
    request = house.provider.requests[0]
    if stream:
        request.setHeader("content-type", "text/event-stream")
    if split:
        request.write(b"\n")
        house.flush()
    request.write(sse(ROLE) if stream else dumps(WHOLE))
    house.end(request)
    assert (ask.response.code, ask.json["error"]["type"]) == (500, "internal_error")
    house.settled("failed")


def test_a_compressed_answer(house):
    ask, request = house.stream()
    request.setHeader("content-encoding", "gzip")
    house.write(request, b"\x1f\x8b")
    assert (ask.response.code, ask.json["error"]["type"]) == (502, "upstream_decode_error")
    house.settled("failed")


# After the first frame


@pytest.mark.parametrize(
    ("then", "kind", "outcome"),
    [
        (sse({"error": {"message": "broke", "type": "server_error"}}), "upstream_in_band_error", "truncated"),
        (sse(b"{"), "upstream_decode_error", "truncated"),
        (None, "stream_aborted", "truncated"),
        (sse(say("more")) + b"data: {", "stream_aborted", "truncated"),
    ],
)
def test_errors_in_the_stream(house, then, kind, outcome):
    ask, request = house.stream()
    house.write(request, sse(ROLE, say("a")))
    if then is not None:
        house.write(request, then)
    if kind == "stream_aborted":
        house.end(request)
    assert ask.got.reason.check(ResponseDone), "the HTTP body ends cleanly"
    reader = Reader().received(ask.got.data)
    assert (reader[-1].event, json.loads(reader[-1].data)["error"]["type"]) == (b"error", kind)
    assert b"[DONE]" not in ask.got.data
    assert b'"a"' in ask.got.data
    exchange = house.settled(outcome)
    assert exchange.status == 200


def test_an_event_that_is_too_long_passes_where_nobody_reads_it():
    house = House(max_event_bytes=1000)
    ask, request = house.stream()
    house.write(request, sse(ROLE))
    house.write(request, b"data: " + b"x" * 2000)
    assert ask.got.data.endswith(b"x" * 2000), "at once, not when it is whole"
    house.write(request, b"y\n\n" + sse(say("on")))
    house.write(request, sse(chunk(choice({}, "stop")), "[DONE]"))
    house.end(request)
    datas = [frame.data for frame in Reader().received(ask.got.data)]
    assert datas[1] == b"x" * 2000 + b"y"
    assert json.loads(datas[2])["choices"][0]["delta"]["content"] == "on"
    assert datas[-1] == b"[DONE]"
    house.settled("complete")


def test_an_event_that_never_ends_is_ended_by_silence():
    house = House(max_event_bytes=1000, stream_timeout_ms=5000)
    ask, request = house.stream()
    house.write(request, sse(ROLE))
    for _ in range(6):
        house.write(request, b"x" * 2000)
        house.advance(1)
    *_, last = Reader().received(ask.got.data)
    assert (last.event, json.loads(last.data)["error"]["type"]) == (b"error", "timeout")
    house.settled("stalled")


# Deadlines


@pytest.mark.parametrize(
    ("settings", "stream", "code", "limit"),
    [
        ({"timeout_ms": 3000}, False, "request_timeout", 3000),
        ({"timeout_ms": 3000}, True, "first_event_timeout", 3000),
        ({"stream_timeout_ms": 2000}, True, "first_event_timeout", 2000),
        ({"first_event_timeout_ms": 4000, "stream_timeout_ms": 2000}, True, "first_event_timeout", 4000),
    ],
)
@pytest.mark.parametrize("head", [False, True])
def test_a_provider_that_never_answers(settings, stream, code, limit, head):
    house = House(**settings)
    ask = house.ask(stream=stream)
    request = house.provider.requests[0]
    if head:
        request.setHeader("content-type", "text/event-stream" if stream else "application/json")
        house.write(request, b": ping\n\n" if stream else b"{")
    house.advance(limit / 1000 - 0.5)
    assert ask.response is None
    house.advance(1)
    assert (ask.response.code, ask.json["error"]) == (
        504, {"message": f"upstream request timed out after {limit}ms", "type": "timeout", "code": code}
    )  # fmt: skip
    assert len(house.provider.gone) == 1, "the provider sees the close"
    house.settled("failed")


def test_a_stream_that_falls_silent():
    house = House(stream_timeout_ms=5000)
    ask, request = house.stream()
    house.write(request, sse(ROLE))
    for _ in range(4):
        house.advance(4)
        house.write(request, sse(say("a")))
    assert ask.got.reason is None
    for _ in range(4):
        house.advance(1)
        house.write(request, b": comments are no sign of life\n\n")
    house.advance(1.5)
    error = json.loads(Reader().received(ask.got.data)[-1].data)["error"]
    assert error == {
        "message": "upstream request timed out after 5000ms",
        "type": "timeout",
        "param": None,
        "code": "silence_timeout",
    }
    assert len(house.provider.gone) == 1
    assert house.settled("stalled").status == 200


# Heartbeats and the commit


def test_silence_behind_a_whole_answer_is_its_end():
    house = House(stream_timeout_ms=5000)
    ask, request = house.stream()
    house.write(request, sse(ROLE, say("a"), STOP))
    assert ask.got.reason is None, "usage and the end marker may still come"
    house.advance(5.5)
    assert ask.frames[-1] == "[DONE]"
    assert len(house.provider.gone) == 1
    assert house.settled("complete").attempt.ended_by == "complete"


def test_the_head_does_not_wait_for_a_frame_that_the_caller_may_see(house):
    ask, request = house.stream()
    house.write(request, sse({"id": "c", "choices": []}))
    assert ask.response.code == 200
    house.write(request, sse(ROLE, STOP, b"[DONE]"))
    assert len(ask.frames) == 3
    house.settled("complete")


def test_noise_and_comments_before_the_first_event(house):
    ask, request = house.stream()
    house.write(request, b": hold on\n\ndata: ping\n\n" * 500 + sse(ROLE, say("a"), STOP)[:-1])
    house.write(request, b"\n" + sse(b"[DONE]"))
    assert len(ask.frames) == 4
    assert house.settled("complete").frames == 4


def test_a_silent_provider_gets_a_heartbeat_and_may_still_fail_in_the_stream():
    house = House(heartbeat=5.0)
    ask, request = house.stream()
    house.write(request, b"")
    request.write(b": ping\n\n")
    house.flush()
    house.advance(4.5)
    assert ask.response is None
    house.advance(1)
    assert ask.response.code == 200
    assert ask.got.data == b":\n\n"
    house.advance(5)
    assert ask.got.data == b":\n\n" * 2
    house.write(request, sse({"error": {"message": "m", "code": 429}}))
    (frame,) = Reader().received(ask.got.data)
    assert frame.event == b"error"
    house.settled("failed")


def test_heartbeats_between_frames():
    house = House(heartbeat=5.0)
    ask, request = house.stream()
    house.write(request, sse(ROLE))
    before = ask.got.data
    house.advance(3)
    house.write(request, sse(say("a")))
    house.advance(4.5)
    assert ask.got.data.count(b":\n\n") == 0
    house.advance(1)
    assert ask.got.data.endswith(b"\n\n:\n\n")
    house.write(request, sse(STOP, b"[DONE]"))
    assert ask.got.data.startswith(before)
    assert ask.got.data.count(b":\n\n") == 1
    house.settled("complete")


@pytest.mark.parametrize("stream", [True, False])
def test_no_heartbeats(stream):
    house = House(heartbeat=0.0)
    ask = house.ask(stream=stream)
    request = house.provider.requests[0]
    request.setHeader("content-type", "text/event-stream" if stream else "application/json")
    if stream:
        house.write(request, sse(ROLE))
        house.advance(50)
        assert b":\n\n" not in ask.got.data
        house.write(request, sse(STOP, b"[DONE]"))
    else:
        house.advance(50)
        assert ask.response is None
        request.write(dumps(WHOLE))
        house.end(request)
    house.settled("complete")


def test_a_configured_stream_waits_for_its_first_event():
    key = provider_key(provider="openai", api_base="http://provider/v1")
    house = House(heartbeat=5.0, shelf=[model(provider_key=key, stream_timeout=30_000)])
    ask, request = house.stream()
    house.write(request, b": ping\n\n")
    house.advance(29)
    assert ask.response is None
    house.advance(2)
    assert ask.response.code == 504
    house.settled("failed")


# The caller leaves


@pytest.mark.parametrize("when", ["before the head", "before the first event", "in the stream", "whole"])
def test_a_caller_who_leaves(house, when):
    ask = house.ask(stream=when != "whole")
    request = house.provider.requests[0]
    if when in ("before the first event", "in the stream"):
        request.setHeader("content-type", "text/event-stream")
        house.write(request, b": ping\n\n")
    if when == "in the stream":
        house.write(request, sse(ROLE, say("a")))
        ask.got.transport.stopProducing()
    else:
        ask.deferred.cancel()
    house.flush()
    assert len(house.provider.gone) == 1
    assert house.settled("abandoned").status == 499
    assert len(house.provider.requests) == 1


def test_the_end_of_the_process(house):
    ask, request = house.stream()
    house.write(request, sse(ROLE))
    house.gateway.end_all(shutting_down())
    house.flush()
    assert json.loads(Reader().received(ask.got.data)[-1].data)["error"]["type"] == "shutting_down"
    assert len(house.provider.gone) == 1
    house.settled("broken")


@pytest.mark.parametrize("kind", ["a Deferred", "a coroutine"])
def test_the_end_of_the_process_while_a_policy_is_waited_for(house, kind):
    class Slow:
        def admit(self, exchange):
            return waiting if kind == "a Deferred" else self.slowly()

        async def slowly(self):
            await waiting

    waiting = Deferred()
    house.gateway.after = (*house.gateway.after, Slow())
    ask = house.ask()
    house.gateway.end_all(shutting_down())
    house.flush()
    assert (ask.response.code, ask.json["error"]["type"]) == (503, "shutting_down")
    assert house.provider.requests == []
    house.settled("broken")


@pytest.mark.parametrize("where", ["gates", "headers"])
def test_a_policy_that_fails_at_an_open_answer_leaves_no_connection_behind(house, where):
    class Bad(Ticket):
        def admit(self, exchange):
            return self

        def gates(self, joint):
            return [1 / 0] if where == "gates" else []

        def headers(self):
            return [1 / 0] if where == "headers" else []

    house.gateway.after = (*house.gateway.after, Bad())
    ask, request = house.stream()
    house.write(request, sse(ROLE))
    house.flush()
    assert (ask.response.code, ask.json["error"]["type"]) == (500, "internal_error")
    assert len(house.provider.gone) == 1
    house.settled("broken")
    assert all(state.in_flight == 0 for state in house.gateway.health._states.values())


# stream_options that a server does not know


@pytest.mark.parametrize(
    "body",
    [b'{"error":{"message":"Unknown member stream_options"}}', b'{"error":{"message":"m","param":"stream_options"}}'],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_our_option_is_asked_again_without(house, status, body):
    ask, first = house.stream()
    first.setResponseCode(status)
    first.write(body)
    house.end(first)
    assert "stream_options" not in house.provider.bodies[1]
    second = house.provider.requests[1]
    second.setHeader("content-type", "text/event-stream")
    house.write(second, sse(ROLE, STOP, b"[DONE]"))
    assert ask.frames[-1] == "[DONE]"
    assert [attempt.kind for attempt in house.ledger.exchanges[0].attempts] == ["initial", "retry"]
    house.stream()
    assert "stream_options" not in house.provider.bodies[2], "remembered"
    house.clock.advance(601)
    house.stream()
    assert "stream_options" in house.provider.bodies[3], "for ten minutes"


@pytest.mark.parametrize(
    ("members", "status", "body"),
    [
        ({"stream_options": {"include_usage": True}}, 400, b'{"error":{"message":"stream_options"}}'),
        ({}, 400, b'{"error":{"message":"something else"}}'),
        ({}, 404, b'{"error":{"message":"stream_options"}}'),
    ],
)
def test_it_is_not_asked_again_otherwise(house, members, status, body):
    ask, request = house.stream(members)
    request.setResponseCode(status)
    request.write(body)
    house.end(request)
    assert ask.response.code == status
    assert len(house.provider.requests) == 1
    house.settled("failed")


# Faults of our own


def test_a_policy_that_fails_is_our_fault(house):
    class Failing(Ticket):
        def admit(self, exchange):
            raise RuntimeError("secret")

    house.gateway.after = (Failing(),)
    ask = house.ask()
    assert ask.response.code == 500
    assert ask.json["error"]["type"] == "internal_error"
    assert b"secret" not in ask.got.data
    house.settled("broken")


def test_a_ticket_that_fails_does_not_keep_others_from_being_settled(house):
    class Failing(Ticket):
        def admit(self, exchange):
            return self

        def settle(self, outcome):
            raise RuntimeError("boom")

    house.gateway.after = (*house.gateway.after, Failing())
    ask = house.ask()
    request = house.provider.requests[0]
    request.write(dumps(WHOLE))
    house.end(request)
    assert ask.response.code == 200
    house.settled("complete")


def test_tickets_are_settled_in_reverse_order(house):
    log = []

    class Noting(Ticket):
        def __init__(self, name):
            self.name = name

        def admit(self, exchange):
            log.append(f"admit {self.name}")
            return self

        def settle(self, outcome):
            assert outcome is Outcome.REFUSED
            log.append(f"settle {self.name}")

    house.gateway.before = (Noting("a"), *house.gateway.before, Noting("b"))
    house.gateway.after = (Noting("c"), *house.gateway.after, Noting("never"))
    house.ask(model="nothing")
    assert log == ["admit a", "admit b", "admit c", "settle c", "settle b", "settle a"]
