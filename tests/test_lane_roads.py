"""The whole house in memory, twice: with lanes and without. From outside nobody sees a difference, at any time.

Connections, requests and all between them are the real ones. After each step everything is noted that can be seen: the
caller's bytes, what is counted, what is told of the running stream; and in the end what is recorded of the call.
"""

import gc
import json
import random
import weakref
from types import SimpleNamespace

import pytest
import yaml
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from bench.inside import HEAD, Inside, Lines, Reactor, Wire, chunk
from bench.targets import CALLER_KEY
from twisted_gateway import downstream, randomness
from twisted_gateway.config.boot import structure
from twisted_gateway.downstream import Downstream
from twisted_gateway.errors import shutting_down
from twisted_gateway.exchange import Ticket
from twisted_gateway.formats import shortcut
from twisted_gateway.lane import Lane
from twisted_gateway.logs import Log
from twisted_gateway.tap import House

from .doubles.cutting import at_random, by_sizes, coalesced

NOW = 1_700_000_000.0
BOOT = {
    "proxy": {"addr": "127.0.0.1:0", "responses_bridge": True},
    "admin": {"enabled": False},
    "observability": {"access_log": True},
    "upstream": {"retries": 0, "stream_timeout_ms": 10_000},
    "downstream": {"sse_keepalive_interval_secs": 4, "responses_progress_secs": 3},
}
SERVED = {"model_name": "mock"}
RESOURCES = {
    "_format_version": "1",
    "provider_keys": [
        {"display_name": "chat", "provider": "openai", "api_key": "sk-1", "api_base": "http://127.0.0.1:9000/v1"},
        {"display_name": "other", "provider": "anthropic", "api_key": "sk-2", "api_base": "http://127.0.0.1:9000"},
    ],
    "models": [
        {"display_name": "mock", "provider": "openai", "provider_key": "chat", **SERVED},
        {"display_name": "drained", "provider": "openai", "provider_key": "chat", "on_disconnect": "drain", **SERVED},
        {"display_name": "claude", "provider": "anthropic", "provider_key": "other", **SERVED},
    ],
    "api_keys": [{"display_name": "test", "key": CALLER_KEY, "allowed_models": ["*"]}],
}
TEXTS = [
    "token ", " and", " more", ".", "naïve — “so”", "😀", "a\u2028b", "c\x85d", 'q"\\\n', "", "data: [DONE]", "x" * 300,
    "y" * 2500, '"},"finish_reason":null}]}', "\u0000", " one", " two", " three", " four", " five",
]  # fmt: skip


# What providers say


def sse(data, event=None):
    if not isinstance(data, bytes):
        data = json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
    return (b"event: " + event.encode() + b"\n" if event else b"") + b"data: " + data + b"\n\n"


def chunks(texts, kind="chat.completion.chunk", hidden=False):
    """The frames of a chat answer; `hidden`: with members that hide how long a text is."""
    whole = {"id": "chatcmpl-1", "object": kind, "created": 1_700_000_000, "model": "mock-1"}

    def one(delta, reason=None):
        legacy = {"text": delta.get("content", ""), "index": 0, "logprobs": None, "finish_reason": reason}
        said = {"index": 0, "delta": delta, "finish_reason": reason} if "chat" in kind else legacy
        more = {"usage": None, "obfuscation": "x" * (7 - len(delta.get("content", "")) % 7)} if hidden else {}
        return sse({**whole, "choices": [said], **more})

    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    last = [one({}, "stop"), sse({**whole, "choices": [], "usage": usage}), sse(b"[DONE]")]
    return [one({"role": "assistant", "content": ""}), *(one({"content": text}) for text in texts), *last]


def legacy(texts):
    return chunks(texts, "text_completion")[1:]


def hidden(texts):
    return chunks(texts, hidden=True)


