"""The trunk: every call goes through `serve`, streamed or not, whatever its endpoint (`DESIGN.md` section 3).

It knows no format, provider, policy or source by name. Policies have the opinions; the trunk guarantees that each
ticket is settled exactly once, whatever happens.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import IRequest

from twisted_gateway import providers, roads, routing
from twisted_gateway.answer import Answer
from twisted_gateway.config.settings import Upstream as UpstreamSettings
from twisted_gateway.deadlines import Deadlines, deadlines
from twisted_gateway.downstream import Downstream, HeadLines
from twisted_gateway.errors import AttemptFailed, Problem, Refused, ended_by, our_fault, without
from twisted_gateway.exchange import Attempt, Exchange, Joint, Outcome, Policy, Target, Ticket
from twisted_gateway.formats.row import Format, Sent
from twisted_gateway.relay import Relay, Waits
from twisted_gateway.replay import Kept, Verbatim
from twisted_gateway.roads import Road
from twisted_gateway.upstream import Upstream
from twisted_gateway.wire.series import Gate

_LETTERS = string.ascii_letters + string.digits
_HEX = "0123456789abcdef"
_LONGEST_SILENT_WAIT = 15.0
_USAGE_MEMORY = 600.0


@attrs.define
class Gateway:
    """The trunk and what it needs. Policies are asked in this order; callers can see it (`policy.md` 1.2).

    `before` see the exchange before its body is read, `after` behind that; `limits` come last, and the endpoint says
    whether the target list is made before or behind them.
    """

    before: Sequence[Policy]
    after: Sequence[Policy]
    limits: Sequence[Policy]
    formats: Mapping[str, Format]
    upstream: Upstream
    settings: UpstreamSettings
    clock: IReactorTime
    now: Callable[[], float]
    """Seconds since the epoch."""
    choose: Callable[..., list[str]]
    """`random.choices`."""
    heartbeat_seconds: float
    demo_base: Callable[[], str | None]
    bridge: bool = False
    """`proxy.responses_bridge`."""
    progress_seconds: float = 0.0
    """`downstream.responses_progress_secs`."""
    running: set[Relay] = attrs.field(factory=set)
    in_flight: int = 0
    """Calls between arrival and settlement."""
    _opening: set[Deferred[Answer]] = attrs.field(factory=set)
    """Attempts without an open answer yet."""
    _ending: Problem | None = None
    """Why the process ends, once it does."""
    _no_usage: dict[str, float] = attrs.field(factory=dict)
    """Provider keys whose server refuses `stream_options`, and until when that is believed (`streaming.md` 3.1)."""
    _log: Logger = attrs.field(factory=Logger)

    async def serve(self, exchange: Exchange, request: IRequest) -> None:
        """Answer one call. Never raises; cancelled when the caller leaves."""
        format = self.formats[exchange.endpoint.format]
        tickets: list[Ticket] = []
        downstream = Downstream(request, exchange, format, self.clock, self.heartbeat_seconds, lambda: _opened(tickets))
        outcome = Outcome.BROKEN
        self.in_flight += 1
        try:
            await self._admit(self.before, exchange, tickets)
            exchange.call = format.read_call(exchange.body, exchange.headers)
            await self._admit(self.after, exchange, tickets)
            targets = self._targets(exchange) if exchange.endpoint.plans_first else None
            await self._admit(self.limits, exchange, tickets)
            if targets is None:
                targets = self._targets(exchange)
            if (ready := _ready(tickets)) is not None:
                outcome = await self._replay(exchange, next(iter(targets)), ready, downstream, tickets)
            else:
                outcome = await self._relay(exchange, format, targets, downstream, tickets)
        except Refused as refusal:
            outcome = Outcome.REFUSED
            downstream.complain(refusal.problem)
        except AttemptFailed as failed:
            outcome = getattr(failed, "outcome", Outcome.FAILED)
            downstream.complain(failed.problem, getattr(failed, "frames", None))
        except (CancelledError, GeneratorExit):
            outcome = Outcome.ABANDONED if downstream.gone else Outcome.BROKEN
            if self._ending is not None:
                downstream.complain(self._ending)
        except Exception as error:
            self._log.failure("call {id} failed in the gateway", id=exchange.id)
            downstream.complain(our_fault(repr(error)))
        finally:
            self._settle(exchange, tickets, outcome, downstream)

    async def _admit(self, policies: Sequence[Policy], exchange: Exchange, tickets: list[Ticket]) -> None:
        for policy in policies:
            found = policy.admit(exchange)
            ticket = found if found is None or isinstance(found, Ticket) else await found
            if ticket is not None:
                tickets.append(ticket)

    def _settle(self, exchange: Exchange, tickets: list[Ticket], outcome: Outcome, downstream: Downstream) -> None:
        self.in_flight -= 1
        if downstream.gone and not downstream.finished:
            outcome = Outcome.ABANDONED
        if outcome is Outcome.ABANDONED:
            exchange.status = 499
        if not downstream.finished and not downstream.gone:
            downstream.abort()  # nothing could be told: let the caller see it rather than wait
        exchange.ended = self.clock.seconds()
        for ticket in reversed(tickets):
            try:
                ticket.settle(outcome)
            except Exception:
                self._log.failure("settling call {id} failed", id=exchange.id)

    def _targets(self, exchange: Exchange) -> Iterator[Target]:
        assert exchange.resolution is not None
        return routing.plan(exchange.resolution)

    async def _relay(
        self,
        exchange: Exchange,
        format: Format,
        targets: Iterator[Target],
        downstream: Downstream,
        tickets: Sequence[Ticket],
    ) -> Outcome:
        """Attempts until one gives an open answer, which is then relayed to its end."""
        last: AttemptFailed | None = None
        call = exchange.call
        assert call is not None
        for target in targets:
            wait = deadlines(target.model, self.settings)
            way = providers.reach(target.model.provider_key, self.demo_base())
            ready = format.ready(call, target.model, way.family)
            if ready is not None:
                downstream.answer(ready, [])
                return Outcome.COMPLETE
            road = roads.road(format, self.formats, call, target, way.family, self.bridge)
            opening = Deferred.fromCoroutine(self._attempt(exchange, road, way, wait, downstream, tickets))
            self._opening.add(opening)
            try:
                answer = await opening
            except AttemptFailed as failed:
                last = failed
                if not failed.retryable or downstream.gone:
                    break
                continue
            finally:
                self._opening.discard(opening)
            assert exchange.resolution is not None
            shown = routing.shown_name(call.model, exchange.resolution)
            letters = "".join(self.choose(_LETTERS, k=24))
            passage = road.passage(shown, self.now(), letters, lambda: "".join(self.choose(_HEX, k=32)))
            attempt = exchange.attempts[-1]
            gates, waits = partial(_gates, tickets), Waits(wait.silence, self.progress_seconds)
            relay = Relay(exchange, attempt, answer, passage, gates, downstream, self.clock, waits)
            self.running.add(relay)
            try:
                return await relay.start(self._answer_headers(exchange, road, tickets))
            except AttemptFailed as failed:
                last = failed
                if downstream.gone:
                    break
            finally:
                self.running.discard(relay)
        assert last is not None, "a plan has at least one target"
        raise last

    async def _replay(
        self, exchange: Exchange, target: Target, body: bytes, downstream: Downstream, tickets: Sequence[Ticket]
    ) -> Outcome:
        """An answer from memory, through the gates of all policies. It is no attempt: `target` is not asked."""
        attempt = Attempt(0, "cache", target, self.clock.seconds())
        gates = partial(_gates, tickets)
        relay = Relay(exchange, attempt, Kept(body), Verbatim(body), gates, downstream, self.clock, Waits())
        self.running.add(relay)
        try:
            return await relay.start(self._answer_headers(exchange, None, tickets))
        finally:
            self.running.discard(relay)

    async def _attempt(
        self,
        exchange: Exchange,
        road: Road,
        way: providers.Reach,
        wait: Deadlines,
        downstream: Downstream,
        tickets: Sequence[Ticket],
    ) -> Answer:
        """An open answer from this target, asking again without `stream_options` where a server refuses them."""
        key = road.target.model.provider_key
        sent = road.sent(self._no_usage.get(key.id, 0.0) <= self.clock.seconds())
        try:
            return await self._open(exchange, road, way, sent, wait, downstream, tickets)
        except AttemptFailed as failed:
            if not (sent.asked_usage and failed.status in (400, 422) and _names_stream_options(failed.problem)):
                raise
        self._no_usage[key.id] = self.clock.seconds() + _USAGE_MEMORY
        return await self._open(exchange, road, way, road.sent(False), wait, downstream, tickets)

    async def _open(
        self,
        exchange: Exchange,
        road: Road,
        way: providers.Reach,
        sent: Sent,
        wait: Deadlines,
        downstream: Downstream,
        tickets: Sequence[Ticket],
    ) -> Answer:
        """The only place where an upstream is opened."""
        call, target = road.call, road.target
        headers = providers.headers(exchange, target, way, sent.accept, road.native)
        last = exchange.attempt
        kind = "initial" if last is None else "retry" if last.target is target else "fallback"
        attempt = Attempt(len(exchange.attempts), kind, target, self.clock.seconds())
        exchange.attempts.append(attempt)

        def accepted() -> None:
            if call.stream and not wait.configured and not exchange.late_head:
                downstream.headers_of_stream = lambda: self._answer_headers(exchange, road, tickets)
                downstream.promise(min(self.heartbeat_seconds or _LONGEST_SILENT_WAIT, _LONGEST_SILENT_WAIT))

        url = way.url(sent.path, providers.forwarded_query(exchange, way))
        try:
            return await self.upstream.open(call, attempt, road.speaks, url, headers, sent, wait, accepted)
        except AttemptFailed as failed:
            problem = without(failed.problem, target.model.provider_key.api_key)
            failed.problem = attempt.problem = providers.with_code(problem, way.family)
            attempt.ended_by = ended_by(failed.problem)
            raise
        except BaseException:
            attempt.ended_by = "abandoned"
            raise
        finally:
            if attempt.first_event is None:
                attempt.ended = self.clock.seconds()

    def _answer_headers(self, exchange: Exchange, road: Road | None, tickets: Sequence[Ticket]) -> HeadLines:
        """The headers of a good answer (`errors-and-headers.md` section 7)."""
        headers = [line for ticket in tickets for line in ticket.headers()]
        if exchange.endpoint.path == "/v1/chat/completions":
            headers.append((b"x-aisix-call-id", exchange.id.encode("ascii")))
        attempt = exchange.attempt
        keeps = road is not None and road.native and road.format.keeps_type
        if keeps and attempt is not None and attempt.content_type is not None:
            headers.append((b"content-type", attempt.content_type))
        return headers

    def end_all(self, problem: Problem) -> None:
        """End every call by an error, whether it is answered already or not: the process is going away."""
        self._ending = problem
        for opening in tuple(self._opening):
            opening.cancel()
        for relay in tuple(self.running):
            relay.cut(problem, Outcome.BROKEN)


def _opened(tickets: Sequence[Ticket]) -> None:
    """Tell the tickets that the answer's head is written."""
    for ticket in tickets:
        ticket.opened()


def _ready(tickets: Sequence[Ticket]) -> bytes | None:
    """The answer that a policy has ready, if one has."""
    return next((body for ticket in tickets if (body := ticket.ready()) is not None), None)


def _gates(tickets: Sequence[Ticket], joint: Joint) -> list[Gate]:
    """What the policies put on the line of an open answer, in the order of their admission."""
    gates = [gate for ticket in tickets for gate in ticket.gates(joint)]
    gates.extend(gate for ticket in tickets for gate in ticket.last_gates(joint))
    return gates


def _names_stream_options(problem: Problem) -> bool:
    return "stream_options" in problem.message or "stream_options" in (problem.param or "")
