"""Fixtures: a running gateway, and the check that nothing was logged as an error behind a test's back."""

import gc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.logger import globalLogPublisher

from tests.doubles.provider import ScriptedProvider
from tests.doubles.waiting import PATIENCE
from twisted_gateway import answer

pytest.register_assert_rewrite("tests.network.house")

from .house import Running, Trouble  # noqa: E402

Starter = Callable[..., Running]


@pytest.fixture(scope="module", autouse=True)
def no_trouble() -> Iterator[None]:
    """Failures that nobody looked at are logged when they are collected: there must be none in a module."""
    trouble = Trouble()
    globalLogPublisher.addObserver(trouble)
    yield
    gc.collect()
    globalLogPublisher.removeObserver(trouble)
    assert trouble.events == []


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider may end its transfers as late as a loaded machine lets it, and its connection is kept all the same."""
    monkeypatch.setattr(answer, "_LEFTOVER_SECONDS", PATIENCE)


@pytest_twisted.async_yield_fixture
async def start(provider: ScriptedProvider, tmp_path: Path) -> AsyncIterator[Starter]:
    """Starts a gateway in front of the scripted provider, with changes to the boot file and more providers."""
    running: list[Running] = []

    def starter(boot: Mapping[str, Any] | None = None, **more: str) -> Running:
        running.append(Running(tmp_path, {"upstream": provider.url, **more}, boot).start())
        return running[-1]

    yield starter
    for each in running:
        await each.close()
