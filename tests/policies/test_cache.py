"""The cache in a whole gateway in memory: who gets an answer of whom, and what is never kept."""

import json
from hashlib import sha256

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from twisted_gateway.charging import NOTHING, charge
from twisted_gateway.config.caching import CachePolicy, ranked
from twisted_gateway.errors import Problem, Refused
from twisted_gateway.exchange import Halt, Outcome, Ticket
from twisted_gateway.formats import openai_chat
from twisted_gateway.metrics import Metrics
from twisted_gateway.policies.accounting import Accounting
from twisted_gateway.policies.cache import Cache, fingerprint, wishes
from twisted_gateway.records import record
from twisted_gateway.stores.cached import Entry, Memory

from ..doubles.timers import timers
from ..exchanges import Headers, caller, model, provider_key
from ..formats.making import ROLE, dumps
from ..test_gateway import KEY, MESSAGES, STOP, WHOLE, House, sse
from .test_hooks import During, Hooked

ALL = CachePolicy("p-1", "answers", scope="env")
MINE = CachePolicy("p-1", "answers")


class Cached(House):
    """A house with a cache; `answered` asks and lets the provider answer, if it is asked."""

    def __init__(self, *policies, **more):
        self.policies = ranked(policies or (ALL,))
        super().__init__(
            shelf=[
                model(provider_key=provider_key(provider="openai", api_base="http://provider/v1")),
                model("other", provider_key=provider_key(provider="openai", api_base="http://provider/v1")),
            ],
            known={"cache_policies": self.policies, **more},
        )
        self.store = Memory(self.clock.seconds, 1_000_000)
        self.gateway.limits = (Cache({"memory": self.store}),)

    def answered(self, answer=WHOLE, **members):
        asked = len(self.provider.requests)
        ask = self.ask(**members)
        for request in self.provider.requests[asked:]:
            request.setHeader("content-type", "application/json")
            request.write(answer if isinstance(answer, bytes) else dumps(answer))
            self.end(request)
        return ask

    @property
    def asked(self):
        return len(self.provider.requests)


def told(ask):
    return ask.header("x-aisix-cache"), ask.header("x-aisix-cache-layer")


# Hits and misses


def test_the_second_of_two_equal_calls_is_answered_from_memory():
    house = Cached()
    first, second = house.answered(), house.answered()
    assert (told(first), told(second)) == (("miss", None), ("hit", "exact"))
    assert house.asked == 1
    assert second.got.data == first.got.data
    assert (second.response.code, second.header("content-type")) == (200, "application/json")
    assert second.header("x-aisix-call-id") == second.header("x-aisix-request-id") == "id-2"
    assert house.ledger.log == ["opened", "complete"] * 2
    assert house.gateway.in_flight == 0
    assert not house.gateway.running
    assert timers(house.clock) == []


def test_what_is_written_about_a_hit():
    house = Cached()
    house.answered()
    house.answered()
    missed, hit = house.ledger.exchanges
    assert (hit.attempts, hit.attempt) == ([], None)
    assert (hit.frames, hit.status, hit.delivered_bytes) == (1, 200, 2)
    assert charge(hit, Outcome.COMPLETE) is NOTHING
    written = record(hit, Outcome.COMPLETE)
    assert (written["prompt_tokens"], written["completion_tokens"], written["attempts"]) == (0, 0, [])
    assert (written["cache_status"], written["cache_hit_layer"]) == ("hit", "exact")
    assert (written["cache_hit_saved_input_tokens"], written["cache_hit_saved_output_tokens"]) == (3, 1)
    other = record(missed, Outcome.COMPLETE)
    assert other["cache_status"] == "miss"
    assert not {"cache_hit_layer", "cache_hit_saved_input_tokens"} & set(other)
    assert other["prompt_tokens"] == 3


def test_the_metric():
    house, metrics = Cached(), Metrics()

    class Quiet:
        def enabled(self, level):
            return False

    house.gateway.before = (*house.gateway.before, Accounting(metrics, Quiet()))
    house.answered()
    house.answered()
    house.answered(headers={"cache-control": ["no-cache"]})
    text = metrics.exposition().decode()
    for outcome in ("miss", "hit_exact", "bypass"):
        assert f'aisix_cache_requests_total{{outcome="{outcome}",policy="answers"}} 1.0' in text


