"""Who is calling, and what they may call (`policy.md` sections 2 to 4)."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from twisted_gateway.config.resources import CallerKey
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.errors import Problem, Refused, bad_request, ip_restricted, quoted
from twisted_gateway.exchange import Exchange, Headers

_BEARER = "Bearer "
_REMEMBERED, _LONGEST_REMEMBERED = 1024, 512


def credential(headers: Headers) -> str | None:
    """The caller's token. `Authorization` decides alone where it is present (`policy.md` section 2)."""
    given = headers.get("authorization")
    if given is not None:
        return (given[len(_BEARER) :].strip() or None) if given.startswith(_BEARER) else None
    return (headers.get("x-api-key") or "").strip() or None


def identify(headers: Headers, snapshot: Snapshot, now: float) -> CallerKey:
    """The caller's key. Raises `Denied`, a `Refused` with the 401s of `errors-and-headers.md` 2.1.

    Keys are found by the SHA-256 of what was sent, so the time taken tells nothing about any key.
    """
    token = credential(headers)
    if token is None:
        raise Denied("missing_credentials", "missing or malformed Authorization header")
    key = snapshot.caller_keys_by_hash.get(sha256(token.encode("utf-8", "surrogateescape")).hexdigest())
    if key is None:
        raise Denied("unknown_key", "invalid API key")
    if key.disabled:
        raise Denied("key_disabled", "API key has been disabled", "api_key_disabled", key)
    if key.expires_at is not None and key.expires_at < now:
        raise Denied("key_expired", "API key has expired", "api_key_expired", key)
    return key


class Denied(Refused):
    """A caller who is not let in: `reason` is the label of `aisix_auth_decisions_total`."""

    def __init__(self, reason: str, message: str, code: str | None = None, key: CallerKey | None = None) -> None:
        super().__init__(Problem(status=401, type="invalid_api_key", message=message, code=code, kind="auth"))
        self.reason = reason
        self.key = key


class Authentication:
    """Lets nobody on without a good key. `denied` and `allowed` tell accounting.

    A good key that never expires is known again by its `Authorization`, as long as the snapshot is the same.
    """

    def __init__(
        self,
        now: Callable[[], float],
        denied: Callable[[Exchange, Denied], None],
        allowed: Callable[[], None],
    ) -> None:
        self._now = now
        self._denied = denied
        self._allowed = allowed
        self._known: dict[str | None, CallerKey] = {}
        self._known_in: Snapshot | None = None

    def admit(self, exchange: Exchange) -> None:
        """Sets `exchange.caller`, or raises `Denied`."""
        if self._known_in is not exchange.snapshot:
            self._known, self._known_in = {}, exchange.snapshot
        given = exchange.headers.get("authorization")
        exchange.caller = self._known.get(given) or self._identified(exchange, given)
        self._allowed()

    def _identified(self, exchange: Exchange, given: str | None) -> CallerKey:
        try:
            key = identify(exchange.headers, exchange.snapshot, self._now())
        except Denied as denial:
            self._denied(exchange, denial)
            raise
        if given is not None and len(given) <= _LONGEST_REMEMBERED and key.expires_at is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[given] = key
        return key


class ModelAccess:
    """Finds the model and asks whether this key, at this address, may use it (`policy.md` 1.2, steps 2 to 4)."""

    def admit(self, exchange: Exchange) -> None:
        """Sets `exchange.resolution`, or raises `Refused`: 404, 403, or 400 where the model does not stream."""
        call, caller = exchange.call, exchange.caller
        assert call is not None
        assert caller is not None
        resolution = exchange.snapshot.resolve(call.model)
        if resolution is None:
            raise Refused(unknown_model(call.model))
        exchange.resolution = resolution
        if not caller.may_use(call.model):
            raise Refused(
                Problem(
                    status=403,
                    type="permission_denied",
                    message=f"API key is not allowed to use model {quoted(call.model)}",
                    kind="permission_denied",
                )
            )
        if not resolution.model.admits(exchange.peer):
            raise Refused(ip_restricted())
        if call.stream and not resolution.model.streaming:
            raise Refused(bad_request(f"model `{call.model}` does not support streaming"))


def unknown_model(name: str) -> Problem:
    """The 404 for a name that does not resolve."""
    return Problem(
        status=404, type="model_not_found", message=f"model {quoted(name)} not found", kind="model_not_found"
    )
