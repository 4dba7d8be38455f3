"""Where the texts of a dialect are: in requests, in whole answers, in the frames of a stream (`guardrails.md` 2, 7.2).

Policies that read or change texts see them as **slots**: places in a decoded document, each with the channel that its
text is part of. A changed text is put into its slot, and the document is written again; what was not changed is never
touched. What a dialect calls its texts is in its own module, `<dialect>_texts`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from twisted_gateway.errors import StrayFrame
from twisted_gateway.facts import frozen
from twisted_gateway.formats import bodies
from twisted_gateway.wire.sse import Frame, escape_separators

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

Channel = tuple[Any, ...]
"""(choice, kind, more): a text that is read as one string. A shorter one stands for all that begin with it."""

TEXT = "text"
REFUSAL = "refusal"
REASONING = "reasoning"
TOOL = "tool"
"""A tool call's name and arguments."""

EVERYTHING: Channel = ()

_MOST_SHAPES = 4


class Slot(NamedTuple):
    """A text's place: `holder[key]`. `arguments`: it is (a piece of) a tool call's JSON.

    `spelled` has a member `logprobs` that spells the text once more.
    """

    holder: Any
    key: Any
    channel: Channel
    arguments: bool = False
    spelled: dict[str, Any] | None = None

    @property
    def reasoning(self) -> bool:
        """Whether it is what the model thought, which is looked at only when asked for."""
        return len(self.channel) > 1 and self.channel[1] == REASONING


class Heard(NamedTuple):
    """What a frame of a stream says.

    `slots` are pieces of their channels' texts; `wholes` are texts that stand in the frame as a whole; `ends` are the
    channels that are complete with this frame. `document` is the frame's JSON, None as long as nobody decoded it: then
    `text` is the only piece, of `channel`.
    """

    slots: Sequence[Slot] = ()
    wholes: Sequence[Slot] = ()
    ends: Sequence[Channel] = ()
    document: Any = None
    channel: Channel = ()
    text: str = ""


class Hearing(Protocol):
    """Hears one stream of a dialect, frame by frame."""

    def heard(self, frame: Frame, decoded: bool = False) -> Heard | None:
        """What it says, or None when there is nothing in it. With `decoded` the document is given in any case."""

    def empty(self, document: Any) -> bool:
        """Whether a frame whose texts have all become empty says nothing else."""


@frozen
class Texts:
    """A dialect's texts. `members` are the members of a request that hold any; `asked` finds them there."""

    members: tuple[str, ...]
    asked: Callable[[dict[str, Any]], list[Slot]]
    answered: Callable[[Any], list[Slot]]
    hearing: Callable[[], Hearing]
    buffers: bool = False
    """A verdict about a stream is waited for before its head is written, unless told otherwise (section 6)."""


def text_of(slot: Slot) -> str:
    """The text in a slot; an object (the input of a tool) is its JSON."""
    value = slot.holder[slot.key]
    return value if isinstance(value, str) else _encode(value).decode("utf-8", "replace")


def put(slot: Slot, text: str) -> None:
    """Another text for a slot, in its own form."""
    value = slot.holder[slot.key]
    slot.holder[slot.key] = text if isinstance(value, str) else _decode(text.encode())
    if slot.spelled is not None and slot.spelled.get("logprobs") is not None:
        slot.spelled["logprobs"] = [] if isinstance(slot.spelled["logprobs"], list) else None


def document_of(frame: Frame) -> dict[str, Any] | None:
    """The JSON object in a frame of a stream, None where there is none."""
    try:
        document, _ = bodies.read(frame.data)
    except StrayFrame:
        return None
    return document if isinstance(document, dict) else None


def kind_of(frame: Frame, event: dict[str, Any]) -> str:
    """What an event is: its own `type`, else its name on the wire."""
    named = event.get("type")
    return named if isinstance(named, str) and named else frame.event.decode("ascii", "replace")


def written(frame: Frame, document: Any) -> Frame:
    """The frame of a stream with its document as it is now."""
    return Frame(escape_separators(_encode(document)), frame.event)


def twins(document: Any, data: bytes) -> bool:
    """Whether a name stands twice in an object of this JSON: then others may read something else than `document`."""
    if _encode(document) == data:
        return False
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    between = data.split(b'"')[2::2]  # what follows each string
    return sum(piece.lstrip()[:1] == b":" for piece in between) != _names(document)


def _names(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_names(one) for one in value.values() if isinstance(one, dict | list))
    return sum(_names(one) for one in value if isinstance(one, dict | list)) if isinstance(value, list) else 0


def body(document: Any) -> Frame:
    """A whole answer as its one frame."""
    data = _encode(document)
    return Frame(data, b"", data)


NEVER = frozenset(
    (
        *("id", "type", "object", "role", "model", "status", "index", "created", "created_at", "call_id", "item_id"),
        *("tool_call_id", "tool_use_id", "file_id", "container_id", "response_id", "previous_response_id", "phase"),
        *("url", "image_url", "file_url", "file_data", "data", "media_type", "mime_type", "format", "signature"),
        *(
            "encrypted_content",
            "encrypted_index",
            "cache_control",
            "detail",
            "finish_reason",
            "stop_reason",
            "logprobs",
        ),
        *("usage", "system_fingerprint", "service_tier", "obfuscation", "filename", "source_type", "ttl", "caller"),
        *("server_label", "approval_request_id", "vector_store_id", "content_index", "fingerprint"),
        *("input_audio", "expires_at", "environment", "namespace", "partial_image_b64", "b64_json", "fingerprints"),
        *("domain", "key", "page_age", "retrieved_at", "toolset_name", "skill_id", "tool_id", "version", "error_type"),
        *("size", "quality", "background", "output_format", "token", "tokens", "top_logprobs", "encrypted_stdout"),
        *(
            "provider",
            "native_finish_reason",
            "matched_stop",
            "stop_sequence",
            "prompt_filter_results",
            "content_filter_results",
        ),
        *("content_filter_offsets", "x_groq", "prompt_token_ids", "token_ids", "prompt_logprobs"),
    )
)
"""Members that hold no text of a prompt or an answer, in any dialect: ids, kinds, URLs, pictures, sound."""

