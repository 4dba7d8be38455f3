"""What an operator's own hook sees and may raise: the public part of `docs/hooks.md` (`extensions.md` 7.3).

A hook is any object with one or more of `pre_call(call)`, `during(call)` and `post_call(record)`. It is named in the
boot file's `hooks` by a dotted path and made once, at start. Everything here is kept compatible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from twisted_gateway.facts import define, frozen


class Refuse(Exception):
    """Raised by `pre_call`: the caller gets this status (400 to 599), text and code, and no provider is asked."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            raise ValueError("a refusal has a status from 400 to 599")
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


class Stop(Exception):
    """Raised by `frame`: the answer ends here by an error of type `hook_stopped` with this text; outcome `blocked`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@define(eq=False)
class HookCall:
    """One call, as a hook sees it: in `pre_call` on its way in, in `during` once for each answer.

    `model` and `stream` are what the caller asked for; `headers` has the caller's request headers by their lower-case
    names, first values only, without credentials. `cached` says, in `during`, that the answer comes from the cache:
    hooks have seen it before. Changes of anything but `body` have no effect.
    """

    request_id: str
    endpoint: str
    model: str
    stream: bool
    headers: Mapping[str, str]
    api_key_id: str
    team_id: str | None
    _read: Callable[[], dict[str, Any]] = attrs.field(repr=False)
    cached: bool = False
    _body: dict[str, Any] | None = attrs.field(default=None, init=False, repr=False)

    @property
    def body(self) -> dict[str, Any]:
        """The request body, decoded when first asked for. `pre_call` may change it or put another in its place."""
        if self._body is None:
            self._body = self._read()
        return self._body

    @body.setter
    def body(self, body: dict[str, Any]) -> None:
        self._body = body

    @property
    def touched(self) -> dict[str, Any] | None:
        """The body if anybody asked for it, else None: then it cannot have changed."""
        return self._body


@frozen
class HookRecord:
    """What became of one call: the most used fields of its usage record, and all of them in `fields`.

    Tokens are those the call is charged; times are milliseconds; `status` is 499 where the caller left first. No text
    of the call or its answer is in a record. `fields` is shared: do not change it.
    """

    request_id: str
    occurred_at: str
    endpoint: str
    model: str
    api_key_id: str
    stream: bool
    status: int
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    fields: Mapping[str, Any] = attrs.field(repr=False)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> HookRecord:
        """The record that has these fields (`operations.md` 7, `extensions.md` 9)."""
        return cls(
            request_id=fields["request_id"],
            occurred_at=fields["occurred_at"],
            endpoint=fields["endpoint"],
            model=fields.get("requested_model", ""),
            api_key_id=fields["api_key_id"],
            stream=fields["stream"],
            status=fields["status_code"],
            outcome=fields["outcome"],
            prompt_tokens=fields["prompt_tokens"],
            completion_tokens=fields["completion_tokens"],
            cost_usd=fields["cost_usd"],
            fields=fields,
        )
