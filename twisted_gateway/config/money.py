"""What calls cost and who may spend how much: prices, budgets, and where usage is written (`extensions.md` 6). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import attrs

from twisted_gateway.config.checks import Choice, Count, NonEmpty, Number, Text, Whole
from twisted_gateway.facts import frozen

if TYPE_CHECKING:
    from twisted_gateway.config.resources import CallerKey, Model

Price = Annotated[float, Number(low=0.0)]
"""US dollars for 1,000 tokens."""


@frozen
class Cost:
    """A model's prices in US dollars for 1,000 tokens. What is not written: cached input costs what input costs, and an
    hour's cache write what a write of five minutes does.
    """

    input_per_1k: Price
    output_per_1k: Price
    cache_read_per_1k: Price | None = None
    cache_write_per_1k: Price | None = None
    cache_write_1h_per_1k: Price | None = None


@frozen
class Budget:
    """How much one caller key, or a team's keys together, may spend in a period (`extensions.md` 6.2).

    `scope_ref` is a key's id or a team's. Periods follow the calendar in UTC; `total` never ends.
    """

    id: str = attrs.field(metadata={"injected": True})
    name: Annotated[str, Text(r"(?s).{1,120}", "1 to 120 characters")]
    scope: Annotated[str, Choice(("api_key", "team"))]
    scope_ref: NonEmpty
    limit_usd: Annotated[float, Number(above=0)]
    period: Annotated[str, Choice(("hour", "day", "week", "month", "total"))] = "month"
    on_exhausted: Annotated[str, Choice(("refuse", "stop"))] = "refuse"

    def covers(self, key: CallerKey) -> bool:
        """Whether what this key spends counts here."""
        return self.scope_ref == (key.id if self.scope == "api_key" else key.team_id)


@frozen
class UsageFile:
    """Where records go as JSON lines: bytes until the file is rotated, and how many older ones are kept."""

    path: NonEmpty
    max_bytes: Annotated[int, Whole(low=1)] = 100 * 2**20
    backups: Count = 10


@frozen
class UsageFiles:
    """The boot section `usage`: records, and what must outlive a restart."""

    file: UsageFile | None = None
    state_file: NonEmpty | None = None


def free_models(budgets: Iterable[Budget], keys: Iterable[CallerKey], models: Iterable[Model]) -> Iterator[str]:
    """Sentences about models without a price that a budget could meet: they cost it nothing."""
    spenders = list(keys)
    free = [model for model in models if model.cost is None]
    for budget in budgets:
        covered = [key for key in spenders if budget.covers(key)]
        for model in free:
            if any(_may_meet(key, model) for key in covered):
                yield (
                    f'models ("{model.display_name}"): it has no `cost`, so that it is free for the budget '
                    f'"{budget.name}"'
                )


def _may_meet(key: CallerKey, model: Model) -> bool:
    before, _, after = model.display_name.partition("*")
    return key.may_use(model.display_name) or (
        model.is_wildcard and any(name.startswith(before) and name.endswith(after) for name in key.allowed_models)
    )
