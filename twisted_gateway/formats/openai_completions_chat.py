"""Legacy completions through chat, where a model has them switched on (`translation.md` section 8)."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from twisted_gateway.exchange import Call
from twisted_gateway.formats.bodies import Members, member, refuse, size
from twisted_gateway.formats.neutral import Event, Finished, Prompt, Said, Text, Turn
from twisted_gateway.formats.openai_encoder import AnswerEncoder, dump
from twisted_gateway.formats.row import Told

DIALECT = "openai_completions"
_DEFAULT_MAX_TOKENS = 16
_NAMES = (
    "model prompt stream max_tokens temperature top_p top_k stop n user suffix echo best_of logprobs stream_options"
)
_READ = frozenset(_NAMES.split())
"""Members that a field of the prompt stands for, and those of legacy completions alone."""
_REASONS = {"stop", "length", "content_filter"}
_PREFIX = re.compile(r"(?:chatcmpl|cmpl|msg|gen|resp)[-_]")


def prompt(call: Call) -> Prompt:
    """The call as a chat prompt; raises `Refused` (400) for what chat cannot do."""
    found: Members = dict(call.extra)
    _refuse_legacy(found)
    limit: int | None = member(found, "max_tokens", int | None, None)
    choices: int | None = member(found, "n", int | None, None)
    stop = member(found, "stop", str | list[str] | None, None)
    return Prompt(
        dialect=DIALECT,
        turns=(Turn("user", (Text(_prompt(found)),)),),
        stream=call.stream,
        max_tokens=_DEFAULT_MAX_TOKENS if limit is None else limit,
        temperature=member(found, "temperature", float | None, None),
        top_p=member(found, "top_p", float | None, None),
        top_k=member(found, "top_k", int | None, None),
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        user=member(found, "user", str | None, None),
        choices=1 if choices is None else choices,
        extra={name: raw for name, raw in found.items() if name not in _READ and bytes(raw) != b"null"},
    )


def _prompt(found: Members) -> str:
    given = member(found, "prompt", Any, None)
    if given is None:
        refuse("missing `prompt` field", "prompt")
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if isinstance(given, str):
        return given
    several = isinstance(given, list) and all(isinstance(one, str) for one in given)
    what = "several prompts are" if several else "prompt as tokens is"
    return refuse(f"{what} not supported for this model", "prompt")


def _refuse_legacy(found: Members) -> None:
    """What only the legacy endpoint can do, and would be missed."""
    if member(found, "suffix", str | None, None):
        refuse("suffix is not supported for this model", "suffix")
    if member(found, "echo", bool | None, None):
        refuse("echo is not supported for this model", "echo")
    if (member(found, "best_of", int | None, None) or 0) > 1:
        refuse("best_of greater than 1 is not supported for this model", "best_of")


class CompletionsEncoder(AnswerEncoder):
    """Writes one answer. Text is all there is: roles, reasoning and refusals have no place in this dialect."""

    chunk_kind = whole_kind = "text_completion"

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._letters = told.letters
        self._texts: dict[int, list[str]] = {}
        self._reasons: dict[int, str] = {}
        self.shown_bytes = 0

    def id_of(self, given: str) -> str:
        """See `AnswerEncoder`: `cmpl-` and the provider's id without its prefix (`translation.md` section 6)."""
        return "cmpl-" + (_PREFIX.sub("", given, count=1) if _PREFIX.match(given) else given or self._letters)

    def write(self, event: Event) -> None:
        """See `AnswerEncoder`."""
        match event:
            case Said(text, index) if text:
                self.shown_bytes += size(text)
                texts = self._texts.setdefault(index, [])
                if self.stream:
                    self._entry(index, dump(text), b"null")
                else:
                    texts.append(text)
            case Finished(reason, choice=index):
                self._finish(index, reason)

    def passed(self, text_bytes: int) -> None:
        """See `row.Encoder`."""
        self.shown_bytes += text_bytes

    def close(self) -> None:
        """See `AnswerEncoder`."""
        for index in self._texts if self._texts or self._reasons else (0,):
            self._finish(index, "stop")

    def choices(self) -> list[dict[str, Any]]:
        """See `AnswerEncoder`."""
        return [
            {"text": "".join(self._texts.get(index, ())), "index": index, "logprobs": None, "finish_reason": reason}
            for index, reason in sorted(self._reasons.items())
        ]

    def _finish(self, index: int, reason: str) -> None:
        if index in self._reasons:
            return
        self._reasons[index] = reason = reason if reason in _REASONS else "stop"
        self._entry(index, b'""', msgspec.json.encode(reason))

    def _entry(self, index: int, text: bytes, reason: bytes) -> None:
        if self.stream:
            self.chunk(b'{"text":%b,"index":%d,"logprobs":null,"finish_reason":%b}' % (text, index, reason))
