"""Own fields of the guardrail kinds that ask somebody else (`configuration.md` 7.8, `extensions.md` 7.2). Pure.

What every guardrail has (name, hook, windows, failure flags of input) stands in `guarding`. Times are in ms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import attrs

from twisted_gateway.config.checks import (
    HEADER_NAME,
    Choice,
    Flag,
    Mistyped,
    NonEmpty,
    Number,
    Parsed,
    Text,
    Whole,
    text,
)
from twisted_gateway.config.guarding import SCAN, Guardrail, Kind
from twisted_gateway.config.readers import LONGEST_MS
from twisted_gateway.facts import frozen

CATEGORIES = ("Hate", "Sexual", "SelfHarm", "Violence")
"""The harm categories of Azure AI Content Safety."""

SERVICE_CHARS = 10_000
"""What Azure AI Content Safety takes in one call, in characters."""

_OURS = ("host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect")
_SIGNATURE = "x-aisix-signature"
_URL = r"(?i:https?)://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?(?:[/?][!\x22$-~]*)?"

Wait = Annotated[int, Whole(low=1, high=LONGEST_MS)]
Severity = Annotated[int, Whole(high=7)]
Action = Annotated[str, Choice(("mask", "block"))]


def read_url(value: Any) -> str:
    """Read an http or https URL. One with a user in it is refused: it would be left out silently."""
    reason = "expected an http or https URL, without a user and without a fragment"
    found = re.fullmatch(_URL, text(value))
    if found is None or (found[1] and not 0 < int(found[1]) < 65536):
        raise Mistyped(reason)
    scheme, rest = value.split(":", 1)
    return f"{scheme.lower()}:{rest}"


def read_base(value: Any) -> str:
    """Read the root of a service: a URL without a query; paths are put behind it."""
    url = read_url(value)
    if "?" in url:
        raise Mistyped("expected an http or https URL without a query")
    return url.rstrip("/")


def read_headers(value: Any) -> tuple[tuple[str, str], ...]:
    """Read the headers of a webhook, names in lower case; those that frame the request are ours."""
    if not isinstance(value, Mapping):
        raise Mistyped("expected a mapping")
    headers: dict[str, str] = {}
    for name, content in value.items():
        if re.fullmatch(HEADER_NAME, text(name)) is None:
            raise Mistyped("expected header names as keys")
        if name.lower() in (*_OURS, _SIGNATURE):
            raise Mistyped(f"the header {name.lower()} cannot be set here")
        if re.fullmatch(r"[\t\x20-\x7e]*", text(content)) is None:
            raise Mistyped("expected header values of printable ASCII characters")
        headers[name.lower()] = content.strip()
    return tuple(headers.items())


def read_severities(value: Any) -> Mapping[str, int]:
    """Read a threshold for each category that is named."""
    if not isinstance(value, Mapping):
        raise Mistyped("expected a mapping")
    if any(name not in CATEGORIES for name in value):
        raise Mistyped("expected keys out of " + ", ".join(CATEGORIES))
    return {name: Whole(high=7).read(threshold) for name, threshold in value.items()}


def without_query(url: str) -> str:
    """A URL for a repr: its query may hold a token."""
    return repr(url.split("?")[0])


Url = Annotated[str, Parsed(read_url)]
Base = Annotated[str, Parsed(read_base)]
Secret = Annotated[str, Text(r"[^\x00-\x1f\x7f]+", "a non-empty string without control characters")]
Key = Annotated[str, Text(r"[!-~]+", "a key of printable ASCII characters")]


@frozen
class OpenaiModeration:
    """OpenAI's moderation endpoint. With thresholds only the named categories count, by their scores."""

    api_key: Key = attrs.field(repr=False)
    endpoint: Base = "https://api.openai.com/v1"
    model: NonEmpty = "omni-moderation-latest"
    category_thresholds: Mapping[str, Annotated[float, Number(low=0, high=1)]] = attrs.field(factory=dict)
    timeout_ms: Wait = 5000
    output_fail_open: Flag = False


