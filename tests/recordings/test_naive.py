"""Callers without an SDK, as the tutorials write them, on every recording; and what the gateway counted meanwhile."""

from __future__ import annotations

import json
from typing import Any

from tests.doubles.recordings import Recording

from .house import House, Raw
from .items import CHAT_STREAMS, each, events
from .reading import same_text
from .replay import Delivery

ENVELOPE = {"id", "object", "created", "model", "choices", "system_fingerprint", "service_tier", "usage", "obfuscation"}


def naive_texts(answer: Raw) -> list[str]:
    """Lines that start with `data: `, and `choices[0].delta` of every one but the last."""
    texts = []
    for line in answer.body.decode().splitlines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        texts.append(json.loads(line[6:])["choices"][0]["delta"].get("content") or "")
    return [text for text in texts if isinstance(text, str)]


def preamble(frame: dict[str, Any]) -> bool:
    """A chunk without choices that is shown all the same: it tells something of its own (`streaming.md` 15.2)."""
    return not frame["choices"] and not frame.get("usage") and not frame.keys() <= ENVELOPE


def has_preamble(item: Recording) -> bool:
    """Whether the provider sent such a chunk, which its direct callers see, too."""
    return any(preamble(event) for event in events(item) if isinstance(event, dict) and "choices" in event)


@each([item for item in CHAT_STREAMS if not has_preamble(item)])
def test_the_naive_client_never_fails(item: Recording, house: House) -> None:
    answer = house.raw(item, Delivery("random", seed=1))
    text = "".join(naive_texts(answer))
    if "choices" not in item.read and "content-array-delta" not in item.categories:
        assert same_text(text, item.read["text"])


@each(CHAT_STREAMS)
def test_who_did_not_ask_for_usage_sees_no_trace_of_it(item: Recording, house: House) -> None:
    answer = house.raw(item, Delivery("coalesced", seed=2))
    assert (answer.status, answer.content_type.split(";")[0]) == (200, "text/event-stream")
    for frame in answer.frames():
        assert frame["choices"] or preamble(frame)
        assert frame.get("usage", "absent") is not None
        for choice in frame["choices"]:
            assert isinstance(choice["delta"], dict)
            assert "finish_reason" in choice
            said = any(choice["delta"].values()) or choice["finish_reason"]
            assert said or "usage" not in frame
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert answer.body.count(b"[DONE]") == 1


@each(CHAT_STREAMS)
def test_every_write_is_whole_frames(item: Recording, house: House) -> None:
    """A browser that parses each read on its own must not be broken (`streaming.md` section 6)."""
    answer = house.raw(item, Delivery("random", seed=3))
    assert all(write.endswith(b"\n\n") for write in answer.writes)
    assert b"\r" not in answer.body
    for frame in answer.body.split(b"\n\n")[:-1]:
        assert frame.startswith(b"data: ")
        assert b"\n" not in frame
        assert not any(separator in frame for separator in (b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\xc2\x85"))


@each(CHAT_STREAMS)
def test_hidden_usage_is_counted(item: Recording, house: House) -> None:
    before = tokens(house, item)
    answer = house.raw(item, Delivery("whole"))
    line = house.access_line(answer.request_id)
    counted = (line["prompt_tokens"], line["completion_tokens"])
    figures = item.read.get("usage")
    if figures:
        assert counted == (figures["input"], figures["output"])
    else:
        assert min(counted) > 0, "an estimate"
    assert line["outcome"] == "complete"
    after = tokens(house, item)
    assert (after[0] - before[0], after[1] - before[1]) == counted


def tokens(house: House, item: Recording) -> tuple[int, int]:
    """Prompt and completion tokens of the item's alias so far."""
    sent, told = house.counted(item, "aisix_llm_input_tokens_total", "aisix_llm_output_tokens_total")
    return sent, told
