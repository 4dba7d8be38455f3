"""To protocols our transports are Twisted's (scenes in `transports.py`); the kernel sees reads and sends in turns."""

import json
import subprocess
import sys
from errno import EAGAIN, ECONNRESET, ENOBUFS, EPIPE
from pathlib import Path
from select import EPOLLHUP, EPOLLIN, EPOLLOUT
from string import ascii_lowercase
from types import SimpleNamespace

import pytest
from twisted.internet.error import ConnectionAborted
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from twisted_gateway import sockets
from twisted_gateway.sockets import QuickClient, QuickServer, pass_on, receive, send

from . import transports

ROOT = Path(__file__).parents[1]
SCENES = [f"{name}-{side}" for name in transports.scenes for side in ("server", "client")]


def played(which):
    command = [sys.executable, "-m", "tests.transports", which]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


@pytest.fixture(scope="module")
def records():
    """Every scene's record: Twisted's, and ours."""
    return played("epoll"), played("aisix")


@pytest.mark.parametrize("scene", SCENES)
def test_protocols_see_the_same(records, scene):
    twisteds, ours = records
    assert not isinstance(twisteds[scene], str), twisteds[scene]  # it hung
    assert ours[scene] == twisteds[scene]


class Reactor:
    """Notes what is asked of it."""

    def __init__(self):
        self.written, self.readers, self.writers, self.calls = [], [], [], []
        self.unhurried = True

    def addReader(self, one):
        self.readers.append(one)

    def removeReader(self, one):
        self.readers = [each for each in self.readers if each is not one]

    def addWriter(self, one):
        self.writers.append(one)

    def removeWriter(self, one):
        self.writers = [each for each in self.writers if each is not one]

    def callLater(self, _delay, do, *args):
        self.calls.append((do, args))

    def lose(self, transport, why):
        self.removeReader(transport)
        transport.connectionLost(Failure(why))

    def turn(self):
        calls, self.calls = self.calls, []
        for do, args in calls:
            do(*args)


class Socket:
    """Its `script` has what the next calls return or raise; the number of bytes it takes without one is unlimited."""

    def __init__(self, name, log):
        self.name, self.log = name, log
        self.arrived, self.takes, self.sent = [], [], b""

    def recv(self, _size):
        self.log.append(f"read {self.name}")
        return self._next(self.arrived)

    def send(self, data):
        size = self._next(self.takes) if self.takes else len(data)
        self.log.append(f"send {self.name}")
        self.sent += bytes(data[:size])
        return min(size, len(data))

    @staticmethod
    def _next(script):
        one = script.pop(0)
        if isinstance(one, int) and one < 0:
            raise OSError(-one, "no")
        return one

    def fileno(self):
        return ord(self.name)

    def setblocking(self, _whether):
        pass

    setsockopt = shutdown = lambda *_: None

    def close(self):
        self.log.append(f"close {self.name}")


class Heard(Protocol):
    def __init__(self, name, log):
        self.name, self.log = name, log
        self.then = lambda: None

    def dataReceived(self, data):
        self.log.append(f"{self.name}: {data.decode()}" if len(data) < 99 else f"{self.name}: much")
        self.then()

    def connectionLost(self, reason=None):
        self.log.append(f"{self.name}: {reason.type.__name__}")


@pytest.fixture(autouse=True)
def any_sockets(monkeypatch):
    """Methods of real sockets do not take those of this module."""
    monkeypatch.setattr(sockets, "_recv", Socket.recv)
    monkeypatch.setattr(sockets, "_send", Socket.send)


class Turn:
    """Transports by name, on a reactor that does nothing by itself; `log` has what happened, in its order."""

    def __init__(self, names="abc"):
        self.reactor, self.log, self.sockets = Reactor(), [], {}
        self.lost, self.blocked, self.selectables, self.closes = [], [], {}, False
        for name in names:
            self.sockets[name] = Socket(name, self.log)
            protocol = Heard(name, self.log)
            transport = QuickServer(self.sockets[name], protocol, ("127.0.0.1", 1), None, 0, self.reactor)
            protocol.makeConnection(transport)
            self.selectables[ord(name)] = transport

    def __getitem__(self, name):
        return self.selectables[ord(name)]

    def arrives(self, **what):
        """These can be read, and are."""
        for name, data in what.items():
            self.sockets[name].arrived.append(data)
        self.events(*((ord(name), EPOLLIN) for name in what))

    def events(self, *events):
        receive(events, self.selectables, self.other, self.lose)

    def passes(self, name, event=EPOLLIN):
        return pass_on((ord(name), event), self.selectables, self.lose)

    def other(self, transport, fd, event):
        self.log.append(f"other {chr(fd)} {event}")

    def lose(self, transport, why):
        self.lost.append((transport, why))
        if self.closes:
            transport.connectionLost(Failure(why))

    def ends(self):
        """What was written is sent."""
        written, self.reactor.written = self.reactor.written, []
        send(written, self.blocked.append, self.lose)


