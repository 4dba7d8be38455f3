"""What an SDK read, gathered from its objects, and how that differs from an expectation.

Parts of strings are joined as any accumulating caller joins them, so a name that was sent twice shows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

JsonObject = Mapping[str, Any]
COUNTERS = ("input", "output", "cache_read", "cache_write", "reasoning")
REASONING = ("reasoning_content", "reasoning", "thinking")


@attrs.define
class Tool:
    """One tool call."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    def add(self, id: str | None, function: JsonObject, tolerant: bool) -> None:
        """A part of it; a tolerant reader takes id and name once only."""
        name = function.get("name")
        self.id = self.id if tolerant and self.id else self.id + (id or "")
        self.name = self.name if tolerant and self.name else self.name + (name or "")
        self.arguments += function.get("arguments") or ""


@attrs.define
class Choice:
    """What was read of one choice."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tools: dict[Any, Tool] = attrs.field(factory=dict)
    function: Tool | None = None
    finish_reason: str | None = None

    def add(self, said: JsonObject, tolerant: bool) -> None:
        """A delta, or a whole message."""
        self._add_content(said.get("content"))
        self.reasoning += next((said[name] for name in REASONING if isinstance(said.get(name), str) and said[name]), "")
        self.refusal += said.get("refusal") or ""
        for position, call in enumerate(said.get("tool_calls") or ()):
            key = call.get("index")
            if key is None:
                key = call.get("id") or position
            self.tools.setdefault(key, Tool()).add(call.get("id"), call.get("function") or {}, tolerant)
        if said.get("function_call"):
            self.function = self.function or Tool()
            self.function.add(None, said["function_call"], tolerant)

    def _add_content(self, content: Any) -> None:
        if isinstance(content, str):
            self.text += content
        for part in content if isinstance(content, list) else ():
            self.text += part.get("text") or ""
            for thought in part.get("thinking") or ():
                self.reasoning += thought.get("text") or ""


@attrs.define
class Reading:
    """What was read of one answer. `error` is what the SDK raised, after what it had read till then."""

    tolerant: bool = False
    choices: dict[int, Choice] = attrs.field(factory=dict)
    usage: dict[str, int] = attrs.field(factory=dict)
    models: set[str] = attrs.field(factory=set)
    ids: set[str] = attrs.field(factory=set)
    error: Exception | None = None

    def add(self, answer: JsonObject) -> None:
        """A chunk, or a whole answer."""
        self.models.add(answer.get("model") or "")
        self.ids.add(answer.get("id") or "")
        for choice in answer.get("choices") or ():
            read = self.choices.setdefault(choice.get("index") or 0, Choice())
            read.add(choice.get("delta") or choice.get("message") or {}, self.tolerant)
            read.finish_reason = choice.get("finish_reason") or read.finish_reason
        if answer.get("usage"):
            self.usage = counters(answer["usage"])

    def read(self, chunks: Iterable[Any]) -> Reading:
        """All the SDK's objects, up to its error."""
        import openai

        try:
            for chunk in chunks:
                self.add(plain(chunk))
        except openai.OpenAIError as error:
            self.error = error
        return self


def plain(answer: Any) -> dict[str, Any]:
    """An SDK's object as a dictionary, members that it does not know included."""
    made: dict[str, Any] = answer.model_dump(exclude_unset=True, warnings=False)
    return made


def counters(usage: JsonObject) -> dict[str, int]:
    """The counters of a chat `usage` object; what is absent is 0."""
    prompt, completion = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    return {
        "input": usage.get("prompt_tokens") or 0,
        "output": usage.get("completion_tokens") or 0,
        "cache_read": prompt.get("cached_tokens") or 0,
        "cache_write": prompt.get("cache_write_tokens") or 0,
        "reasoning": completion.get("reasoning_tokens") or 0,
    }


def differences(reading: Reading, expected: JsonObject, *, usage: bool = True) -> list[str]:
    """In what a reading is not the expectation, in words; nothing when it equals it."""
    wanted = expected.get("choices") or {"0": expected}
    found = [
        f"choice {index}: {text}"
        for index, choice in wanted.items()
        for text in _choice_differences(reading.choices.get(int(index), Choice()), choice)
    ]
    extra = set(reading.choices) - {int(index) for index in wanted}
    found += [f"choices nobody expected: {sorted(extra)}"] if extra else []
    if usage:
        figures = expected.get("usage") or {}
        want = {name: figures.get(name) or 0 for name in COUNTERS}
        have = {name: reading.usage.get(name) or 0 for name in COUNTERS}
        found += [f"usage {have} instead of {want}"] if have != want else []
    return found


def _choice_differences(read: Choice, wanted: JsonObject) -> list[str]:
    found = []
    for name, text in (("text", read.text), ("reasoning", read.reasoning), ("refusal", read.refusal)):
        if not same_text(text, wanted.get(name)):
            found.append(f"{name} {text!r} instead of {wanted.get(name)}")
    calls, want = list(read.tools.values()), wanted.get("tool_calls") or []
    if len(calls) != len(want) or not all(map(_same_call, calls, want)):
        found.append(f"tool calls {calls} instead of {want}")
    function = wanted.get("function_call")
    if (read.function is None) != (not function) or (read.function and not _same_call(read.function, function)):
        found.append(f"function call {read.function} instead of {function}")
    reason = wanted.get("finish_reason")
    if read.finish_reason != reason and not (reason is None and read.finish_reason == "stop"):
        found.append(f"finish reason {read.finish_reason} instead of {reason}")
    return found


def same_text(text: str, wanted: Any) -> bool:
    """Whether a text is the expected one, given as text or by its digest; nothing expected is the empty text."""
    if not wanted:
        return not text
    if "text" in wanted and text != wanted["text"]:
        return False
    return "sha256" not in wanted or digest(text) == wanted["sha256"]


def _same_call(call: Tool, wanted: Any) -> bool:
    if call.name != wanted.get("name") or call.id != (wanted.get("id") or ""):
        return False
    arguments = wanted.get("arguments") or {}
    try:
        value = json.loads(call.arguments)
        written = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except ValueError:
        value = call.arguments
        written = json.dumps(value, ensure_ascii=False)
    if "value" in arguments and value != arguments["value"]:
        return bool(arguments.get("empty")) and not call.arguments
    return "sha256" not in arguments or digest(written) == arguments["sha256"] or bool(arguments.get("empty"))


def digest(text: str) -> str:
    """As the expectations have it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
