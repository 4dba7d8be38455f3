"""What a program sees of a reactor: `python -m tests.reactors epoll|aisix` prints it as JSON.

Each scene has a process of its own, since a reactor runs once. Its record must be the same on Twisted's and on ours
(`test_reactor`). One that hangs is ended by an alarm, and says so.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet import endpoints, error, tcp, threads  # noqa: F401  # each process would import them
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory, Factory, ProcessProtocol
from twisted.protocols import tls  # noqa: F401
from twisted.python import log

from . import speaking
from .speaking import BIG, Speaker, explode, hears, narrow, pair, short, turn

HANGS = 60

reactor: Any = None
scenes: dict[str, Callable[[list[Any]], None]] = {}
"""By name; they are given the list in which they note what they see."""


def scene(play: Callable[[list[Any]], None]) -> Callable[[list[Any]], None]:
    """One more of them."""
    scenes[play.__name__] = play
    return play


def begin(coroutine: Any) -> None:
    """When the reactor runs."""
    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(coroutine).addErrback(log.err))


# stopped at every place; no timer is there to wake anybody


_kept: list[socket.socket] = []
"""Peers that are not to close."""


async def _in_a_timer(end: Callable[[Any], None]) -> None:
    reactor.callLater(0, end, None)


async def _at_once(end: Callable[[Any], None]) -> None:
    end(None)


async def _from_a_thread(end: Callable[[Any], None]) -> None:
    threading.Thread(target=reactor.callFromThread, args=(end, None)).start()


async def _from_its_own_thread(end: Callable[[Any], None]) -> None:
    reactor.callFromThread(end, None)


async def _from_a_signal(end: Callable[[Any], None]) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(end, None))
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()


async def _when_made(end: Callable[[Any], None]) -> None:
    await pair("server", Speaker(made=end))


async def _when_a_client_is_made(end: Callable[[Any], None]) -> None:
    await pair("client", Speaker(made=end))


async def _when_it_reads(end: Callable[[Any], None]) -> None:
    (await pair("server", Speaker(data=end))).sendall(b"x")


async def _when_it_has_closed(end: Callable[[Any], None]) -> None:
    speaker = Speaker(lost=end)
    await pair("client", speaker)
    speaker.transport.loseConnection()


async def _when_it_is_closed(end: Callable[[Any], None]) -> None:
    (await pair("client", Speaker(lost=end))).close()


async def _when_it_is_aborted(end: Callable[[Any], None]) -> None:
    speaker = Speaker(lost=end)
    await pair("client", speaker)
    speaker.transport.abortConnection()


async def _when_a_producer_goes_on(end: Callable[[Any], None]) -> None:
    speaker = Speaker()
    _kept.append(await pair("server", speaker))
    speaker.transport.registerProducer(Speaker(resume=end), True)
    speaker.transport.write(BIG[:70_000])


async def _when_it_gets_what_was_kept(end: Callable[[Any], None]) -> None:
    second = Speaker(data=end)
    first = Speaker(data=lambda _: second.transport.pauseProducing())
    one, two = await pair("server", first), await pair("server", second)
    one.sendall(b"stop")
    two.sendall(b"kept")
    await first.saw(b"stop")
    second.transport.resumeProducing()


async def _when_it_is_refused(end: Callable[[Any], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    client = ClientFactory()
    client.clientConnectionFailed = lambda *_: end(None)
    reactor.connectTCP("127.0.0.1", port, client)


PLACES = [value for name, value in sorted(globals().items()) if name.startswith(("_in", "_at", "_from", "_when"))]


def _ending(place: Any, action: str) -> Callable[[list[Any]], None]:
    def play(seen: list[Any]) -> None:
        def end(_: Any) -> None:
            if not ended:
                ended.append(True)
                getattr(reactor, action)()
                seen.append("ended")

        ended: list[bool] = []
        for phase in ("before", "during", "after"):
            reactor.addSystemEventTrigger(phase, "shutdown", seen.append, phase)
        begin(place(end))
        reactor.run()
        seen.append(f"running {reactor.running}")

    return play


for _place in PLACES:
    for _action in ("stop", "crash"):
        scenes[f"{_action}{_place.__name__}"] = _ending(_place, _action)


@scene
def terminated(seen: list[Any]) -> None:
    reactor.addSystemEventTrigger("before", "shutdown", seen.append, "before")
    reactor.callWhenRunning(lambda: threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start())
    reactor.run()


@scene
def stops_when_all_is_done(seen: list[Any]) -> None:
    """What has to be done before is waited for, and goes on meanwhile; nothing is asked again and again."""

    def wait() -> Deferred[None]:
        reactor.callLater(0.3, peer[0].sendall, b"go")
        return speaker.saw(b"go").addCallback(lambda _: turn(0.01))

    async def play() -> None:
        peer.append(await pair("server", speaker))
        reactor.stop()

    peer: list[Any] = []
    speaker = Speaker(data=lambda one: one.transport.write(b"gone"))
    polls = _counted()
    reactor.addSystemEventTrigger("before", "shutdown", wait)
    reactor.addSystemEventTrigger("after", "shutdown", lambda: seen.append([*speaker.record(), short(peer[0].recv(9))]))
    begin(play())
    reactor.run()
    seen.append(polls[0] < 40)


@scene
def runs_again_after_a_crash(seen: list[Any]) -> None:
    for number in range(3):
        reactor.callLater(0, seen.append, number)
        reactor.callLater(0.01, reactor.crash)
        reactor.run()
    seen.append(len(reactor.getDelayedCalls()))


def _counted() -> list[int]:
    """How often the kernel is asked."""
    poller, count = reactor._poller, [0]

    class Counting:
        def poll(self, *args: Any) -> Any:
            count[0] += 1
            return poller.poll(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(poller, name)

    reactor._poller = Counting()
    return count


# time


@scene
def timers(seen: list[Any]) -> None:
    def later(name: str, seconds: float, do: Callable[[], Any] = lambda: None) -> Any:
        return reactor.callLater(seconds, lambda: (seen.append(name), do()))

    def refused(call: Callable[[], Any]) -> None:
        try:
            call()
        except (error.AlreadyCalled, error.AlreadyCancelled) as problem:
            seen.append(type(problem).__name__)

    start = reactor.seconds()
    reactor.seconds = lambda: start
    later("second", 0.02)
    later("first", 0.01)
    fails = later("fails", 0.015, lambda: explode(None))
    never = later("never", 0.005)
    later("sooner", 30).reset(0.03)
    later("delayed", 0.001).delay(0.04)
    later("hastened", 50).delay(-49.95)
    moved = later("later", 0.012)
    moved.reset(0.06)
    many = [later("never", 0.001 * number) for number in range(300)]
    later("nothing is left", 0.07, lambda: (seen.append(len(reactor.getDelayedCalls())), refused(fails.cancel)))
    later("last", 0.08, lambda: later("at once", 0, lambda: later("end", 0, lambda: reactor.stop())))
    for one in (never, *many):
        one.cancel()
    refused(never.cancel)
    refused(lambda: never.reset(1))
    seen.append(len(reactor.getDelayedCalls()))
    del reactor.seconds
    reactor.run()


@scene
def a_timer_moved_by_a_read(seen: list[Any]) -> None:
    async def play() -> None:
        late = reactor.callLater(3000, reactor.stop)
        reactor.callLater(2000, seen.append, "never").cancel()
        speaker = Speaker(data=lambda _: late.reset(0))
        (await pair("server", speaker)).sendall(b"x")

    begin(play())
    reactor.run()
    seen.append("stopped")


@scene
def a_timer_made_while_sending(seen: list[Any]) -> None:
    async def play() -> None:
        speaker = Speaker(lost=lambda _: reactor.callLater(0.01, reactor.stop))
        await pair("server", speaker)
        speaker.transport.loseConnection()

    begin(play())
    reactor.run()
    seen.append("stopped")


@scene
def sleeps(seen: list[Any]) -> None:
    polls = _counted()
    reactor.callLater(0.3, reactor.stop)
    reactor.run()
    seen.append(polls[0] < 15)


# threads


@scene
def calls_from_threads(seen: list[Any]) -> None:
    def work() -> None:
        for number in range(100):
            reactor.callFromThread(seen.append, number)
        reactor.callFromThread(explode, None)
        seen.append(threads.blockingCallFromThread(reactor, lambda: "back"))
        reactor.callFromThread(lambda: reactor.callFromThread(reactor.stop))

    reactor.callWhenRunning(lambda: threading.Thread(target=work).start())
    reactor.run()


# by hand


@scene
def iterated(seen: list[Any]) -> None:
    async def play() -> None:
        speaker = Speaker(data=lambda one: (one.transport.write(b"answer"), one.transport.loseConnection()))
        peer = await pair("server", speaker)
        peer.sendall(b"question")
        await speaker.saw("lost")
        seen.append([short(peer.recv(99)), speaker.record()])

    done = Deferred.fromCoroutine(play())
    while not done.called:
        reactor.iterate(0.01)
    reactor.callLater(0, seen.append, "timer")
    reactor.callFromThread(seen.append, "thread")
    reactor.iterate()
    reactor.iterate()


@scene
def selectables(seen: list[Any]) -> None:
    def now() -> None:
        seen.append([to in reactor.getReaders(), to in reactor.getWriters()])

    async def play() -> None:
        nonlocal to
        peer = await pair("server", speaker)
        to = speaker.transport
        now()
        to.write(b"x")
        now()
        await turn()
        await turn()
        now()
        to.pauseProducing()
        now()
        narrow(speaker, peer)
        to.write(BIG)
        for _ in range(3):
            await turn()
        now()
        to.resumeProducing()
        found = reactor.removeAll()
        seen.append(found.count(to))
        now()
        to.write(b"y")
        now()
        seen.append(await hears(peer, len(BIG) + 2))
        to.write(b"z")
        found = reactor.removeAll()
        seen.append(found.count(to))
        to.write(b"!")
        seen.append(await hears(peer, 2))
        reactor.stop()

    to: Any = None
    speaker = Speaker()
    begin(play())
    reactor.run()
    seen.append(speaker.record())


# what else there is


@scene
def a_process(seen: list[Any]) -> None:
    class Cat(ProcessProtocol):
        def __init__(self) -> None:
            self.got = b""

        def connectionMade(self) -> None:
            for _ in range(3):
                self.transport.write(BIG)
            self.transport.closeStdin()

        def outReceived(self, data: bytes) -> None:
            self.got += data

        def processEnded(self, reason: Any) -> None:
            seen.append([short(self.got), reason.type.__name__])
            reactor.stop()

    reactor.callWhenRunning(reactor.spawnProcess, Cat(), "/bin/cat", ["cat"], {})
    reactor.run()


@scene
def unix_sockets(seen: list[Any]) -> None:
    async def play() -> None:
        factory, client = Factory(), ClientFactory()
        server, caller = Speaker(data=lambda one: one.transport.loseConnection()), Speaker()
        factory.buildProtocol = lambda _: server
        client.buildProtocol = lambda _: caller
        path = f"\0aisix-{os.getpid()}"
        port = reactor.listenUNIX(path, factory)
        reactor.connectUNIX(path, client)
        await server.saw("made")
        server.transport.write(BIG)
        await caller.until(lambda: len(caller.data()) == len(BIG))
        caller.transport.write(b"thanks")
        await caller.saw("lost")
        await server.saw("lost")
        await port.stopListening()
        seen.append([server.record(), caller.record()])
        reactor.stop()

    begin(play())
    reactor.run()


def _play(which: str, name: str, told: int) -> None:
    global reactor
    signal.alarm(HANGS)
    reactor = speaking.choose(which)
    seen: list[Any] = []
    scenes[name](seen)
    os.write(told, json.dumps([seen, speaking.logged]).encode())


def main(which: str, *names: str) -> None:
    record: dict[str, Any] = {}
    for name in names or scenes:
        reading, told = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                os.close(reading)
                _play(which, name, told)
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        os.close(told)
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        record[name] = json.loads(text) if text and not status else f"ended with {status}"
    sys.stdout.write(json.dumps(record))


if __name__ == "__main__":
    main(*sys.argv[1:])
