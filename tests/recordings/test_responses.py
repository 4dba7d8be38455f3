"""Recordings of Responses through `/v1/responses` with provider `openai`, read by the OpenAI SDK."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.doubles.recordings import Recording

from .dialects import Response, response_differences
from .items import ONE_BYTE_LIMIT, RESPONSE_ERRORS, RESPONSE_ODD, RESPONSE_STREAMS, RESPONSE_WHOLE, each, events
from .reading import differences
from .replay import ANY, STREAMED, WHOLE, Delivery
from .roads import PROMPT, Roads
from .test_errors import CUT_SHORT

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


@each(RESPONSE_STREAMS, RESPONSE_WHOLE, RESPONSE_ODD)
def test_this_reader_reads_what_the_oracle_read(item: Recording, roads: Roads) -> None:
    """Without the gateway: what differs below is the gateway's doing."""
    reading = roads.direct.response(item)
    assert response_differences(reading, item.read) == []
    assert (reading.error is None) == (item.expect.get("sdk_error") is None)


@pytest.mark.parametrize("delivery", STREAMED, ids=str)
@each(RESPONSE_STREAMS)
def test_a_stream_equals_its_expectation(item: Recording, delivery: Delivery, roads: Roads) -> None:
    check(roads.response(item.name, delivery, stream=True), item)


@each([item for item in RESPONSE_STREAMS if len(item.body) <= ONE_BYTE_LIMIT])
def test_byte_by_byte(item: Recording, roads: Roads) -> None:
    check(roads.response(item.name, Delivery("bytes"), stream=True), item)


@pytest.mark.parametrize("delivery", WHOLE, ids=str)
@each(RESPONSE_WHOLE)
def test_a_whole_response_equals_its_expectation(item: Recording, delivery: Delivery, roads: Roads) -> None:
    check(roads.response(item.name, delivery, stream=False), item)


@each([item for item in RESPONSE_WHOLE if item.read["finish_reason"] in ("completed", "incomplete")])
def test_a_whole_response_asked_as_a_stream(item: Recording, roads: Roads) -> None:
    check(roads.response(item.name, Delivery("random", seed=3), stream=True), item)


@each(RESPONSE_STREAMS)
def test_every_event_is_the_providers_own(item: Recording, roads: Roads) -> None:
    """Relayed as they are, model included; an `event:` line for each, and no `[DONE]` (`streaming.md` 19.2)."""
    delivery = Delivery("random", seed=4)
    answer = roads.raw(
        "/v1/responses", {"model": f"our-{item.name}", "input": PROMPT, "stream": True, **delivery.member()}
    )
    blocks = [block for block in answer.body.decode().split("\n\n") if block and not block.startswith(":")]
    frames = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    found = [json.loads(frame["data"]) for frame in frames]
    assert found == [event for event in events(item) if isinstance(event, dict)]
    assert [frame["event"] for frame in frames] == [event["type"] for event in found]
    assert b"[DONE]" not in answer.body


# What is odd


@pytest.mark.parametrize("delivery", [*ANY, Delivery("random", seed=3, abort=True)], ids=str)
@each([item for item in RESPONSE_ODD if "truncated" in item.categories])
def test_a_cut_stream_gives_its_text_and_then_an_error(item: Recording, delivery: Delivery, roads: Roads) -> None:
    reading = roads.response(item.name, delivery, stream=True)
    assert differences(reading, item.read) == []
    assert reading.event_types.pop("error", 0) == 1
    assert dict(reading.event_types) == item.read["event_types"]
    assert reading.errors == [{"code": "stream_aborted", "message": CUT_SHORT, "param": None}]
    assert reading.numbers == sorted(set(reading.numbers))


@pytest.mark.parametrize("delivery", ANY, ids=str)
@each([item for item in RESPONSE_ODD if "in-stream-error" in item.categories])
def test_an_error_in_the_stream_is_the_providers_own(item: Recording, delivery: Delivery, roads: Roads) -> None:
    reading = roads.response(item.name, delivery, stream=True)
    assert response_differences(reading, item.read) == []
    error, wanted = reading.error, item.expect["sdk_error"]
    assert isinstance(error, openai.APIError)
    assert (error.message, error.type, error.code) == (
        wanted["error_message"],
        wanted["error_type"],
        wanted["error_code"],
    )


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("cut", ["whole", "random", "bytes"])
@each(RESPONSE_ERRORS)
def test_an_http_error(item: Recording, cut: str, stream: bool, roads: Roads) -> None:
    delivery = Delivery(cut, "length" if cut == "whole" else "chunked")
    error = roads.response(item.name, delivery, stream=stream).error
    check_http_error(error, item)


# What others use, too


def check(reading: Response, item: Recording) -> None:
    """A whole answer in its own dialect; a queued one has not ended."""
    assert reading.error is None
    assert response_differences(reading, item.read) == []
    assert reading.models == {item.read["model"]}, "the provider's name (`streaming.md` 19.2)"
    assert reading.ids == {item.read["id"]}


def check_http_error(error: Any, item: Recording) -> None:
    """A provider's HTTP error in the envelope of OpenAI, its code by the provider's dialect."""
    assert isinstance(error, openai.APIStatusError)
    assert error.response.headers["content-type"] == "application/json"
    body: Any = error.body
    assert body["type"] == "upstream_error"
    if item.status >= 500:
        assert (error.status_code, body["message"]) == (
            529 if item.status == 529 else 502,
            f"upstream returned {item.status}",
        )
        return
    wanted = item.expect["sdk_error"]
    assert (error.status_code, body["message"]) == (item.status, wanted["error_message"])
    if item.expect["protocol"] == "anthropic-messages":
        codes = {401: "invalid_api_key", 403: "permission_denied", 404: "model_not_found", 429: "rate_limit_exceeded"}
        assert body.get("code") == codes.get(item.status)
    else:
        assert type(error).__name__ == wanted["type"]
        code = wanted.get("error_code")
        assert body.get("code") == (code if isinstance(code, str) else None)
        assert body.get("param") == wanted.get("error_param")
    retry_after = dict(item.headers).get("retry-after") if item.status == 429 else None
    assert error.response.headers.get("retry-after") == retry_after
