"""An epoll reactor that sends once per turn (`aisix` installs it where epoll exists; `twistd --reactor aisix`).

Twisted's own asks the kernel, for every write, to tell when the socket is writable, and un-asks after sending: four
of the six system calls of a forwarded chunk. Here a transport with something to send is noted, all noted ones send
when the turn is over, and only one that could not send everything is registered. No protocol notices.
"""

from __future__ import annotations

import sys
import time
from errno import EINTR
from select import EPOLLIN
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.python import log


class FlushingReactor(EPollReactor):
    """See the module."""

    seconds = staticmethod(time.monotonic)
    """Twisted's own tells the time of day: setting the machine's clock would fire or stop every deadline there is."""

    def __init__(self) -> None:
        self._noted: dict[Any, None] = {}
        self._blocked: set[Any] = set()
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
        noted = list(self._noted)
        self._noted.clear()
        found = super().removeAll()  # by `removeWriter`, which must know the blocked ones
        return [*found, *(one for one in noted if one not in found)]

    def getWriters(self) -> list[Any]:
        """Every writer, noted or registered."""
        return [*super().getWriters(), *self._noted]

    def _flush(self) -> None:
        """Let every noted transport send; ask for writability only for what is left."""
        noted = self._noted
        for writer in tuple(noted):
            if writer not in noted:
                continue  # closed by one before it
            try:
                why = writer.doWrite()
            except BaseException:
                why = sys.exc_info()[1]
                log.err()
            if why:
                noted.pop(writer, None)
                self._disconnectSelectable(writer, why, False)
            elif writer in noted:
                del noted[writer]
                self._blocked.add(writer)
                super().addWriter(writer)

    def doPoll(self, timeout: float | None) -> None:
        """Send, then wait for events and hand them out."""
        if self._noted:
            self._flush()
            if self._noted:
                timeout = 0
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, len(self._selectables))
        except OSError as error:
            if error.errno == EINTR:
                return
            raise
        selectables = self._selectables
        for fd, event in events:
            selectable = selectables.get(fd)
            if selectable is None:
                continue
            if event == EPOLLIN:
                try:
                    why = selectable.doRead()
                except BaseException:
                    why = sys.exc_info()[1]
                    log.err()
                if why:
                    self._disconnectSelectable(selectable, why, True)
            else:
                log.callWithLogger(selectable, self._doReadOrWrite, selectable, fd, event)

    doIteration = doPoll


def install() -> None:
    """Make it the process's reactor. Raises `ReactorAlreadyInstalledError`."""
    from twisted.internet.main import installReactor

    installReactor(FlushingReactor())
