"""An epoll reactor that sends once per turn (`aisix` installs it where epoll exists; `twistd --reactor aisix`).

Twisted's own asks the kernel, for every write, to tell when the socket is writable, and un-asks after sending: four
of the six system calls of a forwarded chunk. Here a transport with something to send is noted, all noted ones send
when the turn is over, and only one that could not send everything is registered. No protocol notices.

Its TCP transports are those of `sockets`. Timers are looked at once a turn, and only touched when one is due; a turn
that is nothing but a lane's chunk is over with that.
"""

from __future__ import annotations

import time
from math import inf
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.python import log

from twisted_gateway.sockets import Quick, QuickConnector, QuickPort, pass_on, receive, send

_MOST_EVENTS = 256
"""Of one turn: what was read first is not to wait until all is read, and is still in the processor's caches then."""
_LONGEST = 3600.0
_MANY = 50
"""Cancelled timers from which Twisted thinks of removing them, where they are more than half."""


class FlushingReactor(EPollReactor):
    """See the module."""

    seconds = staticmethod(time.monotonic)
    """Twisted's own tells the time of day: setting the machine's clock would fire or stop every deadline there is."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        """Transports of `sockets` with something to send."""
        self._noted: dict[Any, None] = {}
        self._blocked: set[Any] = set()
        self.unhurried = False
        """There is one thing to do in this turn."""
        super().__init__()

    def addWriter(self, writer: Any) -> None:
        """Send what `writer` has at the end of this turn."""
        if writer not in self._blocked:
            self._noted[writer] = None

    def removeWriter(self, writer: Any) -> None:
        """`writer` has nothing to send any more."""
        self._noted.pop(writer, None)
        if writer in self._blocked:
            self._blocked.discard(writer)
            super().removeWriter(writer)

    def removeAll(self) -> list[Any]:
        """Every reader and writer, which are forgotten."""
        noted = [*self._noted, *self._awaited()]
        for one in (*self.written, *self._blocked):
            if isinstance(one, Quick):
                one.awaited = False
        self._noted.clear()
        self.written.clear()
        found = super().removeAll()  # by `removeWriter`, which must know the blocked ones
        return [*found, *(one for one in noted if one not in found)]

    def getWriters(self) -> list[Any]:
        """Every writer, noted or registered."""
        return [*super().getWriters(), *self._noted, *self._awaited()]

    def _awaited(self) -> list[Any]:
        return [one for one in self.written if one.awaited]

    def block(self, writer: Any) -> None:
        """Its socket takes no more now: the kernel is to tell when it does."""
        self._blocked.add(writer)
        super().addWriter(writer)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """See `IReactorTCP`."""
        listener = QuickPort(port, factory, backlog, interface, self)
        listener.startListening()
        return listener

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30.0, bindAddress: Any = None) -> Any:
        """See `IReactorTCP`."""
        connector = QuickConnector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector

    def mainLoop(self) -> None:
        """Run until stopped."""
        while self._started:
            try:
                self._turns()
            except BaseException:
                log.err()

    def _turns(self) -> None:
        """Timers, if there is anything to do about them; then what was written; then sockets; and again."""
        seconds = self.seconds
        while self._started:
            timed = self._pendingTimedCalls
            if (
                self._newTimedCalls
                or self.threadCallQueue
                or self._justStopped
                or (self._cancellations > _MANY and self._cancellations > len(timed) >> 1)
                or (timed and timed[0].time <= seconds())
            ):
                self.runUntilCurrent()
            if self.written or self._noted:
                self._flush()
            if self._newTimedCalls:
                self._insertNewDelayedCalls()
            timed = self._pendingTimedCalls
            until = seconds() + _LONGEST
            if self.written or self._noted or self._justStopped or not self.running:
                until = -inf
            elif timed:
                until = min(until, timed[0].time)
            events = self._wait(until)
            if events:
                receive(events, self._selectables, self._other, self.lose)

    def _wait(self, until: float) -> list[tuple[int, int]]:
        """What there is to do; none at that time. While that is one chunk after the other for a lane, it is done here.

        Nobody is told of those, so there is nothing else to be looked at between them.
        """
        poll, seconds, selectables = self._poller.poll, self.seconds, self._selectables
        left = max(0.0, until - seconds())
        while True:
            try:
                events: list[tuple[int, int]] = poll(left, _MOST_EVENTS)
            except InterruptedError:
                return []
            self.unhurried = len(events) == 1
            passed = pass_on(events[0], selectables, self.lose) if self.unhurried else None
            if passed is None:
                return events
            left = until - seconds()
            if not passed or left <= 0:
                return []

    def doPoll(self, timeout: float | None) -> None:
        """Send, then wait for events and hand them out: `iterate`."""
        self._flush()
        if self.written or self._noted or self._justStopped:
            timeout = 0
        events = self._poller.poll(-1 if timeout is None else timeout, _MOST_EVENTS)
        receive(events, self._selectables, self._other, self.lose)

    doIteration = doPoll

    def _flush(self) -> None:
        """Let every transport with something to send do so; ask for writability only for what is left."""
        if self.written:
            written, self.written = self.written, []
            send(written, self.block, self._unsent)
        noted = self._noted
        for writer in tuple(noted):
            if writer not in noted:
                continue  # closed by one before it
            try:
                why = writer.doWrite()
            except BaseException as error:
                why = error
                log.err()
            if why:
                noted.pop(writer, None)
                self._unsent(writer, why)
            elif writer in noted:
                del noted[writer]
                self.block(writer)

    def _other(self, selectable: Any, fd: int, event: int) -> None:
        log.callWithLogger(selectable, self._doReadOrWrite, selectable, fd, event)

    def lose(self, transport: Any, why: Any) -> None:
        """Nothing more is read from it. What its protocol raises about that is logged, and no other's trouble."""
        log.callWithLogger(transport, self._disconnectSelectable, transport, why, True)

    def _unsent(self, transport: Any, why: Any) -> None:
        log.callWithLogger(transport, self._disconnectSelectable, transport, why, False)


def install() -> None:
    """Make it the process's reactor. Raises `ReactorAlreadyInstalledError`."""
    from twisted.internet.main import installReactor

    installReactor(FlushingReactor())
