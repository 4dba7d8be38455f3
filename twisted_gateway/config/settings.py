"""The boot file's settings as frozen records (`configuration.md` 2-4, `extensions.md` 1-3). Pure: no file, no clock.

The records are the schema: a key exists when a record has it, its default is the field's, its check is the type's.
`structure` makes `Settings` of a plain tree and the environment, or raises `SettingsError` for the first thing wrong.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import attrs

from twisted_gateway.addresses import Address, Network
from twisted_gateway.config.checks import (
    MEANT_NULL,
    Choice,
    Count,
    Flag,
    Invalid,
    Lines,
    Mistyped,
    NonEmpty,
    Number,
    Parsed,
    Path,
    Text,
    Unknown,
    Whole,
    converter,
    describe,
    dotted,
    keys_of,
    leaves,
    line_of,
    odd_key,
    one_line,
)
from twisted_gateway.config.dormant import Admin, Etcd, ListenerTls, Managed, MetricsOtlp, Tracing
from twisted_gateway.config.environment import OBJECT_LISTS, Refused, json_list, overlaid
from twisted_gateway.config.hooking import HookEntry, repeated
from twisted_gateway.config.money import UsageFiles
from twisted_gateway.config.readers import (
    HEADER,
    Buckets,
    Listen,
    Millis,
    Seconds,
    WholeSeconds,
    read_header,
    read_id_header,
    read_log_level,
    read_loopback,
    read_origins,
    read_prefix,
    read_trusted,
    read_user_agent,
    read_workers,
)
from twisted_gateway.config.redis import RedisBlock
from twisted_gateway.config.redis import broken as broken_redis
from twisted_gateway.config.rewrites import UrlRewrite, read_rewrite
from twisted_gateway.config.routes import Retries, RetryBudget
from twisted_gateway.config.unavailable import SETTINGS as UNAVAILABLE
from twisted_gateway.config.unavailable import refusal

ORDER = (
    "proxy.url_rewrites",
    "resources_file",
    "etcd",
    "admin",
    "proxy.addr",
    "proxy.real_ip.trusted_proxies",
    "proxy.request_id.accept_headers",
    "proxy.workers",
    "observability.metrics.prometheus.addr",
    "ratelimit",
    "cache",
    "upstream.tls",
)
"""`configuration.md` 4: of several broken rules the first in this order is reported; the rest follow as written."""


MOST_CLIENT_RULES = 64
METRICS_ADDRESS = Address("0.0.0.0", 9090)
DEMO_ADDRESS = Address("127.0.0.1", 0)


class SettingsError(Exception):
    """The boot file, or an environment variable over it, cannot be used. The text is the whole report."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"config load failed: failed to load configuration: {one_line(detail)}")


@attrs.frozen
class RealIp:
    """Whose forwarding header is believed (`policy.md` 4)."""

    trusted_proxies: tuple[Annotated[Network, str, Parsed(read_trusted)], ...] = ()
    recursive: Flag = False
    header: Annotated[str, Parsed(read_header)] = "x-forwarded-for"


@attrs.frozen
class RequestId:
    """Headers in which a caller may bring its own request id; none: always make one."""

    accept_headers: tuple[Annotated[str, Parsed(read_id_header)], ...] = ("x-aisix-request-id",)


@attrs.frozen
class Cors:
    """Which web pages may call (`extensions.md` 1.2). In `expose_headers` `x-ratelimit-*` means all of ours."""

    allow_origins: Annotated[tuple[str, ...], Parsed(read_origins)]
    allow_headers: tuple[Annotated[str, HEADER], ...] = ("*",)
    expose_headers: tuple[Annotated[str, HEADER], ...] = (
        "x-aisix-request-id",
        "x-aisix-served-by",
        "retry-after",
        "server-timing",
        "x-ratelimit-*",
    )
    max_age_secs: Annotated[int, Whole()] = 600


