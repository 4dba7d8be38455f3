"""The tools against each other: every mode must give exactly what it should (`python -m bench.check`)."""

from __future__ import annotations

import socket
import sys
import time
from typing import Any

from bench.tools import Mock, build, client, end, finish

PATIENCE = 60
"""Seconds until callers who do not read must have stopped their provider."""

FRAMINGS = (
    "n=20", "split=7", "split=1", "crlf=1", "chunkbytes=13&crlf=1", "eof=1", "tail=1&comment=3",
    "close=1", "m=7", "usage=2", "b=900&chunkbytes=1", "gather=1", "gather=1&m=7", "gather=1&tail=1",
)  # fmt: skip
MODES: tuple[tuple[str, str, dict[str, object]], ...] = (  # query, flags, what must come out
    ("disconnect=0", "-c 4 -n 8", {"ok": 0, "early": 8}),
    ("status=429", "-c 4 -n 8", {"ok": 0, "statuses": {"429": 8}}),
    ("stall=5", "-c 4 -n 4 -o 1", {"ok": 0, "timeout": 4}),
    ("n=5000&d=1000", "-c 8 -n 50 -a 5 -A {port}", {"aborted": 50, "abort_matched": 50}),
    ("n=5000&d=1000", "-c 8 -n 50 -a 5 -Z -A {port}", {"aborted": 50, "abort_matched": 50}),
    ("d=1000000", "-c 500 -n 500 -R 2000 -W 1", {"peak_open": 500}),
    ("d=1000", "-c 8 -r 40 -n 40 -x 20", {"ok": 40, "errors": 0}),
    ("n=20", '-c 2 -n 10 -d {{"model":"x"}}', {"ok": 10, "errors": 0, "frames": 0}),
)


def cases() -> list[tuple[str, str, dict[str, object]]]:
    """All of them: path and query, flags, what must come out."""
    found: list[tuple[str, str, dict[str, object]]] = []
    for api in ("chat/completions", "messages", "responses"):
        found += [(f"{api}?{query}", "-c 4 -n 20 -x 20", {"ok": 20, "errors": 0}) for query in FRAMINGS]
        found.append((api, "-c 4 -n 20 -k -x 20", {"ok": 20, "errors": 0}))
        found += [(f"{api}?disconnect=5{rst}", "-c 4 -n 8", {"ok": 0, "truncated": 8}) for rst in ("", "&rst=1")]
        found.append((f"{api}?n=19", "-c 4 -n 8 -x 20", {"ok": 0, "short": 8}))
    return found + [(f"chat/completions?{query}", flags, wanted) for query, flags, wanted in MODES]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def try_one(mock: Mock, path: str, flags: str, wanted: dict[str, object]) -> str:
    """Run the client once; what differs from what is wanted."""
    args = flags.format(port=mock.port).split()
    found: dict[str, Any] = finish(client(f"http://127.0.0.1:{mock.port}/v1/{path}", *args))
    found |= found["e"]
    wrong = {key: found.get(key) for key, value in wanted.items() if found.get(key) != value}
    return f"{path} {flags}: wanted {wanted}, got {wrong}" if wrong else ""


def stalled(mock: Mock) -> str:
    """Callers who stop reading must stop the provider: the sockets between take some MB and no more."""
    mock.reset()
    url = f"http://127.0.0.1:{mock.port}/v1/chat/completions?endless=1"
    with client(url, "-c", 2, "-n", 2, "-S", 5, "-t", PATIENCE) as load:
        try:
            return _settled(mock)
        finally:
            end(load)


def _settled(mock: Mock) -> str:
    """Until much was sent and no more is; how long that takes is the machine's affair."""
    deadline, early = time.monotonic() + PATIENCE / 2, 0
    while True:
        time.sleep(0.4)
        late = mock.stats()["bytes"]
        more = late - early  # the answer to stats itself is some 300
        if early > 100_000 and more < 1000:
            return ""
        if time.monotonic() > deadline:
            return f"stalled callers: {early} bytes, and {more} more in 0.4 s"
        early = late


def check() -> list[str]:
    """All complaints; none when the tools are as they should be."""
    mock = Mock(free_port())
    try:
        return [bad for case in cases() if (bad := try_one(mock, *case))] + [bad for bad in [stalled(mock)] if bad]
    finally:
        mock.stop()


if __name__ == "__main__":
    build()
    complaints = check()
    print("\n".join(complaints) or "all as it should be")
    sys.exit(bool(complaints))