@frozen
class Lakera:
    """Lakera Guard; what is looked for is the project's policy there."""

    api_key: Key = attrs.field(repr=False)
    endpoint: Base = "https://api.lakera.ai"
    project_id: NonEmpty | None = None
    timeout_ms: Wait = 5000
    output_fail_open: Flag = False


@frozen
class PresidioEntity:
    """What to do about one type of entity; without an action the guardrail's `default_action`."""

    type: Annotated[str, Text("[A-Za-z0-9_]+", "the name of an entity, such as PHONE_NUMBER")]
    action: Action | None = None


@frozen
class Presidio:
    """A Presidio analyzer and anonymizer of one's own. Named entities are all that is looked for; none: every one."""

    analyzer_url: Base
    anonymizer_url: Base
    language: Annotated[str, Text("[A-Za-z][A-Za-z_-]+", "a language code such as en")] = "en"
    entities: tuple[PresidioEntity, ...] = ()
    default_action: Action = "mask"
    operator: Annotated[str, Choice(("replace", "mask", "hash", "redact"))] = "replace"
    score_threshold: Annotated[float, Number(low=0, high=1)] | None = None
    timeout_ms: Wait = 5000
    output_fail_open: Flag = False


@frozen
class AzureContentSafety:
    """Prompt Shields of Azure AI Content Safety."""

    endpoint: Base
    api_key: Key = attrs.field(repr=False)
    timeout_ms: Wait = 5000
    output_fail_open: Flag = False


@frozen
class AzureTextModeration:
    """Harm categories and blocklists of Azure AI Content Safety; a severity that reaches its threshold blocks."""

    endpoint: Base
    api_key: Key = attrs.field(repr=False)
    categories: tuple[Annotated[str, Choice(CATEGORIES)], ...] = CATEGORIES
    severity_threshold: Severity = 2
    severity_threshold_by_category: Annotated[Mapping[str, int], Parsed(read_severities)] = attrs.field(factory=dict)
    output_type: Annotated[str, Choice(("FourSeverityLevels", "EightSeverityLevels"))] = "FourSeverityLevels"
    text_source: Annotated[str, Choice(("concatenate_user_content", "concatenate_all_content"))] = (
        "concatenate_all_content"
    )
    blocklist_names: tuple[NonEmpty, ...] = ()
    halt_on_blocklist_hit: Flag = False
    timeout_ms: Wait = 5000
    output_fail_open: Flag = False


@frozen
class Webhook:
    """Any HTTP service of the operator's own; `secret` signs what it is sent."""

    url: Url = attrs.field(repr=without_query)
    headers: Annotated[tuple[tuple[str, str], ...], Parsed(read_headers)] = attrs.field(default=(), repr=False)
    secret: Secret | None = attrs.field(default=None, repr=False)
    timeout_ms: Wait = 5000
    output_fail_open: Flag = False


@frozen
class Callable:
    """A Python object of the operator's own: `use` is a key of the boot file's `callables`, never a path to code."""

    use: NonEmpty
    timeout_ms: Wait = 5000
    output_fail_open: Flag = False


KINDS = (
    Kind("openai_moderation", OpenaiModeration),
    Kind("lakera", Lakera),
    Kind("presidio", Presidio),
    Kind("azure_content_safety", AzureContentSafety),
    Kind("azure_content_safety_text_moderation", AzureTextModeration, stream_output=SCAN, window_size=SERVICE_CHARS),
    Kind("webhook", Webhook),
    Kind("callable", Callable),
)


def missing_callable(guardrails: Iterable[Guardrail], known: Mapping[str, Any]) -> str | None:
    """What is wrong with the first guardrail whose callable the boot file does not name."""
    for guardrail in guardrails:
        own = guardrail.own
        if isinstance(own, Callable) and own.use not in known:
            there = ", ".join(sorted(known)) or "none"
            return f'guardrails ("{guardrail.name}"): `use` names no callable of the boot file (there: {there})'
    return None
