"""A Responses caller over the bridge: the exact bodies of both kinds of targets (`translation.md` 7.1, then 2)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from twisted_gateway.exchange import Target
from twisted_gateway.formats import anthropic, openai_chat, openai_responses

from .anthropic_making import NONE
from .chat_making import place
from .responses_making import responses_call
from .strict import anthropics_mistakes

PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0x"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def at_chat(target: Target | None = None, **members: Any) -> Any:
    """The body that a chat target gets."""
    prompt = openai_responses.FORMAT.prompt(responses_call(**{"stream": False, **members}))
    return json.loads(openai_chat.FORMAT.body(prompt, target or place("llama-4")).body)


def at_anthropic(**members: Any) -> Any:
    """The body that Anthropic gets; whatever it would refuse fails the test."""
    prompt = openai_responses.FORMAT.prompt(responses_call(**{"stream": False, **members}))
    made = json.loads(anthropic.FORMAT.body(prompt, place(NONE, provider="anthropic")).body)
    assert anthropics_mistakes(made) == []
    return made


SAID = [{"role": "user", "content": "hi"}]
SAID_THERE = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
TOOL = {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA, "strict": True}


@pytest.mark.parametrize(
    ("members", "chat", "messages"),
    [
        ({}, {}, {}),
        ({"max_output_tokens": 7, "max_tokens": 8}, {"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 8}, {"max_tokens": 8}, {"max_tokens": 8}),
        (
            {"temperature": 0.5, "top_p": 0.9, "user": "u"},
            {"temperature": 0.5, "top_p": 0.9, "user": "u"},
            {"temperature": 0.5, "top_p": 0.9, "metadata": {"user_id": "u"}},
        ),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
        ({"safety_identifier": "s"}, {"safety_identifier": "s"}, {}),
        ({"service_tier": "auto"}, {"service_tier": "auto"}, {}),
        ({"prompt_cache_key": "k"}, {"prompt_cache_key": "k"}, {}),
        ({"metadata": {"user_id": "u"}}, {"metadata": {"user_id": "u"}}, {}),
        ({"text": {"verbosity": "low"}}, {"verbosity": "low"}, {}),
        ({"store": True, "include": ["reasoning.encrypted_content"]}, {}, {}),
        ({"truncation": "auto", "max_tool_calls": 3, "top_logprobs": 2, "stream_options": {}}, {}, {}),
        ({"brand_new": 1}, {}, {}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}, {}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                }
            },
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        ),
        (
            {"tools": [TOOL, {"type": "web_search"}], "parallel_tool_calls": False, "tool_choice": "required"},
            {
                "tools": [{"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}}],
                "parallel_tool_calls": False,
                "tool_choice": "required",
            },
            {
                "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA, "strict": True}],
                "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            },
        ),
        ({"tools": [{"type": "web_search"}], "tool_choice": "auto"}, {}, {}),
    ],
)
def test_members(members: dict[str, Any], chat: dict[str, Any], messages: dict[str, Any]) -> None:
    """OpenAI's own members go to its family alone, under their names; `store`, `include` and the like nowhere."""
    assert at_chat(**members) == {"model": "llama-4", "messages": SAID, **chat}
    assert at_anthropic(**members) == {"model": NONE, "max_tokens": 4096, "messages": SAID_THERE, **messages}


@pytest.mark.parametrize(
    ("part", "chat", "block"),
    [
        (
            {"type": "input_image", "image_url": PNG, "detail": "low"},
            {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        ),
        (
            {"type": "input_image", "image_url": "https://x/y.png", "detail": "auto"},
            {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "auto"}},
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        ),
        (
            {"type": "input_file", "file_data": PDF, "filename": "a.pdf"},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"},
                "title": "a.pdf",
            },
        ),
    ],
)
@pytest.mark.parametrize("provider", ["deepseek", "openai"])
def test_pictures_and_files(part: dict[str, Any], chat: Any, block: Any, provider: str) -> None:
    """They reach every target; how much of a picture is looked at, only those who have a word for it."""
    given = [{"role": "user", "content": [{"type": "input_text", "text": "see"}, part]}]
    made = at_chat(place("gpt-4o", provider=provider), input=given)
    assert made["messages"] == [{"role": "user", "content": [{"type": "text", "text": "see"}, chat]}]
    assert at_anthropic(input=given)["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "see"}, block]}
    ]


def test_a_tool_loop() -> None:
    """Contiguous calls are one message of the assistant; each result answers its call; reasoning is left out."""
    calls = [
        {"type": "function_call", "id": "fc_1", "call_id": "a.1", "name": "f", "arguments": '{"x":1}'},
        {"type": "function_call", "id": "fc_2", "call_id": "a_1", "name": "g", "arguments": ""},
    ]
    given = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "look"}]},
        *calls,
        {"type": "function_call_output", "call_id": "a_1", "output": "two"},
        {"type": "function_call_output", "call_id": "a.1", "output": [{"type": "input_text", "text": "one"}]},
    ]
    made = at_chat(instructions="in short", input=given)["messages"]
    assert made == [
        {"role": "system", "content": "in short"},
        {"role": "system", "content": "be kind"},
        *SAID,
        {
            "role": "assistant",
            "content": "look",
            "tool_calls": [
                {"id": "a.1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
                {"id": "a_1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a_1", "content": "two"},
        {"role": "tool", "tool_call_id": "a.1", "content": "one"},
    ]
    made = at_anthropic(instructions="in short", input=given)
    assert made["system"] == "in short\n\nbe kind"
    assert made["messages"] == [
        *SAID_THERE,
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "tool_use", "id": "a_1", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "a_1_2", "name": "g", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a_1_2", "content": "two"},
                {"type": "tool_result", "tool_use_id": "a_1", "content": "one"},
            ],
        },
    ]
