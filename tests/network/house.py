"""A whole gateway in the reactor of the test, between a `ScriptedProvider` and `Caller`s; it must leave nothing behind.

running = Running(tmp_path, {"upstream": provider.url}).start()
caller = await running.ask(chat())
(record,) = await running.when_records(1)
await running.close()           # fails for anything that leaked
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, globalLogPublisher

from tests.doubles.caller import Caller, post
from tests.doubles.process import merged
from tests.doubles.waiting import PATIENCE, Conditions, NeverCame
from twisted_gateway.config.boot import structure
from twisted_gateway.logs import Log, json_layout
from twisted_gateway.tap import House

from ..doubles.timers import timers

KEY = "caller-key"
HASTE = 1.0
"""Seconds that the alias `hasty` waits for anything: request, first event, silence. What comes in time comes at once,
but a loaded machine may stop for a while in between."""

_HASTY = dict.fromkeys(("timeout_ms", "stream_timeout_ms", "first_event_timeout_ms"), int(HASTE * 1000))
_TURNS = 200
_GAUGES = ("aisix_proxy_in_flight_requests", "aisix_open_streams")
_BOOT = {
    "proxy": {"addr": "127.0.0.1:0"},
    "admin": {"enabled": False},
    "observability": {"metrics": {"prometheus": {"enabled": False}}},
    "shutdown": {"min_drain_secs": 0},
    "upstream": {"retries": 0},
}


def chat(stream: bool = True, model: str = "test-model", text: str = "hi", key: str = KEY, **more: Any) -> bytes:
    """A chat request for the wire."""
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}], **more}
    return post("/v1/chat/completions", body, key=key)


def contents(caller: Caller) -> str:
    """The text of an answer so far, streamed or whole."""
    if not (caller.header("content-type") or "").startswith("text/event-stream"):
        return str(caller.answer.json()["choices"][0]["message"]["content"])
    chunks = [frame.json() for frame in caller.frames if frame.data != "[DONE]" and frame.event is None]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def until(met: Callable[[], bool], story: Callable[[], str], patience: float = PATIENCE) -> None:
    """Turn the reactor until a condition that nobody announces is met; the machine may have slept all that time."""
    deadline, turns = default_reactor.seconds() + patience, 0
    while not met():
        if default_reactor.seconds() > deadline and turns > _TURNS:
            raise NeverCame(story())
        await deferLater(default_reactor, 0.001)
        turns += 1


class Lines:
    """A writer that keeps lines instead of writing them."""

    dropped = 0

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def put(self, line: bytes) -> None:
        self.lines.append(json.loads(line))

    def expect(self, make: Callable[[], None]) -> None:
        """Now is soon enough."""
        make()

    def flush(self) -> None:
        """Nothing is held back."""

    def stop(self) -> None:
        """Nothing is held back."""


class Trouble:
    """What the process logs at level error or above, and every failure: there must be none of it."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("log_level", LogLevel.info) >= LogLevel.error or "log_failure" in event:
            failure = event.get("log_failure")
            self.events.append(str(event.get("log_format")) + (failure.getTraceback() if failure else ""))


