"""Fixtures for all tests. pytest-twisted loads itself when it is installed and runs async ones in the reactor."""

from collections.abc import AsyncIterator

import pytest_twisted

from .doubles.provider import ScriptedProvider


@pytest_twisted.async_yield_fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    """A scripted provider on a free port; a fault in its scripts fails the test."""
    scripted = ScriptedProvider().start()
    yield scripted
    await scripted.stop()
