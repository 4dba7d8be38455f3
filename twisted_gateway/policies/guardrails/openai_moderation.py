"""OpenAI's moderation endpoint (`guardrails.md` 11). Pure.

Source: OpenAI API reference, "Create moderation" (POST /v1/moderations), and its schema in the official Python SDK,
`openai.types.moderation`.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from twisted_gateway.config.guarding_remote import OpenaiModeration
from twisted_gateway.policies.guardrails import asking
from twisted_gateway.policies.guardrails.asking import Question
from twisted_gateway.policies.guardrails.verdict import ALLOW, Asked, Block, Verdict

PIECE = 10_000
"""Characters in one call. The model takes some 32,000 tokens, and no common script needs three for a character."""


class _Result(msgspec.Struct):
    flagged: bool
    category_scores: dict[str, float | None] = {}
    categories: dict[str, bool | None] = {}


class _Moderation(msgspec.Struct):
    results: list[_Result]


class Moderation:
    """Blocks what the model flags, or what reaches the score of a named category."""

    prefix = "openai_moderation"
    joined = staticmethod(asking.all_clear)

    def __init__(self, config: OpenaiModeration) -> None:
        self._config = config

    def questions(self, asked: Asked) -> Iterator[Question]:
        """One for each piece of the text."""
        return (self._ask(piece) for _, piece in asking.pieces(asking.whole(asked), PIECE))

    def _ask(self, text: str) -> Question:
        config = self._config
        url = f"{config.endpoint}/moderations"
        answer = yield asking.post(url, {"model": config.model, "input": text}, asking.bearer(config.api_key))
        results = asking.decoded(answer, _Moderation).results
        if not results:
            raise asking.CheckFailed(asking.SERVER, "no result in the answer")
        for result in results:
            verdict = self._judged(result)
            if isinstance(verdict, Block):
                return verdict
        return ALLOW

    def _judged(self, result: _Result) -> Verdict:
        thresholds = self._config.category_thresholds
        if not thresholds:
            names = sorted(name for name, found in result.categories.items() if found)
            return Block(f"flagged: {', '.join(names)}") if result.flagged else ALLOW
        scores = {name: result.category_scores.get(name) for name in thresholds}
        reached = sorted(name for name, score in scores.items() if score is not None and score >= thresholds[name])
        if reached:
            return Block(f"score reached: {', '.join(reached)}")
        missing = sorted(name for name, score in scores.items() if score is None)
        if missing:  # a category that this model does not know would never block
            raise asking.CheckFailed(asking.CONFIG, "no score for a category of category_thresholds")
        return ALLOW
