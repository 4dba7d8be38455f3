"""An operator's hooks in a whole gateway in memory: what they may do, and what it costs when they fail."""

import json

import msgspec
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogPublisher

from twisted_gateway.config.hooking import HookEntry
from twisted_gateway.hooks import HookRecord, Refuse, Stop
from twisted_gateway.policies.access import ModelAccess
from twisted_gateway.policies.hooks.faults import Faults
from twisted_gateway.policies.hooks.loading import Hook
from twisted_gateway.policies.hooks.steps import Hooks
from twisted_gateway.records import record
from twisted_gateway.tap import FORMATS

from ..doubles.timers import timers
from ..exchanges import exchange, model, provider_key
from ..formats.making import ROLE, choice, chunk, dumps, say
from ..test_gateway import KEY, STOP, WHOLE, House, sse

WORDS = ("one", "two", "three")
ANTHROPIC = provider_key("anthropic", provider="anthropic", adapter="anthropic", api_base="http://provider/v1")
OPENAI = provider_key(provider="openai", api_base="http://provider/v1")
PATHS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/messages": {"max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"input": "hi"},
}


class Pre:
    """A `pre_call` that is a function of the test."""

    def __init__(self, act):
        self.act = act
        self.calls = []

    def pre_call(self, call):
        self.calls.append(call)
        return self.act(call)


class During:
    """A `during` whose `frame` is a function of the test; it notes the calls and the answers it saw."""

    def __init__(self, act):
        self.act = act
        self.calls = []
        self.seen = []

    def during(self, call):
        self.calls.append(call)
        return self

    def frame(self, data):
        self.seen.append(json.loads(json.dumps(data)))
        return self.act(data)


class Hooked(House):
    """A house with hooks: `add` one, then ask."""

    def __init__(self, *hooks, skip=False, seconds=5.0):
        super().__init__(
            shelf=[
                model(provider_key=OPENAI),
                model("other", model_name="other-up", provider_key=OPENAI),
                model("claude", model_name="claude-up", provider="anthropic", provider_key=ANTHROPIC),
            ]
        )
        self.errors, self.events, self.threaded = [], [], []
        faults = Faults(lambda hook, method: self.errors.append((hook, method)))
        faults.log.observer = LogPublisher(self.events.append)
        names = ("pre_call", "during", "post_call")
        made = [
            Hook(f"h{at}", skip, seconds, **{name: getattr(hook, name) for name in names if hasattr(hook, name)})
            for at, hook in enumerate(hooks)
        ]
        self.hooks = Hooks(made, FORMATS, ModelAccess().admit, self.clock, self.thread, faults)
        self.gateway.after = (ModelAccess(), self.hooks)
        self.speak(FORMATS)

    def thread(self, function, *args):
        done = Deferred()
        self.threaded.append((function, args, done))
        return done

    def whole(self, answer=WHOLE):
        request = self.provider.requests[-1]
        request.setHeader("content-type", "application/json")
        request.write(answer if isinstance(answer, bytes) else dumps(answer))
        self.end(request)


def error(ask):
    return ask.json["error"]


# pre_call


def test_a_hook_sees_the_call_without_credentials():
    hook = Pre(lambda call: None)
    house = Hooked(hook)
    house.ask()
    (call,) = hook.calls
    assert (call.request_id, call.endpoint, call.model, call.stream) == ("id-1", "/v1/chat/completions", "gpt", False)
    assert (call.api_key_id, call.team_id) == (KEY.id, KEY.team_id)
    assert call.headers["content-type"] == "application/json"
    assert "authorization" not in call.headers
    assert call.body["messages"][0]["content"] == "hi"
    with pytest.raises(AttributeError):
        call.other = 1


def test_a_body_that_was_only_read_is_sent_as_it_came():
    body = b'{"model":"gpt", "top_p":1.50e0,"messages":[{"role":"user","content":"\\u00e9"}],"n":12345678901234567890}'
    sent = {}
    for name, hook in (("read", Pre(lambda call: call.body["messages"])), ("left", Pre(lambda call: None))):
        house = Hooked(hook)
        house.ask(body)
        sent[name] = house.ledger.exchanges[0].call.body
    assert sent == {"read": body, "left": body}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("way", ["in place", "another"])
