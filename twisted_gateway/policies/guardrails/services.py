"""From a guardrail of a remote kind to its check: the one place that knows all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IReactorTime

from twisted_gateway.config import guarding_remote as kinds
from twisted_gateway.config.guarding import Guardrail
from twisted_gateway.policies.guardrails import azure_content_safety as azure
from twisted_gateway.policies.guardrails.asking import FailureRule, Fetch, Service
from twisted_gateway.policies.guardrails.callables import CallableCheck, Threads
from twisted_gateway.policies.guardrails.lakera import Guard
from twisted_gateway.policies.guardrails.openai_moderation import Moderation
from twisted_gateway.policies.guardrails.presidio import Analysis
from twisted_gateway.policies.guardrails.remote import Complaints, RemoteCheck
from twisted_gateway.policies.guardrails.verdict import Check
from twisted_gateway.policies.guardrails.webhook import Hook

_SERVICES: Mapping[type[Any], Callable[[Any], Service]] = {
    kinds.OpenaiModeration: Moderation,
    kinds.Lakera: Guard,
    kinds.Presidio: Analysis,
    kinds.AzureContentSafety: azure.PromptShield,
    kinds.AzureTextModeration: azure.TextModeration,
    kinds.Webhook: Hook,
}


class Services:
    """Makes checks out of what it is handed: a way to fetch, a way into threads, and the operator's own objects."""

    def __init__(
        self, fetch: Fetch, threads: Threads, clock: IReactorTime, callables: Mapping[str, Callable[..., Any]]
    ) -> None:
        self._fetch = fetch
        self._threads = threads
        self._clock = clock
        self._callables = callables
        self._complaints = Complaints(clock.seconds)

    def check(self, guardrail: Guardrail) -> Check:
        """The check of a guardrail that is not local. Raises `KeyError` for a callable that the boot file lacks."""
        own = guardrail.own
        rule = FailureRule(guardrail.fail_open, own.output_fail_open, guardrail.mandatory)
        seconds = own.timeout_ms / 1000
        if isinstance(own, kinds.Callable):
            function = self._callables[own.use]
            return CallableCheck(function, self._threads, self._clock, rule, seconds, self._complaints)
        service = _SERVICES[type(own)](own)
        return RemoteCheck(service, rule, self._fetch, seconds, self._complaints)
