"""The embedded demo provider: a small OpenAI-compatible upstream, so that the gateway can be tried without a key.

The gateway reaches it as it reaches every provider, over HTTP on a loopback port. Pure functions make what it says;
`DemoProvider` plays it, by the clock that it is given. The texts are short, so nothing here watches backpressure.
"""

from __future__ import annotations

import json
import re
import secrets
import string
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from twisted_gateway.facts import frozen

Kind = Literal["chat", "completions"]
Step = tuple[float, bytes]  # seconds after the request, and what to write then

KINDS: dict[str, Kind] = {"/chat/completions": "chat", "/completions": "completions"}
QUESTION_CHARS = 80


class BadRequest(Exception):
    """The caller's body cannot be answered; the text says why."""


@frozen
class Question:
    """What a request asks for."""

    kind: Kind
    model: str
    text: str
    prompt_tokens: int
    stream: bool
    include_usage: bool


@frozen
class Answer:
    """What is said to a question, before it is put into any shape."""

    question: Question
    id: str
    created: int
    words: tuple[str, ...]

    def object(self, kind: str, choices: list[dict[str, Any]], **more: object) -> bytes:
        """One JSON object of the answer, whole or chunk."""
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.question.model}
        return dump({**head, "choices": choices, **more})

    def usage(self) -> dict[str, Any]:
        """Tokens as OpenAI reports them; one word is one token here."""
        prompt, completion = self.question.prompt_tokens, len(self.words)
        counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return counts | {"prompt_tokens_details": {"cached_tokens": 0}}


def new_id(kind: Kind) -> str:
    """An id of the shape that OpenAI gives to answers of this kind."""
    alphabet = string.ascii_letters + string.digits
    return ("chatcmpl-" if kind == "chat" else "cmpl-") + "".join(secrets.choice(alphabet) for _ in range(29))


