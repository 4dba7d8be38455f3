"""What each feature on the hot road costs: `make budget`. In memory, so that the next feature's cost can be told.

Each row is the real thing on real objects, again and again, the best of several runs: hot. In a live process, where
much else is between two calls, the same takes up to twice as long.
"""

from __future__ import annotations

import gc
import os
import platform
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.inside import AT_ONCE, FRAMES, HEAD, PIECEMEAL, PLAIN, STREAM, WHOLE, Inside, chunk, request, text_frame
from bench.run import _cpu_model
from twisted_gateway import charging, providers, records, roads
from twisted_gateway.exchange import Exchange, Outcome, Target
from twisted_gateway.formats.openai_chunks import judge
from twisted_gateway.lane import Lane
from twisted_gateway.line import Line
from twisted_gateway.messages import HeaderLines
from twisted_gateway.policies.accounting import access_fields, settlement
from twisted_gateway.wire.http1 import ResponseReader, header_lines
from twisted_gateway.wire.requests import RequestReader
from twisted_gateway.wire.sse import Frame, Reader

Row = tuple[str, float | None, float | None]
"""What it is, microseconds per stream, microseconds per chunk."""


def cost(run: Callable[[], object], times: int = 1000, rounds: int = 7) -> float:
    """Microseconds that one run takes, at best."""
    return min(timeit.repeat(run, number=times, repeat=rounds)) / times * 1e6


def rows(inside: Inside) -> Iterator[Row]:
    """The whole calls first, then what they are made of."""
    many = 100
    at_once = cost(inside.repeated(STREAM, AT_ONCE), many)
    piecemeal = cost(inside.repeated(STREAM, PIECEMEAL), many)
    yield "a stream of 20 chunks in one read, all of it", at_once, None
    yield "the same in a read for each chunk, and what a chunk more costs", piecemeal, _a_chunk(inside)
    yield "a plain request, all of it", cost(inside.repeated(PLAIN, WHOLE), many), None
    exchange = _kept(inside)
    yield from _before(inside, exchange)
    yield from _asked(inside, exchange)
    yield from _answered(exchange)
    yield from _behind(inside, exchange)


def _a_chunk(inside: Inside) -> float:
    caller, out = inside.caller()
    caller.dataReceived(request())
    provider, _ = inside.provider()
    for read in PIECEMEAL[:4]:
        provider.dataReceived(read)
    piece = chunk(text_frame("token "))

    def one() -> None:
        provider.dataReceived(piece)
        out.take()

    return cost(one)


def _kept(inside: Inside) -> Exchange:
    """The exchange of a call that went well, with its body, which a call lets go when its answer has begun."""
    kept: list[Exchange] = []
    front = inside.house.front
    serve = front.serve

    def keeping(exchange: Exchange, caller: Any) -> Any:
        kept.append(exchange)
        return serve(exchange, caller)

    front.serve = keeping
    inside.once(AT_ONCE)
    front.serve = serve
    exchange = kept[0]
    exchange.body = STREAM.encode()
    exchange.call = inside.house.gateway.formats[exchange.endpoint.format].read_call(exchange.body, exchange.headers)
    return exchange


def _before(inside: Inside, exchange: Exchange) -> Iterator[Row]:
    gateway, said = inside.house.gateway, request()

    def read() -> None:
        reader = RequestReader(65_536)
        reader.feed(said)
        reader.head()
        reader.body()

    yield "reading the request", cost(read), None
    for policy in (*gateway.before, *gateway.after):
        admit = policy.admit

        def admitted(admit: Callable[[Exchange], Any] = admit) -> None:
            made = admit(exchange)
            if hasattr(made, "close"):
                made.close()

        yield f"policy {type(policy).__name__}: admit", cost(admitted), None
    form = gateway.formats[exchange.endpoint.format]
    yield "reading the call in the body", cost(lambda: form.read_call(exchange.body, exchange.headers)), None


def _asked(inside: Inside, exchange: Exchange) -> Iterator[Row]:
    gateway, call = inside.house.gateway, exchange.call
    assert call is not None
    form = gateway.formats[exchange.endpoint.format]
    target = exchange.attempts[0].target
    way = providers.reach(target.model.provider_key, None)
    opener = gateway.means.opener
    yield "where the target is and how long it may take", cost(lambda: opener.lead(target)), None
    yield "the road: native, the body for the provider", cost(lambda: form.sent(call, target, True)), None
    yield "headers for the provider", cost(lambda: providers.headers(exchange, target, way)), None
    headers = HeaderLines(providers.headers(exchange, target, way), way.lines["*/*"])
    yield "their bytes", cost(lambda: header_lines(headers.lines)), None
    yield "the head of the answer", cost(lambda: ResponseReader(b"POST").received(HEAD)), None
    crossed = _crossed(inside, exchange)
    yield "the road: translated, the body for the provider", cost(lambda: crossed().sent(True)), None


