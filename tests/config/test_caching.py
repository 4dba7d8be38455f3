"""Cache policies of the resources file, and which one a call gets."""

import pytest

from twisted_gateway.config.caching import CachePolicy, chosen, ranked
from twisted_gateway.config.resources import derived_id
from twisted_gateway.config.snapshot import Snapshot, build


def built(*policies):
    return build({"_format_version": "1", "cache_policies": list(policies)}, {}, now=0.0)


def finding(policy):
    (found,) = built(policy)
    return str(found)


def test_defaults_and_good_values():
    snapshot = built({"name": "a"})
    assert isinstance(snapshot, Snapshot)
    assert snapshot.cache_policies == (
        CachePolicy(derived_id("cache_policies", "a"), "a", True, "memory", 3600, "all", "api_key", 0),
    )
    assert snapshot.resource_counts == {"cache_policies": 1}
    written = {
        "name": "b", "enabled": False, "backend": "redis", "ttl_seconds": 604800, "applies_to": "model:gpt",
        "scope": "env", "purge_generation": 3,
    }  # fmt: skip
    (policy,) = built(written).cache_policies
    assert {name: getattr(policy, name) for name in written} == written


def test_unknown_members_pass_at_the_root_of_this_kind():
    assert built({"name": "a", "note": "mine"}).cache_policies[0].name == "a"
    assert built({"name": "a", "semantic": {}}).cache_policies[0].name == "a"


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({}, "`name` is required and must be a non-empty string"),
        ({"name": "a", "id": "x"}, "`id` is not accepted: ids are derived from names"),
        ({"name": "x" * 121}, "schema validation failed at `/name`: expected 1 to 120 characters"),
        ({"name": "a", "ttl_seconds": 0}, "at `/ttl_seconds`: expected an integer from 1 to 604800"),
        ({"name": "a", "ttl_seconds": 604801}, "at `/ttl_seconds`: expected an integer from 1 to 604800"),
        ({"name": "a", "ttl_seconds": None}, "at `/ttl_seconds`: null is not allowed"),
        ({"name": "a", "backend": "disk"}, 'at `/backend`: expected "memory" or "redis"'),
        ({"name": "a", "scope": "team"}, 'at `/scope`: expected "api_key" or "env"'),
        ({"name": "a", "applies_to": ""}, "at `/applies_to`: expected 1 to 255 characters"),
        ({"name": "a", "enabled": "yes"}, "at `/enabled`: expected true or false, got a string"),
        ({"name": "a", "purge_generation": -1}, "at `/purge_generation`: expected an integer of at least 0"),
        ({"name": "a", "semantic": {"threshold": 0.9}}, "`semantic` is known but not available in this version"),
    ],
)
def test_bad_values(policy, told):
    assert told in finding(policy)


def test_names_are_unique():
    (found,) = built({"name": "a"}, {"name": "a"})
    assert "`name` is already used by cache_policies[0]" in str(found)


def policies(*applies, **more):
    return ranked(CachePolicy(name, name, applies_to=meant, **more) for name, meant in applies)


def name_for(found, model="gpt", key="k1"):
    policy = chosen(found, model, key)
    return policy and policy.name


def test_the_most_specific_policy_counts_then_the_name():
    several = policies(("b", "all"), ("a", "all"), ("m", "model:gpt"), ("k", "api_key:k1"))
    assert name_for(several) == "k"
    assert name_for(several, key="k2") == "m"
    assert name_for(several, model="other", key="k2") == "a"
    assert name_for(policies(("m", "model:gpt")), model="other") is None
    assert name_for(policies(("off", "all"), enabled=False)) is None


@pytest.mark.parametrize("meant", ["all", "everything", "model", "team:gpt", ":", "api_key"])
def test_any_other_text_means_all(meant):
    assert name_for(policies(("a", meant)), model="", key="") == "a"


def test_a_name_with_a_colon_in_it():
    assert name_for(policies(("a", "model:openai/gpt:4")), model="openai/gpt:4") == "a"
