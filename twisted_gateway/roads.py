"""How one attempt gets from the caller's dialect to the target's and back: untouched, or through `neutral`.

The family is decided per attempt, from the caller's original body (`translation.md` section 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from twisted_gateway.errors import Problem, Refused
from twisted_gateway.exchange import Call, Target, Usage
from twisted_gateway.facts import fact
from twisted_gateway.formats.neutral import Began, Prompt
from twisted_gateway.formats.row import Decoder, Format, Letters, Passage, Sent, Told
from twisted_gateway.formats.translation import Seen, Translation
from twisted_gateway.wire.sse import Frame

_SPOKEN = {"anthropic": "anthropic"}
"""What a family speaks when it does not speak the caller's dialect; else chat."""


@fact
class Road:
    """One attempt's way. `speaks` is the target's dialect; `prompt` is set where that is not the caller's own."""

    format: Format
    speaks: Format
    call: Call
    target: Target
    prompt: Prompt | None = None

    def sent(self, ask_usage: bool) -> Sent:
        """The attempt's request. Raises `Refused` for what the target's dialect cannot say."""
        if self.prompt is None:
            return self.format.sent(self.call, self.target, ask_usage)
        assert self.speaks.body is not None
        return self.speaks.body(attrs.evolve(self.prompt, count=ask_usage), self.target)

    def passage(self, shown: str | None, now: float, letters: Letters, fresh: Callable[[], str]) -> Passage:
        """The tube for the answer. `shown` None keeps the provider's model name."""
        if self.prompt is None:
            return self.format.passage(self.call, self.target, shown, now, letters)
        assert self.format.encoder is not None
        name = shown or self.target.upstream_model
        prompt = attrs.evolve(self.prompt, turns=())  # no encoder's business, and long
        told = Told(self.call, prompt, self.target, name, now, letters(), fresh)
        return Translation(self._decoder(), self.format.encoder(told))

    def _decoder(self) -> Decoder:
        assert self.speaks.decoder is not None
        return self.speaks.decoder(self.call.stream, self.target.model.provider_key.response.reasoning_field)


def road(format: Format, formats: Mapping[str, Format], call: Call, target: Target, family: str, bridge: bool) -> Road:
    """The way to a target. `family` is its provider key's, `bridge` is `proxy.responses_bridge`.

    Raises `Refused` where there is none: 400 or 501 by the format, 400 for a part that cannot be carried.
    """
    if format.native(target.model, family):
        return Road(format, format, call, target)
    problem = format.refuse(target.model, family, bridge)
    if problem is not None:
        raise Refused(problem)
    speaks = formats[_SPOKEN.get(family, "openai_chat")]
    if format.prompt is None or format.encoder is None or speaks.body is None or speaks.decoder is None:
        raise Refused(_no_way(format))
    return Road(format, speaks, call, target, format.prompt(call))


def empty(format: Format, told: Told, usage: Usage) -> list[Frame]:
    """A whole stream that says nothing, for a caller who has stopped it before it began (`extensions.md` 8)."""
    assert format.encoder is not None, "what can be streamed can be written"
    encoder, seen = format.encoder(told), Seen(usage)
    return [*encoder.received([Began()], seen), *encoder.ending(seen)]


def _no_way(format: Format) -> Problem:
    words = format.name.replace("_", " ")
    return Problem(status=501, type="not_implemented", message=f"this provider does not support {words}", kind="config")
