"""Lakera Guard (`guardrails.md` 11). Pure.

Source: docs.lakera.ai, "Guard API Endpoint" and "Screen content for threats" (POST /v2/guard with `payload` and
`breakdown`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from twisted_gateway.config.guarding_remote import Lakera
from twisted_gateway.policies.guardrails import asking
from twisted_gateway.policies.guardrails.asking import Question
from twisted_gateway.policies.guardrails.verdict import ALLOW, Asked, Block, Mask


class _Detector(msgspec.Struct):
    detector_type: str
    detected: bool


class _Place(msgspec.Struct):
    start: int
    end: int
    detector_type: str
    text: str | None = None
    message_id: int = 0


class _Screening(msgspec.Struct):
    flagged: bool
    payload: list[_Place] | None = None
    breakdown: list[_Detector] | None = None


class Guard:
    """Masks what is only personal data, and blocks whatever else the project's policy flags.

    All texts go as one message, since only the last interaction is screened: earlier messages are context.
    """

    prefix = "lakera"
    joined = staticmethod(asking.only)

    def __init__(self, config: Lakera) -> None:
        self._config = config

    def questions(self, asked: Asked) -> Iterator[Question]:
        """One about the whole text."""
        yield self._ask(asked)

    def _ask(self, asked: Asked) -> Question:
        config, text = self._config, asking.whole(asked)
        role = "user" if asked.hook == "input" else "assistant"
        document: dict[str, object] = {
            "messages": [{"role": role, "content": text}],
            "payload": True,
            "breakdown": True,
        }
        if config.project_id is not None:
            document["project_id"] = config.project_id
        answer = yield asking.post(f"{config.endpoint}/v2/guard", document, asking.bearer(config.api_key))
        screening = asking.decoded(answer, _Screening)
        if not screening.flagged:
            return ALLOW
        found = sorted({one.detector_type for one in screening.breakdown or () if one.detected})
        places = [place for place in screening.payload or () if _personal(place.detector_type)]
        if not found or not all(map(_personal, found)) or not _placed(found, places):
            return Block(f"flagged: {', '.join(found)}")
        spans = [_span(text, place) for place in places]
        if None in spans:  # an answer that cannot be aligned must not pass
            return Block("flagged, and a place cannot be found")
        counts = Counter(place.detector_type for place in places)
        return Mask(asking.spans_masked(asked.texts, [span for span in spans if span is not None]), dict(counts))


def _personal(detector: str) -> bool:
    return detector.split("/")[0] == "pii"


def _placed(found: Sequence[str], places: Sequence[_Place]) -> bool:
    """Whether there is a place for each detector: what has none could not be masked."""
    return bool(places) and {*found} - {"pii"} <= {place.detector_type for place in places}


def _span(text: str, place: _Place) -> tuple[int, int, str] | None:
    """Where in the text, and the token that goes there. Whether `end` is inside is told by the text that came along."""
    token = "[MASKED " + re.sub(r"[^A-Z0-9]", "_", place.detector_type.split("/")[-1].upper()) + "]"
    start, end = place.start, place.end
    if place.message_id != 0 or not 0 <= start < len(text) or end > len(text):
        return None
    if place.text is None:
        return (start, end, token) if start < end else None
    end = start + len(place.text)
    return (start, end, token) if place.text and text[start:end] == place.text else None
