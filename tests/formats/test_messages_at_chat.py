"""A Messages caller at a target of OpenAI's family: every row of `translation.md` 5.1 and 5.2 with the exact body.

Every body is checked against OpenAI's own types, which know no other members.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from twisted_gateway.formats import anthropic, openai_chat
from twisted_gateway.formats.names import short_name

from ..exchanges import Headers
from .chat_making import HELLO, place, refusal
from .making import dumps
from .strict import openais_mistakes

JSON = Headers({"content-type": "application/json"})
EPHEMERAL = {"cache_control": {"type": "ephemeral"}}
BASE = {"model": "llama-4", "max_tokens": 100, "messages": HELLO}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def prompt_of(*messages: Any, **members: Any) -> Any:
    body = {"model": "alias", "max_tokens": 100, "messages": list(messages) or HELLO, **members}
    return anthropic.FORMAT.prompt(anthropic.read_call(dumps(body), JSON))


def asks(*messages: Any, upstream: str = "llama-4", on_model: dict[str, Any] | None = None, **members: Any) -> Any:
    """The body that a chat target gets; whatever OpenAI would refuse fails the test."""
    target = place(upstream, **(on_model or {}))
    made = json.loads(openai_chat.FORMAT.body(prompt_of(*messages, **members), target).body)
    assert openais_mistakes(made) == []
    return made


def said(*messages: Any, **more: Any) -> Any:
    return asks(*messages, **more)["messages"]


# --- 5.1


def tool(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"name": name, "input_schema": SCHEMA, **more}


def function(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA, **more}}


@pytest.mark.parametrize(
    ("members", "made"),
    [
        ({}, {}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": False}, {}),
        ({"stop_sequences": ["a", "b", "c", "d", "e"]}, {"stop": ["a", "b", "c", "d", "e"]}),
        (
            {"tools": [tool(description="d", strict=True, **EPHEMERAL), {"type": "bash_20250124", "name": "bash"}]},
            {"tools": [function(description="d", strict=True)]},
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}], "tool_choice": {"type": "any"}}, {}),
        ({"tools": [tool()], "tool_choice": {"type": "auto"}}, {"tools": [function()], "tool_choice": "auto"}),
        ({"tools": [tool()], "tool_choice": {"type": "none"}}, {"tools": [function()], "tool_choice": "none"}),
        ({"tools": [tool()], "tool_choice": {"type": "any"}}, {"tools": [function()], "tool_choice": "required"}),
        (
            {"tools": [tool()], "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}},
            {
                "tools": [function()],
                "tool_choice": {"type": "function", "function": {"name": "f"}},
                "parallel_tool_calls": False,
            },
        ),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, {}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"thinking": {"type": "disabled"}}, {}),
        ({"thinking": {"type": "adaptive"}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "output", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        (
            {
                "top_k": 5,
                "cache_control": {"type": "ephemeral"},
                "container": "c",
                "context_management": {"edits": []},
                "mcp_servers": [{"type": "url", "url": "https://x", "name": "n"}],
                "service_tier": "auto",
                "betas": ["b"],
                "brand_new": 1,
            },
            {},
        ),
    ],
)
def test_members(members: dict[str, Any], made: dict[str, Any]) -> None:
    assert asks(**members) == {**BASE, **made}


@pytest.mark.parametrize(
    ("provider", "upstream", "name"),
    [
        ("openai", "gpt-4o", "max_tokens"),
        ("openai", "gpt-5-mini", "max_completion_tokens"),
        ("openai", "o3", "max_completion_tokens"),
        ("deepseek", "gpt-5-mini", "max_tokens"),
    ],
)
def test_the_limits_name(provider: str, upstream: str, name: str) -> None:
    made = asks(upstream=upstream, on_model={"provider": provider})
    assert made == {"model": upstream, name: 100, "messages": HELLO}


def test_openai_gets_four_stop_sequences() -> None:
    made = asks(stop_sequences=list("abcde"), on_model={"provider": "openai"})
    assert made["stop"] == list("abcd")


@pytest.mark.parametrize(
    ("budget", "most", "effort"),
    [
        (16384, "max", "max"),
        (16384, "xhigh", "high"),
        (16384, "high", "high"),
        (8192, "xhigh", "xhigh"),
        (8192, "high", "high"),
        (4096, "high", "high"),
        (2048, "high", "medium"),
        (1024, "high", "low"),
        (1023, "high", "minimal"),
        (16384, "none", None),
    ],
)
def test_budgets(budget: int, most: str, effort: str | None) -> None:
    thinking = {"type": "enabled", "budget_tokens": budget}
    made = asks(thinking=thinking, on_model={"reasoning_effort_max": most})
    assert made == BASE | ({"reasoning_effort": effort} if effort else {})


LONG = "mcp__" + "n" * 65


def test_long_names_are_short_everywhere() -> None:
    """Definition, choice and history agree; answers have the full name again (`test_anthropic_writer.py`)."""
    used = {"type": "tool_use", "id": "c", "name": LONG, "input": {}}
    result = {"type": "tool_result", "tool_use_id": "c", "content": "x"}
    made = asks(
        *HELLO,
        {"role": "assistant", "content": [used]},
        {"role": "user", "content": [result]},
        tools=[tool(LONG)],
        tool_choice={"type": "tool", "name": LONG},
    )
    short = short_name(LONG)
    assert len(short) == 64
    assert made["tools"] == [function(short)]
    assert made["tool_choice"]["function"]["name"] == short
    assert made["messages"][1]["tool_calls"][0]["function"]["name"] == short


@pytest.mark.parametrize(
    ("system", "made"),
    [
        ("be kind", "be kind"),
        ([{"type": "text", "text": "a", **EPHEMERAL}, {"type": "text", "text": "b"}], "a\nb"),
        (" \n", None),
        ([{"type": "text", "text": " "}], None),
    ],
)
def test_instructions(system: Any, made: str | None) -> None:
    assert said(system=system) == [*([{"role": "system", "content": made}] if made else []), *HELLO]


# --- 5.2


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def result(id: str, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, **more}


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
LINK = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
LINKED = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}}
PDF_URL = "data:application/pdf;base64,JVBE"


@pytest.mark.parametrize(
    ("blocks", "made"),
    [
        ([text("a"), {**text("b"), **EPHEMERAL, "citations": None}], [{"role": "user", "content": "a\nb"}]),
        ([], [{"role": "user", "content": ""}]),
        ([text("a"), IMAGE, LINK], [{"role": "user", "content": [text("a"), PICTURE, LINKED]}]),
        (
            [{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "w"}}],
            [{"role": "user", "content": "w"}],
        ),
        (
            [{"type": "document", "source": {"type": "content", "content": [text("w"), IMAGE]}}],
            [{"role": "user", "content": [text("w"), PICTURE]}],
        ),
        (
            [{"type": "search_result", "title": "t", "source": "s", "content": [text("v"), text("w")]}],
            [{"role": "user", "content": "t\ns\nv\nw"}],
        ),
        (
            [text("and"), result("1", content="one"), result("2"), IMAGE],
            [
                {"role": "tool", "tool_call_id": "1", "content": "one"},
                {"role": "tool", "tool_call_id": "2", "content": ""},
                {"role": "user", "content": [text("and"), PICTURE]},
            ],
        ),
        (
            [result("1", content=[text("a"), text("b")])],
            [{"role": "tool", "tool_call_id": "1", "content": "ab"}],
        ),
        (
            [result("1", content="bad", is_error=True), result("2", content="Error: x", is_error=True)],
            [
                {"role": "tool", "tool_call_id": "1", "content": "Error: bad"},
                {"role": "tool", "tool_call_id": "2", "content": "Error: x"},
            ],
        ),
    ],
)
def test_a_users_blocks(blocks: list[Any], made: list[Any]) -> None:
    assert said(user(*blocks)) == made


def test_a_result_with_a_picture() -> None:
    """A part list, which OpenAI's own types allow for texts alone: the strict check is left out."""
    made = openai_chat.FORMAT.body(prompt_of(user(result("1", content=[text("a"), IMAGE]))), place())
    assert json.loads(made.body)["messages"] == [{"role": "tool", "tool_call_id": "1", "content": [text("a"), PICTURE]}]


