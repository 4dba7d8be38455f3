"""Fixtures for all tests. pytest-twisted loads itself when it is installed and runs async ones in the reactor."""

import gc
from collections.abc import AsyncIterator

import pytest_twisted

from .doubles.provider import ScriptedProvider


def pytest_collection_finish() -> None:
    """Twelve thousand tests and all that they import stay: a collection in a test need not look at them again."""
    gc.collect()
    gc.freeze()


@pytest_twisted.async_yield_fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    """A scripted provider on a free port; a fault in its scripts fails the test."""
    scripted = ScriptedProvider().start()
    yield scripted
    await scripted.stop()
