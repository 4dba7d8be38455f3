"""Chunks, targets and readers for the tests of the OpenAI chat format."""

from __future__ import annotations

import json
from typing import Any

from twisted_gateway.config.resources import RequestEdits, ResponseQuirks
from twisted_gateway.exchange import Call, Target
from twisted_gateway.formats.openai_chat import Chunks
from twisted_gateway.formats.shortcut import Habits
from twisted_gateway.wire.sse import Frame, Reader, encode

from ..exchanges import model, provider_key

NOW = 1_760_000_000.5
LETTERS = "abcdefghijklmnopqrstuvwx"


def dumps(value: Any, spaced: bool = False) -> bytes:
    """JSON as providers write it."""
    return json.dumps(value, ensure_ascii=False, separators=None if spaced else (",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def target(request: dict[str, Any] | None = None, upstream_model: str = "gpt-4o-2024", **response: Any) -> Target:
    """A target whose provider key has these edits."""
    key = provider_key(request=RequestEdits(**(request or {})), response=ResponseQuirks(**response))
    return Target(model(provider_key=key), upstream_model)


def chat_call(usage_shown: bool = True, stream: bool = True) -> Call:
    """A chat call, as far as its answer must know it."""
    return Call(model="gpt", stream=stream, body=b"{}", usage_shown=usage_shown)


def chunks_tube(
    usage_shown: bool = True, shown: str | None = "gpt", habits: Habits | None = None, **response: Any
) -> Chunks:
    """The tube of a streamed answer; without `habits` it is the first one of its target."""
    return Chunks(chat_call(usage_shown), target(**response), shown, NOW, lambda: LETTERS, habits)


def framed(*chunks: Any) -> list[Frame]:
    """Frames as the reader gives them, of objects or of bytes of JSON."""
    data = [chunk if isinstance(chunk, bytes) else dumps(chunk) for chunk in chunks]
    return [Frame(one, b"", b"data: " + one + b"\n\n") for one in data]


def written(frames: list[Frame]) -> list[Any]:
    """What a caller reads in these frames: objects, and the end marker as text."""
    found = Reader().received(b"".join(map(encode, frames)))
    return [frame.data.decode() if frame.data == b"[DONE]" else json.loads(frame.data) for frame in found]


def chunk(*choices: Any, **more: Any) -> dict[str, Any]:
    """A chunk as OpenAI sends it."""
    envelope = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "gpt-4o-2024"}
    return {**envelope, "choices": list(choices), **more}


def choice(delta: Any, reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    """One entry of `choices`."""
    return {"index": index, "delta": delta, **more, "finish_reason": reason}


def say(text: str, index: int = 0, **more: Any) -> dict[str, Any]:
    """A chunk that says something."""
    return chunk(choice({"content": text}, index=index), **more)


ROLE = chunk(choice({"role": "assistant", "content": ""}))


def joined(objects: list[Any]) -> dict[int, dict[str, Any]]:
    """A caller's accumulator: strings are joined, as the SDKs do it. By choice index."""
    choices: dict[int, dict[str, Any]] = {}
    for one in objects:
        for entry in one["choices"] if isinstance(one, dict) else ():
            seen = choices.setdefault(entry["index"], {"delta": {}, "finish_reason": None})
            seen["finish_reason"] = entry["finish_reason"] or seen["finish_reason"]
            _join(seen["delta"], entry["delta"])
    return choices


def _join(into: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if value is None or name == "index":
            continue
        if isinstance(value, str):
            into[name] = into.get(name, "") + value
        elif isinstance(value, dict):
            _join(into.setdefault(name, {}), value)
        elif name == "tool_calls":
            for call in value:
                _join(into.setdefault(name, {}).setdefault(call["index"], {}), call)
        else:
            into.setdefault(name, []).append(value)
