"""One connection to a Redis, single or found through sentinels, that never makes a call wait for long.

    redis = Redis(settings.ratelimit.redis, reactor, timeout=0.05, name="ratelimit")
    take = redis.script(LUA)            # before `start`: scripts are loaded whenever a connection is made
    redis.watch(lambda up: ...)         # told of every change of `up`
    redis.start()
    body = await redis.command("GET", key)          # bytes, int, None or a list of these
    numbers = await redis.run(take, [key], [1, 2])
    await redis.stop()

Commands leave in the order in which they are given, and are answered in it. One that is not answered in `timeout`
seconds, or whose server says that it cannot serve, opens the **circuit**: it and all that wait fail with `Unavailable`
at once, the connection is thrown away, and until a new one has shown that it can write (tried each second), every
command fails with `Unavailable` without any wait. So a dead or frozen Redis costs `timeout` once.

A command that failed so may nevertheless have been carried out. `configuration.md` 3.9, `extensions.md` 6.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any

import attrs
import txredisapi
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from twisted_gateway.config.redis import SENTINEL_PORT, RedisBlock, RedisServer, server_of
from twisted_gateway.config.settings import UpstreamTls
from twisted_gateway.connection import Origin
from twisted_gateway.facts import frozen
from twisted_gateway.trust import Endpoints

RETRY_SECONDS = 1.0
"""Between two attempts to reach a Redis that is down."""
CONNECT_SECONDS = 1.0
"""For a connection and all that is said before it can be used."""

_PROBE = ("SET", "aisix:probe", "1", "PX", "60000")
"""A connection is good when this was: a replica, a full disk or a server that is loading refuse it."""
_CANNOT_SERVE = frozenset(
    ("LOADING", "READONLY", "MASTERDOWN", "OOM", "MISCONF", "NOAUTH", "NOPERM", "NOREPLICAS", "BUSY", "NOSCRIPT")
)

Word = str | bytes | int | float


class Unavailable(Exception):
    """The Redis is down, or did not answer in time. Whether the command was carried out is not known."""


class RedisError(Exception):
    """The server refused this command, and is well otherwise."""


@frozen
class Script:
    """A Lua script by its SHA-1, which is what is sent."""

    source: str

    @property
    def digest(self) -> str:
        """Its name in `EVALSHA`."""
        return sha1(self.source.encode("utf-8")).hexdigest()


class Redis:
    """See the module. `timeout` in seconds; `name` is what logs call it."""

    def __init__(self, block: RedisBlock, reactor: Any, timeout: float, name: str) -> None:
        """Raises `ValueError` or `OSError` for certificates that cannot be read."""
        self.up = False
        self._where = _Where(block, reactor)
        self._clock: IReactorTime = reactor
        self._timeout = timeout
        self._name = name
        self._scripts: list[Script] = []
        self._watchers: list[Callable[[bool], None]] = []
        self._link: _Link | None = None
        self._connecting: Deferred[None] | None = None
        self._again: IDelayedCall | None = None
        self._told = True
        self._running = False
        self._log = Logger(namespace="aisix::redis")

    def script(self, source: str) -> Script:
        """Have a script loaded by every connection to come."""
        script = Script(source)
        self._scripts.append(script)
        return script

    def watch(self, told: Callable[[bool], None]) -> None:
        """Have `told` called with True when the Redis has become usable, with False when it no longer is."""
        self._watchers.append(told)

    def start(self) -> None:
        """Begin to connect; `up` tells when that has worked."""
        self._running = True
        self._connect()

    def stop(self) -> Deferred[None]:
        """Let go of it, for good: what waits fails, what was sent may still be carried out."""
        self._running = False
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._connecting is not None:
            self._connecting.cancel()
        gone: Deferred[None] = Deferred()
        link = self._link
        if link is None:
            gone.callback(None)
            return gone
        link.when_lost.append(lambda: gone.callback(None))
        self._drop("stopped", None)
        return gone

    def command(self, *words: Word) -> Deferred[Any]:
        """The server's answer. Fails with `Unavailable`, or with `RedisError` where only this command is at fault.

        The Deferred may be cancelled; the command is carried out all the same.
        """
        if not self.up or self._link is None:
            failed: Deferred[Any] = Deferred()
            failed.errback(Unavailable(f"{self._name}: Redis is down"))
            return failed
        return self._link.ask(words, self._timeout)

    def run(self, script: Script, keys: Sequence[Word] = (), args: Sequence[Word] = ()) -> Deferred[Any]:
        """What a script gives; as `command`."""
        return self.command("EVALSHA", script.digest, len(keys), *keys, *args)

    # Connecting

    def _connect(self) -> None:
        self._again = None
        attempt = Deferred.fromCoroutine(self._attempt())
        self._connecting = attempt
        attempt.addTimeout(CONNECT_SECONDS, self._clock)
        attempt.addCallbacks(lambda _: self._good(), self._bad)

    async def _attempt(self) -> None:
        """A connection that has shown that it can write."""
        where = self._where
        server = await where.server()
        link: _Link | None = None
        try:
            link = await where.connect(server, self._clock)
            self._link = link
            await link.hello(server)
            for script in self._scripts:
                await link.ask(("SCRIPT", "LOAD", script.source))
            await link.ask(_PROBE)
        except BaseException:
            self._link = None
            if link is not None:
                link.abort()
            raise

    def _good(self) -> None:
        self._connecting = None
        link = self._link
        if link is None or link.lost:
            self._later(RETRY_SECONDS)
            return
        link.failed = lambda reason: self._drop(reason, RETRY_SECONDS)
        link.closed = lambda: self._drop("connection lost", 0.0)
        self.up = True
        if not self._told:
            self._log.info("{name}: Redis is back", name=self._name)
        self._told = True
        self._tell()

    def _bad(self, failure: Any) -> None:
        self._connecting = None
        if not self._running:
            return
        self._complain(f"cannot connect ({failure.type.__name__}: {failure.getErrorMessage()})")
        self._later(RETRY_SECONDS)

    def _drop(self, reason: str, again: float | None) -> None:
        """Open the circuit."""
        link, self._link = self._link, None
        was, self.up = self.up, False
        if again is not None and self._running:
            self._complain(reason)
            self._later(again)
        if was:
            self._tell()
        if link is not None:
            link.abort()  # last: who waits goes on here

    def _later(self, seconds: float) -> None:
        if self._running and self._again is None:
            self._again = self._clock.callLater(seconds, self._connect)

    def _complain(self, reason: str) -> None:
        """Once for each outage."""
        if self._told:
            self._told = False
            self._log.warn(
                "{name}: Redis is down ({reason}); this process goes on alone, and tries again each second",
                name=self._name,
                reason=reason,
            )

    def _tell(self) -> None:
        for told in self._watchers:
            try:
                told(self.up)
            except Exception:
                self._log.failure("a watcher of {name} failed", name=self._name)


class _Link:
    """One connection: commands, their order, their deadline."""

    def __init__(self, protocol: Any, clock: IReactorTime) -> None:
        self.protocol = protocol
        self.lost = False
        self.failed: Callable[[str], None] = lambda reason: None
        self.closed: Callable[[], None] = lambda: None
        self.when_lost: list[Callable[[], None]] = []
        self._clock = clock
        self._waiting: deque[tuple[float | None, Deferred[Any]]] = deque()
        self._timer: IDelayedCall | None = None
        protocol.whenDisconnected().addCallback(lambda _: self._gone())

    async def hello(self, server: RedisServer) -> None:
        """Say who we are."""
        if server.password is not None:
            who = (server.username,) if server.username else ()
            await self.ask(("AUTH", *who, server.password))
        if server.database:
            await self.ask(("SELECT", server.database))

    def ask(self, words: Sequence[Word], timeout: float | None = None) -> Deferred[Any]:
        """Send a command, to be answered in so many seconds."""
        answer: Deferred[Any] = Deferred(lambda _: None)
        if self.lost:
            answer.errback(Unavailable("the connection is lost"))
            return answer
        due = None if timeout is None else self._clock.seconds() + timeout
        self._waiting.append((due, answer))
        if due is not None and self._timer is None:
            self._timer = self._clock.callLater(timeout or 0.0, self._late)
        self.protocol.execute_command(*words).addCallbacks(self._answered, self._refused)
        return answer

    def abort(self) -> None:
        """Throw the connection away; what waits fails now."""
        self._end()
        self.protocol.transport.abortConnection()

    def _answered(self, value: Any) -> None:
        if self._waiting:
            answer = self._waiting.popleft()[1]
            if not answer.called:
                answer.callback(value)

    def _refused(self, failure: Any) -> None:
        if not self._waiting:
            return
        answer = self._waiting.popleft()[1]
        text = str(failure.value)
        if failure.check(txredisapi.ResponseError) and text.split(" ", 1)[0] not in _CANNOT_SERVE:
            if not answer.called:
                answer.errback(RedisError(text))
            return
        self.failed(f"it says {text}" if failure.check(txredisapi.ResponseError) else "connection lost")
        if not answer.called:
            answer.errback(Unavailable(text))

    def _late(self, looked: bool = False) -> None:
        """The oldest command's time may be over. What has arrived meanwhile is read first: it is we who may be late."""
        self._timer = None
        if not self._waiting:
            return
        due = self._waiting[0][0]
        left = 0.0 if due is None else due - self._clock.seconds()
        if left > 0:
            self._timer = self._clock.callLater(left, self._late)
        elif not looked:
            self._timer = self._clock.callLater(0, self._late, True)
        else:
            self.failed("no answer in time")

    def _gone(self) -> None:
        if not self.lost:
            self._end()
            self.closed()
        for told in self.when_lost:
            told()

    def _end(self) -> None:
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, deque()
        for _, answer in waiting:
            if not answer.called:
                answer.errback(Unavailable("the connection is lost"))


