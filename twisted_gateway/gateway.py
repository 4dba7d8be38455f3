"""The trunk: every call goes through `serve`, streamed or not, whatever its endpoint (`DESIGN.md` section 3).

It knows no format, provider, policy or source by name. Policies have the opinions; the trunk guarantees that each
ticket is settled exactly once, whatever happens.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import IRequest

from twisted_gateway import roads, routing, steps
from twisted_gateway.attempts import Attempts, Means
from twisted_gateway.config.settings import Upstream as UpstreamSettings
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.downstream import Downstream, HeadLines
from twisted_gateway.drains import Drains
from twisted_gateway.errors import AttemptFailed, Problem, Refused, our_fault
from twisted_gateway.exchange import CHAT, Attempt, Exchange, Joint, Outcome, Policy, Target, Ticket, Usage
from twisted_gateway.facts import define
from twisted_gateway.formats.neutral import Prompt
from twisted_gateway.formats.row import Format, Told
from twisted_gateway.health import Health
from twisted_gateway.opening import Opened, Opener, Way
from twisted_gateway.relay import Relay, Waits
from twisted_gateway.replay import Kept, Verbatim
from twisted_gateway.roads import Road
from twisted_gateway.streams import Streams
from twisted_gateway.upstream import Upstream
from twisted_gateway.wire.series import Gate
from twisted_gateway.wire.sse import Frame, encode

_LETTERS = string.ascii_letters + string.digits
_HEX = "0123456789abcdef"
_LONGEST_SILENT_WAIT = 15.0


@define
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
    choose: Callable[[str, int], str]
    """As many random ones of these letters."""
    heartbeat_seconds: float
    demo_base: Callable[[], str | None]
    drains: Drains | None = None
    """Where answers may run on after their callers have left; None: nowhere."""
    bridge: bool = False
    """`proxy.responses_bridge`."""
    timing: bool = False
    """`proxy.server_timing`."""
    progress_seconds: float = 0.0
    """`downstream.responses_progress_secs`."""
    running: set[Relay] = attrs.field(factory=set)
    streams: Streams = attrs.Factory(lambda self: Streams(self.running, self.cancel), takes_self=True)
    in_flight: int = 0
    """Calls between arrival and settlement."""
    uniform: Callable[[float, float], float] = lambda low, high: low
    """`random.uniform`."""
    health: Health = attrs.field(default=attrs.Factory(lambda self: Health(self.clock.seconds), takes_self=True))
    means: Means = attrs.field(init=False)
    _calls: dict[int, Deferred[None]] = attrs.field(factory=dict)
    """Calls that wait for something, by their exchanges' `id()`."""
    _idle: frozenset[int] = frozenset()
    """The `id()`s of the policies that have no opinion about calls of `_idle_in`."""
    _idle_in: Snapshot | None = None
    _ending: Problem | None = None
    """Why the process ends, once it does."""
    _log: Logger = attrs.field(factory=Logger)

    def __attrs_post_init__(self) -> None:
        opener = Opener(self.formats, self.upstream, self.settings, self.clock, self.demo_base, self.bridge)
        self.means = Means(opener, self.health, self.settings, self.clock, self.uniform)

    def serve(self, exchange: Exchange, request: IRequest) -> Deferred[None]:
        """Answer one call. Never fails; to be cancelled when the caller leaves."""
        running = steps.run(self._serve(exchange, request))
        if not running.called:
            self._calls[id(exchange)] = running
        return running

    def cancel(self, exchange: Exchange) -> None:
        """End a call that is not answered yet, whatever it waits for."""
        running = self._calls.get(id(exchange))
        if running is not None:
            running.cancel()

    async def _serve(self, exchange: Exchange, request: IRequest) -> None:
        format = self.formats[exchange.endpoint.format]
        tickets: list[Ticket] = []
        downstream = Downstream(
            request, exchange, format, self.clock, self.heartbeat_seconds, partial(_opened, tickets)
        )
        downstream.timing = self.timing
        outcome = Outcome.BROKEN
        idle = self._idle if self._idle_in is exchange.snapshot else self._idle_for(exchange.snapshot)
        self.in_flight += 1
        try:
            await self._admit(self.before, idle, exchange, tickets)
            exchange.call = format.read_call(exchange.body, exchange.headers)
            await self._admit(self.after, idle, exchange, tickets)
            attempts = self._planned(exchange, tickets, downstream) if exchange.endpoint.plans_first else None
            await self._admit(self.limits, idle, exchange, tickets)
            if attempts is None:
                attempts = self._planned(exchange, tickets, downstream)
            if exchange.call.stream:
                self.streams.began(exchange, partial(self._empty, exchange, format, attempts))
            if (ready := _ready(tickets)) is not None:
                outcome = await self._replay(exchange, attempts.targets[0], ready, downstream, tickets)
            else:
                outcome = await self._relay(exchange, attempts, downstream, tickets)
        except Refused as refusal:
            outcome = Outcome.REFUSED
            downstream.complain(refusal.problem)
        except AttemptFailed as failed:
            failed.let_go()
            outcome = getattr(failed, "outcome", Outcome.FAILED)
            downstream.complain(failed.problem, getattr(failed, "frames", None))
        except (CancelledError, GeneratorExit):
            outcome = Outcome.ABANDONED if downstream.gone else Outcome.BROKEN
            frames = self.streams.ended_early(exchange)
            if self._ending is not None:
                downstream.complain(self._ending)
            elif frames is not None and not downstream.gone:
                outcome = Outcome.STOPPED
                downstream.commit(self._answer_headers(exchange, None, tickets))
                downstream.write(b"".join(map(encode, frames)), len(frames))
                downstream.finish()
        except Exception as error:
            self._log.failure("call {id} failed in the gateway", id=exchange.id)
            downstream.complain(our_fault(repr(error)))
        finally:
            self._settle(exchange, tickets, outcome, downstream)

    def left(self, exchange: Exchange, cancel: Callable[[], None]) -> None:
        """The caller has left: cancel the call, or let the provider end its answer for its figures (section 4)."""
        drains = self.drains
        asked = [one for one in exchange.attempts if one.ended is None and one.sent is not None]
        model = asked[-1].target.model if asked else None
        if (
            model is None
            or drains is None
            or model.on_disconnect != "drain"
            or not drains.begin(exchange, cancel, model.drain_max_secs)
        ):
            cancel()
            return
        exchange.drained = True
        for relay in [relay for relay in self.running if relay.exchange is exchange]:
            relay.discard()

    def _idle_for(self, snapshot: Snapshot) -> frozenset[int]:
        """Ask the policies once what they would say to every call of this snapshot."""
        policies = (*self.before, *self.after, *self.limits)
        self._idle = frozenset(id(one) for one in policies if hasattr(one, "idle") and one.idle(snapshot))
        self._idle_in = snapshot
        return self._idle

    async def _admit(
        self, policies: Sequence[Policy], idle: frozenset[int], exchange: Exchange, tickets: list[Ticket]
    ) -> None:
        for policy in policies:
            if id(policy) in idle:
                continue
            found = policy.admit(exchange)
            if found is None:
                continue
            ticket = found if isinstance(found, Ticket) else await found
            if ticket is not None:
                tickets.append(ticket)

    def _settle(self, exchange: Exchange, tickets: list[Ticket], outcome: Outcome, downstream: Downstream) -> None:
        self.in_flight -= 1
        self._calls.pop(id(exchange), None)
        self.streams.ended(exchange)
        if self.drains is not None:
            self.drains.ended(exchange)
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

    def _planned(self, exchange: Exchange, tickets: Sequence[Ticket], downstream: Downstream) -> Attempts:
        """The call's targets and what becomes of them. Raises `Refused` where there is none."""
        targets = routing.plan(exchange, self.means.health)
        if exchange.endpoint.plans_first and len(targets) == 1:
            self.means.opener.lead(targets[0])

        def headed(way: Way) -> None:
            downstream.headers_of_stream = lambda: self._answer_headers(exchange, way.road, tickets)
            downstream.promise(min(self.heartbeat_seconds or _LONGEST_SILENT_WAIT, _LONGEST_SILENT_WAIT))

        return Attempts(self.means, exchange, list(targets), tickets, downstream, headed)

    def _empty(self, exchange: Exchange, format: Format, attempts: Attempts, usage: Usage) -> list[Frame]:
        """A stream that says nothing, for a caller who has stopped it before it began."""
        call, resolution = exchange.call, exchange.resolution
        assert call is not None
        assert resolution is not None
        last = exchange.attempt
        target = last.target if last is not None else attempts.targets[0]
        shown = routing.shown_name(call.model, resolution) or target.upstream_model
        prompt = Prompt(format.name, (), stream=True)
        told = Told(call, prompt, target, shown, self.now(), self._letters(), self._hex)
        return roads.empty(format, told, usage)

    def _letters(self) -> str:
        return self.choose(_LETTERS, 24)

    def _hex(self) -> str:
        return self.choose(_HEX, 32)

    async def _relay(
        self, exchange: Exchange, attempts: Attempts, downstream: Downstream, tickets: Sequence[Ticket]
    ) -> Outcome:
        """Attempts until one gives an open answer, which is then relayed to its end."""
        while True:
            opened = await attempts.open()
            if isinstance(opened, bytes):
                downstream.answer(opened, [])
                return Outcome.COMPLETE
            answer, attempt = opened.answer, opened.attempt
            relay: Relay | None = None
            try:
                relay = self._joined(exchange, opened, downstream, tickets)
                headers = self._good_headers(exchange, opened, tickets)
                del opened  # and with it what was sent
                self.running.add(relay)
                return await relay.run(headers)
            except AttemptFailed as failed:
                attempts.broke(attempt, failed)
            except Exception:
                answer.cut()
                raise
            finally:
                if relay is not None:
                    self.running.discard(relay)
                attempts.left(attempt)

    async def _replay(
        self, exchange: Exchange, target: Target, body: bytes, downstream: Downstream, tickets: Sequence[Ticket]
    ) -> Outcome:
        """An answer from memory, through the gates of all policies. It is no attempt: `target` is not asked."""
        attempt = Attempt(0, "cache", target, self.clock.seconds())
        gates = partial(_gates, tickets)
        relay = Relay(exchange, attempt, Kept(body), Verbatim(body), gates, downstream, self.clock, Waits())
        self.running.add(relay)
        try:
            return await relay.run(self._answer_headers(exchange, None, tickets))
        finally:
            self.running.discard(relay)

    def _joined(self, exchange: Exchange, opened: Opened, downstream: Downstream, tickets: Sequence[Ticket]) -> Relay:
        call, resolution, way = exchange.call, exchange.resolution, opened.way
        assert call is not None
        assert resolution is not None
        shown = routing.shown_name(call.model, resolution)
        passage = way.road.passage(shown, self.now(), self._letters, self._hex)
        gates, waits = partial(_gates, tickets), Waits(way.wait.silence, self.progress_seconds, way.floor)
        return Relay(exchange, opened.attempt, opened.answer, passage, gates, downstream, self.clock, waits)

    def _good_headers(self, exchange: Exchange, opened: Opened, tickets: Sequence[Ticket]) -> HeadLines:
        headers = self._answer_headers(exchange, opened.way.road, tickets)
        model, resolution = opened.attempt.target.model, exchange.resolution
        if exchange.endpoint.path == CHAT and resolution is not None and resolution.model.id != model.id:
            name = model.display_name
            if name.isascii() and name.isprintable():
                headers.append((b"x-aisix-served-by", name.encode("ascii")))
        return headers

    def _answer_headers(self, exchange: Exchange, road: Road | None, tickets: Sequence[Ticket]) -> HeadLines:
        """The headers of a good answer, whoever gives it (`errors-and-headers.md` section 7)."""
        headers: HeadLines = []
        for ticket in tickets:
            headers += ticket.headers()
        if exchange.endpoint.path == CHAT:
            headers.append((b"x-aisix-call-id", exchange.id.encode("ascii")))
        attempt = exchange.attempt
        keeps = road is not None and road.prompt is None and road.format.keeps_type
        if keeps and attempt is not None and attempt.content_type is not None:
            headers.append((b"content-type", attempt.content_type))
        return headers

    def end_all(self, problem: Problem) -> None:
        """End every call by an error, whether it is answered already or not: the process is going away."""
        self._ending = problem
        if self.drains is not None:
            self.drains.close()
        answering = {id(relay.exchange) for relay in self.running}
        for running in [running for call, running in self._calls.items() if call not in answering]:
            running.cancel()
        for relay in tuple(self.running):
            relay.cut(problem, Outcome.BROKEN)


def _opened(tickets: Sequence[Ticket]) -> None:
    """Tell the tickets that the answer's head is written."""
    for ticket in tickets:
        ticket.opened()


def _ready(tickets: Sequence[Ticket]) -> bytes | None:
    """The answer that a policy has ready, if one has."""
    for ticket in tickets:
        if ticket.ready is not None:
            return ticket.ready
    return None


def _gates(tickets: Sequence[Ticket], joint: Joint) -> list[Gate]:
    """What the policies put on the line of an open answer, in the order of their admission."""
    gates: list[Gate] = []
    for ticket in tickets:
        gates += ticket.gates(joint)
    for ticket in tickets:
        gates += ticket.last_gates(joint)
    return gates