def test_time_goes_by():
    house = Cached(attrs.evolve(ALL, ttl_seconds=10))
    house.answered()
    house.clock.advance(9.9)
    assert told(house.answered()) == ("hit", "exact")
    house.clock.advance(0.2)
    assert told(house.answered()) == ("miss", None)


def test_two_equal_calls_at_the_same_time_both_go_upstream():
    house = Cached()
    house.ask()
    house.ask()
    assert house.asked == 2
    for request in house.provider.requests:
        request.setHeader("content-type", "application/json")
        request.write(dumps(WHOLE))
        house.end(request)
    assert told(house.answered()) == ("hit", "exact")


@pytest.mark.parametrize(
    ("policy", "outcome"),
    [
        (MINE, "miss"),
        (ALL, "hit"),
    ],
)
def test_an_answer_is_private_to_a_key_or_not(policy, outcome):
    second = caller(id="ck-2", key_hash=sha256(b"second").hexdigest())
    keys = {KEY.key_hash: KEY, second.key_hash: second}
    house = Cached(policy, caller_keys_by_hash=keys)
    house.answered()
    assert house.answered(token="second").header("x-aisix-cache") == outcome
    assert house.answered().header("x-aisix-cache") == "hit"


@pytest.mark.parametrize(
    ("words", "again", "afterwards"),
    [
        ([], "hit", "hit"),
        (["no-cache"], "bypass", "hit"),
        (["No-Cache"], "bypass", "hit"),
        (["no-store"], "hit", "hit"),
        (["no-cache, no-store"], "bypass", "hit"),
        (["max-age=0", "private ,NO-CACHE"], "bypass", "hit"),
        (['no-cache="x"', "no-store=1"], "hit", "hit"),
    ],
)
def test_cache_control(words, again, afterwards):
    house = Cached()
    house.answered()
    assert house.answered(headers={"cache-control": words}).header("x-aisix-cache") == again
    assert house.answered().header("x-aisix-cache") == afterwards


@pytest.mark.parametrize(
    ("words", "first", "second"),
    [("no-cache", "bypass", "hit"), ("no-store", "miss", "miss"), ("no-cache,no-store", "bypass", "miss")],
)
def test_cache_control_of_the_first_call(words, first, second):
    house = Cached()
    assert house.answered(headers={"cache-control": [words]}).header("x-aisix-cache") == first
    assert house.answered().header("x-aisix-cache") == second


def test_no_cache_puts_a_new_answer_in_the_place_of_the_old_one():
    house = Cached()
    house.answered()
    house.answered(WHOLE | {"id": "new"}, headers={"cache-control": ["no-cache"]})
    assert house.answered().json["id"] == "new"


# Who has nothing to do with it


@pytest.mark.parametrize(
    "policies",
    [
        (attrs.evolve(ALL, enabled=False),),
        (attrs.evolve(ALL, backend="redis"),),
        (attrs.evolve(ALL, applies_to="model:other"),),
        (attrs.evolve(ALL, applies_to="api_key:other"),),
    ],
    ids=["off", "no such store", "another model", "another key"],
)
def test_no_policy_no_header(policies):
    house = Cached(*policies)
    for _ in range(2):
        assert told(house.answered()) == (None, None)
    assert house.asked == 2
    assert house.ledger.exchanges[0].cache.status == "disabled"
    assert record(house.ledger.exchanges[0], Outcome.COMPLETE)["cache_status"] == "disabled"
    assert len(house.store) == 0


def test_a_missing_redis_is_not_replaced_by_memory_nor_by_another_policy():
    house = Cached(attrs.evolve(ALL, backend="redis", applies_to="model:gpt"), ALL)
    assert told(house.answered()) == (None, None)


