"""Where a provider key leads, and which headers go there (`policy.md` 5 and 6)."""

import pytest
from twisted.web.http_headers import Headers as WebHeaders

from twisted_gateway.config.resources import RequestEdits
from twisted_gateway.errors import Refused
from twisted_gateway.exchange import Target
from twisted_gateway.front import CallerHeaders
from twisted_gateway.providers import family, fill, forbidden, headers, reach

from .exchanges import caller, exchange, model, provider_key

CHAT = "/chat/completions"


def url(base, path=CHAT, **more):
    return reach(provider_key(api_base=base, **({"provider": "x", "adapter": "openai"} | more)), None).url(path)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("https://h", "https://h/v1/chat/completions"),
        ("https://h/", "https://h/v1/chat/completions"),
        ("https://h//", "https://h/v1/chat/completions"),
        ("https://h:8443", "https://h:8443/v1/chat/completions"),
        ("http://127.0.0.1:9", "http://127.0.0.1:9/v1/chat/completions"),
        ("http://[::1]:9", "http://[::1]:9/v1/chat/completions"),
        ("https://h/v1", "https://h/v1/chat/completions"),
        ("https://h/v1/", "https://h/v1/chat/completions"),
        ("https://h/api/paas/v4", "https://h/api/paas/v4/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
        ("https://h/v1/chat/completions/", "https://h/v1/chat/completions"),
        ("https://h/chat/completions", "https://h/v1/chat/completions"),
        ("https://h/openai/completions", "https://h/openai/chat/completions"),
        ("https://h/v1/embeddings", "https://h/v1/chat/completions"),
        ("https://h/v1/responses", "https://h/v1/chat/completions"),
        ("https://h/v1/messages", "https://h/v1/chat/completions"),
        ("https://h/v1/rerank", "https://h/v1/chat/completions"),
        ("https://h/v1/audio/speech", "https://h/v1/chat/completions"),
        ("https://h/v1/audio/transcriptions", "https://h/v1/chat/completions"),
        ("https://h/v1/audio/translations", "https://h/v1/chat/completions"),
        ("https://h/v1/images/generations", "https://h/v1/chat/completions"),
        ("https://h/v1/mymessages", "https://h/v1/mymessages/chat/completions"),
        ("https://h/v1?api-version=1", "https://h/v1/chat/completions?api-version=1"),
        ("https://h?api-version=1", "https://h/v1/chat/completions?api-version=1"),
        (" https://h ", "https://h/v1/chat/completions"),
    ],
)
def test_openai_urls(base, expected):
    assert url(base) == expected
    assert url(base, adapter="azure-openai") == expected


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("https://h", "https://h/v1/messages"),
        ("https://h/", "https://h/v1/messages"),
        ("https://h/v1", "https://h/v1/messages"),
        ("https://h/v1/", "https://h/v1/messages"),
        ("https://h/v1/messages", "https://h/v1/messages"),
        ("https://h/v1/v1", "https://h/v1/v1/messages"),
        ("https://h/anthropic", "https://h/anthropic/v1/messages"),
        ("https://h/anthropic/v1", "https://h/anthropic/v1/messages"),
    ],
)
def test_anthropic_urls(base, expected):
    assert url(base, "/messages", adapter="anthropic") == expected
    assert url(base, "/messages/count_tokens", adapter="anthropic") == expected + "/count_tokens"


@pytest.mark.parametrize(
    ("provider", "adapter", "expected"),
    [
        ("openai", None, "openai"),
        ("openai", "anthropic", "openai"),
        ("anthropic", None, "anthropic"),
        ("anthropic", "openai", "anthropic"),
        ("demo", None, "openai"),
        ("demo", "anthropic", "anthropic"),
        ("x", "openai", "openai"),
        ("x", "anthropic", "anthropic"),
        ("x", "azure-openai", "azure-openai"),
        ("", "openai", "openai"),
        ("x", None, None),
        ("", None, None),
        ("OpenAI", None, None),
    ],
)
def test_families(provider, adapter, expected):
    assert family(provider_key(provider=provider, adapter=adapter)) == expected


