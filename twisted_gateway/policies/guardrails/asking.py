"""How a service is asked about texts, without any I/O: questions, answers, failures and what becomes of them.

A vendor's module is a `Service`: it turns texts into *questions*, generators that yield a `Request`, are sent its
`Answer`, and return a `Verdict`. `remote` asks them. `guardrails.md` 11 and 12.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import attrs
import msgspec

from twisted_gateway.facts import frozen
from twisted_gateway.policies.guardrails.verdict import ALLOW, Asked, Block, Bypass, Verdict

Fetch = Callable[[str, str, Sequence[tuple[str, str]], bytes, float], Awaitable[tuple[int, bytes]]]
"""`fetch(method, url, headers, body, seconds)` gives status and body of the answer, the whole call within the time.

It raises `TimeoutError`, or `ConnectionError` for whatever else kept a whole answer from coming.
"""

T = TypeVar("T")

TIMEOUT, THROTTLED, SERVER, CONFIG = "timeout", "throttled", "5xx", "config_error"
"""Ways to fail; behind the service's prefix they are the reasons of `guardrails.md` 12."""

OVERLAP = 256
"""Characters that two pieces of one text share, so that what stands on the cut is seen whole by one of them."""


@frozen
class Request:
    """What to send. No repr shows a key or a text."""

    url: str = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=False)


@frozen
class Answer:
    """What came back, whatever its status."""

    status: int
    body: bytes = attrs.field(repr=False)


class CheckFailed(Exception):
    """The service did not say what it thinks of the texts. `kind` is a way to fail; the text is for the log."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(detail)
        self.kind = kind


Question = Generator[Request, Answer, Verdict]


class Service(Protocol):
    """One service as one guardrail uses it. Pure."""

    prefix: str
    """What its bypass reasons begin with."""

    def questions(self, asked: Asked) -> Iterable[Question]:
        """All that must be asked about these texts; the questions do not depend on each other."""

    def joined(self, asked: Asked, verdicts: Sequence[Verdict]) -> Verdict:
        """One verdict of the verdicts on all questions, in their order; none of them is a block."""


@frozen
class FailureRule:
    """What a check that failed means (`guardrails.md` 12)."""

    fail_open: bool = True
    output_fail_open: bool = False
    mandatory: bool = False

    def verdict(self, hook: str, reason: str) -> Verdict:
        """Let the texts pass unchecked, or block them."""
        passes = self.fail_open if hook == "input" else self.output_fail_open
        return Bypass(reason) if passes and not self.mandatory else Block(reason, unavailable=True)


def failure_of(status: int) -> str | None:
    """The way to fail that a status means; None for the one that carries an answer."""
    if status == 200:
        return None
    if status == 429:
        return THROTTLED
    return SERVER if status >= 500 else CONFIG


def decoded(answer: Answer, shape: type[T]) -> T:
    """The JSON of a good answer, in its shape. Raises `CheckFailed` for any other answer."""
    kind = failure_of(answer.status)
    if kind is not None:
        raise CheckFailed(kind, f"status {answer.status}")
    try:
        return msgspec.json.decode(answer.body, type=shape)
    except (msgspec.DecodeError, RecursionError) as error:  # a text of msgspec's names a place, not what stands there
        raise CheckFailed(SERVER, f"the answer cannot be read: {type(error).__name__}") from None


def encoded(document: Any) -> bytes:
    """JSON for the wire. Half a surrogate pair, which no JSON can hold, becomes U+FFFD."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return msgspec.json.encode(_mended(document))


def _mended(part: Any) -> Any:
    if isinstance(part, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", part)
    if isinstance(part, dict):
        return {key: _mended(member) for key, member in part.items()}
    return [_mended(member) for member in part] if isinstance(part, list | tuple) else part


def whole(asked: Asked) -> str:
    """The texts as one, a line each (`guardrails.md` 2)."""
    return "\n".join(asked.texts)


def pieces(text: str, size: int, overlap: int = OVERLAP) -> list[tuple[int, str]]:
    """Cut a text for a service that takes `size` characters: each piece with its offset, all of the text in them."""
    if len(text) <= size:
        return [(0, text)]
    step = size - min(overlap, size // 2)
    starts = range(0, len(text) - size + step, step)
    return [(start, text[start : start + size]) for start in starts]


def post(url: str, document: Any, *headers: tuple[str, str]) -> Request:
    """A POST of JSON."""
    fixed = (("content-type", "application/json"), ("accept", "application/json"))
    return Request(url, encoded(document), (*fixed, *headers))


def bearer(key: str) -> tuple[str, str]:
    """The header of a bearer token."""
    return "authorization", f"Bearer {key}"


def all_clear(asked: Asked, verdicts: Sequence[Verdict]) -> Verdict:
    """For services that only block: nobody did."""
    return ALLOW


def only(asked: Asked, verdicts: Sequence[Verdict]) -> Verdict:
    """For services that are asked one question: its verdict."""
    return verdicts[0]


def spans_masked(texts: Sequence[str], spans: Iterable[tuple[int, int, str]]) -> tuple[str, ...]:
    """Replace spans of the texts joined by line feeds; a span over several of them leaves its token in the first.

    Spans (start, end, token) may come in any order; where they overlap the earlier one wins, the longer one first,
    and what sticks out of it goes too.
    """
    merged: list[tuple[int, int, str]] = []
    for start, end, token in sorted(spans, key=lambda span: (span[0], -span[1])):
        if merged and start < merged[-1][1]:
            before = merged[-1]
            merged[-1] = before[0], max(before[1], end), before[2]
        else:
            merged.append((start, end, token))
    done: list[str] = []
    at = 0
    for text in texts:
        out, here = [], 0
        for start, end, token in merged:
            first, last = max(start - at, 0), min(end - at, len(text))
            if first >= last:
                continue
            out += [text[here:first], token if start >= at else ""]
            here = last
        done.append("".join(out) + text[here:])
        at += len(text) + 1
    return tuple(done)
