"""The boot file: defaults, good and bad values with their exact message, strictness, environment, order."""

import attrs
import pytest

from twisted_gateway.addresses import Address
from twisted_gateway.config import settings
from twisted_gateway.config.boot import structure
from twisted_gateway.config.redis import server_of
from twisted_gateway.config.rewrites import UrlRewrite, read_rewrite, rewrite
from twisted_gateway.config.settings import Settings, SettingsError

PREFIX = "config load failed: failed to load configuration: "


def tree(**extra):
    base = {"proxy": {"addr": "127.0.0.1:3000"}, "resources_file": "r.yaml"}
    for dotted, value in extra.items():
        node = base
        *parents, last = dotted.split(".")
        for step in parents:
            node = node.setdefault(step, {})
        node[last] = value
    return base


def at(record, dotted):
    for step in dotted.split("."):
        record = getattr(record, step)
    return record


def detail(document, environ=None, **kwargs):
    with pytest.raises(SettingsError) as caught:
        structure(document, environ or {}, **kwargs)
    assert str(caught.value).startswith(PREFIX)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(PREFIX)


INTEGER = "expected an integer, got a string"
FLAG = "expected true or false, got a string"
NUMBER = "expected a number, got a string"
CASES = [  # key, default, good value, what it becomes, bad value, the error's text (after "deserialize: <key>: ")
    ("proxy.request_body_limit_bytes", 67108864, 0, 0, "x", INTEGER),
    ("proxy.body_budget_bytes", 268435456, 5, 5, -1, "expected an integer of at least 0"),
    ("proxy.max_header_bytes", 65536, 8192, 8192, 8191, "expected an integer of at least 8192"),
    ("proxy.server_header", True, False, False, "no", FLAG),
    ("proxy.thread_per_core", True, False, False, 1, "expected true or false, got an integer"),
    ("proxy.real_ip.recursive", False, True, True, "x", FLAG),
    ("downstream.idle_timeout_secs", 0.0, 75, 75.0, "x", NUMBER),
    ("downstream.sse_keepalive_interval_secs", 15.0, 0, 0.0, True, "expected a number, got a boolean"),
    ("downstream.header_timeout_secs", 20.0, 0.5, 0.5, float("nan"), "expected a finite number"),
    ("downstream.body_min_rate_bytes", 512, 0, 0, 1.5, "expected an integer, got a float"),
    (
        "downstream.send_stall_timeout_secs",
        300.0,
        1,
        1.0,
        -1,
        "expected a number of at least 0 and at most 2.14748e+06",
    ),
    ("downstream.max_connections", 0, 9, 9, None, "expected an integer, got null"),
    ("downstream.responses_progress_secs", 0.0, 60, 60.0, "x", NUMBER),
    ("upstream.timeout_ms", 6000000, 0, 0, 2**31, "expected an integer from 0 to 2147483647"),
    ("upstream.stream_timeout_ms", 0, 30000, 30000, "x", INTEGER),
    ("upstream.first_event_timeout_ms", 0, 1, 1, "x", INTEGER),
    ("upstream.connect_timeout_ms", 5000, 1, 1, [], "expected an integer, got a list"),
    ("upstream.tcp_keepalive_secs", 60, 1, 1, {}, "expected an integer, got a mapping"),
    ("upstream.tcp_keepalive_interval_secs", 30, 1, 1, "x", INTEGER),
    ("upstream.tcp_keepalive_retries", 5, 1, 1, "x", INTEGER),
    ("upstream.pool_idle_timeout_secs", 30.0, 1, 1.0, "x", NUMBER),
    ("upstream.pool_max_idle_per_host", None, 4, 4, "x", INTEGER),
    ("upstream.retries", 2, 0, 0, "x", INTEGER),
    ("upstream.max_event_bytes", 16777216, 1, 1, 0, "expected an integer of at least 1"),
    ("upstream.max_body_bytes", 67108864, 1, 1, 0, "expected an integer of at least 1"),
    ("upstream.tls.verify", True, False, False, "x", FLAG),
    ("upstream.tls.ca_file", None, "ca.pem", "ca.pem", "", "expected a non-empty string"),
    ("observability.service_name", "aisix", "x", "x", 1, "expected a string, got an integer"),
    ("observability.access_log", True, False, False, "x", FLAG),
    ("observability.log_format", "text", "json", "json", "xml", 'expected "text" or "json"'),
    ("observability.metrics.prometheus.enabled", True, False, False, "x", FLAG),
    ("observability.metrics.prometheus.path", "/metrics", "/m", "/m", "m", "expected a path that starts with /"),
    ("shutdown.min_drain_secs", 30.0, 0, 0.0, "x", NUMBER),
    ("shutdown.drain_secs", 600, 0, 0, 0.5, "expected an integer, got a float"),
    ("demo.enabled", False, True, True, "x", FLAG),
    ("demo.ttft_ms", 150, 0, 0, "x", INTEGER),
    ("demo.words_per_second", 20.0, 100, 100.0, 0, "expected a number of at least 0.001"),
]


