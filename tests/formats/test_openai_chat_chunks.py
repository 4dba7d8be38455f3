"""The chunk contract of `streaming.md` 15.1 and 15.2, row by row."""

import json

import pytest

from twisted_gateway.formats.openai_chat import DONE
from twisted_gateway.wire.sse import Frame, encode

from .making import LETTERS, NOW, ROLE, choice, chunk, chunks_tube, dumps, framed, joined, say, written

STOP = chunk(choice({}, "stop"))
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12, "extra": {"x": 1}}


def through(*chunks, **options):
    """What the caller reads of these chunks, each coming in a read of its own."""
    tube = chunks_tube(**options)
    return written([frame for frame in framed(*chunks) for frame in tube.received([frame])])


def without(record, *names):
    return {name: value for name, value in record.items() if name not in names}


# 15.1 The envelope


@pytest.mark.parametrize(
    ("member", "given", "expected"),
    [
        ("id", ["x", "x"], ["x", "x"]),
        ("id", [None, None], [f"chatcmpl-{LETTERS}"] * 2),
        ("id", ["", ""], [f"chatcmpl-{LETTERS}"] * 2),
        ("id", [7, 7], [f"chatcmpl-{LETTERS}"] * 2),
        ("id", ["x", ""], ["x", "x"]),
        ("object", [None, "x"], ["chat.completion.chunk"] * 2),
        ("object", ["chat.completion", ""], ["chat.completion.chunk"] * 2),
        ("created", [17, 17], [17, 17]),
        ("created", [17, 18], [17, 17]),
        ("created", [0, 18], [int(NOW)] * 2),
        ("created", [None, None], [int(NOW)] * 2),
        ("created", ["17", -1], [int(NOW)] * 2),
        ("created", [1.5, True], [int(NOW)] * 2),
        ("model", ["other", "other"], ["gpt", "gpt"]),
        ("model", ["other", "third"], ["gpt", "gpt"]),
        ("model", [None, ""], ["gpt", "gpt"]),
        ("model", [5, "x"], ["gpt", "gpt"]),
    ],
)
def test_envelope_members(member, given, expected):
    chunks = [say("a") | {member: value} for value in given]
    assert [one[member] for one in through(*chunks)] == expected
    absent = [without(one, member) if one[member] is None else one for one in chunks]
    assert [one[member] for one in through(*absent)] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [(["up"], ["up"]), (["up", None], ["up", "up"]), (["", "up"], ["", "up"]), (["up", "down"], ["up", "down"])],
)
def test_a_wildcard_keeps_the_providers_name(given, expected):
    assert [one["model"] for one in through(*[say("a", model=name) for name in given], shown=None)] == expected


@pytest.mark.parametrize("error", [None, "", {}, False, 0])
def test_a_falsy_error_is_dropped(error):
    (one,) = through(say("a", error=error))
    assert "error" not in one
    assert one["choices"][0]["delta"] == {"role": "assistant", "content": "a"}


def test_unknown_members_are_kept_at_every_level():
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}], "refusal": None}
    delta = {"role": "assistant", "content": "a", "annotations": [{"x": 1}], "reasoning_details": [{"t": 1}]}
    delta |= {
        "refusal": None,
        "audio": {"id": "a"},
        "function_call": {"name": "f", "arguments": ""},
        "obfuscation": "zz",
    }
    one = chunk(choice(delta, logprobs=logprobs, content_filter_results={"hate": {"filtered": False}}))
    one |= {
        "system_fingerprint": "fp",
        "service_tier": "default",
        "citations": ["u"],
        "x": {"deep": [1.5, {"y": None}]},
    }
    (seen,) = through(one)
    assert seen == one | {"model": "gpt"}
    assert list(seen) == list(one)


# 15.1 Choices


def test_all_choices_keep_their_index():
    (one,) = through(chunk(choice({"content": "a"}, index=0), choice({"content": "b"}, index=3)))
    assert [(entry["index"], entry["delta"]["content"]) for entry in one["choices"]] == [(0, "a"), (3, "b")]


@pytest.mark.parametrize("index", [None, "0", True])
def test_an_index_that_is_none_is_0(index):
    entry = choice({"content": "a"}) | {"index": index}
    assert through(chunk(entry))[0]["choices"][0]["index"] == 0
    assert through(chunk(without(entry, "index")))[0]["choices"][0]["index"] == 0


