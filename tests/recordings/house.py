"""The running gateway as the tests see it: SDK clients, a bare HTTP caller, its access lines and metrics."""

from __future__ import annotations

import http.client
import json
import time
import urllib.request
from typing import Any

import attrs
import openai

from tests.doubles.process import GatewayProcess
from tests.doubles.recordings import Recording

from .reading import Reading, plain
from .replay import Delivery

KEY = "caller-key"
PATIENCE = 60.0
MESSAGES: Any = [{"role": "user", "content": "Say something that was recorded."}]
SHOW_USAGE: Any = {"include_usage": True}


@attrs.frozen
class Raw:
    """An answer as bytes: each element of `writes` is one chunk of HTTP, which is one write of the gateway."""

    status: int
    request_id: str
    content_type: str
    writes: list[bytes]

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.writes)

    def frames(self) -> list[dict[str, Any]]:
        """Every JSON frame."""
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]


class House:
    """A gateway in front of a replaying provider."""

    def __init__(self, gateway: GatewayProcess, provider: str) -> None:
        self.gateway = gateway
        self.client = openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=KEY, max_retries=0, timeout=120)
        self.direct = openai.OpenAI(base_url=provider, api_key="provider-key", max_retries=0, timeout=120)
        self._lines: dict[str, dict[str, Any]] = {}
        self._read = 0

    def close(self) -> None:
        """Close the clients."""
        self.client.close()
        self.direct.close()

    def async_client(self) -> openai.AsyncOpenAI:
        """A client for one event loop."""
        return openai.AsyncOpenAI(base_url=str(self.client.base_url), api_key=KEY, max_retries=0, timeout=120)

    def stream(self, item: Recording, delivery: Delivery, *, usage: bool = True) -> Reading:
        """What the SDK reads in a streamed answer of the gateway."""
        try:
            with self.client.chat.completions.create(
                model=f"our-{item.name}",
                messages=MESSAGES,
                stream=True,
                extra_body=delivery.member(),
                **({"stream_options": SHOW_USAGE} if usage else {}),
            ) as chunks:
                return Reading().read(chunks)
        except openai.OpenAIError as error:
            return Reading(error=error)

    def whole(self, item: Recording, delivery: Delivery) -> Reading:
        """What the SDK reads in an answer that is not streamed."""
        reading = Reading()
        try:
            answer = self.client.chat.completions.create(
                model=f"our-{item.name}", messages=MESSAGES, extra_body=delivery.member()
            )
        except openai.OpenAIError as error:
            reading.error = error
        else:
            reading.add(plain(answer))
        return reading

    def raw(self, item: Recording, delivery: Delivery, **members: Any) -> Raw:
        """An answer without an SDK, chunk by chunk of HTTP, of the kind that was recorded."""
        body = {"model": f"our-{item.name}", "messages": MESSAGES, "stream": item.kind == "stream"}
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.files.port, timeout=120)
        try:
            headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
            connection.request(
                "POST", "/v1/chat/completions", json.dumps({**body, **delivery.member(), **members}), headers
            )
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            writes = _chunks(answer) if answer.chunked else [answer.read()]
            return Raw(answer.status, found["x-aisix-request-id"], found["content-type"], writes)
        finally:
            connection.close()

    def access_line(self, request_id: str) -> dict[str, Any]:
        """The access line of a call, which is written a moment after its end."""
        until = time.monotonic() + PATIENCE
        while request_id not in self._lines:
            self._gather()
            if request_id not in self._lines:
                assert time.monotonic() < until, f"no access line for {request_id}"
                time.sleep(0.01)
        return self._lines[request_id]

    def _gather(self) -> None:
        with open(self.gateway.files.folder / "stderr.txt", "rb") as log:
            log.seek(self._read)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                if b"proxy request completed" in line:
                    fields = json.loads(line)
                    self._lines[fields["request_id"]] = fields

    def counted(self, item: Recording, *families: str) -> list[int]:
        """Counters of the metrics listener, each summed over all labels but the model."""
        with urllib.request.urlopen(f"{self.gateway.metrics_url}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        lines = [line for line in text.splitlines() if f'model="our-{item.name}"' in line]
        return [
            int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(family + "{")))
            for family in families
        ]


def _chunks(answer: http.client.HTTPResponse) -> list[bytes]:
    """The chunks of a body, as they were framed."""
    found: list[bytes] = []
    while size := int(answer.fp.readline().split(b";")[0], 16):
        found.append(answer.fp.read(size))
        assert answer.fp.read(2) == b"\r\n"
    assert answer.fp.readline() == b"\r\n", "trailers"
    return found
