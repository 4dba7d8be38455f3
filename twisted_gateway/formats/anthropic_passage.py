"""Answers of an Anthropic-family provider to a caller of the same dialect: bytes pass, one name is exchanged.

Reference: `streaming.md` 17.1 and 17.3; ends: section 10; errors in mid-stream: 11.2.
"""

from __future__ import annotations

import re
from typing import Any

import attrs
import msgspec

from twisted_gateway.errors import Problem, StrayFrame, undecodable
from twisted_gateway.exchange import Usage
from twisted_gateway.formats import anthropic_errors, bodies
from twisted_gateway.formats.anthropic_usage import Counters, written
from twisted_gateway.formats.learning import Learning
from twisted_gateway.formats.shapes import Shape
from twisted_gateway.wire.series import Batch
from twisted_gateway.wire.sse import Frame, escape_separators

MESSAGE_STOP = Frame(b'{"type":"message_stop"}', b"message_stop")
_NAME = re.compile(r"[\x21-\x7e]+").fullmatch
_MODEL = re.compile(rb'("model"\s*:\s*)("(?:[^"\\]|\\.)*")')
_TEXTS = ("text", "thinking", "partial_json")
_DELTA = re.compile(
    rb'event: content_block_delta\ndata: \{"type":"content_block_delta","index":\d{1,9},"delta":\{"type":'
    rb'"(?:text_delta","text|input_json_delta","partial_json|thinking_delta","thinking)":'
    rb'("[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+")\} *\} *\n\n'
).match
"""A whole frame that brings some text, as Anthropic writes it: nothing in it needs to be understood or changed."""
_NULL = msgspec.Raw(b"null")
_encode = msgspec.json.Encoder().encode


class _Event(msgspec.Struct):
    """What is read of an event that is relayed."""

    type: Any = None
    index: Any = None
    delta: msgspec.Raw = _NULL
    message: msgspec.Raw = _NULL
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL


_decode_event = msgspec.json.Decoder(_Event).decode


class Native(Learning):
    """What both kinds of native answers learn on the way (`row.Learnt`)."""

    held = 0
    passes_overruns = True

    def __init__(self, shown: str | None) -> None:
        self._shown = shown
        self._counters = Counters()

    @property
    def usage(self) -> Usage:
        """Counters reported so far; `prompt` includes cached tokens."""
        return self._counters.usage

    def _learn_message(self, message: dict[str, Any], *, final: bool) -> None:
        self._counters.read(message.get("usage"), final=final)
        given, model = message.get("id"), message.get("model")
        if self.provider_request_id is None and isinstance(given, str) and given:
            self.provider_request_id = given
        if self.provider_model is None and isinstance(model, str) and model:
            self.provider_model = model

    def _learn_reason(self, reason: Any) -> None:
        if self.finish_reason is None and isinstance(reason, str) and reason:
            self.finish_reason = reason


