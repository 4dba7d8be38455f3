"""Providers and callers that hide a text where it might not be looked for."""

import json

import pytest

from twisted_gateway.policies.guardrails.verdict import ALLOW

from .answers import sse
from .house import PATHS, Guarded, Verdicts
from .making import keyword, pii

SECRET = "forbidden"


def chunk(delta=None, finish=None, index=0, **more):
    choice = {"index": index, "delta": delta if delta is not None else {}, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "up", "choices": [choice], **more}


def also(**more):
    """A chunk whose choice has further members."""
    made = chunk({"content": "ok"})
    made["choices"][0] |= more
    return made


def call(**function):
    return {"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", **function}}]}


TOKENS = [{"token": "for", "bytes": None, "logprob": 0}, {"token": "bidden", "bytes": None, "logprob": 0}]

OK = json.dumps(chunk({"content": "ok"}), separators=(",", ":"))

CHAT = {
    "content is a list": [chunk({"content": [{"type": "text", "text": SECRET}]})],
    "content is a list, cut": [chunk({"content": [{"type": "text", "text": one}]}) for one in ("forb", "idden")],
    "content is an object": [chunk({"content": {"text": SECRET}})],
    "refusal is a list": [chunk({"refusal": [{"type": "text", "text": SECRET}]})],
    "arguments are an object": [chunk(call(arguments={"q": SECRET}))],
    "arguments are escaped, and no JSON": [chunk(call(arguments='{"q": "forb\\u0069dden'))],
    "two calls of one index": [chunk(call(arguments='{"q": "x"}')), chunk(call(arguments='{"q": "forb\\u0069dden"}'))],
    "half a pair in the arguments": [chunk(call(arguments='{"a": "\\ud800", "q": "forb\\u0069dden"}'))],
    "NaN in the arguments": [chunk(call(arguments='{"a": NaN, "q": "forb\\u0069dden"}'))],
    "a key in the arguments": [chunk(call(arguments='{"forb\\u0069dden": 1}'))],
    "more in a call": [chunk({"tool_calls": [{"index": 0, "id": "t", "extra_content": {"a": SECRET}}]})],
    "a call is only text": [chunk({"tool_calls": SECRET})],
    "a function call is a text": [chunk({"function_call": SECRET})],
    "a message in a chunk": [also(message={"content": SECRET})],
    "a text in a choice": [also(text=SECRET)],
    "in an unknown member": [chunk({"content": "ok"}, note={"text": SECRET})],
    "an audio transcript that is a list": [chunk({"audio": {"transcript": [SECRET]}})],
    "audio captions": [chunk({"audio": {"captions": SECRET}})],
    "cut by a chunk of usage": [
        chunk({"content": "forb"}),
        chunk({"content": "x"}, usage={"prompt_tokens": 1}) | {"choices": []},
        chunk({"content": "idden"}),
    ],
    "no choices but a text": [chunk() | {"choices": [], "note": {"text": SECRET}, "usage": {"prompt_tokens": 1}}],
    "logprobs without a text": [also(logprobs={"content": TOKENS})],
    "logprobs of another text": [also(logprobs={"content": TOKENS, "refusal": None})],
    "annotations": [
        chunk({"annotations": [{"type": "url_citation", "url_citation": {"title": SECRET, "url": "http://x/"}}]})
    ],
    "a twin first": [OK.replace('"content":"ok"', '"content":"forbidden","content":"ok"')],
    "a twin of the choices": [OK.replace('"choices"', '"choices":["forbidden"],"choices"')],
    "an escaped name": [json.dumps(chunk({"content": SECRET})).replace('"content"', '"cont\\u0065nt"')],
    "an id line": [b"id: forbidden\ndata: " + json.dumps(chunk({"content": "ok"})).encode() + b"\n\n"],
    "an event line": [b"event: forbidden\ndata: " + json.dumps(chunk({"content": "ok"})).encode() + b"\n\n"],
    "a retry line": [b"retry: forbidden\ndata: " + json.dumps(chunk({"content": "ok"})).encode() + b"\n\n"],
    "after the finish": [chunk({"content": "x"}), chunk({}, "stop"), chunk({"content": SECRET})],
    "cut by the finish": [chunk({"content": "forb"}), chunk({}, "stop"), chunk({"content": "idden"})],
}


def reads(events):
    return [one if isinstance(one, bytes) else sse(one.encode() if isinstance(one, str) else one) for one in events]


USAGE = {"stream_options": {"include_usage": True}}


def leaks(data):
    text = data.decode().replace("\\\\u0069", "i").replace("\\u0069", "i")
    return SECRET in text


