"""`AISIX_*` environment variables laid over the tree of the boot file (`configuration.md` 2.1). Pure.

`AISIX_PROXY__ADDR` sets `proxy.addr`. What a variable's text means is decided by the type of the key it sets, so that a
text key stays a text whatever it looks like.
"""

import copy
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

import attrs

from twisted_gateway.config.checks import Mistyped, Path, describe, dotted, rule_of, type_at

RESERVED = frozenset({"aisix_config", "aisix_log"})
"""The path of the boot file and the log filter: not keys of the file."""

LISTS = frozenset(
    {
        "etcd.endpoints",
        "admin.admin_keys",
        "proxy.real_ip.trusted_proxies",
        "proxy.request_id.accept_headers",
        "observability.metrics.buckets.request_e2e_latency",
        "observability.metrics.buckets.request_ttft",
        "observability.metrics.buckets.guardrail_latency",
        "observability.metrics.buckets.a2a_ttfb",
    }
)
OBJECT_LISTS = ("proxy.url_rewrites", "observability.metrics.client_type_rules", "hooks")

_KUBERNETES = re.compile(r"aisix_(service_host|service_port(_.*)?|port|port_[0-9]+_(tcp|udp|sctp)(_.*)?)")
"""What Kubernetes puts into every container beside a Service that is called `aisix`."""


class Refused(Exception):
    """A variable that cannot be laid over the tree: its name, the key's path, and the reason."""

    def __init__(self, variable: str, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.variable, self.path = variable, path


def overlaid(
    tree: Mapping[str, Any], environ: Mapping[str, str], schema: type[Any]
) -> tuple[dict[str, Any], dict[Path, str]]:
    """Give a copy of the tree with the variables laid over it, and which variable set which path.

    Raises `Refused`.
    """
    merged: dict[str, Any] = copy.deepcopy(dict(tree))
    origins: dict[Path, str] = {}
    for variable in sorted(environ):
        name = variable.lower()
        if not name.startswith("aisix_") or name in RESERVED or _KUBERNETES.fullmatch(name):
            continue
        path = tuple(name.removeprefix("aisix_").split("__"))
        _set(merged, path, _value(schema, path, variable, environ[variable]), variable)
        origins[path] = variable
    for variable in sorted(environ):
        if variable.lower() == "aisix_log" and environ[variable]:
            path = ("observability", "log_level")
            _set(merged, path, environ[variable], variable)
            origins[path] = variable
    return merged, origins


def _set(tree: dict[str, Any], path: tuple[str, ...], value: Any, variable: str) -> None:
    for depth, step in enumerate(path[:-1]):
        if tree.get(step) is None:
            tree[step] = {}
        if not isinstance(tree[step], dict):
            raise Refused(variable, path[: depth + 1], f"expected a mapping, got {describe(tree[step])}")
        tree = tree[step]
    tree[path[-1]] = value


def _value(schema: type[Any], path: tuple[str, ...], variable: str, written: str) -> Any:
    kind, key = type_at(schema, path), dotted(path)
    if kind is None:
        raise Refused(variable, path, "unknown key")
    if key in OBJECT_LISTS:
        return written
    inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(inner) is tuple:
        if key not in LISTS:
            raise Refused(variable, path, "cannot be set from the environment")
        members = [member.strip() for member in written.split(",")] if written.strip() else []
        return [_scalar(get_args(inner)[0], member) for member in members]
    if attrs.has(inner) and rule_of(kind) is None:
        raise Refused(variable, path, "cannot be set from the environment as a whole")
    return _scalar(kind, written)


def _scalar(kind: Any, written: str) -> Any:
    """Read a scalar's text as the key's type wants it; a text that does not fit stays a text, refused later."""
    inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    accepted = set(get_args(inner)) or {inner}
    if bool in accepted and written in ("true", "false"):
        return written == "true"
    if accepted & {int, float} and re.fullmatch(r"[+-]?[0-9]{1,40}", written):
        return int(written)
    if float in accepted:
        try:
            number = float(written)
        except ValueError:
            return written
        return number if math.isfinite(number) else written
    return written


def json_list(value: Any) -> Any:
    """Read a list of objects that may also be written as one JSON array in a string (empty: an empty list)."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return []
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise Mistyped("expected a JSON array") from None
