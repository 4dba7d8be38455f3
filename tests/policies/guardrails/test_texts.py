"""The pure side: literals, detectors, masks, one text as it comes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twisted_gateway.policies.guardrails.arguments import leaves, masked_arguments, replaced
from twisted_gateway.policies.guardrails.literals import Literals, fold
from twisted_gateway.policies.guardrails.masking import Edit, aligned, placeholder, rewritten, settled, token

from .making import guardrails, pii, scanner


def test_folding_keeps_every_offset():
    every = "".join(chr(code) for code in range(0x11000) if not 0xD800 <= code < 0xE000)
    assert len(fold(every)) == len(every)
    assert [fold(one) for one in every] == list(fold(every))
    assert fold("İSTANBUL ΣΑΣ") == "istanbul σασ"


@settings(max_examples=300, deadline=None)
@given(
    values=st.lists(st.text("abAé", min_size=1, max_size=5), min_size=1, max_size=8), text=st.text("abAé ", max_size=12)
)
def test_literals_are_those_of_a_plain_search(values, text):
    made = Literals(values)
    folded = fold(text)
    assert made.found(folded.encode()) == any(fold(value) in folded for value in values)
    longest = next(
        (
            at
            for at in range(len(folded))
            if any(len(folded) - at < len(value) and fold(value).startswith(folded[at:]) for value in values)
        ),
        len(folded),
    )
    assert made.pending(folded, 0) == longest


def test_very_many_literals():
    made = Literals(f"word-{index:06}-x" for index in range(100_000))
    assert made.found(b"so word-099999-x it is")
    assert not made.found(b"so word-100000-x it is")
    assert made.pending("so word-0999", 0) == 3
    assert made.pending("so word-9", 0) == 9


FOUND = [  # detector, text, what is masked in it
    ("email", "mail a.b+c@d-e.example.org, ok", "a.b+c@d-e.example.org"),
    ("email", "a@b.c", None),
    ("email", "a@b.com1", None),
    ("email", "写信给a@b.example吧", "a@b.example"),
    ("china_mobile", "电话13812345678。", "13812345678"),
    ("china_mobile", "a13812345678", None),
    ("china_mobile", "138123456789", None),
    ("china_mobile", "12812345678", None),
    ("china_id_card", "11010519491231002X", "11010519491231002X"),
    ("china_id_card", "11010519491231002x", "11010519491231002x"),
    ("china_id_card", "110105194912310021", None),
    ("bank_card", "4111111111111111", "4111111111111111"),
    ("bank_card", "4111111111111112", None),
    ("bank_card", "4111 1111 1111 1111", None),
    ("us_ssn", "123-45-6789", "123-45-6789"),
    ("us_ssn", "123-45-67890", None),
    ("ip_address", "at 192.168.0.255!", "192.168.0.255"),
    ("ip_address", "256.1.1.1", None),
    ("api_key", "sk-abcdefghijklmnopqrst", "sk-abcdefghijklmnopqrst"),
    ("api_key", "sk-abcdefghijklmnopqrst- x", "sk-abcdefghijklmnopqrst-"),
    ("api_key", "sk-short", None),
    ("api_key", "AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"),
    ("api_key", "ghp_" + "a" * 36, "ghp_" + "a" * 36),
    ("api_key", "ghp_" + "a" * 37, None),
    ("api_key", "github_pat_" + "a" * 22, "github_pat_" + "a" * 22),
    ("api_key", "xoxb-1234567890", "xoxb-1234567890"),
    ("api_key", "AIza" + "a" * 34 + "-", "AIza" + "a" * 34 + "-"),
    ("api_key", "AIza" + "a" * 36, None),
    ("jwt", "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl"),
    ("jwt", "eyJshort.eyJzdWIiOiIx.c2lnbmF0dXJl", None),
    ("private_key", "x -----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY----- y",
     "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"),
    ("private_key", "x -----BEGIN RSA PRIVATE KEY-----\nabc", "-----BEGIN RSA PRIVATE KEY-----\nabc"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "found"), FOUND)
def test_detectors(name, text, found):
    want = text if found is None else text.replace(found, f"[{name.upper()}_REDACTED]")
    assert scanner(pii(name)).masked(text) == want


def test_overlaps_the_earliest_then_the_longest_then_the_first():
    rules = [{"regex": "bc"}, {"regex": "abc", "replacement": "1"}, {"regex": "abcd", "replacement": "2"}]
    assert scanner(pii(custom=rules)).masked("xabcd bc") == "x2 [C0_REDACTED]"


def test_a_group_that_did_not_match_masks_nothing():
    assert scanner(pii(custom=[{"regex": r"id(=(?:\d+))?"}])).masked("id id=5") == "id id[C0_REDACTED]"


def test_tokens():
    assert token("employee id") == "[EMPLOYEE_ID_REDACTED]"
    assert token("größe") == "[GRÖSSE_REDACTED]"
    assert placeholder("email", 2) == "[EMAIL_2]"


def test_edits():
    edits = settled([Edit(4, 6, "B"), Edit(0, 2, "A"), Edit(1, 5, "C")])
    assert edits == [Edit(0, 2, "A"), Edit(4, 6, "B")]
    assert rewritten("0123456789", edits) == "A23B6789"
    assert rewritten("0123456789", edits, 5, 8) == "67"
    assert rewritten("0123456789", edits, 1, 5) == "23B"


@settings(max_examples=200, deadline=None)
@given(before=st.text("ab .", min_size=1, max_size=20), after=st.text("ab .[]", max_size=20))
def test_aligned_texts_give_the_other_one(before, after):
    assert rewritten(before, aligned(before, after)) == after


def test_arguments():
    text = '{"a": ["x", {"b": "y\\n"}], "n": 1.5}'
    assert list(leaves(text)) == ["x", "y\n"]
    assert list(leaves("{broken")) == []
    assert masked_arguments(text, lambda one: one) == text
    assert masked_arguments(text, lambda one: one.replace("y", "Y")) == '{"a":["x",{"b":"Y\\n"}],"n":1.5}'
    assert masked_arguments('{"a@b": {"n": 15}}', lambda one: one.replace("a@b", "M").replace("15", "N")) == (
        '{"M":{"n":"N"}}'
    )
    assert masked_arguments("{broken", str.upper) == "{BROKEN"
    assert list(leaves('{"\\u0061": "x", "b": 1, "b": "\\ud83d\\ude00"}')) == ["a", "x", "\U0001f600"]
    assert list(leaves('{"a": "\\u0061\\ud800", "b": "c"}{"q": "x')) == ["a\ufffd"]
    assert masked_arguments('{"q": "\\u0061@b', lambda one: one.replace("a@b", "M")) == '{"q": "M'
    assert replaced(text, ["1", "2"]) == '{"a":["1",{"b":"2"}],"n":1.5}'


def test_nothing_shows_a_secret_rule():
    (one,) = guardrails(pii("email"))
    assert "email" in repr(one.own)
