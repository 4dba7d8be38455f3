"""Regexes of guardrails: RE2's syntax, checked when it is loaded (`guardrails.md` 9). Pure."""

from __future__ import annotations

from typing import Any

import re2

MOST_MEMORY = 8 * 2**20
"""Bytes that a compiled program may take."""


class BadRegex(ValueError):
    """A regex that is not accepted; the text is the reason."""


def options(memory: int = MOST_MEMORY) -> Any:
    """RE2's options for every regex of ours."""
    made = re2.Options()
    made.max_mem = memory
    made.log_errors = False
    return made


def parse(pattern: str) -> Any:
    """Compile; raises `BadRegex`."""
    try:
        compiled = re2._Regexp(pattern, options())
    except re2.error as error:
        told = error.args[0]
        raise BadRegex(told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)) from None
    if compiled.search("") is not None:
        raise BadRegex("it matches the empty text, so it would match everything")
    return compiled