class Running:
    """One gateway and what it wrote: `records`, `access_lines`, the `house` itself.

    `providers` names provider keys and their addresses. The first also serves the alias `hasty`, whose key has
    deadlines of `HASTE` seconds; every name is an alias too, the first one as `test-model`. `resources` are more
    lists of the resources file, and `change` may edit all of them before they are read.
    """

    def __init__(
        self,
        folder: Path,
        providers: Mapping[str, str],
        boot: Mapping[str, Any] | None = None,
        reactor: Any = default_reactor,
        resources: Mapping[str, Any] | None = None,
        change: Callable[[dict[str, Any]], None] = lambda resources: None,
    ) -> None:
        self.records: list[dict[str, Any]] = []
        self.callers: list[Caller] = []
        self.arrived: list[str] = []
        self.trouble = Trouble()
        self._reactor = reactor
        self._changes = Conditions(reactor)
        self._lines = Lines()
        self._before = self._held()
        path = folder / "resources.yaml"
        made = _resources(providers) | dict(resources or {})
        change(made)
        path.write_text(yaml.safe_dump(made))
        settings = structure(merged({**_BOOT, "resources_file": str(path)}, boot or {}), {})
        self.house = House(settings, reactor, Log(self._lines, json_layout("aisix")), alone=False)
        self.house.accounting.records.append(self._recorded)
        self._count_arrivals()

    def start(self) -> Running:
        """Listen."""
        globalLogPublisher.addObserver(self.trouble)
        self.house.startService()
        return self

    # What it did

    @property
    def gateway(self) -> Any:
        """The trunk."""
        return self.house.gateway

    @property
    def site(self) -> Any:
        """The callers' side."""
        return self.house.site

    @property
    def pool(self) -> Any:
        """The pool of connections to providers; there is one while no provider key has trust of its own."""
        (pool,) = self.house.clients.pools
        return pool

    @property
    def port(self) -> int:
        """Where callers go."""
        return int(self.house.port.getHost().port)

    @property
    def access_lines(self) -> list[dict[str, Any]]:
        """The access log."""
        return [line for line in self._lines.lines if line["message"] == "proxy request completed"]

    def gauges(self) -> dict[str, float]:
        """The gauges that count what is going on, summed over their labels."""
        families = {family.name: family for family in self.house.metrics.collect()}
        return {name: sum(sample.value for sample in families[name].samples) for name in _GAUGES if name in families}

    async def when_records(self, count: int, patience: float = PATIENCE) -> list[dict[str, Any]]:
        """The records, once there are so many."""
        await self._changes.when(
            lambda: len(self.records) >= count, patience, lambda: f"{len(self.records)} records, not {count}"
        )
        return self.records

    # Calling

    async def open(self, request: bytes = b"") -> Caller:
        """A caller that has sent these bytes."""
        caller = Caller("127.0.0.1", self.port, self._reactor)
        self.callers.append(caller)
        return await caller.open(request)

    async def ask(self, request: bytes, patience: float = PATIENCE) -> Caller:
        """A caller that has read its whole answer."""
        return await (await self.open(request)).when_ended(patience)

    # The end

    async def quiet(self, patience: float = PATIENCE) -> None:
        """Until no call runs and no connection to a provider is busy."""
        pool = self.pool
        await until(
            lambda: not self.gateway.in_flight and len(pool.open) == pool.idle,
            lambda: f"{self.gateway.in_flight} calls in flight, {len(pool.open)} connections, {pool.idle} of them idle",
            patience,
        )

    def check_books(self) -> None:
        """Nothing is counted as running, and each call was written down once."""
        assert not self.gateway.running
        assert not self.gateway.streams._running
        assert not self.house.budgets._running
        assert not self.house.budgets._pending
        assert all(value == 0 for value in self.gauges().values()), self.gauges()
        assert self.site.budget.used == 0
        ids = sorted(self.arrived)
        assert sorted(record["request_id"] for record in self.records) == ids
        assert sorted(line["request_id"] for line in self.access_lines) == ids
        assert self.trouble.events == []

    async def close(self) -> None:
        """Let everybody go, stop, and look for what is left."""
        try:
            await self.quiet()
            await gatherResults([caller.leave() for caller in self.callers if not caller.closed])
            await until(lambda: not self.site.channels, lambda: f"{len(self.site.channels)} callers are left")
            self.check_books()
        finally:
            await gatherResults([caller.reset() for caller in self.callers if not caller.closed])
            await self.house.stopService()
            globalLogPublisher.removeObserver(self.trouble)
        await until(lambda: self._held() <= self._before, lambda: f"left: {self._held() - self._before}", 0.8)
        assert not self.pool.open
        assert not self.pool.idle

    def _held(self) -> set[Any]:
        """What the reactor holds for somebody: sockets and timers."""
        return {*self._reactor.getReaders(), *self._reactor.getWriters(), *timers(self._reactor)}

    def _recorded(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        self._reactor.callLater(0, self._changes.look)  # the access line comes behind the record

    def _count_arrivals(self) -> None:
        serve = self.house.front.serve

        async def counted(exchange: Any, request: Any) -> None:
            self.arrived.append(exchange.id)
            await serve(exchange, request)

        self.house.front.serve = counted


def _resources(providers: Mapping[str, str]) -> dict[str, Any]:
    """Provider keys and aliases as `Running` promises."""
    first = next(iter(providers))
    keys = [_key(name, url) for name, url in providers.items()]
    aliases = {"test-model": first, "hasty": "hasty"} | {name: name for name in providers if name != first}
    models = [
        {"display_name": alias, "provider": "openai", "model_name": "upstream-model", "provider_key": name}
        for alias, name in aliases.items()
    ]
    return {
        "_format_version": "1",
        "provider_keys": [*keys, _key("hasty", providers[first]) | _HASTY],
        "models": models,
        "api_keys": [{"display_name": "caller", "key": KEY, "allowed_models": ["*"]}],
    }


def _key(name: str, url: str) -> dict[str, Any]:
    return {"display_name": name, "provider": "openai", "api_key": "provider-key", "api_base": f"{url}/v1"}