@pytest.mark.parametrize(("key", "default", "good", "read", "bad", "message"), CASES)
def test_plain_keys(key, default, good, read, bad, message):
    assert at(structure(tree(), {}), key) == default
    assert at(structure(tree(**{key: good}), {}), key) == read
    assert detail(tree(**{key: bad})) == f"deserialize: {key}: {message}"
    variable = "AISIX_" + key.upper().replace(".", "__")
    written = str(good).lower() if isinstance(good, bool) else str(good)
    assert at(structure(tree(), {variable: written}), key) == read


RULES = [  # key, good, read, bad, the whole sentence
    ("proxy.addr", "[::1]:0", Address("::1", 0), "localhost:3000", "proxy.addr invalid socket address: localhost:3000"),
    (
        "proxy.addr",
        "0.0.0.0:1",
        Address("0.0.0.0", 1),
        "1.1.1.1:65536",
        "proxy.addr invalid socket address: 1.1.1.1:65536",
    ),
    (
        "proxy.api_prefix",
        "",
        "",
        "api",
        "proxy.api_prefix must be empty or a path such as /api, without a slash at its end",
    ),
    ("proxy.real_ip.header", "X-Real-IP", "x-real-ip", "a b", "proxy.real_ip.header invalid header name: a b"),
    (
        "proxy.request_id.accept_headers",
        ["X-Id"],
        ("x-id",),
        ["Cookie"],
        "proxy.request_id.accept_headers must not name cookie",
    ),
    ("proxy.workers", "auto", "auto", 0, "proxy.workers must be at least 1"),
    (
        "observability.metrics.prometheus.addr",
        "127.0.0.1:1",
        Address("127.0.0.1", 1),
        "x",
        "observability.metrics.prometheus.addr invalid socket address: x",
    ),
    (
        "demo.addr",
        "127.0.0.1:5",
        Address("127.0.0.1", 5),
        "0.0.0.0:5",
        "demo.addr must be a loopback address: 0.0.0.0:5",
    ),
    (
        "observability.metrics.buckets.request_ttft",
        [1, 2.5],
        (1.0, 2.5),
        [2, 1],
        "observability.metrics.buckets.request_ttft must be greater than 0 and strictly ascending",
    ),
    (
        "observability.metrics.buckets.a2a_ttfb",
        [1],
        (1.0,),
        [],
        "observability.metrics.buckets.a2a_ttfb must list 1 to 64 edges",
    ),
    (
        "observability.log_level",
        "info,klein=debug",
        "info,klein=debug",
        "loud",
        "observability.log_level must be off, critical, error, warn, info, debug or trace (or a list such as info,module=debug)",  # noqa: E501
    ),
]


@pytest.mark.parametrize(("key", "good", "read", "bad", "message"), RULES)
def test_ruled_keys(key, good, read, bad, message):
    assert at(structure(tree(**{key: good}), {}), key) == read
    assert detail(tree(**{key: bad})) == message


