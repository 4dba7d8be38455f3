"""Writes Anthropic's answers: neutral events to a stream, or to a whole message (`translation.md` 5.3 and 5.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from twisted_gateway.errors import Problem
from twisted_gateway.exchange import Usage
from twisted_gateway.formats import bodies
from twisted_gateway.formats.anthropic_blocks import Blocks, Sink
from twisted_gateway.formats.anthropic_passage import MESSAGE_STOP
from twisted_gateway.formats.anthropic_usage import written
from twisted_gateway.formats.names import full_names
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
    Tool,
)
from twisted_gateway.formats.row import Encoder, Learnt, Told
from twisted_gateway.wire.sse import Frame, escape_separators

BYTES_PER_TOKEN = 4
_REASONS = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_Object = dict[str, Any]
_encode = msgspec.json.Encoder().encode


def encoder(told: Told) -> Encoder:
    """The encoder of one answer: of a stream where one was asked."""
    return StreamWriter(told) if told.call.stream else WholeWriter(told)


def estimate(size: int) -> int:
    """The tokens of a text of `size` UTF-8 bytes: a quarter of it, rounded up (`DESIGN.md` 6, 21)."""
    return -(-size // BYTES_PER_TOKEN)


class _Writer:
    """What both kinds of answers have in common. Of several choices only the first is told."""

    def __init__(self, told: Told, sink: Sink) -> None:
        names = full_names([tool.name for tool in told.prompt.tools if isinstance(tool, Tool)])
        self._told = told
        self._blocks = Blocks(sink, told.fresh, names, strict=told.call.stream)
        thought = told.prompt.thought
        self._shows_thinking = thought is not None and thought.shown
        self._id = ""
        self._refused = False
        self._finished: Finished | None = None
        self._cut = False

    def stopped(self, learnt: Learnt) -> list[Frame]:
        """See `row.Encoder`."""
        raise NotImplementedError

    def ending(self, learnt: Learnt) -> list[Frame]:
        """See `row.Encoder`: the end of a turn, whatever was going on."""
        self._cut = True
        return self.stopped(learnt)

    def complaint(self, problem: Problem) -> list[Frame] | None:
        """The usual error frame; open blocks are not closed."""
        return None

    def _write(self, event: Event) -> None:
        if getattr(event, "choice", 0) == 0:
            _WRITERS[type(event)](self, event)

    def _began(self, event: Began) -> None:
        given = event.id or self._told.letters
        self._id = given if given.startswith("msg_") else f"msg_{given}"

    def _said(self, event: Said) -> None:
        if event.text:
            self._blocks.words("text", event.text)

    def _declined(self, event: Declined) -> None:
        if event.text:
            self._refused = True
            self._blocks.words("text", event.text)

    def _mused(self, event: Mused) -> None:
        if event.text and self._shows_thinking:
            self._blocks.words("thinking", event.text)

    def _signed(self, event: Signed) -> None:
        if self._shows_thinking:
            self._blocks.signed(event.block)

    def _calling(self, event: Calling) -> None:
        self._blocks.calling(event.index, event.id, event.name)

    def _arguments(self, event: Arguments) -> None:
        self._blocks.arguments(event.index, event.text)

    def _called(self, event: Called) -> None:
        self._blocks.called(event.index)

    def _finish(self, event: Finished) -> None:
        self._finished = self._finished or event
        self._blocks.finish()

    def _nothing(self, event: Event) -> None:
        """Told at the end, from what was learnt."""

    def _message_id(self) -> str:
        if not self._id:
            self._began(Began())
        return self._id

    def _last_blocks(self) -> None:
        """What waited; an answer that says nothing has one empty text."""
        self._blocks.finish()
        if not self._blocks.written:
            self._blocks.words("text", "")
            self._blocks.finish()

    def _stop(self) -> tuple[str, str | None]:
        """`stop_reason` and `stop_sequence`."""
        finished = self._finished
        reason = finished.reason if finished is not None else "stop"
        if finished is None and self._cut:
            return "end_turn", None
        if self._refused or reason == "content_filter":
            return "refusal", None
        if reason != "stop":
            return _REASONS.get(reason, "end_turn"), None
        if self._blocks.has_calls:
            return "tool_use", None
        matched = finished.stop_sequence if finished is not None else None
        if matched is not None and matched in self._told.prompt.stop:
            return "stop_sequence", matched
        return "end_turn", None


_WRITERS: dict[type[Any], Callable[[_Writer, Any], None]] = {
    Began: _Writer._began,
    Said: _Writer._said,
    Declined: _Writer._declined,
    Mused: _Writer._mused,
    Signed: _Writer._signed,
    Calling: _Writer._calling,
    Arguments: _Writer._arguments,
    Called: _Writer._called,
    Finished: _Writer._finish,
    Counted: _Writer._nothing,
    Ended: _Writer._nothing,
}


class _Frames:
    """Blocks as frames, numbered."""

    def __init__(self) -> None:
        self._made: list[Frame] = []
        self._index = 0
        self._heads: dict[str, bytes] = {}
        self.shown_bytes = 0

    def say(self, event: _Object) -> None:
        """Any event."""
        self._made.append(Frame(_dump(event), event["type"].encode()))

    def start(self, block: _Object) -> None:
        self._heads.clear()
        self.shown_bytes += bodies.size(block.get("name"))
        self.say({"type": "content_block_start", "index": self._index, "content_block": block})

    def delta(self, kind: str, text: str) -> None:
        """One of many that differ in their text alone: the JSON before it is made once for a block."""
        if kind != "signature":
            self.shown_bytes += bodies.size(text)
        head = self._heads.get(kind)
        if head is None:
            name = "partial_json" if kind == "input_json" else kind
            start = {"type": "content_block_delta", "index": self._index, "delta": {"type": f"{kind}_delta", name: ""}}
            head = self._heads[kind] = _encode(start)[:-4]
        self._made.append(Frame(head + _dump(text) + b"}}", b"content_block_delta"))

    def stop(self) -> None:
        self.say({"type": "content_block_stop", "index": self._index})
        self._index += 1

    def taken(self) -> list[Frame]:
        """What was written since this was asked last."""
        made, self._made = self._made, []
        return made


class StreamWriter(_Writer):
    """Machine B: a legal event stream, whatever the order of the events (`row.Encoder`)."""

    def __init__(self, told: Told) -> None:
        self._frames = _Frames()
        super().__init__(told, self._frames)
        self._started = False

    @property
    def shown_bytes(self) -> int:
        """See `row.Encoder`."""
        return self._frames.shown_bytes

    def passed(self, text_bytes: int) -> None:
        """See `row.Encoder`."""
        self._frames.shown_bytes += text_bytes

    def received(self, events: Sequence[Event], learnt: Learnt) -> list[Frame]:
        """The frames of these events; the first event of any kind starts the message."""
        for event in events:
            if not self._started:
                if isinstance(event, Began):
                    self._began(event)
                self._start()
            self._write(event)
        return self._frames.taken()

    def stopped(self, learnt: Learnt) -> list[Frame]:
        """What waited, the usage, and the end."""
        if not self._started:
            self._start()
        self._last_blocks()
        reason, sequence = self._stop()
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        usage = written(learnt.usage, always_input=False)
        self._frames.say({"type": "message_delta", "delta": delta, "usage": usage})
        return [*self._frames.taken(), MESSAGE_STOP]

    def _start(self) -> None:
        self._started = True
        told = self._told
        tokens = estimate(told.call.prompt_bytes) if told.target.model.estimate_message_start else 0
        message = _message(self._message_id(), told.shown, [], None, None)
        message["usage"] = {"input_tokens": tokens, "output_tokens": 0}
        self._frames.say({"type": "message_start", "message": message})


class _Content:
    """Blocks as the content of a whole message."""

    def __init__(self) -> None:
        self.blocks: list[_Object] = []
        self._pieces: dict[str, list[str]] = {}

    def start(self, block: _Object) -> None:
        self.blocks.append(block)
        self._pieces = {}

    def delta(self, kind: str, text: str) -> None:
        self._pieces.setdefault(kind, []).append(text)

    def stop(self) -> None:
        block = self.blocks[-1]
        for kind, pieces in self._pieces.items():
            if kind == "input_json":
                block["input"] = _input("".join(pieces))
            else:
                block[kind] = "".join(pieces)


class WholeWriter(_Writer):
    """A whole message, given at the end (`row.Encoder`)."""

    def __init__(self, told: Told) -> None:
        self._content = _Content()
        super().__init__(told, self._content)

    def received(self, events: Sequence[Event], learnt: Learnt) -> list[Frame]:
        """Nothing yet."""
        for event in events:
            self._write(event)
        return []

    def stopped(self, learnt: Learnt) -> list[Frame]:
        """The message, as one frame."""
        self._last_blocks()
        message = _message(self._message_id(), self._told.shown, self._content.blocks, *self._stop())
        message["usage"] = _whole_usage(learnt.usage)
        data = _dump(message)
        return [Frame(data, b"", data)]


def _message(given: str, model: str, content: list[_Object], reason: str | None, sequence: str | None) -> _Object:
    return {
        "id": given,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
    }


def _whole_usage(usage: Usage) -> _Object:
    return written(usage, always_input=True)


def _input(text: str) -> Any:
    """A call's arguments as JSON, number for number; `{}` for what is none."""
    raw = text.encode("utf-8", "replace")
    return {} if bodies.plain(raw) is None else msgspec.Raw(raw.strip())


def _dump(value: Any) -> bytes:
    return escape_separators(_encode(value))
