"""One immutable, linked picture of the resources; each call takes along the one of its arrival (`configuration.md` 8).

`build` makes it of a plain document, or gives everything that is wrong with it. Pure: time and environment are
handed in.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import attrs

from twisted_gateway.config.caching import CachePolicy, ranked
from twisted_gateway.config.checks import Lines
from twisted_gateway.config.entries import Reading
from twisted_gateway.config.guarding import Guardrail, ordered
from twisted_gateway.config.limits import Policies
from twisted_gateway.config.money import Budget, free_models
from twisted_gateway.config.report import Finding
from twisted_gateway.config.resources import (
    PUBLISHED_KEYS,
    CallerKey,
    Model,
    ProviderKey,
    Row,
    key_hash,
    star_capture,
)
from twisted_gateway.facts import frozen


@frozen
class Resolution:
    """Where a requested name leads: `upstream_model` is what the provider is asked for, "" for a group."""

    model: Row
    upstream_model: str
    wildcard: bool


@frozen
class Snapshot:
    """The resources as they were at one moment.

    `generation` counts what was applied, from 1; `config_hash` is the SHA-256 of the file's bytes; `applied_at` is in
    seconds since the epoch; `warnings` are sentences for the log.
    """

    generation: int
    config_hash: str
    applied_at: float
    provider_keys_by_name: Mapping[str, ProviderKey] = attrs.field(repr=False)
    models_by_name: Mapping[str, Row] = attrs.field(repr=False)
    caller_keys_by_hash: Mapping[str, CallerKey] = attrs.field(repr=False)
    warnings: tuple[str, ...] = ()
    guardrails: tuple[Guardrail, ...] = attrs.field(default=(), repr=False)
    """Those that are enabled, in the order in which they are asked."""
    budgets: tuple[Budget, ...] = ()
    rate_limit_policies: Policies = attrs.field(factory=Policies, repr=False)
    cache_policies: tuple[CachePolicy, ...] = ()
    """The most specific first."""
    _wildcards: tuple[Model, ...] = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(lambda self: _patterns(self.models_by_name), takes_self=True),
    )

    _exact: Mapping[str, Resolution] = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(lambda self: _exactly(self.models_by_name), takes_self=True),
    )
    """Of each name that is written out."""

    _budgets_by_owner: Mapping[tuple[str, str], tuple[Budget, ...]] = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(lambda self: _by_owner(self.budgets), takes_self=True),
    )

    def resolve(self, name: str) -> Resolution | None:
        """Find the model for a requested name: exact, else the wildcard with most literal characters.

        None when nothing answers to the name (`policy.md` 3.1).
        """
        if (found := self._exact.get(name)) is not None:
            return found
        for pattern in self._wildcards:
            if (captured := star_capture(pattern.display_name, name)) is not None:
                return Resolution(pattern, pattern.model_name.replace("*", captured, 1), wildcard=True)
        return None

    def budgets_of(self, key: CallerKey) -> tuple[Budget, ...]:
        """The budgets that count what this key spends, those of the key before those of its team."""
        if not self.budgets:
            return ()
        of = self._budgets_by_owner
        return (*of.get(("api_key", key.id), ()), *of.get(("team", key.team_id or ""), ()))

    @property
    def direct_models(self) -> Iterator[Model]:
        """The models that are served in one place, as written."""
        return (model for model in self.models_by_name.values() if isinstance(model, Model))

    @property
    def resource_counts(self) -> dict[str, int]:
        """How many of each kind; kinds without any are left out (`operations.md` 3.1)."""
        counts = {
            "models": len(self.models_by_name),
            "api_keys": len(self.caller_keys_by_hash),
            "provider_keys": len(self.provider_keys_by_name),
            "guardrails": len(self.guardrails),
            "budgets": len(self.budgets),
            "rate_limit_policies": len(self.rate_limit_policies),
            "cache_policies": len(self.cache_policies),
        }
        return {kind: count for kind, count in counts.items() if count}

    def published_keys(self, now: float) -> tuple[str, ...]:
        """Names of active caller keys whose secret is in our own documentation (`extensions.md` 11)."""
        found = (self.caller_keys_by_hash.get(key_hash(key)) for key in PUBLISHED_KEYS)
        return tuple(
            key.name
            for key in found
            if key is not None and not key.disabled and (key.expires_at is None or key.expires_at >= now)
        )


def _exactly(rows: Mapping[str, Row]) -> dict[str, Resolution]:
    return {
        name: Resolution(row, row.model_name if isinstance(row, Model) else "", wildcard=False)
        for name, row in rows.items()
    }


def _patterns(models: Mapping[str, Row]) -> tuple[Model, ...]:
    """Wildcard models, most literal characters first; of equals the one written first."""
    patterns = [model for model in models.values() if isinstance(model, Model) and model.is_wildcard]
    return tuple(sorted(patterns, key=lambda model: -len(model.display_name)))


def _by_owner(budgets: tuple[Budget, ...]) -> dict[tuple[str, str], tuple[Budget, ...]]:
    found: dict[tuple[str, str], tuple[Budget, ...]] = {}
    for budget in budgets:
        owner = (budget.scope, budget.scope_ref)
        found[owner] = (*found.get(owner, ()), budget)
    return found


def build(
    document: object,
    environ: Mapping[str, str],
    *,
    now: float,
    generation: int = 1,
    config_hash: str = "",
    lines: Lines | None = None,
) -> Snapshot | tuple[Finding, ...]:
    """Make a snapshot of a resources document, or give all that is wrong with it, in the document's order."""
    reading = Reading(environ, lines or {})
    reading.read(document)
    if reading.findings:
        return tuple(reading.findings)
    records = {kind: [entry.record for entry in entries] for kind, entries in reading.entries.items()}
    direct = [record for record in records["models"] if isinstance(record, Model)]
    return Snapshot(
        generation=generation,
        config_hash=config_hash,
        applied_at=now,
        provider_keys_by_name=MappingProxyType({record.display_name: record for record in records["provider_keys"]}),
        models_by_name=MappingProxyType({record.display_name: record for record in records["models"]}),
        caller_keys_by_hash=MappingProxyType({record.key_hash: record for record in records["api_keys"]}),
        guardrails=ordered(records["guardrails"]),
        budgets=tuple(records["budgets"]),
        warnings=(*reading.warnings, *free_models(records["budgets"], records["api_keys"], direct)),
        rate_limit_policies=Policies(records["rate_limit_policies"]),
        cache_policies=ranked(records["cache_policies"]),
    )