def test_more_defaults():
    read = structure(tree(), {})
    assert (read.proxy.cors, read.proxy.tls, read.proxy.url_rewrites, read.proxy.workers) == (None, None, (), 1)
    assert read.proxy.request_id.accept_headers == ("x-aisix-request-id",)
    assert read.proxy.real_ip.header == "x-forwarded-for"
    assert read.observability.metrics.prometheus.addr == Address("0.0.0.0", 9090)
    assert read.admin.enabled is False
    assert (read.warnings, read.resources_file) == ((), "r.yaml")


def test_cors_and_tls():
    read = structure(tree(**{"proxy.cors": {"allow_origins": ["*", "https://a.example:8443"]}}), {}).proxy.cors
    assert (read.allow_headers, read.max_age_secs) == (("*",), 600)
    assert "server-timing" in read.expose_headers
    assert detail(tree(**{"proxy.cors": {}})) == "deserialize: proxy.cors.allow_origins: missing"
    assert (
        detail(tree(**{"proxy.cors": {"allow_origins": []}}))
        == "proxy.cors.allow_origins must list at least one origin"
    )
    assert detail(tree(**{"proxy.cors": {"allow_origins": ["a.example"]}})).startswith(
        "deserialize: proxy.cors.allow_origins"
    )
    assert detail(tree(**{"proxy.tls": {"cert_file": "c"}})) == "deserialize: proxy.tls.key_file: missing"


def mappings(node, path=()):
    if attrs.has(type(node)) and type(node) not in (Address, UrlRewrite):
        yield path
        for field in attrs.fields(type(node)):
            yield from mappings(getattr(node, field.name), (*path, field.name))


@pytest.mark.parametrize("path", list(mappings(structure(tree(), {}))), ids=".".join)
def test_unknown_keys_are_refused_at_every_level(path):
    said = detail(tree(**{".".join((*path, "typo")): 1}))
    assert said.startswith(
        ("deserialize: " + ".".join((*path, "typo")) + ": unknown key (expected one of", "`admin.enabled`")
    )


@pytest.mark.parametrize("key", ["proxy.upload_limit_bytes", "warnings", "proxy.listeners"])
def test_keys_of_later_issues_are_unknown(key):
    assert detail(tree(**{key: []})).startswith(f"deserialize: {key}: unknown key")


UNAVAILABLE = [
    ("etcd.endpoints", ["http://x"]),
    ("managed.enabled", True),
    ("admin.enabled", True),
    ("observability.metrics.otlp.enabled", True),
    ("observability.tracing.otlp.enabled", True),
    ("bedrock_endpoint_url", "x"),
]


@pytest.mark.parametrize(("key", "value"), UNAVAILABLE)
def test_known_but_unavailable(key, value):
    assert detail(tree(**{key: value})) == f"`{key}` is known but not available in this version"


CERTIFICATE_ALONE = {"url": "rediss://x", "tls": {"client_cert_file": "c"}}
STORES = [
    ({"backend": "redis"}, "ratelimit.redis is required when backend = redis"),
    ({"redis": {}}, "ratelimit.redis.url is required when mode = single"),
    ({"redis": {"url": "http://:secret@x"}}, "ratelimit.redis.url must be a redis:// or rediss:// URL"),
    ({"redis": {"url": "redis://x/a"}}, "ratelimit.redis.url must be a redis:// or rediss:// URL"),
    ({"redis": {"mode": "cluster"}}, "ratelimit.redis.mode = cluster is not available: single and sentinel are"),
    (
        {"redis": {"mode": "sentinel"}},
        "ratelimit.redis.sentinels must list at least one node when mode = sentinel",
    ),
    (
        {"redis": {"mode": "sentinel", "sentinels": ["redis://x"]}},
        "ratelimit.redis.master_name is required when mode = sentinel",
    ),
    ({"redis": CERTIFICATE_ALONE}, "ratelimit.redis.tls client_cert_file and client_key_file must be set together"),
    (
        {"backend": "redis", "redis": {"url": "redis://x"}, "concurrency_ttl_secs": 0},
        "ratelimit.concurrency_ttl_secs must be greater than 0 when backend = redis",
    ),
    ({"backend": "disk"}, 'deserialize: ratelimit.backend: expected "memory" or "redis"'),
    ({"store_timeout_ms": 0}, "deserialize: ratelimit.store_timeout_ms: expected an integer from 1 to 60000"),
    ({"redis": {"urls": "redis://x"}}, "deserialize: ratelimit.redis.urls: unknown key (expected one of mode, url"),
]


