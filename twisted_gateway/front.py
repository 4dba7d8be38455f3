"""Caller-facing URLs: one table of endpoints, one handler for all of them (klein).

Everything that is the same for every answer (request id, `server`, CORS, the path prefix, rewriting) is done in
`Front.begin`, before any route is looked at. References: `policy.md` 1.1, `errors-and-headers.md` 5 to 8,
`extensions.md` 1 and 8, `operations.md` 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import attrs
import msgspec
from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest
from twisted.web.server import NOT_DONE_YET
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from twisted_gateway import __version__
from twisted_gateway.addresses import client_address
from twisted_gateway.config.resources import CallerKey, Row
from twisted_gateway.config.rewrites import rewrite
from twisted_gateway.config.settings import Proxy
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.cors import CorsRules
from twisted_gateway.downstream import when_left
from twisted_gateway.errors import Problem, Refused, our_fault, quoted
from twisted_gateway.exchange import Endpoint, Exchange
from twisted_gateway.facts import define
from twisted_gateway.formats.complaints import BY_DIALECT, dialect_of
from twisted_gateway.intake import status_of
from twisted_gateway.wire.requests import RequestHead

ENDPOINTS = (
    Endpoint("/v1/chat/completions", "openai_chat", plans_first=True, groups=True),
    Endpoint("/v1/completions", "openai_completions"),
    Endpoint("/v1/messages", "anthropic", "anthropic", groups=True),
    Endpoint("/v1/messages/count_tokens", "anthropic_count_tokens", "anthropic", groups=True),
    Endpoint("/v1/responses", "openai_responses", groups=True),
)
"""The table: a new endpoint is a row here, and a format."""

_SERVER = f"AISIX/{__version__}".encode("ascii")
_VISIBLE = re.compile(r"[\x21-\x7e]{1,256}")


@lru_cache(256)
def _raw_name(name: str) -> bytes:
    return name.lower().encode("latin-1")


class CallerHeaders:
    """The caller's request headers as policies read them. A repeated header counts with its first value."""

    __slots__ = ("_pairs",)

    def __init__(self, given: Headers | Sequence[tuple[bytes, bytes]]) -> None:
        if isinstance(given, Headers):
            given = [(name.lower(), value) for name, values in given.getAllRawHeaders() for value in values]
        self._pairs = given

    def raw(self, name: bytes) -> bytes | None:
        """The first value of a header (lower case) as it came, or None."""
        for key, value in self._pairs:
            if key == name:
                return value
        return None

    def get(self, name: str) -> str | None:
        """The first value of a header, or None."""
        wanted = _raw_name(name)
        for key, value in self._pairs:
            if key == wanted:
                return value.decode("utf-8", "surrogateescape")
        return None

    def all(self, name: str) -> list[str]:
        """All values of a header, in order."""
        wanted = _raw_name(name)
        return [value.decode("utf-8", "replace") for key, value in self._pairs if key == wanted]

    def matching(self, pattern: str) -> Iterator[tuple[str, str]]:
        """Lower-case name and first value of the headers that a pattern with one `*` names, in any case."""
        before, star, after = pattern.lower().partition("*")
        for raw in dict.fromkeys(name for name, _ in self._pairs):
            name = raw.decode("latin-1")
            fits = (
                name == before
                if not star
                else (len(name) >= len(before) + len(after) and name.startswith(before) and name.endswith(after))
            )
            if fits:
                yield name, (self.raw(raw) or b"").decode("latin-1")


@define
class Condition:
    """What health answers tell (`operations.md` 2)."""

    draining: bool = False
    configured: bool = True
    stores: dict[str, bool] = attrs.field(factory=dict)
    """The stores that are in a Redis, by name, and whether each is degraded."""


Serve = Callable[[Exchange, IRequest], Deferred[None] | Coroutine[Any, Any, None]]