def test_streamed_calls_neither_read_nor_fill_it():
    house = Cached()
    house.answered()
    ask, request = house.stream()
    house.write(request, sse(ROLE, STOP, b"[DONE]"))
    assert ask.header("x-aisix-cache") is None
    assert house.asked == 2
    assert house.ledger.exchanges[1].cache is None
    assert len(house.store) == 1
    fresh = Cached()
    ask, request = fresh.stream()
    fresh.write(request, sse(ROLE, STOP, b"[DONE]"))
    assert len(fresh.store) == 0


def test_other_endpoints_have_no_cache():
    house = Cached()
    for _ in range(2):
        ask = house.ask({"model": "gpt", "input": "x"}, path=b"/v1/responses")
        request = house.provider.requests[-1]
        request.setHeader("content-type", "application/json")
        request.write(dumps({"id": "r", "object": "response", "status": "completed", "output": []}))
        house.end(request)
        assert (ask.response.code, told(ask)) == (200, (None, None))
    assert house.asked == 2
    assert house.ledger.exchanges[0].cache is None


# What is not kept


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b"{}"), (429, b"{}"), (400, b"{}"), (200, b"not json"), (200, b'{"error":{"message":"x"}}'), (200, b"")],
)
def test_errors_are_not_kept(status, body):
    house = Cached()
    ask = house.ask()
    request = house.provider.requests[0]
    request.setResponseCode(status)
    request.write(body)
    house.end(request)
    assert ask.response.code >= 400
    assert ask.header("x-aisix-cache") is None
    assert len(house.store) == 0


class Masking(Ticket):
    """A guardrail of a test: it masks `ho`, or halts at it."""

    def __init__(self, word=b'"ho"', verdict="mask"):
        self.word, self.verdict = word, verdict
        self.seen = []

    def admit(self, exchange):
        return self

    def gates(self, joint):
        return [MaskingGate(self)]


class MaskingGate:
    held = withheld = 0
    full = False

    def __init__(self, policy):
        self.policy, self.halted = policy, None

    def received(self, frames):
        self.policy.seen += frames
        if self.policy.verdict == "block" and frames:
            self.halted = Halt(Problem(status=422, type="content_filter", message="no"), Outcome.BLOCKED)
            return []
        changed = [frame.data.replace(self.policy.word, b'"**"') for frame in frames]
        return [frame._replace(data=data, raw=data) for frame, data in zip(frames, changed, strict=True)]

    def stopped(self, clean):
        return []


def test_the_answer_is_kept_as_masked_and_looked_at_again():
    house = Cached()
    guard = Masking()
    house.gateway.after = (*house.gateway.after, guard)
    first = house.answered()
    assert first.json["choices"][0]["message"]["content"] == "**"
    guard.word = b'"chat.completion"'
    second = house.answered()
    assert told(second) == ("hit", "exact")
    assert second.json["choices"][0]["message"]["content"] == "**"
    assert second.json["object"] == "**"
    assert len(guard.seen) == 2
    guard.word = b"nothing"
    assert house.answered().json["object"] == "chat.completion", "what a hit makes of it is not kept"


def test_a_blocked_answer_is_not_kept_and_a_kept_one_may_be_blocked():
    house = Cached()
    guard = Masking(verdict="block")
    house.gateway.after = (*house.gateway.after, guard)
    assert house.answered().response.code == 422
    assert len(house.store) == 0
    guard.verdict = "mask"
    house.answered()
    guard.verdict = "block"
    blocked = house.answered()
    assert blocked.response.code == 422
    assert told(blocked) == (None, None)
    assert house.ledger.log[-1] == "blocked"
    assert house.ledger.exchanges[-1].attempts == []
    assert not house.gateway.running


def test_a_gate_may_hold_an_answer_from_memory():
    held = []

    class Holding(Masking):
        def gates(self, joint):
            held.append((gate := HoldingGate(), joint))
            return [gate]

    class HoldingGate:
        halted = None
        full = False
        withheld = 0

        def __init__(self):
            self.kept, self.open = [], False

        @property
        def held(self):
            return len(self.kept)

        def received(self, frames):
            self.kept += frames
            if not self.open:
                return []
            frames, self.kept = self.kept, []
            return frames

        def stopped(self, clean):
            return []

    house = Cached()
    house.answered()
    house.gateway.after = (*house.gateway.after, Holding())
    ask = house.ask()
    assert ask.response is None
    ((gate, joint),) = held
    assert joint.attempt.kind == "cache"
    gate.open = True
    joint.wake()
    house.flush()
    assert told(ask) == ("hit", "exact")
    assert ask.json == WHOLE | {"model": "gpt"}


