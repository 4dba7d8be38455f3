"""Requests as they come over a connection: whatever the cuts, and beside h11 and twisted.web on good and bad input."""

from __future__ import annotations

import random

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.web import http

from twisted_gateway.wire.framing import Malformed
from twisted_gateway.wire.requests import RequestReader, TooLarge

from ..doubles.cutting import by_sizes

HOST = b"Host: h\r\n"


def post(headers=b"", body=b"", line=b"POST /a?b=c HTTP/1.1"):
    return line + b"\r\n" + HOST + headers + b"\r\n" + body


def counted(body, headers=b""):
    return post(headers + b"Content-Length: %d\r\n" % len(body), body)


def chunked(*chunks, trailers=b""):
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return post(b"Transfer-Encoding: chunked\r\n", body + b"0\r\n" + trailers + b"\r\n")


GOOD = {
    "nothing": post(),
    "counted": counted(b"hello"),
    "counted, with a header": counted(b"hello", b"X-A:  b c \t\r\n"),
    "chunked": chunked(b"hello", b"x" * 300),
    "trailers": chunked(b"a", trailers=b"X: y\r\n"),
    "an extension": post(b"Transfer-Encoding: chunked\r\n", b'1;a="b"\r\nx\r\n0\r\n\r\n'),
    "1.0": b"GET / HTTP/1.0\r\n\r\n",
    "a star": post(line=b"OPTIONS * HTTP/1.1"),
    "obs-text": post(b"X: \xe4\r\n"),
}


def ours(data, *, sizes=10**9, limit=65_536):
    """(method, target, minor, headers, body) of each whole request; "bad" behind them if something was refused."""
    reader, found, head, body = RequestReader(limit), [], None, b""
    for piece in by_sizes(data, sizes):
        reader.feed(piece)
        try:
            while True:
                if head is None:
                    head = reader.head()
                    if head is None:
                        break
                body += reader.body()
                if not reader.finished:
                    break
                found.append((head.method, head.target, head.minor, head.headers, body))
                head, body = None, b""
        except Malformed:
            return [*found, "bad"]
    return found


def h11s(data):
    """The same as h11 reads it: the first request only, as nobody answers."""
    connection, body, head = h11.Connection(h11.SERVER), b"", None
    connection.receive_data(data)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                minor = int(bytes(head.http_version)[-1:])
                return [(bytes(head.method), bytes(head.target), minor, tuple(map(tuple, head.headers)), body)]
            else:
                return []
    except h11.RemoteProtocolError:
        return ["bad"]


def twisteds(data):
    """The same as twisted.web reads it: method, target and body of the first request."""
    seen = []

    class Request(http.Request):
        def process(self):
            seen.append((self.method, self.uri, self.content.read()))

    channel = http.HTTPChannel()
    channel.requestFactory = Request
    channel.timeOut = None
    wire = StringTransport()
    channel.makeConnection(wire)
    channel.dataReceived(data)
    return seen or (["bad"] if wire.value().startswith(b"HTTP/1.1 400") else [])


def spoken(found):
    return [one if one == "bad" else (one[0], one[1], one[4]) for one in found[:1]]


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_good_requests_are_read_as_by_the_others(data):
    read = ours(data)
    assert read == h11s(data)
    assert spoken(read) == twisteds(data)
    for sizes in (1, 2, 3, 7):
        assert ours(data, sizes=sizes) == read


def test_one_after_another():
    every = b"".join(GOOD.values())
    for sizes in (1, 5, 64, 10**9):
        assert [one[4] for one in ours(every, sizes=sizes)] == [ours(data)[0][4] for data in GOOD.values()]


FAULTS = (b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"0", b"\x00", b",", b";", b"-", b"+", b"x", b"")


def mutated(data, seed):
    """`data` with one to three small faults."""
    dice = random.Random(seed)
    made = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(made))
        fault = dice.choice(FAULTS)
        made[at : at + dice.randint(0, 2)] = fault
    return bytes(made)


