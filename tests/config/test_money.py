"""Prices, budgets, trial keys and usage files: good values, bad ones, defaults (`extensions.md` 6)."""

import pytest

from twisted_gateway.config.boot import structure
from twisted_gateway.config.money import Budget, Cost, UsageFile
from twisted_gateway.config.resources import derived_id
from twisted_gateway.config.settings import SettingsError

from .test_resources import findings, load

BUDGET = {"name": "b", "scope": "api_key", "scope_ref": "me", "limit_usd": 5}
PRICES = {"input_per_1k": 1, "output_per_1k": 2.5}


def budget(**more):
    return [{name: value for name, value in (BUDGET | more).items() if value is not ...}]


def test_a_cost():
    assert load().models_by_name["m"].cost is None
    assert load(model={"cost": PRICES}).models_by_name["m"].cost == Cost(1.0, 2.5)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ({"input_per_1k": 1}, "schema validation failed at `/cost/output_per_1k`: missing"),
        (
            PRICES | {"cache_read_per_1k": -1},
            "schema validation failed at `/cost/cache_read_per_1k`: expected a number of at least 0",
        ),
        (
            PRICES | {"output_per_1k": "1"},
            "schema validation failed at `/cost/output_per_1k`: expected a number, got a string",
        ),
    ],
)
def test_a_bad_cost(cost, message):
    (found,) = findings(model={"cost": cost})
    assert message in found


def test_a_budget():
    snapshot = load(budgets=budget())
    assert snapshot.budgets == (Budget(derived_id("budgets", "b"), "b", "api_key", derived_id("api_keys", "me"), 5.0),)
    (key,) = snapshot.caller_keys_by_hash.values()
    assert snapshot.budgets[0].covers(key)
    assert snapshot.resource_counts["budgets"] == 1
    assert (snapshot.budgets[0].period, snapshot.budgets[0].on_exhausted) == ("month", "refuse")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ...}, "`name` is required and must be a non-empty string"),
        ({"name": "x" * 121}, "at `/name`: expected 1 to 120 characters"),
        ({"scope": "user"}, 'at `/scope`: expected "api_key" or "team"'),
        ({"scope_ref": ...}, "at `/scope_ref`: missing"),
        ({"scope_ref": "nobody"}, '`scope_ref` references unknown api key "nobody" (defined api keys: me)'),
        ({"limit_usd": 0}, "at `/limit_usd`: expected a number above 0"),
        ({"limit_usd": ...}, "at `/limit_usd`: missing"),
        ({"period": "year"}, 'expected "hour" or "day" or "week" or "month" or "total"'),
        ({"on_exhausted": "warn"}, 'at `/on_exhausted`: expected "refuse" or "stop"'),
        ({"id": "x"}, "`id` is not accepted"),
        ({"more": 1}, "at `/more`: unknown key"),
    ],
)
def test_a_bad_budget(change, message):
    (found,) = findings(budgets=budget(**change))
    assert message in found


def test_two_budgets_of_one_name():
    (found,) = findings(budgets=budget() * 2)
    assert found == 'budgets[1] ("b"): `name` is already used by budgets[0]'


def test_a_team_is_taken_as_it_is_written():
    snapshot = load(api_key={"team_id": "t1"}, budgets=budget(scope="team", scope_ref="t1"))
    (key,) = snapshot.caller_keys_by_hash.values()
    assert snapshot.budgets[0].covers(key)
    assert not load(budgets=budget(scope="team", scope_ref="t1")).budgets[0].covers(key.__class__("x", "y", "h", ()))


def test_a_warning_where_a_budget_meets_a_free_model():
    warning = 'models ("m"): it has no `cost`, so that it is free for the budget "b"'
    assert load(budgets=budget()).warnings == (warning,)
    assert load(budgets=budget(), api_key={"allowed_models": ["*"]}).warnings == (warning,)
    assert load(budgets=budget(), model={"cost": PRICES}).warnings == ()
    assert load(budgets=budget(), api_key={"allowed_models": []}).warnings == ()
    assert load(budgets=budget(scope="team", scope_ref="t")).warnings == ()
    wild = {"display_name": "o/*", "model_name": "*"}
    assert len(load(budgets=budget(), model=wild, api_key={"allowed_models": ["o/*"]}).warnings) == 1


def test_switches_of_keys_and_models():
    key = next(iter(load(api_key={"max_calls": 3, "include_cost": True}).caller_keys_by_hash.values()))
    assert (key.max_calls, key.include_cost) == (3, True)
    key = next(iter(load().caller_keys_by_hash.values()))
    assert (key.max_calls, key.include_cost) == (None, False)
    model = load(model={"on_disconnect": "drain", "drain_max_secs": 600}).models_by_name["m"]
    assert (model.on_disconnect, model.drain_max_secs) == ("drain", 600)
    assert (load().models_by_name["m"].on_disconnect, load().models_by_name["m"].drain_max_secs) == ("cancel", 60)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"api_key": {"max_calls": -1}}, "at `/max_calls`: expected an integer of at least 0"),
        ({"api_key": {"include_cost": 1}}, "at `/include_cost`: expected true or false"),
        ({"model": {"on_disconnect": "wait"}}, 'at `/on_disconnect`: expected "cancel" or "drain"'),
        ({"model": {"drain_max_secs": 601}}, "at `/drain_max_secs`: expected an integer from 1 to 600"),
    ],
)
def test_bad_switches(parts, message):
    (found,) = findings(**parts)
    assert message in found


def boot(environ=None, **more):
    return structure({"proxy": {"addr": "127.0.0.1:1"}, "resources_file": "r"} | more, environ or {})


def test_usage_files():
    assert boot().usage.file is None
    assert boot().proxy.max_drains == 100
    found = boot(usage={"file": {"path": "u.jsonl"}, "state_file": "s.json"}).usage
    assert (found.file, found.state_file) == (UsageFile("u.jsonl", 104_857_600, 10), "s.json")
    environ = {
        "AISIX_USAGE__FILE__PATH": "e",
        "AISIX_USAGE__FILE__MAX_BYTES": "9",
        "AISIX_USAGE__FILE__BACKUPS": "0",
        "AISIX_USAGE__STATE_FILE": "t",
        "AISIX_PROXY__MAX_DRAINS": "7",
    }
    settings = boot(environ)
    assert (settings.usage.file, settings.usage.state_file) == (UsageFile("e", 9, 0), "t")
    assert settings.proxy.max_drains == 7


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"file": {}}, "usage.file.path: missing"),
        ({"file": {"path": ""}}, "usage.file.path: expected a non-empty string"),
        ({"file": {"path": "u", "max_bytes": 0}}, "usage.file.max_bytes: expected an integer of at least 1"),
        ({"file": {"path": "u", "backups": -1}}, "usage.file.backups: expected an integer of at least 0"),
        ({"state_file": 1}, "usage.state_file: expected a string, got an integer"),
    ],
)
def test_bad_usage_files(section, message):
    with pytest.raises(SettingsError) as raised:
        boot(usage=section)
    assert message in str(raised.value)
