"""Machine C: neutral events as a Responses answer (`translation.md` 7.2, 7.3), judged by the SDK's own models."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twisted_gateway.errors import StrayFrame, broken_off
from twisted_gateway.formats.neutral import (
    Arguments,
    Began,
    Called,
    Calling,
    Counted,
    Declined,
    Ended,
    Finished,
    Mused,
    Said,
    Signed,
)
from twisted_gateway.wire.sse import encode

from .responses_making import Learnt, accumulated, check_snapshot, checked, client, encoder, responses_call, told, whole

OPENING = ["response.created", "response.in_progress"]
MUSING = {"reasoning": {"effort": "low", "summary": "auto"}}
BEGAN = Began("c1", "up", 5)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """The types without their common beginning, behind the two that open every answer."""
    assert [event["type"] for event in events[:2]] == OPENING
    return [event["type"].removeprefix("response.") for event in events[2:]]


MESSAGE = ["output_item.added", "content_part.added"]
TEXT_END = ["output_text.done", "content_part.done", "output_item.done"]
ARGUMENTS = "function_call_arguments"


def test_text():
    events = told(
        [BEGAN, Said("Hel"), Said(""), Said("lo"), Finished("stop"), Counted(), Ended()], prompt=3, completion=2
    )
    assert kinds(events) == [*MESSAGE, "output_text.delta", "output_text.delta", *TEXT_END, "completed"]
    first, last = events[0]["response"], events[-1]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert first == events[1]["response"]
    assert (last["status"], last["model"], last["created_at"]) == ("completed", "gpt", 1_760_000_000)
    assert last["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    }
    (item,) = last["output"]
    part = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    assert item == {"type": "message", "id": item["id"], "status": "completed", "role": "assistant", "content": [part]}
    assert item["id"].startswith("msg_")
    assert len(item["id"]) == 36
    assert first["id"] == last["id"]
    assert first["id"].startswith("resp_")
    added, part_added, delta = events[2:5]
    assert added["item"] == {**item, "status": "in_progress", "content": []}
    assert part_added["part"] == {**part, "text": ""}
    assert delta == {
        "type": "response.output_text.delta", "sequence_number": 4, "item_id": item["id"], "output_index": 0,
        "content_index": 0, "delta": "Hel", "logprobs": [],
    }  # fmt: skip


def test_an_answer_begins_when_the_provider_accepts():
    frames = encoder().received([BEGAN], Learnt())
    assert [frame.event.decode() for frame in frames] == OPENING


def test_a_call_and_text_behind_it():
    events = told(
        [
            BEGAN,
            Said("Look"),
            Calling(0, "call_a", "f"),
            Arguments(0, '{"a"'),
            Arguments(0, ":1}"),
            Said("Done"),
            Ended(),
        ]
    )
    call = ["output_item.added", f"{ARGUMENTS}.delta", f"{ARGUMENTS}.delta", f"{ARGUMENTS}.done", "output_item.done"]
    said = [*MESSAGE, "output_text.delta", *TEXT_END]
    assert kinds(events) == [*said, *call, *said, "completed"]
    first, item, last = events[-1]["response"]["output"]
    assert (first["content"][0]["text"], last["content"][0]["text"]) == ("Look", "Done")
    assert item == {
        "type": "function_call", "id": item["id"], "call_id": "call_a", "name": "f", "arguments": '{"a":1}',
        "status": "completed",
    }  # fmt: skip
    assert item["id"].startswith("fc_")
    added = next(event for event in events if event.get("item", {}).get("type") == "function_call")
    assert added["item"] == {**item, "arguments": "", "status": "in_progress"}
    done = next(event for event in events if event["type"].endswith("arguments.done"))
    assert (done["name"], done["arguments"], done["output_index"]) == ("f", '{"a":1}', 1)


def test_calls_that_take_turns_stay_open_side_by_side():
    events = told(
        [
            BEGAN, Calling(0, "a", "f"), Calling(1, "b", "g"), Arguments(1, '{"y":'), Arguments(0, '{"x":'),
            Arguments(1, "2}"), Arguments(0, "1}"), Finished("tool_calls"),
        ]
    )  # fmt: skip
    deltas = [(event["output_index"], event["delta"]) for event in events if event["type"].endswith("arguments.delta")]
    assert deltas == [(1, '{"y":'), (0, '{"x":'), (1, "2}"), (0, "1}")]
    assert [item["arguments"] for item in events[-1]["response"]["output"]] == ['{"x":1}', '{"y":2}']


def test_a_whole_call_ends_when_the_next_begins():
    events = told([BEGAN, Calling(0, "a", "f"), Arguments(0, "{}"), Calling(1, "b", "g"), Finished("tool_calls")])
    order = [(event["type"], event.get("output_index")) for event in events]
    assert order.index(("response.output_item.done", 0)) < order.index(("response.output_item.added", 1))


def test_a_call_that_is_known_to_be_whole_ends_at_once():
    events = told([BEGAN, Calling(0, "a", "f"), Called(0), Arguments(0, " \n"), Said("x")])
    assert kinds(events)[:4] == ["output_item.added", f"{ARGUMENTS}.delta", f"{ARGUMENTS}.done", "output_item.done"]


@pytest.mark.parametrize("pieces", [[], [""], [" "], [" ", "\n"]])
def test_no_arguments_are_an_empty_object(pieces):
    events = told([BEGAN, Calling(0, "a", "f"), *(Arguments(0, piece) for piece in pieces), Finished("tool_calls")])
    assert events[-1]["response"]["output"][0]["arguments"] == "{}"
    assert [event["arguments"] for event in events if event["type"].endswith("arguments.done")] == ["{}"]
    assert [event["delta"] for event in events if event["type"].endswith("arguments.delta")] == ["{}"]


def test_broken_arguments_are_told_as_they_are():
    events = told([BEGAN, Calling(0, "a", "f"), Arguments(0, '{"a":'), Finished("stop")])
    assert events[-1]["response"]["output"][0]["arguments"] == '{"a":'


def test_a_call_without_an_id_gets_one():
    (item,) = told([BEGAN, Calling(0, "", "f"), Finished("stop")])[-1]["response"]["output"]
    assert item["call_id"].startswith("call_")


@pytest.mark.parametrize(
    "events",
    [
        [Arguments(0, "{}")],
        [Called(0)],
        [Calling(0, "a", "f"), Arguments(0, "{}"), Called(0), Arguments(0, "{}")],
        [Calling(0, "a", "f"), Arguments(0, "{}"), Calling(1, "b", "g"), Arguments(0, ",")],
    ],
)
def test_arguments_at_a_wrong_place_break_the_answer(events):
    writer = encoder()
    with pytest.raises(StrayFrame):
        writer.received([BEGAN, *events], Learnt())
    complaint = writer.complaint(broken_off())
    assert complaint is not None
    assert [event["type"] for event in checked(complaint)][-2:] == ["error", "response.failed"]


def test_reasoning_is_a_summary_for_who_asked():
    answer = [
        BEGAN,
        Mused("Let"),
        Mused(" me"),
        Signed({"type": "thinking"}),
        Said("Hi"),
        Mused("Hm"),
        Finished("stop"),
    ]
    events = told(answer, responses_call(**MUSING))
    added = ["output_item.added", "reasoning_summary_part.added"]
    ended = ["reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"]
    delta = "reasoning_summary_text.delta"
    said = [*MESSAGE, "output_text.delta", *TEXT_END]
    assert kinds(events) == [*added, delta, delta, *ended, *said, *added, delta, *ended, "completed"]
    first, _, second = events[-1]["response"]["output"]
    assert first == {
        "type": "reasoning", "id": first["id"], "summary": [{"type": "summary_text", "text": "Let me"}],
    }  # fmt: skip
    assert first["id"].startswith("rs_")
    assert second["summary"][0]["text"] == "Hm"
    assert events[2]["item"]["summary"] == []
    assert events[3]["part"]["text"] == ""
    assert events[-1]["response"]["reasoning"] == {"effort": "low", "summary": "auto"}


@pytest.mark.parametrize("asked", [{}, {"reasoning": None}, {"reasoning": {"effort": "high"}}])
def test_who_did_not_ask_sees_no_reasoning(asked):
    events = told([BEGAN, Mused("Let"), Said("Hi"), Finished("stop")], responses_call(**asked), reasoning=7)
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message"]
    assert events[-1]["response"]["usage"]["output_tokens_details"] == {"reasoning_tokens": 7}


def test_a_refusal_is_a_part_of_its_own():
    events = told([BEGAN, Said("No: "), Declined("I "), Declined("won't"), Said("!"), Finished("stop")])
    refusal = ["content_part.added", "refusal.delta", "refusal.delta", "refusal.done", "content_part.done"]
    assert kinds(events) == [
        *MESSAGE, "output_text.delta", "output_text.done", "content_part.done", *refusal,
        "content_part.added", "output_text.delta", *TEXT_END, "completed",
    ]  # fmt: skip
    (item,) = events[-1]["response"]["output"]
    assert item["content"][1] == {"type": "refusal", "refusal": "I won't"}
    assert [part.get("text") for part in item["content"]] == ["No: ", None, "!"]
    assert {event["content_index"] for event in events if "refusal" in event["type"]} == {1}


@pytest.mark.parametrize(
    ("reason", "status", "details", "item"),
    [
        ("length", "incomplete", {"reason": "max_output_tokens"}, "incomplete"),
        ("content_filter", "incomplete", {"reason": "content_filter"}, "incomplete"),
        ("stop", "completed", None, "completed"),
        ("tool_calls", "completed", None, "completed"),
        ("whatever", "completed", None, "completed"),
    ],
)
def test_why_it_ended(reason, status, details, item):
    answer = [BEGAN, Calling(0, "a", "f"), Arguments(0, "{}"), Said("x"), Finished(reason), Ended()]
    events = told(answer)
    assert events[-1]["type"] == f"response.{status}"
    response = events[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == (status, details)
    assert [one["status"] for one in response["output"]] == ["completed", item]


def test_a_call_cut_in_its_middle_is_incomplete():
    answer = [
        BEGAN,
        Calling(0, "a", "f"),
        Arguments(0, '{"a":1}'),
        Calling(1, "b", "g"),
        Arguments(1, '{"b'),
        Finished("length"),
    ]
    assert [one["status"] for one in told(answer)[-1]["response"]["output"]] == ["completed", "incomplete"]


def test_no_answer_at_all_is_one_without_output():
    assert kinds(told([])) == ["completed"]


def test_other_choices_have_no_place():
    events = told(
        [BEGAN, Said("a"), Said("b", 1), Calling(0, "x", "f", 1), Finished("length", choice=1), Finished("stop")]
    )
    assert [item["content"][0]["text"] for item in events[-1]["response"]["output"]] == ["a"]
    assert events[-1]["response"]["status"] == "completed"


ASKED = {
    "instructions": "Be kind",
    "max_output_tokens": 9,
    "metadata": {"k": "v"},
    "parallel_tool_calls": False,
    "temperature": 0.5,
    "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
    "tool_choice": {"type": "function", "name": "f"},
    "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}],
    "top_p": 0.9,
    "user": "u",
}


def test_what_was_asked_is_said_again():
    for event in told([BEGAN, Said("x")], responses_call(**ASKED)):
        if "response" in event:
            found = event["response"]
            function = {"type": "function", "name": "f", "description": None, "parameters": None, "strict": False}
            assert {name: found[name] for name in ASKED} == {**ASKED, "tools": [function, {"type": "web_search"}]}


def test_what_was_not_asked_has_its_default():
    found = told([BEGAN])[-1]["response"]
    assert {name: found[name] for name in ("metadata", "parallel_tool_calls", "reasoning", "text", "tool_choice")} == {
        "metadata": {},
        "parallel_tool_calls": True,
        "reasoning": {"effort": None, "summary": None},
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
    }
    constants = {"tools": [], "store": False, "truncation": "disabled", "previous_response_id": None, "user": None}
    assert {name: found[name] for name in constants} == constants


def test_a_failure_is_told_twice():
    writer = encoder()
    frames = writer.received([BEGAN, Said("Hal"), Calling(0, "a", "f"), Arguments(0, "{")], Learnt())
    complaint = writer.complaint(broken_off())
    assert complaint is not None
    error, failed = checked([*frames, *complaint])[-2:]
    assert error == {
        "type": "error", "code": "stream_aborted", "message": "upstream cancelled the response mid-stream",
        "param": None, "sequence_number": error["sequence_number"],
    }  # fmt: skip
    response = failed["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "upstream cancelled the response mid-stream"}
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    assert response["output"][1]["arguments"] == "{"


def test_the_sdk_raises_or_shows_the_failure():
    writer = encoder()
    frames = [*writer.received([BEGAN, Said("Hal")], Learnt()), *(writer.complaint(broken_off()) or [])]
    final, events = accumulated(b"".join(map(encode, frames)))
    assert final is None
    assert [event.type for event in events][-2:] == ["error", "response.failed"]


def test_separators_are_escaped():
    frames = encoder().received(
        [BEGAN, Said("a\u2028b\u0085"), Calling(0, "a", "f"), Arguments(0, '"\u2029')], Learnt()
    )
    assert not any(separator in b"".join(map(encode, frames)) for separator in (b"\xe2\x80", b"\xc2\x85"))
    assert checked(frames)[4]["delta"] == "a\u2028b\u0085"


# --- Any answer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def calls(draw: Any) -> list[list[Any]]:
    """The events of some calls, each a list in its own order."""
    found = []
    for index in range(draw(st.integers(0, 3))):
        text = draw(st.sampled_from(["", "{}"]) | st.dictionaries(TEXTS, JSON_VALUES, max_size=2).map(json.dumps))
        cut = draw(st.integers(0, len(text)))
        pieces = [Arguments(index, piece) for piece in (text[:cut], text[cut:])]
        found.append([*pieces, *draw(st.sampled_from([[], [Called(index)]]))])
    return found


@st.composite
def answers(draw: Any) -> list[Any]:
    """Neutral events as a decoder may give them."""
    waiting = draw(calls())
    events: list[Any] = [BEGAN] if draw(st.booleans()) else []
    begun: list[list[Any]] = []
    words = st.builds(Said, TEXTS) | st.builds(Mused, TEXTS) | st.builds(Declined, TEXTS)
    for step in draw(st.lists(st.sampled_from("scaaa"), max_size=15)):
        if step == "s":
            events.append(draw(words))
        elif step == "c" and waiting:
            index = len(begun)
            events.append(Calling(index, f"call_{index}", f"f{index}"))
            begun.append(waiting.pop(0))
        elif any(begun):
            events.append(draw(st.sampled_from([rest for rest in begun if rest])).pop(0))
    events += [event for rest in begun for event in rest]
    events += draw(st.sampled_from([[], *([Finished(one)] for one in ("stop", "length", "content_filter"))]))
    return [*events, *draw(st.sampled_from([[], [Counted()], [Counted(), Ended()]]))]


@settings(deadline=None)
@given(answers(), st.booleans(), st.integers(0, 9))
def test_any_answer_is_legal_and_the_same_whole(events, musing, tokens):
    more = MUSING if musing else {}
    found = told(events, responses_call(**more), prompt=tokens, completion=tokens)
    final = found[-1]["response"]
    assert final == whole(events, responses_call(stream=False, **more), prompt=tokens, completion=tokens)
    deltas = {
        "response.output_text.delta": "",
        "response.function_call_arguments.delta": "",
        "response.refusal.delta": "",
    }
    for event in found:
        if event["type"] in deltas:
            deltas[event["type"]] += event["delta"]
    texts = [part for item in final["output"] for part in item.get("content", ())]
    assert deltas["response.output_text.delta"] == "".join(part.get("text", "") for part in texts)
    assert deltas["response.output_text.delta"] == "".join(event.text for event in events if isinstance(event, Said))
    assert deltas["response.refusal.delta"] == "".join(event.text for event in events if isinstance(event, Declined))
    said = [item["arguments"] for item in final["output"] if item["type"] == "function_call"]
    for index, arguments in enumerate(said):
        written = "".join(event.text for event in events if isinstance(event, Arguments) and event.index == index)
        assert arguments == (written or "{}")


@settings(deadline=None, max_examples=30)
@given(answers(), st.booleans())
def test_the_sdk_accumulates_any_answer(events, musing):
    writer, learnt = encoder(responses_call(**(MUSING if musing else {}))), Learnt(prompt=1, completion=1)
    frames = [frame for event in events for frame in writer.received([event], learnt)]
    frames += writer.stopped(learnt)
    final, seen = accumulated(b"".join(map(encode, frames)))
    assert len(seen) == len(frames)
    read = final.model_dump(mode="json", exclude_unset=True)
    wanted = json.loads(frames[-1].data)["response"]
    check_snapshot(wanted)
    texts = [part["text"] for item in wanted["output"] for part in item.get("content", ()) if "text" in part]
    assert final.output_text == "".join(texts)
    assert [item["type"] for item in read["output"]] == [item["type"] for item in wanted["output"]]
    assert without_parsed(read["output"]) == wanted["output"]


def without_parsed(value: Any) -> Any:
    """What the SDK's helper adds, taken away."""
    if isinstance(value, list):
        return [without_parsed(one) for one in value]
    if isinstance(value, dict):
        added = ("parsed", "parsed_arguments")
        return {name: without_parsed(one) for name, one in value.items() if name not in added}
    return value


def test_the_sdk_reads_the_whole_object():
    frame = encoder(responses_call(stream=False)).stopped(Learnt())[0]
    found = client(frame.data, "application/json").responses.create(model="gpt", input="hi")
    assert isinstance(found, openai.types.responses.Response)
    assert found.status == "completed"