def text_delta(text="ok", **more):
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text, **more}}


def block(kind, **more):
    return {"type": "content_block_start", "index": 1, "content_block": {"type": kind, **more}}


def partial(text, index=1):
    return {"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": text}}


TOOL = block("tool_use", id="t", name="f", input={})
BEGUN = {"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "content": []}}
DELTA = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}}
MESSAGES = {
    "beside a piece": [text_delta(more=SECRET)],
    "beside a delta": [text_delta() | {"more": SECRET}],
    "a piece that is a list": [text_delta([SECRET])],
    "an unknown delta": [{"type": "content_block_delta", "index": 0, "delta": {"type": "x_delta", "x": SECRET}}],
    "a delta of no object": [{"type": "content_block_delta", "index": 0, "delta": SECRET}],
    "a begun text": [block("text", text="forb"), text_delta("idden")],
    "citations of a begun text": [block("text", text="", citations=[{"cited_text": SECRET}])],
    "a citation": [{"type": "content_block_delta", "index": 0,
                    "delta": {"type": "citations_delta", "citation": {"cited_text": SECRET}}}],
    "over blocks": [text_delta("forb"), {"type": "content_block_stop", "index": 0}, block("text", text=""),
                    text_delta("idden")],
    "an unknown block": [block("web_search_tool_result", content=[{"type": "x", "title": SECRET}])],
    "the input of a begun tool": [block("tool_use", id="t", name="f", input={"q": [SECRET]})],
    "beside a tool": [block("tool_use", id="t", name="f", input={}, note=SECRET)],
    "an escape in arguments": [TOOL, partial('{"q":"forb\\u0069'), partial('dden"}')],
    "an unknown event": [{"type": "x", "words": SECRET}],
    "a ping": [{"type": "ping", "words": SECRET}],
    "beside a stop": [{"type": "content_block_stop", "index": 0, "words": SECRET}],
    "in the usage event": [DELTA | {"words": SECRET}],
    "cut by the usage event": [text_delta("forb"), DELTA, text_delta("idden")],
    "an event of a number": [b'event: content_block_delta\ndata: {"type":5,"delta":{"text":"forbidden"}}\n\n'],
    "in a message": [BEGUN | {"message": {"id": "m", "content": [{"type": "text", "text": SECRET}]}}],
    "a twin": [json.dumps(text_delta()).replace('"text": "ok"', '"text":"forbidden","text": "ok"')],
}  # fmt: skip


def event(kind, **more):
    return {"type": "response." + kind, "output_index": 0, "item_id": "i", "content_index": 0, **more}


def item(*content, **more):
    return {"type": "message", "id": "i", "role": "assistant", "content": list(content), **more}


PART = {"type": "output_text", "text": "ok", "annotations": []}
SPELLED = PART | {"text": SECRET, "logprobs": TOKENS}
RESPONSES = {
    "a piece that is an object": [event("output_text.delta", delta={"text": SECRET})],
    "beside a piece": [event("output_text.delta", delta="ok", words=SECRET)],
    "logprobs of a piece": [event("output_text.delta", delta="ok", logprobs=TOKENS)],
    "logprobs of a done text": [event("output_text.done", text=SECRET, logprobs=TOKENS)],
    "logprobs of an item": [event("output_item.done", item=item(SPELLED))],
    "logprobs of a part": [event("content_part.done", part=SPELLED)],
    "an unknown delta": [event("x.delta", delta={"words": SECRET})],
    "an unknown piece": [event("x.delta", delta="forb"), event("x.delta", delta="idden")],
    "an unknown event": [event("x", words=SECRET)],
    "beside a done text": [event("output_text.done", text="ok", words=SECRET)],
    "beside an item": [event("output_item.added", item=item(), words=SECRET)],
    "the title of an annotation": [event("output_text.annotation.added", annotation={"title": SECRET})],
    "a title of a part": [event("content_part.done", part=PART | {"annotations": [{"title": SECRET}]})],
    "an echo": [event("in_progress", response={"output": [item(PART | {"text": SECRET})]})],
    "cut by a done text": [event("output_text.delta", delta="forb"), event("output_text.done", text="forb"),
                           event("output_text.delta", delta="idden")],
    "all over again": [event("in_progress", response={"output": [], "output_text": SECRET})],
    "an event of a number": [b'event: response.output_text.delta\ndata: {"type":5,"delta":"forbidden"}\n\n'],
    "sound": [event("audio.delta", delta="AAAA", words=SECRET)],
    "a transcript": [event("audio.transcript.delta", delta="forb"), event("audio.transcript.delta", delta="idden")],
    "arguments": [event("function_call_arguments.delta", delta='{"q":"forb\\u0069dden'),
                  event("function_call_arguments.done", arguments='{"q":"forb\\u0069dden')],
    "a twin": [json.dumps(event("output_text.delta", delta="ok")).replace('"ok"', '"forbidden", "delta": "ok"')],
}  # fmt: skip


