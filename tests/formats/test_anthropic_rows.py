"""The Anthropic rows on every road: native over the recordings, crossed with chat, and what a call must be."""

import json
import re
from types import SimpleNamespace

import pytest

from twisted_gateway.config.resources import RequestEdits
from twisted_gateway.errors import Problem, Refused
from twisted_gateway.exchange import Call
from twisted_gateway.formats import anthropic, openai_chat
from twisted_gateway.formats.row import Told
from twisted_gateway.formats.translation import Translation
from twisted_gateway.line import Line
from twisted_gateway.wire.series import WholeBody
from twisted_gateway.wire.sse import Frame, Reader

from ..doubles.recordings import cuts, each_recording
from ..exchanges import Headers
from .anthropic_grammar import check, events_of
from .chat_making import place
from .making import LETTERS, NOW, dumps

JSON = Headers({"content-type": "application/json"})
HELLO = [{"role": "user", "content": "hi"}]
MODEL = re.compile(rb'"model":\s*"[^"]*"')


def call(**members):
    body = {"model": "alias", "max_tokens": 100, "messages": HELLO, **members}
    return anthropic.read_call(dumps(body), JSON)


def through(passage, pieces):
    """A stream's bytes for the caller, and whatever the end adds."""
    line = Line(Reader(), passage)
    out = b"".join(line.read(piece).data for piece in pieces)
    return out + (line.stopped(True).data if passage.complete else b"")


@each_recording("anthropic-messages", "stream")
def test_native_bytes_are_the_providers_own(recording):
    own = recording.body.replace(b"\r\n", b"\n")
    for pieces in cuts(recording.body, 1):
        passage = anthropic.passage(call(stream=True), place(), "alias", NOW, lambda: LETTERS)
        out = through(passage, pieces)
        assert passage.failure is None
        assert passage.complete
        assert MODEL.sub(b"", out, count=1) == MODEL.sub(b"", own, count=1)
        assert events_of(out)[0][1]["message"]["model"] == "alias"
        usage = recording.read["usage"]
        seen = passage.usage
        cached = (seen.cache_read, seen.cache_write)
        assert cached == (usage.get("cache_read", 0), usage.get("cache_write", 0))
        assert (seen.prompt - sum(cached), seen.completion) == (usage["input"], usage["output"])


@each_recording("anthropic-messages", "json")
def test_native_whole_answers(recording):
    passage = anthropic.passage(call(), place(), "alias", NOW, lambda: LETTERS)
    (frame,) = passage.received([Frame(recording.body, b"", recording.body)])
    given, told = json.loads(recording.body), json.loads(frame.data)
    assert told == {**given, "model": "alias"}
    assert passage.complete


def to_messages(recording, pieces, stream=True):
    """A chat recording as Messages; thinking is asked for."""
    asked = call(stream=stream, thinking={"type": "enabled", "budget_tokens": 2048})
    told = Told(asked, anthropic.prompt(asked), place(), "alias", NOW, LETTERS, lambda: "0" * 32)
    passage = Translation(openai_chat.FORMAT.decoder(True, None), anthropic.encoder(told))
    return through(passage, pieces), passage


def joined(events):
    """Blocks of a stream, put together as the SDK does it."""
    blocks = []
    for name, event in events:
        if name == "content_block_start":
            blocks.append(dict(event["content_block"]))
        elif name == "content_block_delta":
            delta = event["delta"]
            member = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "json"}.get(delta["type"])
            if member:
                blocks[-1][member] = blocks[-1].get(member, "") + next(v for k, v in delta.items() if k != "type")
    return blocks


@each_recording("openai-chat", "stream")
def test_chat_recordings_as_messages(recording):
    outs = set()
    for pieces in cuts(recording.body, 2):
        out, passage = to_messages(recording, pieces)
        assert passage.failure is None
        check(out)
        outs.add(out)
    assert len(outs) == 1
    blocks = joined(events_of(out))
    if "multi-choice" not in recording.categories:
        expected = recording.read["tool_calls"]
        called = [(block["id"], block["name"]) for block in blocks if block["type"] == "tool_use"]
        assert called == [(one["id"], one["name"]) for one in expected if one["id"]]
        text = (recording.read["text"] or {}).get("text")
        refusal = (recording.read["refusal"] or {}).get("text") or ""
        if text is not None:
            assert "".join(block["text"] for block in blocks if block["type"] == "text") == text + refusal


