"""What a provider's error becomes (`errors-and-headers.md` 3, `streaming.md` 11.2), and how it is told (section 1)."""

import json

import pytest

from twisted_gateway.errors import Problem, bad_request, broken_off, no_room, quoted, shown, timed_out, too_large
from twisted_gateway.exchange import Usage
from twisted_gateway.formats.complaints import ANTHROPIC, BY_DIALECT, OPENAI, dialect_of
from twisted_gateway.formats.openai_errors import before_commit, error_body, in_band
from twisted_gateway.formats.openai_usage import count, read_usage
from twisted_gateway.wire.sse import encode

from ..doubles.recordings import each_recording


def facts(problem):
    return problem.status, problem.message, problem.code, problem.param


ERRORS = {
    "example": (
        400,
        {
            "error": {
                "message": "Invalid value for 'temperature'",
                "type": "x",
                "param": "temperature",
                "code": "invalid_value",
            }
        },
        (400, "Invalid value for 'temperature'", "invalid_value", "temperature"),
    ),
    "nulls": (400, {"error": {"message": "m", "param": None, "code": None}}, (400, "m", None, None)),
    "empty strings": (400, {"error": {"message": "m", "param": "", "code": ""}}, (400, "m", None, None)),
    "401": (
        401,
        {"error": {"message": "bad key", "code": "invalid_api_key"}},
        (401, "bad key", "invalid_api_key", None),
    ),
    "403": (403, {"error": {"message": "no"}}, (403, "no", None, None)),
    "404": (404, {"error": {"message": "no", "code": "model_not_found"}}, (404, "no", "model_not_found", None)),
    "418": (418, {"error": {"message": "tea"}}, (418, "tea", None, None)),
    "429": (429, {"error": {"message": "slow"}}, (429, "slow", None, None)),
    "499": (499, {"error": {"message": "x"}}, (499, "x", None, None)),
    "code is a number": (400, {"error": {"message": "m", "code": 400}}, (400, "m", None, None)),
    "error is text": (400, {"error": "just text"}, (400, "just text", None, None)),
    "at the top": (400, {"message": "m", "code": "3051", "object": "error"}, (400, "m", "3051", None)),
    "in a list": (400, [{"error": {"message": "m", "status": "INVALID_ARGUMENT"}}], (400, "m", None, None)),
    "message is no text": (400, {"error": {"message": ["m"]}}, (400, '{"error": {"message": ["m"]}}', None, None)),
    "other JSON": (422, {"detail": [{"loc": "x"}]}, (422, '{"detail": [{"loc": "x"}]}', None, None)),
    "no JSON": (400, b" <html>no</html>\n", (400, "<html>no</html>", None, None)),
    "empty": (404, b"", (404, "upstream returned 404", None, None)),
    "not UTF-8": (400, b"a\xffb", (400, "a\ufffdb", None, None)),
    "a bomb": (400, b"[" * 70_000, (400, "[" * 1024 + "…", None, None)),
    "long": (
        400,
        {"error": {"message": "ä" * 600, "code": "c" * 2000}},
        (400, "ä" * 512 + "…", "c" * 1024 + "…", None),
    ),
    "500": (500, {"error": {"message": "secret host 10.0.0.1"}}, (502, "upstream returned 500", None, None)),
    "503": (503, b"<html>", (502, "upstream returned 503", None, None)),
    "599": (599, b"", (502, "upstream returned 599", None, None)),
    "529": (529, {"error": {"message": "overloaded"}}, (529, "upstream returned 529", None, None)),
    "301": (301, b"moved", (502, "upstream returned 301", None, None)),
    "304": (304, b"", (502, "upstream returned 304", None, None)),
}


