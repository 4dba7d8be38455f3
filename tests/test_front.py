"""Callers' URLs: routes, prefix, ids, dialects, CORS, models, rewriting."""

import json
from hashlib import sha256

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers

from twisted_gateway import __version__
from twisted_gateway.addresses import parse_network
from twisted_gateway.config.rewrites import UrlRewrite
from twisted_gateway.config.settings import Cors, RealIp, RequestId
from twisted_gateway.front import CallerHeaders, Condition

from .doubles.timers import timers
from .exchanges import caller, group, model, snapshot
from .fronts import NOW, Talk, front, refused, site

CHAT = "/v1/chat/completions"
SECRET = {"authorization": "Bearer secret"}


def known(*models, **key):
    one = caller(key_hash=sha256(b"secret").hexdigest(), **key)
    return attrs.evolve(snapshot(*(models or [model()])), caller_keys_by_hash={one.key_hash: one})


def ask(method="GET", path="/", headers=(), body=b"", host="192.0.2.7", made=None, **options):
    """The answer to one request, at a front of its own."""
    clock = Clock()
    room = made or front(clock=clock, **options)
    pairs = list(headers.items() if isinstance(headers, dict) else headers)
    if body or method == "POST":
        pairs.append(("content-length", str(len(body))))
    lines = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    talk = Talk(site(room.resource(), clock, room), host)
    talk.send(f"{method} {path} HTTP/1.1\r\nhost: h\r\n{lines}\r\n".encode("latin-1") + body)
    return talk.answer(method)


# Routes


@pytest.mark.parametrize("prefix", ["", "/api"])
@pytest.mark.parametrize("path", [CHAT, CHAT + "?beta=true", CHAT + "?"])
def test_the_endpoint(prefix, path):
    said = ask("POST", prefix + path, body=b"hello")
    assert said.status == 200
    assert said.json == {"id": "id-1", "path": CHAT, "peer": "192.0.2.7", "body": "hello"}


@pytest.mark.parametrize(
    "path", [CHAT + "/", "/v1/chat%2Fcompletions", "/v1/%63hat/completions", "/api/v1/chat/completions/"]
)
def test_other_spellings_are_the_endpoint_or_unknown(path):
    said = ask("POST", path)
    assert said.status in (200, 404)
    assert said.status == 404 or said.json["path"] == CHAT


@pytest.mark.parametrize(
    ("prefix", "path", "status"),
    [
        ("/api", "/api" + CHAT, 200),
        ("/api", "/api/api" + CHAT, 404),
        ("/api", "/apix" + CHAT, 404),
        ("", "/api" + CHAT, 404),
        ("", CHAT, 200),
        ("/a/b", "/a/b" + CHAT, 200),
        ("/a/b", "/a" + CHAT, 404),
    ],
)
def test_prefixes(prefix, path, status):
    assert ask("POST", path, api_prefix=prefix).status == status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_root(method):
    said = ask(method)
    assert said.status == 200
    assert said.headers["content-type"] == "application/json"
    assert method == "HEAD" or said.json == {"name": "aisix", "version": __version__}


UNKNOWN = [
    "/x",
    "/v1",
    "/v1/",
    "/v1/chat",
    "/v2/chat/completions",
    "/api",
    "/api/",
    "/v1//chat/completions",
    "/V1/chat/completions",
    "/%",
    "/%00",
    "/%ff",
    "/v1/chat/completions/x",
    "/passthrough/x",
]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", UNKNOWN)
def test_unknown_paths(method, path):
    said = ask(method, path)
    assert said.status == 404
    assert (said.json["error"]["type"], said.json["error"]["code"]) == ("invalid_request_error", "unknown_url")
    assert said.headers["content-type"] == "application/json"
    assert said.headers["x-aisix-request-id"] == "id-1"


def test_the_message_names_the_path():
    assert "/v1/nothing" in ask("GET", "/v1/nothing").json["error"]["message"]
    assert ask("GET", "/api/v1/nothing").json["error"]["message"] == "unknown URL: /v1/nothing"


@pytest.mark.parametrize("prefix", ["", "/api"])
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("HEAD", CHAT, "POST"),
        ("DELETE", CHAT, "POST"),
        ("OPTIONS", CHAT, "POST"),
        ("BREW", CHAT, "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("PUT", "/v1/models/x", "GET, HEAD"),
        ("OPTIONS", "/v1/models", "GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
    ],
)
def test_wrong_methods(prefix, method, path, allow):
    said = ask(method, prefix + path)
    assert said.status == 405
    assert said.headers["allow"] == allow
    assert said.headers["x-aisix-request-id"] == "id-1"
    if method != "HEAD":
        assert (said.json["error"]["type"], said.json["error"]["code"]) == (
            "invalid_request_error",
            "method_not_allowed",
        )
        assert path in said.json["error"]["message"]


