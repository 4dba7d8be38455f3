"""To a program our reactor is Twisted's (`reactors.py` has the scenes), but for how often the kernel is called."""

import gc
import json
import socket
import subprocess
import sys
import weakref
from math import inf
from pathlib import Path

import pytest
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.task import Clock

from twisted_gateway import reactor as module
from twisted_gateway.reactor import FlushingReactor
from twisted_gateway.sockets import QuickServer

from . import reactors

ROOT = Path(__file__).parents[1]


def played(which):
    command = [sys.executable, "-m", "tests.reactors", which]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout), told.stderr


@pytest.fixture(scope="module")
def records():
    """Every scene's record: Twisted's, and ours."""
    return played("epoll"), played("aisix")


@pytest.mark.parametrize("scene", reactors.scenes)
def test_programs_see_the_same(records, scene):
    (twisteds, trouble), (ours, our_trouble) = records
    assert not isinstance(twisteds[scene], str), (twisteds[scene], trouble)  # it hung
    assert ours[scene] == twisteds[scene], our_trouble


class Poller:
    """Epoll's, counted."""

    def __init__(self, real):
        self._real, self.calls = real, []

    def __getattr__(self, name):
        def call(*args):
            self.calls.append(name)
            return getattr(self._real, name)(*args)

        return call


@pytest.fixture
def reactor():
    """One of ours that nobody else has."""
    ours = FlushingReactor()
    ours._poller = Poller(ours._poller)
    yield ours
    for one in ours.removeAll():
        one.connectionLost(None) if not isinstance(one, QuickServer) else one.abortConnection()
    ours.iterate()
    for one in ours._internalReaders:
        one.connectionLost(None)
    ours._poller._real.close()


class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


def connected(reactor):
    """A transport that sends back what it reads, and its peer."""
    own, peer = socket.socketpair()
    protocol = Echo()
    transport = QuickServer(own, protocol, ("127.0.0.1", 1), None, 0, reactor)
    protocol.makeConnection(transport)
    peer.settimeout(60)
    return transport, peer


def test_an_answer_costs_no_call_but_its_own(reactor):
    transport, peer = connected(reactor)
    reactor._poller.calls.clear()
    with peer:
        for _ in range(5):
            peer.sendall(b"x")
            reactor.iterate(1)
            reactor.iterate(0)
            assert peer.recv(9) == b"x"
    assert set(reactor._poller.calls) == {"poll"}
    assert transport not in reactor.getWriters()


def test_one_that_is_blocked_is_registered_until_it_has_sent_all(reactor):
    transport, peer = connected(reactor)
    with peer:
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        reactor._poller.calls.clear()
        transport.write(b"x" * 1_000_000)
        reactor.iterate(0)
        assert reactor._poller.calls == ["modify", "poll"]
        assert reactor.getWriters() == [transport]
        got = 0
        while got < 1_000_000:
            got += len(peer.recv(65_536))
            reactor.iterate(0)
        assert reactor.getWriters() == []
        assert reactor._poller.calls.count("modify") == 2


def test_more_than_one_turn_takes_are_all_read(reactor):
    ends = [connected(reactor) for _ in range(300)]
    for _, peer in ends:
        peer.sendall(b"x")
    for _ in range(3):
        reactor.iterate(0)
    for _, peer in ends:
        assert peer.recv(9) == b"x"
        peer.close()


def test_what_a_closed_one_wrote_is_not_waited_for(reactor):
    transport, peer = connected(reactor)
    with peer:
        transport.write(b"x")
        transport.abortConnection()
        reactor.iterate(0)
        reactor.iterate(0)
    assert (reactor.written, reactor.getWriters(), transport.connected) == ([], [], 0)


# Waiting

ONE, OTHER = (7, 1), (8, 1)


class Waiting:
    """A reactor's wait at second 100. `script` has, for each question to the kernel, how long it takes, what there is
    to do, and what becomes of it if a lane is asked.
    """

    def __init__(self, reactor, monkeypatch, *script):
        self.reactor, self.script, self.waits, self.asked = reactor, list(script), [], []
        self.clock = Clock()
        self.clock.advance(100)
        monkeypatch.setattr(reactor, "_poller", self)
        monkeypatch.setattr(reactor, "seconds", self.clock.seconds, raising=False)
        monkeypatch.setattr(module, "pass_on", self.pass_on)

    def poll(self, wait, _most):
        self.waits.append(wait)
        seconds, events, self.passed = self.script.pop(0)
        self.clock.advance(seconds)
        if events is None:
            raise InterruptedError
        return events

    def pass_on(self, event, _selectables, _lose):
        self.asked.append(event)
        return self.passed

    def until(self, at):
        return self.reactor._wait(at)


