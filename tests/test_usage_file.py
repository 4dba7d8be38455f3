"""Records in a file: batches, rotation, reopening, a full disk; the state file. Threads are played by hand."""

import errno
import json
import os

import pytest
from twisted.internet.task import Clock

from twisted_gateway import usage_file
from twisted_gateway.bookkeeping import Bookkeeping
from twisted_gateway.config.money import UsageFile, UsageFiles
from twisted_gateway.metrics import Metrics
from twisted_gateway.usage_file import StateFile, UsageLog, Writer

from .test_metrics import value


class Hand:
    """A writer whose thread is the test."""

    def __init__(self):
        self.jobs = []

    def do(self, job):
        self.jobs.append(job)

    def work(self):
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


@pytest.fixture
def hand():
    return Hand()


@pytest.fixture
def log(tmp_path, hand):
    log = UsageLog(UsageFile(str(tmp_path / "u.jsonl"), 60, 2), hand, lambda *lost: log.losses.append(lost))
    log.losses = []
    yield log
    log._close()


def lines(path):
    return [json.loads(line)["n"] for line in path.read_text().splitlines()] if path.exists() else None


def put(log, hand, *numbers):
    for number in numbers:
        log.put({"n": number, "pad": "xxx"})  # 20 bytes a line
    hand.work()


def test_a_batch(log, hand, tmp_path):
    for n in range(3):
        log.put({"n": n})
    assert len(hand.jobs) == 1, "what comes while the disk is busy is one batch"
    hand.work()
    assert lines(tmp_path / "u.jsonl") == [0, 1, 2]
    put(log, hand, 7)
    assert lines(tmp_path / "u.jsonl") == [0, 1, 2, 7]
    assert oct((tmp_path / "u.jsonl").stat().st_mode & 0o777) == "0o640"


def test_rotation_by_size(log, hand, tmp_path):
    put(log, hand, 1, 2, 3, 4)
    assert (lines(tmp_path / "u.jsonl.1"), lines(tmp_path / "u.jsonl")) == ([1, 2, 3], [4])
    put(log, hand, 5, 6, 7, 8, 9, 1, 2)
    files = [lines(tmp_path / f"u.jsonl{end}") for end in (".3", ".2", ".1", "")]
    assert files == [None, [4, 5, 6], [7, 8, 9], [1, 2]]


def test_a_line_that_is_larger_than_a_file(log, hand, tmp_path):
    put(log, hand, 1)
    log.put({"n": 2, "pad": "x" * 100})
    put(log, hand, 3)
    assert [lines(tmp_path / f"u.jsonl{end}") for end in (".2", ".1", "")] == [[1], [2], [3]]


def test_no_backups(tmp_path, hand):
    log = UsageLog(UsageFile(str(tmp_path / "u"), 60, 0), hand, lambda *lost: None)
    put(log, hand, 1, 2, 3, 4)
    assert lines(tmp_path / "u") == [4]
    assert os.listdir(tmp_path) == ["u"]
    log._close()


def test_a_file_of_a_former_process_is_gone_on_with(log, hand, tmp_path):
    (tmp_path / "u.jsonl").write_text('{"n":0,"pad":"xxxxx"}\n' * 2)
    put(log, hand, 1, 2)
    assert lines(tmp_path / "u.jsonl.1") == [0, 0]
    assert lines(tmp_path / "u.jsonl") == [1, 2]


def test_reopening(log, hand, tmp_path):
    put(log, hand, 1)
    (tmp_path / "u.jsonl").rename(tmp_path / "moved")
    put(log, hand, 2)
    assert lines(tmp_path / "moved") == [1, 2]
    log.reopen()
    put(log, hand, 3)
    assert (lines(tmp_path / "moved"), lines(tmp_path / "u.jsonl")) == ([1, 2], [3])


