"""The client's side of HTTP/1.1: every cut, bad framing, and h11 as the second opinion."""

import random
from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twisted_gateway.wire.http1 import MAX_HEAD, Malformed, ResponseReader, request_head

from ..doubles.cutting import by_sizes

OK = b"HTTP/1.1 200 OK\r\n"


def read(pieces, method=b"POST", closed=True):
    """(finished, reusable, status, headers, body, unread) of a response that came in these pieces."""
    reader = ResponseReader(method)
    body = b"".join([reader.received(piece) for piece in pieces])
    reusable = reader.reusable
    if closed:
        reader.ended()
    head = reader.head
    return reader.finished, reusable, head and head.status, head and head.headers, body, reader.unread


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

# name: (bytes, method, finished, reusable, status, body, unread)
GOOD = {
    "counted": (OK + b"content-length: 5\r\n\r\nhello", b"POST", True, True, 200, b"hello", b""),
    "counted, empty": (OK + b"content-length: 0\r\n\r\n", b"POST", True, True, 200, b"", b""),
    "counted, cut": (OK + b"content-length: 9\r\n\r\nhello", b"POST", False, True, 200, b"hello", b""),
    "same length twice": (
        OK + b"content-length: 5, 5\r\ncontent-length: 5\r\n\r\nhello",
        b"POST",
        True,
        True,
        200,
        b"hello",
        b"",
    ),
    "no phrase": (b"HTTP/1.1 200\r\ncontent-length: 1\r\n\r\na", b"POST", True, True, 200, b"a", b""),
    "empty phrase": (b"HTTP/1.1 200 \r\ncontent-length: 1\r\n\r\na", b"POST", True, True, 200, b"a", b""),
    "no headers": (b"HTTP/1.1 200 OK\r\n\r\nabc", b"POST", True, False, 200, b"abc", b""),
    "until close": (OK + b"x: y\r\n\r\nabc", b"POST", True, False, 200, b"abc", b""),
    "close": (OK + b"connection: close\r\ncontent-length: 1\r\n\r\na", b"POST", True, False, 200, b"a", b""),
    "Close among others": (
        OK + b"connection: foo, CLOSE\r\ncontent-length: 1\r\n\r\na",
        b"POST",
        True,
        False,
        200,
        b"a",
        b"",
    ),
    "1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", b"POST", True, False, 200, b"a", b""),
    "1.0 kept": (
        b"HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 1\r\n\r\na",
        b"POST",
        True,
        True,
        200,
        b"a",
        b"",
    ),
    "chunked": (CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"POST", True, True, 200, b"hello world", b""),
    "chunk extension": (CHUNKED + b'5;a="b"\r\nhello\r\n0;x\r\n\r\n', b"POST", True, True, 200, b"hello", b""),
    "chunk size with zeros": (
        CHUNKED + b"0000000A\r\n0123456789\r\n00\r\n\r\n",
        b"POST",
        True,
        True,
        200,
        b"0123456789",
        b"",
    ),
    "trailers": (CHUNKED + b"1\r\na\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n", b"POST", True, True, 200, b"a", b""),
    "chunked, cut": (CHUNKED + b"5\r\nhel", b"POST", False, True, 200, b"hel", b""),
    "chunked, no end": (CHUNKED + b"5\r\nhello\r\n", b"POST", False, True, 200, b"hello", b""),
    "chunked, half end": (CHUNKED + b"5\r\nhello\r\n0\r\n", b"POST", False, True, 200, b"hello", b""),
    "chunked and length": (
        OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"POST",
        True,
        False,
        200,
        b"a",
        b"",
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b"POST", True, True, 204, b"", b""),
    "204 with length": (b"HTTP/1.1 204 x\r\ncontent-length: 5\r\n\r\n", b"POST", True, True, 204, b"", b""),
    "304": (b"HTTP/1.1 304 x\r\ntransfer-encoding: chunked\r\n\r\n", b"POST", True, True, 304, b"", b""),
    "HEAD": (OK + b"content-length: 5\r\n\r\n", b"HEAD", True, True, 200, b"", b""),
    "100 first": (
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 1\r\n\r\na",
        b"POST",
        True,
        True,
        200,
        b"a",
        b"",
    ),
    "103 twice": (
        b"HTTP/1.1 103 x\r\na: b\r\n\r\n" * 2 + OK + b"content-length: 1\r\n\r\na",
        b"POST",
        True,
        True,
        200,
        b"a",
        b"",
    ),
    "bytes behind": (OK + b"content-length: 1\r\n\r\naHTTP/1.1", b"POST", True, False, 200, b"a", b"HTTP/1.1"),
    "bytes behind chunks": (CHUNKED + b"0\r\n\r\nx", b"POST", True, False, 200, b"", b"x"),
    "body of a 204": (b"HTTP/1.1 204 x\r\n\r\nabc", b"POST", True, False, 204, b"", b"abc"),
    "only a head, cut": (OK + b"content-le", b"POST", False, False, None, b"", b""),
    "nothing": (b"", b"POST", False, False, None, b"", b""),
}