@pytest.mark.parametrize(("section", "said"), STORES)
def test_where_limits_are_counted(section, said):
    assert detail(tree(ratelimit=section)).startswith(said)
    assert "secret" not in detail(tree(ratelimit=section))


def test_a_redis_is_described_by_its_url_or_by_sentinels():
    limits = structure(tree(ratelimit={"backend": "redis", "redis": {"url": "redis://u:p%40@h/2"}}), {}).ratelimit
    assert (limits.store_timeout_ms, limits.concurrency_ttl_secs) == (50, 300)
    server = server_of(limits.redis.url)
    assert (server.host, server.port, server.username, server.password, server.database) == ("h", 6379, "u", "p@", 2)
    assert "p%40" not in repr(limits)
    environ = {"AISIX_RATELIMIT__REDIS__URL": "rediss://other", "AISIX_RATELIMIT__STORE_TIMEOUT_MS": "20"}
    limits = structure(tree(), environ).ratelimit
    assert server_of(limits.redis.url).tls
    assert limits.store_timeout_ms == 20


def test_harmless_forms_of_unavailable_sections():
    off = {"etcd": None, "managed": {"enabled": False}, "cache": {"backend": "memory"}, "admin": {"enabled": False}}
    structure(tree(**off, ratelimit={"backend": "memory", "concurrency_ttl_secs": 5}), {})
    assert "admin.enabled" in detail(tree(admin={"admin_keys": ["very-secret"]}))


def test_order_first_error_only():
    bad = tree(
        **{
            "proxy.url_rewrites": [{"match": "(", "rewrite": "/"}],
            "proxy.addr": "x",
            "proxy.real_ip.trusted_proxies": ["y"],
            "proxy.request_id.accept_headers": ["host"],
            "proxy.workers": 0,
            "observability.metrics.prometheus.addr": "z",
            "upstream.tls.client_cert_file": "c",
            "demo.addr": "q",
        }
    )
    bad["resources_file"] = ""
    seen = []
    repairs = [
        lambda: bad["proxy"].pop("url_rewrites"),
        lambda: bad.update(resources_file="r"),
        lambda: bad["proxy"].update(addr="1.1.1.1:1"),
        lambda: bad["proxy"].pop("real_ip"),
        lambda: bad["proxy"].pop("request_id"),
        lambda: bad["proxy"].pop("workers"),
        lambda: bad.pop("observability"),
        lambda: bad.pop("upstream"),
        lambda: bad.pop("demo"),
    ]
    for repair in repairs:
        seen.append(detail(bad))
        repair()
    assert seen[0].startswith("proxy.url_rewrites[0]: match is not a valid regex")
    assert seen[1:] == [
        "resources_file must not be empty",
        "proxy.addr invalid socket address: x",
        "proxy.real_ip.trusted_proxies invalid CIDR/IP: y",
        "proxy.request_id.accept_headers must not name host",
        "proxy.workers must be at least 1",
        "observability.metrics.prometheus.addr invalid socket address: z",
        "upstream.tls client_cert_file and client_key_file must be set together",
        "demo.addr invalid socket address: q",
    ]
    structure(bad, {})


def test_no_source():
    document = tree()
    del document["resources_file"]
    assert detail(document).startswith("etcd.endpoints must contain at least one endpoint (or set resources_file")


def test_places_in_errors():
    assert detail(tree(**{"proxy.addr": "x"}), source="a.yaml", lines={("proxy", "addr"): 7}).endswith(
        ": x (a.yaml, line 7)"
    )
    assert detail(tree(), {"AISIX_PROXY__ADDR": "x"}, source="a.yaml", lines={("proxy", "addr"): 7}).endswith(
        "proxy.addr invalid socket address: x (from AISIX_PROXY__ADDR)"
    )


