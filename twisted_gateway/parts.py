"""The parts of the gateway, made from the boot file: the only place where they are wired to each other."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs
from twisted.logger import LogLevel

from twisted_gateway.admin.state import ConfigState
from twisted_gateway.bookkeeping import Bookkeeping
from twisted_gateway.client_types import ClientTypes
from twisted_gateway.clients import Clients
from twisted_gateway.config.file import load_resources
from twisted_gateway.config.guarding_remote import missing_callable
from twisted_gateway.config.settings import Settings, SettingsError
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.drains import Drains
from twisted_gateway.errors import Problem
from twisted_gateway.formats import anthropic, openai_chat, openai_completions, openai_responses
from twisted_gateway.front import ENDPOINTS, CallerHeaders, Condition, Front
from twisted_gateway.gateway import Gateway
from twisted_gateway.intake import Bounds
from twisted_gateway.listener import Site
from twisted_gateway.logs import Log
from twisted_gateway.metrics import Metrics
from twisted_gateway.named_code import named_code
from twisted_gateway.outside import Outside
from twisted_gateway.policies import access
from twisted_gateway.policies.accounting import ACCESS, Accounting
from twisted_gateway.policies.budgets import Budgets
from twisted_gateway.policies.cache import Cache
from twisted_gateway.policies.cache import Store as AnswerStore
from twisted_gateway.policies.costs import IncludeCost
from twisted_gateway.policies.guardrails.policy import Guardrails
from twisted_gateway.policies.quota import Quota
from twisted_gateway.probes import Probes
from twisted_gateway.pulse import Pulse
from twisted_gateway.randomness import choose, new_id
from twisted_gateway.route_metrics import Deployment, deployment
from twisted_gateway.sharing import Sharing
from twisted_gateway.stores import cached
from twisted_gateway.stores.buckets import namer
from twisted_gateway.threads import Threads, behind_the_reactor
from twisted_gateway.upstream import Upstream
from twisted_gateway.wire.requests import RequestHead

if TYPE_CHECKING:
    from twisted_gateway.policies.guardrails.services import Services
    from twisted_gateway.policies.hooks.steps import Hooks

FORMATS = {
    row.name: row
    for row in (
        openai_chat.FORMAT,
        openai_completions.FORMAT,
        openai_responses.FORMAT,
        anthropic.FORMAT,
        anthropic.COUNT_TOKENS,
    )
}


class Parts:
    """Everything that serves calls, not yet listening. Raises `ResourcesError` and `SettingsError`."""

    def __init__(self, settings: Settings, reactor: Any, log: Log) -> None:
        self.settings = settings
        self.reactor = reactor
        self.lines = log
        seen = settings.observability
        buckets = seen.metrics.buckets
        self.metrics = Metrics(
            request_e2e_latency=buckets.request_e2e_latency,
            request_ttft=buckets.request_ttft,
            guardrail_latency=buckets.guardrail_latency,
        )
        self.state = ConfigState(self.metrics)
        self.state.applied(load_resources(settings.resources_file, os.environ, time.time()))
        self.condition = Condition()
        self.demo_port: Any = None
        self.clients = Clients(reactor, settings.upstream)
        self.clients.check(self.snapshot().provider_keys_by_name.values())
        self.books = self._bookkeeping()
        self.budgets = Budgets(self.books.spending, time.time, reactor.seconds)
        self.outside = Outside.over_own_pool(reactor, settings.upstream)
        self.threads = Threads(reactor.callFromThread)
        self.callables = _callables(settings.callables)
        self._check_callables(self.snapshot())
        self.accounting = Accounting(
            self.metrics,
            self.lines,
            records=[self.books.records.put] if self.books.records is not None else [],
            books=self.books.spending,
            access_log=seen.access_log,
            client_types=ClientTypes((rule.pattern, rule.client) for rule in seen.metrics.client_type_rules),
        )
        self.sharing = Sharing(settings, reactor, self._degraded)
        self.sharing.spend_together(
            self.books.spending,
            lambda: self.snapshot().budgets,
            lambda: [key.id for key in self.snapshot().caller_keys_by_hash.values() if key.max_calls is not None],
            self.budgets.running,
            self.budgets.pending,
        )
        self.hook_threads = Threads(reactor.callFromThread, name="hook")
        self.hooks = self._hooks() if settings.hooks else None
        self.kept = cached.Memory(reactor.seconds, settings.cache.memory_max_bytes)
        self.guard_threads = Threads(reactor.callFromThread, size=2, name="guardrail", begin=behind_the_reactor)
        self.guardrails = Guardrails(
            FORMATS,
            lambda guardrail: self.checks.check(guardrail),
            self.guard_threads.run,
            self.metrics,
            reactor.seconds,
            settings.proxy.responses_stream_guardrail == "buffer",
        )
        self.guardrails.prepare(self.snapshot())
        self.gateway = self._gateway()
        self.probes = self._probes()
        self.metrics.routes.standing = self._standing
        self.front = Front(
            serve=self.gateway.serve,
            snapshot=self.snapshot,
            identify=lambda headers, snapshot: access.identify(headers, snapshot, time.time()),
            proxy=settings.proxy,
            condition=self.condition,
            clock=reactor,
            now=time.time,
            new_id=new_id,
            endpoints=tuple(row for row in ENDPOINTS if row.format in FORMATS),
            left=self.gateway.left,
            listed=self.gateway.streams.listed,
            stop=self.gateway.streams.stop,
        )
        self.site = Site(self.front.resource(), reactor, _bounds(settings), self._refusal, early=self._early)
        self.pulse = Pulse(reactor, self.metrics.lagged, lambda: self.gateway.in_flight > 0)

    def snapshot(self) -> Snapshot:
        """The resources as they are now."""
        snapshot = self.state.snapshot
        assert snapshot is not None
        return snapshot

    # Parts

    @cached_property
    def checks(self) -> Services:
        """What asks somebody about texts; imported with the first guardrail that does."""
        from twisted_gateway.policies.guardrails.services import Services

        return Services(self.outside.fetch, self.threads.run, self.reactor, self.callables)

    def _bookkeeping(self) -> Bookkeeping:
        files = self.settings.usage
        try:
            shared = self.settings.ratelimit.backend != "memory"
            return Bookkeeping(files, self.reactor, self.metrics, time.time, shared)
        except (OSError, ValueError) as error:
            raise SettingsError(f"usage.state_file: {files.state_file} cannot be used: {error}") from None

    def _usage(self) -> Any:
        snapshot = self.snapshot()
        return self.books.report(snapshot, self.budgets.report(snapshot.budgets))

    def _hooks(self) -> Hooks:
        from twisted_gateway.policies.hooks.faults import Faults
        from twisted_gateway.policies.hooks.loading import BadHook, load
        from twisted_gateway.policies.hooks.steps import Hooks

        try:
            hooks = load(self.settings.hooks)
        except BadHook as bad:
            raise SettingsError(str(bad)) from None
        faults = Faults(self.metrics.hook_failed)
        recheck = access.ModelAccess().admit
        made = Hooks(hooks, FORMATS, recheck, self.reactor, self.hook_threads.run, faults)
        if made.wants_records:
            self.accounting.records.append(made.recorded)
        return made

    def _degraded(self, store: str, degraded: bool) -> None:
        self.condition.stores[store] = degraded
        self.metrics.store_degraded(store, degraded)

    def _quota(self) -> Quota:
        return Quota(self.sharing.limiter, time.time, namer(), self.metrics, self.reactor)

    def _gateway(self) -> Gateway:
        settings, accounting = self.settings, self.accounting
        hooks = () if self.hooks is None else (self.hooks,)
        upstream = settings.upstream
        return Gateway(
            before=(
                accounting,
                access.Authentication(
                    time.time,
                    lambda exchange, denial: accounting.denied(
                        exchange, denial.reason, api_key_id=denial.key.id if denial.key else None
                    ),
                    accounting.allowed,
                ),
            ),
            after=(access.ModelAccess(), *hooks, self.guardrails, self.budgets, IncludeCost()),
            limits=(self._quota(), Cache(self._caches())),
            formats=FORMATS,
            upstream=Upstream(self.clients.of, self.reactor, upstream, upstream.connect_timeout_ms),
            settings=upstream,
            clock=self.reactor,
            now=time.time,
            choose=choose,
            uniform=random.uniform,
            timing=settings.proxy.server_timing,
            heartbeat_seconds=settings.downstream.sse_keepalive_interval_secs,
            progress_seconds=settings.downstream.responses_progress_secs,
            demo_base=self._demo_base,
            drains=Drains(self.reactor, settings.proxy.max_drains, self.metrics.drained),
            bridge=settings.proxy.responses_bridge,
        )

    def _probes(self) -> Probes:
        gateway = self.gateway
        return Probes(gateway.means.opener, gateway.health, self.reactor, time.time, new_id, ENDPOINTS[0])

    def _models(self) -> Any:
        return self.state.models(self.gateway.health, time.time())

    def _standing(self) -> list[tuple[Deployment, bool]]:
        """The targets of which something is known, and whether each is up."""
        health = self.gateway.health
        known = [model for model in self.snapshot().direct_models if health.observed(model.id)]
        return [(deployment(model), health.report(model).status == "healthy") for model in known]

    def _caches(self) -> dict[str, AnswerStore]:
        """The caches by the names that policies have for them."""
        caches: dict[str, AnswerStore] = {"memory": self.kept}
        if self.sharing.answers is not None:
            caches["redis"] = self.sharing.answers
        return caches

    def _check_callables(self, snapshot: Snapshot) -> None:
        fault = missing_callable(snapshot.guardrails, self.callables)
        if fault is not None:
            raise SettingsError(fault)

    def _early(self, request: Any, path: bytes) -> Problem | None:
        """What can be told of a request with a large body before any of it is read (`DESIGN.md` section 7, item 17)."""
        if not self.front.asks_for_a_key(path):
            return None
        try:
            access.identify(CallerHeaders(request.head.headers), self.snapshot(), time.time())
        except access.Denied as denial:
            self.metrics.decided("api_key", "denied", denial.reason)
            return denial.problem
        return None

    def _demo_base(self) -> str | None:
        return None if self.demo_port is None else f"http://127.0.0.1:{self.demo_port.getHost().port}/v1"

    def _refusal(self, problem: Problem, head: RequestHead) -> bytes:
        label = self.front.plain_path(head.path)
        endpoint = label if any(label == row.path for row in self.front.endpoints) else "other"
        if problem.status == 413:
            self.metrics.too_large(endpoint, "openai", "pending")
        fields = {
            "method": head.method.decode("latin-1"),
            "path": endpoint,
            "status": problem.status,
            "error_kind": problem.type,
            "error": problem.message,
        }
        if self.settings.observability.access_log:
            self.lines.write(LogLevel.info, ACCESS, "proxy request completed", fields)
        return self.front.refusal(problem, head)


def _callables(paths: Mapping[str, str]) -> dict[str, Callable[..., Any]]:
    """The operator's own objects. Raises `SettingsError` for one that cannot be had or called."""
    found = {}
    for name, path in paths.items():
        try:
            found[name] = named_code(path)
        except ValueError as error:
            raise SettingsError(f"callables.{name}: {error}") from None
        if not callable(found[name]):
            raise SettingsError(f"callables.{name}: {path} cannot be called")
    return found


def _bounds(settings: Settings) -> Bounds:
    proxy, downstream = settings.proxy, settings.downstream
    values = {**attrs.asdict(proxy, recurse=False), **attrs.asdict(downstream, recurse=False)}
    return Bounds(**{field.name: values[field.name] for field in attrs.fields(Bounds)})
