"""The boot file's `hooks`: good and bad entries, their form in the environment, and what cannot be imported."""

import json
import sys
from types import ModuleType

import pytest

from twisted_gateway.config.boot import structure
from twisted_gateway.config.hooking import HookEntry
from twisted_gateway.config.settings import SettingsError
from twisted_gateway.policies.hooks.loading import BadHook, load

PREFIX = "config load failed: failed to load configuration: "


def settings(hooks, environ=None):
    tree = {"proxy": {"addr": "127.0.0.1:3000"}, "resources_file": "r.yaml"}
    return structure(tree if hooks is None else {**tree, "hooks": hooks}, environ or {})


def refused(hooks, environ=None):
    with pytest.raises(SettingsError) as caught:
        settings(hooks, environ)
    return str(caught.value).removeprefix(PREFIX)


def test_defaults_and_good_values():
    assert settings(None).hooks == ()
    (found,) = settings([{"use": "mycompany.redact:Redact"}]).hooks
    assert found == HookEntry("mycompany.redact:Redact", None, {}, "fail", 5000)
    assert found.shown == "Redact"
    written = {"use": "a:b.C", "name": "c-1", "config": {"word": "x", "deep": [1, {}]}, "on_error": "skip"}
    (found,) = settings([{**written, "timeout_ms": 1}]).hooks
    assert (found.shown, found.on_error, found.timeout_ms, found.config) == ("c-1", "skip", 1, written["config"])
    assert "deep" not in repr(found)


def test_from_the_environment_as_one_json_array():
    written = [{"use": "a.b:C", "config": {"word": "1"}}]
    assert settings([{"use": "x:y"}], {"AISIX_HOOKS": json.dumps(written)}) == settings(written)
    assert settings([{"use": "x:y"}], {"AISIX_HOOKS": ""}).hooks == ()
    assert refused(None, {"AISIX_HOOKS": "a.b:C"}) == "deserialize: hooks: expected a JSON array (from AISIX_HOOKS)"
    told = "deserialize: hooks.0.use: unknown key (from AISIX_HOOKS__0__USE)"
    assert refused(None, {"AISIX_HOOKS__0__USE": "a:b"}) == told


TIME = "expected an integer from 1 to 2147483647"
NAME = "expected 1 to 64 letters, digits, '.', '_' and '-'"
USE = 'expected a dotted path such as "package.module:attribute"'


@pytest.mark.parametrize(
    ("hooks", "told"),
    [
        ({}, "deserialize: hooks: expected a list, got a mapping"),
        (["a:b"], "deserialize: hooks[0]: expected a mapping, got a string"),
        ([{}], "deserialize: hooks[0].use: missing"),
        ([{"use": "a.b"}], f"deserialize: hooks[0].use: {USE}"),
        ([{"use": "a/b:c"}], f"deserialize: hooks[0].use: {USE}"),
        ([{"use": ":c"}], f"deserialize: hooks[0].use: {USE}"),
        ([{"use": "a:b", "on_error": "stop"}], 'deserialize: hooks[0].on_error: expected "fail" or "skip"'),
        (
            [{"use": "a:b", "timeout_ms": 0}],
            f"deserialize: hooks[0].timeout_ms: {TIME}",
        ),
        ([{"use": "a:b", "config": []}], "deserialize: hooks[0].config: expected a mapping, got a list"),
        (
            [{"use": "a:b", "name": ""}],
            f"deserialize: hooks[0].name: {NAME}",
        ),
        (
            [{"use": "a:b", "x": 1}],
            "deserialize: hooks[0].x: unknown key (expected one of use, name, config, on_error, timeout_ms)",
        ),
        ([{"use": "a:b", "name": "guardrails"}], "hooks[0].name must not be the name of a built-in step: guardrails"),
        ([{"use": "a:b"}, {"use": "c:b"}], "hooks[1].name is used already: b"),
    ],
)
def test_bad_values(hooks, told):
    assert refused(hooks) == told


MISSING = "ModuleNotFoundError: No module named 'no_such'"


class Good:
    def __init__(self, **config):
        self.config = config

    def pre_call(self, call):
        """Nothing."""

    async def post_call(self, record):
        """Nothing."""


class Idle:
    pre_call = "not a method"


@pytest.fixture
def shop(monkeypatch):
    """A module that an operator might have."""
    made = ModuleType("shop_of_hooks")
    made.Good, made.Idle, made.number = Good, Idle, 7
    made.Only = type("Only", (), {"post_call": lambda self, record: None})
    monkeypatch.setitem(sys.modules, "shop_of_hooks", made)
    return made


def test_hooks_are_made_once_with_their_config(shop):
    entries = settings(
        [
            {"use": "shop_of_hooks:Good", "config": {"word": "x"}, "timeout_ms": 1500, "on_error": "skip"},
            {"use": "shop_of_hooks:Only"},
        ]
    ).hooks
    first, second = load(entries)
    assert first.pre_call.__self__.config == {"word": "x"}
    assert (first.name, first.seconds, first.skip, first.during) == ("Good", 1.5, True, None)
    assert not first.threaded
    assert second.threaded
    assert (second.pre_call, second.during) == (None, None)


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (
            "no_such.x:y",
            f"cannot import no_such.x: {MISSING}",
        ),
        ("shop_of_hooks:Nothing", "shop_of_hooks has no attribute Nothing"),
        ("shop_of_hooks:Good.Inner", "shop_of_hooks has no attribute Good.Inner"),
        ("shop_of_hooks:number", "shop_of_hooks:number cannot be called"),
        ("shop_of_hooks:Idle", "shop_of_hooks:Idle has none of pre_call, during and post_call"),
    ],
)
def test_hooks_that_cannot_be_had(shop, use, told):
    with pytest.raises(BadHook) as caught:
        load([HookEntry("shop_of_hooks:Good"), HookEntry(use)])
    assert str(caught.value) == f"hooks[1].use: {told}"


def test_a_config_that_does_not_fit(shop):
    with pytest.raises(BadHook, match=r"hooks\[0\].use: shop_of_hooks:Only failed with its config: TypeError: "):
        load([HookEntry("shop_of_hooks:Only", config={"word": "x"})])


def test_a_module_that_fails_to_import(tmp_path, monkeypatch):
    (tmp_path / "broken_hook_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    told = "hooks[0].use: cannot import broken_hook_module: ZeroDivisionError: division by zero"
    with pytest.raises(BadHook) as caught:
        load([HookEntry("broken_hook_module:X")])
    assert str(caught.value) == told