@attrs.frozen
class Proxy:
    """The listener for callers (`configuration.md` 3.1, `extensions.md` 1). Bytes; 0 = no bound."""

    addr: Listen
    request_body_limit_bytes: Count = 64 * 2**20
    body_budget_bytes: Count = 256 * 2**20
    max_header_bytes: Annotated[int, Whole(low=8192)] = 65536
    api_prefix: Annotated[str, Parsed(read_prefix)] = "/api"
    server_header: Flag = True
    server_timing: Flag = True
    responses_bridge: Flag = False
    responses_stream_guardrail: Annotated[str, Choice(("buffer", "incremental"))] = "buffer"
    max_drains: Count = 100
    cors: Cors | None = None
    tls: ListenerTls | None = None
    real_ip: RealIp = attrs.field(factory=RealIp)
    request_id: RequestId = attrs.field(factory=RequestId)
    url_rewrites: tuple[Annotated[UrlRewrite, Parsed(read_rewrite)], ...] = ()
    workers: Annotated[int | str, Parsed(read_workers)] = 1
    thread_per_core: Flag = True


@attrs.frozen
class Downstream:
    """Patience with callers (`configuration.md` 3.6, `extensions.md` 1). Seconds; 0 = off."""

    idle_timeout_secs: Seconds = 0.0
    sse_keepalive_interval_secs: Seconds = 15.0
    header_timeout_secs: Seconds = 20.0
    body_min_rate_bytes: Count = 512
    send_stall_timeout_secs: Seconds = 300.0
    max_connections: Count = 0
    responses_progress_secs: Seconds = 0.0


@attrs.frozen
class UpstreamTls:
    """Trust towards providers, and our own identity; `verify: false` trusts anyone, and warns."""

    ca_file: NonEmpty | None = None
    client_cert_file: NonEmpty | None = None
    client_key_file: NonEmpty | None = None
    verify: Flag = True


@attrs.frozen
class Upstream:
    """Patience with providers and the pool of connections to them (`configuration.md` 3.5, `extensions.md` 3)."""

    timeout_ms: Millis = 6_000_000
    stream_timeout_ms: Millis = 0
    first_event_timeout_ms: Millis = 0
    connect_timeout_ms: Millis = 5000
    tcp_keepalive_secs: Annotated[int, Whole(high=32767)] = 60
    tcp_keepalive_interval_secs: Annotated[int, Whole(high=32767)] = 30
    tcp_keepalive_retries: Annotated[int, Whole(high=127)] = 5
    pool_idle_timeout_secs: Seconds = 30.0
    pool_max_idle_per_host: Count | None = None
    retries: Retries = 2
    retry_budget: RetryBudget | None = attrs.field(factory=RetryBudget, metadata=MEANT_NULL)
    tls: UpstreamTls = attrs.field(factory=UpstreamTls)
    max_event_bytes: Annotated[int, Whole(low=1)] = 16 * 2**20
    max_body_bytes: Annotated[int, Whole(low=1)] = 64 * 2**20


@attrs.frozen
class Prometheus:
    """The metrics and status listener: plain HTTP, no credential."""

    enabled: Flag = True
    addr: Listen = METRICS_ADDRESS
    path: Annotated[str, Text(r"/[^?#\s]*", "a path that starts with /")] = "/metrics"


@attrs.frozen
class ClientTypeRule:
    """A user agent that matches `pattern` (any case, anywhere) gets the label `client`."""

    pattern: Annotated[str, Parsed(read_user_agent)]
    client: Annotated[str, Text(r"[a-z0-9][a-z0-9._-]{0,63}", "1 to 64 of a-z, 0-9, '.', '_' and '-'")]


_TTFT = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@attrs.frozen
class MetricBuckets:
    """Histogram edges in seconds, ascending; +Inf is implied (`operations.md` 5.7)."""

    request_e2e_latency: Buckets = (
        *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0),
        *(10.0, 30.0, 60.0, 120.0, 300.0, 420.0, 600.0),
    )
    request_ttft: Buckets = _TTFT
    guardrail_latency: Buckets = (
        *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
        *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    )
    a2a_ttfb: Buckets = _TTFT


@attrs.frozen
class Metrics:
    """What is counted and where it is read."""

    prometheus: Prometheus = attrs.field(factory=Prometheus)
    otlp: MetricsOtlp = attrs.field(factory=MetricsOtlp)
    client_type_rules: tuple[ClientTypeRule, ...] = ()
    buckets: MetricBuckets = attrs.field(factory=MetricBuckets)


@attrs.frozen
class Observability:
    """Logs and metrics (`configuration.md` 3.4)."""

    service_name: str = "aisix"
    log_level: Annotated[str, Parsed(read_log_level)] = "info"
    access_log: Flag = True
    log_format: Annotated[str, Choice(("text", "json"))] = "text"
    metrics: Metrics = attrs.field(factory=Metrics)
    tracing: Tracing = attrs.field(factory=Tracing)