def test_all_is_read_before_anything_is_given():
    turn = Turn()
    turn.arrives(a=b"1", b=b"2", c=b"3")
    assert turn.log == ["read a", "read b", "read c", "a: 1", "b: 2", "c: 3"]


def test_much_is_given_before_more_is_read():
    turn = Turn("abcdefghij")
    turn.arrives(**dict.fromkeys("abcdefghij", b"x" * 65536))
    for some in ("abcd", "efgh", "ij"):
        expected = [*(f"read {name}" for name in some), *(f"{name}: much" for name in some)]
        assert turn.log[: len(expected)] == expected
        del turn.log[: len(expected)]


def test_of_little_many_are_read_at_once_when_a_few_have_shown_it():
    names = ascii_lowercase
    turn = Turn(names)
    turn.arrives(**dict.fromkeys(names, b"x"))
    for some in (names[:4], names[4:20], names[20:]):
        expected = [*(f"read {name}" for name in some), *(f"{name}: x" for name in some)]
        assert turn.log[: len(expected)] == expected
        del turn.log[: len(expected)]


def test_one_that_was_stopped_or_closed_is_not_read():
    turn = Turn("abcdefg")
    turn["a"].protocol.then = turn["f"].pauseProducing
    turn["b"].protocol.then = lambda: turn["e"].connectionLost(Failure(CONNECTION_DONE))
    turn.arrives(**dict.fromkeys("abcdefg", b"x"))
    assert turn.log[-2:] == ["read g", "g: x"]
    assert not {"read e", "read f"} & {*turn.log}
    assert turn.lost == []


def test_what_else_there_is_to_do_is_done_behind_the_reads_unless_it_is_gone():
    turn = Turn("abc")
    turn["c"].protocol.then = lambda: turn.selectables.pop(ord("b"))
    for name in "ac":
        turn.sockets[name].arrived.append(b"1")
    turn.events((98, EPOLLOUT), (97, EPOLLIN), (99, EPOLLIN), (97, EPOLLHUP))
    assert turn.log == ["read a", "read c", "a: 1", "c: 1", "other a 16"]


def test_one_of_two_that_fail_may_close_the_other():
    turn = Turn("ab")
    turn.closes = True
    turn["a"].protocol.connectionLost = lambda _: turn["b"].connectionLost(Failure(CONNECTION_DONE))
    turn.arrives(a=-ECONNRESET, b=-ECONNRESET)
    assert turn.lost == [(turn["a"], CONNECTION_LOST)]


def test_what_is_not_simply_to_be_read_is_for_another():
    turn = Turn("ab")
    turn["b"].connected = 0  # it connects
    turn.selectables[99] = object()
    turn.events((97, EPOLLIN | EPOLLOUT), (97, EPOLLOUT), (97, EPOLLHUP), (98, EPOLLIN), (99, EPOLLIN), (5, EPOLLIN))
    assert turn.log == ["other a 5", "other a 4", "other a 16", "other b 1", "other c 1"]


def test_a_read_that_fails():
    turn = Turn()
    turn.arrives(a=-EAGAIN, b=-ECONNRESET, c=b"")
    assert turn.log == ["read a", "read b", "read c"]
    assert turn.lost == [(turn["b"], CONNECTION_LOST), (turn["c"], CONNECTION_DONE)]


def test_a_protocol_that_fails_is_alone_in_that():
    turn = Turn()
    turn["a"].protocol.then = lambda: 1 // 0
    turn.arrives(a=b"1", b=b"2")
    assert turn.log[2:] == ["a: 1", "b: 2"]
    ((transport, why),) = turn.lost
    assert transport is turn["a"]
    assert isinstance(why, ZeroDivisionError)


class Lane:
    """Leads to `to`."""

    def __init__(self, log, to=None):
        self.log, self.to = log, to

    def carry(self, data):
        if data == b"fail":
            raise ZeroDivisionError
        self.log.append(f"lane: {data.decode()}")
        return b"out" if data == b"mine" else None


