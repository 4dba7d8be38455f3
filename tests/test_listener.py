"""Strict parsing, bounds and deadlines of callers' connections, byte by byte and by the clock."""

import re
import tracemalloc
from types import SimpleNamespace

import pytest
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from twisted_gateway.intake import Budget
from twisted_gateway.listener import Channel, _cancel
from twisted_gateway.policies.access import Denied

from .doubles.cutting import by_sizes
from .fronts import Talk, front, site

INVALID = "request payload is invalid: "
HOST = b"host: h\r\n"


class Plain(Resource):
    """Answers with what came; `/wait` is answered by the test."""

    isLeaf = True

    def __init__(self):
        super().__init__()
        self.seen = []
        self.waiting = []
        self.gone = []

    def render(self, request):
        self.seen.append((request.method, request.path, request.body))
        if request.path == b"/wait":
            self.waiting.append(request)
            request.notifyFinish().addErrback(self.gone.append)
            return NOT_DONE_YET
        body = b"%s %s %d" % (request.method, request.uri, len(request.body))
        request.responseHeaders.setRawHeaders(b"content-length", [b"%d" % len(body)])
        request.responseHeaders.setRawHeaders(b"content-type", [b"text/plain"])
        request.write(body)
        request.finish()
        return NOT_DONE_YET


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def resource():
    return Plain()


@pytest.fixture
def talk(clock, resource):
    def made(**options):
        bounds = {"request_body_limit_bytes": 1000, "body_budget_bytes": 5000, "max_header_bytes": 8192} | options
        return Talk(site(resource, clock, front(), **bounds))

    return made


def post(path=b"/", headers=HOST, body=b"", version=b"HTTP/1.1", method=b"POST"):
    return b"%s %s %s\r\n%s\r\n%s" % (method, path, version, headers, body)


def counted(body, path=b"/", headers=HOST, **more):
    return post(path, headers + b"content-length: %d\r\n" % len(body), body, **more)


def chunked(*chunks, path=b"/", headers=HOST):
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return post(path, headers + b"transfer-encoding: chunked\r\n", body)


ACCEPTED = {
    "no body": (post(), b"POST / 0"),
    "counted": (counted(b"hello"), b"POST / 5"),
    "chunked": (chunked(b"hello", b" ", b"world"), b"POST / 11"),
    "Chunked": (chunked(b"hello").replace(b"chunked", b"CHUNKED"), b"POST / 5"),
    "chunk extensions": (
        post(headers=HOST + b"transfer-encoding: chunked\r\n", body=b"5;x=y\r\nhello\r\n0\r\n\r\n"),
        b"POST / 5",
    ),
    "trailers": (
        post(headers=HOST + b"transfer-encoding: chunked\r\n", body=b"1\r\na\r\n0\r\nx: y\r\n\r\n"),
        b"POST / 1",
    ),
    "query": (post(b"/a?b=c"), b"POST /a?b=c 0"),
    "escapes": (post(b"/%2e%2e/a%00"), b"POST /%2e%2e/a%00 0"),
    "blank line first": (b"\r\n" + post(), b"POST / 0"),
    "host with port": (post(headers=b"host: h:80\r\n"), b"POST / 0"),
    "host is IPv6": (post(headers=b"host: [::1]:80\r\n"), b"POST / 0"),
    "empty host": (post(headers=b"host:\r\n"), b"POST / 0"),
    "1.0": (post(headers=b"", version=b"HTTP/1.0"), b"POST / 0"),
    "1.0 with host and body": (counted(b"abc", version=b"HTTP/1.0"), b"POST / 3"),
    "star": (post(b"*", method=b"OPTIONS"), b"OPTIONS * 0"),
    "another method": (post(method=b"PATCH"), b"PATCH / 0"),
    "blanks around a value": (post(headers=b"Host: \t h \t\r\n"), b"POST / 0"),
    "latin-1 value": (post(headers=HOST + b"x: \xe4\r\n"), b"POST / 0"),
    "length 0": (post(headers=HOST + b"content-length: 0\r\n"), b"POST / 0"),
    "length 000": (post(headers=HOST + b"content-length: 0003\r\n", body=b"abc"), b"POST / 3"),
    "at the limit": (counted(b"x" * 1000), b"POST / 1000"),
    "400 headers": (post(headers=HOST + b"".join(b"x%d: y\r\n" % n for n in range(400))), b"POST / 0"),
}


