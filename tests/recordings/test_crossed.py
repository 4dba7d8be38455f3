"""Recordings read in another dialect than their provider's: the expectation by the tables of `translation.md`.

Anthropic recordings as chat and as Responses, chat recordings as Messages and as Responses (the bridge is on).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from openai.types.responses import Response as SdkResponse

from tests.doubles.recordings import Recording
from tests.formats.anthropic_grammar import check as check_grammar

from .crossing import (
    Expected,
    chat_of_messages,
    messages_of_chat,
    responses_of_chat,
    responses_of_messages,
    says_and_declines,
    signed_blocks,
)
from .dialects import Message, Response, facts
from .folding import PREFIX
from .house import MESSAGES, SHOW_USAGE
from .items import (
    CHAT_CUT,
    CHAT_ERRORS,
    CHAT_FIRST_ERRORS,
    CHAT_IN_STREAM_ERRORS,
    CHAT_STREAMS,
    CHAT_WHOLE,
    MESSAGE_ERRORS,
    MESSAGE_ODD,
    MESSAGE_STREAMS,
    MESSAGE_WHOLE,
    ONE_BYTE_LIMIT,
    each,
)
from .reading import Reading, differences, plain, same_text
from .replay import ANY, STREAMED, WHOLE, Delivery
from .roads import PROMPT, SUMMARY, Roads
from .test_errors import CUT_SHORT, body_of
from .test_messages import ERROR_TYPES, check_http_error, error_of
from .test_responses import check_http_error as check_openai_error

streamed = pytest.mark.parametrize("delivery", STREAMED, ids=str)
whole = pytest.mark.parametrize("delivery", WHOLE[:2], ids=str)
anyhow = pytest.mark.parametrize("delivery", ANY, ids=str)
ask_as = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
CUT = [item for item in MESSAGE_ODD if "truncated" in item.categories]
IN_STREAM_ERRORS = [item for item in MESSAGE_ODD if "in-stream-error" in item.categories]
ODD = [item for item in MESSAGE_ODD if item not in CUT and item not in IN_STREAM_ERRORS]
TWICE = {"odd-msg-anthropic-duplicate-message-start-01"}
"""Two messages in one stream, blocks of the first cut: a call whose arguments are no JSON."""
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


def short(some: list[Recording]) -> list[Recording]:
    """Those that are not too long to be sent byte by byte."""
    return [item for item in some if len(item.body) <= ONE_BYTE_LIMIT]


def piecemeal(item: Recording, delivery: Delivery) -> Delivery:
    """The delivery; at random instead of byte by byte where the item is too long for that."""
    return delivery if delivery.cut != "bytes" or short([item]) else Delivery("random", seed=5)


# Anthropic as chat


@streamed
@each(MESSAGE_STREAMS)
def test_a_message_stream_as_chat(item: Recording, delivery: Delivery, roads: Roads) -> None:
    check_chat(roads.chat(item.name, delivery, stream=True), item)


@each(short(MESSAGE_STREAMS))
def test_a_message_stream_as_chat_byte_by_byte(item: Recording, roads: Roads) -> None:
    check_chat(roads.chat(item.name, Delivery("bytes"), stream=True), item)


@whole
@each(MESSAGE_WHOLE)
def test_a_message_as_chat(item: Recording, delivery: Delivery, roads: Roads) -> None:
    check_chat(roads.chat(item.name, delivery, stream=False), item)


@each(MESSAGE_WHOLE)
def test_a_message_asked_as_a_chat_stream(item: Recording, roads: Roads) -> None:
    check_chat(roads.chat(item.name, Delivery("random", seed=3), stream=True), item)


@each(MESSAGE_STREAMS)
def test_the_chat_helper_reads_it(item: Recording, roads: Roads) -> None:
    manager = roads.openai.chat.completions.stream(
        model=f"our-{item.name}",
        messages=MESSAGES,
        stream_options=SHOW_USAGE,
        extra_body=Delivery("random", seed=6).member(),
    )
    with manager as stream:
        answer = plain(stream.until_done().current_completion_snapshot)
    reading = Reading()
    reading.add(answer)
    assert differences(reading, chat_of_messages(item)) == []
    assert thinking_blocks(answer) == signed_blocks(item)


@each(MESSAGE_WHOLE)
def test_signed_thinking_comes_with_a_whole_chat_answer(item: Recording, roads: Roads) -> None:
    answer = roads.openai.chat.completions.create(model=f"our-{item.name}", messages=MESSAGES)
    assert thinking_blocks(plain(answer)) == signed_blocks(item)


@anyhow
@each([item for item in ODD if item.name not in TWICE])
def test_an_odd_message_stream_as_chat(item: Recording, delivery: Delivery, roads: Roads) -> None:
    check_chat(roads.chat(item.name, delivery, stream=True), item)


@anyhow
@each([item for item in ODD if item.name in TWICE])
def test_two_messages_in_one_stream_as_chat(item: Recording, delivery: Delivery, roads: Roads) -> None:
    """The blocks of both, as they came: the first call is cut."""
    reading = roads.chat(item.name, delivery, stream=True)
    assert reading.error is None
    choice = reading.choices[0]
    assert same_text(choice.reasoning, item.read["reasoning"])
    assert [(tool.id, tool.arguments) for tool in choice.tools.values()] == [
        ("toolu_first", '{"value":"Spark'),
        ("toolu_second", '{"value":"Sparkle Day"}'),
    ]
    assert choice.finish_reason == "tool_calls"


@pytest.mark.parametrize("delivery", [*ANY, Delivery("random", seed=3, abort=True)], ids=str)
@each(CUT)
def test_a_cut_message_stream_as_chat(item: Recording, delivery: Delivery, roads: Roads) -> None:
    reading = roads.chat(item.name, delivery, stream=True)
    check_before_an_error(reading, chat_of_messages(item))
    body = body_of(reading)
    assert (body["message"], body["type"]) == (CUT_SHORT, "stream_aborted")


@anyhow
@each(IN_STREAM_ERRORS)
def test_an_error_in_a_message_stream_as_chat(item: Recording, delivery: Delivery, roads: Roads) -> None:
    reading = roads.chat(item.name, delivery, stream=True)
    check_before_an_error(reading, chat_of_messages(item))
    body = body_of(reading)
    assert (body["message"], body["type"]) == (item.expect["sdk_error"]["error_message"], "upstream_in_band_error")


@ask_as
@each(MESSAGE_ERRORS)
def test_an_anthropic_http_error_as_chat(item: Recording, stream: bool, roads: Roads) -> None:
    check_openai_error(roads.chat(item.name, Delivery("random", seed=1), stream=stream).error, item)


# Chat as Messages


@streamed
@each(CHAT_STREAMS)
def test_a_chat_stream_as_messages(item: Recording, delivery: Delivery, roads: Roads) -> None:
    check_message(roads.message(item.name, delivery, stream=True, thinking=True), item)


@each(short(CHAT_STREAMS))
def test_a_chat_stream_as_messages_byte_by_byte(item: Recording, roads: Roads) -> None:
    check_message(roads.message(item.name, Delivery("bytes"), stream=True, thinking=True), item)


@each(CHAT_STREAMS)
def test_reasoning_is_not_told_who_did_not_ask(item: Recording, roads: Roads) -> None:
    check_message(roads.message(item.name, Delivery("random", seed=4), stream=True), item, thinking=False)


@whole
@each(CHAT_WHOLE)
def test_a_completion_as_a_message(item: Recording, delivery: Delivery, roads: Roads) -> None:
    check_message(roads.message(item.name, delivery, stream=False, thinking=True), item)


@each(CHAT_WHOLE)
def test_a_completion_asked_as_a_message_stream(item: Recording, roads: Roads) -> None:
    check_message(roads.message(item.name, Delivery("random", seed=3), stream=True, thinking=True), item)


@pytest.mark.parametrize("thinking", [True, False], ids=["thinking", "plain"])
@each(CHAT_STREAMS, CHAT_WHOLE)
def test_what_is_translated_is_legal(item: Recording, thinking: bool, roads: Roads) -> None:
    answer = roads.raw_message(item.name, Delivery("random", seed=5), thinking=thinking)
    assert (answer.status, answer.content_type.split(";")[0]) == (200, "text/event-stream")
    check_grammar(answer.body)


@anyhow
@each(CHAT_CUT, CHAT_IN_STREAM_ERRORS)
def test_what_ends_in_an_error_is_legal_up_to_it(item: Recording, delivery: Delivery, roads: Roads) -> None:
    answer = roads.raw_message(item.name, piecemeal(item, delivery), thinking=True)
    check_grammar(answer.body, whole=False)
    assert answer.body.rstrip().split(b"\n\n")[-1].startswith(b"event: error\n")
    assert b"message_stop" not in answer.body


@pytest.mark.parametrize("delivery", [*ANY, Delivery("random", seed=3, abort=True)], ids=str)
@each(CHAT_CUT)
def test_a_cut_chat_stream_as_messages(item: Recording, delivery: Delivery, roads: Roads) -> None:
    reading = roads.message(item.name, delivery, stream=True, thinking=True)
    check_before_an_error(reading, messages_of_chat(item, thinking=True))
    assert error_of(reading) == {"type": "api_error", "message": CUT_SHORT}


@anyhow
@each(CHAT_IN_STREAM_ERRORS)
def test_an_error_in_a_chat_stream_as_messages(item: Recording, delivery: Delivery, roads: Roads) -> None:
    reading = roads.message(item.name, piecemeal(item, delivery), stream=True, thinking=True)
    check_before_an_error(reading, messages_of_chat(item, thinking=True))
    told, wanted = error_of(reading), item.expect["sdk_error"]
    assert told["message"] == wanted["error_message"]
    assert told["type"] in {*ERROR_TYPES.values(), "api_error", "overloaded_error", "timeout_error"}


@ask_as
@each(CHAT_ERRORS)
def test_a_chat_http_error_as_messages(item: Recording, stream: bool, roads: Roads) -> None:
    check_http_error(roads.message(item.name, Delivery("random", seed=1), stream=stream), item)


@each(CHAT_FIRST_ERRORS)
def test_an_error_before_everything_as_messages(item: Recording, roads: Roads) -> None:
    reading = roads.message(item.name, Delivery("random", seed=1), stream=item.kind == "stream")
    error, wanted = reading.error, item.expect["sdk_error"]
    assert isinstance(error, anthropic.APIStatusError)
    assert error.status_code == wanted["status"]
    told = {"type": ERROR_TYPES.get(wanted["status"], "api_error"), "message": wanted["error_message"]}
    assert error_of(reading) == told


# Both as Responses


@streamed
@each(CHAT_STREAMS)
def test_a_chat_stream_as_responses(item: Recording, delivery: Delivery, roads: Roads) -> None:
    check_response(roads.response(item.name, delivery, stream=True, bridge=True), responses_of_chat(item), item)


@each(short(CHAT_STREAMS))
def test_a_chat_stream_as_responses_byte_by_byte(item: Recording, roads: Roads) -> None:
    reading = roads.response(item.name, Delivery("bytes"), stream=True, bridge=True)
    check_response(reading, responses_of_chat(item), item)


@whole
@each(CHAT_WHOLE)
def test_a_completion_as_a_response(item: Recording, delivery: Delivery, roads: Roads) -> None:
    reading = roads.response(item.name, delivery, stream=False, bridge=True)
    check_response(reading, responses_of_chat(item), item)


@each(CHAT_WHOLE)
def test_a_completion_asked_as_a_stream_of_responses(item: Recording, roads: Roads) -> None:
    reading = roads.response(item.name, Delivery("random", seed=3), stream=True, bridge=True)
    check_response(reading, responses_of_chat(item), item)


@each(MESSAGE_STREAMS, MESSAGE_WHOLE)
def test_a_message_as_responses(item: Recording, roads: Roads) -> None:
    reading = roads.response(item.name, Delivery("random", seed=1), stream=item.kind == "stream", bridge=True)
    check_response(reading, responses_of_messages(item), item)


@each(CHAT_STREAMS, MESSAGE_STREAMS)
def test_the_responses_helper_reads_it(item: Recording, roads: Roads) -> None:
    delivery = Delivery("random", seed=6)
    manager = roads.openai.responses.stream(
        model=f"bridge-{item.name}", input=PROMPT, reasoning=SUMMARY, user=delivery.user(), extra_body=delivery.member()
    )
    claude = item.expect["protocol"] == "anthropic-messages"
    wanted = (responses_of_messages if claude else responses_of_chat)(item)
    with manager as stream:
        *_, last = stream
        if wanted["finish_reason"] == "completed":
            assert stream.get_final_response() is not None  # of others it knows no end
    check_response(Response().take(plain(last)["response"]), wanted, item)


@pytest.mark.parametrize("delivery", [*ANY, Delivery("random", seed=3, abort=True)], ids=str)
@each(CHAT_CUT, CHAT_IN_STREAM_ERRORS)
def test_a_failed_chat_stream_as_responses(item: Recording, delivery: Delivery, roads: Roads) -> None:
    reading = roads.response(item.name, piecemeal(item, delivery), stream=True, bridge=True)
    wanted = responses_of_chat(item)
    assert same_text(reading.choices[0].text, wanted["text"])
    assert same_text(reading.choices[0].reasoning, wanted["reasoning"])
    cut = "truncated" in item.categories
    message = CUT_SHORT if cut else item.expect["sdk_error"]["error_message"]
    code = "stream_aborted" if cut else "upstream_in_band_error"
    assert reading.errors == [{"code": code, "message": message, "param": None}]
    assert reading.status == "failed"
    assert reading.last is not None
    assert reading.last["error"]["message"] == message
    assert reading.numbers == list(range(len(reading.numbers)))


@ask_as
@each(CHAT_ERRORS, MESSAGE_ERRORS)
def test_an_http_error_as_responses(item: Recording, stream: bool, roads: Roads) -> None:
    reading = roads.response(item.name, Delivery("random", seed=1), stream=stream, bridge=True)
    check_openai_error(reading.error, item)


# A stream and the JSON that would have said the same


@each(MESSAGE_STREAMS)
def test_a_message_stream_and_its_twin_are_one_chat_answer(item: Recording, roads: Roads) -> None:
    check_twins(roads.chat, item)


@each([item for item in CHAT_STREAMS if not says_and_declines(item)])
def test_a_chat_stream_and_its_twin_are_one_message(item: Recording, roads: Roads) -> None:
    def read(name: str, delivery: Delivery, *, stream: bool) -> Message:
        return roads.message(name, delivery, stream=stream, thinking=True)

    here, there = check_twins(read, item)
    assert simple_blocks(here) == simple_blocks(there)


@each(CHAT_STREAMS, MESSAGE_STREAMS)
def test_a_stream_and_its_twin_are_one_response(item: Recording, roads: Roads) -> None:
    def read(name: str, delivery: Delivery, *, stream: bool) -> Response:
        return roads.response(name, delivery, stream=stream, bridge=True)

    here, there = check_twins(read, item)
    assert here.incomplete_reason == there.incomplete_reason


def check_twins(read: Callable[..., Any], item: Recording) -> tuple[Any, Any]:
    """The stream as the SDK accumulates it, and the whole answer, once asked for as a stream as well."""
    here = read(item.name, Delivery("coalesced", seed=7), stream=True)
    there = read(PREFIX + item.name, Delivery(), stream=False)
    again = read(PREFIX + item.name, Delivery(), stream=True)
    assert (here.error, there.error, again.error) == (None, None, None)
    assert first(here) == first(there) == first(again)
    return here, there


def first(reading: Reading) -> Any:
    """What was read; tools in order, without their ids."""
    return facts(reading)


def simple_blocks(message: Message) -> list[tuple[str, Any]]:
    """The kinds of blocks with what they say; the same kind twice in a row is one."""
    found: list[tuple[str, Any]] = []
    for block in message.blocks:
        kind = block["type"]
        said = block.get(kind) if kind in ("text", "thinking") else (block["name"], json.dumps(block["input"]))
        if found and found[-1][0] == kind and isinstance(said, str):
            found[-1] = (kind, found[-1][1] + said)
        else:
            found.append((kind, said))
    return sorted(found, key=lambda one: ("thinking", "text", "tool_use").index(one[0]))


# Checks


def check_chat(reading: Reading, item: Recording) -> None:
    """A whole chat answer out of an Anthropic one."""
    assert reading.error is None
    assert differences(reading, chat_of_messages(item)) == []
    assert reading.models == {f"our-{item.name}"}
    assert reading.ids == {item.read["id"]}


def check_message(reading: Message, item: Recording, *, thinking: bool = True) -> None:
    """A whole message out of a chat answer."""
    assert reading.error is None
    assert differences(reading, with_ids(messages_of_chat(item, thinking=thinking), reading)) == []
    assert reading.models == {f"our-{item.name}"}
    assert all(given.startswith("msg_") for given in reading.ids)
    assert set(reading.block_types) <= {"thinking", "text", "tool_use"}
    assert reading.block_types, "an answer that says nothing has an empty text"
    assert reading.stop_sequence is None


def check_response(reading: Response, wanted: Expected, item: Recording) -> None:
    """A whole response out of another dialect's answer, each snapshot with all that the SDK's model asks for."""
    assert reading.error is None
    assert differences(reading, with_ids(wanted, reading)) == []
    assert reading.incomplete_reason == wanted["incomplete_reason"]
    assert reading.models == {f"bridge-{item.name}"}
    assert reading.numbers == list(range(len(reading.numbers)))
    assert reading.last is not None
    SdkResponse.model_validate(reading.last, strict=False)
    assert reading.last["status"] == wanted["finish_reason"]
    usage = reading.last["usage"]
    if any(wanted["usage"].values()):
        assert usage["total_tokens"] >= usage["input_tokens"] + usage["output_tokens"]
    assert set(reading.output_types) <= {"reasoning", "message", "function_call"}
    for item_of in reading.output:
        if item_of["type"] == "function_call":
            json.loads(item_of["arguments"])
    for index, text in reading.argument_deltas.items():
        assert reading.output[int(index)]["arguments"] == text
    assert same_text(reading.final_text, wanted["text"])


def check_before_an_error(reading: Reading, wanted: Expected) -> None:
    """What an answer said until it broke: text, reasoning and the names of calls, whose arguments may be cut."""
    choice = reading.choices.get(0)
    assert choice is not None
    assert same_text(choice.text, wanted["text"])
    assert same_text(choice.reasoning, wanted["reasoning"])
    assert [tool.name for tool in choice.tools.values()] == [call["name"] for call in wanted["tool_calls"]]


def with_ids(wanted: Expected, reading: Reading) -> Expected:
    """The expectation; calls that the provider gave no id have the one that we gave."""
    tools = list(reading.choices[0].tools.values())
    calls = [
        call if call["id"] or position >= len(tools) else {**call, "id": tools[position].id}
        for position, call in enumerate(wanted["tool_calls"])
    ]
    assert all(tool.id for tool in tools)
    return {**wanted, "tool_calls": calls}


def thinking_blocks(answer: dict[str, Any]) -> list[Any]:
    """What a chat answer has of signed thinking."""
    found: list[Any] = answer["choices"][0]["message"].get("thinking_blocks") or []
    return found
