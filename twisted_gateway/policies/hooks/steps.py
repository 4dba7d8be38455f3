"""The policy that runs hooks: `pre_call` at admission, `during` on the answer, `post_call` with the record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from twisted_gateway.errors import Problem, Refused
from twisted_gateway.exchange import Call, Exchange, Joint, Ticket
from twisted_gateway.facts import define
from twisted_gateway.formats import bodies
from twisted_gateway.formats.row import Format
from twisted_gateway.hooks import HookCall, HookRecord, Refuse
from twisted_gateway.policies.hooks.faults import Faults, failed
from twisted_gateway.policies.hooks.frames import FrameGate, NoGate
from twisted_gateway.policies.hooks.loading import Hook
from twisted_gateway.records import Record
from twisted_gateway.wire.series import Gate

CREDENTIALS = frozenset(
    ("authorization", "proxy-authorization", "cookie", "x-api-key", "x-goog-api-key", "api-key", "x-amz-security-token")
)
"""Request headers that a hook does not see."""

InThread = Callable[..., "Deferred[Any]"]
"""Runs a function with arguments in a thread; cancelling it gives up waiting."""

_encode = msgspec.json.Encoder().encode


class TimedOut(Exception):
    """A hook took longer than its `timeout_ms`."""


class Cancelled(Exception):
    """A hook was cancelled, and not by us."""


@define
class Hooks:
    """The policy. `recheck` lets a call pass whose model a hook has changed, or raises `Refused` as for any caller."""

    hooks: Sequence[Hook]
    formats: Mapping[str, Format]
    recheck: Callable[[Exchange], object]
    clock: IReactorTime
    in_thread: InThread
    faults: Faults
    running: set[Deferred[None]] = attrs.field(factory=set, init=False)
    """Calls of `post_call` that have not ended."""

    def admit(self, exchange: Exchange) -> Ticket | Awaitable[Ticket | None] | None:
        """Ask every `pre_call`, one after the other, each about what the one before made of the body."""
        if not self.hooks:
            return None
        first = [hook for hook in self.hooks if hook.pre_call is not None]
        return self._asked(first, exchange) if first else self._ticket(exchange)

    async def _asked(self, hooks: Sequence[Hook], exchange: Exchange) -> Ticket | None:
        for hook in hooks:
            call = await self._before(hook, exchange)
            if call is not None:
                exchange.call = call
                self.recheck(exchange)
        return self._ticket(exchange)

    def _ticket(self, exchange: Exchange) -> Ticket | None:
        hooks = [hook for hook in self.hooks if hook.during is not None]
        return HooksTicket(self, hooks, exchange) if hooks else None

    async def _before(self, hook: Hook, exchange: Exchange) -> Call | None:
        """What one `pre_call` made of the call; None: the same. Raises `Refused`."""
        assert hook.pre_call is not None
        seen, before = self.shown(exchange)
        try:
            await within(maybeDeferred(hook.pre_call, seen), hook.seconds, self.clock)
            body = before.changed(seen.touched)
            return None if body is None else self._read(exchange, body)
        except Refuse as refuse:
            raise Refused(_refusal(refuse)) from None
        except CancelledError:
            raise
        except Exception as error:
            self.faults.note(hook.name, "pre_call", exchange.id, error)
            if hook.skip:
                return None
            raise Refused(failed(hook.name, in_answer=False)) from None

    def _read(self, exchange: Exchange, body: bytes) -> Call:
        return self.formats[exchange.endpoint.format].read_call(body, exchange.headers)

    def shown(self, exchange: Exchange, cached: bool = False) -> tuple[HookCall, Body]:
        """The call as a hook sees it, and what remembers its body."""
        call, caller = exchange.call, exchange.caller
        assert call is not None
        assert caller is not None
        body = Body(call.body)
        headers = {name: text for name, text in exchange.headers.matching("*") if name not in CREDENTIALS}
        made = HookCall(
            request_id=exchange.id,
            endpoint=exchange.endpoint.path,
            model=call.model,
            stream=call.stream,
            headers=headers,
            api_key_id=caller.id,
            team_id=caller.team_id,
            read=body.read,
            cached=cached,
        )
        return made, body

    # After the call

    @property
    def wants_records(self) -> bool:
        """Whether any hook has a `post_call`."""
        return any(hook.post_call is not None for hook in self.hooks)

    def recorded(self, fields: Record) -> None:
        """Start every `post_call` with the record of a settled call. What it raises is only counted and logged."""
        record = HookRecord.of(fields)
        for hook in self.hooks:
            if hook.post_call is not None:
                self._after(hook, record)

    def quiet(self) -> Deferred[Any]:
        """When every `post_call` that runs has ended; each has its `timeout_ms`."""
        return DeferredList([_copy(running) for running in self.running])

    def _after(self, hook: Hook, record: HookRecord) -> None:
        post = hook.post_call
        assert post is not None
        begun = self.in_thread(post, record) if hook.threaded else maybeDeferred(post, record)
        running = within(begun, hook.seconds, self.clock)
        self.running.add(running)

        def ended(result: Any) -> None:
            self.running.discard(running)
            if isinstance(result, Failure):
                self.faults.note(hook.name, "post_call", record.request_id, result.value or TimedOut())

        running.addBoth(ended)


@define
class HooksTicket(Ticket):
    """The hooks that want to see this exchange's answers."""

    policy: Hooks
    hooks: Sequence[Hook]
    exchange: Exchange

    def gates(self, joint: Joint) -> Sequence[Gate]:
        """A gate for each hook that wants this answer."""
        made = [self._gate(hook, joint) for hook in self.hooks]
        return [gate for gate in made if gate is not None]

    def _gate(self, hook: Hook, joint: Joint) -> Gate | None:
        exchange, faults = self.exchange, self.policy.faults
        assert exchange.call is not None
        assert hook.during is not None

        def note(error: BaseException) -> None:
            faults.note(hook.name, "during", exchange.id, error)

        try:
            seen, _ = self.policy.shown(exchange, cached=joint.attempt.kind == "cache")
            made = hook.during(seen)
            if made is None:
                return None
            return FrameGate(hook, made.frame, exchange.call.stream, note)
        except Exception as error:
            note(error)
            return None if hook.skip else NoGate(hook)


