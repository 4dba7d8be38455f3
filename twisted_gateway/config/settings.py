"""The boot file's settings as frozen records (`configuration.md` 2-4, `extensions.md` 1-3). Pure: no file, no clock.

The records are the schema: a key exists when a record has it, its default is the field's, its check is the type's.
`boot` makes them.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated

import attrs

from twisted_gateway.addresses import Address, Network
from twisted_gateway.config.checks import (
    MEANT_NULL,
    Choice,
    Count,
    Flag,
    NonEmpty,
    Number,
    Parsed,
    Text,
    Whole,
    keys_of,
    one_line,
)
from twisted_gateway.config.dormant import Admin, Etcd, ListenerTls, Managed, MetricsOtlp, Tracing
from twisted_gateway.config.hooking import HookEntry
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
from twisted_gateway.config.rewrites import UrlRewrite, read_rewrite
from twisted_gateway.config.routes import Retries, RetryBudget
from twisted_gateway.facts import frozen

METRICS_ADDRESS = Address("0.0.0.0", 9090)
DEMO_ADDRESS = Address("127.0.0.1", 0)


class SettingsError(Exception):
    """The boot file, or an environment variable over it, cannot be used. The text is the whole report."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"config load failed: failed to load configuration: {one_line(detail)}")


@frozen
class RealIp:
    """Whose forwarding header is believed (`policy.md` 4)."""

    trusted_proxies: tuple[Annotated[Network, str, Parsed(read_trusted)], ...] = ()
    recursive: Flag = False
    header: Annotated[str, Parsed(read_header)] = "x-forwarded-for"


@frozen
class RequestId:
    """Headers in which a caller may bring its own request id; none: always make one."""

    accept_headers: tuple[Annotated[str, Parsed(read_id_header)], ...] = ("x-aisix-request-id",)


@frozen
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


@frozen
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


@frozen
class Downstream:
    """Patience with callers (`configuration.md` 3.6, `extensions.md` 1). Seconds; 0 = off."""

    idle_timeout_secs: Seconds = 0.0
    sse_keepalive_interval_secs: Seconds = 15.0
    header_timeout_secs: Seconds = 20.0
    body_min_rate_bytes: Count = 512
    send_stall_timeout_secs: Seconds = 300.0
    max_connections: Count = 0
    responses_progress_secs: Seconds = 0.0


@frozen
class UpstreamTls:
    """Trust towards providers, and our own identity; `verify: false` trusts anyone, and warns."""

    ca_file: NonEmpty | None = None
    client_cert_file: NonEmpty | None = None
    client_key_file: NonEmpty | None = None
    verify: Flag = True


@frozen
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


@frozen
class Prometheus:
    """The metrics and status listener: plain HTTP, no credential."""

    enabled: Flag = True
    addr: Listen = METRICS_ADDRESS
    path: Annotated[str, Text(r"/[^?#\s]*", "a path that starts with /")] = "/metrics"


@frozen
class ClientTypeRule:
    """A user agent that matches `pattern` (any case, anywhere) gets the label `client`."""

    pattern: Annotated[str, Parsed(read_user_agent)]
    client: Annotated[str, Text(r"[a-z0-9][a-z0-9._-]{0,63}", "1 to 64 of a-z, 0-9, '.', '_' and '-'")]


_TTFT = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@frozen
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


@frozen
class Metrics:
    """What is counted and where it is read."""

    prometheus: Prometheus = attrs.field(factory=Prometheus)
    otlp: MetricsOtlp = attrs.field(factory=MetricsOtlp)
    client_type_rules: tuple[ClientTypeRule, ...] = ()
    buckets: MetricBuckets = attrs.field(factory=MetricBuckets)


@frozen
class Observability:
    """Logs and metrics (`configuration.md` 3.4)."""

    service_name: str = "aisix"
    log_level: Annotated[str, Parsed(read_log_level)] = "info"
    access_log: Flag = True
    log_format: Annotated[str, Choice(("text", "json"))] = "text"
    metrics: Metrics = attrs.field(factory=Metrics)
    tracing: Tracing = attrs.field(factory=Tracing)


@frozen
class Shutdown:
    """After SIGTERM: how long to go on accepting, then how long to wait for calls in flight (0 = no bound)."""

    min_drain_secs: Seconds = 30.0
    drain_secs: WholeSeconds = 600


@frozen
class Demo:
    """The built-in demo provider (`extensions.md` 2)."""

    enabled: Flag = False
    addr: Annotated[Address, Parsed(read_loopback)] = DEMO_ADDRESS
    ttft_ms: Millis = 150
    words_per_second: Annotated[float, Number(low=0.001)] = 20.0


CodePath = Annotated[str, Text(r"[^\W\d][\w.]*:[^\W\d][\w.]*", "package.module:attribute")]
"""Where a Python object is found. Only the boot file may say so."""


@frozen
class Cache:
    """The caches that policies choose from (`configuration.md` 3.9): one in memory, of so many bytes, and one in a
    Redis where that is given. `backend` chooses nothing.
    """

    backend: Annotated[str, Choice(("memory", "redis"))] = "memory"
    redis: RedisBlock | None = None
    memory_max_bytes: Annotated[int, Whole(low=1)] = 64 * 2**20


@frozen
class Ratelimit:
    """Where limits are counted (`configuration.md` 3.9); `redis` is used when `backend` says so."""

    backend: Annotated[str, Choice(("memory", "redis"))] = "memory"
    redis: RedisBlock | None = None
    concurrency_ttl_secs: WholeSeconds = 300
    store_timeout_ms: Annotated[int, Whole(low=1, high=60_000)] = 50


@frozen
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
