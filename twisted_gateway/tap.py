"""Where things are wired together: options, `makeService`, and the `aisix` command. The only place for the reactor."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python import usage
from twisted.python.components import Componentized

from twisted_gateway import __version__
from twisted_gateway.addresses import Address
from twisted_gateway.admin.state import ConfigState
from twisted_gateway.admin.status import StatusSite
from twisted_gateway.bookkeeping import Bookkeeping
from twisted_gateway.client_types import ClientTypes
from twisted_gateway.clients import Clients
from twisted_gateway.config.file import load_resources, load_settings
from twisted_gateway.config.report import ResourcesError
from twisted_gateway.config.settings import Settings, SettingsError
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.drains import Drains
from twisted_gateway.errors import Problem, shutting_down
from twisted_gateway.formats import anthropic, openai_chat, openai_completions, openai_responses
from twisted_gateway.front import ENDPOINTS, CallerHeaders, Condition, Front
from twisted_gateway.gateway import Gateway
from twisted_gateway.intake import Bounds
from twisted_gateway.listener import Site
from twisted_gateway.logs import LineWriter, Log, layout_named, level_named
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
from twisted_gateway.policies.guardrails.services import Services
from twisted_gateway.policies.hooks.faults import Faults
from twisted_gateway.policies.hooks.loading import BadHook, load
from twisted_gateway.policies.hooks.steps import Hooks
from twisted_gateway.policies.quota import Quota
from twisted_gateway.probes import Probes
from twisted_gateway.pulse import Pulse
from twisted_gateway.randomness import choose, new_id
from twisted_gateway.route_metrics import Deployment, deployment
from twisted_gateway.sharing import Sharing
from twisted_gateway.stores import cached
from twisted_gateway.stores.buckets import namer
from twisted_gateway.threads import SWITCH_SECONDS, Threads, behind_the_reactor
from twisted_gateway.upstream import Upstream
from twisted_gateway.wire.requests import RequestHead

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

class Options(usage.Options):
    """`twistd aisix`."""

    synopsis = "[--config FILE]"
    optParameters = [["config", "c", None, "the boot file (.yaml, .toml or .json); else the variable AISIX_CONFIG"]]

    def postOptions(self) -> None:
        """Read the boot file: its faults end the process before anything is served."""
        path = self["config"] or os.environ.get("AISIX_CONFIG")
        if not path:
            raise SystemExit("aisix: no configuration: give --config FILE or set AISIX_CONFIG")
        try:
            self.settings = load_settings(path, os.environ)
        except SettingsError as error:
            raise SystemExit(f"aisix: {error}") from None
        parent = self.parent
        if parent is not None and not parent.get("logger") and not parent.get("logfile") and not parent.get("syslog"):
            self.log = make_log(self.settings, _reactor())

    settings: Settings
    log: Log | None = None


def makeService(options: Options) -> House:
    """The service that twistd runs. A resources file that cannot be served ends the process."""
    try:
        return House(options.settings, _reactor(), options.log)
    except (ResourcesError, SettingsError) as error:
        raise SystemExit(f"aisix: {error}") from None


def make_log(settings: Settings, reactor: Any) -> Log:
    """The process's log on stderr."""
    seen = settings.observability
    return Log(LineWriter(reactor), layout_named(seen.log_format, seen.service_name), level_named(seen.log_level))


def _reactor() -> Any:
    from twisted.internet import reactor

    return reactor


