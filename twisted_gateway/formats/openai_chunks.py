"""The frames of an OpenAI-family answer on their way to a caller of the same dialect: few edits, most bytes kept.

Chat and legacy completions have these edits in common (`streaming.md` 15.1, 15.2, 15.5 and 16); what a choice is, is
each dialect's own affair.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import msgspec

from twisted_gateway.errors import Problem, StrayFrame, undecodable
from twisted_gateway.exchange import Call, Target, Usage
from twisted_gateway.formats import openai_errors
from twisted_gateway.formats.bodies import first_object, read
from twisted_gateway.formats.learning import Learning
from twisted_gateway.formats.openai_delta import MOST
from twisted_gateway.formats.openai_usage import read_usage, usage_object
from twisted_gateway.formats.row import Letters
from twisted_gateway.formats.shapes import Shape
from twisted_gateway.formats.shortcut import Habits, Shortcuts, habits
from twisted_gateway.wire.series import Batch
from twisted_gateway.wire.sse import Frame, escape_separators

_DONE = b"data: [DONE]\n\n"
DONE = Frame(b"[DONE]", b"", _DONE)
_PREAMBLE = frozenset(
    ("id", "object", "created", "model", "choices", "system_fingerprint", "service_tier", "usage", "obfuscation")
)
_encode = msgspec.json.Encoder().encode


def loads(data: bytes) -> Any:
    """JSON, see `bodies.read`."""
    return read(data)[0]


def judge(call: Call, frame: Frame) -> Problem | bool:
    """Whether a first event begins the answer, is noise, or is an error (`streaming.md` 7 and 11.2)."""
    data = frame.data.strip()
    if call.stream and data == b"[DONE]":
        return True
    answer = first_object(data, call.stream)
    if not isinstance(answer, dict):
        return answer
    problem = openai_errors.in_band(answer) if "error" in answer else None
    if problem is not None:
        return openai_errors.before_commit(problem)
    if "choices" not in answer:
        return False if call.stream else undecodable("no choices in it")
    return True


class ChoiceState(Protocol):
    """What one choice of a stream has shown so far."""

    finish_reason: str | None
    text_bytes: int
    """UTF-8 bytes of text in the entry edited last."""

    @property
    def finished(self) -> bool:
        """A finish reason was seen."""

    def edit(self, choice: dict[str, Any], reasoning_field: str | None = None) -> bool:
        """Edits one entry of `choices` in place; True when it changed."""

    def silent(self, choice: dict[str, Any]) -> bool:
        """An entry that says nothing."""


class ChunkTube(Learning):
    """The chunks of one streamed answer, with the edits of `streaming.md` 15.1 and 15.2.

    `shown` is the model's name for the caller, or None to keep the provider's. Most chunks differ from the one
    before in a text alone: those go through `shortcuts`, by comparing bytes; all others are decoded, edited, and
    encoded again only when more than the name changed. `habits` tell what the frames of such streams are like.
    """

    held = 0
    passes_overruns = True
    kind: ClassVar[str]
    """The member `object` of a chunk."""
    prefix: ClassVar[str]
    """Begins the id of a chunk that has none."""
    nothing: ClassVar[dict[str, Any]]
    """What an entry of `choices` has in place of text when it only brings a finish reason."""

    def __init__(
        self,
        call: Call,
        target: Target,
        shown: str | None,
        now: float,
        letters: Letters,
        habits: Habits | None = None,
    ) -> None:
        self.usage = Usage()
        self._usage_shown = call.usage_shown
        self._usage_told = False
        self._shown = shown
        self._id: str | None = None
        self._letters = letters
        self._created = 0
        self._now = int(now)
        self._choices: dict[int, ChoiceState] = {}
        self._reasoning_field = target.model.provider_key.response.reasoning_field
        self._shortcuts = Shortcuts(habits or Habits())
        self._unopened = True
        self._stamped: Any = None
        self._stamp = (b"", b"")

    def _own_id(self) -> str:
        """The answer's id; one of ours where the provider gave none."""
        if self._id is None:
            self._id = self.prefix + self._letters()
        return self._id

    def new_choice(self, begun: bool = False) -> ChoiceState:
        """The state of a choice that is seen for the first time; `begun`: of one that has had its first entry."""
        raise NotImplementedError

    def take(self, data: bytes) -> Batch | None:
        """The known frames that `data` begins with, as they go out; else None, and nothing has happened."""
        if self.ended or self.failure is not None or 0 not in self._choices:
            return None
        taken = self._shortcuts.take(data)
        if taken is None or taken.used != len(data):
            return self._take_on(data, taken)
        self.text_bytes += taken.text_bytes  # most often: nothing but texts
        return taken

    @property
    def alike(self) -> Shape | None:
        """See `row.Passage`."""
        return self._shortcuts.latest

    def _take_on(self, data: bytes, taken: Batch | None) -> Batch | None:
        """What is behind a run of texts, if it is known: frames without a text, the end marker, another run."""
        parts: list[bytes] = []
        frames = events = text_bytes = used = 0
        while used < len(data) and not self.ended:
            if taken is not None:
                parts.append(taken.data)
                frames += taken.frames
                events += taken.events
                text_bytes += taken.text_bytes
                used += taken.used
                taken = None
            elif (found := self._shortcuts.lone(data, used)) is not None:
                self._learn_lone(found.reason, found.usage)
                if found.data:
                    parts.append(found.data)
                    frames += 1
                events += 1
                used = found.end
            elif data.startswith(_DONE, used):
                self.ended = self.complete = True
                events += 1
                used += len(_DONE)
            elif (taken := self._shortcuts.take(data[used:])) is None:
                break
        self.text_bytes += text_bytes
        return Batch(b"".join(parts), frames, events, text_bytes, used) if used else None

    def _learn_lone(self, reason: str | None, usage: dict[str, Any] | None) -> None:
        """What a known frame without a text says: why the first choice ends, or the usage."""
        if reason is None:
            read_usage(self.usage, usage)
            self._usage_told = self._usage_shown
        else:
            self._choices[0].finish_reason = self.finish_reason = reason
            self._see_whether_complete()

    def received(self, frames: list[Frame]) -> list[Frame]:
        """The caller's frames for these of the provider; none after the end marker or an error."""
        out: list[Frame] = []
        for frame in frames:
            if self.ended or self.failure is not None:
                break
            try:
                edited = self._edited(frame)
            except StrayFrame as stray:  # the frames before it are good
                self.failure = undecodable(str(stray))
                break
            if edited is not None:
                out.append(edited)
        return out

    def stopped(self, clean: bool) -> list[Frame]:
        """`[DONE]`, once, after a whole answer."""
        return [DONE] if clean else []

    def ending(self, usage: Usage) -> list[Frame] | None:
        """See `row.Passage`: `stop` for each choice that has not ended, usage where it was asked for, `[DONE]`."""
        if not self._choices:
            return None
        model = self.provider_model if self._shown is None else self._shown
        envelope = {"id": self._own_id(), "object": self.kind, "created": self._created, "model": model or ""}
        tail: dict[str, Any] = {"usage": None} if self._usage_shown else {}
        chunks = [
            {**envelope, "choices": [{"index": index, **self.nothing, "finish_reason": "stop"}], **tail}
            for index, choice in sorted(self._choices.items())
            if not choice.finished
        ]
        if self._usage_shown and not self._usage_told:
            chunks.append({**envelope, "choices": [], "usage": usage_object(usage)})
        self.ended = self.complete = True
        return [*(Frame(escape_separators(_encode(chunk))) for chunk in chunks), DONE]

    def _edited(self, frame: Frame) -> Frame | None:
        data = frame.data.strip()
        if data[:1] != b"{":
            if data == b"[DONE]":
                self.ended = self.complete = True
            elif data[:1] == b"[":
                loads(data)
                self.noise += 1
            elif data:
                self.noise += 1
            return None
        unopened, self._unopened = self._unopened, False
        if unopened and frame.raw is not None and (known := self._opened(frame.raw)) is not None:
            return known
        chunk, sound = read(data)
        if sound is not data:
            frame, data = Frame(sound), sound
        self.failure = openai_errors.in_band(chunk)
        if self.failure is not None:
            read_usage(self.usage, chunk.get("usage"))
            return None
        if "choices" not in chunk:
            self.noise += 1
            return None
        text_before, begun, model = self.text_bytes, 0 in self._choices, chunk.get("model")
        changed = self._edit(chunk)
        made = self._written(frame, data, chunk, changed) if changed is not None else None
        if unopened:
            self._shortcuts.begin(frame, made, chunk, model)
        if made is not None and self.text_bytes != text_before:
            self._shortcuts.learn(frame, made, chunk)
        elif chunk["choices"] or not changed:
            self._shortcuts.learn_lone(frame, made, chunk, first=not begun)
        return made

    def _opened(self, data: bytes) -> Frame | None:
        """The stream's first frame, if it is known: it begins the first choice, and brings no text."""
        opening = self._shortcuts.open(data)
        found = self._shortcuts.lone(data, first=True)
        if opening is None or found is None or not found.data:
            return None
        self._id = self.provider_request_id = opening.id
        self._created = opening.created
        self.provider_model = opening.model
        self._choices[0] = self.new_choice(begun=True)
        return Frame(found.data[6:-2], b"", found.data)

    def _edit(self, chunk: dict[str, Any]) -> bool | None:
        """Edits in place. True when more than the name changed, None when the caller must not see the chunk."""
        changed = self._edit_envelope(chunk)
        choices = chunk["choices"]
        if not isinstance(choices, list):
            choices = chunk["choices"] = []
            changed = True
        for position, choice in enumerate(choices):
            if not isinstance(choice, dict):
                raise StrayFrame(f"choices[{position}] is not an object")
            changed = self._edit_choice(choice) or changed
        self._see_whether_complete()
        return self._edit_usage(chunk, choices, changed)

    def _see_whether_complete(self) -> None:
        self.complete = bool(self._choices)
        for seen in self._choices.values():
            if seen.finish_reason is None:
                self.complete = False
                break

    def _edit_envelope(self, chunk: dict[str, Any]) -> bool:
        changed = False
        given = chunk.get("id")
        if isinstance(given, str) and given:
            self._id = given
            if self.provider_request_id is None:
                self.provider_request_id = given
        else:
            chunk["id"] = self._own_id()
            changed = True
        if chunk.get("object") != self.kind:
            chunk["object"] = self.kind
            changed = True
        created = chunk.get("created")
        if not self._created:
            positive = isinstance(created, int) and not isinstance(created, bool) and created > 0
            self._created = created if positive and created is not None else self._now
        if created != self._created:
            chunk["created"] = self._created
            changed = True
        if "error" in chunk:  # a falsy one: the SDKs look at the member's name only
            del chunk["error"]
            changed = True
        model = chunk.get("model")
        if self.provider_model is None and isinstance(model, str) and model:
            self.provider_model = model
        if not isinstance(model, str) or (not model and self._shown is None):
            chunk["model"] = self._shown or self.provider_model or ""
            changed = True
        return changed

    def _edit_choice(self, choice: dict[str, Any]) -> bool:
        index = choice.get("index")
        changed = False
        if not isinstance(index, int) or isinstance(index, bool):
            index = choice["index"] = 0
            changed = True
        state = self._choices.get(index)
        if state is None:
            if len(self._choices) >= MOST:
                raise StrayFrame(f"more than {MOST} choices")
            state = self._choices[index] = self.new_choice()
        changed = state.edit(choice, self._reasoning_field) or changed
        self.text_bytes += state.text_bytes
        if state.finish_reason is not None and (index == 0 or self.finish_reason is None):
            self.finish_reason = state.finish_reason
        return changed

    def _edit_usage(self, chunk: dict[str, Any], choices: list[Any], changed: bool) -> bool | None:
        usage = chunk.get("usage")
        if not usage and "x_groq" in chunk and isinstance(chunk["x_groq"], dict):
            read_usage(self.usage, chunk["x_groq"].get("usage"))
        if usage is not None:
            read_usage(self.usage, usage)
        if isinstance(usage, dict) and all(self._choices[choice["index"]].silent(choice) for choice in choices):
            if not self._usage_shown:
                return None
            self._usage_told = True
            if choices:
                chunk["choices"] = []
                return True
            return changed
        if usage is None and "usage" in chunk and not self._usage_shown:
            del chunk["usage"]
            changed = True
        if not choices and chunk.keys() <= _PREAMBLE:
            return None
        return changed

    def _written(self, frame: Frame, data: bytes, chunk: dict[str, Any], changed: bool) -> Frame:
        """The frame for an edited chunk: spliced where only the name differs, else encoded anew."""
        shown = self._shown
        model = chunk.get("model")
        if shown is not None and model != shown:
            if not changed:
                if model != self._stamped:
                    self._stamped, self._stamp = model, (b'"model":' + _encode(model), b'"model":' + _encode(shown))
                old, new = self._stamp
                changed = data.count(old) != 1 or data.count(b'"model"') != 1
                if not changed:
                    data = data.replace(old, new)
                    return Frame(escape_separators(data))
            chunk["model"] = shown
        if changed:
            return Frame(escape_separators(_encode(chunk)))
        if frame.raw is not None and not frame.event and frame.raw.isascii():
            return frame
        return Frame(escape_separators(data))