@pytest.mark.parametrize("prefix", ["", "/api"])
@pytest.mark.parametrize("word", ["websocket", "WebSocket"])
def test_a_websocket_is_told_to_post(prefix, word):
    """At once and without a credential, on a connection that lives on: codex tries one first (`streaming.md` 19)."""
    clock = Clock()
    room = front(clock=clock)
    talk = Talk(site(room.resource(), clock, room))
    handshake = f"connection: Upgrade\r\nupgrade: {word}\r\nsec-websocket-version: 13\r\nsec-websocket-key: QUJD\r\n"
    talk.send(f"GET {prefix}/v1/responses HTTP/1.1\r\nhost: h\r\n{handshake}\r\n".encode())
    assert talk.raw.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    said = talk.answer("GET")
    assert said.status == 426
    assert said.headers["upgrade"] == "HTTP/1.1"
    assert said.headers["allow"] == "POST"
    assert said.json["error"]["type"] == "invalid_request_error"
    assert said.json["error"]["code"] == "websocket_not_supported"
    assert talk.wire.open


def test_a_get_of_responses_that_asks_for_no_websocket():
    said = ask("GET", "/v1/responses")
    assert (said.status, said.headers["allow"]) == (405, "POST")
    assert said.json["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/messages", "anthropic"),
        ("/api/v1/messages/x", "anthropic"),
        ("/v1/messages%2Fx", "openai"),
        ("/v1/messagesx", "openai"),
    ],
)
def test_dialects_of_routing_errors(path, dialect):
    said = ask("DELETE", path)
    assert said.status in (404, 405)
    if dialect == "anthropic":
        assert said.json["type"] == "error"
        assert said.json["error"].keys() == {"type", "message"}
    else:
        assert said.json.keys() == {"error"}
        assert "code" in said.json["error"]


# Every answer

