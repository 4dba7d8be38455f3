"""The relay: a caller who cannot take more, an end marker that does not come, a silence that is bridged."""

import itertools
import json

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from twisted_gateway.exchange import Outcome
from twisted_gateway.formats import anthropic, openai_chat, openai_responses
from twisted_gateway.formats.row import Told
from twisted_gateway.formats.translation import Translation
from twisted_gateway.relay import Relay, Waits
from twisted_gateway.wire.sse import Frame, Reader

from .doubles.timers import timers
from .exchanges import Headers, attempt, call, exchange


def no_gates(joint):
    return ()


class Answer:
    """An open answer with a first frame; it reads on when somebody joins."""

    def __init__(self):
        self.reader, self.reading = Reader(), False

    def join(self, sink):
        sink.answer_began([Frame(b'{"choices":[{"delta":{"content":"x"}}]}')], b"")
        self.resume()

    def pause(self):
        self.reading = False

    def resume(self):
        self.reading = True


class Downstream:
    """A caller whose connection is full after the first write."""

    gone = False

    def __init__(self):
        self.paused, self.producer = False, None

    def commit(self, headers):
        pass

    def flush_head(self):
        pass

    def join(self, producer):
        self.producer = producer

    def write(self, data, frames):
        self.paused = True
        self.producer.pause()


def test_a_caller_who_is_full_after_the_first_write_stops_the_reading():
    clock, answer, downstream = Clock(), Answer(), Downstream()
    made = exchange()
    passage = openai_chat.FORMAT.passage(call(), made.attempts[0].target, "gpt", 1.0, lambda: "x" * 24)
    relay = Relay(made, attempt(), answer, passage, no_gates, downstream, clock, Waits(5.0))
    running = Deferred.fromCoroutine(relay.run([]))
    assert not answer.reading
    clock.advance(60)
    assert not running.called, "and its silence does not count"
    downstream.paused = False
    relay.resume()
    assert answer.reading


class Provider:
    """An open answer whose reads are given by the test."""

    def __init__(self):
        self.reader, self.ended_by = Reader(), None

    def join(self, sink):
        self.sink = sink

    def pause(self):
        pass

    def resume(self):
        pass

    def cut(self):
        self.ended_by = self.ended_by or "cut"

    def release(self, clock):
        self.ended_by = self.ended_by or "released"

    def send(self, *chunks):
        self.sink.answer_read(b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks))


class Caller:
    """Takes what is written."""

    gone = False

    def __init__(self):
        self.paused, self.writes, self.finished, self.problem = False, [], False, None

    def commit(self, headers):
        pass

    def flush_head(self):
        pass

    def join(self, producer):
        self.producer = producer

    def write(self, data, frames):
        assert frames
        assert not self.finished
        self.writes.append(data)

    def finish(self):
        self.finished = True

    def complain(self, problem, frames=None):
        self.problem, self.finished = problem, True

    def events(self):
        """All that was written, decoded."""
        return [json.loads(frame.data) for frame in Reader().received(b"".join(self.writes))]