@attrs.frozen
class Shutdown:
    """After SIGTERM: how long to go on accepting, then how long to wait for calls in flight (0 = no bound)."""

    min_drain_secs: Seconds = 30.0
    drain_secs: WholeSeconds = 600


@attrs.frozen
class Demo:
    """The built-in demo provider (`extensions.md` 2)."""

    enabled: Flag = False
    addr: Annotated[Address, Parsed(read_loopback)] = DEMO_ADDRESS
    ttft_ms: Millis = 150
    words_per_second: Annotated[float, Number(low=0.001)] = 20.0


CodePath = Annotated[str, Text(r"[^\W\d][\w.]*:[^\W\d][\w.]*", "package.module:attribute")]
"""Where a Python object is found. Only the boot file may say so."""


@attrs.frozen
class Cache:
    """The caches that policies choose from (`configuration.md` 3.9): one in memory, of so many bytes, and one in a
    Redis where that is given. `backend` chooses nothing.
    """

    backend: Annotated[str, Choice(("memory", "redis"))] = "memory"
    redis: RedisBlock | None = None
    memory_max_bytes: Annotated[int, Whole(low=1)] = 64 * 2**20


@attrs.frozen
class Ratelimit:
    """Where limits are counted (`configuration.md` 3.9); `redis` is used when `backend` says so."""

    backend: Annotated[str, Choice(("memory", "redis"))] = "memory"
    redis: RedisBlock | None = None
    concurrency_ttl_secs: WholeSeconds = 300
    store_timeout_ms: Annotated[int, Whole(low=1, high=60_000)] = 50


@attrs.frozen
class Settings:
    """Everything the process is told once, at start. `warnings` are sentences for the log."""

    proxy: Proxy
    resources_file: str = ""
    downstream: Downstream = attrs.field(factory=Downstream)
    upstream: Upstream = attrs.field(factory=Upstream)
    observability: Observability = attrs.field(factory=Observability)
    shutdown: Shutdown = attrs.field(factory=Shutdown)
    demo: Demo = attrs.field(factory=Demo)
    hooks: tuple[HookEntry, ...] = ()
    usage: UsageFiles = attrs.field(factory=UsageFiles)
    admin: Admin = attrs.field(factory=Admin)
    etcd: Etcd = attrs.field(factory=Etcd)
    managed: Managed = attrs.field(factory=Managed)
    cache: Cache = attrs.field(factory=Cache)
    ratelimit: Ratelimit = attrs.field(factory=Ratelimit)
    bedrock_endpoint_url: str | None = None
    callables: Mapping[str, CodePath] = attrs.field(factory=dict)
    warnings: tuple[str, ...] = attrs.field(default=(), metadata={"derived": True})


def keys() -> Iterator[str]:
    """Yield the dotted name of every key of the boot file."""
    for key in keys_of(Settings):
        yield key
        if key == "proxy.url_rewrites":
            yield from (f"{key}[].{member}" for member in ("name", "match", "rewrite"))


_CONVERTER = converter()


def structure(tree: object, environ: Mapping[str, str], *, source: str = "", lines: Lines | None = None) -> Settings:
    """Make `Settings` of the boot file's plain tree with the environment laid over it.

    `source` (the file's name) and `lines` only serve the error text. Raises `SettingsError` for the first thing that
    is wrong: form before rules, rules in `ORDER`.
    """
    place = _Places(source, lines or {})
    if not isinstance(tree, Mapping):
        raise SettingsError(f"deserialize: expected a mapping, got {describe(tree)}{place.of(())}")
    if (odd := odd_key(tree)) is not None:
        raise SettingsError(f"deserialize: {dotted(odd) or '(file)'}: every key must be a string{place.of(odd)}")
    try:
        merged, place.origins = overlaid(tree, environ, Settings)
    except Refused as refused:
        detail = f"deserialize: {dotted(refused.path)}: {refused} (from {refused.variable})"
        raise SettingsError(detail) from None
    _refuse_unavailable(merged, place)
    problems: list[tuple[Path, Exception]] = []
    for key in OBJECT_LISTS:
        *parents, last = key.split(".")
        holder = _find(merged, tuple(parents))
        if isinstance(holder, dict) and last in holder:
            try:
                holder[last] = json_list(holder[last])
            except Mistyped as error:
                raise SettingsError(f"deserialize: {key}: {error}{place.of((*parents, last))}") from None
    settings = None
    try:
        settings = _CONVERTER.structure(merged, Settings)
    except Exception as error:
        problems = list(leaves(error))
    mistyped = [problem for problem in problems if isinstance(problem[1], Mistyped)]
    if mistyped:  # an unknown key is often the misspelt name of one that is missing: it says more
        path, reason = min(mistyped, key=lambda problem: not isinstance(problem[1], Unknown))
        raise SettingsError(f"deserialize: {dotted(path)}: {reason}{place.of(path)}")
    problems += _broken_together(merged)
    if problems:
        path, reason = min(problems, key=lambda problem: _rank(dotted(problem[0])))
        raise SettingsError(_sentence(path, reason) + place.of(path))
    assert settings is not None
    if (again := repeated(settings.hooks)) is not None:
        path = ("hooks", again, "name")
        raise SettingsError(f"hooks[{again}].name is used already: {settings.hooks[again].shown}{place.of(path)}")
    return attrs.evolve(settings, warnings=tuple(_warnings(settings)))