def test_a_changed_body_is_what_is_sent(path, way):
    def act(call):
        if way == "in place":
            call.body["user"] = "changed"
        else:
            call.body = {**call.body, "user": "changed"}

    house = Hooked(Pre(act))
    name = "claude" if "messages" in path else "gpt"
    house.ask({"model": name, **PATHS[path]}, path=path.encode())
    assert house.provider.bodies[0]["user"] == "changed"
    assert house.provider.bodies[0]["model"] == {"gpt": "gpt-4o", "claude": "claude-up"}[name]


def test_a_changed_body_of_a_translated_call():
    house = Hooked(Pre(lambda call: call.body["messages"][0].update(content="secret")))
    house.ask(model="claude")
    assert house.provider.requests[0].uri == b"/v1/messages"
    assert "secret" in json.dumps(house.provider.bodies[0])


def test_hooks_run_in_their_order_each_on_what_the_former_made():
    def add(word):
        def act(call):
            call.body["stop"] = [*call.body.get("stop", []), word]

        return Pre(act)

    house = Hooked(*map(add, WORDS))
    house.ask()
    assert house.provider.bodies[0]["stop"] == list(WORDS)


def test_a_hook_may_choose_another_model_and_whether_to_stream():
    house = Hooked(Pre(lambda call: call.body.update(model="other", stream=True)))
    ask = house.ask()
    assert house.provider.bodies[0]["model"] == "other-up"
    request = house.provider.requests[0]
    request.setHeader("content-type", "text/event-stream")
    house.write(request, sse(ROLE, STOP, b"[DONE]"))
    assert {frame["model"] for frame in ask.frames[:-1]} == {"other"}


def test_a_model_chosen_by_a_hook_is_checked_like_any():
    house = Hooked(Pre(lambda call: call.body.update(model="nobody")))
    ask = house.ask()
    assert (ask.response.code, error(ask)["message"]) == (404, 'model "nobody" not found')
    assert house.errors == []
    house.settled("refused")


@pytest.mark.parametrize("path", PATHS)
def test_a_refusal(path):
    def act(call):
        raise Refuse(451, "not here", "too_far")

    house = Hooked(Pre(act))
    ask = house.ask({"model": "gpt", **PATHS[path]}, path=path.encode())
    assert ask.response.code == 451
    assert error(ask)["message"] == "not here"
    if "messages" not in path:
        assert (error(ask)["type"], error(ask)["code"]) == ("hook_refused", "too_far")
    assert house.provider.requests == []
    assert house.errors == []
    house.settled("refused")


@pytest.mark.parametrize(
    "act",
    [
        lambda call: {}["CANARY"],
        lambda call: setattr(call, "body", ["CANARY"]),
        lambda call: call.body.update(messages=[]),
        lambda call: call.body.update(user=object()),
        lambda call: (_ for _ in ()).throw(Refuse(200, "CANARY")),
        lambda call: (_ for _ in ()).throw(CancelledError()),
    ],
    ids=["raises", "no dict", "no call", "no JSON", "no status", "cancelled"],
)
@pytest.mark.parametrize("skip", [False, True])
def test_a_pre_call_that_fails(act, skip):
    house = Hooked(Pre(act), skip=skip)
    ask = house.ask()
    assert house.errors == [("h0", "pre_call")]
    assert "CANARY" not in json.dumps([str(event) for event in house.events])
    (event,) = house.events
    assert (event["hook"], event["method"], event["request_id"]) == ("h0", "pre_call", "id-1")
    if skip:
        house.whole()
        assert ask.json["choices"] == WHOLE["choices"]
        house.settled("complete")
    else:
        assert ask.response.code == 500
        assert error(ask) == {"type": "hook_error", "message": 'hook "h0" failed'}
        assert house.provider.requests == []
        house.settled("refused")


