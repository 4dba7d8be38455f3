"""What was used and spent so far, by caller key, team, model and budget, and the calls of trial keys.

In memory, and as a plain tree that outlives a restart (`usage.state_file`). Pure: moments are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from twisted_gateway.charging import Charge
from twisted_gateway.config.money import Budget
from twisted_gateway.facts import define

VERSION = 1
KINDS = ("api_key", "team", "model")


@define
class Row:
    """What one key, team or model has used."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0

    def add(self, charged: Charge) -> None:
        """One more settled call."""
        self.calls += 1
        self.prompt_tokens += charged.prompt
        self.completion_tokens += charged.completion
        self.cost_usd += charged.cost_usd


@define
class Account:
    """What a budget's callers have spent in the period that began at `since`."""

    since: float = 0.0
    spent_usd: float = 0.0
    elsewhere_usd: float = 0.0
    """What other gateways have spent of it, as far as is known (`stores.redis_spending`)."""


def period_of(period: str, now: float) -> tuple[float, float | None]:
    """Begin and end of the calendar period (UTC) in which `now` is; `total` has no end."""
    if period == "total":
        return 0.0, None
    at = datetime.fromtimestamp(now, UTC).replace(minute=0, second=0, microsecond=0)
    if period == "hour":
        return at.timestamp(), (at + timedelta(hours=1)).timestamp()
    at = at.replace(hour=0)
    if period == "day":
        return at.timestamp(), (at + timedelta(days=1)).timestamp()
    if period == "week":
        at -= timedelta(days=at.weekday())
        return at.timestamp(), (at + timedelta(weeks=1)).timestamp()
    at = at.replace(day=1)
    return at.timestamp(), (at + timedelta(days=32)).replace(day=1).timestamp()


class Spending:
    """The books of one process. `changed` is called whenever something was booked that must outlive it."""

    def __init__(self, now: float, changed: Callable[[], None] = lambda: None) -> None:
        self.since = now
        self._changed = changed
        self._rows: dict[str, dict[str, Row]] = {kind: {} for kind in KINDS}
        self._accounts: dict[str, Account] = {}
        self._calls: dict[str, int] = {}
        self._calls_elsewhere: dict[str, int] = {}

    # Booking

    def use(
        self, charged: Charge, *, api_key: str | None = None, team: str | None = None, model: str | None = None
    ) -> None:
        """Book a settled call on its key, team and model."""
        for kind, id in (("api_key", api_key), ("team", team), ("model", model)):
            if id:
                rows = self._rows[kind]
                row = rows.get(id)
                if row is None:
                    row = rows[id] = Row()
                row.add(charged)
        self._changed()

    def spend(self, budget: Budget, usd: float, now: float) -> None:
        """Book money on a budget, in the period that runs now."""
        if usd:
            self._account(budget, now).spent_usd += usd
            self._changed()

    def spent(self, budget: Budget, now: float) -> float:
        """What the budget's settled calls have cost in this period, and other gateways have spent of it."""
        account = self._account(budget, now)
        return account.spent_usd + account.elsewhere_usd

    def answered(self, key_id: str) -> None:
        """A call of a trial key was answered."""
        self._calls[key_id] = self.own_calls(key_id) + 1
        self._changed()

    def calls(self, key_id: str) -> int:
        """How many calls of a trial key were answered, ever; those that run at other gateways count too."""
        return self._calls.get(key_id, 0) + self._calls_elsewhere.get(key_id, 0)

    # With other gateways

    def own(self, budget: Budget, now: float) -> tuple[float, float | None, float]:
        """Begin and end of a budget's period, and what this process has spent in it."""
        account = self._account(budget, now)
        return account.since, period_of(budget.period, account.since)[1], account.spent_usd

    def elsewhere(self, budget: Budget, since: float, usd: float) -> None:
        """What all other gateways have spent in the period that began then."""
        account = self._accounts.get(budget.id)
        if account is not None and account.since == since:
            account.elsewhere_usd = usd

    def own_calls(self, key_id: str) -> int:
        """How many calls of a trial key this process has answered."""
        return self._calls.get(key_id, 0)

    def calls_elsewhere(self, key_id: str, calls: int) -> None:
        """How many all others have."""
        self._calls_elsewhere[key_id] = calls

    def forget_shared(self) -> None:
        """Budgets and trial calls of a former process are told by Redis."""
        self._accounts, self._calls = {}, {}

    def _account(self, budget: Budget, now: float) -> Account:
        account = self._accounts.get(budget.id)
        if account is None:
            account = self._accounts[budget.id] = Account()
        begin, _ = period_of(budget.period, now)
        if account.since < begin:
            account.since, account.spent_usd, account.elsewhere_usd = begin, 0.0, 0.0
        return account

    # Reading

    def report(self, kind: str, known: Iterable[str]) -> list[dict[str, Any]]:
        """Rows of `kind` for `/status/usage`: of these ids, as far as they have used anything."""
        rows = self._rows[kind]
        return [
            {
                "id": id,
                "calls": row.calls,
                "prompt_tokens": row.prompt_tokens,
                "completion_tokens": row.completion_tokens,
                "cost_usd": round(row.cost_usd, 9),
            }
            for id in sorted({id for id in known if id})
            if (row := rows.get(id)) is not None
        ]

    # Over a restart

    def state(self) -> dict[str, Any]:
        """The books as a plain tree."""
        return {
            "version": VERSION,
            "since": self.since,
            "rows": {kind: {id: attrs.astuple(row) for id, row in rows.items()} for kind, rows in self._rows.items()},
            "budgets": {id: (account.since, account.spent_usd) for id, account in self._accounts.items()},
            "calls": self._calls,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave. Raises ValueError for anything else."""
        try:
            if state["version"] != VERSION:
                raise ValueError(f"version {state['version']} is not known")
            rows = {kind: {id: Row(*map(_number, row)) for id, row in state["rows"][kind].items()} for kind in KINDS}
            accounts = {id: Account(*map(_number, account)) for id, account in state["budgets"].items()}
            calls = {id: int(_number(count)) for id, count in state["calls"].items()}
            since = float(_number(state["since"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is not one of ours ({type(error).__name__}: {error})") from None
        self.since, self._rows, self._accounts, self._calls = since, rows, accounts, calls


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError("a figure in it is not a number of 0 or more")
    return value
