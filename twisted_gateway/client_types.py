"""Which client software calls, told from its user agent: the `client_type` label (`operations.md` 5.2). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST = 512
_REMEMBERED = 1024

TABLE: tuple[tuple[str, str], ...] = (
    ("claude-cli", "claude-code"),
    ("claude-code", "claude-code"),
    ("codex", "codex"),
    ("cline", "cline"),
    ("roo-code", "roo-code"),
    ("roocode", "roo-code"),
    ("kilo-code", "kilocode"),
    ("kilocode", "kilocode"),
    ("zoo-code", "zoo-code"),
    ("zoocode", "zoo-code"),
    ("githubcopilot", "github-copilot"),
    ("cursor", "cursor"),
    ("opencode", "opencode"),
    ("qwencode", "qwen-code"),
    ("geminicli", "gemini-cli"),
    ("charm-crush", "crush"),
    ("zed/", "zed"),
    ("aider", "aider"),
    ("openai-python", "openai-python"),
    ("openai/python", "openai-python"),
    ("openai-node", "openai-node"),
    ("openai/js", "openai-node"),
    ("anthropic-sdk-python", "anthropic-python"),
    ("anthropic/python", "anthropic-python"),
    ("anthropic-sdk-typescript", "anthropic-typescript"),
    ("anthropic/js", "anthropic-typescript"),
    ("langchain", "langchain"),
    ("llama-index", "llamaindex"),
    ("llama_index", "llamaindex"),
    ("llamaindex", "llamaindex"),
    ("litellm", "litellm"),
    ("ai-sdk/provider-utils", "vercel-ai-sdk"),
    ("curl", "curl"),
    ("python-requests", "python-requests"),
    ("python-httpx", "httpx"),
    ("httpx", "httpx"),
    ("aiohttp", "aiohttp"),
    ("okhttp", "okhttp"),
    ("go-http-client", "go-http-client"),
    ("node-fetch", "node"),
    ("undici", "node"),
    ("axios", "node"),
    ("postmanruntime", "postman"),
    ("mozilla", "browser"),
)
"""Text in the lower-cased user agent, and the client it means; the first entry that occurs wins."""


class ClientTypes:
    """Names clients by the operator's rules first, then by `TABLE`.

    `rules` are (pattern, client) pairs of `observability.metrics.client_type_rules`: case-insensitive, unanchored.
    Only the first 512 characters of a user agent are looked at, and 1024 different ones are remembered. Raises
    `re.error` for a pattern that is not a regular expression (the settings have checked that).
    """

    def __init__(self, rules: Iterable[tuple[str, str]] = ()) -> None:
        self._rules = [(re.compile(pattern, re.IGNORECASE), client) for pattern, client in rules]
        self._known: dict[str, str] = {}

    def of(self, user_agent: str | None) -> str:
        """The client's name: `unknown` for a blank user agent, `other` for one that nothing matches."""
        if not user_agent:
            return "unknown"
        agent = user_agent[:_LONGEST]
        known = self._known.get(agent)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[agent] = self._named(agent)
        return known

    def _named(self, agent: str) -> str:
        if not agent.strip():
            return "unknown"
        for pattern, client in self._rules:
            if pattern.search(agent):
                return client
        lowered = agent.lower()
        return next((client for text, client in TABLE if text in lowered), "other")