def test_chunks_are_passed_on_while_there_is_nothing_else_and_it_is_not_time(reactor, monkeypatch):
    scene = Waiting(reactor, monkeypatch, *[(1, [ONE], True)] * 3)
    assert scene.until(103) == []
    assert scene.waits == [3, 2, 1], "never longer than until then"
    assert scene.asked == [ONE] * 3


@pytest.mark.parametrize(
    ("events", "passed", "found", "asked"),
    [
        ([ONE], None, [ONE], [ONE]),
        ([ONE], False, [], [ONE]),
        ([ONE, OTHER], True, [ONE, OTHER], []),
        ([], True, [], []),
        (None, True, [], []),
    ],
)
def test_whatever_is_no_chunk_ends_the_wait(reactor, monkeypatch, events, passed, found, asked):
    """A protocol may have been told of it, or something written: there is more to do in this turn."""
    scene = Waiting(reactor, monkeypatch, (1, [ONE], True), (1, events, passed))
    assert scene.until(200) == found
    assert scene.waits == [100, 99]
    assert scene.asked == [ONE, *asked]
    if events is not None:
        assert reactor.unhurried is (events == [ONE])


@pytest.mark.parametrize("at", [-inf, 99.0, 100.0])
def test_who_may_not_wait_passes_one_chunk_on_at_most(reactor, monkeypatch, at):
    scene = Waiting(reactor, monkeypatch, (0, [ONE], True))
    assert scene.until(at) == []
    assert scene.waits == [0]


def turned(reactor, monkeypatch, prepare):
    """How long a turn that `prepare` has come before waits, at most."""
    scene = Waiting(reactor, monkeypatch, (0, [], None))
    waits = []

    def wait(until):
        waits.append(until - scene.clock.seconds())
        reactor._started = False
        return []

    monkeypatch.setattr(reactor, "_wait", wait)
    reactor._started = reactor.running = True
    reactor._justStopped = False
    prepare(scene)
    try:
        reactor._turns()
    finally:
        reactor.running = False
    return waits


def test_a_turn_waits_for_the_next_timer(reactor, monkeypatch):
    assert turned(reactor, monkeypatch, lambda _: reactor.callLater(5, lambda: None)) == [5]
    for call in reactor.getDelayedCalls():
        call.cancel()


def test_a_turn_without_timers_is_not_endless(reactor, monkeypatch):
    assert turned(reactor, monkeypatch, lambda _: None) == [3600]


def test_a_turn_that_is_not_running_does_not_wait(reactor, monkeypatch):
    def prepare(_):
        reactor.running = False

    assert turned(reactor, monkeypatch, prepare) == [-inf]


@pytest.mark.parametrize("end", ["abortConnection", "loseConnection", "the peer closes"])
def test_a_connection_to_a_provider_that_is_over_is_freed_at_once(reactor, end):
    """Each abandoned call ends one: the collector, which hardly ever looks, is not to be needed for that."""
    callers, over = [], []

    class Caller(Protocol):
        def connectionLost(self, reason=None):
            over.append(reason)

    class Server(Protocol):
        def connectionMade(self):
            callers.append(self)

    port = reactor.listenTCP(0, Factory.forProtocol(Server), interface="127.0.0.1")
    made = []
    connecting = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port).connect(Factory.forProtocol(Caller))
    connecting.addCallback(made.append)
    while not (made and callers):
        reactor.iterate(1)
    kept = [weakref.ref(made[0]), weakref.ref(made[0].transport), weakref.ref(made[0].transport.connector)]
    gc.collect()
    gc.disable()
    try:
        if end == "the peer closes":
            callers[0].transport.loseConnection()
        else:
            getattr(made[0].transport, end)()
        made.clear()
        del connecting
        while not over:
            reactor.iterate(1)
        over.clear()
        reactor.iterate(0)
        assert [each() for each in kept] == [None, None, None]
    finally:
        gc.enable()
        port.stopListening()
        reactor.iterate(0)


def test_a_client_that_connects_again_keeps_its_new_transport(reactor):
    lost = []

    class Again(ClientFactory):
        protocol, noisy = Protocol, False

        def clientConnectionLost(self, connector, reason):
            lost.append(connector.transport)
            if len(lost) == 1:
                connector.connect()

    port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    connector = reactor.connectTCP("127.0.0.1", port.getHost().port, Again())
    for times in (1, 2):
        while connector.state != "connected":
            reactor.iterate(1)
        connector.transport.abortConnection()
        while len(lost) < times:
            reactor.iterate(1)
    assert lost[0] is not lost[1]
    assert connector.transport is None
    port.stopListening()
    reactor.iterate(0)
