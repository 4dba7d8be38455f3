"""Background checks: small calls that are made now and then to see whether a model answers (`policy.md` 10.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from twisted_gateway.config.resources import Model
from twisted_gateway.config.routes import BackgroundCheck
from twisted_gateway.config.snapshot import Resolution, Snapshot
from twisted_gateway.deadlines import Deadlines
from twisted_gateway.errors import AttemptFailed, Refused
from twisted_gateway.exchange import Endpoint, Exchange, Target
from twisted_gateway.facts import define
from twisted_gateway.health import TIMED_OUT, Health
from twisted_gateway.opening import Opener, begun

MOST_AT_ONCE = 4


class _NoCaller:
    """The headers of a call that nobody made."""

    def get(self, name: str) -> str | None:
        return "application/json" if name == "content-type" else None

    def all(self, name: str) -> list[str]:
        return []

    def matching(self, pattern: str) -> Iterator[tuple[str, str]]:
        return iter(())


@define(eq=False)
class _Watch:
    """One model that is checked."""

    model: Model
    check: BackgroundCheck
    timer: IDelayedCall | None = None
    running: Deferred[None] | None = None

    def stop(self) -> None:
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()
        if self.running is not None:
            self.running.cancel()


@define(eq=False)
class Probes:
    """All checks of a process. `endpoint` is the chat endpoint, whose format the small calls are made in.

    `update` tells which models there are, at the start and after each reload; a model that has not changed keeps its
    rhythm. Each check is an ordinary attempt, through the ordinary client.
    """

    opener: Opener
    health: Health
    clock: IReactorTime
    now: Callable[[], float]
    """Seconds since the epoch."""
    new_id: Callable[[], str]
    endpoint: Endpoint
    _snapshot: Snapshot | None = None
    _watches: dict[str, _Watch] = attrs.field(factory=dict)
    _slots: DeferredSemaphore = attrs.field(factory=lambda: DeferredSemaphore(MOST_AT_ONCE))
    _log: Logger = attrs.field(factory=lambda: Logger(namespace="aisix::checks"))

    def update(self, snapshot: Snapshot) -> None:
        """These resources serve now."""
        self._snapshot = snapshot
        wanted = {model.id: (model, check) for model in snapshot.direct_models if (check := _check_of(model))}
        for name, watch in tuple(self._watches.items()):
            if name not in wanted or wanted[name][0] != watch.model:
                self._watches.pop(name).stop()
        for name, (model, check) in wanted.items():
            if name not in self._watches:
                watch = self._watches[name] = _Watch(model, check)
                self._due(watch, 0)

    def stop(self) -> None:
        """No more checks; those that run are given up."""
        watches, self._watches = self._watches, {}
        for watch in watches.values():
            watch.stop()

    def _due(self, watch: _Watch, seconds: float) -> None:
        watch.timer = self.clock.callLater(seconds, self._check, watch)

    def _check(self, watch: _Watch) -> None:
        self._due(watch, watch.check.interval_seconds)
        if watch.running is not None:  # it is slower than its own rhythm
            return
        running: Deferred[None] = self._slots.run(lambda: Deferred.fromCoroutine(self._checked(watch)))
        watch.running = running

        def over(_: object) -> None:
            watch.running = None

        running.addErrback(lambda failure: failure.trap(CancelledError) and None)
        running.addErrback(lambda failure: self._log.failure("a background check failed", failure))
        running.addBoth(over)

    async def _checked(self, watch: _Watch) -> None:
        """Make one call and note what it says about the model."""
        model, health = watch.model, self.health
        was_bad = health.unhealthy(model)
        try:
            status = await self._asked(watch)
        except AttemptFailed as failed:
            status = TIMED_OUT if failed.problem.kind == "timeout" else failed.status
            health.checked(model, status, False)
            if not was_bad and health.unhealthy(model):
                self._log.warn(
                    "background check of {model} failed: {error}", model=model.display_name, error=str(failed)
                )
        except Refused as refused:
            health.checked(model, None, False)
            self._log.warn("background check of {model}: {error}", model=model.display_name, error=str(refused))
        else:
            health.checked(model, status, True)
            if was_bad:
                self._log.info("background check of {model} is good again", model=model.display_name)

    async def _asked(self, watch: _Watch) -> int | None:
        model, check, snapshot = watch.model, watch.check, self._snapshot
        assert snapshot is not None
        question = {
            "model": model.display_name,
            "messages": [{"role": "user", "content": check.prompt}],
            "max_tokens": check.max_tokens,
        }
        body, headers = msgspec.json.encode(question), _NoCaller()
        exchange = Exchange(
            id=self.new_id(),
            endpoint=self.endpoint,
            method="POST",
            path=self.endpoint.path,
            headers=headers,
            peer="",
            body=body,
            snapshot=snapshot,
            arrived=self.clock.seconds(),
            arrived_at=self.now(),
            call=self.opener.formats[self.endpoint.format].read_call(body, headers),
            resolution=Resolution(model, model.model_name, wildcard=False),
        )
        target = Target(model, model.model_name)
        way = self.opener.way(exchange, target, self.opener.lead(target))
        seconds = float(check.timeout_seconds)
        way = attrs.evolve(way, wait=Deadlines(seconds, seconds, seconds, configured=True))
        attempt = begun(exchange, "initial", target, self.clock.seconds())
        opened = await self.opener.open(exchange, way, attempt, lambda: None)
        opened.answer.release(self.clock)
        return opened.attempt.status


def _check_of(model: Model) -> BackgroundCheck | None:
    """The check of a model that can be asked: a wildcard's own name may be none."""
    check = model.background_model_check
    return check if check is not None and check.enabled and "*" not in model.model_name else None
