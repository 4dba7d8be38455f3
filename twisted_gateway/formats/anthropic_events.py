"""Reads Anthropic's answers: events, or a whole message, to neutral events (`translation.md` sections 3 and 4).

A whole message is read as the events that would have streamed it, so both ways say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import msgspec

from twisted_gateway.errors import StrayFrame
from twisted_gateway.exchange import Usage
from twisted_gateway.facts import define
from twisted_gateway.formats import anthropic_errors, bodies
from twisted_gateway.formats.anthropic_usage import Counters
from twisted_gateway.formats.learning import Learning
from twisted_gateway.formats.neutral import (
    Arguments,
    Began,
    Called,
    Calling,
    Counted,
    Declined,
    Ended,
    Event,
    Finished,
    Mused,
    Said,
    Signed,
)
from twisted_gateway.wire.sse import Frame, escape_separators

STRUCTURED = "structured_output__json"
"""The tool that stands for a structured answer, where the model has `json_schema_via_tool` (`translation.md` 2.5)."""

_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_EMPTIED = {"text": "text", "thinking": "thinking"}
_Object = dict[str, Any]
_encode = msgspec.json.Encoder().encode


@define
class _Block:
    """A block on its way. `tool` is its number among the calls, None where it is none that is shown."""

    kind: str
    start: Mapping[str, Any]
    tool: int | None = None
    seen: bool = False
    """Arguments have come."""
    text: list[str] = attrs.field(factory=list)
    signature: str = ""


class Decoder(Learning):
    """One answer, streamed or whole (`row.Decoder`)."""

    def __init__(self, stream: bool) -> None:
        self._stream = stream
        self._counters = Counters()
        self._began = False
        self._finished = False
        self._blocks: dict[Any, _Block] = {}
        self._open: set[Any] = set()
        self._tools = 0
        self._structured = False

    @property
    def usage(self) -> Usage:
        """Counters reported so far; `prompt` includes cached tokens."""
        return self._counters.usage

    def received(self, frames: list[Frame]) -> list[Event]:
        """The events of these frames; raises `StrayFrame` for broken JSON."""
        events: list[Event] = []
        for frame in frames:
            if self.ended or self.failure is not None:
                break
            for one in self._objects(frame):
                events += self._read(one)
        return events

    def passed(self, text_bytes: int) -> None:
        """See `row.Decoder`."""
        self.text_bytes += text_bytes

    def stopped(self) -> list[Event]:
        """What an answer without its end marker leaves to say."""
        return [] if self.ended else self._end()

    def _objects(self, frame: Frame) -> Iterator[_Object]:
        data = frame.data.strip()
        if data[:1] != b"{":
            if data[:1] == b"[" and data != b"[DONE]":
                bodies.read(data)
            self.noise += 1 if data else 0
            return
        found, _ = bodies.read(data)
        problem = anthropic_errors.in_band(found, frame.event)
        if problem is not None:
            self.failure = problem
        elif self._stream and found.get("type") != "message":
            yield found if found.get("type") else {**found, "type": frame.event.decode("ascii", "ignore")}
        else:
            yield from events_of(found)

    def _read(self, event: _Object) -> list[Event]:
        kind = event.get("type")
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if read is None:
            self.noise += 1 if not kind else 0
            return []
        made = read(self, event)
        if not self.ended:
            self.complete = self._finished and not self._open
        return made

    def _message_start(self, event: _Object) -> list[Event]:
        message = event.get("message")
        if not isinstance(message, dict):
            message = {}
        self._counters.read(message.get("usage"), final=False)
        if self._began:
            return []
        self._began = True
        given, model = _text(message.get("id")), _text(message.get("model"))
        self.provider_request_id, self.provider_model = given or None, model or None
        return [Began(given, model)]

    def _block_start(self, event: _Object) -> list[Event]:
        start = event.get("content_block")
        start = start if isinstance(start, dict) else {}
        index, kind = _index(event), _text(start.get("type"))
        block = self._blocks[index] = _Block(kind, start)
        self._open.add(index)
        if kind == "tool_use":
            return self._tool(block, start)
        if kind == "thinking":
            block.signature = _text(start.get("signature"))
        return self._words(block, _text(start.get(kind))) if kind in ("text", "thinking") else []

    def _tool(self, block: _Block, start: _Object) -> list[Event]:
        name = _text(start.get("name"))
        if name == STRUCTURED:
            block.kind, self._structured = "structured", True
            return []
        block.tool = self._tools
        self._tools += 1
        self.text_bytes += bodies.size(name)
        return [Calling(block.tool, _text(start.get("id")), name)]

    def _delta(self, event: _Object) -> list[Event]:
        delta = event.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        kind = delta.get("type")
        block = self._blocks.get(_index(event))
        if block is None:  # never started: its text is said all the same
            return self._words(_Block("text", {}), _text(delta.get("text"))) if kind == "text_delta" else []
        if kind == "text_delta" and block.kind == "text":
            return self._words(block, _text(delta.get("text")))
        if kind == "input_json_delta":
            return self._arguments(block, _text(delta.get("partial_json")))
        if kind == "thinking_delta" and block.kind == "thinking":
            return self._words(block, _text(delta.get("thinking")))
        if kind == "signature_delta":
            block.signature += _text(delta.get("signature"))
        return []

    def _words(self, block: _Block, text: str) -> list[Event]:
        if not text:
            return []
        self.text_bytes += bodies.size(text)
        if block.kind != "thinking":
            return [Said(text)]
        block.text.append(text)
        return [Mused(text)]

    def _arguments(self, block: _Block, text: str) -> list[Event]:
        if not text or (block.tool is None and block.kind != "structured"):
            return []
        block.seen = True
        self.text_bytes += bodies.size(text)
        return [Said(text)] if block.tool is None else [Arguments(block.tool, text)]

    def _block_stop(self, event: _Object) -> list[Event]:
        index = _index(event)
        block = self._blocks.get(index)
        if block is None or index not in self._open:
            return []
        self._open.discard(index)
        if block.kind == "redacted_thinking":
            return [Signed(block.start)]
        if block.kind == "thinking":
            whole = {**block.start, "thinking": "".join(block.text), "signature": block.signature}
            return [Signed(whole)] if block.signature else []
        made: list[Event] = []
        if not block.seen:
            made += self._arguments(block, _json(block.start.get("input")))
        return made if block.tool is None else [*made, Called(block.tool)]

    def _message_delta(self, event: _Object) -> list[Event]:
        made: list[Event] = []
        if self._counters.read(event.get("usage"), final=True):
            made.append(Counted())
        delta = event.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        if isinstance(delta, dict) and isinstance(reason, str) and reason and not self._finished:
            made += self._finish(reason, delta)
        return made

    def _finish(self, reason: str, delta: _Object) -> list[Event]:
        self._finished = True
        self.finish_reason = reason
        meant = _REASONS.get(reason, "stop")
        if meant == "tool_calls" and self._structured and not self._tools:
            meant = "stop"
        made: list[Event] = []
        details = delta.get("stop_details")
        if reason == "refusal" and isinstance(details, dict):
            text = _text(details.get("explanation"))
            self.text_bytes += bodies.size(text)
            made += [Declined(text)] if text else []
        stop = delta.get("stop_sequence")
        return [*made, Finished(meant, stop if isinstance(stop, str) else None, reason)]

    def _message_stop(self, event: _Object) -> list[Event]:
        self.ended = self.complete = True
        return [*self._end(), Ended()]

    def _end(self) -> list[Event]:
        if self._finished:
            return []
        self._finished = True
        return [Finished("stop")]


_READERS = {
    "message_start": Decoder._message_start,
    "content_block_start": Decoder._block_start,
    "content_block_delta": Decoder._delta,
    "content_block_stop": Decoder._block_stop,
    "message_delta": Decoder._message_delta,
    "message_stop": Decoder._message_stop,
}


def unfolded(body: bytes) -> list[Frame]:
    """A whole message as the frames of a stream, for a provider that answered JSON though a stream was asked."""
    message, _ = bodies.read(body)
    if not isinstance(message, dict):
        raise StrayFrame("not a message")
    return [Frame(escape_separators(_encode(event)), event["type"].encode()) for event in events_of(message)]


def events_of(message: _Object) -> Iterator[_Object]:
    """The events that would have streamed a whole message. Raises `StrayFrame` where it is none."""
    content = message.get("content")
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise StrayFrame("no content in it")
    usage = message.get("usage")
    end = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    if message.get("stop_details") is not None:
        end["stop_details"] = message["stop_details"]
    yield {"type": "message_start", "message": {**message, "content": [], **dict.fromkeys(end)}}
    for index, block in enumerate(content):
        yield from _events_of_block(index, block)
    yield {"type": "message_delta", "delta": end, "usage": usage if isinstance(usage, dict) else {"output_tokens": 0}}
    yield {"type": "message_stop"}


def _events_of_block(index: int, block: _Object) -> Iterator[_Object]:
    start, deltas = _taken_apart(block)
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _taken_apart(block: _Object) -> tuple[_Object, list[_Object]]:
    """A block as it starts, and what is added to it; a kind that nobody knows starts whole."""
    kind = _text(block.get("type"))
    if kind in _EMPTIED:
        deltas: list[_Object] = [{"type": f"{kind}_delta", kind: block.get(kind) or ""}]
        start = {**block, kind: ""}
        if kind == "thinking":
            deltas.append({"type": "signature_delta", "signature": block.get("signature") or ""})
            start["signature"] = ""
        citations = block.get("citations")
        if isinstance(citations, list) and citations:
            start["citations"] = []
            deltas += [{"type": "citations_delta", "citation": citation} for citation in citations]
        return start, deltas
    if kind in ("tool_use", "server_tool_use", "mcp_tool_use") and isinstance(block.get("input"), dict):
        text = _encode(block["input"]).decode()
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": text}]
    return block, []


def _json(value: Any) -> str:
    return "{}" if value is None else _encode(value).decode()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _index(event: _Object) -> Any:
    index = event.get("index")
    return index if isinstance(index, int) else None
