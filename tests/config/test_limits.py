"""Rate limits in the resources file: both forms of policies, conditions, schedules, exact reasons."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from twisted_gateway.config.boot import structure
from twisted_gateway.config.limits import Policies, RateLimit, RateLimitPolicy, Schedule, read_zone
from twisted_gateway.config.resources import derived_id
from twisted_gateway.config.snapshot import Snapshot, build

CLASSIC = {"name": "p", "scope": "team", "scope_ref": "red", "window": "minute", "max_requests": 5}
SPLIT = {"name": "p", "limits": {"rpm": 5}}
M, K = derived_id("models", "m"), derived_id("api_keys", "me")


def built(policy=None, model=None, api_key=None):
    return build(
        {
            "_format_version": "1",
            "provider_keys": [{"display_name": "prod", "provider": "openai", "api_key": "sk"}],
            "models": [
                {"display_name": "m", "provider": "openai", "model_name": "gpt", "provider_key": "prod"} | (model or {})
            ],
            "api_keys": [{"display_name": "me", "key": "secret", "allowed_models": ["m"]} | (api_key or {})],
            "rate_limit_policies": [policy] if policy else [],
        },
        {},
        now=5.0,
    )


def policy_of(tree):
    snapshot = built(tree)
    assert isinstance(snapshot, Snapshot), [str(finding) for finding in snapshot]
    return next(iter(snapshot.rate_limit_policies))


def test_limits_of_keys_and_models():
    snapshot = built(model={"rate_limit": {"concurrency": 0}}, api_key={"rate_limit": {"rpm": 1, "tpd": 9, "rps": 3}})
    assert isinstance(snapshot, Snapshot)
    assert snapshot.models_by_name["m"].rate_limit == RateLimit(concurrency=0)
    (key,) = snapshot.caller_keys_by_hash.values()
    assert [tuple(window) for window in key.rate_limit.requests] == [("rps", 1, 3), ("rpm", 60, 1)]
    assert [tuple(window) for window in key.rate_limit.tokens] == [("tpd", 86400, 9)]
    assert not key.rate_limit.reserve
    assert key.rate_limit.reserve_output_tokens == 1024


WINDOWS = [
    ("second", {"rps": 5}), ("minute", {"rpm": 5, "tpm": 7}), ("hour", {"rph": 5}), ("day", {"rpd": 5, "tpd": 7}),
]  # fmt: skip


@pytest.mark.parametrize(("window", "limits"), WINDOWS)
def test_a_classic_policy_is_one_window(window, limits):
    snapshot = built(CLASSIC | {"window": window, "max_tokens": 7})
    assert next(iter(snapshot.rate_limit_policies)).allows == RateLimit(**limits)
    told = [f'rate_limit_policies ("p"): `max_tokens` has no effect per {window}: only per minute and day']
    assert list(snapshot.warnings) == (told if len(limits) == 1 else [])


def test_names_become_ids():
    assert policy_of(CLASSIC | {"scope": "model", "scope_ref": "m"}).scope_ref == M
    assert policy_of(CLASSIC | {"scope": "api_key", "scope_ref": "me"}).scope_ref == K
    assert policy_of(CLASSIC | {"scope": "team", "scope_ref": "m"}).scope_ref == "m"
    nested = {"logic": "or", "children": [{"dimension": "api_key", "operator": "in", "value": ["me"]}]}
    tree = SPLIT | {"conditions": [{"dimension": "model", "operator": "==", "value": "m"}, nested]}
    leaf, group = policy_of(tree).conditions
    assert (leaf.value, group.children[0].value) == (M, (K,))


SCHEMA = "schema validation failed at `"
LEAF = {"dimension": "team", "operator": "==", "value": "a"}
DEEP = {"logic": "and", "children": [{"logic": "or", "children": [{"logic": "and", "children": [LEAF]}]}]}
WEEKEND = {"timezone": "UTC", "days_of_week": ["sat"], "start_time": "00:00", "end_time": "24:00"}


def leaf(**changes):
    return SPLIT | {"conditions": [LEAF | changes]}


def schedule(**changes):
    tree = {key: value for key, value in (WEEKEND | changes).items() if value is not None}
    return CLASSIC | {"schedules": [tree]}


def without(tree, key):
    return {name: value for name, value in tree.items() if name != key}


BAD = [
    (without(CLASSIC, "scope"), SCHEMA + "/scope`: missing"),
    (without(CLASSIC, "window"), SCHEMA + "/window`: missing"),
    (without(CLASSIC, "max_requests"), SCHEMA + "`: at least one of `max_requests` and `max_tokens` is required"),
    (CLASSIC | {"max_requests": 0}, SCHEMA + "/max_requests`: expected an integer of at least 1"),
    (
        CLASSIC | {"scope": "planet"},
        SCHEMA + '/scope`: expected "api_key" or "model" or "team" or "member" or "team_member"',
    ),
    (
        CLASSIC | {"scope": "model", "scope_ref": "x"},
        '`scope_ref` references unknown model "x" (defined models: m)',
    ),
    (
        CLASSIC | {"scope": "api_key", "scope_ref": "x"},
        '`scope_ref` references unknown api key "x" (defined api keys: me)',
    ),
    (CLASSIC | {"reserve": True}, SCHEMA + "/reserve`: needs `max_tokens`"),
    (CLASSIC | {"max_tokens": None}, SCHEMA + "/max_tokens`: null is not allowed"),
    (
        CLASSIC | {"limits": {"rpm": 1}},
        SCHEMA + "/scope`: does not go with `limits`: a policy is classic or conditional",
    ),
    ({"name": "p", "conditions": []}, SCHEMA + "/limits`: missing"),
    (SPLIT | {"limits": {}}, SCHEMA + "/limits`: expected at least one limit"),
    (SPLIT | {"limits": {"rpm": 1, "reserve": True}}, SCHEMA + "/limits/reserve`: needs `tpm` or `tpd`"),
    (
        SPLIT | {"limits": {"tpm": 1, "reserve_output_tokens": 0}},
        SCHEMA + "/limits/reserve_output_tokens`: expected an integer of at least 1",
    ),
    (SPLIT | {"group_by": ["team", "team"]}, SCHEMA + "/group_by`: names something twice"),
    (
        SPLIT | {"group_by": ["model_name"]},
        SCHEMA + '/group_by`: expected "team" or "member" or "api_key" or "model" or "provider"',
    ),
    (SPLIT | {"action": "log"}, SCHEMA + '/action`: expected "reject"'),
    (leaf(dimension="model", value="x"), '`conditions[0].value` references unknown model "x" (defined models: m)'),
    (
        leaf(operator="~~"),
        SCHEMA + '/conditions/0/operator`: "~~" does not apply to team (expected one of ==, ~=, in)',
    ),
    (
        leaf(operator="has", dimension="provider"),
        SCHEMA + '/conditions/0/operator`: "has" does not apply to provider (expected one of ==, ~=, in, ~~, ~*)',
    ),
    (leaf(operator="in"), SCHEMA + "/conditions/0/value`: expected a list, got a string"),
    (leaf(operator="in", value=["a"] * 65), SCHEMA + "/conditions/0/value`: expected 1 to 64 items"),
    (leaf(operator="in", value=["a", 1]), SCHEMA + "/conditions/0/value/1`: expected a string, got an integer"),
    (leaf(other=1), SCHEMA + "/conditions/0/other`: unknown key (expected one of dimension, operator, value, negate)"),
    (leaf(negate="yes"), SCHEMA + "/conditions/0/negate`: expected true or false, got a string"),
    (
        leaf(dimension="provider", operator="~~", value="("),
        SCHEMA + "/conditions/0/value`: expected a regex in RE2's syntax",
    ),
    (
        leaf(dimension="provider", operator="~*", value="a" * 257),
        SCHEMA + "/conditions/0/value`: expected a regex of at most 256 bytes",
    ),
    (SPLIT | {"conditions": [without(LEAF, "value")]}, SCHEMA + "/conditions/0/value`: missing"),
    (SPLIT | {"conditions": [LEAF] * 17}, SCHEMA + "/conditions`: expected at most 16 comparisons"),
    (
        SPLIT | {"conditions": [DEEP]},
        SCHEMA + "/conditions/0/children/0/children/0/children/0`: conditions may be nested 3 deep at most",
    ),
    (
        SPLIT | {"conditions": [{"logic": "and", "children": []}]},
        SCHEMA + "/conditions/0/children`: expected at least one item",
    ),
    (
        schedule(timezone="Mars/Phobos"),
        SCHEMA + "/schedules/0/timezone`: expected the IANA name of a time zone, such as Europe/Vienna",
    ),
    (
        schedule(dates=["2026-01-01"]),
        SCHEMA + "/schedules/0`: exactly one of `days_of_week` and `dates` is required",
    ),
    (
        schedule(days_of_week=None),
        SCHEMA + "/schedules/0`: exactly one of `days_of_week` and `dates` is required",
    ),
    (
        schedule(days_of_week=None, dates=["2026-02-30"]),
        SCHEMA + "/schedules/0/dates/0`: expected a date, YYYY-MM-DD",
    ),
    (schedule(start_time="24:00"), SCHEMA + "/schedules/0/start_time`: expected a time, HH:MM"),
    (schedule(end_time="7:00"), SCHEMA + "/schedules/0/end_time`: expected a time, HH:MM"),
    (schedule(end_time="00:00"), SCHEMA + "/schedules/0/end_time`: must differ from `start_time`"),
    (schedule(days_of_week=[]), SCHEMA + "/schedules/0/days_of_week`: expected at least one item"),
]


@pytest.mark.parametrize(("tree", "said"), BAD)
def test_bad_policies(tree, said):
    (finding,) = built(tree)
    assert str(finding) == f'rate_limit_policies[0] ("p"): {said}'


def test_reserve_of_a_key_needs_a_token_limit():
    (finding,) = built(api_key={"rate_limit": {"rpm": 1, "reserve": True}})
    assert str(finding) == 'api_keys[0] ("me"): schema validation failed at `/rate_limit/reserve`: needs `tpm` or `tpd`'


FACTS = {
    "team": ("red",), "member": ("u1",), "api_key": ("k1",), "model": ("t", "g"), "model_name": ("small", "auto"),
    "provider": ("openai",),
}  # fmt: skip


def holds(facts=FACTS, **members):
    tree = SPLIT | {"conditions": [{"dimension": "team", "operator": "=="} | members]}
    return policy_of(tree).bucket(facts) is not None


def test_conditions():
    assert holds(value="red")
    assert not holds(value="blue")
    assert holds(value="blue", negate=True)
    assert holds(operator="~=", value="blue")
    assert holds(operator="in", value=["blue", "red"])
    assert not holds(operator="in", value=["blue", "red"], negate=True)


def test_a_dimension_that_is_lacking_makes_a_comparison_false_even_negated():
    assert not holds({}, value="red")
    assert not holds({}, value="red", negate=True)
    assert not holds({}, operator="~=", value="red")


def test_of_a_group_either_name_matches_and_both_must_differ():
    regex = {"dimension": "model_name", "operator": "~~"}
    assert holds(**regex, value="^sm")
    assert holds(**regex, value="^auto$")
    assert not holds(**regex, value="^SM")
    assert holds(dimension="model_name", operator="~*", value="^SM")
    assert holds(dimension="model_name", operator="~=", value="other")
    assert not holds(dimension="model_name", operator="~=", value="auto")
    assert not holds(dimension="model_name", operator="==", value="auto", negate=True)


def test_buckets():
    assert policy_of(CLASSIC).bucket(FACTS) == f"policy:team:red:{derived_id('rate_limit_policies', 'p')}"
    member = CLASSIC | {"scope": "team_member"}
    assert policy_of(member).bucket(FACTS).endswith(":u1")
    assert policy_of(member).bucket({"team": ("red",)}) is None
    assert policy_of(CLASSIC).bucket({"team": ("blue",)}) is None
    split = policy_of(SPLIT | {"group_by": ["model", "provider", "team"]})
    facts = FACTS | {"team": ("a:b=c%",)}
    assert split.bucket(facts) == f"policy:v2:{split.id}:team=a%3Ab%3Dc%25:model=t:provider=openai"
    assert split.bucket(without(facts, "provider")) is None
    assert split.of_models
    assert not policy_of(SPLIT).of_models


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def open_at(moment, **members):
    return policy_of(schedule(**members)).suspended(at(moment))


def test_schedules_of_week_days():
    assert open_at("2026-11-21T00:00")
    assert open_at("2026-11-21T23:59:59")
    assert not open_at("2026-11-22T00:00")
    assert not open_at("2026-11-20T23:59")
    assert not open_at("2026-11-21T07:59", start_time="08:00", end_time="09:00")
    assert open_at("2026-11-21T08:00", start_time="08:00", end_time="09:00")
    assert not open_at("2026-11-21T09:00", start_time="08:00", end_time="09:00")


def test_a_schedule_over_midnight_belongs_to_the_day_it_begins_on():
    night = {"start_time": "22:00", "end_time": "06:00"}
    assert not open_at("2026-11-21T05:00", **night)
    assert open_at("2026-11-21T22:00", **night)
    assert open_at("2026-11-22T05:59", **night)
    assert not open_at("2026-11-22T06:00", **night)
    assert not open_at("2026-11-22T22:00", **night)


def test_a_schedule_goes_by_the_wall_clock_of_its_zone():
    vienna = {"timezone": "Europe/Vienna", "start_time": "00:00", "end_time": "01:00"}
    assert open_at("2026-11-20T23:30", **vienna)  # winter: UTC+1
    assert not open_at("2026-11-20T22:30", **vienna)
    assert open_at("2026-07-17T22:30", **vienna)  # summer: UTC+2
    day = schedule(days_of_week=None, dates=["2026-12-25"])
    assert policy_of(day).suspended(at("2026-12-25T12:00"))
    assert not policy_of(day).suspended(at("2027-12-25T12:00"))


def test_utc_needs_no_tables():
    assert read_zone("UTC") is UTC
    assert Schedule(UTC, 0, 60, ("mon",)).is_open(at("2026-11-23T00:30"))


def test_policies_are_found_by_what_a_request_has_in_their_order():
    def classic(name, scope, ref):
        return RateLimitPolicy(id=name, name=name, scope=scope, scope_ref=ref, window="minute", max_requests=1)

    every = [
        classic("a", "model", "t"),
        RateLimitPolicy(id="b", name="b", limits=RateLimit(rpm=1), group_by=("provider",)),
        classic("c", "team", "red"),
        classic("d", "team", "blue"),
        classic("e", "team_member", "red"),
        classic("f", "member", "u1"),
        classic("g", "api_key", "k1"),
        classic("h", "model", "g"),  # the group, when the target is asked
    ]
    found = list(Policies(every).matching(FACTS, lambda policy: True))
    assert [policy.name for policy, _ in found] == list("abcefg")
    assert found[3][1] == "policy:team_member:red:e:u1"
    found = Policies(every).matching(FACTS, lambda policy: policy.of_models)
    assert [policy.name for policy, _ in found] == ["a", "b"]


def test_the_example_of_the_page_works():
    page = (Path(__file__).resolve().parents[2] / "docs/limits.md").read_text()
    first, conditions, single, sentinel = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    snapshot = build(yaml.safe_load(first), {}, now=0)
    assert isinstance(snapshot, Snapshot), [str(finding) for finding in snapshot]
    assert [policy.name for policy in snapshot.rate_limit_policies] == ["research-day", "each-member", "large-models"]
    assert snapshot.warnings == ()
    assert len(policy_of(SPLIT | yaml.safe_load(conditions)).conditions) == 2
    for block in (single, sentinel):
        boot = {"proxy": {"addr": "127.0.0.1:0"}, "resources_file": "r.yaml", **yaml.safe_load(block)}
        assert structure(boot, {}).ratelimit.backend == "redis"
