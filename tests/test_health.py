"""Cooldowns and background verdicts: when they begin, how long they last, what ends them (`policy.md` 10)."""

import attrs
import pytest

from twisted_gateway.config.routes import BackgroundCheck, Cooldown
from twisted_gateway.errors import AttemptFailed, Problem, broken_off, timed_out, transport_error, undecodable
from twisted_gateway.health import Health, Report

from .exchanges import model

CHECK = BackgroundCheck(True, 5, 1, "ping", 1, 60, (429, 408))


class Time:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def health(time):
    return Health(time)


def status(code, retry_after=None):
    problem = Problem(status=502, type="upstream_error", message="m", kind="upstream_status")
    return AttemptFailed(problem, status=code, retry_after=retry_after)


def in_band(code=None):
    problem = Problem(status=502, type="upstream_error", message="m", kind="upstream_in_band", embedded=code)
    return AttemptFailed(problem, status=code, retryable=True)


def without_status(problem):
    return AttemptFailed(problem, retryable=True)


FAILURES = [  # failure, rules, seconds, reason
    (status(401), {}, 30, "upstream_auth_failure"),
    (status(408), {}, 30, "upstream_request_timeout"),
    (status(429), {}, 30, "upstream_rate_limited"),
    (status(503), {}, 30, "upstream_server_error"),
    (status(400), {}, None, None),
    (status(501), {}, None, None),
    (status(418), {"trigger_statuses": (418,)}, 30, "upstream_status_failure"),
    (status(429, 7), {}, 7, "upstream_rate_limited"),
    (status(429, 7000), {}, 600, "upstream_rate_limited"),
    (status(429, 7000), {"max_seconds": 90}, 90, "upstream_rate_limited"),
    (status(429, 7), {"honor_retry_after": False}, 30, "upstream_rate_limited"),
    (status(429, 7), {"default_seconds": 0}, None, None),
    (status(500), {"enabled": False}, None, None),
    (status(500), {"default_seconds": 5}, 5, "upstream_server_error"),
    (in_band(429), {}, 30, "upstream_in_band_error"),
    (in_band(400), {}, None, None),
    (in_band(), {}, 30, "upstream_in_band_error"),
    (in_band(), {"trigger_on_transport": False}, None, None),
    (without_status(timed_out("first_event_timeout", 9)), {}, 30, "request_timeout"),
    (without_status(timed_out("x", 9)), {"trigger_on_timeout": False, "trigger_statuses": (504,)}, None, None),
    (without_status(transport_error("c", "d")), {}, 30, "transport_error"),
    (without_status(broken_off()), {}, 30, "transport_error"),
    (without_status(undecodable("c")), {}, 30, "upstream_decode_error"),
    (without_status(undecodable("c")), {"trigger_on_transport": False}, None, None),
    (without_status(Problem(status=500, type="config_error", message="m", kind="config")), {}, None, None),
]


@pytest.mark.parametrize(("failure", "rules", "seconds", "reason"), FAILURES)
def test_cooldowns(health, time, failure, rules, seconds, reason):
    served = model(cooldown=Cooldown(**rules))
    assert health.failed(served, failure, True) is (seconds is not None)
    if seconds is None:
        assert not health.cooling(served.id)
        assert health.report(served) == Report("healthy")
        return
    assert health.report(served) == Report("cooldown", reason, cooldown_left=seconds)
    time.now += seconds - 0.01
    assert health.cooling(served.id)
    time.now += 0.02
    assert not health.cooling(served.id)
    assert health.report(served) == Report("healthy")


def test_a_success_ends_a_cooldown(health):
    served = model()
    health.failed(served, status(500), True)
    health.succeeded(served, 0.1)
    assert not health.cooling(served.id)


def test_the_state_is_the_targets_own(health):
    health.failed(model("a"), status(500), True)
    assert not health.cooling(model("b").id)


def test_levels(health):
    served = model()
    levels = []
    for _ in range(9):
        levels.append(health.level(served.id))
        health.failed(served, status(500), True)
    health.failed(served, status(400), False)
    assert levels == [0] * 4 + [1] * 4 + [2]
    health.succeeded(served, 0.1)
    assert health.level(served.id) == 0


def test_verdicts(health, time):
    served = model(background_model_check=CHECK)
    assert not health.unhealthy(served)
    health.checked(served, 500, False)
    time.now += 2
    assert health.unhealthy(served)
    assert health.report(served) == Report("unhealthy", "background_check_failed", checked_ago=2, check_status=500)
    health.failed(served, status(429), True)
    assert health.report(served).status == "unhealthy", "which is worse than cooling down"
    health.checked(served, 200, True)
    assert health.report(served) == Report("healthy", checked_ago=0, check_status=200), "a good one ends both"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("code", [408, 429])
def test_a_status_that_is_ignored_changes_nothing(health, before, code):
    served = model(background_model_check=CHECK)
    health.checked(served, 200 if before else 500, before)
    health.checked(served, code, False)
    assert health.unhealthy(served) is not before
    assert health.report(served).reason == ("ignored_transient_error" if before else "background_check_failed")


def test_a_verdict_grows_old(health, time):
    served = model(background_model_check=CHECK)
    health.checked(served, None, False)
    time.now += 60
    assert health.unhealthy(served)
    time.now += 0.5
    assert not health.unhealthy(served)


def test_a_check_that_was_taken_away_counts_no_more(health):
    served = model(background_model_check=CHECK)
    health.checked(served, 500, False)
    assert not health.unhealthy(attrs.evolve(served, background_model_check=None))


def test_what_reloads_take_away_is_forgotten_when_nothing_runs_there(health):
    a, b = model("a"), model("b")
    health.began(a)
    health.succeeded(b, 0.1)
    health.forget(set())
    assert (health.observed(a.id), health.observed(b.id)) == (True, False)
    health.ended(a)
    health.forget({a.id})
    assert health.observed(a.id)
    assert health.in_flight(a.id) == 0