def events(texts):
    """The frames of an Anthropic answer."""

    def one(kind, **more):
        return sse({"type": kind, **more}, kind)

    usage = {"input_tokens": 10, "output_tokens": 1}
    begun = {"id": "msg_1", "type": "message", "role": "assistant", "model": "c-1", "content": [], "usage": usage}
    block = {"type": "text", "text": ""}
    return [
        one("message_start", message=begun),
        one("content_block_start", index=0, content_block=block),
        *(one("content_block_delta", index=0, delta={"type": "text_delta", "text": text}) for text in texts),
        one("content_block_stop", index=0),
        one("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 20}),
        one("message_stop"),
    ]


TALK = {"messages": [{"role": "user", "content": "hi"}]}
ROADS = {
    "chat": ("chat/completions", {"model": "mock", "stream_options": {"include_usage": True}, **TALK}, chunks),
    "chat, usage not shown": ("chat/completions", {"model": "mock", **TALK}, chunks),
    "chat, obfuscated": ("chat/completions", {"model": "drained", **TALK}, hidden),
    "legacy completions": ("completions", {"model": "mock", "prompt": "hi"}, legacy),
    "Anthropic": ("messages", {"model": "claude", "max_tokens": 9, **TALK}, events),
    "chat at Anthropic": ("chat/completions", {"model": "claude", **TALK}, events),
    "Anthropic at chat": ("messages", {"model": "mock", "max_tokens": 9, **TALK}, chunks),
    "responses at Anthropic": ("responses", {"model": "claude", "input": "hi"}, events),
}
HASTY = [name for name in ROADS if not name.startswith("responses")]
"""Those that have lanes."""


# The house


class Book(Lines):
    """Keeps the log."""

    def __init__(self):
        super().__init__()
        self.lines, self.make = [], None

    def put(self, line):
        self.lines.append(line)

    def expect(self, make):
        self.make = make


class End(Wire):
    """One end of a connection, which may be full, or stop reading."""

    def __init__(self):
        super().__init__()
        self.producer, self.stopped, self.told, self.kept = None, False, False, []

    def registerProducer(self, producer, streaming):
        self.producer = producer

    def unregisterProducer(self):
        self.producer = None

    def pauseProducing(self):
        self.stopped = True

    def resumeProducing(self):
        self.stopped = False


class Asking(End):
    """A transport that asks its lane before its protocol, as those of `sockets` do."""

    def __init__(self):
        super().__init__()
        self.lane = None


class Ledger:
    """A policy that sees each call, and looks at its answer whenever it wants."""

    def __init__(self):
        self.tickets = []

    def admit(self, exchange):
        self.tickets.append(Look(exchange))
        return self.tickets[-1]


class Look(Ticket):
    def __init__(self, exchange):
        self.exchange, self.joint, self.settled = exchange, None, []

    def gates(self, joint):
        self.joint = joint
        return ()

    def settle(self, outcome):
        self.settled.append(str(outcome))

    def seen(self):
        """What can be told of the call at any time."""
        made = self.exchange
        sizes = (made.frames, made.bytes, made.delivered_bytes)
        now = (*sizes, made.status, made.committed, made.bound, repr(made.problem))
        known = None
        if self.joint is not None:
            learnt = self.joint.learnt
            known = (learnt.text_bytes, repr(learnt.usage), learnt.complete, learnt.ended, learnt.finish_reason)
        tried = [
            (one.received_bytes, repr(one.usage), one.finish_reason, one.noise, one.ended, one.ended_by)
            for one in made.attempts
        ]
        return now, known, tried, tuple(self.settled)


class Twin(Inside):
    """A house, with lanes or without. `asking`: the provider's transport asks by itself."""

    def __init__(self, folder, road, asking=False):
        path, body, self.says = ROADS[road]
        resources = folder / "resources.yaml"
        resources.write_text(yaml.safe_dump(RESOURCES))
        settings = structure({**BOOT, "resources_file": str(resources)}, {})
        shortcut.habits.cache_clear()
        randomness.seed(1)
        self.reactor = Reactor()
        self.lines = Book()
        self.house = House(settings, self.reactor, Log(self.lines), alone=False)
        gateway = self.house.gateway
        gateway.now = self.house.front.now = lambda: NOW
        self.ledger = Ledger()
        gateway.before = (self.ledger, *gateway.before)
        self.asking, self.trace, self.serial = asking, [], 0
        self.request = self._request(path, {"stream": True, **body})
        self.call()

    def _request(self, path, body, minor=1):
        data = json.dumps(body).encode()
        head = f"host: h\r\nauthorization: Bearer {CALLER_KEY}\r\ncontent-type: application/json"
        return f"POST /v1/{path} HTTP/1.{minor}\r\n{head}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data

    def _end(self, asks=False):
        return Asking() if asks else End()

    def _connect(self):
        wire = self._end()
        protocol = self.house.site.buildProtocol(wire.getPeer())
        protocol.makeConnection(wire)
        return protocol, wire

    def call(self):
        self.caller, self.out = self._connect()
        self.again()

    def again(self):
        """A call on the caller's connection."""
        self.caller.dataReceived(self.request)
        self.find()

    def find(self):
        """The provider's end of the call."""
        for *_, factory, _, _ in self.reactor.tcpClients:
            wire = self._end(self.asking)
            factory.buildProtocol(wire.getPeer()).makeConnection(wire)
        self.reactor.tcpClients.clear()
        found = [one for one in self.house.clients.pools[0].open if one.transport.fresh]
        ((self.provider, self.asked),) = [(one, one.transport) for one in found]
        self.asked.fresh = False
        self.note()

    def dated(self, data):
        lines = data.split(b"\r\n")
        return b"\r\n".join([line for line in lines if not line.lower().startswith(b"date:")])

    def note(self):
        """What can be seen now."""
        told = self.house.gateway.streams.listed(self._key())
        calls = [one.seen() for one in self.ledger.tickets]
        wires = (self.asked.closed, self.asked.stopped, self.out.closed)
        got, now = self.dated(self.out.take()), self.reactor.seconds()
        self.trace.append((got, self.caller.written, calls, told, wires, now))

    def _key(self):
        return next(iter(self.house.snapshot().caller_keys_by_hash.values()))

    # Steps

    def give(self, data, force=False):
        """The provider sends that, which is read when reading goes on; `force`: it was under way already."""
        wire = self.asked
        self.reactor.advance(2**-10)
        if wire.stopped and not force:
            wire.kept.append(data)
        elif not wire.told:
            lane = getattr(wire, "lane", None)
            if lane is None or not lane.read(data):
                self.provider.dataReceived(data)
        self.settle()

    def settle(self):
        wire = self.asked
        while wire.kept and not wire.stopped and not wire.told:
            data, wire.kept = wire.kept[0], wire.kept[1:]
            self.give(data)
        if wire.closed and not wire.told:
            self.lose(ConnectionAborted())
        self.note()

    def lose(self, why=None):
        """The provider's connection breaks."""
        if not self.asked.told:
            self.asked.told = True
            self.provider.connectionLost(Failure(why or ConnectionLost()))
        self.note()

    def leave(self):
        """The caller closes its connection."""
        if not self.out.told:
            self.out.told = True
            self.caller.connectionLost(Failure(ConnectionDone()))
        self.settle()

    def full(self):
        """The caller takes nothing."""
        self.out.producer.pauseProducing()
        self.note()

    def empty(self):
        """The caller has taken everything."""
        self.out.producer.resumeProducing()
        self.settle()

    def wait(self, seconds):
        self.reactor.advance(seconds)
        self.settle()

    def ask(self, head):
        """Another request of the same caller, over a connection of its own."""
        protocol, wire = self._connect()
        protocol.dataReceived(f"{head} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {CALLER_KEY}\r\n\r\n".encode())
        self.trace.append(self.dated(wire.take()))
        protocol.connectionLost(Failure(ConnectionDone()))

    def list(self):
        self.ask("GET /v1/streams")

    def stop(self):
        self.ask(f"POST /v1/streams/{self.ledger.tickets[-1].exchange.id}/stop")
        self.settle()

    def shut(self):
        self.house.gateway.end_all(shutting_down())
        self.settle()

    def end(self):
        """Everybody leaves; what is recorded of all that."""
        self.leave()
        self.wait(100)
        if not self.asked.told:
            self.lose(ConnectionDone())
        self.wait(100)
        assert not self.house.gateway.in_flight
        assert self.provider._hastened is self.provider._lane is None
        assert getattr(self.asked, "lane", None) is None
        if self.lines.make is not None:
            self.lines.make()
        seen = self.house.metrics.exposition().split(b"\n")
        times = (b"_created", b"timestamp")
        mine = [line for line in seen if line.startswith(b"aisix_") and not any(time in line for time in times)]
        self.trace.append(([line.split(b" ", 1)[1] for line in self.lines.lines], mine))


@pytest.fixture
def twins(tmp_path, monkeypatch):
    """Lives a life twice, and compares; gives how many reads went by a lane."""
    took = Lane.read
    carried = [0]

    def read(self, data):
        found = took(self, data)
        carried[0] += found
        return found

    monkeypatch.setattr(Lane, "read", read)
    lane = Downstream.lane

    def live(road, life, asking=False):
        traces = []
        for has_lanes in (True, False):
            monkeypatch.setattr(Downstream, "lane", lane if has_lanes else lambda self, learnt: None)
            twin = Twin(tmp_path, road, asking)
            before = carried[0]
            life(twin)
            twin.end()
            traces.append(twin.trace)
            if has_lanes:
                count = carried[0] - before
            else:
                assert carried[0] == before
        fast, slow = traces
        for number, (one, other) in enumerate(zip(fast, slow, strict=True)):
            assert one == other, f"step {number}"
        return SimpleNamespace(carried=count, trace=fast)

    return live


def answer(twin, texts=TEXTS):
    return [HEAD, *map(chunk, twin.says(texts)), b"0\r\n\r\n"]


@pytest.mark.parametrize("asking", [False, True])
@pytest.mark.parametrize("road", ROADS)
def test_a_chunk_a_read(twins, road, asking):
    def life(twin):
        for read in answer(twin):
            twin.give(read)

    found = twins(road, life, asking)
    assert found.carried > 8 if road in HASTY else not found.carried
    sent = b"".join(one[0] for one in found.trace[:-1])
    assert sent.count(b"token ") >= 1
    assert sent.endswith(b"0\r\n\r\n")


def rechunked(data, seed):
    """A body in chunks of any size, some of them with their sizes written in another way."""
    choice = random.Random(seed)
    ways = [b"%x"] * 6 + [b"%X", b"0%x", b"%x;a=b"]
    pieces = at_random(data, seed, choice.choice([40, 200, 600]))
    return HEAD + b"".join(choice.choice(ways) % len(one) + b"\r\n" + one + b"\r\n" for one in pieces) + b"0\r\n\r\n"


def frames_a_chunk(data, seed):
    """A body in chunks of a frame each, or of some."""
    return HEAD + b"".join(map(chunk, coalesced(data, seed))) + b"0\r\n\r\n"


def cut_here_and_there(reads, seed):
    """Most chunks come alone; some in two reads, some with the beginning of the next."""
    choice, left = random.Random(seed), b""
    for read in reads:
        read, left = left + read, b""
        if choice.random() < 0.2:
            cut = choice.randrange(1, len(read))
            yield read[:cut]
            read = read[cut:]
        if choice.random() < 0.15:
            cut = choice.randrange(1, len(read) + 1)
            read, left = read[:cut], read[cut:]
        yield read
    if left:
        yield left


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("road", HASTY)
def test_random_cuts(twins, road, seed):
    def life(twin):
        for turn in range(6):
            mine, body = 10 * seed + turn, b"".join(twin.says(TEXTS))
            usual = [HEAD, *map(chunk, twin.says(TEXTS)), b"0\r\n\r\n"]
            reads = [
                cut_here_and_there(usual, mine),
                cut_here_and_there(usual, mine + 1000),
                coalesced_reads(usual, mine),
                at_random(rechunked(body, mine), mine, 400),
                by_sizes(frames_a_chunk(body, mine), [len(HEAD) + 300, 900, 7, 3, 1500]),
                cut_here_and_there([HEAD, *map(chunk, coalesced(body, mine)), b"0\r\n\r\n"], mine),
            ][turn]
            for read in reads:
                twin.give(read)
            twin.again()

    assert twins(road, life, asking=bool(seed % 2)).carried > 3


def coalesced_reads(reads, seed):
    """Runs of one to three chunks."""
    choice, left = random.Random(seed), list(reads)
    while left:
        count = choice.choice([1, 1, 1, 2, 3])
        yield b"".join(left[:count])
        left = left[count:]


@pytest.mark.parametrize("road", HASTY)
def test_byte_by_byte(twins, road):
    """Behind the first tokens, which have opened a lane."""

    def life(twin):
        first, last = answer(twin, [" a", " b", " c", " d"]), answer(twin, [" a", " b", " c"])
        for read in [*first[:-4], *by_sizes(b"".join(last[-6:]), 1)]:
            twin.give(read)

    assert twins(road, life).carried


@pytest.mark.parametrize("asking", [False, True])
@pytest.mark.parametrize("road", HASTY)
def test_a_chunk_of_which_the_beginning_was_read_already(twins, road, asking):
    """What is left of it may look like a chunk itself; the reader knows that it is none."""

    def life(twin):
        reads = answer(twin, [" a"] * 9)
        for read in reads[:6]:
            twin.give(read)
        twin.give(reads[6] + b"0")
        twin.give(reads[7])
        twin.give(reads[8] + b"1")
        size, frame = reads[9].split(b"\r\n", 1)
        twin.give(size + b"\r\n" + frame)
        twin.give(b": " + b"x" * (0x100 - 6) + b"\n\n\r\n")
        for read in reads[10:]:
            twin.give(read)

    assert twins(road, life, asking).carried


@pytest.mark.parametrize("asking", [False, True])
def test_connections_that_are_used_again(twins, asking):
    """A lane leads to one answer: not to the next one of the same connections, with other frames or the same."""

    def life(twin):
        for texts in (TEXTS, [" a"] * 9, [" a"] * 9, ["é"] * 5):
            for read in answer(twin, texts):
                twin.give(read)
            assert not twin.asked.closed
            assert twin.provider._lane is None
            assert getattr(twin.asked, "lane", None) is None
            twin.again()
        assert len(twin.house.clients.pools[0].open) == 1

    assert twins("chat", life, asking).carried > 20


def test_pipelined_requests(twins):
    def life(twin):
        twin.caller.dataReceived(twin.request)
        for read in answer(twin, [" a"] * 9):
            twin.give(read)
        twin.find()
        for read in answer(twin, [" b"] * 9):
            twin.give(read)

    assert twins("chat", life).carried > 8


@pytest.mark.parametrize("asking", [False, True])
def test_what_a_provider_says_behind_its_answer_reaches_nobody(twins, asking):
    def life(twin):
        reads = answer(twin, [" a"] * 9)
        for read in reads:
            twin.give(read)
        twin.give(reads[5])
        assert twin.asked.closed

    assert twins("chat", life, asking).carried


def each_step(twin, reads, at, act):
    for number, read in enumerate(reads):
        if number == at:
            act(twin)
        twin.give(read)


TOKENS = [" one", " two", " three", "né", " five", "", " seven", " eight"]
ACTS = {
    "leaves": Twin.leave,
    "stopped": Twin.stop,
    "shut down": Twin.shut,
    "breaks": Twin.lose,
    "ends early": lambda twin: twin.lose(ConnectionDone()),
    "full": Twin.full,
    "looked at": Twin.list,
    "silent": lambda twin: twin.wait(10.5),
    "full and empty": lambda twin: (twin.full(), twin.give(chunk(twin.says([" more"])[3]), force=True), twin.empty()),
    "broken frame": lambda twin: twin.give(chunk(b"data: {\n\n")),
    "error": lambda twin: twin.give(
        chunk(b'event: error\ndata: {"type":"error","error":{"message":"no","type":"x"}}\n\n')
    ),
    "no chunk": lambda twin: twin.give(b"zz\r\n"),
    "the end": lambda twin: twin.give(b"0\r\n\r\n"),
    "noise": lambda twin: (twin.give(chunk(b": ping\n\n")), twin.give(chunk(b"data:\n\n")), twin.give(chunk(b"\n"))),
    "other text": lambda twin: twin.give(chunk(twin.says([" x"])[2].replace(b'":', b'": '))),
    "half a frame": lambda twin: twin.give(chunk(twin.says([" x"])[2][:-9])),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("road", HASTY)
def test_after_each_step(twins, road, act):
    """Whatever happens, it may happen between any two reads."""

    def life(twin, at):
        each_step(twin, answer(twin, TOKENS), at, ACTS[act])

    steps = (3, 4, 6, 9) if road in ("chat", "Anthropic at chat") else (7,)
    carried = [twins(road, lambda twin, at=at: life(twin, at), asking=bool(at % 2)).carried for at in steps]
    assert any(carried)


@pytest.mark.parametrize("wait", [2.5, 4.0, 9.9, 10.0])
@pytest.mark.parametrize("road", ROADS)
def test_deadlines(twins, road, wait):
    """Heartbeats, progress and silence come when they would come: with reads at all times before and behind them."""

    def life(twin):
        for number, read in enumerate(answer(twin, [" a"] * 12)):
            if number % 6 == 0 and number:
                for _ in range(8):
                    twin.wait(wait / 8)
            elif number > 1:
                twin.wait(0.7 * (number % 4))
            if number == 8:
                twin.full()
                twin.wait(20)
                twin.empty()
            twin.give(read)

    found = twins(road, life)
    ended = any(seen[2] and seen[2][0][3] == ("stalled",) for seen in found.trace[:-1])
    assert ended is (wait == 10.0)
    assert found.carried or road not in HASTY


def sweep(twin):
    """The caller takes nothing, and is looked after."""
    twin.out.dataBuffer, twin.out.offset, twin.out._tempDataLen = b"x", 0, 0
    twin.full()
    twin.wait(16)
    twin.trace.append(twin.caller.taken)


BEHIND = {
    "nothing": lambda twin: None,
    "a sweep": sweep,
    "half a frame": lambda twin: twin.give(chunk(twin.says([" x"])[2][:-9])),
}


@pytest.mark.parametrize("end", [Twin.leave, Twin.stop, Twin.shut])
@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("road", HASTY)
def test_what_a_lane_carried_is_counted_though_nobody_looked_at_the_stream(twins, road, behind, end):
    def life(twin):
        note, twin.note = twin.note, lambda: None
        for read in answer(twin, [" a"] * 12)[:10]:
            twin.give(read)
        BEHIND[behind](twin)
        twin.note = note
        end(twin)

    assert twins(road, life).carried > 4


def test_a_silence_behind_a_lane_rings_at_its_second(twins):
    def life(twin):
        reads = answer(twin, [" a"] * 12)
        for number, read in enumerate(reads[:9]):
            twin.wait(9 if number > 1 else 0)
            twin.give(read)
        twin.wait(9.99)
        assert not twin.ledger.tickets[0].settled
        twin.wait(0.02)
        assert twin.ledger.tickets[0].settled == ["stalled"]

    assert twins("chat", life).carried > 4


def test_a_frame_that_the_caller_does_not_get_puts_no_heartbeat_off(twins):
    """Behind it a lane is opened, the first of its answer: nothing has been carried yet."""

    def life(twin):
        for _ in range(2):  # in the second answer the usage is known by its bytes
            reads = answer(twin, [" a"] * 5)
            for read in reads[:3]:
                twin.give(read)
            twin.give(b"".join(reads[3:7]))
            twin.give(reads[7])
            twin.wait(3)
            twin.give(reads[8])
            twin.wait(0.9)
            twin.wait(0.2)
            twin.wait(2.9)
            for read in reads[9:]:
                twin.give(read)
            twin.again()

    twins("chat, usage not shown", life)


def test_a_caller_of_http_1_0_has_no_chunks_and_no_lane(twins):
    def life(twin):
        twin.leave()
        twin.request = twin.request.replace(b"HTTP/1.1", b"HTTP/1.0")
        twin.call()
        for read in answer(twin):
            twin.give(read)

    found = twins("chat", life)
    assert not found.carried
    assert any(b"token " in seen[0] for seen in found.trace[:-1])


def test_tls_has_its_lane_in_the_connection(twins):
    """A transport of TLS shows the attributes of the one below it, which sees no chunks."""

    def life(twin):
        twin.provider._secure = True
        for read in answer(twin, [" a"] * 9):
            lane, twin.asked.lane = twin.asked.lane, None
            assert lane is None, "nobody is asked below TLS"
            twin.give(read)

    assert twins("chat", life, asking=True).carried > 4


class Traced(Lane):
    """A lane that tells whether it is still there."""

    __slots__ = ("__weakref__",)


@pytest.mark.parametrize("asking", [False, True])
@pytest.mark.parametrize("act", ["the end", "leaves", "stopped", "shut down", "breaks", "silent", "broken frame"])
def test_nothing_keeps_a_lane_behind_its_answer(tmp_path, monkeypatch, act, asking):
    """Neither connections, which live on where they can, nor alarms, nor a cycle."""
    lanes = []

    def made(*given):
        lane = Traced(*given)
        lanes.append(weakref.ref(lane))
        return lane

    monkeypatch.setattr(downstream, "Lane", made)
    twin = Twin(tmp_path, "chat", asking)
    reads = answer(twin, [" a"] * 12)
    for read in reads[:9]:
        twin.give(read)
    (lane,) = lanes
    assert lane() is not None
    assert lane().at > 0, "it has carried something"
    gc.disable()
    try:
        if act == "the end":
            for read in reads[9:]:
                twin.give(read)
            assert not twin.asked.closed
        ACTS[act](twin)
        twin.wait(5)
        assert lane() is None
    finally:
        gc.enable()


class Passing:
    """A gate that lets everything through, and counts it."""

    held, halted, full, withheld = 0, None, False, 0

    def __init__(self):
        self.frames = 0

    def received(self, frames):
        self.frames += len(frames)
        return frames

    def stopped(self, clean):
        return []


@pytest.mark.parametrize("road", ["chat", "Anthropic at chat"])
def test_a_policy_that_looks_at_frames_sees_them_all(twins, monkeypatch, road):
    seen = []

    def gates(self, joint):
        seen.append(Passing())
        return seen[-1:]

    monkeypatch.setattr(Look, "gates", gates)

    def life(twin):
        for read in answer(twin):
            twin.give(read)

    assert not twins(road, life).carried
    assert [gate.frames for gate in seen] == [seen[0].frames] * 2
    assert seen[0].frames > len(TEXTS)
