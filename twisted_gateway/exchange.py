"""The nouns of one call: facts that pass between the rooms. Nothing here decides anything or does any I/O."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import attrs

from twisted_gateway.errors import Problem
from twisted_gateway.facts import define, fact, frozen
from twisted_gateway.wire.series import Gate

if TYPE_CHECKING:
    from twisted_gateway.config.resources import CallerKey, Model
    from twisted_gateway.config.snapshot import Resolution, Snapshot
    from twisted_gateway.formats.row import Learnt

CHAT = "/v1/chat/completions"
"""The endpoint of which some rules speak by name."""
_NOTHING: Mapping[str, Any] = {}


class Outcome(StrEnum):
    """How a call ended (`extensions.md` 9)."""

    COMPLETE = "complete"
    REFUSED = "refused"
    FAILED = "failed"
    TRUNCATED = "truncated"
    STALLED = "stalled"
    BLOCKED = "blocked"
    STOPPED = "stopped"
    ABANDONED = "abandoned"
    BROKEN = "broken"


@frozen
class Endpoint:
    """A URL of ours. `path` is also its label in logs and metrics; `dialect` is that of its errors, and the label
    `inbound_protocol`: `anthropic` on the messages routes, else `openai`.
    """

    path: str
    format: str
    dialect: str = "openai"
    plans_first: bool = False
    """The target list is made before limits are asked (`policy.md` 1.2, chat), not behind them."""
    groups: bool = False
    """Groups of targets are served here, not only direct models (`policy.md` 5.3)."""


class Headers(Protocol):
    """The caller's request headers, as far as policies read them."""

    def get(self, name: str) -> str | None:
        """The first value of a header, or None."""

    def all(self, name: str) -> list[str]:
        """All values of a header, in order."""

    def matching(self, pattern: str) -> Iterator[tuple[str, str]]:
        """Lower-case name and first value of the headers that a pattern with one `*` names."""


@define
class Call:
    """What the caller asked, as far as the gateway must know it. `body` is what came, byte for byte.

    A fact but for its end: once nobody can be asked any more, body and `extra` are let go, whoever still has the call.
    """

    model: str
    stream: bool
    body: bytes
    usage_shown: bool = True
    """Whether the caller asked to see usage in the stream (chat, completions)."""
    prompt_bytes: int = 0
    """UTF-8 bytes of the text the model reads, for estimates."""
    extra: Mapping[str, Any] = attrs.field(factory=dict)
    """What this format's own functions want to remember between reading and sending."""

    def let_go(self) -> None:
        """Forget what only an attempt needs: a prompt may be of megabytes, and its answer of minutes."""
        self.body, self.extra = b"", _NOTHING


@define
class Usage:
    """Token counters of one attempt; 0 is unknown or none. Field-wise maximum of all reports (`streaming.md` 14.1)."""

    prompt: int = 0
    completion: int = 0
    total: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    final: bool = False
    """A report of the completion's tokens was seen (not only a floor)."""
    cache_write_1h: int = 0
    """Of `cache_write`, what lives for an hour: it has a price of its own."""
    estimated: bool = False
    """Some of it is our estimate, and is shown as such."""

    def merge(
        self,
        *,
        prompt: int = 0,
        completion: int = 0,
        total: int = 0,
        cache_read: int = 0,
        cache_write: int = 0,
        reasoning: int = 0,
    ) -> None:
        """Take over each counter that is larger than the former one."""
        if prompt > self.prompt:
            self.prompt = prompt
        if completion > self.completion:
            self.completion = completion
        if total > self.total:
            self.total = total
        if cache_read > self.cache_read:
            self.cache_read = cache_read
        if cache_write > self.cache_write:
            self.cache_write = cache_write
        if reasoning > self.reasoning:
            self.reasoning = reasoning


@fact
class Target:
    """One place where an alias can be served: a direct model, with the upstream id to ask for there."""

    model: Model
    upstream_model: str


@define
class Attempt:
    """One try at one target. Times are seconds on the exchange's clock (monotonic)."""

    index: int
    kind: str
    target: Target
    started: float
    ended: float | None = None
    first_event: float | None = None
    status: int | None = None
    content_type: bytes | None = None
    """What a good head says that the body is, where that is what was asked for."""
    problem: Problem | None = None
    ended_by: str | None = None
    usage: Usage = attrs.field(factory=Usage)
    received_bytes: int = 0
    """UTF-8 bytes of text (all channels) that the provider sent, for estimates."""
    sent: float | None = None
    """When the connection was up and the request began to be written."""
    contacted: bool = False
    """A provider was turned to, not only a limit of ours asked."""
    cooled: bool = False
    """Its failure made the target cool down."""
    unretried: bool = False
    """A retry would have followed, but the target's retry budget is used up."""
    provider_request_id: str | None = None
    provider_model: str | None = None
    finish_reason: str | None = None
    noise: int = 0
    """Frames of the provider that say nothing and were ignored (`streaming.md` 7)."""


