"""Kinds of guardrails that are checked here: `keyword` and `pii` (`configuration.md` 7.8, `guardrails.md` 9, 10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from twisted_gateway.config.checks import Choice, Flag, Text, Whole
from twisted_gateway.config.guarding import INCREMENTAL, Fault, Kind
from twisted_gateway.config.regexes import BadRegex, parse
from twisted_gateway.facts import frozen

MOST_REGEXES = 1000
MOST_LITERALS = 100_000

DETECTORS = (
    *("email", "china_mobile", "china_id_card", "bank_card", "us_ssn", "ip_address"),
    *("api_key", "jwt", "private_key"),
)

Rule = Annotated[str, Text(r"(?s).{1,4096}", "1 to 4096 characters")]
Action = Annotated[str, Choice(("mask", "block"))]
Longest = Annotated[int, Whole(low=1, high=4096)]


@frozen
class Pattern:
    """One forbidden text: a literal in any case, or a regex."""

    kind: Annotated[str, Choice(("literal", "regex"))]
    value: Rule


@frozen
class Keyword:
    """Kind `keyword`: any match blocks. `max_match_chars` bounds what an unbounded regex may hold back."""

    patterns: tuple[Pattern, ...]
    max_match_chars: Longest | None = None


@frozen
class Detector:
    """A built-in detector and what happens to what it finds."""

    type: Annotated[str, Choice(DETECTORS)]
    action: Action | None = None


@frozen
class CustomPattern:
    """A detector of the operator's own; with a group in its regex, the first group alone is masked."""

    name: Annotated[str, Text(r"(?s).{1,64}", "1 to 64 characters")]
    regex: Rule
    action: Action | None = None
    replacement: Annotated[str, Text(r"(?s).{0,256}", "at most 256 characters")] | None = None


@frozen
class Pii:
    """Kind `pii`. With `unmask`, what was masked in the request is put back into the answer."""

    detectors: tuple[Detector, ...] = ()
    custom_patterns: tuple[CustomPattern, ...] = ()
    default_action: Action = "mask"
    max_match_chars: Longest | None = None
    unmask: Flag = False


def _check_keyword(own: Keyword) -> None:
    if not own.patterns:
        raise Fault("`patterns` must list at least one pattern", ("patterns",))
    regexes = sum(one.kind == "regex" for one in own.patterns)
    if regexes > MOST_REGEXES:
        raise Fault(f"`patterns` must list at most {MOST_REGEXES} regexes", ("patterns",))
    if len(own.patterns) - regexes > MOST_LITERALS:
        raise Fault(f"`patterns` must list at most {MOST_LITERALS} literals", ("patterns",))
    for index, one in enumerate(own.patterns):
        if one.kind == "regex":
            _check_regex(one.value, ("patterns", index, "value"))


def _check_pii(own: Pii) -> None:
    if len(own.custom_patterns) > MOST_REGEXES:
        raise Fault(f"`custom_patterns` must list at most {MOST_REGEXES} patterns", ("custom_patterns",))
    for index, one in enumerate(own.custom_patterns):
        _check_regex(one.regex, ("custom_patterns", index, "regex"))
        if one.replacement is not None and (one.action or own.default_action) == "block":
            reason = "`replacement` is not possible with action `block`"
            raise Fault(reason, ("custom_patterns", index, "replacement"))


def _check_regex(value: str, path: tuple[str | int, ...]) -> None:
    try:
        parse(value)
    except BadRegex as error:
        where = "".join(f"/{step}" for step in path)
        raise Fault(f"schema validation failed at `{where}`: invalid regex: {error}", path) from None


def _warn_pii(own: Pii) -> Iterator[str]:
    if not own.detectors and not own.custom_patterns:
        yield "it has neither detectors nor custom patterns and does nothing"


KINDS = (
    Kind("keyword", Keyword, local=True, stream_output=INCREMENTAL, check=_check_keyword),
    Kind("pii", Pii, local=True, stream_output=INCREMENTAL, check=_check_pii, warn=_warn_pii),
)
