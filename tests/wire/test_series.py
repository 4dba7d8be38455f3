"""Tubes in a row, and a whole body as one frame."""

import pytest

from twisted_gateway.wire.series import Series, WholeBody
from twisted_gateway.wire.sse import Frame, TooLong


class Marking:
    """Adds its letter to every frame; keeps the last one back until stopped; `stopped` adds one of its own."""

    halted = None
    full = False
    withheld = 0

    def __init__(self, letter, keeps=False):
        self.letter, self.keeps, self.kept, self.log = letter, keeps, [], []

    @property
    def held(self):
        return sum(len(frame.data) for frame in self.kept)

    def received(self, frames):
        self.log.append(len(frames))
        out = self.kept + [Frame(frame.data + self.letter) for frame in frames]
        self.kept = []
        if self.keeps and out:
            self.kept = [out.pop()]
        return out

    def stopped(self, clean):
        self.log.append(clean)
        kept, self.kept = self.kept, []
        return [*kept, Frame(b"end" + self.letter)] if clean else []


def texts(frames):
    return [frame.data for frame in frames]


def test_frames_pass_every_tube_in_order():
    series = Series([Marking(b"1"), Marking(b"2")])
    assert texts(series.received([Frame(b"a"), Frame(b"b")])) == [b"a12", b"b12"]


def test_last_frames_of_one_pass_through_those_behind_it():
    series = Series([Marking(b"1", keeps=True), Marking(b"2", keeps=True)])
    assert texts(series.received([Frame(b"a"), Frame(b"b")])) == []
    assert series.held == len(b"b1") + len(b"a12")
    assert texts(series.stopped(True)) == [b"a12", b"b12", b"end12", b"end2"]
    assert series.held == 0


def test_an_unclean_stop_gives_nothing():
    tubes = [Marking(b"1", keeps=True), Marking(b"2")]
    series = Series(tubes)
    series.received([Frame(b"a")])
    assert series.stopped(False) == []
    assert [tube.log[-1] for tube in tubes] == [False, False]


def test_tubes_are_called_without_frames_too():
    tubes = [Marking(b"1"), Marking(b"2")]
    assert Series(tubes).received([]) == []
    assert [tube.log for tube in tubes] == [[0], [0]]


def test_a_gate_that_waits_keeps_those_behind_it_running_until_it_gives_what_it_held():
    class Waiting(Marking):
        """Is asked to stop, and gives its frames only after the next call."""

        def stopped(self, clean):
            self.kept = [*self.kept, Frame(b"late")]
            self.keeps = False
            return []

    first, second = Waiting(b"1", keeps=True), Marking(b"2")
    series = Series([first, second])
    assert texts(series.received([Frame(b"a")])) == []
    assert series.stopped(True) == []
    assert True not in second.log
    assert texts(series.received([])) == [b"a12", b"late2", b"end2"]
    assert series.received([]) == []
    assert series.held == 0
    assert second.log.count(True) == 1


def test_the_first_reason_to_halt_and_what_is_withheld():
    tubes = [Marking(b"1"), Marking(b"2"), Marking(b"3")]
    series = Series(tubes)
    assert (series.halted, series.full, series.withheld) == (None, False, 0)
    tubes[1].halted, tubes[2].halted, tubes[2].full = "second", "third", True
    tubes[0].withheld, tubes[2].withheld = 3, 4
    assert (series.halted, series.full, series.withheld) == ("second", True, 7)


def test_no_tubes():
    assert Series([]).received([Frame(b"a")]) == [Frame(b"a")]
    assert Series([]).stopped(True) == []
    assert Series([]).held == 0


@pytest.mark.parametrize("pieces", [[b'{"a":1}'], [b"{", b'"a"', b":1}"], [b"", b'{"a":1}', b""]])
def test_a_whole_body_is_one_frame(pieces):
    body = WholeBody(100)
    assert [body.received(piece) for piece in pieces] == [[]] * len(pieces)
    assert body.held == 7
    (frame,) = body.ended()
    assert frame.data == frame.raw == b'{"a":1}'
    assert body.held == 0
    assert body.ended() == []


def test_an_empty_body_is_no_frame():
    assert WholeBody(100).ended() == []


@pytest.mark.parametrize(("limit", "good"), [(3, True), (2, False), (0, True)])
def test_limit_of_a_whole_body(limit, good):
    body = WholeBody(limit)
    body.received(b"ab")
    if good:
        body.received(b"c")
        assert body.held == 3
    else:
        with pytest.raises(TooLong, match="more than 2 bytes"):
            body.received(b"c")
