"""Files: formats, lines, hostile input, the shipped configuration."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twisted_gateway.addresses import Address
from twisted_gateway.config import file
from twisted_gateway.config.boot import structure
from twisted_gateway.config.file import Unreadable, load_resources, load_settings, read_yaml
from twisted_gateway.config.report import ResourcesError
from twisted_gateway.config.settings import SettingsError
from twisted_gateway.config.snapshot import build

CONF = Path(__file__).parents[2] / "conf"
BOOT = {"proxy": {"addr": "127.0.0.1:1"}, "resources_file": "r"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "proxy: {addr: '127.0.0.1:1'}\nresources_file: r\n"),
        ("a.yml", "\ufeff" + json.dumps(BOOT)),
        ("a.json", json.dumps(BOOT)),
        ("a.toml", 'resources_file = "r"\n[proxy]\naddr = "127.0.0.1:1"\n'),
    ],
)
def test_formats(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert load_settings(str(tmp_path / name), {}).proxy.addr == Address("127.0.0.1", 1)


def test_yaml_words_and_lines():
    tree, lines = read_yaml(
        "a: no\nb: 2030-01-01\nc: [1, 0x10, -.5, 1e3, ~, true, '1', !!str 2]\nd:\n  e: |\n    x\nf: x\n"
    )
    assert tree == {
        "a": "no",
        "b": "2030-01-01",
        "c": [1, 16, -0.5, 1000.0, None, True, "1", "2"],
        "d": {"e": "x\n"},
        "f": "x",
    }
    assert (lines[("d", "e")], lines[("c", 1)], lines[("f",)]) == (5, 3, 7)
    assert read_yaml("a: &x {b: [1]}\nc: *x\n")[0] == {"a": {"b": [1]}, "c": {"b": [1]}}


HOSTILE = {
    "a: 1\na: 2": "duplicate key `a` (line 2)",
    "a: &x [*x]": "unknown or recursive alias *x (line 1)",
    "a: *x": "unknown or recursive alias *x (line 1)",
    "a: 1\n---\nb: 2": "more than one document (line 2)",
    "[" * 100000: "nested deeper than 64 (line 1)",
    "a: " + "{a: " * 100: "nested deeper than 64 (line 1)",
    "? [1]\n: 2": "a key must be a plain word (line 1)",
    "a: !!python/object:os.system x": "tags are not accepted (line 1)",
    "a: !x {}": "tags are not accepted (line 1)",
    "a: [": "not YAML",
    "a:\n\t- x": "not YAML",
    "a: \x00": "not YAML",
    "%YAML 9.9\n---\na": "not YAML",
}


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_yaml(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as boot:
        load_settings(str(path), {})
    assert str(boot.value).startswith(
        f"config load failed: failed to load configuration: build: {path}: {HOSTILE[text]}"
    )
    with pytest.raises(ResourcesError) as resources:
        load_resources(str(path), {}, 0.0)
    assert str(resources.value).startswith(f"resources file {path}: 1 error(s):\n  - (file): {HOSTILE[text]}")
    assert (resources.value.stage, resources.value.findings[0].reason) == ("parse", "non_json")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!?|>'\"#%\n\t 1~,\x00\u2028", max_size=60))
def test_any_text_gives_a_tree_or_a_sentence(text):
    try:
        tree, lines = read_yaml(text)
    except Unreadable:
        return
    build(tree, {}, now=0.0, lines=lines)
    with pytest.raises(SettingsError):
        structure(tree, {}, lines=lines)


def test_alias_bomb(monkeypatch):
    monkeypatch.setattr(file, "MOST_VALUES", 20000)
    text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    with pytest.raises(Unreadable, match="more than 20000 values"):
        read_yaml(text)


BAD_FILES = [
    ("x.json", b"{", "not JSON"),
    ("x.json", b'{"a": 1, "a": 2}', "duplicate key `a`"),
    ("x.json", b'{"a": NaN}', "not JSON"),
    ("x.json", b"[" * 200000, "nested deeper"),
    ("x.json", b"[" * 70 + b"]" * 70, "nested deeper"),
    ("x.json", b"[" + b"9" * 5000 + b"]", ""),
    ("x.toml", b"a =", "not TOML"),
    ("x.toml", b"a = " + b"[" * 100000, ""),
    ("x.yaml", b"\xff\xfe\x00", "not UTF-8 text (line 1)"),
    ("x.ini", b"", "the name must end in"),
]


@pytest.mark.parametrize(("name", "raw", "message"), BAD_FILES)
def test_bad_files(tmp_path, name, raw, message):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        load_settings(str(tmp_path / name), {})
    assert f"build: {tmp_path / name}: " in str(caught.value)


def test_unreadable(tmp_path):
    (tmp_path / "dir.yaml").mkdir()
    for path, reason in (
        ("gone.yaml", "No such file or directory"),
        ("dir.yaml", "Is a directory"),
        ("a\0.yaml", "not a usable path"),
    ):
        with pytest.raises(SettingsError, match=f"cannot read: {reason}"):
            load_settings(str(tmp_path / path), {})
        with pytest.raises(ResourcesError, match=f"cannot read: {reason}") as caught:
            load_resources(str(tmp_path / path), {}, 0.0)
        assert caught.value.stage == "fetch"
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(SettingsError, match="deserialize: proxy: missing"):
        load_settings(str(tmp_path / "empty.yaml"), {})


def test_lines_in_errors(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("resources_file: r\nproxy:\n  addr: '127.0.0.1:1'\n  adress: x\n")
    with pytest.raises(
        SettingsError, match=re.escape("deserialize: proxy.adress: unknown key (expected one of addr,")
    ) as caught:
        load_settings(str(path), {})
    assert str(caught.value).endswith(f" ({path}, line 4)")


def test_non_string_keys(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("proxy:\n  addr: '127.0.0.1:1'\n  1: x\n")
    with pytest.raises(SettingsError, match="deserialize: proxy: every key must be a string"):
        load_settings(str(path), {})


def uncommented(text):
    return re.sub(r"(?m)^(\s+)# (?=\s*(- )?[a-z_]+:)", r"\1", text)


def test_shipped_boot_file(tmp_path):
    read = load_settings(str(CONF / "aisix.yaml"), {})
    assert (str(read.proxy.addr), read.resources_file, read.demo.enabled) == (
        "127.0.0.1:3000",
        "conf/resources.yaml",
        True,
    )
    assert (read.upstream.stream_timeout_ms, read.upstream.first_event_timeout_ms) == (30000, 120000)
    assert (read.downstream.idle_timeout_secs, read.shutdown.min_drain_secs, read.admin.enabled) == (75, 0, False)
    assert str(read.observability.metrics.prometheus.addr) == "127.0.0.1:9090"
    (tmp_path / "all.yaml").write_text(uncommented((CONF / "aisix.yaml").read_text()))
    everything = load_settings(str(tmp_path / "all.yaml"), {})
    assert everything.proxy.cors.allow_origins == ("https://chat.example.com",)
    assert everything.proxy.tls.cert_file == "/etc/aisix/cert.pem"
    assert len(everything.proxy.real_ip.trusted_proxies) == 1


def test_shipped_resources(tmp_path):
    path = CONF / "resources.yaml"
    snapshot = load_resources(str(path), {}, 7.0, generation=3)
    assert snapshot.config_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (snapshot.generation, snapshot.applied_at) == (3, 7.0)
    assert set(snapshot.models_by_name) == {
        *("gpt-4o-prod", "my-gpt4-mini", "auto-cheap"),
        *("openai/gpt-4-turbo", "openai/gpt-5", "deepseek/deepseek-chat", "anthropic/claude-opus"),
    }
    assert snapshot.published_keys(7.0) == ("my-app", "my-other-app")
    (tmp_path / "all.yaml").write_text(uncommented(path.read_text()))
    environ = {f"{name}_API_KEY": "x" for name in ("OPENAI", "ANTHROPIC", "DEEPSEEK", "LOCAL")}
    everything = load_resources(str(tmp_path / "all.yaml"), environ, 0.0)
    assert everything.resource_counts == {"models": 13, "api_keys": 2, "provider_keys": 5}
    assert everything.resolve("openai/gpt-4o-mini").upstream_model == "gpt-4o-mini"
