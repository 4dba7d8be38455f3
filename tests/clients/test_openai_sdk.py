"""The official Python package `openai`, sync and async: chat, Responses and completions, whoever serves the alias."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from .either import each, entered, failure, value
from .errors import check_failures
from .house import KEY, House
from .scripts import PLAIN, WEATHER, chat_reading, responses_reading

PLACES = ("openai", "compatible", "anthropic")
CLIENTS = (openai.OpenAI, openai.AsyncOpenAI)
MESSAGES: Any = [{"role": "user", "content": "How is the weather for herons?"}]
FUNCTIONS: Any = [
    {"name": "get_weather", "description": "The weather of a city", "parameters": WEATHER},
    {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
]
CHAT: Any = {"messages": MESSAGES, "tools": [{"type": "function", "function": one} for one in FUNCTIONS]}
RESPONSES: Any = {
    "input": MESSAGES,
    "tools": [{"type": "function", "strict": False, **one} for one in FUNCTIONS],
    "reasoning": {"summary": "auto"},
}
TEXT: Any = {"prompt": "Herons", "max_tokens": 99}
SHOW_USAGE: Any = {"include_usage": True}

pytestmark = [pytest.mark.parametrize("place", PLACES), pytest.mark.parametrize("kind", CLIENTS)]


@asynccontextmanager
async def client_of(kind: Any, house: House, key: str = KEY) -> AsyncIterator[Any]:
    """A client for this test."""
    async with entered(kind(base_url=f"{house.url}/v1", api_key=key, max_retries=0, timeout=120)) as client:
        yield client


# Chat


def chat_usage(used: Any) -> list[int]:
    """Usage in three numbers."""
    cached = (used.prompt_tokens_details and used.prompt_tokens_details.cached_tokens) or 0
    return [used.prompt_tokens - cached, cached, used.completion_tokens]


def chat_answer(answer: Any) -> dict[str, Any]:
    """What a completion says."""
    message = answer.choices[0].message
    return {
        "text": message.content or "",
        "thinking": getattr(message, "reasoning_content", None) or "",
        "tools": [
            [call.id, call.function.name, json.loads(call.function.arguments)] for call in message.tool_calls or ()
        ],
        "stop": answer.choices[0].finish_reason,
        "usage": chat_usage(answer.usage),
        "model": answer.model,
    }


async def chat_streamed(client: Any, model: str) -> dict[str, Any]:
    """Chunks, put together by the SDK's own hand."""
    from openai.lib.streaming.chat._completions import ChatCompletionStreamState

    state: Any = ChatCompletionStreamState()
    asking = client.chat.completions.create(model=model, stream=True, stream_options=SHOW_USAGE, **CHAT)
    async for chunk in each(await value(asking)):
        state.handle_chunk(chunk)
    return chat_answer(state.current_completion_snapshot)


async def chat_whole(client: Any, model: str) -> dict[str, Any]:
    """One completion."""
    return chat_answer(await value(client.chat.completions.create(model=model, **CHAT)))


async def chat_helped(client: Any, model: str) -> dict[str, Any]:
    """The helper."""
    text = ""
    async with entered(client.chat.completions.stream(model=model, stream_options=SHOW_USAGE, **CHAT)) as stream:
        async for event in each(stream):
            text += event.delta if event.type == "content.delta" else ""
        read = chat_answer(stream.current_completion_snapshot)
    assert text == read["text"]
    return read


# Responses


def responses_answer(answer: Any) -> dict[str, Any]:
    """What a response says."""
    used = answer.usage
    cached = used.input_tokens_details.cached_tokens
    items = answer.output
    return {
        "text": answer.output_text,
        "thinking": "".join(part.text for item in items if item.type == "reasoning" for part in item.summary),
        "tools": [
            [item.call_id, item.name, json.loads(item.arguments)] for item in items if item.type == "function_call"
        ],
        "stop": answer.status,
        "usage": [used.input_tokens - cached, cached, used.output_tokens],
        "model": answer.model,
    }


