"""What protocols see of TCP transports on a reactor: `python -m tests.transports epoll|aisix` prints it as JSON.

Every scene is played on a server's transport and on a client's, with a plain socket as its peer. Its record must be the
same on Twisted's reactor and on ours (`test_sockets`). What may differ, as in how many reads bytes come, is not in it.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory, Factory, Protocol

from . import speaking
from .speaking import (
    BIG,
    HANGS,
    HalfSpeaker,
    Speaker,
    explode,
    hears,
    logged,
    narrow,
    pair,
    refused,
    reset,
    short,
    turn,
)

scenes: dict[str, Callable[[str], Awaitable[Any]]] = {}


def scene(play: Callable[[str], Awaitable[Any]]) -> Callable[[str], Awaitable[Any]]:
    """One more of them."""
    scenes[play.__name__] = play
    return play


# writing and closing


@scene
async def says_and_closes(side: str) -> Any:
    def answer(one: Any) -> None:
        one.transport.write(b"you said ")
        one.transport.writeSequence([b"<", one.data(), b">"])
        one.transport.loseConnection()
        one.transport.write(b" (late)")
        one.transport.loseConnection()

    speaker = Speaker(data=answer, lost=lambda one: one.transport.write(b"never"))
    peer = await pair(side, speaker)
    peer.sendall(b"hello")
    heard = await hears(peer)
    await speaker.saw("lost")
    return heard, speaker.record()


@scene
async def closes_though_another_process_holds_the_socket(side: str) -> Any:
    """As a child does that was forked while it was open: the peer is told all the same."""
    speaker = Speaker()
    peer = await pair(side, speaker)
    held = os.dup(speaker.transport.fileno())
    try:
        speaker.transport.write(b"all")
        speaker.transport.loseConnection()
        return await hears(peer), await speaker.saw("lost")
    finally:
        os.close(held)


@scene
async def kinds_of_data(side: str) -> Any:
    speaker = Speaker()
    peer = await pair(side, speaker)
    to: Any = speaker.transport
    kinds = ("text", bytearray(b"array"), memoryview(b"view"), None, b"", b"bytes", type("Mine", (bytes,), {})(b"mine"))
    told = [refused(lambda kind=kind: to.write(kind)) for kind in kinds]
    told += [refused(lambda kind=kind: to.writeSequence([b"-", kind])) for kind in kinds]
    told.append(refused(lambda: to.writeSequence([])))
    to.loseConnection()
    heard = await hears(peer)
    await speaker.saw("lost")
    told += [refused(lambda kind=kind: to.write(kind)) for kind in kinds]
    return told, heard, speaker.record()


@scene
async def closes_with_much_to_send(side: str) -> Any:
    speaker = Speaker()
    peer = await pair(side, speaker)
    narrow(speaker, peer)
    for number in range(8):
        speaker.transport.write(b"%d" % number + BIG)
    await turn()
    speaker.transport.write(b"more")
    speaker.transport.loseConnection()
    speaker.transport.write(b"last")
    heard = await hears(peer)
    await speaker.saw("lost")
    return heard, speaker.record()


@scene
async def writes_on_while_blocked(side: str) -> Any:
    speaker = Speaker()
    peer = await pair(side, speaker)
    narrow(speaker, peer)
    speaker.transport.write(BIG)
    heard = []
    for number in range(5):
        await turn()
        speaker.transport.writeSequence([b"<%d" % number, BIG, b">"])
        speaker.transport.write(b"." * number)
        heard.append(await hears(peer, 1) != "")
    speaker.transport.write(b"the end")
    speaker.transport.loseConnection()
    await hears(peer)
    await speaker.saw("lost")
    return heard, speaker.record()


@scene
async def nothing_lost_while_blocked(side: str) -> Any:
    speaker = Speaker()
    peer = await pair(side, speaker)
    narrow(speaker, peer)
    for number in range(40):
        speaker.transport.write(b"<%d>" % number + BIG[: 50_000 + number])
        await turn()
    speaker.transport.loseConnection()
    return await hears(peer), await speaker.saw("lost"), speaker.record()


# producers


def pouring(speaker: Speaker, many: int, size: int) -> Speaker:
    """A push producer of so many pieces for the speaker's transport, which it closes behind them."""
    sent = paused = 0

    def produce(_: Any) -> None:
        nonlocal sent, paused
        paused = 0
        while not paused and sent < many:
            sent += 1
            speaker.transport.write(bytes([sent]) * size)
        if sent == many:
            speaker.transport.unregisterProducer()
            speaker.transport.loseConnection()

    def hold(_: Any) -> None:
        nonlocal paused
        paused = 1

    return Speaker(resume=produce, pause=hold)


