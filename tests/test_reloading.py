"""Loads of the resources: one at a time, none forgotten, none applied when the process ends."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from twisted_gateway.reloading import Reloading


class Room:
    """Loads that end when the test says so."""

    def __init__(self) -> None:
        self.loads: list[Deferred[str]] = []
        self.told: list[Any] = []
        self.reloading = Reloading(self._run, lambda: "", self.told.append, self._refused)

    def _run(self, load: Any) -> Deferred[str]:
        self.loads.append(Deferred())
        return self.loads[-1]

    def _refused(self, failure: Failure) -> None:
        self.told.append(failure.value)

    def ask(self) -> list[None]:
        fired: list[None] = []
        self.reloading.ask().addCallback(fired.append)
        return fired


def test_a_load_is_applied() -> None:
    room = Room()
    asked = room.ask()
    assert (room.told, asked) == ([], [])
    room.loads[0].callback("new")
    assert (room.told, asked) == (["new"], [None])


def test_a_refused_one_is_told_and_the_next_goes_on() -> None:
    room, fault = Room(), ValueError("bad")
    asked = room.ask()
    room.loads[0].errback(fault)
    assert (room.told, asked) == ([fault], [None])
    room.ask()
    room.loads[1].callback("good")
    assert room.told == [fault, "good"]


def test_one_that_cannot_be_applied_is_refused() -> None:
    room, fault = Room(), ValueError("not here")

    def fails(loaded: str) -> None:
        raise fault

    room.reloading.apply = fails
    asked = room.ask()
    room.loads[0].callback("new")
    assert (room.told, asked) == ([fault], [None])


def test_who_asks_while_one_runs_gets_one_that_began_later() -> None:
    room = Room()
    first, second, third = room.ask(), room.ask(), room.ask()
    assert len(room.loads) == 1
    room.loads[0].callback("old")
    assert (first, second, third) == ([None], [], [])
    room.loads[1].callback("new")
    assert (second, third) == ([None], [None])
    assert room.told == ["old", "new"]
    assert len(room.loads) == 2


def test_the_end_of_the_process_ends_it_silently() -> None:
    room = Room()
    room.ask()
    room.ask()
    room.reloading.stop()
    assert (room.told, len(room.loads)) == ([], 1)
    Room().reloading.stop()
