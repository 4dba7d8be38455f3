"""Guardrails through the whole house: what the caller and the provider see, and what is written down."""

import json

import pytest
from twisted.internet.defer import Deferred

from twisted_gateway.policies.guardrails.unmasking import Placeholders
from twisted_gateway.policies.guardrails.verdict import ALLOW, Block, Bypass, Mask

from .answers import streamed, whole
from .house import ROADS, Guarded, Verdicts
from .making import keyword, pii

PHRASE = "forbidden words"
REMOTE = {"kind": "webhook", "url": "http://hook/"}


def texts(ask):
    """The content that a streamed chat answer said."""
    return "".join(
        choice["delta"].get("content") or ""
        for one in ask.frames
        if isinstance(one, dict) and "choices" in one
        for choice in one["choices"]
    )


def content(house, *pieces):
    return streamed(house.speaks, "content", pieces)


# Input


def test_masked_input_is_what_the_provider_gets():
    house = Guarded(pii("email", "us_ssn"), pii(custom=[{"regex": "EMAIL", "replacement": "MAIL"}]))
    house.call("I am a@b.example, 123-45-6789", stream=False, temperature=1.0)
    (sent,) = house.provider.bodies
    assert sent["messages"][0]["content"] == "I am [MAIL_REDACTED], [US_SSN_REDACTED]"
    assert sent["temperature"] == 1.0
    house.provider.requests[0].setHeader("content-type", "application/json")
    house.play(house.provider.requests[0], [whole("openai_chat", "content", "ok")])
    exchange = house.settled("complete")
    assert exchange.guarded.redacted == {"email": 1, "us_ssn": 1, "c0": 1}
    assert [entry["action"] for entry in exchange.guarded.enforced] == ["masked", "masked"]


def test_a_block_sees_the_original_text():
    house = Guarded(pii("email"), keyword("a@b"))
    ask, request = house.call("I am a@b.example")
    assert request is None
    assert b"(guardrail 'g1')" in ask.got.data


def test_blocks_win_over_masks_in_one_guardrail():
    house = Guarded(pii("email", {"type": "us_ssn", "action": "block"}))
    ask, request = house.call("a@b.example 123-45-6789")
    assert request is None
    assert ask.response.code == 422


def test_the_first_in_order_that_blocks_is_named():
    checks = Verdicts()
    house = Guarded(keyword("nothing"), {**REMOTE, "mandatory": True}, keyword("bad"), checks=checks)
    ask, request = house.call("bad")
    assert request is None
    assert ask.response is None
    (asked,) = checks.asked
    assert (asked.hook, asked.guardrail, asked.texts, asked.final) == ("input", "g1", ("bad",), True)
    assert (asked.model, asked.endpoint, asked.api_key_id) == ("gpt", "/v1/chat/completions", "ck-1")
    checks.say(ALLOW)
    house.flush()
    assert b"(guardrail 'g2')" in ask.got.data
    house.settled("refused")
    house = Guarded({**REMOTE, "hook_point": "input"}, keyword("bad"), checks=Verdicts(Block("no")))
    ask, _ = house.call("bad")
    assert b"(guardrail 'g0')" in ask.got.data


def test_a_later_remote_is_not_asked_about_what_is_blocked():
    checks = Verdicts(ALLOW)
    Guarded(keyword("bad"), REMOTE, checks=checks).call("bad")
    assert checks.asked == []


def test_a_bypass_is_written_down():
    checks = Verdicts(Bypass("webhook_timeout"))
    house = Guarded({**REMOTE, "hook_point": "input"}, checks=checks)
    ask, request = house.call()
    house.play(request, content(house, "hi"))
    assert ask.response.code == 200
    assert house.settled("complete").guarded.bypassed == "webhook_timeout"


def test_remote_masks_see_what_was_written_before():
    def verdict(asked):
        return Mask(tuple(text.replace("you", "YOU") for text in asked.texts), {"word": 1})

    checks = Verdicts(verdict)
    house = Guarded(pii("email", hook_point="input"), {**REMOTE, "hook_point": "input"}, checks=checks)
    house.call("a@b.example and you", stream=False)
    (sent,) = house.provider.bodies
    assert sent["messages"][0]["content"] == "[EMAIL_REDACTED] and YOU"
    assert [asked.texts for asked in checks.asked] == [("a@b.example and you",), ("[EMAIL_REDACTED] and you",)]


