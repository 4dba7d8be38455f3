"""Recorded failures: streams that were cut, error objects in streams, and HTTP errors (end of `streaming.md` 24)."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.doubles.recordings import Recording

from .house import House
from .items import CHAT_CUT, CHAT_ERRORS, CHAT_FIRST_ERRORS, CHAT_IN_STREAM_ERRORS, each, events
from .reading import Reading, differences
from .replay import Delivery

CUT_SHORT = "upstream cancelled the response mid-stream"
DELIVERIES = (Delivery("whole"), Delivery("random", "close", seed=1), Delivery("coalesced", seed=2), Delivery("bytes"))
deliveries = pytest.mark.parametrize("delivery", DELIVERIES, ids=str)
ask_as = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


@pytest.mark.parametrize("delivery", [*DELIVERIES, Delivery("random", seed=3, abort=True)], ids=str)
@each(CHAT_CUT)
def test_a_cut_stream_gives_its_text_and_then_an_error(item: Recording, delivery: Delivery, house: House) -> None:
    reading = house.stream(item, delivery)
    assert differences(reading, item.read) == []
    body = body_of(reading)
    assert (body["message"], body["type"]) == (CUT_SHORT, "stream_aborted")


@deliveries
@each(CHAT_IN_STREAM_ERRORS)
def test_an_error_in_the_stream_comes_with_its_message(item: Recording, delivery: Delivery, house: House) -> None:
    reading = house.stream(item, delivery)
    assert differences(reading, item.read) == []
    body = body_of(reading)
    assert (body["message"], body["type"]) == (item.expect["sdk_error"]["error_message"], "upstream_in_band_error")
    code = item.expect["sdk_error"].get("error_code")
    assert body["code"] == (code if isinstance(code, str) else None)


@pytest.mark.parametrize("usage", [True, False], ids=["usage", "no-usage"])
@each(CHAT_CUT, CHAT_IN_STREAM_ERRORS)
def test_an_error_is_the_last_frame(item: Recording, usage: bool, house: House) -> None:
    members = {"stream_options": {"include_usage": True}} if usage else {}
    answer = house.raw(item, Delivery("random", seed=4), **members)
    *before, last = answer.body.rstrip(b"\n").split(b"\n\n")
    assert answer.status == 200
    assert last.startswith(b'event: error\ndata: {"error":{')
    assert b"[DONE]" not in answer.body
    assert not any(b'"error"' in frame for frame in before)
    line = house.access_line(answer.request_id)
    assert line["outcome"] == "truncated"
    if reported := [event["usage"] for event in events(item) if event.get("usage")]:
        figures = reported[-1]
        assert (line["prompt_tokens"], line["completion_tokens"]) == (
            figures["prompt_tokens"],
            figures["completion_tokens"],
        )


@pytest.mark.parametrize("delivery", DELIVERIES, ids=str)
@each(CHAT_FIRST_ERRORS)
def test_an_error_before_everything_is_an_http_error(item: Recording, delivery: Delivery, house: House) -> None:
    error = (house.whole if item.kind == "json" else house.stream)(item, delivery).error
    assert isinstance(error, openai.APIStatusError)
    wanted, body = item.expect["sdk_error"], body_of(Reading(error=error))
    assert (error.status_code, body["message"], body["type"]) == (
        wanted["status"],
        wanted["error_message"],
        "upstream_error",
    )
    assert error.response.headers["content-type"] == "application/json"


@ask_as
@pytest.mark.parametrize("cut", ["whole", "random", "bytes"])
@each(CHAT_ERRORS)
def test_an_http_error(item: Recording, cut: str, stream: bool, house: House) -> None:
    delivery = Delivery(cut, "length" if cut == "whole" else "chunked")
    error = (house.stream if stream else house.whole)(item, delivery).error
    assert isinstance(error, openai.APIStatusError)
    wanted: dict[str, Any] = item.expect["sdk_error"]
    body: Any = error.body
    assert body["type"] == "upstream_error"
    assert error.response.headers["content-type"] == "application/json"
    if item.status >= 500:
        assert (error.status_code, body) == (
            502,
            {"message": f"upstream returned {item.status}", "type": "upstream_error"},
        )
        return
    assert (error.status_code, body["message"]) == (item.status, wanted["error_message"])
    assert type(error).__name__ == wanted["type"]
    code, param = wanted.get("error_code"), wanted.get("error_param")
    assert body.get("code") == (code if isinstance(code, str) else None)
    assert body.get("param") == param
    retry_after = dict(item.headers).get("retry-after") if item.status == 429 else None
    assert error.response.headers.get("retry-after") == retry_after


def body_of(reading: Reading) -> dict[str, Any]:
    """The error object that the SDK read in a stream."""
    assert isinstance(reading.error, openai.APIError)
    assert not isinstance(reading.error, openai.APIConnectionError)
    body: Any = reading.error.body
    assert isinstance(body, dict)
    return body