ENVIRONMENT = [
    ("aisix_proxy__ADDR", "0.0.0.0:1", "proxy.addr", Address("0.0.0.0", 1)),
    ("AISIX_OBSERVABILITY__SERVICE_NAME", "123", "observability.service_name", "123"),
    ("AISIX_PROXY__WORKERS", "4", "proxy.workers", 4),
    ("AISIX_PROXY__REQUEST_ID__ACCEPT_HEADERS", "", "proxy.request_id.accept_headers", ()),
    ("AISIX_PROXY__REQUEST_ID__ACCEPT_HEADERS", "x-a, x-b", "proxy.request_id.accept_headers", ("x-a", "x-b")),
    (
        "AISIX_OBSERVABILITY__METRICS__BUCKETS__REQUEST_TTFT",
        "1,2.5",
        "observability.metrics.buckets.request_ttft",
        (1.0, 2.5),
    ),
    (
        "AISIX_PROXY__URL_REWRITES",
        '[{"match": "/x", "rewrite": "/y"}]',
        "proxy.url_rewrites",
        (UrlRewrite("/x", "/y"),),
    ),
    ("AISIX_PROXY__URL_REWRITES", "", "proxy.url_rewrites", ()),
    ("AISIX_RESOURCES_FILE", "other", "resources_file", "other"),
    ("AISIX_LOG", "debug", "observability.log_level", "debug"),
    ("AISIX_CONFIG", "anything", "resources_file", "r.yaml"),
    ("AISIX_PORT_3000_TCP_ADDR", "10.0.0.1", "resources_file", "r.yaml"),
]


@pytest.mark.parametrize(("variable", "written", "key", "read"), ENVIRONMENT)
def test_environment(variable, written, key, read):
    assert at(structure(tree(), {variable: written}), key) == read


BAD_ENVIRONMENT = [
    ("AISIX_PROXY__ADRR", "x", "deserialize: proxy.adrr: unknown key (from AISIX_PROXY__ADRR)"),
    ("AISIX_PROXY", "x", "deserialize: proxy: cannot be set from the environment as a whole (from AISIX_PROXY)"),
    (
        "AISIX_PROXY__CORS__ALLOW_ORIGINS",
        "*",
        "deserialize: proxy.cors.allow_origins: cannot be set from the environment "
        "(from AISIX_PROXY__CORS__ALLOW_ORIGINS)",
    ),
    (
        "AISIX_PROXY__URL_REWRITES",
        "[",
        "deserialize: proxy.url_rewrites: expected a JSON array (from AISIX_PROXY__URL_REWRITES)",
    ),
    (
        "AISIX_UPSTREAM__RETRIES",
        "x",
        "deserialize: upstream.retries: expected an integer, got a string (from AISIX_UPSTREAM__RETRIES)",
    ),
]


@pytest.mark.parametrize(("variable", "written", "message"), BAD_ENVIRONMENT)
def test_bad_environment(variable, written, message):
    assert detail(tree(), {variable: written}).startswith(message)


def test_warnings():
    read = structure(tree(**{"proxy.workers": 2, "upstream.tls.verify": False}), {})
    assert [text.split(":")[0].split(" ")[0] for text in read.warnings] == ["proxy.workers", "upstream.tls.verify"]


@pytest.mark.parametrize(
    "bad", [None, [], "x", {1: 2}, {"proxy": {"addr": {2: 3}}}, {"proxy": []}, {"proxy": None}, {}]
)
def test_odd_trees(bad):
    assert detail(bad).startswith(("deserialize: ", "etcd.endpoints"))


def test_client_type_rules():
    good = [{"pattern": "my-app/", "client": "my-app"}]
    assert structure(tree(**{"observability.metrics.client_type_rules": good}), {})
    key = "observability.metrics.client_type_rules"
    assert detail(tree(**{key: [{"pattern": "(", "client": "a"}]})).startswith(f"{key}[0].pattern is not a valid regex")
    assert detail(tree(**{key: [{"pattern": "", "client": "a"}]})) == f"{key}[0].pattern must be 1 to 512 bytes long"
    assert detail(tree(**{key: good * 65})) == f"{key} must list at most 64 rules"


