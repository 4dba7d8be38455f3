"""The steps of which a scripted provider's answers are made, and builders for the usual answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import attrs

from .http1 import Headers, header_pairs
from .waiting import Gate, gate_after


@attrs.frozen
class Head:
    """Status line and headers. With `length` framing the content-length is counted from the steps, unless given."""

    status: int = 200
    headers: Headers = attrs.field(factory=list, converter=header_pairs)
    framing: Literal["chunked", "length", "close"] = "chunked"
    length: int | None = None
    reason: str = "Scripted"


@attrs.frozen
class Send:
    """Content in one write (one HTTP chunk when the framing is chunked)."""

    data: bytes


@attrs.frozen
class Cut:
    """Content in several writes, each of which the network delivers alone: by sizes, else at random by seed.

    Each piece is a chunk of its own when the framing is chunked; with `one_chunk` it is the bytes of a single chunk,
    framing included, that are cut.
    """

    data: bytes
    sizes: int | Sequence[int] | None = None
    seed: int = 0
    one_chunk: bool = False


@attrs.frozen
class WaitFor:
    """Hold until the test opens the gate or fires the Deferred."""

    gate: Gate = attrs.field(converter=gate_after)


@attrs.frozen
class Sleep:
    """Hold for so many real seconds; for 0, until the network has delivered what was written."""

    seconds: float = 0


@attrs.frozen
class Raw:
    """Bytes outside any framing, for heads and chunk sizes that are wrong."""

    data: bytes


@attrs.frozen
class Endless:
    """The same bytes for ever (or up to a limit), as fast as the peer takes them; see `Connection.flood`."""

    data: bytes
    limit: int | None = None


@attrs.frozen
class End:
    """The proper end of the framing; then the connection serves the next request, if both sides keep it."""


@attrs.frozen
class Close:
    """A FIN where the answer happens to be, after what was written has gone out."""


@attrs.frozen
class Reset:
    """An RST, after what was written has been delivered (`abrupt`: at once)."""

    abrupt: bool = False


@attrs.frozen
class Stall:
    """Nothing more, for ever."""


Step = Head | Send | Cut | WaitFor | Sleep | Raw | Endless | End | Close | Reset | Stall
Script = Sequence[Step]


def check(script: Script) -> Script:
    """The script, if its last step and only its last step is a final one."""
    finals = [_is_final(step) for step in script]
    if not finals or not finals[-1] or any(finals[:-1]):
        raise ValueError("a script has exactly one final step, its last: End, Close, Reset, Stall or Endless")
    return script


def _is_final(step: Step) -> bool:
    return step.limit is None if isinstance(step, Endless) else isinstance(step, End | Close | Reset | Stall)


def content_length(script: Script) -> int:
    """The bytes of content in a script, for `Head(framing="length")`."""
    sizes = [len(step.data) for step in script if isinstance(step, Send | Cut)]
    return sum(sizes) + sum(step.limit or 0 for step in script if isinstance(step, Endless))


def json_answer(obj: object, status: int = 200, headers: Headers | None = None) -> list[Step]:
    """A whole JSON answer."""
    head = Head(status, [(b"content-type", b"application/json"), *(headers or [])], "length")
    return [head, Send(json.dumps(obj).encode()), End()]


def sse(frames: Iterable[bytes], *last: Step, headers: Headers | None = None) -> list[Step]:
    """A streamed answer: each frame is delivered alone, then come the last steps (default: a proper end)."""
    head = Head(200, [(b"content-type", b"text/event-stream"), *(headers or [])])
    body: list[Step] = [step for frame in frames for step in (Send(frame), Sleep(0))]
    return [head, *body, *(last or (End(),))]


def sse_chat(
    texts: Sequence[str],
    model: str = "upstream-model",
    usage: tuple[int, int] | dict[str, Any] | None = None,
    done: bool = True,
    finish: str | None = "stop",
    id: str = "chatcmpl-scripted",
) -> list[bytes]:
    """The frames of a chat answer as OpenAI sends it: role, texts, finish, usage (prompt, completion), [DONE]."""
    base = {"id": id, "object": "chat.completion.chunk", "created": 1_760_000_000, "model": model}

    def frame(choices: list[dict[str, Any]], **more: object) -> bytes:
        return b"data: " + json.dumps({**base, "choices": choices, **more}, separators=(",", ":")).encode() + b"\n\n"

    def choice(delta: dict[str, Any], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": reason}]

    frames = [
        frame(choice({"role": "assistant", "content": ""})),
        *(frame(choice({"content": text})) for text in texts),
    ]
    frames += [frame(choice({}, finish))] if finish else []
    frames += [frame([], usage=usage_object(usage))] if usage else []
    return [*frames, b"data: [DONE]\n\n"] if done else frames


def usage_object(usage: tuple[int, int] | dict[str, Any]) -> dict[str, Any]:
    """Usage as OpenAI reports it, from the numbers of prompt and completion tokens."""
    if isinstance(usage, dict):
        return usage
    prompt, completion = usage
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def chat_object(text: str, model: str = "upstream-model", usage: tuple[int, int] = (3, 2)) -> dict[str, Any]:
    """A whole chat answer as OpenAI sends it."""
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    head = {"id": "chatcmpl-scripted", "object": "chat.completion", "created": 1_760_000_000, "model": model}
    return {**head, "choices": choices, "usage": usage_object(usage)}
