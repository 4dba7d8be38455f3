"""Lines on stderr: their form, and a writer that never waits (`operations.md` 6)."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure

from twisted_gateway.logs import ATOMIC, LineWriter, Log, clean, json_layout, layout_named, level_named

FORGERIES = ["a\nTIME INFO forged", "a\r\nb", "a\u2028b", "a\u2029b", "a\x85b", "a\x1b[2Jb", "a\x00b", "a\ud800b"]


class Kept:
    """A writer that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.flushed = 0
        self.dropped = 0

    def put(self, line: bytes) -> None:
        self.lines.append(line)

    def expect(self, make: Callable[[], None]) -> None:
        make()

    def flush(self) -> None:
        self.flushed += 1


def log_to(kept: Kept, log_format: str = "text", level: str = "info") -> Log:
    return Log(kept, layout_named(log_format, "svc"), level_named(level), now=lambda: 1_767_323_045.25)


@pytest.mark.parametrize(
    ("written", "level"),
    [
        ("info", LogLevel.info),
        ("TRACE", LogLevel.debug),
        ("warn", LogLevel.warn),
        ("error,aisix=debug", LogLevel.error),
        ("aisix=debug", LogLevel.info),
        ("off", LogLevel.critical),
    ],
)
def test_levels(written: str, level: Any) -> None:
    assert level_named(written) is level


def test_a_text_line() -> None:
    kept = Kept()
    fields = {"path": "/v1", "status": 200, "ttft_ms": 1.5, "ok": True, "no": None, "say": 'a "b" \\c'}
    log_to(kept).write(LogLevel.info, "aisix::access", "done", fields)

    assert kept.lines == [
        b"2026-01-02T03:04:05.250000Z  INFO aisix::access: done "
        b'path="/v1" status=200 ttft_ms=1.5 ok=true say="a \\"b\\" \\\\c"\n'
    ]
    assert kept.flushed == 0


def test_a_json_line() -> None:
    kept = Kept()
    log_to(kept, "json").write(LogLevel.warn, "t", "done", {"level": "forged", "x": "é\n", "n": 1, "none": None})

    assert json.loads(kept.lines[0]) == {
        "timestamp": "2026-01-02T03:04:05.250000Z",
        "level": "warn",
        "target": "t",
        "message": "done",
        "service": "svc",
        "x": "é",
        "n": 1,
    }


def test_unknown_format() -> None:
    with pytest.raises(ValueError, match="xml"):
        layout_named("xml")


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_no_value_forges_a_line(log_format: str, forgery: str) -> None:
    kept = Kept()
    log = log_to(kept, log_format)
    log.write(LogLevel.info, "t", "m", {"model": forgery})
    Logger(namespace=forgery, observer=log).info("say {x}", x=forgery)

    assert len(kept.lines) == 2
    for line in kept.lines:
        text = line.decode()
        assert text.splitlines() == [text[:-1]]
        assert text[:-1].isprintable()


def test_values_are_bounded() -> None:
    assert len(clean("x" * 10_000_000)) == 2048


def test_levels_filter_both_roads() -> None:
    kept = Kept()
    log = log_to(kept, level="warn")
    log.write(LogLevel.info, "t", "m", {})
    logger = Logger(namespace="aisix", observer=log)
    logger.info("no")
    logger.warn("yes", n=1)

    assert [line.split(b"aisix: ")[1] for line in kept.lines] == [b"yes n=1\n"]
    assert kept.flushed == 1


def test_fields_of_strangers_are_not_shown() -> None:
    kept = Kept()
    Logger(namespace="twisted.web", observer=log_to(kept)).info("hello", factory=object(), secret="CANARY")

    assert b"CANARY" not in kept.lines[0]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_failures_show_their_text_and_no_locals(log_format: str) -> None:
    kept = Kept()
    logger = Logger(namespace="aisix::x", observer=log_to(kept, log_format))
    body = "CAN" + "ARY"
    try:
        int("not a number" * len(body[:1]))
    except ValueError:
        logger.failure("it broke")

    (line,) = kept.lines
    text = line.decode()
    assert "it broke" in text
    assert "invalid literal for int()" in text
    assert "test_logs.py" in text
    assert "CANARY" not in text
    assert text.count("\n") == 1