@scene
async def push_producer(side: str) -> Any:
    speaker = Speaker()
    producer = pouring(speaker, 40, 20_000)
    peer = await pair(side, speaker)
    narrow(speaker, peer)
    speaker.transport.registerProducer(producer, True)
    producer.hooks["resume"](producer)
    heard = await hears(peer)
    await speaker.saw("lost")
    return heard, speaker.record(), sorted(set(producer.record()))


@scene
async def closing_waits_for_a_paused_producer(side: str) -> Any:
    """Whether the socket takes all at once or not."""
    told = []
    for much, way in ((BIG[:70_000], "loseConnection"), (BIG, "loseConnection"), (BIG[:70_000], "loseWriteConnection")):
        speaker = HalfSpeaker()
        producer = Speaker(resume=lambda _, speaker=speaker: speaker.transport.write(b"last"))
        peer = await pair(side, speaker)
        if much is BIG:
            narrow(speaker, peer)
        speaker.transport.registerProducer(producer, True)
        speaker.transport.write(much)
        getattr(speaker.transport, way)()
        heard = await hears(peer)
        if way == "loseWriteConnection":
            speaker.transport.loseConnection()
        await speaker.saw("lost")
        told.append((heard, speaker.record(), producer.record()))
    return told


@scene
async def pull_producer(side: str) -> Any:
    """Closing when it has finished, or asked to close before."""

    async def play(narrowly: bool, early: bool) -> Any:
        def produce(one: Any) -> None:
            asked = len(one.seen)
            speaker.transport.write(b"%d" % asked * 10_000)
            if asked == 9:
                speaker.transport.unregisterProducer()
                speaker.transport.loseConnection()

        speaker, producer = Speaker(), Speaker(resume=produce)
        peer = await pair(side, speaker)
        if narrowly:
            narrow(speaker, peer)
        speaker.transport.write(b"before")
        speaker.transport.registerProducer(producer, False)
        twice = refused(lambda: speaker.transport.registerProducer(producer, True))
        if early:
            speaker.transport.loseConnection()
        heard = await hears(peer)
        await speaker.saw("lost")
        speaker.transport.registerProducer(producer, True)
        return heard, twice, speaker.record(), producer.record()

    return [await play(narrowly, early) for narrowly in (False, True) for early in (False, True)]


@scene
async def producer_fails(side: str) -> Any:
    told = []
    for streaming in (True, False):
        speaker = Speaker()
        producer = Speaker(resume=explode)
        peer = await pair(side, speaker)
        if streaming:
            speaker.transport.registerProducer(producer, True)
            speaker.transport.write(b"x" * 70_000)
        else:
            speaker.transport.write(b"piece")
            producer.hooks["resume"] = lambda one: len(one.seen) == 1 or explode(one)
            speaker.transport.registerProducer(producer, False)
        told.append((await hears(peer), await speaker.saw("lost"), speaker.record(), producer.record()))
    return told


@scene
async def producer_is_stopped(side: str) -> Any:
    speaker, producer = Speaker(), Speaker()
    peer = await pair(side, speaker)
    speaker.transport.registerProducer(producer, True)
    peer.close()
    await speaker.saw("lost")
    return speaker.record(), producer.record()


# aborting


@scene
async def aborts(side: str) -> Any:
    def away(one: Any) -> None:
        to = one.transport
        to.write(b"not sent")
        to.abortConnection()
        peer.sendall(b"two")
        to.write(b"nor this")
        to.writeSequence([b"nor", b"that"])
        to.resumeProducing()
        to.startReading()
        to.startWriting()
        to.abortConnection()

    speaker = Speaker(data=away)
    peer = await pair(side, speaker)
    peer.sendall(b"one")
    heard = await hears(peer)
    await speaker.saw("lost")
    await turn()
    speaker.transport.abortConnection()
    speaker.transport.loseConnection()
    return heard, speaker.record()


