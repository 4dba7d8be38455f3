"""Cuts, recordings, the reader of events, and the process with something else than the gateway in it."""

import sys
from pathlib import Path

import pytest
import yaml

from .cutting import by_sizes, cuts
from .events import EventReader
from .process import GatewayFiles, GatewayProcess, NotReady, boot, resources
from .recordings import Recording, each_recording, needs_streams, recordings

STREAM = b': hi\r\n\r\nevent: a\ndata: {"x":\ndata: "\xc3\xa9"}\n\ndata: [DONE]\n\n'
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
print("hello", file=sys.stderr)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.parametrize("seed", range(3))
def test_cuts_lose_nothing(seed: int) -> None:
    ways = list(cuts(STREAM, seed))
    assert all(b"".join(pieces) == STREAM and all(pieces) for pieces in ways)
    assert ways == list(cuts(STREAM, seed))
    assert [len(ways[0]), len(ways[1])] == [1, len(STREAM)]


def test_sizes() -> None:
    assert by_sizes(b"abcdef", [1, 2]) == [b"a", b"bc", b"def"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_do_not_depend_on_cuts(end: bytes) -> None:
    stream = STREAM.replace(b"\r\n", b"\n").replace(b"\n", end)
    for pieces in cuts(stream):
        reader = EventReader()
        frames = [frame for piece in pieces for frame in reader.feed(piece, 1.0)]
        assert [frame.data for frame in frames] == [None, '{"x":\n"é"}', "[DONE]"]
        assert [frame.event for frame in frames] == [None, "a", None]
        assert frames[0].comments == ("hi",)
        assert frames[1].json() == {"x": "é"}


@needs_streams
def test_recordings() -> None:
    items = recordings("openai-chat")
    assert {item.kind for item in items} == {"stream", "json"}
    assert all(item.body for item in items)
    assert any(item.request for item in items)
    assert all(item.status >= 400 for item in recordings("http-errors", "error"))
    assert len(recordings()) > 200


@each_recording("openai-completions", "stream")
def test_events_of_recordings_are_counted_as_the_sdk_counts_them(recording: Recording) -> None:
    frames = EventReader().feed(recording.body + b"\n\n", 0.0)
    assert sum(frame.data is not None for frame in frames) == recording.expect["sse"]["events_with_data"]


def test_files(tmp_path: Path) -> None:
    files = GatewayFiles(tmp_path, resources("http://127.0.0.1:1/v1"), {"admin": {"enabled": True}})
    document = yaml.safe_load(files.write().read_text())
    assert document == boot(files.port, files.metrics_port, str(files.resources_path)) | {"admin": {"enabled": True}}
    assert yaml.safe_load(files.resources_path.read_text())["_format_version"] == "1"


def test_a_process_is_waited_for_and_ended(tmp_path: Path) -> None:
    files = GatewayFiles(tmp_path, resources("http://127.0.0.1:1/v1"))
    with GatewayProcess(files, [sys.executable, "-c", SERVER, str(files.port)]) as gateway:
        assert gateway.livez() == 200
        assert "hello" in gateway.stderr
        gateway.term()
        assert gateway.wait() == -15
    with GatewayProcess(files, [sys.executable, "-c", SERVER, str(files.port)]) as again:
        assert again.pid != gateway.pid
    assert again.running.poll() == -9


def test_a_process_that_ends_says_why(tmp_path: Path) -> None:
    files = GatewayFiles(tmp_path, resources("http://127.0.0.1:1/v1"))
    with (
        pytest.raises(NotReady, match=r"status 1:\s+no such thing"),
        GatewayProcess(files, [sys.executable, "-c", "raise SystemExit('no such thing')"]),
    ):
        pass


def test_twistd_is_found_from_any_folder(tmp_path: Path) -> None:
    files = GatewayFiles(tmp_path, resources("http://127.0.0.1:1/v1"))
    command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--version"]
    gateway = GatewayProcess(files, command).start()
    assert gateway.wait() == 0
    assert "twistd" in gateway.stdout
