"""Rate limits as resources: of caller keys and models, and policies (`configuration.md` 7.4, 7.6). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Annotated, Any, NamedTuple

import attrs

from twisted_gateway.config.checks import Choice, Count, Flag, Mistyped, NonEmpty, Parsed, Text, Whole, text
from twisted_gateway.config.conditions import MODEL_DIMENSIONS, Facts, Node, leaves, read_conditions
from twisted_gateway.facts import frozen

SECOND, MINUTE, HOUR, DAY = 1, 60, 3600, 86400
GROUPS = ("team", "member", "api_key", "model", "provider")
"""What a conditional policy may be split by, in the order in which its buckets are named (`policy.md` 11.1)."""

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOWS = {"second": "rps", "minute": "rpm", "hour": "rph", "day": "rpd"}
_TOKEN_WINDOWS = {"minute": "tpm", "day": "tpd"}
_CLASSIC = ("scope", "scope_ref", "window", "max_requests", "max_tokens", "reserve", "reserve_output_tokens")
_CONDITIONAL = ("limits", "conditions", "group_by", "action")

ReserveOutput = Annotated[int, Whole(low=1)]


class Window(NamedTuple):
    """A limit per fixed window: its name, the window's length in seconds, how much is allowed."""

    name: str
    seconds: int
    limit: int


@frozen
class RateLimit:
    """What one bucket allows: requests, tokens, calls at a time. None: no limit; 0: nothing.

    With `reserve` token limits hold an estimate from admission to settlement (`extensions.md` 6.1).
    """

    rps: Count | None = None
    rpm: Count | None = None
    rph: Count | None = None
    rpd: Count | None = None
    tpm: Count | None = None
    tpd: Count | None = None
    concurrency: Count | None = None
    reserve: Flag = False
    reserve_output_tokens: ReserveOutput = 1024
    requests: tuple[Window, ...] = attrs.field(init=False, eq=False, repr=False)
    """Limits of requests, shortest window first."""
    tokens: tuple[Window, ...] = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.reserve and self.tpm is None and self.tpd is None:
            raise Mistyped("needs `tpm` or `tpd`", ("reserve",))
        requests = (("rps", SECOND), ("rpm", MINUTE), ("rph", HOUR), ("rpd", DAY))
        object.__setattr__(self, "requests", tuple(self._windows(*requests)))
        object.__setattr__(self, "tokens", tuple(self._windows(("tpm", MINUTE), ("tpd", DAY))))

    def _windows(self, *names: tuple[str, int]) -> Iterator[Window]:
        for name, seconds in names:
            limit = getattr(self, name)
            if limit is not None:
                yield Window(name, seconds, limit)

    @property
    def anything(self) -> bool:
        """Whether there is any limit in it."""
        return bool(self.requests or self.tokens or self.concurrency is not None)


# Schedules


def read_zone(value: Any) -> tzinfo:
    """Read the IANA name of a time zone."""
    name = text(value)
    if name == "UTC":  # known without the system's tables
        return UTC
    from zoneinfo import ZoneInfo  # brings a third of a megabyte, for few resources files

    try:
        return ZoneInfo(name)
    except Exception:
        raise Mistyped("expected the IANA name of a time zone, such as Europe/Vienna") from None


