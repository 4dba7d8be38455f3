"""The records that a resources file becomes: provider keys, models, caller keys (`configuration.md` 7). Pure.

A record is also the schema of its entry: its fields are the keys, with their defaults and checks. Fields marked
`injected` are put in by `entries` (derived ids, links to other records). No repr shows a secret.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import chain
from typing import Annotated, Any, ClassVar
from uuid import UUID, uuid5

import attrs

from twisted_gateway.addresses import Network, admitted, parse_network
from twisted_gateway.config import guarding_local, guarding_remote
from twisted_gateway.config.caching import CachePolicy
from twisted_gateway.config.checks import (
    Choice,
    Count,
    Flag,
    Mistyped,
    NonEmpty,
    Number,
    Parsed,
    Text,
    Whole,
    keys_of,
    text,
)
from twisted_gateway.config.guarding import Guardrail, Kind
from twisted_gateway.config.limits import RateLimit, RateLimitPolicy
from twisted_gateway.config.money import Budget, Cost
from twisted_gateway.config.readers import Millis
from twisted_gateway.config.readers import read_time as read_time
from twisted_gateway.config.routes import BackgroundCheck, Cooldown, Retries, Routing, ThroughputFloor
from twisted_gateway.facts import frozen

NAMESPACE = UUID("63e50ab2-677a-54d3-8d1e-c0cb29ceae94")
COLLECTIONS = (
    "provider_keys",
    "models",
    "api_keys",
    "guardrails",
    "rate_limit_policies",
    "budgets",
    "cache_policies",
)
IDENTITIES: Mapping[str, str] = {
    "guardrails": "name",
    "rate_limit_policies": "name",
    "budgets": "name",
    "cache_policies": "name",
}
"""The field that identifies an entry, where it is not `display_name` (`configuration.md` 5.1)."""
INJECTED = {"injected": True}

PUBLISHED_KEYS = ("YOUR_CALLER_API_KEY", "my-secret-key")
"""Caller keys that stand in our shipped configuration and documentation: good for a first try, known to everyone."""


def derived_id(collection: str, identity: str) -> str:
    """The id of an entry of a file: the same on every host and after every reload (`configuration.md` 5.2)."""
    return str(uuid5(NAMESPACE, f"{collection}/{identity}"))


def key_hash(key: str) -> str:
    """The SHA-256 of a caller key in lower-case hex: the only form in which one is kept."""
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def star_capture(pattern: str, name: str) -> str | None:
    """What the single `*` of a pattern stands for in a name, perhaps nothing; None when the pattern does not match."""
    if pattern.count("*") != 1:
        return None
    before, after = pattern.split("*")
    if len(name) < len(before) + len(after) or not (name.startswith(before) and name.endswith(after)):
        return None
    return name[len(before) : len(name) - len(after)]


def without_credentials(url: str | None) -> str:
    """A URL for a repr: without the user and password that it may carry."""
    return repr(url and re.sub(r"//[^/@]*@", "//...@", url))


def read_cidrs(value: Any) -> tuple[Network, ...] | None:
    """Read an allow-list (`policy.md` 4): None admits all; malformed entries are left out, so that () admits nobody."""
    if not isinstance(value, list | tuple):
        raise Mistyped("expected a list")
    networks = [cidr(text(member)) for member in value]
    return tuple(network for network in networks if network is not None) if networks else None


def cidr(written: str) -> Network | None:
    """Read one entry of an allow-list; None when it is malformed (a bare address is)."""
    try:
        return parse_network(written, bare=False)
    except ValueError:
        return None


Secret = Annotated[str, Text(r"[\x20-\x7e\xa0-\xff]+", "a non-empty string without control characters, for a header")]
"""What goes into a header is Latin-1: other letters would make each call fail."""


@frozen
class ParamConstraints:
    """Bounds that a provider puts on parameters."""

    temperature_min: Annotated[float, Number()] | None = None
    temperature_max: Annotated[float, Number()] | None = None


@frozen
class RequestEdits:
    """What is changed in a request on its way to this provider. Header and body values may hold secrets."""

    default_headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    forward_client_headers: tuple[str, ...] = ()
    default_body_fields: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    param_renames: Mapping[str, str] = attrs.field(factory=dict)
    param_constraints: ParamConstraints = attrs.field(factory=ParamConstraints)
    forward_anthropic_headers: Flag = True


@frozen
class ResponseQuirks:
    """How this provider's answers differ from the format's rule."""

    stream_done_marker: Annotated[str, Choice(("required", "optional", "none"))] | None = None
    content_list_to_string: Flag = False
    reasoning_field: str | None = None
    error_envelope: str | None = None


@frozen
class ProviderTls:
    """Trust for this provider only: `ca_cert` is PEM text, added to the other roots."""

    ca_cert: NonEmpty | None = attrs.field(default=None, repr=False)
    verify: Flag = True


@frozen
class TelemetryTags:
    """Copied into usage events, otherwise without effect."""

    kind: Annotated[str, Choice(("catalog", "byo"))] | None = None
    featured: Flag = False
    branded_provider: str | None = None
    pk_label: str | None = None
    byo_label: str | None = None


def _lowered(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.lower() for name in names))


@frozen
class ProviderKey:
    """A credential and an upstream root (`configuration.md` 7.1); deadlines in ms (`extensions.md` 3)."""

    id: str = attrs.field(metadata=INJECTED)
    display_name: NonEmpty
    api_key: Secret = attrs.field(repr=False)
    provider: str = ""
    adapter: Annotated[str, Choice(("openai", "anthropic", "azure-openai"))] | None = None
    api_base: str | None = attrs.field(default=None, repr=without_credentials)
    timeout_ms: Millis | None = None
    stream_timeout_ms: Millis | None = None
    first_event_timeout_ms: Millis | None = None
    request: RequestEdits = attrs.field(factory=RequestEdits)
    response: ResponseQuirks = attrs.field(factory=ResponseQuirks)
    tls: ProviderTls = attrs.field(factory=ProviderTls)
    strip_headers: tuple[str, ...] = attrs.field(
        default=("authorization", "cookie", "set-cookie", "x-api-key"),
        converter=_lowered,
    )
    telemetry_tags: TelemetryTags = attrs.field(factory=TelemetryTags)


@frozen
class Model:
    """A name that callers may ask for, and the one place where it is served (the direct shape; times in ms)."""

    id: str = attrs.field(metadata=INJECTED)
    display_name: NonEmpty
    provider: Annotated[str, Text("[a-z0-9][a-z0-9._-]{0,63}", "1 to 64 of a-z, 0-9, '.', '_' and '-'")]
    model_name: NonEmpty
    provider_key: ProviderKey = attrs.field(metadata=INJECTED)
    timeout: Millis | None = None
    stream_timeout: Millis | None = None
    first_event_timeout: Millis | None = None
    streaming: Flag = True
    completions_via_chat: Flag = False
    count_tokens_estimate: Flag = False
    default_max_tokens: Annotated[int, Whole(low=1)] = 4096
    thinking_style: Annotated[str, Choice(("adaptive", "budget", "none"))] | None = None
    reasoning_effort_max: Annotated[str, Choice(("none", "high", "xhigh", "max"))] = "high"
    json_schema_via_tool: Flag = False
    estimate_message_start: Flag = False
    cost: Cost | None = None
    retries: Retries | None = None
    cooldown: Cooldown = attrs.field(factory=Cooldown)
    background_model_check: BackgroundCheck | None = None
    throughput_floor: ThroughputFloor | None = None
    on_disconnect: Annotated[str, Choice(("cancel", "drain"))] = "cancel"
    drain_max_secs: Annotated[int, Whole(low=1, high=600)] = 60
    rate_limit: RateLimit | None = None
    allowed_cidrs: Annotated[tuple[Network, ...] | None, Parsed(read_cidrs)] = None

    @property
    def is_wildcard(self) -> bool:
        """Whether the name is a pattern (`policy.md` 3.1)."""
        return self.display_name.count("*") == 1

    def admits(self, address: str) -> bool:
        """Whether a caller at this address may use the model."""
        return self.allowed_cidrs is None or admitted(address, self.allowed_cidrs)


@frozen
class Group:
    """A name that stands for several models (`configuration.md` 7.3; times in ms). What reads a resolved row reads
    both shapes: `id`, `display_name`, `provider`, `streaming`, `is_wildcard`, `admits`, the deadlines.
    """

    id: str = attrs.field(metadata=INJECTED)
    display_name: NonEmpty
    routing: Routing
    timeout: Millis | None = None
    stream_timeout: Millis | None = None
    first_event_timeout: Millis | None = None
    throughput_floor: ThroughputFloor | None = None
    rate_limit: RateLimit | None = None
    allowed_cidrs: Annotated[tuple[Network, ...] | None, Parsed(read_cidrs)] = None

    is_wildcard: ClassVar[bool] = False
    provider: ClassVar[str] = ""
    streaming: ClassVar[bool] = True

    def admits(self, address: str) -> bool:
        """Whether a caller at this address may use the group; each target has a list of its own too."""
        return self.allowed_cidrs is None or admitted(address, self.allowed_cidrs)


Row = Model | Group
"""What a name that callers use leads to."""


@frozen
class CallerKey:
    """Who may call, and what (`configuration.md` 7.5). `name` is the entry's name in the file, for operators' eyes
    only: a header template never sees it (5.4). `expires_at` is in seconds since the epoch.
    """

    id: str = attrs.field(metadata=INJECTED)
    name: str = attrs.field(metadata=INJECTED)
    key_hash: Annotated[str, Text("[0-9a-f]{64}", "64 lower-case hexadecimal characters")] = attrs.field(repr=False)
    allowed_models: tuple[str, ...]
    expires_at: Annotated[float, Parsed(read_time)] | None = None
    disabled: Flag = False
    team_id: NonEmpty | None = None
    user_id: NonEmpty | None = None
    user_name: str | None = None
    max_calls: Count | None = None
    include_cost: Flag = False
    rate_limit: RateLimit | None = None

    def may_use(self, name: str) -> bool:
        """Whether the list names this model, exactly or by a pattern with one `*` (`policy.md` 3.2)."""
        if name in self.allowed_models:
            return True
        for pattern in self.allowed_models:  # noqa: SIM110
            if pattern == "*" or star_capture(pattern, name) is not None:
                return True
        return False


RECORDS: Mapping[str, type[Any]] = {
    "provider_keys": ProviderKey,
    "models": Model,
    "api_keys": CallerKey,
    "guardrails": Guardrail,
    "budgets": Budget,
    "rate_limit_policies": RateLimitPolicy,
    "cache_policies": CachePolicy,
}

GUARDRAIL_KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (*guarding_local.KINDS, *guarding_remote.KINDS)}
"""What a guardrail may be."""

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "provider_keys": ("secret",),
    "models": ("provider_key", "provider_key_id"),
    "api_keys": ("display_name", "key", "key_env"),
    "guardrails": ("stream_processing_mode",),
    "budgets": (),
    "rate_limit_policies": (),
    "cache_policies": (),
}
"""Keys that an entry may have in a file and that are rewritten before it is read (`configuration.md` 5.4)."""


def keys() -> Iterator[str]:
    """Yield the dotted name of every key of a resources file, such as `models[].timeout`."""
    yield "_format_version"
    for collection, record in RECORDS.items():
        yield collection
        yield from keys_of(record, f"{collection}[].")
        if collection == "models":
            yield from (key for key in keys_of(Group, "models[].") if ".routing" in key)
        yield from (f"{collection}[].{name}" for name in SPELLINGS[collection])
    kinds = (keys_of(kind.record, "guardrails[].") for kind in GUARDRAIL_KINDS.values())
    yield from dict.fromkeys(chain.from_iterable(kinds))
