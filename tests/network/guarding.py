"""Every remote kind as a resources file writes it, each with the double of its service."""

from __future__ import annotations

from typing import Any

from tests.doubles import guards

FORBIDDEN, MASKABLE = "xyzzy", "me@example.org"


def blocking(found: str) -> guards.Words:
    """Words for a double: the forbidden one is found as that."""
    return {found: [FORBIDDEN]}


def kinds(url: str) -> dict[str, tuple[dict[str, Any], guards.Service]]:
    """For each kind the fields of a guardrail that asks a double at `url`, and the double."""
    azure = {"endpoint": url, "api_key": "azure-key"}
    personal = {"pii/email": [MASKABLE], "prompt_attack": [FORBIDDEN]}
    entities = {"EMAIL_ADDRESS": [MASKABLE], "MAGIC_WORD": [FORBIDDEN]}
    words = {"masked": [MASKABLE], "blocked": [FORBIDDEN]}
    return {
        "openai_moderation": (
            {"endpoint": f"{url}/v1", "api_key": "sk-moderation"},
            guards.Moderation(blocking("violence")),
        ),
        "lakera": ({"endpoint": url, "api_key": "lakera-key"}, guards.Lakera(personal)),
        "presidio": (
            {
                "analyzer_url": url,
                "anonymizer_url": url,
                "entities": [{"type": "EMAIL_ADDRESS"}, {"type": "MAGIC_WORD", "action": "block"}],
            },
            guards.Presidio(entities),
        ),
        "azure_content_safety": (azure, guards.ContentSafety(blocking("attack"))),
        "azure_content_safety_text_moderation": (azure, guards.ContentSafety(blocking("Violence"))),
        "webhook": ({"url": f"{url}/check", "secret": "s3"}, guards.Webhook(words)),
    }


KINDS = tuple(kinds(""))
MASKING = {"lakera": "[MASKED EMAIL]", "presidio": "<EMAIL_ADDRESS>", "webhook": "***"}
PREFIXES = {"azure_content_safety": "azure_cs", "azure_content_safety_text_moderation": "azure_cs"}
"""Where a bypass reason does not begin with the kind."""
