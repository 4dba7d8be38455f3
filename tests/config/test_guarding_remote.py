"""Guardrails that ask somebody, in a resources document and in the boot file."""

import re
from pathlib import Path

import pytest
import yaml

from twisted_gateway.config.boot import structure
from twisted_gateway.config.settings import SettingsError
from twisted_gateway.config.snapshot import Snapshot, build

AZURE = {"endpoint": "https://r.cognitiveservices.azure.com/", "api_key": "hidden"}
KEYED = {"api_key": "hidden"}
PRESIDIO = {"analyzer_url": "http://a:5001", "anonymizer_url": "http://b:5002/"}
HOOK = {"url": "https://h.example/check?token=hidden"}
GOOD = {
    "openai_moderation": KEYED,
    "lakera": KEYED,
    "presidio": PRESIDIO,
    "azure_content_safety": AZURE,
    "azure_content_safety_text_moderation": AZURE,
    "webhook": HOOK | {"headers": {"X-Token": "hidden"}, "secret": "hidden"},
    "callable": {"use": "mine"},
}


def load(kind, **fields):
    return build({"_format_version": "1", "guardrails": [{"name": "g", "kind": kind, **fields}]}, {}, now=1.0)


def good(kind, **fields):
    built = load(kind, **{**GOOD[kind], **fields})
    assert isinstance(built, Snapshot), [str(finding) for finding in built]
    (guardrail,) = built.guardrails
    return guardrail


@pytest.mark.parametrize("kind", GOOD)
def test_defaults(kind):
    one = good(kind)
    assert not one.local
    assert (one.own.timeout_ms, one.own.output_fail_open, one.fail_open, one.mandatory) == (5000, False, True, False)
    window = kind == "azure_content_safety_text_moderation"
    assert one.stream_output == ("scan" if window else "hold")
    assert (one.window_size, one.window_overlap_size) == (10_000 if window else 2000, 256)
    assert "hidden" not in repr(one)


def test_roots_lose_their_last_slash():
    assert good("presidio").own.anonymizer_url == "http://b:5002"
    assert good("azure_content_safety", endpoint="HTTPS://X.example").own.endpoint == "https://X.example"


def test_modes_of_streams():
    assert good("lakera", stream_output="scan").stream_output == "scan"
    assert good("azure_content_safety_text_moderation", stream_processing_mode="buffer_full").stream_output == "hold"


AT = "schema validation failed at "
REMOTE = ("lakera", "webhook", "callable")
BAD = [
    *[(kind, {"stream_output": "incremental"}, "`stream_output: incremental` is not possible") for kind in REMOTE],
    ("lakera", {"api_key": ""}, AT + "`/api_key`: expected a key of printable ASCII characters"),
    ("lakera", {"api_key": "a b"}, AT + "`/api_key`"),
    ("lakera", {"api_key": "a\nb"}, AT + "`/api_key`"),
    ("lakera", {"timeout_ms": 0}, AT + "`/timeout_ms`: expected an integer"),
    ("lakera", {"endpoint": "ftp://x"}, AT + "`/endpoint`: expected an http or https URL"),
    ("lakera", {"endpoint": "https://user:pw@x"}, AT + "`/endpoint`: expected an http or https URL, without a user"),
    ("lakera", {"endpoint": "https://x?a=1"}, AT + "`/endpoint`: expected an http or https URL without a query"),
    ("lakera", {"endpoint": "https://x:99999"}, AT + "`/endpoint`"),
    ("lakera", {"endpoint": "https://x/ä"}, AT + "`/endpoint`"),
    ("lakera", {"endpoint": "https://x/#a"}, AT + "`/endpoint`"),
    ("lakera", {"patterns": []}, AT + "`/patterns`: unknown key"),
    (
        "openai_moderation",
        {"category_thresholds": {"hate": 1.5}},
        AT + "`/category_thresholds/hate`: expected a number",
    ),
    ("presidio", {"entities": [{"type": "A", "action": "hide"}]}, AT + "`/entities/0/action`: expected"),
    ("presidio", {"operator": "encrypt"}, AT + "`/operator`: expected"),
    ("presidio", {"score_threshold": 2}, AT + "`/score_threshold`: expected a number"),
    ("azure_content_safety_text_moderation", {"categories": ["Hat"]}, AT + "`/categories/0`: expected"),
    ("azure_content_safety_text_moderation", {"severity_threshold": 8}, AT + "`/severity_threshold`"),
    (
        "azure_content_safety_text_moderation",
        {"severity_threshold_by_category": {"Hat": 1}},
        AT + "`/severity_threshold_by_category`: expected keys out of Hate, Sexual, SelfHarm, Violence",
    ),
    ("webhook", {"headers": {"a b": "c"}}, AT + "`/headers`: expected header names as keys"),
    ("webhook", {"headers": {"a": "b\r\nc: d"}}, AT + "`/headers`: expected header values of printable ASCII"),
    ("webhook", {"headers": {"Content-Length": "3"}}, AT + "`/headers`: the header content-length cannot be set here"),
    ("webhook", {"headers": {"X-AISIX-Signature": "3"}}, AT + "`/headers`: the header x-aisix-signature cannot be"),
    ("webhook", {"url": "/check"}, AT + "`/url`: expected an http or https URL"),
    ("callable", {"use": ""}, AT + "`/use`: expected a non-empty string"),
    ("callable", {"use": None}, AT + "`/use`: null is not allowed"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), BAD)
def test_what_is_refused(kind, fields, message):
    built = load(kind, **{**GOOD[kind], **fields})
    assert not isinstance(built, Snapshot)
    (finding,) = built
    assert finding.message.startswith(message)
    assert "hidden" not in finding.message


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field) for kind in GOOD for field in GOOD[kind] if field not in ("headers", "secret")]
)
def test_what_is_required(kind, field):
    built = load(kind, **{key: value for key, value in GOOD[kind].items() if key != field})
    (finding,) = built
    assert finding.message == f"{AT}`/{field}`: missing"


BOOT = {"proxy": {"addr": "127.0.0.1:0"}, "resources_file": "r"}


def test_callables_of_the_boot_file():
    assert structure({**BOOT, "callables": {"mine": "a.b:c.d"}}, {}).callables == {"mine": "a.b:c.d"}
    assert structure(BOOT, {}).callables == {}


@pytest.mark.parametrize("path", ["a.b", "a:", ":b", "a b:c", "", 3, None])
def test_a_callable_that_is_no_path(path):
    with pytest.raises(SettingsError, match=r"deserialize: callables\.mine: expected"):
        structure({**BOOT, "callables": {"mine": path}}, {})


PAGE = Path(__file__).resolve().parents[2] / "docs/guardrails-remote.md"


def test_the_examples_of_the_page_are_good():
    environ = dict.fromkeys(re.findall(r"\$\{(\w+)\}", PAGE.read_text()), "x")
    read = set()
    for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL):
        document = yaml.safe_load(block)
        if isinstance(document, list):
            document = {"guardrails": document}
        if "callables" in document:
            assert structure({**BOOT, **document}, {}).callables
            continue
        built = build({"_format_version": "1", **document}, environ, now=1.0)
        assert isinstance(built, Snapshot), [str(finding) for finding in built]
        read |= {guardrail.kind for guardrail in built.guardrails}
    assert read == {*GOOD}


def test_the_callable_of_the_page_answers():
    (code,) = re.findall(r"```python\n(def check.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    check = names["check"]
    assert callable(check)
    assert check({"texts": ["hello"]}) == {"action": "allow"}
    assert check({"texts": ["about Project Falcon"]})["action"] == "block"
