"""The event-stream reader and writer: every rule of `streaming.md` 7, wherever the network cuts."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twisted_gateway.wire.sse import Frame, Reader, TooLong, encode, escape_separators

from ..doubles.cutting import at_random, by_sizes

BOM = b"\xef\xbb\xbf"


def read(pieces, **options):
    reader = Reader(**options)
    frames = [frame for piece in pieces for frame in reader.received(piece)]
    return frames + reader.ended()


def told(frames):
    return [(frame.event, frame.data) for frame in frames]


def reference(data):
    """An independent reader: lines one after the other, as the standard words it. Gives (event, data) pairs."""
    data = data.removeprefix(BOM)
    lines = re.split(rb"\r\n|\n|\r", data)
    events, event, values = [], b"", []
    for line in [*lines, b""]:  # a last frame without its blank line counts (rule 7)
        if not line:
            if values:
                events.append((event, b"\n".join(values)))
            event, values = b"", []
            continue
        if line.startswith(b":"):
            continue
        name, value = line.split(b":", 1) if b":" in line else (line, b"")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            values.append(value)
        elif name == b"event":
            event = value
    return events


RULES = {
    "plain": (b"data: a\n\n", [(b"", b"a")]),
    "several": (b"data: a\n\ndata: b\n\n", [(b"", b"a"), (b"", b"b")]),
    "bom": (BOM + b"data: a\n\n", [(b"", b"a")]),
    "one bom only": (BOM + BOM + b"data: a\n\ndata: b\n\n", [(b"", b"b")]),
    "bom inside stays": (b"data: a\n\n" + BOM + b"data: b\n\n", [(b"", b"a")]),
    "bom without a blank line": (BOM + b"data: [DONE]", [(b"", b"[DONE]")]),
    "crlf": (b"event: e\r\ndata: a\r\n\r\ndata: b\r\n\r\n", [(b"e", b"a"), (b"", b"b")]),
    "cr": (b"event: e\rdata: a\r\rdata: b\r\r", [(b"e", b"a"), (b"", b"b")]),
    "mixed": (b"data: a\r\n\ndata: b\r\r\ndata: c\n\r\n", [(b"", b"a"), (b"", b"b"), (b"", b"c")]),
    "blank lines between": (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [(b"", b"a"), (b"", b"b")]),
    "comment": (b": ping\n\n:\n\ndata: a\n: inside\n\n", [(b"", b"a")]),
    "lines": (b"data: a\ndata: b\ndata:\ndata: c\n\n", [(b"", b"a\nb\n\nc")]),
    "no space": (b"data:a\n\ndata:\tb\n\n", [(b"", b"a"), (b"", b"\tb")]),
    "one space only": (b"data:  a \n\n", [(b"", b" a ")]),
    "no colon": (b"data\n\n", [(b"", b"")]),
    "empty data": (b"data:\n\ndata: \n\n", [(b"", b""), (b"", b"")]),
    "event is not kept": (b"event: e\n\ndata: a\n\n", [(b"", b"a")]),
    "last event wins": (b"event: e\nevent: f\ndata: a\n\n", [(b"f", b"a")]),
    "event behind": (b"data: a\nevent: e\n\n", [(b"e", b"a")]),
    "id and retry": (b"id: 1\nretry: 10\ndata: a\n\nid: 2\x00\ndata: b\n\n", [(b"", b"a"), (b"", b"b")]),
    "unknown fields": (b"dat: x\nDATA: x\n data: x\ndata : x\nfoo\ndata: a\n\n", [(b"", b"a")]),
    "colons in the value": (b"data: a: b:c\n\n", [(b"", b"a: b:c")]),
    "no last blank line": (b"data: a\n\ndata: b\n", [(b"", b"a"), (b"", b"b")]),
    "no last line end": (b"data: a\n\ndata: b", [(b"", b"a"), (b"", b"b")]),
    "utf-8": ("data: äöü🌊\u2028x\n\n".encode(), [(b"", "äöü🌊\u2028x".encode())]),
    "not utf-8": (b"data: \xff\xfe\n\n", [(b"", b"\xff\xfe")]),
    "other line separators": (b"data: a\x0b\x0c\x85\x1cb\n\n", [(b"", b"a\x0b\x0c\x85\x1cb")]),
    "nothing": (b"", []),
    "only noise": (b"ping\n\nevent: e\n\n: x", []),
}


@pytest.mark.parametrize(("stream", "expected"), RULES.values(), ids=RULES)
def test_each_rule_cut_at_every_position(stream, expected):
    assert reference(stream) == expected, "the case itself"
    assert told(read([stream])) == expected
    assert told(read(by_sizes(stream, 1))) == expected
    whole = read([stream])
    for cut in range(len(stream) + 1):
        assert read([stream[:cut], stream[cut:]]) == whole, f"cut at {cut}"


def test_frames_come_out_with_the_byte_that_ends_them():
    reader = Reader()
    given = [len(reader.received(bytes([byte]))) for byte in b"data: a\n\ndata: b\n\n"]
    assert [at for at, count in enumerate(given) if count] == [8, 17]
    assert reader.held == 0


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_a_cr_ends_the_line_at_once(end):
    reader = Reader()
    stream = b"data: a" + end + end
    frames = [frame for byte in stream[: len(b"data: a" + end) + 1] for frame in reader.received(bytes([byte]))]
    assert told(frames) == [(b"", b"a")], "the second line end's first byte is enough"
    assert reader.received(stream[len(b"data: a" + end) + 1 :] + b"data: b" + end + end) != []


@pytest.mark.parametrize(
    ("stream", "raw"),
    [
        (b"data: a\n\n", b"data: a\n\n"),
        (b"data: a\r\n\r\n", b"data: a\n\n"),
        (b"event: e\r\ndata: a\r\n\r\n", b"event: e\ndata: a\n\n"),
        (b"id: 7\nevent: e\ndata: a\n\n", b"id: 7\nevent: e\ndata: a\n\n"),
        (BOM + b"data: a\n\n", b"data: a\n\n"),
        (b"data:a\n\n", b"data: a\n\n"),
        (b"data: {\ndata: }\n\n", b"data: { }\n\n"),
        (b": comment\ndata: a\n\n", b"data: a\n\n"),
        (b"what: ever\nevent: e\ndata: a\n\n", b"event: e\ndata: a\n\n"),
        (b"data: a\n", b"data: a\n\n"),
        (b"\ndata: a\n\n", b"data: a\n\n"),
    ],
)
def test_what_is_written_for_a_frame_that_nobody_changed(stream, raw):
    (frame,) = read([stream])
    assert encode(frame) == raw


def test_encode_makes_one_data_line():
    assert encode(Frame(b"{}")) == b"data: {}\n\n"
    assert encode(Frame(b'{\n"a":1}', b"error")) == b'event: error\ndata: { "a":1}\n\n'
    assert encode(Frame(b"ignored", b"e", b"raw\n\n")) == b"raw\n\n"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain", b"plain"),
        ("ä", "ä".encode()),
        ("a\u2028b\u2029c\u0085d", b"a\\u2028b\\u2029c\\u0085d"),
        ("\u2028\u2028", b"\\u2028\\u2028"),
        ("\u2027\u202a\u0084\u0086", "\u2027\u202a\u0084\u0086".encode()),
    ],
)
def test_escape_separators(text, escaped):
    assert escape_separators(text.encode()) == escaped


@pytest.mark.parametrize(
    ("stream", "noise"),
    [
        (b"data: a\n\n", 0),
        (b": ping\n\n", 1),
        (b": a\n\nevent: e\n\ndata: x\n\n: b\n\n", 3),
        (b"data: x\n\n: at the end", 1),
    ],
)
def test_noise_is_counted(stream, noise):
    for pieces in ([stream], by_sizes(stream, 1)):
        reader = Reader()
        for piece in pieces:
            reader.received(piece)
        reader.ended()
        assert reader.noise == noise


def test_too_long_an_event():
    reader = Reader(limit=100)
    assert reader.received(b"data: " + b"x" * 94) == []
    assert reader.held == 100
    with pytest.raises(TooLong, match="more than 100 bytes"):
        reader.received(b"x")


def test_the_limit_is_of_one_event_not_of_the_stream():
    reader = Reader(limit=100)
    for _ in range(50):
        assert len(reader.received(b"data: " + b"x" * 50 + b"\n\ndata: ")) == 1
        assert reader.held == 6
        reader.received(b"y\n\n")
    with pytest.raises(TooLong):
        reader.received(b"data: x\n\ndata: " + b"x" * 100)


def test_bytes_one_by_one_are_scanned_once():
    """The work for a long event grows with its length, not with its square: searched bytes are counted."""

    class Counting(bytearray):
        searched = 0

        def find(self, what, start=0, *rest):
            Counting.searched += len(self) - start
            return super().find(what, start, *rest)

    def searched(size):
        Counting.searched = 0
        reader = Reader()
        reader._rest = Counting()
        event = b"data: " + b"x" * size + b"\n\n"
        frames = [frame for byte in event for frame in reader.received(bytes([byte]))]
        assert len(frames) == 1
        return Counting.searched

    counts = [searched(size) for size in (125_000, 250_000, 500_000, 1_000_000)]
    assert all(later < 2.1 * earlier for earlier, later in pairwise(counts))
    assert counts[-1] < 4_000_000


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_long_stream_in_odd_pieces(end):
    stream = b"".join(b"event: e%d%sdata: %d%s%s" % (n, end, n, end, end) for n in range(2000))
    expected = [(b"e%d" % n, b"%d" % n) for n in range(2000)]
    for seed, largest in ((1, 3), (2, 40), (3, 5000)):
        assert told(read(at_random(stream, seed, largest))) == expected


tokens = st.sampled_from(
    [
        b"data",
        b"event",
        b"id",
        b"retry",
        b":",
        b": ",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\n\r\n",
        b"\r\r",
        BOM,
        b"\xef",
        b"\xef\xbb",
        b"\xbb\xbf",
        b"{}",
        b"[DONE]",
        b"x",
        b"\x00",
        "ä".encode(),
        b"\xff",
        b"\xe2\x80\xa8",
    ]
)
streams = st.lists(st.one_of(tokens, st.binary(max_size=3)), max_size=40).map(b"".join)


@settings(deadline=None, max_examples=400)
@given(stream=streams, cuts=st.lists(st.integers(1, 6), max_size=60))
@example(stream=BOM + b"data: [DONE]", cuts=[1])
@example(stream=b"data: a\r\n\r\ndata: b", cuts=[8, 1, 1])
@example(stream=b"\xef\xbb", cuts=[1, 1])
def test_any_bytes_any_cuts(stream, cuts):
    whole = read([stream])
    assert told(whole) == reference(stream)
    assert read(by_sizes(stream, cuts)) == whole
    assert read(by_sizes(stream, 1)) == whole


@settings(deadline=None)
@given(streams)
def test_what_is_written_reads_the_same(stream):
    """Frames survive writing and reading again, but for line breaks in their data, which become blanks."""
    frames = read([stream])
    written = b"".join(map(encode, frames))
    assert b"\r" not in written
    assert told(read([written])) == [(event, data.replace(b"\n", b" ")) for event, data in told(frames)]


LONG = b"data: " + b"x" * 300


@pytest.mark.parametrize("cut", range(1, 40))
@pytest.mark.parametrize("blank", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_an_event_that_is_too_long_can_be_passed_unread(blank, cut):
    stream = b"data: a\n\n" + LONG + blank + b"data: b\n\n"
    reader, given, frames = Reader(limit=100), b"", []
    for at in range(0, len(stream), cut):
        data = stream[at : at + cut]
        while data:
            if reader.in_overrun:
                piece, data = reader.overrun(data)
                given += piece
                continue
            try:
                frames += reader.received(data)
            except TooLong as error:
                frames += error.frames
                given += reader.overrun()[0]
            data = b""
    assert given == LONG + b"\n\n"
    assert [frame.data for frame in frames] == [b"a", b"b"]
    assert not reader.in_overrun
    assert reader.held == 0
