"""Microsoft Presidio: the analyzer finds, the anonymizer rewrites (`guardrails.md` 11). Pure.

Source: Presidio's OpenAPI description, microsoft/presidio `docs/api-docs/api-docs.yml`, and both servers' `app.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import msgspec

from twisted_gateway.config.guarding_remote import Presidio
from twisted_gateway.policies.guardrails import asking
from twisted_gateway.policies.guardrails.asking import Answer, Question, Request
from twisted_gateway.policies.guardrails.verdict import ALLOW, Asked, Block, Mask, Verdict

PIECE = 100_000
"""Characters in one analysis. The analyzer's language model refuses more than a million, and needs memory for each."""


class _Found(msgspec.Struct):
    entity_type: str
    start: int
    end: int
    score: float


class _Item(msgspec.Struct):
    entity_type: str = ""


class _Anonymized(msgspec.Struct):
    text: str
    items: list[_Item] | None = None


class Analysis:
    """Rewrites or blocks by type of entity. Each text is analyzed alone, so that no entity spans two of them."""

    prefix = "presidio"

    def __init__(self, config: Presidio) -> None:
        self._config = config
        self._actions = {entity.type: entity.action or config.default_action for entity in config.entities}

    def questions(self, asked: Asked) -> Iterator[Question]:
        """One for each text that is not empty."""
        return (self._ask(text) for text in asked.texts if text)

    def joined(self, asked: Asked, verdicts: Sequence[Verdict]) -> Verdict:
        """The texts with those that were rewritten in their places."""
        by_text = iter(verdicts)
        texts: list[str] = []
        counts, masked = Counter[str](), False
        for text in asked.texts:
            verdict = next(by_text) if text else ALLOW
            if isinstance(verdict, Mask):
                masked = True
                texts += verdict.texts
                counts.update(verdict.counts)
            else:
                texts.append(text)
        return Mask(tuple(texts), dict(counts)) if masked else ALLOW

    def _ask(self, text: str) -> Question:
        found = yield from self._analyzed(text)
        blocking = sorted({one.entity_type for one in found if self._action(one) == "block"})
        if blocking:
            return Block(f"found: {', '.join(blocking)}")
        return (yield from self._anonymized(text, found)) if found else ALLOW

    def _action(self, found: _Found) -> str:
        return self._actions.get(found.entity_type, self._config.default_action)

    def _analyzed(self, text: str) -> Generator[Request, Answer, list[_Found]]:
        config = self._config
        found: dict[tuple[str, int, int], _Found] = {}
        for offset, piece in asking.pieces(text, PIECE):
            document: dict[str, Any] = {"text": piece, "language": config.language}
            if config.entities:
                document["entities"] = [entity.type for entity in config.entities]
            if config.score_threshold is not None:
                document["score_threshold"] = config.score_threshold
            answer = yield asking.post(f"{config.analyzer_url}/analyze", document)
            for one in asking.decoded(answer, list[_Found]):
                if not 0 <= one.start < one.end <= len(piece):
                    raise asking.CheckFailed(asking.SERVER, "an entity outside the text")
                moved = _Found(one.entity_type, one.start + offset, one.end + offset, one.score)
                found[moved.entity_type, moved.start, moved.end] = moved
        return list(found.values())

    def _anonymized(self, text: str, found: Sequence[_Found]) -> Question:
        document: dict[str, Any] = {"text": text, "analyzer_results": [msgspec.structs.asdict(one) for one in found]}
        operator = _OPERATORS.get(self._config.operator)
        if operator is not None:
            document["anonymizers"] = {"DEFAULT": operator | _lengths(self._config.operator, text)}
        answer = yield asking.post(f"{self._config.anonymizer_url}/anonymize", document)
        done = asking.decoded(answer, _Anonymized)
        items = done.items if done.items else found
        return Mask((done.text,), dict(Counter(item.entity_type for item in items)))


_OPERATORS: dict[str, dict[str, Any]] = {
    "mask": {"type": "mask", "masking_char": "*", "from_end": False},
    "hash": {"type": "hash", "hash_type": "sha256"},
    "redact": {"type": "redact"},
}
"""What the anonymizer is told; nothing for `replace`, whose default is the type in angle brackets."""


def _lengths(operator: str, text: str) -> dict[str, int]:
    """`mask` wants a number of characters: all there can be."""
    return {"chars_to_mask": len(text)} if operator == "mask" else {}