def _crossed(inside: Inside, exchange: Exchange) -> Callable[[], roads.Road]:
    """The way to a provider of another dialect, chosen anew each time."""
    gateway, call = inside.house.gateway, exchange.call
    assert call is not None
    found = exchange.snapshot.resolve("mock-anthropic")
    assert found is not None
    target = Target(found.model, "mock")
    form = gateway.formats[exchange.endpoint.format]
    return lambda: roads.road(form, gateway.formats, call, target, "anthropic", False)


def _answered(exchange: Exchange) -> Iterator[Row]:
    call = exchange.call
    assert call is not None
    from twisted_gateway.formats import openai_chat

    target = exchange.attempts[0].target

    def passage(shown: str | None) -> Any:
        return openai_chat.FORMAT.passage(call, target, shown, 1.0, "x" * 24)

    def line(shown: str | None) -> Line:
        return Line(Reader(), passage(shown), ())

    def through(shown: str | None) -> Callable[[], None]:
        def run() -> None:
            made = line(shown)
            for frame in FRAMES[:2]:
                made.read(frame)
            for frame in FRAMES[-3:]:
                made.read(frame)

        return run

    def next_chunk(shown: str | None, data: bytes) -> Callable[[], object]:
        made = line(shown)
        for frame in FRAMES[:3]:
            made.read(frame)
        return lambda: made.read(data)

    first = Frame(FRAMES[0][6:-2], b"", FRAMES[0])
    text, burst = text_frame("token "), b"".join(text_frame(f"token{n:03} ") for n in range(300))
    usage = FRAMES[-2].replace(b'"choices":[]', b'"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]')
    reader = ResponseReader(b"POST")
    reader.received(HEAD)
    piece = chunk(text)
    yield "judging the first frame", cost(lambda: judge(call, first)), None
    yield "taking the chunked coding off", None, cost(lambda: reader.received(piece))
    yield "first two and last three frames; a chunk by its bytes", cost(through(None)), cost(next_chunk(None, text))
    yield "the same with the alias restamped", cost(through("alias")), cost(next_chunk("alias", text))
    yield (
        "most often: both, the counters and the write, on a lane",
        None,
        cost(_on_a_lane(exchange, passage("alias"), piece)),
    )
    yield "a chunk restamped in bursts of 300", None, cost(next_chunk("alias", burst), 20) / 300
    yield "a chunk that is decoded: usage in every chunk", None, cost(next_chunk("alias", usage))
    yield "a chunk that a policy looks at (frames, no shortcut)", None, cost(_seen(call, target, text))


class _Looking:
    """A policy's tube that passes everything."""

    held = 0

    def received(self, frames: list[Frame]) -> list[Frame]:
        return frames

    def stopped(self, clean: bool) -> list[Frame]:
        return []


def _on_a_lane(exchange: Exchange, passage: Any, piece: bytes) -> Callable[[], object]:
    made = Line(Reader(), passage)
    for frame in FRAMES[:3]:
        made.read(frame)
    lane = Lane(Way(), exchange, passage, time.monotonic)
    lane.open(passage.alike)
    assert lane.read(piece), "it is one chunk with one known frame"
    return lambda: lane.read(piece)


class Way:
    """A caller's connection that takes everything and keeps nothing."""

    written = 0

    @property
    def transport(self) -> Any:
        """It writes itself."""
        return self

    def write(self, data: bytes) -> None:
        """Nobody reads it."""


def _seen(call: Any, target: Target, data: bytes) -> Callable[[], object]:
    from twisted_gateway.formats import openai_chat

    passage = openai_chat.FORMAT.passage(call, target, "alias", 1.0, "x" * 24)
    made = Line(Reader(), passage, (_Looking(),))
    made.read(FRAMES[0])
    return lambda: made.read(data)


def _behind(inside: Inside, exchange: Exchange) -> Iterator[Row]:
    accounting = inside.house.accounting
    charged = charging.charge(exchange, Outcome.COMPLETE)
    yield "charging", cost(lambda: charging.charge(exchange, Outcome.COMPLETE)), None
    settled = cost(lambda: accounting.admit(exchange).settle(Outcome.COMPLETE))
    yield "policy Accounting: admit and settle (metrics and two lines)", settled, None
    settled_call = settlement(exchange, Outcome.COMPLETE, 200)
    line = cost(lambda: access_fields(settled_call))
    yield "of that: the access line's fields", line, None
    record = cost(lambda: records.record(exchange, Outcome.COMPLETE, charged))
    yield "a usage record, where somebody wants it", record, None


def render(found: list[Row]) -> str:
    """The table."""

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:,.1f}" if value >= 10 else f"{value:.2f}"

    lines = [
        f"date: {datetime.now().astimezone().isoformat(' ', 'minutes')}  ",
        f"machine: {_cpu_model()}, {os.cpu_count()} cores, Python {platform.python_version()}; in memory, no kernel",
        "",
        "| CPU, \u00b5s | per stream | per chunk |",
        "| --- | ---: | ---: |",
    ]
    return "\n".join([*lines, *(f"| {name} | {cell(stream)} | {cell(each)} |" for name, stream, each in found)]) + "\n"


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        inside = Inside(Path(folder))
        gc.collect()
        gc.freeze()
        print(render(list(rows(inside))), end="")


if __name__ == "__main__":
    main()