@pytest.mark.parametrize("delta", [None, "absent", "text", []])
def test_delta_is_always_an_object(delta):
    entry = choice(delta, "stop")
    entry = without(entry, "delta") if delta == "absent" else entry
    seen = through(ROLE, chunk(entry))[-1]
    assert seen["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}


@pytest.mark.parametrize("given", [{}, {"finish_reason": None}, {"finish_reason": ""}, {"finish_reason": 5}])
def test_finish_reason_is_null_until_there_is_one(given):
    entry = without(choice({"content": "a"}), "finish_reason") | given
    assert through(chunk(entry))[0]["choices"][0]["finish_reason"] is None


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter", "function_call", "eos", "abort"])
def test_finish_reasons_pass(reason):
    tube = chunks_tube()
    seen = written(tube.received(framed(ROLE, chunk(choice({}, reason)))))
    assert seen[-1]["choices"][0]["finish_reason"] == reason
    assert (tube.finish_reason, tube.complete, tube.ended) == (reason, True, False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            [{"role": "assistant", "content": ""}, {"content": "a"}],
            [{"role": "assistant", "content": ""}, {"content": "a"}],
        ),
        ([{"content": "a"}, {"content": "b"}], [{"role": "assistant", "content": "a"}, {"content": "b"}]),
        ([{"role": "assistant", "content": "a"}] * 2, [{"role": "assistant", "content": "a"}, {"content": "a"}]),
        ([{"role": None, "content": "a"}, {"role": None}], [{"role": "assistant", "content": "a"}, {}]),
        ([{"role": "", "content": "a"}, {"role": ""}], [{"role": "assistant", "content": "a"}, {}]),
        ([{}, {"role": "assistant"}], [{"role": "assistant"}, {}]),
        ([{"content": None}, {"content": ""}], [{"role": "assistant", "content": None}, {"content": ""}]),
    ],
)
def test_role_comes_first_and_once(given, expected):
    assert [one["choices"][0]["delta"] for one in through(*[chunk(choice(delta)) for delta in given])] == expected


def test_each_choice_has_its_own_role():
    seen = through(say("a"), say("b", index=1), say("c"), say("d", index=1))
    assert [one["choices"][0]["delta"].get("role") for one in seen] == ["assistant", "assistant", None, None]


# 15.1 Reasoning


@pytest.mark.parametrize(
    ("delta", "field", "expected"),
    [
        ({"reasoning": "r"}, None, {"reasoning_content": "r"}),
        ({"reasoning": ""}, None, {"reasoning_content": ""}),
        ({"reasoning": None}, None, {"reasoning": None}),
        ({"reasoning": {"x": 1}}, None, {"reasoning": {"x": 1}}),
        ({"reasoning": "r", "reasoning_content": "c"}, None, {"reasoning_content": "c"}),
        ({"reasoning": "r", "reasoning_content": ""}, None, {"reasoning_content": "r"}),
        ({"reasoning": "r", "reasoning_content": None}, None, {"reasoning_content": "r"}),
        ({"reasoning_content": "c"}, None, {"reasoning_content": "c"}),
        ({"thought": "t"}, None, {"thought": "t"}),
        ({"thought": "t"}, "thought", {"reasoning_content": "t"}),
        ({"extra": {"thought": "t", "x": 1}}, "extra.thought", {"extra": {"x": 1}, "reasoning_content": "t"}),
        ({"extra": "t"}, "extra.thought", {"extra": "t"}),
        ({"reasoning_content": "c"}, "reasoning_content", {"reasoning_content": "c"}),
        (
            {"reasoning": "r", "reasoning_details": [{"text": "r"}]},
            None,
            {"reasoning_details": [{"text": "r"}], "reasoning_content": "r"},
        ),
    ],
)
def test_reasoning_has_one_name(delta, field, expected):
    seen = through(ROLE, chunk(choice(delta)), reasoning_field=field)
    assert seen[-1]["choices"][0]["delta"] == expected


# 15.1 Tool calls