def test_an_asynchronous_hook_is_waited_for():
    asked = Deferred()

    async def act(call):
        call.body["user"] = await asked

    house = Hooked(Pre(act))
    house.ask()
    assert house.provider.requests == []
    asked.callback("later")
    house.flush()
    assert house.provider.bodies[0]["user"] == "later"


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_a_hook_that_takes_too_long(skip, stubborn):
    async def act(call):
        try:
            await Deferred()
        except CancelledError:
            if not stubborn:
                raise
            await Deferred()

    house = Hooked(Pre(act), skip=skip, seconds=2.0)
    ask = house.ask()
    house.advance(1.75)
    assert ask.response is None
    house.advance(0.5)
    assert house.errors == [("h0", "pre_call")]
    if skip:
        house.whole()
        house.settled("complete")
    else:
        assert error(ask)["message"] == 'hook "h0" failed'
        house.settled("refused")


def test_a_hook_that_was_cancelled_by_somebody_else():
    waits = Deferred()

    async def act(call):
        await waits

    house = Hooked(Pre(act))
    ask = house.ask()
    waits.cancel()
    house.flush()
    assert error(ask)["type"] == "hook_error"
    house.settled("refused")


def test_the_caller_leaves_while_a_hook_is_asked():
    told = []
    waits = Deferred(told.append)

    async def act(call):
        await waits

    house = Hooked(Pre(act))
    ask = house.ask()
    ask.deferred.cancel()
    house.flush()
    assert told == [waits]
    assert house.errors == []
    assert house.provider.requests == []
    house.settled("abandoned")


# during


def begun(house, **members):
    ask, request = house.stream(members)
    house.write(request, sse(ROLE))
    return ask, request


def test_frames_that_are_left_alone_keep_their_bytes():
    hook = During(lambda data: data)
    odd = b'{"choices" : [ {"index":0,"delta":{"content":"a\\u0062"},"finish_reason":null}],"id":"c" ,"x":1.50e0}'
    plain, hooked = House(), Hooked(hook)
    got = []
    for house in (plain, hooked):
        ask, request = begun(house)
        house.write(request, b"data: " + odd + b"\n\n" + sse(STOP, b"[DONE]"))
        got.append(ask.got.data)
    assert got[0] == got[1]
    assert [one["choices"][0]["delta"].get("content") for one in hook.seen] == ["", "ab", None]
    assert len(hook.calls) == 1
    assert hook.calls[0].body["stream"] is True


def upper(data):
    for one in data["choices"]:
        if one["delta"].get("content"):
            one["delta"]["content"] = one["delta"]["content"].upper()
    return data


def test_frames_are_changed_and_dropped():
    def act(data):
        return None if data["choices"][0]["delta"].get("content") == "no" else upper(data)

    house = Hooked(During(act))
    ask, request = begun(house)
    house.write(request, sse(say("yes"), say("no"), say("é\u2028")))
    house.write(request, sse(STOP, b"[DONE]"))
    assert [one["choices"][0]["delta"].get("content") for one in ask.frames[:-1]] == ["", "YES", "É\u2028", None]
    assert "\u2028" not in ask.got.data.decode()
    assert house.settled("complete").delivered_bytes == 3 + 5


def test_a_hook_may_want_nothing_of_an_answer():
    class Never:
        def during(self, call):
            return None

    house = Hooked(Never())
    _, request = begun(house)
    assert house.gateway.running
    (relay,) = house.gateway.running
    assert relay._line.gates is None
    house.write(request, sse(STOP, b"[DONE]"))
    house.settled("complete")


def test_each_hook_sees_what_the_former_made():
    first, second = During(upper), During(lambda data: data)
    house = Hooked(first, second)
    _, request = begun(house)
    house.write(request, sse(say("a"), STOP, b"[DONE]"))
    assert second.seen[1]["choices"][0]["delta"]["content"] == "A"
    assert first.calls[0] is not second.calls[0]


def test_a_whole_answer_is_one_frame():
    hook = During(lambda data: {**data, "extra": 1})
    house = Hooked(hook)
    ask = house.ask()
    house.whole()
    assert ask.json == WHOLE | {"model": "gpt", "extra": 1}
    assert len(hook.seen) == 1


def stop(data):
    raise Stop("enough of it")


def broken(data):
    raise KeyError("CANARY")


def after_two(act):
    """Two frames as they are, then `act`."""
    left = [0]

    def frame(data):
        left[0] += 1
        return data if left[0] <= 2 else act(data)

    return frame


