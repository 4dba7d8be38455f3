"""The ledger of 1,000 calls with every outcome, against what the provider has sent and what the callers have read.

Three counts that know nothing of each other: the provider's text as it writes it, the caller's as it reads it, and the
bytes that the gateway hands to the caller's socket. The texts name their call.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults

from tests.doubles.caller import Caller, post, request_bytes
from tests.doubles.provider import (
    Close,
    Connection,
    Request,
    Script,
    ScriptedProvider,
    Stall,
    WaitFor,
    chat_object,
    json_answer,
    sse,
    sse_chat,
)
from tests.doubles.waiting import Gate
from twisted_gateway import listener, sockets
from twisted_gateway.errors import shutting_down

from .house import KEY, Running, until

LANES = 40
PROMPT, OUTPUT = 1.0, 10.0
"""US dollars for 1,000 tokens."""
KINDS = {
    "complete": 150,
    "estimated": 100,
    "whole": 100,
    "refused": 60,
    "failed": 60,
    "truncated": 80,
    "stalled": 40,
    "blocked": 40,
    "stopped": 120,
    "abandoned": 130,
    "drained": 110,
    "broken": 10,
}
OUTCOMES = {"estimated": "complete", "whole": "complete", "drained": "abandoned"}


class Plan:
    """One call of the ledger: what is asked, what is answered, where the caller goes away."""

    def __init__(self, n: int, kind: str) -> None:
        chance = random.Random(n)
        self.n, self.kind = n, kind
        self.id = f"ledger-{n:04d}"
        self.question = f"{self.id} " + "?" * chance.randrange(200)
        self.texts = [f"<{n:04d}>" + "x" * chance.randrange(60) for _ in range(chance.randrange(3, 9))]
        self.read = chance.randrange(1, len(self.texts))
        """Texts that the caller waits for before it leaves or stops."""
        if kind == "blocked":
            self.texts = [f"<{n:04d}>" + "x" * 34] * 12
        self.usage = (chance.randrange(1, 500), chance.randrange(1, 500))
        self.left = Gate()
        """Opens when the gateway knows that the caller has gone."""
        self.wishes = chance.random() < 0.5

    @property
    def outcome(self) -> str:
        return OUTCOMES.get(self.kind, self.kind)

    @property
    def size(self) -> int:
        return sum(map(len, self.texts))

    def script(self) -> Script:
        """What the provider does."""
        if self.kind == "failed":
            return json_answer({"error": {"message": "no"}}, 400 if self.n % 2 else 500)
        if self.kind == "whole":
            return json_answer(chat_object("".join(self.texts), usage=self.usage))
        if self.kind == "complete":
            return sse(sse_chat(self.texts, usage=self.usage))
        if self.kind == "estimated":
            return sse(sse_chat(self.texts))
        if self.kind == "truncated":
            return sse(sse_chat(self.texts, done=False, finish=None), Close())
        if self.kind == "drained":
            steps = list(sse(sse_chat(self.texts, usage=self.usage)))
            steps.insert(3 + 2 * self.read, WaitFor(self.left))
            return steps
        return sse(sse_chat(self.texts, done=False, finish=None), Stall())

    def request(self) -> bytes:
        body: dict[str, Any] = {
            "model": {"refused": "nobody", "stalled": "stall", "drained": "drain"}.get(self.kind, "test-model"),
            "messages": [{"role": "user", "content": self.question}],
            "stream": self.kind != "whole",
        }
        if self.wishes and self.kind != "whole":
            body["stream_options"] = {"include_usage": True}
        key = f"poor-{self.n}" if self.kind == "blocked" else KEY
        return post("/v1/chat/completions", body, {"x-aisix-request-id": self.id}, key)


def tokens(size: int) -> int:
    return -(-size // 4)


class Ledger:
    """The gateway, its two neighbours, and what each of them counts."""

    def __init__(self, folder: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch) -> None:
        kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
        self.plans = [Plan(n, kind) for n, kind in enumerate(kinds)]
        self.by_question = {plan.question: plan for plan in self.plans}
        self.by_id = {plan.id: plan for plan in self.plans}
        self.sent: defaultdict[int, int] = defaultdict(int)
        self.handed: dict[Any, Caller] = {}
        self.callers: dict[int, Caller] = {}
        self._count_provider(monkeypatch)
        self._count_socket(monkeypatch)
        provider.answers(self._script)
        boot = {"upstream": {"retries": 0}, "proxy": {"max_drains": 1000}}
        self.running = Running(folder, {"upstream": provider.url}, boot, change=self._resources).start()
        self._note_leaving()

    def _script(self, request: Request) -> Script:
        return self.by_question[request.json()["messages"][0]["content"]].script()

    def _resources(self, resources: dict[str, Any]) -> None:
        (row,) = [model for model in resources["models"] if model["display_name"] == "test-model"]
        row["cost"] = {"input_per_1k": PROMPT, "output_per_1k": OUTPUT}
        resources["models"] += [
            row | {"display_name": "stall", "stream_timeout": 300, "first_event_timeout": 60_000},
            row | {"display_name": "drain", "on_disconnect": "drain"},
        ]
        resources["budgets"] = []
        for plan in self.plans:
            if plan.kind == "blocked":
                name = f"poor-{plan.n}"
                resources["api_keys"].append({"display_name": name, "key": name, "allowed_models": ["*"]})
                resources["budgets"].append(
                    {"name": name, "scope": "api_key", "scope_ref": name, "limit_usd": 0.45, "on_exhausted": "stop"}
                )

    def _count_provider(self, monkeypatch: pytest.MonkeyPatch) -> None:
        send = Connection.send

        def counted(connection: Connection, content: bytes) -> None:
            for line in content.split(b"\n"):
                if b"<" in line:
                    answer = json.loads(line.removeprefix(b"data: "))
                    for choice in answer["choices"]:
                        said = (choice.get("delta") or choice.get("message"))["content"]
                        self.sent[int(said[1:5])] += len(said)
            send(connection, content)

        monkeypatch.setattr(Connection, "send", counted)

    def _count_socket(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is written to transports, and what lanes send past them."""
        connect, send, by_socket = listener.Channel.makeConnection, sockets._send, {}

        def sending(skt: Any, data: bytes) -> int:
            if skt in by_socket:
                by_socket[skt].received(data)
            return send(skt, data)

        def connected(channel: Any, transport: Any) -> None:
            handed, write = self.handed.setdefault(channel, Caller("", 0)), transport.write

            def counted(data: bytes) -> None:
                handed.received(data)
                write(data)

            transport.write = counted
            by_socket[transport.socket] = handed
            connect(channel, transport)

        monkeypatch.setattr(listener.Channel, "makeConnection", connected)
        monkeypatch.setattr(sockets, "_send", sending)

    def _note_leaving(self) -> None:
        front = self.running.house.front
        left = front.left

        def noted(exchange: Any, cancel: Any) -> None:
            left(exchange, cancel)
            self.by_id[exchange.id].left.open()

        front.left = noted

    def handed_to(self, id: str) -> Caller | None:
        """What went to the socket of the call with this id."""
        return next((one for one in self.handed.values() if one.header("x-aisix-request-id") == id), None)

    async def call(self, plan: Plan) -> None:
        caller = self.callers[plan.n] = await self.running.open(plan.request())
        if plan.kind in ("abandoned", "drained"):
            await caller.when(lambda seen: len(seen.frames) > plan.read, 60)
            await (caller.leave() if plan.n % 2 else caller.reset())
        elif plan.kind == "stopped":
            await caller.when(lambda seen: len(seen.frames) > plan.read, 60)
            headers = {"authorization": f"Bearer {KEY}"}
            stopping = await self.running.ask(request_bytes("POST", f"/v1/streams/{plan.id}/stop", b"", headers), 60)
            assert stopping.answer.json() == {"id": plan.id, "object": "stream", "stopped": True}
            await stopping.leave()
        if plan.kind not in ("abandoned", "drained", "broken"):
            await caller.when_ended(60)
            await caller.leave()

    async def run(self) -> list[dict[str, Any]]:
        """All calls, in a mixed order; those that the end of the process breaks come last."""
        plans = [plan for plan in self.plans if plan.kind != "broken"]
        random.Random(5).shuffle(plans)

        async def lane(mine: list[Plan]) -> None:
            for plan in mine:
                await self.call(plan)

        lanes = [Deferred.fromCoroutine(lane(plans[start::LANES])) for start in range(LANES)]
        await gatherResults(lanes, consumeErrors=True)
        await self.running.when_records(len(plans), 60)
        last = [plan for plan in self.plans if plan.kind == "broken"]
        for plan in last:
            await self.call(plan)
        for plan in last:
            await self.callers[plan.n].when(lambda seen, plan=plan: len(seen.frames) > plan.read)
        self.running.gateway.end_all(shutting_down())
        return await self.running.when_records(len(self.plans), 60)


