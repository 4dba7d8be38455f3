"""What a dialect offers to the trunk: one record of functions, so that the trunk knows no dialect by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from twisted_gateway.errors import Problem
from twisted_gateway.exchange import Call, Headers, Target, Usage
from twisted_gateway.formats.complaints import Complaints
from twisted_gateway.formats.shortcut import Taken
from twisted_gateway.wire.series import Tube
from twisted_gateway.wire.sse import Frame


class Quick(Protocol):
    """A passage that knows some reads by their bytes (`formats.shortcut`)."""

    def take(self, data: bytes) -> Taken | None:
        """A read of whole frames as it goes out, or None when it must be read frame by frame."""


class Passage(Tube, Protocol):
    """The tube that carries one answer from a provider's dialect to the caller's, and learns from it on the way.

    `stopped(True)` gives the dialect's success ending and is called once at most, after `complete` or `ended`.
    """

    usage: Usage
    text_bytes: int
    """UTF-8 bytes of text (all channels) seen so far."""
    complete: bool
    """The dialect's own idea of a whole answer is fulfilled (`streaming.md` 10)."""
    ended: bool
    """The end marker was seen: nothing more will come."""
    failure: Problem | None
    """An error object came inside the stream; frames before it were given, none after it."""
    provider_request_id: str | None
    provider_model: str | None
    finish_reason: str | None
    noise: int
    """Data events that were ignored because they are no part of the dialect."""


@attrs.frozen
class Sent:
    """What one attempt sends: path below the provider's base, headers and body."""

    path: str
    body: bytes
    accept: str
    asked_usage: bool = False
    """`stream_options` was added by us (`streaming.md` 3.1)."""


@attrs.frozen
class Format:
    """A wire dialect."""

    name: str
    protocol: str
    """The `inbound_protocol` label."""
    complaints: Complaints
    read_call: Callable[[bytes, Headers], Call]
    """Body and headers to a Call; raises `errors.Refused`."""
    sent: Callable[[Call, Target, bool], Sent]
    """(call, target, may ask for usage): the request of an attempt in this same dialect."""
    passage: Callable[[Call, Target, str | None, float, str], Passage]
    """(call, target, name to show or None to keep the provider's, epoch seconds, random letters)."""
    judge: Callable[[Call, Frame], Problem | bool]
    """The first data event: a Problem, False when it is only noise, True when the answer has begun."""
    unfolded: Callable[[bytes], list[Frame]]
    """A whole JSON answer as the frames of a stream (`streaming.md` section 4)."""
    error_body: Callable[[int, bytes], Problem]
    """A provider's error answer as we show it (`errors-and-headers.md` 3.2)."""
    heartbeat: Callable[[bool], bytes]
    """The bytes of one heartbeat; the argument says whether a data frame was written (`streaming.md` 8)."""
