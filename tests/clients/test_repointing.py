"""An alias is pointed to a provider of another kind while the gateway runs: the same clients notice nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.doubles.process import GatewayProcess

from .house import KEY, documents, gateway
from .provider import Provider
from .scripts import PLAIN, chat_reading, messages_reading
from .test_anthropic_sdk import helped
from .test_openai_sdk import chat_helped

PATIENCE = 60.0


def point(running: GatewayProcess, place: str, provider: Provider) -> None:
    """Points every alias there, and waits until it is so."""
    running.files.resources = documents(place, provider.url)
    running.files.write()
    reloads = running.stderr.count("reloaded: generation")
    running.hup()
    until = time.monotonic() + PATIENCE
    while running.stderr.count("reloaded: generation") == reloads:
        assert time.monotonic() < until, running.stderr
        time.sleep(0.02)


@pytest.mark.parametrize("places", [("anthropic", "openai"), ("compatible", "anthropic")])
def test_the_same_clients_read_the_same(places: tuple[str, str], scripted: Provider, tmp_path: Path) -> None:
    async def read(client: Any, way: Any) -> dict[str, Any]:
        return {alias: await way(client, f"our-{alias}") for alias in PLAIN}

    with (
        gateway(places[0], scripted, tmp_path) as running,
        anthropic.Anthropic(base_url=running.base_url, api_key=KEY, max_retries=0) as messages,
        openai.OpenAI(base_url=f"{running.base_url}/v1", api_key=KEY, max_retries=0) as chat,
    ):
        for place in places:
            point(running, place, scripted)
            assert asyncio.run(read(messages, helped)) == {alias: messages_reading(alias) for alias in PLAIN}
            assert asyncio.run(read(chat, chat_helped)) == {alias: chat_reading(alias) for alias in PLAIN}