@define
class Body:
    """A request body, decoded when somebody wants to see it; that it has changed is known by what it encodes to."""

    raw: bytes
    _before: bytes | None = None

    def read(self) -> dict[str, Any]:
        """The body, decoded anew."""
        body: dict[str, Any] = bodies.read(self.raw.removeprefix(b"\xef\xbb\xbf"))[0]
        self._before = _encode(body)
        return body

    def changed(self, body: Any) -> bytes | None:
        """The bytes of `body` where it is not what was read, else None; None was never asked for."""
        if body is None:
            return None
        if not isinstance(body, dict):
            raise TypeError("call.body must be a dict")
        made = _encode(body)
        return None if made == self._before else made


def within(begun: Deferred[Any], seconds: float, clock: IReactorTime) -> Deferred[None]:
    """When a hook has ended; fails as `TimedOut` after so many seconds, whatever the hook does about being cancelled.

    Cancelling it cancels the hook. Only then does it fail as `CancelledError`.
    """
    timer: Any = None
    leaving = False

    def leave(_: object) -> None:
        nonlocal leaving
        leaving = True
        begun.cancel()

    def give_up() -> None:
        ended.errback(TimedOut())
        begun.cancel()

    def over(result: Any) -> None:
        if ended.called or leaving:
            return
        if isinstance(result, Failure):
            ended.errback(Cancelled() if result.check(CancelledError) else result)
        else:
            ended.callback(None)

    ended: Deferred[None] = Deferred(leave)
    begun.addBoth(over)
    if not ended.called:
        timer = clock.callLater(seconds, give_up)
        ended.addBoth(lambda result: _off(timer, result))
    return ended


def _copy(running: Deferred[Any]) -> Deferred[None]:
    """A Deferred that fires when another has its result, whatever that is."""
    copy: Deferred[None] = Deferred()

    def told(result: Any) -> Any:
        copy.callback(None)
        return result

    running.addBoth(told)
    return copy


def _off(timer: Any, result: Any) -> Any:
    if timer.active():
        timer.cancel()
    return result


def _refusal(refuse: Refuse) -> Problem:
    code = None if refuse.code is None else str(refuse.code)
    return Problem(
        status=refuse.status, type="hook_refused", message=str(refuse.message), code=code, kind="hook_refused"
    )
