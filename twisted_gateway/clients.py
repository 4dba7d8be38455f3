"""The clients that ask providers: one for each kind of trust, with a pool of its own (`operations.md` 10)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted_gateway.agent import Agent, Pool
from twisted_gateway.config.resources import ProviderKey, ProviderTls
from twisted_gateway.config.settings import SettingsError, Upstream
from twisted_gateway.trust import Endpoints, tuner
from twisted_gateway.upstream import Client


class Clients:
    """Made when they are first needed. `boot` is the boot file's `upstream`."""

    def __init__(self, reactor: Any, boot: Upstream) -> None:
        self._reactor = reactor
        self._boot = boot
        self._known: dict[ProviderTls | None, tuple[Client, Pool]] = {}
        self._made(None)

    def of(self, key: ProviderKey) -> Client:
        """The client for a provider key's own trust. Raises `SettingsError` for certificates that cannot be read."""
        own = key.tls if key.tls.ca_cert or not key.tls.verify else None  # None: the boot file's is all there is
        known = self._known.get(own)
        return self._made(own) if known is None else known[0]

    def check(self, keys: Iterable[ProviderKey]) -> None:
        """Make all that these keys need; raises as `of`."""
        for key in keys:
            self.of(key)

    def keep(self, keys: Iterable[ProviderKey]) -> None:
        """Forget those that none of these keys needs, and close their idle connections; raises as `of`."""
        used = [*map(self.of, keys)]
        for own, (client, pool) in tuple(self._known.items()):
            if own is not None and client not in used:
                del self._known[own]
                pool.close_idle()

    @property
    def pools(self) -> list[Pool]:
        """The pools of all of them, the common one first."""
        return [pool for _, pool in self._known.values()]

    def _made(self, own: ProviderTls | None) -> Client:
        boot = self._boot
        pool = Pool(self._reactor, boot.pool_idle_timeout_secs, boot.pool_max_idle_per_host, tuner(boot))
        try:
            endpoints = Endpoints(self._reactor, boot.tls, own)
        except (OSError, ValueError) as error:
            where = "upstream.tls" if own is None else "a provider key's tls"
            raise SettingsError(f"{where}: {error}") from None
        timeout = boot.connect_timeout_ms / 1000 or None
        client = Client(Agent(self._reactor, pool, endpoints, timeout))
        self._known[own] = client, pool
        return client
