"""Background checks: rhythm, verdicts, parallel calls, reloads (`policy.md` 10.2)."""

import json

import attrs
import pytest

from twisted_gateway.config.routes import BackgroundCheck
from twisted_gateway.front import ENDPOINTS
from twisted_gateway.probes import MOST_AT_ONCE, Probes

from .doubles.timers import timers
from .exchanges import group, snapshot
from .fleet import NO_CONNECT, REFUSED, STALL, Fleet, status, target

CHECK = BackgroundCheck(True, 10, 2, "ping", 3, 25, (429, 408))


class Checked(Fleet):
    """Models that are checked."""

    def __init__(self, names="a", faults=(), check=CHECK, dialect="chat"):
        self.shelf = [target(name, dialect, background_model_check=check) for name in names]
        super().__init__(dialect, group("gpt", *names), faults, self.shelf)
        gateway, ids = self.gateway, iter(range(1000))
        self.health = gateway.health
        self.probes = Probes(
            gateway.means.opener, self.health, self.clock, lambda: 7.0, lambda: f"check-{next(ids)}", ENDPOINTS[0]
        )
        self.update(*self.shelf)

    def update(self, *models):
        self.probes.update(snapshot(*models))
        self.advance(0.25)

    def status(self, at=0):
        return self.health.report(self.shelf[at])

    def stop(self):
        self.probes.stop()
        self.flush()
        self.clock.advance(2)
        assert timers(self.clock) == []


@pytest.mark.parametrize(("dialect", "path"), [("chat", b"/v1/chat/completions"), ("messages", b"/v1/messages")])
def test_a_check_is_a_small_call_through_the_ordinary_client(dialect, path):
    fleet = Checked(dialect=dialect)
    (request,) = fleet.provider.requests
    (sent,) = fleet.provider.bodies
    assert request.uri == path
    assert sent["model"] == "at-a"
    assert sent["max_tokens"] == 3
    content = sent["messages"][0]["content"]
    assert content == "ping" or content[0]["text"] == "ping"
    assert not sent.get("stream")
    assert request.getHeader("x-aisix-request-id") == "check-0"
    assert json.dumps(sent).count("ping") == 1
    assert fleet.status() == attrs.evolve(fleet.status(), status="healthy", check_status=200)
    fleet.stop()


def test_the_rhythm():
    fleet = Checked()
    assert len(fleet.contacts) == 1
    fleet.advance(9.5)
    assert len(fleet.contacts) == 1
    fleet.advance(0.5)
    assert len(fleet.contacts) == 2
    fleet.advance(30)
    assert len(fleet.contacts) == 5
    fleet.stop()
    fleet.advance(30)
    assert len(fleet.contacts) == 5


@pytest.mark.parametrize("fault", [status(500), status(404), REFUSED], ids=str)
def test_a_failure_makes_the_model_unhealthy_until_a_success(fault):
    fleet = Checked(faults=[fault])
    assert fleet.status().status == "unhealthy"
    assert fleet.status().reason == "background_check_failed"
    fleet.advance(10)
    assert fleet.status().status == "healthy"
    fleet.stop()


@pytest.mark.parametrize("fault", [status(429), STALL, NO_CONNECT], ids=str)
def test_statuses_that_are_ignored(fault):
    fleet = Checked(faults=[fault])
    fleet.advance(2.5)
    report = fleet.status()
    assert (report.status, report.reason) == ("healthy", "ignored_transient_error")
    assert report.check_status in (408, 429)
    fleet.stop()


def test_a_check_that_takes_too_long_counts_as_408():
    fleet = Checked(faults=[STALL], check=attrs.evolve(CHECK, ignore_statuses=()))
    assert fleet.status().status == "healthy"
    fleet.advance(2)
    assert (fleet.status().status, fleet.status().check_status) == ("unhealthy", 408)
    assert len(fleet.provider.gone) == 1
    fleet.stop()


def test_a_verdict_grows_old():
    fleet = Checked(faults=[status(500)], check=attrs.evolve(CHECK, interval_seconds=60))
    fleet.advance(24.5)
    assert fleet.status().status == "unhealthy"
    fleet.advance(1)
    assert fleet.status().status == "healthy"
    fleet.stop()


def test_at_most_four_at_once():
    fleet = Checked("abcdefg", [STALL] * 7)
    assert len(fleet.contacts) == MOST_AT_ONCE == 4
    fleet.advance(2)
    assert len(fleet.contacts) == 7
    fleet.stop()
    assert len(fleet.provider.gone) == 7, "and those that run are given up"


def test_reloads():
    fleet = Checked("ab")
    assert sorted(fleet.contacts) == ["a", "b"]
    fleet.advance(5)
    changed = attrs.evolve(fleet.shelf[1], model_name="other")
    fleet.update(fleet.shelf[0], changed)
    assert fleet.contacts[2:] == ["b"], "what has not changed keeps its rhythm"
    fleet.update(changed)
    fleet.advance(10)
    assert fleet.contacts[2:] == ["b", "b"]
    fleet.stop()


@pytest.mark.parametrize("change", [{"background_model_check": None}, {"model_name": "*"}])
def test_who_is_not_checked(change):
    fleet = Checked()
    before = len(fleet.contacts)
    fleet.update(attrs.evolve(fleet.shelf[0], **change))
    fleet.advance(30)
    assert len(fleet.contacts) == before
    off = attrs.evolve(CHECK, enabled=False)
    fleet.update(attrs.evolve(fleet.shelf[0], background_model_check=off))
    fleet.advance(30)
    assert len(fleet.contacts) == before
    fleet.stop()


def test_what_cannot_be_asked_is_unhealthy():
    fleet = Checked()
    key = attrs.evolve(fleet.shelf[0].provider_key, provider="x")
    fleet.update(attrs.evolve(fleet.shelf[0], provider_key=key))
    assert fleet.status().status == "unhealthy"
    fleet.stop()


def test_calls_go_round_what_is_unhealthy():
    fleet = Checked("ab", [status(500)])
    fleet.contacts.clear()
    fleet.good(fleet.call())
    assert fleet.contacts == ["b"]
    fleet.stop()