@pytest.mark.parametrize(("data", "body"), ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(talk, data, body):
    whole = talk().send(data)
    assert (whole.answer().status, whole.answer().body) == (200, body)
    assert whole.wire.open is (b"HTTP/1.0" not in data)
    bytewise = talk().send(*by_sizes(data, 1))
    assert undated(bytewise.raw) == undated(whole.raw)


def undated(raw):
    """An answer without the second it was given in."""
    return re.sub(rb"(?i)\r\ndate: [^\r]*", b"", raw)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"content-length: 65536\r\n", 200),
        (b"content-length: 65537\r\n", 401),
        (b"transfer-encoding: chunked\r\n", 401),
        (b"content-length: 65537\r\nx-api-key: k\r\n", 200),
    ],
)
def test_a_large_body_needs_a_key_first(talk, headers, status):
    def early(request, path):
        assert path == b"/up"
        return None if request.getHeader(b"x-api-key") else Denied("unknown_key", "invalid API key").problem

    said = talk(request_body_limit_bytes=0, body_budget_bytes=0)
    said.channel.site.early = early
    said.send(post(b"/up?x=1", headers=HOST + headers))
    if status == 401:
        assert said.answer().status == 401
        assert b"invalid API key" in said.answer().body
    else:
        assert said.raw == b""


