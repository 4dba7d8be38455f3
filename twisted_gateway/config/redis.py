"""The Redis block of the boot file (`configuration.md` 3.9), the same for every store that may live there. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import attrs

from twisted_gateway.config.checks import Choice, Flag, Invalid, Mistyped, NonEmpty, Parsed, Path, Whole, text
from twisted_gateway.config.resources import without_credentials
from twisted_gateway.facts import frozen

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379


@frozen
class RedisServer:
    """One server as its URL names it. `database` None leaves the server's own default, 0."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    database: int | None = None


def server_of(url: str, port: int = DEFAULT_PORT) -> RedisServer:
    """Read `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("not a Redis URL")
    database = parts.path.strip("/")
    if database and not (database.isascii() and database.isdigit()):
        raise ValueError("not a database number")
    return RedisServer(
        parts.hostname,
        parts.port or port,
        parts.scheme == "rediss",
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        int(database) if database else None,
    )


def read_url(value: Any) -> str:
    """Read a Redis URL; the text is kept, its parts are `server_of`'s."""
    try:
        server_of(text(value))
    except Mistyped:
        raise
    except ValueError:
        raise Invalid("must be a redis:// or rediss:// URL") from None
    return str(value)


Url = Annotated[str, Parsed(read_url)]


def _urls(urls: tuple[str, ...]) -> str:
    return ", ".join(without_credentials(url) for url in urls)


@frozen
class RedisTls:
    """Trust for `rediss://`. Certificate and key of our own are a pair."""

    ca_file: NonEmpty | None = None
    client_cert_file: NonEmpty | None = None
    client_key_file: NonEmpty | None = None
    verify: Flag = True


@frozen
class RedisBlock:
    """Where a Redis is. `single` takes all from the URL; `sentinel` takes the data node's credentials from here."""

    mode: Annotated[str, Choice(("single", "cluster", "sentinel"))] = "single"
    url: Url | None = attrs.field(default=None, repr=without_credentials)
    nodes: tuple[Url, ...] = attrs.field(default=(), repr=_urls)
    sentinels: tuple[Url, ...] = attrs.field(default=(), repr=_urls)
    master_name: NonEmpty | None = None
    username: NonEmpty | None = None
    password: NonEmpty | None = attrs.field(default=None, repr=False)
    database: Annotated[int, Whole(high=65535)] | None = None
    tls: RedisTls = attrs.field(factory=RedisTls)


def broken(tree: Any, place: Path) -> Iterator[tuple[Path, Exception]]:
    """Yield what is wrong with a Redis block beyond single values: (path, `Invalid`). `tree` is the plain block."""
    if not isinstance(tree, Mapping):
        return
    mode = tree.get("mode", "single")
    if mode == "cluster":
        yield (*place, "mode"), Invalid("= cluster is not available: single and sentinel are")
    elif mode == "single" and not tree.get("url"):
        yield (*place, "url"), Invalid("is required when mode = single")
    elif mode == "sentinel":
        if not tree.get("sentinels"):
            yield (*place, "sentinels"), Invalid("must list at least one node when mode = sentinel")
        elif not tree.get("master_name"):
            yield (*place, "master_name"), Invalid("is required when mode = sentinel")
    tls = tree.get("tls") or {}
    if isinstance(tls, Mapping) and (tls.get("client_cert_file") is None) != (tls.get("client_key_file") is None):
        yield (*place, "tls"), Invalid("client_cert_file and client_key_file must be set together")