@pytest.mark.parametrize(
    ("act", "kind", "message", "outcome", "status"),
    [
        (stop, "hook_stopped", "enough of it", "blocked", 422),
        (broken, "internal_error", 'hook "h0" failed', "broken", 500),
        (lambda data: 7, "internal_error", 'hook "h0" failed', "broken", 500),
        (lambda data: {"a": object()}, "internal_error", 'hook "h0" failed', "broken", 500),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_a_hook_ends(act, kind, message, outcome, status, stream):
    house = Hooked(During(after_two(act) if stream else act))
    if stream:
        ask, request = begun(house)
        house.write(request, sse(say("good"), say("bad"), say("worse")))
        assert [frame for frame in ask.frames if frame == "error"] == ["error"]
        told = json.loads(ask.got.data.split(b"event: error\ndata: ")[1])["error"]
        assert house.provider.gone, "the provider is cut"
        assert b"bad" not in ask.got.data
    else:
        ask = house.ask()
        house.whole()
        assert ask.response.code == status
        told = error(ask)
    assert (told["type"], told["message"]) == (kind, message)
    assert house.errors == ([] if outcome == "blocked" else [("h0", "during")])
    exchange = house.settled(outcome)
    assert exchange.delivered_bytes == (4 if stream else 0)
    assert "CANARY" not in str(house.events)


def test_a_stop_in_the_words_of_each_dialect():
    messages = [
        ("message_start", {"message": {"id": "m", "type": "message", "role": "assistant", "content": [], "usage": {}}}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
    ]
    house = Hooked(During(after_two(stop)))
    ask = house.ask({"model": "claude", "stream": True, **PATHS["/v1/messages"]}, path=b"/v1/messages")
    request = house.provider.requests[0]
    request.setHeader("content-type", "text/event-stream")
    delta = ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "bad"}})
    for name, data in (*messages, delta):
        house.write(request, b"event: %s\ndata: %s\n\n" % (name.encode(), dumps({"type": name} | data)))
    last = json.loads(ask.got.data.split(b"event: error\ndata: ")[1])
    assert last == {"type": "error", "error": {"type": "hook_stopped", "message": "enough of it"}}
    assert b"bad" not in ask.got.data
    house.settled("blocked")


def test_a_stop_on_responses():
    house = Hooked(During(stop))
    ask = house.ask({"model": "gpt", "stream": True, "input": "hi"}, path=b"/v1/responses")
    request = house.provider.requests[0]
    request.setHeader("content-type", "text/event-stream")
    first = {"type": "response.created", "sequence_number": 0, "response": {"id": "r", "status": "in_progress"}}
    house.write(request, b"event: response.created\ndata: " + dumps(first) + b"\n\n")
    last = json.loads(ask.got.data.split(b"event: error\ndata: ")[1].split(b"\n")[0])
    assert (last["type"], last["code"], last["message"]) == ("error", "hook_stopped", "enough of it")
    house.settled("blocked")


def test_a_whole_answer_that_is_dropped():
    house = Hooked(During(lambda data: None))
    ask = house.ask()
    house.whole()
    assert (ask.response.code, error(ask)["type"]) == (422, "hook_stopped")
    house.settled("blocked")


def test_with_skip_a_failing_frame_passes_and_so_do_all_behind_it():
    def act(data):
        upper(data)
        return broken(data)

    hook = During(act)
    house = Hooked(hook, skip=True)
    ask, request = begun(house)
    house.write(request, sse(say("a"), say("b")))
    house.write(request, sse(STOP, b"[DONE]"))
    assert [one["choices"][0]["delta"].get("content") for one in ask.frames[:-1]] == ["", "a", "b", None]
    assert house.errors == [("h0", "during")]
    assert len(hook.seen) == 1
    house.settled("complete")


class NoFrame:
    def during(self, call):
        return object()


class NoDuring:
    def during(self, call):
        raise KeyError


@pytest.mark.parametrize("made", [NoFrame, NoDuring])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_hook_that_cannot_begin(made, skip, stream):
    house = Hooked(made(), skip=skip)
    ask = house.ask(stream=stream)
    request = house.provider.requests[0]
    request.setHeader("content-type", "text/event-stream" if stream else "application/json")
    house.write(request, sse(ROLE, STOP, b"[DONE]") if stream else dumps(WHOLE))
    if not stream:
        house.end(request)
    assert house.errors == [("h0", "during")]
    assert ask.response.code == (500 if not skip and not stream else 200)
    assert (b"internal_error" in ask.got.data) is not skip
    house.settled("complete" if skip else "broken")


