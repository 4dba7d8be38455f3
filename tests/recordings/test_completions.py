"""Recordings of legacy completions through `/v1/completions`, read by the OpenAI SDK."""

from __future__ import annotations

import json

import openai
import pytest

from tests.doubles.recordings import Recording

from .items import COMPLETION_ERRORS, COMPLETION_STREAMS, COMPLETION_WHOLE, each, events
from .reading import Reading, differences
from .replay import STREAMED, WHOLE, Delivery
from .roads import PROMPT, Roads
from .test_responses import check_http_error

NO_DIALECT = {"compl-writer-empty-output-01"}
"""Streams of objects that are no completions: the SDK reads nothing in them, and cannot tell that they ended."""
GOOD = [item for item in COMPLETION_STREAMS if item.name not in NO_DIALECT]
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


@each(COMPLETION_STREAMS, COMPLETION_WHOLE)
def test_this_reader_reads_what_the_oracle_read(item: Recording, roads: Roads) -> None:
    """Without the gateway: what differs below is the gateway's doing."""
    assert differences(roads.direct.completion(item), item.read) == []


@pytest.mark.parametrize("delivery", [*STREAMED, Delivery("bytes")], ids=str)
@each(GOOD)
def test_a_stream_equals_its_expectation(item: Recording, delivery: Delivery, roads: Roads) -> None:
    check(roads.completion(item.name, delivery, stream=True), item)


@pytest.mark.parametrize("delivery", WHOLE, ids=str)
@each(COMPLETION_WHOLE)
def test_a_whole_completion_equals_its_expectation(item: Recording, delivery: Delivery, roads: Roads) -> None:
    check(roads.completion(item.name, delivery, stream=False), item)


@each(COMPLETION_WHOLE)
def test_a_whole_completion_asked_as_a_stream(item: Recording, roads: Roads) -> None:
    check(roads.completion(item.name, Delivery("random", seed=3), stream=True), item)


@each([item for item in COMPLETION_STREAMS if item.name in NO_DIALECT])
def test_what_never_ends_is_an_error(item: Recording, roads: Roads) -> None:
    """No finish reason and no `[DONE]`: who reads it is told (`streaming.md` section 10)."""
    reading = roads.completion(item.name, Delivery("random", seed=4), stream=True)
    assert isinstance(reading.error, openai.APIError)
    assert differences(reading, item.read) == []


@each(GOOD, COMPLETION_WHOLE)
def test_every_member_survives(item: Recording, roads: Roads) -> None:
    stream = item.kind == "stream"
    asked = {"model": f"our-{item.name}", "prompt": PROMPT, "stream": stream, **Delivery("random", seed=5).member()}
    answer = roads.raw("/v1/completions", asked)
    if stream:
        lines = [line[6:] for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
        assert lines.pop() == b"[DONE]"
        found, sent = [json.loads(line) for line in lines], events(item)
    else:
        found, sent = [json.loads(answer.body)], [json.loads(item.body)]
    assert len(found) == len(sent)
    for one, own in zip(found, sent, strict=True):
        assert one["model"] == f"our-{item.name}"
        edited = ("model", "choices")
        assert {**own, **one} == {**one, **{name: own[name] for name in own if name not in edited}}
        for mine, theirs in zip(one["choices"], own["choices"], strict=True):
            assert {name: mine[name] for name in theirs} == theirs


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("cut", ["whole", "random", "bytes"])
@each(COMPLETION_ERRORS)
def test_an_http_error(item: Recording, cut: str, stream: bool, roads: Roads) -> None:
    delivery = Delivery(cut, "length" if cut == "whole" else "chunked")
    check_http_error(roads.completion(item.name, delivery, stream=stream).error, item)


def check(reading: Reading, item: Recording) -> None:
    """A whole answer, with the caller's name for the model."""
    assert reading.error is None
    assert differences(reading, item.read) == []
    assert reading.models == {f"our-{item.name}"}