@pytest.mark.parametrize("case", GOOD.values(), ids=GOOD)
def test_responses_cut_at_every_position(case):
    data, method, *expected = case
    whole = read([data], method)
    assert [whole[0], whole[1], whole[2], whole[4], whole[5]] == expected
    for cut in range(len(data) + 1):
        assert read([data[:cut], data[cut:]], method) == whole, f"cut at {cut}"
    assert read(by_sizes(data, 1), method) == whole


def test_one_batch_of_body_for_one_read():
    reader = ResponseReader(b"POST")
    assert reader.received(CHUNKED + b"1\r\na\r\n2\r\nbc\r\n3\r\nd") == b"abcd"
    assert reader.received(b"ef\r\n0\r\n\r\n") == b"ef"
    assert reader.finished


def test_headers_are_lower_case_and_stripped():
    reader = ResponseReader(b"POST")
    reader.received(OK + b"X-A:  one \t\r\nx-a: \r\nX-B: \xe4;\tq\r\nContent-Length: 2\r\n\r\n")
    assert reader.head.headers == ((b"x-a", b"one"), (b"x-a", b""), (b"x-b", b"\xe4;\tq"), (b"content-length", b"2"))
    assert reader.head.values(b"x-a") == [b"one", b""]
    assert (reader.head.minor, reader.head.status, reader.head.phrase) == (1, 200, b"OK")


@pytest.mark.parametrize(
    ("head", "length", "until_close"),
    [
        (b"content-length: 7\r\n", 7, False),
        (b"content-length: 7, 7\r\n", 7, False),
        (b"transfer-encoding: chunked\r\n", None, False),
        (b"transfer-encoding: chunked\r\ncontent-length: 7\r\n", None, False),
        (b"", None, True),
    ],
)
def test_declared_length(head, length, until_close):
    reader = ResponseReader(b"POST")
    assert reader.head is None
    reader.received(OK + head + b"\r\n")
    assert (reader.head.length, reader.until_close) == (length, until_close)


