"""Anthropic Messages: `POST /v1/messages` and `/v1/messages/count_tokens` (reference `streaming.md` 17 and 18).

Two rows. Native answers pass in `anthropic_passage`; the other roads are `anthropic_prompt` (a call in neutral
words), `anthropic_request` (a prompt in this dialect's), `anthropic_events` (answers read), `anthropic_writer`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from twisted_gateway.config.resources import Model
from twisted_gateway.errors import Problem, bad_request, undecodable
from twisted_gateway.exchange import Call, Headers, Target
from twisted_gateway.formats import anthropic_errors, bodies
from twisted_gateway.formats.anthropic_events import Decoder, unfolded
from twisted_gateway.formats.anthropic_passage import Count, Events, Whole
from twisted_gateway.formats.anthropic_prompt import prompt
from twisted_gateway.formats.anthropic_request import body as written
from twisted_gateway.formats.anthropic_texts import TEXTS
from twisted_gateway.formats.anthropic_usage import written as written_usage
from twisted_gateway.formats.anthropic_writer import encoder, estimate
from twisted_gateway.formats.complaints import ANTHROPIC, Complaints, anthropic_frame
from twisted_gateway.formats.row import Format, Letters, Passage, Sent
from twisted_gateway.wire.sse import Frame

_NULL = msgspec.Raw(b"null")
_PING = b':\n\nevent: ping\ndata: {"type": "ping"}\n\n'
_COUNTED = frozenset(
    ("messages", "system", "tools", "tool_choice", "thinking", "output_config", "context_management", "mcp_servers")
)
"""Members that change what a count comes to."""
_encode = msgspec.json.Encoder().encode


class _Message(msgspec.Struct):
    """What is read of a message for an estimate."""

    content: msgspec.Raw = _NULL


class _Block(msgspec.Struct):
    """What is read of a block."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    name: str = ""
    input: msgspec.Raw = _NULL
    content: msgspec.Raw = _NULL


def read_call(body: bytes, headers: Headers) -> Call:
    """The call in a request body; raises `Refused` with the 400s of `streaming.md` section 2."""
    return bodies.call(body, headers, _prompt_bytes)


def read_count(body: bytes, headers: Headers) -> Call:
    """The same for count_tokens, which never streams, and of which no tokens are charged."""
    call = read_call(body, headers)
    return Call(model=call.model, stream=False, body=body, extra=call.extra)


def _prompt_bytes(found: bodies.Members) -> int:
    """UTF-8 bytes of the text the model will read, for an estimate (`streaming.md` 14.2)."""
    total = _content_bytes(bytes(found.get("system", _NULL))) + len(bytes(found.get("tools", b"")))
    try:
        messages = msgspec.json.decode(found.get("messages", _NULL), type=list[_Message])
    except (msgspec.DecodeError, RecursionError):
        return total
    return total + sum(_content_bytes(bytes(message.content)) for message in messages)


def _content_bytes(raw: bytes) -> int:
    if raw[:1] == b'"':
        return bodies.text_bytes(raw)
    if raw[:1] != b"[":
        return 0
    try:
        return sum(map(_block_bytes, msgspec.json.decode(raw, type=list[_Block])))
    except (msgspec.DecodeError, RecursionError):
        return len(raw)


def _block_bytes(block: _Block) -> int:
    if block.type in ("image", "document"):
        return bodies.IMAGE_BYTES
    words = bodies.size(block.text) + bodies.size(block.thinking) + bodies.size(block.name)
    called = len(bytes(block.input)) if block.input != _NULL else 0
    return words + called + _content_bytes(bytes(block.content))


def sent(call: Call, target: Target, ask_usage: bool) -> Sent:
    """The attempt's request: the caller's own members, `model` replaced, the provider key's edits made."""
    found = bodies.edit(_with_signed_thinking(call), target)
    return Sent("/messages", bodies.joined(found), "text/event-stream" if call.stream else "application/json")


def sent_count(call: Call, target: Target, ask_usage: bool) -> Sent:
    """The request of a count, less defaults of the provider key that a count does not know: it would be refused."""
    defaults = frozenset(target.model.provider_key.request.default_body_fields or ()) - _COUNTED - call.extra.keys()
    edited = bodies.edit(_with_signed_thinking(call), target)
    found = {name: raw for name, raw in edited.items() if name not in defaults}
    return Sent("/messages/count_tokens", bodies.joined(found), "application/json")


def _with_signed_thinking(call: Call) -> dict[str, Any]:
    """The members, less assistant thinking without a signature: another provider's, which Anthropic refuses (5.4)."""
    found: dict[str, Any] = dict(call.extra)
    raw = found.get("messages")
    if raw is None or b"thinking" not in bytes(raw):
        return found
    try:
        messages = msgspec.json.decode(raw, type=list[bodies.Members])
        cleaned = [_cleaned(message) for message in messages]
    except (msgspec.DecodeError, RecursionError):
        return found  # the provider says what is wrong with it
    if all(kept is message for kept, message in zip(cleaned, messages, strict=True)):
        return found
    return {**found, "messages": _encode([message for message in cleaned if message is not None])}


