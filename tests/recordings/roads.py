"""The gateway with every recording behind it, on the road of its own dialect and on crossed ones."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anthropic
import attrs
import openai

from tests.doubles.process import GatewayFiles, GatewayProcess, resources
from tests.doubles.recordings import Recording

from . import folding, items
from .dialects import Message, Response, completion
from .house import KEY, MESSAGES, SHOW_USAGE
from .reading import Reading, plain
from .replay import Delivery, replaying

CHAT = [*items.CHAT_STREAMS, *items.CHAT_WHOLE, *items.CHAT_ODD, *items.CHAT_FIRST_ERRORS, *items.CHAT_ERRORS]
CLAUDE = [*items.MESSAGE_STREAMS, *items.MESSAGE_WHOLE, *items.MESSAGE_ODD, *items.MESSAGE_ERRORS]
RESPONSES = [*items.RESPONSE_STREAMS, *items.RESPONSE_WHOLE, *items.RESPONSE_ODD, *items.RESPONSE_ERRORS]
COMPLETIONS = [*items.COMPLETION_STREAMS, *items.COMPLETION_WHOLE, *items.COMPLETION_ERRORS]
FOLDED = [*items.CHAT_STREAMS, *items.MESSAGE_STREAMS]
THINK: Any = {"type": "enabled", "budget_tokens": 1024}
SUMMARY: Any = {"summary": "auto", "effort": "low"}
ENOUGH = 4096
Read = TypeVar("Read", bound=Reading)
PROMPT = "Say something that was recorded."


@attrs.frozen
class Seen:
    """An answer as bytes."""

    status: int
    content_type: str
    body: bytes


class Roads:
    """SDK clients of a gateway in front of a replaying provider, and of the provider itself."""

    def __init__(self, gateway: GatewayProcess, provider: str) -> None:
        self._port = gateway.files.port
        self.openai = openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=KEY, max_retries=0, timeout=120)
        self.anthropic = anthropic.Anthropic(base_url=gateway.base_url, api_key=KEY, max_retries=0, timeout=120)
        self.direct = Direct(provider)

    def close(self) -> None:
        """Close the clients."""
        for client in (self.openai, self.anthropic, self.direct.openai, self.direct.anthropic):
            client.close()

    def message(self, name: str, delivery: Delivery, *, stream: bool, thinking: bool = False) -> Message:
        """What the Anthropic SDK reads."""
        asked = _message(f"our-{name}", thinking)
        asked["extra_body"] = delivery.member()
        asked["metadata"] = {"user_id": delivery.user()}
        return read_message(self.anthropic, stream, asked)

    def response(self, name: str, delivery: Delivery, *, stream: bool, bridge: bool = False) -> Response:
        """What the OpenAI SDK reads of Responses, native or through the bridge, a summary of reasoning asked for."""
        asked: dict[str, Any] = {"input": PROMPT, "extra_body": delivery.member()}
        asked["model"] = f"{'bridge' if bridge else 'our'}-{name}"
        if bridge:
            asked |= {"user": delivery.user(), "reasoning": SUMMARY}
        return read_response(self.openai, stream, asked)

    def completion(self, name: str, delivery: Delivery, *, stream: bool) -> Reading:
        """What the OpenAI SDK reads of legacy completions."""
        return read_completion(
            self.openai, stream, {"model": f"our-{name}", "prompt": PROMPT, "extra_body": delivery.member()}
        )

    def chat(self, name: str, delivery: Delivery, *, stream: bool) -> Reading:
        """What the OpenAI SDK reads of chat, usage asked for."""
        asked: dict[str, Any] = {"model": f"our-{name}", "messages": MESSAGES, "extra_body": delivery.member()}

        def read(reading: Reading) -> None:
            if not stream:
                reading.add(plain(self.openai.chat.completions.create(**asked)))
                return
            with self.openai.chat.completions.create(**asked, stream=True, stream_options=SHOW_USAGE) as chunks:
                reading.read(chunks)

        return _tried(Reading(), read)

    def raw_message(self, name: str, delivery: Delivery, *, thinking: bool) -> Seen:
        """A stream of Anthropic events as bytes."""
        asked = {**_message(f"our-{name}", thinking), "stream": True, "metadata": {"user_id": delivery.user()}}
        return self.raw("/v1/messages", asked)

    def raw(self, path: str, asked: dict[str, Any]) -> Seen:
        """Any answer as bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
            connection.request("POST", path, json.dumps(asked), headers)
            answer = connection.getresponse()
            return Seen(answer.status, answer.headers["content-type"], answer.read())
        finally:
            connection.close()