@pytest.mark.parametrize(
    ("more", "demo", "status", "message"),
    [
        ({"provider": "x"}, None, 503, "no bridge registered for provider"),
        ({"provider": "x", "api_base": "https://h"}, None, 503, "no bridge registered for provider"),
        (
            {"provider": "x", "adapter": "openai"},
            None,
            400,
            'request payload is invalid: provider_key "prod" has no api_base configured',
        ),
        (
            {"provider": "", "adapter": "openai"},
            "http://d/v1",
            400,
            'request payload is invalid: provider_key "prod" has no api_base configured',
        ),
        ({"provider": "demo"}, None, 503, "the demo provider is off (demo.enabled)"),
        ({"provider": "demo", "adapter": "openai"}, None, 503, "the demo provider is off (demo.enabled)"),
    ],
)
def test_keys_that_lead_nowhere(more, demo, status, message):
    with pytest.raises(Refused) as caught:
        reach(provider_key(**more), demo)
    problem = caught.value.problem
    assert (problem.status, problem.message) == (status, message)
    assert problem.type == ("provider_unavailable" if status == 503 else "invalid_request_error")


@pytest.mark.parametrize(
    ("more", "base", "credential"),
    [
        ({"provider": "openai"}, "https://api.openai.com/v1", ("authorization", "Bearer sk-CANARY-provider")),
        ({"provider": "anthropic"}, "https://api.anthropic.com/v1", ("x-api-key", "sk-CANARY-provider")),
        ({"provider": "demo"}, "http://127.0.0.1:7/v1", ("authorization", "Bearer sk-CANARY-provider")),
        ({"provider": "demo", "api_base": "https://h"}, "https://h/v1", ("authorization", "Bearer sk-CANARY-provider")),
        (
            {"provider": "x", "adapter": "azure-openai", "api_base": "https://h/o"},
            "https://h/o",
            ("api-key", "sk-CANARY-provider"),
        ),
        (
            {"provider": "openai", "api_base": "https://h/x"},
            "https://h/x",
            ("authorization", "Bearer sk-CANARY-provider"),
        ),
    ],
)
def test_bases_and_credentials(more, base, credential):
    way = reach(provider_key(**more), "http://127.0.0.1:7/v1")
    assert (way.base, way.credential) == (base, credential)
    assert "CANARY" not in repr(way)


# Headers


def sent(caller_headers=(), family="openai", call=None, **edits):
    key = provider_key(provider=family, api_base="https://h", request=RequestEdits(**edits))
    raw = WebHeaders()
    for name, value in caller_headers:
        raw.addRawHeader(name, value)
    call = exchange(headers=CallerHeaders(raw), **(call or {}))
    target = Target(model(provider_key=key), "up")
    way = reach(key, None)
    lines = [*way.lines["text/event-stream"].headers, *headers(call, target, way)]
    assert len(dict(lines)) == len(lines)  # no header twice
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in lines}


def test_headers_of_every_attempt():
    found = sent(
        [
            ("Authorization", "Bearer caller"),
            ("x-api-key", "k"),
            ("user-agent", "mine"),
            ("accept", "*/*"),
            ("x-custom", "1"),
        ]
    )
    assert found.pop("user-agent").startswith("AISIX/")
    assert found == {
        "authorization": "Bearer sk-CANARY-provider",
        "content-type": "application/json",
        "accept": "text/event-stream",
        "accept-encoding": "identity",
        "x-aisix-request-id": "req-1",
    }


def test_anthropic_headers():
    found = sent(family="anthropic")
    assert (found["x-api-key"], found["anthropic-version"]) == ("sk-CANARY-provider", "2023-06-01")
    assert "authorization" not in found


