"""Request bodies: what is refused and how, and what is sent on (`streaming.md` 2 and 3)."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twisted_gateway.errors import Refused
from twisted_gateway.formats import openai_chat
from twisted_gateway.formats.openai_chat import read_call, sent

from ..exchanges import Headers
from .making import target

JSON = Headers({"content-type": "application/json"})
MESSAGES = b'[{"role":"user","content":"hi"}]'
INVALID = "request payload is invalid: invalid JSON request body"


def body(**members):
    """A good body with these members of raw JSON; None leaves one out."""
    found = {"model": b'"gpt"', "messages": MESSAGES} | members
    return b"{" + b",".join(b'"%s":%s' % (k.encode(), v) for k, v in found.items() if v is not None) + b"}"


def refused(data, headers=JSON):
    with pytest.raises(Refused) as caught:
        read_call(data, headers)
    problem = caught.value.problem
    assert (problem.status, problem.type, problem.code) == (400, "invalid_request_error", None)
    return problem.message, problem.param


BAD = {
    "empty": (b"", None),
    "blank": (b"  ", None),
    "not JSON": (b"hello", None),
    "cut": (body()[:-1], None),
    "trailing": (body() + b"x", None),
    "two": (body() + body(), None),
    "list": (b"[]", None),
    "text": (b'"x"', None),
    "null": (b"null", None),
    "NaN": (body(temperature=b"NaN"), None),
    "comment": (b"{/**/}", None),
    "trailing comma": (body()[:-1] + b",}", None),
    "single quotes": (b"{'model':'x'}", None),
    "not UTF-8": (body(user=b'"\xff"'), None),
    "latin-1": (body(user='"ä"'.encode("latin-1")), None),
    "UTF-16": (body().decode().encode("utf-16"), None),
    "overlong UTF-8": (body(user=b'"\xc0\xaf"'), None),
    "encoded surrogate": (body(user=b'"\xed\xa0\x80"'), None),
    "two byte order marks": (b"\xef\xbb\xbf" * 2 + body(), None),
    "no model": (body(model=None), "model"),
    "model null": (body(model=b"null"), "model"),
    "model number": (body(model=b"5"), "model"),
    "model list": (body(model=b'["gpt"]'), "model"),
    "no messages": (body(messages=None), "messages"),
    "messages null": (body(messages=b"null"), "messages"),
    "messages text": (body(messages=b'"hi"'), "messages"),
    "messages object": (body(messages=b"{}"), "messages"),
    "a message that is text": (body(messages=b'["hi"]'), "messages[0]"),
    "no role": (body(messages=b'[{"role":"user"},{"content":"x"}]'), "messages[1]"),
    "role null": (body(messages=b'[{"role":null}]'), "messages[0].role"),
    "role number": (body(messages=b'[{"role":"user"},{"role":"x"},{"role":1}]'), "messages[2].role"),
    "stream text": (body(stream=b'"true"'), "stream"),
    "stream number": (body(stream=b"1"), "stream"),
    "stream object": (body(stream=b"{}"), "stream"),
}


@pytest.mark.parametrize(("data", "param"), BAD.values(), ids=BAD)
def test_bad_bodies(data, param):
    assert refused(data) == (INVALID, param)


def test_no_messages():
    assert refused(body(messages=b"[]")) == ("request payload is invalid: messages array must not be empty", None)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("where", ["top", "member", "messages", "content", "stream_options"])
def test_nesting_bombs(opening, where):
    bomb = opening * 60_000
    data = {
        "top": bomb,
        "member": body(x=bomb),
        "messages": body(messages=bomb),
        "content": body(messages=b'[{"role":"user","content":' + bomb + b"}]"),
        "stream_options": body(stream_options=bomb),
    }[where]
    assert refused(data)[0] == INVALID
    closing = {b"[": b"]", b'{"a":': b"}", b'[{"a":': b"}]"}[opening]
    whole = opening * 30_000 + b"1" + closing * 30_000
    assert refused(body(x=whole))[0] == INVALID


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        ("application/json", True),
        ("application/json; charset=utf-8", True),
        ("application/json;charset=UTF-8", True),
        ("Application/JSON", True),
        (" application/json ", True),
        ("application/vnd.api+json", True),
        ("application/problem+json; x=y", True),
        (None, False),
        ("", False),
        ("text/plain", False),
        ("text/json", False),
        ("application/x-www-form-urlencoded", False),
        ("application/jsonx", False),
        ("application/json, text/plain", False),
        ("multipart/form-data; boundary=x", False),
    ],
)
def test_content_types(kind, good):
    headers = Headers({} if kind is None else {"content-type": kind})
    if good:
        assert read_call(body(), headers).model == "gpt"
    else:
        assert refused(body(), headers) == (INVALID, None)


@pytest.mark.parametrize(
    ("data", "model", "stream"),
    [
        (body(), "gpt", False),
        (b"\xef\xbb\xbf" + body(), "gpt", False),
        (b" \n" + body() + b"\n", "gpt", False),
        (body(stream=b"true"), "gpt", True),
        (body(stream=b"false"), "gpt", False),
        (body(stream=b"null"), "gpt", False),
        (body(model=b'""'), "", False),
        (body(model=b'"g\\u00f6\\"t"'), 'gö"t', False),
        (b'{"model":"a","model":"b","stream":true,"stream":false,"messages":' + MESSAGES + b"}", "b", False),
        (b'{"mod\\u0065l":"b","messages":' + MESSAGES + b"}", "b", False),
        (body(messages=b'[{"role":"developer","content":null,"x":1},{"role":"anything"}]'), "gpt", False),
    ],
)
def test_good_bodies(data, model, stream):
    call = read_call(data, JSON)
    assert (call.model, call.stream, call.body) == (model, stream, data)


@pytest.mark.parametrize(
    ("messages", "more", "size"),
    [
        (b'[{"role":"user","content":"hello"}]', {}, 5),
        ('[{"role":"user","content":"äö"}]'.encode(), {}, 4),
        (b'[{"role":"user","content":"\\u00e4\\n"}]', {}, 3),
        (b'[{"role":"user","content":[{"type":"text","text":"abc"},{"type":"text","text":"d"}]}]', {}, 4),
        (b'[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:xxxxx"}}]}]', {}, 340),
        (b'[{"role":"user"},{"role":"user","content":null},{"role":"user","content":5}]', {}, 0),
        (b'[{"role":"user","content":"a"}]', {"tools": b'[{"x":1}]'}, 10),
    ],
)
def test_prompt_bytes(messages, more, size):
    assert read_call(body(messages=messages, **more), JSON).prompt_bytes == size


# What is sent on


def edited(data, ask_usage=True, **options):
    made = sent(read_call(data, JSON), target(**options), ask_usage)
    assert made.path == "/chat/completions"
    return made.body, made.asked_usage, made.accept


USAGE = {
    "none": (None, b'{"include_usage":true}', True, False),
    "null": (b"null", b'{"include_usage":true}', True, False),
    "empty": (b"{}", b'{"include_usage":true}', True, False),
    "other member": (b'{"x": 1.0e0}', b'{"x":1.0e0,"include_usage":true}', True, False),
    "false": (b'{"include_usage": false, "x":1}', b'{"include_usage":true,"x":1}', True, False),
    "null inside": (b'{"include_usage": null}', b'{"include_usage":true}', True, False),
    "true": (b'{"include_usage" : true}', b'{"include_usage" : true}', False, True),
    "true and more": (b'{"x":0.10,"include_usage":true}', b'{"x":0.10,"include_usage":true}', False, True),
    "not an object": (b"5", b"5", False, False),
    "a list": (b"[]", b"[]", False, False),
}


@pytest.mark.parametrize(("given", "expected", "asked", "shown"), USAGE.values(), ids=USAGE)
def test_usage_is_asked_for(given, expected, asked, shown):
    data = body(stream=b"true", stream_options=given, n=b"2")
    assert read_call(data, JSON).usage_shown is shown
    out, told, accept = edited(data)
    assert accept == "text/event-stream"
    assert told is asked
    members = [(b"model", b'"gpt-4o-2024"'), (b"messages", MESSAGES), (b"stream", b"true")]
    if given is None:
        members += [(b"n", b"2"), (b"stream_options", expected)]
    else:
        members += [(b"stream_options", expected), (b"n", b"2")]
    assert out == b"{" + b",".join(b'"%s":%s' % pair for pair in members) + b"}"


@pytest.mark.parametrize("given", [given for given, *_ in USAGE.values()])
@pytest.mark.parametrize("why", ["not streamed", "refused before"])
def test_usage_is_not_asked_for(given, why):
    data = body(stream=b"true" if why == "refused before" else None, stream_options=given)
    out, asked, _ = edited(data, ask_usage=why != "refused before")
    assert not asked
    assert out == data.replace(b'"gpt"', b'"gpt-4o-2024"'), "an option of the caller's stays as it is"


def test_everything_else_stays_as_it_was_written():
    data = b"""{ "temperature" : 1.0e0,"top_p":0.10,
      "messages" : [ {"role":"user","content":"a\\u0062\\/" , "x":{"y":[1,2]}} ],
      "seed": 123456789012345678901234567890, "big":1E400, "model": "gpt",
      "\\u00e4" : {"z": -0.0}, "stream": false, "u":"\xc3\xa4" }"""
    out, _, accept = edited(data)
    assert accept == "application/json"
    assert out == (
        b'{"temperature":1.0e0,"top_p":0.10,'
        b'"messages":[ {"role":"user","content":"a\\u0062\\/" , "x":{"y":[1,2]}} ],'
        b'"seed":123456789012345678901234567890,"big":1E400,"model":"gpt-4o-2024",'
        b'"\xc3\xa4":{"z": -0.0},"stream":false,"u":"\xc3\xa4"}'
    )


def test_a_member_written_twice_is_sent_once():
    data = b'{"model":"a","x":1,"model":"b","x":2,"messages":' + MESSAGES + b',"mod\\u0065l":"c"}'
    assert read_call(data, JSON).model == "c"
    assert edited(data)[0] == b'{"model":"gpt-4o-2024","x":2,"messages":' + MESSAGES + b"}"


@pytest.mark.parametrize("name", ["m", 'a"b\\', "ä\u2028", "\x00"])
def test_the_upstream_name_is_escaped(name):
    out = edited(body(), upstream_model=name)[0]
    assert json.loads(out)["model"] == name


EDITS = {
    "rename": (
        {"param_renames": {"max_tokens": "max_completion_tokens"}},
        {"max_tokens": b"5"},
        b'"max_completion_tokens":5',
    ),
    "rename, both there": (
        {"param_renames": {"max_tokens": "max_completion_tokens"}},
        {"max_tokens": b"5", "max_completion_tokens": b"6"},
        b'"max_completion_tokens":5',
    ),
    "rename, other order": (
        {"param_renames": {"max_tokens": "max_completion_tokens"}},
        {"max_completion_tokens": b"6", "max_tokens": b"5"},
        b'"max_completion_tokens":5',
    ),
    "rename, not there": ({"param_renames": {"x": "y"}}, {"y": b"6"}, b'"y":6'),
    "rename to itself": ({"param_renames": {"y": "y"}}, {"y": b"6"}, b'"y":6'),
    "default": ({"default_body_fields": {"top_k": 5}}, {}, b'"top_k":5'),
    "default, caller's wins": ({"default_body_fields": {"top_k": 5}}, {"top_k": b"1e1"}, b'"top_k":1e1'),
    "default after rename": ({"param_renames": {"a": "b"}, "default_body_fields": {"b": 5}}, {"a": b"1"}, b'"b":1'),
}


@pytest.mark.parametrize(("request_edits", "given", "expected"), EDITS.values(), ids=EDITS)
def test_edits_of_a_provider_key(request_edits, given, expected):
    out = edited(body(**given), request=request_edits)[0]
    assert out == b'{"model":"gpt-4o-2024","messages":' + MESSAGES + b"," + expected + b"}"


@pytest.mark.parametrize(
    ("low", "high", "given", "expected"),
    [
        (None, None, b"5.0", b"5.0"),
        (None, 1.0, b"0.70", b"0.70"),
        (None, 1.0, b"2", b"1.0"),
        (0.01, 1.0, b"0", b"0.01"),
        (0.5, None, b"-1", b"0.5"),
        (None, 1.0, b'"hot"', b'"hot"'),
        (None, 1.0, b"true", b"true"),
        (None, 1.0, b"null", b"null"),
    ],
)
def test_temperature_is_clamped(low, high, given, expected):
    from twisted_gateway.config.resources import ParamConstraints

    bounds = ParamConstraints(temperature_min=low, temperature_max=high)
    out = edited(body(temperature=given), request={"param_constraints": bounds})[0]
    assert out.endswith(b',"temperature":' + expected + b"}")
    assert b"temperature" not in edited(body(), request={"param_constraints": bounds})[0]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            b'[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]',
            [{"role": "user", "content": "ab"}],
        ),
        (b'[{"role":"user","content":"a"}]', [{"role": "user", "content": "a"}]),
        (
            b'[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url"}]}]',
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}],
        ),
        (b'[{"role":"user","content":[]}]', [{"role": "user", "content": ""}]),
    ],
)
def test_contents_flattened(messages, expected):
    assert json.loads(edited(body(messages=messages), content_list_to_string=True)[0])["messages"] == expected
    assert messages in edited(body(messages=messages))[0], "only when the provider key asks for it"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.text(max_size=6).filter(lambda n: n not in ("model", "messages", "stream", "stream_options")),
        json_values,
        max_size=4,
    ),
    st.booleans(),
)
def test_any_other_members_survive(members, ascii_only):
    given = {**members, "model": "gpt", "messages": [{"content": "x", **members, "role": "user"}]}
    data = json.dumps(given, ensure_ascii=ascii_only).encode("utf-8", "replace")
    given = json.loads(data)
    out = json.loads(edited(data)[0])
    assert out == given | {"model": "gpt-4o-2024"}
    assert list(out) == list(given)


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.builds(lambda a, b: body()[: a % 60] + b + body()[a % 60 :], st.integers(0, 60), st.binary(max_size=4)),
    )
)
def test_garbage_is_refused_or_read(data):
    try:
        call = read_call(data, JSON)
    except Refused:
        assert refused(data)[0].startswith("request payload is invalid: ")
    else:
        assert msgspec.json.decode(data) is not None
        assert isinstance(call.model, str)
        openai_chat.sent(call, target(), True)
