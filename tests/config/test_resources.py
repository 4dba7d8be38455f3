"""The resources document: records, rewriting, strictness, aggregation with lines, references, secrets."""

import hashlib

import pytest

from twisted_gateway.config import resources, unavailable
from twisted_gateway.config.file import read_yaml
from twisted_gateway.config.interpolation import Unresolved, interpolated
from twisted_gateway.config.report import ResourcesError
from twisted_gateway.config.resources import COLLECTIONS, derived_id, read_time, star_capture
from twisted_gateway.config.snapshot import Snapshot, build

ENV = {"KEY": "sk-plain", "EMPTY": "", "ODD": "a${b}"}


def document(model=None, provider_key=None, api_key=None, **top):
    return {
        "_format_version": "1",
        "provider_keys": [{"display_name": "prod", "provider": "openai", "api_key": "${KEY}"} | (provider_key or {})],
        "models": [
            {"display_name": "m", "provider": "openai", "model_name": "gpt", "provider_key": "prod"} | (model or {})
        ],
        "api_keys": [{"display_name": "me", "key": "caller-secret", "allowed_models": ["m"]} | (api_key or {})],
        **top,
    }


def load(tree=None, lines=None, **parts):
    built = build(document(**parts) if tree is None else tree, ENV, now=5.0, lines=lines)
    assert isinstance(built, Snapshot), [str(finding) for finding in built]
    return built


def findings(tree=None, lines=None, **parts):
    built = build(document(**parts) if tree is None else tree, ENV, now=5.0, lines=lines)
    assert not isinstance(built, Snapshot)
    text = str(ResourcesError("f", built, stage="validate"))
    for secret in ("sk-plain", "caller-secret", "hidden"):
        assert secret not in text
    return [str(finding) for finding in built]


def test_records_are_linked_and_hide_secrets():
    snapshot = load(
        provider_key={
            "request": {"default_headers": {"x-a": "hidden"}, "default_body_fields": {"k": "hidden"}},
            "api_base": "https://user:hidden@host/v1",
            "tls": {"ca_cert": "hidden"},
            "timeout_ms": 5,
        }
    )
    model = snapshot.models_by_name["m"]
    assert model.provider_key is snapshot.provider_keys_by_name["prod"]
    assert (model.provider_key.api_key, model.provider_key.timeout_ms, model.streaming) == ("sk-plain", 5, True)
    key = snapshot.caller_keys_by_hash[hashlib.sha256(b"caller-secret").hexdigest()]
    assert (key.name, key.id) == ("me", derived_id("api_keys", "me"))
    assert model.id == derived_id("models", "m")
    shown = repr((snapshot, model, key, dict(snapshot.caller_keys_by_hash).values()))
    for secret in ("sk-plain", "caller-secret", "hidden", key.key_hash):
        assert secret not in repr((snapshot, model, key))
    assert "host/v1" in shown
    assert (snapshot.generation, snapshot.applied_at) == (1, 5.0)
    assert snapshot.resource_counts == {"models": 1, "api_keys": 1, "provider_keys": 1}


def test_derived_ids():
    assert derived_id("models", "gpt-4o") == "6efd592d-a73b-573d-8e2c-e9e103692f92"


def test_empty_is_fine():
    snapshot = load({"_format_version": "1", "models": None, "guardrails": [], "budgets": None})
    assert snapshot.resource_counts == {}


SPELLINGS = [
    ("provider_key", {"api_key": None, "secret": "s"}),
    ("model", {"provider_key_id": derived_id("provider_keys", "prod")}),
    ("api_key", {"key_env": "KEY"}),
    ("api_key", {"key_hash": "a" * 64}),
]


@pytest.mark.parametrize(("kind", "change"), SPELLINGS)
def test_spellings(kind, change):
    tree = document()
    entry = tree[kind + "s"][0]
    for key in ("secret", "provider_key", "key"):
        if key in entry and kind != "provider_key":
            del entry[key]
    entry.update(change)
    if entry.get("api_key", 1) is None:
        del entry["api_key"]
    load(tree)