@each_recording("anthropic-messages", "stream")
def test_messages_recordings_as_chat(recording):
    body = {"model": "alias", "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    asked = openai_chat.read_call(dumps(body), JSON)
    outs = set()
    for pieces in cuts(recording.body, 3):
        told = Told(asked, openai_chat.FORMAT.prompt(asked), place(), "alias", NOW, LETTERS, lambda: "0" * 32)
        passage = Translation(anthropic.decoder(True), openai_chat.FORMAT.encoder(told))
        out = through(passage, pieces)
        assert passage.failure is None
        outs.add(out)
    assert len(outs) == 1
    chunks = [json.loads(line[6:]) for line in out.decode().split("\n") if line.startswith("data: {")]
    assert out.endswith(b"data: [DONE]\n\n")
    said = "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
    assert (recording.read["text"] or {}).get("text", said) == said
    usage, counted = recording.read["usage"], chunks[-1]["usage"]
    cached = usage.get("cache_read", 0) + usage.get("cache_write", 0)
    assert (counted["prompt_tokens"], counted["completion_tokens"]) == (usage["input"] + cached, usage["output"])


def test_the_end_of_a_whole_translated_answer():
    asked = call()
    told = Told(asked, anthropic.prompt(asked), place(), "alias", NOW, LETTERS, lambda: "0" * 32)
    passage = Translation(openai_chat.FORMAT.decoder(False, None), anthropic.encoder(told))
    answer = {
        "id": "c1",
        "model": "gpt",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}},
    }
    reader = WholeBody(0)
    reader.received(dumps(answer))
    assert passage.received(reader.ended()) == []
    (frame,) = passage.stopped(True)
    made = json.loads(frame.data)
    assert made["content"] == [{"type": "text", "text": "Hi"}]
    assert made["stop_reason"] == "max_tokens"
    assert made["usage"] == {"input_tokens": 2, "cache_read_input_tokens": 3, "output_tokens": 2}
    assert made["model"] == "alias"


INVALID = "request payload is invalid: "


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", INVALID + "invalid JSON request body"),
        (b"[]", INVALID + "invalid JSON request body"),
        (b'{"messages":[]}', INVALID + "`model` field missing"),
        (b'{"model":5}', INVALID + "`model` field missing"),
    ],
)
def test_bad_calls(body, message):
    with pytest.raises(Refused) as refused:
        anthropic.read_call(body, JSON)
    assert refused.value.problem.message == message


def test_a_stream_that_is_no_boolean_is_none():
    asked = call(stream="yes")
    assert asked.stream is False
    assert b"stream" not in anthropic.sent(asked, place("claude"), True).body


def test_native_request_keeps_its_bytes_and_loses_unsigned_thinking():
    raw = b'{"model":"alias","temperature":1.0e0,"x":{"a" : 1},"max_tokens":5,"messages":[]}'
    asked = anthropic.read_call(raw, JSON)
    made = anthropic.sent(asked, place("claude-x"), True)
    assert made.path == "/messages"
    assert made.body == raw.replace(b'"alias"', b'"claude-x"')
    thought = [
        {"type": "thinking", "thinking": "a", "signature": ""},
        {"type": "thinking", "thinking": "b", "signature": "Eq"},
        {"type": "text", "text": "c"},
    ]
    asked = call(messages=[*HELLO, {"role": "assistant", "content": thought}])
    made = json.loads(anthropic.sent(asked, place("claude-x"), True).body)
    assert made["messages"][1]["content"] == thought[1:]


