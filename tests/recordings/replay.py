"""A provider that answers with recordings, as a process of its own: `python -m tests.recordings.replay FOLDER...`.

The request's `model` names the item; its member `replay` says how the answer is delivered (see `Delivery`), and so
does a `user` that is JSON, which every mapping carries. It writes its port to stdout and serves until it is killed.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs

from tests.doubles.cutting import at_random, byte_by_byte, coalesced

ROOT = Path(__file__).resolve().parents[2]
KEPT_HEADERS = ("content-type", "retry-after", "cache-control")
LARGEST_RANDOM_PIECE = 200
EDGE = 1000
"""Bytes at both ends that are sent one by one: each costs a write, a turn of the gateway and a read."""
PAUSE = 2e-5
"""Seconds between two pieces, so that the network does not join all of them again."""


@attrs.frozen
class Delivery:
    """How an answer is cut (`whole`, `bytes`, `random`, `coalesced`), framed (`chunked`, `length`, `close`), ended.

    `abort`: the connection is closed without the framing's own end.
    """

    cut: str = "whole"
    framing: str = "chunked"
    abort: bool = False
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.cut}-{self.framing}{'-abort' if self.abort else ''}-{self.seed}"

    def member(self) -> dict[str, Any]:
        """The request member that asks for it."""
        return {"replay": attrs.asdict(self)}

    def user(self) -> str:
        """The same as a caller's name, for roads on which an unknown member is lost."""
        return json.dumps(attrs.asdict(self))

    def pieces(self, body: bytes) -> Sequence[bytes]:
        """The body in pieces."""
        if self.cut == "bytes":
            return byte_by_byte(body, EDGE)
        if self.cut == "random":
            return at_random(body, self.seed, LARGEST_RANDOM_PIECE)
        if self.cut == "coalesced":
            return coalesced(body, self.seed)
        return [body]


STREAMED = (Delivery("whole"), Delivery("random", "close", seed=1), Delivery("coalesced", "length", seed=2))
"""How streams come, where it does not matter to the test."""
WHOLE = (Delivery("whole", "length"), Delivery("random", "chunked", seed=1), Delivery("bytes", "length"))
"""How whole answers come."""
ANY = (Delivery("whole"), Delivery("random", "close", seed=1), Delivery("bytes"))
"""How either may come."""


class Replay(BaseHTTPRequestHandler):
    """Answers `POST` with the item that the request names."""

    protocol_version = "HTTP/1.1"
    wbufsize = 0
    index: dict[str, Path] = {}

    def setup(self) -> None:
        """Every piece leaves at once."""
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_POST(self) -> None:
        """One answer."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path = self.index.get(asked["model"])
        if path is None:
            self._refuse(404, "no such recording")
        elif self.path.endswith("/completions") and not _asks_usage(asked):
            self._refuse(418, "usage was not asked")
        else:
            expect = json.loads(path.read_bytes())
            headers = [(name, value) for name, value in expect.get("headers") or [] if name in KEPT_HEADERS]
            body = (path.parent / expect["body_file"]).read_bytes()
            self._answer(expect.get("status") or 200, headers, body, _delivery(asked))

    def _refuse(self, status: int, message: str) -> None:
        body = json.dumps({"error": {"message": message, "type": "replay"}})
        self._answer(status, [], body.encode(), Delivery("whole", "length"))

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, delivery: Delivery) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if delivery.framing == "chunked":
            self.send_header("transfer-encoding", "chunked")
        elif delivery.framing == "length":
            self.send_header("content-length", str(len(body) + delivery.abort))
        else:
            self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = delivery.framing == "close" or delivery.abort
        try:
            self._send(body, delivery)
        except OSError:
            self.close_connection = True

    def _send(self, body: bytes, delivery: Delivery) -> None:
        chunked, pieces = delivery.framing == "chunked", delivery.pieces(body)
        for piece in pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if len(pieces) > 1:
                time.sleep(PAUSE)
        if chunked and not delivery.abort:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the gateway has the log."""


def _asks_usage(asked: dict[str, Any]) -> bool:
    return not asked.get("stream") or bool((asked.get("stream_options") or {}).get("include_usage"))


def _delivery(asked: dict[str, Any]) -> Delivery:
    """What the request says of it, in `replay` or in `user`."""
    given = asked.get("replay") or json.loads(asked.get("user") or "{}")
    return Delivery(**given)


class Server(ThreadingHTTPServer):
    """A thread for each connection. A caller who leaves is no news."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of faults of our own only."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def main(folders: Sequence[str]) -> None:
    """Serve the items of these folders."""
    paths = [path for folder in folders for path in Path(folder).glob("*/*.expect.json")]
    Replay.index = {path.name.removesuffix(".expect.json"): path for path in paths}
    with Server(("127.0.0.1", 0), Replay) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


@contextmanager
def replaying(folders: Sequence[Path]) -> Iterator[str]:
    """The base URL of a replaying process, which ends with the block."""
    command = [sys.executable, "-m", "tests.recordings.replay", *map(str, folders)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port, "the replaying provider did not start"
            yield f"http://127.0.0.1:{int(port)}/v1"
        finally:
            process.kill()


if __name__ == "__main__":
    main(sys.argv[1:])
