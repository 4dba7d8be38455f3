"""Regexes of guardrails: what is accepted, how long a match may be, what may still become one."""

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from twisted_gateway.config.regexes import BadRegex, compiled, parse

ACCEPTED = [  # regex, width
    ("abc", 3),
    ("a(b|cd)", 3),
    (r"\bcat\b", 3),
    ("end$", 3),
    (r"(?i)x[yz]{2,3}", 4),
    (r"(?i:ab)c", 3),
    (r"(?P<n>ab)c", 3),
    (r"(?<n>ab)c", 3),
    (r"\Qa.b\E", 3),
    (r"[[:alpha:]]{3}", 3),
    (r"\p{Greek}x\x41\x{1F600}", 4),
    (r"[]a]b", 2),
    (r"(?s)a.b", 3),
    (r"a{1000}", 1000),
    (r"(?:a{100}){10}b{30}", None),
    ("a+", None),
    ("foo.*bar", None),
    (r"(a+)+$", None),
    (r"\C\C", None),
]


@pytest.mark.parametrize(("pattern", "width"), ACCEPTED)
def test_widths(pattern, width):
    assert parse(pattern).width == width


REFUSED = [
    ("a*", "matches the empty text"),
    ("^$", "matches the empty text"),
    (r"\b", "matches the empty text"),
    ("a|", "matches the empty text"),
    ("(?=a)", "perl operator"),
    (r"(a)\1", "escape"),
    ("(?x) a b", "verbose"),
    ("(?ix:a b)", "verbose"),
    ("[a-z&&[^b]]", "&&"),
    ("[a--b]", "--"),
    ("[a[b]]", "class inside a class"),
    ("(a", "missing"),
    ("(?:a{1000}){1000}", "repetition"),
    (r"(?:\pL{900}|\pM{900}|\pN{900}){1,1}" * 3, "too large"),
]


@pytest.mark.parametrize(("pattern", "reason"), REFUSED)
def test_what_is_refused(pattern, reason):
    with pytest.raises(BadRegex, match=re.escape(reason)):
        parse(pattern)


def test_classes_that_only_look_like_operations():
    for pattern in (r"[a\[b]", r"[a\-\-b]", r"\[\[", "a&&b", "a--b", r"\Q[[\E"):
        parse(pattern)


_ATOMS = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", r"\b", r"\w", "(?i)", "^", "$", r"\d", "ab", "ca"])
_PATTERNS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "+?"])).map(
            lambda two: f"(?:{two[0]}){two[1]}"
        ),
        inner.map(lambda one: f"({one})"),
    ),
    max_leaves=6,
)


@settings(max_examples=500, deadline=None)
@given(pattern=_PATTERNS, text=st.text("abcAB1 -", max_size=8), more=st.text("abcAB1 -", max_size=5))
def test_every_beginning_of_a_match_is_a_prefix(pattern, text, more):
    """Where more text can make a match that begins in what is there, the prefix regex begins, or before it."""
    try:
        regex = parse(pattern)
    except BadRegex:
        assume(False)
    if regex.prefix is None:
        return
    program, prefix = compiled(pattern), compiled(rf"(?:{regex.prefix})\z")
    found = prefix.search(text)
    safe = found.start() if found is not None else len(text)
    whole = text + more
    at = 0
    while (match := program.search(whole, at)) is not None and match.start() < len(text):
        start, end = match.span()
        if start < safe:  # decided: the text that follows does not change it
            early = program.search(text, at)
            assert early is not None
            assert early.span() == (start, end)
            assert end <= len(text)
        at = max(end, start + 1)
        if at >= len(whole):
            break
