"""The examples of docs/hooks.md, from the page itself."""

import re
import sqlite3
from pathlib import Path

import pytest

from twisted_gateway.hooks import HookRecord
from twisted_gateway.records import record

from ..exchanges import exchange
from ..formats.making import ROLE, choice, chunk, say
from ..test_gateway import STOP, WHOLE, sse
from .test_hooks import Hooked, begun

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hooks.md"
EXAMPLES = {
    re.search(r'"""(\w+)\.py', code)[1]: code
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
}


def made(name):
    namespace = {}
    exec(EXAMPLES[name], namespace)
    return namespace


def test_they_are_short():
    assert sorted(EXAMPLES) == ["redact", "usage"]
    assert all(len([line for line in code.splitlines() if line.strip()]) <= 24 for code in EXAMPLES.values())


def redacted(pieces, last):
    house = Hooked(made("redact")["Redact"](word="secret"))
    ask, request = begun(house)
    house.write(request, sse(*map(say, pieces)))
    house.write(request, sse(last, chunk(usage={"prompt_tokens": 1, "completion_tokens": 2}), b"[DONE]"))
    house.settled("complete")
    assert house.errors == []
    return "".join(one["choices"][0]["delta"].get("content") or "" for one in ask.frames[:-1] if one["choices"])


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("text", ["a secret b", "secret", "sesecret", "secretsecret s", "secre", "se cret", "x"])
def test_the_word_is_redacted_however_it_is_cut(text, width):
    pieces = [text[at : at + width] for at in range(0, len(text), width)]
    assert redacted(pieces, STOP) == text.replace("secret", "***")
    *most, end = pieces
    assert redacted(most, chunk(choice({"content": end}, "stop"))) == text.replace("secret", "***")


def test_the_word_is_redacted_in_a_whole_answer():
    house = Hooked(made("redact")["Redact"](word="o"))
    ask = house.ask()
    house.whole()
    assert ask.json["choices"][0]["message"]["content"] == "h***"


def test_frames_without_the_word_are_untouched():
    texts = ["now ", "then"]
    house = Hooked(made("redact")["Redact"](word="secret"))
    ask, request = begun(house)
    house.write(request, sse(*map(say, texts)))
    plain = Hooked()
    bare, other = begun(plain)
    plain.write(other, sse(*map(say, texts)))
    assert ask.got.data == bare.got.data
    assert ROLE["choices"]


def test_other_dialects_are_left_alone():
    house = Hooked(made("redact")["Redact"](word="secret"))
    ask = house.ask({"model": "gpt", "prompt": "x"}, path=b"/v1/completions")
    said = {"index": 0, "text": "secret", "finish_reason": "stop"}
    house.whole({**WHOLE, "object": "text_completion", "choices": [said]})
    assert ask.json["choices"][0]["text"] == "secret"


def test_usage_in_a_database(tmp_path):
    path = tmp_path / "usage.db"
    hook = made("usage")["Usage"](path=str(path))
    made("usage")["Usage"](path=str(path))
    hook.post_call(HookRecord.of(record(exchange(), "complete")))
    with sqlite3.connect(path) as database:
        (row,) = database.execute("select request_id, api_key_id, model, outcome, prompt_tokens from usage")
    assert row == ("req-1", "ck-1", "gpt", "complete", 12)
