"""A gate of ours that raises, at any moment: the caller is told once, and nothing hangs or stays."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from tests.doubles.provider import ScriptedProvider, Stall, chat_object, json_answer, sse, sse_chat
from twisted_gateway.exchange import Ticket

from .house import Running, chat


@pytest.fixture(scope="module", autouse=True)
def no_trouble() -> None:
    """Here there is some."""


class Faulty(Ticket):
    """A policy, its ticket and its gate."""

    held = 0
    full = False
    halted = None
    withheld = 0

    def __init__(self, when: str) -> None:
        self.when = when

    def admit(self, exchange: Any) -> Faulty:
        return self

    def gates(self, joint: Any) -> list[Any]:
        return [self]

    def received(self, frames: list[Any]) -> list[Any]:
        if self.when == "first" and frames:
            raise RuntimeError("first")
        if self.when in ("later", "always") and any(b"boom" in frame.data for frame in frames):
            raise RuntimeError("later")
        return frames

    def stopped(self, clean: bool) -> list[Any]:
        if self.when in ("end", "always"):
            raise RuntimeError("end")
        return []


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("when", ["first", "later", "end", "always"])
@ensureDeferred
async def test_a_gate_that_raises(when: str, stream: bool, provider: ScriptedProvider, tmp_path: Any) -> None:
    last = [] if when == "end" else [Stall()]
    provider.answers(
        sse(sse_chat(["a", "boom", "c"], done=when == "end"), *last) if stream else json_answer(chat_object("boom"))
    )
    running = Running(tmp_path, {"upstream": provider.url}).start()
    running.gateway.after = (*running.gateway.after, Faulty(when))
    caller = await running.ask(chat(stream))
    assert caller.body.count(b'"internal_error"') == 1
    assert b"[DONE]" not in caller.body
    (record,) = await running.when_records(1)
    assert record["outcome"] == "broken"
    await running.quiet()
    assert running.trouble.events
    running.trouble.events.clear()
    await running.close()
