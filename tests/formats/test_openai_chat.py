"""Chat as a dialect: first events, whole answers, answers unfolded into a stream, and real recordings joined again."""

import hashlib
import json
from contextlib import suppress

import pytest

from twisted_gateway.errors import Problem, StrayFrame
from twisted_gateway.formats.openai_chat import DONE, FORMAT, judge, passage, unfolded
from twisted_gateway.wire.sse import Frame, Reader, encode

from ..doubles.recordings import cuts, each_recording
from .making import LETTERS, NOW, chat_call, chunk, chunks_tube, dumps, framed, joined, say, target, written

GOOD = {
    "id": "c1",
    "object": "chat.completion",
    "created": 5,
    "model": "gpt-4o-2024",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hi"}, "logprobs": None, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4, "x": {"y": 1}},
    "system_fingerprint": "fp",
}


@pytest.mark.parametrize(
    ("data", "stream", "verdict"),
    [
        (dumps(say("a")), True, True),
        (dumps(chunk()), True, True),
        (b"[DONE]", True, True),
        (b" [DONE] ", True, True),
        (b"ping", True, False),
        (b"", True, False),
        (b"[]", True, False),
        (b'{"x":1}', True, False),
        (b'"x"', True, False),
        (b'{"choices":[],"error":null}', True, True),
        (b"{", True, 502),
        (b"[1", True, 502),
        (b'{"error":{"message":"m"}}', True, 502),
        (b'{"error":{"message":"m","code":429}}', True, 429),
        (b'{"error":"m"}', True, 502),
        (dumps(GOOD), False, True),
        (b"[]", False, 502),
        (b"[DONE]", False, 502),
        (b"ping", False, 502),
        (b'{"x":1}', False, 502),
        (b"null", False, 502),
        (b'{"error":{"message":"m","code":404}}', False, 404),
    ],
)
def test_first_events(data, stream, verdict):
    found = judge(chat_call(stream=stream), Frame(data))
    assert (found.status if isinstance(found, Problem) else found) == verdict
    if isinstance(found, Problem) and b"error" not in data:
        assert found.type == "upstream_decode_error"


def whole(answer, shown="gpt"):
    data = answer if isinstance(answer, bytes) else dumps(answer)
    tube = passage(chat_call(stream=False), target(), shown, NOW, lambda: LETTERS)
    (frame,) = tube.received([Frame(data, b"", data)])
    assert tube.stopped(True) == []
    assert tube.complete
    assert encode(frame) == frame.data, "a body, not an event"
    return frame.data, tube


def test_a_whole_answer_keeps_all_but_the_name():
    data, tube = whole(GOOD)
    assert data == dumps(GOOD).replace(b"gpt-4o-2024", b"gpt")
    assert (tube.usage.prompt, tube.usage.completion, tube.finish_reason, tube.text_bytes) == (3, 1, "stop", 2)
    assert (tube.provider_request_id, tube.provider_model) == ("c1", "gpt-4o-2024")


@pytest.mark.parametrize("shown", ["gpt", None, 'q"', "gpt-4o-2024"])
@pytest.mark.parametrize(
    ("given", "more"),
    [
        ({}, {}),
        ({"model": None}, {}),
        ({"model": "gpt"}, {}),
        ({"error": None}, {}),
        ({"usage": None}, {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}),
        ({"usage": "x"}, {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}),
        ({"extra": {"model": "gpt-4o-2024"}}, {}),
        ({"choices": None}, {}),
        ({"choices": [None, 5, {"message": None}]}, {}),
    ],
)
def test_whole_answers(given, more, shown):
    answer = GOOD | given
    expected = {name: value for name, value in (answer | more).items() if name != "error"}
    if shown is not None:
        expected["model"] = shown
    for data in (dumps(answer), dumps(answer, spaced=True), json.dumps(answer, indent=1).encode()):
        assert json.loads(whole(data, shown)[0]) == expected