def test_a_full_disk_costs_records_and_leaves_no_half_line(log, hand, tmp_path, monkeypatch):
    put(log, hand, 1)
    real, room = os.write, [25]

    def scarce(fd, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = bytes(data)[: room[0]]
        room[0] -= len(part)
        return real(fd, part)

    monkeypatch.setattr(usage_file.os, "write", scarce)
    put(log, hand, 2, 3)
    ((count, error),) = log.losses
    assert (count, error.errno) == (2, errno.ENOSPC)
    assert lines(tmp_path / "u.jsonl") == [1]
    monkeypatch.undo()
    put(log, hand, 4)
    assert lines(tmp_path / "u.jsonl") == [1, 4], "it goes on by itself"


def test_a_place_that_is_not_there(tmp_path, hand):
    lost = []
    log = UsageLog(UsageFile(str(tmp_path / "no" / "u")), hand, lambda *more: lost.append(more))
    put(log, hand, 1)
    assert (lost[0][0], type(lost[0][1])) == (1, FileNotFoundError)


def test_a_disk_that_hangs(log, hand, monkeypatch):
    monkeypatch.setattr(usage_file, "MOST_WAITING", 30)
    log.put({"n": 1, "pad": "xxx"})
    log.put({"n": 2, "pad": "xxx"})
    assert log.losses == [(1, None)]
    hand.work()
    log.put({"n": 3, "pad": "xxx"})
    assert len(log.losses) == 1


def test_the_thread(tmp_path):
    writer = Writer()
    log = UsageLog(UsageFile(str(tmp_path / "u")), writer, lambda *lost: None)
    for n in range(2000):
        log.put({"n": n})
    log.stop()
    writer.stop()
    assert lines(tmp_path / "u") == list(range(2000))
    assert writer._thread is None
    Writer().stop()


# The state file


@pytest.fixture
def clock():
    return Clock()


def state_file(tmp_path, hand, clock, failed=None):
    state = {"n": 0}
    return state, StateFile(str(tmp_path / "s.json"), hand, lambda: state, clock.callLater, failed or (lambda e: None))


def test_it_is_written_once_a_second_at_most(tmp_path, hand, clock):
    state, file = state_file(tmp_path, hand, clock)
    assert file.read() is None
    for state["n"] in range(5):
        file.changed()
    clock.advance(0.9)
    assert hand.jobs == []
    clock.advance(0.1)
    hand.work()
    assert file.read() == {"n": 4}
    file.changed()
    state["n"] = 9
    file.stop()
    hand.work()
    assert file.read() == {"n": 9}
    assert os.listdir(tmp_path) == ["s.json"]
    assert clock.getDelayedCalls() == []


def test_it_is_replaced_as_a_whole(tmp_path, hand, clock, monkeypatch):
    failures = []
    state, file = state_file(tmp_path, hand, clock, failures.append)
    file.changed()
    clock.advance(1)
    hand.work()
    monkeypatch.setattr(usage_file.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    state["n"] = 5
    file.changed()
    clock.advance(1)
    hand.work()
    assert file.read() == {"n": 0}
    assert [one.errno for one in failures] == [errno.ENOSPC]


@pytest.mark.parametrize("data", [b"", b"{", b"[]"])
def test_what_is_no_state(tmp_path, hand, clock, data):
    (tmp_path / "s.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"^it is not"):
        state_file(tmp_path, hand, clock)[1].read()


# Both together


class Reactor(Clock):
    def callFromThread(self, act, *args):
        act(*args)


def test_bookkeeping_over_a_restart(tmp_path):
    files = UsageFiles(UsageFile(str(tmp_path / "u")), str(tmp_path / "s"))
    reactor, metrics = Reactor(), Metrics()
    first = Bookkeeping(files, reactor, metrics, lambda: 5.0)
    first.spending.answered("k")
    first.records.put({"n": 1})
    first.stop()
    assert lines(tmp_path / "u") == [1]
    second = Bookkeeping(files, reactor, metrics, lambda: 9.0)
    assert (second.spending.calls("k"), second.spending.since) == (1, 5.0)
    second.stop()
    assert reactor.getDelayedCalls() == []


def test_losses_are_counted_and_told_once_a_minute(tmp_path):
    reactor, metrics = Reactor(), Metrics()
    books = Bookkeeping(UsageFiles(UsageFile(str(tmp_path / "no" / "u"))), reactor, metrics, lambda: 5.0)
    told = []
    books._log = type("Log", (), {"error": lambda self, text, **more: told.append(text.format(**more))})()
    for wait in (0, 1, 60):
        reactor.advance(wait)
        books._lost(2, OSError(errno.ENOSPC, "full"))
    assert value(metrics, "aisix_usage_file_drops_total") == 6
    assert told == ["usage records are lost: [Errno 28] full"] * 2


def test_a_broken_state_file_ends_the_start(tmp_path):
    (tmp_path / "s").write_text("{}")
    with pytest.raises(ValueError, match="not one of ours"):
        Bookkeeping(UsageFiles(None, str(tmp_path / "s")), Reactor(), Metrics(), lambda: 5.0)
