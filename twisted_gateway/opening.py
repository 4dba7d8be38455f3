"""From a target to an open answer: the only place where an upstream is opened (`DESIGN.md` section 3, step 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from twisted_gateway import providers, roads
from twisted_gateway.answer import Answer
from twisted_gateway.config.resources import Group
from twisted_gateway.config.routes import ThroughputFloor
from twisted_gateway.config.settings import Upstream as UpstreamSettings
from twisted_gateway.connection import HeaderLines
from twisted_gateway.deadlines import Deadlines, deadlines
from twisted_gateway.errors import AttemptFailed, Problem, ended_by, without
from twisted_gateway.exchange import Attempt, Exchange, Target
from twisted_gateway.formats.row import Format, Sent
from twisted_gateway.roads import Road
from twisted_gateway.upstream import Upstream

_USAGE_MEMORY = 600.0


@attrs.frozen
class Way:
    """How one target is asked: where it is, in which dialect, and how long it may take."""

    target: Target
    reach: providers.Reach
    road: Road
    wait: Deadlines
    sent: Sent | None
    """The request; None where there is an answer of our own."""
    floor: ThroughputFloor | None = None
    """How slow its answer may be."""
    ready: bytes | None = None
    """An answer that needs no provider."""


@attrs.frozen
class Opened:
    """An open answer, and the attempt that gave it."""

    answer: Answer
    attempt: Attempt
    way: Way


@attrs.define
class Opener:
    """Makes single attempts. `demo_base` is the embedded provider's root, `bridge` is `proxy.responses_bridge`."""

    formats: Mapping[str, Format]
    upstream: Upstream
    settings: UpstreamSettings
    clock: IReactorTime
    demo_base: Callable[[], str | None]
    bridge: bool = False
    _no_usage: dict[str, float] = attrs.field(factory=dict)
    """Provider keys whose server refuses `stream_options`, and until when that is believed (`streaming.md` 3.1)."""

    def reach(self, target: Target) -> providers.Reach:
        """Where the target is. Raises `Refused`: 400 or 503."""
        return providers.reach(target.model.provider_key, self.demo_base())

    def way(self, exchange: Exchange, target: Target, reach: providers.Reach) -> Way:
        """How this call gets to a target. Raises `Refused` where the target cannot be told what the caller wants."""
        format, call, resolution = self.formats[exchange.endpoint.format], exchange.call, exchange.resolution
        assert call is not None
        row = resolution.model if resolution is not None else None
        group = row if isinstance(row, Group) else None
        wait = deadlines(target.model, self.settings, group)
        ready = format.ready(call, target.model, reach.family)
        if ready is not None:
            return Way(target, reach, Road(format, format, call, target), wait, None, ready=ready)
        road = roads.road(format, self.formats, call, target, reach.family, self.bridge)
        may_ask = self._no_usage.get(target.model.provider_key.id, 0.0) <= self.clock.seconds()
        floor = target.model.throughput_floor or (group.throughput_floor if group is not None else None)
        return Way(target, reach, road, wait, road.sent(may_ask), floor)

    async def open(self, exchange: Exchange, way: Way, attempt: Attempt, accepted: Callable[[], None]) -> Opened:
        """Make an attempt, asking again without `stream_options` where a server refuses them.

        Raises `AttemptFailed`; cancelled, it closes the connection at once. `accepted` is told of a 2xx head.
        """
        key, sent = way.target.model.provider_key, way.sent
        assert sent is not None
        try:
            return Opened(await self._open(exchange, way, attempt, sent, accepted), attempt, way)
        except AttemptFailed as failed:
            if not (sent.asked_usage and failed.status in (400, 422) and _names_stream_options(failed.problem)):
                raise
        self._no_usage[key.id] = self.clock.seconds() + _USAGE_MEMORY
        again = begun(exchange, "retry", way.target, self.clock.seconds())
        return Opened(await self._open(exchange, way, again, way.road.sent(False), accepted), again, way)

    async def _open(
        self, exchange: Exchange, way: Way, attempt: Attempt, sent: Sent, accepted: Callable[[], None]
    ) -> Answer:
        """The only place where an upstream is opened."""
        road, reach = way.road, way.reach
        attempt.contacted = True
        url = reach.url(sent.path, providers.forwarded_query(exchange, reach))
        try:
            own = providers.headers(exchange, way.target, reach, road.native)
            headers = HeaderLines(own, reach.lines(sent.accept))
            return await self.upstream.open(road.call, attempt, road.speaks, url, headers, sent, way.wait, accepted)
        except AttemptFailed as failed:
            if attempt.ended_by is not None:  # it was cancelled, and its connection calls that a failure
                raise CancelledError from None
            problem = without(failed.problem, way.target.model.provider_key.api_key)
            failed.problem = attempt.problem = providers.with_code(problem, reach.family)
            attempt.ended_by = ended_by(failed.problem)
            raise
        except BaseException:
            attempt.ended_by = attempt.ended_by or "abandoned"
            raise
        finally:
            if attempt.first_event is None:
                attempt.ended = self.clock.seconds()


def begun(exchange: Exchange, kind: str, target: Target, now: float) -> Attempt:
    """One more attempt of this call. `kind` is `initial`, `retry`, `fallback` or `hedge`."""
    attempt = Attempt(len(exchange.attempts), kind, target, now)
    exchange.attempts.append(attempt)
    return attempt


def _names_stream_options(problem: Problem) -> bool:
    return "stream_options" in problem.message or "stream_options" in (problem.param or "")
