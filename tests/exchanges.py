"""Exchanges at the end of their life, for tests of what is written about them. Every secret and text is a canary."""

from __future__ import annotations

from typing import Any

import attrs

from twisted_gateway.config.resources import CallerKey, Group, Model, ProviderKey, Row, TelemetryTags
from twisted_gateway.config.routes import RouteTarget, Routing
from twisted_gateway.config.snapshot import Resolution, Snapshot
from twisted_gateway.errors import Problem
from twisted_gateway.exchange import Attempt, Call, Endpoint, Exchange, Target, Usage

CANARY = "CANARY"
"""Part of every credential and content here: must not be in any line, record or metric."""

CHAT = Endpoint("/v1/chat/completions", "openai_chat", groups=True)
MESSAGES = Endpoint("/v1/messages", "anthropic", "anthropic", groups=True)


class Headers(dict[str, str]):
    """Request headers by lower-case name."""

    def all(self, name: str) -> list[str]:
        """The one value, or none."""
        return [self[name]] if name in self else []


def provider_key(name: str = "prod", **more: Any) -> ProviderKey:
    """A provider key."""
    tags = TelemetryTags(kind="byo", featured=True, pk_label="blue")
    return ProviderKey(id=f"pk-{name}", display_name=name, api_key=f"sk-{CANARY}-provider", telemetry_tags=tags, **more)


def model(name: str = "gpt", **more: Any) -> Model:
    """A direct model."""
    members: dict[str, Any] = {
        "id": f"m-{name}",
        "display_name": name,
        "provider": "openai",
        "model_name": "gpt-4o",
        "provider_key": provider_key(),
    }
    return Model(**(members | more))


def group(name: str, *targets: str | dict[str, Any], **more: Any) -> Group:
    """A group over models of these names; `more` are members of its `routing`, or of the group itself."""
    own = {field.name for field in attrs.fields(Group)}
    routes = [RouteTarget(one) if isinstance(one, str) else RouteTarget(**one) for one in targets]
    routing = Routing(tuple(routes), **{key: value for key, value in more.items() if key not in own})
    return Group(f"g-{name}", name, routing, **{key: value for key, value in more.items() if key in own})


def caller(**more: Any) -> CallerKey:
    """A caller key of team and user."""
    members: dict[str, Any] = {
        "id": "ck-1",
        "name": "alice's",
        "key_hash": f"{CANARY}hash",
        "allowed_models": ("*",),
        "team_id": "team-a",
        "user_id": "u1",
        "user_name": "Alice",
    }
    return CallerKey(**(members | more))


def call(**more: Any) -> Call:
    """A chat call."""
    members: dict[str, Any] = {
        "model": "gpt",
        "stream": True,
        "body": f'{{"messages": "{CANARY}"}}'.encode(),
        "prompt_bytes": 41,
        "extra": {"text": CANARY},
    }
    return Call(**(members | more))


def attempt(served: Model | None = None, **more: Any) -> Attempt:
    """An attempt that gave an open answer 0.25 s after its start at 100.1."""
    members: dict[str, Any] = {
        "index": 0,
        "kind": "initial",
        "target": Target(served or model(), "gpt-4o"),
        "started": 100.1,
        "first_event": 100.35,
        "ended": 101.0,
        "status": 200,
        "usage": Usage(prompt=12, completion=7, total=19, final=True),
        "received_bytes": 21,
        "provider_request_id": "chatcmpl-1",
        "provider_model": "gpt-4o-2024",
        "finish_reason": "stop",
    }
    return Attempt(**(members | more))


def exchange(**more: Any) -> Exchange:
    """A streamed chat call that ended well: arrived 100, head and first frame 100.4, end 101."""
    served = model()
    members: dict[str, Any] = {
        "id": "req-1",
        "endpoint": CHAT,
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": Headers({"user-agent": "OpenAI-Python 1.0", "authorization": f"Bearer {CANARY}"}),
        "peer": "192.0.2.7",
        "body": f'{{"messages": "{CANARY}"}}'.encode(),
        "snapshot": snapshot(served),
        "arrived": 100.0,
        "arrived_at": 1_767_323_045.25,
        "caller": caller(),
        "call": call(),
        "resolution": Resolution(served, "gpt-4o", False),
        "attempts": [attempt(served)],
        "committed": 100.4,
        "bound": 100.4,
        "ended": 101.0,
        "status": 200,
        "frames": 9,
        "bytes": 900,
        "delivered_bytes": 10,
    }
    return Exchange(**(members | more))


def snapshot(
    *models: Row, generation: int = 1, config_hash: str = "aa", applied_at: float = 1_767_323_045.0
) -> Snapshot:
    """A snapshot that holds these models."""
    return Snapshot(
        generation=generation,
        config_hash=config_hash,
        applied_at=applied_at,
        provider_keys_by_name={
            one.provider_key.display_name: one.provider_key for one in models if isinstance(one, Model)
        },
        models_by_name={one.display_name: one for one in models},
        caller_keys_by_hash={},
    )


def timeout(**more: Any) -> Problem:
    """A silence time-out with a detail for the operator alone."""
    members: dict[str, Any] = {
        "status": 504,
        "type": "timeout",
        "code": "silence_timeout",
        "kind": "timeout",
        "message": "upstream request timed out after 30ms",
        "detail": "10.0.0.1:443",
    }
    return Problem(**(members | more))
