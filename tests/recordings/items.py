"""The items: recordings from beside the checkout, and our own fixtures in the same shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.events import EventReader
from tests.doubles.recordings import Kind, Recording, recordings, shared_streams

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MISSING = "../shared/streams is not beside the checkout: the fixtures alone were read"
ONE_BYTE_LIMIT = 16_384
"""Longer bodies are not sent byte by byte, which would take too long."""


def fixtures(folder: str, kind: Kind | None = None) -> list[Recording]:
    """Our own items of a folder, by name."""
    paths = sorted(FIXTURES.glob(f"{folder}/*.expect.json"))
    items = [
        Recording(path.name.removesuffix(".expect.json"), path.parent, json.loads(path.read_bytes())) for path in paths
    ]
    return [item for item in items if kind in (None, item.kind)]


def items(folder: str, kind: Kind | None = None, protocol: str = "openai-chat") -> list[Recording]:
    """Items of a folder: ours, then the recordings if they are there."""
    ours = [item for item in fixtures(folder, kind) if item.expect.get("protocol", protocol) == protocol]
    return [*ours, *recordings(folder, kind, protocol)]


def roots() -> list[Path]:
    """The folders that have items."""
    shared = shared_streams()
    return [FIXTURES] if shared is None else [FIXTURES, shared]


def each(*found: list[Recording]) -> pytest.MarkDecorator:
    """Runs a test once for each item, given as `item`; one skipped test tells that the recordings are missing."""
    params: list[Any] = [pytest.param(item, id=item.name) for some in found for item in some]
    if shared_streams() is None:
        params.append(pytest.param(None, id="shared", marks=pytest.mark.skip(reason=MISSING)))
    return pytest.mark.parametrize("item", params)


CHAT_STREAMS = items("openai-chat", "stream")
CHAT_WHOLE = items("openai-chat", "json")
_ODD = items("odd-framings")
CHAT_FIRST_ERRORS = [item for item in _ODD if "first-event-error" in item.categories]
CHAT_ODD = [item for item in _ODD if item not in CHAT_FIRST_ERRORS]
CHAT_CUT = [item for item in CHAT_ODD if "truncated" in item.categories]
CHAT_IN_STREAM_ERRORS = [item for item in CHAT_ODD if item.expect.get("sdk_error")]
CHAT_ERRORS = items("http-errors", "error")


def events(item: Recording) -> list[Any]:
    """The JSON data events of a recorded stream, as they were sent (whole ones only)."""
    body = item.body
    frames = EventReader().feed(body if body.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")) else body + b"\n\n", 0.0)
    found = []
    for data in [frame.data for frame in frames if frame.data]:
        try:
            found.append(json.loads(data))
        except ValueError:
            continue
    return found


# The other formats

MESSAGE_STREAMS = items("anthropic-messages", "stream", "anthropic-messages")
MESSAGE_WHOLE = items("anthropic-messages", "json", "anthropic-messages")
MESSAGE_ODD = items("odd-framings", None, "anthropic-messages")
MESSAGE_ERRORS = items("http-errors", "error", "anthropic-messages")
RESPONSE_STREAMS = items("openai-responses", "stream", "openai-responses")
RESPONSE_WHOLE = items("openai-responses", "json", "openai-responses")
RESPONSE_ODD = items("odd-framings", None, "openai-responses")
RESPONSE_ERRORS = items("http-errors", "error", "openai-responses")
COMPLETION_STREAMS = items("openai-completions", "stream", "openai-completions")
COMPLETION_WHOLE = items("openai-completions", "json", "openai-completions")
COMPLETION_ERRORS = items("http-errors", "error", "openai-completions")
