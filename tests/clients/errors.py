"""Which error a client should raise for what goes wrong; the classes have the same names in all four official SDKs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .scripts import BROKEN

CLASSES = {
    "wrong-key": ("AuthenticationError", 401),
    "unknown": ("NotFoundError", 404),
    "limited": ("RateLimitError", 429),
    "refused": ("BadRequestError", 400),
}
BROKEN_OFF = ("APIError", "APIStatusError", "response.failed")
"""Of an error behind the first events, when the status was told long ago. In Responses it is an event like others,
except that the npm package raises for the gateway's `error` before it."""


def check_failures(failed: Mapping[str, Mapping[str, Any]]) -> None:
    """All of the failures that a script met: class, status, message, `retry-after`, what was read before."""
    found = {name: (failed[name].get("class"), failed[name].get("status")) for name in CLASSES}
    assert found == CLASSES
    assert "too many herons" in failed["limited"]["message"]
    assert failed["limited"]["after"] == "7"
    assert "herons are cold" in failed["refused"]["message"]
    broken = failed["broken"]
    assert broken.get("class") in BROKEN_OFF
    assert "overloaded" in broken["message"]
    assert broken["text"] == BROKEN.text
