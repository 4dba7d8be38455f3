"""The whole house in memory with guardrails, for every endpoint and both roads."""

import json

import attrs
from twisted.internet.defer import Deferred, succeed

from tests.exchanges import model, provider_key, snapshot
from tests.test_gateway import KEY, House
from twisted_gateway.formats import anthropic, openai_chat, openai_completions, openai_responses
from twisted_gateway.metrics import Metrics
from twisted_gateway.policies.access import ModelAccess
from twisted_gateway.policies.guardrails.policy import Guardrails

from .making import guardrails

FORMATS = {
    row.name: row
    for row in (
        openai_chat.FORMAT,
        openai_completions.FORMAT,
        openai_responses.FORMAT,
        anthropic.FORMAT,
        anthropic.COUNT_TOKENS,
    )
}
PATHS = {
    "openai_chat": b"/v1/chat/completions",
    "openai_completions": b"/v1/completions",
    "openai_responses": b"/v1/responses",
    "anthropic": b"/v1/messages",
}
_OPENAI = model(provider_key=provider_key(provider="openai", api_base="http://provider/v1"))
_OTHER = model(
    provider="other",
    provider_key=provider_key(provider="other", adapter="openai", api_base="http://provider/v1"),
    completions_via_chat=True,
)
_ANTHROPIC = model(provider="anthropic", provider_key=provider_key(provider="anthropic", api_base="http://provider/v1"))
ROADS = {
    ("openai_chat", "native"): (_OPENAI, "openai_chat"),
    ("openai_chat", "translated"): (_ANTHROPIC, "anthropic"),
    ("openai_completions", "native"): (_OPENAI, "openai_completions"),
    ("openai_responses", "native"): (_OPENAI, "openai_responses"),
    ("openai_responses", "translated"): (_OTHER, "openai_chat"),
    ("anthropic", "native"): (_ANTHROPIC, "anthropic"),
    ("anthropic", "translated"): (_OPENAI, "openai_chat"),
}
"""Endpoint's format and road: the model to ask for, and the dialect that its provider speaks."""


def body(dialect, text="hi", stream=True):
    """A request that says a text."""
    asked = {"model": "gpt", "stream": stream}
    if dialect == "openai_completions":
        return asked | {"prompt": text}
    if dialect == "openai_responses":
        return asked | {"input": text}
    return asked | {"messages": [{"role": "user", "content": text}], "max_tokens": 5}


class Verdicts:
    """A service: keeps what it is asked, and answers when the test says so, or at once with `always`."""

    def __init__(self, always=None):
        self.always = always
        self.asked = []
        self.waiting = []
        self.cancelled = 0

    def check(self, guardrail):
        return self

    def __call__(self, asked):
        self.asked.append(asked)
        if self.always is not None:
            verdict = self.always(asked) if callable(self.always) else self.always
            return succeed(verdict)
        waiting = Deferred(lambda _: self._cancel())
        self.waiting.append(waiting)
        return waiting

    def _cancel(self):
        self.cancelled += 1

    def say(self, verdict):
        self.waiting.pop(0).callback(verdict)


class Guarded(House):
    """A house with these guardrails, on one road."""

    def __init__(self, *entries, dialect="openai_chat", road="native", checks=None, buffer=True, run=None, **more):
        shown, self.speaks = ROADS[(dialect, road)]
        super().__init__(shelf=[shown], **more)
        self.dialect = dialect
        self.checks = checks or Verdicts()
        self.metrics = Metrics()
        self.guardrails = Guardrails(
            FORMATS,
            self.checks.check,
            lambda function: succeed(None),
            self.metrics,
            self.clock.seconds,
            buffer,
        )
        self.speak(FORMATS, bridge=True)
        self.gateway.after = (ModelAccess(), self.guardrails)
        resources = attrs.evolve(
            snapshot(shown), caller_keys_by_hash={KEY.key_hash: KEY}, guardrails=guardrails(*entries)
        )
        self.guardrails.prepare(resources)
        self.guardrails.run = run or (lambda function: succeed(function()))
        self.front.snapshot = lambda: resources

    def call(self, text="hi", stream=True, **members):
        """One call; the provider's request if there is one."""
        before = len(self.provider.requests)
        asked = body(self.dialect, text, stream) | members
        ask = self.ask(asked, path=PATHS[self.dialect])
        requests = self.provider.requests[before:]
        if not requests:
            return ask, None
        kind = "text/event-stream" if stream else "application/json"
        requests[0].setHeader("content-type", kind)
        return ask, requests[0]

    def think(self):
        """Members of a request that asks to see reasoning."""
        return {
            "anthropic": {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048},
            "openai_responses": {"reasoning": {"effort": "low", "summary": "auto"}},
        }.get(self.dialect, {})

    def play(self, request, reads):
        """The provider's answer, read by read, as long as anybody listens."""
        for data in reads:
            if self.provider.gone:
                return
            self.write(request, data)
        if not self.provider.gone:
            self.end(request)

    def json(self, ask):
        return json.loads(ask.got.data)
