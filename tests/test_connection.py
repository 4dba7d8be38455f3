"""Connections to providers over transports in memory: pool, retry, cancelling, pausing, TLS and its deadline."""

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import PotentialDataLoss, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH

from twisted_gateway.agent import Agent, Pool
from twisted_gateway.connection import BrokenConnection, Origin
from twisted_gateway.messages import Body, HeaderLines, first_value
from twisted_gateway.wire.http1 import Malformed

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Wire(StringTransport):
    """One connection as the provider sees it."""

    def __init__(self, protocol):
        super().__init__()
        self.protocol = protocol
        self.aborting = False

    def abortConnection(self):
        self.aborting = True

    def gives(self, data):
        self.protocol.dataReceived(data)

    def closes(self, why=None):
        self.protocol.connectionLost(Failure(why or ConnectionDone()))

    @property
    def paused(self):
        return self.producerState == "paused"

    def taken(self):
        """What was written since the last look."""
        data = self.value()
        self.clear()
        return data


class Endpoint:
    """Connects when the test says so."""

    def __init__(self):
        self.waiting = []
        self.cancelled = 0

    def connect(self, factory):
        connecting = Deferred(self._cancel)
        self.waiting.append((connecting, factory))
        return connecting

    def _cancel(self, connecting):
        self.cancelled += 1

    def accept(self):
        connecting, factory = self.waiting.pop(0)
        protocol = factory.buildProtocol(None)
        wire = Wire(protocol)
        protocol.makeConnection(wire)
        connecting.callback(protocol)
        return wire


class Reading:
    """The body's protocol."""

    def __init__(self):
        self.reads, self.reason, self.transport = [], None, None

    def makeConnection(self, transport):
        self.transport = transport

    def dataReceived(self, data):
        self.reads.append(data)

    def connectionLost(self, reason):
        assert self.reason is None, "told once"
        self.reason = reason

    @property
    def body(self):
        return b"".join(self.reads)


class Ask:
    """One request and what became of it."""

    def __init__(self, agent, uri=b"http://h/p", method=b"POST", body=b"{}", headers=None):
        self.started = 0
        data = None if body is None else Body(body, self._start)
        self.deferred = agent.request(method, uri, headers, data)
        self.response = self.failure = None
        self.reading = Reading()
        self.deferred.addCallbacks(self._answered, self._failed)

    def _start(self):
        self.started += 1

    def _answered(self, response):
        self.response = response

    def _failed(self, failure):
        self.failure = failure

    def deliver(self):
        self.response.deliverBody(self.reading)
        return self.reading


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def endpoint():
    return Endpoint()


@pytest.fixture
def pool(clock):
    return Pool(clock, 30.0, 3)


@pytest.fixture
def agent(clock, pool, endpoint):
    return Agent(clock, pool, lambda origin: endpoint, 5.0)


def exchange(agent, endpoint, **options):
    """A whole request and answer on a fresh connection, which is idle then."""
    ask = Ask(agent, **options)
    wire = endpoint.accept()
    wire.gives(OK)
    ask.deliver()
    wire.taken()
    return wire


# One request


def test_a_request_and_its_answer(agent, endpoint, pool):
    ask = Ask(agent, b"http://h:81/p/q?x=1", headers=Headers({"x-a": ["1", "2"]}))
    assert ask.started == 0
    wire = endpoint.accept()
    assert ask.started == 1
    assert wire.taken() == b"POST /p/q?x=1 HTTP/1.1\r\nhost: h:81\r\nX-A: 1\r\nX-A: 2\r\ncontent-length: 2\r\n\r\n{}"
    wire.gives(OK[:-1])
    assert (ask.response.code, ask.response.length, ask.response.version) == (200, 2, (b"HTTP", 1, 1))
    assert ask.response.headers.getRawHeaders(b"Content-Length") == [b"2"]
    reading = ask.deliver()
    assert reading.body == b"o"
    wire.gives(b"k")
    assert reading.body == b"ok"
    assert reading.reason.check(ResponseDone)
    assert pool.idle == 1
    assert not wire.aborting