SCHEMA = "schema validation failed at "
BAD = [  # entry, change, the message after the label
    ("provider_key", {"id": "x"}, "`id` is not accepted: ids are derived from names"),
    (
        "provider_key",
        {"api_key": ""},
        SCHEMA + "`/api_key`: expected a non-empty string without control characters, for a header",
    ),
    (
        "provider_key",
        {"api_key": "sk-\u0142"},
        SCHEMA + "`/api_key`: expected a non-empty string without control characters, for a header",
    ),
    (
        "provider_key",
        {"api_key": "sk-\n"},
        SCHEMA + "`/api_key`: expected a non-empty string without control characters, for a header",
    ),
    ("provider_key", {"api_key": None}, SCHEMA + "`/api_key`: missing"),
    ("provider_key", {"secret": "x"}, "`secret` is the older name of `api_key`: give only one of them"),
    ("provider_key", {"adapter": "grpc"}, SCHEMA + '`/adapter`: expected "openai" or "anthropic" or "azure-openai"'),
    ("provider_key", {"adapter": "bedrock"}, "`adapter: bedrock` is known but not available in this version"),
    ("provider_key", {"timeout_ms": -1}, SCHEMA + "`/timeout_ms`: expected an integer from 0 to 2147483647"),
    (
        "provider_key",
        {"request": {"x": 1}},
        SCHEMA + "`/request/x`: unknown key (expected one of default_headers, "
        "forward_client_headers, default_body_fields, param_renames, param_constraints, forward_anthropic_headers)",
    ),
    (
        "provider_key",
        {"request": {"default_headers": {"a/b": 1}}},
        SCHEMA + "`/request/default_headers/a~1b`: expected a string, got an integer",
    ),
    (
        "provider_key",
        {"response": {"stream_done_marker": "maybe"}},
        SCHEMA + '`/response/stream_done_marker`: expected "required" or "optional" or "none"',
    ),
    ("provider_key", {"tls": {"verify": "yes"}}, SCHEMA + "`/tls/verify`: expected true or false, got a string"),
    ("model", {"provider": "Open AI"}, SCHEMA + "`/provider`: expected 1 to 64 of a-z, 0-9, '.', '_' and '-'"),
    ("model", {"model_name": None}, SCHEMA + "`/model_name`: null is not allowed"),
    ("model", {"timeout": "5"}, SCHEMA + "`/timeout`: expected an integer, got a string"),
    ("model", {"streaming": 1}, SCHEMA + "`/streaming`: expected true or false, got an integer"),
    ("model", {"allowed_cidrs": "10.0.0.0/8"}, SCHEMA + "`/allowed_cidrs`: expected a list"),
    ("model", {"provider_key": 5}, SCHEMA + "`/provider_key`: expected a string, got an integer"),
    ("model", {"provider_key_id": "x"}, "`provider_key` and `provider_key_id` exclude each other"),
    (
        "model",
        {"provider_key": "stage"},
        '`provider_key` references unknown provider key "stage" (defined provider keys: prod)',
    ),
    ("model", {"completions_via_chat": 1}, SCHEMA + "`/completions_via_chat`: expected true or false, got an integer"),
    ("model", {"default_max_tokens": 0}, SCHEMA + "`/default_max_tokens`: expected an integer of at least 1"),
    ("model", {"thinking_style": "x"}, SCHEMA + '`/thinking_style`: expected "adaptive" or "budget" or "none"'),
    ("api_key", {"key_env": "KEY"}, "exactly one of `key`, `key_env` and `key_hash` is required"),
    ("api_key", {"key": ""}, "`key` must not be empty"),
    ("api_key", {"key": "$${KEY}"}, "`key`: the key must not hold `${` (a variable that was not filled in?)"),
    ("api_key", {"key": None, "key_env": "EMPTY"}, "`key_env`: environment variable `EMPTY` is empty"),
    ("api_key", {"key": None, "key_env": "GONE"}, "`key_env`: environment variable `GONE` is not set"),
    (
        "api_key",
        {"key": None, "key_env": "ODD"},
        "`key_env`: the key must not hold `${` (a variable that was not filled in?)",
    ),
    (
        "api_key",
        {"key": None, "key_hash": "hidden"},
        SCHEMA + "`/key_hash`: expected 64 lower-case hexadecimal characters",
    ),
    ("api_key", {"key": 7}, SCHEMA + "`/key`: expected a string, got an integer"),
    ("api_key", {"allowed_models": ["x"]}, '`allowed_models` references unknown model "x" (defined models: m)'),
    ("api_key", {"allowed_models": None}, SCHEMA + "`/allowed_models`: missing"),
    ("api_key", {"allowed_models": [1]}, SCHEMA + "`/allowed_models/0`: expected a string, got an integer"),
    (
        "api_key",
        {"expires_at": "tomorrow"},
        SCHEMA + "`/expires_at`: expected an RFC 3339 time such as 2030-01-31T12:00:00Z",
    ),
    ("api_key", {"team_id": ""}, SCHEMA + "`/team_id`: expected a non-empty string"),
    ("api_key", {"rate_limit": {"rpm": -1}}, SCHEMA + "`/rate_limit/rpm`: expected an integer of at least 0"),
    ("api_key", {"user_name": "${GONE}"}, "field `user_name`: environment variable `GONE` is not set"),
    (
        "api_key",
        {"allowed_models": ["a", "${"]},
        "field `allowed_models[1]`: `${` without `}` (write `$$` for a dollar)",
    ),
    ("api_key", {5: 1}, "every key must be a string"),
]


