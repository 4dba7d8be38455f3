"""Who is calling and what they may call (`policy.md` 2 to 4)."""

from hashlib import sha256

import pytest

from twisted_gateway.config.resources import CallerKey, read_cidrs
from twisted_gateway.errors import Refused
from twisted_gateway.policies.access import Authentication, Denied, ModelAccess, credential, identify

from ..exchanges import Headers, call, caller, exchange, model, snapshot

MALFORMED = "missing or malformed Authorization header"


def key(token="secret", **more):
    return caller(key_hash=sha256(token.encode("utf-8", "surrogateescape")).hexdigest(), **more)


def known(*keys):
    empty = snapshot(model())
    import attrs

    return attrs.evolve(empty, caller_keys_by_hash={one.key_hash: one for one in keys})


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, None),
        ({"authorization": "Bearer secret"}, "secret"),
        ({"authorization": "Bearer   secret  "}, "secret"),
        ({"authorization": "Bearer \tsecret\t"}, "secret"),
        ({"authorization": "Bearer two words"}, "two words"),
        ({"authorization": "bearer secret"}, None),
        ({"authorization": "BEARER secret"}, None),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Bearer "}, None),
        ({"authorization": "Bearer    "}, None),
        ({"authorization": "Bearer\tsecret"}, None),
        ({"authorization": "Bearersecret"}, None),
        ({"authorization": " Bearer secret"}, None),
        ({"authorization": "Basic c2VjcmV0"}, None),
        ({"authorization": "secret"}, None),
        ({"authorization": ""}, None),
        ({"authorization": "Basic x", "x-api-key": "secret"}, None),
        ({"authorization": "", "x-api-key": "secret"}, None),
        ({"authorization": "Bearer one", "x-api-key": "two"}, "one"),
        ({"x-api-key": "secret"}, "secret"),
        ({"x-api-key": "  secret "}, "secret"),
        ({"x-api-key": "Bearer secret"}, "Bearer secret"),
        ({"x-api-key": ""}, None),
        ({"x-api-key": "  "}, None),
        ({"api-key": "secret"}, None),
        ({"x-goog-api-key": "secret"}, None),
        ({"cookie": "authorization=secret"}, None),
    ],
)
def test_credentials(headers, token):
    assert credential(Headers(headers)) == token


@pytest.mark.parametrize(
    ("kept", "headers", "reason", "message", "code"),
    [
        (key(), {}, "missing_credentials", MALFORMED, None),
        (key(), {"authorization": "Basic secret"}, "missing_credentials", MALFORMED, None),
        (key(), {"authorization": "Bearer other"}, "unknown_key", "invalid API key", None),
        (key(), {"authorization": "Bearer Secret"}, "unknown_key", "invalid API key", None),
        (key(), {"authorization": f"Bearer {key().key_hash}"}, "unknown_key", "invalid API key", None),
        (key(disabled=True), {"x-api-key": "secret"}, "key_disabled", "API key has been disabled", "api_key_disabled"),
        (key(expires_at=99.9), {"x-api-key": "secret"}, "key_expired", "API key has expired", "api_key_expired"),
        (
            key(disabled=True, expires_at=1),
            {"x-api-key": "secret"},
            "key_disabled",
            "API key has been disabled",
            "api_key_disabled",
        ),
    ],
)
def test_denials(kept, headers, reason, message, code):
    with pytest.raises(Denied) as caught:
        identify(Headers(headers), known(kept), 100.0)
    problem = caught.value.problem
    assert (problem.status, problem.type, problem.message, problem.code) == (401, "invalid_api_key", message, code)
    assert caught.value.reason == reason
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("expires_at", [None, 100.0, 100.1])
@pytest.mark.parametrize("token", ["secret", "ä€", "\udcff"])
def test_a_good_key(token, expires_at):
    kept = key(token, expires_at=expires_at)
    assert identify(Headers({"x-api-key": token}), known(kept), 100.0) is kept


def test_authentication_tells():
    told = []
    policy = Authentication(lambda: 100.0, lambda *args: told.append(args), lambda *args: told.append(args))
    good = exchange(caller=None, snapshot=known(key()), headers=Headers({"x-api-key": "secret"}))
    assert policy.admit(good) is None
    assert good.caller.id == "ck-1"
    bad = exchange(caller=None, snapshot=known(key(disabled=True)), headers=Headers({"x-api-key": "secret"}))
    with pytest.raises(Denied) as caught:
        policy.admit(bad)
    assert bad.caller is None
    assert told == [(), (bad, caught.value)]
    assert caught.value.key.id == "ck-1"


