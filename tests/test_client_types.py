"""The `client_type` label (`operations.md` 5.2)."""

import pytest

from twisted_gateway.client_types import TABLE, ClientTypes


@pytest.mark.parametrize(
    ("agent", "client"),
    [
        (None, "unknown"),
        ("", "unknown"),
        ("  ", "unknown"),
        ("Claude-CLI/1.0 (external)", "claude-code"),
        ("OpenAI/Python 1.2", "openai-python"),
        ("python-httpx/0.27", "httpx"),
        ("Mozilla/5.0 cursor", "cursor"),
        ("Mozilla/5.0", "browser"),
        ("mine/1", "other"),
    ],
)
def test_built_in(agent: str | None, client: str) -> None:
    assert ClientTypes().of(agent) == client


def test_every_entry_of_the_table_is_reachable_or_shadowed_by_the_same_or_an_earlier_one() -> None:
    for position, (text, client) in enumerate(TABLE):
        expected = next(name for earlier, name in TABLE[: position + 1] if earlier in text)
        assert ClientTypes().of(f"x {text.upper()} y") == expected
        assert client


def test_rules_go_first_and_the_first_match_wins() -> None:
    types = ClientTypes([("^acme", "acme"), ("python", "snake")])

    assert types.of("ACME-curl") == "acme"
    assert types.of("openai-python") == "snake"


def test_what_is_remembered_is_bounded() -> None:
    types = ClientTypes()
    for number in range(3000):
        types.of(f"agent-{number}" + "x" * 2000)

    assert len(types._known) <= 1024
    assert max(map(len, types._known)) <= 512
