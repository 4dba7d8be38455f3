"""Policies with nothing to say about any call of a snapshot are not asked; a reload that changes that is obeyed."""

from __future__ import annotations

import attrs
import pytest
from twisted.internet.defer import Deferred

from bench.inside import AT_ONCE, PLAIN, PROVIDER, STREAM, WHOLE, Inside, request
from bench.targets import CALLER_KEY, RESOURCES
from twisted_gateway.exchange import Ticket

from .test_gateway import House

KEY = f'  - {{display_name: bench, key: {CALLER_KEY}, allowed_models: ["*"]'
MODEL = "  - {display_name: mock, provider: openai, model_name: mock, provider_key: mock"
GUARDRAIL = "guardrails: [{name: foxes, kind: keyword, patterns: [{kind: literal, value: fox}]}]"
LIMIT = "rate_limit_policies: [{name: few, scope: model, scope_ref: mock, window: minute, max_requests: 1}]"
BUDGET = "budgets: [{name: small, scope: api_key, scope_ref: bench, limit_usd: 0.000001, period: total}]"
PRICES = "cost: {input_per_1k: 1, output_per_1k: 1}"


def resources(*, top="", key="", model=""):
    written = RESOURCES.format(mock=PROVIDER, key=CALLER_KEY)
    assert KEY in written
    assert MODEL in written
    written = written.replace(KEY, f"{KEY}, {key}" if key else KEY)
    return written.replace(MODEL, f"{MODEL}, {model}" if model else MODEL) + top + "\n"


class Room:
    """The whole gateway in memory, whose resources file can be written anew."""

    def __init__(self, folder):
        self.path = folder / "resources.yaml"
        self.inside = Inside(folder)
        self.gateway = self.inside.house.gateway
        (*_, self.guardrails, self.budgets, self.cost), (self.quota, _) = self.gateway.after, self.gateway.limits

    def reload(self, **changes):
        house = self.inside.house
        self.path.write_text(resources(**changes))
        generation = house.snapshot().generation
        house._apply(house._load())
        assert house.snapshot().generation == generation + 1

    def call(self, body=PLAIN, reads=WHOLE):
        """What a call gets that reaches the provider if nothing is in its way."""
        caller, out = self.inside.caller()
        caller.dataReceived(request(body))
        pool = self.inside.house.clients.pools[0]
        if self.inside.reactor.tcpClients or any(one.transport.fresh for one in pool.open):
            provider, _ = self.inside.provider()
            for read in reads:
                provider.dataReceived(read)
        return out.take()

    def status(self, **more):
        return int(self.call(**more)[9:12])

    @property
    def idle(self):
        return [one for one in (*self.gateway.after, *self.gateway.limits) if id(one) in self.gateway._idle]


@pytest.fixture
def room(tmp_path):
    return Room(tmp_path)


def test_nobody_is_asked_who_has_nothing_to_say(room):
    assert room.status() == 200
    assert room.idle == [room.guardrails, room.budgets, room.cost, room.quota]


@pytest.mark.parametrize(
    ("changes", "statuses"),
    [
        ({"top": GUARDRAIL}, [422]),
        ({"top": LIMIT}, [200, 429]),
        ({"key": "rate_limit: {rpm: 1}"}, [200, 429]),
        ({"model": "rate_limit: {rpm: 1}"}, [200, 429]),
        ({"key": "max_calls: 1"}, [200, 429]),
        ({"top": BUDGET, "model": PRICES}, [200, 429]),
    ],
)
def test_a_reload_is_obeyed_by_the_next_call(room, changes, statuses):
    assert [room.status() for _ in range(3)] == [200, 200, 200]
    room.reload(**changes)
    assert [room.status() for _ in statuses] == statuses
    room.reload()
    assert [room.status() for _ in range(3)] == [200, 200, 200]
    room.reload(**changes)
    assert room.status() == statuses[-1]


@pytest.mark.parametrize(("body", "reads"), [(PLAIN, WHOLE), (STREAM, AT_ONCE)])
def test_prices_that_come_with_a_reload_are_shown(room, body, reads):
    assert b'"cost"' not in room.call(body, reads)
    room.reload(key="include_cost: true", model=PRICES)
    assert b'"cost"' in room.call(body, reads)


def test_limits_of_a_groups_targets_alone_are_no_reason_to_be_idle(room):
    group = "  - {display_name: some, routing: {targets: [{model: mock}]}}\napi_keys:"
    room.path.write_text(resources(model="rate_limit: {rpm: 1}").replace("api_keys:", group))
    house = room.inside.house
    house._apply(house._load())
    body = PLAIN.replace('"mock"', '"some"')
    assert [room.status(body=body) for _ in range(2)] == [200, 429]


class Says:
    """A policy that is idle where it is told to, and notes who is asked about what."""

    def __init__(self, idle, wait=None):
        self.is_idle, self.wait, self.asked, self.admitted = idle, wait, [], []

    def idle(self, snapshot):
        self.asked.append(snapshot.generation)
        return self.is_idle(snapshot)

    def admit(self, exchange):
        self.admitted.append(exchange.snapshot.generation)
        return self.wait if self.wait is not None else Ticket()


def test_a_policy_is_asked_once_for_each_snapshot():
    house, policy = House(), Says(lambda snapshot: snapshot.generation == 1)
    house.gateway.after = (*house.gateway.after, policy)
    first = house.front.snapshot()
    assert first.generation == 1
    for _ in range(3):
        house.ask()
    assert (policy.asked, policy.admitted) == ([1], [])
    second = attrs.evolve(first, generation=2)
    house.front.snapshot = lambda: second
    for _ in range(2):
        house.ask()
    assert (policy.asked, policy.admitted) == ([1, 2], [2, 2])


@pytest.mark.parametrize("limited", [1, 2])
def test_a_call_that_waits_while_resources_change_keeps_its_own(limited):
    waiting = Deferred()
    slow = Says(lambda snapshot: False, waiting)
    limit = Says(lambda snapshot: snapshot.generation != limited)
    house = House()
    house.gateway.after = (*house.gateway.after, slow)
    house.gateway.limits = (limit,)
    first = house.front.snapshot()
    ask = house.ask()
    second = attrs.evolve(first, generation=2)
    house.front.snapshot = lambda: second
    slow.wait = None
    house.ask()
    assert limit.admitted == ([2] if limited == 2 else [])
    waiting.callback(None)
    house.flush()
    assert limit.admitted == [limited]
    assert ask.failure is None


def test_a_policy_that_comes_later_is_asked():
    house = House()
    house.ask()
    late = Says(lambda snapshot: True)
    house.gateway.after = (*house.gateway.after, late)
    house.ask()
    assert late.admitted == [house.front.snapshot().generation]