@define(eq=False)
class Front:
    """The routes. `identify(headers, snapshot)` gives the caller's key or raises `Refused`."""

    serve: Serve
    snapshot: Callable[[], Snapshot]
    identify: Callable[[CallerHeaders, Snapshot], CallerKey]
    proxy: Proxy
    condition: Condition
    clock: IReactorTime
    now: Callable[[], float]
    new_id: Callable[[], str]
    endpoints: tuple[Endpoint, ...] = ENDPOINTS
    left: Callable[[Exchange, Callable[[], None]], None] = lambda exchange, cancel: cancel()
    """Told that the caller of a running call has left, and how the call is cancelled."""
    listed: Callable[[CallerKey], list[dict[str, Any]]] = lambda caller: []
    """A key's running streams."""
    stop: Callable[[CallerKey, str], bool] = lambda caller, id: False
    """Stops a key's streams of this id; False when there is none."""
    app: Klein = attrs.field(init=False)
    _fast: dict[tuple[bytes, bytes], Endpoint] = attrs.field(init=False, factory=dict)
    _behind_id: bytes = attrs.field(init=False)
    """The lines of each answer's head that come behind the one with its id."""
    _cors: CorsRules | None = attrs.field(init=False)
    _log: Logger = attrs.field(init=False, factory=Logger)

    def __attrs_post_init__(self) -> None:
        self._behind_id = b"\r\nServer: " + _SERVER if self.proxy.server_header else b""
        self._cors = CorsRules(self.proxy.cors) if self.proxy.cors is not None else None
        self.app = self._routes()

    def resource(self) -> KleinResource:
        """The root resource of a caller listener."""
        return _Root(self)

    # Routes

    def _routes(self) -> Klein:
        app = Klein()
        app.url_map.merge_slashes = False
        for prefix in dict.fromkeys(("", self.proxy.api_prefix)):
            for endpoint in self.endpoints:
                self._fast[b"POST", (prefix + endpoint.path).encode("ascii")] = endpoint
                self._add(app, prefix + endpoint.path, self._model_call(endpoint), "POST")
            self._add(app, f"{prefix}/v1/models", self.models, "GET")
            self._add(app, f"{prefix}/v1/models/<path:name>", self.model, "GET")
            self._add(app, f"{prefix}/v1/streams", self.running_streams, "GET")
            self._add(app, f"{prefix}/v1/streams/<path:id>/stop", self.stop_stream, "POST")
            self._add(app, f"{prefix}/livez", self.livez, "GET")
            self._add(app, f"{prefix}/readyz", self.readyz, "GET")
            self._add(app, f"{prefix}/v1/responses", self.websocket, "GET")
        self._add(app, "/", self.root, "GET")
        app.handle_errors(HTTPException)(self._routing_error)
        app.handle_errors(Exception)(self._handler_error)
        return app

    def _add(self, app: Klein, path: str, handler: Callable[..., Any], method: str) -> None:
        app.route(path, methods=[method], endpoint=f"{method} {path}", strict_slashes=False)(handler)

    def _model_call(self, endpoint: Endpoint) -> Callable[[IRequest], Deferred[None]]:
        def handler(request: IRequest) -> Deferred[None]:
            return ensureDeferred(self.serve(self._exchange(request, endpoint), request))

        return handler

    def root(self, request: IRequest) -> bytes:
        """`GET /` and `HEAD /`: who this is."""
        return self._json(request, 200, {"name": "aisix", "version": __version__})

    def models(self, request: IRequest) -> bytes:
        """`GET /v1/models`: the names this key may use (`policy.md` 3.3)."""
        snapshot, caller = self._known(request)
        names = sorted(n for n, m in snapshot.models_by_name.items() if not m.is_wildcard and caller.may_use(n))
        data = [self._model_object(name, snapshot.models_by_name[name]) for name in names]
        return self._json(request, 200, {"object": "list", "data": data})

    def model(self, request: IRequest, name: str) -> bytes:
        """`GET /v1/models/{id}`: one of them, through a wildcard too (`extensions.md` 8)."""
        snapshot, caller = self._known(request)
        name = unquote(name)  # SDKs send the `/` in it as `%2F`
        found = snapshot.resolve(name)
        if found is None or not caller.may_use(name):
            message = f"model {quoted(name)} not found"
            raise Refused(Problem(status=404, type="model_not_found", code="model_not_found", message=message))
        return self._json(request, 200, self._model_object(name, found.model))

    def running_streams(self, request: IRequest) -> bytes:
        """`GET /v1/streams`: those of this key (`extensions.md` 8)."""
        _, caller = self._known(request)
        return self._json(request, 200, {"object": "list", "data": self.listed(caller)})

    def stop_stream(self, request: IRequest, id: str) -> bytes:
        """`POST /v1/streams/{id}/stop`: end generation; the stream's own caller still gets a legal ending."""
        _, caller = self._known(request)
        id = unquote(id)
        if not self.stop(caller, id):
            message = f"stream {quoted(id)} not found"
            raise Refused(Problem(status=404, type="invalid_request_error", code="stream_not_found", message=message))
        return self._json(request, 200, {"id": id, "object": "stream", "stopped": True})

    def websocket(self, request: IRequest) -> bytes:
        """`GET /v1/responses`: clients that try a WebSocket first fall back to POST on a clean 426."""
        wanted = CallerHeaders(request.requestHeaders).get("upgrade") or ""
        if wanted.strip().lower() != "websocket":
            raise MethodNotAllowed(["POST"])
        text = "this endpoint speaks no WebSocket: send a POST"
        self._headers(request).setRawHeaders(b"upgrade", [b"HTTP/1.1"])
        self._headers(request).setRawHeaders(b"allow", [b"POST"])
        return self.problem(request, _router_problem(426, "websocket_not_supported", text))

    @staticmethod
    def _headers(request: Any) -> Headers:
        headers: Headers = request.responseHeaders
        return headers

    def livez(self, request: IRequest) -> bytes:
        """`GET /livez`."""
        if self.condition.draining:
            text = "[+]ping ok\n[-]shutdown failed: reason withheld\nlivez check failed"
            return self._text(request, 503, text)
        verbose = "[+]ping ok\n[+]shutdown ok\nlivez check passed\n"
        return self._text(request, 200, verbose if _verbose(request) else "ok")

    def readyz(self, request: IRequest) -> bytes:
        """`GET /readyz`."""
        condition = self.condition
        first = "[-]shutdown failed: draining" if condition.draining else "[+]shutdown ok"
        second = "[+]config ok" if condition.configured else "[-]config failed: not ready"
        if condition.draining or not condition.configured:
            return self._text(request, 503, f"{first}\n{second}\nreadyz check failed")
        third = ""
        if condition.stores:
            third = "[!]redis degraded: local limits\n" if any(condition.stores.values()) else "[+]redis ok\n"
        verbose = f"{first}\n{second}\n{third}readyz check passed\n"
        return self._text(request, 200, verbose if _verbose(request) else "ok")

    # What every request gets

    def begin(self, request: Any) -> bool:
        """Choose the request id and set the headers of every answer. False when the answer is given already."""
        head = getattr(request, "head", None)  # of our own listener
        request.caller_headers = headers = CallerHeaders(request.requestHeaders if head is None else head.headers)
        request.aisix_id = self.request_id(headers)
        lines = getattr(request, "lines", None)
        if lines is not None:
            lines.append(b"X-Aisix-Request-Id: " + request.aisix_id.encode("ascii") + self._behind_id)
        else:
            self._begin_elsewhere(request)
        if self.proxy.url_rewrites:
            request.path = rewrite(request.path, self.proxy.url_rewrites).encode("latin-1")
        return self._cors is None or self._cors.begin(request, self._known_path)

    def _begin_elsewhere(self, request: Any) -> None:
        """The same for a request that another listener than ours has read."""
        headers = request.responseHeaders
        headers.setRawHeaders(b"x-aisix-request-id", [request.aisix_id.encode("ascii")])
        headers.removeHeader(b"server")
        if self.proxy.server_header:
            headers.setRawHeaders(b"server", [_SERVER])

    def request_id(self, headers: CallerHeaders) -> str:
        """The caller's own id where it brought a good one, else a new one (`errors-and-headers.md` 6)."""
        for name in self.proxy.request_id.accept_headers:
            value = headers.get(name)
            if value and _VISIBLE.fullmatch(value):
                return value
        return self.new_id()

    def asks_for_a_key(self, path: bytes) -> bool:
        """Whether a POST to this path is a model call, which nobody makes without a key."""
        return self.model_endpoint(b"POST", path) is not None

    def model_endpoint(self, method: bytes, path: bytes) -> Endpoint | None:
        """The endpoint of a model call; slashes at either end of the path make no difference."""
        return self._fast.get((method, path)) or self._fast.get((method, b"/" + path.strip(b"/")))

    def plain_path(self, path: bytes) -> str:
        """A path without the API prefix, as logs and labels show it."""
        text = path.decode("latin-1")
        prefix = self.proxy.api_prefix
        return text[len(prefix) :] if prefix and text.startswith(prefix + "/") else text

    def refusal(self, problem: Problem, head: RequestHead) -> bytes:
        """The bytes of an answer to a request that no handler will see; the connection is closed behind it."""
        headers = CallerHeaders(head.headers)
        body = BY_DIALECT[dialect_of(self.plain_path(head.path))].body(problem)
        lines = [
            b"HTTP/1.1 " + status_of(problem.status),
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"connection: close",
            b"x-aisix-request-id: " + self.request_id(headers).encode("ascii"),
        ]
        if self.proxy.server_header:
            lines.append(b"server: " + _SERVER)
        if problem.retry_after is not None:
            lines.append(b"retry-after: %d" % problem.retry_after)
        if self._cors is not None:
            lines += self._cors.lines(headers)
        return b"\r\n".join((*lines, b"", b"" if head.method == b"HEAD" else body))

    # Inside

    def _exchange(self, request: Any, endpoint: Endpoint) -> Exchange:
        headers = request.caller_headers
        body = getattr(request, "body", None)
        if body is None:
            body = request.content.read()
        peer = getattr(request, "client_host", None)
        if peer is None or self.proxy.real_ip.trusted_proxies or peer.startswith("::ffff:"):
            peer = self._peer(request, headers)
        return Exchange(
            id=request.aisix_id,
            endpoint=endpoint,
            method=request.method.decode("ascii"),
            path=endpoint.path,
            headers=headers,
            peer=peer,
            body=body,
            snapshot=self.snapshot(),
            arrived=self.clock.seconds(),
            arrived_at=self.now(),
            query=request.uri.partition(b"?")[2].decode("latin-1"),
        )

    def _peer(self, request: Any, headers: CallerHeaders) -> str:
        real_ip = self.proxy.real_ip
        peer = getattr(request, "client_host", None)
        if peer is None:
            peer = getattr(request.getClientAddress(), "host", "") or ""
        return client_address(peer, headers.all(real_ip.header), real_ip.trusted_proxies, recursive=real_ip.recursive)

    def _known(self, request: Any) -> tuple[Snapshot, CallerKey]:
        snapshot = self.snapshot()
        return snapshot, self.identify(request.caller_headers, snapshot)

    def _model_object(self, name: str, model: Row) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": int(self.now()), "owned_by": model.provider or "aisix"}

    def _known_path(self, path: bytes) -> bool:
        adapter = self.app.url_map.bind("")
        try:
            adapter.match(unquote_to_bytes(path).decode("utf-8", "replace"), method="GET")
        except MethodNotAllowed:
            return True
        except HTTPException:
            return False
        return True

    def _json(self, request: Any, status: int, value: Any) -> bytes:
        return self._body(request, status, msgspec.json.encode(value), b"application/json")

    def _text(self, request: Any, status: int, text: str) -> bytes:
        request.responseHeaders.setRawHeaders(b"x-content-type-options", [b"nosniff"])
        return self._body(request, status, text.encode("ascii"), b"text/plain; charset=utf-8")

    def _body(self, request: Any, status: int, body: bytes, content_type: bytes) -> bytes:
        request.setResponseCode(status)
        request.responseHeaders.setRawHeaders(b"content-type", [content_type])
        request.responseHeaders.setRawHeaders(b"content-length", [b"%d" % len(body)])
        return body

    def problem(self, request: Any, problem: Problem) -> bytes:
        """An error answer outside the trunk, in the dialect of its path."""
        body = BY_DIALECT[dialect_of(self.plain_path(request.path))].body(problem)
        return self._body(request, problem.status, body, b"application/json")

    def _routing_error(self, request: Any, failure: Failure) -> bytes:
        error = failure.value
        path = self.plain_path(request.path)
        if isinstance(error, MethodNotAllowed):
            allowed = ", ".join(sorted(set(error.valid_methods or ()) - {"OPTIONS"}))
            request.responseHeaders.setRawHeaders(b"allow", [allowed.encode("ascii")])
            text = f"method {request.method.decode('latin-1')} is not allowed on {path} (allowed: {allowed})"
            return self.problem(request, _router_problem(405, "method_not_allowed", text))
        return self.problem(request, _router_problem(404, "unknown_url", f"unknown URL: {path}"))

    def _handler_error(self, request: Any, failure: Failure) -> bytes:
        if isinstance(failure.value, Refused):
            return self.problem(request, failure.value.problem)
        self._log.failure("a handler failed", failure=failure)
        return self.problem(request, our_fault(repr(failure.value)))


