"""What all services share: failure rule, statuses, pieces, masks over several texts."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_gateway.policies.guardrails import asking
from twisted_gateway.policies.guardrails.asking import Answer, CheckFailed, FailureRule
from twisted_gateway.policies.guardrails.verdict import Block, Bypass

FLAGS = list(itertools.product(("input", "output"), (False, True), (False, True), (False, True)))


@pytest.mark.parametrize(("hook", "fail_open", "output_fail_open", "mandatory"), FLAGS)
def test_the_failure_rule(hook, fail_open, output_fail_open, mandatory):
    passes = {"input": fail_open, "output": output_fail_open}[hook] and not mandatory
    verdict = FailureRule(fail_open, output_fail_open, mandatory).verdict(hook, "lakera_timeout")
    assert verdict == (Bypass("lakera_timeout") if passes else Block("lakera_timeout", unavailable=True))


def test_the_failure_rule_by_default():
    assert FailureRule().verdict("input", "x") == Bypass("x")
    assert FailureRule().verdict("output", "x") == Block("x", unavailable=True)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, None), (201, "config_error"), (204, "config_error"), (302, "config_error"), (400, "config_error"),
        (401, "config_error"), (404, "config_error"), (422, "config_error"), (429, "throttled"), (500, "5xx"),
        (503, "5xx"), (529, "5xx"),
    ],
)  # fmt: skip
def test_statuses(status, kind):
    assert asking.failure_of(status) == kind


GARBAGE = [b"", b"no", b"{", b"\xff\xfe", b"null", b"3", b'"x"', b"[" * 100_000, b'{"a": NaN}', b'[{"a": 1}] x']


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_what_cannot_be_read_has_failed(body):
    with pytest.raises(CheckFailed) as failed:
        asking.decoded(Answer(200, body), dict[str, int])
    assert failed.value.kind == "5xx"


def test_a_failure_does_not_repeat_the_answer():
    with pytest.raises(CheckFailed) as failed:
        asking.decoded(Answer(200, b'{"secret text": 1}'), list[int])
    assert "secret" not in str(failed.value)


@given(st.integers(2, 40), st.integers(0, 39), st.integers(0, 200))
def test_pieces_cover_a_text_and_overlap(size, overlap, length):
    text = "".join(chr(0x4E00 + index) for index in range(length))
    cut = asking.pieces(text, size, overlap)
    overlap = min(overlap, size // 2)
    at = 0
    for offset, piece in cut:
        assert 0 < len(piece) <= size or not text
        assert text[offset : offset + len(piece)] == piece
        assert offset <= at
        if offset:
            assert at - offset == overlap
        at = offset + len(piece)
    assert at == length


def test_whatever_fits_into_the_overlap_is_whole_in_one_piece():
    text, needle = "x" * 95 + "NEEDLE" + "x" * 99, "NEEDLE"
    for shift in range(90):
        moved = text[shift:]
        assert any(needle in piece for _, piece in asking.pieces(moved, 50, len(needle)))


def test_half_surrogates_do_not_stop_a_request():
    assert asking.encoded({"texts": ["a\ud800b", ("\udfff",)]}) == '{"texts":["a\ufffdb",["\ufffd"]]}'.encode()


MASKS = [
    (("call me",), [(5, 7, "[M]")], ("call [M]",)),
    (("abc", "def"), [(0, 3, "[M]"), (4, 7, "[N]")], ("[M]", "[N]")),
    (("abc", "def"), [(2, 5, "[M]")], ("ab[M]", "ef")),
    (("abc", "", "def"), [(1, 6, "[M]")], ("a[M]", "", "ef")),
    (("abcdef",), [(1, 3, "[M]"), (2, 5, "[N]")], ("a[M]f",)),
    (("abcdef",), [(1, 3, "[N]"), (1, 5, "[M]")], ("a[M]f",)),
    (("abcdef",), [(3, 5, "[N]"), (0, 1, "[M]")], ("[M]bc[N]f",)),
    (("abc",), [(0, 99, "[M]")], ("[M]",)),
    (("abc",), [], ("abc",)),
]


@pytest.mark.parametrize(("texts", "spans", "masked"), MASKS)
def test_masks(texts, spans, masked):
    assert asking.spans_masked(texts, spans) == masked


def test_nothing_secret_in_a_repr():
    request = asking.post("https://x/?token=secret", {"text": "secret"}, asking.bearer("secret"))
    assert "secret" not in repr(request)
    assert "secret" not in repr(Answer(200, b"secret"))