@pytest.mark.parametrize(
    "kind", [HeaderLines, lambda lines: Headers({name: [v for k, v in lines if k == name] for name, _ in lines})]
)
def test_header_lines_are_headers(kind):
    headers = kind([(b"x-a", b"1"), (b"x-b", b""), (b"x-a", b"2")])
    assert headers.getRawHeaders("X-A") == ["1", "2"]
    assert headers.getRawHeaders(b"x-b") == [b""]
    assert headers.getRawHeaders(b"x-c") is None
    assert headers.hasHeader(b"X-B")
    assert {name.lower(): values for name, values in headers.getAllRawHeaders()} == {
        b"x-a": [b"1", b"2"],
        b"x-b": [b""],
    }
    assert headers.copy() == headers
    assert (first_value(headers, b"x-a"), first_value(headers, b"x-b"), first_value(headers, b"x-c")) == (
        b"1",
        b"",
        None,
    )


def test_header_lines_are_written_as_they_are(agent, endpoint):
    Ask(agent, b"http://h/", b"GET", None, HeaderLines([(b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b"3")]))
    assert endpoint.accept().taken() == b"GET / HTTP/1.1\r\nhost: h\r\nx-b: 1\r\nx-a: 2\r\nx-b: 3\r\n\r\n"


@pytest.mark.parametrize(
    ("uri", "host", "path"),
    [
        (b"http://h", b"h", b"/"),
        (b"http://h:80/", b"h", b"/"),
        (b"https://h:443/a", b"h", b"/a"),
        (b"https://h:80/a", b"h:80", b"/a"),
        (b"http://h:443?q", b"h:443", b"/?q"),
        (b"http://[::1]:8080/a", b"[::1]:8080", b"/a"),
        (b"http://user:pass@h/a", b"h", b"/a"),
    ],
)
def test_host_and_target(agent, endpoint, uri, host, path):
    Ask(agent, uri, b"GET", None)
    wire = endpoint.accept()
    if uri.startswith(b"https"):
        wire.protocol.handshakeCompleted()
    assert wire.taken() == b"GET " + path + b" HTTP/1.1\r\nhost: " + host + b"\r\n\r\n"


@pytest.mark.parametrize("when", ["at once", "later"])
def test_one_call_of_the_body_for_one_read(agent, endpoint, when):
    ask = Ask(agent)
    wire = endpoint.accept()
    wire.gives(CHUNKED + b"1\r\na\r\n2\r\nbc\r\n")
    assert wire.paused, "nobody takes the body yet"
    reading = ask.deliver()
    assert not wire.paused
    wire.gives(b"1\r\nd\r\n1\r\ne\r\n")
    assert reading.reads == [b"abc", b"de"]
    wire.gives(b"0\r\n\r\n")
    assert reading.reason.check(ResponseDone)


@pytest.mark.parametrize(
    ("data", "method", "length"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"POST", UNKNOWN_LENGTH),
        (b"HTTP/1.1 304 x\r\ncontent-length: 5\r\n\r\n", b"POST", 5),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", b"HEAD", 5),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"POST", 0),
        (CHUNKED + b"0\r\n\r\n", b"POST", UNKNOWN_LENGTH),
    ],
)
def test_answers_without_a_body(agent, endpoint, pool, data, method, length):
    ask = Ask(agent, method=method, body=None)
    wire = endpoint.accept()
    wire.gives(data)
    assert ask.response.length in (length, UNKNOWN_LENGTH)
    reading = ask.deliver()
    assert (reading.reads, reading.reason.type) == ([], ResponseDone)
    assert pool.idle == 1


def test_a_body_that_ends_with_the_connection(agent, endpoint, pool):
    ask = Ask(agent)
    wire = endpoint.accept()
    wire.gives(b"HTTP/1.1 200 OK\r\n\r\nabc")
    reading = ask.deliver()
    assert reading.body == b"abc"
    wire.closes()
    assert reading.reason.check(PotentialDataLoss)
    assert pool.idle == 0
    assert not pool.open


def test_the_whole_answer_and_the_end_before_anybody_takes_it(agent, endpoint, pool):
    ask = Ask(agent)
    wire = endpoint.accept()
    wire.gives(OK)
    wire.closes()
    reading = ask.deliver()
    assert reading.body == b"ok"
    assert reading.reason.check(ResponseDone)
    assert pool.idle == 0


