"""Where usage goes beside metrics and logs: books over a restart, records in a file, `/status/usage`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from twisted_gateway.config.money import UsageFiles
from twisted_gateway.config.snapshot import Snapshot
from twisted_gateway.metrics import Metrics
from twisted_gateway.records import rfc3339_seconds
from twisted_gateway.spending import Spending
from twisted_gateway.usage_file import StateFile, UsageLog, Writer

_TELL_EVERY = 60.0


class Bookkeeping:
    """The books of a process and their files. Raises OSError and ValueError for a state file that cannot be read:
    a budget must not begin anew because of it. `shared`: budgets and trial calls live in a Redis.
    """

    def __init__(
        self, files: UsageFiles, reactor: Any, metrics: Metrics, now: Callable[[], float], shared: bool = False
    ) -> None:
        self._reactor: Any = reactor
        self._metrics = metrics
        self._log = Logger(namespace="aisix::usage")
        self._told = float("-inf")
        self._writer = Writer()
        self._state: StateFile | None = None
        self.spending = Spending(now(), self._changed)
        self.records: UsageLog | None = None
        if files.state_file is not None:
            state = StateFile(
                files.state_file, self._writer, self.spending.state, reactor.callLater, self._state_failed
            )
            found = state.read()
            if found is not None:
                self.spending.restore(found)
            if shared:
                self.spending.forget_shared()
            self._state = state
        if files.file is not None:
            self.records = UsageLog(files.file, self._writer, self._lost)

    def reopen(self) -> None:
        """SIGHUP: somebody may have moved the usage file away."""
        if self.records is not None:
            self.records.reopen()

    def stop(self) -> None:
        """Write what is left. Waits for the disk, but not for ever."""
        if self._state is not None:
            self._state.stop()
        if self.records is not None:
            self.records.stop()
        self._writer.stop()

    def report(self, snapshot: Snapshot, budgets: list[dict[str, Any]]) -> dict[str, Any]:
        """The body of `/status/usage`: of what is configured, as far as it was used."""
        keys = tuple(snapshot.caller_keys_by_hash.values())
        books = self.spending
        return {
            "since": rfc3339_seconds(books.since),
            "by_api_key": books.report("api_key", (key.id for key in keys)),
            "by_team": books.report("team", (key.team_id or "" for key in keys)),
            "by_model": books.report("model", (model.id for model in snapshot.models_by_name.values())),
            "budgets": budgets,
        }

    def _changed(self) -> None:
        if self._state is not None:
            self._state.changed()

    # In the writer's thread

    def _lost(self, count: int, error: OSError | None) -> None:
        self._reactor.callFromThread(self._count_lost, count, error)

    def _state_failed(self, error: OSError) -> None:
        self._reactor.callFromThread(self._tell, "the state file could not be written: {error}", error)

    # In the reactor's

    def _count_lost(self, count: int, error: OSError | None) -> None:
        self._metrics.usage_file_dropped(count)
        self._tell("usage records are lost: {error}", error or "the disk is too slow")

    def _tell(self, text: str, error: object) -> None:
        """At most once a minute: a full disk has a lot to say."""
        if self._reactor.seconds() - self._told >= _TELL_EVERY:
            self._told = self._reactor.seconds()
            self._log.error(text, error=str(error))
