"""Series kept as plain numbers by label values, and given to prometheus_client as families when somebody reads them.

`labels()` and the locked values of prometheus_client cost about 2 us and 0.4 us each; a dictionary costs a tenth, and
nothing but the reactor's thread ever counts. A family of which nothing was observed does not exist.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

Labels = tuple[str, ...]


class Table(dict[Labels, float]):
    """A counter or a gauge: its values by label values; what was never touched has no series."""

    def __init__(
        self, family: type[CounterMetricFamily | GaugeMetricFamily], name: str, text: str, labels: Labels
    ) -> None:
        super().__init__()
        self._described = family, name, text, labels

    def __missing__(self, values: Labels) -> float:
        return 0.0

    def families(self) -> Iterator[Metric]:
        """The family, unless nothing was counted."""
        if self:
            family, name, text, labels = self._described
            made = family(name, text, labels=labels)
            for values, number in self.items():
                made.add_metric(values, number)
            yield made


class Sum:
    """How often and how much: a series of a summary."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count, self.total = 0, 0.0

    def add(self, amount: float, times: int = 1) -> None:
        """Observe `amount`, the sum of `times` observations."""
        self.count += times
        self.total += amount


class Summary(defaultdict[Labels, Sum]):
    """A summary without quantiles."""

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        super().__init__(Sum)
        self._described = name, text, labels

    def families(self) -> Iterator[Metric]:
        """The family, unless nothing was observed."""
        if self:
            name, text, labels = self._described
            made = SummaryMetricFamily(name, text, labels=labels)
            for values, cell in self.items():
                made.add_metric(values, count_value=cell.count, sum_value=cell.total)
            yield made


class Spread:
    """A series of a histogram: how many fell below each bound and not below the one before, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, amount: float) -> None:
        """Observe `amount`."""
        self.counts[bisect_left(self._bounds, amount)] += 1
        self.total += amount


class Histogram(dict[Labels, Spread]):
    """A histogram: its series by label values."""

    def __init__(self, name: str, text: str, labels: Labels, bounds: Sequence[float]) -> None:
        super().__init__()
        self._described, self._bounds = (name, text, labels), tuple(bounds)

    def __missing__(self, values: Labels) -> Spread:
        spread = self[values] = Spread(self._bounds)
        return spread

    def families(self) -> Iterator[Metric]:
        """The family, unless nothing was observed."""
        if self:
            name, text, labels = self._described
            edges = [*map(str, map(float, self._bounds)), "+Inf"]
            made = HistogramMetricFamily(name, text, labels=labels)
            for values, spread in self.items():
                buckets = list(zip(edges, accumulate(spread.counts), strict=True))
                made.add_metric(values, buckets, spread.total)
            yield made