def legacy(text="ok", **more):
    return {"id": "c", "object": "text_completion", "created": 5, "model": "up",
            "choices": [{"index": 0, "text": text, "finish_reason": None, **more}]}  # fmt: skip


COMPLETIONS = {
    "beside a text": [legacy(words=SECRET)],
    "beside the choices": [legacy() | {"words": [SECRET]}],
    "logprobs": [legacy(logprobs={"tokens": ["forb", "idden"]})],
    "logprobs of the text": [legacy(SECRET, logprobs={"tokens": ["forb", "idden"]})],
    "no choices": [legacy("forb"), legacy() | {"choices": [], "usage": {"prompt_tokens": 1}}, legacy("idden")],
    "a message": [legacy(message={"content": SECRET})],
    "a twin": [json.dumps(legacy()).replace('"ok"', '"forbidden", "text": "ok"')],
}
ENDS = {
    "openai_chat": ([chunk({"content": "well "})], [chunk({}, "stop"), b"data: [DONE]\n\n"]),
    "openai_completions": ([legacy("well ")], [legacy("", finish_reason="stop"), b"data: [DONE]\n\n"]),
    "anthropic": (
        [BEGUN, block("text", text="") | {"index": 0}, text_delta("well ")],
        [DELTA, {"type": "message_stop"}],
    ),
    "openai_responses": (
        [event("created", response={"output": []}), event("output_text.delta", delta="well ")],
        [event("completed", response={"output": [item(PART)], "status": "completed"})],
    ),
}
ACTIONS = {"block": keyword(SECRET), "mask": pii(custom=[{"regex": SECRET}])}
ERROR = {"error": {"message": "cannot parse forbidden", "type": "server_error", "code": None}}
ERRORS = {
    "openai_chat": ERROR,
    "openai_completions": ERROR,
    "anthropic": {"type": "error", **ERROR},
    "openai_responses": event("failed", response={"output": [], "status": "failed", **ERROR}),
}


@pytest.mark.parametrize("action", ["block", "mask"])
@pytest.mark.parametrize("dialect", ERRORS)
def test_an_error_of_the_provider_does_not_quote_it(dialect, action):
    house = Guarded(ACTIONS[action], dialect=dialect, buffer=False)
    ask, request = house.call()
    first, _ = ENDS[dialect]
    house.play(request, reads([*first, ERRORS[dialect]]))
    assert ask.got.data.count(b"event: error") + ask.got.data.count(b"event: response.failed") == 1
    assert not leaks(ask.got.data)


@pytest.mark.parametrize("entry", [keyword(SECRET), {"kind": "webhook", "url": "http://hook/"}])
def test_a_frame_that_trips_us_up_is_kept_back(entry):
    house = Guarded(entry, dialect="anthropic", checks=Verdicts(ALLOW))
    ask, request = house.call()
    first, _ = ENDS["anthropic"]
    odd = {"type": "content_block_delta", "index": [1], "delta": {"type": "input_json_delta", "partial_json": SECRET}}
    house.play(request, reads([*first, odd]))
    assert not leaks(ask.got.data)
    assert b"response blocked by content policy" in ask.got.data
    house.settled("blocked")


CASES = [
    pytest.param(dialect, events, id=f"{dialect}: {name}")
    for dialect, cases in [
        ("openai_chat", CHAT), ("anthropic", MESSAGES), ("openai_responses", RESPONSES),
        ("openai_completions", COMPLETIONS),
    ]
    for name, events in cases.items()
]  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(("dialect", "events"), CASES)
def test_a_stream_says_nothing_in_odd_places(dialect, events, action):
    house = Guarded(ACTIONS[action], dialect=dialect, buffer=False)
    ask, request = house.call(**({} if dialect in ("anthropic", "openai_responses") else USAGE))
    first, last = ENDS[dialect]
    house.play(request, reads([*first, *events, *last]))
    assert ask.response.code == 200
    assert b"well " in ask.got.data
    assert not leaks(ask.got.data)
    assert "idden" not in ask.got.data.decode()


