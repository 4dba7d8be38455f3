"""The relay between an answer and a caller who cannot take more."""

from twisted.internet.task import Clock

from twisted_gateway.formats import openai_chat
from twisted_gateway.relay import Relay
from twisted_gateway.wire.sse import Frame, Reader

from .exchanges import attempt, call, exchange


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
    passage = openai_chat.FORMAT.passage(call(), made.attempts[0].target, "gpt", 1.0, "x" * 24)
    relay = Relay(made, attempt(), answer, passage, lambda joint: (), downstream, clock, 5.0)
    relay.start([])
    assert not answer.reading
    clock.advance(60)
    assert not relay.done.called, "and its silence does not count"
    downstream.paused = False
    relay.resume()
    assert answer.reading