def test_an_untouched_answer_is_the_same_bytes():
    data = json.dumps(GOOD, indent=2).replace("5,", "5.0e0,").encode()
    assert whole(data, None)[0] == data


def test_a_whole_answer_with_broken_utf8():
    data = dumps(GOOD).replace(b"hi", b"h\xff")
    assert json.loads(whole(data, None)[0])["choices"][0]["message"]["content"] == "h\ufffd"


def test_unfolded_is_a_stream_a_caller_can_join():
    calls = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "function": {"name": "g", "arguments": ""}},
    ]
    first = {
        "index": 0,
        "message": {"role": "assistant", "content": "hi", "tool_calls": calls},
        "finish_reason": "tool_calls",
        "x": 1,
    }
    second = {"index": 1, "message": {"role": "assistant", "content": "ho"}, "finish_reason": None}
    frames = unfolded(dumps(GOOD | {"choices": [first, second]}))
    assert frames[-1] == DONE
    tube = chunks_tube()
    seen = written([*tube.received(frames), *tube.stopped(True)])
    assert seen[-1] == "[DONE]"
    assert seen[-2] == {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "gpt",
        "system_fingerprint": "fp",
        "choices": [],
        "usage": GOOD["usage"],
    }
    found = joined(seen[:-1])
    assert found[0] == {
        "delta": {
            "role": "assistant",
            "content": "hi",
            "tool_calls": {0: calls[0], 1: calls[1] | {"function": {"name": "g", "arguments": ""}}},
        },
        "finish_reason": "tool_calls",
    }
    assert found[1] == {"delta": {"role": "assistant", "content": "ho"}, "finish_reason": "stop"}
    assert tube.complete
    assert tube.ended


@pytest.mark.parametrize(
    "choices",
    [
        5,
        "x",
        {"a": 1},
        [None],
        ["x"],
        [{"message": "x"}],
        [{"message": {"tool_calls": ["x"]}}],
        [{"message": {"tool_calls": [None]}}],
    ],
)
def test_what_cannot_be_unfolded(choices):
    with pytest.raises(StrayFrame):
        unfolded(dumps(GOOD | {"choices": choices}))


@pytest.mark.parametrize("choices", [None, []])
def test_unfolding_no_choices(choices):
    assert unfolded(dumps(GOOD | {"choices": choices, "usage": None})) == [DONE]


def test_the_row():
    assert (FORMAT.name, FORMAT.protocol, FORMAT.heartbeat(True), FORMAT.heartbeat(False)) == (
        "openai_chat",
        "openai",
        b":\n\n",
        b":\n\n",
    )
    assert passage(chat_call(), target(), "gpt", NOW, lambda: LETTERS).held == 0


# Recordings


def relayed(pieces, usage_shown=True):
    """What the caller reads of a stream that came in these pieces, and the tube."""
    tube, reader, out = chunks_tube(usage_shown), Reader(), []
    for piece in pieces:
        out += map(encode, tube.received(reader.received(piece)))
    out += map(encode, tube.received(reader.ended()))
    if tube.complete and tube.failure is None:
        out += map(encode, tube.stopped(True))
    return b"".join(out), tube


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def told(value):
    """A text of the expectation: its digest, or that of nothing."""
    return value["sha256"] if value else digest("")


def text_of(content):
    if isinstance(content, list):  # Mistral's parts
        return "".join(part.get("text") or "" for part in content if part.get("type") != "thinking")
    return content or ""


def thoughts_of(delta):
    content = delta.get("content")
    parts = [part for part in content if part.get("type") == "thinking"] if isinstance(content, list) else []
    inner = "".join(piece.get("text") or "" for part in parts for piece in part["thinking"])
    return (delta.get("reasoning_content") or "") + inner