def habits_of(kind: str, call: Call, target: Target, shown: str | None) -> Habits:
    """What is known of the target's streams, as far as they get the same edits."""
    model = target.model
    field = model.provider_key.response.reasoning_field
    return habits(kind, model.id, target.upstream_model, field, shown, call.usage_shown)


class WholeTube(Learning):
    """The one frame of an answer that is not streamed (`streaming.md` 15.5): name restamped, the rest kept."""

    held = 0
    adds_usage: ClassVar[bool] = False
    """Whether a `usage` of zeros is added where there is none."""

    def __init__(self, shown: str | None) -> None:
        self.usage = Usage()
        self._shown = shown

    def received(self, frames: list[Frame]) -> list[Frame]:
        """The body as the caller gets it."""
        return [self._edited(frame) for frame in frames]

    def stopped(self, clean: bool) -> list[Frame]:
        """Nothing: the body is its own end."""
        return []

    def _edited(self, frame: Frame) -> Frame:
        answer, data = read(frame.data)
        if data is not frame.data:
            frame = Frame(data, b"", data)
        self._learn(answer)
        changed = False
        if self.adds_usage and not isinstance(answer.get("usage"), dict):
            answer["usage"] = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
            changed = True
        if "error" in answer:
            del answer["error"]
            changed = True
        shown, model = self._shown, answer.get("model")
        if shown is not None and model != shown:
            old, new = b'"model":' + _encode(model), b'"model":' + _encode(shown)
            if not changed and model is not None and frame.data.count(old) == frame.data.count(b'"model"') == 1:
                data = frame.data.replace(old, new)
                return Frame(data, b"", data)
            answer["model"] = shown
            changed = True
        data = _encode(answer) if changed else frame.data
        return Frame(data, b"", data)

    def _learn(self, answer: dict[str, Any]) -> None:
        self.complete = self.ended = True
        read_usage(self.usage, answer.get("usage"))
        given, model = answer.get("id"), answer.get("model")
        self.provider_request_id = given if isinstance(given, str) else None
        self.provider_model = model if isinstance(model, str) else None
        choices = answer.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            self.text_bytes += self.measured(choice)
            reason = choice.get("finish_reason")
            if self.finish_reason is None and isinstance(reason, str):
                self.finish_reason = reason

    def measured(self, choice: dict[str, Any]) -> int:
        """UTF-8 bytes of all text in an entry of `choices`."""
        raise NotImplementedError
