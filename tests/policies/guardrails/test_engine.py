"""The release engine: nothing forbidden leaves, everything else leaves as it came, as early as it may."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .making import DONE, STOP, chunk, cut, keyword, pii, release, said, say, scanner

DETECTORS = (
    *("email", "china_mobile", "china_id_card", "bank_card", "us_ssn", "ip_address"),
    *("api_key", "jwt", "private_key"),
)


def test_the_worked_example():
    """`guardrails.md` 7.8."""
    gate = release(keyword("secret plan", "secrets"))
    first, second, third = say("the se"), say("cret p"), say("ie, no")
    assert gate.received([first]) == []
    assert gate.received([second]) == []
    assert gate.received([third]) == [first, second, third]
    assert gate.received([say(" secret pl")]) == []
    assert gate.received([say("an")]) == []
    assert gate.blocked
    assert gate.found.guard.name == "g0"
    assert gate.received([say(" more")]) == []
    assert gate.stopped(True) == []


RULES = {
    "literals": keyword("secret plan", "Secrets", "ab", "abcabd", "ß"),
    "regexes": keyword(regexes=[r"\bcat\b", r"end$", r"a{2,4}b", r"(?i)x[yz]+q", r"foo.*bar", r"^go"]),
}
MASKS = {
    "detectors": pii(*DETECTORS),
    "custom": pii(
        custom=[
            {"regex": r"id=(\d+)"},
            {"regex": r"\bcat\w*", "replacement": "<pet>"},
            {"regex": r"a+b?"},
            {"regex": r"x.{0,3}y"},
            {"regex": r"no end (.*)"},
        ]
    ),
    "both": pii("email", "us_ssn", custom=[{"regex": r"mail: (\S+)"}, {"regex": "[0-9]{3}"}]),
}
WORDS = [
    *(
        "secret ",
        "plan",
        "sec",
        "rets",
        "SECRETS",
        "ab",
        "abc",
        "abd",
        " ",
        "cat",
        "alog",
        "the end",
        "end",
        "aab",
        "xyz",
    ),
    *("q", "foo", "bar", "go", "id=12", "3", "x", "y", "no end ", "mail: ", "\n", "電話", "ß", "İ"),
    *("a.b@c.de", "@", "13812345678", "4111111111111111", "123-45-6789", "10.0.0.1", "11010519491231002X", "."),
    *("sk-abcdefghijklmnopqrst", "AKIAABCDEFGHIJKLMNOP", "eyJabcdefgh.ijklmnop", ".qrstuvwx", "-----BEGIN ", "RSA "),
    *("PRIVATE KEY-----", "-----END ", "-", "_", "1"),
]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=12).map("".join)


def run(gate, pieces, finish=True):
    frames = [say(piece) for piece in pieces]
    out = []
    for frame in frames:
        out += gate.received([frame])
    if finish:
        out += gate.received([STOP, DONE])
        out += gate.stopped(True)
    return frames, out


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(sorted(RULES)), text=TEXTS, cuts=st.lists(st.integers(0, 80), max_size=20))
def test_a_block_leaks_nothing_and_an_allowed_text_is_the_same(name, text, cuts):
    judge = scanner(RULES[name])
    gate = release(RULES[name])
    frames, out = run(gate, cut(text, cuts))
    if judge.whole(text) is None:
        assert not gate.blocked
        assert out == [*frames, STOP, DONE]
        return
    assert gate.blocked
    left = said(out)
    assert text.startswith(left)
    (guard,) = judge.guards
    edge = min(
        (first for rule in guard.rules for first, _ in rule.found(text)),
        default=len(text),
    )
    assert len(left) <= edge
    assert judge.whole(left) is None or name == "regexes"  # `end$` ends an unfinished text


@settings(max_examples=600, deadline=None)
@given(name=st.sampled_from(sorted(MASKS)), text=TEXTS, cuts=st.lists(st.integers(0, 120), max_size=20))
def test_masks_are_those_of_the_whole_text(name, text, cuts):
    frames, out = run(release(MASKS[name]), cut(text, cuts))
    want = scanner(MASKS[name]).masked(text)
    assert said(out) == want
    assert out[-2:] == [STOP, DONE]
    if want == text:
        assert out == [*frames, STOP, DONE]


@pytest.mark.parametrize("text", ["my mail is a.b@c.example, ok?", "call 電話13812345678。", "end 123-45-6789"])
def test_masks_cut_everywhere(text):
    want = scanner(MASKS["detectors"]).masked(text)
    assert "REDACTED" in want
    for at in range(len(text)):
        _, out = run(release(MASKS["detectors"]), cut(text, [at]))
        assert said(out) == want
    _, out = run(release(MASKS["detectors"]), list(text))
    assert said(out) == want


def test_boundaries_are_decided_by_what_follows():
    gate = release(keyword(regexes=[r"\bcat\b"]))
    _, out = run(gate, ["a cat", "alog"])
    assert said(out) == "a catalog"
    gate = release(keyword(regexes=["end$"]))
    _, out = run(gate, ["the end", " of it"])
    assert said(out) == "the end of it"
    gate = release(keyword(regexes=["end$"]))
    run(gate, ["the end"])
    assert gate.blocked


def test_innocent_text_does_not_wait():
    gate = release(keyword("secret"), pii(*DETECTORS))
    for word in ("Hello, ", "how ", "are ", "you? ", "一切", "都好。 "):
        frame = say(word)
        assert gate.received([frame]) == [frame]


def test_the_end_of_one_choice_does_not_flush_another():
    gate = release(keyword("secret plan"))
    first, second = say("secret", 0), say("secret", 1)
    assert gate.received([first, second, chunk({}, "stop", 1)]) == []
    assert len(gate.received([chunk({}, "stop", 0)])) == 4


def test_a_block_in_one_choice_ends_the_stream():
    gate = release(keyword("secret"))
    gate.received([say("good ", 0), say("sec", 1)])
    gate.received([say("ret", 1)])
    assert gate.blocked


def test_what_is_safe_leaves_a_broken_stream_and_the_rest_does_not():
    gate = release(keyword("secret"))
    frame = say("good ")
    assert gate.received([frame, say("sec"), say("ond")]) != []
    assert gate.received([say("a sec")]) == []
    assert gate.stopped(False) == []
    assert gate.held == 0


def test_holding_gives_nothing_before_the_end():
    gate = release(keyword("secret"), holds=True)
    frames = [say("a"), say("b"), STOP, DONE]
    assert gate.received(frames) == []
    assert gate.held
    assert gate.stopped(True) == frames
    assert gate.stopped(False) == []


def test_too_much_is_held():
    closed = release(keyword("secret"), holds=True, cap=1000)
    for _ in range(12):
        closed.received([say("x" * 100)])
    assert closed.blocked
    assert closed.found is None
    opened = release(keyword("secret"), holds=True, cap=1000, open=True)
    out = []
    for _ in range(12):
        out += opened.received([say("y" * 100)])
    assert out
    assert not opened.blocked
    opened.received([say("secret")])
    assert opened.blocked


def test_what_a_mask_empties_is_not_sent():
    gate = release(pii("email"))
    frames = [say("a@b."), say("example"), say(" and")]
    out = [one for frame in frames for one in gate.received([frame])] + gate.received([STOP])
    assert said(out) == "[EMAIL_REDACTED] and"
    assert len(out) == 3


def test_withheld_counts_the_text_that_did_not_go_on():
    gate = release(pii("email"))
    gate.received([say("hi a@b.example")])
    assert gate.withheld == 14
    gate.received([STOP])
    assert gate.withheld == len("hi a@b.example") - len("hi [EMAIL_REDACTED]")


def test_a_key_that_is_too_long_to_hold_is_swallowed():
    text = "key sk-" + "a" * 9000 + " end"
    gate = release(pii("api_key"))
    _, out = run(gate, cut(text, range(0, 10000, 100)))
    assert said(out) == "key [API_KEY_REDACTED] end"


@pytest.mark.parametrize("end", ["", "-----END RSA PRIVATE KEY-----\nok"])
def test_a_private_key_is_swallowed_up_to_its_end(end):
    text = "see -----BEGIN RSA PRIVATE KEY-----\n" + "MIIE\n" * 2000 + end
    _, out = run(release(pii("private_key")), cut(text, range(0, 12000, 77)))
    assert said(out) == "see [PRIVATE_KEY_REDACTED]" + ("\nok" if end else "")


def test_a_long_run_that_is_nothing_goes_on():
    gate = release(pii(*DETECTORS))
    out = []
    for _ in range(100):
        out += gate.received([say("a" * 100)])
    assert len(said(out)) >= 10000 - 4096 - 512
    assert gate.waiting <= 4096 + 512


KEY = "sk-" + "k" * 30
RUN = "x-" * 1500
TOKEN = "eyJhbGciOi12.eyJ" + "p" * 6000 + ".sig" + "s" * 40
LONG = {
    "a key inside of a long run": f"{RUN}{KEY}-{RUN} end",
    "a long key behind a long run": f"{RUN}sk-{'k' * 5000} end",
    "a long key behind a long key": f"sk-{'k' * 5000}.sk-{'k' * 5000} end",
    "an address inside of a long run": f"{RUN}10.1.2.3-{RUN} end",
    "numbers inside of a long run": f"{RUN}13812345678-4111111111111111-{RUN} end",
    "what an operator looks for in a long run": f"{RUN}secret123-{RUN} end",
    "a long token": f"see {TOKEN} end",
    "a long token behind a long run": f"{RUN}{TOKEN} end",
    "a key behind a long line": "-" * 3000
    + "-----BEGIN PRIVATE KEY-----\n"
    + "MIIE" * 3000
    + "\n-----END PRIVATE KEY-----\nok",
}


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("name", LONG)
def test_what_is_in_a_long_run_is_found(name, size):
    text = LONG[name]
    rules = pii(*DETECTORS, custom=[{"regex": "secret[0-9]+"}])
    want = scanner(rules).masked(text)
    assert "REDACTED" in want
    gate = release(rules)
    _, out = run(gate, cut(text, range(0, len(text), size)))
    assert said(out) == want
    gate = release(
        pii(
            *({"type": one, "action": "block"} for one in DETECTORS),
            custom=[{"regex": "secret[0-9]+", "action": "block"}],
        )
    )
    _, out = run(gate, cut(text, range(0, len(text), size)))
    assert gate.blocked
    assert want.startswith(said(out))
