"""Where the texts of Responses are (`guardrails.md` 2 and 7). A channel begins with the item's place in the output."""

from __future__ import annotations

from typing import Any

from twisted_gateway.formats.slots import (
    EVERYTHING,
    REASONING,
    REFUSAL,
    TEXT,
    TOOL,
    Channel,
    Heard,
    Slot,
    Texts,
    document_of,
    kind_of,
    others,
    spelled,
    strings,
)
from twisted_gateway.wire.sse import Frame

_KINDS = {
    "output_text": TEXT,
    "refusal": REFUSAL,
    "reasoning_text": REASONING,
    "reasoning_summary_text": REASONING,
    "function_call_arguments": TOOL,
    "mcp_call_arguments": TOOL,
    "custom_tool_call_input": TOOL,
    "code_interpreter_call_code": TEXT,
    "audio.transcript": TEXT,
    "audio_transcript": TEXT,
}
"""Whose pieces come as `response.NAME.delta`, and as a whole in `response.NAME.done`."""

_WHOLE = ("text", "refusal", "arguments", "input", "code", "transcript")
_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_ECHOED = frozenset(
    (
        *("output", "instructions", "metadata", "prompt", "prompt_cache_key", "reasoning", "safety_identifier", "text"),
        *("tool_choice", "tools", "truncation", "user", "incomplete_details", "conversation", "moderation"),
        *("billing", "include", "input"),
    )
)
"""Members of an answer that its caller has written, and those about it."""
_ECHOES = ("response.created", "response.in_progress", "response.queued")


def asked(document: dict[str, Any]) -> list[Slot]:
    """The texts of a request."""
    return [slot for name in document for slot in strings(document, name, (name, TEXT))]


def answered(document: Any) -> list[Slot]:
    """The texts of a whole answer; what it repeats of the request is none."""
    if not isinstance(document, dict):
        return []
    output = document.get("output")
    found: list[Slot] = []
    for index in range(len(output) if isinstance(output, list) else 0):
        found += strings(output, index, (index, TEXT))
    known = _ECHOED if isinstance(output, list) else _ECHOED - {"output"}
    return [*found, *others(document, known, (0, TEXT))]


class Events:
    """Hears the events of one stream."""

    def heard(self, frame: Frame, decoded: bool = False) -> Heard | None:
        """See `slots.Hearing`."""
        event = document_of(frame)
        if event is None:
            return None
        kind = kind_of(frame, event)
        place = event.get("output_index", 0)
        if kind in _TERMINAL or kind in _ECHOES:
            wholes = [*answered(event.get("response")), *others(event, ("response",), (place, TEXT))]
            return Heard((), wholes, (EVERYTHING,) if kind in _TERMINAL else (), event)
        name, _, step = kind.removeprefix("response.").rpartition(".")
        if step == "delta":
            return _piece(event, name, place)
        known = _KINDS.get(name)
        if known is not None:
            channel = _channel(event, name, place)
            wholes = [
                Slot(event, key, channel, known == TOOL, event) for key in _WHOLE if isinstance(event.get(key), str)
            ]
            said = [slot.key for slot in wholes]
            wholes += [slot._replace(channel=channel) for slot in others(event, said, (place, TEXT))]
            return Heard((), wholes, (channel,), event)
        ends: tuple[Channel, ...] = ((place,),) if kind == "response.output_item.done" else ()
        about = (place, REASONING if name.startswith("reasoning") else TEXT)
        return Heard((), list(others(event, (), about)), ends, event)

    def empty(self, document: Any) -> bool:
        """See `slots.Hearing`."""
        return str(document.get("type")).endswith(".delta")


def _piece(event: dict[str, Any], name: str, place: Any) -> Heard:
    """A piece of some text; that of an event which is not known here is text too, but for sound."""
    channel = _channel(event, name, place)
    if name in ("audio", "output_audio"):
        return Heard(wholes=list(others(event, ("delta",), (place, TEXT))), document=event)
    if not isinstance(event.get("delta"), str):
        return Heard(wholes=list(others(event, (), channel)), document=event)
    wholes = [*others(event, ("delta",), channel[:2]), *spelled(event, event)]
    return Heard((Slot(event, "delta", channel, channel[1] == TOOL, event),), wholes, (), event)


def _channel(event: dict[str, Any], name: str, place: Any) -> Channel:
    known = _KINDS.get(name) or (REASONING if name.startswith("reasoning") else TEXT)
    if known == TOOL:
        return (place, known)
    return (place, known, name, event.get("content_index", event.get("summary_index", 0)))


TEXTS = Texts(("instructions", "input", "prompt"), asked, answered, Events, buffers=True)