BAD = {
    "not HTTP": b"SSH-2.0-OpenSSH\r\n",
    "junk": b"\x16\x03\x01\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "lower case": b"http/1.1 200 OK\r\n\r\n",
    "two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status 0xx": b"HTTP/1.1 000 OK\r\n\r\n",
    "two blanks": b"HTTP/1.1  200 OK\r\n\r\n",
    "tab": b"HTTP/1.1\t200 OK\r\n\r\n",
    "control in phrase": b"HTTP/1.1 200 O\x00K\r\n\r\n",
    "empty line first": b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "bare LF in head": b"HTTP/1.1 200 OK\ncontent-length: 0\r\n\r\n",
    "bare CR in head": b"HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n",
    "folded": OK + b"x: a\r\n b\r\n\r\n",
    "blank before colon": OK + b"content-length : 1\r\n\r\na",
    "no colon": OK + b"content-length\r\n\r\n",
    "no name": OK + b": x\r\n\r\n",
    "bad name": OK + b"a b: x\r\n\r\n",
    "NUL in value": OK + b"x: a\x00b\r\n\r\n",
    "lengths differ": OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "lengths differ in a list": OK + b"content-length: 1, 2\r\n\r\nab",
    "negative length": OK + b"content-length: -1\r\n\r\n",
    "plus": OK + b"content-length: +1\r\n\r\na",
    "hex length": OK + b"content-length: 0x1\r\n\r\na",
    "empty length": OK + b"content-length:\r\n\r\n",
    "huge length": OK + b"content-length: 9999999999999999999999\r\n\r\n",
    "underscore": OK + b"content-length: 1_0\r\n\r\n",
    "gzip": OK + b"transfer-encoding: gzip\r\n\r\n",
    "gzip, chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
    "chunked twice": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
    "gzip on a 304": b"HTTP/1.1 304 x\r\ntransfer-encoding: gzip\r\n\r\n",
    "identity": OK + b"transfer-encoding: identity\r\n\r\n",
    "chunked in 1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "101": b"HTTP/1.1 101 x\r\nupgrade: foo\r\n\r\n",
    "no chunk size": CHUNKED + b"\r\nhello",
    "bad chunk size": CHUNKED + b"xyz\r\n",
    "0x": CHUNKED + b"0x5\r\nhello\r\n",
    "negative chunk": CHUNKED + b"-5\r\n",
    "huge chunk size": CHUNKED + b"ffffffffffffffffffff\r\n",
    "blank before size": CHUNKED + b" 5\r\nhello\r\n",
    "control in extension": CHUNKED + b"5;\x00\r\nhello\r\n",
    "long chunk line": CHUNKED + b"5;" + b"x" * 5000,
    "chunk too long": CHUNKED + b"5\r\nhello!\r\n",
    "bare LF after size": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "bare LF after chunk": CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    "bad trailer": CHUNKED + b"0\r\nfoo bar\r\n\r\n",
    "many trailers": CHUNKED + b"0\r\n" + b"a: b\r\n" * 20000,
    "long trailer": CHUNKED + b"0\r\na: " + b"b" * 70000,
    "long head": OK + b"a: " + b"b" * MAX_HEAD,
    "long head, whole": OK + b"a: " + b"b" * MAX_HEAD + b"\r\n\r\n",
    "bad 1xx": b"HTTP/1.1 100 x\r\nbad header\r\n\r\n" + OK + b"\r\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_malformed(data):
    with pytest.raises(Malformed):
        read([data])
    if len(data) < 500:
        with pytest.raises(Malformed):
            read(by_sizes(data, 1))


# h11, the second opinion

STRICTER = {
    "folded header lines": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "bare LF line ends": b"HTTP/1.1 200 OK\ncontent-length: 0\n\r\n\r\n",
    "lengths of 16 to 20 digits": b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999999999\r\n\r\n",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded trailers": CHUNKED + b"0\r\na: b\r\n c\r\n\r\n",
    "sixteen digits of chunk size": CHUNKED + b"0000000000000000\r\n\r\n",
}
"""Where we refuse what h11 takes; on the line to a provider the stricter reading wins."""

LENIENT = {
    "a head between h11's 16 KiB and our 64": b"HTTP/1.1 200 OK\r\nx: "
    + b"y" * 30000
    + b"\r\ncontent-length: 0\r\n\r\n",
}
"""Where h11's own bound, not the grammar, refuses."""


def by_h11(data, method="POST"):
    """("error",) or (finished, status, headers, body) as h11's client reads a response and then the end."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "x"), ("content-length", "0")]))
    connection.send(h11.EndOfMessage())
    status = headers = None
    body, finished = [], False
    try:
        for piece in (data, b""):
            connection.receive_data(piece)
            while True:
                event = connection.next_event()
                if event in (h11.NEED_DATA, h11.PAUSED):
                    break
                if isinstance(event, h11.InformationalResponse):
                    continue
                if isinstance(event, h11.Response):
                    status, headers = event.status_code, tuple((bytes(k), bytes(v)) for k, v in event.headers)
                elif isinstance(event, h11.Data):
                    body.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    finished = True
                    return finished, status, headers, b"".join(body)
                elif isinstance(event, h11.ConnectionClosed):
                    return finished, status, headers, b"".join(body)
    except h11.RemoteProtocolError as error:
        if "closed connection" in str(error) or "incomplete message body" in str(error) or not data:
            return False, status, headers, b"".join(body)
        return ("error",)
    return finished, status, headers, b"".join(body)


def by_us(data, method=b"POST"):
    try:
        finished, _, status, headers, body, _ = read([data], method)
    except Malformed:
        return ("error",)
    return finished, status, headers, body


@pytest.mark.parametrize("data", STRICTER.values(), ids=STRICTER)
def test_stricter_than_h11(data):
    assert by_h11(data) != ("error",)
    assert by_us(data) == ("error",)


@pytest.mark.parametrize("data", LENIENT.values(), ids=LENIENT)
def test_more_lenient_than_h11(data):
    assert by_us(data)[0] is True


@pytest.mark.parametrize("case", GOOD.values(), ids=GOOD)
def test_good_responses_read_as_h11_reads_them(case):
    data, method, *_ = case
    ours, theirs = by_us(data, method), by_h11(data, method.decode())
    if theirs[2] is not None and ours[2] is not None:
        theirs = (*theirs[:2], *_without_framing(theirs[2]), *theirs[3:])
        ours = (*ours[:2], *_without_framing(ours[2]), *ours[3:])
    assert ours == theirs


def _without_framing(headers):
    """h11 joins repeated content-lengths and drops them beside a transfer-encoding."""
    return tuple(pair for pair in headers if pair[0] not in (b"content-length", b"transfer-encoding"))


names = st.sampled_from(["x-a", "Server", "content-type", "Connection", "X_y!", "etag"])
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=12)
extras = st.lists(st.tuples(names, values).filter(lambda pair: pair[0] != "Connection"), max_size=4)


@st.composite
def responses(draw):
    """Bytes of a valid response, its method and its body."""
    status = draw(st.sampled_from([200, 200, 200, 201, 204, 304, 400, 429, 503]))
    minor = draw(st.sampled_from([1, 1, 1, 0]))
    method = draw(st.sampled_from([b"POST", b"GET", b"HEAD"]))
    body = draw(st.binary(max_size=60))
    framing = (
        draw(st.sampled_from(["length", "chunked", "close"])) if minor else draw(st.sampled_from(["length", "close"]))
    )
    lines = [f"HTTP/1.{minor} {status} {draw(st.sampled_from(['OK', '', 'Too many']))}"]
    lines += [f"{name}: {value}" for name, value in draw(extras)]
    if draw(st.booleans()):
        lines.append(f"Connection: {draw(st.sampled_from(['close', 'keep-alive']))}")
    payload = body
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        pieces = by_sizes(body, draw(st.lists(st.integers(1, 20), max_size=4)) or [1])
        payload = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    if method == b"HEAD" or status in (204, 304):
        payload = body = b""
    head = ("\r\n".join(lines) + "\r\n\r\n").encode()
    early = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" if draw(st.booleans()) else b""
    return early + head + payload, method, body


@settings(deadline=None)
@given(responses(), st.lists(st.integers(1, 30), max_size=30))
def test_valid_responses(response, cuts):
    data, method, body = response
    whole = read([data], method)
    assert whole[0] is True
    assert whole[4] == body
    assert read(by_sizes(data, cuts), method) == whole
    ours, theirs = by_us(data, method), by_h11(data, method.decode())
    assert (*ours[:2], ours[3]) == (*theirs[:2], theirs[3])
    assert _without_framing(ours[2]) == _without_framing(theirs[2])


NASTY = [
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b":",
    b"\x00",
    b";",
    b"0",
    b"f",
    b"content-length: 3\r\n",
    b"\x80",
    b",",
    b"-",
]


def mutated(data, choice):
    data = bytearray(data)
    for _ in range(choice.randint(1, 3)):
        at = choice.randrange(len(data) + 1)
        match choice.randrange(4):
            case 0:
                data[at:at] = choice.choice(NASTY)
            case 1:
                del data[at : at + choice.randint(1, 3)]
            case 2:
                data[at : at + 1] = choice.choice(NASTY)
            case _:
                end = at + choice.randint(1, 20)
                data[at:at] = data[at:end]
    return bytes(data)


def why_stricter(data):
    """The named reasons for which we refuse bytes that h11 takes; empty if there is none."""
    head, _, rest = data.partition(b"\r\n\r\n")
    reasons = []  # names of STRICTER
    if any(line[:1] in (b" ", b"\t") for line in data.split(b"\n")):
        reasons.append("folded header lines")
    if b"\n" in data.replace(b"\r\n", b""):
        reasons.append("bare LF line ends")
    if b"HTTP/1.0" in head and b"chunked" in head.lower() + rest.lower():
        reasons.append("chunked in HTTP/1.0")
    return reasons


def test_mutations_are_judged_as_by_h11():
    choice = random.Random(20261121)
    disagreed, agreed = [], 0
    sources = [data for data, *_ in GOOD.values() if data]
    for _ in range(6000):
        data = mutated(choice.choice(sources), choice)
        ours, theirs = by_us(data), by_h11(data)
        if theirs == ("error",) and ours != ("error",) and ours[0]:
            disagreed.append(("we take it", data, ours))
        elif ours == ("error",) and theirs != ("error",) and theirs[0] and not why_stricter(data):
            disagreed.append(("we refuse it", data, theirs))
        elif (
            ours != ("error",)
            and theirs != ("error",)
            and ours[0]
            and theirs[0]
            and (ours[1], ours[3]) != (theirs[1], theirs[3])
        ):
            disagreed.append(("read otherwise", data, ours, theirs))
        else:
            agreed += 1
    assert disagreed == []
    assert agreed == 6000


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([OK, CHUNKED, b"HTTP/1.1 ", b"content-length: ", b"5", b"\r\n\r\n", *NASTY]),
            st.binary(max_size=9),
        )
    )
)
def test_garbage_raises_nothing_but_malformed(pieces):
    reader = ResponseReader(b"POST")
    try:
        for piece in pieces:
            assert isinstance(reader.received(piece), bytes)
            assert reader.head is None or reader.head.length is None or reader.head.length >= 0
        reader.ended()
    except Malformed:
        pass


def test_many_small_chunks_are_not_copied_again_and_again():
    """Bytes that wait for the rest of their line are few, however long the body is."""
    reader = ResponseReader(b"POST")
    reader.received(CHUNKED)
    sizes = []
    for _ in range(200):
        for piece in by_sizes(b"400\r\n" + b"x" * 1024 + b"\r\n", 100):
            reader.received(piece)
            sizes.append(len(reader._buffer))
    assert max(sizes) <= 5
    assert all(later <= 5 for _, later in pairwise(sizes))


# Many chunks in a read

_PIECES = st.sampled_from(
    [b"data: ", b"x" * 40, b"y" * 300, b"\n\n", b"\r\n", b"\r", b"0\r\n\r\n", b"1f\r\n", b"z" * 2100]
)
_CHUNKS = st.lists(st.lists(_PIECES, min_size=1, max_size=4).map(b"".join), min_size=1, max_size=30)


@settings(deadline=None)
@given(_CHUNKS, st.sampled_from([b"%x", b"%X", b"0%x", b"%x ", b"%x;a=b"]), st.data())
def test_chunks_are_read_the_same_however_many_come_at_once(chunks, written, data):
    whole = CHUNKED + b"".join(written % len(one) + b"\r\n" + one + b"\r\n" for one in chunks) + b"0\r\n\r\n"
    cut = data.draw(st.integers(len(CHUNKED), len(whole)))
    expected = (True, True, 200, ((b"transfer-encoding", b"chunked"),), b"".join(chunks), b"")
    assert read([whole]) == read([whole[:cut], whole[cut:]]) == read([CHUNKED, whole[len(CHUNKED) :]]) == expected


@pytest.mark.parametrize(
    "bad", [b"4\r\nabcde\r\n", b"4\r\nabc\r\n", b"-4\r\nabcd\r\n", b"\r\n\r\n", b"0x4\r\nabcd\r\n"]
)
@pytest.mark.parametrize("behind", [b"", b"5\r\nhello\r\n0\r\n\r\n"])
def test_a_bad_chunk_among_many(bad, behind):
    good = b"64\r\n" + b"d" * 100 + b"\r\n"
    with pytest.raises(Malformed):
        read([CHUNKED, good * 20 + bad + (behind or good)])


# Requests


def test_request_head():
    head = request_head(b"POST", b"/v1/x?y=1", [(b"host", b"h"), (b"x-a", b"b c\t\xe4")])
    assert head == b"POST /v1/x?y=1 HTTP/1.1\r\nhost: h\r\nx-a: b c\t\xe4\r\n\r\n"
    assert request_head(b"GET", b"/", []) == b"GET / HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize(
    ("path", "header"),
    [
        (b"/", (b"a", b"x\r\ny: z")),
        (b"/", (b"a", b"x\ny")),
        (b"/", (b"a", b"x\x00")),
        (b"/", (b"a", b"\x7f")),
        (b"/", (b"a b", b"x")),
        (b"/", (b"a:", b"x")),
        (b"/", (b"", b"x")),
        (b"/", (b"a\r\n", b"x")),
        (b"/ HTTP/1.1\r\nx: y", (b"a", b"x")),
        (b"/a b", (b"a", b"x")),
        (b"/\x00", (b"a", b"x")),
    ],
)
def test_what_would_break_a_request_head(path, header):
    with pytest.raises(Malformed):
        request_head(b"POST", path, [header])