@frozen
class CacheUse:
    """What the cache had to do with a call: `status` is `hit`, `miss`, `bypass` or `disabled` (`operations.md` 7).

    `policy` is the cache policy's name, None without one; `layer` is where a hit was found; `saved_prompt` and
    `saved_completion` are the tokens that its answer cost the first time.
    """

    status: str
    policy: str | None = None
    layer: str | None = None
    saved_prompt: int = 0
    saved_completion: int = 0


@define
class Exchange:
    """One call, from arrival to settlement. Facts only; `now`-like values are seconds on one monotonic clock."""

    id: str
    endpoint: Endpoint
    method: str
    path: str
    headers: Headers
    peer: str
    """The caller's address as `policy.md` section 4 decides it."""
    body: bytes
    snapshot: Snapshot
    arrived: float
    arrived_at: float
    """Seconds since the epoch."""
    query: str = ""
    """The URL's query, as it came."""

    caller: CallerKey | None = None
    call: Call | None = None
    resolution: Resolution | None = None
    attempts: list[Attempt] = attrs.field(factory=list)
    serving: Attempt | None = None
    """The attempt whose open answer is relayed, once there is one."""
    cache: CacheUse | None = None
    """None where a call can have nothing to do with the cache."""

    committed: float | None = None
    """When status line and headers were written."""
    bound: float | None = None
    """When the first data frame was written."""
    ended: float | None = None
    status: int | None = None
    """What the caller got, or 499 when it left first."""
    frames: int = 0
    bytes: int = 0
    """Body bytes written to the caller, heartbeats included."""
    delivered_bytes: int = 0
    """UTF-8 bytes of text (all channels) in the frames written."""
    problem: Problem | None = None
    late_head: bool = False
    """A verdict about the whole answer may still need a status: the head goes out with the first frame, not before."""
    drained: bool = False
    """The caller left, and the answer was read on for the provider's figures."""
    guarded: Guarded | None = None
    """What guardrails did, where any looked at the call."""
    body_drain: str | None = None
    """After a 413 for the body's size, how reading the rest of it ended (a word from a fixed set, for the metric)."""

    def bind(self, now: float) -> None:
        """The first data frame is written: its target stays responsible, and nobody else will be asked."""
        self.bound, self.body = now, b""
        if self.call is not None:
            self.call.let_go()

    @property
    def attempt(self) -> Attempt | None:
        """The winning attempt, or the last one."""
        if self.serving is not None:
            return self.serving
        return self.attempts[-1] if self.attempts else None


@define
class Guarded:
    """What guardrails did with one call (`guardrails.md` 13). The lists hold what the record shows; never a text."""

    applied: list[dict[str, Any]] = attrs.field(factory=list)
    enforced: list[dict[str, Any]] = attrs.field(factory=list)
    monitored: list[dict[str, Any]] = attrs.field(factory=list)
    redacted: dict[str, int] = attrs.field(factory=dict)
    bypassed: str | None = None
    blocked: bool = False


class Halt(NamedTuple):
    """Why a gate ended an answer: what the caller is told, and how the call is counted."""

    problem: Problem
    outcome: Outcome


@fact
class Joint:
    """Where policies put their gates on the line of an open answer.

    `learnt` is what is known of the answer so far; where there is no gate, up to date behind `settle`. A gate that held
    frames calls `wake` when it can give them; not from inside `received`.
    """

    attempt: Attempt
    learnt: Learnt
    wake: Callable[[], None]
    settle: Callable[[], None]


class Ticket:
    """A policy's own object for one exchange (`DESIGN.md` section 4): what it does not override does nothing."""

    __slots__ = ()

    ready: bytes | None = None
    """A whole answer in the caller's format, from memory: then no attempt is made (`DESIGN.md` 3, step 2)."""

    def allow(self, target: Target) -> Callable[[], None] | Awaitable[Callable[[], None] | None] | None:
        """Asked before every attempt: raises `errors.Refused` to skip this target.

        It may give a callable that takes back what was reserved, run when the attempt has failed or lost.
        """
        return None

    def opened(self) -> None:
        """The response head was written."""

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of a good answer."""
        return []

    def gates(self, joint: Joint) -> Sequence[Gate]:
        """What to put on the line of an open answer, in the order of admission; anew for each answer."""
        return ()

    def last_gates(self, joint: Joint) -> Sequence[Gate]:
        """What to put behind every policy's gates: nobody reads what they write but the caller."""
        return ()

    def settle(self, outcome: Outcome) -> None:
        """The exchange is over. Runs exactly once; never waits."""


class Policy(Protocol):
    """Something that has an opinion about calls (`DESIGN.md` section 4).

    It may also have `idle(snapshot)`: whether it can have none about calls of that snapshot, and need not be asked.
    """

    def admit(self, exchange: Exchange) -> Ticket | Awaitable[Ticket | None] | None:
        """Let the call go on, or raise `errors.Refused`. A policy that refuses leaves nothing reserved behind."""
