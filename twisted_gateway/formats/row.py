"""What a dialect offers to the trunk: one record of functions, so that the trunk knows no dialect by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted_gateway.config.resources import Model
from twisted_gateway.errors import Problem
from twisted_gateway.exchange import Call, Headers, Target, Usage
from twisted_gateway.facts import fact, frozen
from twisted_gateway.formats.complaints import Complaints
from twisted_gateway.formats.neutral import Event, Prompt
from twisted_gateway.formats.slots import Texts
from twisted_gateway.wire.series import Tube
from twisted_gateway.wire.sse import Frame

Letters = Callable[[], str]
"""Gives 24 random letters and digits."""


class Learnt(Protocol):
    """What is learnt of an answer on its way; the relay reads it."""

    @property
    def usage(self) -> Usage:
        """Counters reported so far."""

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of text (all channels) seen so far."""

    @property
    def complete(self) -> bool:
        """The dialect's own idea of a whole answer is fulfilled (`streaming.md` 10)."""

    @property
    def ended(self) -> bool:
        """The end marker was seen: nothing more will come."""

    @property
    def failure(self) -> Problem | None:
        """An error object came inside the stream; frames before it were given, none after it."""

    @property
    def provider_request_id(self) -> str | None:
        """The id of the provider's object."""

    @property
    def provider_model(self) -> str | None:
        """The model's name there."""

    @property
    def finish_reason(self) -> str | None:
        """Why it ended, in the provider's word."""

    @property
    def noise(self) -> int:
        """Data events that were ignored because they are no part of the dialect."""


class Passage(Learnt, Tube, Protocol):
    """The tube that carries one answer from a provider's dialect to the caller's, and learns from it on the way.

    `stopped(True)` gives the dialect's success ending and is called once at most, after `complete` or `ended`. It may
    also have `take(data)`: the frames that a read begins with, as far as they are known (`series.Batch`), None to read
    on frame by frame; `complaint(problem)`: the frames of an error in mid-stream, None for the usual one; `progress()`:
    frames that say in a long silence that the answer is still being made; `patience`: the most seconds that the end
    marker of a `complete` answer is waited for; `ending(usage)`: the legal last frames of an answer that is stopped
    early, with these counters, None where nothing of it was given yet; `shown_bytes`: how much of `text_bytes` is
    in the frames given so far, if not all; and `alike`: the shape of the frames taken last (`shapes.Shape`), of which
    more may pass it by, their text added to `text_bytes`, or told to `heard(n)` where it has that.
    """


class Decoder(Learnt, Protocol):
    """Frames of one dialect to events. Also used beside the line, by whoever reads the meaning.

    Raises `errors.StrayFrame` for what the dialect does not allow; an error object sets `failure` instead. One with
    `passed(n)` keeps nothing of a text but its size: frames that say more of it may pass it by, n UTF-8 bytes in all.
    """

    def received(self, frames: list[Frame]) -> list[Event]:
        """The events of these frames: of a stream, or of a whole body as one frame."""

    def stopped(self) -> list[Event]:
        """The answer is over, well: what was kept back."""


class Encoder(Protocol):
    """Events to frames of one dialect: a stream, or a whole body as one frame given by `stopped`.

    It may have `shown_bytes`: UTF-8 bytes of text in the frames of a stream, where it leaves some out or keeps it; and
    `passed` (see `Decoder`), if it writes a text the same way whatever was written before.
    """

    def received(self, events: Sequence[Event], learnt: Learnt) -> list[Frame]:
        """The frames of these events; `learnt.usage` holds what is counted so far."""

    def stopped(self, learnt: Learnt) -> list[Frame]:
        """The last frames of an answer that ended well, usage included."""

    def ending(self, learnt: Learnt) -> list[Frame]:
        """The last frames of a stream that its caller has stopped (`extensions.md` 8); instead of `stopped`."""

    def complaint(self, problem: Problem) -> list[Frame] | None:
        """The frames of an error in mid-stream, where the dialect needs to know what was sent; None: the usual one."""


@frozen
class Told:
    """What an encoder must know of the caller: `shown` is the model's name in the answer.

    `now` in seconds since the epoch, `letters` 24 random letters and digits, `fresh` gives 32 random hex digits.
    """

    call: Call
    prompt: Prompt
    target: Target
    shown: str
    now: float
    letters: str
    fresh: Callable[[], str]


@fact
class Sent:
    """What one attempt sends: path below the provider's base, headers and body."""

    path: str
    body: bytes
    accept: str
    asked_usage: bool = False
    """`stream_options` was added by us (`streaming.md` 3.1)."""


@frozen
class Format:
    """A wire dialect. The same-format road uses `sent` and `passage`; the other one meets in `neutral`."""

    name: str
    protocol: str
    """The `inbound_protocol` label."""
    complaints: Complaints
    read_call: Callable[[bytes, Headers], Call]
    """Body and headers to a Call; raises `errors.Refused`."""
    sent: Callable[[Call, Target, bool], Sent]
    """(call, target, may ask for usage): the request of an attempt in this same dialect."""
    passage: Callable[[Call, Target, str | None, float, Letters], Passage]
    """(call, target, name to show or None to keep the provider's, epoch seconds, random letters)."""
    judge: Callable[[Call, Frame], Problem | bool]
    """The first data event: a Problem, False when it is only noise, True when the answer has begun."""
    unfolded: Callable[[bytes], list[Frame]]
    """A whole JSON answer as the frames of a stream (`streaming.md` section 4)."""
    error_body: Callable[[int, bytes], Problem]
    """A provider's error answer as we show it (`errors-and-headers.md` 3.2)."""
    heartbeat: Callable[[bool], bytes]
    """The bytes of one heartbeat; the argument says whether a data frame was written (`streaming.md` 8)."""
    keeps_type: bool = False
    """A native answer has the provider's own content type (`streaming.md` 5 and 17.3)."""
    native: Callable[[Model, str], bool] = lambda model, family: family != "anthropic"
    """(model, family of its provider key): whether the target speaks this dialect itself."""
    refuse: Callable[[Model, str, bool], Problem | None] = lambda model, family, bridge: None
    """(model, family, `proxy.responses_bridge`): why a target that does not speak it must not be asked, if so."""
    ready: Callable[[Call, Model, str], bytes | None] | None = None
    """(call, model, family): a whole answer that needs no provider, if there is one."""
    prompt: Callable[[Call], Prompt] | None = None
    """The call in neutral words; raises `errors.Refused` (400) for what cannot be carried."""
    body: Callable[[Prompt, Target], Sent] | None = None
    """A prompt in this dialect's words; raises `errors.Refused` (400) for what it cannot say."""
    decoder: Callable[[bool, str | None], Decoder] | None = None
    """(stream, the provider key's own member for reasoning): reads this dialect's answers."""
    encoder: Callable[[Told], Encoder] | None = None
    """Writes this dialect's answers."""
    texts: Texts | None = None
    """Where its texts are; None: nobody looks at them."""
