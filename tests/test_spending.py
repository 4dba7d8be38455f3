"""The books: periods by the calendar, rows, budgets, trial calls, and all of it over a restart."""

import json
from datetime import UTC, datetime

import pytest

from twisted_gateway.charging import Charge
from twisted_gateway.config.money import Budget
from twisted_gateway.spending import Spending, period_of

NOW = datetime(2026, 2, 27, 13, 45, 12, tzinfo=UTC).timestamp()
CHARGED = Charge(prompt=10, completion=5, total=15, cost_usd=0.25)


def at(*parts):
    return datetime(*parts, tzinfo=UTC).timestamp()


def budget(name="b", **more):
    return Budget(**({"id": f"id-{name}", "name": name, "scope": "team", "scope_ref": "t", "limit_usd": 5.0} | more))


@pytest.mark.parametrize(
    ("period", "begin", "end"),
    [
        ("hour", (2026, 2, 27, 13), (2026, 2, 27, 14)),
        ("day", (2026, 2, 27), (2026, 2, 28)),
        ("week", (2026, 2, 23), (2026, 3, 2)),
        ("month", (2026, 2, 1), (2026, 3, 1)),
    ],
)
def test_periods(period, begin, end):
    assert period_of(period, NOW) == (at(*begin), at(*end))
    assert period_of(period, at(*begin)) == (at(*begin), at(*end)), "it begins with its first second"
    assert period_of(period, at(*end))[0] == at(*end)


def test_the_ends_of_the_year():
    assert period_of("month", at(2026, 12, 31, 23, 59, 59)) == (at(2026, 12, 1), at(2027, 1, 1))
    assert period_of("week", at(2027, 1, 3, 23)) == (at(2026, 12, 28), at(2027, 1, 4))
    assert period_of("total", NOW) == (0.0, None)


def test_rows():
    books = Spending(NOW)
    books.use(CHARGED, api_key="k", team="t", model="m")
    books.use(CHARGED, api_key="k", team=None, model=None)
    row = {"id": "k", "calls": 2, "prompt_tokens": 20, "completion_tokens": 10, "cost_usd": 0.5}
    assert books.report("api_key", ["k", "other", ""]) == [row]
    assert books.report("api_key", ["other"]) == [], "what is not configured is not shown"
    assert [one["calls"] for one in books.report("team", ["t"])] == [1]


def test_a_budget_begins_anew_with_its_period():
    books, monthly, total = Spending(NOW), budget(), budget("all", period="total")
    for one in (monthly, total):
        books.spend(one, 2.0, NOW)
        books.spend(one, 1.5, NOW)
    march = at(2026, 3, 1)
    assert [books.spent(one, march - 1) for one in (monthly, total)] == [3.5, 3.5]
    assert [books.spent(one, march) for one in (monthly, total)] == [0.0, 3.5]
    books.spend(monthly, 1.0, march)
    assert books.spent(monthly, march + 5) == 1.0


def test_a_clock_that_is_set_back_does_not_forget_what_was_spent():
    books, hourly = Spending(NOW), budget(period="hour")
    books.spend(hourly, 2.0, NOW)
    assert books.spent(hourly, NOW - 7200) == 2.0


def test_trial_calls():
    books = Spending(NOW)
    books.answered("k")
    books.answered("k")
    assert (books.calls("k"), books.calls("other")) == (2, 0)


def test_over_a_restart():
    told = []
    books = Spending(NOW, lambda: told.append(1))
    books.use(CHARGED, api_key="k", team="t", model="m")
    books.spend(budget(), 2.0, NOW)
    books.answered("k")
    assert len(told) == 3
    books.spend(budget(), 0.0, NOW)
    assert len(told) == 3, "nothing has changed"
    later = Spending(NOW + 99)
    later.restore(json.loads(json.dumps(books.state())))
    assert json.loads(json.dumps(later.state())) == json.loads(json.dumps(books.state()))
    assert (later.since, later.calls("k"), later.spent(budget(), NOW)) == (NOW, 1, 2.0)
    assert later.report("team", ["t"]) == books.report("team", ["t"])


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"rows": {}}, {"budgets": {"b": [1] * 5}}, {"calls": {"k": -1}}, {"since": "x"}, {"calls": [1]}],
)
def test_a_state_that_is_not_ours(change):
    books = Spending(NOW)
    books.answered("k")
    with pytest.raises(ValueError):  # noqa: PT011
        Spending(NOW).restore(books.state() | change)