@pytest.mark.parametrize("provider", ["openai", "azure", "deepseek"])
@pytest.mark.parametrize(("title", "name"), [({"title": "a.pdf"}, "a.pdf"), ({}, "document.pdf")])
def test_a_pdf(provider: str, title: dict[str, str], name: str) -> None:
    """A file where files are known, else a picture's place."""
    (message,) = said(user({**PDF, **title}), on_model={"provider": provider})
    there = {"type": "file", "file": {"filename": name, "file_data": PDF_URL}}
    elsewhere = {"type": "image_url", "image_url": {"url": PDF_URL}}
    assert message == {"role": "user", "content": [elsewhere if provider == "deepseek" else there]}


def test_an_assistants_blocks() -> None:
    blocks = [
        {"type": "thinking", "thinking": "t", "signature": "Eq"},
        {"type": "redacted_thinking", "data": "x"},
        text("a"),
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        text("b"),
        {"type": "tool_use", "id": "c", "name": "f", "input": {"x": [1, "é"]}},
    ]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x":[1,"é"]}'}}
    made = said(*HELLO, {"role": "assistant", "content": blocks}, {"role": "assistant", "content": "so"})
    assert made == [
        *HELLO,
        {"role": "assistant", "content": "ab", "tool_calls": [call]},
        {"role": "assistant", "content": "so"},
    ]
    made = said(*HELLO, {"role": "assistant", "content": blocks[-1:]})
    assert made[1] == {"role": "assistant", "content": None, "tool_calls": [call]}


def test_instructions_among_the_messages() -> None:
    assert said(*HELLO, {"role": "system", "content": "s"}) == [*HELLO, {"role": "system", "content": "s"}]


@pytest.mark.parametrize("source", [{"type": "file", "file_id": "f"}, {"type": "brand_new"}])
@pytest.mark.parametrize("kind", ["image", "document"])
def test_sources_that_chat_does_not_know(kind: str, source: dict[str, Any]) -> None:
    message = refusal(prompt_of, user(text("a"), {"type": kind, "source": source})).message
    assert f'{kind} source type "{source["type"]}" is not supported' in message


def test_the_check_itself_sees_what_openai_would_refuse() -> None:
    assert openais_mistakes({**BASE, "top_k": 5}) == ["request.top_k is not known"]
    assert openais_mistakes({**BASE, "messages": [user(IMAGE)]})
    assert openais_mistakes({**BASE, "tools": [tool()]})