EVERYWHERE = [
    ("POST", CHAT),
    ("GET", "/"),
    ("GET", "/x"),
    ("PUT", CHAT),
    ("GET", "/v1/models"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/%ff"),
    ("OPTIONS", CHAT),
]


@pytest.mark.parametrize(("method", "path"), EVERYWHERE)
def test_server_and_id_are_on_every_answer(method, path):
    said = ask(method, path)
    assert said.headers["server"] == f"AISIX/{__version__}"
    assert said.headers["x-aisix-request-id"] == "id-1"
    said = ask(method, path, server_header=False)
    assert "server" not in said.headers
    assert said.headers["x-aisix-request-id"] == "id-1"


def test_no_server_header_on_refusals_either():
    clock = Clock()
    room = front(server_header=False)
    said = Talk(site(room.resource(), clock, room)).send(b"bad\r\n\r\n").answer()
    assert said.status == 400
    assert "server" not in said.headers


@pytest.mark.parametrize(
    ("headers", "accepted", "expected"),
    [
        ([("x-aisix-request-id", "mine")], None, "mine"),
        ([("X-AISIX-Request-ID", "mine")], None, "mine"),
        ([("x-aisix-request-id", "!" + "x" * 254 + "~")], None, "!" + "x" * 254 + "~"),
        ([("x-aisix-request-id", "x" * 257)], None, "id-1"),
        ([("x-aisix-request-id", "")], None, "id-1"),
        ([("x-aisix-request-id", "a b")], None, "id-1"),
        ([("x-aisix-request-id", "a\tb")], None, "id-1"),
        ([("x-aisix-request-id", "\xe4")], None, "id-1"),
        ([("x-aisix-request-id", "a\x7f")], None, "id-1"),
        ([("x-aisix-request-id", "one"), ("x-aisix-request-id", "two")], None, "one"),
        ([("x-request-id", "mine")], None, "id-1"),
        ([("x-request-id", "mine")], ("x-request-id",), "mine"),
        ([("x-aisix-request-id", "mine")], ("x-request-id",), "id-1"),
        ([("x-b", "b"), ("x-a", "a")], ("x-a", "x-b"), "a"),
        ([("x-a", "a b"), ("x-b", "b")], ("x-a", "x-b"), "b"),
        ([("x-aisix-request-id", "mine")], (), "id-1"),
    ],
)
def test_request_ids(headers, accepted, expected):
    options = {} if accepted is None else {"request_id": RequestId(accepted)}
    said = ask("POST", CHAT, headers, **options)
    assert said.headers["x-aisix-request-id"] == expected
    assert said.json["id"] == expected


# Health


@pytest.mark.parametrize(
    ("path", "condition", "status", "text"),
    [
        ("/livez", Condition(), 200, "ok"),
        ("/livez?verbose", Condition(), 200, "[+]ping ok\n[+]shutdown ok\nlivez check passed\n"),
        ("/livez", Condition(configured=False), 200, "ok"),
        (
            "/livez",
            Condition(draining=True),
            503,
            "[+]ping ok\n[-]shutdown failed: reason withheld\nlivez check failed",
        ),
        ("/readyz", Condition(), 200, "ok"),
        ("/readyz?verbose=1", Condition(), 200, "[+]shutdown ok\n[+]config ok\nreadyz check passed\n"),
        (
            "/readyz",
            Condition(configured=False),
            503,
            "[+]shutdown ok\n[-]config failed: not ready\nreadyz check failed",
        ),
        ("/readyz", Condition(draining=True), 503, "[-]shutdown failed: draining\n[+]config ok\nreadyz check failed"),
        ("/readyz?verbosely", Condition(), 200, "ok"),
        (
            "/readyz?verbose",
            Condition(stores={"ratelimit": False, "cache": False}),
            200,
            "[+]shutdown ok\n[+]config ok\n[+]redis ok\nreadyz check passed\n",
        ),
        (
            "/readyz?verbose",
            Condition(stores={"ratelimit": True, "cache": False}),
            200,
            "[+]shutdown ok\n[+]config ok\n[!]redis degraded: local limits\nreadyz check passed\n",
        ),
        ("/readyz", Condition(stores={"ratelimit": True}), 200, "ok"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/api"])
def test_health(prefix, path, condition, status, text):
    said = ask("GET", prefix + path, condition=condition)
    assert (said.status, said.body.decode()) == (status, text)
    assert said.headers["content-type"] == "text/plain; charset=utf-8"
    assert ask("HEAD", prefix + path, condition=condition).status == status


# Models

SHELF = [
    model("b"),
    model("a", provider="anthropic"),
    model("openai/*", model_name="*"),
    model("dir/c"),
    model("hidden"),
]


def test_models_of_this_key():
    said = ask("GET", "/v1/models", SECRET, known=known(*SHELF, allowed_models=("a", "b", "dir/*", "openai/*")))
    row = {"object": "model", "created": int(NOW)}
    assert said.json == {
        "object": "list",
        "data": [
            {"id": "a", **row, "owned_by": "anthropic"},
            {"id": "b", **row, "owned_by": "openai"},
            {"id": "dir/c", **row, "owned_by": "openai"},
        ],
    }


def test_groups_are_models_like_others():
    shelf = [model("a", provider="acme"), group("all", "a")]
    said = ask("GET", "/v1/models", SECRET, known=known(*shelf, allowed_models=("*",)))
    assert [(one["id"], one["owned_by"]) for one in said.json["data"]] == [("a", "acme"), ("all", "aisix")]
    said = ask("GET", "/v1/models/all", SECRET, known=known(*shelf, allowed_models=("all",)))
    assert (said.json["id"], said.json["owned_by"]) == ("all", "aisix")


@pytest.mark.parametrize("allowed", [(), ("nothing",)])
def test_no_models(allowed):
    assert ask("GET", "/v1/models", SECRET, known=known(*SHELF, allowed_models=allowed)).json["data"] == []


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/a", "/api/v1/models"])
@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "missing or malformed Authorization header"),
        ({"authorization": "Basic x", "x-api-key": "secret"}, "missing or malformed Authorization header"),
        ({"x-api-key": "other"}, "invalid API key"),
    ],
)
def test_models_need_a_key(path, headers, message):
    said = ask("GET", path, headers, known=known(*SHELF))
    assert (said.status, said.json["error"]) == (401, {"message": message, "type": "invalid_api_key"})


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a", "a"),
        ("dir/c", "dir/c"),
        ("dir%2Fc", "dir/c"),
        ("%61", "a"),
        ("openai/gpt-4o-mini", "openai/gpt-4o-mini"),
        ("openai/x/y", "openai/x/y"),
        ("hidden", None),
        ("nothing", None),
        ("A", None),
        ("openai/secret", None),
    ],
)
def test_one_model(name, found):
    allowed = ("a", "dir/*", "openai/gpt*", "openai/x/y", "nothing")
    said = ask("GET", f"/v1/models/{name}", SECRET, known=known(*SHELF, allowed_models=allowed))
    if found is None:
        assert said.status == 404
        assert said.json["error"]["type"] == "model_not_found"
        assert said.json["error"]["message"] == f'model "{name}" not found'
    else:
        assert said.status == 200
        assert (said.json["id"], said.json["object"], said.json["created"]) == (found, "model", int(NOW))


