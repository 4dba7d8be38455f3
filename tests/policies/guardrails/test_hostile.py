"""Providers and callers that hide a text where it might not be looked for."""

import json

import pytest

from .answers import sse
from .house import PATHS, Guarded
from .making import keyword

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


def leaks(data):
    text = data.decode().replace("\\\\u0069", "i").replace("\\u0069", "i")
    return SECRET in text


def together(frames):
    """All that a stream said, whatever it is."""
    return "".join(
        str(choice["delta"].get("content"))
        for one in frames
        if isinstance(one, dict)
        for choice in one.get("choices", ())
    )


@pytest.mark.parametrize("name", CHAT)
def test_a_chat_stream_says_nothing_in_odd_places(name):
    house = Guarded(keyword(SECRET))
    ask, request = house.call(stream_options={"include_usage": True})
    house.play(
        request,
        [*reads([chunk({"content": "well "})]), *reads(CHAT[name]), *reads([chunk({}, "stop"), b"data: [DONE]\n\n"])],
    )
    assert not leaks(ask.got.data)
    said = "".join(json.dumps(one) for one in ask.frames)
    assert "idden" not in said


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


HIDDEN = {  # dialect, members of a request
    "another case": ("openai_chat", '"messages":[{"role":"user","content":"hi"}],"Messages":[{"content":"forbidden"}]'),
    "another case inside": ("openai_chat", '"messages":[{"role":"user","content":"hi","Content":"forbidden"}]'),
    "twin members": ("openai_chat", '"messages":[{"role":"user","content":"hi"}],"messages":[{"role":"user","content":"forbidden"}]'),
    "a list of texts": ("openai_completions", '"prompt":["hi","forbidden"]'),
    "a tool's answer": ("anthropic", '"max_tokens":5,"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"search_result","source":"x","title":"forbidden","content":[]}]}]}]'),
    "a document": ("anthropic", '"max_tokens":5,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"text","media_type":"text/plain","data":"forbidden"}}]}]'),
    "developer": ("openai_chat", '"messages":[{"role":"developer","content":[{"type":"text","text":"forbidden"}]}]'),
    "instructions": ("openai_responses", '"input":"hi","instructions":"forbidden"'),
    "a variable": ("openai_responses", '"prompt":{"id":"p","variables":{"a":{"type":"input_text","text":"forbidden"}}}'),
    "arguments": ("openai_responses", '"input":[{"type":"function_call","name":"f","call_id":"c","arguments":"{\\"forb\\\\u0069dden\\":1}"}]'),
    "prediction": ("openai_chat", '"messages":[{"role":"user","content":"hi"}],"prediction":{"type":"content","content":"forbidden"}'),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_a_request_is_looked_at_whatever_its_shape(name):
    dialect, members = HIDDEN[name]
    house = Guarded(keyword(SECRET), dialect=dialect)
    ask, request = asked(house, f'{{"model":"gpt",{members}}}'.encode())
    assert request is None
    assert ask.response.code == 422


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
