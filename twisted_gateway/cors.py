"""Answers to web pages of other origins (`extensions.md` 1.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted_gateway.config.settings import Cors

_RATE_HEADERS = tuple(
    f"x-ratelimit-{what}-{unit}"
    for unit in ("requests", "tokens", "concurrent")
    for what in ("limit", "remaining", "reset")
    if (what, unit) != ("reset", "concurrent")
)


class Raw(Protocol):
    """A caller's headers."""

    def raw(self, name: bytes) -> bytes | None:
        """The first value of a header (lower case) as it came, or None."""


class CorsRules:
    """Answers to web pages of other origins (`extensions.md` 1.2)."""

    def __init__(self, cors: Cors) -> None:
        self._cors = cors
        exposed = [
            name for item in cors.expose_headers for name in (_RATE_HEADERS if item == "x-ratelimit-*" else (item,))
        ]
        self._exposed = ", ".join(exposed).encode("ascii")

    def allowed(self, headers: Raw) -> bytes | None:
        """The value of `access-control-allow-origin` for a request, None when its origin is not allowed."""
        origin = headers.raw(b"origin")
        if origin is None:
            return None
        if "*" in self._cors.allow_origins:
            return b"*"
        return origin if origin.decode("latin-1") in self._cors.allow_origins else None

    def lines(self, headers: Raw) -> list[bytes]:
        """The header lines of an answer made without a handler."""
        origin = self.allowed(headers)
        return [] if origin is None else [b"access-control-allow-origin: " + origin, b"vary: origin"]

    def begin(self, request: Any, known: Callable[[bytes], bool]) -> bool:
        """Set the headers of an allowed origin; answer a preflight. False when it was one."""
        headers, put = request.caller_headers, request.responseHeaders.setRawHeaders
        origin = self.allowed(headers)
        if origin is not None:
            put(b"access-control-allow-origin", [origin])
            put(b"vary", [b"origin"])
            put(b"access-control-expose-headers", [self._exposed])
        preflight = request.method == b"OPTIONS" and headers.raw(b"access-control-request-method") is not None
        if not (preflight and headers.raw(b"origin") is not None and known(request.path)):
            return True
        request.setResponseCode(204 if origin is not None else 403)
        if origin is not None:
            put(b"access-control-allow-methods", [b"GET, POST, OPTIONS"])
            asked = headers.raw(b"access-control-request-headers") or b""
            wide = "*" in self._cors.allow_headers
            allowed = asked if wide else ", ".join(self._cors.allow_headers).encode("ascii")
            if allowed:
                put(b"access-control-allow-headers", [allowed])
            put(b"access-control-max-age", [b"%d" % self._cors.max_age_secs])
            put(b"vary", [b"origin, access-control-request-headers"])
        else:
            put(b"content-length", [b"0"])
        request.finish()
        return False
