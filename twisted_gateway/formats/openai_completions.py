"""OpenAI's legacy text completions: `POST /v1/completions` (reference `streaming.md` section 16)."""

from __future__ import annotations

from typing import Any

import msgspec

from twisted_gateway.config.resources import Model
from twisted_gateway.errors import Problem, StrayFrame
from twisted_gateway.exchange import Call, Headers, Target
from twisted_gateway.formats import bodies, openai_body, openai_errors
from twisted_gateway.formats.complaints import OPENAI
from twisted_gateway.formats.neutral import Event, Said
from twisted_gateway.formats.openai_chunks import DONE, ChunkTube, WholeTube, habits_of, judge, loads
from twisted_gateway.formats.openai_completions_chat import CompletionsEncoder, prompt
from twisted_gateway.formats.openai_completions_texts import TEXTS
from twisted_gateway.formats.openai_decoder import AnswerDecoder, ChoiceReader
from twisted_gateway.formats.row import Format, Letters, Passage, Sent
from twisted_gateway.wire.sse import Frame

_TOKEN_BYTES = 4
"""What a token that is given by its number counts in an estimate (`streaming.md` 14.2)."""
_encode = msgspec.json.Encoder().encode


def read_call(body: bytes, headers: Headers) -> Call:
    """The call in a request body; raises `Refused` with the 400s of `streaming.md` section 2."""
    found = openai_body.members(body, headers)
    model = bodies.plain(found.get("model"))
    if not isinstance(model, str):
        openai_body.refuse("missing `model` field", "model")
    stream = openai_body.member(found, "stream", bool | None, None)
    return Call(
        model=model,
        stream=bool(stream),
        body=body,
        usage_shown=openai_body.usage_shown(found),
        prompt_bytes=_measured(bodies.plain(found.get("prompt"))) + _measured(bodies.plain(found.get("suffix"))),
        extra=found,
    )


def _measured(prompt: Any) -> int:
    """UTF-8 bytes of a prompt: a text, a token, or a list of these, or of such lists."""
    if isinstance(prompt, list):
        return sum(map(_measured, prompt))
    return _TOKEN_BYTES if isinstance(prompt, int) else bodies.size(prompt)


def sent(call: Call, target: Target, ask_usage: bool) -> Sent:
    """The attempt's request: the caller's own members, `model` replaced, the provider key's edits made."""
    body, asked = openai_body.edited(call, target, ask_usage=ask_usage)
    return Sent("/completions", body, "text/event-stream" if call.stream else "application/json", asked)


def unfolded(body: bytes) -> list[Frame]:
    """A whole answer as chunks, for a provider that answered JSON though a stream was asked."""
    answer = loads(body)
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise StrayFrame("its choices are not those of a completion")
    whole = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    ended = [{**choice, "finish_reason": choice.get("finish_reason") or "stop"} for choice in choices]
    chunks = [{**whole, "choices": [choice]} for choice in ended]
    if answer.get("usage"):
        chunks.append({**whole, "choices": [], "usage": answer["usage"]})
    return [*(Frame(_encode(chunk)) for chunk in chunks), DONE]


class Text:
    """One choice of a streamed completion: every entry has a text, null or missing ones are empty."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.text_bytes = 0

    @property
    def finished(self) -> bool:
        """A finish reason was seen."""
        return self.finish_reason is not None

    def edit(self, choice: dict[str, Any], reasoning_field: str | None = None) -> bool:
        """Edits one entry of `choices` in place; True when it changed."""
        changed = False
        if not isinstance(choice.get("text"), str):
            choice["text"] = ""
            changed = True
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish_reason = reason
        elif reason is not None or "finish_reason" not in choice:
            choice["finish_reason"] = None
            changed = True
        self.text_bytes = bodies.size(choice["text"])
        return changed

    def silent(self, choice: dict[str, Any]) -> bool:
        """An entry that says nothing: no finish reason, no text."""
        return choice["finish_reason"] is None and not choice["text"] and not choice.get("logprobs")


class Chunks(ChunkTube):
    """The chunks of one streamed answer."""

    kind = "text_completion"
    prefix = "cmpl-"
    nothing = {"text": "", "logprobs": None}

    def new_choice(self, begun: bool = False) -> Text:
        """See `ChunkTube`."""
        return Text()


class Whole(WholeTube):
    """The one frame of an answer that is not streamed."""

    def measured(self, choice: dict[str, Any]) -> int:
        """See `WholeTube`."""
        return bodies.size(choice.get("text"))


def passage(call: Call, target: Target, shown: str | None, now: float, letters: Letters) -> Passage:
    """The tube for one answer, streamed or whole."""
    if not call.stream:
        return Whole(shown)
    return Chunks(call, target, shown, now, letters, habits_of(Chunks.kind, call, target, shown))


class TextReader(ChoiceReader):
    """One choice, for a decoder."""

    def say(self, entry: dict[str, Any], events: list[Event]) -> None:
        """See `ChoiceReader`."""
        text = entry.get("text")
        if isinstance(text, str) and text:
            events.append(Said(text, self.index))


class CompletionsDecoder(AnswerDecoder):
    """Reads one answer: for whoever wants its meaning beside the native road."""

    def new_choice(self, index: int) -> ChoiceReader:
        """See `AnswerDecoder`."""
        return TextReader(index)


def refuse(model: Model, family: str, bridge: bool) -> Problem | None:
    """501 where completions are not the target's own, unless the model has them made through chat."""
    if model.completions_via_chat:
        return None
    message = "this provider does not support text completions"
    return Problem(status=501, type="not_implemented", message=message, kind="config")


def decoder(stream: bool, reasoning_field: str | None = None) -> CompletionsDecoder:
    """Reads answers of this dialect, which knows no reasoning."""
    return CompletionsDecoder(stream)


FORMAT = Format(
    name="openai_completions",
    protocol="openai",
    complaints=OPENAI,
    read_call=read_call,
    sent=sent,
    passage=passage,
    judge=judge,
    unfolded=unfolded,
    error_body=openai_errors.error_body,
    heartbeat=lambda bound: b":\n\n",
    native=lambda model, family: family != "anthropic",
    refuse=refuse,
    prompt=prompt,
    decoder=decoder,
    encoder=CompletionsEncoder,
    texts=TEXTS,
)
