"""What a lane takes becomes what reader, shape and request would make of it, to the byte; anything else it leaves."""

import json
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from twisted_gateway.alarm import Alarm
from twisted_gateway.formats.anthropic_passage import Events
from twisted_gateway.formats.shapes import Shape, pieces, text_holes
from twisted_gateway.lane import Lane
from twisted_gateway.wire.http1 import Malformed, ResponseReader
from twisted_gateway.wire.sse import Frame

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
MANY = 1000


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame(raw):
    return Frame(raw, b"", b"data: " + raw + b"\n\n")


def chat(text, model, **more):
    """A chat frame with a text, as JSON."""
    whole = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": model}
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return json.dumps({**whole, "choices": [delta], **more}, separators=(",", ":")).encode()


def learnt(**more):
    """The shape that a frame teaches."""
    came, goes = chat("hello", "theirs", **more), chat("hello", "our own name", **more)
    found = pieces(frame(came), frame(goes), text_holes(json.loads(came)))
    return Shape.of(found)


def anthropic():
    """The shape of a provider's own deltas, which go out as they come."""
    passage = Events(None)
    data = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}}
    assert passage.take(b"event: content_block_delta\ndata: %b\n\n" % json.dumps(data, separators=(",", ":")).encode())
    return passage.alike


SHAPES = {
    "chat": learnt(),
    "obfuscated": learnt(usage=None, obfuscation="xyz"),
    "anthropic": anthropic(),
    "tiny": Shape.of((b'data: {"', b"", b'"}\n\n', b'data: {"a":"', b"", b'"}\n\n')),
    "shrinking": Shape.of((b'data: {"a long name":"', b'","p":"', b'"}\n\n', b'data: {"', b'","":"', b'"}\n\n')),
}
BODIES = [pytest.param(name, id=name) for name in SHAPES]


class Way:
    """The caller's connection."""

    def __init__(self):
        self.written, self.transport, self.data, self.lane = 0, self, [], None

    def write(self, data):
        self.data.append(data)


class Counted:
    """What is counted of an exchange, or learnt of an answer."""

    frames = bytes = text_bytes = 0


class Heard(Counted):
    """A passage that wants to be told."""

    def heard(self, text_bytes):
        self.text_bytes += text_bytes


class Road:
    """A lane, and all that it may touch."""

    def __init__(self, shape=None, learnt=Counted):
        self.way, self.exchange, self.learnt, self.time, self.told = Way(), Counted(), learnt(), 100.0, 0
        self.lane = Lane(self.way, self.exchange, self.learnt, lambda: self.time)
        if shape is not None:
            self.lane.open(shape)

    def state(self):
        lane, exchange = self.lane, self.exchange
        self.told += lane.settle()
        counted = (exchange.frames, exchange.bytes, self.learnt.text_bytes, self.told, self.way.written)
        return counted, lane.at, tuple(self.way.data)


def long_way(shape, data):
    """What the caller gets of a read that is one chunk with one frame, and the bytes of its text; else None."""
    reader = ResponseReader(b"POST")
    reader.received(HEAD)
    assert reader.between_chunks
    try:
        body = reader.received(data)
    except Malformed:
        return None
    if not reader.between_chunks or data != chunk(body):
        return None
    batch = shape.take(body, empty=False)
    if batch is None or batch.used != len(body) or batch.frames != 1:
        return None
    return batch.data, batch.text_bytes


def check(shape, data, learnt=Counted):
    """Whether the lane takes it; and if so, as the long way does."""
    road = Road(shape, learnt)
    before = road.state()
    if not road.lane.read(data):
        assert road.state() == before, "a read that is refused leaves no trace"
        return False
    expected = long_way(shape, data)
    assert expected is not None, "only what is exactly one chunk with exactly one frame"
    made, text_bytes = expected
    assert road.state() == ((1, len(made), text_bytes, text_bytes, len(chunk(made))), 100.0, (chunk(made),))
    return True


def filled(shape, text, filler=b"xy"):
    """The frame of this shape with this text."""
    return shape.head + text + (shape.middle + filler if shape.middle else b"") + shape.tail


