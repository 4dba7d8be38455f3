"""Fixtures for all tests. pytest-twisted loads itself when it is installed and runs async ones in the reactor."""

import gc
import resource
import time
from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from hypothesis import HealthCheck, settings

from .doubles.provider import ScriptedProvider

# The same examples in every run, however slow the machine; `--hypothesis-profile=default` looks for new ones.
settings.register_profile("aisix", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("aisix")

LAST_OF_THE_HOUR = 60.0
"""Seconds, UTC, in which no test begins: limits, budgets and caches count by the hour, the day and the month."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """No window ends within a test but those of minutes and seconds, of which the tests know themselves."""
    left = 3600 - time.time() % 3600
    if left < LAST_OF_THE_HOUR:
        time.sleep(left + 0.1)


def pytest_configure() -> None:
    """Some tests have a thousand connections at once, both ends of each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


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