@scene
async def aborts_while_blocked(side: str) -> Any:
    speaker, producer = Speaker(), Speaker()
    peer = await pair(side, speaker)
    narrow(speaker, peer)
    speaker.transport.registerProducer(producer, True)
    speaker.transport.write(BIG * 8)
    await turn()
    await turn()
    speaker.transport.abortConnection()
    speaker.transport.loseConnection()
    await speaker.saw("lost")
    return (await hears(peer)).endswith("reset"), speaker.record(), producer.record()


@scene
async def aborts_and_fails(side: str) -> Any:
    speaker = Speaker(data=lambda one: (one.transport.abortConnection(), explode(one)))
    peer = await pair(side, speaker)
    peer.sendall(b"one")
    await speaker.saw("lost")
    await turn()
    return speaker.record()


# failing


@scene
async def fails_to_read(side: str) -> Any:
    speaker = Speaker(data=explode)
    peer = await pair(side, speaker)
    peer.sendall(b"one")
    return await hears(peer), await speaker.saw("lost"), speaker.record()


@scene
async def failing_is_nobody_elses_trouble(side: str) -> Any:
    """All read, all write, and half of them fail twice; in one turn."""
    speakers = [
        Speaker(data=explode, lost=explode)
        if number % 2
        else Speaker(data=lambda one: one.transport.write(b"answer " + one.data()))
        for number in range(6)
    ]
    peers = [await pair(side, speaker) for speaker in speakers]
    for number, peer in enumerate(peers):
        peer.sendall(b"%d" % number)
    told = [await hears(peer, 8) for peer in peers]
    return told, [speaker.record() for speaker in speakers]


@scene
async def failing_to_be_closed_is_nobody_elses_trouble(side: str) -> Any:
    speakers = [Speaker(lost=explode) if number % 2 else Speaker() for number in range(6)]
    peers = [await pair(side, speaker) for speaker in speakers]
    for number, speaker in enumerate(speakers):
        speaker.transport.write(b"%d" % number)
        if number % 2:
            speaker.transport.loseConnection()
    told = [await hears(peer, 2 if number % 2 else 1) for number, peer in enumerate(peers)]
    return told, [speaker.record() for speaker in speakers]


@scene
async def failing_ends_are_nobody_elses_trouble(side: str) -> Any:
    speakers = [Speaker(lost=explode), Speaker(), Speaker(lost=explode), Speaker()]
    peers = [await pair(side, speaker) for speaker in speakers]
    for number, peer in enumerate(peers):
        if number == 2:
            reset(peer)
        elif number % 2:
            peer.sendall(b"%d" % number)
        else:
            peer.close()
    for number, speaker in enumerate(speakers):
        await speaker.saw(b"%d" % number if number % 2 else "lost")
    return [speaker.record() for speaker in speakers]


# ends


@scene
async def data_and_end(side: str) -> Any:
    speaker = Speaker()
    peer = await pair(side, speaker)
    peer.sendall(BIG[:100_000])
    peer.close()
    await speaker.saw("lost")
    return speaker.record()


@scene
async def end_while_paused(side: str) -> Any:
    speaker = Speaker(made=lambda one: one.transport.pauseProducing())
    peer = await pair(side, speaker)
    peer.sendall(b"bye")
    peer.close()
    await turn(0.01)
    speaker.note("resuming")
    speaker.transport.resumeProducing()
    await speaker.saw("lost")
    return speaker.record()


@scene
async def peer_resets(side: str) -> Any:
    told = []
    for paused in (False, True):
        for blocked in (False, True):
            if paused and not blocked:
                continue  # nobody is listening
            speaker = Speaker()
            peer = await pair(side, speaker)
            if blocked:
                narrow(speaker, peer)
                speaker.transport.write(BIG)
                await turn()
                await turn()
            if paused:
                speaker.transport.pauseProducing()
            reset(peer)
            await speaker.saw("lost")
            told.append(speaker.record())
    return told


@scene
async def writes_to_one_who_has_gone(side: str) -> Any:
    speaker = Speaker(made=lambda one: one.transport.pauseProducing())
    peer = await pair(side, speaker)
    reset(peer)
    while len(speaker.seen) == 1:
        speaker.transport.write(b"anybody?")
        await turn(0.001)
    return speaker.record()