REWRITES = [
    ("/old", "/new", "/v1/old/old", "/v1/new/old"),
    ("^/a/([^/]+)/(?<rest>.*)$", "/v1/${rest}/$1", "/a/b/c", "/v1/c/b"),
    ("^/x", "/$$x$", "/x/y", "/$x$/y"),
    ("^/no", "/yes", "/other%2F", "/other%2F"),
]


@pytest.mark.parametrize(("match", "template", "path", "result"), REWRITES)
def test_rewrite(match, template, path, result):
    rules = (read_rewrite({"match": match, "rewrite": template}), UrlRewrite("^/new", "/twice"))
    assert rewrite(path, rules) == rewrite(path.encode(), rules) == result


BAD_REWRITES = [
    ({"match": "a*", "rewrite": "/"}, "proxy.url_rewrites[0]: match can match the empty string"),
    ({"match": "^", "rewrite": "/"}, "proxy.url_rewrites[0]: match can match the empty string"),
    (
        {"match": "a", "rewrite": "/?x"},
        "proxy.url_rewrites[0]: rewrite must not hold ?, #, whitespace or a control character",
    ),
    ({"match": "a", "rewrite": "/$1"}, "proxy.url_rewrites[0]: rewrite names a capture group that match lacks: 1"),
    ({"match": "(a)", "rewrite": "/$1x"}, "proxy.url_rewrites[0]: rewrite names a capture group that match lacks: 1x"),
    ({"match": "a"}, "deserialize: proxy.url_rewrites[0]: rewrite: missing"),
    ({"match": "a", "rewrite": 1}, "deserialize: proxy.url_rewrites[0]: rewrite: expected a string, got an integer"),
    (
        {"match": "a", "rewrite": "/", "x": 1},
        "deserialize: proxy.url_rewrites[0]: unknown key x (expected one of name, match, rewrite)",
    ),
]


@pytest.mark.parametrize(("rule", "message"), BAD_REWRITES)
def test_bad_rewrites(rule, message):
    assert detail(tree(**{"proxy.url_rewrites": [rule]})) == message


def test_keys_enumerate_the_schema():
    names = list(settings.keys())
    assert len(names) == len(set(names))
    expected = (
        {key for key, *_ in CASES}
        | {key for key, *_ in RULES}
        | {
            "resources_file",
            "proxy.cors.allow_origins",
            "proxy.tls.cert_file",
            "proxy.url_rewrites[].match",
            "observability.metrics.client_type_rules[].pattern",
            "admin.admin_keys",
            "etcd.endpoints",
        }
    )
    assert expected <= set(names)
    assert "warnings" not in names


def test_secrets_are_not_shown():
    assert "hidden" not in repr(attrs.evolve(structure(tree(), {}).admin, admin_keys=("hidden",)))
    assert isinstance(structure(tree(), {}), Settings)


def test_the_caches():
    assert structure(tree(), {}).cache == settings.Cache("memory", None, 67108864)
    section = {"backend": "redis", "redis": {"url": "redis://:pw@h"}, "memory_max_bytes": 1}
    cache = structure(tree(cache=section), {}).cache
    assert (server_of(cache.redis.url).host, cache.memory_max_bytes) == ("h", 1)
    assert "pw" not in repr(cache)
    assert structure(tree(), {"AISIX_CACHE__REDIS__URL": "redis://x"}).cache.redis.url == "redis://x"
    assert structure(tree(), {"AISIX_CACHE__MEMORY_MAX_BYTES": "5"}).cache.memory_max_bytes == 5


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"backend": "redis"}, "cache.redis is required when backend = redis"),
        ({"redis": {}}, "cache.redis.url is required when mode = single"),
        ({"redis": {"mode": "cluster"}}, "cache.redis.mode = cluster is not available: single and sentinel are"),
        ({"redis": {"url": "http://x"}}, "cache.redis.url must be a redis:// or rediss:// URL"),
        ({"memory_max_bytes": 0}, "deserialize: cache.memory_max_bytes: expected an integer of at least 1"),
        ({"backend": "disk"}, 'deserialize: cache.backend: expected "memory" or "redis"'),
    ],
)
def test_bad_caches(section, said):
    assert detail(tree(cache=section)).startswith(said)
