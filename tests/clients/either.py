"""Lets one test use the sync and the async client of a Python SDK: what either gives is awaited."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


async def value(given: Any) -> Any:
    """A result, once it is there."""
    return await given if inspect.isawaitable(given) else given


async def each(stream: Any) -> AsyncIterator[Any]:
    """The elements of a stream of either kind."""
    if hasattr(stream, "__aiter__"):
        async for element in stream:
            yield element
    else:
        for element in stream:
            yield element


@asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    """Inside a `with` of either kind."""
    if hasattr(manager, "__aenter__"):
        async with manager as inside:
            yield inside
    else:
        with manager as inside:
            yield inside


async def failure(asking: Any, errors: type[Exception], text: Any) -> dict[str, Any]:
    """The error of a streamed call, raised or told as an event (Responses), and the text that came before it."""
    read, told = "", {}
    try:
        async for element in each(await value(asking())):
            read += text(element)
            if getattr(element, "type", None) == "response.failed":
                told = {"class": element.type, "message": element.response.error.message}
    except errors as error:
        headers = getattr(getattr(error, "response", None), "headers", {})
        return {
            "class": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "message": str(error),
            "after": headers.get("retry-after"),
            "text": read,
        }
    return {"text": read, **told}
