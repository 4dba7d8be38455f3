"""What a check of some texts says (`guardrails.md` 1), whoever made it: one of ours, or a service asked about them."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Protocol

import attrs

from twisted_gateway.facts import frozen


@frozen
class Allow:
    """Nothing is wrong with these texts."""


@frozen
class Block:
    """The texts must not go on. `reason` is for operators; `unavailable`: the check could not run, nor be skipped."""

    reason: str = ""
    unavailable: bool = False


@frozen
class Mask:
    """The texts may go on as rewritten: as many as were asked about. `counts` are hits by detector."""

    texts: tuple[str, ...] = attrs.field(repr=False)
    counts: Mapping[str, int] = attrs.field(factory=dict)


@frozen
class Bypass:
    """The check could not run and may be skipped; `reason` as in `guardrails.md` 12."""

    reason: str


Verdict = Allow | Block | Mask | Bypass

ALLOW = Allow()


@frozen
class Asked:
    """What is asked about, and for whom. `hook` is `input` or `output`; `final`: the answer's last text is in it."""

    hook: str
    guardrail: str
    request_id: str
    model: str
    endpoint: str
    texts: tuple[str, ...] = attrs.field(repr=False)
    api_key_id: str | None = None
    team_id: str | None = None
    stream: bool = False
    final: bool = True


class Check(Protocol):
    """A check that must ask somebody. It applies its own time limit and its own failure rule, and never raises.

    Cancelling what it gave cancels the request.
    """

    def __call__(self, asked: Asked) -> Awaitable[Verdict]:
        """The verdict about these texts."""