def tool(**members):
    name, arguments = members.pop("name", "absent"), members.pop("arguments", "absent")
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value != "absent"}
    return members | ({"function": function} if function else {})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            [tool(index=0, id="a", type="function", name="f", arguments=""), tool(index=0, arguments="{}")],
            [tool(index=0, id="a", type="function", name="f", arguments=""), tool(index=0, arguments="{}")],
            id="as it should be",
        ),
        pytest.param(
            [tool(index=0, id="a", type="function", name="f", arguments="")] * 2,
            [tool(index=0, id="a", type="function", name="f", arguments=""), tool(index=0, arguments="")],
            id="repeats",
        ),
        pytest.param(
            [tool(index=0, id="a", type="function", name="f"), tool(index=0, id="", type=None, name="", arguments="1")],
            [tool(index=0, id="a", type="function", name="f"), tool(index=0, arguments="1")],
            id="empty and null",
        ),
        pytest.param(
            [tool(index=0, id="a", name="f"), tool(index=0, id=None, type="", name=None, arguments="1")],
            [tool(index=0, id="a", name="f"), tool(index=0, arguments="1")],
            id="null and empty",
        ),
        pytest.param(
            [tool(index=0, id="a", name="get_"), tool(index=0, name="weather")],
            [tool(index=0, id="a", name="get_"), tool(index=0, name="weather")],
            id="a name in pieces",
        ),
        pytest.param(
            [tool(id="a", name="f"), tool(arguments="1"), tool(id="b", name="g"), tool(arguments="2")],
            [
                tool(id="a", name="f", index=0),
                tool(arguments="1", index=0),
                tool(id="b", name="g", index=1),
                tool(arguments="2", index=1),
            ],
            id="no index",
        ),
        pytest.param(
            [tool(id="a", name="f"), tool(id="b", name="g"), tool(id="a", arguments="1")],
            [tool(id="a", name="f", index=0), tool(id="b", name="g", index=1), tool(index=0, arguments="1")],
            id="no index, an old id",
        ),
        pytest.param(
            [tool(index=None, id="a"), tool(index="0", arguments="1")],
            [tool(index=0, id="a"), tool(index=0, arguments="1")],
            id="an index that is none",
        ),
    ],
)
def test_tool_calls(given, expected):
    seen = through(ROLE, *[chunk(choice({"tool_calls": [call]})) for call in given])
    calls = [one["choices"][0]["delta"]["tool_calls"][0] for one in seen[1:]]
    cleaned = [{k: v for k, v in call.items() if (k, v) != ("function", {})} for call in calls]
    assert cleaned == expected


def test_tool_calls_of_one_chunk():
    calls = [tool(index=0, id="a", name="f", arguments="1"), tool(index=1, id="b", name="g", arguments="2")]
    seen = through(chunk(choice({"role": "assistant", "tool_calls": calls})), chunk(choice({"tool_calls": calls})))
    again = [tool(index=0, arguments="1"), tool(index=1, arguments="2")]
    assert [one["choices"][0]["delta"]["tool_calls"] for one in seen] == [calls, again]
    assert joined(seen)[0]["delta"]["tool_calls"][1] == {"id": "b", "function": {"name": "g", "arguments": "22"}}


def test_choices_have_their_own_tool_calls():
    call = tool(index=0, id="a", name="f", arguments="")
    seen = through(*[chunk(choice({"role": "assistant", "tool_calls": [call]}, index=index)) for index in (0, 1)])
    assert [one["choices"][0]["delta"]["tool_calls"] for one in seen] == [[call], [call]]


# 15.2 Usage


@pytest.mark.parametrize(
    ("last", "shown", "hidden"),
    [
        pytest.param(chunk(usage=USAGE), {"choices": [], "usage": USAGE}, None, id="official"),
        pytest.param(chunk(choice({}), usage=USAGE), {"choices": [], "usage": USAGE}, None, id="an empty choice"),
        pytest.param(
            chunk(choice({"content": ""}), usage=USAGE), {"choices": [], "usage": USAGE}, None, id="empty content"
        ),
        pytest.param(
            chunk(choice({"content": "a"}), usage=USAGE),
            {"choices": [choice({"content": "a"})], "usage": USAGE},
            {"choices": [choice({"content": "a"})], "usage": USAGE},
            id="with content",
        ),
        pytest.param(
            chunk(choice({}, "stop"), usage=USAGE),
            {"choices": [choice({}, "stop")], "usage": USAGE},
            {"choices": [choice({}, "stop")], "usage": USAGE},
            id="with the finish reason",
        ),
        pytest.param(
            chunk(choice({"content": "a"}), usage=None),
            {"choices": [choice({"content": "a"})], "usage": None},
            {"choices": [choice({"content": "a"})]},
            id="null",
        ),
    ],
)
def test_usage_chunks(last, shown, hidden):
    for usage_shown, expected in ((True, shown), (False, hidden)):
        tube = chunks_tube(usage_shown)
        seen = written(tube.received(framed(ROLE, last)))[1:]
        assert [without(one, "id", "object", "created", "model") for one in seen] == ([expected] if expected else [])
        assert [one["model"] for one in seen] == ["gpt"] * len(seen)
        if last["usage"]:
            assert (tube.usage.prompt, tube.usage.completion, tube.usage.total, tube.usage.final) == (5, 7, 12, True)


