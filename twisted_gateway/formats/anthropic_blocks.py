"""Content blocks out of neutral events: strictly one after the other, whatever the order of the events.

The switching of blocks in machine B (`translation.md` 5.4). A stream and a whole message are written by the same
`Blocks` into different sinks, so both have the same content.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from twisted_gateway.errors import StrayFrame
from twisted_gateway.facts import define

_MARKS = re.compile(r'[\\"{}\[\]]')
_Object = dict[str, Any]


class Sink(Protocol):
    """Where blocks are written: `start`, any number of `delta`s, `stop`, and then the next one."""

    def start(self, block: _Object) -> None:
        """A block begins, empty."""

    def delta(self, kind: str, text: str) -> None:
        """More of it: `text`, `thinking`, `signature` or `input_json`."""

    def stop(self) -> None:
        """It is whole."""


class Gauge:
    """Tells when the JSON value in pieces of text is closed, by counting brackets and quotes."""

    __slots__ = ("_depth", "_escaped", "_quoted", "begun", "closed")

    def __init__(self) -> None:
        self.begun = False
        self.closed = False
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def feed(self, text: str) -> bool:
        """Count one piece; False when something follows behind the end of the value."""
        self.begun = self.begun or not text.isspace()
        if self.closed:
            return not text.strip()
        skipped = 0 if self._escaped else -1
        self._escaped = False
        for found in _MARKS.finditer(text):
            at, mark = found.start(), found[0]
            if at == skipped:
                continue
            if self._quoted:
                if mark == "\\":
                    skipped = at + 1
                    self._escaped = skipped == len(text)
                self._quoted = mark != '"'
            elif mark == '"':
                self._quoted = True
            elif mark != "\\":
                self._depth += 1 if mark in "{[" else -1
            if mark in '"}]' and not self._quoted and self._depth <= 0:
                self.closed = True
                return not text[at + 1 :].strip()
        return True


@define(eq=False)
class _Words:
    """Text or reasoning that waits for its turn."""

    kind: str
    pieces: list[str]


@define(eq=False)
class _Call:
    """A tool call. `pieces` are the arguments that came before it could be opened."""

    id: str = ""
    name: str = ""
    pieces: list[str] = attrs.field(factory=list)
    gauge: Gauge = attrs.field(factory=Gauge)
    whole: bool = False
    queued: bool = False
    started: bool = False
    stopped: bool = False

    @property
    def complete(self) -> bool:
        """Nothing more belongs to it."""
        return self.whole or self.gauge.closed


class Blocks:
    """One block is open at a time; what must wait for a call's arguments is queued in the order of its arrival.

    `strict` ends the answer (`StrayFrame`) when arguments come for a call that was closed; else they are left out.
    """

    def __init__(self, sink: Sink, fresh: Callable[[], str], names: Mapping[str, str], *, strict: bool) -> None:
        self._sink = sink
        self._fresh = fresh
        self._names = names
        self._strict = strict
        self._open: str | _Call | None = None
        self._queue: deque[_Words | _Call] = deque()
        self._calls: dict[int, _Call] = {}
        self.written = False
        """Some block was."""
        self.has_calls = False
        """Some call was."""

    def words(self, kind: str, text: str) -> None:
        """More `text` or `thinking`."""
        if kind == self._open:
            self._sink.delta(kind, text)
        elif not self._is_busy():
            self._start_words(kind)
            self._sink.delta(kind, text)
        else:
            last = self._queue[-1] if self._queue else None
            if isinstance(last, _Words) and last.kind == kind:
                last.pieces.append(text)
            else:
                self._queue.append(_Words(kind, [text]))

    def signed(self, block: Mapping[str, Any]) -> None:
        """Reasoning was signed: the block that is open; or it is a block of its own that shows nothing."""
        if block.get("type") == "redacted_thinking":
            if not self._is_busy():
                self._start(None, dict(block))
                self._sink.stop()
        elif self._open == "thinking":
            self._sink.delta("signature", str(block.get("signature") or ""))
            self._stop()

    def calling(self, index: int, given: str, name: str) -> None:
        """A call's id and name are known, or one of them."""
        call = self._calls.setdefault(index, _Call())
        if call.started:
            return
        call.id, call.name = given or call.id, name or call.name
        if not call.name or call.queued:
            return
        if self._is_busy():
            call.queued = True
            self._queue.append(call)
        else:
            self._start_call(call)

    def arguments(self, index: int, text: str) -> None:
        """More of a call's arguments; `null` says that there are none."""
        call = self._calls.setdefault(index, _Call())
        if not text or (not call.gauge.begun and text.strip() == "null"):
            return
        if call.stopped:
            self._late(text)
            return
        if not call.gauge.feed(text):
            self._late(text)
        if call is not self._open:
            call.pieces.append(text)
            return
        self._sink.delta("input_json", text)
        self._play()

    def called(self, index: int) -> None:
        """A call's arguments are whole."""
        call = self._calls.get(index)
        if call is not None:
            call.whole = True
            self._play()

    def finish(self) -> None:
        """Nothing more will come: whatever waited, in its order."""
        while self._queue:
            self._next()
        self._stop()

    def _is_busy(self) -> bool:
        return isinstance(self._open, _Call) and not self._open.complete

    def _play(self) -> None:
        while self._queue and not self._is_busy():
            self._next()

    def _next(self) -> None:
        item = self._queue.popleft()
        if isinstance(item, _Call):
            self._start_call(item)
        else:
            self._start_words(item.kind)
            self._sink.delta(item.kind, "".join(item.pieces))

    def _start_words(self, kind: str) -> None:
        if kind == self._open:
            return
        more = {"signature": ""} if kind == "thinking" else {}
        self._start(kind, {"type": kind, kind: "", **more})

    def _start_call(self, call: _Call) -> None:
        given = call.id or f"toolu_{self._fresh()[:24]}"
        name = self._names.get(call.name, call.name)
        self._start(call, {"type": "tool_use", "id": given, "name": name, "input": {}})
        self.has_calls = call.started = True
        if call.pieces:
            self._sink.delta("input_json", "".join(call.pieces))
            call.pieces.clear()

    def _start(self, what: str | _Call | None, block: _Object) -> None:
        self._stop()
        self._sink.start(block)
        self._open = what
        self.written = True

    def _stop(self) -> None:
        if isinstance(self._open, _Call):
            self._open.stopped = True
        if self._open is not None:
            self._open = None
            self._sink.stop()

    def _late(self, text: str) -> None:
        if self._strict and text.strip():
            raise StrayFrame("arguments for a tool call that was whole")