INNOCENT = {
    "the provider's name": chunk({"content": "ok"}, provider=SECRET, system_fingerprint=SECRET),
    "logprobs of a thought": chunk({"reasoning_content": SECRET})
    | {"choices": [{"index": 0, "delta": {"reasoning_content": SECRET}, "logprobs": {"content": TOKENS}}]},
    "a picture": chunk({"images": [{"type": "image_url", "image_url": {"url": "http://forbidden/"}}]}),
}


@pytest.mark.parametrize("name", INNOCENT)
def test_what_is_no_text_does_not_matter(name):
    house = Guarded(keyword(SECRET))
    ask, request = house.call()
    house.play(request, reads([chunk({"content": "well "}), INNOCENT[name], chunk({}, "stop"), b"data: [DONE]\n\n"]))
    house.settled("complete")
    assert leaks(ask.got.data)


def asked(house, raw):
    """What the provider gets of a request, and what the caller gets."""
    ask = house.ask(raw, path=PATHS[house.dialect])
    return ask, (house.provider.requests or [None])[-1]


def sent_by(house):
    """The body of the provider's last request."""
    content = house.provider.requests[-1].content
    content.seek(0)
    return content.read()


HI = {"messages": [{"role": "user", "content": "hi"}]}


def said_by(role, *content):
    return {"max_tokens": 5, "messages": [{"role": role, "content": list(content)}]}


DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": SECRET}}
FOUND = {"type": "search_result", "source": "x", "title": SECRET, "content": []}
CALL = {"type": "function_call", "name": "f", "call_id": "c", "arguments": '{"forb\\u0069dden":1}'}
HIDDEN = {  # dialect, members of a request
    "another case": ("openai_chat", HI | {"Messages": [{"content": SECRET}]}),
    "another case inside": ("openai_chat", {"messages": [{"role": "user", "content": "hi", "Content": SECRET}]}),
    "a list of texts": ("openai_completions", {"prompt": ["hi", SECRET]}),
    "a tool's answer": ("anthropic", said_by("user", {"type": "tool_result", "tool_use_id": "t", "content": [FOUND]})),
    "a document": ("anthropic", said_by("user", DOCUMENT)),
    "developer": ("openai_chat", said_by("developer", {"type": "text", "text": SECRET})),
    "instructions": ("openai_responses", {"input": "hi", "instructions": SECRET}),
    "a variable": ("openai_responses", {"prompt": {"id": "p", "variables": {"a": SECRET}}}),
    "arguments": ("openai_responses", {"input": [CALL]}),
    "prediction": ("openai_chat", HI | {"prediction": {"type": "content", "content": SECRET}}),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_request_is_looked_at_whatever_its_shape(name):
    dialect, members = HIDDEN[name]
    house = Guarded(keyword(SECRET), dialect=dialect)
    ask, request = asked(house, json.dumps({"model": "gpt"} | members).encode())
    assert request is None
    assert ask.response.code == 422


def test_twin_members_of_a_request_are_read_as_they_are_sent_on():
    house = Guarded(keyword(SECRET))
    hidden = b'"messages":[{"role":"user","content":"forbidden"}]'
    ask, _ = asked(house, b'{"model":"gpt","messages":[{"role":"user","content":"hi"}],' + hidden + b"}")
    assert ask.response.code == 422
    asked(house, b'{"model":"gpt",' + hidden + b',"messages":[{"role":"user","content":"hi"}]}')
    assert SECRET not in sent_by(house).decode()


def test_twins_are_not_hidden_by_numbers_that_are_longer_in_our_writing():
    said = b'{"messages":[{"role":"user","content":"forbidden","content":"hi","z":['
    numbers = [b"1e5"] * 100
    for count in range(1, 12):  # 1e5 becomes 100000.0: five bytes more each, for the 22 of the twin
        house = Guarded(keyword(SECRET))
        asked(house, said + b",".join(numbers[:count]) + b'],"a":' + b" " * (5 * count - 22) + b'1}],"model":"gpt"}')
        assert SECRET not in sent_by(house).decode()


def test_a_monitor_does_not_touch_twins():
    house = Guarded(keyword(SECRET, enforcement_mode="monitor"))
    asked(house, b'{"model":"gpt","messages":[{"role":"user","content":"forbidden","content":"hi"}]}')
    assert b'"content":"forbidden","content":"hi"' in sent_by(house)


def test_of_twins_in_a_request_the_provider_gets_the_one_that_was_looked_at():
    house = Guarded(keyword(SECRET))
    raw = b'{"model":"gpt","messages":[{"role":"user","content":"forbidden","content":"hi \\"x\\":"}],"a":1.50}'
    asked(house, raw)
    sent = sent_by(house)
    assert SECRET not in sent.decode()
    assert b'"a":1.50' in sent
    house = Guarded(keyword(SECRET))
    raw = b'{"model":"gpt","messages":[{"role":"user", "content":"hi \\"x\\": \\u0041","n":1.50}]}'
    asked(house, raw)
    assert b'"content":"hi \\"x\\": \\u0041","n":1.50}' in sent_by(house)


def chat(message, **more):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop", **more}
    return {"id": "c", "object": "chat.completion", "created": 5, "model": "up", "choices": [choice]}


def message(*content, **more):
    return {"id": "m", "type": "message", "role": "assistant", "model": "up", "content": list(content), **more}


def response(*output, **more):
    return {"id": "r", "object": "response", "model": "up", "status": "completed", "output": list(output), **more}


TWIN = json.dumps(chat({"content": "ok"})).replace('"ok"', '"forbidden", "content": "ok"')
WHOLES = [
    ("openai_chat", chat({"content": [{"type": "text", "text": SECRET}]})),
    ("openai_chat", chat({"content": f"data:;base64,{SECRET}"})),
    ("openai_chat", chat({"content": "ok", "note": SECRET})),
    ("openai_chat", chat({"content": "ok", "annotations": [{"url_citation": {"title": SECRET}}]})),
    ("openai_chat", chat({"content": "ok", "audio": {"id": "a", "data": "AA", "transcript": SECRET}})),
    ("openai_chat", chat({"content": "ok"}, text=SECRET)),
    ("openai_chat", chat({"content": "ok"}, logprobs={"content": TOKENS})),
    ("openai_chat", chat({"content": SECRET}, logprobs={"content": TOKENS})),
    ("openai_chat", chat({"tool_calls": [{"function": {"name": "f", "arguments": '{"q":"forb\\u0069dden'}}]})),
    ("openai_chat", chat({"function_call": {"name": "f", "arguments": {"q": SECRET}}})),
    ("openai_chat", chat({}) | {"choices": {"0": {"message": {"content": SECRET}}}}),
    ("openai_chat", chat({"content": "ok"}) | {"note": SECRET}),
    ("openai_chat", TWIN),
    ("anthropic", message({"type": "text", "text": "forb"}, {"type": "text", "text": "idden"})),
    ("anthropic", message({"type": "text", "text": "ok", "citations": [{"cited_text": SECRET}]})),
    ("anthropic", message({"type": "x", "x": {"y": [SECRET]}})),
    ("anthropic", message({"type": "tool_use", "id": "t", "name": "f", "input": {SECRET: 1}})),
    ("openai_responses", response(item(SPELLED))),
    ("openai_responses", response(item(PART), output_text=SECRET)),
    ("openai_responses", response(item(PART | {"annotations": [{"title": SECRET}]}))),
    ("openai_responses", response() | {"output": {"a": SECRET}}),
    ("openai_completions", legacy("ok", finish_reason="stop", logprobs={"tokens": ["forb", "idden"]})),
    ("openai_completions", legacy([SECRET], finish_reason="stop")),
]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(("dialect", "answer"), WHOLES)
def test_a_whole_answer_says_nothing_in_odd_places(dialect, answer, action):
    house = Guarded(ACTIONS[action], dialect=dialect)
    ask, request = house.call(stream=False)
    house.play(request, [answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()])
    assert ask.response.code == (422 if action == "block" and answer is not TWIN else 200)
    assert not leaks(ask.got.data)
    assert "idden" not in ask.got.data.decode()


def test_a_mask_over_blocks_stands_where_it_begins():
    house = Guarded(pii("email"), dialect="anthropic")
    ask, request = house.call(stream=False)
    texts = ["mail a@b", ".example", " or c@d.example now"]
    house.play(request, [json.dumps(message(*({"type": "text", "text": text} for text in texts))).encode()])
    assert [one["text"] for one in house.json(ask)["content"]] == [
        "mail [EMAIL_REDACTED]",
        "",
        " or [EMAIL_REDACTED] now",
    ]
    assert house.settled("complete").guarded.redacted == {"email": 2}


def test_a_request_that_trips_us_up_is_refused():
    house = Guarded(keyword(SECRET))
    nested = '{"x":' * 900 + '"forbidden"' + "}" * 900
    ask, request = asked(
        house, f'{{"model":"gpt","messages":[{{"role":"user","content":"hi","x":{nested}}}]}}'.encode()
    )
    assert request is None
    assert ask.response.code in (400, 422)
