"""Random names, made of as few steps as possible: every call needs some."""

from __future__ import annotations

from functools import lru_cache
from random import getrandbits

_VARIANT = {digit: "89ab"[value & 3] for value, digit in enumerate("0123456789abcdef")}


def new_id() -> str:
    """A request id: a UUID of version 4, made without the class."""
    digits = getrandbits(128).to_bytes(16, "big").hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


def choose(letters: str, k: int) -> str:
    """`k` random ones of at most 256 letters."""
    return getrandbits(8 * k).to_bytes(k, "big").translate(_alphabet(letters)).decode("ascii")


@lru_cache
def _alphabet(letters: str) -> bytes:
    return (letters.encode("ascii") * 256)[:256]
