"""What guardrails cost, and whether a hostile one disturbs others: `python -m bench.guardrails` (docs/guardrails.md).

The gateway without guardrails, and the same with 200 keywords, 20 regexes and every detector, in turns, on one core.
The mock provider's texts end with a blank, as words of an innocent answer do: what is held until the next frame comes
is not in these figures, but in the row "a word at a time".
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import string
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from typing import Any

from bench.targets import BOOT, CALLER_KEY, RESOURCES, Target, cpu_ns
from bench.tools import MOCK_PORT, OUT, Cores, Failed, Mock, build, complaint, finish

DETECTORS = (
    *("email", "china_mobile", "china_id_card", "bank_card", "us_ssn", "ip_address"),
    *("api_key", "jwt", "private_key"),
)
PLAIN, GUARDED, HOSTILE = 8112, 8122, 8132
BAD_PROVIDER = 9010
STREAMS = 100


def keywords() -> dict[str, Any]:
    """200 literals and 20 regexes."""
    chosen = random.Random(7)
    words = ["".join(chosen.choices(string.ascii_lowercase, k=chosen.randint(6, 12))) for _ in range(200)]
    regexes = [rf"(?i)\bproject[- ]{word}\b" for word in words[:8]]
    regexes += [rf"\b[A-Z]{{3}}-[0-9]{{{size}}}\b" for size in range(4, 10)]
    regexes += ["(?i)internal use only", r"acct:\s*[0-9]{6,12}", r"https?://intra\.[a-z]+", "confidential.{0,40}draft"]
    regexes += [r"\bX-[A-F0-9]{8}\b", r"(?i)eyes\s+only"]
    patterns = [{"kind": "literal", "value": word} for word in words]
    return {"name": "words", "kind": "keyword", "patterns": patterns + [{"kind": "regex", "value": x} for x in regexes]}


def guardrails() -> list[dict[str, Any]]:
    """Those whose cost is measured."""
    return [keywords(), {"name": "pii", "kind": "pii", "detectors": [{"type": name} for name in DETECTORS]}]


def hostile(deaf: int) -> list[dict[str, Any]]:
    """The same, and some that were written to hurt; `deaf` is a port where nobody ever answers."""
    nasty = [r"(a+)+$", r"(a|aa)+bq", r"(?:x+x+)+y", "a{2,900}bq", r"(?:[a-z]{0,50}){15}!"]
    many = [f"{index:05}-forbidden-{index * 7919 % 99991}" for index in range(10_000)]
    return [
        *guardrails(),
        {"name": "nasty", "kind": "keyword", "patterns": [{"kind": "regex", "value": value} for value in nasty]},
        {"name": "many", "kind": "keyword", "patterns": [{"kind": "literal", "value": value} for value in many]},
        {
            "name": "deaf",
            "kind": "webhook",
            "url": f"http://127.0.0.1:{deaf}/",
            "hook_point": "input",
            "timeout_ms": 300,
        },
    ]


def target(name: str, port: int, core: int, rules: list[dict[str, Any]]) -> Target:
    """A gateway with these guardrails."""
    boot, resources = OUT / f"{name}.yaml", OUT / f"{name}-resources.yaml"
    boot.write_text(BOOT.format(port=port, resources=resources, metrics=port + 1))
    text = RESOURCES.format(mock=MOCK_PORT, key=CALLER_KEY)
    bad = f'  - {{display_name: bad, provider: openai, api_key: sk-bad, api_base: "http://127.0.0.1:{BAD_PROVIDER}/v1"}}\n'
    text = text.replace(
        "models:\n", bad + "models:\n  - {display_name: bad, provider: openai, model_name: bad, provider_key: bad}\n"
    )
    resources.write_text(text + "guardrails: " + json.dumps(rules) + "\n")
    made = Target(name, port, [sys.executable, "-m", "twisted_gateway", "--config", str(boot)], core)
    made.log.write_bytes(b"")
    return made


def load(lab: Target, cores: Cores, *args: str | float) -> tuple[dict[str, Any], float]:
    """One run of the load client, and the microseconds of CPU for each content frame."""
    before = cpu_ns(lab.pid())
    found = finish(lab.load(cores.client, "-o", 10, *args))
    if trouble := complaint(found):
        raise Failed(trouble)
    return found, (cpu_ns(lab.pid()) - before) / 1000 / found["contents"]


def round_of(lab: Target, cores: Cores, mock: Mock) -> dict[str, float]:
    """The figures of one round."""
    mock.set(n=100, d=20_000)
    found, cpu = load(lab, cores, "-c", STREAMS, "-n", STREAMS, "-R", 500, "-x", 100)
    forward = found["forward"]
    mock.set(n=20, d=1000)
    first = load(lab, cores, "-c", 64, "-r", 40, "-t", 4, "-x", 20)[0]["added"]
    mock.set(n=100, d=20_000, b=23)
    word, _ = load(lab, cores, "-c", STREAMS, "-n", STREAMS, "-R", 500, "-x", -1)
    return {
        "cpu us/chunk": cpu,
        "frame p50 ms": forward["p50"] / 1000,
        "frame p99 ms": forward["p99"] / 1000,
        "ttft p50 ms": first["p50"] / 1000,
        "ttft p99 ms": first["p99"] / 1000,
        "a word at a time, frame p50 ms": word["forward"]["p50"] / 1000,
    }


def cost(cores: Cores, mock: Mock, rounds: int) -> dict[str, Any]:
    """Plain and guarded, in turns."""
    labs = [target("plain", PLAIN, cores.gateway, []), target("guarded", GUARDED, cores.gateway, guardrails())]
    figures: dict[str, list[dict[str, float]]] = {lab.name: [] for lab in labs}
    try:
        for _ in range(rounds):
            for lab in labs:
                mock.set()
                lab.ensure(cores)
                figures[lab.name].append(round_of(lab, cores, mock))
    finally:
        for lab in labs:
            lab.stop()
    return {
        name: {key: round(median(one[key] for one in some), 3) for key in some[0]} for name, some in figures.items()
    }


class _Word(BaseHTTPRequestHandler):
    """A provider whose answer is one word of 1 MB."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for index in range(256):
            chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": "a" * 4096}, "finish_reason": None}]}
            try:
                self.wfile.write(b"data: " + json.dumps(chunk | {"created": 1, "model": "x"}).encode() + b"\n\n")
            except OSError:
                return
            del index
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Nothing."""


def ask(port: int, model: str, text: str, stream: bool) -> int:
    """One call; its status."""
    body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}).encode()
    call = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        body,
        {"authorization": f"Bearer {CALLER_KEY}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(call, timeout=30) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


ATTACKS: dict[str, Callable[[int], int]] = {
    "nothing": lambda port: 0,
    "an answer of one word, 1 MB": lambda port: ask(port, "bad", "hi", True),
    "a request of one word, 1 MB": lambda port: ask(port, "mock", "a" * 2**20, False),
    "a request of words, 10 MB": lambda port: ask(port, "mock", "lorem ipsum " * (10 * 2**20 // 12), False),
    "a request of addresses, 1 MB": lambda port: ask(port, "mock", "me@example.com, " * (2**20 // 16), False),
}


@contextmanager
def neighbours(cores: Cores) -> Iterator[int]:
    """The bad provider, and a port that accepts and never answers."""
    provider = ThreadingHTTPServer(("127.0.0.1", BAD_PROVIDER), _Word)
    deaf = socket.create_server(("127.0.0.1", 0), backlog=512)
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    try:
        yield deaf.getsockname()[1]
    finally:
        provider.shutdown()
        deaf.close()


def isolation(cores: Cores, mock: Mock) -> dict[str, Any]:
    """How long frames of 100 streams take while somebody attacks."""
    told: dict[str, Any] = {}
    with neighbours(cores) as deaf:
        labs = [target("plain", PLAIN, cores.gateway, []), target("hostile", HOSTILE, cores.gateway, hostile(deaf))]
        try:
            for name, attack in ATTACKS.items():
                for lab in labs:
                    mock.set()
                    lab.ensure(cores)
                    told[f"{name} ({lab.name})"] = _attacked(lab, cores, mock, attack)
        finally:
            for lab in labs:
                lab.stop()
    return told


def _attacked(lab: Target, cores: Cores, mock: Mock, attack: Callable[[int], int]) -> dict[str, Any]:
    mock.set(n=150, d=20_000)
    running = lab.load(cores.client, "-c", STREAMS, "-n", STREAMS, "-R", 500, "-o", 20, "-x", 150)
    time.sleep(1.0)
    before = cpu_ns(lab.pid())
    statuses = [attack(lab.port) for _ in range(3)]
    found = finish(running)
    forward, trouble = found["forward"], complaint(found)
    return {
        "frame p50 ms": round(forward["p50"] / 1000, 1),
        "frame p99 ms": round(forward["p99"] / 1000, 1),
        "frame max ms": round(forward.get("max", 0) / 1000, 1),
        "cpu s": round((cpu_ns(lab.pid()) - before) / 1e9, 2),
        "statuses": statuses,
    } | ({"trouble": trouble} if trouble else {})


def main() -> None:
    """Measure, print a table, write bench/out/guardrails.json."""
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--only", choices=("cost", "isolation"))
    given = options.parse_args()
    OUT.mkdir(exist_ok=True)
    build()
    cores = Cores.pick()
    os.sched_setaffinity(0, {cores.client})
    mock = Mock(core=cores.mock)
    found: dict[str, Any] = {}
    try:
        if given.only != "isolation":
            found["cost"] = cost(cores, mock, given.rounds)
        if given.only != "cost":
            found["isolation"] = isolation(cores, mock)
    finally:
        mock.stop()
    (OUT / "guardrails.json").write_text(json.dumps(found, indent=2))
    for part, rows in found.items():
        print(f"\n{part}")
        for name, figures in rows.items():
            print(f"  {name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
