"""What became of the configuration: which snapshot serves, and how the last load went (`operations.md` 3.1)."""

from __future__ import annotations

from typing import Any

import attrs

from twisted_gateway.config.report import Finding, ResourcesError
from twisted_gateway.config.resources import Model, Row
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.facts import define, frozen
from twisted_gateway.health import Health, Report
from twisted_gateway.metrics import Metrics
from twisted_gateway.records import rfc3339_seconds

_MOST_REJECTED = 256
"""Remembered rejections (`configuration.md` 6)."""

Rejection = tuple[str, str, str, str]
"""Kind, identity, error kind and error of a refused entry."""


@frozen
class LoadFailure:
    """A load that was refused as a whole. `at` is in seconds since the epoch."""

    at: float
    kind: str
    """`fetch`, `non_json`, `parse_failed` or `schema_failed`."""
    error: str


@define
class ConfigState:
    """The present of the configuration. Whoever loads it tells `applied` or `failed`; the status listener asks.

    `metrics`, where given, is told too (`operations.md` 5.5). All times are seconds since the epoch.
    """

    metrics: Metrics | None = None
    source: str = "file"
    snapshot: Snapshot | None = attrs.field(default=None, init=False)
    observed_hash: str = attrs.field(default="", init=False)
    observed_at: float | None = attrs.field(default=None, init=False)
    last_failure: LoadFailure | None = attrs.field(default=None, init=False)
    _succeeded: bool | None = attrs.field(default=None, init=False)
    _rejected: dict[Rejection, tuple[float, float]] = attrs.field(factory=dict, init=False)

    def applied(self, snapshot: Snapshot) -> None:
        """This snapshot serves from now on."""
        self.snapshot, self.observed_hash, self.observed_at = snapshot, snapshot.config_hash, snapshot.applied_at
        self._succeeded = True
        self._rejected = {}
        if self.metrics is not None:
            self.metrics.reloaded(snapshot.config_hash, snapshot.applied_at, {})

    def failed(self, error: ResourcesError, at: float) -> None:
        """A load was refused; what served before goes on."""
        self.observed_at = at
        self.observed_hash = error.source_hash or self.observed_hash
        self._succeeded = False
        fetched = error.stage != "fetch"
        kind = error.findings[0].reason if fetched and error.findings else "fetch"
        self.last_failure = LoadFailure(at, kind, str(error))
        found = [_rejection(finding) for finding in error.findings[:_MOST_REJECTED]] if fetched else []
        self._rejected = {key: (self._rejected.get(key, (at, at))[0], at) for key in found}
        if self.metrics is not None:
            self.metrics.reload_failed(error.stage, _refused_by_kind(error) if fetched else {})

    @property
    def state(self) -> str:
        """`never_loaded`, `out_of_sync`, `empty` or `synced` (`degraded` is for sources that refuse single entries)."""
        if self.snapshot is None:
            return "never_loaded"
        if not self._succeeded:
            return "out_of_sync"
        return "synced" if self.snapshot.resource_counts else "empty"

    def report(self) -> dict[str, Any]:
        """The body of `/status/config`."""
        failure = self.last_failure
        observed = rfc3339_seconds(self.observed_at) if self.observed_at is not None else None
        made: dict[str, Any] = {
            "state": self.state,
            "source": {
                "type": self.source,
                "source_hash": self.observed_hash or None,
                "observed_at": observed,
            },
        }
        if (snapshot := self.snapshot) is not None:
            made["applied"] = {
                "config_hash": snapshot.config_hash,
                "apply_seq": snapshot.generation,
                "applied_at": rfc3339_seconds(snapshot.applied_at),
                "resource_counts": snapshot.resource_counts,
            }
        last = None
        if self._succeeded is not None:
            last = {"successful": self._succeeded, "at": observed}
        made["last_reload"] = last
        made["last_failure"] = None
        if failure is not None:
            made["last_failure"] = {
                "at": rfc3339_seconds(failure.at),
                "last_error_kind": failure.kind,
                "last_error": failure.error,
            }
        made["rejected"] = [_rejected_item(key, *seen) for key, seen in self._rejected.items()]
        made["partially_compatible"] = []
        return made

    def models(self, health: Health, at: float) -> list[dict[str, Any]]:
        """The body of `/status/models`. `at` is now, in seconds since the epoch.

        Raises LookupError before anything was applied.
        """
        if self.snapshot is None:
            raise LookupError("no configuration available")
        return [
            model_status(row, health.report(row) if isinstance(row, Model) else None, at)
            for row in self.snapshot.models_by_name.values()
        ]


def model_status(row: Row, report: Report | None, at: float) -> dict[str, Any]:
    """One item of `/status/models` (`operations.md` 3.2). `at` is now, in seconds since the epoch."""
    item: dict[str, Any] = {"id": row.id, "display_name": row.display_name}
    if report is None:
        return {**item, "kind": "routing", "status": "not_applicable"}
    item |= {"kind": "direct", "status": report.status}
    if report.cooldown_left is not None:
        item["cooldown_until"] = _system_time(at + report.cooldown_left)
    if report.checked_ago is not None:
        item["last_checked_at"] = _system_time(at - report.checked_ago)
    if report.check_status is not None:
        item["last_check_status"] = report.check_status
    if report.reason is not None:
        item["status_reason"] = report.reason
    return item


def _system_time(at: float) -> dict[str, int]:
    """A moment as AISIX writes it."""
    whole = int(at)
    return {"secs_since_epoch": whole, "nanos_since_epoch": int((at - whole) * 1e9)}


def _rejection(finding: Finding) -> Rejection:
    line = f" (line {finding.line})" if finding.line is not None else ""
    return finding.kind, finding.identity or "", finding.reason, finding.message + line


def _rejected_item(key: Rejection, first: float, last: float) -> dict[str, Any]:
    kind, identity, reason, error = key
    return {
        "resource_kind": kind,
        "resource_id": identity,
        "last_error_kind": reason,
        "last_error": error,
        "first_seen_at": rfc3339_seconds(first),
        "last_seen_at": rfc3339_seconds(last),
    }


def _refused_by_kind(error: ResourcesError) -> dict[str, int]:
    """Refused entries by collection; one with several errors counts once, the file itself not at all."""
    refused = {(finding.kind, finding.index) for finding in error.findings if finding.kind}
    counts: dict[str, int] = {}
    for kind, _ in refused:
        counts[kind] = counts.get(kind, 0) + 1
    return counts