def texts_of(caller: Caller) -> list[str]:
    """The texts in an answer so far."""
    if not (caller.header("content-type") or "").startswith("text/event-stream"):
        whole = caller.answer.json() if caller.answers and caller.ended else {}
        return [choice["message"]["content"] for choice in whole.get("choices", ())]
    chunks = [frame.json() for frame in caller.frames if frame.data != "[DONE]" and frame.event is None]
    found = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
    return [text for text in found if text]


def size_of(caller: Caller | None) -> int:
    return sum(map(len, texts_of(caller))) if caller is not None else 0


@pytest_twisted.async_yield_fixture
async def ledger(tmp_path: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    made = Ledger(tmp_path, provider, monkeypatch)
    yield made
    await made.running.close()


@ensureDeferred
async def test_the_ledger_of_a_thousand_calls(ledger: Ledger) -> None:
    records = {record["request_id"]: record for record in await ledger.run()}
    assert len(records) == len(ledger.plans) == 1000
    assert Counter(record["outcome"] for record in records.values()) == Counter(plan.outcome for plan in ledger.plans)
    for plan in ledger.plans:
        check(ledger, plan, records[plan.id])
    check_sums(ledger, records)


def check(ledger: Ledger, plan: Plan, record: dict[str, Any]) -> None:
    """One record against the three counts."""
    assert record["outcome"] == plan.outcome, plan.kind
    handed = ledger.handed_to(plan.id)
    sent, given, read = ledger.sent[plan.n], size_of(handed), size_of(ledger.callers[plan.n])
    assert read <= given <= sent, (plan.kind, read, given, sent)
    assert record["completion_tokens_delivered"] == tokens(given), "what was handed to the socket, to the token"
    assert record.get("drained", False) is (plan.kind == "drained")
    prompt, completion = record["prompt_tokens"], record["completion_tokens"]
    asked = tokens(len(plan.question))
    if plan.kind in ("refused", "failed"):
        assert (prompt, completion, sent) == (0, 0, 0)
    elif plan.kind in ("complete", "whole", "drained"):
        assert (prompt, completion) == plan.usage
        assert sent == plan.size
        assert record["completion_tokens_reported"] == completion
        assert record["usage_source"] == "reported"
    else:
        assert prompt == asked
        assert record["usage_source"] == "estimated"
        if plan.kind in ("estimated", "truncated"):
            assert completion == tokens(plan.size) == tokens(sent) == tokens(read)
        elif plan.kind == "abandoned":
            assert tokens(read) <= completion == tokens(given) <= tokens(sent)
        else:
            assert tokens(read) <= completion <= tokens(sent)
    if plan.kind == "drained":
        assert given < plan.size, "it was left in the middle"
    if plan.kind == "stopped" and plan.wishes:
        shown = json.loads(ledger.callers[plan.n].frames[-2].data or "")["usage"]
        assert (shown["prompt_tokens"], shown["completion_tokens"]) == (prompt, completion)
        assert shown["estimated"] is True
    if plan.kind == "blocked":
        assert record["cost_usd"] >= 0.45 - 1e-9, "it was spent"
        assert completion <= 70, "and ended by the read that spent it: a text, or two that came at once"
    assert record["frames"] == (len(handed.frames) - told(plan, handed) if handed is not None and handed.answers else 0)
    dollars = (prompt * PROMPT + completion * OUTPUT) / 1000
    assert record["cost_usd"] == pytest.approx(dollars, abs=1e-9)
    assert sum(one["cost_usd"] for one in record["attempts"]) == pytest.approx(dollars, abs=1e-9)


def told(plan: Plan, handed: Caller) -> int:
    """Frames of a stream that are no data frames of the answer: the error; a whole answer is one frame."""
    if plan.kind == "whole":
        return -1
    return sum(frame.event == "error" for frame in handed.frames)


def check_sums(ledger: Ledger, records: dict[str, dict[str, Any]]) -> None:
    """The books, the budgets and the metrics say the same as all records together."""
    running = ledger.running
    dollars = sum(record["cost_usd"] for record in records.values())
    usage = running.house._usage()
    for kind in ("by_api_key", "by_model"):
        rows = usage[kind]
        assert sum(row["cost_usd"] for row in rows) == pytest.approx(dollars, abs=1e-6)
        for name in ("prompt_tokens", "completion_tokens"):
            assert sum(row[name] for row in rows) == sum(record[name] for record in records.values())
    assert sum(row["calls"] for row in usage["by_api_key"]) == len(records)
    poor = sum(record["cost_usd"] for record in records.values() if record["outcome"] == "blocked")
    assert sum(row["spent_usd"] for row in usage["budgets"]) == pytest.approx(poor, abs=1e-6)
    assert running.house.budgets._running == {}
    families = {family.name: family for family in running.house.metrics.collect()}
    micro = sum(s.value for s in families["aisix_llm_spend_micro_usd"].samples if s.name.endswith("_total"))
    assert micro == pytest.approx(dollars * 1e6, rel=1e-9)
    drains = {sample.labels["state"]: sample.value for sample in families["aisix_drains"].samples}
    assert drains == {"running": 0, "finished": KINDS["drained"]}


@ensureDeferred
async def test_the_gateway_keeps_nothing_of_all_this(ledger: Ledger) -> None:
    plan = next(plan for plan in ledger.plans if plan.kind == "stopped")
    await ledger.call(plan)
    await until(lambda: not ledger.running.gateway.in_flight, lambda: "a call is left")
    assert ledger.running.gateway.streams._running == {}
