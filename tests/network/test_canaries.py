"""Nothing secret and nothing of a conversation gets into a log, a metric or a status page, whatever happens.

Strings that exist nowhere else are planted in keys, questions and answers; then every kind of call is made at the most
talkative log level, and everything that the process said is searched. (A provider's own error text is logged, by
`operations.md` 6.1; here it quotes nothing, except in the last test.)
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.doubles.process import GatewayFiles, GatewayProcess, resources

from .shipped import outcome, until
from .test_process import AISIX

CALLER = "canary-caller-key-5b1e"
STRANGER = "canary-stranger-key-77d0"
PROVIDER = "canary-provider-key-90aa"
QUESTION = "canary-question-c3f4"
ANSWER = "canary-answer-1d2e"
COOKIE = "canary-cookie-8e21"
CANARIES = (CALLER, STRANGER, PROVIDER, QUESTION, ANSWER, COOKIE)


def _kind(stream: bool) -> str:
    return "text/event-stream" if stream else "application/json"


class Provider(BaseHTTPRequestHandler):
    """Does what the upstream model's name says."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.headers["authorization"] == f"Bearer {PROVIDER}"
        getattr(self, "be_" + body["model"])(body.get("stream", False))
        self.close_connection = True

    def answer(self, status: int, body: bytes, kind: str = "application/json", length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body) if length is None else length))
        self.send_header("x-request-id", "provider-side-id")
        self.send_header("set-cookie", COOKIE)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def chunks(self, *texts: str) -> bytes:
        made = [{"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"} for _ in texts]
        for chunk, text in zip(made, texts, strict=True):
            chunk["choices"] = [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}]
        return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in made)

    def be_good(self, stream: bool) -> None:
        if stream:
            end = {"index": 0, "delta": {}, "finish_reason": "stop"}
            last = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [end]}
            body = self.chunks(ANSWER, ANSWER) + b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n"
            self.answer(200, body, "text/event-stream")
        else:
            message = {"role": "assistant", "content": ANSWER}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            self.answer(200, json.dumps(whole).encode())

    def be_refusing(self, stream: bool) -> None:
        self.answer(400, b'{"error": {"message": "this text is bad", "type": "invalid_request_error"}}')

    def be_quoting(self, stream: bool) -> None:
        error = {"message": f"Incorrect API key provided: {PROVIDER}", "type": "invalid_request_error"}
        self.answer(401, json.dumps({"error": error}).encode())

    def be_quoting_late(self, stream: bool) -> None:
        error = {"message": f"Key {PROVIDER} is used up", "type": "invalid_request_error"}
        first = self.chunks(ANSWER) if stream else b""
        prefix = b"data: " if stream else b""
        self.answer(200, first + prefix + json.dumps({"error": error}).encode() + b"\n\n", _kind(stream))

    def be_failing(self, stream: bool) -> None:
        self.answer(500, b"<html>Internal Server Error</html>", "text/html")

    def be_garbled(self, stream: bool) -> None:
        self.answer(200, f"data: {{{ANSWER}\n\n".encode() * 2, _kind(stream))

    def be_garbled_late(self, stream: bool) -> None:
        self.answer(200, self.chunks(ANSWER) + f"data: {{{ANSWER}\n\n".encode(), _kind(stream))

    def be_mistyped(self, stream: bool) -> None:
        body = json.dumps({"id": "c", "choices": {ANSWER: ANSWER}, "usage": ANSWER}).encode()
        self.answer(200, b"data: " + body + b"\n\n" if stream else body, _kind(stream))

    def be_broken(self, stream: bool) -> None:
        self.answer(200, self.chunks(ANSWER, ANSWER), "text/event-stream", length=10_000)

    def be_failing_late(self, stream: bool) -> None:
        error = b'data: {"error": {"message": "overloaded", "type": "server_error"}}\n\n'
        self.answer(200, self.chunks(ANSWER) + error, "text/event-stream")

    def be_slow(self, stream: bool) -> None:
        self.answer(200, self.chunks(ANSWER), "text/event-stream", length=10_000)
        time.sleep(60)  # a daemon's, which nobody waits for


KINDS = ("good", "refusing", "failing", "garbled", "garbled_late", "mistyped", "broken", "failing_late")
QUOTING = ("quoting", "quoting_late")


@pytest.fixture
def provider() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.fixture(params=["text", "json"])
def gateway(request: pytest.FixtureRequest, provider: str, tmp_path: Path) -> Iterator[GatewayProcess]:
    document = resources(provider, key=CALLER)
    document["provider_keys"][0]["api_key"] = PROVIDER
    (model,) = document["models"]
    document["models"] = [{**model, "display_name": kind, "model_name": kind} for kind in (*KINDS, *QUOTING, "slow")]
    dead = {**document["provider_keys"][0], "display_name": "dead", "api_base": "http://127.0.0.1:1/v1"}
    document["provider_keys"].append(dead)
    document["models"].append({**model, "display_name": "dead", "provider_key": "dead"})
    changes = {"observability": {"log_level": "debug", "log_format": request.param}}
    with GatewayProcess(GatewayFiles(tmp_path, document, changes)) as running:
        yield running