class Events(Native):
    """The events of one streamed answer. Text deltas are not even decoded (`take`); the others are looked into."""

    def __init__(self, shown: str | None) -> None:
        super().__init__(shown)
        self._open: set[Any] = set()
        self._begun = False
        self._stopped = False
        self._latest: bytes | None = None
        """The last read, where that was one text delta."""

    def take(self, data: bytes) -> Batch | None:
        """The text deltas that `data` begins with, as they go out; None when it begins otherwise."""
        if self.ended or self.failure is not None:
            return None
        found = _DELTA(data)
        count = text_bytes = used = 0
        while found is not None:
            count += 1
            text_bytes += bodies.text_bytes(found[1])
            used = found.end()
            found = _DELTA(data, used)
        if not count:
            return None
        self._latest = None
        taken = data[:used]
        if not taken.isascii() and not _is_utf8(taken):
            return None
        self.text_bytes += text_bytes
        if count == 1:
            self._latest = taken
        return Batch(escape_separators(taken), count, count, text_bytes, used)

    @property
    def alike(self) -> Shape | None:
        """See `row.Passage`."""
        found = _DELTA(self._latest) if self._latest is not None else None
        if found is None:
            return None
        head, tail = found.string[: found.start(1) + 1], found.string[found.end(1) - 1 :]
        return Shape.of((head, b"", tail, head, b"", tail))

    def received(self, frames: list[Frame]) -> list[Frame]:
        """The caller's frames for these of the provider; none after the end or an error, whose own frame is given."""
        out: list[Frame] = []
        for frame in frames:
            if self.ended or self.failure is not None:
                break
            try:
                passed = self._passed(frame)
            except StrayFrame as stray:
                self.failure = undecodable(str(stray))
                break
            if passed is not None:
                out.append(passed)
        return out

    def stopped(self, clean: bool) -> list[Frame]:
        """`message_stop`, where a whole answer came without it."""
        if not clean or self._stopped:
            return []
        self._stopped = True
        return [MESSAGE_STOP]

    def ending(self, usage: Usage) -> list[Frame] | None:
        """See `row.Passage`: open blocks closed, the end of a turn."""
        if not self._begun:
            return None
        events: list[dict[str, Any]] = [
            {"type": "content_block_stop", "index": index} for index in sorted(self._open - {None})
        ]
        if self.finish_reason is None:
            delta = {"stop_reason": "end_turn", "stop_sequence": None}
            events.append({"type": "message_delta", "delta": delta, "usage": written(usage, always_input=False)})
        self._open.clear()
        self._stopped = self.ended = self.complete = True
        return [*(Frame(escape_separators(_encode(event)), event["type"].encode()) for event in events), MESSAGE_STOP]

    def _passed(self, frame: Frame) -> Frame | None:
        data = frame.data.strip()
        if data[:1] != b"{":
            self._strange(frame, data)
            return None
        if not data.isascii() and not _is_utf8(data):
            data = data.decode("utf-8", "replace").encode()
            frame = Frame(data, frame.event)
        event = _event(data)
        kind = _kind(event.type, frame.event)
        if kind == "error" or frame.event == b"error" or bytes(event.error) != b"null":
            self.failure = self._error(frame, data, kind)
            if self.failure is not None:
                return _named(frame, data, kind) if self.failure.told else None
        if not kind:
            self.noise += 1
            return None
        frame = self._learn(frame, data, event, kind)
        return _named(frame, frame.data, kind)

    def _strange(self, frame: Frame, data: bytes) -> None:
        """A data event that is no object: noise, unless it is broken JSON or says that it is an error."""
        if frame.event == b"error":
            self.failure = anthropic_errors.in_band({"message": data.decode("utf-8", "replace")}, frame.event)
        elif data[:1] == b"[" and data != b"[DONE]":
            bodies.read(data)
        if data:
            self.noise += 1

    def _error(self, frame: Frame, data: bytes, kind: str) -> Problem | None:
        """An error object; `told` when its own frame is one that Anthropic clients understand."""
        answer, _ = bodies.read(data)
        problem = anthropic_errors.in_band(answer, frame.event)
        if problem is None:
            return None
        error = answer.get("error")
        proper = answer.get("type") == "error" and isinstance(error, dict) and isinstance(error.get("message"), str)
        return attrs.evolve(problem, told=proper and kind == "error" and frame.event in (b"", b"error"))

    def _learn(self, frame: Frame, data: bytes, event: _Event, kind: str) -> Frame:
        """What an event tells us; the frame, with the caller's name for the model where it says one."""
        if kind == "content_block_delta":
            self.text_bytes += _delta_bytes(event.delta)
        elif kind == "content_block_start":
            self._open.add(event.index if isinstance(event.index, int) else None)
        elif kind == "content_block_stop":
            self._open.discard(event.index if isinstance(event.index, int) else None)
        elif kind == "message_start":
            frame = self._start(frame, data, event)
        elif kind == "message_delta":
            self._counters.read(bodies.plain(event.usage), final=True)
            delta = bodies.plain(event.delta)
            self._learn_reason(delta.get("stop_reason") if isinstance(delta, dict) else None)
        elif kind == "message_stop":
            self._stopped = self.ended = self.complete = True
        if not self.ended:
            self.complete = self.finish_reason is not None and not self._open
        return frame

    def _start(self, frame: Frame, data: bytes, event: _Event) -> Frame:
        self._begun = True
        message = bodies.plain(event.message)
        if not isinstance(message, dict):
            return frame
        self._learn_message(message, final=False)
        made = restamped(data, message.get("model"), self._shown)
        if made is data:
            return frame
        if made is None:
            made = _encode({**bodies.read(data)[0], "message": {**message, "model": self._shown}})
        raw = None
        if frame.raw is not None and frame.raw.count(data) == 1:
            raw = frame.raw.replace(data, made)
        return Frame(made, frame.event, raw)


