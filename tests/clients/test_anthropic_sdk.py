"""The official Python package `anthropic`, sync and async, on a provider that speaks Messages and on another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest

from .either import each, entered, failure, value
from .errors import check_failures
from .house import KEY, House
from .provider import COUNTED
from .scripts import DEGREES, PLAIN, WEATHER, loop_reading, messages_reading

PLACES = ("anthropic", "openai")
CLIENTS = (anthropic.Anthropic, anthropic.AsyncAnthropic)
MESSAGES: Any = [{"role": "user", "content": "How is the weather for herons?"}]
WISHES: Any = {
    "messages": MESSAGES,
    "max_tokens": 4096,
    "system": [{"type": "text", "text": "You watch herons.", "cache_control": {"type": "ephemeral"}}],
    "thinking": {"type": "enabled", "budget_tokens": 2048},
    "tools": [
        {"name": "get_weather", "description": "The weather of a city", "input_schema": WEATHER},
        {"name": "get_time", "input_schema": {"type": "object", "properties": {}}},
    ],
}

pytestmark = [pytest.mark.parametrize("place", PLACES), pytest.mark.parametrize("kind", CLIENTS)]


@asynccontextmanager
async def client_of(kind: Any, house: House, key: str = KEY) -> AsyncIterator[Any]:
    """A client for this test."""
    async with entered(kind(base_url=house.url, api_key=key, max_retries=0, timeout=120)) as client:
        yield client


def reading(message: Any) -> dict[str, Any]:
    """What a message says."""
    used = message.usage
    return {
        "text": "".join(block.text for block in message.content if block.type == "text"),
        "thinking": "".join(block.thinking for block in message.content if block.type == "thinking"),
        "tools": [[block.id, block.name, block.input] for block in message.content if block.type == "tool_use"],
        "stop": message.stop_reason,
        "usage": [used.input_tokens, used.cache_read_input_tokens or 0, used.output_tokens],
        "model": message.model,
    }


async def streamed(client: Any, model: str) -> dict[str, Any]:
    """Plain events, put together by the SDK's own hand."""
    from anthropic.lib.streaming._messages import accumulate_event

    message: Any = None
    json: dict[int, bytes] = {}
    async for event in each(await value(client.messages.create(model=model, stream=True, **WISHES))):
        message = accumulate_event(event=event, current_snapshot=message, json_bufs=json)
    return reading(message)


async def whole(client: Any, model: str) -> dict[str, Any]:
    """One message."""
    return reading(await value(client.messages.create(model=model, **WISHES)))


async def helped(client: Any, model: str) -> dict[str, Any]:
    """The helper that people use."""
    async with entered(client.messages.stream(model=model, **WISHES)) as stream:
        text = "".join([piece async for piece in each(stream.text_stream)])
        read = reading(await value(stream.get_final_message()))
    assert text == read["text"]
    return read


Way = Callable[[Any, str], Awaitable[dict[str, Any]]]


@pytest.mark.parametrize("alias", PLAIN)
@pytest.mark.parametrize("way", [streamed, whole, helped])
def test_reads_what_was_said(way: Way, alias: str, kind: Any, place: str, house: Callable[[str], House]) -> None:
    async def ask() -> dict[str, Any]:
        async with client_of(kind, house(place)) as client:
            return await way(client, f"our-{alias}")

    mark = house(place).mark()
    assert asyncio.run(ask()) == messages_reading(alias)
    mark.check_complete(1)


@pytest.mark.parametrize("stream", [False, True])
def test_runs_tools(stream: bool, kind: Any, place: str, house: Callable[[str], House]) -> None:
    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return DEGREES[city]

    @anthropic.beta_async_tool
    async def get_weather_later(city: str) -> str:
        """The weather of a city."""
        return DEGREES[city]

    get_weather_later.name = "get_weather"
    tool = get_weather if kind is anthropic.Anthropic else get_weather_later

    async def ask() -> str:
        async with client_of(kind, house(place)) as client:
            runner = client.beta.messages.tool_runner(
                model="our-tools", max_tokens=999, messages=MESSAGES, tools=[tool], stream=stream
            )
            message = await value(runner.until_done())
            return "".join(block.text for block in message.content)

    assert asyncio.run(ask()) == loop_reading()


def test_raises_its_own_errors(kind: Any, place: str, house: Callable[[str], House]) -> None:
    def text(event: Any) -> str:
        return event.delta.text if event.type == "content_block_delta" else ""

    async def ask(model: str, key: str = KEY) -> dict[str, Any]:
        async with client_of(kind, house(place), key) as client:
            return await failure(
                lambda: client.messages.create(model=model, max_tokens=9, messages=MESSAGES, stream=True),
                anthropic.AnthropicError,
                text,
            )

    failed = {"wrong-key": asyncio.run(ask("our-text", "sk-wrong"))}
    for alias in ("unknown", "limited", "refused", "broken"):
        failed[alias] = asyncio.run(ask(f"our-{alias}"))
    check_failures(failed)


def test_counts_tokens(kind: Any, place: str, house: Callable[[str], House]) -> None:
    async def ask() -> int:
        async with client_of(kind, house(place)) as client:
            counted = await value(client.messages.count_tokens(model="our-text", messages=MESSAGES))
            return int(counted.input_tokens)

    if place == "anthropic":
        assert asyncio.run(ask()) == COUNTED
    else:
        with pytest.raises(anthropic.BadRequestError, match="our-text"):
            asyncio.run(ask())
