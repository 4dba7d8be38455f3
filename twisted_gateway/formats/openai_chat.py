"""OpenAI chat completions: `POST /v1/chat/completions` (reference `streaming.md` sections 2, 3 and 15)."""

from __future__ import annotations

from typing import Any

import msgspec

from twisted_gateway.errors import StrayFrame
from twisted_gateway.exchange import Call, Headers, Target
from twisted_gateway.formats import openai_body, openai_errors
from twisted_gateway.formats.complaints import OPENAI
from twisted_gateway.formats.openai_chat_decoder import ChatDecoder
from twisted_gateway.formats.openai_chat_encoder import ChatEncoder
from twisted_gateway.formats.openai_chat_prompt import prompt
from twisted_gateway.formats.openai_chat_request import body
from twisted_gateway.formats.openai_chat_texts import TEXTS
from twisted_gateway.formats.openai_chunks import DONE as DONE
from twisted_gateway.formats.openai_chunks import ChunkTube, WholeTube, habits_of, judge, loads
from twisted_gateway.formats.openai_delta import Choice, measured
from twisted_gateway.formats.row import Format, Letters, Passage, Sent
from twisted_gateway.wire.sse import Frame

_encode = msgspec.json.Encoder().encode


class _Asked(msgspec.Struct):
    """The members that every call has."""

    model: str
    messages: list[openai_body.Message]
    stream: bool | None = None


_asked = msgspec.json.Decoder(_Asked).decode


def read_call(body: bytes, headers: Headers) -> Call:
    """The call in a request body; raises `Refused` with the 400s of `streaming.md` section 2."""
    members = openai_body.members(body, headers)
    try:
        asked = _asked(body)
        model, messages, stream = asked.model, asked.messages, asked.stream
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # member by member, to tell which is wrong
        model = openai_body.member(members, "model", str)
        messages = openai_body.member(members, "messages", list[openai_body.Message])
        stream = openai_body.member(members, "stream", bool | None, None) if messages else None
    if not messages:
        openai_body.refuse("messages array must not be empty")
    return Call(
        model=model,
        stream=bool(stream),
        body=body,
        usage_shown=openai_body.usage_shown(members),
        prompt_bytes=openai_body.prompt_bytes(messages, members),
        extra=members,
    )


def sent(call: Call, target: Target, ask_usage: bool) -> Sent:
    """The attempt's request: the caller's own members, `model` replaced, the provider key's edits made."""
    body, asked = openai_body.edited(call, target, ask_usage=ask_usage)
    accept = "text/event-stream" if call.stream else "application/json"
    return Sent("/chat/completions", body, accept, asked)


def unfolded(body: bytes) -> list[Frame]:
    """A whole answer as chunks, for a provider that answered JSON though a stream was asked."""
    try:
        return _unfolded(loads(body))
    except (AttributeError, TypeError, ValueError):
        raise StrayFrame("its choices are not those of a chat completion") from None


def _unfolded(answer: dict[str, Any]) -> list[Frame]:
    whole = {name: value for name, value in answer.items() if name not in ("choices", "usage", "object")}
    begun, ends = [], []
    for choice in answer.get("choices") or []:
        delta = dict(choice.get("message") or {})
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
        rest = {name: value for name, value in choice.items() if name not in ("message", "finish_reason")}
        begun.append({**rest, "delta": delta, "finish_reason": None})
        reason = choice.get("finish_reason") or "stop"
        ends.append({"index": rest.get("index", 0), "delta": {}, "finish_reason": reason})
    chunks = [{**whole, "choices": [choice]} for choice in (*begun, *ends)]
    if answer.get("usage"):
        chunks.append({**whole, "choices": [], "usage": answer["usage"]})
    return [*(Frame(_encode(chunk)) for chunk in chunks), DONE]


class Chunks(ChunkTube):
    """The chunks of one streamed answer."""

    kind = "chat.completion.chunk"
    prefix = "chatcmpl-"
    nothing = {"delta": {}}

    def new_choice(self, begun: bool = False) -> Choice:
        """See `ChunkTube`."""
        return Choice(begun=begun)


class Whole(WholeTube):
    """The one frame of an answer that is not streamed; a missing `usage` is zeros, as the peer has it."""

    adds_usage = True

    def measured(self, choice: dict[str, Any]) -> int:
        """See `WholeTube`."""
        return measured(choice.get("message"))


def passage(call: Call, target: Target, shown: str | None, now: float, letters: Letters) -> Passage:
    """The tube for one answer, streamed or whole."""
    if not call.stream:
        return Whole(shown)
    return Chunks(call, target, shown, now, letters, habits_of(Chunks.kind, call, target, shown))


FORMAT = Format(
    name="openai_chat",
    protocol="openai",
    complaints=OPENAI,
    read_call=read_call,
    sent=sent,
    passage=passage,
    judge=judge,
    unfolded=unfolded,
    error_body=openai_errors.error_body,
    heartbeat=lambda bound: b":\n\n",
    prompt=prompt,
    body=body,
    decoder=ChatDecoder,
    encoder=ChatEncoder,
    texts=TEXTS,
)
