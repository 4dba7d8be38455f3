"""Texts that pass a translation by: never another answer than without, and most frames of a text are not decoded."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twisted_gateway.errors import StrayFrame
from twisted_gateway.formats import anthropic, openai_chat, openai_completions, openai_responses
from twisted_gateway.formats.neutral import Prompt
from twisted_gateway.formats.row import Told
from twisted_gateway.formats.translation import Translation
from twisted_gateway.line import Line
from twisted_gateway.wire.sse import Frame, Reader, TooLong, encode

from ..doubles.cutting import by_sizes
from ..exchanges import call
from .making import ROLE, choice, chunk, dumps, say, target


def translation(speaks, format):
    told = Told(
        call(body=b"{}", extra={}), Prompt("x", (), stream=True), target(), "gpt", 1.0, "x" * 24, lambda: "0" * 32
    )
    return Translation(speaks.decoder(True, None), format.encoder(told))


def chat(*texts):
    """A chat answer with these texts."""
    ends = [chunk(choice({}, "stop")), chunk(usage={"prompt_tokens": 3, "completion_tokens": 4}), b"[DONE]"]
    return [b"data: " + (one if isinstance(one, bytes) else dumps(one)) + b"\n\n" for one in (ROLE, *texts, *ends)]


def event(kind, **more):
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), dumps({"type": kind, **more}))


def delta(text, index=0, kind="text", name="text"):
    return event("content_block_delta", index=index, delta={"type": f"{kind}_delta", name: text})


def block(index=0, kind="text", **more):
    return event("content_block_start", index=index, content_block={"type": kind, **more})


def messages(*frames):
    """An Anthropic answer with these frames in it."""
    message = {"id": "msg_1", "model": "c", "content": [], "usage": {"input_tokens": 3, "output_tokens": 1}}
    ends = [
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4}),
        event("message_stop"),
    ]
    return [event("message_start", message=message), block(text=""), *frames, *ends]


WAYS = {
    "chat to Anthropic": (openai_chat.FORMAT, anthropic.FORMAT),
    "chat to completions": (openai_chat.FORMAT, openai_completions.FORMAT),
    "chat to Responses": (openai_chat.FORMAT, openai_responses.FORMAT),
    "Anthropic to chat": (anthropic.FORMAT, openai_chat.FORMAT),
    "Anthropic to Responses": (anthropic.FORMAT, openai_responses.FORMAT),
}


def meaning(data):
    return [(f.event, json.loads(f.data) if f.data[:1] == b"{" else f.data) for f in Reader().received(data)]


def check(speaks, format, frames, sizes=()):
    stream = b"".join(frames)
    slow = translation(speaks, format)
    exact = b"".join(encode(made) for frame in Reader().received(stream) for made in slow.received([frame]))
    exact += b"".join(map(encode, slow.stopped(slow.complete)))
    fast = translation(speaks, format)
    line = Line(Reader(), fast)
    quick, count, events = b"", 0, 0
    for piece in by_sizes(stream, sizes):
        batch = line.read(piece)
        assert batch.frames == batch.data.count(b"\n\n")
        quick, count, events = quick + batch.data, count + batch.frames, events + batch.events
    assert meaning(quick + line.stopped(fast.complete).data) == meaning(exact)
    for name in ("complete", "ended", "finish_reason", "usage", "noise", "text_bytes"):
        assert getattr(fast, name) == getattr(slow, name), name
    assert fast.shown_bytes == slow.shown_bytes
    assert (fast.failure is None) == (slow.failure is None)


TEXTS = [
    "a",
    "Hello",
    "",
    "text",
    "content",
    "gpt",
    "ä",
    "\u2028",
    "\n",
    '"',
    "\\",
    "x" * 300,
    "\U0001f600",
    "}}",
    "stop",
]
texts = st.one_of(
    st.sampled_from(TEXTS), st.text(max_size=6).map(lambda text: text.encode("utf-8", "replace").decode())
)
ODD_CHUNKS = [
    say("a", index=1),
    chunk(choice({"reasoning_content": "hm"})),
    chunk(choice({"content": "a", "tool_calls": [{"index": 0, "function": {"arguments": "{"}}]})),
    chunk(choice({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]})),
    chunk(choice({"refusal": "no"})),
    chunk(choice({"content": "a"}, "length")),
    say("a", usage={"prompt_tokens": 9}),
    b"ping",
    {"error": {"message": "m"}},
    b'{"choices":',
]
ODD_EVENTS = [
    event("ping"),
    event("content_block_stop", index=0),
    block(1, text="more"),
    delta("b", 1),
    block(2, "thinking", thinking=""),
    delta("hm", 2, "thinking", "thinking"),
    delta("sig", 2, "signature", "signature"),
    block(3, "tool_use", id="t", name="f", input={}),
    delta('{"a":', 3, "input_json", "partial_json"),
    delta("a").replace(b"}\n", b"}   \n"),
    event("error", error={"message": "m"}),
    b": c\n\n",
]


@settings(deadline=None, max_examples=500)
@given(
    way=st.sampled_from(sorted(WAYS)),
    said=st.lists(st.tuples(texts, st.integers(0, 40)), max_size=14),
    groups=st.lists(st.integers(1, 900), max_size=8),
    by_frames=st.booleans(),
)
def test_texts_that_pass_change_nothing(way, said, groups, by_frames):
    speaks, format = WAYS[way]
    if speaks is openai_chat.FORMAT:
        frames = [ODD_CHUNKS[odd] if odd < len(ODD_CHUNKS) else say(text) for text, odd in said]
        frames = chat(*frames)
    else:
        frames = messages(*[ODD_EVENTS[odd] if odd < len(ODD_EVENTS) else delta(text) for text, odd in said])
    check(speaks, format, frames, [len(frame) for frame in frames] if by_frames else groups)


class Counting:
    """Counts the frames that a decoder is given."""

    def __init__(self, decoder):
        self.seen, self._received = 0, decoder.received
        decoder.received = self

    def __call__(self, frames):
        self.seen += len(frames)
        return self._received(frames)


@pytest.mark.parametrize("way", ["chat to Anthropic", "chat to completions", "Anthropic to chat"])
@pytest.mark.parametrize("paced", [True, False])
def test_most_texts_are_not_decoded(way, paced):
    speaks, format = WAYS[way]
    said = [f"w{number} " + "\n" * (number % 3 == 1) for number in range(100)]
    frames = chat(*map(say, said)) if speaks is openai_chat.FORMAT else messages(*map(delta, said))
    passage = translation(speaks, format)
    counted, line = Counting(passage._decoder), Line(Reader(), passage)
    for read in frames if paced else [b"".join(frames)]:
        line.read(read)
    assert counted.seen < 12
    assert passage.complete
    check(speaks, format, frames)


def test_who_never_writes_the_same_way_is_not_learnt_from_for_ever():
    passage = translation(openai_chat.FORMAT, anthropic.FORMAT)
    for number in range(50):
        passage.received([Frame(dumps(say("a", x=number)), b"", b"data: " + dumps(say("a", x=number)) + b"\n\n")])
    assert passage._shape is None


def test_an_event_that_is_too_long_is_told_as_before():
    line = Line(Reader(400), translation(openai_chat.FORMAT, anthropic.FORMAT))
    for frame in chat(say("a"), say("b"))[:3]:
        line.read(frame)
    with pytest.raises(TooLong):
        line.read(b"data: " + dumps(say("x" * 500)))


def test_broken_json_like_the_last_frame_is_not_passed():
    passage = translation(openai_chat.FORMAT, anthropic.FORMAT)
    line = Line(Reader(), passage)
    frames = chat(say("a"), say("b"))
    for frame in frames[:3]:
        line.read(frame)
    line.read(frames[2].replace(b'"b"', b'"\\q"'))
    assert passage.failure is not None
    with pytest.raises(StrayFrame):
        translation(openai_chat.FORMAT, anthropic.FORMAT)._decoder.received([Frame(b'{"choices":[5]}')])