async def responses_streamed(client: Any, model: str) -> dict[str, Any]:
    """Events; the last one has everything."""
    stream = await value(client.responses.create(model=model, stream=True, **RESPONSES))
    events = [event async for event in each(stream)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    read = responses_answer(events[-1].response)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == read["text"]
    return read


async def responses_whole(client: Any, model: str) -> dict[str, Any]:
    """One response."""
    return responses_answer(await value(client.responses.create(model=model, **RESPONSES)))


async def responses_helped(client: Any, model: str) -> dict[str, Any]:
    """The helper, whose accumulator wants every item and part announced before it grows."""
    async with entered(client.responses.stream(model=model, **RESPONSES)) as stream:
        events = [event async for event in each(stream)]
    return responses_answer(events[-1].response)


# Completions


async def text_streamed(client: Any, model: str) -> dict[str, Any]:
    """Chunks."""
    chunks = [
        chunk
        async for chunk in each(
            await value(client.completions.create(model=model, stream=True, stream_options=SHOW_USAGE, **TEXT))
        )
    ]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return {
        "text": "".join(choice.text for choice in choices),
        "stop": choices[-1].finish_reason,
        "usage": chat_usage(chunks[-1].usage),
        "model": chunks[0].model,
    }


async def text_whole(client: Any, model: str) -> dict[str, Any]:
    """One completion."""
    answer = await value(client.completions.create(model=model, **TEXT))
    (choice,) = answer.choices
    return {
        "text": choice.text,
        "stop": choice.finish_reason,
        "usage": chat_usage(answer.usage),
        "model": answer.model,
    }


Way = Callable[[Any, str], Awaitable[dict[str, Any]]]


def check(way: Way, kind: Any, house: House, alias: str, expected: dict[str, Any]) -> None:
    """One call: what the client reads, and what the gateway has to say about it."""

    async def ask() -> dict[str, Any]:
        async with client_of(kind, house) as client:
            return await way(client, f"our-{alias}")

    mark = house.mark()
    assert asyncio.run(ask()) == expected
    mark.check_complete(1)


@pytest.mark.parametrize("alias", PLAIN)
@pytest.mark.parametrize("way", [chat_streamed, chat_whole, chat_helped])
def test_reads_chat(way: Way, alias: str, kind: Any, place: str, house: Callable[[str], House]) -> None:
    check(way, kind, house(place), alias, chat_reading(alias))


@pytest.mark.parametrize("alias", PLAIN)
@pytest.mark.parametrize("way", [responses_streamed, responses_whole, responses_helped])
def test_reads_responses(way: Way, alias: str, kind: Any, place: str, house: Callable[[str], House]) -> None:
    model = alias if place == "openai" else f"our-{alias}"
    check(way, kind, house(place), alias, responses_reading(alias, model))


@pytest.mark.parametrize("alias", ["text", "length"])
@pytest.mark.parametrize("way", [text_streamed, text_whole])
def test_reads_completions(way: Way, alias: str, kind: Any, place: str, house: Callable[[str], House]) -> None:
    expected = chat_reading(alias)
    del expected["thinking"], expected["tools"]
    check(way, kind, house(place), alias, expected)


def _chat(client: Any, model: str) -> Any:
    return client.chat.completions.create(model=model, messages=MESSAGES, stream=True)


def _responses(client: Any, model: str) -> Any:
    return client.responses.create(model=model, input="Herons", stream=True)


def _completions(client: Any, model: str) -> Any:
    return client.completions.create(model=model, prompt="Herons", stream=True)


def _text(element: Any) -> str:
    if hasattr(element, "choices"):
        choice = element.choices[0]
        return (choice.text if hasattr(choice, "text") else choice.delta.content) or ""
    return element.delta if element.type == "response.output_text.delta" else ""


@pytest.mark.parametrize("call", [_chat, _responses, _completions])
def test_raises_its_own_errors(
    call: Callable[[Any, str], Any], kind: Any, place: str, house: Callable[[str], House]
) -> None:
    async def ask(model: str, key: str = KEY) -> dict[str, Any]:
        async with client_of(kind, house(place), key) as client:
            return await failure(lambda: call(client, model), openai.OpenAIError, _text)

    failed = {"wrong-key": asyncio.run(ask("our-text", "sk-wrong"))}
    for alias in ("unknown", "limited", "refused", "broken"):
        failed[alias] = asyncio.run(ask(f"our-{alias}"))
    check_failures(failed)
