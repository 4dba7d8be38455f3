"""Doubles of the services that guardrails ask: what a `ScriptedProvider` answers, written from the vendors' documents.

guard = ScriptedProvider().start()
guard.answers(Moderation({"violence": ["kill"]}))

Each refuses what the real one refuses (a wrong path, key or member), so that a request which is not as documented
fails a test. What they find is told by words. Sources:

* OpenAI: API reference, "Create moderation"; the members of a result are those of `openai.types.moderation`.
* Azure: Microsoft Learn, "Quickstart: Prompt Shields", "AnalyzeTextOptions", "Azure AI Content Safety error codes".
* Lakera: docs.lakera.ai, "Screen content for threats" (`messages`, `payload`, `breakdown`, `flagged`). The members of
  an entry of payload and breakdown were not in the stored copy of that page: they are from memory, unverified.
* Presidio: microsoft/presidio, `docs/api-docs/api-docs.yml` and `app.py` of both services.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from .provider import Request
from .steps import Close, End, Head, Raw, Script, Send, Sleep, Stall, WaitFor, json_answer
from .waiting import Gate

Words = Mapping[str, Sequence[str]]
"""For each category or detector, the words in which it finds something."""


class Refusal(Exception):
    """What the service does not take: its status and body."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class Service:
    """One double. `seen` has every text it was asked about."""

    def __init__(self, words: Words | None = None) -> None:
        self.words = words or {}
        self.seen: list[str] = []

    def __call__(self, request: Request) -> Script:
        try:
            return json_answer(self.answer(request, urlsplit(request.path).path))
        except Refusal as refusal:
            return json_answer(refusal.body, refusal.status)

    def answer(self, request: Request, path: str) -> Any:
        """The document to answer with."""
        raise NotImplementedError

    def found(self, text: str) -> list[str]:
        """The categories that find something in a text."""
        self.seen.append(text)
        return [name for name, words in self.words.items() if any(word in text for word in words)]


OPENAI_CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm"),
    *("self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic"),
)


class Moderation(Service):
    """`POST /v1/moderations`. A category whose word is found scores 0.91."""

    def answer(self, request: Request, path: str) -> Any:
        if (request.method, path) != ("POST", "/v1/moderations"):
            raise Refusal(404, {"error": {"message": "Invalid URL", "type": "invalid_request_error"}})
        if request.header("authorization") != "Bearer sk-moderation":
            raise Refusal(401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}})
        body = request.json()
        given = body["input"] if isinstance(body.get("input"), list) else [body.get("input")]
        if not all(isinstance(text, str) and text for text in given) or {*body} - {"input", "model"}:
            raise Refusal(400, {"error": {"message": "Invalid input", "type": "invalid_request_error"}})
        return {"id": "modr-970d409ef3be", "model": body["model"], "results": [self._result(text) for text in given]}

    def _result(self, text: str) -> Any:
        found = self.found(text)
        return {
            "flagged": bool(found),
            "categories": {name: name in found for name in OPENAI_CATEGORIES},
            "category_scores": {name: 0.91 if name in found else 0.0003 for name in OPENAI_CATEGORIES},
            "category_applied_input_types": {name: ["text"] for name in OPENAI_CATEGORIES},
        }


class ContentSafety(Service):
    """Azure's `text:shieldPrompt` (words of `attack`) and `text:analyze` (severity 4; words of `blocklist`)."""

    def answer(self, request: Request, path: str) -> Any:
        if request.header("ocp-apim-subscription-key") != "azure-key":
            message = "Access denied due to invalid subscription key or wrong API endpoint."
            raise Refusal(401, {"error": {"code": "401", "message": message}})
        verbs = {"/contentsafety/text:shieldPrompt": self._shield, "/contentsafety/text:analyze": self._analyze}
        if path not in verbs or urlsplit(request.path).query != "api-version=2024-09-01":
            raise Refusal(404, {"error": {"code": "404", "message": "Resource not found"}})
        return verbs[path](request.json())

    def _text(self, text: Any) -> str:
        if not isinstance(text, str) or not text or len(text) > 10_000:
            raise Refusal(400, {"error": {"code": "InvalidRequestBody", "message": "The text is too long or missing"}})
        return text

    def _shield(self, body: Any) -> Any:
        found = self.found(self._text(body.get("userPrompt")))
        documents = [{"attackDetected": False} for _ in body.get("documents", ())]
        return {"userPromptAnalysis": {"attackDetected": "attack" in found}, "documentsAnalysis": documents}

    def _analyze(self, body: Any) -> Any:
        known = {"text", "categories", "blocklistNames", "haltOnBlocklistHit", "outputType"}
        if {*body} - known or body.get("outputType") not in (None, "FourSeverityLevels", "EightSeverityLevels"):
            raise Refusal(400, {"error": {"code": "InvalidRequestBody", "message": "unknown member"}})
        found = self.found(self._text(body.get("text")))
        hits = [
            {"blocklistName": name, "blocklistItemId": "29a66a0f", "blocklistItemText": "x"}
            for name in body.get("blocklistNames", ())
            if "blocklist" in found
        ]
        severities = [{"category": name, "severity": 4 if name in found else 0} for name in body["categories"]]
        stopped = hits and body.get("haltOnBlocklistHit")
        return {"blocklistsMatch": hits, "categoriesAnalysis": [] if stopped else severities}