@pytest.mark.parametrize("then", ["goes on", "stays"])
def test_pausing_while_the_head_is_told(agent, endpoint, then):
    ask, steps = Ask(agent), []
    wire = endpoint.accept()
    wire.pauseProducing, wire.resumeProducing = lambda: steps.append("pause"), lambda: steps.append("resume")

    def taken(response):
        ask.deliver()
        ask.reading.transport.pauseProducing()
        if then == "goes on":
            ask.reading.transport.resumeProducing()

    ask.deferred.addCallback(lambda _: taken(ask.response))
    wire.gives(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na")
    assert ask.reading.body == b"a"
    assert steps == ([] if then == "goes on" else ["pause"])
    wire.gives(b"bc")
    assert ask.reading.reason.check(ResponseDone)
    assert steps == ([] if then == "goes on" else ["pause", "resume"])  # an idle connection reads


def test_until_close_ended_before_anybody_takes_it(agent, endpoint, pool):
    ask = Ask(agent)
    wire = endpoint.accept()
    wire.gives(b"HTTP/1.0 200 OK\r\n\r\nabc")
    wire.closes()
    reading = ask.deliver()
    assert reading.body == b"abc"
    assert reading.reason.check(PotentialDataLoss)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"SSH-2.0\r\n", "malformed response: not an HTTP response"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "malformed response: conflicting or invalid content-length"),
    ],
)
def test_a_malformed_head(agent, endpoint, pool, data, cause):
    ask = Ask(agent)
    wire = endpoint.accept()
    wire.gives(data)
    assert ask.failure.check(BrokenConnection)
    assert (str(ask.failure.value), ask.failure.value.received) == (cause, len(data))
    assert wire.aborting
    assert not pool.open


def test_a_malformed_body(agent, endpoint, pool):
    ask = Ask(agent)
    wire = endpoint.accept()
    wire.gives(CHUNKED + b"1\r\na\r\n")
    reading = ask.deliver()
    wire.gives(b"zz\r\n")
    assert reading.body == b"a"
    assert reading.reason.check(BrokenConnection)
    assert wire.aborting
    wire.closes(ConnectionAborted())


@pytest.mark.parametrize(
    ("why", "cause"),
    [
        (ConnectionDone(), "connection closed"),
        (ConnectionLost(), "connection lost (ConnectionLost)"),
        (ConnectionAborted(), "connection aborted"),
    ],
)
@pytest.mark.parametrize("got", [b"", b"HTTP/1.1 2", CHUNKED, CHUNKED + b"5\r\nab"])
def test_a_connection_lost_too_early(agent, endpoint, pool, got, why, cause):
    ask = Ask(agent)
    wire = endpoint.accept()
    if got:
        wire.gives(got)
    reading = ask.deliver() if ask.response else None
    wire.closes(why)
    failure = ask.failure if reading is None else reading.reason
    assert failure.check(BrokenConnection)
    assert str(failure.value) == cause
    assert failure.value.received == len(got)
    assert not pool.open
    assert not endpoint.waiting, "a fresh connection's failure is not tried again"


# The pool


def test_the_newest_idle_connection_is_taken_first(agent, endpoint, pool):
    asks = [Ask(agent) for _ in range(3)]
    wires = [endpoint.accept() for _ in asks]
    for ask, wire in zip(asks, wires, strict=True):
        wire.gives(OK)
        ask.deliver()
        wire.taken()
    assert pool.idle == 3
    for wire in reversed(wires):
        Ask(agent)
        assert wire.taken().startswith(b"POST")
    assert pool.idle == 0
    assert not endpoint.waiting


def test_origins_do_not_share(agent, endpoint, pool):
    exchange(agent, endpoint, uri=b"http://h/")
    for uri in (b"http://h:81/", b"http://g/", b"https://h:80/"):
        Ask(agent, uri)
    assert len(endpoint.waiting) == 3
    Ask(agent, b"http://h:80/other")
    assert len(endpoint.waiting) == 3


@pytest.mark.parametrize(("most", "kept"), [(3, 3), (1, 1), (0, 0), (None, 5)])
def test_at_most_so_many_are_kept(clock, endpoint, most, kept):
    pool = Pool(clock, 30.0, most)
    agent = Agent(clock, pool, lambda origin: endpoint, None)
    asks = [Ask(agent) for _ in range(5)]
    wires = [endpoint.accept() for _ in asks]
    for ask, wire in zip(asks, wires, strict=True):
        wire.gives(OK)
        assert ask.deliver().reason.check(ResponseDone)
    assert pool.idle == kept
    assert [wire.aborting for wire in wires] == [False] * kept + [True] * (5 - kept)


