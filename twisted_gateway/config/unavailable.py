"""Keys that AISIX knows and this version does not build yet. An issue that builds one deletes its row.

They are refused, with a message of their own: a limit or a guardrail that is accepted and does nothing is dangerous.
"""

from collections.abc import Mapping
from typing import Any

from twisted_gateway.facts import frozen


@frozen
class Unless:
    """The row's value is harmless when it is one of these (or empty)."""

    harmless: tuple[Any, ...] = ()

    def refuses(self, value: Any) -> bool:
        """Whether this value would have an effect that does not exist yet."""
        if value is None or value in ("", [], {}):
            return False
        return not any(value is harmless or (value == harmless and value is not True) for harmless in self.harmless)


ALWAYS = Unless()
OFF = Unless((False,))

SETTINGS: Mapping[tuple[str, ...], Unless] = {
    ("etcd", "endpoints"): ALWAYS,
    ("etcd", "user"): ALWAYS,
    ("etcd", "password_env"): ALWAYS,
    ("etcd", "tls"): ALWAYS,
    ("managed", "enabled"): OFF,
    ("bedrock_endpoint_url",): ALWAYS,
    ("admin", "enabled"): OFF,
    ("observability", "metrics", "otlp", "enabled"): OFF,
    ("observability", "tracing", "otlp", "enabled"): OFF,
}

COLLECTIONS: tuple[str, ...] = (
    "mcp_servers",
    "a2a_agents",
    "observability_exporters",
    "oidc_providers",
    "claim_mappings",
    "passthrough_routes",
    "mcp_auth_settings",
)

SHAPES: tuple[str, ...] = ("ensemble", "semantic")
"""Model shapes: refused even when empty, since their presence changes what the entry is."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    "models": (
        "auto_prompt_caching",
        "embedding",
    ),
    "api_keys": (
        "allowed_routes",
        "jwt_subject",
        "jwt_provider",
        "mcp_access",
        "mcp_rate_limits",
        "allowed_agents",
    ),
    "provider_keys": (),
    "guardrails": (),
    "budgets": (),
    "rate_limit_policies": (),
    "cache_policies": ("semantic",),
}

ADAPTERS: tuple[str, ...] = ("bedrock", "vertex")

GUARDRAIL_KINDS: tuple[str, ...] = (
    "aliyun_text_moderation",
    "aliyun_ai_guardrail",
    "bedrock",
    "semantic",
)
"""Kinds whose guardrails are refused as long as nobody has built them."""


def refusal(key: str) -> str:
    """Say that a key is known and not available."""
    return f"`{key}` is known but not available in this version"
