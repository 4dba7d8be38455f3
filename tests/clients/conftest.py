"""The scripted provider, the gateways in front of it, and the npm packages; each once for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from .house import House, gateway
from .install import Clients, Missing, installed
from .provider import Provider, serving
from .scripts import SCRIPTS


@pytest.fixture(scope="session")
def scripted() -> Iterator[Provider]:
    """The provider."""
    with serving(SCRIPTS) as provider:
        yield provider


@pytest.fixture(scope="session")
def house(scripted: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], House]]:
    """Gives the running gateway for a kind of provider."""
    running: dict[str, House] = {}
    with ExitStack() as stack:

        def give(place: str) -> House:
            if place not in running:
                process = gateway(place, scripted, tmp_path_factory.mktemp(place))
                running[place] = House(place, stack.enter_context(process), scripted)
            return running[place]

        yield give


@pytest.fixture(scope="session")
def clients() -> Clients:
    """The npm packages; where they cannot be had, the test is skipped."""
    try:
        return installed()
    except Missing as reason:
        pytest.skip(str(reason))
