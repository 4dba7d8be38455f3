"""Groups of targets and what is set on targets: records, defaults, refusals, references."""

import re
from pathlib import Path

import pytest
import yaml

from twisted_gateway.config.boot import structure
from twisted_gateway.config.resources import Group, Model
from twisted_gateway.config.routes import BackgroundCheck, Cooldown, HashSource, Hedge, RetryBudget, RouteTarget
from twisted_gateway.config.settings import SettingsError
from twisted_gateway.config.snapshot import Snapshot, build

from .test_resources import SCHEMA

CHECK = {
    "enabled": True,
    "interval_seconds": 5,
    "timeout_seconds": 1,
    "prompt": "ping",
    "max_tokens": 1,
    "stale_after_seconds": 60,
}


def document(routing, **members):
    return {
        "_format_version": "1",
        "provider_keys": [{"display_name": "prod", "provider": "openai", "api_key": "k"}],
        "models": [
            {"display_name": "a", "provider": "openai", "model_name": "x", "provider_key": "prod"},
            {"display_name": "g", "routing": routing} | members,
        ],
        "api_keys": [{"display_name": "me", "key": "s", "allowed_models": ["g"]}],
    }


def load(routing, **members):
    built = build(document(routing, **members), {}, now=0.0)
    assert isinstance(built, Snapshot), [str(one) for one in built]
    return built


def refused(routing, **members):
    built = build(document(routing, **members), {}, now=0.0)
    assert not isinstance(built, Snapshot)
    return [str(one).removeprefix('models[1] ("g"): ') for one in built]


def model(**members):
    tree = document({"targets": [{"model": "a"}]})
    tree["models"][0].update(members)
    built = build(tree, {}, now=0.0)
    return built.models_by_name["a"] if isinstance(built, Snapshot) else str(built[0])


def test_a_group_with_nothing_but_targets():
    snapshot = load({"targets": [{"model": "a"}]})
    group = snapshot.models_by_name["g"]
    assert isinstance(group, Group)
    routing = group.routing
    assert routing.targets == (RouteTarget("a", 1, 0, ()),)
    assert (routing.strategy, routing.retries, routing.max_fallbacks) == ("failover", None, None)
    assert (routing.retry_on_429, routing.fallback_on_statuses, routing.when_all_unavailable) == (False, (), "fail")
    assert routing.hash_on == (HashSource("header", "x-aisix-routing-key"), HashSource("api_key"))
    assert routing.hedge is None
    assert (group.provider, group.streaming, group.is_wildcard, group.admits("10.0.0.1")) == ("", True, False, True)
    resolution = snapshot.resolve("g")
    assert (resolution.model, resolution.upstream_model, resolution.wildcard) == (group, "", False)
    assert [one.display_name for one in snapshot.direct_models] == ["a"]
    assert snapshot.resource_counts["models"] == 2


def test_everything_a_group_may_say():
    target = {"model": "a", "weight": 3, "priority": -2, "tags": ["eu", "default"]}
    routing = {
        "strategy": "consistent_hash",
        "targets": [target],
        "retries": 1,
        "max_fallbacks": 0,
        "retry_on_429": True,
        "fallback_on_statuses": [404, 599],
        "when_all_unavailable": "try_anyway",
        "hash_on": [{"type": "cookie", "name": "sid"}, {"type": "client_ip"}],
        "hedge": {"after_ms": 250},
    }
    group = load(
        routing,
        timeout=0,
        stream_timeout=5,
        first_event_timeout=6,
        throughput_floor={"tokens_per_second": 1},
        allowed_cidrs=["10.0.0.0/8"],
    ).models_by_name["g"]
    assert group.routing.targets == (RouteTarget("a", 3, -2, ("eu", "default")),)
    assert group.routing.hedge == Hedge(250, 0.1)
    assert group.routing.hash_on[1] == HashSource("client_ip", None)
    assert (group.timeout, group.stream_timeout, group.first_event_timeout) == (0, 5, 6)
    assert (group.throughput_floor.tokens_per_second, group.throughput_floor.window_secs) == (1.0, 10.0)
    assert (group.admits("10.1.2.3"), group.admits("11.0.0.1")) == (True, False)


