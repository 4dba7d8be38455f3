"""Gateways in front of the scripted provider, one for each kind of provider, all with the same aliases.

So a client that is pointed from one to the other sees what it would see when an alias is pointed to another provider.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from tests.doubles.process import GatewayFiles, GatewayProcess

from .provider import Asked, Provider
from .scripts import SCRIPTS

KEY = "sk-caller-key"
PROVIDER_KEY = "sk-provider-key"
PLACES: Mapping[str, Mapping[str, str]] = {
    "anthropic": {"provider": "anthropic"},
    "openai": {"provider": "openai"},
    "compatible": {"provider": "shallows", "adapter": "openai"},
}
AGENTS = ("claude-opus-5-5", "claude-haiku-4-5-20251001", "gpt-6.1-sol")
"""The models that the pinned claude-code and codex ask for when nobody names one."""
PATIENCE = 60.0


def documents(place: str, url: str) -> dict[str, Any]:
    """The resources: an alias for each script, and those of the agents."""
    vendor = PLACES[place]
    names = {**{f"our-{name}": name for name in SCRIPTS}, **dict.fromkeys(AGENTS, "agent")}
    more = {} if place == "openai" else {"completions_via_chat": True}
    return {
        "_format_version": "1",
        "provider_keys": [{"display_name": "upstream", "api_key": PROVIDER_KEY, "api_base": url, **vendor}],
        "models": [
            {
                "display_name": alias,
                "provider": vendor["provider"],
                "model_name": script,
                "provider_key": "upstream",
                **more,
            }
            for alias, script in names.items()
        ],
        "api_keys": [{"display_name": "caller", "key": KEY, "allowed_models": ["*"]}],
    }


@attrs.define
class House:
    """One gateway, and the provider behind it."""

    place: str
    gateway: GatewayProcess
    provider: Provider

    @property
    def url(self) -> str:
        """Where clients go."""
        return self.gateway.base_url

    def mark(self) -> Mark:
        """From here on."""
        return Mark(self, len(self.provider.asked), self.gateway.stderr.count("\n"))


@attrs.frozen
class Mark:
    """A moment: what the provider was asked, and what the gateway logged, since."""

    house: House
    requests: int
    lines: int

    def asked(self) -> list[Asked]:
        """The requests to the provider."""
        return self.house.provider.since(self.requests)

    def logged(self) -> list[dict[str, Any]]:
        """The lines of the log, but one that is being written."""
        return [json.loads(line) for line in self.house.gateway.stderr.split("\n")[self.lines : -1]]

    def calls(self) -> list[dict[str, Any]]:
        """The access line of every call that reached the provider; they are written a moment after their ends."""
        until = time.monotonic() + PATIENCE
        wanted = {asked.headers["x-aisix-request-id"] for asked in self.asked()}
        while True:
            lines = [line for line in self.logged() if line["message"] == "proxy request completed"]
            found = [line for line in lines if line["request_id"] in wanted]
            if len(found) == len(wanted):
                return found
            assert time.monotonic() < until, f"{len(found)} access lines instead of {len(wanted)}: {self.logged()}"
            time.sleep(0.02)

    def check_complete(self, count: int) -> None:
        """So many calls, all well; and nothing but what is logged in good times: no warning, error or traceback."""
        assert [line["outcome"] for line in self.calls()] == ["complete"] * count
        assert [line for line in self.logged() if line["level"].lower() not in ("info", "debug")] == []


def gateway(place: str, provider: Provider, folder: Path) -> GatewayProcess:
    """A gateway for a kind of provider, not started yet."""
    changes = {"observability": {"log_format": "json"}, "proxy": {"responses_bridge": True}}
    return GatewayProcess(GatewayFiles(folder, documents(place, provider.url), changes))
