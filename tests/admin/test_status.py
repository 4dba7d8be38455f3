"""The metrics and status listener (`operations.md` 3)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from treq.testing import StubTreq
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.exchanges import group, model, snapshot
from tests.test_metrics import value
from twisted_gateway.admin.state import ConfigState
from twisted_gateway.admin.status import StatusSite
from twisted_gateway.config.report import Finding, ResourcesError
from twisted_gateway.config.routes import BackgroundCheck
from twisted_gateway.errors import AttemptFailed, Problem
from twisted_gateway.health import Health
from twisted_gateway.metrics import Metrics

AT = 1_767_323_045.0
WRONG = ResourcesError(
    "r.yaml",
    [Finding("bad", kind="models", index=2, identity="gpt", line=7), Finding("unknown top-level key")],
    stage="validate",
    source_hash="bb",
)
BROKEN = ResourcesError("r.yaml", [Finding("not YAML", reason="non_json")], stage="parse", source_hash="cc")
UNREADABLE = ResourcesError("r.yaml", [Finding("cannot read: gone", reason="non_json")], stage="fetch")


class Desk:
    """The listener with its state, asked without a socket."""

    def __init__(self, **more: Any) -> None:
        self.metrics, self.clock = Metrics(), Clock()
        self.state = ConfigState(self.metrics)
        self.health = Health(self.clock.seconds)
        more = {"list_models": lambda: self.state.models(self.health, AT + 0.25)} | more
        self.stub = StubTreq(StatusSite(self.metrics, self.state, self.clock, **more).resource())

    def asked(self, path: str, method: str = "GET") -> Any:
        return self.stub.request(method, f"http://h{path}")

    def got(self, path: str, method: str = "GET") -> tuple[int, str | None, bytes]:
        return self.read(self.asked(path, method))

    def read(self, asked: Any) -> tuple[int, str | None, bytes]:
        self.stub.flush()
        response = result(asked)
        kind = response.headers.getRawHeaders("content-type")
        return response.code, kind[0] if kind else None, result(self.stub.content(response))

    def config(self) -> dict[str, Any]:
        return dict(json.loads(self.got("/status/config")[2]))


def result(deferred: Deferred[Any]) -> Any:
    got: list[Any] = []
    deferred.addCallback(got.append)
    return got[0]


def test_metrics() -> None:
    status, kind, body = Desk().got("/metrics")

    assert (status, kind) == (200, "text/plain; version=0.0.4")
    assert b"aisix_config_reloads_total 0.0" in body


def test_metrics_elsewhere() -> None:
    desk = Desk(path="/prom/m")

    assert desk.got("/metrics")[0] == 404
    assert desk.got("/prom/m?a=b")[0] == 200


@pytest.mark.parametrize("path", ["/", "/status", "/status/", "/status/config/", "/metrics/x", "/status/nope"])
def test_unknown_paths_are_empty(path: str) -> None:
    assert Desk().got(path) == (404, None, b"")


def test_wrong_method_and_head() -> None:
    assert Desk().got("/metrics", "POST") == (405, None, b"")
    assert Desk().got("/status/ready", "HEAD")[0] == 503


def test_ready() -> None:
    desk = Desk()
    assert desk.got("/status/ready") == (503, "text/plain; charset=utf-8", b"no configuration available")

    desk.state.applied(snapshot(model()))
    desk.state.failed(WRONG, AT)
    assert desk.got("/status/ready") == (200, "text/plain; charset=utf-8", b"ok")


def test_never_loaded() -> None:
    assert Desk().config() == {
        "state": "never_loaded",
        "source": {"type": "file", "source_hash": None, "observed_at": None},
        "last_reload": None,
        "last_failure": None,
        "rejected": [],
        "partially_compatible": [],
    }


def test_synced() -> None:
    desk = Desk()
    desk.state.applied(snapshot(model(), generation=3, config_hash="aa", applied_at=AT))

    assert desk.config() == {
        "state": "synced",
        "source": {"type": "file", "source_hash": "aa", "observed_at": "2026-01-02T03:04:05Z"},
        "applied": {
            "config_hash": "aa",
            "apply_seq": 3,
            "applied_at": "2026-01-02T03:04:05Z",
            "resource_counts": {"models": 1, "provider_keys": 1},
        },
        "last_reload": {"successful": True, "at": "2026-01-02T03:04:05Z"},
        "last_failure": None,
        "rejected": [],
        "partially_compatible": [],
    }


def test_empty() -> None:
    desk = Desk()
    desk.state.applied(snapshot())

    assert desk.config()["state"] == "empty"


def test_a_failed_reload() -> None:
    desk = Desk()
    desk.state.applied(snapshot(model()))
    desk.state.failed(WRONG, AT)
    desk.state.failed(WRONG, AT + 1)

    body = desk.config()
    assert body["state"] == "out_of_sync"
    assert (body["source"]["source_hash"], body["applied"]["config_hash"]) == ("bb", "aa")
    assert body["last_reload"] == {"successful": False, "at": "2026-01-02T03:04:06Z"}
    assert body["last_failure"] == {
        "at": "2026-01-02T03:04:06Z",
        "last_error_kind": "schema_failed",
        "last_error": str(WRONG),
    }
    assert body["rejected"][0] == {
        "resource_kind": "models",
        "resource_id": "gpt",
        "last_error_kind": "schema_failed",
        "last_error": "bad (line 7)",
        "first_seen_at": "2026-01-02T03:04:05Z",
        "last_seen_at": "2026-01-02T03:04:06Z",
    }
    assert (body["rejected"][1]["resource_kind"], body["rejected"][1]["resource_id"]) == ("", "")
    assert value(desk.metrics, "aisix_config_rejected_resources", kind="models") == 1
    assert value(desk.metrics, "aisix_config_last_reload_successful") == 0
    assert value(desk.metrics, "aisix_config_reload_failures_total", reason="validate") == 2
    assert value(desk.metrics, "aisix_config_reloads_total") == 3


def test_it_heals_and_remembers_the_failure() -> None:
    desk = Desk()
    desk.state.applied(snapshot(model()))
    desk.state.failed(BROKEN, AT)
    desk.state.applied(snapshot(model(), generation=2))

    body = desk.config()
    assert (body["state"], body["rejected"]) == ("synced", [])
    assert body["last_failure"]["last_error_kind"] == "non_json"
    assert value(desk.metrics, "aisix_config_reload_failures_total", reason="parse") == 1


def test_an_unreadable_file_rejects_nothing_and_keeps_the_hash() -> None:
    desk = Desk()
    desk.state.applied(snapshot(model()))
    desk.state.failed(UNREADABLE, AT)

    body = desk.config()
    assert (body["state"], body["rejected"]) == ("out_of_sync", [])
    assert body["last_failure"]["last_error_kind"] == "fetch"
    assert body["source"]["source_hash"] == "aa"
    assert value(desk.metrics, "aisix_config_reload_failures_total", reason="fetch") == 1


def test_models() -> None:
    check = BackgroundCheck(True, 5, 1, "ping", 1, 600)
    good, cool, sick = model("good"), model("cool"), model("sick", background_model_check=check)
    desk = Desk()
    desk.state.applied(snapshot(good, cool, sick, group("all", "good", "cool"), applied_at=AT))
    desk.health.checked(sick, 500, False)
    desk.clock.advance(2)
    problem = Problem(status=502, type="upstream_error", message="m", kind="upstream_status")
    desk.health.failed(cool, AttemptFailed(problem, status=429, retry_after=7), True)
    status, kind, body = desk.got("/status/models")
    assert (status, kind) == (200, "application/json")
    plain = {"kind": "direct", "status": "healthy"}
    assert json.loads(body) == [
        {"id": good.id, "display_name": "good", **plain},
        {
            "id": cool.id,
            "display_name": "cool",
            "kind": "direct",
            "status": "cooldown",
            "cooldown_until": {"secs_since_epoch": int(AT) + 7, "nanos_since_epoch": 250_000_000},
            "status_reason": "upstream_rate_limited",
        },
        {
            "id": sick.id,
            "display_name": "sick",
            "kind": "direct",
            "status": "unhealthy",
            "last_checked_at": {"secs_since_epoch": int(AT) - 2, "nanos_since_epoch": 250_000_000},
            "last_check_status": 500,
            "status_reason": "background_check_failed",
        },
        {"id": "g-all", "display_name": "all", "kind": "routing", "status": "not_applicable"},
    ]


def test_models_unavailable() -> None:
    assert Desk().got("/status/models")[::2] == (500, b'{"error_msg": "failed to list models"}')


def test_models_too_slow() -> None:
    desk = Desk(list_models=Deferred)
    asked = desk.asked("/status/models")
    desk.stub.flush()
    desk.clock.advance(5)

    assert desk.read(asked)[0] == 500