def dump(value: object) -> bytes:
    """Compact JSON, as providers send it; a lone surrogate becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def error_body(message: str) -> bytes:
    """An error as OpenAI words it."""
    return dump({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}})


def _require(good: bool, otherwise: str) -> None:
    if not good:
        raise BadRequest(otherwise)


def read_question(kind: Kind, body: bytes) -> Question:
    """Understand a request body, or raise `BadRequest`."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("We could not parse the JSON body of your request.") from None
    _require(isinstance(call, dict), "The body of your request must be a JSON object.")
    model, options = call.get("model"), call.get("stream_options") or {}
    _require(isinstance(model, str) and model != "", "you must provide a model parameter")
    _require(type(call.get("stream", False)) in (bool, type(None)), "Invalid type for 'stream': expected a boolean.")
    _require(isinstance(options, dict), "Invalid type for 'stream_options': expected an object.")
    texts = _texts(call.get("messages") if kind == "chat" else _as_messages(call.get("prompt")))
    question = next((text for role, text in reversed(texts) if role == "user"), texts[-1][1])
    size = sum(len(text.encode("utf-8", "replace")) for _, text in texts)
    stream, usage = call.get("stream") is True, options.get("include_usage") is True
    return Question(kind, model, question, -(-size // 4), stream, usage)


def _as_messages(prompt: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": text} for text in (prompt if isinstance(prompt, list) else [prompt])]


def _texts(messages: Any) -> list[tuple[str, str]]:
    good = isinstance(messages, list) and messages and all(isinstance(item, dict) for item in messages)
    _require(bool(good), "Expected an array of at least one message or prompt.")
    return [(str(item.get("role")), _content_text(item.get("content"))) for item in messages]


def _content_text(content: object) -> str:
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return " ".join(text for text in texts if isinstance(text, str))


def answer_text(question: str) -> str:
    """The short text that mentions the question."""
    asked = " ".join(question.split())[:QUESTION_CHARS]
    return (
        f'You asked: "{asked}". This is the demo provider, so no model has thought about it: '
        "give the gateway a provider key of your own and the same call reaches a real one."
    )


def answer(question: Question, id: str, created: int) -> Answer:
    """Decide what to say, a word and the space behind it being one token."""
    return Answer(question, id, created, tuple(re.findall(r"\S+\s*", answer_text(question.text))))


def whole_body(said: Answer) -> bytes:
    """The answer as one JSON object."""
    chat, text = said.question.kind == "chat", "".join(said.words)
    content = {"message": {"role": "assistant", "content": text, "refusal": None}} if chat else {"text": text}
    choice = {"index": 0, **content, "logprobs": None, "finish_reason": "stop"}
    return said.object("chat.completion" if chat else "text_completion", [choice], usage=said.usage())


def frames(said: Answer) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """The answer as SSE frames: what comes before the first word, one for each word, what comes after the last."""
    chat, wants_usage = said.question.kind == "chat", said.question.include_usage
    kind = "chat.completion.chunk" if chat else "text_completion"

    def frame(choices: list[dict[str, Any]], usage: object = None) -> bytes:
        return b"data: " + said.object(kind, choices, **({"usage": usage} if wants_usage else {})) + b"\n\n"

    def choice(content: dict[str, Any], reason: str | None = None) -> bytes:
        delta: dict[str, Any] = {"delta": content} if chat else {"text": content.get("content", "")}
        return frame([{"index": 0, **delta, "logprobs": None, "finish_reason": reason}])

    first = [choice({"role": "assistant", "content": "", "refusal": None})] if chat else []
    last = [choice({}, "stop"), *([frame([], said.usage())] if wants_usage else []), b"data: [DONE]\n\n"]
    return first, [choice({"content": word}) for word in said.words], last


def models_body() -> bytes:
    """The list of models; any other name is answered too."""
    names = ("demo-chat", "demo-instruct")
    return dump(
        {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": 0, "owned_by": "demo"} for name in names],
        }
    )


def schedule(said: Answer, ttft_ms: float, words_per_second: float) -> list[Step]:
    """What to write and when: a word at a time when streamed, else everything when the last word would be due."""
    pause = 1 / words_per_second if words_per_second > 0 else 0.0
    due = [ttft_ms / 1000 + number * pause for number in range(len(said.words))]
    if not said.question.stream:
        return [(due[-1], whole_body(said))]
    first, words, last = frames(said)
    words[0] = b"".join([*first, words[0]])
    words[-1] = b"".join([words[-1], *last])
    return list(zip(due, words, strict=True))


class _Playing:
    """Writes one answer by the clock; its only timer goes at once when the caller does."""

    def __init__(self, reactor: IReactorTime, request: Request, steps: Sequence[Step]) -> None:
        self._reactor, self._request, self._steps = reactor, request, list(reversed(steps))
        self._started = reactor.seconds()
        self._timer = self._armed()
        request.notifyFinish().addErrback(self._left)

    def _armed(self) -> IDelayedCall:
        due = self._started + self._steps[-1][0] - self._reactor.seconds()
        return self._reactor.callLater(max(0.0, due), self._play)

    def _play(self) -> None:
        self._request.write(self._steps.pop()[1])
        if self._steps:
            self._timer = self._armed()
        else:
            self._request.finish()

    def _left(self, _reason: Failure) -> None:
        self._timer.cancel()


class _Site(Site):
    def log(self, request: HTTPRequest) -> None:
        """No access line: the gateway writes one for every call itself."""


class DemoProvider(Resource):
    """The provider as a whole: every path of it, with or without `/v1`, and the site to put behind a port.

    `now` gives seconds since the epoch; the reactor's own may be any.
    """

    isLeaf = True

    def __init__(
        self,
        reactor: IReactorTime,
        ttft_ms: float = 150,
        words_per_second: float = 20,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reactor, self._ttft_ms, self._words_per_second, self._now = reactor, ttft_ms, words_per_second, now

    def site(self) -> Site:
        """What to listen with."""
        return _Site(self, parsePOSTFormSubmission=False, timeout=120, reactor=self._reactor)  # type: ignore[no-untyped-call]

    def render(self, request: Request) -> int | bytes:
        """Answer a request, or begin to."""
        path = request.path.decode("ascii", "replace").removeprefix("/v1")
        if path != "/models" and path not in KINDS:
            return _whole(request, 404, error_body("Unknown request URL."))
        if request.method != (b"GET" if path == "/models" else b"POST"):
            return _whole(request, 405, error_body("Not allowed for this URL."))
        try:
            return _whole(request, 200, models_body()) if path == "/models" else self._begin(KINDS[path], request)
        except BadRequest as error:
            return _whole(request, 400, error_body(str(error)))

    def _begin(self, kind: Kind, request: Request) -> int:
        question = read_question(kind, request.content.read() if request.content else b"")
        said = answer(question, new_id(kind), int(self._now()))
        request.setHeader(b"content-type", b"text/event-stream" if question.stream else b"application/json")
        _Playing(self._reactor, request, schedule(said, self._ttft_ms, self._words_per_second))
        return NOT_DONE_YET


def _whole(request: Request, status: int, body: bytes) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    return body
