"""The service that twistd runs: options, `makeService`, listeners, signals. The only place for the reactor."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from twisted_gateway import __version__
from twisted_gateway.addresses import Address
from twisted_gateway.admin.status import StatusSite
from twisted_gateway.config.file import load_resources, load_settings
from twisted_gateway.config.report import ResourcesError
from twisted_gateway.config.settings import Settings, SettingsError
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.errors import shutting_down
from twisted_gateway.logs import LineWriter, Log, layout_named, level_named
from twisted_gateway.parts import FORMATS as FORMATS
from twisted_gateway.parts import Parts
from twisted_gateway.reloading import Reloading
from twisted_gateway.threads import SWITCH_SECONDS, Threads

if TYPE_CHECKING:
    from twisted_gateway.policies.guardrails.plan import Plan


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


def _reactor() -> Any:
    from twisted.internet import reactor

    return reactor


def make_log(settings: Settings, reactor: Any) -> Log:
    """The process's log on stderr."""
    seen = settings.observability
    return Log(LineWriter(reactor), layout_named(seen.log_format, seen.service_name), level_named(seen.log_level))


class House(Parts, MultiService):
    """The gateway as one service: listeners, signals, reloads, and the way out.

    `alone`: the process is the gateway's own. Otherwise (in a test) it leaves signals, stdout and the collector be.
    """

    def __init__(self, settings: Settings, reactor: Any, log: Log | None = None, alone: bool = True) -> None:
        MultiService.__init__(self)
        Parts.__init__(self, settings, reactor, log or make_log(settings, reactor))
        self.alone = alone
        self._has_log = log is not None
        self.log = Logger(namespace="aisix")
        self.ports: list[Any] = []
        self._stopping = 0
        self.stopped: Deferred[None] = Deferred()
        self.load_threads = Threads(reactor.callFromThread, size=1, name="reload")
        self.reloading = Reloading(self.load_threads.run, self._load, self._apply, self._refused)

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
        if self.hooks is not None:
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

    def reload(self) -> Deferred[None]:
        """SIGHUP: read the resources file again. A bad one is refused whole and changes nothing.

        It is read and compiled in a thread; fires when it serves, or is refused.
        """
        self.books.reopen()
        return self.reloading.ask()

    def _load(self) -> tuple[Snapshot, Plan | None]:
        generation = self.snapshot().generation + 1
        snapshot = load_resources(self.settings.resources_file, os.environ, time.time(), generation=generation)
        self._check_callables(snapshot)
        plan = self.guardrails.compiled(snapshot)
        if plan is not None:
            plan.warm()
        return snapshot, plan

    def _refused(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, ResourcesError):
            self.state.failed(error, time.time())
        elif not isinstance(error, SettingsError):
            self.log.failure("the resources could not be loaded", failure)
        self.log.warn("reload refused, the old configuration keeps serving: {error}", error=str(error))

    def _apply(self, loaded: tuple[Snapshot, Plan | None]) -> None:
        snapshot, plan = loaded
        try:
            self.clients.check(snapshot.provider_keys_by_name.values())
        except SettingsError:
            self._refused(Failure())
            return
        self.guardrails.take(snapshot, plan)
        self.state.applied(snapshot)
        self.probes.update(snapshot)
        self.gateway.health.forget({model.id for model in snapshot.direct_models})
        self.clients.keep(snapshot.provider_keys_by_name.values())
        self.gateway.means.opener.forget()
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
        self.reloading.stop()
        self.load_threads.stop()
        if self.hooks is not None:
            closing.append(self.hooks.quiet())
        for channel in tuple(self.site.channels):
            channel.loseConnection()
        if self.alone:
            self.reactor.addSystemEventTrigger("after", "shutdown", self.lines.writer.stop)
        else:
            self.lines.writer.stop()
        return Deferred.fromCoroutine(self._closed(closing))


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
