"""What lives as long as the process is moved into large pages, where the kernel can do that (Linux 6.1 and later).

A call on an idle core finds everything cold, and the interpreter's objects lie on some ten thousand small pages, far
more than a core remembers where they are. Nothing depends on it: where it is not to be had, all stays as it is.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress

_LARGE = 2 << 20
_COLLAPSE = 25
"""`MADV_COLLAPSE` of `madvise(2)`: at once, whatever the machine's policy for large pages is."""


def collapse() -> None:
    """Move what is there now: the heap and the interpreter's arenas. Takes some milliseconds."""
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        madvise = ctypes.CDLL(None).madvise
        with open("/proc/self/maps") as maps:
            found = list(spans(maps))
        for begin, end in found:
            madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _COLLAPSE)


def spans(maps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """The whole large pages in writable memory that belongs to no file; `maps` as in `proc(5)`."""
    for line in maps:
        place, rights, _, _, _, *name = line.split()
        if "w" in rights and "p" in rights and name in ([], ["[heap]"]):
            begin, end = (int(one, 16) for one in place.split("-"))
            begin, end = -(-begin // _LARGE) * _LARGE, end // _LARGE * _LARGE
            if begin < end:
                yield begin, end


__all__ = ["collapse", "spans"]
