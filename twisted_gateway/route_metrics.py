"""The metrics of targets and routing (`operations.md` 5.3, `extensions.md` 9): counted per attempt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from twisted_gateway.config.resources import Model
from twisted_gateway.tallies import Labels, Table


class Deployment(NamedTuple):
    """D of `operations.md` 5.3: one target. `model` is its configured name."""

    provider: str
    model: str
    upstream_model: str
    provider_key_id: str


def deployment(model: Model) -> Deployment:
    """The labels of a target."""
    return Deployment(model.provider, model.display_name, model.model_name, model.provider_key.id)


class _Attempts:
    """Attempts at one target."""

    __slots__ = ("all", "bad", "cooled", "good")

    def __init__(self) -> None:
        self.all = self.good = self.bad = self.cooled = 0


_FAMILIES = (
    ("requests", "all", "Attempts at a target."),
    ("success_responses", "good", "Attempts that were answered."),
    ("failure_responses", "bad", "Attempts that failed."),
    ("cooled_down", "cooled", "Times a target began to cool down."),
)


class RouteMetrics:
    """Tables of their own; `standing` tells at reading time which targets are known, and whether each is up."""

    def __init__(self) -> None:
        self.standing: Callable[[], Iterable[tuple[Deployment, bool]]] = tuple
        self._attempts: defaultdict[Labels, _Attempts] = defaultdict(_Attempts)
        pair = ("model", "fallback_model")
        self._fell_well = self._counter(
            "aisix_routing_successful_fallbacks_total", "Attempts at another target that were answered.", pair
        )
        self._fell_badly = self._counter(
            "aisix_routing_failed_fallbacks_total", "Attempts at another target that failed.", pair
        )
        self._hedges = self._counter("aisix_hedges_total", "Second targets that were started.", ("model", "result"))
        self._unretried = self._counter(
            "aisix_retry_budget_exhausted_total", "Retries that the target's budget forbade.", ("model",)
        )

    @staticmethod
    def _counter(name: str, text: str, labels: tuple[str, ...]) -> Table:
        return Table(CounterMetricFamily, name, text, labels)

    def attempted(self, target: Model, *, good: bool | None, cooled: bool) -> None:
        """An attempt reached a provider. `good` is None where it was ended before its answer was known."""
        cell = self._attempts[target.provider, target.display_name, target.model_name, target.provider_key.id]
        cell.all += 1
        if good is not None:
            if good:
                cell.good += 1
            else:
                cell.bad += 1
        if cooled:
            cell.cooled += 1

    def fell_back(self, group: str, model: str, good: bool) -> None:
        """A group's call went on at another target."""
        (self._fell_well if good else self._fell_badly)[group, model] += 1

    def hedged(self, group: str, result: str) -> None:
        """A second target was started; `result` is `won`, `lost`, `failed` or `abandoned`."""
        self._hedges[group, result] += 1

    def unretried(self, model: str) -> None:
        """A retry was left out because the target's budget is used up."""
        self._unretried[(model,)] += 1

    def families(self) -> Iterator[Metric]:
        """All families of which something was counted."""
        state = Table(
            GaugeMetricFamily, "aisix_deployment_state", "0 healthy, 2 down (unhealthy or cooling).", Deployment._fields
        )
        state.update({target: 0 if up else 2 for target, up in self.standing()})
        routing = (self._fell_well, self._fell_badly, self._hedges, self._unretried, state)
        for table in (*self._deployments(), *routing):
            yield from table.families()

    def _deployments(self) -> Iterator[Table]:
        """Four families of attempts. Zeros make no series."""
        for name, counted, text in _FAMILIES:
            table = self._counter(f"aisix_deployment_{name}_total", text, Deployment._fields)
            counts = {target: getattr(cell, counted) for target, cell in self._attempts.items()}
            table.update({target: count for target, count in counts.items() if count})
            yield table
