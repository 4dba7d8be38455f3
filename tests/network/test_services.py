"""Every remote kind against the double of its service, over real sockets, from the words of a resources file."""

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError

from tests.doubles import guards
from tests.doubles.steps import json_answer
from tests.network.guarding import FORBIDDEN, KINDS, MASKABLE, MASKING, PREFIXES, kinds
from tests.network.house import until
from twisted_gateway.config.settings import Upstream
from twisted_gateway.config.snapshot import Snapshot, build
from twisted_gateway.outside import Outside
from twisted_gateway.policies.guardrails.services import Services
from twisted_gateway.policies.guardrails.verdict import ALLOW, Asked, Block, Bypass, Mask
from twisted_gateway.threads import Threads


@pytest_twisted.async_yield_fixture
async def outside():
    made = Outside.over_own_pool(reactor, Upstream())
    yield made
    made.pool.close()
    await until(lambda: not made.pool.open, lambda: "connections are left")


def make(outside, provider, kind, answer=None, **common):
    """The check of a guardrail of this kind, and the double that it asks, or what answers in its place."""
    fields, double = kinds(provider.url)[kind]
    entry = {"name": "g", "kind": kind, **fields, **common}
    built = build({"_format_version": "1", "guardrails": [entry]}, {}, now=1.0)
    assert isinstance(built, Snapshot), [str(finding) for finding in built]
    (guardrail,) = built.guardrails
    provider.answers(answer or double)
    return Services(outside.fetch, Threads(reactor.callFromThread).run, reactor, {}).check(guardrail), double


def asked(*texts, hook="input"):
    return Asked(hook, "g", "req-1", "gpt", "/v1/chat/completions", texts)


@pytest.mark.parametrize("kind", KINDS)
async def test_harmless(outside, provider, kind):
    check, double = make(outside, provider, kind)
    assert await check(asked("good", "morning")) == ALLOW
    assert "good" in "".join(double.seen)
    assert "morning" in "".join(double.seen)


@pytest.mark.parametrize("hook", ["input", "output"])
@pytest.mark.parametrize("kind", KINDS)
async def test_blocked(outside, provider, kind, hook):
    check, _ = make(outside, provider, kind)
    verdict = await check(asked("good", f"the {FORBIDDEN}, the", hook=hook))
    assert isinstance(verdict, Block)
    assert not verdict.unavailable
    assert FORBIDDEN not in repr(verdict)


@pytest.mark.parametrize(("kind", "token"), MASKING.items())
async def test_masked(outside, provider, kind, token):
    check, _ = make(outside, provider, kind)
    verdict = await check(asked("", f"to {MASKABLE}.", "good"))
    assert isinstance(verdict, Mask)
    assert verdict.texts == ("", f"to {token}.", "good")


@pytest.mark.parametrize("kind", KINDS)
async def test_the_end_of_a_long_text_is_seen(outside, provider, kind):
    check, _ = make(outside, provider, kind)
    assert isinstance(await check(asked("x " * 60_000 + FORBIDDEN)), Block)
    assert await check(asked("x " * 60_000)) == ALLOW


FAILURES = {
    "timeout": guards.silence,
    "5xx": guards.closes,
    "throttled": lambda _: json_answer({"error": "slow down"}, 429, [(b"retry-after", b"3")]),
    "config_error": lambda _: json_answer({"error": "wrong key"}, 401),
}


@pytest.mark.parametrize("reason", FAILURES)
@pytest.mark.parametrize("kind", KINDS)
async def test_failures(outside, provider, kind, reason):
    check, _ = make(outside, provider, kind, FAILURES[reason], timeout_ms=300 if reason == "timeout" else 5000)
    told = f"{PREFIXES.get(kind, kind)}_{reason}"
    assert await check(asked("good")) == Bypass(told)
    assert await check(asked("good", hook="output")) == Block(told, unavailable=True)


@pytest.mark.parametrize("answer", [guards.a_byte_a_second, guards.babbles, guards.speaks_no_http, guards.redirects])
async def test_hostile_services(outside, provider, answer):
    check, _ = make(outside, provider, "webhook", answer, mandatory=True, timeout_ms=400)
    verdict = await check(asked("good"))
    assert isinstance(verdict, Block)
    assert verdict.unavailable


@pytest.mark.parametrize("kind", KINDS)
async def test_whoever_leaves_takes_the_call_along(outside, provider, kind):
    check, _ = make(outside, provider, kind, guards.silence)
    waiting = check(asked("good"))
    await provider.when_request(1)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    await provider.when_connections(0)


async def test_a_wrong_key_is_told_as_that(outside, provider):
    check, _ = make(outside, provider, "lakera", api_key="other")
    assert await check(asked("good")) == Bypass("lakera_config_error")


async def test_signature_and_headers(outside, provider):
    check, double = make(outside, provider, "webhook", headers={"X-Own": "1"})
    await check(asked("good"))
    (request,) = provider.requests
    assert request.header("x-own") == "1"
    assert request.header("x-aisix-signature").startswith("sha256=")
    assert double.told == [
        {
            "version": 1, "hook": "input", "guardrail": "g", "request_id": "req-1", "api_key_id": None, "team_id": None,
            "model": "gpt", "endpoint": "/v1/chat/completions", "stream": False, "final": True, "texts": ["good"],
        }
    ]  # fmt: skip
