"""Frames that are recognised by their bytes: never another answer than without, and on the common road no decoding."""

import json
from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twisted_gateway.formats import openai_chunks
from twisted_gateway.formats.shortcut import Habits, Shortcuts
from twisted_gateway.wire.sse import Frame, Reader, encode

from ..doubles.cutting import by_sizes
from ..doubles.recordings import each_recording
from .making import ROLE, chat_call, choice, chunk, chunks_tube, dumps, framed, say, target


class Never(Shortcuts):
    """Recognises nothing."""

    def take(self, data, *more):
        return None

    def open(self, data):
        return None


def plain(tube):
    """The same tube without shortcuts."""
    tube._shortcuts = Never(Habits())
    return tube


def by_reads(tube, stream, sizes=()):
    """What a tube gives for a stream, fed as the gateway feeds it: whole reads first, else frame by frame."""
    out, reader = [], Reader()
    for piece in by_sizes(stream, sizes):
        while piece:
            taken = tube.take(piece) if reader.between_frames else None
            if taken is None:
                end = piece.find(b"\n\n") + 2
                frame, piece = (piece, b"") if end < 2 else (piece[:end], piece[end:])
                out += map(encode, tube.received(reader.received(frame)))
            else:
                assert taken.frames == taken.data.count(b"\n\n")
                assert taken.events > 0
                assert piece[: taken.used].endswith(b"\n\n")
                out.append(taken.data)
                piece = piece[taken.used :]
    out += map(encode, tube.received(reader.ended()))
    return b"".join(out)


def meaning(data):
    """The JSON of every frame, in order: what a caller can tell apart."""
    return [frame.data if frame.data[:1] != b"{" else json.loads(frame.data) for frame in Reader().received(data)]


def check_learnt(fast, slow):
    """Both passages know the same of their answers."""
    for name in (
        "complete",
        "ended",
        "finish_reason",
        "provider_model",
        "provider_request_id",
        "noise",
        "usage",
        "text_bytes",
    ):
        assert getattr(fast, name) == getattr(slow, name), name
    assert (fast.failure is None) == (slow.failure is None)


def check(stream, sizes=(), before=None, **options):
    """With and without shortcuts: the first stream of its target, and one behind `before` and behind itself."""
    slow = plain(chunks_tube(**options))
    exact = by_reads(slow, stream)
    habits = Habits()
    for earlier in (None, before, stamped(stream), stream):
        if earlier is not None:
            by_reads(chunks_tube(habits=habits, **options), earlier)
        fast = chunks_tube(habits=habits, **options)
        quick = by_reads(fast, stream, sizes)
        assert meaning(quick) == meaning(exact)
        check_learnt(fast, slow)


def stamped(stream):
    """The same frames as another answer would have them: with another id and another time."""
    return stream.replace(b"chatcmpl-1", b"chatcmpl-22").replace(b"1700000000", b"17999")


texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["a", "Hello", "", '"', "\\", '\\"', '","', "\u2028", "ä\u0085", "\n\n", "\ud83d", "\U0001f600", '"}', "data: "]
    ),
    st.sampled_from(
        ['","obfuscation":"', '"},"finish_reason":null}]}', '"model":"gpt-4o-2024"', "\x00\x1f", "null", "stop"]
    ),
)
extras = st.dictionaries(
    st.sampled_from(
        [
            "usage",
            "obfuscation",
            "system_fingerprint",
            "service_tier",
            "error",
            "content",
            "x",
            "model",
            "created",
            "id",
        ]
    ),
    st.sampled_from(
        [None, "", "abc", "x" * 9, 5, {"content": "a", "model": "gpt-4o-2024"}, ["obfuscation"], {"prompt_tokens": 2}]
    ),
    max_size=2,
)
deltas = st.one_of(
    texts.map(lambda text: {"content": text}),
    texts.map(lambda text: {"role": "assistant", "content": text}),
    texts.map(lambda text: {"reasoning_content": text}),
    texts.map(lambda text: {"reasoning": text}),
    texts.map(lambda text: {"content": text, "refusal": None, "tool_calls": None}),
    st.tuples(texts, texts).map(lambda two: {"content": two[0], "reasoning_content": two[1]}),
    st.sampled_from(
        [
            {},
            None,
            {"content": None},
            {"content": ["a"]},
            {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]},
        ]
    ),
)
choices = st.builds(
    lambda delta, index, reason, more: choice(delta, reason, index, **more),
    deltas,
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([None, None, None, None, "stop"]),
    st.sampled_from([{}, {"logprobs": None}, {"logprobs": {"content": ["a"]}}]),
)
chunk_objects = st.one_of(
    texts.map(say),
    texts.map(lambda text: say(text, obfuscation="pad")),
    st.builds(lambda one, more: chunk(one, **more), choices, extras),
    st.builds(lambda one, two: chunk(one, two), choices, choices),
    st.sampled_from(
        [ROLE, chunk(), chunk(usage={"prompt_tokens": 3, "completion_tokens": 4}), {"x": 1}, chunk(choice({}, "stop"))]
    ),
)


