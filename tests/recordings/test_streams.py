"""Recorded streams through the gateway, read by the OpenAI SDK, equal their expectations."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.doubles.recordings import Recording

from .house import MESSAGES, SHOW_USAGE, House
from .items import CHAT_ODD, CHAT_STREAMS, ONE_BYTE_LIMIT, each
from .reading import Choice, Reading, Tool, differences, plain, same_text
from .replay import Delivery
from .test_naive import preamble

DELIVERIES = (
    Delivery("whole"),
    Delivery("random", "close", seed=1),
    Delivery("random", "chunked", seed=2),
    Delivery("coalesced", "length", seed=3),
)
deliveries = pytest.mark.parametrize("delivery", DELIVERIES, ids=str)
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


@each([item for item in (*CHAT_STREAMS, *CHAT_ODD) if "direct-sdk-differs" not in item.categories])
def test_this_reader_reads_what_the_oracle_read(item: Recording, house: House) -> None:
    """Without the gateway: what differs below is the gateway's doing."""
    stream = house.direct.chat.completions.create(
        model=item.name, messages=MESSAGES, stream=True, stream_options=SHOW_USAGE
    )
    reading = Reading(tolerant=True).read(stream)
    assert differences(reading, item.read) == []
    assert (reading.error is None) == (item.expect.get("sdk_error") is None)


@deliveries
@each(CHAT_STREAMS)
def test_equals_its_expectation(item: Recording, delivery: Delivery, house: House) -> None:
    check_complete(house.stream(item, delivery), item)


@each([item for item in CHAT_STREAMS if len(item.body) <= ONE_BYTE_LIMIT])
def test_byte_by_byte(item: Recording, house: House) -> None:
    check_complete(house.stream(item, Delivery("bytes")), item)


@each([item for item in CHAT_STREAMS if item.read.get("finish_reason") or b"[DONE]" in item.body])
def test_a_connection_lost_behind_the_end_is_no_error(item: Recording, house: House) -> None:
    check_complete(house.stream(item, Delivery("random", seed=4, abort=True)), item)


@each(CHAT_STREAMS)
def test_usage_hidden_changes_nothing_else(item: Recording, house: House) -> None:
    reading = house.stream(item, Delivery("random", seed=5), usage=False)
    assert reading.error is None
    assert differences(reading, item.read, usage=False) == []


@each([item for item in CHAT_STREAMS if not item.expect.get("sdk_helper_error")])
def test_the_helper_reads_it_too(item: Recording, house: House) -> None:
    manager = house.client.chat.completions.stream(
        model=f"our-{item.name}",
        messages=MESSAGES,
        stream_options=SHOW_USAGE,
        extra_body=Delivery("random", seed=6).member(),
    )
    with manager as stream:
        answer = stream.until_done().current_completion_snapshot
    if not item.expect.get("sdk_helper_differs"):
        check_accumulated(plain(answer), item)


REPAIRED = {"chat-mistral-tools-01", "tools-without-index", "tools-parallel-interleaved"}
"""Items that the SDK's helper cannot read as the provider sent them, and can through the gateway."""


@each([item for item in CHAT_STREAMS if item.name in REPAIRED])
def test_the_helper_reads_what_it_could_not(item: Recording, house: House) -> None:
    assert item.expect["sdk_helper_error"]
    with house.client.chat.completions.stream(model=f"our-{item.name}", messages=MESSAGES) as stream:
        answer = stream.until_done().current_completion_snapshot
    check_accumulated(plain(answer), item)


@each(CHAT_STREAMS[::4])
def test_the_async_client(item: Recording, house: House) -> None:
    async def read() -> Reading:
        reading = Reading()
        async with house.async_client() as client:
            chunks = await client.chat.completions.create(
                model=f"our-{item.name}",
                messages=MESSAGES,
                stream=True,
                stream_options=SHOW_USAGE,
                extra_body=Delivery("random", seed=7).member(),
            )
            async for chunk in chunks:
                reading.add(plain(chunk))
        return reading

    check_complete(asyncio.run(read()), item)


@each(CHAT_STREAMS[:1])
def test_the_async_client_gets_the_error_of_an_unknown_model(item: Recording, house: House) -> None:
    async def ask() -> None:
        async with house.async_client() as client:
            await client.chat.completions.create(model=f"not-{item.name}", messages=MESSAGES, stream=True)

    with pytest.raises(openai.NotFoundError):
        asyncio.run(ask())


@pytest.mark.parametrize(
    "options", [None, {}, {"include_usage": False}, {"include_obfuscation": False}], ids=json.dumps
)
@each(CHAT_STREAMS[1::20])
def test_usage_is_asked_upstream_whatever_the_caller_said(
    item: Recording, options: dict[str, bool] | None, house: House
) -> None:
    """The replaying provider refuses who does not ask (`streaming.md` 3.1)."""
    answer = house.raw(item, Delivery(), stream_options=options)
    assert answer.status == 200
    assert all(frame["choices"] or preamble(frame) for frame in answer.frames())


def check_complete(reading: Reading, item: Recording) -> None:
    """A whole answer: no error, equal to the expectation, one id, the caller's name for the model on every chunk."""
    assert reading.error is None
    assert differences(reading, item.read) == []
    assert reading.models == {f"our-{item.name}"}
    assert "" not in reading.ids


def check_accumulated(answer: dict[str, Any], item: Recording) -> None:
    """The completion that the SDK's helper put together: text, tool calls and finish reason of every choice."""
    wanted = item.read.get("choices") or {"0": item.read}
    assert {str(choice["index"]) for choice in answer["choices"]} == set(wanted)
    for choice in answer["choices"]:
        want, message = wanted[str(choice["index"])], choice["message"]
        read = Choice(finish_reason=choice.get("finish_reason"))
        read.add(message, tolerant=False)
        assert same_text(read.text, want.get("text"))
        assert same_text(read.refusal, want.get("refusal"))
        assert same_text(read.reasoning, want.get("reasoning"))
        assert [tool_facts(tool) for tool in read.tools.values()] == [
            (call["id"], call["name"]) for call in want.get("tool_calls") or []
        ]
        assert read.finish_reason in (want.get("finish_reason"), "stop" if want.get("finish_reason") is None else None)


def tool_facts(tool: Tool) -> tuple[str, str]:
    """Id and name."""
    return tool.id, tool.name
