"""Tools, structured answers and reasoning of chat callers at Anthropic: `translation.md` 2.4 to 2.6, exact bodies."""

from __future__ import annotations

from typing import Any

import pytest

from .anthropic_making import ADAPTIVE, BASE, BUDGET, EPHEMERAL, asks, system
from .chat_making import HELLO

# --- 2.4


def tool(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def made_tool(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"name": name, "input_schema": {"type": "object", "properties": {}}, **more}


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("g")]}}


@pytest.mark.parametrize(
    ("members", "made"),
    [
        (
            {"tools": [tool(description="d", parameters=SCHEMA, strict=True)]},
            {"tools": [{"name": "f", "description": "d", "input_schema": SCHEMA, "strict": True}]},
        ),
        ({"tools": [tool(parameters={"properties": {}})]}, {"tools": [made_tool()]}),
        ({"tools": [{**tool(), **EPHEMERAL}]}, {"tools": [made_tool(**EPHEMERAL)]}),
        ({"tools": [tool(**EPHEMERAL)]}, {"tools": [made_tool(**EPHEMERAL)]}),
        ({"tools": [tool("n" * 70)]}, {"tools": [made_tool("n" * 70)]}),
        ({"functions": [{"name": "f"}]}, {"tools": [made_tool()]}),
        (
            {"functions": [{"name": "f"}], "function_call": {"name": "f"}},
            {"tools": [made_tool()], "tool_choice": {"type": "tool", "name": "f"}},
        ),
        ({"tools": [SEARCH]}, {"tools": [SEARCH]}),
        ({"tools": [tool(), {"type": "custom", "custom": {"name": "c"}}]}, {"tools": [made_tool()]}),
        ({"tools": [{"type": "custom", "custom": {"name": "c"}}], "tool_choice": "auto"}, {}),
        ({"tools": [], "tool_choice": "required", "parallel_tool_calls": False}, {}),
        ({"tools": [tool()], "tool_choice": "auto"}, {"tools": [made_tool()], "tool_choice": {"type": "auto"}}),
        ({"tools": [tool()], "tool_choice": "required"}, {"tools": [made_tool()], "tool_choice": {"type": "any"}}),
        ({"tools": [tool()], "tool_choice": "none"}, {"tools": [made_tool()], "tool_choice": {"type": "none"}}),
        (
            {"tools": [tool()], "tool_choice": tool()},
            {"tools": [made_tool()], "tool_choice": {"type": "tool", "name": "f"}},
        ),
        (
            {"tools": [tool(), tool("g")], "tool_choice": ALLOWED},
            {"tools": [made_tool("g")], "tool_choice": {"type": "any"}},
        ),
        (
            {"tools": [tool()], "parallel_tool_calls": False},
            {"tools": [made_tool()], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        ),
        (
            {"tools": [tool()], "parallel_tool_calls": False, "tool_choice": "required"},
            {"tools": [made_tool()], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
        ),
        (
            {"tools": [tool()], "parallel_tool_calls": False, "tool_choice": "none"},
            {"tools": [made_tool()], "tool_choice": {"type": "none"}},
        ),
        ({"tools": [tool()], "parallel_tool_calls": True}, {"tools": [made_tool()]}),
    ],
)
def test_tools(members: dict[str, Any], made: dict[str, Any]) -> None:
    assert asks(**members) == {**BASE, **made}


# --- 2.5


FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
FORMAT = {"format": {"type": "json_schema", "schema": SCHEMA}}


@pytest.mark.parametrize(
    ("members", "made"),
    [
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": FORM}, {"output_config": FORMAT}),
        ({"response_format": FORM, "output_config": {"effort": "low"}}, {"output_config": {"effort": "low", **FORMAT}}),
    ],
)
def test_structured_answers(members: dict[str, Any], made: dict[str, Any]) -> None:
    assert asks(**members) == {**BASE, **made}


def test_any_json_object_is_asked_for_in_words() -> None:
    made = asks(system("be kind"), *HELLO, response_format={"type": "json_object"})
    assert [made["system"][0], len(made["system"])] == [{"type": "text", "text": "be kind"}, 2]
    assert "JSON object" in made["system"][1]["text"]


def test_a_schema_by_way_of_a_tool() -> None:
    made = asks(response_format=FORM, on_model={"json_schema_via_tool": True})
    (found,) = made["tools"]
    assert found["input_schema"] == SCHEMA
    assert made["tool_choice"] == {"type": "tool", "name": found["name"]}


# --- 2.6


@pytest.mark.parametrize(
    ("effort", "adaptive", "budget"),
    [
        ("none", {"thinking": {"type": "disabled"}}, None),
        *(
            (effort, {"thinking": {"type": "adaptive"}, "output_config": {"effort": sent}}, budget)
            for effort, sent, budget in (
                ("minimal", "low", 1024),
                ("low", "low", 1024),
                ("medium", "medium", 2048),
                ("high", "high", 4096),
                ("xhigh", "xhigh", 8192),
                ("max", "max", 16384),
            )
        ),
    ],
)
def test_effort(effort: str, adaptive: dict[str, Any], budget: int | None) -> None:
    assert asks(reasoning_effort=effort, upstream=ADAPTIVE) == {**BASE, "model": ADAPTIVE, **adaptive}
    thinking = {"thinking": {"type": "enabled", "budget_tokens": budget}, "max_tokens": budget + 4096} if budget else {}
    assert asks(reasoning_effort=effort, upstream=BUDGET) == {**BASE, "model": BUDGET, **thinking}
    assert asks(reasoning_effort=effort) == BASE
    on_model = {"thinking_style": "budget"}
    assert asks(reasoning_effort=effort, on_model=on_model) == {**BASE, **thinking}


@pytest.mark.parametrize(
    ("members", "made"),
    [
        ({"max_tokens": 3000}, {"max_tokens": 3000, "thinking": {"type": "enabled", "budget_tokens": 2999}}),
        ({"max_tokens": 1024}, {"max_tokens": 1024}),
        ({"temperature": 0.5}, {"max_tokens": 8192, "thinking": {"type": "enabled", "budget_tokens": 4096}}),
        (
            {"temperature": 1},
            {"max_tokens": 8192, "thinking": {"type": "enabled", "budget_tokens": 4096}, "temperature": 1},
        ),
        (
            {"tools": [tool()], "tool_choice": "required", "temperature": 0.5},
            {"tools": [made_tool()], "tool_choice": {"type": "any"}, "temperature": 0.5},
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2000}},
            {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        ),
    ],
)
def test_high_effort_and_what_it_does_not_go_with(members: dict[str, Any], made: dict[str, Any]) -> None:
    assert asks(reasoning_effort="high", upstream=BUDGET, **members) == {**BASE, "model": BUDGET, **made}


def test_effort_written_in_anthropics_words_wins() -> None:
    made = asks(reasoning_effort="high", upstream=ADAPTIVE, output_config={"effort": "low"})
    assert (made["thinking"], made["output_config"]) == ({"type": "adaptive"}, {"effort": "low"})