@pytest.mark.parametrize(("kind", "change", "message"), BAD)
def test_bad_entries(kind, change, message):
    tree = document(**{kind: change})
    name = tree[kind + "s"][0]["display_name"]
    assert findings(tree, {(kind + "s", 0): 4}) == [f'{kind}s[0] ("{name}"): {message} (line 4)']


@pytest.mark.parametrize("field", unavailable.FIELDS["models"])
def test_unavailable_model_fields(field):
    assert findings(model={field: {"x": 1}}) == [
        f'models[0] ("m"): `{field}` is known but not available in this version'
    ]


@pytest.mark.parametrize("field", unavailable.FIELDS["api_keys"])
def test_unavailable_key_fields(field):
    assert "not available" in findings(api_key={field: ["x"]})[0]
    load(api_key={field: None})
    load(api_key={field: []})


@pytest.mark.parametrize("name", unavailable.COLLECTIONS)
def test_unavailable_collections(name):
    assert findings(**{name: [{}]}) == [f"(file): `{name}` is known but not available in this version"]


FILE = [
    ({}, '(file): `_format_version` is missing (expected `_format_version: "1"`)'),
    ({"_format_version": 1}, '(file): `_format_version` must be the string "1", got an integer'),
    ({"_format_version": "2"}, '(file): `_format_version` is not supported (expected "1")'),
    (
        {"_format_version": "1", "modelz": []},
        f"(file): unknown top-level key `modelz` (expected _format_version, {', '.join(COLLECTIONS)})",
    ),
    ({"_format_version": "1", "models": {}}, "(file): `models` must be a list, got a mapping"),
    ({"_format_version": "1", "models": ["x"]}, "models[0]: expected a mapping, got a string"),
    ({"_format_version": "1", "models": [{}]}, "models[0]: `display_name` is required and must be a non-empty string"),
    ({"_format_version": "1", 3: 1}, "(file): every top-level key must be a string, got an integer"),
    ([], "(file): expected a mapping, got a list"),
]


@pytest.mark.parametrize(("tree", "message"), FILE)
def test_file_level(tree, message):
    assert findings(tree) == [message]


def test_empty_file():
    assert [str(found) for found in build(None, {}, now=0)] == ["(file): the file is empty"]


def test_all_errors_in_order_with_lines():
    tree, lines = read_yaml("""
_format_version: "1"
modelz: []
provider_keys:
  - display_name: prod
    api_key: ${GONE}
models:
  - display_name: a
    provider: openai
    model_name: x
    provider_key: prod
  - {display_name: a}
  - display_name: b
    provider: openai
    model_name: x
    provider_key: stage
api_keys:
  - {display_name: one, key: same, allowed_models: [a, "p/*"]}
  - display_name: two
    key: same
    allowed_models:
      - a
      - c
""")
    assert findings(tree, lines) == [
        f"(file): unknown top-level key `modelz` (expected _format_version, {', '.join(COLLECTIONS)}) (line 3)",
        'provider_keys[0] ("prod"): field `api_key`: environment variable `GONE` is not set (line 6)',
        "models[1]: `display_name` is already used by models[0] (line 12)".replace("models[1]", 'models[1] ("a")'),
        'models[2] ("b"): `provider_key` references unknown provider key "stage" (defined provider keys: prod) (line 16)',  # noqa: E501
        'api_keys[1] ("two"): `allowed_models` references unknown model "c" (defined models: a, b) (line 23)',
        'api_keys[1] ("two"): duplicate api key credential: the same key as "one" (line 19)',
    ]


INTERPOLATION = [
    ("${A}", "one"),
    ("x${A}y${A}", "xoneyone"),
    ("$$", "$"),
    ("$${A}", "${A}"),
    ("$$${A}", "$one"),
    ("$A", "$A"),
    ("a$", "a$"),
    ("$", "$"),
    ("", ""),
    ("${B}", "${A}"),
]


@pytest.mark.parametrize(("written", "result"), INTERPOLATION)
def test_interpolation(written, result):
    assert interpolated(written, {"A": "one", "B": "${A}"}) == result


@pytest.mark.parametrize("written", ["${", "${}", "x${A", "${GONE}", "${E}"])
def test_bad_interpolation(written):
    with pytest.raises(Unresolved):
        interpolated(written, {"A": "one", "E": ""})


