"""What a stream keeps while it runs: not its prompt, however long that was."""

import gc
import json
import tracemalloc

import pytest

from bench.inside import FRAMES, HEAD, Inside, chunk
from bench.targets import CALLER_KEY

MEGABYTE = 1 << 20
PROMPT = 2 * MEGABYTE


def _events(*events):
    return [b"event: %b\ndata: %b\n\n" % (one["type"].encode(), json.dumps(one).encode()) for one in events]


MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "mock"}
ANTHROPIC = _events(
    {"type": "message_start", "message": {**MESSAGE, "usage": {"input_tokens": 9, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
)
RESPONSE = {"id": "resp_1", "object": "response", "status": "in_progress", "model": "mock", "output": []}
RESPONSES = _events(
    {"type": "response.created", "sequence_number": 0, "response": RESPONSE},
    {"type": "response.output_text.delta", "sequence_number": 1, "item_id": "a", "output_index": 0,
     "content_index": 0, "delta": "Hello"},
)  # fmt: skip
COMPLETION = {"id": "c", "object": "text_completion", "created": 1, "model": "mock"}
CHOICE = {"index": 0, "text": "Hello", "finish_reason": None}
COMPLETIONS = [b"data: %b\n\n" % json.dumps({**COMPLETION, "choices": [CHOICE]}).encode()]

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
ROADS = {
    "chat": (CHAT, "mock", FRAMES[:3]),
    "chat, translated": (CHAT, "mock-anthropic", ANTHROPIC),
    "messages": (MESSAGES, "mock-anthropic", ANTHROPIC),
    "messages, translated": (MESSAGES, "mock", FRAMES[:3]),
    "responses": ("/v1/responses", "mock", RESPONSES),
    "completions": ("/v1/completions", "mock", COMPLETIONS),
}


def _request(path, model):
    long = "word " * (PROMPT // 5)
    said = {"/v1/responses": {"input": long}, "/v1/completions": {"prompt": long}}
    body = {"model": model, "stream": True, "max_tokens": 99}
    body |= said.get(path, {"messages": [{"role": "user", "content": long}]})
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {CALLER_KEY}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data


def _kept(inside, path, model, reads):
    """Bytes that one more running stream takes; `reads` is how much of its answer has come."""
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    caller, out = inside.caller()
    caller.dataReceived(_request(path, model))
    provider, sent = inside.provider()
    assert len(sent.take()) > PROMPT
    for read in reads:
        provider.dataReceived(read)
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0] - before
    return kept, out.take(), caller


@pytest.fixture
def inside(tmp_path):
    tracemalloc.start()
    yield Inside(tmp_path)
    tracemalloc.stop()


@pytest.mark.parametrize(("path", "model", "frames"), ROADS.values(), ids=ROADS)
def test_a_stream_that_has_begun_keeps_nothing_of_its_prompt(inside, path, model, frames):
    budget = inside.house.site.budget
    kept, said, _caller = _kept(inside, path, model, [HEAD])
    assert (kept > PROMPT, said) == (True, b""), "another target might still have to be asked"
    assert budget.used > PROMPT
    before = budget.used
    kept, said, _caller = _kept(inside, path, model, [HEAD, *map(chunk, frames)])
    assert b"Hello" in said or b"token" in said
    assert kept < MEGABYTE / 4
    assert budget.used == before, "its bytes are free for others"
