"""Any order of neutral events at all makes a legal Messages stream, the same as the whole answer, however it is cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from anthropic.types import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from twisted_gateway.exchange import Usage
from twisted_gateway.formats import anthropic, openai_chat
from twisted_gateway.formats.neutral import (
    Arguments,
    Called,
    Calling,
    Counted,
    Declined,
    Ended,
    Finished,
    Mused,
    Said,
)
from twisted_gateway.formats.translation import Translation
from twisted_gateway.wire.sse import Frame, Reader, encode

from .anthropic_grammar import check
from .making import dumps
from .messages_making import BEGAN, MUSING, accumulated, deltas, streamed, told, whole

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
ARGUMENTS = st.sampled_from(["", "{}"]) | st.dictionaries(TEXTS, VALUES, max_size=2).map(
    lambda value: json.dumps(value, ensure_ascii=False)
)


def pieces_of(draw: Any, text: str) -> list[str]:
    """A text, cut at up to three places."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[start:end] for start, end in itertools.pairwise([0, *places, len(text)])]


@st.composite
def answers(draw: Any) -> list[Any]:
    """Neutral events as a decoder may give them: pieces of calls, texts and reasoning in any order."""
    rests = [
        [Arguments(index, piece) for piece in pieces_of(draw, draw(ARGUMENTS))] + [Called(index)] * draw(st.booleans())
        for index in range(draw(st.integers(0, 3)))
    ]
    waiting, begun = list(enumerate(rests)), list[list[Any]]()
    events: list[Any] = [BEGAN] if draw(st.booleans()) else []
    words = st.builds(Said, TEXTS) | st.builds(Mused, TEXTS) | st.builds(Declined, TEXTS)
    for step in draw(st.lists(st.sampled_from("scaaa"), max_size=20)):
        if step == "s":
            events.append(draw(words))
        elif step == "c" and waiting:
            index, rest = waiting.pop(0)
            events.append(Calling(index, f"call_{index}", f"f{index}"))
            begun.append(rest)
        elif any(begun):
            events.append(draw(st.sampled_from([rest for rest in begun if rest])).pop(0))
    events += [event for rest in begun for event in rest]
    events += draw(st.sampled_from([[], *([Finished(one)] for one in ("stop", "length", "content_filter"))]))
    return [*events, *draw(st.sampled_from([[], [Counted()], [Counted(), Ended()]]))]


def said_by(events: Sequence[Any], kind: type) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def content(message: Message) -> list[dict[str, Any]]:
    """The blocks that an SDK read."""
    made: list[dict[str, Any]] = json.loads(message.model_dump_json(exclude_unset=True, warnings=False))["content"]
    return [{name: value for name, value in block.items() if name != "parsed_output"} for block in made]


@settings(deadline=None)
@given(answers(), st.booleans(), st.integers(0, 9))
def test_any_answer_is_legal_and_the_same_whole(events: list[Any], musing: bool, tokens: int) -> None:
    """The grammar is checked in `streamed`; the SDK's accumulation of the stream is the whole answer."""
    more = MUSING if musing else {}
    usage = Usage(prompt=tokens, completion=tokens)
    read, made = accumulated(streamed(events, usage, **more)), whole(events, usage, **more)
    assert content(read) == made["content"]
    assert (read.id, read.stop_reason, read.stop_sequence) == (made["id"], made["stop_reason"], made["stop_sequence"])
    assert (read.usage.input_tokens, read.usage.output_tokens) == (tokens, tokens)


@settings(deadline=None)
@given(answers())
def test_nothing_that_was_said_is_lost(events: list[Any]) -> None:
    found = deltas(events, **MUSING)
    spoken = [event for event in events if isinstance(event, Said | Declined)]
    assert "".join(one[2] for one in found if one[1] == "text_delta") == "".join(event.text for event in spoken)
    assert "".join(one[2] for one in found if one[1] == "thinking_delta") == said_by(events, Mused)
    blocks = [one for one in found if one[0] == "start" and one[2]["type"] == "tool_use"]
    for _, at, block in blocks:
        index = int(block["id"].removeprefix("call_"))
        written = "".join(event.text for event in events if isinstance(event, Arguments) and event.index == index)
        assert "".join(one[2] for one in found if one[:2] == (at, "input_json_delta")) == written
    assert len(blocks) == sum(isinstance(event, Calling) for event in events)


# --- The same through the whole passage, cut anywhere


def chunks_of(events: Sequence[Any]) -> bytes:
    """Events as a chat provider sends them, one chunk each."""
    made: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    reason = None
    for event in events:
        match event:
            case Said(text):
                made.append({"content": text})
            case Mused(text):
                made.append({"reasoning_content": text})
            case Declined(text):
                made.append({"refusal": text})
            case Calling(index, id, name):
                function = {"name": name, "arguments": ""}
                made.append({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
            case Arguments(index, text):
                made.append({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
            case Finished(native):
                reason = native
    entries = [{"index": 0, "delta": delta, "finish_reason": None} for delta in made]
    entries.append({"index": 0, "delta": {}, "finish_reason": reason or "stop"})
    return (
        b"".join(b"data: " + dumps({"id": "c1", "choices": [entry]}) + b"\n\n" for entry in entries)
        + b"data: [DONE]\n\n"
    )


def passed(pieces: Sequence[bytes]) -> bytes:
    reader = Reader()
    passage = Translation(openai_chat.FORMAT.decoder(True, None), anthropic.encoder(told(**MUSING)))
    frames: list[Frame] = [made for piece in pieces for made in passage.received(reader.received(piece))]
    assert passage.failure is None
    assert passage.ended
    return b"".join(map(encode, [*frames, *passage.stopped(True)]))


@settings(deadline=None, max_examples=50)
@given(answers(), st.lists(st.integers(0, 4000), max_size=8))
def test_cuts_change_nothing(events: list[Any], places: list[int]) -> None:
    data = chunks_of(events)
    out = passed([data])
    check(out)
    assert passed([data[at : at + 1] for at in range(len(data))]) == out
    edges = sorted({0, len(data), *(place for place in places if place < len(data))})
    assert passed([data[start:end] for start, end in itertools.pairwise(edges)]) == out
