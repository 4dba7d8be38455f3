"""Guardrails for tests, and streams that they look at."""

import json
from itertools import pairwise

from twisted_gateway.config.snapshot import Snapshot, build
from twisted_gateway.formats import openai_chat
from twisted_gateway.policies.guardrails.channels import Scanner
from twisted_gateway.policies.guardrails.engine import Release
from twisted_gateway.policies.guardrails.matching import Matcher
from twisted_gateway.policies.guardrails.rules import guard
from twisted_gateway.wire.sse import Frame


def guardrails(*entries):
    """Guardrails of a resources document; the first is called `g0`."""
    named = [{"name": f"g{index}", **entry} for index, entry in enumerate(entries)]
    built = build({"_format_version": "1", "guardrails": named}, {}, now=1.0)
    assert isinstance(built, Snapshot), [str(finding) for finding in built]
    return built.guardrails


def keyword(*literals, regexes=(), **more):
    patterns = [{"kind": "literal", "value": value} for value in literals]
    patterns += [{"kind": "regex", "value": value} for value in regexes]
    return {"kind": "keyword", "patterns": patterns, **more}


def pii(*detectors, custom=(), **more):
    return {
        "kind": "pii",
        "detectors": [one if isinstance(one, dict) else {"type": one} for one in detectors],
        "custom_patterns": [{"name": f"c{index}", **one} for index, one in enumerate(custom)],
        **more,
    }


def scanner(*entries):
    guards = [guard(one) for one in guardrails(*entries)]
    masker = next((one for one in guards if one.masks), None)
    return Scanner(guards, masker, Matcher(guards))


def release(*entries, holds=False, cap=262144, open=False, reasoning=False, format=openai_chat.FORMAT):
    made = scanner(*entries)
    thoughts = made if reasoning else None
    return Release(made, format.texts.hearing(), holds=holds, cap=cap, open=open, thoughts=thoughts)


def chunk(delta, finish=None, index=0, **more):
    choices = [{"index": index, "delta": delta, "finish_reason": finish}]
    return Frame(json.dumps({"id": "c", "choices": choices, **more}, ensure_ascii=False).encode())


def say(text, index=0):
    return chunk({"content": text}, None, index)


STOP = chunk({}, "stop")
DONE = Frame(b"[DONE]")


def said(frames, index=0):
    """The content that these frames say."""
    text = ""
    for frame in frames:
        if frame.data == b"[DONE]":
            continue
        for choice in json.loads(frame.data)["choices"]:
            if choice["index"] == index:
                text += choice["delta"].get("content") or ""
    return text


def cut(text, cuts):
    """A text in pieces, cut at these places."""
    places = sorted({0, len(text), *(place for place in cuts if 0 < place < len(text))})
    return [text[a:b] for a, b in pairwise(places)]