REFUSED = {
    "no host": (post(headers=b""), 400, "exactly one Host header is needed"),
    "two hosts": (post(headers=HOST + b"host: h\r\n"), 400, "exactly one Host header is needed"),
    "two hosts in 1.0": (
        post(headers=HOST + b"host: g\r\n", version=b"HTTP/1.0"),
        400,
        "exactly one Host header is needed",
    ),
    "host with a path": (post(headers=b"host: h/x\r\n"), 400, "Host header"),
    "host with a user": (post(headers=b"host: u@h\r\n"), 400, "Host header"),
    "host with a blank": (post(headers=b"host: a b\r\n"), 400, "Host header"),
    "host list": (post(headers=b"host: a, b\r\n"), 400, None),
    "absolute form": (post(b"http://h/"), 400, "request target must be a path"),
    "https absolute form": (post(b"https://h/x"), 400, "request target must be a path"),
    "authority form": (post(b"h:80", method=b"CONNECT"), 400, "request target must be a path"),
    "no slash": (post(b"x"), 400, "request target must be a path"),
    "not ASCII": (post(b"/\xc3\xa4"), 400, None),
    "control in target": (post(b"/a\x00b"), 400, None),
    "HTTP/2": (post(version=b"HTTP/2.0"), 400, None),
    "HTTP/1.2": (post(version=b"HTTP/1.2"), 400, None),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400, None),
    "no version": (b"POST / \r\n" + HOST + b"\r\n", 400, None),
    "two blanks": (b"POST  / HTTP/1.1\r\n" + HOST + b"\r\n", 400, None),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, None),
    "chunked in 1.0": (
        post(headers=HOST + b"transfer-encoding: chunked\r\n", version=b"HTTP/1.0", body=b"0\r\n\r\n"),
        400,
        "Transfer-Encoding needs HTTP/1.1",
    ),
    "folded": (post(headers=HOST + b"x: a\r\n b\r\n"), 400, "a folded header line"),
    "folded by a tab": (post(headers=HOST + b"x: a\r\n\tb\r\n"), 400, "a folded header line"),
    "folded at first": (b"POST / HTTP/1.1\r\n host: h\r\n\r\n", 400, "a folded header line"),
    "no colon": (post(headers=HOST + b"foo\r\n"), 400, None),
    "blank before colon": (post(headers=HOST + b"content-length : 5\r\n", body=b"hello"), 400, None),
    "empty name": (post(headers=HOST + b": x\r\n"), 400, None),
    "bad name": (post(headers=HOST + b"a\x00b: x\r\n"), 400, None),
    "NUL in a value": (post(headers=HOST + b"a: x\x00\r\n"), 400, None),
    "CR in a value": (post(headers=HOST + b"a: x\ry: z\r\n"), 400, None),
    "TE and CL": (
        post(headers=HOST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n", body=b"0\r\n\r\n"),
        400,
        None,
    ),
    "CL and TE": (
        post(headers=HOST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n", body=b"0\r\n\r\n"),
        400,
        None,
    ),
    "gzip": (post(headers=HOST + b"transfer-encoding: gzip\r\n"), 400, None),
    "gzip, chunked": (post(headers=HOST + b"transfer-encoding: gzip, chunked\r\n", body=b"0\r\n\r\n"), 400, None),
    "identity": (post(headers=HOST + b"transfer-encoding: identity\r\n"), 400, "Transfer-Encoding"),
    "identity and length": (
        post(headers=HOST + b"transfer-encoding: identity\r\ncontent-length: 1\r\n", body=b"a"),
        400,
        "Transfer-Encoding",
    ),
    "chunked twice": (
        post(headers=HOST + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", body=b"0\r\n\r\n"),
        400,
        None,
    ),
    "chunked, chunked": (post(headers=HOST + b"transfer-encoding: chunked, chunked\r\n", body=b"0\r\n\r\n"), 400, None),
    "two lengths": (
        post(headers=HOST + b"content-length: 1\r\ncontent-length: 2\r\n", body=b"ab"),
        400,
        "conflicting Content-Length headers",
    ),
    "same length twice": (
        post(headers=HOST + b"content-length: 2\r\nContent-Length: 2\r\n", body=b"ab"),
        400,
        "conflicting Content-Length headers",
    ),
    "length list": (post(headers=HOST + b"content-length: 2, 2\r\n", body=b"ab"), 400, None),
    "negative length": (post(headers=HOST + b"content-length: -1\r\n"), 400, None),
    "plus length": (post(headers=HOST + b"content-length: +1\r\n", body=b"a"), 400, None),
    "hex length": (post(headers=HOST + b"content-length: 0x1\r\n", body=b"a"), 400, None),
    "empty length": (post(headers=HOST + b"content-length:\r\n"), 400, None),
    "length with an underscore": (post(headers=HOST + b"content-length: 1_0\r\n"), 400, None),
    "bad chunk size": (post(headers=HOST + b"transfer-encoding: chunked\r\n", body=b"xyz\r\n"), 400, None),
    "negative chunk size": (post(headers=HOST + b"transfer-encoding: chunked\r\n", body=b"-1\r\n"), 400, None),
    "0x chunk size": (post(headers=HOST + b"transfer-encoding: chunked\r\n", body=b"0x1\r\na\r\n0\r\n\r\n"), 400, None),
    "no chunk size": (post(headers=HOST + b"transfer-encoding: chunked\r\n", body=b"\r\nabc"), 400, None),
    "chunk too long": (post(headers=HOST + b"transfer-encoding: chunked\r\n", body=b"1\r\nab\r\n0\r\n\r\n"), 400, None),
    "too many headers": (post(headers=HOST + b"a:\r\n" * 501), 400, None),
}


def check_refused(said, status, message):
    assert said.status == status
    assert said.headers["content-type"] == "application/json"
    assert said.headers["x-aisix-request-id"] == "id-1"
    assert said.headers["server"].startswith("AISIX/")
    assert said.headers["connection"] == "close"
    error = said.json["error"]
    assert error["message"].startswith(INVALID) or status != 400
    assert message is None or error["message"] in (INVALID + message, message)


@pytest.mark.parametrize(("data", "status", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(talk, resource, clock, data, status, message):
    for pieces in ([data], by_sizes(data, 1)):
        one = talk().send(*pieces)
        check_refused(one.answer(), status, message)
        one.send(post())
        assert len(one.answers()) == 1, "nothing is answered behind a refusal"
        clock.advance(5)
        assert one.wire.disconnecting
    assert resource.seen == []


TOO_MUCH_HEAD = {
    "long target": post(b"/" + b"a" * 9000),
    "long value": post(headers=HOST + b"x: " + b"a" * 9000 + b"\r\n"),
    "long name": post(headers=HOST + b"a" * 9000 + b": x\r\n"),
    "many": post(headers=HOST + b"x-abcdefgh: 0123456789\r\n" * 400),
    "no line end": b"POST /" + b"a" * 9000,
    "no line end in a header": b"POST / HTTP/1.1\r\nhost: h\r\nx: " + b"a" * 9000,
    "fifty thousand": b"a" * 50_000,
}


@pytest.mark.parametrize("data", TOO_MUCH_HEAD.values(), ids=TOO_MUCH_HEAD)
def test_too_large_a_head(talk, resource, data):
    for pieces in ([data], by_sizes(data, 1000), by_sizes(data, 7)):
        check_refused(talk().send(*pieces).answer(), 431, "request header fields are too large")
    assert resource.seen == []


def test_a_head_of_the_largest_size(talk):
    room = 8192 - len(b"POST / HTTP/1.1") - len(b"host: h") - len(b"x: ")
    assert talk().send(post(headers=HOST + b"x: " + b"a" * room + b"\r\n")).answer().status == 200
    assert talk().send(post(headers=HOST + b"x: " + b"a" * (room + 1) + b"\r\n")).answer().status == 431


def test_each_head_has_the_whole_room(talk):
    one = talk()
    for _ in range(5):
        one.send(post(headers=HOST + b"x: " + b"a" * 5000 + b"\r\n"))
    assert [said.status for said in one.answers()] == [200] * 5


# The body's bounds


def test_a_declared_oversize_is_refused_before_its_body(talk, resource):
    one = talk().send(post(headers=HOST + b"content-length: 1001\r\n"))
    check_refused(one.answer(), 413, "request body exceeds 1000-byte limit")
    assert one.answer().json["error"]["type"] == "invalid_request_error"
    one.send(b"x" * 1001)
    assert len(one.answers()) == 1
    assert resource.seen == []


@pytest.mark.parametrize("pieces", [[b"x" * 1001], [b"x" * 1000, b"x"], [b"x" * 10] * 101])
def test_a_chunked_oversize(talk, resource, pieces):
    one = talk().send(chunked(*pieces))
    check_refused(one.answer(), 413, "request body exceeds 1000-byte limit")
    assert resource.seen == []


def test_no_limit(talk, resource):
    one = talk(request_body_limit_bytes=0, body_budget_bytes=0)
    one.send(counted(b"x" * 100_000), chunked(b"y" * 100_000))
    assert [said.status for said in one.answers()] == [200, 200]


def test_double_length_is_refused_without_a_limit_too(talk):
    data = REFUSED["same length twice"][0]
    check_refused(talk(request_body_limit_bytes=0).send(data).answer(), 400, "conflicting Content-Length headers")


def test_the_rest_of_a_refused_body_is_read_and_dropped(talk, clock):
    one = talk().send(post(headers=HOST + b"content-length: 99999999\r\n"))
    for _ in range(32):
        one.send(b"x" * 2**20)
    assert one.wire.open
    one.send(b"x")
    assert one.wire.aborting


def test_a_refused_caller_gets_five_seconds_and_five_more(talk, clock):
    one = talk().send(post(headers=HOST + b"content-length: 99999999\r\n"))
    clock.advance(4.9)
    assert one.wire.open
    clock.advance(0.2)
    assert one.wire.disconnecting
    clock.advance(5)
    assert one.wire.aborting
    one.leave()
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    "data", [post(headers=HOST + b"content-length: 600\r\n"), chunked(b"x" * 600)], ids=["declared", "chunked"]
)
def test_no_room_for_a_body(clock, resource, data):
    house = site(resource, clock, front(), request_body_limit_bytes=1000, body_budget_bytes=1000)
    first = Talk(house).send(post(headers=HOST + b"content-length: 500\r\n", body=b"x" * 499))
    assert house.budget.used == 499
    one = Talk(house).send(data)
    check_refused(one.answer(), 503, "gateway has no room for this request body now")
    assert one.answer().json["error"]["type"] == "overloaded"
    assert one.answer().headers["retry-after"] == "1"
    assert house.budget.used == 499, "a refused body is dropped at once"
    one.leave()
    first.leave()
    assert house.budget.used == 0


def test_a_promised_body_takes_no_room(clock, resource):
    house = site(resource, clock, front(), body_budget_bytes=1000)
    idle = [Talk(house).send(post(headers=HOST + b"content-length: 900\r\n", body=b"x")) for _ in range(9)]
    assert house.budget.used == 9
    assert Talk(house).send(counted(b"x" * 500)).answer().status == 200
    assert all(one.wire.open for one in idle)


def test_a_body_in_small_pieces_takes_no_more_memory(talk):
    one = talk(request_body_limit_bytes=0, body_budget_bytes=0)
    one.send(post(headers=HOST + b"transfer-encoding: chunked\r\n"))
    tracemalloc.start()
    for _ in range(100):
        one.send(b"2\r\nab\r\n" * 1000)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 400_000
    assert one.send(b"0\r\n\r\n").answer().body == b"POST / 200000"


def test_room_is_held_until_the_answer_ends(clock, resource):
    house = site(resource, clock, front(), body_budget_bytes=1000)
    one = Talk(house).send(counted(b"x" * 600, b"/wait"))
    assert house.budget.used == 600
    assert Talk(house).send(counted(b"x" * 600)).answer().status == 503
    resource.waiting[0].finish()
    assert house.budget.used == 0
    assert one.send(counted(b"x" * 900)).answers()[-1].status == 200
    two = Talk(house).send(chunked(b"x" * 600, path=b"/wait"))
    assert house.budget.used == 600
    two.leave()
    assert house.budget.used == 0
    assert len(resource.gone) == 1


def test_budget():
    budget = Budget(10)
    assert budget.take(6)
    assert not budget.take(5)
    assert budget.take(4)
    budget.give_back(10)
    assert (budget.used, Budget(0).take(10**9)) == (0, True)


# Deadlines


def run(clock, seconds):
    for _ in range(int(seconds * 4)):
        clock.advance(0.25)


@pytest.mark.parametrize("data", [b"P", b"POST / HTTP/1.1\r\n", post()[:-2], b"\r\nP", b"\r\n\r"])
def test_a_head_has_twenty_seconds(talk, clock, data):
    one = talk().send(data)
    run(clock, 19)
    assert one.raw == b""
    run(clock, 2.5)
    check_refused(one.answer(), 408, "the request's head came too slowly")
    assert one.answer().json["error"]["type"] == "timeout"


@pytest.mark.parametrize("line", [b"\r", b"\r\n"])
def test_an_empty_line_behind_a_body_is_no_request(talk, clock, line):
    """Some old clients send one (RFC 9112, 2.2)."""
    one = talk().send(counted(b"abc") + line)
    run(clock, 60)
    assert [said.status for said in one.answers()] == [200]
    one.send((b"\n" if line == b"\r" else b"") + counted(b"abc"))
    assert [said.status for said in one.answers()] == [200, 200]


def test_a_dripping_head_is_not_patience(talk, clock):
    one = talk()
    for byte in post(headers=HOST + b"x: " + b"a" * 100):
        one.send(bytes([byte]))
        run(clock, 0.5)
        if one.raw:
            break
    assert one.answer().status == 408
    assert clock.seconds() < 23


def test_silence_before_the_first_byte_is_no_slow_head(talk, clock):
    one = talk()
    run(clock, 600)
    assert one.raw == b""
    assert one.wire.open
    assert one.send(post()).answer().status == 200
    run(clock, 600)
    assert one.wire.open
    assert one.send(post()).answers()[-1].status == 200


def test_the_head_timer_can_be_off(talk, clock):
    one = talk(header_timeout_secs=0.0).send(b"POST")
    run(clock, 300)
    assert one.raw == b""


@pytest.mark.parametrize(("rate", "slow"), [(100, True), (511, True), (520, False), (2000, False)])
def test_a_body_has_a_least_rate(clock, resource, rate, slow):
    house = site(resource, clock, front(), request_body_limit_bytes=0)
    one = Talk(house).send(post(headers=HOST + b"content-length: 10000000\r\n"))
    for _ in range(60):
        one.send(b"x" * rate)
        run(clock, 1)
        if one.raw:
            break
    if slow:
        check_refused(one.answer(), 408, "the request's body came too slowly")
        assert 19 < clock.seconds() < 23
    else:
        assert one.raw == b""


def test_a_body_that_stops_is_refused(clock, resource):
    house = site(resource, clock, front(), request_body_limit_bytes=0)
    one = Talk(house).send(post(headers=HOST + b"content-length: 10000000\r\n"), b"x" * 100_000)
    run(clock, 25)
    assert one.answer().status == 408


def test_the_rate_can_be_off(clock, resource):
    house = site(resource, clock, front(), body_min_rate_bytes=0)
    one = Talk(house).send(post(headers=HOST + b"content-length: 10\r\n"))
    run(clock, 300)
    assert one.raw == b""


def test_waiting_for_the_answer_is_not_slowness(talk, clock, resource):
    one = talk().send(counted(b"x" * 10, b"/wait"))
    run(clock, 600)
    assert one.raw == b""
    resource.waiting[0].write(b"ok")
    resource.waiting[0].finish()
    assert one.answer().status == 200


def test_an_idle_connection_is_closed(talk, clock):
    one = talk(idle_timeout_secs=75.0).send(post())
    run(clock, 74)
    assert one.wire.open
    run(clock, 2)
    assert one.wire.disconnecting
    run(clock, 16)
    one.leave()
    assert clock.getDelayedCalls() == []


def test_no_timer_is_left_behind(talk, clock, resource):
    for data in (post(), counted(b"abc"), b"POST / HT", counted(b"abc", b"/wait"), b"bad\r\n\r\n"):
        one = talk(idle_timeout_secs=75.0).send(data)
        one.leave()
    clock.advance(75)  # the alarms' one timer comes for nobody, and not again
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("progress", [False, True])
def test_a_caller_who_takes_nothing_has_left(clock, resource, progress):
    house = site(resource, clock, front(), send_stall_timeout_secs=60.0)
    one = Talk(house).send(post(b"/wait"))
    one.wire.dataBuffer, one.wire.offset, one.wire._tempDataLen = b"x" * 1000, 0, 5
    one.channel.written = 5000
    for _ in range(10):
        run(clock, 15)
        if progress:
            one.wire.dataBuffer = one.wire.dataBuffer[1:]
        if one.wire.aborting:
            break
    assert one.wire.aborting is not progress
    assert progress or 60 <= clock.seconds() <= 105


def test_a_sweep_of_many_connections_takes_several_turns(clock, resource, monkeypatch):
    house = site(resource, clock, front(), send_stall_timeout_secs=60.0)
    talks = [Talk(house).send(post(b"/wait")) for _ in range(600)]
    asked, turns = [], []
    monkeypatch.setattr(Channel, "unsent", lambda channel: asked.append(channel) or 0)
    call_later = clock.callLater

    def noted(delay, do, *args):
        return call_later(delay, lambda: (do(*args), turns.append(len(asked))))

    _cancel(house._stall_call)
    monkeypatch.setattr(clock, "callLater", noted)
    house._sweep_stalled()
    run(clock, 16)
    assert turns == [512, 600, 856, 1112, 1200]
    assert {*asked[:600]} == {*asked[600:]} == {one.channel for one in talks}


def test_a_sweep_ends_with_the_connections(clock, resource):
    house = site(resource, clock, front(), send_stall_timeout_secs=60.0)
    talks = [Talk(house).send(post(b"/wait")) for _ in range(300)]
    _cancel(house._stall_call)
    house._sweep_stalled()
    assert len(house._unswept) == 44
    for one in talks:
        one.leave()
    assert house._unswept == []
    clock.advance(75)
    assert clock.getDelayedCalls() == []


def test_one_that_leaves_in_the_midst_of_a_sweep_is_not_cut(clock, resource):
    house = site(resource, clock, front(), send_stall_timeout_secs=60.0)
    talks = [Talk(house).send(post(b"/wait")) for _ in range(300)]
    for one in talks:
        one.wire.dataBuffer, one.wire.offset, one.wire._tempDataLen = b"x", 0, 0
        one.channel.written = 1
    _cancel(house._stall_call)
    clock.advance(60)
    house._sweep_stalled()
    left, *others = [one for one in talks if one.channel in house._unswept]
    left.leave()
    clock.advance(0)
    assert all(one.wire.aborting for one in others)
    assert not left.wire.aborting


@pytest.mark.parametrize("carried", [0, 5])
def test_what_a_lane_carries_counts_for_whether_the_caller_takes_it(clock, resource, carried):
    house = site(resource, clock, front(), send_stall_timeout_secs=60.0)
    one = Talk(house).send(post(b"/wait"))
    one.wire.dataBuffer, one.wire.offset, one.wire._tempDataLen = b"x" * 1000, 0, 0
    one.channel.written, one.channel.lane = 5000, SimpleNamespace(written=0)
    for _ in range(120):  # as much is pending as before
        one.channel.lane.written += carried
        clock.advance(1)
    assert one.wire.aborting is not bool(carried)


def test_what_was_carried_before_the_caller_took_all_is_not_taken_again(clock, resource):
    house = site(resource, clock, front(), send_stall_timeout_secs=60.0)
    one = Talk(house).send(post(b"/wait"))
    one.channel.lane = SimpleNamespace(written=5000)
    run(clock, 15)
    one.channel.lane.written += 1000
    one.wire.dataBuffer, one.wire.offset, one.wire._tempDataLen = b"x" * 1000, 0, 0
    run(clock, 59)
    assert not one.wire.aborting
    run(clock, 1)
    assert one.wire.aborting


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r"])
def test_a_header_of_an_answer_cannot_break_its_line(talk, resource, end):
    one = talk().send(post(b"/wait"))
    request = resource.waiting[0]
    request.put([(b"X-Good", b"a  b"), (b"X-Odd", b"1" + end + b"X-Other:  2")])
    request.put([(b"X-Last", b"3")])
    request.write(b"ok")
    request.finish()
    headers = one.answer().headers
    assert (headers["x-good"], headers["x-odd"], headers["x-last"]) == ("a  b", "1 X-Other: 2", "3")
    assert "x-other" not in headers


# One connection after another


def test_keep_alive(talk):
    one = talk()
    for body in (b"a", b"", b"ccc"):
        one.send(counted(body))
    assert [said.body for said in one.answers()] == [b"POST / 1", b"POST / 0", b"POST / 3"]
    assert one.wire.open


@pytest.mark.parametrize(
    "token", [b"close", b"Close", b"foo, close", b"close, te", b"te,close", b"te\r\nconnection: close"]
)
def test_the_caller_ends_the_connection(talk, token):
    one = talk().send(post(headers=HOST + b"connection: " + token + b"\r\n") + post())
    assert [said.body for said in one.answers()] == [b"POST / 0"]
    assert one.wire.disconnecting
    assert one.answer().headers["connection"] == "close"


def test_pipelining(talk):
    requests = [counted(b"x" * n) for n in range(4)] + [chunked(b"abcd"), post(b"/z")]
    expected = [b"POST / %d" % n for n in range(5)] + [b"POST /z 0"]
    for sizes in (10**6, 1, 7):
        one = talk().send(*by_sizes(b"".join(requests), sizes))
        assert [said.body for said in one.answers()] == expected


def test_a_pipelined_request_waits_for_the_answer_before_it(talk, resource):
    one = talk().send(post(b"/wait") + post(b"/next"))
    assert [path for _, path, _ in resource.seen] == [b"/wait"]
    resource.waiting[0].write(b"ok")
    resource.waiting[0].finish()
    assert [said.body for said in one.answers()] == [b"ok", b"POST /next 0"]


def test_whoever_writes_behind_an_answer_that_is_not_taken_waits(talk, resource):
    one = talk().send(counted(b"", b"/wait") + counted(b"", b"/wait"))
    resource.waiting[0].finish()
    one.channel.pauseProducing()  # the transport has as much as it takes
    asked = []
    producer = SimpleNamespace(pauseProducing=lambda: asked.append("pause"), resumeProducing=lambda: asked.append("on"))
    resource.waiting[1].registerProducer(producer, True)
    assert asked == ["pause"]
    one.channel.resumeProducing()
    assert asked == ["pause", "on"]
    resource.waiting[1].unregisterProducer()


def test_the_next_request_waits_until_the_answers_before_it_are_taken(talk, resource):
    one = talk().send(post(b"/wait") + post() * 3)
    reading = []
    one.wire.pauseProducing, one.wire.resumeProducing = lambda: reading.append("pause"), lambda: reading.append("on")
    one.channel.pauseProducing()
    resource.waiting[0].finish()
    assert len(resource.seen) == 1
    assert reading == ["pause"]
    one.channel.resumeProducing()
    assert reading[1:] == ["on"] * len(reading[1:])
    assert len(one.answers()) == 4


def filling(one):
    """The connection, whose socket is full after each write, and its own way of writing."""
    written = one.wire.write

    def write(data):
        written(data)
        one.channel.pauseProducing()

    one.wire.write = write
    return one, written


def test_a_socket_that_fills_up_while_requests_are_answered_ends_that(talk, resource):
    one, _written = filling(talk())
    one.send(post() * 5, post() * 5)
    assert len(one.answers()) == 1
    one.channel.resumeProducing()
    assert len(one.answers()) == 2


def test_a_socket_that_a_continue_has_filled_is_read_again(talk, resource):
    """The body came with the head, so that there is an answer to be made when the caller has taken what was written."""
    one, written = filling(talk())
    one.send(b"POST /wait HTTP/1.1\r\n" + HOST + b"content-length: 3\r\nexpect: 100-continue\r\n\r\nabc")
    assert (len(resource.waiting), one.wire.producerState) == (1, "paused")
    one.wire.write = written
    one.channel.resumeProducing()
    resource.waiting[0].finish()
    assert one.wire.producerState == "producing"


def test_a_caller_who_pipelines_much_is_cut_off(talk, resource):
    one = talk().send(post(b"/wait"), post() * 100)
    assert one.wire.open
    one.send(b"x" * 20_000)
    assert one.wire.aborting


def test_a_bad_request_in_the_pipeline(talk):
    one = talk().send(post() + post(headers=b"") + post())
    assert [said.status for said in one.answers()] == [200, 400]


# 100-continue


def test_continue_is_sent_when_the_body_is_wanted(talk):
    one = talk().send(post(headers=HOST + b"content-length: 3\r\nexpect: 100-continue\r\n"))
    assert one.raw == b"HTTP/1.1 100 Continue\r\n\r\n"
    one.send(b"abc")
    assert one.answer().body == b"POST / 3"


@pytest.mark.parametrize(
    ("headers", "version", "status"),
    [
        (HOST + b"content-length: 5000\r\n", b"HTTP/1.1", 413),
        (b"content-length: 5\r\n", b"HTTP/1.1", 400),
        (HOST + b"content-length: 5\r\ncontent-length: 5\r\n", b"HTTP/1.1", 400),
        (HOST + b"content-length: 0\r\n", b"HTTP/1.1", 200),
    ],
)
def test_continue_is_not_sent_otherwise(talk, headers, version, status):
    one = talk().send(post(headers=headers + b"expect: 100-continue\r\n", version=version))
    assert b"100 Continue" not in one.raw
    assert one.answer().status == status


def test_continue_is_not_for_http_1_0(talk):
    one = talk().send(post(headers=HOST + b"content-length: 3\r\nexpect: 100-continue\r\n", version=b"HTTP/1.0"))
    assert one.raw == b""
    assert one.send(b"abc").answer().body == b"POST / 3"


@pytest.mark.parametrize("budget", [1000])
def test_continue_is_not_sent_without_room(clock, resource, budget):
    house = site(resource, clock, front(), body_budget_bytes=budget)
    Talk(house).send(counted(b"x" * 900, b"/wait"))
    one = Talk(house).send(post(headers=HOST + b"content-length: 500\r\nexpect: 100-continue\r\n"))
    assert b"100 Continue" not in one.raw
    assert one.answer().status == 503


# HEAD, 1.0, draining, dialects, connections


def test_head_has_no_body(talk):
    one = talk().send(post(method=b"HEAD"), post())
    head, _, rest = one.raw.partition(b"\r\n\r\n")
    assert b"content-length: 8" in head.lower()
    assert rest.startswith(b"HTTP/1.1 200 OK")


def test_a_refused_head_has_no_body(talk):
    one = talk().send(post(method=b"HEAD", headers=b""))
    assert one.raw.startswith(b"HTTP/1.1 400 ")
    assert one.raw.endswith(b"\r\n\r\n")
    assert one.answer("HEAD").status == 400


def test_a_streamed_answer_to_http_1_0_ends_with_the_connection(talk, resource):
    one = talk().send(post(b"/wait", version=b"HTTP/1.0"))
    for piece in (b"a", b"b"):
        resource.waiting[0].write(piece)
    resource.waiting[0].finish()
    assert b"chunked" not in one.raw.lower()
    assert one.raw.endswith(b"\r\n\r\nab")
    assert one.wire.disconnecting


def test_one_chunk_for_one_write(talk, resource):
    one = talk().send(post(b"/wait"))
    for piece in (b"a" * 5, b"b" * 17, b""):
        resource.waiting[0].write(piece)
    resource.waiting[0].finish()
    assert one.raw.partition(b"\r\n\r\n")[2] == b"5\r\naaaaa\r\n11\r\n" + b"b" * 17 + b"\r\n0\r\n\r\n"
    assert one.answer().body == b"a" * 5 + b"b" * 17


def test_every_answer_has_one_date(talk):
    assert talk().send(post()).answer().headers["date"].endswith(" GMT")


def test_draining_closes_behind_each_answer(talk, resource):
    one = talk().send(post(), post(b"/wait"))
    one.site.draining = True
    resource.waiting[0].write(b"x")
    resource.waiting[0].finish()
    first, second = one.answers()
    assert "connection" not in first.headers
    assert second.headers["connection"] == "close"
    assert one.wire.disconnecting


@pytest.mark.parametrize("prefix", [b"", b"/api"])
@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        (b"/v1/messages", "anthropic"),
        (b"/v1/messages?beta=true", "anthropic"),
        (b"/v1/messages/count_tokens", "anthropic"),
        (b"/v1/chat/completions", "openai"),
        (b"/v1/messagesx", "openai"),
    ],
)
@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        (b"", 400, "invalid_request_error"),
        (HOST + b"content-length: 1\r\ncontent-length: 1\r\n", 400, "invalid_request_error"),
        (HOST + b"content-length: 99999\r\n", 413, "request_too_large"),
        (HOST + b"x: " + b"a" * 9000 + b"\r\n", 431, "api_error"),
    ],
)
def test_the_dialect_of_a_refusal(talk, prefix, path, dialect, headers, status, kind):
    said = talk().send(post(prefix + path, headers)).answer()
    assert said.status == status
    assert said.headers["x-aisix-request-id"] == "id-1"
    if dialect == "anthropic":
        assert said.json.keys() == {"type", "error"}
        assert said.json["error"]["type"] == kind
    else:
        assert said.json["error"]["type"] == "invalid_request_error"


def test_the_callers_request_id_is_kept_where_it_was_read(talk):
    one = talk().send(post(headers=HOST + b"x-aisix-request-id: mine\r\ncontent-length: 99999\r\n"))
    assert one.answer().headers["x-aisix-request-id"] == "mine"


def test_too_many_connections(clock, resource):
    house = site(resource, clock, front(), max_connections=2)
    first, _ = Talk(house), Talk(house)
    assert Talk(house).channel is None
    assert house.turned_away == 1
    first.leave()
    assert Talk(house).channel is not None
    assert len(house.channels) == 2


def test_a_handler_that_fails_does_not_take_the_connection_along(talk, resource):
    class Failing(Resource):
        isLeaf = True

        def render(self, request):
            raise RuntimeError("boom")

    one = talk()
    one.site.resource = Failing()
    one.send(post())
    assert one.raw.startswith(b"HTTP/1.1 500 ")
    assert b"boom" not in one.raw