@pytest.mark.parametrize(("status", "body", "expected"), ERRORS.values(), ids=ERRORS)
def test_error_bodies(status, body, expected):
    problem = error_body(status, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert facts(problem) == expected
    assert problem.type == problem.frame_type == "upstream_error"
    assert problem.kind == "upstream_status"


def test_the_text_of_a_5xx_is_for_the_log_only():
    problem = error_body(500, b'{"error":{"message":"secret"}}')
    assert "secret" in problem.detail
    assert b"secret" not in OPENAI.body(problem) + encode(OPENAI.frame(problem))


@each_recording("http-errors", "error", "openai-chat")
def test_recorded_errors(recording):
    problem = error_body(recording.status, recording.body)
    told = json.loads(OPENAI.body(problem))["error"]
    original = json.loads(recording.body)
    original = original.get("error", original)
    assert told["type"] == "upstream_error"
    if recording.status >= 500:
        assert (problem.status, told["message"]) == (502, f"upstream returned {recording.status}")
        assert original["message"] not in json.dumps(told)
        return
    assert problem.status == recording.status
    assert told["message"] == original["message"]
    assert told.get("code") == (original.get("code") if isinstance(original.get("code"), str) else None)
    assert told.get("param") == original.get("param")
    assert told.keys() <= {"message", "type", "code", "param"}


IN_BAND = {
    "object": ({"message": "m", "type": "server_error", "code": None}, None, (502, "m", None)),
    "text": ("text", None, (502, "text", None)),
    "true": (True, None, (502, "True", None)),
    "empty list is none": ([], "none", None),
    "null is none": (None, "none", None),
    "empty is none": ({}, "none", None),
    "integer code": ({"message": "m", "code": 429}, 429, (429, "m", None)),
    "code as text": ({"message": "m", "code": "404"}, 404, (404, "m", None)),
    "a word": ({"message": "m", "code": "rate_limit"}, None, (502, "m", "rate_limit")),
    "5xx": ({"message": "m", "code": 500}, 500, (502, "m", None)),
    "status_code": ({"message": "m", "status_code": 400, "code": "c"}, 400, (400, "m", "c")),
    "status number": ({"message": "m", "status": 413}, 413, (413, "m", None)),
    "status word": ({"status": "UNAVAILABLE", "code": 503}, 503, (502, "UNAVAILABLE", None)),
    "out of range": ({"message": "m", "code": 200}, None, (502, "m", None)),
    "600": ({"message": "m", "code": 600}, None, (502, "m", None)),
    "boolean": ({"message": "m", "code": True}, None, (502, "m", None)),
    "no message": ({"type": "x"}, None, (502, "the provider sent an error", None)),
    "long": ({"message": "x" * 2000}, None, (502, "x" * 1024 + "…", None)),
}


@pytest.mark.parametrize(("error", "embedded", "expected"), IN_BAND.values(), ids=IN_BAND)
def test_errors_inside_good_answers(error, embedded, expected):
    problem = in_band({"error": error})
    if expected is None:
        assert problem is None
        return
    assert (problem.status, problem.message, problem.code) == expected
    assert problem.embedded == embedded
    assert (problem.type, problem.frame_type) == ("upstream_error", "upstream_in_band_error")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": "m", "code": 429}, (429, "m")),
        ({"message": "m"}, (502, "m")),
        ({"message": "secret", "code": 500}, (502, "upstream returned 500")),
        ({"message": "secret", "code": 529}, (529, "upstream returned 529")),
        ("text", (502, "text")),
    ],
)
def test_before_the_commit_a_5xx_hides_its_text(error, expected):
    answer = {"error": error}
    problem = before_commit(in_band(answer))
    assert (problem.status, problem.message) == expected


# Complaints


def test_an_openai_error_names_only_what_is_known():
    assert (
        OPENAI.body(Problem(status=404, type="t", message='say "x"'))
        == b'{"error":{"message":"say \\"x\\"","type":"t"}}'
    )
    full = Problem(status=429, type="t", message="m", code="c", param="p", members={"policy": {"id": "1"}})
    expected = {"message": "m", "type": "t", "param": "p", "code": "c", "policy": {"id": "1"}}
    assert json.loads(OPENAI.body(full)) == {"error": expected}


def test_an_openai_error_frame():
    assert encode(OPENAI.frame(broken_off())) == (
        b'event: error\ndata: {"error":{"message":"upstream cancelled the response mid-stream","type":"stream_aborted",'
        b'"param":null,"code":null}}\n\n'
    )
    assert json.loads(OPENAI.frame(timed_out("silence_timeout", 30)).data)["error"] == {
        "message": "upstream request timed out after 30ms", "type": "timeout", "param": None, "code": "silence_timeout"
    }  # fmt: skip


@pytest.mark.parametrize("text", ["a\u2028b", "a\u0085b", "a\nb", "ä"])
def test_frames_are_one_line(text):
    problem = Problem(status=500, type="t", message=text)
    for family in (OPENAI, ANTHROPIC):
        frame = encode(family.frame(problem)).decode()
        assert len(frame.splitlines()) == 3
        assert json.loads(frame.splitlines()[1][6:])["error"]["message"] == text


ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "api_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "api_error",
}


