"""A provider in a thread of this process that speaks every dialect, answers from a script and keeps what it was asked.

The request's `model` names the script, with or without the `our-` of the gateway's aliases, so that the same client can
be pointed at it directly. A script gives what is said to a request (`Said`), so that a tool's result can be answered
with a text. Members that the official SDKs do not know are refused, as providers do.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs
from anthropic.types.beta.message_count_tokens_params import MessageCountTokensParams
from anthropic.types.beta.message_create_params import MessageCreateParamsStreaming
from openai.types import chat
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as TextParams

from . import answers
from .answers import Said

DIALECTS = {
    "/v1/chat/completions": (answers.chat_stream, answers.chat_whole),
    "/v1/messages": (answers.messages_stream, answers.messages_whole),
    "/v1/responses": (answers.responses_stream, answers.responses_whole),
    "/v1/completions": (answers.completions_stream, answers.completions_whole),
}
KNOWN: Mapping[str, Any] = {
    "/v1/chat/completions": ChatParams.__annotations__,
    "/v1/completions": TextParams.__annotations__,
    "/v1/messages": MessageCreateParamsStreaming.__annotations__,
    "/v1/messages/count_tokens": MessageCountTokensParams.__annotations__,
}
KNOWN_IN_CHAT: Mapping[str, Any] = {
    "assistant": chat.ChatCompletionAssistantMessageParam.__annotations__,
    "developer": chat.ChatCompletionDeveloperMessageParam.__annotations__,
    "system": chat.ChatCompletionSystemMessageParam.__annotations__,
    "tool": chat.ChatCompletionToolMessageParam.__annotations__,
    "user": chat.ChatCompletionUserMessageParam.__annotations__,
}
COUNTED = 417
"""The answer of `count_tokens`."""
PAUSE = 0.0005
"""Seconds between two events."""


@attrs.frozen
class Refusal:
    """An answer that is an error."""

    status: int
    message: str
    headers: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Asked:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


def unknown(path: str, body: Mapping[str, Any]) -> list[str]:
    """The members that nobody would know."""
    found = sorted(set(body) - set(KNOWN.get(path, body)))
    for message in body["messages"] if path == "/v1/chat/completions" else ():
        found += [f"messages.{name}" for name in set(message) - set(KNOWN_IN_CHAT[message["role"]])]
    return found


Script = Callable[[Asked], Said | Refusal]


@attrs.define
class Provider:
    """Where it is, and what it was asked, in order."""

    url: str
    scripts: Mapping[str, Script]
    asked: list[Asked] = attrs.field(factory=list)

    def answer(self, asked: Asked) -> Said | Refusal:
        """What the script says."""
        self.asked.append(asked)
        script = self.scripts.get(asked.body.get("model", "").removeprefix("our-"))
        return script(asked) if script else Refusal(404, f"no script {asked.body.get('model')!r}")

    def since(self, mark: int) -> list[Asked]:
        """What was asked after so many requests."""
        return self.asked[mark:]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    provider: Provider

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            models = [{"id": f"our-{name}", "object": "model", "created": 0} for name in self.provider.scripts]
            self._whole(200, {"object": "list", "data": models})
        else:
            self._refuse(self.path, Refusal(404, f"nothing at {self.path}"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = Asked(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        path = self.path.partition("?")[0]
        odd = unknown(path, body)
        said = Refusal(400, f"Extra inputs are not permitted: {odd}") if odd else self.provider.answer(asked)
        if isinstance(said, Refusal):
            self._refuse(path, said)
        elif path == "/v1/messages/count_tokens":
            self._whole(200, {"input_tokens": COUNTED})
        elif path not in DIALECTS:
            self._refuse(path, Refusal(404, f"nothing at {path}"))
        elif body.get("stream"):
            self._stream(DIALECTS[path][0](said, body))
        else:
            self._whole(200, DIALECTS[path][1](said, body))

    def _refuse(self, path: str, refusal: Refusal) -> None:
        kind = {429: "rate_limit_error", 404: "not_found_error"}.get(refusal.status, "invalid_request_error")
        error: dict[str, Any] = {"type": kind, "message": refusal.message}
        if path.startswith("/v1/messages"):
            self._whole(refusal.status, {"type": "error", "error": error}, refusal.headers)
        else:
            self._whole(refusal.status, {"error": {**error, "param": None, "code": None}}, refusal.headers)

    def _whole(self, status: int, document: Any, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, events: Iterator[answers.Event]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events:
            piece = answers.sse(iter([event]))
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            time.sleep(PAUSE)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@contextmanager
def serving(scripts: Mapping[str, Script]) -> Iterator[Provider]:
    """A provider that serves while the block runs."""
    handler = type("Handler", (_Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        handler.provider = Provider(f"http://127.0.0.1:{server.server_address[1]}", scripts)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield handler.provider  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join(60)