BODIES = {
    anthropic: {"max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]},
    openai_responses: {"input": "hi"},
}


class Translated:
    """A chat provider with a caller of another dialect, joined by a relay."""

    def __init__(self, dialect, **waits):
        body = json.dumps({"model": "gpt", "stream": True, **BODIES[dialect]}).encode()
        asked = dialect.FORMAT.read_call(body, Headers({"content-type": "application/json"}))
        made = exchange(call=asked)
        target, counter = made.attempts[0].target, itertools.count()
        told = Told(asked, dialect.FORMAT.prompt(asked), target, "gpt", 1.0, "x" * 24, lambda: f"{next(counter):032x}")
        self.passage = Translation(openai_chat.FORMAT.decoder(True, None), dialect.FORMAT.encoder(told))
        self.clock, self.provider, self.caller = Clock(), Provider(), Caller()
        waits = Waits(**waits)
        self.relay = Relay(made, attempt(), self.provider, self.passage, no_gates, self.caller, self.clock, waits)
        self.outcomes = []
        Deferred.fromCoroutine(self.relay.run([])).addCallback(self.outcomes.append)

    def says(self, delta, reason=None, **more):
        self.provider.send({"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more})

    def kinds(self):
        return [event["type"] for event in self.caller.events()]


USAGE = {"prompt_tokens": 5, "completion_tokens": 2}
ENDS = {anthropic: ["message_delta", "message_stop"], openai_responses: ["response.completed"]}


@pytest.mark.parametrize("dialect", ENDS)
@pytest.mark.parametrize("silence", [None, 60.0, 3.0])
def test_an_end_marker_is_waited_for_no_longer_than_five_seconds(dialect, silence):
    """`translation.md` 5.4 and 7.3: and not longer than the silence deadline."""
    one = Translated(dialect, silence=silence)
    one.says({"content": "hi"})
    one.says({}, "stop", usage=USAGE)
    patience = min(5.0, silence or 5.0)
    one.clock.advance(patience - 0.1)
    assert not one.caller.finished
    assert ENDS[dialect][0] not in one.kinds()
    one.clock.advance(0.2)
    assert one.kinds()[-len(ENDS[dialect]) :] == ENDS[dialect]
    assert one.outcomes == [Outcome.COMPLETE]
    assert (one.caller.finished, one.caller.problem, one.provider.ended_by) == (True, None, "cut")
    assert not timers(one.clock)


@pytest.mark.parametrize("dialect", ENDS)
def test_the_usage_chunk_behind_the_finish_ends_the_answer_at_once(dialect):
    one = Translated(dialect)
    one.says({"content": "hi"})
    one.says({}, "stop")
    assert not one.caller.finished
    one.provider.send({"id": "c1", "choices": []})
    assert not one.caller.finished
    one.provider.send({"id": "c1", "choices": [], "usage": USAGE})
    assert one.kinds()[-len(ENDS[dialect]) :] == ENDS[dialect]
    assert one.outcomes == [Outcome.COMPLETE]
    assert one.provider.ended_by == "released"
    assert one.passage.usage.completion == 2


def test_an_answer_that_is_not_whole_waits_for_the_silence_deadline_alone():
    one = Translated(anthropic, silence=30.0)
    one.says({"content": "hi"})
    one.clock.advance(29.9)
    assert not one.caller.finished
    one.clock.advance(0.2)
    assert one.outcomes == [Outcome.STALLED]
    assert one.caller.problem.status == 504


def test_without_a_deadline_a_silent_provider_is_waited_for():
    one = Translated(anthropic)
    one.says({"content": "hi"})
    one.clock.advance(100_000)
    assert not one.caller.finished


def test_progress_of_a_translated_responses_stream():
    """`responses_progress_secs`: a snapshot of what there is, numbered like the other events, in each silence."""
    one = Translated(openai_responses, progress=60.0)
    one.clock.advance(300)
    assert one.caller.writes == [], "nothing before the first event"
    one.says({"content": "Hel"})
    before = one.caller.events()
    one.clock.advance(59)
    one.says({"content": "lo"})
    one.clock.advance(59)
    assert one.kinds()[len(before) :] == ["response.output_text.delta"]
    one.clock.advance(1)
    one.clock.advance(60)
    events = one.caller.events()
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events[-2:]:
        assert event["type"] == "response.in_progress"
        (item,) = event["response"].pop("output")
        assert (item["status"], item["content"][0]["text"]) == ("in_progress", "Hello")
        assert event["response"] == {name: value for name, value in events[1]["response"].items() if name != "output"}
    one.says({}, "stop")
    one.provider.send({"choices": [], "usage": USAGE})
    assert one.kinds()[-1] == "response.completed"
    assert not timers(one.clock)


def test_no_progress_to_a_caller_who_takes_nothing():
    one = Translated(openai_responses, progress=60.0)
    one.says({"content": "hi"})
    written = len(one.caller.writes)
    one.caller.paused = True
    one.relay.pause()
    one.clock.advance(300)
    assert len(one.caller.writes) == written
    one.caller.paused = False
    one.relay.resume()
    one.clock.advance(59)
    assert len(one.caller.writes) == written
    one.clock.advance(1)
    assert one.kinds()[-1] == "response.in_progress"


@pytest.mark.parametrize(("dialect", "progress"), [(openai_responses, 0.0), (anthropic, 60.0)])
def test_no_progress_unless_it_is_asked_for_and_the_dialect_has_a_word_for_it(dialect, progress):
    one = Translated(dialect, progress=progress)
    one.says({"content": "hi"})
    written = len(one.caller.writes)
    one.clock.advance(1000)
    assert len(one.caller.writes) == written
