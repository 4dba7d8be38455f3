"""Azure AI Content Safety: Prompt Shields and text moderation (`guardrails.md` 11). Pure.

Sources: Microsoft Learn, "Quickstart: Prompt Shields" (`text:shieldPrompt`, api-version 2024-09-01) and
"AnalyzeTextOptions" (`text:analyze`: at most 10k Unicode code points; blocklistsMatch, categoriesAnalysis).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from twisted_gateway.config.guarding_remote import SERVICE_CHARS, AzureContentSafety, AzureTextModeration
from twisted_gateway.policies.guardrails import asking
from twisted_gateway.policies.guardrails.asking import Question, Request
from twisted_gateway.policies.guardrails.verdict import ALLOW, Asked, Block

VERSION = "2024-09-01"
PREFIX = "azure_cs"


def _request(config: AzureContentSafety | AzureTextModeration, verb: str, document: dict[str, object]) -> Request:
    url = f"{config.endpoint}/contentsafety/text:{verb}?api-version={VERSION}"
    return asking.post(url, document, ("ocp-apim-subscription-key", config.api_key))


class _Attack(msgspec.Struct, rename="camel"):
    attack_detected: bool


class _Shield(msgspec.Struct, rename="camel"):
    user_prompt_analysis: _Attack
    documents_analysis: list[_Attack] | None = None


class PromptShield:
    """Blocks what is told to be an attack. An answer is checked as if it were a prompt."""

    prefix = PREFIX
    joined = staticmethod(asking.all_clear)

    def __init__(self, config: AzureContentSafety) -> None:
        self._config = config

    def questions(self, asked: Asked) -> Iterator[Question]:
        """One for each piece of the text."""
        return (self._ask(piece) for _, piece in asking.pieces(asking.whole(asked), SERVICE_CHARS))

    def _ask(self, text: str) -> Question:
        answer = yield _request(self._config, "shieldPrompt", {"userPrompt": text, "documents": []})
        shield = asking.decoded(answer, _Shield)
        found = [shield.user_prompt_analysis, *(shield.documents_analysis or ())]
        return Block("attack detected") if any(one.attack_detected for one in found) else ALLOW


class _Category(msgspec.Struct):
    category: str
    severity: int | None = None


class _Hit(msgspec.Struct, rename="camel"):
    blocklist_name: str = ""


class _Analysis(msgspec.Struct, rename="camel"):
    categories_analysis: list[_Category]
    blocklists_match: list[_Hit] | None = None


class TextModeration:
    """Blocks what is as severe as its threshold, and what is on a blocklist.

    Every text is sent whatever `text_source` says: what a check is asked about has no roles (`guardrails.md` 2).
    """

    prefix = PREFIX
    joined = staticmethod(asking.all_clear)

    def __init__(self, config: AzureTextModeration) -> None:
        self._config = config
        own = config.severity_threshold_by_category
        self._thresholds = {name: own.get(name, config.severity_threshold) for name in config.categories}

    def questions(self, asked: Asked) -> Iterator[Question]:
        """One for each piece of the text."""
        return (self._ask(piece) for _, piece in asking.pieces(asking.whole(asked), SERVICE_CHARS))

    def _ask(self, text: str) -> Question:
        config = self._config
        document: dict[str, object] = {"text": text, "categories": config.categories, "outputType": config.output_type}
        if config.blocklist_names:
            document["blocklistNames"] = config.blocklist_names
            document["haltOnBlocklistHit"] = config.halt_on_blocklist_hit
        analysis = asking.decoded((yield _request(config, "analyze", document)), _Analysis)
        if analysis.blocklists_match:
            return Block("on a blocklist")
        severities = {one.category: one.severity or 0 for one in analysis.categories_analysis}
        if self._thresholds.keys() - severities.keys():
            raise asking.CheckFailed(asking.SERVER, "a category is missing in the answer")
        severe = [name for name, threshold in self._thresholds.items() if severities[name] >= threshold]
        return Block(f"severity reached: {', '.join(severe)}") if severe else ALLOW