@st.composite
def frames(draw):
    """The bytes of one frame: mostly a run of similar chunks, in one of several spellings."""
    one = draw(chunk_objects)
    style = draw(st.integers(0, 12))
    if style == 0:
        return b"data: " + json.dumps(one).encode() + b"\n\n"
    if style == 1:
        return b"data: " + json.dumps(one, separators=(",", ":")).encode() + b"\r\n\r\n"
    data = dumps(one).replace(b"\xed\xa0\xbd", b"\\ud83d")  # half a pair, as only an escape can spell it
    if style == 2:
        return b"data:" + data + b"\n\n"
    if style == 3:
        return b"event: x\ndata: " + data + b"\n\n"
    if style == 4:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from([b"\\", b'"', b"\xff", b"\\q", b"\x01", b"", b" "])) + data[at:]
    return b"data: " + data + b"\n\n"


runs = st.builds(lambda one, times: one * times, st.lists(frames(), max_size=3), st.integers(1, 3)).map(b"".join)


@settings(deadline=None, max_examples=500)
@given(
    parts=st.lists(st.one_of(frames(), runs), max_size=12),
    usage_shown=st.booleans(),
    shown=st.sampled_from(["gpt", 'a"\u2028', None]),
    by_frames=st.booleans(),
    done=st.booleans(),
    before=st.lists(frames(), max_size=6).map(b"".join),
)
@example([b"data: " + dumps(say(text)) + b"\n\n" for text in ("a", "b", "c", "\\d")], True, "gpt", False, True, b"")
@example(
    [b"data: " + dumps(say(text, obfuscation=text)) + b"\n\n" for text in ("a", "b", "c\\", "d")],
    True,
    "gpt",
    True,
    True,
    b"",
)
def test_shortcuts_change_nothing(parts, usage_shown, shown, by_frames, done, before):
    parts = [*parts, b"data: [DONE]\n\n"] if done else parts
    sizes = [len(part) for part in parts] if by_frames else ()
    check(b"".join(parts), sizes, before, usage_shown=usage_shown, shown=shown)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(texts, texts), min_size=2, max_size=12),
    st.lists(st.integers(1, 4), max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_shortcuts_change_nothing_in_the_common_case(said, groups, obfuscated, escaped):
    """Many alike frames: those that are recognised are the rule here."""
    write = (lambda one: json.dumps(one, separators=(",", ":")).encode()) if escaped else dumps
    objects = [say(text, **({"obfuscation": pad} if obfuscated else {})) for text, pad in [("a", "b"), *said]]
    data = [b"data: " + write(one).replace(b"\xed\xa0\xbd", b"?") + b"\n\n" for one in [ROLE, *objects]]
    ends = [0, *accumulate(groups)]
    reads = [b"".join(data[start:end]) for start, end in zip(ends, [*ends[1:], None], strict=True)]
    check(b"".join(data), [len(read) for read in reads if read])


@each_recording("openai-chat", "stream")
@pytest.mark.parametrize("usage_shown", [True, False])
def test_shortcuts_change_nothing_in_recordings(recording, usage_shown):
    check(recording.body, usage_shown=usage_shown)
    check(recording.body, [len(part) + 2 for part in recording.body.split(b"\n\n")], usage_shown=usage_shown)
    check(recording.body, 1700, usage_shown=usage_shown, shown=None)


@pytest.fixture
def decoded(monkeypatch):
    """Counts decodes of JSON."""
    counted = []
    real = openai_chunks.read

    def counting(data):
        counted.append(data)
        return real(data)

    monkeypatch.setattr(openai_chunks, "read", counting)
    return counted


COMMON = {
    "plain": lambda n: say(f"w{n} "),
    "lines": lambda n: say("a" + "\n" * (n % 3)),
    "obfuscated": lambda n: say(f"w{n}", obfuscation="x" * (n % 7 + 1)),
    "usage null": lambda n: say(f"w{n}", usage=None),
    "not ascii": lambda n: say("ä€"[n % 2]),
    "reasoning": lambda n: chunk(choice({"reasoning_content": f"r{n}"})),
    "many members": lambda n: chunk(
        choice({"content": f"w{n}", "refusal": None}, logprobs=None),
        system_fingerprint="f",
        service_tier="s",
        usage=None,
    ),
    "repeated role": lambda n: chunk(choice({"role": "assistant", "content": f"w{n}"})),
    "created 0": lambda n: say(f"w{n}", created=0),
    "no id": lambda n: say(f"w{n}", id=""),
    "two choices": lambda n: say(f"w{n}", index=n % 2),
    "a letter": lambda n: say("a"),
    "quotes": lambda n: say("a" + '"' * (n % 3)),
}


@pytest.mark.parametrize("usage_shown", [True, False])
@pytest.mark.parametrize("made", COMMON.values(), ids=COMMON)
def test_most_frames_are_not_decoded(made, usage_shown, decoded):
    tube = chunks_tube(usage_shown)
    frames = framed(ROLE, *[made(n) for n in range(100)])
    out = by_reads(tube, b"".join(frame.raw for frame in frames), [len(frame.raw) for frame in frames])
    assert out.count(b"\n\n") == 101
    assert len(decoded) <= 6


def test_a_read_of_many_frames_is_taken_at_once(decoded):
    tube = chunks_tube()
    tube.received(framed(ROLE, say("a"), say("b")))
    decoded.clear()
    read = b"".join(frame.raw for frame in framed(*[say(f"w{n}") for n in range(50)]))
    taken = tube.take(read)
    assert (taken.frames, taken.used, taken.text_bytes) == (50, len(read), sum(len(f"w{n}") for n in range(50)))
    assert [one["choices"][0]["delta"]["content"] for one in meaning(taken.data)] == [f"w{n}" for n in range(50)]
    assert not decoded
    assert tube.text_bytes == 2 + taken.text_bytes


ODD = {
    "model": say("a", model="other"),
    "created": say("a", created=1),
    "id": say("a", id="other"),
    "finish": chunk(choice({"content": "a"}, "stop")),
    "usage": chunk(choice({"content": "a"}), usage={"prompt_tokens": 1}),
    "error": {"error": {"message": "m"}},
    "noise": b"ping",
    "index": say("a", index=1),
    "role": ROLE,
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_frames_are_taken_up_to_the_first_other_one(odd, at):
    tube = chunks_tube()
    tube.received(framed(ROLE, say("a"), say("b")))
    read = framed(say("c"), say("d"))
    read[at:at] = framed(odd)
    before = tube.text_bytes
    taken = tube.take(b"".join(frame.raw for frame in read))
    if at:
        assert b"".join(frame.raw for frame in read[:at]).startswith(b"".join(f.raw for f in read)[: taken.used])
        assert tube.text_bytes == before + taken.text_bytes
    else:
        assert taken is None
        assert tube.text_bytes == before


@pytest.mark.parametrize("cut", [b"\n", b"data: x", b": c\n\n", b"\r\n", b"id: 1\n", b"data"])
def test_only_whole_frames_are_taken(cut):
    tube = chunks_tube()
    tube.received(framed(ROLE, say("a")))
    (frame,) = framed(say("b"))
    assert tube.take(frame.raw).used == len(frame.raw)
    assert tube.take(frame.raw + cut).used == len(frame.raw)
    assert tube.take(cut + frame.raw) is None
    assert tube.take(frame.raw[:-1]) is None
    assert tube.take(b"") is None


def test_the_end_marker_is_taken_and_nothing_behind_it():
    tube = chunks_tube()
    tube.received(framed(ROLE, say("a"), chunk(choice({}, "stop"))))
    read = framed(say("c"), b"[DONE]", say("d"))
    taken = tube.take(b"".join(frame.raw for frame in read))
    assert (taken.frames, taken.events, taken.used) == (1, 2, len(read[0].raw + read[1].raw))
    assert tube.ended
    assert tube.complete


def test_nothing_is_taken_after_the_end():
    tube = chunks_tube()
    (frame,) = framed(say("b"))
    tube.received([*framed(ROLE, say("a")), Frame(b"[DONE]")])
    assert tube.take(frame.raw) is None


def test_a_stream_of_ever_new_shapes_is_not_remembered():
    tube = chunks_tube()
    for frame in framed(*[say("a", id=f"id-{n}") for n in range(500)]):
        assert tube.received([frame])
    assert len(tube._shortcuts._shapes) <= 8


# From stream to stream of one target

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def answer(number, reason="stop", early=(), **late):
    """The bytes of a stream's frames: a role, three texts, a reason, usage; `early` and `late` beside the choices."""
    stamp = {"id": f"chatcmpl-{number}", "created": 1_700_000_000 + number, **dict(early), "choices": []}
    said = [choice({"content": f"{number} {text}"}) for text in ("a", "b", "c")]
    counted = {**USAGE, "prompt_tokens_details": {"cached_tokens": number}}
    chunks = [choice({"role": "assistant", "content": ""}), *said, choice({}, reason)]
    made = [{**chunk(), **stamp, "choices": [one], **late} for one in chunks]
    order = ("id", "object", "created", "model", *dict(early), "choices", "usage", *late)
    made.append({**chunk(), **stamp, "usage": counted, **late})
    return [frame.raw for frame in framed(*({key: one[key] for key in order if key in one} for one in made), b"[DONE]")]


def marked(number):
    """With a fingerprint, as OpenAI has it."""
    return answer(number, early={"service_tier": "default", "system_fingerprint": f"fp_%{number}"})


def padded(frames):
    """The same with an `obfuscation` of another length in each frame."""
    return [frame.replace(b"}\n\n", b',"obfuscation":"%b"}\n\n' % (b"x" * at)) for at, frame in enumerate(frames)]


@pytest.mark.parametrize("cut", [None, 1, 700])
@pytest.mark.parametrize("shown", ["gpt", None])
@pytest.mark.parametrize("usage_shown", [True, False])
@pytest.mark.parametrize("write", [answer, marked, lambda n: padded(answer(n))])
def test_the_next_stream_of_a_target_is_not_decoded(write, usage_shown, shown, cut, decoded):
    habits = Habits()
    for number in range(1, 4):
        stream = b"".join(write(number * 3))
        slow = plain(chunks_tube(usage_shown, shown))
        exact = by_reads(slow, stream)
        decoded.clear()
        fast = chunks_tube(usage_shown, shown, habits)
        sizes = () if cut is None else [len(frame) for frame in write(number * 3)] if cut == 1 else [cut] * 20
        assert by_reads(fast, stream, sizes) == exact
        if number > 1 and cut != 700:
            assert not decoded
        assert fast.usage == slow.usage
        assert fast.usage.cache_read == number * 3
        assert (fast.complete, fast.ended, fast.finish_reason) == (True, True, "stop")
        assert (fast.provider_request_id, fast.text_bytes) == (f"chatcmpl-{number * 3}", slow.text_bytes)


OTHERWISE = {
    "another reason": (4, b'"stop"', b'"length"'),
    "no reason": (4, b'"stop"', b"null"),
    "an error": (4, b'"choices":', b'"error":{"message":"m"},"choices":'),
    "another model": (4, b"gpt-4o-2024", b"gpt-4o-2025"),
    "another id": (4, b"chatcmpl-2", b"chatcmpl-3"),
    "another time": (5, b"1700000002", b"1700000003"),
    "a longer time": (5, b"1700000002", b"17000000021"),
    "a time that is none": (5, b"1700000002", b"1700000002.5"),
    "broken usage": (5, b'"prompt_tokens":3', b'"prompt_tokens":'),
    "usage that ends too soon": (5, b'"prompt_tokens":3', b'"prompt_tokens":3}'),
    "usage in lines": (5, b'"prompt_tokens":3', b'\ndata: "prompt_tokens":3'),
    "usage with a name in it": (5, b'"prompt_tokens":3', b'"model":"gpt-4o-2024","prompt_tokens":3'),
    "usage that is not ASCII": (5, b'"prompt_tokens":3', b'"\xe2\x80\xa8":0,"prompt_tokens":3'),
    "usage that is a list": (5, b'"usage":{', b'"usage":[],"x":{'),
    "usage twice": (5, b'"usage":{', b'"usage":{"completion_tokens":9},"usage":{'),
    "no usage": (5, b'"usage":{', b'"usage":null,"x":{'),
    "a text": (4, b'"delta":{}', b'"delta":{"content":"x"}'),
    "an index": (4, b'"index":0', b'"index":1'),
    "no role": (0, b'"role":"assistant",', b""),
    "a role": (1, b'"content":', b'"role":"assistant","content":'),
    "no id": (0, b"chatcmpl-2", b""),
    "no time": (0, b"1700000002", b"0"),
    "no choice": (0, b'"delta":{"role":"assistant","content":""}', b'"x":0'),
    "no choices": (0, b'"choices":[', b'"choices":[],"x":['),
    "another first time": (0, b"1700000002", b"1700000003"),
    "a first time that grows": (0, b"1700000002", b"17000000020000000"),
    "another first model": (0, b"gpt-4o-2024", b"gpt-4o-2025"),
    "an error at first": (0, b'"choices":', b'"error":{"message":"m"},"choices":'),
    "a first text": (0, b'"content":""', b'"content":"x"'),
    "a first reason": (0, b'"finish_reason":null', b'"finish_reason":"stop"'),
    "a first usage": (0, b"]}", b'],"usage":{"prompt_tokens":3}}'),
    "a created twice": (0, b"]}", b'],"created":5}'),
    "an id twice": (0, b"]}", b'],"id":"other"}'),
    "a model twice": (0, b"]}", b'],"model":"other"}'),
    "broken at first": (0, b"]}", b"]"),
    "a quote in the id": (0, b"chatcmpl-2", b'chatcmpl-\\"2'),
}


@pytest.mark.parametrize("usage_shown", [True, False])
@pytest.mark.parametrize("shown", ["gpt", None])
@pytest.mark.parametrize(("at", "old", "new"), OTHERWISE.values(), ids=OTHERWISE)
def test_a_frame_that_is_otherwise_is_decoded(at, old, new, shown, usage_shown):
    habits = Habits()
    by_reads(chunks_tube(usage_shown, shown, habits), b"".join(answer(1)))
    frames = answer(2)
    assert old in frames[at]
    frames[at] = frames[at].replace(old, new, 1)
    for sizes in ((), [len(frame) for frame in frames]):
        fast, slow = chunks_tube(usage_shown, shown, habits), plain(chunks_tube(usage_shown, shown))
        assert meaning(by_reads(fast, b"".join(frames), sizes)) == meaning(by_reads(slow, b"".join(frames), sizes))
        check_learnt(fast, slow)


def test_what_is_remembered_of_a_target_is_bounded():
    habits = Habits()
    for number in range(1, 200):  # never the same way again
        by_reads(chunks_tube(habits=habits), b"".join(answer(number, early={"service_tier": f"{number}"})))
    assert len(habits._envelopes) == 4
    assert habits._lessons < 2, "the price of a lesson is not paid by each stream"
    habits = Habits()
    for number in range(1, 200):
        by_reads(chunks_tube(habits=habits), b"".join(answer(number, reason=f"r{number}")))
    (envelope,) = habits._envelopes
    assert len(envelope.lone) == 8
    assert len(envelope.texts) == 1
    habits = Habits()
    by_reads(chunks_tube(habits=habits), b"".join(answer(1, early={"service_tier": "y" * 5000})))
    assert not habits._envelopes
    by_reads(chunks_tube(habits=habits), b"".join(answer(1, reason="y" * 5000)))
    assert {lone.reason for lone in habits._envelopes[0].lone} == {None}


def kept(habits):
    return repr([(one.texts, one.first, one.lone, one.came, one.goes) for one in habits._envelopes])


@pytest.mark.parametrize(
    "more",
    [{"logprobs": {"content": ["secret"]}}, {"delta": {"annotations": ["secret"]}}, {"message": {"a": "secret"}}],
)
def test_nothing_that_is_said_is_remembered(more):
    habits = Habits()
    tube = chunks_tube(habits=habits)
    tube.received(framed(ROLE, say("secret"), chunk(choice({"reasoning_content": "secret"}))))
    tube.received(framed(chunk({**choice({}, "stop"), **more}), chunk({**choice({"content": "a"}), **more})))
    assert habits._envelopes
    assert "secret" not in kept(habits)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("name", ["citations", "search_results"])
def test_nothing_that_was_found_for_an_answer_is_remembered(name, early):
    habits, found = Habits(), {name: [{"title": "secret"}]}
    stream = answer(1, early=found) if early else answer(1, **found)
    by_reads(chunks_tube(habits=habits), b"".join(stream))
    assert "secret" not in kept(habits)


def test_what_a_filter_says_of_each_text_does_not_hinder(decoded):
    habits = Habits()
    told = {"content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}
    chunks = [ROLE, *(chunk(choice({"content": text}, **told)) for text in "ab"), chunk(choice({}, "stop"))]
    stream = b"".join(b"data: " + dumps(one) + b"\n\n" for one in chunks)
    for _ in range(2):
        decoded.clear()
        by_reads(chunks_tube(habits=habits), stream)
    assert not decoded


def test_streams_at_the_same_time_teach_the_same():
    habits = Habits()
    tubes = [chunks_tube(habits=habits) for _ in range(3)]
    for frames in zip(*map(marked, range(1, 4)), strict=True):
        for tube, frame in zip(tubes, frames, strict=True):
            tube.received(Reader().received(frame))
    (envelope,) = habits._envelopes
    assert (len(envelope.texts), len(envelope.first), len(envelope.lone)) == (1, 1, 2)


def test_a_target_that_writes_otherwise_from_now_on_is_learnt_anew(decoded):
    habits = Habits()
    for number in range(1, 200):
        early = {"service_tier": "old" if number < 100 else "new"}
        by_reads(chunks_tube(habits=habits), b"".join(answer(number, early=early)))
    decoded.clear()
    by_reads(chunks_tube(habits=habits), b"".join(answer(201, early={"service_tier": "new"})))
    assert not decoded


def test_a_member_that_comes_twice_is_not_believed_the_first_time():
    """The first frame begins as known, and takes it back further on."""
    for again in (b'"created":5', b'"id":"other"', b'"model":"other"'):
        habits = Habits()
        by_reads(chunks_tube(habits=habits), b"".join(answer(1)))
        stream = answer(2)
        stream[0] = stream[0].replace(b"]}\n\n", b"]," + again + b"}\n\n")
        fast, slow = chunks_tube(shown=None, habits=habits), plain(chunks_tube(shown=None))
        assert meaning(by_reads(fast, b"".join(stream))) == meaning(by_reads(slow, b"".join(stream)))
        assert (fast.provider_model, fast.provider_request_id) == (slow.provider_model, slow.provider_request_id)


def test_targets_and_edits_have_habits_of_their_own():
    from twisted_gateway.formats.openai_chunks import habits_of

    one, other = target(), target(upstream_model="another")
    known = habits_of("chat", chat_call(), one, "gpt")
    assert known is habits_of("chat", chat_call(), target(), "gpt")
    assert known is not habits_of("chat", chat_call(), other, "gpt")
    assert known is not habits_of("chat", chat_call(usage_shown=False), one, "gpt")
    assert known is not habits_of("chat", chat_call(), one, None)
    assert known is not habits_of("chat", chat_call(), target(reasoning_field="thoughts"), "gpt")


TEXTS = [say("a"), say("b"), say("")]
END = chunk(choice({}, "stop"))
TOLD = {"prompt_tokens": 7, "completion_tokens": 9}


@pytest.mark.parametrize("usage_shown", [True, False])
@pytest.mark.parametrize(
    ("before", "now"),
    [
        ([*TEXTS, END, chunk(usage=[1])], [*TEXTS, END, chunk(usage={})]),  # no object: nobody gets that
        ([*TEXTS, END], [say("a", usage={}), say("b", usage={}), say("", usage={}), END]),  # a usage, and no text
        ([say("a", x_groq={"usage": TOLD}), END], [say("b", x_groq={"usage": TOLD}), END]),  # another's tokens
    ],
    ids=["usage in a list", "usage beside an empty text", "usage of Groq beside a text"],
)
def test_odd_usage_teaches_nothing_wrong(before, now, usage_shown):
    before, now = (b"".join(b"data: " + dumps(one) + b"\n\n" for one in (ROLE, *each)) for each in (before, now))
    check(now, before=before, usage_shown=usage_shown)


MEMBERS = [
    *(b'"usage":{"prompt_tokens":4},', b'"usage":null,', b'"usage":[1],', b'"x_groq":{"usage":{"prompt_tokens":8}},'),
    *(b'"content":"zz",', b'"c\\u006fntent":"u",', b'"text":"t",', b'"role":"x",', b'"delta":{},', b'"error":null,'),
    *(b'"id" : "q",', b'"\\u0069d":"e",', b'"created":7,', b'"model":"m9",', b'"choices":[],', b'"index":1,'),
    *(b'"finish_reason":"stop",', b'"finish_reason":null,', b'"obfuscation":"q",', b'"system_fingerprint":"f9",'),
]
SCRAPS = [b'"', b"\\", b",", b"{", b"}", b"\n\n", b"\r", b" ", b"\xff", b"%b", b""]


@st.composite
def spoilt(draw):
    """A stream of a target, of which one frame says something else, or nothing that can be read."""
    write = draw(st.sampled_from([answer, marked, lambda n: padded(answer(n))]))
    stream = write(draw(st.integers(1, 3)))
    at = draw(st.integers(0, len(stream) - 1))
    frame = stream[at]
    if draw(st.booleans()):
        places = [place + 1 for place, byte in enumerate(frame) if byte in b"{,"] or [len(frame)]
        place = draw(st.sampled_from(places))
        stream[at] = frame[:place] + draw(st.sampled_from(MEMBERS)) + frame[place:]
    else:
        place = draw(st.integers(0, len(frame) - 1))
        stream[at] = frame[:place] + draw(st.sampled_from(SCRAPS)) + frame[place + draw(st.integers(0, 3)) :]
    return b"".join(stream)


@settings(deadline=None, max_examples=500)
@given(
    stream=spoilt(),
    before=spoilt(),
    sizes=st.lists(st.integers(1, 900), max_size=4),
    usage_shown=st.booleans(),
    shown=st.sampled_from(["gpt", "%b", None]),
)
def test_one_odd_frame_before_or_now_changes_nothing(stream, before, sizes, usage_shown, shown):
    check(stream, sizes, before, usage_shown=usage_shown, shown=shown)
