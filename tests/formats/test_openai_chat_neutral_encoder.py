"""Neutral events as chat answers: machine A's writing half (`translation.md` 3, 4 and 6), read by the SDK."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twisted_gateway.formats import openai_chat
from twisted_gateway.formats.names import short_name
from twisted_gateway.formats.neutral import (
    Arguments,
    Began,
    Called,
    Calling,
    Counted,
    Declined,
    Ended,
    Finished,
    Mused,
    Said,
    Signed,
    Tool,
)
from twisted_gateway.formats.openai_chat_decoder import ChatDecoder
from twisted_gateway.wire.sse import encode

from ..doubles.recordings import each_recording
from .chat_making import Learnt, accumulated, decoded, encoded, frames_of, read_whole, said, told
from .making import LETTERS, NOW, framed

BEGAN = Began("msg_1", "claude", 17)
BLOCK = {"type": "thinking", "thinking": "Need weather", "signature": "Eq.."}
USAGE = {"prompt": 25, "completion": 31, "cache_read": 5}


def deltas(*events, **more):
    """The deltas that these events become after the role, each with its reason where it has one."""
    objects = encoded([BEGAN, *events, Finished("stop")], **more)
    chunks = [one["choices"][0] for one in objects[1:-1] if one["choices"]]
    assert chunks.pop() == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert all(chunk["finish_reason"] is None for chunk in chunks)
    return [chunk["delta"] for chunk in chunks]


def function(index, id, name, arguments=""):
    call = {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"tool_calls": [call]}


def fragment(index, text):
    return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


# Section 4, row by row


def test_the_example_of_the_reference():
    events = [
        BEGAN,
        Mused("Need weather"),
        Signed(BLOCK),
        Calling(0, "toolu_9", "get_weather"),
        Arguments(0, '{"city":'),
        Arguments(0, '"Bonn"}'),
        Called(0),
        Finished("tool_calls", None, "tool_use"),
        Counted(),
        Ended(),
    ]
    objects = encoded(events, counters=USAGE)
    assert objects.pop() == "[DONE]"
    usage = objects.pop()
    head = {"id": "msg_1", "object": "chat.completion.chunk", "created": 17, "model": "gpt"}
    assert [{**one, "choices": None} for one in objects] == [{**head, "choices": None, "usage": None}] * 7
    assert [one["choices"][0] for one in objects] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None},
        {"index": 0, "delta": {"reasoning_content": "Need weather"}, "finish_reason": None},
        {"index": 0, "delta": function(0, "toolu_9", "get_weather"), "finish_reason": None},
        {"index": 0, "delta": fragment(0, '{"city":'), "finish_reason": None},
        {"index": 0, "delta": fragment(0, '"Bonn"}'), "finish_reason": None},
        {"index": 0, "delta": {"thinking_blocks": [BLOCK]}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": "tool_calls"},
    ]
    assert usage == {
        **head,
        "choices": [],
        "usage": {
            "prompt_tokens": 25,
            "completion_tokens": 31,
            "total_tokens": 56,
            "prompt_tokens_details": {"cached_tokens": 5},
        },
    }


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([Said("a"), Said(""), Said("b")], [{"content": "a"}, {"content": "b"}]),
        ([Mused("a"), Mused("")], [{"reasoning_content": "a"}]),
        ([Declined("no")], [{"refusal": "no"}]),
        ([Calling(0, "c", "f"), Called(0)], [function(0, "c", "f"), fragment(0, "{}")]),
        ([Calling(0, "c", "f")], [function(0, "c", "f"), fragment(0, "{}")]),
        ([Calling(0, "c", "f"), Arguments(0, ""), Arguments(0, "1")], [function(0, "c", "f"), fragment(0, "1")]),
        ([Calling(0, "", "f"), Arguments(0, "1")], [function(0, f"call_{1:024x}"[:29], "f"), fragment(0, "1")]),
        ([Signed(BLOCK), Said("a"), Signed(BLOCK)], [{"content": "a"}, {"thinking_blocks": [BLOCK, BLOCK]}]),
        ([Arguments(3, "x"), Called(3)], []),
    ],
)
def test_events(events, expected):
    made = deltas(*events)
    if events[0] == Calling(0, "", "f"):
        assert made[0]["tool_calls"][0]["id"].startswith("call_")
        made[0]["tool_calls"][0]["id"] = expected[0]["tool_calls"][0]["id"]
    assert made == expected


def test_a_frame_each_and_no_event_line():
    encoder = openai_chat.FORMAT.encoder(told(usage=False))
    learnt = Learnt()
    begun = b"".join(map(encode, encoder.received([BEGAN, Said("a\u2028ü")], learnt)))
    assert begun == (
        b'data: {"id":"msg_1","object":"chat.completion.chunk","created":17,"model":"gpt","choices":'
        b'[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
        b'data: {"id":"msg_1","object":"chat.completion.chunk","created":17,"model":"gpt","choices":'
        b'[{"index":0,"delta":{"content":"a\\u2028\xc3\xbc"},"finish_reason":null}]}\n\n'
    )
    assert encoder.complaint(None) is None


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("content_filter", "content_filter"),
        ("pause_turn", "stop"),
        ("", "stop"),
    ],
)
def test_reasons(reason, expected):
    for stream in (True, False):
        objects = encoded([BEGAN, Said("x"), Finished(reason), Finished("length")], stream=stream, usage=False)
        last = objects[-2] if stream else objects[-1]
        assert last["choices"][0]["finish_reason"] == expected


def test_usage_is_shown_to_those_who_asked():
    events = [BEGAN, Said("x"), Finished("stop"), Counted()]
    assert all("usage" not in one for one in encoded(events, usage=False, counters=USAGE)[:-1])
    asked = encoded(events, usage=True, counters=USAGE)[:-1]
    assert [one["usage"] for one in asked[:-1]] == [None] * (len(asked) - 1)
    assert asked[-1]["choices"] == []
    never = encoded(events, usage=True)[:-1]
    assert never[-1]["choices"][0]["finish_reason"] == "stop"


def test_usage_of_all_kinds():
    counters = {"prompt": 10, "completion": 5, "cache_read": 3, "cache_write": 2, "reasoning": 4}
    (answer,) = encoded([BEGAN], stream=False, counters=counters)
    assert answer["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }


def test_ids_and_times_of_our_own():
    for stream in (True, False):
        first = encoded([Began(), Said("x")], stream=stream)[0]
        assert (first["id"], first["created"]) == (f"chatcmpl-{LETTERS}", int(NOW))


@pytest.mark.parametrize("events", [[], [BEGAN], [Counted(), Ended()]])
def test_answers_that_say_nothing(events):
    objects = encoded(events)
    choices = [one["choices"][0] for one in objects[:-1]]
    assert [choice["delta"] for choice in choices] == [{"role": "assistant", "content": ""}, {}]
    assert choices[-1]["finish_reason"] == "stop"
    (answer,) = encoded(events, stream=False)
    message = {"role": "assistant", "content": None, "refusal": None}
    assert answer["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]
    assert answer["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def test_choices_that_were_not_ended_are():
    objects = encoded([BEGAN, Said("a"), Calling(0, "c", "f", 1)])
    reasons = {choice["index"]: choice["finish_reason"] for one in objects[:-1] for choice in one["choices"]}
    assert reasons == {0: "stop", 1: "tool_calls"}


def test_names_that_had_to_be_shortened_come_back():
    name = "weather.of/" + "x" * 70
    prompt = said(tools=(Tool(name), Tool("g")))
    (answer,) = encoded([Calling(0, "c", short_name(name)), Calling(1, "d", "g")], stream=False, prompt=prompt)
    assert [call["function"]["name"] for call in answer["choices"][0]["message"]["tool_calls"]] == [name, "g"]


# Section 3


def test_a_whole_answer():
    events = [
        BEGAN,
        Mused("r"),
        Mused("s"),
        Signed(BLOCK),
        Said("a"),
        Said("b"),
        Calling(0, "c", "f"),
        Called(0),
        Calling(1, "d", "g"),
        Arguments(1, '{"x":'),
        Arguments(1, "1}"),
        Finished("tool_calls"),
        Ended(),
    ]
    (answer,) = encoded(events, stream=False)
    assert answer == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": 17,
        "model": "gpt",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "ab",
                    "refusal": None,
                    "reasoning_content": "rs",
                    "thinking_blocks": [BLOCK],
                    "tool_calls": [
                        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                        {"id": "d", "type": "function", "function": {"name": "g", "arguments": '{"x":1}'}},
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


def test_a_refusal():
    (answer,) = encoded([BEGAN, Declined("I will "), Declined("not"), Finished("content_filter")], stream=False)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": None, "refusal": "I will not"}


# What the SDK puts together is the whole answer

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6)
REASONS = ["stop", "length", "tool_calls", "content_filter", "odd"]
BLOCKS = st.fixed_dictionaries({"type": st.just("thinking"), "thinking": TEXT, "signature": TEXT})


@st.composite
def pieces(draw, index):
    """What one choice says, in a legal order."""
    begun, made = 0, []
    for kind in draw(st.lists(st.sampled_from("tmdsca"), max_size=12)):
        if kind == "c":
            made.append(Calling(begun, draw(st.sampled_from(["", "c1"])) or f"id{begun}", "f", index))
            begun += 1
        elif kind == "a" and begun:
            made.append(Arguments(draw(st.integers(0, begun - 1)), draw(TEXT), index))
        elif kind == "s":
            made.append(Signed(draw(BLOCKS), index))
        elif kind in "tmd":
            made.append({"t": Said, "m": Mused, "d": Declined}[kind](draw(TEXT), index))
    made += [Called(number, index) for number in range(begun)] if draw(st.booleans()) else []
    if draw(st.booleans()):
        made.append(Finished(draw(st.sampled_from(REASONS)), choice=index))
    return made


@st.composite
def answers(draw):
    """Events of one to three choices, their pieces in turns."""
    waiting = [draw(pieces(index)) for index in range(draw(st.integers(1, 3)))]
    made = [BEGAN, *(Said("x", index) for index in range(len(waiting)))]
    while any(waiting):
        made.append(draw(st.sampled_from([one for one in waiting if one])).pop(0))
    return made


@settings(deadline=None)
@given(answers(), st.booleans())
def test_streamed_is_whole(events, usage):
    streamed = accumulated(encoded(events, usage=usage, counters=USAGE))
    (answer,) = encoded(events, stream=False, counters=USAGE)
    assert streamed == read_whole(answer)


@settings(deadline=None, max_examples=50)
@given(answers())
def test_what_was_written_reads_as_it_was_said(events):
    """Encoded and decoded again, the events mean the same."""
    objects = encoded(events, usage=False)
    decoder = ChatDecoder(True)
    made = decoder.received(framed(*objects[:-1], b"[DONE]"))
    (answer,) = encoded(made, stream=False, usage=False)
    (first,) = encoded(events, stream=False, usage=False)
    for one in (*answer["choices"], *first["choices"]):
        one["message"].pop("thinking_blocks", None)  # chat's own decoder has no signed blocks
        one["finish_reason"] = None  # calls with `stop` are told as `tool_calls`
        for call in one["message"].get("tool_calls", ()):  # blanks are no arguments: read as an empty object
            call["function"]["arguments"] = call["function"]["arguments"].strip() or "{}"
    assert answer["choices"] == first["choices"]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@each_recording("openai-chat", None, "openai-chat")
def test_recordings_streamed_and_whole(recording):
    """The events of a recording, written again both ways."""
    decoder = ChatDecoder(recording.kind == "stream")
    events = decoded(decoder, frames_of(recording, [recording.body]))
    streamed = accumulated(encoded(events))
    (answer,) = encoded(events, stream=False)
    assert streamed == read_whole(answer)
    text = (recording.read.get("text") or {}).get("text")
    if text and not recording.read.get("choices"):
        assert answer["choices"][0]["message"]["content"] == text
