"""To a program our reactor is Twisted's (`reactors.py` has the scenes), but for how often the kernel is called."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.internet.protocol import Protocol

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
