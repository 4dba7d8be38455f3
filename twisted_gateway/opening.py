"""From a target to an open answer: the only place where an upstream is opened (`DESIGN.md` section 3, step 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from twisted_gateway import providers, roads
from twisted_gateway.answer import Answer
from twisted_gateway.config.resources import Group, Model
from twisted_gateway.config.routes import ThroughputFloor
from twisted_gateway.config.settings import Upstream as UpstreamSettings
from twisted_gateway.deadlines import Deadlines, deadlines
from twisted_gateway.errors import AttemptFailed, Problem, ended_by, without
from twisted_gateway.exchange import Attempt, Exchange, Target
from twisted_gateway.facts import define, fact, frozen
from twisted_gateway.formats.row import Format, Sent
from twisted_gateway.messages import HeaderLines
from twisted_gateway.roads import Road
from twisted_gateway.upstream import Upstream

_USAGE_MEMORY = 600.0
_MOST_LEADS = 1024


@fact
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


@frozen
class Lead:
    """What is the same for every call that goes to one target, by its own name or by a group's."""

    model: Model
    group: Group | None
    reach: providers.Reach
    wait: Deadlines
    floor: ThroughputFloor | None


@fact
class Opened:
    """An open answer, and the attempt that gave it."""

    answer: Answer
    attempt: Attempt
    way: Way


@define
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
    _leads: dict[tuple[int, int], Lead] = attrs.field(factory=dict)
    """By the `id()` of model and group, which it holds."""

    def lead(self, target: Target, group: Group | None = None) -> Lead:
        """Where the target is, and how long it may take. Raises `Refused`: 400 or 503."""
        model = target.model
        found = self._leads.get((id(model), id(group)))
        if found is None:
            reach = providers.reach(model.provider_key, self.demo_base())
            floor = model.throughput_floor or (group.throughput_floor if group is not None else None)
            found = Lead(model, group, reach, deadlines(model, self.settings, group), floor)
            if len(self._leads) >= _MOST_LEADS:  # of snapshots that are gone
                self._leads.clear()
            self._leads[id(model), id(group)] = found
        return found

    def forget(self) -> None:
        """The resources are others now."""
        self._leads.clear()

    def way(self, exchange: Exchange, target: Target, lead: Lead) -> Way:
        """How this call gets to a target. Raises `Refused` where the target cannot be told what the caller wants."""
        format, call, reach = self.formats[exchange.endpoint.format], exchange.call, lead.reach
        assert call is not None
        if format.ready is not None and (ready := format.ready(call, target.model, reach.family)) is not None:
            return Way(target, reach, Road(format, format, call, target), lead.wait, None, ready=ready)
        road = roads.road(format, self.formats, call, target, reach.family, self.bridge)
        may_ask = self._no_usage.get(target.model.provider_key.id, 0.0) <= self.clock.seconds()
        return Way(target, reach, road, lead.wait, road.sent(may_ask), lead.floor)

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
        url = reach.url(sent.path, exchange.query)
        try:
            own = providers.headers(exchange, way.target, reach, road.prompt is None)
            headers = HeaderLines(own, reach.lines[sent.accept])
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
