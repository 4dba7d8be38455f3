"""What no vendor owns: a prompt and the events of an answer. Formats meet here and nowhere else.

A format turns its own requests into a `Prompt` and a `Prompt` into its own requests; its *decoder* turns frames into
events, its *encoder* events into frames. So N formats cost N files, not N squared (`DESIGN.md` section 4). The field
mappings are those of `translation.md`; a part or member that has no place here is a 400 or on the loss list, never
dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from twisted_gateway.facts import frozen

# --- A prompt


@frozen
class Text:
    """Words. `marks` are the members that ride on it (`cache_control`, `citations`)."""

    text: str
    marks: Mapping[str, Any] = attrs.field(factory=dict)


@frozen
class Image:
    """A picture: base64 `data` of `media_type`, or a `url`."""

    media_type: str = ""
    data: str = ""
    url: str = ""
    marks: Mapping[str, Any] = attrs.field(factory=dict)


@frozen
class Document:
    """A file to read: base64 `data`, plain `text`, a `url`, or the provider's own `file_id`. `title` is its name."""

    media_type: str = "application/pdf"
    data: str = ""
    text: str = ""
    url: str = ""
    file_id: str = ""
    title: str = ""
    marks: Mapping[str, Any] = attrs.field(factory=dict)


@frozen
class Audio:
    """Sound in a prompt: base64 `data` in `format` (wav, mp3)."""

    data: str
    format: str
    marks: Mapping[str, Any] = attrs.field(factory=dict)


@frozen
class Refusal:
    """What the assistant said when it would not answer."""

    text: str


@frozen
class Thinking:
    """Reasoning of an earlier turn. `block` is Anthropic's own block, signature and all; None when it is only text."""

    text: str
    block: Mapping[str, Any] | None = None


@frozen
class ToolCall:
    """The assistant calls a tool. `arguments` is the JSON text as written, perhaps empty or broken."""

    id: str
    name: str
    arguments: str
    marks: Mapping[str, Any] = attrs.field(factory=dict)


@frozen
class ToolResult:
    """What a tool gave back."""

    call_id: str
    parts: tuple[Part, ...]
    is_error: bool = False
    plain: bool = True
    """It was written as one string, not as a list of parts."""
    marks: Mapping[str, Any] = attrs.field(factory=dict)


@frozen
class Foreign:
    """A block of one dialect (`dialect`: `anthropic`, `openai_chat`, ...) that only its own kind understands."""

    dialect: str
    block: Mapping[str, Any]


Part = Text | Image | Document | Audio | Refusal | Thinking | ToolCall | ToolResult | Foreign


@frozen
class Turn:
    """One message. `role` is system, user, assistant or tool; `plain`: its content was one string."""

    role: str
    parts: tuple[Part, ...]
    plain: bool = True
    name: str | None = None


@frozen
class Tool:
    """A function that the model may call. `schema` is JSON schema, None when none was given."""

    name: str
    description: str | None = None
    schema: Mapping[str, Any] | None = None
    strict: bool | None = None
    marks: Mapping[str, Any] = attrs.field(factory=dict)


@frozen
class ForeignTool:
    """A tool that the provider runs itself (web search, computer use), in its dialect's own words."""

    dialect: str
    block: Mapping[str, Any]


@frozen
class ToolChoice:
    """`mode` is auto, none, required or tool (then `name` says which). `allowed` narrows the tools, None = all."""

    mode: str
    name: str = ""
    allowed: tuple[str, ...] | None = None


@frozen
class Thought:
    """How much reasoning is asked for.

    `effort` is none, minimal, low, medium, high, xhigh or max; `budget` tokens where the caller gave a number;
    `shown`: the caller wants to see reasoning. `raw` is Anthropic's own `thinking` member, where that was written.
    """

    effort: str | None = None
    budget: int | None = None
    shown: bool = False
    raw: Mapping[str, Any] | None = None


@frozen
class Prompt:
    """A request, whoever wrote it. `extra` holds members that no field here knows, with their values, for targets that
    may know them; `dialect` names the format it was read from."""

    dialect: str
    turns: tuple[Turn, ...]
    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Tool | ForeignTool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    json_schema: Mapping[str, Any] | None = None
    """`{"schema": S, "name"?: N, "strict"?: bool}` of a structured answer."""
    json_object: bool = False
    thought: Thought | None = None
    user: str | None = None
    choices: int = 1
    count: bool = True
    """Ask the target to report usage, where that must be asked for (`streaming.md` 3.1)."""
    extra: Mapping[str, Any] = attrs.field(factory=dict)


# --- The events of an answer. Every event belongs to one choice (0 unless several were asked).


@frozen
class Began:
    """The answer has begun: what the provider calls it. First of all events, once."""

    id: str = ""
    model: str = ""
    created: int = 0


@frozen
class Said:
    """A piece of the answer's text."""

    text: str
    choice: int = 0


@frozen
class Mused:
    """A piece of reasoning that may be shown."""

    text: str
    choice: int = 0


@frozen
class Declined:
    """A piece of a refusal's text."""

    text: str
    choice: int = 0


@frozen
class Signed:
    """A finished block of reasoning in Anthropic's own form, signature and all, to be sent back in the next turn."""

    block: Mapping[str, Any]
    choice: int = 0


@frozen
class Calling:
    """A tool call has begun. `index` counts the calls of the choice from 0, in order of their beginning."""

    index: int
    id: str
    name: str
    choice: int = 0


@frozen
class Arguments:
    """A piece of a call's arguments: JSON text, cut anywhere. Pieces of several calls may take turns."""

    index: int
    text: str
    choice: int = 0


@frozen
class Called:
    """A call's arguments are whole (their text is JSON, `{}` when there was none). Not every dialect can tell."""

    index: int
    choice: int = 0


@frozen
class Finished:
    """Why the choice ended: stop, length, tool_calls, content_filter, or the provider's own word.

    `stop_sequence` is the text that ended it, where the provider says so; `native` the provider's own reason.
    """

    reason: str
    stop_sequence: str | None = None
    native: str | None = None
    choice: int = 0


@frozen
class Counted:
    """A usage report has come: the counters themselves are the decoder's `usage`."""


@frozen
class Ended:
    """The dialect's end marker was seen: nothing more will come."""


Event = Began | Said | Mused | Declined | Signed | Calling | Arguments | Called | Finished | Counted | Ended
