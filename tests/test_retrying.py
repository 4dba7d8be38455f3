"""Which failures are tried again, when, and how often (`policy.md` 8, `extensions.md` 5)."""

import pytest

from twisted_gateway.config.routes import RetryBudget, RouteTarget, Routing
from twisted_gateway.config.settings import Upstream
from twisted_gateway.errors import AttemptFailed, Problem, broken_off, timed_out, transport_error, undecodable
from twisted_gateway.retrying import Allowance, HedgeRatios, RetryBudgets, Window, allowance, pause, retryable

from .exchanges import group, model


def failed(status=None, problem=None, retry_after=None, may=True):
    problem = problem or Problem(status=502, type="upstream_error", message="m", kind="upstream_status")
    return AttemptFailed(problem, status=status, retryable=may, retry_after=retry_after)


def routing(**more):
    return Routing((RouteTarget("a"),), **more)


@pytest.mark.parametrize(
    ("status", "alone", "plain", "with_429", "with_404_and_418"),
    [
        (500, True, True, True, True),
        (529, True, True, True, True),
        (301, True, True, True, True),
        (100, True, True, True, True),
        (400, False, False, False, False),
        (401, False, False, False, False),
        (404, False, False, False, True),
        (418, False, False, False, True),
        (429, False, False, True, False),
    ],
)
def test_statuses(status, alone, plain, with_429, with_404_and_418):
    one = failed(status, may=False)
    assert retryable(one, None) is alone
    assert retryable(one, routing()) is plain
    assert retryable(one, routing(retry_on_429=True)) is with_429
    assert retryable(one, routing(fallback_on_statuses=(404, 418))) is with_404_and_418


@pytest.mark.parametrize(
    "problem", [timed_out("request_timeout", 1), transport_error("c", "d"), undecodable("x"), broken_off()]
)
def test_failures_without_a_status(problem):
    assert retryable(failed(problem=problem), None) is True
    assert retryable(failed(problem=problem, may=False), routing()) is False


def jitter(low, high):
    assert (low, high) == (0.0, 0.25)
    return 0.125


@pytest.mark.parametrize(
    ("retry", "wish", "seconds"),
    [
        (1, None, 0.25),
        (2, None, 0.5),
        (3, None, 1.0),
        (4, None, 2.0),
        (5, None, 2.0),
        (900, None, 2.0),
        (1, 0, 0.25),
        (1, 3, 3),
        (4, 1, 1),
        (1, 5, 5),
        (1, 6, 0.25),
        (9, 600, 2.0),
    ],
)
def test_pauses(retry, wish, seconds):
    assert pause(failed(503, retry_after=wish), retry, jitter) == seconds + 0.125


@pytest.mark.parametrize(
    ("own", "of_group", "more", "found"),
    [
        (4, 3, True, Allowance(4, True)),
        (0, 3, False, Allowance(0, True)),
        (None, 3, True, Allowance(3, True)),
        (None, 0, False, Allowance(0, True)),
        (None, None, True, Allowance(0, False)),
        (None, None, False, Allowance(7, False)),
    ],
)
def test_allowances(own, of_group, more, found):
    made = group("g", "a", retries=of_group)
    assert allowance(model(retries=own), made, Upstream(retries=7), more) == found


def test_a_direct_model_has_the_boot_files_retries():
    assert allowance(model(), None, Upstream(), False) == Allowance(2, False)


def test_only_a_written_allowance_covers_timeouts():
    late = failed(problem=timed_out("first_event_timeout", 5))
    assert [Allowance(2, True).covers(late, made) for made in (0, 1, 2)] == [True, True, False]
    assert not Allowance(2, False).covers(late, 0)
    assert [Allowance(2, False).covers(failed(500), made) for made in (0, 1, 2)] == [True, True, False]


# Budgets


def test_a_window_forgets():
    window = Window(10.0)
    for second in range(10):
        window.called(1000.0 + second)
        window.added(1000.0 + second)
    assert window.figures(1009.0) == (10, 10)
    assert window.figures(1010.0) == (9, 10), "calls are counted a little short, extras a little long"
    assert window.figures(1015.0) == (4, 5)
    assert window.figures(1021.0) == (0, 0)
    assert window.figures(9e9) == (0, 0)


def test_retries_beyond_the_floor_are_a_part_of_the_calls():
    budgets = RetryBudgets(RetryBudget(0.1, 5, 10.0))
    assert [budgets.take("m", 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    for _ in range(80):
        budgets.called("m", 0.0)
    assert [budgets.take("m", 0.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert budgets.take("other", 0.0)
    assert budgets.take("m", 11.0)


def test_an_outage_is_not_multiplied():
    """1000 calls a second for a minute, all of which fail and want two retries each."""
    budgets, made = RetryBudgets(RetryBudget()), []
    for tenth in range(600):
        now = 50.0 + tenth / 10
        for _ in range(100):
            budgets.called("m", now)
            made += [now] * sum(budgets.take("m", now) for _ in range(2))
    for start in range(50, 100):
        retries = sum(start <= at < start + 10 for at in made)
        assert retries <= 0.1 * 10_000
    assert len(made) > 0.08 * 60_000


def test_no_budget_is_no_bound():
    budgets = RetryBudgets(None)
    budgets.called("m", 0.0)
    assert all(budgets.take("m", 0.0) for _ in range(1000))


def test_the_first_hedge_is_always_allowed_and_the_rest_keep_the_ratio():
    ratios = HedgeRatios()
    assert ratios.take("g", 0.0, 5.0)
    assert not ratios.take("g", 0.0, 5.0)
    for _ in range(30):
        ratios.called("g", 5.0)
    assert [ratios.take("g", 0.1, 5.0) for _ in range(3)] == [True, True, False]
    assert ratios.take("other", 0.1, 5.0)
    assert ratios.take("g", 0.1, 75.0), "a minute later it is the first again"
