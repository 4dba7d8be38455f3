"""The text of a frame, counted as the passages count it."""

import pytest

from twisted_gateway.exchange import Target
from twisted_gateway.formats import anthropic, openai_chat, openai_completions, openai_responses
from twisted_gateway.formats.texts import text_bytes
from twisted_gateway.wire.sse import Frame

from ..exchanges import call, model
from ..formats.making import choice, chunk, dumps
from ..test_gateway import WHOLE

TOOLS = [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": '{"é":1}'}}]
ITEMS = [
    {"type": "message", "content": [{"type": "output_text", "text": "héy"}]},
    {"type": "function_call", "name": "f", "arguments": "{}"},
]


@pytest.mark.parametrize(
    ("format", "stream", "answer"),
    [
        (openai_chat, True, chunk(choice({"content": "hé"}))),
        (openai_chat, True, chunk(choice({"reasoning_content": "why", "refusal": "no"}))),
        (openai_chat, True, chunk(choice({"tool_calls": TOOLS}))),
        (openai_chat, True, chunk(choice({"function_call": {"name": "f", "arguments": "{}"}}))),
        (openai_chat, True, chunk(usage={"prompt_tokens": 1, "completion_tokens": 1})),
        (openai_chat, False, WHOLE),
        (openai_completions, True, {"choices": [{"index": 0, "text": "hé", "finish_reason": None}]}),
        (anthropic, True, {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hé"}}),
        (anthropic, True, {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}}),
        (anthropic, False, {"type": "message", "content": [{"type": "text", "text": "hé"}], "stop_reason": "end_turn"}),
        (openai_responses, True, {"type": "response.output_text.delta", "delta": "hé"}),
        (openai_responses, True, {"type": "response.output_text.done", "text": "hé"}),
        (openai_responses, False, {"object": "response", "status": "completed", "output": ITEMS[:1]}),
    ],
)
def test_as_the_passages_count(format, stream, answer):
    passage = format.FORMAT.passage(call(stream=stream), Target(model(), "gpt-4o"), None, 0.0, lambda: "x" * 24)
    passage.received([Frame(dumps(answer))])
    assert text_bytes(answer) == passage.text_bytes


def test_what_says_nothing():
    assert text_bytes({}) == text_bytes({"choices": [None, 1, {"delta": 3}]}) == text_bytes({"type": 7}) == 0
    assert text_bytes({"type": "response.audio.delta", "delta": "AAAA"}) == 0
    assert text_bytes({"object": "response", "output": ITEMS}) == 4 + 2
