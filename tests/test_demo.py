"""The demo provider: what it says, when it says it, and that nothing of it is left when the caller goes."""

import json

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from twisted_gateway import demo

from .doubles.timers import timers

HELLO = {"model": "any/name", "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "Hi there"}]}


class Talk:
    """One connection to a demo provider, in memory."""

    def __init__(self, ttft_ms: float = 100, words_per_second: float = 10) -> None:
        self.clock = Clock()
        self.transport = StringTransport()
        provider = demo.DemoProvider(self.clock, ttft_ms, words_per_second, lambda: 1_760_000_000.5)
        self.channel = provider.site().buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def ask(self, body: object, path: str = "/v1/chat/completions", method: str = "POST") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
        self.channel.dataReceived(head.encode() + data)

    def run(self, seconds: float = 60) -> None:
        for _ in range(int(seconds * 100)):
            self.clock.advance(0.01)

    def head(self) -> str:
        return self.transport.value().partition(b"\r\n\r\n")[0].decode().lower()

    def body(self) -> bytes:
        payload = self.transport.value().partition(b"\r\n\r\n")[2]
        return unchunk(payload) if "transfer-encoding: chunked" in self.head() else payload

    def frames(self) -> list[str]:
        return [block.removeprefix("data: ") for block in self.body().decode().split("\n\n") if block]


def unchunk(payload: bytes) -> bytes:
    body = b""
    while payload:
        size, _, rest = payload.partition(b"\r\n")
        body, payload = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


def asked(body: object, path: str = "/v1/chat/completions", method: str = "POST") -> Talk:
    talk = Talk()
    talk.ask(body, path, method)
    talk.run()
    return talk


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_whole_chat_answer(prefix: str) -> None:
    talk = asked(HELLO, prefix + "/chat/completions")
    answer = json.loads(talk.body())
    assert talk.head().startswith("http/1.1 200")
    assert "content-type: application/json" in talk.head()
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "any/name"
    assert answer["created"] == 1_760_000_000
    assert '"Hi there"' in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == len(answer["choices"][0]["message"]["content"].split())


def test_streamed_chat_answer() -> None:
    talk = asked(HELLO | {"stream": True, "stream_options": {"include_usage": True}})
    *chunks, done = talk.frames()
    objects = [json.loads(chunk) for chunk in chunks]
    whole = json.loads(asked(HELLO).body())
    assert "content-type: text/event-stream" in talk.head()
    assert done == "[DONE]"
    assert objects[0]["choices"][0]["delta"]["role"] == "assistant"
    assert (
        "".join(item["choices"][0]["delta"].get("content", "") for item in objects[:-1])
        == (whole["choices"][0]["message"]["content"])
    )
    assert [item["choices"][0]["finish_reason"] for item in objects[:-1]] == [None] * (len(objects) - 2) + ["stop"]
    assert objects[-1]["choices"] == []
    assert objects[-1]["usage"] == whole["usage"]
    assert all(item["usage"] is None for item in objects[:-1])
    assert len({item["id"] for item in objects}) == 1
    assert len(objects) == 1 + whole["usage"]["completion_tokens"] + 2


def test_stream_without_usage_has_no_usage_member() -> None:
    objects = [json.loads(chunk) for chunk in asked(HELLO | {"stream": True}).frames()[:-1]]
    assert all("usage" not in item and item["choices"] for item in objects)


def test_streamed_completion() -> None:
    call = {"model": "m", "prompt": ["first", "Why?"], "stream": True, "stream_options": {"include_usage": True}}
    *chunks, done = asked(call, "/v1/completions").frames()
    objects = [json.loads(chunk) for chunk in chunks]
    assert done == "[DONE]"
    assert '"Why?"' in "".join(item["choices"][0]["text"] for item in objects[:-1])
    assert objects[0]["object"] == "text_completion"
    assert objects[0]["id"].startswith("cmpl-")
    assert objects[-2]["choices"][0] == {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}
    assert objects[-1]["choices"] == []


def test_whole_completion() -> None:
    answer = json.loads(asked({"model": "m", "prompt": "Why?"}, "/completions").body())
    assert answer["object"] == "text_completion"
    assert '"Why?"' in answer["choices"][0]["text"]


def test_words_come_by_the_clock() -> None:
    talk = Talk(ttft_ms=150, words_per_second=20)
    talk.ask(HELLO | {"stream": True})
    talk.clock.advance(0.149)
    assert talk.transport.value() == b""
    talk.clock.advance(0.002)
    assert len(talk.frames()) == 2  # the role, the first word
    for number in range(1, 6):
        talk.clock.advance(0.05)
        assert len(talk.frames()) == 2 + number


def test_whole_answer_comes_when_its_last_word_is_due() -> None:
    talk = Talk(ttft_ms=100, words_per_second=10)
    talk.ask(HELLO)
    words = len(demo.answer_text("Hi there").split())
    talk.clock.advance(0.1 + (words - 1) / 10 - 0.01)
    assert talk.transport.value() == b""
    talk.clock.advance(0.02)
    assert talk.head().startswith("http/1.1 200")


def test_no_speed_means_at_once() -> None:
    talk = Talk(ttft_ms=0, words_per_second=0)
    talk.ask(HELLO | {"stream": True})
    for _ in range(100):
        talk.clock.advance(0)
    assert talk.frames()[-1] == "[DONE]"


@pytest.mark.parametrize("before", [0.0, 0.55])
@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_who_leaves_stops_the_timer(stream: bool, before: float) -> None:
    talk = Talk()
    talk.ask(HELLO | {"stream": stream})
    for _ in range(int(before * 100)):
        talk.clock.advance(0.01)
    written = talk.transport.value()
    talk.channel.connectionLost(Failure(ConnectionDone()))
    assert timers(talk.clock) == []
    talk.run(5)
    assert talk.transport.value() == written


def test_a_finished_answer_leaves_no_timer() -> None:
    talk = asked(HELLO | {"stream": True})
    talk.channel.connectionLost(Failure(ConnectionDone()))
    assert timers(talk.clock) == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        {},
        {"model": 1, "messages": HELLO["messages"]},
        {"model": "m"},
        {"model": "m", "messages": []},
        {"model": "m", "messages": ["x"]},
        HELLO | {"stream": "yes"},
        HELLO | {"stream": 1},
        HELLO | {"stream": True, "stream_options": [1]},
    ],
    ids=repr,
)
def test_bad_bodies(body: object) -> None:
    talk = asked(body)
    error = json.loads(talk.body())["error"]
    assert talk.head().startswith("http/1.1 400")
    assert error["type"] == "invalid_request_error"
    assert error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/nothing", 404), ("GET", "/v1/completions", 405), ("POST", "/models", 405)]
)
def test_wrong_paths_and_methods(method: str, path: str, status: int) -> None:
    talk = asked(b"", path, method)
    assert talk.head().startswith(f"http/1.1 {status}")
    assert json.loads(talk.body())["error"]["type"] == "invalid_request_error"


def test_models() -> None:
    models = json.loads(asked(b"", "/v1/models", "GET").body())
    assert models["object"] == "list"
    assert {entry["object"] for entry in models["data"]} == {"model"}


def test_the_question_is_cut_and_may_be_parts() -> None:
    parts = [{"type": "text", "text": "a  b\n" * 60}, {"type": "image_url", "image_url": {}}]
    text = json.loads(asked({"model": "m", "messages": [{"role": "user", "content": parts}]}).body())["choices"][0]
    question = text["message"]["content"].split('"')[1]
    assert question.startswith("a b a b")
    assert len(question) == demo.QUESTION_CHARS


def test_a_lone_surrogate_does_no_harm() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}'
    assert '"?"' in json.loads(asked(body).body())["choices"][0]["message"]["content"]