# CORS

RULES = Cors(allow_origins=("https://a.example", "http://localhost:3000"))
WIDE = Cors(allow_origins=("*",), allow_headers=("x-a", "x-b"), expose_headers=("x-c", "x-ratelimit-*"), max_age_secs=5)
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, x-stainless-os"}


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p in EVERYWHERE if m != "OPTIONS"])
@pytest.mark.parametrize(
    ("cors", "origin", "allowed"),
    [
        (None, "https://a.example", None),
        (RULES, None, None),
        (RULES, "https://a.example", "https://a.example"),
        (RULES, "http://localhost:3000", "http://localhost:3000"),
        (RULES, "https://b.example", None),
        (RULES, "https://a.example:443", None),
        (RULES, "https://A.example", None),
        (RULES, "http://a.example", None),
        (RULES, "null", None),
        (WIDE, "https://anyone", "*"),
        (WIDE, "null", "*"),
    ],
)
def test_cors_on_answers(method, path, cors, origin, allowed):
    said = ask(method, path, {} if origin is None else {"origin": origin}, cors=cors)
    assert said.headers.get("access-control-allow-origin") == allowed
    assert said.headers.get("vary") == (None if allowed is None else "origin")
    assert "access-control-allow-credentials" not in said.headers
    if allowed is not None:
        exposed = said.headers["access-control-expose-headers"].split(", ")
        limits = {
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-tokens",
            "x-ratelimit-reset-tokens",
            "x-ratelimit-limit-concurrent",
        }
        assert limits < set(exposed)
        assert ("x-aisix-request-id" in exposed) is (cors is RULES)


def test_cors_on_a_refusal():
    clock = Clock()
    room = front(cors=RULES)
    data = b"POST / HTTP/1.1\r\nhost: h\r\norigin: https://a.example\r\ncontent-length: 99999999999\r\n\r\n"
    said = Talk(site(room.resource(), clock, room)).send(data).answer()
    assert said.status == 413
    assert (said.headers["access-control-allow-origin"], said.headers["vary"]) == ("https://a.example", "origin")


@pytest.mark.parametrize("path", [CHAT, "/api" + CHAT, "/v1/models", "/v1/models/x/y", "/"])
@pytest.mark.parametrize(
    ("cors", "origin", "status", "expected"),
    [
        (
            RULES, "https://a.example", 204,
            {
                "access-control-allow-origin": "https://a.example",
                "access-control-allow-headers": "authorization, x-stainless-os",
                "access-control-max-age": "600",
            },
        ),
        (
            WIDE, "https://anyone", 204,
            {
                "access-control-allow-origin": "*",
                "access-control-allow-headers": "x-a, x-b",
                "access-control-max-age": "5",
            },
        ),
        (RULES, "https://b.example", 403, {}),
    ],
)  # fmt: skip
def test_preflights(path, cors, origin, status, expected):
    said = ask("OPTIONS", path, PREFLIGHT | {"origin": origin}, cors=cors)
    assert (said.status, said.body) == (status, b"")
    found = {name: value for name, value in said.headers.items() if name.startswith("access-control")}
    found.pop("access-control-expose-headers", None)
    methods = found.pop("access-control-allow-methods", None)
    assert found == expected
    assert methods == (None if status == 403 else "GET, POST, OPTIONS")
    assert said.headers["x-aisix-request-id"] == "id-1"


@pytest.mark.parametrize(
    ("path", "headers", "cors", "status"),
    [
        ("/x", PREFLIGHT | {"origin": "https://a.example"}, RULES, 404),
        (CHAT, PREFLIGHT, RULES, 405),
        (CHAT, {"origin": "https://a.example"}, RULES, 405),
        (CHAT, PREFLIGHT | {"origin": "https://a.example"}, None, 405),
        (CHAT, {}, None, 405),
    ],
)
def test_what_is_no_preflight(path, headers, cors, status):
    assert ask("OPTIONS", path, headers, cors=cors).status == status


def test_two_preflights_on_one_connection():
    clock = Clock()
    room = front(cors=RULES)
    data = (
        f"OPTIONS {CHAT} HTTP/1.1\r\nhost: h\r\norigin: https://a.example\r\n"
        "access-control-request-method: POST\r\n\r\n"
    ).encode()
    talk = Talk(site(room.resource(), clock, room)).send(data, data.replace(b"a.example", b"b.example"), data)
    assert [said.status for said in talk.answers("OPTIONS")] == [204, 403, 204]


