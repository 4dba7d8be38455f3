"""Names of tools that one dialect allows and another does not (`translation.md` 5.1)."""

from __future__ import annotations

import re
from hashlib import sha256

_ALLOWED = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_ILLEGAL = re.compile(r"[^A-Za-z0-9_-]")


def short_name(name: str) -> str:
    """A tool's name as OpenAI allows it: at most 64 of its characters, always the same for the same name."""
    if _ALLOWED(name):
        return name
    digest = sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{_ILLEGAL.sub('', name)[:55]}_{digest}"


def full_names(names: list[str]) -> dict[str, str]:
    """Shortened names to the full ones, of those that had to be shortened."""
    return {short_name(name): name for name in names if not _ALLOWED(name)}
