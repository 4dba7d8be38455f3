"""The metrics and status listener: plain HTTP, no credential, for a private network (`operations.md` section 3)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from klein import Klein
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.resource import IResource
from twisted.web.server import Request

from twisted_gateway.admin.state import ConfigState
from twisted_gateway.metrics import CONTENT_TYPE, Metrics

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
LIST_DEADLINE = 5.0
"""Seconds that listing the models may take."""


class StatusSite:
    """The listener's routes. `path` is where metrics are read (`observability.metrics.prometheus.path`).

    `list_models` gives the items of `/status/models`, or a Deferred of them; `usage` the body of `/status/usage`
    (`extensions.md` 8): without it there is no such path.
    Where `path` is one of the status paths, the metrics win.
    """

    def __init__(
        self,
        metrics: Metrics,
        state: ConfigState,
        clock: IReactorTime,
        *,
        path: str = "/metrics",
        list_models: Callable[[], Any],
        usage: Callable[[], Any] | None = None,
    ) -> None:
        self._metrics, self._state, self._clock = metrics, state, clock
        self._list_models = list_models
        self._log = Logger(namespace="aisix::status")
        self._routes: Mapping[str, Callable[[Request], Any]] = {
            "/status/config": self._config,
            "/status/ready": self._ready,
            "/status/models": self._models,
            **({"/status/usage": lambda request: _json(request, 200, usage())} if usage is not None else {}),
            path: self._exposition,
        }

    def resource(self) -> IResource:
        """What a `twisted.web.server.Site` serves."""
        app = Klein()
        app.route("/", branch=True)(self._answer)
        return app.resource()

    def _answer(self, request: Request) -> Any:
        """Answer by the exact path: 404 for an unknown one, 405 for another method than GET and HEAD, both empty."""
        route = self._routes.get(request.path.decode("latin-1"))
        if route is None:
            return _answer(request, 404, None, b"")
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("allow", "GET, HEAD")
            return _answer(request, 405, None, b"")
        return route(request)

    def _exposition(self, request: Request) -> bytes:
        return _answer(request, 200, CONTENT_TYPE, self._metrics.exposition())

    def _config(self, request: Request) -> bytes:
        return _json(request, 200, self._state.report())

    def _ready(self, request: Request) -> bytes:
        if self._state.snapshot is None:
            return _answer(request, 503, TEXT, b"no configuration available")
        return _answer(request, 200, TEXT, b"ok")

    async def _models(self, request: Request) -> bytes:
        listing: Deferred[Any] = maybeDeferred(self._list_models)
        try:
            models = await listing.addTimeout(LIST_DEADLINE, self._clock)
        except Exception:
            self._log.failure("failed to list models")
            return _json(request, 500, {"error_msg": "failed to list models"})
        return _json(request, 200, models)


def _answer(request: Request, status: int, content_type: str | None, body: bytes) -> bytes:
    request.setResponseCode(status)
    if content_type is None:
        request.responseHeaders.removeHeader("content-type")
        request.defaultContentType = None
    else:
        request.setHeader("content-type", content_type)
    return body


def _json(request: Request, status: int, value: object) -> bytes:
    return _answer(request, status, JSON, json.dumps(value).encode())