@pytest.mark.parametrize(("status", "kind"), ANTHROPIC_TYPES.items())
def test_anthropic_bodies(status, kind):
    problem = Problem(status=status, type="whatever", message="m", code="c", param="p", members={"x": 1})
    assert json.loads(ANTHROPIC.body(problem)) == {"type": "error", "error": {"type": kind, "message": "m"}}


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (timed_out("silence_timeout", 30), "timeout_error"),
        (broken_off(), "api_error"),
        (Problem(status=529, type="t", message="m"), "overloaded_error"),
        (Problem(status=502, type="t", message="m", anthropic_type="billing_error"), "billing_error"),
        (Problem(status=422, type="content_filter", message="m"), "content_filter"),
        (Problem(status=429, type="t", message="m"), "rate_limit_error"),
    ],
)
def test_anthropic_frames(problem, kind):
    frame = ANTHROPIC.frame(problem)
    assert frame.event == b"error"
    assert json.loads(frame.data) == {"type": "error", "error": {"type": kind, "message": problem.message}}


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/messages", "anthropic"),
        ("/v1/messages/count_tokens", "anthropic"),
        ("/v1/messages/x", "anthropic"),
        ("/v1/messagesx", "openai"),
        ("/v1/chat/completions", "openai"),
        ("/x/v1/messages", "openai"),
        ("/", "openai"),
        ("", "openai"),
    ],
)
def test_dialects(path, dialect):
    assert dialect_of(path) == dialect
    assert dialect in BY_DIALECT


@pytest.mark.parametrize(
    ("problem", "status", "message"),
    [
        (bad_request("x"), 400, "request payload is invalid: x"),
        (too_large(5), 413, "request body exceeds 5-byte limit"),
        (no_room(), 503, "gateway has no room for this request body now"),
        (timed_out("t", 1500.0), 504, "upstream request timed out after 1500ms"),
        (timed_out("t", 6_000_000.0), 504, "upstream request timed out after 6000000ms"),
        (timed_out("t", 0.5), 504, "upstream request timed out after 0.5ms"),
    ],
)
def test_texts(problem, status, message):
    assert (problem.status, problem.message) == (status, message)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * 1024, "x" * 1024),
        ("x" * 1025, "x" * 1024 + "…"),
        ("x" * 1023 + "ä", "x" * 1023 + "…"),
        ("x" * 1022 + "ä", "x" * 1022 + "ä"),
        ("🌊" * 300, "🌊" * 256 + "…"),
        ("\ud800", "\ud800"),
    ],
)
def test_shown(text, expected):
    assert shown(text) == expected


@pytest.mark.parametrize(("name", "expected"), [("a", '"a"'), ('a"b', '"a\\"b"'), ("a\\b", '"a\\\\b"')])
def test_quoted(name, expected):
    assert quoted(name) == expected


# Usage


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, (1, 2, 3, 0, 0, 0, True)),
        ({"prompt_tokens": 1}, (1, 0, 0, 0, 0, 0, False)),
        (
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2}},
            (9, 0, 0, 4, 2, 0, False),
        ),
        ({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 4}}, (0, 9, 0, 0, 0, 4, True)),
        ({"prompt_tokens": 9, "prompt_cache_hit_tokens": 3}, (9, 0, 0, 3, 0, 0, False)),
        ({"prompt_tokens": 9, "cached_tokens": 3}, (9, 0, 0, 3, 0, 0, False)),
        ({"prompt_cache_hit_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0}}, (0, 0, 0, 0, 0, 0, False)),
        ({"prompt_tokens_details": None, "prompt_cache_hit_tokens": 3}, (0, 0, 0, 3, 0, 0, False)),
        ({"reasoning_tokens": 7}, (0, 0, 0, 0, 0, 7, False)),
        ({"prompt_tokens": 1.0, "completion_tokens": "2", "total_tokens": None}, (1, 0, 0, 0, 0, 0, False)),
        ({"prompt_tokens": -1, "completion_tokens": True, "total_tokens": []}, (0, 0, 0, 0, 0, 0, False)),
        (None, (0, 0, 0, 0, 0, 0, False)),
        ([], (0, 0, 0, 0, 0, 0, False)),
        ("x", (0, 0, 0, 0, 0, 0, False)),
    ],
)
def test_usage(report, expected):
    usage = Usage()
    read_usage(usage, report)
    seen = (
        usage.prompt,
        usage.completion,
        usage.total,
        usage.cache_read,
        usage.cache_write,
        usage.reasoning,
        usage.final,
    )
    assert seen == expected


@pytest.mark.parametrize(("report", "expected"), [({"a": 3}, 3), ({"a": 3.9}, 3), ({}, 0), (None, 0)])
def test_count(report, expected):
    assert count(report, "a") == expected
