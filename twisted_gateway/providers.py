"""Vendors: which dialect a target speaks, where it is, what its credential looks like (`policy.md` 5 and 6)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit, urlunsplit

import attrs

from twisted_gateway import __version__
from twisted_gateway.config.resources import ProviderKey
from twisted_gateway.errors import Problem, Refused, bad_request, quoted
from twisted_gateway.exchange import Exchange, Target
from twisted_gateway.facts import frozen
from twisted_gateway.wire.http1 import Lines

_DEFAULT_BASE = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
_ENDPOINTS = re.compile(
    r"/(?:chat/completions|completions|embeddings|responses|messages|rerank"
    r"|audio/(?:speech|transcriptions|translations)|images/generations)$"
)
_FAMILY_OF_ADAPTER = {"openai": "openai", "anthropic": "anthropic", "azure-openai": "azure-openai"}
_USER_AGENT = f"AISIX/{__version__}".encode("ascii")

_NEVER_BY_DEFAULTS = frozenset(
    [
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
    ]
)
_NEVER_FORWARDED = _NEVER_BY_DEFAULTS | frozenset(
    [
        "accept",
        "accept-encoding",
        "connection",
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
    ]
)
_NEVER_PREFIXES = ("content-", "x-aisix-", "x-stainless-")
_AZURE_CODES = {
    "DeploymentNotFound": "model_not_found",
    "ResponsibleAIPolicyViolation": "content_policy_violation",
    "content_filter": "content_policy_violation",
}
_ALWAYS = frozenset(["content-type", "accept", "accept-encoding", "user-agent", "content-length", "transfer-encoding"])
"""What is ours in every request, beside the credential; a second length would be another request."""
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TEMPLATE = re.compile(r"\$\{([a-z_.]+)\}")


class AcceptLines(dict[str, Lines]):
    """The headers of every request to a provider that asks for a type. That is a format's word, never a caller's."""

    def __init__(self, credential: tuple[str, str]) -> None:
        super().__init__()
        self._credential = credential

    def __missing__(self, accept: str) -> Lines:
        name, value = self._credential
        made = self[accept] = Lines(
            (
                (name.encode("ascii"), value.encode("latin-1")),
                (b"content-type", b"application/json"),
                (b"accept", accept.encode("ascii")),
                (b"accept-encoding", b"identity"),
                (b"user-agent", _USER_AGENT),
            )
        )
        return made


@frozen
class Reach:
    """How to reach a provider: its dialect family, the root of its URLs, and its credential."""

    family: str
    base: str
    credential: tuple[str, str] = attrs.field(repr=False)
    lines: AcceptLines = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(lambda self: AcceptLines(self.credential), takes_self=True),
    )

    def url(self, path: str, query: str = "") -> str:
        """The URL of an endpoint; a query in the base stays behind the path.

        Of the caller's query (`streaming.md` section 2) only `beta=true` goes along, to Anthropic.
        """
        beta = query and self.family == "anthropic" and "beta=true" in query.split("&")
        return _url(self.base, path, "beta=true" if beta else "")


@lru_cache(1024)
def _url(base: str, path: str, query: str) -> str:
    parts = urlsplit(base)
    both = "&".join(part for part in (parts.query, query) if part)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, query=both))


def family(key: ProviderKey) -> str | None:
    """`openai`, `azure-openai` or `anthropic`; None when the key names no client (`policy.md` 5.1)."""
    if key.provider in ("openai", "anthropic"):
        return key.provider
    if key.provider == "demo" and not key.adapter:
        return "openai"
    return _FAMILY_OF_ADAPTER.get(key.adapter or "")


def reach(key: ProviderKey, demo_base: str | None) -> Reach:
    """Where a provider key leads. `demo_base` is the embedded demo provider's root, None when it is off.

    Raises `Refused`: 503 `provider_unavailable` without a client, 400 without a base URL. A vendor's host is never
    guessed for another vendor: that would give the key away.
    """
    kind = family(key)
    if kind is None:
        raise Refused(_unavailable("no bridge registered for provider"))
    base = key.api_base
    if not base and key.provider == "demo":
        if demo_base is None:
            raise Refused(_unavailable("the demo provider is off (demo.enabled)"))
        base = demo_base
    if not base:
        base = _DEFAULT_BASE.get(key.provider)
    if not base:
        raise Refused(bad_request(f"provider_key {quoted(key.display_name)} has no api_base configured"))
    return _reach(kind, base, key.api_key)


@lru_cache(1024)
def _reach(kind: str, base: str, api_key: str) -> Reach:
    if kind == "anthropic":
        return Reach(kind, _anthropic_base(base), ("x-api-key", api_key))
    if kind == "azure-openai":
        return Reach(kind, _openai_base(base), ("api-key", api_key))
    return Reach(kind, _openai_base(base), ("authorization", f"Bearer {api_key}"))


def _unavailable(text: str) -> Problem:
    return Problem(status=503, type="provider_unavailable", message=text, kind="config")


def _openai_base(base: str) -> str:
    """A base with a path is kept; a bare host gets `/v1` (`policy.md` 5.2)."""
    parts = urlsplit(base.strip())
    path = _ENDPOINTS.sub("", parts.path.rstrip("/")).rstrip("/")
    return urlunsplit(parts._replace(path=path or "/v1"))


def _anthropic_base(base: str) -> str:
    parts = urlsplit(base.strip())
    path = _ENDPOINTS.sub("", parts.path.rstrip("/")).rstrip("/")
    return urlunsplit(parts._replace(path=path.removesuffix("/v1") + "/v1"))


def headers(exchange: Exchange, target: Target, way: Reach, native: bool = False) -> list[tuple[bytes, bytes]]:
    """The headers of an attempt beside `way.lines`, as of `policy.md` section 6; on a clash the earlier group wins.

    `native`: the caller speaks the provider's dialect, so Anthropic's version headers are its own (`streaming.md` 3.2).
    """
    wishes = target.model.provider_key.request
    found = {"x-aisix-request-id": exchange.id}
    if way.family == "anthropic":
        found.update(_anthropic_headers(exchange, native and wishes.forward_anthropic_headers))
    if wishes.default_headers:
        for given, template in wishes.default_headers.items():
            key = given.lower()
            taken = key in _NEVER_BY_DEFAULTS or key in _ALWAYS or key in found
            filled = None if taken else fill(template, exchange, target)
            if filled is not None and _sendable(filled):
                found[key] = filled
    for pattern in wishes.forward_client_headers or ():
        for key, given in exchange.headers.matching(pattern):
            if key not in found and key not in _ALWAYS and not forbidden(key) and not _CONTROL.search(given):
                found[key] = given
    made = []
    for name, value in found.items():
        made.append((name.encode("latin-1"), value.encode("latin-1")))
    return made


def _anthropic_headers(exchange: Exchange, own: bool) -> dict[str, str]:
    version = exchange.headers.get("anthropic-version") if own else None
    beta = exchange.headers.get("anthropic-beta") if own else None
    found = {"anthropic-version": version if version and _DATE.fullmatch(version) else "2023-06-01"}
    if beta and _sendable(beta):
        found["anthropic-beta"] = beta
    return found


def with_code(problem: Problem, family: str) -> Problem:
    """A provider's error with its code as we show it: Azure has names of its own (`errors-and-headers.md` 3.2)."""
    code = _AZURE_CODES.get(problem.code or "") if family == "azure-openai" else None
    return problem if code is None else attrs.evolve(problem, code=code)