def call(gateway: GatewayProcess, model: Any, stream: bool, key: str = CALLER, **more: Any) -> requests.Response:
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": QUESTION}], **more}
    headers = {"Authorization": f"Bearer {key}", "Cookie": f"session={COOKIE}"}
    return requests.post(f"{gateway.base_url}/v1/chat/completions", json=body, headers=headers, timeout=120)


def leave_early(gateway: GatewayProcess, model: str, stream: bool) -> None:
    body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": QUESTION}]}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-api-key: {CALLER}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.files.port), 60) as caller:
        caller.sendall(head.encode() + body)
        time.sleep(0.3)


def broken_requests(gateway: GatewayProcess) -> None:
    """Requests that are no good, with canaries where somebody might print them."""
    ours = {"Authorization": f"Bearer {CALLER}", "Content-Type": "application/json"}
    url = f"{gateway.base_url}/v1/chat/completions"
    for body in (
        b'{"model": "good", "messages": [{"content": "' + QUESTION.encode(),
        b"\xff" + QUESTION.encode(),
        b"[" * 5000 + QUESTION.encode(),
        json.dumps({"messages": QUESTION}).encode(),
        json.dumps({"model": "good", "messages": [], "stream": QUESTION}).encode(),
        json.dumps({"model": "good", "messages": [QUESTION], "temperature": QUESTION}).encode(),
    ):
        assert requests.post(url, data=body, headers=ours, timeout=60).status_code == 400
    for headers in (
        {"Authorization": f"Bearer {STRANGER}"},
        {"Authorization": f"Basic {STRANGER}"},
        {"x-api-key": STRANGER},
        {"Authorization": STRANGER},
    ):
        assert requests.post(url, json={"model": "good"}, headers=headers, timeout=60).status_code == 401
    requests.get(f"{gateway.base_url}/v1/models?api_key={STRANGER}", timeout=60)
    requests.get(f"{gateway.base_url}/nowhere?key={STRANGER}", headers=ours, timeout=60)
    with socket.create_connection(("127.0.0.1", gateway.files.port), 60) as caller:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer {CALLER}\r\n folded\r\n\r\n"
        caller.sendall(head.encode())
        caller.recv(1000)
    with socket.create_connection(("127.0.0.1", gateway.files.port), 60) as caller:
        caller.sendall(f"{QUESTION} {STRANGER}\r\n\r\n".encode())
        caller.recv(1000)


def bad_reload(gateway: GatewayProcess) -> None:
    """A file that is refused, with secrets where they do not belong."""
    files = gateway.files
    good = files.resources_path.read_text()
    document = resources("http://x", key=CALLER)
    document["provider_keys"][0] |= {"api_key": {PROVIDER: PROVIDER}, "api_base": [PROVIDER]}
    document["api_keys"] += [
        {"display_name": "a", "key": [CALLER], "allowed_models": CALLER},
        {"display_name": "b", "key_hash": CALLER, "key": CALLER, "allowed_models": ["*"]},
        {"display_name": "c", "key_hash": CALLER, "allowed_models": ["*"]},
        {"display_name": "d", "key": CALLER, "allowed_models": ["*"]},
    ]
    files.resources_path.write_text(json.dumps(document))
    refused = gateway.stderr.count("reload refused")
    gateway.hup()
    until(lambda: gateway.stderr.count("reload refused") > refused, lambda: gateway.stderr)
    told = outcome((*AISIX, "validate", "--resources", str(files.resources_path)), files.folder)
    assert told.returncode == 1
    assert not [canary for canary in CANARIES if canary in told.stdout + told.stderr], told.stderr
    files.resources_path.write_text(good)


def leaks(text: str) -> list[str]:
    """The lines that hold a canary."""
    return [line for line in text.splitlines() if any(canary in line for canary in CANARIES)]


def test_nothing_leaks(gateway: GatewayProcess) -> None:
    for kind in KINDS:
        for stream in (True, False):
            answer = call(gateway, kind, stream)
            assert not [each for each in (PROVIDER, COOKIE) if each in answer.text + str(answer.headers)]
            if kind == "good":
                assert ANSWER in answer.text
    for stream in (True, False):
        assert call(gateway, "dead", stream).status_code in (502, 503)
        assert call(gateway, "no-such-model", stream).status_code == 404
        leave_early(gateway, "slow", stream)
    broken_requests(gateway)
    shown = ""
    for _ in range(2):
        for path in ("/metrics", "/status/config", "/status/ready", "/status/models"):
            page = requests.get(gateway.metrics_url + path, timeout=60)
            assert page.status_code == 200
            shown += page.text
        bad_reload(gateway)
    until(lambda: gateway.stderr.count("abandoned") >= 2, lambda: gateway.stderr)
    gateway.term()
    assert gateway.wait() == 0
    said = gateway.stdout + gateway.stderr + shown
    assert leaks(said) == []
    assert gateway.stderr.count("proxy request completed") > 20
    assert "Traceback" not in said


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", QUOTING)
def test_a_provider_that_quotes_its_key(gateway: GatewayProcess, kind: str, stream: bool) -> None:
    """Its credential goes neither downstream nor into the log."""
    answer = call(gateway, kind, stream)
    assert leaks(answer.text.replace(ANSWER, "")) == []
    gateway.term()
    assert gateway.wait() == 0
    assert leaks(gateway.stderr) == []