def test_the_caller_leaves_while_somebody_is_asked():
    checks = Verdicts()
    house = Guarded(REMOTE, checks=checks)
    ask, _ = house.call()
    ask.deferred.cancel()
    house.flush()
    assert checks.cancelled == 1
    assert house.provider.requests == []


@pytest.mark.parametrize(("dialect", "road"), ROADS)
def test_input_masks_in_every_dialect(dialect, road):
    house = Guarded(pii("email", hook_point="input"), dialect=dialect, road=road)
    house.call("mail a@b.example!")
    assert "mail [EMAIL_REDACTED]!" in json.dumps(house.provider.bodies)


def test_tool_calls_of_the_history_are_masked_inside():
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"to": "a@b.example", "n": 1}'}}
    house = Guarded(pii("email"))
    house.ask(messages=[{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "c@d.example"}])
    one, two = house.provider.bodies[0]["messages"]
    assert json.loads(one["tool_calls"][0]["function"]["arguments"]) == {"to": "[EMAIL_REDACTED]", "n": 1}
    assert one["tool_calls"][0]["id"] == "t"
    assert two["content"] == "[EMAIL_REDACTED]"


def test_pictures_are_not_looked_at():
    url = "data:image/png;base64," + "ab" * 100
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "see"}]
    house = Guarded(keyword("abab"))
    ask = house.ask(messages=[{"role": "user", "content": parts}])
    assert ask.response is None
    assert house.provider.bodies


def test_a_large_text_is_searched_in_a_thread():
    waiting = []

    def run(function):
        waiting.append((Deferred(), function))
        return waiting[-1][0]

    house = Guarded(keyword("bad"), run=run)
    ask, request = house.call("x" * 100_000 + "bad")
    assert ask.response is None
    ((done, function),) = waiting
    done.callback(function())
    house.flush()
    assert request is None
    assert ask.response.code == 422


# Answers


@pytest.mark.parametrize(("dialect", "road"), ROADS)
def test_masks_in_streams_are_those_of_whole_answers(dialect, road):
    said = []
    for stream in (True, False):
        house = Guarded(pii("email", hook_point="output"), dialect=dialect, road=road)
        ask, request = house.call(stream=stream)
        pieces = ["write to a", "@b.", "exam", "ple", ", please"]
        if stream:
            house.play(request, content(house, *pieces))
        else:
            house.play(request, [whole(house.speaks, "content", "".join(pieces))])
        assert b"@b" not in ask.got.data
        assert b"EMAIL_REDACTED" in ask.got.data
        assert ask.response.code == 200
        exchange = house.settled("complete")
        assert exchange.guarded.redacted == {"email": 1}
        said.append(exchange.delivered_bytes)
    assert said[0] == said[1] == len("write to [EMAIL_REDACTED], please")


def test_the_text_of_a_masked_stream():
    house = Guarded(pii("email"))
    ask, request = house.call()
    house.play(request, content(house, "write to a", "@b.", "exam", "ple", ", please"))
    assert texts(ask) == "write to [EMAIL_REDACTED], please"
    assert ask.frames[-1] == "[DONE]"


