"""Where the network might cut some bytes, deterministic by seed."""

import random
import re
from collections.abc import Iterator, Sequence

ONE_BYTE_LIMIT = 65_536
"""Longer data is not cut into single bytes, which would take too long."""


def by_sizes(data: bytes, sizes: int | Sequence[int]) -> list[bytes]:
    """Pieces of these sizes, the rest last; a single size is used all the way."""
    if isinstance(sizes, int):
        return [data[start : start + sizes] for start in range(0, len(data), sizes)]
    pieces, start = [], 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    return [piece for piece in [*pieces, data[start:]] if piece]


def byte_by_byte(data: bytes, edge: int) -> list[bytes]:
    """Single bytes for so many at both ends, pieces of one to eight between them."""
    end = max(edge, len(data) - edge)
    return by_sizes(data[:edge], 1) + at_random(data[edge:end], len(data), 8) + by_sizes(data[end:], 1)


def at_random(data: bytes, seed: int, largest: int = 64) -> list[bytes]:
    """Pieces of 1 to `largest` bytes."""
    choice, pieces, start = random.Random(seed), [], 0
    while start < len(data):
        size = choice.randint(1, largest)
        pieces.append(data[start : start + size])
        start += size
    return pieces


def by_frames(data: bytes) -> list[bytes]:
    """One piece for each SSE frame, with the blank line that ends it."""
    return [piece for piece in re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)|(?<=\r\r)", data) if piece]


def coalesced(data: bytes, seed: int) -> list[bytes]:
    """Runs of one to five whole frames, as a network under load delivers them."""
    choice, frames, pieces = random.Random(seed), by_frames(data), []
    while frames:
        count = choice.randint(1, 5)
        pieces.append(b"".join(frames[:count]))
        frames = frames[count:]
    return pieces


def cuts(data: bytes, seed: int = 0) -> Iterator[list[bytes]]:
    """Every way worth trying: whole, byte by byte (up to `ONE_BYTE_LIMIT`), random, per frame, frames run together."""
    yield [data]
    if len(data) <= ONE_BYTE_LIMIT:
        yield by_sizes(data, 1)
    yield at_random(data, seed, 8)
    yield at_random(data, seed + 1, 200)
    yield at_random(data, seed + 2, 4000)
    yield by_frames(data)
    yield coalesced(data, seed)