@pytest.mark.parametrize("outcome", ["leaves", "process ends"])
def test_a_held_answer_from_memory_is_ended(outcome):
    class Never(Masking):
        def gates(self, joint):
            return [NeverGate()]

    class NeverGate:
        halted, full, withheld, held = None, False, 0, 1

        def received(self, frames):
            return []

        def stopped(self, clean):
            return []

    house = Cached()
    house.answered()
    house.gateway.after = (*house.gateway.after, Never())
    ask = house.ask()
    if outcome == "leaves":
        ask.deferred.cancel()
    else:
        house.gateway.end_all(Problem(status=503, type="shutting_down", message="bye"))
    house.flush()
    assert house.ledger.log[-1] == ("abandoned" if outcome == "leaves" else "broken")
    assert not house.gateway.running
    assert house.gateway.in_flight == 0
    if outcome != "leaves":
        assert ask.response.code == 503


def test_hooks_see_a_kept_answer_again_and_know_it():
    hook = During(lambda data: data | {"seen": data.get("seen", 0) + 1})
    hooked = Hooked(hook)
    cached = Cached()
    cached.gateway.after = (*cached.gateway.after, hooked.hooks)
    assert cached.answered().json["seen"] == 1
    assert cached.answered().json["seen"] == 2
    assert cached.answered().json["seen"] == 2
    assert [call.cached for call in hook.calls] == [False, True, True]


# The caller leaves


def test_a_caller_who_leaves_before_the_answer_leaves_nothing_behind():
    house = Cached()
    ask = house.ask()
    request = house.provider.requests[0]
    ask.deferred.cancel()
    house.flush()
    assert house.provider.gone
    assert request
    assert len(house.store) == 0
    house.settled("abandoned")


def test_an_answer_whose_provider_breaks_off_is_not_kept():
    house = Cached()
    house.ask()
    request = house.provider.requests[0]
    request.setHeader("content-length", "1000")
    request.write(dumps(WHOLE)[:20])
    house.flush()
    request.transport.loseConnection()
    house.flush()
    assert len(house.store) == 0


class Slow:
    """A store whose answers are given by the test."""

    def __init__(self):
        self.asked, self.kept, self.cancelled = [], [], []

    def get(self, key):
        asked = Deferred(self.cancelled.append)
        self.asked.append(asked)
        return asked

    def put(self, key, entry, seconds):
        self.kept.append((key, entry, seconds))


def slow():
    house, store = Cached(), Slow()
    house.gateway.limits = (Cache({"memory": store}),)
    return house, store


def test_a_store_may_take_its_time():
    house, store = slow()
    ask = house.ask()
    assert house.asked == 0
    store.asked[0].callback(Entry(b'{"kept":1}', 5, 6))
    house.flush()
    assert ask.json == {"kept": 1}
    assert house.settled("complete").cache.saved_completion == 6
    house, store = slow()
    ask = house.answered()
    assert house.asked == 0
    store.asked[0].callback(None)
    house.flush()
    request = house.provider.requests[0]
    request.write(dumps(WHOLE))
    house.end(request)
    assert told(ask) == ("miss", None)
    ((_, kept, seconds),) = store.kept
    assert (kept.body, kept.prompt, kept.completion, seconds) == (ask.got.data, 3, 1, 3600)


def test_a_caller_who_leaves_while_the_store_is_asked():
    house, store = slow()
    ask = house.ask()
    ask.deferred.cancel()
    house.flush()
    assert store.cancelled == store.asked
    assert house.asked == 0
    house.settled("abandoned")


def test_a_limit_comes_before_the_cache():
    class Full:
        def admit(self, exchange):
            raise Refused(Problem(status=429, type="rate_limit_exceeded", message="slow down"))

    house = Cached()
    house.answered()
    house.gateway.limits = (Full(), *house.gateway.limits)
    assert house.answered().response.code == 429


