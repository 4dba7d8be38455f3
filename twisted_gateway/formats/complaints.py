"""How each family of dialects tells an error: as a whole JSON body, and as the last frame of a stream.

Envelopes: `errors-and-headers.md` section 1. Frames: `streaming.md` 11.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from twisted_gateway.errors import Problem
from twisted_gateway.facts import frozen
from twisted_gateway.formats import openai_usage
from twisted_gateway.wire.sse import Frame, escape_separators

_ANTHROPIC_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_OWN_TYPES = ("content_filter", "hook_stopped")
"""Types of ours that an error frame of this family has too."""
_ANTHROPIC_IN_STREAM = {**_ANTHROPIC_BY_STATUS, 504: "timeout_error", 529: "overloaded_error"}


@frozen
class Complaints:
    """One family's two ways to tell a `Problem`."""

    body: Callable[[Problem], bytes]
    frame: Callable[[Problem], Frame]


def _dump(value: Any) -> bytes:
    return escape_separators(msgspec.json.encode(value))


def _openai_body(problem: Problem) -> bytes:
    error: dict[str, Any] = {"message": problem.message, "type": problem.type}
    if problem.param is not None:
        error["param"] = problem.param
    if problem.code is not None:
        error["code"] = problem.code
    error.update(problem.members)
    return _dump({"error": error})


def _openai_frame(problem: Problem) -> Frame:
    error: dict[str, Any] = {
        "message": problem.message,
        "type": problem.frame_type,
        "param": problem.param,
        "code": problem.code,
    }
    if problem.frame_type == "content_filter":  # callers look for exactly this (`guardrails.md` 5)
        error = {"message": problem.message, "type": problem.frame_type}
    error.update(problem.members)
    if problem.usage is not None:
        error["usage"] = openai_usage.usage_object(problem.usage)
    return Frame(_dump({"error": error}), b"error")


def _anthropic(problem: Problem, kind: str, **beside: Any) -> bytes:
    return _dump({"type": "error", "error": {"type": kind, "message": problem.message}, **beside})


def _anthropic_body(problem: Problem) -> bytes:
    return _anthropic(problem, _ANTHROPIC_BY_STATUS.get(problem.status, "api_error"))


def anthropic_frame(problem: Problem, **beside: Any) -> Frame:
    """Anthropic's error event; `beside` stands beside its error."""
    if problem.frame_type in _OWN_TYPES:
        kind = problem.frame_type
    else:
        kind = problem.anthropic_type or _ANTHROPIC_IN_STREAM.get(problem.status, "api_error")
    return Frame(_anthropic(problem, kind, **beside), b"error")


OPENAI = Complaints(_openai_body, _openai_frame)
ANTHROPIC = Complaints(_anthropic_body, anthropic_frame)

BY_DIALECT = {"openai": OPENAI, "anthropic": ANTHROPIC}


def dialect_of(path: str) -> str:
    """The dialect of the errors below a path: Anthropic's under `/v1/messages`, else OpenAI's."""
    return "anthropic" if path == "/v1/messages" or path.startswith("/v1/messages/") else "openai"
