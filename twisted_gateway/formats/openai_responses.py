"""OpenAI Responses: `POST /v1/responses` (reference `streaming.md` section 19; bridged: `translation.md` section 7)."""

from __future__ import annotations

import re
from typing import Any

import attrs
import msgspec

from twisted_gateway.config.resources import Model
from twisted_gateway.errors import Problem, StrayFrame, bad_request, undecodable
from twisted_gateway.exchange import Call, Headers, Target, Usage
from twisted_gateway.formats import bodies, openai_body, openai_errors
from twisted_gateway.formats.complaints import OPENAI, Complaints
from twisted_gateway.formats.learning import Learning
from twisted_gateway.formats.openai_responses_encoder import ResponsesEncoder
from twisted_gateway.formats.openai_responses_events import STOPPED, dump, error_frame, read_usage, usage_object
from twisted_gateway.formats.openai_responses_kept import Kept
from twisted_gateway.formats.openai_responses_prompt import prompt
from twisted_gateway.formats.openai_responses_texts import TEXTS
from twisted_gateway.formats.openai_responses_unfold import unfolded
from twisted_gateway.formats.row import Format, Letters, Passage, Sent
from twisted_gateway.wire.sse import Frame, escape_separators

_NULL = msgspec.Raw(b"null")
_TERMINAL = {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
_NAME = re.compile(r"[\x21-\x7e]+").fullmatch


class _Item(msgspec.Struct):
    """What is read of an input item for an estimate."""

    content: msgspec.Raw = _NULL
    output: msgspec.Raw = _NULL
    arguments: msgspec.Raw = _NULL


class _Event(msgspec.Struct):
    """What is read of an event that is relayed."""

    type: Any = None
    sequence_number: Any = None
    delta: msgspec.Raw = _NULL
    error: Any = None
    response: msgspec.Raw = _NULL
    output_index: Any = None
    content_index: Any = None
    summary_index: Any = None


class _Response(msgspec.Struct):
    """What is read of a response object; its `output` is skipped."""

    id: Any = None
    model: Any = None
    status: Any = None
    incomplete_details: Any = None
    usage: Any = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_response = msgspec.json.Decoder(_Response).decode


def read_call(body: bytes, headers: Headers) -> Call:
    """The call in a request body; raises `Refused` with the 400s of `streaming.md` section 2."""
    return bodies.call(body, headers, _prompt_bytes)


def _prompt_bytes(found: bodies.Members) -> int:
    """UTF-8 bytes of the text the model will read, for an estimate (`streaming.md` 14.2)."""
    read = [found.get("instructions", _NULL)]
    given = found.get("input", _NULL)
    try:
        items = msgspec.json.decode(given, type=list[_Item])
    except (msgspec.DecodeError, RecursionError):
        read.append(given)
    else:
        read += [raw for item in items for raw in (item.content, item.output, item.arguments)]
    return openai_body.prompt_bytes([openai_body.Message("", raw) for raw in read], found)


def sent(call: Call, target: Target, ask_usage: bool) -> Sent:
    """The attempt's request: the caller's own members, `model` replaced, the provider key's edits made.

    Usage comes unasked in this dialect.
    """
    body, _ = openai_body.edited(call, target, ask_usage=False)
    return Sent("/responses", body, "text/event-stream" if call.stream else "application/json")


def judge(call: Call, frame: Frame) -> Problem | bool:
    """Whether a first event begins the answer, is noise, or is an error (`streaming.md` 7 and 11.2)."""
    answer = bodies.first_object(frame.data.strip(), call.stream)
    if not isinstance(answer, dict):
        return answer
    facts = _error_facts(answer)
    problem = openai_errors.in_band(facts)
    if problem is not None:
        return openai_errors.before_commit(problem)
    if call.stream:
        return isinstance(answer.get("type"), str) or bool(frame.event) or _is_response(answer)
    return True if _is_response(answer) else undecodable("no response in it")


def _is_response(answer: dict[str, Any]) -> bool:
    return answer.get("object") == "response" or isinstance(answer.get("output"), list)


def _error_facts(answer: dict[str, Any]) -> dict[str, Any]:
    """An error as `openai_errors` reads it, `{"error": ...}`; empty when there is none.

    It stands in `error`, flat in an event of type `error`, or in the response of a `response.failed`.
    """
    if answer.get("error"):
        return {"error": answer["error"]}
    if answer.get("type") == "error":
        return {"error": {name: value for name, value in answer.items() if name not in ("type", "error")} or "error"}
    if answer.get("type") == "response.failed":
        response = answer.get("response")
        given = response.get("error") if isinstance(response, dict) else None
        return {"error": given or {"message": "the provider could not complete the response"}}
    return {}


class Events(Learning):
    """The events of one streamed answer, relayed byte for byte (`streaming.md` 19.2).

    Nothing is edited but what section 6 of that reference asks: an `event:` line that names the type, separators
    escaped. An error event is relayed as it is, and so is what follows it; when the answer then ends, however it
    does, `failure` is that error, marked as told.
    """

    held = 0
    passes_overruns = True

    def __init__(self) -> None:
        self.usage = Usage()
        self._number = -1
        self._told: Problem | None = None
        self._kept = Kept()

    def received(self, frames: list[Frame]) -> list[Frame]:
        """The caller's frames for these of the provider; none after a terminal event."""
        out: list[Frame] = []
        for frame in frames:
            if self.ended or self.failure is not None:
                break
            try:
                relayed = self._relayed(frame)
            except StrayFrame as stray:  # the frames before it are good
                self.failure = undecodable(str(stray)) if self._told is None else self._told
                break
            if relayed is not None:
                out.append(relayed)
        return out

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing: the terminal event was the end. An end without one has the reason that was told, if any."""
        if not clean and self.failure is None:
            self.failure = self._told
        return []

    def complaint(self, problem: Problem) -> list[Frame]:
        """Our own error event, with the next number; nothing when the provider's was relayed (`streaming.md` 11.3)."""
        if self._told is not None and problem.kind != "content_filter":  # a guardrail has kept the provider's back
            self.failure = self._told
            return []
        self._number += 1
        return [error_frame(problem, self._number)]

    def ending(self, usage: Usage) -> list[Frame] | None:
        """See `row.Passage`: open items ended, then `response.incomplete`."""
        if not self._kept.begun:
            return None
        frames = []
        for kind, members in self._kept.ended(STOPPED, usage_object(usage)):
            self._number += 1
            event = {"type": kind, "sequence_number": self._number, **members}
            frames.append(Frame(dump(event), kind.encode()))
        self.ended = self.complete = True
        return frames

    def _relayed(self, frame: Frame) -> Frame | None:
        data = frame.data.strip()
        if data[:1] != b"{":
            if data[:1] == b"[" and data != b"[DONE]":
                bodies.read(data)
            self.noise += data not in (b"", b"[DONE]")
            return None
        frame, event = _read(frame)
        kind = event.type if isinstance(event.type, str) and _NAME(event.type) else ""
        if not kind and not frame.event and not event.error:
            self.noise += 1
            return None
        self._learn(kind or frame.event.decode("ascii", "replace"), event, data)
        return _named(frame, kind.encode())

    def _learn(self, kind: str, event: _Event, data: bytes) -> None:
        number = event.sequence_number
        counted = isinstance(number, int) and not isinstance(number, bool)
        self._number = number if counted else self._number + 1
        if kind.endswith(".delta"):
            text = bytes(event.delta)
            if text[:1] == b'"' and kind != "response.audio.delta":
                self.text_bytes += bodies.text_bytes(text)
                place = event.content_index if event.summary_index is None else event.summary_index
                self._kept.delta(kind, event.output_index, place, text)
            return
        if kind == "error" or event.error:
            self._complained(bodies.read(data)[0])
        elif kind in _TERMINAL:
            self._ended(kind, event)
        else:
            self._kept.event(kind, event.output_index, data)
            if self.provider_request_id is None:
                self._read_response(event.response)

    def _complained(self, answer: dict[str, Any]) -> None:
        problem = openai_errors.in_band(_error_facts(answer)) or openai_errors.in_band({"error": "error"})
        if problem is not None and self._told is None:
            self._told = attrs.evolve(problem, told=True)

    def _ended(self, kind: str, event: _Event) -> None:
        self.ended = self.complete = True
        response = self._read_response(event.response)
        self.finish_reason = _finish_reason(response) or kind.removeprefix("response.")
        if kind == "response.failed" and self._told is None:
            self._complained({"type": kind, "response": {"error": response.error}})
        self.failure = self._told

    def _read_response(self, raw: msgspec.Raw) -> _Response:
        response = _response(bytes(raw))
        read_usage(self.usage, response.usage)
        if isinstance(response.id, str) and response.id:
            self.provider_request_id = response.id
        if isinstance(response.model, str) and response.model:
            self.provider_model = response.model
        return response


class Whole(Learning):
    """The one frame of an answer that is not streamed: relayed as it came."""

    held = 0

    def __init__(self) -> None:
        self.usage = Usage()

    def received(self, frames: list[Frame]) -> list[Frame]:
        """The body as it came."""
        for frame in frames:
            self._learn(bodies.read(frame.data)[0])
        return frames

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing: the body is its own end."""
        return []

    def _learn(self, answer: dict[str, Any]) -> None:
        self.complete = self.ended = True
        read_usage(self.usage, answer.get("usage"))
        given, model = answer.get("id"), answer.get("model")
        self.provider_request_id = given if isinstance(given, str) else None
        self.provider_model = model if isinstance(model, str) else None
        self.finish_reason = _finish_reason(
            _Response(status=answer.get("status"), incomplete_details=answer.get("incomplete_details"))
        )
        output = answer.get("output")
        self.text_bytes = sum(map(_measured, output)) if isinstance(output, list) else 0


def _read(frame: Frame) -> tuple[Frame, _Event]:
    """An event, and its frame: broken UTF-8 is replaced in it, halves of surrogate pairs are left to the caller."""
    data = frame.data
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            data = data.decode("utf-8", "replace").encode()
            frame = Frame(data, frame.event)
    try:
        return frame, _decode_event(data)
    except (msgspec.DecodeError, RecursionError):
        _, data = bodies.read(data)
        return frame, _decode_event(data)


def _named(frame: Frame, name: bytes) -> Frame:
    """The frame with an `event:` line that says its type; its own bytes wherever they may stay (`streaming.md` 6)."""
    raw = frame.raw
    if name and frame.event != name:
        return Frame(escape_separators(frame.data), name)
    if raw is None or raw.isascii() or escape_separators(raw) is raw:
        return frame
    return Frame(escape_separators(frame.data), frame.event)


def _response(raw: bytes) -> _Response:
    if raw[:1] != b"{":
        return _Response()
    try:
        return _decode_response(raw)
    except (msgspec.DecodeError, RecursionError):
        return _decode_response(bodies.read(raw)[1])


def _finish_reason(response: _Response) -> str | None:
    """Why it is incomplete, or its status."""
    details = response.incomplete_details
    reason = details.get("reason") if isinstance(details, dict) else None
    found = reason or response.status
    return found if isinstance(found, str) and found else None


def _measured(value: Any) -> int:
    """UTF-8 bytes of all text in an output item."""
    if isinstance(value, list):
        return sum(map(_measured, value))
    if not isinstance(value, dict):
        return 0
    inner = sum(_measured(value.get(name)) for name in ("content", "summary"))
    return inner + sum(bodies.size(value.get(name)) for name in ("text", "refusal", "arguments", "input"))


def passage(call: Call, target: Target, shown: str | None, now: float, letters: Letters) -> Passage:
    """The tube for one answer, streamed or whole. The model's name stays the provider's (`streaming.md` 19.2)."""
    return Events() if call.stream else Whole()


def refuse(model: Model, family: str, bridge: bool) -> Problem | None:
    """The 400 for a target that is not OpenAI's, unless the bridge is on (`streaming.md` 19.1)."""
    if bridge:
        return None
    return bad_request(
        f"model `{model.display_name}` is not an OpenAI provider; /v1/responses supports only openai providers"
    )


FORMAT = Format(
    name="openai_responses",
    protocol="openai",
    complaints=Complaints(OPENAI.body, lambda problem: error_frame(problem, 0)),
    read_call=read_call,
    sent=sent,
    passage=passage,
    judge=judge,
    unfolded=unfolded,
    error_body=openai_errors.error_body,
    heartbeat=lambda bound: b":\n\n",
    keeps_type=True,
    native=lambda model, family: model.provider == "openai",
    refuse=refuse,
    prompt=prompt,
    encoder=ResponsesEncoder,
    texts=TEXTS,
)
