"""What an Anthropic-family provider's error says, wherever it is (`errors-and-headers.md` 3, `streaming.md` 11.2)."""

from __future__ import annotations

import re
from typing import Any

from twisted_gateway.errors import Problem, shown
from twisted_gateway.formats.bodies import plain
from twisted_gateway.formats.error_members import message_of, shown_word, status_of, word

STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_CODES = {
    "authentication_error": "invalid_api_key",
    "permission_error": "permission_denied",
    "not_found_error": "model_not_found",
    "request_too_large": "request_too_large",
    "rate_limit_error": "rate_limit_exceeded",
    "overloaded_error": "overloaded",
}
_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}").fullmatch


def error_body(status: int, body: bytes) -> Problem:
    """A non-2xx answer as the caller sees it. 5xx texts are hidden, 529 keeps its status."""
    facts = _facts(plain(body))
    kind = _type(facts)
    text = body.decode("utf-8", "replace").strip()
    if status == 529 or not 400 <= status < 500:
        return _hidden(status, kind, kind="upstream_status", detail=text[:2048])
    return Problem(
        status=status,
        type="upstream_error",
        message=shown(word(facts, "message") or text or f"upstream returned {status}"),
        code=_CODES.get(kind or ""),
        param=shown_word(facts, "param"),
        kind="upstream_status",
        anthropic_type=kind,
    )


def in_band(answer: dict[str, Any], event: bytes = b"") -> Problem | None:
    """The error object inside a 2xx answer, if there is one: `event: error`, type `error`, or a truthy `error`."""
    error = answer.get("error")
    if not error and answer.get("type") != "error" and event != b"error":
        return None
    facts = _facts(answer)
    status, kind = _status(facts), _type(facts)
    return Problem(
        status=_told_status(status),
        type="upstream_error",
        in_stream_type="upstream_in_band_error",
        message=shown(message_of(facts)),
        code=_CODES.get(kind or ""),
        param=shown_word(facts, "param"),
        kind="upstream_in_band",
        embedded=status,
        detail=None if status is None else f"upstream status {status}",
        anthropic_type=kind,
    )


def before_commit(problem: Problem) -> Problem:
    """An in-band error as a JSON error: the text of a 5xx is hidden like that of a 5xx status."""
    status = problem.embedded
    if status is None or status < 500:
        return problem
    return _hidden(status, problem.anthropic_type, kind=problem.kind, detail=problem.message, embedded=status)


def _hidden(
    status: int, anthropic_type: str | None, *, kind: str | None, detail: str, embedded: int | None = None
) -> Problem:
    overloaded = status == 529
    return Problem(
        status=529 if overloaded else 502,
        type="upstream_error",
        message=f"upstream returned {status}",
        code="overloaded" if overloaded else None,
        kind=kind,
        detail=detail,
        anthropic_type=anthropic_type or ("overloaded_error" if overloaded else None),
        embedded=embedded,
    )


def _told_status(status: int | None) -> int:
    return status if status is not None and (400 <= status < 500 or status == 529) else 502


def _status(facts: dict[str, Any]) -> int | None:
    """The status an error carries: a number of its own, or that of its type."""
    return status_of(facts) or STATUS_OF_TYPE.get(_type(facts) or "")


def _facts(answer: Any) -> dict[str, Any]:
    """The error's members: below `error`, or at the top where a provider puts them there."""
    if not isinstance(answer, dict):
        return {}
    error = answer.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str) and error:
        return {"message": error}
    return {"message": answer["message"]} if isinstance(answer.get("message"), str) else {}


def _type(facts: dict[str, Any]) -> str | None:
    """Anthropic's own word for it. What is no such word is some other dialect's."""
    kind = facts.get("type")
    if not isinstance(kind, str) or _TYPE(kind) is None:
        return None
    return kind if kind in STATUS_OF_TYPE or kind.endswith("_error") else None