@pytest.mark.parametrize("name", GOOD)
def test_whatever_is_taken_is_taken_by_the_others_with_the_same_meaning(name):
    """We may refuse more than h11 and twisted.web do, and never take what one of them reads otherwise."""
    taken = refused = 0
    for seed in range(400):
        data = mutated(GOOD[name], seed)
        read = ours(data)
        assert ours(data, sizes=1) == read, data
        if not read or read[0] == "bad":
            refused += 1
            continue
        taken += 1
        method, target, _, headers, body = read[0]
        theirs, webs = h11s(data), twisteds(data)
        if theirs != ["bad"]:
            assert (method, target, body) == (theirs[0][0], theirs[0][1], theirs[0][4]), data
            assert [name for name, _ in headers] == [name for name, _ in theirs[0][3]], data
        if webs != ["bad"]:
            assert spoken(read) == webs, data
        assert theirs != ["bad"] or webs != ["bad"], (data, "only we took it")
    assert taken
    assert refused


@pytest.mark.parametrize("name", GOOD)
def test_a_request_is_read_the_same_behind_others_that_are_nearly_the_same(name):
    """Nothing of what is remembered of a head, the second one's of a connection, stays with the next one."""
    first = GOOD[name]
    for seed in range(400):
        second = mutated(first, seed)
        assert ours(first * 2 + second) == ours(first) * 2 + ours(second), second


LENGTHS = [b"0", b"3", b"0005", b"123456", b"", b" 5", b"5 ", b"+5", b"5, 5", b"\xb25", b"1" * 16]


@pytest.mark.parametrize("length", LENGTHS)
def test_the_same_head_with_another_length(length):
    first, second = (
        post(b"A: 1\r\nContent-Length: %b\r\nZ: 2\r\n" % said, b"x" * 123_456) for said in (b"123456", length)
    )
    assert ours(first * 2 + second) == ours(first) * 2 + ours(second)
    assert ours(first * 3 + second + first) == ours(first) * 3 + ours(second + first)


@given(data=st.binary(max_size=200), cut=st.integers(1, 20))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused_whatever_the_cuts(data, cut):
    assert ours(data, sizes=cut) == ours(data)


@pytest.mark.parametrize(
    "line", [b"POST / HTTP/1.1\n", b"\x16\x03\x01\r\n", b"POST / HTTP/2\r\n", b"POST / HTTP/1.1\r\n folded: x\r\n"]
)
def test_a_bad_line_is_refused_before_the_head_is_whole(line):
    reader = RequestReader(1000)
    reader.feed(line)
    reader.feed(b"Host: h\r\n")
    with pytest.raises(Malformed):
        reader.head()


@pytest.mark.parametrize("sizes", [1, 10, 10**6])
def test_line_ends_do_not_count_for_the_limit(sizes):
    assert len(ours(post(b"a: b\r\n" * 10), sizes=sizes, limit=20 + 7 + 40)) == 1
    assert ours(post(b"a: b\r\n" * 10), sizes=sizes, limit=20 + 7 + 39) == ["bad"]


def test_too_large_is_told_from_malformed():
    reader = RequestReader(100)
    reader.feed(b"POST /" + b"a" * 200)
    with pytest.raises(TooLarge):
        reader.head()


def test_a_glimpse_of_a_bad_head():
    reader = RequestReader(1000)
    reader.feed(b"POST /v1/messages HTTP/1.1\r\nX-Id: 7\r\nbad\x00\r\n\r\n")
    seen = reader.glimpse()
    assert (seen.method, seen.path, seen.headers) == (b"POST", b"/v1/messages", ((b"x-id", b"7"),))
    reader = RequestReader(1000)
    reader.feed(b"secret words that are no request\r\n")
    assert (reader.glimpse().method, reader.glimpse().target) == (b"", b"/")
