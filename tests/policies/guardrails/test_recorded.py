"""What providers really sent, through guardrails, cut anywhere: nothing leaks, nothing else changes."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest

from tests.doubles.recordings import needs_streams, recordings
from tests.exchanges import model
from twisted_gateway.exchange import Call, Target
from twisted_gateway.formats import anthropic, openai_chat, openai_completions, openai_responses
from twisted_gateway.formats.slots import REASONING, TEXT, text_of
from twisted_gateway.line import Line
from twisted_gateway.policies.guardrails.engine import Release
from twisted_gateway.policies.guardrails.gates import Incremental
from twisted_gateway.wire.sse import Reader

from .making import keyword, pii, scanner

MOST = 25
"""Recordings of each dialect; chosen anew by their number, the same in every run."""

FOLDERS = {
    "openai-chat": ("openai-chat", openai_chat.FORMAT),
    "openai-completions": ("openai-completions", openai_completions.FORMAT),
    "openai-responses": ("openai-responses", openai_responses.FORMAT),
    "anthropic-messages": ("anthropic-messages", anthropic.FORMAT),
}


def chosen():
    found = []
    for folder, (protocol, format) in FOLDERS.items():
        items = [one for one in recordings(folder, "stream") if one.expect["protocol"] == protocol]
        picked = random.Random(folder).sample(items, min(MOST, len(items)))
        found += [pytest.param(one, format, id=one.name) for one in picked]
    return found or [pytest.param(None, None, marks=needs_streams, id="none")]


class Notes:
    """Takes none."""

    clock = staticmethod(lambda: 0.0)

    def halt(self, guardrail, seconds, reason="", unavailable=False):
        return guardrail or "overflow"


def through(format, body, cuts, *entries):
    """The frames that come out, and whether the answer was stopped."""
    gates = []
    if entries:
        made = scanner(*entries)
        release = Release(made, format.texts.hearing(), holds=False, cap=2**30, open=False)
        gates = [Incremental(release, (), (), Notes())]
    call = Call("gpt", True, b"{}", extra={})
    line = Line(Reader(), format.passage(call, Target(model(), "up"), "gpt", 5.0, lambda: "x" * 24), gates)
    out = b""
    for piece in pieces(body, cuts):
        out += line.read(piece).data
        if line.gates is not None and line.gates.halted is not None:
            return out, True
    out += line.stopped(True).data
    return out, line.gates is not None and line.gates.halted is not None


def pieces(body, cuts):
    places = [0, *cuts, len(body)]
    return [body[a:b] for a, b in pairwise(places)]


def texts(format, data):
    """The texts of a stream, by channel, and those that stand in it as a whole."""
    hearing, every, wholes = format.texts.hearing(), {}, []
    for frame in Reader().received(data):
        heard = hearing.heard(frame, decoded=True)
        if heard is None:
            continue
        for slot in heard.slots:
            every[slot.channel] = every.get(slot.channel, "") + text_of(slot)
        wholes += [text_of(slot) for slot in heard.wholes if slot.channel[1] == TEXT]
    return every, wholes


@pytest.mark.parametrize(("recording", "format"), chosen())
def test_recorded(recording, format):
    rng = random.Random(recording.name)
    body = recording.body
    plain, _ = through(format, body, [])
    cuts = sorted(rng.randrange(len(body)) for _ in range(rng.choice([0, 3, 60]))) if body else []
    innocent = [keyword("no such words are anywhere"), keyword(regexes=[r"\bzq[a-z]+zq\b"])]
    assert through(format, body, cuts, *innocent) == (plain, False)
    assert through(format, body, range(1, len(body)), innocent[0])[0] == plain if len(body) < 20_000 else True
    every, _ = texts(format, plain)
    said = max((text for channel, text in every.items() if channel[1] == TEXT), key=len, default="")
    if len(said) < 30:
        return
    at = rng.randrange(len(said) // 2, len(said) - 12)
    phrase = said[at : at + 12]
    out, stopped = through(format, body, cuts, keyword(phrase))
    assert stopped
    for channel, text in texts(format, out)[0].items():
        assert channel[1] == REASONING or phrase.lower() not in text.lower()
    left = max((text for channel, text in texts(format, out)[0].items() if channel[1] == TEXT), key=len, default="")
    assert len(left) <= said.lower().index(phrase.lower())
    masked, stopped = through(format, body, cuts, pii("email", custom=[{"regex": re.escape(phrase)}]))
    assert not stopped
    want = {
        channel: scanner(pii("email", custom=[{"regex": re.escape(phrase)}])).masked(text)
        for channel, text in every.items()
    }
    got, wholes = texts(format, masked)
    for channel, text in want.items():
        if channel[1] == TEXT:
            assert got[channel] == text
    assert not any(phrase in text for text in wholes)