def read_date(value: Any) -> date:
    """Read YYYY-MM-DD; YAML makes a date of one that is not quoted."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return datetime.strptime(Text(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "").read(value), "%Y-%m-%d").date()
    except ValueError:
        raise Mistyped("expected a date, YYYY-MM-DD") from None


def read_clock(value: Any) -> int:
    """Read HH:MM as minutes after midnight; 24:00 is the end of the day."""
    written = text(value)
    if Text(r"([01][0-9]|2[0-3]):[0-5][0-9]|24:00", "a time, HH:MM").read(written):
        return int(written[:2]) * 60 + int(written[3:])
    raise AssertionError


def read_start(value: Any) -> int:
    """Read the HH:MM at which something begins."""
    if value == "24:00":
        raise Mistyped("expected a time, HH:MM")
    return read_clock(value)


@frozen
class Schedule:
    """When a policy is suspended: on these days, from one minute to another; over midnight where the end is earlier."""

    timezone: Annotated[tzinfo, Parsed(read_zone)]
    start_time: Annotated[int, Parsed(read_start)]
    end_time: Annotated[int, Parsed(read_clock)]
    days_of_week: tuple[Annotated[str, Choice(_DAYS)], ...] | None = None
    dates: tuple[Annotated[date, Parsed(read_date)], ...] | None = None

    def __attrs_post_init__(self) -> None:
        if (self.days_of_week is None) == (self.dates is None):
            raise Mistyped("exactly one of `days_of_week` and `dates` is required")
        if not (self.days_of_week or self.dates):
            raise Mistyped("expected at least one item", ("dates" if self.days_of_week is None else "days_of_week",))
        if self.start_time == self.end_time:
            raise Mistyped("must differ from `start_time`", ("end_time",))

    def is_open(self, now: float) -> bool:
        """Whether the wall clock there, at `now` (seconds since the epoch), is inside."""
        local = datetime.fromtimestamp(now, self.timezone)
        minute, today = local.hour * 60 + local.minute, local.date()
        if self.start_time < self.end_time:
            return self.start_time <= minute < self.end_time and self._chosen(today)
        if minute >= self.start_time:
            return self._chosen(today)
        return minute < self.end_time and self._chosen(today - timedelta(days=1))

    def _chosen(self, day: date) -> bool:
        if self.dates is not None:
            return day in self.dates
        return _DAYS[day.weekday()] in (self.days_of_week or ())


# Policies


def read_groups(value: Any) -> tuple[str, ...]:
    """Read what a policy is split by, in the order of `GROUPS`."""
    if not isinstance(value, list | tuple):
        raise Mistyped("expected a list")
    names = [Choice(GROUPS).read(member) for member in value]
    if len(set(names)) < len(names):
        raise Mistyped("names something twice")
    return tuple(name for name in GROUPS if name in names)


@frozen
class RateLimitPolicy:
    """A limit that stands on its own: classic (`scope`) or conditional (`limits`), never both."""

    id: str = attrs.field(metadata={"injected": True})
    name: NonEmpty
    scope: Annotated[str, Choice(("api_key", "model", "team", "member", "team_member"))] | None = None
    scope_ref: NonEmpty | None = None
    window: Annotated[str, Choice(tuple(_WINDOWS))] | None = None
    max_requests: Annotated[int, Whole(low=1)] | None = None
    max_tokens: Annotated[int, Whole(low=1)] | None = None
    reserve: Flag = False
    reserve_output_tokens: ReserveOutput = 1024
    limits: RateLimit | None = None
    conditions: Annotated[tuple[Any, ...], Parsed(read_conditions)] = ()
    group_by: Annotated[tuple[str, ...], Parsed(read_groups)] = ()
    action: Annotated[str, Choice(("reject",))] = "reject"
    schedules: tuple[Schedule, ...] = ()
    allows: RateLimit = attrs.field(init=False, eq=False, repr=False)
    """The limits, whichever the form."""
    of_models: bool = attrs.field(init=False, eq=False, repr=False)
    """Whether it looks at the model: then a group's request is asked for each target (`policy.md` 11.2)."""

    def __attrs_post_init__(self) -> None:
        if self.limits is None:
            object.__setattr__(self, "allows", self._classic())
            object.__setattr__(self, "of_models", self.scope == "model")
            return
        if not self.limits.anything:
            raise Mistyped("expected at least one limit", ("limits",))
        nodes: tuple[Node, ...] = self.conditions
        dimensions = {leaf.dimension for leaf in leaves(nodes)} | set(self.group_by)
        object.__setattr__(self, "allows", self.limits)
        object.__setattr__(self, "of_models", bool(dimensions & MODEL_DIMENSIONS))

    def _classic(self) -> RateLimit:
        for name in ("scope", "scope_ref", "window"):
            if getattr(self, name) is None:
                raise Mistyped("missing", (name,))
        if self.max_requests is None and self.max_tokens is None:
            raise Mistyped("at least one of `max_requests` and `max_tokens` is required")
        if self.reserve and self.max_tokens is None:
            raise Mistyped("needs `max_tokens`", ("reserve",))
        window = self.window or ""
        members: dict[str, Any] = {_WINDOWS[window]: self.max_requests}
        tokens = _TOKEN_WINDOWS.get(window)
        if tokens is not None and self.max_tokens is not None:
            members |= {
                tokens: self.max_tokens,
                "reserve": self.reserve,
                "reserve_output_tokens": self.reserve_output_tokens,
            }
        return RateLimit(**members)

    @property
    def warning(self) -> str | None:
        """What its writer should know."""
        if self.max_tokens is not None and self.window not in _TOKEN_WINDOWS:
            return f"`max_tokens` has no effect per {self.window}: only per minute and day"
        return None

    def suspended(self, now: float) -> bool:
        """Whether it reserves nothing at this moment (seconds since the epoch)."""
        return any(schedule.is_open(now) for schedule in self.schedules)

    def bucket(self, facts: Facts) -> str | None:
        """The key of the bucket for this request; None when the policy does not apply to it."""
        return self._scoped(facts) if self.limits is None else self._split(facts)

    def _scoped(self, facts: Facts) -> str | None:
        scope, wanted = self.scope or "", self.scope_ref
        found = facts.get("team" if scope == "team_member" else scope)
        if not found or found[0] != wanted:
            return None
        if scope != "team_member":
            return f"policy:{scope}:{wanted}:{self.id}"
        users = facts.get("member")
        return f"policy:{scope}:{wanted}:{self.id}:{users[0]}" if users else None

    def _split(self, facts: Facts) -> str | None:
        if not all(node.holds(facts) for node in self.conditions):
            return None
        parts = [f"policy:v2:{self.id}"]
        for dimension in self.group_by:
            values = facts.get(dimension)
            if not values:
                return None
            parts.append(f"{dimension}={_escaped(values[0])}")
        return ":".join(parts)