REASONING_MEMBERS = frozenset(("reasoning_content", "reasoning", "thinking", "reasoning_text", "reasoning_details"))
_JSON_MEMBERS = frozenset(("arguments",))


def strings(holder: Any, key: Any, channel: Channel) -> Iterator[Slot]:
    """The slots of all texts in `holder[key]`, but for members that never hold one.

    What is not known is taken for text: a new member of a dialect is looked at until somebody decides otherwise.
    """
    value = holder[key]
    if isinstance(value, str):
        yield from _one(holder, key, channel)
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from strings(value, index, channel)
    elif isinstance(value, dict):
        if value.get("type") == "text" and isinstance(value.get("data"), str):  # a document given as text
            yield from _one(value, "data", channel)
        picture = value.get("type") == "image_generation_call"
        if value.get("type") in ("reasoning", "thinking", "redacted_thinking"):
            channel = (channel[0], REASONING)
        found = others(value, ("result",) if picture else (), channel)
        if value.get("logprobs"):
            yield from (slot if slot.spelled else slot._replace(spelled=value) for slot in found)
            yield from spelled(value, value)
        else:
            yield from found


def others(holder: dict[str, Any], known: Container[str], channel: Channel) -> Iterator[Slot]:
    """The slots of all texts in an object, but for the members that are `known` and those that never hold one."""
    for name in holder:
        if name in NEVER or name in known:
            continue
        if name == "input" and "name" in holder and isinstance(holder[name], dict | list):
            yield Slot(holder, name, channel, arguments=True)
            continue
        yield from strings(holder, name, (channel[0], REASONING) if name in REASONING_MEMBERS else channel)


def spelled(choice: dict[str, Any], said: Any) -> Iterator[Slot]:
    """What the `logprobs` of a choice say, where it is not one of the texts in `said`, its delta or message."""
    about = choice.get("logprobs")
    texts = said if isinstance(said, dict) else {}
    kind = REASONING if any(texts.get(name) for name in REASONING_MEMBERS) else TEXT
    for tokens in about.values() if isinstance(about, dict) else (about,):
        if isinstance(tokens, list) and tokens:
            text = "".join([token for one in tokens if isinstance(token := _token(one), str)])
            if text and text not in texts.values():
                yield Slot({"text": text}, "text", (choice.get("index", 0), kind), False, choice)


def _token(one: Any) -> Any:
    return one.get("token") if isinstance(one, dict) else one


def _one(holder: Any, key: Any, channel: Channel) -> Iterator[Slot]:
    value = holder[key]
    if value and not _is_data(value):
        yield Slot(holder, key, channel, arguments=key in _JSON_MEMBERS)


def _is_data(value: str) -> bool:
    """A `data:` URL, and nothing else: nobody's words (`guardrails.md` 2)."""
    return value.startswith("data:") and _DATA_URL(value) is not None


_DATA_URL = re.compile(
    r"data:(?:image|audio|video|font|application)/[\w.+-]{1,64}(?:;[\w.=+-]{1,64})?;base64,[A-Za-z0-9+/=\r\n]{64,}+"
).fullmatch
"""Nobody writes a word so; and a text, or something as short as one, is looked at all the same."""


class Shape:
    """The constant JSON around a text, learnt from one frame: later ones with the same need not be decoded."""

    __slots__ = ("_around", "_channel", "_head", "_tail")

    def __init__(self, head: bytes, tail: bytes, channel: Channel) -> None:
        self._head = head
        self._tail = tail
        self._around = len(head) + len(tail)
        self._channel = channel

    def heard(self, data: bytes) -> Heard | None:
        """The text of a frame of this shape, None for any other."""
        if not (data.startswith(self._head) and data.endswith(self._tail)) or len(data) < self._around:
            return None
        inner = data[len(self._head) : len(data) - len(self._tail)]
        if _EASY(inner) is None:
            return None
        return Heard((), (), (), None, self._channel, inner.decode("ascii"))


def shape(data: bytes, name: str, text: str, channel: Channel) -> Shape | None:
    """The shape of a frame that has this text, once, in a member of this name."""
    inner = _encode(text)[1:-1]
    hole = b'"' + name.encode() + b'":"' + inner + b'"'
    if not text or b"\\" in inner or data.count(hole) != 1:
        return None
    at = data.index(hole) + len(name) + 4
    return Shape(data[:at], data[at + len(inner) :], channel)


class Shapes:
    """The shapes of one stream's frames, learnt as they come."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: list[Shape] = []

    @property
    def full(self) -> bool:
        """Whether no more are learnt."""
        return len(self._known) >= _MOST_SHAPES

    def heard(self, data: bytes) -> Heard | None:
        """The text of a frame of a known shape."""
        for known in self._known:
            found = known.heard(data)
            if found is not None:
                return found
        return None

    def learn(self, data: bytes, document: Any, slot: Slot) -> None:
        """This frame, of which `slot` is the only text, may be the first of many."""
        if self.full or twins(document, data):
            return
        made = shape(data, slot.key, slot.holder[slot.key], slot.channel)
        if made is not None:
            self._known.append(made)


_EASY = re.compile(rb"[\x20\x21\x23-\x5b\x5d-\x7e]+").fullmatch
