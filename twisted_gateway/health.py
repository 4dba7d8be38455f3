"""How each target is doing, in this process: in flight, latency, cooldown, background verdicts (`policy.md` 7, 10).

State by model id, shared by all endpoints and groups; it outlives reloads. `clock` gives seconds, monotonic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import attrs

from twisted_gateway.config.resources import Model
from twisted_gateway.config.routes import BackgroundCheck
from twisted_gateway.errors import AttemptFailed
from twisted_gateway.facts import define, frozen
from twisted_gateway.ring import Weighted
from twisted_gateway.turns import Turns

CHECK_FAILED = "background_check_failed"
IGNORED = "ignored_transient_error"
TIMED_OUT = 408
"""What a timeout counts as in `ignore_statuses`."""

_OLD, _NEW = 0.7, 0.3
_REASONS = {401: "upstream_auth_failure", 408: "upstream_request_timeout", 429: "upstream_rate_limited"}
_TRANSPORT = {
    "transport": "transport_error",
    "stream_aborted": "transport_error",
    "upstream_decode": "upstream_decode_error",
    "upstream_in_band": "upstream_in_band_error",
}


@define
class State:
    """What is known of one target. Times on the clock, in seconds; `latency` in ms."""

    in_flight: int = 0
    latency: float | None = None
    failures: int = 0
    """In a row; a success resets it."""
    cool_until: float = 0.0
    cool_reason: str | None = None
    unhealthy: bool = False
    checked: float | None = None
    check_status: int | None = None
    check_reason: str | None = None


@frozen
class Report:
    """How a target stands (`operations.md` 3.2). Ages in seconds: until it is tried again, since the last check."""

    status: str
    reason: str | None = None
    cooldown_left: float | None = None
    checked_ago: float | None = None
    check_status: int | None = None


@define
class Health:
    """The standing of every target: what `routing.plan` asks, and who tells it."""

    clock: Callable[[], float]
    turns: Turns = attrs.field(factory=Turns)
    _states: defaultdict[str, State] = attrs.field(factory=lambda: defaultdict(State))

    # What routing asks

    def turn(self, group: str, priority: int, configured: Weighted, usable: Weighted) -> int:
        """See `Turns.next`."""
        return self.turns.next(group, priority, configured, usable)

    def in_flight(self, model: str) -> int:
        """Attempts at it that are running, streams to their end."""
        return self._known(model).in_flight

    def latency(self, model: str) -> float | None:
        """The moving average of its successful attempts in ms, None before the first."""
        return self._known(model).latency

    def cooling(self, model: str) -> bool:
        """Whether it is left alone for a while."""
        return self._known(model).cool_until > self.clock()

    def unhealthy(self, model: Model) -> bool:
        """Whether the last background check failed and still counts."""
        state, check = self._known(model.id), model.background_model_check
        return state.unhealthy and _counts(state, check, self.clock())

    # What attempts tell

    def began(self, model: Model) -> None:
        """An attempt at it begins."""
        self._states[model.id].in_flight += 1

    def ended(self, model: Model) -> None:
        """An attempt is over, whatever became of it."""
        self._states[model.id].in_flight -= 1

    def succeeded(self, model: Model, seconds: float) -> None:
        """An attempt gave an open answer after so long: it is no longer cooling down."""
        state, sample = self._states[model.id], seconds * 1000
        state.latency = sample if state.latency is None else _NEW * sample + _OLD * state.latency
        state.failures = 0
        state.cool_until, state.cool_reason = 0.0, None

    def failed(self, model: Model, failure: AttemptFailed, counts: bool) -> bool:
        """An attempt failed; whether a cooldown began. `counts`: it is of the kind that others might repair."""
        state = self._states[model.id]
        state.failures += counts
        found = _cooldown(model, failure)
        if found is None:
            return False
        seconds, state.cool_reason = found
        state.cool_until = self.clock() + seconds
        return True

    # What background checks tell

    def checked(self, model: Model, status: int | None, good: bool) -> None:
        """A check is over. `status` is the provider's own, 408 for a timeout, None where there was none."""
        state, check = self._states[model.id], model.background_model_check
        state.check_status = status
        if not good and check is not None and status in check.ignore_statuses:
            state.check_reason = IGNORED
            return
        state.checked = self.clock()
        state.unhealthy = not good
        state.check_reason = None if good else CHECK_FAILED
        if good:
            state.cool_until, state.cool_reason = 0.0, None

    # What operators ask

    def report(self, model: Model) -> Report:
        """How it stands."""
        state, now = self._known(model.id), self.clock()
        left = state.cool_until - now
        status, reason = "healthy", state.check_reason if state.check_reason == IGNORED else None
        if left > 0:
            status, reason = "cooldown", state.cool_reason
        if self.unhealthy(model):
            status, reason = "unhealthy", CHECK_FAILED
        return Report(
            status,
            reason,
            left if left > 0 else None,
            now - state.checked if state.checked is not None else None,
            state.check_status,
        )

    def level(self, model: str) -> int:
        """0, 1 from four failures in a row, 2 from eight (`policy.md` 10.3)."""
        failures = self._known(model).failures
        return 2 if failures >= 8 else 1 if failures >= 4 else 0

    def observed(self, model: str) -> bool:
        """Whether anything is known of it."""
        return model in self._states

    def forget(self, kept: set[str]) -> None:
        """Drop the state of models that a reload has taken away, once nothing runs there any more."""
        for model in [one for one, state in self._states.items() if one not in kept and not state.in_flight]:
            del self._states[model]

    def _known(self, model: str) -> State:
        return self._states.get(model, _UNKNOWN)


_UNKNOWN = State()


def _counts(state: State, check: BackgroundCheck | None, now: float) -> bool:
    if check is None or not check.enabled or state.checked is None:
        return False
    return now - state.checked <= check.stale_after_seconds


def _cooldown(model: Model, failure: AttemptFailed) -> tuple[float, str] | None:
    """How long the target is left alone after this failure, and why (`policy.md` 10.1); None: not at all."""
    rules, kind, status = model.cooldown, failure.problem.kind, failure.status
    if not rules.enabled or not rules.default_seconds:
        return None
    if kind == "timeout":
        return (rules.default_seconds, "request_timeout") if rules.trigger_on_timeout else None
    if status is not None:
        if status not in rules.trigger_statuses:
            return None
        if kind == "upstream_in_band":
            return rules.default_seconds, _TRANSPORT[kind]
        seconds: float = rules.default_seconds
        if rules.honor_retry_after and failure.retry_after is not None:
            seconds = min(failure.retry_after, rules.max_seconds)
        return seconds, _reason(status)
    if kind in _TRANSPORT and rules.trigger_on_transport:
        return rules.default_seconds, _TRANSPORT[kind]
    return None


def _reason(status: int) -> str:
    if status in _REASONS:
        return _REASONS[status]
    return "upstream_server_error" if status >= 500 else "upstream_status_failure"
