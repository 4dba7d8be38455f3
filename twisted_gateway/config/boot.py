"""From the boot file's tree and the environment to `Settings` (`configuration.md` 2 and 4). Pure: no file, no clock.

One error is reported: a key that is not built yet before one of the wrong form, that before a broken rule, and rules
in `ORDER`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from twisted_gateway.config.checks import (
    Invalid,
    Lines,
    Mistyped,
    Path,
    Unknown,
    converter,
    describe,
    dotted,
    leaves,
    line_of,
    odd_key,
)
from twisted_gateway.config.environment import OBJECT_LISTS, Refused, json_list, overlaid
from twisted_gateway.config.hooking import repeated
from twisted_gateway.config.redis import broken as broken_redis
from twisted_gateway.config.settings import Settings, SettingsError
from twisted_gateway.config.unavailable import SETTINGS as UNAVAILABLE
from twisted_gateway.config.unavailable import refusal
from twisted_gateway.facts import define

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
    _read_object_lists(merged, place)
    problems: list[tuple[Path, Exception]] = []
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


@define
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


def _read_object_lists(tree: dict[str, Any], place: _Places) -> None:
    """Put lists in place of the JSON that may stand for them."""
    for key in OBJECT_LISTS:
        *parents, last = key.split(".")
        holder = _find(tree, tuple(parents))
        if isinstance(holder, dict) and last in holder:
            try:
                holder[last] = json_list(holder[last])
            except Mistyped as error:
                raise SettingsError(f"deserialize: {key}: {error}{place.of((*parents, last))}") from None


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