@scene
async def halves(side: str) -> Any:
    def end(one: Any) -> None:
        one.transport.write(b"answer")
        one.transport.loseConnection()

    speaker = HalfSpeaker(**{"half-read": end})
    peer = await pair(side, speaker)
    peer.sendall(b"question")
    peer.shutdown(socket.SHUT_WR)
    heard = [await hears(peer)]
    await speaker.saw("lost")
    told = [speaker.record()]

    speaker = HalfSpeaker(data=lambda one: one.transport.write(b"dropped"))
    peer = await pair(side, speaker)
    speaker.transport.write(b"half a ")
    speaker.transport.loseWriteConnection()
    speaker.transport.write(b"question")
    heard.append(await hears(peer))
    peer.sendall(b"answer")
    await speaker.saw(b"answer")
    speaker.transport.loseConnection()
    told.append(speaker.record())

    speaker = HalfSpeaker(**{"half-write": lambda one: one.transport.loseConnection()})
    peer = await pair(side, speaker)
    speaker.transport.loseWriteConnection()
    heard.append(await hears(peer))
    await speaker.saw("lost")
    told.append(speaker.record())

    for failing in ("half-read", "half-write"):
        speaker = HalfSpeaker(**{failing: explode})
        peer = await pair(side, speaker)
        if failing == "half-read":
            peer.shutdown(socket.SHUT_WR)
        else:
            speaker.transport.loseWriteConnection()
        await speaker.saw("lost")
        told.append(speaker.record())
    return heard, told


# one stops another, in the turn in which both have something


async def several(side: str, *speakers: Speaker) -> list[socket.socket]:
    return [await pair(side, speaker) for speaker in speakers]


@scene
async def stopped_by_another(side: str) -> Any:
    """And resumed by a timer, when there is more to read."""
    second = Speaker()
    first = Speaker(data=lambda _: second.transport.pauseProducing())
    one, two = await several(side, first, second)
    one.sendall(b"stop")
    two.sendall(b"old ")
    await first.saw(b"stop")
    second.note("resuming")
    two.sendall(b"new ")
    two.shutdown(socket.SHUT_WR)
    second.transport.resumeProducing()
    await second.saw("lost")
    return first.record(), second.record()


@scene
async def resumed_in_the_same_turn(side: str) -> Any:
    second = Speaker()
    first = Speaker(data=lambda _: second.transport.pauseProducing())
    third = Speaker(data=lambda _: second.transport.resumeProducing())
    one, two, three = await several(side, first, second, third)
    one.sendall(b"stop")
    two.sendall(b"old")
    three.sendall(b"go")
    await second.saw(b"old")
    two.sendall(b"new")
    await second.saw(b"new")
    return first.record(), second.record(), third.record()


@scene
async def resumed_while_sending(side: str) -> Any:
    """The second is a producer for the third, which the first fills."""
    third = Speaker()
    second = Speaker()
    first = Speaker(data=lambda _: (third.transport.write(BIG[:70_000]), two.sendall(b"new")))
    one, two, three = await several(side, first, second, third)
    third.transport.registerProducer(second.transport, True)
    one.sendall(b"fill")
    two.sendall(b"old")
    await second.saw(b"new")
    return second.record(), await hears(three, 70_000)


@scene
async def resumed_and_stopped_again(side: str) -> Any:
    def hold(_: Any) -> None:
        second.transport.pauseProducing()

    second = Speaker()
    first = Speaker(data=hold)
    one, two = await several(side, first, second)
    one.sendall(b"stop")
    two.sendall(b"old ")
    await first.saw(b"stop")
    to: Any = second.transport
    for step in (to.resumeProducing, to.resumeProducing, to.pauseProducing):
        step()
    await turn()
    await turn()
    second.note("resuming")
    two.sendall(b"new ")
    second.hooks["data"] = hold
    for step in (to.resumeProducing, to.pauseProducing, to.resumeProducing, to.resumeProducing):
        step()
    await second.saw(b" ")
    await turn()
    second.note("once more")
    del second.hooks["data"]
    two.close()
    to.resumeProducing()
    await second.saw("lost")
    return [short(second.data()), second.seen[-1], "once more" in second.seen]


@scene
async def stopped_and_closed(side: str) -> Any:
    told = []
    for way in ("loseConnection", "abortConnection"):
        for resumed in (False, True):
            second = Speaker()
            first = Speaker(data=lambda _, second=second: second.transport.pauseProducing())
            one, two = await several(side, first, second)
            one.sendall(b"stop")
            two.sendall(b"old ")
            await first.saw(b"stop")
            to: Any = second.transport
            if resumed:
                to.resumeProducing()
            getattr(to, way)()
            to.resumeProducing()
            await second.saw("lost")
            await turn()
            told.append(second.record())
    return told