@pytest.mark.parametrize(
    ("event", "data", "verdict"),
    [
        (b"message_start", b'{"type":"message_start","message":{}}', True),
        (b"", b"ping", False),
        (b"error", b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}', 529),
        (b"error", b'{"type":"error","error":{"type":"invalid_request_error","message":"x"}}', 400),
        (b"error", b'["busy"]', 502),
        (b"", b'{"type":', 502),
    ],
)
def test_the_first_event(event, data, verdict):
    judged = anthropic.judge(call(stream=True), Frame(data, event))
    assert (judged.status if isinstance(judged, Problem) else judged) == verdict


def test_counting():
    model = SimpleNamespace(display_name="m", count_tokens_estimate=False)
    asked = anthropic.read_count(dumps({"model": "m", "stream": True, "messages": HELLO}), JSON)
    assert isinstance(asked, Call)
    assert not asked.stream
    assert anthropic.COUNT_TOKENS.ready(asked, model, "openai") is None
    problem = anthropic.refuse_count(model, "openai", False)
    assert problem.status == 400
    assert "`m` is not backed by an Anthropic-protocol upstream" in problem.message
    model.count_tokens_estimate = True
    assert json.loads(anthropic.COUNT_TOKENS.ready(asked, model, "openai")) == {"input_tokens": 1}
    assert anthropic.COUNT_TOKENS.ready(asked, model, "anthropic") is None


def test_a_count_is_sent_without_defaults_that_it_would_be_refused_for():
    """It keeps the caller's own members, the key's renames, and defaults that change what it comes to."""
    edits = RequestEdits(
        default_body_fields={"max_tokens": 5, "top_k": 3, "system": "s", "tools": []}, param_renames={"thinking": "t"}
    )
    asked = anthropic.read_count(dumps({"model": "m", "tools": [1], "thinking": {}, "top_k": 2}), JSON)
    made = anthropic.sent_count(asked, place("claude-x", key={"request": edits}), True)
    assert made.path == "/messages/count_tokens"
    assert json.loads(made.body) == {"model": "claude-x", "tools": [1], "t": {}, "top_k": 2, "system": "s"}
    assert asked.prompt_bytes == 0, "no tokens are charged for a count"


@pytest.mark.parametrize(
    ("members", "size"),
    [
        ({"messages": [{"role": "user", "content": "h\u00e9"}]}, 3),
        ({"system": "abc", "messages": []}, 3),
        ({"system": [{"type": "text", "text": "abc"}], "messages": []}, 3),
        ({"messages": [], "tools": [{"name": "f"}]}, len('[{"name":"f"}]')),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"data": "x" * 9}}]}]}, 340),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_use", "name": "ff", "input": {"a": 1}}]},
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "content": [{"type": "text", "text": "abc"}]}],
                    },
                    {"role": "assistant", "content": [{"type": "thinking", "thinking": "abcd"}]},
                ]
            },
            2 + len('{"a":1}') + 3 + 4,
        ),
        ({"messages": 5}, 0),
    ],
)
def test_the_bytes_of_a_prompt(members, size):
    asked = anthropic.read_call(dumps({"model": "m", **members}), JSON)
    assert asked.prompt_bytes == size


def test_a_message_that_was_only_unsigned_thinking_is_left_out():
    thought = {"role": "assistant", "content": [{"type": "thinking", "thinking": "a", "signature": ""}]}
    asked = call(messages=[*HELLO, thought, *HELLO])
    assert json.loads(anthropic.sent(asked, place("claude-x"), True).body)["messages"] == [*HELLO, *HELLO]


@pytest.mark.parametrize(
    "messages", ["thinking", [5, {"thinking": 1}], [{"content": [["thinking"]], "role": "assistant"}]]
)
def test_messages_that_cannot_be_read_go_to_the_provider_as_they_are(messages):
    asked = call(messages=messages)
    assert json.loads(anthropic.sent(asked, place("claude-x"), True).body)["messages"] == messages


def test_heartbeats():
    assert anthropic.heartbeat(False) == b":\n\n"
    assert anthropic.heartbeat(True) == b':\n\nevent: ping\ndata: {"type": "ping"}\n\n'
