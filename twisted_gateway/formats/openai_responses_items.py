"""The output items of a translated answer, each writing its own events as it grows (`translation.md` 7.2, 7.3)."""

from __future__ import annotations

from typing import Any

import msgspec

from twisted_gateway.errors import StrayFrame
from twisted_gateway.formats.bodies import size
from twisted_gateway.formats.openai_responses_events import Script, dump


class Item:
    """One output item. `done` is what it came to, None while it is open."""

    def __init__(self, script: Script, id: str, at: int) -> None:
        self.id = id
        self.done: dict[str, Any] | None = None
        self._script = script
        self._at = at

    def shown(self, status: str) -> dict[str, Any]:
        """The item as it is now."""
        raise NotImplementedError

    def close(self, status: str) -> None:
        """Nothing more is coming: write the item's last events, once."""
        if self.done is None:
            self._last()
            self.done = self.shown(status)
            self._script.say("response.output_item.done", output_index=self._at, item=self.done)

    def _open(self) -> None:
        self._script.say("response.output_item.added", output_index=self._at, item=self.shown("in_progress"))

    def _last(self) -> None:
        """The events before the item's own last one."""

    def _say(self, kind: str, **members: Any) -> None:
        self._script.say(kind, item_id=self.id, output_index=self._at, **members)

    def _around(self, **members: int) -> bytes:
        """The JSON between the number and the text of this item's deltas."""
        return b"," + dump({"item_id": self.id, "output_index": self._at, **members})[1:-1] + b',"delta":'


class Reasoning(Item):
    """What the model thought, as a summary with one part."""

    def __init__(self, script: Script, id: str, at: int) -> None:
        super().__init__(script, id, at)
        self._pieces: list[str] = []
        self._head = self._around(summary_index=0)
        self._open()
        self._say("response.reasoning_summary_part.added", summary_index=0, part=self._part())

    def add(self, text: str) -> None:
        """A piece of it."""
        self._pieces.append(text)
        self._script.delta(b"response.reasoning_summary_text.delta", self._head, text, b"}")

    def shown(self, status: str) -> dict[str, Any]:
        return {"type": "reasoning", "id": self.id, "summary": [self._part()] if self._pieces else []}

    def _part(self) -> dict[str, Any]:
        return {"type": "summary_text", "text": "".join(self._pieces)}

    def _last(self) -> None:
        part = self._part()
        self._say("response.reasoning_summary_text.done", summary_index=0, text=part["text"])
        self._say("response.reasoning_summary_part.done", summary_index=0, part=part)


class _ContentPart:
    """A run of text, or of a refusal, within a message."""

    def __init__(self, kind: str, head: bytes) -> None:
        self.kind = kind
        self.pieces: list[str] = []
        self.head = head

    def shown(self) -> dict[str, Any]:
        text = "".join(self.pieces)
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class Message(Item):
    """What the model said, text and refusal."""

    def __init__(self, script: Script, id: str, at: int) -> None:
        super().__init__(script, id, at)
        self._parts: list[_ContentPart] = []
        self._open()

    def say(self, text: str) -> None:
        """A piece of text."""
        part = self._part("output_text")
        part.pieces.append(text)
        self._script.delta(b"response.output_text.delta", part.head, text, b',"logprobs":[]}')

    def decline(self, text: str) -> None:
        """A piece of a refusal."""
        part = self._part("refusal")
        part.pieces.append(text)
        self._script.delta(b"response.refusal.delta", part.head, text, b"}")

    def shown(self, status: str) -> dict[str, Any]:
        content = [part.shown() for part in self._parts]
        return {"type": "message", "id": self.id, "status": status, "role": "assistant", "content": content}

    def _part(self, kind: str) -> _ContentPart:
        """The part that is being written, or a new one when it is of another kind."""
        if self._parts and self._parts[-1].kind == kind:
            return self._parts[-1]
        self._last()
        index = len(self._parts)
        part = _ContentPart(kind, self._around(content_index=index))
        self._parts.append(part)
        self._say("response.content_part.added", content_index=index, part=part.shown())
        return part

    def _last(self) -> None:
        if not self._parts:
            return
        index, part = len(self._parts) - 1, self._parts[-1].shown()
        if part["type"] == "refusal":
            self._say("response.refusal.done", content_index=index, refusal=part["refusal"])
        else:
            self._say("response.output_text.done", content_index=index, text=part["text"], logprobs=[])
        self._say("response.content_part.done", content_index=index, part=part)


class Call(Item):
    """A function call. Its arguments are `{}` when there are none."""

    def __init__(self, script: Script, id: str, at: int, call_id: str, name: str) -> None:
        super().__init__(script, id, at)
        self._call_id = call_id
        self._name = name
        self._pieces: list[str] = []
        self._head = self._around()
        script.shown_bytes += size(name)
        self._open()

    def add(self, text: str) -> None:
        """A piece of the arguments; white space before and behind them is nothing."""
        if self.done is not None:
            if text.strip():
                raise StrayFrame("a tool call goes on after its end")
            return
        if not self._pieces:
            text = text.lstrip()
        if text:
            self._pieces.append(text)
            self._script.delta(b"response.function_call_arguments.delta", self._head, text, b"}")

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are a JSON object to its end."""
        try:
            return isinstance(msgspec.json.decode("".join(self._pieces)), dict)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return False

    def shown(self, status: str) -> dict[str, Any]:
        return {
            "type": "function_call",
            "id": self.id,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "".join(self._pieces),
            "status": status,
        }

    def close(self, status: str) -> None:
        """See `Item`. A call that is whole is complete, even when the answer was cut behind it."""
        if self.done is None:
            super().close("completed" if status == "incomplete" and self.is_whole else status)

    def _last(self) -> None:
        if not self._pieces:
            self.add("{}")
        self._say("response.function_call_arguments.done", name=self._name, arguments="".join(self._pieces))
