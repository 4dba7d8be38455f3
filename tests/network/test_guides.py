"""What the guides tell people to do, done: against the shipped files, by the real clients."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.doubles.process import GatewayProcess
from tests.doubles.waiting import PATIENCE

from .shipped import CALLER_KEY, MODEL, shipped

CURL = """\
curl -sS -N -X POST "http://127.0.0.1:3000/v1/chat/completions" \\
  -H "Authorization: Bearer %s" \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "%s",
    "stream": true,
    "messages": [{"role": "user", "content": "Hello!"}]
  }'
"""

REQUESTS = """\
import json
import requests

response = requests.post(
    "http://127.0.0.1:3000/v1/chat/completions",
    headers={"Authorization": "Bearer my-secret-key", "Content-Type": "application/json"},
    json={
        "model": "my-gpt4-mini",
        "messages": [{"role": "user", "content": "Write a poem about the sea."}],
        "stream": True,
    },
    stream=True,
)

for line in response.iter_lines():
    if line:
        decoded = line.decode("utf-8")
        if decoded.startswith("data: "):
            data = decoded[len("data: "):]
            if data == "[DONE]":
                print("\\nStream finished.")
                break
            chunk = json.loads(data)
            content = chunk["choices"][0]["delta"].get("content", "")
            print(content, end="", flush=True)
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with shipped(tmp_path_factory.mktemp("guides"), {"AISIX_DEMO__WORDS_PER_SECOND": "100"}) as running:
        yield running


def here(text: str, gateway: GatewayProcess) -> str:
    """A text of the guides with this gateway's port."""
    return text.replace("http://127.0.0.1:3000", gateway.base_url)


def told(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def text_of(stream: str) -> str:
    """The text of a stream as curl shows it, after looking at its shape."""
    assert stream.endswith("\n\ndata: [DONE]\n\n")
    events = [block.removeprefix("data: ") for block in stream.strip().split("\n\n")]
    chunks = [json.loads(event) for event in events[:-1]]
    assert len(chunks) > 3
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all(abs(chunk["created"] - time.time()) < 3600 for chunk in chunks)
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize(("key", "model"), [("YOUR_CALLER_API_KEY", "gpt-4o-prod"), ("my-secret-key", "my-gpt4-mini")])
def test_curl(gateway: GatewayProcess, key: str, model: str) -> None:
    assert "Hello" in text_of(told(["sh", "-c", here(CURL % (key, model), gateway)]))


NAMES = ["openai/gpt-4-turbo", "openai/gpt-5", "deepseek/deepseek-chat", "anthropic/claude-opus", "auto-cheap"]


@pytest.mark.parametrize("model", NAMES)
def test_names_of_the_guides(gateway: GatewayProcess, model: str) -> None:
    text = told(["sh", "-c", here(CURL % (CALLER_KEY, model), gateway)])
    assert "Hello" in text_of(text)
    assert f'"model":"{model}"' in text


def test_the_cheapest_of_a_group_serves(client: openai.OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(model="auto-cheap", messages=MESSAGES)  # type: ignore[arg-type]
    assert answer.headers["x-aisix-served-by"] == "my-gpt4-mini"
    assert answer.headers["server-timing"].startswith("queue;dur=")
    assert answer.parse().model == "auto-cheap"


def test_curl_line_of_the_start(gateway: GatewayProcess) -> None:
    """Executed as printed."""
    (line,) = [line.strip() for line in gateway.stdout.splitlines() if "curl" in line]
    assert gateway.stdout.startswith("AISIX ")
    assert f"listens on {gateway.base_url}\n" in gateway.stdout
    assert shlex.split(line)[0] == "curl"
    assert "Hello" in text_of(told(["sh", "-c", line]))


def test_requests_loop(gateway: GatewayProcess, tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(here(REQUESTS, gateway))
    answer, end = told([sys.executable, str(script)]).rsplit("\n", 2)[:2]
    assert "sea" in answer
    assert end == "Stream finished."


MESSAGES = [{"role": "user", "content": "Say hello to the sea."}]


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=CALLER_KEY, max_retries=0, timeout=PATIENCE) as one:
        yield one


def test_sdk_stream(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))  # type: ignore[call-overload]
    assert "sea" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert {chunk.model for chunk in chunks} == {MODEL}
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_sdk_stream_with_usage(client: openai.OpenAI) -> None:
    wanted = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, stream_options=wanted)  # type: ignore[call-overload]
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens > 0
    assert chunks[-1].usage.completion_tokens > 5
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_sdk_whole_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES)  # type: ignore[arg-type]
    assert "sea" in (answer.choices[0].message.content or "")
    assert answer.model == MODEL
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_sdk_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == sorted(["gpt-4o-prod", "my-gpt4-mini", *NAMES])
    assert client.models.retrieve(MODEL).id == MODEL


def test_sdk_below_the_prefix(gateway: GatewayProcess) -> None:
    with openai.OpenAI(base_url=f"{gateway.base_url}/api/v1", api_key="my-secret-key", max_retries=0) as one:
        chunks = list(one.chat.completions.create(model="my-gpt4-mini", messages=MESSAGES, stream=True))  # type: ignore[call-overload]
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [True, False])
def test_sdk_raises_its_own_errors(gateway: GatewayProcess, client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        client.with_options(api_key="wrong").chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream)  # type: ignore[call-overload]
    assert refused.value.status_code == 401
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="no-such-model", messages=MESSAGES, stream=stream)  # type: ignore[call-overload]
    assert unknown.value.type == "model_not_found"
    assert unknown.value.response.headers["x-aisix-request-id"]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[], stream=stream)  # type: ignore[call-overload]
    assert "Traceback" not in gateway.stderr


def test_async_sdk(gateway: GatewayProcess) -> None:
    async def use() -> None:
        base = f"{gateway.base_url}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key=CALLER_KEY, max_retries=0, timeout=PATIENCE) as client:
            create = client.chat.completions.create

            async def text() -> str:
                stream = await create(model=MODEL, messages=MESSAGES, stream=True)  # type: ignore[call-overload]
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            for answer in await asyncio.gather(*(text() for _ in range(8))):
                assert "sea" in answer
            whole = await create(model=MODEL, messages=MESSAGES)  # type: ignore[call-overload]
            assert "sea" in whole.choices[0].message.content
            assert "gpt-4o-prod" in [model.id async for model in client.models.list()]
            with pytest.raises(openai.NotFoundError):
                await create(model="no-such-model", messages=MESSAGES, stream=True)  # type: ignore[call-overload]
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key="wrong").models.list()

    asyncio.run(use())


def test_the_readme_says_what_is_tested() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    assert CURL % (CALLER_KEY, MODEL) in readme
    assert REQUESTS in readme
    for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
        compile(block, "README.md", "exec")