TIMES = [
    ("1970-01-01T00:00:10Z", 10.0),
    ("1970-01-01t01:00:00.5+01:00", 0.5),
    ("2016-12-31T23:59:60Z", 1483228800.0),
    ("1970-01-01T00:00:00-00:30", 1800.0),
]


@pytest.mark.parametrize(("written", "seconds"), TIMES)
def test_times(written, seconds):
    assert read_time(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        "2030-01-31",
        "2030-01-31T12:00:00",
        "2030-02-30T12:00:00Z",
        "2030-01-31 12:00:00Z",
        "2030-01-31T25:00:00Z",
        "2030-01-31T12:00:61Z",
        "2030-01-31T12:00:00+24:00",
        "2030-01-31T12:00:00+0100",
        "\u0662030-01-31T12:00:00Z",
        "",
        5,
        None,
    ],
)
def test_bad_times(written):
    with pytest.raises(ValueError, match="expected"):
        read_time(written)


STARS = [
    ("*", "x", "x"),
    ("a/*", "a/", ""),
    ("a*b", "ab", ""),
    ("ab*ba", "aba", None),
    ("a", "a", None),
    ("*a*", "a", None),
]


@pytest.mark.parametrize(("pattern", "name", "captured"), STARS)
def test_star_capture(pattern, name, captured):
    assert star_capture(pattern, name) == captured


def test_wildcard_resolution():
    tree = document()
    for name, upstream in (
        ("o/*", "*"),
        ("o/gpt-*", "x-*-y"),
        ("*", "all"),
        ("a*b*", "never"),
        ("p/*", "1"),
        ("*/p", "2"),
    ):
        tree["models"].append({"display_name": name, "provider": "o", "model_name": upstream, "provider_key": "prod"})
    snapshot = load(tree)
    answers = {name: snapshot.resolve(name) for name in ("m", "o/x", "o/gpt-4", "zzz", "axbx", "p/p", "o/")}
    assert {
        name: (found.model.display_name, found.upstream_model, found.wildcard) for name, found in answers.items()
    } == {
        "m": ("m", "gpt", False),
        "o/x": ("o/*", "x", True),
        "o/gpt-4": ("o/gpt-*", "x-4-y", True),
        "zzz": ("*", "all", True),
        "axbx": ("*", "all", True),
        "p/p": ("p/*", "1", True),
        "o/": ("o/*", "", True),
    }
    assert load().resolve("M") is None


def test_may_use():
    key = next(iter(load(api_key={"allowed_models": ["m", "o/*"]}).caller_keys_by_hash.values()))
    assert [key.may_use(name) for name in ("m", "o/x", "x", "M")] == [True, True, False, False]
    nobody = next(iter(load(api_key={"allowed_models": []}).caller_keys_by_hash.values()))
    assert not nobody.may_use("m")


def test_allowed_cidrs():
    snapshot = load(model={"allowed_cidrs": ["10.0.0.0/8", "127.0.0.1"]})
    model = snapshot.models_by_name["m"]
    assert [model.admits(ip) for ip in ("10.1.2.3", "::ffff:10.1.2.3", "127.0.0.1", "?")] == [True, True, False, False]
    assert len(snapshot.warnings) == 1
    assert not load(model={"allowed_cidrs": ["junk"]}).models_by_name["m"].admits("10.0.0.1")
    assert load(model={"allowed_cidrs": []}).models_by_name["m"].admits("?")


def test_published_keys():
    assert load(api_key={"key": "my-secret-key"}).published_keys(0) == ("me",)
    assert load(api_key={"key": "my-secret-key", "disabled": True}).published_keys(0) == ()
    assert load().published_keys(0) == ()


def test_keys_enumerate_the_schema():
    names = list(resources.keys())
    assert len(names) == len(set(names))
    assert {
        "models[].streaming",
        "models[].provider_key",
        "api_keys[].key_env",
        "provider_keys[].request.default_headers",
        "provider_keys[].first_event_timeout_ms",
        "_format_version",
    } <= set(names)
    assert not {"models[].id", "api_keys[].name"} & set(names)


def test_a_provider_key_that_is_broken_is_reported_once():
    assert len(findings(provider_key={"tls": {"verify": 1}})) == 1
    assert len(findings(provider_key={"provider": "${GONE}"})) == 1


def test_long_lists_of_names_are_cut():
    tree = document(api_key={"allowed_models": ["x"]})
    tree["models"] = [tree["models"][0] | {"display_name": f"m{index:03}"} for index in range(60)]
    assert findings(tree)[0].endswith("m048, m049 and 10 more)")


def test_nulls_of_optional_fields_are_absent_where_allowed():
    load(
        provider_key={"provider": None, "request": None, "tls": {"ca_cert": None, "verify": None}},
        api_key={"team_id": None},
    )
