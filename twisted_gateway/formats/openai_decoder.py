"""Answers of the OpenAI family as neutral events: what chat and legacy completions have in common.

What is an error, noise or a stray frame here is the same on the native road (`openai_chunks`).
"""

from __future__ import annotations

from typing import Any

from twisted_gateway.errors import StrayFrame
from twisted_gateway.exchange import Usage
from twisted_gateway.formats import openai_errors
from twisted_gateway.formats.bodies import read, size
from twisted_gateway.formats.learning import Learning
from twisted_gateway.formats.neutral import (
    Arguments,
    Began,
    Calling,
    Counted,
    Declined,
    Ended,
    Event,
    Finished,
    Mused,
    Said,
)
from twisted_gateway.formats.openai_delta import MOST
from twisted_gateway.formats.openai_usage import read_usage
from twisted_gateway.wire.sse import Frame

_TEXTS = (Said, Mused, Declined, Arguments)


class ChoiceReader:
    """Reads the entries of one choice. `finished` once its `Finished` was given."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.finished = False

    def read(self, entry: dict[str, Any], events: list[Event]) -> None:
        """One entry of `choices`, of a stream or a whole answer: what it says, then why it ended, if it did."""
        self.say(entry, events)
        reason = entry.get("finish_reason")
        if isinstance(reason, str) and reason and not self.finished:
            self.finish(reason, _stop_sequence(entry), events)

    def say(self, entry: dict[str, Any], events: list[Event]) -> None:
        """What the entry says."""
        raise NotImplementedError

    def finish(self, native: str | None, stop_sequence: str | None, events: list[Event]) -> None:
        """The end of the choice; `native` None where the provider gave no reason."""
        self.finished = True
        events.append(Finished(self.reason(native or "stop"), stop_sequence, native, self.index))

    def reason(self, native: str) -> str:
        """The provider's reason in neutral words."""
        return native


class AnswerDecoder(Learning):
    """A `row.Decoder`, of a stream or of a whole body as one frame."""

    def __init__(self, stream: bool) -> None:
        self.usage = Usage()
        self._stream = stream
        self._begun = False
        self._choices: dict[int, ChoiceReader] = {}

    def new_choice(self, index: int) -> ChoiceReader:
        """The reader of a choice that is seen for the first time."""
        raise NotImplementedError

    def received(self, frames: list[Frame]) -> list[Event]:
        """The events of these frames; none after the end marker or an error."""
        events: list[Event] = []
        for frame in frames:
            if self.ended or self.failure is not None:
                break
            if self._stream:
                self._read_chunk(frame.data.strip(), events)
            else:
                self._read_whole(frame.data, events)
        self._learn(events)
        return events

    def passed(self, text_bytes: int) -> None:
        """See `row.Decoder`."""
        self.text_bytes += text_bytes

    def stopped(self) -> list[Event]:
        """The ends that the provider did not tell of: the answer is whole by its end marker alone."""
        events: list[Event] = []
        for choice in self._choices.values():
            if not choice.finished:
                choice.finish(None, None, events)
        return events

    def _read_chunk(self, data: bytes, events: list[Event]) -> None:
        if data[:1] == b"{":
            self._read(read(data)[0], events)
        elif data == b"[DONE]":
            self._end(events)
        elif data:
            if data[:1] == b"[":
                read(data)
            self.noise += 1

    def _read_whole(self, data: bytes, events: list[Event]) -> None:
        answer = read(data)[0]
        if not isinstance(answer, dict):
            raise StrayFrame("not a JSON object")
        self._read(answer, events)
        if self.failure is None:
            if self.noise:
                raise StrayFrame("no choices in it")
            self._end(events)

    def _end(self, events: list[Event]) -> None:
        events += self.stopped()
        events.append(Ended())
        self.complete = self.ended = True

    def _read(self, answer: dict[str, Any], events: list[Event]) -> None:
        self.failure = openai_errors.in_band(answer)
        if self.failure is not None:
            read_usage(self.usage, answer.get("usage"))
            return
        if "choices" not in answer:
            self.noise += 1
            return
        choices = answer["choices"]
        entries = choices if isinstance(choices, list) else []
        if not self._begun:
            self._begin(answer, entries, events)
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise StrayFrame(f"choices[{position}] is not an object")
            self._choice(entry).read(entry, events)
        was_complete, self.complete = self.complete, self._is_complete()
        counted = self._count(answer, events)
        if was_complete and counted and not entries:
            self._end(events)  # the usage chunk behind the finish is the last one (`translation.md` 5.4)

    def _is_complete(self) -> bool:
        return bool(self._choices) and all(choice.finished for choice in self._choices.values())

    def _begin(self, answer: dict[str, Any], entries: list[Any], events: list[Event]) -> None:
        """`Began`, from the first chunk that has an id or says something: Azure sends one before it without."""
        given, model, created = answer.get("id"), answer.get("model"), answer.get("created")
        given = given if isinstance(given, str) else ""
        if not given and not entries:
            return
        self._begun = True
        self.provider_request_id = given or None
        self.provider_model = model if isinstance(model, str) and model else None
        known = isinstance(created, int) and not isinstance(created, bool) and created > 0
        events.append(Began(given, self.provider_model or "", created if known and isinstance(created, int) else 0))

    def _choice(self, entry: dict[str, Any]) -> ChoiceReader:
        index = entry.get("index")
        if not isinstance(index, int) or isinstance(index, bool):
            index = 0
        choice = self._choices.get(index)
        if choice is None:
            if len(self._choices) >= MOST:
                raise StrayFrame(f"more than {MOST} choices")
            choice = self._choices[index] = self.new_choice(index)
        return choice

    def _count(self, answer: dict[str, Any], events: list[Event]) -> bool:
        usage, groq = answer.get("usage"), answer.get("x_groq")
        if not usage and isinstance(groq, dict):
            usage = groq.get("usage")
        if not usage or not isinstance(usage, dict):
            return False
        read_usage(self.usage, usage)
        events.append(Counted())
        return True

    def _learn(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, _TEXTS):
                self.text_bytes += size(event.text)
            elif isinstance(event, Calling):
                self.text_bytes += size(event.name)
            elif isinstance(event, Finished) and event.native and (event.choice == 0 or self.finish_reason is None):
                self.finish_reason = event.native


def _stop_sequence(entry: dict[str, Any]) -> str | None:
    """The text that ended the choice, where a server tells it: vLLM and SGLang do."""
    for name in ("stop_reason", "matched_stop"):
        value = entry.get(name)
        if isinstance(value, str) and value:
            return value
    return None