def test_the_old_log_api_and_its_failures() -> None:
    kept = Kept()
    log = log_to(kept)
    publisher = LogPublisher(log)
    publisher(
        {
            "log_level": LogLevel.critical,
            "log_namespace": "log_legacy",
            "log_format": "{log_text}",
            "log_text": "Traceback...",
            "log_failure": Failure(ValueError("gone")),
            "isError": 1,
            "why": "while\nreading",
            "log_time": 0.0,
        }
    )

    assert b'log_legacy: whilereading traceback="' in kept.lines[0] or b"while reading" in kept.lines[0]
    assert b"gone" in kept.lines[0]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def drained(fd: int) -> bytes:
    got = b""
    while True:
        try:
            piece = os.read(fd, 1 << 20)
        except BlockingIOError:
            return got
        if not piece:
            return got
        got += piece


def test_lines_wait_for_their_batch(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    clock = Clock()
    writer = LineWriter(clock, fd)
    writer.put(b"one\n")
    clock.advance(0.03)
    writer.put(b"two\n")
    assert drained(reader) == b""

    clock.advance(0.03)
    assert drained(reader) == b"one\ntwo\n"
    assert clock.getDelayedCalls() == []


def test_a_full_batch_is_written_at_once(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(Clock(), fd, size=100)
    writer.put(b"x" * 98 + b"\n")
    assert drained(reader) == b""

    writer.put(b"y\n")
    assert drained(reader) == b"x" * 98 + b"\ny\n"


def test_a_full_pipe_costs_lines_and_not_time(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    clock = Clock()
    writer = LineWriter(clock, fd, bound=200_000)
    line = b"x" * 999 + b"\n"
    began = time.monotonic()
    for _ in range(1000):
        writer.put(line)
    clock.advance(0.05)
    assert time.monotonic() - began < 30, "it waited for the reader, who does not come"
    assert os.get_blocking(fd)
    assert 0 < writer.dropped < 1000

    got = drained(reader)
    while clock.getDelayedCalls():
        clock.advance(0.05)
        got += drained(reader)
    assert got == line * (1000 - writer.dropped)


def test_lost_lines_are_told_of(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(Clock(), fd, bound=300)
    log = Log(writer, json_layout("svc"))
    for _ in range(9):
        log.write(LogLevel.info, "t", "m" * 50, {})
    writer.flush()
    lost = writer.dropped
    assert lost > 0
    log.write(LogLevel.info, "t", "after", {})
    writer.flush()

    told = [json.loads(line) for line in drained(reader).splitlines()]
    assert sum(one.get("count", 0) for one in told) == lost
    assert told[-1]["message"] == "after"


def messages(written: bytes) -> list[bytes]:
    return [line.split(b"t: ")[1] for line in written.splitlines()]


def test_lines_of_calls_are_laid_out_within_the_delay(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    clock = Clock()
    log = Log(LineWriter(clock, fd), now=lambda: 1.0 + len(clock.getDelayedCalls()))
    for number in range(2):
        log.write_all(LogLevel.info, "t", [(f"{number} first", {}), (f"{number} second", {"n": number})])
    assert drained(reader) == b""
    clock.advance(0.05)
    assert messages(lines := drained(reader)) == [b"0 first", b"0 second n=0", b"1 first", b"1 second n=1"]
    assert [line[17:27] for line in lines.splitlines()] == [b"01.000000Z"] * 2 + [b"02.000000Z"] * 2
    assert clock.getDelayedCalls() == []


def test_many_lines_of_calls_are_not_kept_until_then(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(Clock(), fd, size=1)
    log = Log(writer)
    for number in range(100):
        log.write(LogLevel.info, "t", str(number), {})
    early = messages(drained(reader))
    assert len(early) >= 64
    log.write(LogLevel.info, "t", "last", {})
    writer.stop()
    assert early + messages(drained(reader)) == [b"%d" % number for number in range(100)] + [b"last"]


def test_the_last_lines_of_calls_leave_no_timer(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    clock = Clock()
    log = Log(LineWriter(clock, fd))
    log.write(LogLevel.info, "t", "last", {})
    log.writer.stop()
    assert messages(drained(reader)) == [b"last"]
    assert clock.getDelayedCalls() == []


def test_other_lines_come_behind_those_of_calls_before_them(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    log = Log(LineWriter(Clock(), fd))
    log.write(LogLevel.info, "t", "before", {})
    Logger(namespace="t", observer=log).info("here")
    log.write(LogLevel.info, "t", "behind", {})
    log.writer.flush()
    assert messages(drained(reader)) == [b"before", b"here", b"behind"]


def test_a_long_line_comes_whole(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(Clock(), fd)
    long = b"a\n" + b"x" * (3 * ATOMIC) + b"\nz\n"
    for line in long.splitlines(keepends=True):
        writer.put(line)
    writer.flush()

    assert drained(reader) == long


def test_a_closed_pipe_loses_everything_quietly() -> None:
    reader, fd = os.pipe()
    os.close(reader)
    writer = LineWriter(Clock(), fd)
    writer.put(b"one\n")
    writer.put(b"two\n")
    writer.stop()
    os.close(fd)

    assert writer.dropped == 2


def test_stop_waits_for_a_slow_reader_but_not_for_ever(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(Clock(), fd)
    for _ in range(200):
        writer.put(b"x" * 999 + b"\n")
    began = time.monotonic()
    writer.stop(0.1)
    assert 0.05 < time.monotonic() - began < 30

    got: list[bytes] = []

    def read() -> None:
        while sum(map(len, got)) < 200_000:
            got.append(drained(reader))
            time.sleep(0.001)

    thread = threading.Thread(target=read)
    thread.start()
    writer.stop(60)
    thread.join(60)
    assert sum(map(len, got)) == 200_000


def test_regular_files_and_sockets() -> None:
    with tempfile.TemporaryFile() as file:
        writer = LineWriter(Clock(), file.fileno())
        writer.put(b"one\n")
        writer.stop()
        assert os.pread(file.fileno(), 100, 0) == b"one\n"
    near, far = socket.socketpair()
    with near, far:
        writer = LineWriter(Clock(), near.fileno())
        writer.put(b"one\n")
        writer.stop()
        assert far.recv(100) == b"one\n"


def test_another_thread_needs_no_timer(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    clock = Clock()
    log = Log(LineWriter(clock, fd))
    thread = threading.Thread(target=lambda: Logger(namespace="aisix", observer=log).info("from afar"))
    thread.start()
    thread.join()

    assert b"from afar" in drained(reader)
    assert clock.getDelayedCalls() == []


def test_lines_noted_while_another_thread_flushes_are_not_forgotten(pipe: tuple[int, int]) -> None:
    looked, told, laid_out = threading.Event(), threading.Event(), []

    class Slow(LineWriter):
        """Its other threads take long to see what is expected."""

        @property
        def _expected(self) -> Any:
            found = self._found
            if threading.current_thread() is thread:
                looked.set()
                told.wait(0.1)
            return found

        @_expected.setter
        def _expected(self, make: Any) -> None:
            self._found = make

    writer = Slow(Clock(), pipe[1])
    thread = threading.Thread(target=writer.flush)
    thread.start()
    looked.wait()
    writer.expect(lambda: laid_out.append("all"))
    told.set()
    thread.join()
    writer.stop()
    assert laid_out == ["all"]