# Rewriting

REWRITES = (
    UrlRewrite("^/openai/deployments/[^/]+/chat/completions$", CHAT),
    UrlRewrite("^/old/(?<rest>.*)$", "/v1/${rest}"),
)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/openai/deployments/gpt/chat/completions", 200),
        ("/openai/deployments/gpt/chat/completions?api-version=1", 200),
        ("/old/chat/completions", 200),
        ("/old/models/x", 405),
        ("/old/nothing", 404),
        ("/old/messages/x", 404),
        (CHAT, 200),
    ],
)
def test_rewrites(path, status):
    said = ask("POST", path, url_rewrites=REWRITES)
    assert said.status == status
    if status == 200:
        assert said.json["path"] == CHAT
    if path == "/old/messages/x":
        assert said.json["type"] == "error", "the dialect is that of the rewritten path"


# The exchange


@pytest.mark.parametrize(
    ("real_ip", "peer", "forwarded", "expected"),
    [
        (RealIp(), "192.0.2.7", "10.0.0.1", "192.0.2.7"),
        (RealIp(), "::ffff:192.0.2.7", None, "192.0.2.7"),
        (
            RealIp(trusted_proxies=(parse_network("192.0.2.0/24", bare=True),)),
            "192.0.2.7",
            "10.0.0.1, 10.0.0.2",
            "10.0.0.2",
        ),
        (
            RealIp(trusted_proxies=(parse_network("192.0.2.0/24", bare=True),)),
            "198.51.100.1",
            "10.0.0.1",
            "198.51.100.1",
        ),
        (
            RealIp(trusted_proxies=(parse_network("192.0.2.0/24", bare=True),)),
            "::ffff:192.0.2.7",
            "10.0.0.1",
            "10.0.0.1",
        ),
    ],
)
def test_the_callers_address(real_ip, peer, forwarded, expected):
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    assert ask("POST", CHAT, headers, host=peer, real_ip=real_ip).json["peer"] == expected


def test_what_the_exchange_knows():
    seen = []

    async def serve(exchange, request):
        seen.append(exchange)
        request.finish()

    resources = known()
    clock = Clock()
    clock.advance(42)
    room = front(serve, resources, clock)
    Talk(site(room.resource(), clock, room)).send(
        b"POST /api/v1/chat/completions?x=1 HTTP/1.1\r\nhost: h\r\nx-a: 1\r\nx-a: 2\r\n\r\n"
    )
    (exchange,) = seen
    assert (exchange.method, exchange.path, exchange.endpoint.path) == ("POST", CHAT, CHAT)
    assert (exchange.arrived, exchange.arrived_at) == (42, NOW)
    assert exchange.snapshot is resources
    assert exchange.headers.get("x-a") == "1"
    assert exchange.body == b""


def test_a_caller_who_leaves_cancels_the_call():
    from twisted.internet.defer import CancelledError, Deferred

    told = []

    async def serve(exchange, request):
        try:
            await Deferred()
        except CancelledError:
            told.append("cancelled")
            raise

    clock = Clock()
    room = front(serve)
    talk = Talk(site(room.resource(), clock, room)).send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\n\r\n")
    assert told == []
    talk.leave()
    assert told == ["cancelled"]


def test_caller_headers():
    raw = Headers({"X-One": ["a", "b"], "x-two": ["\xe4".encode("latin-1")], "utf": ["ä".encode()]})
    headers = CallerHeaders(raw)
    assert (headers.get("x-one"), headers.get("X-ONE"), headers.get("none")) == ("a", "a", None)
    assert headers.get("utf") == "ä"
    assert headers.all("x-one") == ["a", "b"]
    assert headers.all("none") == []
    assert list(headers.matching("X-*")) == [("x-one", "a"), ("x-two", "\xe4")]


def test_a_handler_that_fails_says_little():
    def identify(headers, found):
        raise RuntimeError("secret detail")

    clock = Clock()
    room = front()
    room.identify = identify
    said = ask("GET", "/v1/models", made=room)
    assert said.status == 500
    assert said.json["error"]["type"] == "internal_error"
    assert b"secret" not in said.body
    assert timers(clock) == []


def test_a_refusal_of_a_handler_is_told():
    def identify(headers, found):
        raise refused(418, "tea")

    room = front()
    room.identify = identify
    said = ask("GET", "/v1/models", made=room)
    assert (said.status, said.json["error"]["message"]) == (418, "tea")


def test_json_of_the_answers_is_compact():
    assert b" " not in ask("GET", "/").body
    assert json.loads(ask("GET", "/x").body)