def test_a_good_key_is_looked_up_once_in_a_snapshot_and_anew_behind_a_reload():
    asked = []
    policy = Authentication(lambda: asked.append(1) or 100.0, lambda *_: None, lambda: None)
    headers = Headers({"authorization": "Bearer secret"})
    first, second = known(key()), known(key(disabled=True))
    for _ in range(2):
        one = exchange(caller=None, snapshot=first, headers=headers)
        policy.admit(one)
        assert one.caller is first.caller_keys_by_hash[key().key_hash]
    assert len(asked) == 1
    other = Headers({"authorization": "Bearer other", "x-api-key": "secret"})
    for reloaded, said in ((first, other), (first, other), (second, headers), (known(), headers)):
        with pytest.raises(Denied):
            policy.admit(exchange(caller=None, snapshot=reloaded, headers=said))


def test_a_key_expires_though_it_was_good_before():
    times = [99.0, 100.0, 101.0]
    policy = Authentication(lambda: times.pop(0), lambda *_: None, lambda: None)
    one = exchange(
        caller=None, snapshot=known(key(expires_at=100.0)), headers=Headers({"authorization": "Bearer secret"})
    )
    policy.admit(one)
    policy.admit(one)
    with pytest.raises(Denied):
        policy.admit(one)


def test_what_is_remembered_of_keys_is_bounded():
    policy = Authentication(lambda: 100.0, lambda *_: None, lambda: None)
    kept = known(key())
    for number in range(1500):
        said = f"Bearer {' ' * (number // 40)}secret{' ' * (number % 40)}"
        policy.admit(exchange(caller=None, snapshot=kept, headers=Headers({"authorization": said})))
    assert len(policy._known) <= 1024
    long = f"Bearer secret{' ' * 1000}"
    policy.admit(exchange(caller=None, snapshot=kept, headers=Headers({"authorization": long})))
    assert long not in policy._known


def admitted(asked="gpt", peer="192.0.2.7", allowed=("*",), stream=False, models=None):
    one = exchange(
        caller=caller(allowed_models=allowed),
        call=call(model=asked, stream=stream),
        peer=peer,
        resolution=None,
        snapshot=snapshot(*(models or [model()])),
    )
    assert ModelAccess().admit(one) is None
    return one.resolution


def refused(**options):
    with pytest.raises(Refused) as caught:
        admitted(**options)
    problem = caught.value.problem
    return problem.status, problem.type, problem.code, problem.message


IP = (403, "permission_denied", "ip_restricted", "Access denied: your client IP is not allowed to access this model")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"asked": "x"}, (404, "model_not_found", None, 'model "x" not found')),
        ({"asked": 'a"b\\c'}, (404, "model_not_found", None, 'model "a\\"b\\\\c" not found')),
        ({"asked": "GPT"}, (404, "model_not_found", None, 'model "GPT" not found')),
        ({"asked": "x", "allowed": ()}, (404, "model_not_found", None, 'model "x" not found')),
        ({"allowed": ()}, (403, "permission_denied", None, 'API key is not allowed to use model "gpt"')),
        (
            {"allowed": ("gp", "gpt-*", "**")},
            (403, "permission_denied", None, 'API key is not allowed to use model "gpt"'),
        ),
        ({"models": [model(allowed_cidrs=read_cidrs(["10.0.0.0/8"]))]}, IP),
        ({"models": [model(allowed_cidrs=read_cidrs(["192.0.2.7"]))]}, IP),
        ({"models": [model(allowed_cidrs=read_cidrs(["0.0.0.0/0"]))], "peer": ""}, IP),
        ({"models": [model(allowed_cidrs=read_cidrs(["0.0.0.0/0"]))], "peer": "/socket"}, IP),
        (
            {"models": [model(streaming=False)], "stream": True},
            (400, "invalid_request_error", None, "request payload is invalid: model `gpt` does not support streaming"),
        ),
        ({"models": [model(streaming=False, allowed_cidrs=())], "stream": True}, IP),
    ],
)
def test_refusals(options, expected):
    assert refused(**options) == expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"allowed": ("gpt",)},
        {"allowed": ("x", "g*t")},
        {"allowed": ("gpt*",)},
        {"models": [model(allowed_cidrs=read_cidrs([]))]},
        {"models": [model(allowed_cidrs=read_cidrs(["bad", "192.0.2.0/24"]))]},
        {"models": [model(allowed_cidrs=read_cidrs(["2001:db8::/32"]))], "peer": "2001:db8::1"},
        {"models": [model(allowed_cidrs=read_cidrs(["192.0.2.0/24"]))], "peer": "::ffff:192.0.2.1"},
        {"models": [model(streaming=False)], "stream": False},
    ],
)
def test_who_may(options):
    assert admitted(**options).upstream_model == "gpt-4o"


def test_a_wildcard_is_judged_by_the_name_that_was_asked():
    models = [model("openai/*", model_name="*")]
    assert admitted(asked="openai/x", allowed=("openai/x",), models=models).upstream_model == "x"
    assert refused(asked="openai/y", allowed=("openai/x",), models=models)[0] == 403


def test_no_key_is_shown():
    assert isinstance(key(), CallerKey)
    assert "CANARY" not in repr(key())
