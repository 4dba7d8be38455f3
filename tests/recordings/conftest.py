"""One gateway process and one replaying provider for all recordings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.doubles.process import GatewayFiles, GatewayProcess, resources

from .house import KEY, House
from .items import CHAT_ERRORS, CHAT_FIRST_ERRORS, CHAT_ODD, CHAT_STREAMS, CHAT_WHOLE, roots
from .replay import replaying
from .roads import Roads, opened


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A running gateway with an alias for each item, its provider, and SDK clients for both."""
    names = [
        item.name for some in (CHAT_STREAMS, CHAT_WHOLE, CHAT_ODD, CHAT_FIRST_ERRORS, CHAT_ERRORS) for item in some
    ]
    with replaying(roots()) as provider:
        documents = resources(provider, key=KEY)
        documents["models"] = [
            {"display_name": f"our-{name}", "provider": "openai", "model_name": name, "provider_key": "upstream"}
            for name in names
        ]
        changes = {"observability": {"log_format": "json"}}
        files = GatewayFiles(tmp_path_factory.mktemp("recordings"), documents, changes)
        with GatewayProcess(files) as gateway:
            house = House(gateway, provider)
            yield house
            house.close()


@pytest.fixture(scope="session")
def roads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roads]:
    """A running gateway with every format's items behind it, Responses bridged."""
    with opened(tmp_path_factory.mktemp("roads")) as found:
        yield found
