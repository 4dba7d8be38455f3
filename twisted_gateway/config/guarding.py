"""Guardrails of a resources file as frozen records (`configuration.md` 7.8, `extensions.md` 7.1). Pure.

A guardrail is what all kinds have in common, and its kind's `own` record. A kind is a row: `Kind(name, record)`, in
the tuple `KINDS` of `guarding_local` or `guarding_remote`. The record is the schema of the kind's own fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import attrs

from twisted_gateway.config.checks import Choice, Flag, Mistyped, NonEmpty, Parsed, Path, Whole, text, written_names
from twisted_gateway.config.readers import read_time
from twisted_gateway.facts import frozen

INJECTED = {"injected": True}

INCREMENTAL = "incremental"
SCAN = "scan"
HOLD = "hold"

_AISIX_MODES = {"window": SCAN, "buffer_full": HOLD}


def read_mode(value: Any) -> str:
    """Read `enforcement_mode`: whatever is not `monitor` acts (`guardrails.md` 1)."""
    return "monitor" if text(value) == "monitor" else "block"


@frozen
class Kind:
    """One kind of guardrail: the record of its own fields, and the defaults that differ from kind to kind.

    `check` raises `Fault` for what the record's types cannot say; `warn` gives sentences for the log.
    """

    name: str
    record: type[Any]
    local: bool = False
    """Checked here, without asking anybody."""
    stream_output: str = HOLD
    window_size: int = 2000
    window_overlap_size: int = 256
    check: Callable[[Any], None] = lambda own: None
    warn: Callable[[Any], Iterable[str]] = lambda own: ()


class Fault(ValueError):
    """A guardrail that cannot be used: the reason, and the path inside the entry that it speaks of."""

    def __init__(self, reason: str, path: Path = ()) -> None:
        super().__init__(reason)
        self.path = path


@frozen(kw_only=True)
class Guardrail:
    """One guardrail: when it looks, at what, and what it may do. `own` is the record of its kind's fields.

    `created_at` is in seconds since the epoch; window sizes are characters, `max_buffer_bytes` is UTF-8 bytes.
    """

    id: str = attrs.field(metadata=INJECTED)
    name: NonEmpty
    kind: NonEmpty
    local: bool = attrs.field(metadata=INJECTED)
    own: Any = attrs.field(metadata=INJECTED)
    enabled: Flag = True
    hook_point: Annotated[str, Choice(("input", "output", "both"))] = "both"
    fail_open: Flag = True
    enforcement_mode: Annotated[str, Parsed(read_mode)] = "block"
    mandatory: Flag = False
    direction: str = "both"
    created_at: Annotated[float, Parsed(read_time)] | None = None
    stream_output: Annotated[str, Choice((INCREMENTAL, SCAN, HOLD))] = HOLD
    window_size: Annotated[int, Whole(low=1)] = 2000
    window_overlap_size: Annotated[int, Whole()] = 256
    max_buffer_bytes: Annotated[int, Whole(low=1)] = 262144
    on_buffer_exceeded: Annotated[str, Choice(("fail_closed", "fail_open"))] = "fail_closed"
    scan_reasoning: Flag = False

    @property
    def input(self) -> bool:
        """Whether it looks at requests."""
        return self.hook_point != "output"

    @property
    def output(self) -> bool:
        """Whether it looks at answers."""
        return self.hook_point != "input"

    @property
    def monitor(self) -> bool:
        """It only takes notes."""
        return self.enforcement_mode == "monitor"


COMMON = tuple(written_names(Guardrail))
"""The keys that every kind has."""


def prepared(tree: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """Take the kind's own members out of an entry, and give them; fill in the kind's defaults.

    `stream_processing_mode` is AISIX's name for `stream_output`. Raises `Fault`.
    """
    own = {key: tree.pop(key) for key in [key for key in tree if key not in COMMON and key in _names(kind)]}
    if "stream_processing_mode" in tree:
        if "stream_output" in tree:
            raise Fault("`stream_processing_mode` and `stream_output` exclude each other", ("stream_processing_mode",))
        mode = _AISIX_MODES.get(str(tree.pop("stream_processing_mode")))
        if mode is None:
            reason = Mistyped('expected "window" or "buffer_full"')
            raise Fault(f"schema validation failed at `/stream_processing_mode`: {reason}", ("stream_processing_mode",))
        tree["stream_output"] = mode
    tree.setdefault("stream_output", kind.stream_output)
    tree.setdefault("window_size", kind.window_size)
    default = kind.window_overlap_size
    if isinstance(tree["window_size"], int) and tree["window_size"] <= default:
        default = tree["window_size"] // 2
    tree.setdefault("window_overlap_size", default)
    return own


def _names(kind: Kind) -> list[str]:
    return written_names(kind.record)


def check(guardrail: Guardrail, kind: Kind) -> None:
    """Raise `Fault` for fields that do not go together."""
    if guardrail.stream_output == INCREMENTAL and not kind.local:
        reason = f"`stream_output: incremental` is not possible with kind `{kind.name}` (expected scan or hold)"
        raise Fault(reason, ("stream_output",))
    if guardrail.window_overlap_size >= guardrail.window_size:
        raise Fault("`window_overlap_size` must be less than `window_size`", ("window_overlap_size",))
    if getattr(guardrail.own, "unmask", False):
        if guardrail.hook_point == "output":
            raise Fault("`unmask` is not possible with `hook_point: output`", ("unmask",))
        if any(getattr(one, "replacement", None) is not None for one in getattr(guardrail.own, "custom_patterns", ())):
            raise Fault("`unmask` is not possible with a `replacement`", ("unmask",))
    kind.check(guardrail.own)


def ordered(guardrails: Iterable[Guardrail]) -> tuple[Guardrail, ...]:
    """Those that are enabled, in the order in which they are asked: oldest first, the undated last, as written."""
    return tuple(
        sorted(
            (one for one in guardrails if one.enabled),
            key=lambda one: (one.created_at is None, one.created_at or 0.0),
        )
    )