@scene
async def closed_by_another(side: str) -> Any:
    told = []
    for way in ("loseConnection", "abortConnection"):
        second = Speaker()
        first = Speaker(data=lambda _, close=way, second=second: getattr(second.transport, close)())
        one, two = await several(side, first, second)
        one.sendall(b"close")
        two.sendall(b"not read")
        await second.saw("lost")
        await turn()
        told.append(second.record()[-1])  # Twisted's may still read it
    return told


@scene
async def fails_on_what_was_kept(side: str) -> Any:
    second = Speaker(data=explode)
    first = Speaker(data=lambda _: second.transport.pauseProducing())
    one, two = await several(side, first, second)
    one.sendall(b"stop")
    two.sendall(b"old")
    await first.saw(b"stop")
    second.transport.resumeProducing()
    await second.saw("lost")
    return second.record()


@scene
async def many_at_once(side: str) -> Any:
    """More than the reactor takes in a turn."""
    speakers = [Speaker(data=lambda one: one.transport.write(one.data())) for _ in range(300)]
    peers = await several(side, *speakers)
    for number, peer in enumerate(peers):
        peer.sendall(b"%03d" % number)
    for speaker in speakers:
        await speaker.until(lambda speaker=speaker: len(speaker.data()) == 3)
    heard = [(await hears(peer, 3)).split(",")[0] for peer in peers]
    for peer in peers:
        peer.close()
    for speaker in speakers:
        await speaker.saw("lost")
    return "".join(heard), [speaker.record() for speaker in speakers]


@scene
async def much_at_once(side: str) -> Any:
    """More than is read before any of it is given."""
    speakers = [Speaker() for _ in range(10)]
    peers = await several(side, *speakers)
    for number, peer in enumerate(peers):
        peer.sendall(bytes([number]) + BIG[:100_000])
    for speaker in speakers:
        await speaker.until(lambda speaker=speaker: len(speaker.data()) == 100_001)
    return [speaker.record() for speaker in speakers]


# the rest


@scene
async def addresses(side: str) -> Any:
    speaker = Speaker()
    peer = await pair(side, speaker)
    to: Any = speaker.transport
    to.setTcpNoDelay(True)
    to.setTcpKeepAlive(1)
    host, other = to.getHost(), to.getPeer()
    return (
        (host.host, host.port) == peer.getpeername(),
        (other.host, other.port) == peer.getsockname(),
        type(host).__name__,
        to.getTcpNoDelay(),
        to.getTcpKeepAlive(),
        to.getHandle() is to.socket,
    )


@scene
async def nothing_stays(side: str) -> Any:
    gone = []
    gc.collect()
    gc.disable()
    for way in ("peer", "loseConnection", "abortConnection"):
        speaker: Any = Speaker()
        peer = await pair(side, speaker)
        if way == "peer":
            peer.close()
        else:
            getattr(speaker.transport, way)()
        await speaker.saw("lost")
        await turn()
        reference = weakref.ref(speaker.transport)
        speaker.transport = None
        gone.append(reference() is None)
    gc.enable()
    return gone if side == "server" else "of Twisted's own clients the collector has to"


class Dialer(ClientFactory):
    """Notes what it is told."""

    noisy = False

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.done: Deferred[None] = Deferred()
        self.protocol_made: Protocol | None = None

    def startedConnecting(self, connector: Any) -> None:
        self.seen.append("started")

    def buildProtocol(self, addr: Any) -> Protocol | None:
        self.seen.append("built")
        return self.protocol_made

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        self.seen.append(f"failed {reason.type.__name__} {connector.state}")
        speaking.reactor.callLater(0, self.done.callback, None)

    def clientConnectionLost(self, connector: Any, reason: Any) -> None:
        self.seen.append(f"lost {reason.type.__name__} {connector.state}")
        speaking.reactor.callLater(0, self.done.callback, None)

    def stopFactory(self) -> None:
        self.seen.append("stopped")


