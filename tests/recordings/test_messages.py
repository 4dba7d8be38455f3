"""Anthropic recordings through `/v1/messages`, read by the Anthropic SDK, equal their expectations."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from tests.doubles.recordings import Recording

from .dialects import Message, canonical, message_differences
from .items import MESSAGE_ERRORS, MESSAGE_ODD, MESSAGE_STREAMS, MESSAGE_WHOLE, ONE_BYTE_LIMIT, each
from .replay import ANY, STREAMED, WHOLE, Delivery
from .roads import Roads
from .test_errors import CUT_SHORT

REPAIRED = {"odd-msg-anthropic-sdk-error-01"}
"""Items that the SDK cannot read as they were sent, and can through the gateway: a `[DONE]` behind the end."""
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


@each(MESSAGE_STREAMS, MESSAGE_WHOLE, MESSAGE_ODD)
def test_this_reader_reads_what_the_oracle_read(item: Recording, roads: Roads) -> None:
    """Without the gateway: what differs below is the gateway's doing."""
    reading = roads.direct.message(item)
    assert message_differences(reading, item.read) == []
    assert (reading.error is None) == (item.expect.get("sdk_error") is None)


@pytest.mark.parametrize("delivery", STREAMED, ids=str)
@each(MESSAGE_STREAMS)
def test_a_stream_equals_its_expectation(item: Recording, delivery: Delivery, roads: Roads) -> None:
    check(roads.message(item.name, delivery, stream=True), item)


@each([item for item in MESSAGE_STREAMS if len(item.body) <= ONE_BYTE_LIMIT])
def test_byte_by_byte(item: Recording, roads: Roads) -> None:
    check(roads.message(item.name, Delivery("bytes"), stream=True), item)


@pytest.mark.parametrize("delivery", WHOLE, ids=str)
@each(MESSAGE_WHOLE)
def test_a_whole_message_equals_its_expectation(item: Recording, delivery: Delivery, roads: Roads) -> None:
    check(roads.message(item.name, delivery, stream=False), item)


@each(MESSAGE_WHOLE)
def test_a_whole_message_asked_as_a_stream(item: Recording, roads: Roads) -> None:
    """The helper does not gather inputs of MCP calls, whoever streams them: they are sent as Anthropic sends them."""
    reading = roads.message(item.name, Delivery("random", seed=3), stream=True)
    assert reading.ended
    if "mcp_tool_use" in reading.block_types:
        reading.blocks = json.loads(item.body)["content"]
    check(reading, item)


@each(MESSAGE_STREAMS, MESSAGE_WHOLE)
def test_signatures_do_not_change(item: Recording, roads: Roads) -> None:
    """What a caller sends back must be what the provider signed: every block is the one a direct caller has."""
    stream = item.kind == "stream"
    there, here = roads.direct.message(item), roads.message(item.name, Delivery("random", seed=4), stream=stream)
    assert canonical(here.blocks) == canonical(there.blocks)


# What is odd


@pytest.mark.parametrize("delivery", ANY, ids=str)
@each([item for item in MESSAGE_ODD if not item.expect["sdk_error"] and "truncated" not in item.categories])
def test_an_odd_stream_is_read_as_if_there_were_no_gateway(item: Recording, delivery: Delivery, roads: Roads) -> None:
    check(roads.message(item.name, delivery, stream=True), item)


@pytest.mark.parametrize("delivery", ANY, ids=str)
@each([item for item in MESSAGE_ODD if item.name in REPAIRED])
def test_what_the_sdk_could_not_read_is_repaired(item: Recording, delivery: Delivery, roads: Roads) -> None:
    assert item.expect["sdk_error"]["type"] == "JSONDecodeError"
    check(roads.message(item.name, delivery, stream=True), item)


@pytest.mark.parametrize("delivery", [*ANY, Delivery("random", seed=3, abort=True)], ids=str)
@each([item for item in MESSAGE_ODD if "truncated" in item.categories])
def test_a_cut_stream_gives_its_text_and_then_an_error(item: Recording, delivery: Delivery, roads: Roads) -> None:
    reading = roads.message(item.name, delivery, stream=True)
    assert message_differences(reading, item.read) == []
    assert error_of(reading) == {"type": "api_error", "message": CUT_SHORT}


@pytest.mark.parametrize("delivery", ANY, ids=str)
@each([item for item in MESSAGE_ODD if "in-stream-error" in item.categories])
def test_an_error_in_the_stream_is_the_providers_own(item: Recording, delivery: Delivery, roads: Roads) -> None:
    reading = roads.message(item.name, delivery, stream=True)
    assert message_differences(reading, item.read) == []
    wanted, told = item.expect["sdk_error"], error_of(reading)
    assert (told["type"], told["message"]) == (wanted["error_type"], wanted["error_message"])


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("cut", ["whole", "random", "bytes"])
@each(MESSAGE_ERRORS)
def test_an_http_error(item: Recording, cut: str, stream: bool, roads: Roads) -> None:
    delivery = Delivery(cut, "length" if cut == "whole" else "chunked")
    check_http_error(roads.message(item.name, delivery, stream=stream), item)


# What others use, too


def check(reading: Message, item: Recording) -> None:
    """A whole answer in its own dialect."""
    assert reading.error is None
    assert message_differences(reading, item.read) == []
    assert reading.models == {f"our-{item.name}"}
    assert reading.ids == {item.read["id"]}


def check_http_error(reading: Message, item: Recording) -> None:
    """A provider's HTTP error in the envelope of Anthropic (`errors-and-headers.md` 1.2 and 3)."""
    error = reading.error
    assert isinstance(error, anthropic.APIStatusError)
    assert error.response.headers["content-type"] == "application/json"
    if item.status >= 500:
        told = {"type": "api_error", "message": f"upstream returned {item.status}"}
        assert (error.status_code, error_of(reading)) == (529 if item.status == 529 else 502, told)
        return
    wanted = item.expect["sdk_error"]
    told = {"type": ERROR_TYPES.get(item.status, "api_error"), "message": wanted["error_message"]}
    assert (error.status_code, error_of(reading)) == (item.status, told)
    retry_after = dict(item.headers).get("retry-after") if item.status == 429 else None
    assert error.response.headers.get("retry-after") == retry_after


def error_of(reading: Message) -> dict[str, Any]:
    """The error object that the SDK read."""
    assert isinstance(reading.error, anthropic.APIStatusError), reading.error
    body: Any = reading.error.body
    assert body.keys() == {"type", "error"} or "request_id" in body
    assert body["type"] == "error"
    error: dict[str, Any] = body["error"]
    return {name: value for name, value in error.items() if name != "details"}