def test_idle_connections_are_closed_in_time(agent, endpoint, pool, clock):
    first, second = (Ask(agent), Ask(agent))
    wires = [endpoint.accept(), endpoint.accept()]
    wires[0].gives(OK)
    first.deliver()
    clock.advance(20)
    wires[1].gives(OK)
    second.deliver()
    clock.advance(9.9)
    assert (pool.idle, wires[0].aborting) == (2, False)
    clock.advance(0.2)
    assert (pool.idle, wires[0].aborting, wires[1].aborting) == (1, True, False)
    clock.advance(19.8)
    assert (pool.idle, wires[1].aborting) == (1, False)
    clock.advance(0.2)
    assert (pool.idle, wires[1].aborting) == (0, True)
    assert clock.getDelayedCalls() == []


def test_a_connection_used_again_is_young_again(agent, endpoint, pool, clock):
    wire = exchange(agent, endpoint)
    for _ in range(5):
        clock.advance(20)
        ask = Ask(agent)
        wire.gives(OK)
        ask.deliver()
    assert not wire.aborting
    clock.advance(29)
    assert not wire.aborting
    clock.advance(31)
    assert wire.aborting


@pytest.mark.parametrize("data", [b"x", b"HTTP/1.1 408 Request Timeout\r\n\r\n", OK])
def test_garbage_on_an_idle_connection_closes_it(agent, endpoint, pool, data):
    wire = exchange(agent, endpoint)
    wire.gives(data)
    assert wire.aborting
    assert pool.idle == 0
    wire.closes(ConnectionAborted())
    Ask(agent)
    assert len(endpoint.waiting) == 1


def test_bytes_behind_an_answer_close_the_connection(agent, endpoint, pool):
    ask = Ask(agent)
    wire = endpoint.accept()
    wire.gives(OK + b"HTTP/1.1 200 OK")
    assert ask.deliver().body == b"ok"
    assert wire.aborting
    assert pool.idle == 0


def test_an_idle_connection_that_is_closed_is_forgotten(agent, endpoint, pool):
    wire = exchange(agent, endpoint)
    wire.closes()
    assert pool.idle == 0
    assert not pool.open
    Ask(agent)
    assert len(endpoint.waiting) == 1


@pytest.mark.parametrize("headers", [b"connection: close\r\n", b"content-length: 0\r\ntransfer-encoding: chunked\r\n"])
def test_connections_that_may_not_be_used_again(agent, endpoint, pool, headers):
    ask = Ask(agent)
    wire = endpoint.accept()
    chunked = b"chunked" in headers
    wire.gives(b"HTTP/1.1 200 OK\r\n" + headers + (b"\r\n0\r\n\r\n" if chunked else b"content-length: 0\r\n\r\n"))
    assert ask.deliver().reason.check(ResponseDone)
    assert wire.aborting
    assert pool.idle == 0


def test_close_closes_all(agent, endpoint, pool, clock):
    busy = Ask(agent)
    wires = [endpoint.accept()]
    idle = Ask(agent)
    wires.append(endpoint.accept())
    wires[1].gives(OK)
    idle.deliver()
    pool.close()
    assert all(wire.aborting for wire in wires)
    assert (pool.idle, pool.open, clock.getDelayedCalls()) == (0, set(), [])
    wires[0].closes(ConnectionAborted())
    assert busy.failure.check(BrokenConnection)


def test_nothing_is_asked_again_once_all_is_closed(agent, endpoint, pool):
    wire = exchange(agent, endpoint)
    busy = Ask(agent)
    pool.close()
    wire.closes(ConnectionAborted())
    assert busy.failure.check(BrokenConnection)
    assert not endpoint.waiting


def test_an_idle_connection_reads_to_see_its_end(agent, endpoint):
    ask = Ask(agent)
    wire = endpoint.accept()
    wire.gives(OK)
    assert wire.paused or ask.response
    ask.deliver()
    assert not wire.paused


# Once more on a fresh connection


@pytest.mark.parametrize("why", [ConnectionDone(), ConnectionLost(), ConnectionAborted()])
def test_a_reused_connection_that_says_nothing_is_tried_again_once(agent, endpoint, pool, why):
    old = exchange(agent, endpoint)
    ask = Ask(agent, body=b"again")
    assert old.taken().endswith(b"again")
    old.closes(why)
    assert ask.failure is None
    fresh = endpoint.accept()
    assert fresh.taken().endswith(b"\r\n\r\nagain")
    assert ask.started == 2
    fresh.closes(why)
    assert ask.failure.check(BrokenConnection)
    assert not endpoint.waiting, "once only"


