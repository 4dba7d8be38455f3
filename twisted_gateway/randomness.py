"""Random names, made of as few steps as possible: every call needs some, and each process that shares a Redis.

They come from a source of their own: an operator's hook may call `random.seed`, and then several gateways would give
the same names.
"""

from __future__ import annotations

import os
from functools import lru_cache
from random import Random

_OWN = Random()
_bits = _OWN.getrandbits

_VARIANT = {digit: "89ab"[value & 3] for value, digit in enumerate("0123456789abcdef")}


_AT_ONCE = 64
_ids: list[str] = []


def new_id() -> str:
    """A UUID of version 4. They are made some at a time, not each by a call that waits for it; in any thread."""
    try:
        return _ids.pop()
    except IndexError:
        made = [_uuid() for _ in range(_AT_ONCE)]
    first = made.pop()
    _ids.extend(made)
    return first


def _uuid() -> str:
    """A UUID, made without the class."""
    digits = _bits(128).to_bytes(16, "big").hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


def choose(letters: str, k: int) -> str:
    """`k` random ones of at most 256 letters."""
    return _bits(8 * k).to_bytes(k, "big").translate(_alphabet(letters)).decode("ascii")


def seed(value: int | None = None) -> None:
    """Begin anew: with names that nobody has had, or for a test with those that follow from a value."""
    _OWN.seed(value)
    _ids.clear()


os.register_at_fork(after_in_child=seed)


@lru_cache
def _alphabet(letters: str) -> bytes:
    return (letters.encode("ascii") * 256)[:256]