def _cleaned(message: bodies.Members) -> bodies.Members | None:
    """A message without unsigned thinking: itself where there is none, None where there is nothing else."""
    raw = message.get("content")
    if raw is None or bytes(raw)[:1] != b"[" or bodies.plain(message.get("role")) != "assistant":
        return message
    blocks: list[msgspec.Raw] = msgspec.json.decode(raw, type=list[msgspec.Raw])
    kept = [block for block in blocks if not _is_unsigned(block)]
    if len(kept) == len(blocks):
        return message
    return {**message, "content": msgspec.Raw(_encode(kept))} if kept else None


def _is_unsigned(raw: msgspec.Raw) -> bool:
    block = bodies.inner_members(raw) or {}
    return bodies.plain(block.get("type")) == "thinking" and not bodies.plain(block.get("signature"))


def judge(call: Call, frame: Frame) -> Problem | bool:
    """Whether a first event begins the answer, is noise, or is an error (`streaming.md` 7 and 11.2)."""
    answer = _judged(call, frame)
    if not isinstance(answer, dict):
        return answer
    if call.stream:
        return isinstance(answer.get("type"), str) or bool(frame.event)
    return True if isinstance(answer.get("content"), list) else undecodable("no message in it")


def judge_count(call: Call, frame: Frame) -> Problem | bool:
    """Whether a body is a count."""
    answer = _judged(call, frame)
    if not isinstance(answer, dict):
        return answer
    return True if "input_tokens" in answer else undecodable("no input_tokens in it")


def _judged(call: Call, frame: Frame) -> dict[str, Any] | Problem | bool:
    """The object in a first event, or what it is instead of a good one."""
    data = frame.data.strip()
    answer = bodies.first_object(data, call.stream)
    if answer is False and frame.event == b"error":
        return anthropic_errors.in_band({"message": data.decode("utf-8", "replace")}, frame.event) or False
    if not isinstance(answer, dict):
        return answer
    problem = anthropic_errors.in_band(answer, frame.event)
    return answer if problem is None else anthropic_errors.before_commit(problem)


def passage(call: Call, target: Target, shown: str | None, now: float, letters: Letters) -> Passage:
    """The tube for one native answer, streamed or whole."""
    return Events(shown) if call.stream else Whole(shown)


def count_passage(call: Call, target: Target, shown: str | None, now: float, letters: Letters) -> Passage:
    """The tube for a count."""
    return Count()


def heartbeat(bound: bool) -> bytes:
    """A comment; once the message has begun, a ping for clients that count events too (`streaming.md` 8)."""
    return _PING if bound else b":\n\n"


def decoder(stream: bool, reasoning_field: str | None = None) -> Decoder:
    """Reads answers of this dialect, where reasoning has one name."""
    return Decoder(stream)


def is_native(model: Model, family: str) -> bool:
    """Whether the target speaks Anthropic's dialect (`policy.md` 5.1)."""
    return family == "anthropic"


def refuse_count(model: Model, family: str, bridge: bool) -> Problem | None:
    """Why a target of another dialect cannot count (`streaming.md` 18)."""
    return bad_request(
        f"model `{model.display_name}` is not backed by an Anthropic-protocol upstream;"
        " /v1/messages/count_tokens requires one"
    )


def estimated_count(call: Call, model: Model, family: str) -> bytes | None:
    """A local count where the model says so and its provider cannot (`count_tokens_estimate`)."""
    if family == "anthropic" or not model.count_tokens_estimate:
        return None
    prompt(call)  # what could not be sent is not counted
    found: dict[str, Any] = dict(call.extra)
    return _encode({"input_tokens": max(1, estimate(_prompt_bytes(found)))})


def complaint_frame(problem: Problem) -> Frame:
    """An error in mid-stream, with what was used until then where that is told."""
    if problem.usage is None:
        return anthropic_frame(problem)
    return anthropic_frame(problem, usage=written_usage(problem.usage, always_input=True))


FORMAT = Format(
    name="anthropic",
    protocol="anthropic",
    complaints=Complaints(ANTHROPIC.body, complaint_frame),
    read_call=read_call,
    sent=sent,
    passage=passage,
    judge=judge,
    unfolded=unfolded,
    error_body=anthropic_errors.error_body,
    heartbeat=heartbeat,
    keeps_type=True,
    native=is_native,
    prompt=prompt,
    body=written,
    decoder=decoder,
    encoder=encoder,
    texts=TEXTS,
)

COUNT_TOKENS = Format(
    name="anthropic_count_tokens",
    protocol="anthropic",
    complaints=ANTHROPIC,
    read_call=read_count,
    sent=sent_count,
    passage=count_passage,
    judge=judge_count,
    unfolded=unfolded,
    error_body=anthropic_errors.error_body,
    heartbeat=heartbeat,
    keeps_type=True,
    native=is_native,
    refuse=refuse_count,
    ready=estimated_count,
)