class Direct:
    """The same without a gateway: what the oracle read."""

    def __init__(self, provider: str) -> None:
        self.openai = openai.OpenAI(base_url=provider, api_key="provider-key", max_retries=0, timeout=120)
        base = provider.removesuffix("/v1")
        self.anthropic = anthropic.Anthropic(base_url=base, api_key="provider-key", max_retries=0, timeout=120)

    def message(self, item: Recording) -> Message:
        """What the Anthropic SDK reads."""
        return read_message(self.anthropic, item.kind == "stream", _message(item.name, False))

    def response(self, item: Recording) -> Response:
        """What the OpenAI SDK reads of Responses."""
        return read_response(self.openai, item.kind == "stream", {"model": item.name, "input": PROMPT})

    def completion(self, item: Recording) -> Reading:
        """What the OpenAI SDK reads of legacy completions."""
        return read_completion(self.openai, item.kind == "stream", {"model": item.name, "prompt": PROMPT})


def _message(model: str, thinking: bool) -> dict[str, Any]:
    asked = {"model": model, "max_tokens": ENOUGH, "messages": MESSAGES}
    return {**asked, "thinking": THINK} if thinking else asked


def read_message(client: anthropic.Anthropic, stream: bool, asked: dict[str, Any]) -> Message:
    """A message by the SDK: a stream by its helper, which accumulates."""

    def read(message: Message) -> None:
        if not stream:
            message.take(plain(client.messages.create(**asked)))
            return
        with client.messages.stream(**asked) as events:
            message.read_events(events)

    return _tried(Message(), read)


def read_response(client: openai.OpenAI, stream: bool, asked: dict[str, Any]) -> Response:
    """A response by the SDK."""

    def read(response: Response) -> None:
        if not stream:
            response.take(plain(client.responses.create(**asked)))
            return
        with client.responses.create(**asked, stream=True) as events:
            response.read_events(events)

    return _tried(Response(), read)


def read_completion(client: openai.OpenAI, stream: bool, asked: dict[str, Any]) -> Reading:
    """Legacy completions by the SDK."""

    def read(reading: Reading) -> None:
        if not stream:
            reading.add(completion(plain(client.completions.create(**asked))))
            return
        with client.completions.create(**asked, stream=True, stream_options=SHOW_USAGE) as chunks:
            for chunk in chunks:
                reading.add(completion(plain(chunk)))

    return _tried(Reading(), read)


def _tried(reading: Read, read: Callable[[Read], None]) -> Read:
    """Reads; the SDK's error becomes the reading's."""
    try:
        read(reading)
    except (openai.OpenAIError, anthropic.AnthropicError) as error:
        reading.error = error
    return reading


@contextmanager
def opened(folder: Path) -> Iterator[Roads]:
    """A gateway and its provider, files in `folder`."""
    twins = folder / "folded"
    folding.write(FOLDED, twins / "twins")
    with replaying([*items.roots(), twins]) as provider:
        files = GatewayFiles(folder, _documents(provider), {"proxy": {"responses_bridge": True}})
        with GatewayProcess(files) as gateway:
            roads = Roads(gateway, provider)
            yield roads
            roads.close()


def _documents(provider: str) -> dict[str, Any]:
    """An alias `our-NAME` for each item at a provider of its dialect, and `bridge-NAME` where Responses are bridged."""
    documents = resources(provider, key=KEY)
    key = documents["provider_keys"][0]
    documents["provider_keys"] += [
        {**key, "display_name": "claude", "provider": "anthropic"},
        {**key, "display_name": "other", "provider": "deepseek", "adapter": "openai"},
    ]
    folded = folding.PREFIX
    chat = [*(item.name for item in CHAT), *(folded + item.name for item in items.CHAT_STREAMS)]
    claude = [*(item.name for item in CLAUDE), *(folded + item.name for item in items.MESSAGE_STREAMS)]
    own = [*chat, *(item.name for item in (*RESPONSES, *COMPLETIONS))]
    documents["models"] = [
        *(_model("our", name, "openai", "upstream") for name in own),
        *(_model("our", name, "anthropic", "claude") for name in claude),
        *(_model("bridge", name, "deepseek", "other") for name in chat),
        *(_model("bridge", name, "anthropic", "claude") for name in claude),
    ]
    return documents


def _model(prefix: str, name: str, provider: str, key: str) -> dict[str, Any]:
    return {"display_name": f"{prefix}-{name}", "provider": provider, "model_name": name, "provider_key": key}