class Lakera(Service):
    """`POST /v2/guard`. Detectors below `pii/` tell where, if `payload` was asked for."""

    def answer(self, request: Request, path: str) -> Any:
        if (request.method, path) != ("POST", "/v2/guard"):
            raise Refusal(404, {"detail": "Not Found"})
        if request.header("authorization") != "Bearer lakera-key":
            raise Refusal(401, {"error": "unauthorized"})
        body = request.json()
        if not body.get("messages") or {*body} - {
            "messages",
            "project_id",
            "payload",
            "breakdown",
            "metadata",
            "dev_info",
        }:
            raise Refusal(400, {"error": "invalid request"})
        last = len(body["messages"]) - 1
        text = body["messages"][last]["content"]
        found = self.found(text)
        answer: dict[str, Any] = {"flagged": bool(found), "metadata": {"request_uuid": "8b2b6c1c-9f7a-4f8a-9c2d"}}
        if body.get("breakdown"):
            answer["breakdown"] = [
                {"project_id": "p", "policy_id": "q", "detector_id": f"detector-{name}", "detector_type": name,
                 "detected": name in found, "message_id": last}
                for name in self.words
            ]  # fmt: skip
        if body.get("payload"):
            answer["payload"] = [
                {"start": text.index(word), "end": text.index(word) + len(word), "text": word, "detector_type": name,
                 "labels": [], "message_id": last}
                for name in found if name.startswith("pii/") for word in self.words[name] if word in text
            ]  # fmt: skip
        return answer


class Presidio(Service):
    """`POST /analyze` and `POST /anonymize`, as if both were one server. `replace` is the default operator."""

    def answer(self, request: Request, path: str) -> Any:
        body = request.json()
        if path == "/analyze":
            return self._analyze(body)
        if path == "/anonymize":
            return self._anonymize(body)
        raise Refusal(404, {"error": "The requested URL was not found on the server."})

    def _analyze(self, body: Any) -> Any:
        if not body.get("text") or not body.get("language"):
            raise Refusal(500, {"error": "No text provided"})
        text = body["text"]
        wanted = body.get("entities") or [*self.words]
        return [
            {"entity_type": name, "start": text.index(word), "end": text.index(word) + len(word), "score": 0.85,
             "analysis_explanation": None}
            for name in self.found(text) if name in wanted for word in self.words[name] if word in text
        ]  # fmt: skip

    def _anonymize(self, body: Any) -> Any:
        if not body.get("text"):
            raise Refusal(422, {"error": "Invalid input, text can not be empty"})
        text, items = body["text"], []
        operator = body.get("anonymizers", {}).get("DEFAULT", {"type": "replace"})
        for one in sorted(body["analyzer_results"], key=lambda one: -one["start"]):
            if not {"start", "end", "score", "entity_type"} <= {*one}:
                raise Refusal(422, {"error": "Invalid input"})
            new = {"replace": f"<{one['entity_type']}>", "redact": "", "hash": "5f4dcc3b"}.get(operator["type"])
            if operator["type"] == "mask":
                size = one["end"] - one["start"]
                masked = min(operator["chars_to_mask"], size)
                new = operator["masking_char"] * masked + text[one["start"] + masked : one["end"]]
            assert new is not None
            text = text[: one["start"]] + new + text[one["end"] :]
            items.append({"operator": operator["type"], "entity_type": one["entity_type"], "start": one["start"],
                          "end": one["start"] + len(new), "text": new})  # fmt: skip
        return {"text": text, "items": items}


class Webhook(Service):
    """A service of the operator's own: blocks `blocked` words, masks `masked` ones; keeps all it was told."""

    def __init__(self, words: Words | None = None) -> None:
        super().__init__(words)
        self.told: list[dict[str, Any]] = []

    def answer(self, request: Request, path: str) -> Any:
        body = request.json()
        self.told.append(body)
        found = [name for text in body["texts"] for name in self.found(text)]
        if "blocked" in found:
            return {"action": "block", "reason": "house rule 7"}
        if "masked" not in found:
            return {"action": "allow"}
        texts = body["texts"]
        for word in self.words["masked"]:
            texts = [text.replace(word, "***") for text in texts]
        return {"action": "mask", "texts": texts}


# Hostile ones


def a_byte_a_second(_request: Request) -> Script:
    """Begins a good answer, and says a byte of it each second."""
    body = b'{"action": "allow"}'
    drops = [step for byte in body for step in (Send(bytes([byte])), Sleep(1))]
    return [Head(200, [(b"content-type", b"application/json")], "length", len(body)), *drops, End()]


def a_head_byte_a_second(_request: Request) -> Script:
    """Does the same with the status line."""
    return [*(step for byte in b"HTTP/1.1 200 OK\r\n" for step in (Raw(bytes([byte])), Sleep(1))), Stall()]


def silence(_request: Request) -> Script:
    """Takes the request and says nothing."""
    return [Stall()]


def closes(_request: Request) -> Script:
    """Takes the request and closes."""
    return [Close()]


def closes_in_the_answer(_request: Request) -> Script:
    """Closes in the middle of a good answer."""
    return [Head(200, [], "length", 19), Send(b'{"action": "al'), Close()]


def babbles(_request: Request) -> Script:
    """Answers more than anybody wants to read."""
    return [
        Head(200, [(b"content-type", b"application/json")]),
        Send(b" " * 3 * 2**20),
        Send(b'{"action":"allow"}'),
        End(),
    ]


def redirects(_request: Request) -> Script:
    """Sends the caller elsewhere."""
    return json_answer({"action": "allow"}, 307, [(b"location", b"/elsewhere")])


def speaks_no_http(_request: Request) -> Script:
    """Is some other server."""
    return [Raw(b"220 mail.example ESMTP\r\n"), Stall()]


def compresses(_request: Request) -> Script:
    """Compresses, though nobody asked for it."""
    return [Head(200, [(b"content-encoding", b"gzip")], "length"), Send(b"\x1f\x8b"), End()]


def when(gate: Gate, answer: Callable[[Request], Script]) -> Callable[[Request], Script]:
    """Answers once the test opens a gate."""
    return lambda request: [WaitFor(gate), *answer(request)]