def test_a_lane_is_asked_first():
    turn = Turn()
    for name in "abc":
        turn[name].lane = Lane(turn.log, turn["b"])
    turn.arrives(a=b"mine", b=b"not", c=b"fail")
    assert turn.log[3:] == ["lane: mine", "lane: not", "b: not", "send b"]
    assert turn.sockets["b"].sent == b"out"
    assert [transport for transport, _ in turn.lost] == [turn["c"]]


@pytest.mark.parametrize("takes", [99, 2, 0, -EAGAIN, -EPIPE])
@pytest.mark.parametrize("alone", [False, True])
def test_what_a_lane_carries_goes_before_what_is_written_later(takes, alone):
    turn = Turn("abc")
    c, skt = turn["c"], turn.sockets["c"]
    turn["a"].lane = Lane(turn.log, c)
    skt.takes = [takes]
    if alone:
        turn["a"].__class__ = QuickClient
        turn.sockets["a"].arrived.append(b"mine")
        assert turn.passes("a") is (takes == 99)
        c.write(b" later")
    else:
        turn["b"].protocol.then = lambda: c.write(b" later")
        turn.arrives(a=b"mine", b=b"1")
    assert skt.sent == b"out"[: max(0, takes)]
    assert c._tempDataLen == len(b"out later") - len(skt.sent)
    skt.takes = [-EPIPE] if takes == -EPIPE else []
    turn.ends()
    if takes == -EPIPE:
        assert turn.lost == [(c, CONNECTION_LOST)]
    else:
        assert (skt.sent, turn.lost, turn.blocked, c._tempDataLen, c.awaited) == (b"out later", [], [], 0, False)


@pytest.mark.parametrize("alone", [False, True])
def test_what_a_lane_carries_waits_for_what_was_written_before(alone):
    turn = Turn("ac")
    turn["a"].lane = Lane(turn.log, turn["c"])
    turn["c"].write(b"before ")
    if alone:
        turn["a"].__class__ = QuickClient
        turn.sockets["a"].arrived.append(b"mine")
        assert turn.passes("a") is False
    else:
        turn.arrives(a=b"mine")
    assert turn.sockets["c"].sent == b""
    turn.ends()
    assert turn.sockets["c"].sent == b"before out"