TAKEN = {
    "plain": b"hello",
    "one letter": b"x",
    "escapes": rb"a \"b\" \\ \n \t \u00e9",
    "an escaped backslash before the end": b"ends with \\\\",
    "an escaped quote at the end": b'ends with \\"',
    "escaped separators": rb"\u2028\u0085",
    "not ASCII": "né 你好".encode(),
    "beside the separators": "it’s — so…".encode(),
    "four bytes": "😀".encode(),
    "what looks like an end": b"data: [DONE]",
    "what looks like an escaped frame": rb"\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]",
    "a tool call, told of": rb"{\"tool_calls\":[{\"index\":0}]}",
    "an escaped line end": rb"\r\n5\r\n",
    "an escaped NUL": rb"\u0000",
    "a chunk of three digits": b"x" * 1500,
}
LEFT = {
    "empty": b"",
    "U+2028": "a\u2028b".encode(),
    "U+2029": "a\u2029b".encode(),
    "U+0085": "a\x85b".encode(),
    "a bare quote": b'a"b',
    "a bare backslash at the end": b"a\\",
    "no escape": rb"a\xb",
    "half an escape": rb"a\u00e",
    "a surrogate": rb"\ud83d",
    "a pair of surrogates": rb"\ud83d\ude00",
    "a surrogate in capitals": rb"\uDC00",
    "half a letter": "é".encode()[:1],
    "a surrogate in UTF-8": b"\xed\xa0\x80",
    "Latin-1": b"caf\xe9",
    "a NUL": b"a\0b",
    "a line end": b"a\nb",
    "a CRLF": b"a\r\nb",
    "a frame's end": b"a\n\nb",
    "another member": b'a","role":"assistant","x":"b',
    "longer than a usual chunk": b"x" * 2048,
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("text", TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize("learnt", [Counted, Heard])
def test_texts_that_are_carried(name, text, learnt):
    shape = SHAPES[name]
    assert check(shape, chunk(filled(shape, text)), learnt)


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("text", LEFT.values(), ids=LEFT)
def test_texts_that_go_the_long_way(name, text):
    shape = SHAPES[name]
    assert not check(shape, chunk(filled(shape, text)))


@pytest.mark.parametrize("name", BODIES)
def test_a_text_that_is_a_piece_of_its_own_frame(name):
    shape = SHAPES[name]
    for piece in filter(None, (shape.head, shape.middle, shape.tail, filled(shape, b"x"), chunk(filled(shape, b"x")))):
        assert not check(shape, chunk(filled(shape, b"a" + piece)))
        assert not check(shape, chunk(filled(shape, piece + b"a")))
        assert check(shape, chunk(filled(shape, b"a" + json.dumps(piece.decode()).encode()[1:-1])))


@pytest.mark.parametrize("name", ["obfuscated", "shrinking"])
def test_fillers(name):
    shape = SHAPES[name]
    assert check(shape, chunk(filled(shape, b"text", b"")))
    assert check(shape, chunk(filled(shape, "né".encode(), b"x" * 40)))
    odd = [b"\\n", "é".encode(), b'"', b"\n", shape.middle, b"x" + shape.middle + b"y", b'","usage":"']
    for filler in odd:
        assert not check(shape, chunk(filled(shape, b"text", filler)))
    assert not check(shape, chunk(shape.head + b"no filler at all" + shape.tail))
    assert not check(shape, chunk(shape.head + shape.middle + b"no text" + shape.tail))


@pytest.mark.parametrize("name", BODIES)
def test_reads_that_are_not_one_usual_chunk(name):
    shape = SHAPES[name]
    body = filled(shape, b"hello you")
    good, size = chunk(body), b"%x" % len(body)
    assert check(shape, good)
    lines = [size.upper(), b"0" + size, size + b" ", b" " + size, size + b";a=b", b"0x" + size, b"+" + size, b"", b"-1"]
    for line in {*lines, b"%x" % (len(body) + 1), b"%x" % (len(body) - 1), b"%x" % (len(body) + 2)} - {size}:
        assert not check(shape, line + b"\r\n" + body + b"\r\n")
    others = {
        "another behind it": good + good,
        "the last one behind it": good + b"0\r\n\r\n",
        "a piece of the next": good + b"4",
        "an empty line before it": b"\r\n" + good,
        "LF": good.replace(b"\r\n", b"\n"),
        "no chunk": body,
        "two frames": chunk(body + body),
        "half a frame more": chunk(body + body[:9]),
        "half a frame less": chunk(body[9:]),
        "a frame and a half line end": chunk(body[:-1]),
        "CRLF in the frame": chunk(body.replace(b"\n", b"\r\n")),
        "a blank line before it": chunk(b"\n" + body),
        "another head": chunk(body.replace(b"{", b"{ ", 1)),
        "nothing": b"",
        "a line end": b"\r\n",
        "the last chunk": b"0\r\n\r\n",
        "head and tail that share bytes": chunk(shape.head + shape.tail[1:]),
    }
    for what, data in others.items():
        assert not check(shape, data), what
    for cut in range(len(good)):
        assert not check(shape, good[:cut])
        assert not check(shape, good[cut + 1 :])
        assert not check(shape, good[:cut] + b"\0" + good[cut + 1 :]) or good[cut : cut + 1] == b"\0"


@pytest.mark.parametrize("way", ["in", "out"])
def test_the_largest_chunk_and_one_more(way):
    """Sizes are those of the table on either side; what is larger is not for a lane."""
    long, short = b'data: {"a rather long name":"', b'data: {"'
    heads = (long, short) if way == "in" else (short, long)
    shape = Shape.of((heads[0], b"", b'"}\n\n', heads[1], b"", b'"}\n\n'))
    room = 2047 - len(long) - len(b'"}\n\n')
    assert check(shape, chunk(filled(shape, b"x" * room)))
    assert not check(shape, chunk(filled(shape, b"x" * (room + 1))))


@pytest.mark.parametrize("name", BODIES)
def test_a_frame_of_any_length_without_its_size(name):
    shape = SHAPES[name]
    for size in range(1, 2100):
        assert not check(shape, chunk(filled(shape, b"x" * size)).partition(b"\r\n")[2])
        assert not check(shape, b"\r\n" + filled(shape, b"x" * size) + b"\r\n")


def test_the_callers_connection_knows_a_lane_while_it_is_open():
    road = Road(SHAPES["chat"])
    assert road.way.lane is road.lane
    data = chunk(filled(SHAPES["chat"], b"hello"))
    road.lane.read(data)
    assert (road.way.written, road.lane.written) == (0, len(road.way.data[0]))
    road.lane.close()
    assert (road.way.written, road.lane.written, road.way.lane) == (len(road.way.data[0]), 0, None)
    other = road.way.lane = Lane(road.way, road.exchange, road.learnt, lambda: 0.0)
    road.lane.close()
    assert road.way.lane is other, "it is closed once"


def test_a_closed_lane_carries_nothing():
    shape = SHAPES["chat"]
    data = chunk(filled(shape, b"hello"))
    road = Road()
    assert not road.lane.read(data), "before it is opened"
    assert not road.lane.read(b"")
    road.lane.open(shape)
    assert road.lane.read(data)
    road.lane.close()
    before = road.state()
    for one in (data, b"", b"\r\n", b"0\r\n\r\n"):
        assert not road.lane.read(one)
    assert road.state() == before
    road.lane.open(SHAPES["obfuscated"])
    assert not road.lane.read(data), "of another shape"
    assert road.lane.read(chunk(filled(SHAPES["obfuscated"], b"hello")))
    road.lane.open(shape)
    assert road.lane.read(data)


def test_counts_add_up_over_many_reads():
    shape, road = SHAPES["chat"], Road(SHAPES["chat"])
    texts = [b"x" * n for n in range(1, 40)] + ["né".encode(), rb"\n"]
    for text in texts:
        road.time += 1
        assert road.lane.read(chunk(filled(shape, text)))
    sent = b"".join(road.way.data)
    size = sum(range(1, 40)) + 3 + 1
    frames = sum(int(one.split(b"\r\n")[0], 16) for one in road.way.data)
    assert road.state()[0] == (len(texts), frames, size, size, len(sent))
    assert road.lane.at == 100 + len(texts)


def test_a_lane_that_is_opened_in_vain_is_noticed():
    shape, road = SHAPES["chat"], Road()
    for tries in range(3):
        road.lane.open(shape)
        assert road.lane.vain == tries
    road.time += 1
    assert road.lane.read(chunk(filled(shape, b"x")))
    road.lane.open(shape)
    assert road.lane.vain == 0


def test_an_alarm_follows_what_a_lane_carries_and_not_that_there_is_one():
    clock, rung = Clock(), []
    clock.advance(50)
    alarm = Alarm(clock, lambda: rung.append(clock.seconds()))
    alarm.set(10)
    clock.advance(3)
    way = Way()
    alarm.leader = lane = Lane(way, Counted(), Counted(), clock.seconds)
    lane.open(SHAPES["chat"])
    clock.advance(7)
    assert rung == [60.0], "it has carried nothing"
    alarm.set(10)
    for _ in range(5):
        clock.advance(9)
        assert lane.read(chunk(filled(SHAPES["chat"], b"x")))
    assert rung == [60.0]
    assert not lane.read(b"other")
    clock.advance(9.9)
    assert rung == [60.0]
    clock.advance(0.1)
    assert rung == [60.0, 115.0]


# Anything

TEXTS = st.one_of(
    st.text(min_size=1, max_size=20).map(lambda text: json.dumps(text, ensure_ascii=False).encode("utf-8")[1:-1]),
    st.text(max_size=8).map(lambda text: json.dumps(text).encode()[1:-1]),
    st.binary(max_size=8),
    st.sampled_from([*TAKEN.values(), *LEFT.values()]),
    st.sampled_from([b"\xc2", b"\x85", b"\xe2\x80", b"\xa8", b"\\", b'"', b"\\u", b"d83d"]),
)


@cache
def parts(name):
    shape = SHAPES[name]
    return st.sampled_from([shape.head, shape.middle, shape.tail, b"\r\n", b"\n\n", filled(shape, b"a"), b"0\r\n\r\n"])


@st.composite
def reads(draw):
    """A chunk with a frame that is odd in one or two places, or in none."""
    name = draw(st.sampled_from([*SHAPES]))
    shape = SHAPES[name]
    text = b"".join(draw(st.lists(st.one_of(TEXTS, parts(name)) if draw(st.booleans()) else TEXTS, max_size=4)))
    body = filled(shape, text, draw(st.one_of(st.just(b"xyz"), TEXTS)))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.one_of(TEXTS, parts(name))) + body[at + draw(st.integers(0, 3)) :]
    size = max(0, len(body) + draw(st.sampled_from([0, 0, 0, 0, 0, 1, -1, 2])))
    data = draw(st.sampled_from([b"%x", b"%x", b"%x", b"%x", b"%X", b"0%x", b"%x ", b"%x;a"])) % size + b"\r\n" + body
    data += draw(st.sampled_from([b"\r\n"] * 6 + [b"", b"\n", b"\r\n\r\n", b"\r\n5"]))
    return name, data


@settings(max_examples=MANY)
@given(reads())
@example(("chat", chunk(filled(SHAPES["chat"], "\x85".encode()))))
def test_whatever_is_read_becomes_what_the_long_way_makes_of_it_or_is_left(read):
    name, data = read
    check(SHAPES[name], data)


@settings(max_examples=500)
@given(st.sampled_from([*SHAPES]), st.text(min_size=1, max_size=30), st.booleans())
def test_texts_are_carried(name, text, as_ascii):
    """All but those with a surrogate, a separator to be escaped."""
    shape, raw = SHAPES[name], json.dumps(text, ensure_ascii=as_ascii).encode("utf-8", "surrogatepass")[1:-1]
    rare = any(ord(char) > 0xFFFF for char in text) if as_ascii else any(char in "\u2028\u2029\x85" for char in text)
    assert check(shape, chunk(filled(shape, raw))) is not (rare or any(0xD800 <= ord(char) < 0xE000 for char in text))


@pytest.mark.parametrize("name", BODIES)
def test_the_text_is_counted_as_it_is_decoded(name):
    shape = SHAPES[name]
    for text in ("plain", "né 你好 😀", 'q"\\\n\t/'):
        road = Road(shape)
        assert road.lane.read(chunk(filled(shape, json.dumps(text, ensure_ascii=False).encode()[1:-1])))
        assert road.lane.settle() == road.learnt.text_bytes == len(text.encode())
