"""A gateway in memory over several targets, whose contacts are counted and which fail as a test says.

fleet = Fleet("chat", group("gpt", "a", "b"), faults=[status(500)])
ask = fleet.call(stream=True)
assert fleet.contacts == ["a", "b"]
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import attrs
import pytest
from twisted.internet.defer import fail
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.error import TimeoutError as ConnectTimeout

from twisted_gateway.errors import Problem, Refused
from twisted_gateway.exchange import Ticket
from twisted_gateway.upstream import Client

from .exchanges import model, provider_key
from .formats.making import dumps
from .test_every_road import ASKED, SAID, said
from .test_gateway import WHOLE, Ask, House, sse

DIALECTS = {"chat": "openai_chat", "messages": "anthropic", "responses": "openai_responses"}
each_dialect = pytest.mark.parametrize("dialect", DIALECTS)
each_mode = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
WHOLES = {
    "chat": WHOLE,
    "messages": {
        "type": "message", "id": "msg_1", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "ho"}], "usage": {"input_tokens": 3, "output_tokens": 1},
    },
    "responses": {"object": "response", "id": "resp_1", "status": "completed", "model": "m", "output": []},
}  # fmt: skip


def target(name, dialect="chat", **more):
    """A direct model at a host of its own name."""
    vendor = "anthropic" if dialect == "messages" else "openai"
    base = f"http://{name}" if vendor == "anthropic" else f"http://{name}/v1"
    key = provider_key(name, provider=vendor, api_base=base)
    return model(name, provider=vendor, provider_key=key, model_name=f"at-{name}", **more)


@attrs.frozen
class Fault:
    """What a target does instead of answering: at the connection, or with the request."""

    name: str
    connect: object = None
    act: object = None
    late: float = 0.0
    """Seconds of the clock until it shows."""
    only: str | None = None
    """`stream` or `whole`, where it makes sense in one of them only."""

    def __str__(self):
        return self.name


def status(code, body=b'{"error":{"message":"no","type":"x"}}', **headers):
    """An error status."""

    def act(request, dialect, stream):
        request.setResponseCode(code)
        for name, value in headers.items():
            request.setHeader(name.replace("_", "-"), value)
        request.write(body)
        request.finish()

    return Fault(f"status {code}", act=act)


def _good_head(request, stream):
    request.setHeader("content-type", "text/event-stream" if stream else "application/json")


def body(name, data, end=True, late=0.0, only=None):
    """A good head, these bytes, and then the end or nothing."""

    def act(request, dialect, stream):
        _good_head(request, stream)
        request.write(data(dialect) if callable(data) else data)
        if end:
            request.finish()

    return Fault(name, act=act, late=late, only=only)


def in_band(code=None):
    """An error object in a good answer; the first event of a stream."""

    def act(request, dialect, stream):
        _good_head(request, stream)
        error = {"message": "no", "type": "x"} | ({} if code is None else {"code": code})
        if stream:
            request.write(sse({"error": error}))
        else:
            request.write(dumps({"error": error}))
            request.finish()

    return Fault(f"in-band {code}", act=act)


def _lose(request, dialect, stream):
    request.transport.loseConnection()


def _stall(request, dialect, stream):
    pass


SILENT = 2.0
"""Seconds that a fleet waits for an answer, or the first event of one."""

REFUSED = Fault("connection refused", connect=lambda: fail(ConnectionRefusedError()))
NO_CONNECT = Fault("no connection", connect=lambda: fail(ConnectTimeout()))
STALL = Fault("no head", act=_stall, late=SILENT)
LOST = Fault("lost before the head", act=_lose)


class Wires:
    """Counts the connections to each host, and lets some of them fail."""

    def __init__(self, fleet):
        self.fleet = fleet

    def request(self, method, uri, headers=None, bodyProducer=None):
        fleet = self.fleet
        fleet.contacts.append(urlsplit(uri.decode()).hostname)
        fault = fleet.next_fault()
        if fault is not None and fault.connect is not None:
            return fault.connect()
        fleet.pending.append(fault)
        return fleet.providers.request(method, uri, headers, bodyProducer)


class Limits(Ticket):
    """A policy that refuses some targets, and notes what is taken and given back."""

    def __init__(self, refuse=(), problem=None):
        self.refuse, self.taken, self.log = set(refuse), [], []
        self.problem = problem or Problem(
            status=429, type="rate_limit_exceeded", message="request limit exceeded (requests)", retry_after=9
        )

    def admit(self, exchange):
        return self

    def allow(self, target):
        name = target.model.display_name
        self.log.append(name)
        if name in self.refuse:
            raise Refused(self.problem)
        self.taken.append(name)
        return lambda: self.taken.remove(name)


class Fleet(House):
    """Targets `a`, `b`, `c` (or those given) behind the alias `gpt`; `faults` hit the contacts in their order."""

    def __init__(self, dialect, row, faults=(), shelf=None, limits=None, uniform=0.0, **settings):
        shelf = shelf or [target(name, dialect) for name in "abc"]
        super().__init__(shelf=[row, *shelf], **{"timeout_ms": int(SILENT * 1000)} | settings)
        self.dialect, self.faults, self.contacts, self.pending = dialect, list(faults), [], []
        self.streams = False
        client = Client(Wires(self))
        self.gateway.upstream._client = lambda key: client
        self.gateway.means.uniform = lambda low, high: uniform
        self.limits = limits or Limits()
        self.gateway.limits = (*self.gateway.limits, self.limits)
        self.provider.render = self._arrived
        self._render = type(self.provider).render

    def next_fault(self):
        return self.faults.pop(0) if self.faults else None

    def _arrived(self, request):
        result = self._render(self.provider, request)
        fault = self.pending.pop(0)
        if fault is not None:
            fault.act(request, self.dialect, self.streams)
        elif self.answering:
            self.answer(request)
        return result

    answering = True
    """Targets without a fault answer at once."""

    def answer(self, request):
        """A whole good answer."""
        _good_head(request, self.streams)
        if self.streams:
            request.write(b"".join(SAID[DIALECTS[self.dialect]]))
        else:
            request.write(dumps(WHOLES[self.dialect]))
        request.finish()

    def call(self, stream=False, headers=None, **members):
        """A call of `gpt` in the fleet's dialect."""
        self.streams = stream
        path, more = ASKED[DIALECTS[self.dialect]]
        data = {"model": "gpt", "stream": stream, **more, **members}
        ask = Ask(self, data, "secret", path.encode(), (headers or {}).items())
        self.flush()
        return ask

    def settle(self):
        """Let backoffs pass and deadlines ring."""
        self.advance(SILENT + 0.5)

    @property
    def exchange(self):
        """The first call."""
        return self.ledger.exchanges[0]

    @property
    def kinds(self):
        """Kind and target of each attempt of the first call, and what ended it."""
        return [(one.kind, one.target.model.display_name, one.ended_by) for one in self.exchange.attempts]

    def good(self, ask):
        """The caller got a whole good answer, once."""
        assert ask.response.code == 200
        if self.streams:
            assert said(ask, DIALECTS[self.dialect]) == "Hello"
        else:
            wanted = WHOLES[self.dialect]
            assert {**ask.json, "model": ""} == {**wanted, "model": ""}

    def idle(self):
        """Nothing is busy or reserved any more."""
        health = self.gateway.health
        assert all(not state.in_flight for state in health._states.values())
        assert not self.gateway._calls


def error_of(ask):
    """Status and message of an error answer in any dialect."""
    return ask.response.code, json.loads(ask.got.data)["error"]["message"]