@attrs.define
class _Places:
    """Says where a value came from: a variable, or a line of the file."""

    source: str
    lines: Lines
    origins: Mapping[Path, str] = attrs.field(factory=dict)

    def of(self, path: Path) -> str:
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return f" (from {self.origins[path[:end]]})"
        line = line_of(path, self.lines)
        where = [self.source] * bool(self.source) + [f"line {line}"] * (line is not None)
        return f" ({', '.join(where)})" if where else ""


def _find(tree: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        tree = tree.get(step) if isinstance(tree, Mapping) else None
    return tree


def _refuse_unavailable(tree: dict[str, Any], place: _Places) -> None:
    admin = tree.get("admin")
    if isinstance(admin, dict) and admin and "enabled" not in admin:
        tree["admin"] = admin | {"enabled": True}  # AISIX's default where the section is written
    for path, row in UNAVAILABLE.items():
        if row.refuses(_find(tree, path)):
            raise SettingsError(refusal(dotted(path)) + place.of(path))


def _broken_together(tree: Mapping[str, Any]) -> Iterator[tuple[Path, Exception]]:
    """Rules over more than one key. They look at the tree, since another broken rule may have kept the record away."""
    if tree.get("resources_file") is None:
        reason = "must contain at least one endpoint (or set resources_file to the path of a resources file)"
        yield ("etcd", "endpoints"), Invalid(reason)
    elif tree["resources_file"] == "":
        yield ("resources_file",), Invalid("must not be empty")
    rules = _find(tree, ("observability", "metrics", "client_type_rules")) or []
    if len(rules) > MOST_CLIENT_RULES:
        yield ("observability", "metrics", "client_type_rules"), Invalid(f"must list at most {MOST_CLIENT_RULES} rules")
    yield from _broken_stores(tree)
    tls = (tree.get("upstream") and tree["upstream"].get("tls")) or {}
    if (tls.get("client_cert_file") is None) != (tls.get("client_key_file") is None):
        yield ("upstream", "tls"), Invalid("client_cert_file and client_key_file must be set together")


def _broken_stores(tree: Mapping[str, Any]) -> Iterator[tuple[Path, Exception]]:
    for name in ("ratelimit", "cache"):
        store = tree.get(name) or {}
        if store.get("redis") is not None:
            yield from broken_redis(store["redis"], (name, "redis"))
        elif store.get("backend") == "redis":
            yield (name, "redis"), Invalid("is required when backend = redis")
    limits = tree.get("ratelimit") or {}
    if limits.get("backend") == "redis" and limits.get("concurrency_ttl_secs") == 0:
        yield ("ratelimit", "concurrency_ttl_secs"), Invalid("must be greater than 0 when backend = redis")


def _rank(key: str) -> int:
    return next((rank for rank, prefix in enumerate(ORDER) if key.startswith(prefix)), len(ORDER))


def _sentence(path: Path, error: Exception) -> str:
    if path[:2] == ("proxy", "url_rewrites"):
        return f"{dotted(path)}: {error}"
    return f"{dotted(path[:-1] if isinstance(path[-1], int) else path)} {error}"


def _warnings(settings: Settings) -> Iterator[str]:
    if settings.proxy.workers != 1:
        yield "proxy.workers: more than one process is not available in this version; one is started"
    if not settings.upstream.tls.verify:
        yield "upstream.tls.verify is false: the certificates of providers are not checked"
