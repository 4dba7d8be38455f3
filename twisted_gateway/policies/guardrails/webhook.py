"""A service of the operator's own (`extensions.md` 7.2): what it is told and how its answer is read. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from typing import Any

from twisted_gateway.config.guarding_remote import Webhook
from twisted_gateway.policies.guardrails import asking
from twisted_gateway.policies.guardrails.asking import CheckFailed, Question
from twisted_gateway.policies.guardrails.verdict import ALLOW, Asked, Block, Mask, Verdict

SIGNATURE = "x-aisix-signature"
_LONGEST_REASON = 300


def told(asked: Asked) -> dict[str, Any]:
    """What a webhook and a callable are told, member by member in this order."""
    return {
        "version": 1,
        "hook": asked.hook,
        "guardrail": asked.guardrail,
        "request_id": asked.request_id,
        "api_key_id": asked.api_key_id,
        "team_id": asked.team_id,
        "model": asked.model,
        "endpoint": asked.endpoint,
        "stream": asked.stream,
        "final": asked.final,
        "texts": list(asked.texts),
    }


def heard(said: Any, asked: Asked) -> Verdict:
    """The verdict in what they answered. Raises `CheckFailed` for anything but the three answers there are."""
    action = said.get("action") if isinstance(said, Mapping) else None
    if action == "allow":
        return ALLOW
    if action == "block":
        reason = said.get("reason")
        return Block(_shown(reason) if isinstance(reason, str) else "")
    if action != "mask":
        raise CheckFailed(asking.SERVER, "the answer has none of the actions allow, block and mask")
    texts = said.get("texts")
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise CheckFailed(asking.SERVER, "a mask without texts")
    if len(texts) != len(asked.texts):
        raise CheckFailed(asking.SERVER, "a mask with more or fewer texts than were sent")
    return Mask(tuple(texts))


def _shown(reason: str) -> str:
    """A reason for the log: short, and on one line."""
    short = reason[:_LONGEST_REASON]
    return "".join(char if char.isprintable() else " " for char in short)


def signature(secret: str, body: bytes) -> str:
    """What lets the service know that a body came from us: `sha256=` and the HMAC in hex."""
    key = secret.encode("utf-8", "surrogateescape")
    return "sha256=" + hmac.digest(key, body, "sha256").hex()


class Hook:
    """Asks a webhook."""

    prefix = "webhook"
    joined = staticmethod(asking.only)

    def __init__(self, config: Webhook) -> None:
        self._config = config

    def questions(self, asked: Asked) -> Iterator[Question]:
        """One, with all texts."""
        yield self._ask(asked)

    def _ask(self, asked: Asked) -> Question:
        body = asking.encoded(told(asked))
        headers = {"content-type": "application/json", "accept": "application/json", **dict(self._config.headers)}
        if self._config.secret is not None:
            headers[SIGNATURE] = signature(self._config.secret, body)
        answer = yield asking.Request(self._config.url, body, tuple(headers.items()))
        return heard(asking.decoded(answer, Any), asked)
