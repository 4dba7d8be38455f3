"""A whole Responses answer as the events of a stream, for a provider that did not stream (`streaming.md` section 4)."""

from __future__ import annotations

from typing import Any

from twisted_gateway.errors import StrayFrame
from twisted_gateway.formats import bodies
from twisted_gateway.formats.openai_responses_events import Script
from twisted_gateway.wire.sse import Frame

_TERMINAL = ("completed", "incomplete", "failed", "cancelled")
_Object = dict[str, Any]


def unfolded(body: bytes) -> list[Frame]:
    """The events that would have told this response; no terminal one when it says itself that it goes on."""
    response, _ = bodies.read(body)
    try:
        return _unfolded(response)
    except (AttributeError, TypeError):
        raise StrayFrame("its output is not that of a response") from None


def _unfolded(response: _Object) -> list[Frame]:
    script = Script()
    begun = {**response, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    script.say("response.created", response=begun)
    script.say("response.in_progress", response=begun)
    for at, item in enumerate(response.get("output") or ()):
        _tell(script, at, item)
    status = response.get("status") or "completed"
    if status in _TERMINAL:
        script.say(f"response.{status}", response=response)
    return script.taken()


def _tell(script: Script, at: int, item: _Object) -> None:
    """One item: its beginning, what it says, its end."""
    kind = item.get("type")
    begun = {**item, "status": "in_progress"} if "status" in item else item
    where = {"item_id": item.get("id"), "output_index": at}
    if kind == "message":
        script.say("response.output_item.added", output_index=at, item={**begun, "content": []})
        for index, part in enumerate(item.get("content") or ()):
            _tell_part(script, {**where, "content_index": index}, part)
    elif kind == "reasoning":
        emptied: _Object = {"summary": [], "content": []} if item.get("content") else {"summary": []}
        script.say("response.output_item.added", output_index=at, item={**begun, **emptied})
        for index, part in enumerate(item.get("summary") or ()):
            _tell_summary(script, {**where, "summary_index": index}, part)
        for index, part in enumerate(item.get("content") or ()):
            _tell_part(script, {**where, "content_index": index}, part)
    elif kind in _ARGUMENTS:
        _tell_arguments(script, at, item, begun)
    else:
        script.say("response.output_item.added", output_index=at, item=begun)
    script.say("response.output_item.done", output_index=at, item=item)


_ARGUMENTS = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
}
_TEXTS: dict[str, tuple[str, str, _Object]] = {
    "output_text": ("text", "response.output_text", {"logprobs": []}),
    "refusal": ("refusal", "response.refusal", {}),
    "reasoning_text": ("text", "response.reasoning_text", {}),
}


def _tell_arguments(script: Script, at: int, item: _Object, begun: _Object) -> None:
    name, kind = _ARGUMENTS[item["type"]]
    text = item.get(name) or ""
    where = {"item_id": item.get("id"), "output_index": at}
    script.say("response.output_item.added", output_index=at, item={**begun, name: ""})
    if text:
        script.say(f"{kind}.delta", **where, delta=text)
    named = {"name": item.get("name")} if name == "arguments" else {}
    script.say(f"{kind}.done", **where, **named, **{name: text})


def _tell_part(script: Script, where: _Object, part: _Object) -> None:
    name, kind, more = _TEXTS.get(str(part.get("type")), ("", "", {}))
    if not name:
        script.say("response.content_part.added", **where, part=part)
        script.say("response.content_part.done", **where, part=part)
        return
    text = part.get(name) or ""
    begun = {**part, name: "", **({"annotations": [], "logprobs": []} if name == "text" and more else {})}
    script.say("response.content_part.added", **where, part=begun)
    if text:
        script.say(f"{kind}.delta", **where, delta=text, **more)
    for index, annotation in enumerate(part.get("annotations") or ()):
        script.say("response.output_text.annotation.added", **where, annotation_index=index, annotation=annotation)
    script.say(f"{kind}.done", **where, **{name: text}, **more)
    script.say("response.content_part.done", **where, part=part)


def _tell_summary(script: Script, where: _Object, part: _Object) -> None:
    text = part.get("text") or ""
    script.say("response.reasoning_summary_part.added", **where, part={**part, "text": ""})
    if text:
        script.say("response.reasoning_summary_text.delta", **where, delta=text)
    script.say("response.reasoning_summary_text.done", **where, text=text)
    script.say("response.reasoning_summary_part.done", **where, part=part)