class House(MultiService):
    """The gateway as one service: listeners, trunk, policies, signals, and the way out.

    `alone`: the process is the gateway's own. Otherwise (in a test) it leaves signals, stdout and the collector be.
    """

    def __init__(self, settings: Settings, reactor: Any, log: Log | None = None, alone: bool = True) -> None:
        super().__init__()
        self.settings = settings
        self.reactor = reactor
        self.alone = alone
        self.lines = log or make_log(settings, reactor)
        self._has_log = log is not None
        self.log = Logger(namespace="aisix")
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
        self.ports: list[Any] = []
        self.demo_port: Any = None
        self.clients = Clients(reactor, settings.upstream)
        self.clients.check(self.snapshot().provider_keys_by_name.values())
        self.books = self._bookkeeping()
        self.budgets = Budgets(self.books.spending, time.time, reactor.seconds)
        self.outside = Outside.over_own_pool(reactor, settings.upstream)
        self.threads = Threads(reactor.callFromThread)
        callables = _callables(settings.callables)
        self.checks = Services(self.outside.fetch, self.threads.run, reactor, callables)
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
        self.hooks = self._hooks()
        self.kept = cached.Memory(reactor.seconds, settings.cache.memory_max_bytes)
        self.guard_threads = Threads(reactor.callFromThread, size=2, name="guardrail", begin=behind_the_reactor)
        self.guardrails = Guardrails(
            FORMATS,
            self.checks.check,
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
        self._stopping = 0
        self.stopped: Deferred[None] = Deferred()

    def snapshot(self) -> Snapshot:
        """The resources as they are now."""
        snapshot = self.state.snapshot
        assert snapshot is not None
        return snapshot

    # Parts

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
            after=(access.ModelAccess(), self.hooks, self.guardrails, self.budgets, IncludeCost()),
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
        fault = self.checks.missing(snapshot.guardrails)
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

    # Life

    def setServiceParent(self, parent: Any) -> None:
        """Become part of twistd's application, whose log then is ours unless the command line names another."""
        if self._has_log and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.lines)
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Bind every listener, then say where we are. A port that is taken ends the process with one line."""
        try:
            self.sharing.start()
            self._listen()
        except (CannotListenError, SettingsError) as error:
            text = str(error)
            if isinstance(error, CannotListenError):
                text = f"cannot listen on {error.interface or '*'}:{error.port}: {error.socketError}"
            print(f"aisix: {text}", file=sys.__stderr__, flush=True)  # twistd has put a log in place of sys.stderr
            raise SystemExit(1) from None
        super().startService()
        self.probes.update(self.snapshot())
        if self.alone:
            sys.setswitchinterval(SWITCH_SECONDS)
            self.reactor.callWhenRunning(self._running)

    def _listen(self) -> None:
        settings = self.settings
        if settings.demo.enabled:
            from twisted_gateway.demo import DemoProvider

            demo = DemoProvider(self.reactor, settings.demo.ttft_ms, settings.demo.words_per_second)
            site = demo.site()
            site.noisy = False
            self.demo_port = self._bind(settings.demo.addr, site)
        prometheus = settings.observability.metrics.prometheus
        if prometheus.enabled:
            status = StatusSite(
                self.metrics,
                self.state,
                self.reactor,
                path=prometheus.path,
                list_models=self._models,
                usage=self._usage,
            )
            self._bind(prometheus.addr, _quiet_site(status.resource(), self.reactor))
        self.port = self._bind(settings.proxy.addr, self.site, settings.proxy.tls)

    def _bind(self, address: Address, factory: Any, tls: Any = None) -> Any:
        if tls is None:
            port = self.reactor.listenTCP(address.port, factory, interface=address.host, backlog=1024)
        else:
            port = self.reactor.listenSSL(address.port, factory, _server_tls(tls), interface=address.host, backlog=1024)
        self.ports.append(port)
        return port

    def _running(self) -> None:
        """The reactor runs: its own signal handlers are replaced by ours (`DESIGN.md` section 7, item 16)."""
        for number, act in ((signal.SIGTERM, self._stop), (signal.SIGINT, self._stop), (signal.SIGHUP, self.reload)):
            signal.signal(number, lambda *args, act=act: self.reactor.callFromThread(act))
        for warning in (*self.settings.warnings, *self.snapshot().warnings):
            self.log.warn("{warning}", warning=warning)
        if self.settings.hooks:
            own = ", ".join(hook.name for hook in self.hooks.hooks)
            steps = f"validate_model, {own}, guardrails, rate_limit, accounting"
            self.log.info("the steps of a call: {steps}", steps=steps)
        self._warn_published()
        host = self.port.getHost()
        shown = f"[{host.host}]" if ":" in host.host else host.host
        scheme = "http" if self.settings.proxy.tls is None else "https"
        url = f"{scheme}://{shown}:{host.port}"
        print(f"AISIX {__version__} listens on {url}", file=sys.__stdout__, flush=True)
        model = "gpt-4o-prod"
        if self.settings.demo.enabled and self.snapshot().resolve(model) is not None:
            print(f"Try it:\n  {_curl(url, model)}", file=sys.__stdout__, flush=True)
        self.pulse.start()

    def _warn_published(self) -> None:
        if not self.settings.proxy.addr.is_loopback:
            for name in self.snapshot().published_keys(time.time()):
                self.log.warn(
                    'caller key "{name}" is printed in our documentation, and this listener is not loopback', name=name
                )

    def reload(self) -> None:
        """SIGHUP: read the resources file again. A bad one is refused whole and changes nothing."""
        self.books.reopen()
        state = self.state
        before = self.snapshot()
        try:
            snapshot = load_resources(
                self.settings.resources_file, os.environ, time.time(), generation=before.generation + 1
            )
            self.clients.check(snapshot.provider_keys_by_name.values())
            self._check_callables(snapshot)
        except ResourcesError as error:
            state.failed(error, time.time())
            self.log.warn("reload refused, the old configuration keeps serving: {error}", error=str(error))
            return
        except SettingsError as error:
            self.log.warn("reload refused, the old configuration keeps serving: {error}", error=str(error))
            return
        self.guardrails.prepare(snapshot)
        state.applied(snapshot)
        self.probes.update(snapshot)
        self.gateway.health.forget({model.id for model in snapshot.direct_models})
        self.clients.keep(snapshot.provider_keys_by_name.values())
        self.log.info("reloaded: generation {generation}", generation=snapshot.generation)
        for warning in snapshot.warnings:
            self.log.warn("{warning}", warning=warning)
        self._warn_published()

    def _stop(self) -> None:
        """SIGTERM, SIGINT: drain, then end with status 0. A second one ends at once."""
        self._stopping += 1
        if self._stopping > 1:
            self.log.info("stopping at once")
            self.reactor.stop()
            return
        self.log.info("draining: {count} in flight", count=self.gateway.in_flight)
        self.condition.draining = self.site.draining = True
        if self.gateway.drains is not None:
            self.gateway.drains.close()
        self._until = self.reactor.seconds() + self.settings.shutdown.min_drain_secs
        limit = self.settings.shutdown.drain_secs
        self._hard = None if not limit else self._until + limit
        self._told = self.reactor.seconds()
        self._drain()

    def _drain(self) -> None:
        now = self.reactor.seconds()
        if self._hard is not None and now >= self._hard:
            self.gateway.end_all(shutting_down())
            self.reactor.callLater(0.05, self.reactor.stop)
            return
        if now >= self._until and not self.gateway.in_flight:
            self.reactor.callLater(0, self.reactor.stop)
            return
        if now - self._told >= 5:
            self._told = now
            self.log.info("draining: {count} in flight", count=self.gateway.in_flight)
        self.reactor.callLater(min(0.1, max(0.0, self._until - now)) or 0.1, self._drain)

    async def _closed(self, closing: Sequence[Deferred[Any]]) -> None:
        for one in closing:
            await one
        self.books.stop()
        self.hook_threads.stop()
        self.guard_threads.stop()
        await self.sharing.stop()
        await maybeDeferred(super().stopService)

    def stopService(self) -> Any:
        """Close listeners and connections, ending what still runs; the last lines are written."""
        self.probes.stop()
        self.gateway.end_all(shutting_down())
        closing = [maybeDeferred(port.stopListening) for port in self.ports]
        for pool in (*self.clients.pools, self.outside.pool):
            pool.close()
        self.threads.stop()
        closing.append(self.hooks.quiet())
        for channel in tuple(self.site.channels):
            channel.loseConnection()
        if self.alone:
            self.reactor.addSystemEventTrigger("after", "shutdown", self.lines.writer.stop)
        else:
            self.lines.writer.stop()
        return Deferred.fromCoroutine(self._closed(closing))


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


def _quiet_site(resource: Any, reactor: Any) -> Any:
    from twisted.web.server import Site as PlainSite

    site = PlainSite(resource, timeout=60, reactor=reactor, parsePOSTFormSubmission=False)
    site.log = lambda request: None  # type: ignore[method-assign]
    site.noisy = False
    return site


def _server_tls(tls: Any) -> Any:
    from twisted.internet import ssl

    try:
        pem = Path(tls.key_file).read_bytes() + b"\n" + Path(tls.cert_file).read_bytes()
        chain = pem.split(b"-----BEGIN CERTIFICATE-----")
        certificate = ssl.PrivateCertificate.loadPEM(pem)
        more = [ssl.Certificate.loadPEM(b"-----BEGIN CERTIFICATE-----" + one).original for one in chain[2:]]
        return ssl.CertificateOptions(
            privateKey=certificate.privateKey.original,
            certificate=certificate.original,
            extraCertChain=more,
            acceptableProtocols=[b"http/1.1"],
        )
    except Exception as error:
        text = f"proxy.tls: failed to load cert_file={tls.cert_file} / key_file={tls.key_file}: {error}"
        raise SettingsError(text) from None


def _curl(url: str, model: str) -> str:
    body = f'{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return (
        f'curl -sS -N -X POST "{url}/v1/chat/completions" -H "Authorization: Bearer YOUR_CALLER_API_KEY"'
        f" -H \"Content-Type: application/json\" -d '{body}'"
    )