# Keys


def key_of(body, policy=ALL, key="ck-1"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    call = openai_chat.read_call(data, Headers({"content-type": "application/json"}))
    return fingerprint(call, policy, key)


def chat(**more):
    return {"model": "gpt", "messages": MESSAGES, **more}


BASE = chat(temperature=0.5, user="u", tools=[{"type": "function", "function": {"name": "f", "parameters": {"a": 1}}}])


def test_order_spelling_and_stream_do_not_matter():
    again = {name: BASE[name] for name in reversed(BASE)}
    assert key_of(again) == key_of(BASE) == key_of(json.dumps(BASE, indent=3).encode())
    assert key_of(BASE | {"stream": False}) == key_of(BASE)
    assert key_of(chat(temperature=0.5)) == key_of(chat(temperature=0.5001))
    assert key_of(chat(temperature=1)) == key_of(chat(temperature=1.0))
    assert key_of(chat(top_p=0.9)) == key_of(chat(top_p=0.90004))
    assert key_of(b'{"model":"gpt","messages":[{"role":"user","content":"\\u00e9"}]}') == key_of(
        '{"model":"gpt","messages":[{"content":"é","role":"user"}]}'.encode()
    )


@pytest.mark.parametrize(
    "other",
    [
        BASE | {"model": "other"},
        BASE | {"temperature": 0.501},
        BASE | {"temperature": None},
        BASE | {"top_p": 0.5},
        BASE | {"max_tokens": 5},
        BASE | {"max_completion_tokens": 5},
        BASE | {"user": "v"},
        BASE | {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": "1"}}}]},
        BASE | {"messages": [*MESSAGES, *MESSAGES]},
        BASE | {"messages": [{"role": "user", "content": "hi "}]},
        BASE | {"messages": [{"role": "system", "content": "hi"}]},
        BASE | {"messages": [{"role": "user", "content": "hi", "name": "n"}]},
        BASE | {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        {name: BASE[name] for name in BASE if name != "user"},
    ],
)
def test_other_calls_have_other_keys(other):
    assert key_of(other) != key_of(BASE)


def test_messages_have_an_order():
    pair = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert key_of(chat(messages=pair)) != key_of(chat(messages=pair[::-1]))


def test_policy_generation_and_key_are_part_of_it():
    found = {
        key_of(BASE),
        key_of(BASE, attrs.evolve(ALL, id="p-2")),
        key_of(BASE, attrs.evolve(ALL, purge_generation=1)),
        key_of(BASE, MINE),
        key_of(BASE, MINE, "ck-2"),
    }
    assert len(found) == 5
    assert key_of(BASE, ALL, "ck-2") == key_of(BASE)
    assert key_of(BASE, attrs.evolve(ALL, ttl_seconds=5, name="renamed")) == key_of(BASE)
    assert all(len(key) == 64 for key in found)


def test_what_cannot_be_told_apart_with_certainty_is_not_kept():
    body = b'{"model":"gpt","messages":[{"role":"user","content":"x"}],"x":1e400}'
    with pytest.raises(msgspec.DecodeError):
        key_of(body)
    house = Cached()
    for _ in range(2):
        assert told(house.answered(body=body)) == ("miss", None)
    assert house.answered(body=body, headers={"cache-control": ["no-cache"]}).header("x-aisix-cache") == "bypass"
    assert len(house.store) == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def exact(value):
    """A value as JSON tells it apart: 1, 1.0 and true are three."""
    if isinstance(value, dict):
        return ("object", tuple(sorted((name, exact(inner)) for name, inner in value.items())))
    if isinstance(value, list):
        return ("list", tuple(map(exact, value)))
    return (type(value).__name__, repr(value))


@given(JSON, JSON)
def test_equal_and_only_equal_members_have_the_same_key(one, other):
    same = exact(one) == exact(other)
    assert (key_of(chat(x=one)) == key_of(chat(x=other))) is same


def test_wishes():
    assert wishes(Headers({})) == (True, True)
    assert wishes(Headers({"cache-control": "no-store,no-cache"})) == (False, False)