class Whole(Native):
    """The one frame of an answer that is not streamed: name restamped, the rest kept to the byte."""

    def received(self, frames: list[Frame]) -> list[Frame]:
        """The body as the caller gets it."""
        return [self._edited(frame) for frame in frames]

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing: the body is its own end."""
        return []

    def _edited(self, frame: Frame) -> Frame:
        answer, data = bodies.read(frame.data)
        self.complete = self.ended = True
        if not isinstance(answer, dict):
            return Frame(data, b"", data)
        self._learn_message(answer, final=True)
        self._learn_reason(answer.get("stop_reason"))
        content = answer.get("content")
        for block in content if isinstance(content, list) else ():
            self.text_bytes += _block_bytes(block)
        made = restamped(data, answer.get("model"), self._shown)
        if made is None:
            members: dict[str, Any] = dict(bodies.inner_members(data.strip()) or {})
            made = bodies.joined({**members, "model": _encode(self._shown)})
        return Frame(made, b"", made)


class Count(Learning):
    """The answer of count_tokens: `{"input_tokens": n}`, relayed as it is. It uses no tokens."""

    held = 0

    def __init__(self) -> None:
        self.usage = Usage()

    def received(self, frames: list[Frame]) -> list[Frame]:
        """The body, untouched."""
        self.complete = self.ended = True
        return [Frame(frame.data, b"", frame.data) for frame in frames]

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing: the body is its own end."""
        return []


def restamped(data: bytes, model: Any, shown: str | None) -> bytes | None:
    """`data` with its only model's name exchanged; None when that is not to be found, or not once."""
    if shown is None or model == shown:
        return data
    found = _MODEL.findall(data)
    if len(found) != 1 or data.count(b'"model"') != 1 or bodies.plain(found[0][1]) != model:
        return None
    name, old = found[0]
    return data.replace(name + old, name + escape_separators(_encode(shown)))


def _named(frame: Frame, data: bytes, kind: str) -> Frame:
    """The frame as it goes out: with its `event:` line, as it came otherwise."""
    if not frame.event:
        return Frame(escape_separators(data), kind.encode())
    if frame.raw is None or frame.raw.isascii():
        return frame if frame.raw is not None else Frame(escape_separators(frame.data), frame.event)
    return Frame(frame.data, frame.event, escape_separators(frame.raw))


def _kind(given: Any, event: bytes) -> str:
    """What an event is: its own word for it, else its `event:` line's."""
    return given if isinstance(given, str) and _NAME(given) else event.decode("ascii", "ignore")


def _event(data: bytes) -> _Event:
    try:
        return _decode_event(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StrayFrame(str(error)) from None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _delta_bytes(raw: msgspec.Raw) -> int:
    delta = bodies.plain(raw)
    return sum(bodies.size(delta.get(name)) for name in _TEXTS) if isinstance(delta, dict) else 0


def _block_bytes(block: Any) -> int:
    """UTF-8 bytes of text in a block: its words, or its call."""
    if not isinstance(block, dict):
        return 0
    total = bodies.size(block.get("text")) + bodies.size(block.get("thinking"))
    if block.get("type") == "tool_use":
        total += bodies.size(block.get("name")) + len(_encode(block.get("input")))
    return total
