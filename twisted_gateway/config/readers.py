"""How the boot file's values of a special form are read: addresses, headers, edges, filters. Pure.

Each reader takes a plain value and gives what the record holds, or raises `Mistyped` (wrong form: the error text starts
with `deserialize:`) or `Invalid` (a rule of `configuration.md` 4 is broken: a sentence).
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Annotated, Any

from twisted_gateway.addresses import Address, Network, parse_address, parse_network
from twisted_gateway.config.checks import HEADER_NAME, Invalid, Mistyped, Number, Parsed, Text, Whole, describe, text

LONGEST_MS = 2**31 - 1
"""The longest time that can be set, in ms (24.8 days): the operating system's own bound for a wait."""

CREDENTIAL_HEADERS = frozenset(
    (
        *("authorization", "x-api-key", "x-goog-api-key", "api-key"),
        *("x-amz-security-token", "x-amz-date", "x-amz-content-sha256"),
        *("proxy-authorization", "cookie", "host", "traceparent", "tracestate"),
    )
)
"""Headers that carry credentials or a route: never a place for a caller's request id."""


def read_address(value: Any) -> Address:
    """Read `ip:port` for a listener."""
    try:
        return parse_address(text(value))
    except Mistyped:
        raise
    except ValueError:
        raise Invalid(f"invalid socket address: {value}") from None


def read_loopback(value: Any) -> Address:
    """Read the address of a listener that only this machine may reach."""
    address = read_address(value)
    if not address.is_loopback:
        raise Invalid(f"must be a loopback address: {address}")
    return address


def read_trusted(value: Any) -> Network:
    """Read a CIDR or a bare address of a trusted proxy."""
    try:
        return parse_network(text(value), bare=True)
    except Mistyped:
        raise
    except ValueError:
        raise Invalid(f"invalid CIDR/IP: {value}") from None


def read_header(value: Any) -> str:
    """Read a header name; given in lower case."""
    if re.fullmatch(HEADER_NAME, text(value)) is None:
        raise Invalid(f"invalid header name: {value}")
    return str(value).lower()


def read_id_header(value: Any) -> str:
    """Read a header that may carry a request id: never one that carries a credential."""
    name = read_header(value)
    if name in CREDENTIAL_HEADERS:
        raise Invalid(f"must not name {name}")
    return name


def read_workers(value: Any) -> int | str:
    """Read a number of processes, or `auto`."""
    if value == "auto":
        return "auto"
    if isinstance(value, str):
        raise Mistyped('expected an integer or "auto"')
    if Whole().read(value) == 0:
        raise Invalid("must be at least 1")
    return int(value)


def read_prefix(value: Any) -> str:
    """Read a path below which the API is served once more."""
    if re.fullmatch(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*", text(value)) is None:
        raise Invalid("must be empty or a path such as /api, without a slash at its end")
    return str(value)


def read_buckets(value: Any) -> tuple[float, ...]:
    """Read histogram edges: 1 to 64, finite, positive, strictly ascending."""
    if not isinstance(value, list | tuple):
        raise Mistyped(f"expected a list, got {describe(value)}")
    edges = tuple(Number().read(edge) for edge in value)
    if not 1 <= len(edges) <= 64:
        raise Invalid("must list 1 to 64 edges")
    if edges[0] <= 0 or any(left >= right for left, right in pairwise(edges)):
        raise Invalid("must be greater than 0 and strictly ascending")
    return edges


def read_user_agent(value: Any) -> str:
    """Read a regex for user agents, any case, found anywhere."""
    if not 1 <= len(text(value).encode("utf-8", "surrogatepass")) <= 512:
        raise Invalid("must be 1 to 512 bytes long")
    try:
        re.compile(value, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise Invalid(f"is not a valid regex: {error}") from None
    return str(value)


def read_log_level(value: Any) -> str:
    """Read a log filter: a level, or a list of levels per module."""
    level = "(?:off|critical|error|warn|warning|info|debug|trace)"
    if re.fullmatch(rf"(?i)(?:[\w.:-]+=)?{level}(?:,(?:[\w.:-]+=)?{level})*", text(value)) is None:
        raise Invalid("must be off, critical, error, warn, info, debug or trace (or a list such as info,module=debug)")
    return str(value)


def read_time(value: Any) -> float:
    """Read an RFC 3339 time, strictly: seconds since the epoch."""
    found = re.fullmatch(
        r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}):([0-9]{2})(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})",
        text(value),
    )
    reason = "expected an RFC 3339 time such as 2030-01-31T12:00:00Z"
    if found is None or int(found[3]) > 60:
        raise Mistyped(reason)
    date, minute, second, fraction, offset = found.groups()
    zone = UTC
    try:
        if offset not in "Zz":
            hours, minutes = int(offset[1:3]), int(offset[4:6])
            if hours > 23 or minutes > 59:
                raise Mistyped(reason)
            zone = timezone((1 if offset[0] == "+" else -1) * timedelta(hours=hours, minutes=minutes))
        whole = datetime.strptime(f"{date} {minute}", "%Y-%m-%d %H:%M").replace(tzinfo=zone)
    except ValueError:
        raise Mistyped(reason) from None
    return whole.timestamp() + int(second) + float(fraction or 0)


ORIGIN = Text(r"\*|[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s,]+", 'an origin (scheme://host[:port]) or "*"')
HEADER = Text(HEADER_NAME, "a header name")


def read_origins(value: Any) -> tuple[str, ...]:
    """Read the list of origins for CORS, which must not be empty."""
    if not isinstance(value, list | tuple):
        raise Mistyped(f"expected a list, got {describe(value)}")
    if not value:
        raise Invalid("must list at least one origin")
    return tuple(ORIGIN.read(origin) for origin in value)


Millis = Annotated[int, Whole(high=LONGEST_MS)]
Seconds = Annotated[float, Number(low=0, high=LONGEST_MS // 1000)]
WholeSeconds = Annotated[int, Whole(high=LONGEST_MS // 1000)]
Listen = Annotated[Address, Parsed(read_address)]
Buckets = Annotated[tuple[float, ...], Parsed(read_buckets)]