def test_all_idle_connections_may_be_dead(agent, endpoint, pool):
    asks = [Ask(agent) for _ in range(3)]
    wires = [endpoint.accept() for _ in asks]
    for one, wire in zip(asks, wires, strict=True):
        wire.gives(OK)
        one.deliver()
    ask = Ask(agent)
    wires[2].closes()
    fresh = endpoint.accept()
    fresh.gives(OK)
    assert ask.deliver().body == b"ok"


@pytest.mark.parametrize("got", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", b"\x00"])
def test_no_second_try_after_a_byte(agent, endpoint, got):
    old = exchange(agent, endpoint)
    ask = Ask(agent)
    old.gives(got)
    if not old.aborting:
        old.closes()
    assert ask.failure.check(BrokenConnection)
    assert ask.failure.value.received == len(got)
    assert not endpoint.waiting


def test_a_cancelled_request_is_not_tried_again(agent, endpoint):
    old = exchange(agent, endpoint)
    ask = Ask(agent)
    ask.deferred.cancel()
    old.closes(ConnectionAborted())
    assert ask.failure.check(CancelledError)
    assert not endpoint.waiting


def test_cancelling_the_second_try(agent, endpoint):
    old = exchange(agent, endpoint)
    ask = Ask(agent)
    old.closes()
    fresh = endpoint.accept()
    ask.deferred.cancel()
    assert fresh.aborting
    assert ask.failure.check(CancelledError)


# Cancelling


def test_cancelled_while_connecting(agent, endpoint, pool, clock):
    ask = Ask(agent)
    ask.deferred.cancel()
    assert endpoint.cancelled == 1
    assert ask.failure.check(CancelledError)
    assert not pool.open
    assert clock.getDelayedCalls() == []


def test_cancelled_in_the_handshake(agent, endpoint, pool, clock):
    ask = Ask(agent, b"https://h/")
    wire = endpoint.accept()
    ask.deferred.cancel()
    assert wire.aborting
    assert ask.failure.check(CancelledError)
    assert not pool.open
    wire.closes(ConnectionAborted())
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("got", [b"", b"HTTP/1.1 20"])
def test_cancelled_before_the_head(agent, endpoint, pool, got):
    ask = Ask(agent)
    wire = endpoint.accept()
    if got:
        wire.gives(got)
    ask.deferred.cancel()
    assert wire.aborting
    assert ask.failure.check(CancelledError)
    wire.closes(ConnectionAborted())
    assert not pool.open


@pytest.mark.parametrize("way", ["abortConnection", "stopProducing", "loseConnection"])
def test_cut_in_the_body(agent, endpoint, pool, way):
    ask = Ask(agent)
    wire = endpoint.accept()
    wire.gives(CHUNKED + b"1\r\na\r\n")
    reading = ask.deliver()
    getattr(reading.transport, way)()
    assert wire.aborting
    assert not pool.open
    wire.closes(ConnectionAborted())
    assert reading.reason.check(BrokenConnection)


def test_cut_from_within_a_read(agent, endpoint, pool):
    ask = Ask(agent)
    wire = endpoint.accept()
    wire.gives(CHUNKED)
    ask.reading.dataReceived = lambda data: ask.reading.transport.abortConnection()
    reading = ask.deliver()
    wire.gives(b"1\r\na\r\n0\r\n\r\n")
    assert wire.aborting
    assert pool.idle == 0
    assert reading.reason is not None


def test_a_body_that_is_over_cannot_touch_the_connection(agent, endpoint, pool):
    ask = Ask(agent)
    wire = endpoint.accept()
    wire.gives(OK)
    reading = ask.deliver()
    reading.transport.abortConnection()
    reading.transport.pauseProducing()
    assert not wire.aborting
    assert not wire.paused
    assert pool.idle == 1


def test_pausing(agent, endpoint):
    ask = Ask(agent)
    wire = endpoint.accept()
    wire.gives(CHUNKED)
    reading = ask.deliver()
    reading.transport.pauseProducing()
    assert wire.paused
    reading.transport.resumeProducing()
    assert not wire.paused
    with pytest.raises(NotImplementedError):
        reading.transport.write(b"x")


# Large uploads


def test_a_large_upload_goes_as_the_socket_takes_it(agent, endpoint, pool):
    data = b"x" * 300_000
    ask = Ask(agent, body=data)
    connecting, factory = endpoint.waiting.pop()
    protocol = factory.buildProtocol(None)
    wire = Wire(protocol)
    wire.write_plain = wire.write

    def write(piece):
        wire.write_plain(piece)
        if wire.producer is not None:
            wire.producer.pauseProducing()

    wire.write = write
    protocol.makeConnection(wire)
    connecting.callback(protocol)
    sizes = []
    while wire.producer is not None:
        sizes.append(len(wire.value()))
        wire.producer.resumeProducing()
    head, _, sent = wire.value().partition(b"\r\n\r\n")
    assert b"content-length: 300000" in head
    assert sent == data
    assert [size // 65_536 for size in sizes] == [1, 2, 3, 4]
    wire.gives(OK)
    assert ask.deliver().reason.check(ResponseDone)
    assert pool.idle == 1


def test_an_early_answer_to_a_large_upload_ends_the_connection(agent, endpoint, pool):
    ask = Ask(agent, body=b"x" * 300_000)
    connecting, factory = endpoint.waiting.pop()
    protocol = factory.buildProtocol(None)
    wire = Wire(protocol)
    plain = wire.write

    def write(piece):
        plain(piece)
        if wire.producer is not None:
            wire.producer.pauseProducing()

    wire.write = write
    protocol.makeConnection(wire)
    connecting.callback(protocol)
    wire.gives(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
    assert ask.response.code == 413
    reading = ask.deliver()
    assert reading.body == b"no"
    assert reading.reason.check(ResponseDone)
    assert wire.aborting
    assert pool.idle == 0
    assert len(wire.value()) < 200_000


# Coming up


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("stage", ["tcp", "handshake"])
def test_the_deadline_covers_tcp_and_tls(agent, endpoint, pool, clock, tls, stage):
    ask = Ask(agent, b"https://h/" if tls else b"http://h/")
    wire = None
    clock.advance(3)
    if stage == "handshake":
        wire = endpoint.accept()
    clock.advance(1.9)
    assert ask.failure is None
    clock.advance(0.2)
    if stage == "handshake" and not tls:
        assert ask.failure is None, "plain TCP is up"
        return
    assert ask.failure.check(TimeoutError)
    assert wire is None or wire.aborting
    assert not pool.open
    assert clock.getDelayedCalls() == []
    assert ask.started == 0


def test_no_deadline_at_all(clock, pool, endpoint):
    ask = Ask(Agent(clock, pool, lambda origin: endpoint, None))
    assert clock.getDelayedCalls() == []
    clock.advance(10_000)
    assert ask.failure is None


def test_nothing_is_sent_before_the_handshake(agent, endpoint, clock):
    ask = Ask(agent, b"https://h/")
    wire = endpoint.accept()
    assert wire.taken() == b""
    assert ask.started == 0
    wire.protocol.handshakeCompleted()
    assert wire.taken().startswith(b"POST / HTTP/1.1\r\nhost: h\r\n")
    assert ask.started == 1
    assert clock.getDelayedCalls() == []


def test_a_handshake_that_fails(agent, endpoint, pool, clock):
    ask = Ask(agent, b"https://h/")
    wire = endpoint.accept()
    wire.closes(ConnectionLost("bad certificate"))
    assert ask.failure.check(ConnectionLost)
    assert not pool.open
    assert clock.getDelayedCalls() == []


def test_a_refused_connection(clock, pool):
    class Refusing:
        def connect(self, factory):
            return fail(ConnectionRefusedError())

    ask = Ask(Agent(clock, pool, lambda origin: Refusing(), 5.0))
    assert ask.failure.check(ConnectionRefusedError)
    assert not pool.open
    assert clock.getDelayedCalls() == []


def test_an_endpoint_that_cannot_be_made(clock, pool):
    def endpoint(origin):
        raise ValueError("no host name")

    ask = Ask(Agent(clock, pool, endpoint, 5.0))
    assert ask.failure.check(ValueError)
    assert (len(pool.open), clock.getDelayedCalls()) == (0, [])


def test_the_endpoint_is_asked_for_the_origin(clock, pool, endpoint):
    seen = []
    agent = Agent(clock, pool, lambda origin: seen.append(origin) or endpoint, None)
    Ask(agent, b"https://H.example:8443/x")
    assert seen == [Origin("https", "h.example", 8443)]


@pytest.mark.parametrize("reused", [False, True])
def test_a_request_that_cannot_be_written_keeps_the_connection(agent, endpoint, pool, reused):
    if reused:
        exchange(agent, endpoint)
    ask = Ask(agent, headers=Headers({"x-a": ["b\x00"]}))
    assert ask.failure.check(Malformed)
    assert (ask.started, pool.idle, len(endpoint.waiting)) == (0, int(reused), 0)
    Ask(agent)
    assert len(endpoint.waiting) == int(not reused)