BAD = [  # routing, other members, message
    ({}, {}, SCHEMA + "`/routing/targets`: missing"),
    ({"targets": []}, {}, SCHEMA + "`/routing/targets`: expected a list of at least one member"),
    ({"targets": "a"}, {}, SCHEMA + "`/routing/targets`: expected a list, got a string"),
    ({"targets": [{}]}, {}, SCHEMA + "`/routing/targets/0/model`: missing"),
    (
        {"targets": [{"model": "a", "weight": -1}]},
        {},
        SCHEMA + "`/routing/targets/0/weight`: expected an integer of at least 0",
    ),
    (
        {"targets": [{"model": "a", "x": 1}]},
        {},
        SCHEMA + "`/routing/targets/0/x`: unknown key (expected one of model, weight, priority, tags)",
    ),
    (
        {"strategy": "weighted", "targets": [{"model": "a"}]},
        {},
        SCHEMA + '`/routing/strategy`: expected "failover" or "round_robin" or "consistent_hash" or "least_cost" or '
        '"least_latency" or "least_busy"',
    ),
    (
        {"targets": [{"model": "a"}], "fallback_on_statuses": [399]},
        {},
        SCHEMA + "`/routing/fallback_on_statuses/0`: expected an integer from 400 to 599",
    ),
    (
        {"targets": [{"model": "a"}], "hash_on": []},
        {},
        SCHEMA + "`/routing/hash_on`: expected a list of at least one member",
    ),
    ({"targets": [{"model": "a"}], "hedge": {}}, {}, SCHEMA + "`/routing/hedge/after_ms`: missing"),
    (
        {"targets": [{"model": "a"}], "hedge": {"after_ms": 0}},
        {},
        SCHEMA + "`/routing/hedge/after_ms`: expected an integer from 1 to 2147483647",
    ),
    (
        {"targets": [{"model": "a"}], "hedge": {"after_ms": 1, "max_extra_ratio": 1.1}},
        {},
        SCHEMA + "`/routing/hedge/max_extra_ratio`: expected a number of at least 0 and at most 1",
    ),
    ({"targets": [{"model": "a"}]}, {"retries": 1, "cost": {}}, "`retries`, `cost` not accepted on a model group"),
    ({"targets": [{"model": "a"}]}, {"streaming": True}, "`streaming` not accepted on a model group"),
    ({"targets": [{"model": "a"}]}, {"embedding": {"x": 1}}, "`embedding` not accepted on a model group"),
    ({"targets": []}, {"retries": 1}, SCHEMA + "`/routing/targets`: expected a list of at least one member"),
    (
        {"targets": [{"model": "a"}]},
        {"provider": "openai", "provider_key": "prod"},
        "`provider`, `provider_key` beside `routing`: a model is either direct or a group",
    ),
    ({"targets": [{"model": "a"}]}, {"timeout": None}, SCHEMA + "`/timeout`: null is not allowed"),
    (
        {"targets": [{"model": "a"}, {"model": "b"}]},
        {},
        '`routing.targets[1].model` references unknown model "b" (defined models: a, g)',
    ),
    (
        {"targets": [{"model": "a"}]},
        {"throughput_floor": {"tokens_per_second": 0}},
        SCHEMA + "`/throughput_floor/tokens_per_second`: expected a number above 0",
    ),
    (
        {"targets": [{"model": "a"}]},
        {"throughput_floor": {"tokens_per_second": 1, "window_secs": 0.5}},
        SCHEMA + "`/throughput_floor/window_secs`: expected a number of at least 1 and at most 2.14748e+06",
    ),
]


@pytest.mark.parametrize(("routing", "members", "message"), BAD)
def test_bad_groups(routing, members, message):
    assert refused(routing, **members) == [message]


def test_a_pattern_as_a_target_is_not_checked():
    load({"targets": [{"model": "a"}, {"model": "vendor/*"}]})


def test_what_is_set_on_targets():
    plain = model()
    assert isinstance(plain, Model)
    assert (plain.retries, plain.cost, plain.background_model_check, plain.throughput_floor) == (None,) * 4
    assert plain.cooldown == Cooldown(True, 30, 600, True, (401, 408, 429, 500, 502, 503, 504), True, True)
    assert model(retries=0).retries == 0
    assert model(cooldown={"default_seconds": 0}).cooldown.default_seconds == 0
    assert model(background_model_check=CHECK).background_model_check == BackgroundCheck(True, 5, 1, "ping", 1, 60, ())


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"retries": -1}, "`/retries`: expected an integer from 0 to 1000"),
        ({"cooldown": {"max_seconds": 0}}, "`/cooldown/max_seconds`: expected an integer from 1 to 2147483"),
        (
            {"cooldown": {"trigger_statuses": [99]}},
            "`/cooldown/trigger_statuses/0`: expected an integer from 100 to 599",
        ),
        (
            {"background_model_check": {**CHECK, "interval_seconds": 4}},
            "`/background_model_check/interval_seconds`: expected an integer from 5 to 2147483",
        ),
        ({"background_model_check": {"enabled": True}}, "`/background_model_check/interval_seconds`: missing"),
    ],
)
def test_bad_settings_of_targets(members, message):
    assert model(**members) == f'models[0] ("a"): {SCHEMA}{message}'


def boot(**upstream):
    return structure({"proxy": {"addr": "127.0.0.1:1"}, "resources_file": "r", "upstream": upstream}, {}).upstream


def test_the_retry_budget():
    assert boot().retry_budget == RetryBudget(0.1, 50, 10.0)
    assert boot(retry_budget={"ratio": 0, "min_retries": 3, "window_secs": 1}).retry_budget == RetryBudget(0.0, 3, 1.0)
    assert boot(retry_budget=None).retry_budget is None
    tree = {"proxy": {"addr": "127.0.0.1:1"}, "resources_file": "r"}
    assert structure(tree, {"AISIX_UPSTREAM__RETRY_BUDGET__RATIO": "0.5"}).upstream.retry_budget.ratio == 0.5
    with pytest.raises(SettingsError, match=r"upstream\.retry_budget\.ratio: expected a number of at least 0"):
        boot(retry_budget={"ratio": -1})
    with pytest.raises(SettingsError, match=r"upstream\.retry_budget\.x: unknown key"):
        boot(retry_budget={"x": 1})


def test_the_example_of_the_docs_loads():
    text = (Path(__file__).resolve().parents[2] / "docs/routing.md").read_text()
    example = yaml.safe_load(re.findall(r"```yaml\n(models:.*?)```", text, re.DOTALL)[0])
    keys = [{"display_name": name, "provider": name, "api_key": "k"} for name in ("openai", "anthropic")]
    built = build({"_format_version": "1", "provider_keys": keys, **example}, {}, now=0.0)
    assert isinstance(built, Snapshot), [str(one) for one in built]
    assert built.models_by_name["best"].routing.hedge == Hedge(3000)