class Policies:
    """All policies, found by what a request has. In the order of the file."""

    def __init__(self, policies: Sequence[RateLimitPolicy] = ()) -> None:
        self._all = tuple(policies)
        self._conditional = [at for at, policy in enumerate(self._all) if policy.limits is not None]
        self._classic: dict[tuple[str, str], list[int]] = {}
        for at, policy in enumerate(self._all):
            if policy.limits is None and policy.scope and policy.scope_ref:
                dimension = "team" if policy.scope == "team_member" else policy.scope
                self._classic.setdefault((dimension, policy.scope_ref), []).append(at)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[RateLimitPolicy]:
        return iter(self._all)

    def matching(
        self, facts: Facts, wanted: Callable[[RateLimitPolicy], bool]
    ) -> Iterator[tuple[RateLimitPolicy, str]]:
        """The wanted policies that apply, with their buckets."""
        if not self._all:
            return
        found = list(self._conditional)
        for dimension in ("api_key", "model", "team", "member"):
            values = facts.get(dimension)
            if values:
                found += self._classic.get((dimension, values[0]), ())
        for at in sorted(found):
            policy = self._all[at]
            bucket = policy.bucket(facts) if wanted(policy) else None
            if bucket is not None:
                yield policy, bucket


def misshapen(tree: Mapping[str, Any]) -> Mistyped | None:
    """What is wrong with a policy's form, before its members are looked at."""
    conditional = next((key for key in _CONDITIONAL if key in tree), None)
    if conditional is None:
        return None
    classic = next((key for key in _CLASSIC if key in tree), None)
    if classic is not None:
        reason = f"does not go with `{conditional}`: a policy is classic or conditional"
        return Mistyped(reason, (classic,))
    return None if "limits" in tree else Mistyped("missing", ("limits",))


def _escaped(value: str) -> str:
    return value.replace("%", "%25").replace(":", "%3A").replace("=", "%3D")
