"""What a policy's gates may do to the answer on its way: hold, halt, wait, keep the head back."""

import json

import pytest

from twisted_gateway.errors import Problem
from twisted_gateway.exchange import Halt, Outcome, Ticket
from twisted_gateway.wire.sse import Frame, Reader

from .formats import making
from .formats.making import ROLE, choice, chunk, dumps
from .test_gateway import House

BLOCKED = Problem(status=422, type="content_filter", message="no")


class Gate:
    """Holds every frame with `hold` in it, and all behind it, until it is opened; halts at `bad`."""

    def __init__(self, joint):
        self.joint = joint
        self.kept = []
        self.open = False
        self.halted = None
        self.full = False
        self.withheld = 0

    @property
    def held(self):
        return sum(len(frame.data) for frame in self.kept)

    def received(self, frames):
        if self.halted is not None:
            return []
        frames, self.kept = [*self.kept, *frames], []
        gone = []
        for at, frame in enumerate(frames):
            if b"bad" in frame.data:
                self.halted = Halt(BLOCKED, Outcome.BLOCKED)
                break
            if b"hold" in frame.data and not self.open:
                self.kept = frames[at:]
                break
            gone.append(frame)
        return gone

    def stopped(self, clean):
        return [Frame(b'{"last":true}')] if clean and not self.kept and self.halted is None else []

    def release(self):
        self.open = True
        self.full = False
        self.joint.wake()


class Gating(Ticket):
    """A policy that is its own ticket."""

    def __init__(self, late_head=False):
        self.late_head = late_head
        self.made = []

    def admit(self, exchange):
        exchange.late_head = self.late_head
        return self

    def gates(self, joint):
        self.made.append(Gate(joint))
        return [self.made[-1]]


@pytest.fixture
def house():
    return House()


def say(text):
    return b"data: " + dumps(making.say(text)) + b"\n\n"


def gated(house, late_head=False):
    policy = Gating(late_head)
    house.gateway.after = (*house.gateway.after, policy)
    return policy


def begun(house):
    ask, request = house.stream()
    request.write(b"data: " + dumps(ROLE) + b"\n\n")
    house.flush()
    return ask, request


def finished(house, request):
    request.write(b"data: " + dumps(chunk(choice({}, "stop"))) + b"\n\ndata: [DONE]\n\n")
    request.finish()
    house.flush()


def said(ask):
    return [frame["choices"][0]["delta"].get("content") for frame in ask.frames if "choices" in frame]


def test_frames_that_are_held_leave_when_the_gate_wakes_the_relay(house):
    policy = gated(house)
    ask, request = begun(house)
    request.write(say("a") + say("hold") + say("b"))
    house.flush()
    assert said(ask) == ["", "a"]
    policy.made[0].release()
    house.flush()
    assert said(ask) == ["", "a", "hold", "b"]


def test_an_end_waits_for_what_is_held(house):
    policy = gated(house)
    ask, request = begun(house)
    request.write(say("hold"))
    finished(house, request)
    assert ask.got.reason is None
    assert house.ledger.log[-1] == "opened"
    policy.made[0].release()
    house.flush()
    assert ask.frames[-1] == "[DONE]"
    assert house.ledger.log[-1] == "complete"


def test_a_halt_writes_what_came_before_it_and_an_error_frame(house):
    gated(house)
    ask, request = begun(house)
    request.write(say("good") + say("bad") + say("worse"))
    house.flush()
    assert said(ask) == ["", "good"]
    assert ask.frames[-1] == "error"
    assert ask.got.reason is not None
    assert house.ledger.log[-1] == "blocked"


def test_a_halt_while_an_end_waits(house):
    policy = gated(house)
    ask, request = begun(house)
    request.write(say("hold") + say("bad"))
    finished(house, request)
    policy.made[0].release()
    house.flush()
    assert said(ask)[:2] == ["", "hold"]
    assert ask.frames[-1] == "error"
    assert house.ledger.log[-1] == "blocked"


def test_a_late_head_lets_a_halt_have_its_status(house):
    policy = gated(house, late_head=True)
    ask, request = house.stream()
    request.write(say("hold"))
    house.flush()
    assert "opened" not in house.ledger.log
    request.write(say("bad"))
    policy.made[0].kept.clear()
    house.flush()
    assert ask.response.code == 422
    assert ask.json["error"]["type"] == "content_filter"


def test_a_late_head_goes_out_with_the_first_frame(house):
    policy = gated(house, late_head=True)
    ask, request = house.stream()
    request.write(say("hold"))
    finished(house, request)
    assert "opened" not in house.ledger.log
    policy.made[0].release()
    house.flush()
    assert ask.response.code == 200
    assert said(ask) == ["hold", None]


def test_a_whole_answer_waits_and_is_halted_with_a_status(house):
    gated(house)
    ask = house.ask()
    house.provider.requests[-1].setHeader("content-type", "application/json")
    house.provider.requests[-1].write(b'{"choices":[{"message":{"content":"bad"}}]}')
    house.provider.requests[-1].finish()
    house.flush()
    assert ask.response.code == 422
    assert house.ledger.log[-1] == "blocked"


def test_what_breaks_while_nothing_was_written_is_still_told(house):
    gated(house)
    ask, request = house.stream()
    request.write(say("hold"))
    house.flush()
    request.finish()
    house.flush()
    assert ask.frames[-1] == "error"
    assert house.ledger.log[-1] == "truncated"


def test_a_full_gate_stops_the_reading_until_it_wakes(house):
    policy = gated(house)
    ask, request = begun(house)
    gate = policy.made[0]
    gate.full = True
    request.write(say("hold"))
    house.flush()
    (relay,) = house.gateway.running
    assert relay._full
    house.clock.advance(59)
    gate.release()
    assert not relay._full
    house.flush()
    assert said(ask) == ["", "hold"]


def test_an_event_that_is_too_long_for_a_gate_to_read_ends_the_answer():
    house = House(max_event_bytes=1000)
    gated(house)
    ask, request = begun(house)
    house.write(request, b"data: " + b"x" * 2000)
    assert json.loads(Reader().received(ask.got.data)[-1].data)["error"]["type"] == "upstream_decode_error"
    assert house.ledger.log[-1] == "truncated"