@pytest.mark.parametrize("usage_shown", [True, False])
@pytest.mark.parametrize(
    ("given", "passes"),
    [
        (chunk(), False),
        (chunk(system_fingerprint="f", service_tier="s", obfuscation="x", usage=None), False),
        (chunk(prompt_filter_results=[{"prompt_index": 0}]), True),
        (chunk(anything=None), True),
        (chunk() | {"choices": None}, False),
        (chunk(x=1) | {"choices": None}, True),
    ],
)
def test_chunks_without_choices(given, passes, usage_shown):
    seen = through(given, usage_shown=usage_shown)
    assert len(seen) == passes
    if passes:
        assert seen[0]["choices"] == []


def test_no_usage_is_invented():
    assert "usage" not in json.dumps(through(ROLE, say("a"), STOP))


@pytest.mark.parametrize("member", ["usage", "x_groq"])
def test_usage_is_read_wherever_it_comes(member):
    report = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    tube = chunks_tube(usage_shown=False)
    tube.received(framed(ROLE, STOP | ({"usage": report} if member == "usage" else {"x_groq": {"usage": report}})))
    assert (tube.usage.prompt, tube.usage.completion) == (3, 2)


def test_usage_counters_are_maxima():
    tube = chunks_tube()
    reports = [{"prompt_tokens": 9, "completion_tokens": n} for n in (1, 5, 3)]
    tube.received(framed(*[say("a", usage=report) for report in reports]))
    assert (tube.usage.prompt, tube.usage.completion) == (9, 5)


# 7, 10, 11: noise, ends, errors


@pytest.mark.parametrize(
    ("data", "noise"),
    [
        (b"ping", 1),
        (b": keep-alive", 1),
        (b"OPENROUTER PROCESSING", 1),
        (b"[]", 1),
        (b"[1, 2]", 1),
        (b'{"a": 1}', 1),
        (b"", 0),
        (b"  ", 0),
        (b'"x"', 1),
    ],
)
def test_noise_is_dropped_and_counted(data, noise):
    tube = chunks_tube()
    assert tube.received([Frame(data)]) == []
    assert tube.noise == noise
    assert (tube.ended, tube.complete, tube.failure) == (False, False, None)


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[",
        b'{"choices":[}',
        b'{"choices":[]} x',
        b"[DONE",
        b'{"choices":[{"delta":' + b"[" * 100000,
        b"{" + b'"a":{' * 5000,
        b'{"choices":["x"]}',
        b'{"choices":[null]}',
        b'{"choices":[{"delta":{"tool_calls":["x"]}}]}',
    ],
    ids=lambda data: data[:20],
)
def test_what_no_chunk_can_be_ends_the_stream(data):
    tube = chunks_tube()
    out = tube.received([*framed(ROLE, say("a")), Frame(data), *framed(say("late"))])
    assert len(out) == 2, "what came before it is good, in the same read too"
    assert (tube.failure.status, tube.failure.frame_type) == (502, "upstream_decode_error")
    assert not tube.complete


@pytest.mark.parametrize("data", [b"[DONE]", b" [DONE] "])
def test_the_end_marker_ends_at_once(data):
    tube = chunks_tube()
    out = tube.received([*framed(ROLE), Frame(data), *framed(say("late"))])
    assert len(out) == 1
    assert (tube.ended, tube.complete) == (True, True)
    assert tube.received(framed(say("later"))) == []
    assert tube.stopped(True) == [DONE]


def test_nothing_but_done_at_a_clean_stop_and_nothing_at_another():
    assert encode(*chunks_tube().stopped(True)) == b"data: [DONE]\n\n"
    assert chunks_tube().stopped(False) == []


def test_complete_needs_every_choice_seen():
    tube = chunks_tube()
    assert not tube.complete
    tube.received(framed(say("a"), say("b", index=1)))
    assert not tube.complete
    tube.received(framed(chunk(choice({}, "stop"))))
    assert not tube.complete
    tube.received(framed(chunk(choice({}, "length", index=1))))
    assert tube.complete
    assert tube.finish_reason == "stop"


@pytest.mark.parametrize(
    ("error", "status", "message", "code"),
    [
        ({"message": "m", "type": "server_error", "code": None}, 502, "m", None),
        ({"message": "m", "code": 429}, 429, "m", None),
        ({"message": "m", "code": 503}, 502, "m", None),
        ({"message": "m", "code": "tool_use_failed", "status_code": 400}, 400, "m", "tool_use_failed"),
        ("text", 502, "text", None),
    ],
)
def test_an_error_in_the_stream(error, status, message, code):
    tube = chunks_tube()
    out = tube.received(framed(ROLE, {"error": error}, say("late")))
    assert len(out) == 1
    problem = tube.failure
    assert (problem.status, problem.message, problem.code, problem.frame_type) == (
        status,
        message,
        code,
        "upstream_in_band_error",
    )
    assert not tube.complete
    assert tube.received(framed(say("later"))) == []


