"""Legacy completions through chat (`translation.md` section 8)."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion

from twisted_gateway.formats import openai_chat
from twisted_gateway.formats.neutral import (
    Arguments,
    Began,
    Calling,
    Declined,
    Ended,
    Finished,
    Mused,
    Said,
    Signed,
    Text,
    Turn,
)
from twisted_gateway.formats.openai_completions import FORMAT, read_call

from .chat_making import JSON, body, encoded, refusal
from .making import LETTERS, NOW, dumps

COUNTERS = {"prompt": 3, "completion": 4}


def asked(**members):
    """A completions request in neutral words."""
    return FORMAT.prompt(read_call(dumps({"model": "gpt", "prompt": "hi", **members}), JSON))


def test_members():
    prompt = asked(
        max_tokens=5, temperature=0.5, top_p=0.1, stop="x", n=2, user="u", stream=True, seed=1, logit_bias={"5": 1},
        presence_penalty=0.1, frequency_penalty=0.2, logprobs=3, best_of=1, echo=False, suffix="", custom=1,
        stream_options={"include_usage": True},
    )  # fmt: skip
    assert prompt.turns == (Turn("user", (Text("hi"),)),)
    assert (prompt.max_tokens, prompt.temperature, prompt.top_p, prompt.stop) == (5, 0.5, 0.1, ("x",))
    assert (prompt.choices, prompt.user, prompt.stream) == (2, "u", True)
    assert sorted(prompt.extra) == ["custom", "frequency_penalty", "logit_bias", "presence_penalty", "seed"]


def test_defaults():
    prompt = asked()
    assert (prompt.max_tokens, prompt.choices, prompt.stream, prompt.stop) == (16, 1, False, ())
    assert asked(prompt=["only"]).turns == (Turn("user", (Text("only"),)),)
    assert asked(stop=["a", "b"]).stop == ("a", "b")


@pytest.mark.parametrize(
    ("members", "detail"),
    [
        ({"prompt": ["a", "b"]}, "several prompts are not supported for this model"),
        ({"prompt": [1, 2]}, "prompt as tokens is not supported for this model"),
        ({"prompt": [[1, 2]]}, "prompt as tokens is not supported for this model"),
        ({"prompt": [[1], [2]]}, "prompt as tokens is not supported for this model"),
        ({"prompt": None}, "missing `prompt` field"),
        ({"suffix": "x"}, "suffix is not supported for this model"),
        ({"echo": True}, "echo is not supported for this model"),
        ({"best_of": 2}, "best_of greater than 1 is not supported for this model"),
        ({"best_of": "x"}, "invalid JSON request body"),
    ],
)
def test_what_chat_cannot_do(members, detail):
    assert refusal(asked, **members).message == f"request payload is invalid: {detail}"


def test_as_a_chat_request():
    made = body(asked(stop="x", seed=1, n=2, logprobs=1))
    assert made == {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 16,
        "stop": ["x"],
        "n": 2,
        "seed": 1,
    }


EVENTS = [
    Began("msg_01", "claude", 17),
    Mused("r"),
    Signed({"type": "thinking"}),
    Said("Wa"),
    Said("ves"),
    Declined("no"),
    Calling(0, "c", "f"),
    Arguments(0, "{}"),
    Finished("tool_calls"),
    Ended(),
]
HEAD = {"id": "cmpl-01", "object": "text_completion", "created": 17, "model": "gpt"}


def entry(text, reason=None, index=0):
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}


def test_a_stream():
    made = encoded(EVENTS, format=FORMAT, usage=False)
    choices = [entry("Wa"), entry("ves"), entry("", "stop")]
    assert made == [*({**HEAD, "choices": [choice]} for choice in choices), "[DONE]"]


def test_a_stream_with_usage():
    made = encoded(EVENTS, format=FORMAT, counters=COUNTERS)
    assert made[-1] == "[DONE]"
    assert made[-2]["choices"] == []
    assert made[-2]["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert [one["usage"] for one in made[:-2]] == [None] * 3


def test_a_whole_answer():
    (made,) = encoded(EVENTS, format=FORMAT, stream=False, counters=COUNTERS)
    assert made == {
        **HEAD,
        "choices": [entry("Waves", "stop")],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }
    Completion.model_validate(made)


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_reasons(reason):
    (made,) = encoded([Said("x"), Finished(reason)], format=FORMAT, stream=False)
    assert made["choices"][0]["finish_reason"] == reason
    (made,) = encoded([Said("x"), Finished("odd")], format=FORMAT, stream=False)
    assert made["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("given_id", "expected"),
    [("msg_9", "cmpl-9"), ("chatcmpl-9", "cmpl-9"), ("cmpl-9", "cmpl-9"), ("x9", "cmpl-x9"), ("", f"cmpl-{LETTERS}")],
)
def test_ids(given_id, expected):
    (made,) = encoded([Began(given_id)], format=FORMAT, stream=False)
    assert (made["id"], made["created"]) == (expected, int(NOW))


def test_an_answer_that_says_nothing():
    for events in ([], [Finished("length")]):
        (made,) = encoded(events, format=FORMAT, stream=False)
        assert made["choices"] == [entry("", "length" if events else "stop")]
        streamed = encoded(events, format=FORMAT, usage=False)
        assert [one["choices"] for one in streamed[:-1]] == [made["choices"]]


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
PIECE = st.builds(Said, TEXT, st.integers(0, 2)) | st.builds(Mused, TEXT)


@settings(deadline=None)
@given(st.lists(PIECE, max_size=12), st.sampled_from(["stop", "length"]))
def test_streamed_is_whole(events, reason):
    events = [*events, Finished(reason, choice=0)]
    (answer,) = encoded(events, format=FORMAT, stream=False)
    texts, reasons = {}, {}
    for one in encoded(events, format=FORMAT)[:-1]:
        for choice in one["choices"]:
            index = choice["index"]
            texts[index] = texts.get(index, "") + choice["text"]
            reasons[index] = choice["finish_reason"] or reasons.get(index)
    found = [entry(texts[index], reasons[index], index) for index in sorted(texts)]
    assert found == answer["choices"]
    assert json.dumps(answer)


def test_it_can_be_read_through_chats_decoder():
    """The road of a model that answers chat: its decoder, this encoder."""
    decoder = openai_chat.FORMAT.decoder(True)
    data = {"id": "chatcmpl-7", "created": 17, "choices": [{"index": 0, "message": {"content": "Waves"}}]}
    events = decoder.received(openai_chat.unfolded(dumps(data)))
    (made,) = encoded(events, format=FORMAT, stream=False)
    assert made["choices"] == [entry("Waves", "stop")]
    assert made["id"] == "cmpl-7"