@pytest.mark.parametrize("end", ["abort", "lost"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_lane_to_one_that_is_gone(end, alone):
    turn = Turn("abc")
    a, c = turn["a"], turn["c"]
    a.lane = Lane(turn.log, c)
    gone = c.abortConnection if end == "abort" else lambda: c.connectionLost(Failure(CONNECTION_DONE))
    if alone:
        gone()
        a.__class__ = QuickClient
        turn.sockets["a"].arrived.append(b"mine")
        assert turn.passes("a") is False
    else:
        turn["b"].protocol.then = gone
        turn.arrives(a=b"mine", b=b"1")
    turn.ends()
    assert turn.sockets["c"].sent == b""
    assert turn.lost == []


def test_a_lane_to_a_transport_of_another_kind_writes():
    turn = Turn("a")
    written = []
    turn["a"].lane = Lane(turn.log, SimpleNamespace(awaited=False, write=written.append))
    turn.arrives(a=b"mine")
    assert written == [b"out"]
    turn["a"].__class__ = QuickClient
    turn.sockets["a"].arrived.append(b"mine")
    assert turn.passes("a") is False
    assert written == [b"out"] * 2


@pytest.mark.parametrize(
    ("data", "passed", "log"),
    [
        (b"mine", True, ["read a", "lane: mine", "send c"]),
        (b"not", False, ["read a", "lane: not", "lane: not", "a: not"]),
        (b"fail", False, ["read a"]),
        (b"", False, ["read a"]),
        (-EAGAIN, False, ["read a"]),
        (-ECONNRESET, False, ["read a"]),
    ],
)
def test_one_read_alone_in_its_turn(data, passed, log):
    turn = Turn("ac")
    a = turn["a"]
    a.__class__ = QuickClient
    a.lane = Lane(turn.log, turn["c"])
    turn.sockets["a"].arrived.append(data)
    assert turn.passes("a") is passed
    assert turn.log == log
    assert [transport for transport, _ in turn.lost] == ([a] if data in (b"fail", b"", -ECONNRESET) else [])


@pytest.mark.parametrize("case", ["server", "no lane", "stopped", "other event", "unknown"])
def test_what_is_not_for_a_lane_is_left_for_the_turn(case):
    turn = Turn("ac")
    a = turn["a"]
    a.lane = Lane(turn.log, turn["c"]) if case != "no lane" else None
    if case != "server":
        a.__class__ = QuickClient
    if case == "stopped":
        a.reading = False
    assert turn.passes("z" if case == "unknown" else "a", EPOLLHUP if case == "other event" else EPOLLIN) is None
    assert turn.log == []


def test_what_was_read_for_a_stopped_one_is_kept_and_comes_before_anything_else():
    turn = Turn("ab")
    turn["a"].protocol.then = turn["b"].pauseProducing
    turn.arrives(a=b"1", b=b"2")
    assert turn.log[2:] == ["a: 1"]
    turn["b"].resumeProducing()
    assert turn["b"] not in turn.reactor.readers  # what is read now would overtake it
    turn["b"].lane = Lane(turn.log)
    turn.reactor.turn()
    assert turn.log[3:] == ["lane: 2", "b: 2"]
    assert turn["b"] in turn.reactor.readers
    turn.reactor.turn()
    assert turn.log[5:] == []


def test_what_is_kept_is_given_once_and_only_while_resumed():
    turn = Turn("ab")
    turn["a"].protocol.then = turn["b"].pauseProducing
    turn["b"].protocol.then = turn["b"].pauseProducing
    turn.arrives(a=b"1", b=b"2")
    for step in ("resumeProducing", "pauseProducing"):
        getattr(turn["b"], step)()
    turn.reactor.turn()
    assert turn.log[3:] == []
    for step in ("resumeProducing", "pauseProducing", "resumeProducing"):
        getattr(turn["b"], step)()
    turn.reactor.turn()
    assert turn.log[3:] == ["b: 2"]
    assert turn["b"] not in turn.reactor.readers


def test_the_end_of_a_stopped_one_is_read_again():
    turn = Turn("ab")
    turn["a"].protocol.then = turn["b"].pauseProducing
    turn.arrives(a=b"1", b=b"")
    assert turn.lost == []
    turn["b"].resumeProducing()
    turn.arrives(b=b"")
    assert turn.lost == [(turn["b"], CONNECTION_DONE)]


def test_a_lost_one_keeps_nothing():
    turn = Turn("abc")
    a, b, c = turn["a"], turn["b"], turn["c"]
    a.protocol.then = lambda: (b.stopReading(), c.connectionLost(Failure(CONNECTION_LOST)))
    turn.arrives(a=b"1", b=b"2", c=b"3")
    assert (b.came, c.came) == (b"2", None)
    b.lane = Lane(turn.log)
    b.write(b"unsent")
    b.connectionLost(Failure(CONNECTION_LOST))
    assert (b.came, b.lane, b._tempDataBuffer, b.dataBuffer, b.awaited) == (None, None, [], b"", False)
    b.write(b"late")
    turn.ends()
    assert turn.sockets["b"].sent == b""


def test_a_turn_sends_once():
    turn = Turn("ab")
    for data in (b"1", b"", b"2"):
        turn["a"].write(data)
    turn["b"].writeSequence([b"3", b"4"])
    turn["a"].write(b"5")
    assert turn.log == []
    turn.ends()
    assert turn.log[0] == "send a"
    assert (turn["a"]._tempDataLen, turn["b"]._tempDataLen) == (0, 0)  # or a producer would be paused for it
    assert (turn.log.count("send a"), turn.sockets["a"].sent, turn.sockets["b"].sent) == (1, b"125", b"34")
    assert (turn.reactor.written, turn.blocked, turn.reactor.writers) == ([], [], [])


@pytest.mark.parametrize("takes", [0, 2, -EAGAIN, -ENOBUFS])
def test_what_the_socket_does_not_take_waits_for_it(takes):
    turn = Turn("a")
    a, skt = turn["a"], turn.sockets["a"]
    a.write(b"one ")
    skt.takes = [takes]
    turn.ends()
    assert turn.blocked == [a]
    a.write(b"two ")
    turn.ends()  # the kernel will tell
    assert skt.sent == b"one "[: max(0, takes)]
    a.doWrite()
    assert skt.sent == b"one two "
    a.write(b"three")
    turn.ends()
    assert skt.sent == b"one two three"
    assert turn.blocked == [a]


def test_nothing_overtakes_what_twisteds_way_has_sent_in_part():
    """A client that is greeted while it connects: `doRead` finds it connected, and `doWrite` is called at once."""
    turn = Turn("a")
    a, skt = turn["a"], turn.sockets["a"]
    a.write(b"first ")
    skt.takes = [2]
    a.doWrite()
    a.write(b"second")
    turn.ends()
    assert (turn.blocked, skt.sent) == ([a], b"fi")
    a.doWrite()
    assert skt.sent == b"first second"


def test_a_send_that_fails_is_alone_in_that():
    turn = Turn("abc")
    turn["a"].write(b"1")
    turn["b"].write(b"2")
    turn.sockets["a"].takes = [-EPIPE]
    turn["c"].write(b"3")
    turn["c"].registerProducer(Failing(), False)
    turn.ends()
    assert turn.lost[0] == (turn["a"], CONNECTION_LOST)
    assert turn.lost[1][0] is turn["c"]
    assert isinstance(turn.lost[1][1], ZeroDivisionError)
    assert turn.sockets["b"].sent == b"2"


class Failing:
    """A producer that can do it once."""

    asked = 0

    def resumeProducing(self):
        self.asked += 1
        if self.asked == 1:
            return
        raise ZeroDivisionError


def test_an_aborted_one_neither_sends_nor_reads():
    turn = Turn("a")
    a = turn["a"]
    a.write(b"1")
    a.abortConnection()
    a.write(b"2")
    a.writeSequence([b"3"])
    a.resumeProducing()
    a.startWriting()
    turn.ends()
    assert (turn.log, turn.reactor.readers, turn.reactor.written) == ([], [], [])
    turn.reactor.turn()
    assert turn.log == ["close a", f"a: {ConnectionAborted.__name__}"]


def test_closing_waits_until_all_is_sent():
    turn = Turn("a")
    a, skt = turn["a"], turn.sockets["a"]
    a.write(b"one")
    a.loseConnection()
    skt.takes = [1]
    turn.ends()
    assert turn.lost == []
    assert a.doWrite() is CONNECTION_DONE
    assert skt.sent == b"one"


def test_a_stopped_one_reads_nothing_for_an_event_from_before():
    turn = Turn("a")
    turn.sockets["a"].arrived = [b"1"]
    turn["a"].pauseProducing()
    assert turn["a"].doRead() is None
    assert turn.log == []
    turn["a"].resumeProducing()
    assert turn["a"].doRead() is None
    assert turn.log == ["read a", "a: 1"]


@pytest.mark.parametrize("takes", [99, 2, 0, -EAGAIN])
def test_what_somebody_waits_for_is_sent_at_once(takes):
    turn = Turn("a")
    a, skt = turn["a"], turn.sockets["a"]
    skt.takes = [takes]
    a.write(b"on")
    a.write(b"e ")
    a.flush()
    assert skt.sent == b"one "[: max(0, takes)]
    a.write(b"two ")
    turn.ends()
    assert (skt.sent, turn.blocked, a._tempDataLen, a.awaited) == (b"one two ", [], 0, False)
    a.flush()
    assert skt.sent == b"one two "


def test_what_somebody_waits_for_waits_for_others_and_for_what_went_before():
    turn = Turn("a")
    a, skt = turn["a"], turn.sockets["a"]
    turn.reactor.unhurried = False
    a.write(b"one ")
    a.flush()
    assert skt.sent == b""
    skt.takes = [2]
    turn.ends()
    turn.reactor.unhurried = True
    a.write(b"two")
    a.flush()
    assert (skt.sent, turn.blocked) == (b"on", [a])
    a.doWrite()
    assert skt.sent == b"one two"


def test_a_failure_to_send_at_once_is_told_when_the_turn_is_over():
    turn = Turn("a")
    turn.sockets["a"].takes = [-ECONNRESET, -EPIPE]
    turn["a"].write(b"one")
    turn["a"].flush()
    assert turn.lost == []
    turn.ends()
    assert turn.lost == [(turn["a"], CONNECTION_LOST)]


def test_nothing_is_sent_at_once_by_one_that_is_aborted_or_lost():
    turn = Turn("ab")
    for name in "ab":
        turn[name].write(b"one")
    turn["a"].abortConnection()
    turn["b"].connectionLost(Failure(CONNECTION_LOST))
    for name in "ab":
        turn[name].flush()
        assert turn.sockets[name].sent == b""
