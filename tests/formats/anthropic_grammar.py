"""A small checker of Anthropic's stream grammar: what every client may rely on (`translation.md` 5.4)."""

import json

DELTAS = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
    "server_tool_use": {"input_json_delta"},
}


def events_of(data):
    """The events of a stream's bytes, as (name, object), comments left out. Checks framing on the way."""
    found = []
    for block in data.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        assert len(lines) == 2, f"not an event and a data line: {lines}"
        assert lines[0].startswith("event: ")
        assert lines[1].startswith("data: ")
        found.append((lines[0][7:], json.loads(lines[1][6:])))
    return found


def check(data, *, whole=True):
    """Fails unless `data` is a legal stream: a whole one, or one that ends by an error."""
    events = [(name, event) for name, event in events_of(data) if name != "ping"]
    for name, event in events:
        assert event["type"] == name
    if not whole and events and events[-1][0] == "error":
        events.pop()
        if not events:
            return
    assert events[0][0] == "message_start"
    assert events[0][1]["message"]["content"] == []
    state = _Blocks()
    for position, (name, event) in enumerate(events[1:], 1):
        state.take(name, event, last=position == len(events) - 1)
    if whole:
        assert state.stopped


class _Blocks:
    """One block is open at a time, their indexes count from 0, and the message ends once."""

    def __init__(self):
        self.next = 0
        self.kind = None
        self.json = ""
        self.reasoned = False
        self.stopped = False

    def take(self, name, event, *, last):
        assert not self.stopped
        if name == "content_block_start":
            assert self.kind is None
            assert not self.reasoned
            assert event["index"] == self.next
            self.kind, self.json = event["content_block"]["type"], ""
        elif name == "content_block_delta":
            assert event["index"] == self.next
            assert event["delta"]["type"] in DELTAS[self.kind]
            self.json += event["delta"].get("partial_json", "")
        elif name == "content_block_stop":
            assert event["index"] == self.next
            assert self.kind is not None
            if self.kind == "tool_use" and self.json:
                assert isinstance(json.loads(self.json), dict)
            self.kind = None
            self.next += 1
        elif name == "message_delta":
            assert self.kind is None
            assert not self.reasoned
            assert event["delta"]["stop_reason"]
            assert isinstance(event["usage"]["output_tokens"], int)
            self.reasoned = True
        elif name == "message_stop":
            assert self.reasoned
            assert last
            self.stopped = True
        else:
            raise AssertionError(f"an event that is no part of the grammar: {name}")