def test_facts_for_the_record():
    tube = chunks_tube()
    text = {"content": "äh", "refusal": "no", "tool_calls": [tool(index=0, id="a", name="fn", arguments="{}")]}
    tube.received(framed(chunk(choice(text), id="up-1", model="up"), say("x", id="up-2", model="up-2")))
    assert (tube.provider_request_id, tube.provider_model) == ("up-1", "up")
    assert tube.text_bytes == len("äh".encode()) + len("no") + len("fn") + len("{}") + 1


# 6: what is written


def test_separators_are_escaped_in_what_passes_untouched():
    tube = chunks_tube()
    for text in ("a\u2028b\u2029c\u0085d", "e\u2028f", "g\u0085h"):
        out = b"".join(map(encode, tube.received(framed(say(text)))))
        assert not any(one in out.decode() for one in "\u2028\u2029\u0085")
        assert json.loads(out[6:])["choices"][0]["delta"]["content"] == text


@pytest.mark.parametrize(
    "data",
    [
        dumps(say("a"), spaced=True),
        dumps(say("a")).replace(b"gpt-4o-2024", b"gpt\\u002d4o-2024"),
        dumps(say("a") | {"meta": {"model": "gpt-4o-2024"}}),
        dumps({"meta": {"model": "gpt-4o-2024"}} | say("a")),
        dumps(say('"model":"gpt-4o-2024"')),
    ],
)
def test_the_name_is_replaced_however_it_is_written(data):
    tube = chunks_tube()
    expected = json.loads(data)
    expected["model"], expected["choices"][0]["delta"] = "gpt", {"role": "assistant", **expected["choices"][0]["delta"]}
    assert written(tube.received(framed(data))) == [expected]
    expected["choices"][0]["delta"].pop("role")
    assert written(tube.received(framed(data))) == [expected]


def test_a_frame_with_nothing_to_edit_is_written_as_it_came():
    raw = (
        b'data: {"object": "chat.completion.chunk", "id":"x","created":5,"model":"gpt","n":1.50e3,'
        b'"choices" : [{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]}\n\n'
    )
    tube = chunks_tube()
    (out,) = tube.received([Frame(raw[6:-2], b"", raw)])
    assert encode(out) == raw


def test_other_frames_have_one_data_line_and_no_event():
    tube = chunks_tube()
    frames = [
        Frame(dumps(ROLE), b"message", b"event: message\ndata: " + dumps(ROLE) + b"\n\n"),
        Frame(b'{"choices":\n[]}'),
    ]
    out = [encode(frame) for frame in tube.received([*frames, *framed(say("x"))])]
    assert all(one.startswith(b"data: {") and one.count(b"\n") == 2 for one in out)


ODD_TEXTS = {
    "not UTF-8": b"a\xffb",
    "half a character": b"\xf0\x9f\x98",
    "high surrogate": b"\\ud83d",
    "low surrogate": b"\\ude00",
    "surrogate and more": b"a\\ud83d\\n",
    "surrogates apart": b"\\ud83dx\\ude00",
}


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
def test_broken_text_is_replaced(text):
    """Also in frames of a known shape. Servers that cut text by UTF-16 units send half a pair in each chunk."""
    tube = chunks_tube()
    for _ in range(4):
        tube.received(framed(say("ok")))
        (frame,) = framed(dumps(say("%")).replace(b"%", text))
        taken = tube.take(frame.raw)
        out = taken.data if taken else b"".join(map(encode, tube.received([frame])))
        text_seen = json.loads(out[6:])["choices"][0]["delta"]["content"]
        assert "\ufffd" in text_seen
        text_seen.encode()


@pytest.mark.parametrize("text", [b"\\q", b"\\", b"\x01", b"\t", b"\\u12", b"\\u00zz", b'"'])
def test_broken_json_in_a_known_shape(text):
    tube = chunks_tube()
    tube.received(framed(say("ok"), say("ok")))
    (frame,) = framed(dumps(say("%")).replace(b"%", text))
    assert tube.take(frame.raw) is None
    tube.received([frame])
    assert tube.failure.type == "upstream_decode_error"


def test_backslashes_before_a_u_are_no_surrogates():
    tube = chunks_tube()
    (out,) = tube.received(framed(dumps(say("\\ud83d ok")).replace(b" ok", b"\\ud83d")))
    assert json.loads(encode(out)[6:])["choices"][0]["delta"]["content"] == "\\ud83d\ufffd"
