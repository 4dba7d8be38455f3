"""Every member of the SDKs' types that can hold a text has a decision: it is looked at, or it never is one.

A new SDK with a new member fails here until somebody decides. What nobody knows is looked at (`slots.strings`).
"""

from __future__ import annotations

import typing
from typing import Any, get_args, get_origin

import anthropic.types as messages
import msgspec
import openai.types as completions
import openai.types.chat as chat
import openai.types.responses as responses
import pydantic
import pytest

from twisted_gateway.formats import anthropic, openai_chat, openai_completions, openai_responses
from twisted_gateway.formats.slots import NEVER, strings, twins

LOOKED_AT = {
    *("arguments", "cited_text", "code", "command", "commands", "content", "delta", "diff", "document_title", "error"),
    *(
        "error_message",
        "input",
        "lines",
        "logs",
        "message",
        "name",
        "output",
        "partial_json",
        "path",
        "pattern",
        "queries",
    ),
    *(
        "query",
        "reason",
        "refusal",
        "result",
        "revised_prompt",
        "source",
        "stderr",
        "stdout",
        "text",
        "thinking",
        "title",
    ),
    *("annotations", "tool_name", "transcript", "keys", "description", "explanation", "value", "url_citation"),
}
"""Words of somebody, or of a tool."""

NOT_OF_AN_ANSWER = {
    *("categories", "category_applied_input_types", "category_scores", "metadata", "param"),
    *("allowed_domains", "allowed_tools", "attributes", "authorization", "caller_id", "city", "comparison_response_id"),
    *("container", "country", "created_by", "definition", "env", "file_ids", "filters", "headers", "input_schema"),
    *("instructions", "mode", "output_schema", "parameters", "prompt_cache_key", "region", "review_target"),
    *(
        "safety_identifier",
        "schema",
        "server_description",
        "server_url",
        "timezone",
        "tool_names",
        "tools",
        "tunnel_id",
    ),
    *("user", "variables", "vector_store_ids", "working_directory", "detailed_explanation", "inference_geo"),
}
"""Members that only stand where no answer is: what was asked, said once more, and the places of tools."""


def fields(kind: Any, found: set[str], seen: set[Any], name: str = "") -> None:
    """The names of all members of a type that may hold a string, below it too."""
    origin = get_origin(kind)
    if kind is str or kind is object or kind is Any:
        found.add(name)
    elif isinstance(kind, type) and (issubclass(kind, pydantic.BaseModel) or typing.is_typeddict(kind)):
        if kind in seen:
            return
        seen.add(kind)
        if typing.is_typeddict(kind):
            members = typing.get_type_hints(kind)
        else:
            members = {field.alias or own: field.annotation for own, field in kind.model_fields.items()}
        for own, member in members.items():
            fields(member, found, seen, own)
    elif hasattr(kind, "__value__"):
        fields(kind.__value__, found, seen, name)
    elif origin is not typing.Literal:
        for argument in get_args(kind):
            fields(argument, found, seen, name)


TYPES = {
    "chat": [chat.ChatCompletion, chat.ChatCompletionChunk, chat.ChatCompletionMessageParam],
    "completions": [completions.Completion],
    "responses": [responses.Response, responses.ResponseStreamEvent, responses.ResponseInputItemParam],
    "messages": [messages.Message, messages.RawMessageStreamEvent, messages.MessageParam, messages.TextBlockParam],
}


@pytest.mark.parametrize("dialect", TYPES)
def test_every_text_has_a_decision(dialect: str) -> None:
    found: set[str] = set()
    for kind in TYPES[dialect]:
        fields(kind, found, set())
    undecided = found - LOOKED_AT - NEVER - NOT_OF_AN_ANSWER - {""}
    assert undecided == set(), "decide: is it text (LOOKED_AT), or never (formats.slots.NEVER)?"


def test_decisions_do_not_contradict() -> None:
    assert not LOOKED_AT & NEVER
    assert not LOOKED_AT & NOT_OF_AN_ANSWER


def slots_of(value: Any) -> list[str]:
    return [slot.holder[slot.key] for slot in strings({"it": value}, "it", (0, "text"))]


@pytest.mark.parametrize("name", sorted(LOOKED_AT - {"input"}))
def test_what_is_decided_is_done(name: str) -> None:
    assert slots_of({"type": "x", name: "words"}) == ["words"]
    assert slots_of([{"a": [{name: "words"}]}]) == ["words"]


def test_what_is_never_text() -> None:
    assert slots_of(dict.fromkeys(NEVER, "words")) == []
    picture = "data:image/png;base64," + "AAAA" * 16
    assert slots_of(picture) == []
    for words in (picture + " and words", "data:;base64,words", "data:text/plain;base64," + "AAAA" * 16):
        assert slots_of(words) == [words]
    assert slots_of({"type": "image_generation_call", "result": "AAAA"}) == []


def test_inputs_of_tools_are_one_text() -> None:
    found = list(strings({"it": {"type": "tool_use", "name": "f", "input": {"id": "x"}}}, "it", (0, "text")))
    assert [(slot.key, slot.arguments) for slot in found] == [("name", False), ("input", True)]


ASKED = [  # format, members, the texts
    (openai_chat, {"messages": [{"role": "user", "content": "a", "name": "b"}], "prediction": {"content": "c"}}, "abc"),
    (openai_completions, {"prompt": ["a", [1, 2]], "suffix": "b"}, "ab"),
    (
        openai_responses,
        {
            "instructions": "a",
            "input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "b"}]},
                {"type": "function_call_output", "call_id": "no", "output": "c"},
                {"type": "reasoning", "id": "no", "summary": [{"type": "summary_text", "text": "T"}]},
            ],
            "prompt": {"id": "no", "variables": {"x": "d"}},
        },
        "abcTd",
    ),
    (
        anthropic,
        {
            "system": [{"type": "text", "text": "a"}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "b"}},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "no"}},
                    {"type": "tool_result", "tool_use_id": "no", "content": [{"type": "text", "text": "c"}]},
                    {"type": "thinking", "thinking": "T", "signature": "no"},
                ]},
            ],
        },
        "abcT",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("format", "members", "texts"), ASKED, ids=lambda one: getattr(one, "__name__", ""))
def test_texts_of_requests(format: Any, members: dict[str, Any], texts: str) -> None:
    assert set(members) <= set(format.FORMAT.texts.members)
    slots = format.FORMAT.texts.asked(members)
    assert "".join(str(slot.holder[slot.key]) for slot in slots) == texts
    assert [slot.holder[slot.key] for slot in slots if slot.reasoning] == ["T"] * texts.count("T")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"a":1,"b":{"a":": "}}', False),
        (b'{"a": 1, "b": {"a": "\\":\\\\"}, "\\\\": "\\u0041"}', False),
        (b'[":", "a", {"\\u0061" : 1, "b" : []}]', False),
        (b'{"a":1,"a":1}', True),
        (b'{"a":1,"\\u0061":2}', True),
        (b'[{"a":{"b":1, "c":2, "b" :3}}]', True),
    ],
)
def test_twins(data: bytes, found: bool) -> None:
    assert twins(msgspec.json.decode(data), data) is found