@scene
async def connecting(side: str) -> Any:
    """Refused, timed out, given up, accepted for nobody."""
    told = []
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    dialer = Dialer()
    speaking.reactor.connectTCP("127.0.0.1", port, dialer)
    await dialer.done
    told.append(dialer.seen)
    listener.close()

    dialer = Dialer()
    speaking.reactor.connectTCP("127.0.0.1", port, dialer)
    await dialer.done
    told.append(dialer.seen)

    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = [socket.socket() for _ in range(3)]
    for one in fillers:
        one.setblocking(False)
        one.connect_ex(full.getsockname())
    dialer = Dialer()
    speaking.reactor.connectTCP("127.0.0.1", full.getsockname()[1], dialer, timeout=0.05)
    await dialer.done
    told.append(dialer.seen)
    dialer = Dialer()
    connector = speaking.reactor.connectTCP("127.0.0.1", full.getsockname()[1], dialer)
    await turn()
    await turn()
    connector.disconnect()
    await dialer.done
    told.append(dialer.seen)
    for one in (*fillers, full):
        one.close()

    factory = Factory()
    factory.buildProtocol = lambda _: None
    nobody = speaking.reactor.listenTCP(0, factory, interface="127.0.0.1")
    peer = socket.create_connection(("127.0.0.1", nobody.getHost().port))
    peer.settimeout(HANGS)
    heard = await hears(peer)
    await nobody.stopListening()
    return told, heard


@scene
async def starts_tls(side: str) -> Any:
    """The `side` says so, with plain bytes still to be sent, and has the part of TLS's server."""
    from twisted.internet.ssl import CertificateOptions

    def begin(one: Any) -> None:
        one.transport.write(b"plain" + BIG)
        one.transport.startTLS(_certificate(), normal=side == "server")
        one.transport.write(b"secret of mine")
        one.transport.loseConnection()

    def follow(one: Any) -> None:
        if len(one.data()) == len(BIG) + 5:
            one.note("starts")
            one.hooks = {}
            one.transport.startTLS(CertificateOptions(), normal=side == "server")
            one.transport.write(b"and mine")

    server, client = Speaker(), Speaker()
    beginner, other = (server, client) if side == "server" else (client, server)
    other.hooks = {"data": follow}
    factory = Factory()
    factory.buildProtocol = lambda _: server
    port = speaking.reactor.listenTCP(0, factory, interface="127.0.0.1")
    dialer = Dialer()
    dialer.protocol_made = client
    speaking.reactor.connectTCP("127.0.0.1", port.getHost().port, dialer)
    await server.saw("made")
    await client.saw("made")
    begin(beginner)
    await server.saw("lost")
    await client.saw("lost")
    await port.stopListening()
    return server.record(), client.record()


@scene
async def tls_producers(side: str) -> Any:
    """A producer of much over TLS, and one who stops reading for a while."""
    from twisted.internet.ssl import CertificateOptions

    server, client = Speaker(), Speaker()
    sender, receiver = (server, client) if side == "server" else (client, server)
    producer = pouring(sender, 60, 50_000)
    factory = Factory()
    factory.buildProtocol = lambda _: server
    port = speaking.reactor.listenSSL(0, factory, _certificate(), interface="127.0.0.1")
    dialer = Dialer()
    dialer.protocol_made = client
    speaking.reactor.connectSSL("127.0.0.1", port.getHost().port, dialer, CertificateOptions())
    await server.saw("made")
    await client.saw("made")
    receiver.transport.pauseProducing()
    sender.transport.registerProducer(producer, True)
    producer.hooks["resume"](producer)
    await turn(0.01)
    receiver.transport.resumeProducing()
    await receiver.saw("lost")
    await sender.saw("lost")
    await port.stopListening()
    return receiver.record(), sender.record(), sorted(set(producer.record()))


def _certificate() -> Any:
    from twisted.internet.ssl import DN, KeyPair, PrivateCertificate

    key, name = KeyPair.generate(size=2048), DN(CN="localhost")
    request = key.certificateRequest(name)
    return PrivateCertificate.load(key.signCertificateRequest(name, request, lambda _: True, 1), key).options()


async def _play(names: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name in names:
        for side in ("server", "client"):
            logged.clear()
            try:
                record = await Deferred.fromCoroutine(scenes[name](side)).addTimeout(HANGS, speaking.reactor)
                told[f"{name}-{side}"] = [record, [*logged]]
            except Exception as error:
                told[f"{name}-{side}"] = f"{type(error).__name__}: {error}"
    return told


def main(which: str, *names: str) -> None:
    reactor = speaking.choose(which)
    told: dict[str, Any] = {}

    def play() -> None:
        playing = Deferred.fromCoroutine(_play([*(names or scenes)]))
        playing.addCallbacks(told.update, lambda failure: told.update({"": failure.getTraceback()}))
        playing.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(play)
    reactor.run()
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