def forbidden(name: str) -> bool:
    """Whether a caller's header is never copied upstream, whatever the patterns say. `name` is lower case."""
    return name in _NEVER_FORWARDED or name.startswith(_NEVER_PREFIXES)


def fill(template: str, exchange: Exchange, target: Target) -> str | None:
    """A header template with its places filled, None when one of them has no value (`configuration.md` 7.1.1)."""
    if "${" not in template:
        return template
    caller, model = exchange.caller, target.model
    known: Mapping[str, str | None] = {
        "request.id": exchange.id,
        "request.api_key.id": caller.id if caller else None,
        "request.api_key.name": None,  # keys of a resources file have no name (`configuration.md` 5.4)
        "request.api_key.team_id": caller.team_id if caller else None,
        "request.api_key.user_id": caller.user_id if caller else None,
        "model.id": model.id,
        "model.name": model.display_name,
        "provider_key.id": model.provider_key.id,
        "provider_key.name": model.provider_key.display_name,
    }
    places = _TEMPLATE.findall(template)
    if "${" in _TEMPLATE.sub("", template) or any(not known.get(place) for place in places):
        return None
    return _TEMPLATE.sub(lambda match: str(known[match[1]]), template)


def _sendable(value: str) -> bool:
    return value.isascii() and value.isprintable()