class _Protocols(Factory):
    """Makes protocols that give bytes as they are."""

    noisy = False

    def buildProtocol(self, addr: Any) -> Any:
        """One protocol, without any policy of its own about credentials and connecting again."""
        made = txredisapi.RedisProtocol(charset=None, convertNumbers=False)
        made.factory = self
        return made


class _Where:
    """Finds the server to connect to: the one in the URL, or the one that the sentinels name now."""

    def __init__(self, block: RedisBlock, reactor: Any) -> None:
        self._block = block
        self._clock: IReactorTime = reactor
        tls = block.tls
        trust = UpstreamTls(tls.ca_file, tls.client_cert_file, tls.client_key_file, tls.verify)
        self._endpoints = Endpoints(reactor, trust)
        self._single = server_of(block.url) if block.mode == "single" and block.url else None
        self._sentinels = [server_of(url, SENTINEL_PORT) for url in block.sentinels]

    async def server(self) -> RedisServer:
        """Where the data is at this moment. Raises `Unavailable` when no sentinel knows."""
        if self._single is not None:
            return self._single
        block = self._block
        for sentinel in tuple(self._sentinels):
            try:
                host, port = await self._asked(sentinel).addTimeout(CONNECT_SECONDS / 4, self._clock)
            except Exception:
                self._sentinels.remove(sentinel)  # another one is asked first the next time
                self._sentinels.append(sentinel)
                continue
            return RedisServer(host, port, sentinel.tls, block.username, block.password, block.database)
        raise Unavailable(f"no sentinel knows a master {block.master_name!r}")

    def _asked(self, sentinel: RedisServer) -> Deferred[tuple[str, int]]:
        return Deferred.fromCoroutine(self._ask(sentinel))

    async def _ask(self, sentinel: RedisServer) -> tuple[str, int]:
        link = await self.connect(sentinel, self._clock)
        try:
            await link.hello(attrs.evolve(sentinel, database=None))
            found = await link.ask(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._block.master_name or ""))
            return found[0].decode("ascii"), int(found[1])
        finally:
            link.abort()

    async def connect(self, server: RedisServer, clock: IReactorTime) -> _Link:
        """A connection on which nothing was said yet."""
        scheme = "https" if server.tls else "http"
        endpoint = self._endpoints(Origin(scheme, server.host, server.port))
        return _Link(await endpoint.connect(_Protocols()), clock)
