"""What hedging does to the tail: time to the first token over a provider of which some first events are late.

    python -m bench.hedging [--calls 2000] [--rate 100] [--late 0.05] [--seconds 3] [--after 300] [--ratio 0.1]

One process of the gateway, twice: without and with `hedge`. Two targets at one mock provider in this process, whose
first event comes after about 100 ms, and after `--seconds` for `--late` of them at random. Calls begin evenly spread,
so that queues do not build up. Printed: time to the first token as the caller sees it, and the provider's requests.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

ROOT = Path(__file__).resolve().parents[1]
reactor: Any = the_reactor
ORDINARY = (0.08, 0.12)
"""Seconds to an ordinary first event, uniform."""
CHUNK = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"x"},"finish_reason":null}]}\n\n'
LAST = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


class Mock(Protocol):
    """One request a connection; the first event when it is due."""

    def __init__(self, provider: Provider) -> None:
        self.provider, self.data, self.timer = provider, b"", None

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        if self.timer is not None or not found:
            return
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-l"))
        if len(body) >= length:
            self.timer = reactor.callLater(self.provider.wait(), self.answer)

    def answer(self) -> None:
        self.transport.write(HEAD + CHUNK + LAST)
        self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        if self.timer is not None and self.timer.active():
            self.timer.cancel()


class Provider(Factory):
    """Draws how long each first event takes; the same sequence in each run."""

    noisy = False

    def __init__(self, late: float, seconds: float) -> None:
        self.late, self.seconds, self.dice, self.requests = late, seconds, random.Random(7), 0

    def buildProtocol(self, addr: Any) -> Mock:
        return Mock(self)

    def wait(self) -> float:
        self.requests += 1
        return self.seconds if self.dice.random() < self.late else self.dice.uniform(*ORDINARY)


class Call(Protocol):
    """One streamed call: `done` fires with the seconds to the first token."""

    def __init__(self, request: bytes) -> None:
        self.request, self.begun, self.seen = request, 0.0, b""
        self.first: float | None = None
        self.done: Deferred[float] = Deferred()

    def connectionMade(self) -> None:
        self.begun = time.perf_counter()
        self.transport.write(self.request)

    def dataReceived(self, data: bytes) -> None:
        self.seen += data
        if self.first is None and b'"content":"x"' in self.seen:
            self.first = time.perf_counter() - self.begun
        if b"[DONE]" in self.seen and not self.done.called:
            assert self.first is not None
            self.done.callback(self.first)
            self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        if not self.done.called:
            self.done.errback(RuntimeError(f"the call ended early: {self.seen[-300:]!r}"))


def resources(port: int, hedge: dict[str, Any] | None) -> dict[str, Any]:
    """Two targets at the mock, and a group over them."""
    base = f"http://127.0.0.1:{port}/v1"
    routing: dict[str, Any] = {"targets": [{"model": "a"}, {"model": "b"}], "strategy": "round_robin"}
    return {
        "_format_version": "1",
        "provider_keys": [{"display_name": "mock", "provider": "openai", "api_key": "k", "api_base": base}],
        "models": [
            *({"display_name": n, "provider": "openai", "model_name": n, "provider_key": "mock"} for n in "ab"),
            {"display_name": "all", "routing": routing | ({"hedge": hedge} if hedge else {})},
        ],
        "api_keys": [{"display_name": "me", "key": "key", "allowed_models": ["*"]}],
    }


def gateway(folder: Path, port: int, hedge: dict[str, Any] | None) -> tuple[subprocess.Popen[bytes], int]:
    """A gateway process and its port."""
    folder.mkdir()
    (folder / "resources.json").write_text(json.dumps(resources(port, hedge)))
    boot = {
        "proxy": {"addr": "127.0.0.1:0"},
        "resources_file": str(folder / "resources.json"),
        "observability": {"log_level": "off", "metrics": {"prometheus": {"enabled": False}}},
        "shutdown": {"min_drain_secs": 0},
    }
    (folder / "boot.json").write_text(json.dumps(boot))
    command = [sys.executable, "-m", "twisted_gateway", "--config", str(folder / "boot.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1].decode()
    urllib.request.urlopen(f"{address}/livez").read()
    return process, int(address.rsplit(":", 1)[1])


async def one(port: int, request: bytes, after: float) -> float:
    await deferLater(reactor, after)
    call = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Call(request))
    return float(await call.done)


async def measured(options: argparse.Namespace, folder: Path, hedge: dict[str, Any] | None) -> dict[str, float]:
    provider = Provider(options.late, options.seconds)
    listening = reactor.listenTCP(0, provider, interface="127.0.0.1", backlog=1000)
    process, port = gateway(folder, listening.getHost().port, hedge)
    body = json.dumps({"model": "all", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: Bearer key\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    ) + body
    try:
        await gatherResults([ensureDeferred(one(port, request, 0.02 * n)) for n in range(50)])
        provider.requests = 0
        begins = (n / options.rate for n in range(options.calls))
        found = await gatherResults([ensureDeferred(one(port, request, at)) for at in begins])
    finally:
        process.terminate()
        await listening.stopListening()
        process.wait(60)
    times = sorted(found)
    return {
        "p50": statistics.median(times) * 1000,
        "p90": times[int(len(times) * 0.90)] * 1000,
        "p99": times[int(len(times) * 0.99)] * 1000,
        "max": times[-1] * 1000,
        "requests per call": provider.requests / len(times),
    }


async def run(options: argparse.Namespace) -> None:
    hedge = {"after_ms": options.after, "max_extra_ratio": options.ratio}
    with tempfile.TemporaryDirectory() as folder:
        plain = await measured(options, Path(folder) / "plain", None)
        hedged = await measured(options, Path(folder) / "hedged", hedge)
    late = f"{options.late:.0%} of first events {options.seconds:g} s late"
    print(f"{options.calls} calls, {options.rate:g} a second, {late}")
    print(f"hedge: after_ms {options.after}, max_extra_ratio {options.ratio:g}\n")
    print("|  | unit | without | with |\n| --- | --- | ---: | ---: |")
    for name in plain:
        unit, digits = ("", 3) if name.startswith("requests") else ("ms", 0)
        print(f"| {name} | {unit} | {plain[name]:.{digits}f} | {hedged[name]:.{digits}f} |")
    bound = options.after + 2 * plain["p50"]
    kept = hedged["p99"] <= bound and hedged["requests per call"] <= 1 + options.ratio
    print(f"\np99 with hedging must be at most after_ms + 2 x p50 = {bound:.0f} ms: {'kept' if kept else 'BROKEN'}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=100.0, help="calls per second")
    parser.add_argument("--late", type=float, default=0.05)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--after", type=int, default=300, help="hedge.after_ms")
    parser.add_argument("--ratio", type=float, default=0.1, help="hedge.max_extra_ratio")
    options = parser.parse_args()
    done = ensureDeferred(run(options))
    done.addErrback(lambda failure: print(failure.getTraceback(), file=sys.stderr))
    done.addBoth(lambda _: reactor.stop())
    reactor.run()


if __name__ == "__main__":
    main()