NEVER = [
    "authorization",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "x-amz-security-token",
    "x-amz-date",
    "x-amz-content-sha256",
    "proxy-authorization",
    "cookie",
    "host",
    "accept",
    "accept-encoding",
    "connection",
    "content-type",
    "content-length",
    "content-x",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "traceparent",
    "tracestate",
    "upgrade",
    "x-aisix-request-id",
    "x-aisix-anything",
    "x-stainless-lang",
]
FIRST_TEN = NEVER[:10]


@pytest.mark.parametrize("name", NEVER)
def test_protected_names_are_never_copied(name):
    plain = sent()
    for pattern in ("*", name, f"{name[:3]}*", f"*{name[-3:]}"):
        assert sent([(name.title(), "CALLER")], forward_client_headers=(pattern,)) == plain
    assert forbidden(name)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("x-one", ["x-one"]),
        ("X-ONE", ["x-one"]),
        ("x-*", ["x-one", "x-two-one"]),
        ("*-one", ["x-one", "x-two-one"]),
        ("x-*-one", ["x-two-one"]),
        ("x-one*", ["x-one"]),
        ("*", ["anthropic-beta", "x-one", "x-two-one"]),
        ("one", []),
        ("x-o*ne", ["x-one"]),
        ("x-on*one", []),
    ],
)
def test_patterns(pattern, names):
    given = [("X-One", "1"), ("x-two-one", "2"), ("anthropic-beta", "b"), ("X-one", "again"), ("authorization", "no")]
    found = sent(given, forward_client_headers=(pattern,))
    assert sorted(found.keys() - sent().keys()) == names
    if "x-one" in names:
        assert found["x-one"] == "1", "the first value, once"


@pytest.mark.parametrize("value", ["a\x01b", "a\x7fb"])
def test_a_header_that_cannot_be_sent_is_not_copied(value):
    found = sent([("x-one", value), ("x-two", "a\tb")], forward_client_headers=("x-*",))
    assert found.keys() - sent().keys() == {"x-two"}


def test_nothing_is_copied_without_a_pattern():
    assert sent([("x-one", "1")]) == sent()


@pytest.mark.parametrize("name", FIRST_TEN)
def test_defaults_cannot_set_credentials(name):
    assert sent(default_headers={name: "x", name.title(): "x"}) == sent()


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding"])
def test_default_headers_do_not_frame_the_request(name):
    assert sent(default_headers={name: "chunked"}) == sent()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("X-Team", "plain", "plain"),
        ("x-t", "${request.id}", "req-1"),
        ("x-t", "a-${request.api_key.id}-${model.name}", "a-ck-1-gpt"),
        ("x-t", "${request.api_key.team_id}/${request.api_key.user_id}", "team-a/u1"),
        ("x-t", "${model.id} ${provider_key.id} ${provider_key.name}", "m-gpt pk-prod prod"),
        ("x-t", "${request.api_key.name}", None),
        ("x-t", "${nothing}", None),
        ("x-t", "${request.id", None),
        ("x-t", "${}", None),
        ("x-t", "$request.id", "$request.id"),
        ("x-t", "ä", None),
        ("x-t", "a\nb", None),
        ("accept", "x", "text/event-stream"),
        ("x-aisix-request-id", "x", "req-1"),
    ],
)
def test_default_headers(name, value, expected):
    assert sent(default_headers={name: value}).get(name.lower()) == expected


def test_a_place_without_a_value_drops_the_header():
    nobody = {"caller": caller(team_id=None)}
    assert "x-t" not in sent(call=nobody, default_headers={"x-t": "${request.api_key.team_id}"})
    assert fill("${request.api_key.id}", exchange(caller=None), Target(model(), "up")) is None


def test_defaults_win_over_the_callers():
    found = sent(
        [("x-a", "caller"), ("x-b", "caller")], default_headers={"x-a": "default"}, forward_client_headers=("x-*",)
    )
    assert (found["x-a"], found["x-b"]) == ("default", "caller")