def test_during_is_begun_anew_for_each_answer_and_knows_its_call():
    hook = During(lambda data: data)
    house = Hooked(Pre(lambda call: call.body.update(user="u")), hook)
    for _ in range(2):
        house.ask()
        house.whole()
    assert [call.request_id for call in hook.calls] == ["id-1", "id-2"]
    assert hook.calls[0].body["user"] == "u"


@pytest.mark.parametrize("phase", ["before the answer", "in it"])
def test_the_caller_leaves(phase):
    house = Hooked(During(upper))
    ask, request = house.stream()
    if phase == "in it":
        house.write(request, sse(ROLE, say("abc")))
        ask.got.transport.stopProducing()
    else:
        ask.deferred.cancel()
    house.flush()
    assert house.provider.gone
    assert house.errors == []
    assert house.settled("abandoned").delivered_bytes == (3 if phase == "in it" else 0)


# post_call


class Post:
    def __init__(self):
        self.records = []

    def post_call(self, found):
        self.records.append(found)


def test_a_plain_function_gets_the_record_in_a_thread():
    hook = Post()
    house = Hooked(hook)
    fields = record(exchange(), "complete")
    house.hooks.recorded(fields)
    ((function, (found,), done),) = house.threaded
    assert isinstance(found, HookRecord)
    assert (found.request_id, found.model, found.outcome, found.status) == ("req-1", "gpt", "complete", 200)
    assert (found.prompt_tokens, found.completion_tokens) == (12, 7)
    assert found.fields is fields
    quiet = house.hooks.quiet()
    assert not quiet.called
    function(found)
    done.callback(None)
    assert quiet.called
    assert hook.records == [found]
    assert timers(house.clock) == []


def test_a_coroutine_function_runs_beside_the_answer():
    waits, got = Deferred(), []

    class Later:
        async def post_call(self, found):
            got.append((found.request_id, await waits))

    house = Hooked(Later())
    house.hooks.recorded(record(exchange(), "complete"))
    assert house.threaded == []
    waits.callback(1)
    assert got == [("req-1", 1)]
    assert not house.hooks.running


@pytest.mark.parametrize("threaded", [True, False])
def test_a_post_call_that_fails_or_hangs_is_only_told(threaded):
    class Bad:
        async def post_call(self, found):
            await Deferred()

    house = Hooked(Post() if threaded else Bad(), seconds=1.0)
    house.hooks.recorded(record(exchange(), "complete"))
    house.clock.advance(1.0)
    assert house.errors == [("h0", "post_call")]
    assert house.events[0]["error"] == "TimedOut"
    assert not house.hooks.running
    house.hooks.recorded(record(exchange(), "complete"))
    if threaded:
        house.threaded[1][2].errback(OSError("CANARY"))
        assert house.events[1]["error"] == "OSError"
        assert "CANARY" not in str(house.events)


# Entries


def test_names_of_hooks():
    assert HookEntry(use="a.b:C.Redact").shown == "Redact"
    assert HookEntry(use="a.b:Redact", name="r").shown == "r"


def test_the_body_of_a_call_with_a_byte_order_mark():
    house = Hooked(Pre(lambda call: call.body.update(user="u")))
    house.ask(b"\xef\xbb\xbf" + msgspec.json.encode({"model": "gpt", "messages": [{"role": "user", "content": "x"}]}))
    assert house.provider.bodies[0]["user"] == "u"


def test_a_chunk_with_usage_is_shown_too():
    hook = During(lambda data: data)
    house = Hooked(hook)
    _, request = begun(house, stream_options={"include_usage": True})
    house.write(request, sse(STOP, chunk(usage={"prompt_tokens": 1, "completion_tokens": 1}), b"[DONE]"))
    assert hook.seen[-1]["usage"]["prompt_tokens"] == 1
    assert choice({}, "stop")["finish_reason"] == hook.seen[-2]["choices"][0]["finish_reason"]
