"""Asks the pure questions of a vendor by hand, as `remote` does over the network."""

import json

import msgspec

from twisted_gateway.policies.guardrails.asking import Answer
from twisted_gateway.policies.guardrails.verdict import Asked, Block


def asked(*texts, hook="input", **more):
    """What a check is asked."""
    return Asked(hook, "g", "req-1", "gpt", "/v1/chat/completions", texts, **more)


def answer(document, status=200):
    """An answer with a JSON body, or the bytes themselves."""
    return Answer(status, document if isinstance(document, bytes) else json.dumps(document).encode())


class Asking:
    """The requests of one round of questions, and its verdict; `say` gives the answer to each decoded body."""

    def __init__(self, service, asked, say):
        self.requests = []
        self.bodies = []
        verdicts = [self._one(question, say) for question in service.questions(asked)]
        blocks = [verdict for verdict in verdicts if isinstance(verdict, Block)]
        self.verdict = blocks[0] if blocks else service.joined(asked, verdicts)

    def _one(self, question, say):
        try:
            request = next(question)
            while True:
                self.requests.append(request)
                self.bodies.append(msgspec.json.decode(request.body))
                said = say(self.bodies[-1])
                request = question.send(said if isinstance(said, Answer) else answer(said))
        except StopIteration as end:
            return end.value