class _Root(KleinResource):
    """klein's resource, with the endpoints' exact paths looked up in a table first: matching costs 60 us."""

    def __init__(self, front: Front) -> None:
        super().__init__(front.app)
        self._front = front

    def render(self, request: Any) -> Any:
        """Answer a request."""
        front = self._front
        if not front.begin(request):
            return NOT_DONE_YET
        endpoint = front.model_endpoint(request.method, request.path)
        if endpoint is None:
            if _readable(request.path):
                request.prepath, request.postpath = [], request.path[1:].split(b"/")
                return super().render(request)
            request.write(front.problem(request, _router_problem(404, "unknown_url", "unknown URL")))
            request.finish()
            return NOT_DONE_YET
        exchange = front._exchange(request, endpoint)
        running = ensureDeferred(front.serve(exchange, request))
        if not running.called:
            when_left(request, lambda _: front.left(exchange, running.cancel))
        running.addErrback(_cancelled)
        return NOT_DONE_YET


def _cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)


def _router_problem(status: int, code: str, message: str) -> Problem:
    return Problem(status=status, type="invalid_request_error", code=code, message=message)


def _verbose(request: Any) -> bool:
    query = request.uri.partition(b"?")[2]
    return any(part.partition(b"=")[0] == b"verbose" for part in query.split(b"&"))


def _readable(path: bytes) -> bool:
    try:
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