def test_the_arguments_of_a_tool_are_masked_as_json():
    house = Guarded(pii("email"))
    ask, request = house.call()
    house.play(request, streamed("openai_chat", "arguments", ['to "a@b', '.example"', "\n!"]))
    said = [
        call["function"]["arguments"]
        for one in ask.frames
        if isinstance(one, dict)
        for choice in one["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    assert json.loads("".join(said)) == {"q": 'to "[EMAIL_REDACTED]"\n!'}


def test_the_first_word_leaves_before_the_answer_is_over():
    house = Guarded(keyword(PHRASE), pii("email"))
    ask, request = house.call()
    reads = content(house, "Hello, ", "world ", "and")
    for data in reads[:3]:
        house.write(request, data)
    assert texts(ask) == "Hello, world "
    for data in reads[3:]:
        house.write(request, data)
    assert texts(ask) == "Hello, world and"


def test_a_blocked_stream_is_cut_and_charged():
    house = Guarded(keyword(PHRASE))
    ask, request = house.call()
    for data in content(house, "all good ", "forbidden ", "words", "and more")[:4]:
        house.write(request, data)
    assert house.provider.gone, "the provider is cut at once"
    assert texts(ask) == "all good "
    assert ask.frames[-1] == "error"
    exchange = house.settled("blocked")
    assert exchange.status == 200
    assert exchange.attempt.received_bytes == len("all good forbidden words")
    assert exchange.delivered_bytes == len("all good ")
    assert [entry["action"] for entry in exchange.guarded.enforced] == ["blocked"]


def test_a_name_with_quotes_is_escaped():
    house = Guarded({**keyword("bad"), "name": 'no "x"\n'})
    ask, request = house.call()
    house.play(request, content(house, "bad"))
    (error,) = [line for line in ask.got.data.decode().split("\n\n") if line.startswith("event: error")]
    said = json.loads(error.split("\n")[1].removeprefix("data: "))
    assert said["error"]["message"] == "response blocked by content policy (guardrail 'no \"x\"\n')"


def test_what_is_held_when_the_provider_breaks_off():
    house = Guarded(keyword(PHRASE))
    ask, request = house.call()
    for data in content(house, "well ", "forbidden ")[:3]:
        house.write(request, data)
    house.end(request)
    assert texts(ask) == "well "
    assert ask.frames[-1] == "error"
    assert b"forbidden" not in ask.got.data
    house.settled("truncated")


def test_the_caller_leaves_while_text_is_held():
    house = Guarded(keyword(PHRASE))
    ask, request = house.call()
    for data in content(house, "well ", "forbidden ")[:3]:
        house.write(request, data)
    ask.got.transport.stopProducing()
    house.flush()
    house.settled("abandoned")
    assert house.provider.gone


def test_heartbeats_go_on_while_text_is_held():
    house = Guarded(keyword(PHRASE, stream_output="hold"), heartbeat=5.0)
    ask, request = house.call()
    for data in content(house, "well ", "and ")[:3]:
        house.write(request, data)
    assert ask.response.code == 200
    house.advance(11)
    assert ask.got.data.count(b":\n\n") == 2
    house.play(request, content(house, "well ", "and ")[3:])
    assert texts(ask) == "well and "
    house.settled("complete")


@pytest.mark.parametrize("way", ["fail_closed", "fail_open"])
def test_too_much_is_held(way):
    entry = keyword(PHRASE, stream_output="hold", max_buffer_bytes=1000, on_buffer_exceeded=way)
    house = Guarded(entry)
    ask, request = house.call()
    house.play(request, content(house, *["nothing to see " * 10] * 10))
    if way == "fail_open":
        assert texts(ask) == "nothing to see " * 100
        assert house.settled("complete").guarded.bypassed == "stream_buffer_exceeded"
    else:
        assert texts(ask) == ""
        assert b'"message":"response blocked by content policy"' in ask.got.data
        house.settled("blocked")


def test_only_monitors_delay_and_change_nothing():
    house = Guarded(
        keyword(PHRASE, enforcement_mode="monitor"),
        pii("email", enforcement_mode="monitor"),
        keyword("hi", hook_point="input", enforcement_mode="monitor"),
    )
    ask, request = house.call()
    plain = Guarded()
    told, unguarded = plain.call()
    for data in content(house, "forb", "idden", " words", " a@b.ex", "ample"):
        house.write(request, data)
        plain.write(unguarded, data)
        assert ask.got.data == told.got.data
    exchange = house.settled("complete")
    hits = [(hit["guardrail_name"], hit["hook"], hit["action"], hit["counts"]) for hit in exchange.guarded.monitored]
    assert hits == [
        ("g2", "input", "would_block", {}),
        ("g0", "output", "would_block", {}),
        ("g1", "output", "would_mask", {"email": 1}),
    ]
    assert not exchange.guarded.blocked


def test_a_guardrail_for_input_does_not_touch_the_answer():
    house = Guarded(keyword(PHRASE, hook_point="input"))
    ask, request = house.call()
    for data in content(house, "forbidden words"):
        house.write(request, data)
    assert texts(ask) == PHRASE
    house.settled("complete")


# Somebody is asked


def remote(**more):
    return {**REMOTE, "hook_point": "output", **more}


def test_held_until_the_verdict():
    checks = Verdicts()
    house = Guarded(remote(), checks=checks)
    ask, request = house.call()
    house.play(request, content(house, "one ", "two"))
    assert texts(ask) == ""
    (asked,) = checks.asked
    assert (asked.texts, asked.final, asked.stream, asked.hook) == (("one two",), True, True, "output")
    checks.say(ALLOW)
    house.flush()
    assert texts(ask) == "one two"
    house.settled("complete")


def test_held_and_blocked():
    checks = Verdicts()
    house = Guarded(remote(), checks=checks)
    ask, request = house.call()
    house.play(request, content(house, "one ", "two"))
    checks.say(Block("violence", unavailable=False))
    house.flush()
    assert texts(ask) == ""
    assert ask.frames[-1] == "error"
    assert "[DONE]" not in ask.frames
    house.settled("blocked")


def test_held_and_masked():
    checks = Verdicts(lambda asked: Mask(tuple(text.replace("two", "2") for text in asked.texts), {"number": 1}))
    house = Guarded(remote(), checks=checks)
    ask, request = house.call()
    house.play(request, content(house, "one ", "two", " three"))
    assert texts(ask) == "one 2 three"
    assert house.settled("complete").guarded.redacted == {"number": 1}


def test_windows_release_what_was_seen_but_the_overlap():
    checks = Verdicts()
    house = Guarded(remote(stream_output="scan", window_size=10, window_overlap_size=4), checks=checks)
    ask, request = house.call()
    reads = content(house, "aaaa", "bbbb", "cccc", "dddd", "eeee")
    for data in reads[:4]:
        house.write(request, data)
    assert [asked.texts for asked in checks.asked] == [("aaaabbbbcccc",)]
    assert not checks.asked[0].final
    house.write(request, reads[4])
    checks.say(ALLOW)
    house.flush()
    assert texts(ask) == "aaaabbbb"
    for data in reads[5:]:
        house.write(request, data)
    assert checks.asked[1].texts == ("ccccddddeeee",)
    checks.say(ALLOW)
    house.flush()
    while checks.waiting:
        assert checks.asked[-1].final
        checks.say(ALLOW)
        house.flush()
    assert texts(ask) == "aaaabbbbccccddddeeee"
    house.settled("complete")


@pytest.mark.parametrize("at", range(12))
def test_no_window_leaks_a_phrase_up_to_the_overlap(at):
    def verdict(asked):
        return Block("x") if any("evil" in text for text in asked.texts) else ALLOW

    house = Guarded(remote(stream_output="scan", window_size=8, window_overlap_size=4), checks=Verdicts(verdict))
    ask, request = house.call()
    text = "." * at + "evil" + "." * 10
    house.play(request, content(house, *text))
    assert set(texts(ask)) <= {"."}
    house.settled("blocked")


def test_a_window_can_be_masked():
    def verdict(asked):
        return Mask(tuple(text.replace("evil", "good") for text in asked.texts), {})

    house = Guarded(remote(stream_output="scan", window_size=8, window_overlap_size=4), checks=Verdicts(verdict))
    ask, request = house.call()
    text = "aa evil bb evil cc dd evil"
    house.play(request, content(house, *(text[at : at + 3] for at in range(0, len(text), 3))))
    assert texts(ask) == "aa good bb good cc dd good"
    house.settled("complete")


def test_reading_stops_while_somebody_takes_his_time():
    checks = Verdicts()
    house = Guarded(
        remote(stream_output="scan", window_size=8, window_overlap_size=4, max_buffer_bytes=64), checks=checks
    )
    ask, request = house.call()
    for data in content(house, *["x" * 16] * 8)[:-2]:
        house.write(request, data)
    assert len(checks.asked) == 1
    assert not house.provider.gone
    while checks.waiting:
        checks.say(ALLOW)
        house.flush()
    house.play(request, content(house)[-2:])
    while checks.waiting:
        checks.say(ALLOW)
        house.flush()
    assert len(texts(ask)) == 16 * 8
    house.settled("complete")


def test_the_caller_leaves_while_a_verdict_is_awaited():
    checks = Verdicts()
    house = Guarded(remote(), checks=checks)
    ask, request = house.call()
    house.play(request, content(house, "one"))
    ask.got.transport.stopProducing()
    house.flush()
    house.settled("abandoned")
    assert checks.cancelled == 1


def test_a_whole_answer_waits_for_the_verdict():
    checks = Verdicts()
    house = Guarded(remote(), pii("email", hook_point="output"), checks=checks)
    ask, request = house.call(stream=False)
    house.play(request, [whole("openai_chat", "content", "a@b.example says")])
    assert ask.response is None
    checks.say(ALLOW)
    house.flush()
    assert ask.json["choices"][0]["message"]["content"] == "[EMAIL_REDACTED] says"
    house.settled("complete")


def test_local_blocks_do_not_wait_for_remote_ones():
    checks = Verdicts()
    house = Guarded(remote(), keyword(PHRASE), checks=checks)
    ask, request = house.call()
    for data in content(house, "well, ", PHRASE)[:3]:
        house.write(request, data)
    assert house.provider.gone
    assert texts(ask) == ""
    house.settled("blocked")


def test_a_remote_monitor_is_asked_behind_the_answer():
    checks = Verdicts()
    house = Guarded(remote(enforcement_mode="monitor"), checks=checks)
    ask, request = house.call()
    house.play(request, content(house, "one ", "two"))
    assert texts(ask) == "one two"
    exchange = house.settled("complete")
    assert checks.asked[0].texts == ("one two",)
    checks.say(Block("violence"))
    assert exchange.guarded.monitored[0]["action"] == "would_block"


def test_responses_are_buffered_or_not():
    for buffer in (True, False):
        house = Guarded(keyword(PHRASE), dialect="openai_responses", buffer=buffer)
        ask, request = house.call()
        for data in content(house, "hello ", "you ")[:4]:
            house.write(request, data)
        assert (ask.response is None) is buffer
        house.play(request, content(house, "hello ", "you ")[4:])
        assert ask.got.data.count(b"response.output_text.delta") == 4
        house.settled("complete")


# Unmasking


@pytest.mark.parametrize("stream", [True, False])
def test_what_was_masked_comes_back(stream):
    house = Guarded(pii("email", "us_ssn", unmask=True))
    ask, request = house.call("mail a@b.example, c@d.example, a@b.example: 123-45-6789", stream=stream)
    (sent,) = house.provider.bodies
    assert sent["messages"][0]["content"] == "mail [EMAIL_1], [EMAIL_2], [EMAIL_1]: [US_SSN_1]"
    text = "to [EMAIL_2] and [EMAIL_1], not [EMAIL_3] or x@y.example"
    if stream:
        house.play(request, content(house, *(text[at : at + 4] for at in range(0, len(text), 4))))
        said = texts(ask)
    else:
        house.play(request, [whole("openai_chat", "content", text)])
        said = ask.json["choices"][0]["message"]["content"]
    assert said == "to c@d.example and a@b.example, not [EMAIL_3] or [EMAIL_REDACTED]"
    exchange = house.settled("complete")
    assert "unmask" not in exchange.guarded.redacted


def test_placeholders_do_not_meet_those_of_the_caller():
    house = Guarded(pii("email", unmask=True))
    house.call("[EMAIL_1] is a@b.example")
    assert house.provider.bodies[0]["messages"][0]["content"] == "[EMAIL_1] is [EMAIL_2]"


def test_what_puts_values_back_does_not_grow_with_their_number():
    values = {f"[EMAIL_{number}]": f"a{number}@b.example" for number in range(3000)}
    scanner = Placeholders(values=values).scanner(pii("email", unmask=True))
    assert scanner.masked("[EMAIL_2999], [EMAIL_3000], [US_SSN_1]") == "a2999@b.example, [EMAIL_3000], [US_SSN_1]"
    (rule,) = scanner.masker.rules
    assert len(rule.regex.pattern) < 100


def test_values_come_back_into_the_arguments_of_tools():
    house = Guarded(pii("email", unmask=True))
    ask, request = house.call("mail a@b.example")
    house.play(request, streamed("openai_chat", "arguments", ["to [EMA", "IL_1]"]))
    assert b"a@b.example" in ask.got.data
    assert b"EMAIL_1" not in ask.got.data


# What is written down


def test_the_record():
    from twisted_gateway.records import record

    house = Guarded(pii("email"), keyword("bad", enforcement_mode="monitor"))
    _, request = house.call("bad a@b.example")
    house.play(request, content(house, "fine"))
    made = record(house.settled("complete"), "complete")
    assert made["guardrail_blocked"] is False
    assert made["applied_guardrails"] == [
        {"kind": kind, "hook": hook} for hook in ("input", "output") for kind in ("pii", "keyword")
    ]
    assert made["redacted_entity_counts"] == {"email": 1}
    assert made["guardrail_monitor_hits"][0]["action"] == "would_block"
    (hit,) = made["guardrail_enforced_hits"]
    assert (hit["guardrail_name"], hit["hook"], hit["action"], hit["counts"]) == ("g0", "input", "masked", {"email": 1})
    assert "duration_us" in hit
    assert "a@b" not in json.dumps(made)


def test_the_metrics():
    house = Guarded(keyword("bad"))
    house.call("bad")
    told = house.metrics.exposition().decode()
    assert "aisix_guardrail_blocks_total 1.0" in told
    assert 'aisix_guardrail_latency_seconds_count{env_id="unknown",error_type="none",guardrail="g0"' in told


# Much to search


class Threads:
    """Runs nothing before the test says so."""

    def __init__(self):
        self.waiting = []
        self.cancelled = 0

    def run(self, function):
        waiting = Deferred(lambda _: self._cancel())
        self.waiting.append((waiting, function))
        return waiting

    def _cancel(self):
        self.cancelled += 1

    def work(self):
        waiting, function = self.waiting.pop(0)
        waiting.callback(function())


@pytest.mark.parametrize("last", ["fine", "forbidden"])
def test_long_frames_are_searched_in_a_thread(last):
    threads = Threads()
    house = Guarded(keyword("forbidden"), run=threads.run)
    ask, request = house.call()
    for data in content(house, "a ", "b " * 20_000, "c ", last)[:-2]:
        house.write(request, data)
    assert texts(ask) == "a "
    assert len(threads.waiting) == 1
    threads.work()
    house.flush()
    house.play(request, content(house)[-2:])
    if last == "fine":
        assert texts(ask) == "a " + "b " * 20_000 + "c fine"
        house.settled("complete")
    else:
        assert b"forbidden" not in ask.got.data
        house.settled("blocked")


def test_the_end_waits_for_the_thread():
    threads = Threads()
    house = Guarded(keyword("forbidden"), run=threads.run)
    ask, request = house.call()
    house.play(request, content(house, "b " * 20_000))
    assert ask.got.reason is None
    threads.work()
    house.flush()
    assert texts(ask) == "b " * 20_000
    assert ask.frames[-1] == "[DONE]"
    house.settled("complete")


def test_the_caller_leaves_while_a_thread_searches():
    threads = Threads()
    house = Guarded(keyword("forbidden"), run=threads.run)
    ask, request = house.call()
    for data in content(house, "b " * 20_000)[:2]:
        house.write(request, data)
    ask.got.transport.stopProducing()
    house.flush()
    house.settled("abandoned")
    assert threads.cancelled == 1


def test_content_in_parts_is_looked_at():
    house = Guarded(keyword("forbidden"))
    ask, request = house.call()
    for part in ("for", "bidden"):
        delta = {"content": [{"type": "text", "text": part}]}
        chunk = {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        house.write(request, b"data: " + json.dumps(chunk).encode() + b"\n\n")
    assert b"for" not in ask.got.data.replace(b"by content policy", b"").replace(b'"for', b"")
    house.settled("blocked")


def test_every_guardrail_is_counted_once():
    house = Guarded(keyword("x1"), pii("email"), pii("us_ssn"), remote(), checks=Verdicts(ALLOW))
    _, request = house.call("a@b.example")
    house.play(request, content(house, "a@b.example and 123-45-6789"))
    exchange = house.settled("complete")
    told = house.metrics.exposition().decode()
    lines = [line for line in told.splitlines() if line.startswith("aisix_guardrail_latency_seconds_count")]
    names = ("guardrail", "phase", "result")
    labels = [tuple(line.split(f'{name}="')[1].split('"')[0] for name in names) for line in lines]
    counted = sorted(labels)
    assert counted == [
        ("g0", "input", "allowed"), ("g0", "output", "allowed"), ("g1", "input", "masked"), ("g1", "output", "masked"),
        ("g2", "input", "allowed"), ("g2", "output", "masked"), ("g3", "output", "allowed"),
    ]  # fmt: skip
    assert all(line.endswith(" 1.0") for line in lines)
    assert exchange.guarded.redacted == {"email": 2, "us_ssn": 1}
