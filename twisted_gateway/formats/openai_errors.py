"""What an OpenAI-family provider's error says, wherever it stands (`errors-and-headers.md` 3, `streaming.md` 11.2)."""

from __future__ import annotations

from typing import Any

import msgspec

from twisted_gateway.errors import Problem, shown
from twisted_gateway.formats.error_members import message_of, shown_word, status_of, word


def error_body(status: int, body: bytes) -> Problem:
    """A non-2xx answer as the caller sees it. 5xx texts are hidden, 529 keeps its status."""
    text = body.decode("utf-8", "replace").strip()
    if status == 529 or not 400 <= status < 500:
        return Problem(
            status=529 if status == 529 else 502,
            type="upstream_error",
            message=f"upstream returned {status}",
            kind="upstream_status",
            detail=text[:2048],
        )
    facts = _facts(_loads(body))
    return Problem(
        status=status,
        type="upstream_error",
        message=shown(word(facts, "message") or text or f"upstream returned {status}"),
        code=shown_word(facts, "code"),
        param=shown_word(facts, "param"),
        kind="upstream_status",
    )


def in_band(answer: dict[str, Any]) -> Problem | None:
    """The error object inside a 2xx answer, if there is one: a truthy `error`, object or string."""
    error = answer.get("error")
    if not error:
        return None
    facts = error if isinstance(error, dict) else {"message": str(error)}
    status = status_of(facts)
    return Problem(
        status=status if status is not None and 400 <= status < 500 else 502,
        type="upstream_error",
        in_stream_type="upstream_in_band_error",
        message=shown(message_of(facts)),
        code=None if status_of({"code": facts.get("code")}) is not None else shown_word(facts, "code"),
        param=shown_word(facts, "param"),
        kind="upstream_in_band",
        embedded=status,
        detail=None if status is None else f"upstream status {status}",
    )


def before_commit(problem: Problem) -> Problem:
    """An in-band error as a JSON error: the text of a 5xx is hidden like that of a 5xx status."""
    status = problem.embedded
    if status is None or status < 500:
        return problem
    return Problem(
        status=529 if status == 529 else 502,
        type="upstream_error",
        message=f"upstream returned {status}",
        kind=problem.kind,
        detail=problem.message,
        embedded=status,
    )


def _loads(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None


def _facts(answer: Any) -> dict[str, Any]:
    """The error's members: below `error`, or at the top where a provider puts them there."""
    if isinstance(answer, list) and len(answer) == 1:  # Google wraps its error into a list
        answer = answer[0]
    if not isinstance(answer, dict):
        return {}
    error = answer.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str) and error:
        return {"message": error}
    return answer if isinstance(answer.get("message"), str) else {}