@each_recording("openai-chat", "stream")
def test_recordings(recording):
    """Read again by the joined deltas, a relayed recording says what the official SDK read in the original."""
    data, tube = relayed([recording.body])
    seen = written([Frame(b"", b"", data)])
    assert seen[-1] == "[DONE]"
    objects = seen[:-1]
    assert all(one["model"] == "gpt" and one["object"] == "chat.completion.chunk" for one in objects)
    assert len({(one["id"], one["created"]) for one in objects if not one.get("prompt_filter_results")}) == 1
    expected = recording.read
    choices = joined([one for one in objects if not _has_parts(one)])
    wanted = expected.get("choices") or {"0": expected}
    deltas = {
        index: [entry["delta"] for one in objects for entry in one["choices"] if entry["index"] == int(index)]
        for index in wanted
    }
    for index, want in wanted.items():
        assert digest("".join(text_of(delta.get("content")) for delta in deltas[index])) == told(want["text"])
        assert digest("".join(map(thoughts_of, deltas[index]))) == told(want["reasoning"])
        assert digest("".join(delta.get("refusal") or "" for delta in deltas[index])) == told(want["refusal"])
        assert deltas[index][0]["role"] == "assistant"
        assert not any("role" in delta for delta in deltas[index][1:])
        reasons = [
            entry["finish_reason"] for one in objects for entry in one["choices"] if entry["index"] == int(index)
        ]
        assert next((reason for reason in reversed(reasons) if reason), None) == want["finish_reason"]
        calls = choices.get(int(index), {"delta": {}})["delta"].get("tool_calls", {})
        assert [_tool(call) for call in calls.values()] == [_wanted(call) for call in want["tool_calls"]]
    usage, want = tube.usage, expected["usage"] or {}
    counters = {
        "input": usage.prompt,
        "output": usage.completion,
        "total": usage.total,
        "cache_read": usage.cache_read,
        "reasoning": usage.reasoning,
    }
    assert {name: counters[name] for name in want if name in counters} == {
        k: v for k, v in want.items() if k in counters
    }
    assert tube.provider_model == expected["model"]
    assert tube.provider_request_id == expected["id"]


def _has_parts(one):
    return any(isinstance(entry["delta"].get("content"), list) for entry in one["choices"])


def _tool(call):
    arguments = call["function"].get("arguments", "")
    with suppress(ValueError):
        arguments = json.loads(arguments)
    return call["id"], call["function"]["name"], arguments


def _wanted(call):
    given = call["arguments"]
    return call["id"], call["name"], given["value"] if given["valid_json"] else ""


@each_recording("openai-chat", "stream")
def test_recordings_at_any_cut(recording):
    data = recording.body
    expected, _ = relayed([data])
    for pieces in cuts(data):
        assert relayed(pieces)[0] == expected


@each_recording("odd-framings", "stream", "openai-chat")
def test_odd_recordings(recording):
    data, tube = relayed([recording.body])
    for pieces in cuts(recording.body):
        assert relayed(pieces)[0] == data
    seen = written([Frame(b"", b"", data)])
    joined_choices = joined(seen)
    want = recording.read
    assert digest("".join(c["delta"].get("content", "") for c in joined_choices.values())) == told(want["text"])
    assert not tube.complete or tube.failure is not None
    assert "[DONE]" not in seen
    error = recording.expect.get("sdk_error")
    if error is None:
        assert tube.failure is None or tube.failure.type == "upstream_decode_error"  # cut in the middle of an event
    else:
        assert tube.failure.message == error["message"]
        assert tube.failure.frame_type == "upstream_in_band_error"


@each_recording("openai-chat", "json")
def test_recorded_whole_answers(recording):
    original = json.loads(recording.body)
    data, tube = whole(recording.body)
    assert json.loads(data) == original | {"model": "gpt"}
    assert tube.finish_reason == recording.read["finish_reason"]
    assert (tube.usage.prompt, tube.usage.completion) == (
        recording.read["usage"]["input"],
        recording.read["usage"]["output"],
    )


def test_a_frame_is_one_write_of_its_own():
    tube = chunks_tube()
    out = tube.received(framed(say("a"), say("b"), say("c")))
    assert [encode(frame).count(b"\n\n") for frame in out] == [1, 1, 1]
