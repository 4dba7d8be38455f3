"""Rewriting of paths before routing (`proxy.url_rewrites`, `configuration.md` 3.2). Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from twisted_gateway.config.checks import Invalid, Mistyped, describe, text
from twisted_gateway.facts import frozen

_VARIABLE = re.compile(r"\$(?:(\$)|\{([^}]*)\}|([0-9A-Za-z_]+))")
_PROBES = ("", "/", "a", "/v1/a-b", "%20")


def _pattern(written: str) -> re.Pattern[str]:
    """Compile, reading the `(?<name>...)` spelling of groups too."""
    named = re.sub(r"(\\.)|\(\?<(?![=!])", lambda found: found[1] or "(?P<", written, flags=re.DOTALL)
    return re.compile(named)


@frozen
class UrlRewrite:
    """One rule: the first place where `match` is found in the path is replaced by the template `rewrite`."""

    match: str
    rewrite: str
    name: str = ""
    pattern: re.Pattern[str] = attrs.field(
        init=False, repr=False, eq=False, default=attrs.Factory(lambda self: _pattern(self.match), takes_self=True)
    )

    def applied(self, path: str) -> str | None:
        """The path rewritten once, or None when the rule does not speak of it."""
        found = self.pattern.search(path)
        if found is None or found.start() == found.end():
            return None
        return path[: found.start()] + self._expanded(found) + path[found.end() :]

    def _expanded(self, found: re.Match[str]) -> str:
        def one(variable: re.Match[str]) -> str:
            if variable[1]:
                return "$"
            group = variable[2] if variable[2] is not None else variable[3]
            return found[int(group) if group.isdigit() else group] or ""

        return _VARIABLE.sub(one, self.rewrite)


def rewrite(path: bytes | str, rules: Iterable[UrlRewrite]) -> str:
    """Rewrite a raw, still percent-encoded path (without its query) by the first rule that matches, once."""
    plain = path.decode("latin-1") if isinstance(path, bytes) else path
    for rule in rules:
        if (changed := rule.applied(plain)) is not None:
            return changed
    return plain


def read_rewrite(value: Any) -> UrlRewrite:
    """Read and check one rule. Raises `Mistyped` for its shape and `Invalid` for its regex or template."""
    if not isinstance(value, Mapping):
        raise Mistyped(f"expected a mapping, got {describe(value)}")
    for key in value:
        if key not in ("name", "match", "rewrite"):
            raise Mistyped(f"unknown key {key} (expected one of name, match, rewrite)")
    for key in ("match", "rewrite"):
        if key not in value:
            raise Mistyped(f"{key}: missing")
    written = {}
    for key, member in value.items():
        try:
            written[key] = text(member)
        except Mistyped as error:
            raise Mistyped(f"{key}: {error}") from None
    try:
        rule = UrlRewrite(**written)
    except (re.error, OverflowError, RecursionError) as error:
        raise Invalid(f"match is not a valid regex: {error}") from None
    _check(rule)
    return rule


def _check(rule: UrlRewrite) -> None:
    if any((found := rule.pattern.search(probe)) and found.start() == found.end() for probe in _PROBES):
        raise Invalid("match can match the empty string")
    if re.search(r"[?#\s\x00-\x1f\x7f]", rule.rewrite):
        raise Invalid("rewrite must not hold ?, #, whitespace or a control character")
    groups = rule.pattern.groupindex
    for variable in _VARIABLE.finditer(rule.rewrite):
        group = variable[2] if variable[2] is not None else variable[3]
        if (
            group is None
            or group in groups
            or (re.fullmatch("[0-9]{1,3}", group) and int(group) <= rule.pattern.groups)
        ):
            continue
        raise Invalid(f"rewrite names a capture group that match lacks: {group}")
