"""Guardrails in a resources document: common fields, kinds, defaults, what is refused."""

import pytest

from twisted_gateway.config import guarding
from twisted_gateway.config.snapshot import Snapshot, build

LITERAL = [{"kind": "literal", "value": "x"}]


def load(*guardrails):
    entries = [{"name": f"g{index}", "kind": "keyword", **one} for index, one in enumerate(guardrails)]
    return build({"_format_version": "1", "guardrails": entries}, {}, now=1.0)


def good(**one):
    built = load(one)
    assert isinstance(built, Snapshot), [str(finding) for finding in built]
    (guardrail,) = built.guardrails
    return guardrail


def bad(**one):
    built = load(one)
    assert not isinstance(built, Snapshot)
    (finding,) = built
    return finding.message


def test_defaults():
    one = good(patterns=LITERAL)
    assert (one.hook_point, one.enforcement_mode, one.stream_output) == ("both", "block", "incremental")
    assert (one.window_size, one.window_overlap_size, one.max_buffer_bytes) == (2000, 256, 262144)
    assert (one.fail_open, one.mandatory, one.on_buffer_exceeded, one.scan_reasoning) == (
        True, False, "fail_closed", False,
    )  # fmt: skip
    assert one.local
    assert one.input
    assert one.output
    assert one.own.patterns[0].value == "x"


def test_an_unknown_mode_of_enforcement_acts():
    assert good(patterns=LITERAL, enforcement_mode="audit").enforcement_mode == "block"
    assert good(patterns=LITERAL, enforcement_mode="monitor").monitor


@pytest.mark.parametrize(("written", "read"), [("window", "scan"), ("buffer_full", "hold")])
def test_the_peers_name_of_the_mode(written, read):
    assert good(patterns=LITERAL, stream_processing_mode=written).stream_output == read


def test_the_order_is_by_age_then_as_written():
    built = load(
        {"patterns": LITERAL},
        {"patterns": LITERAL, "created_at": "2025-01-02T00:00:00Z"},
        {"patterns": LITERAL, "enabled": False},
        {"patterns": LITERAL, "created_at": "2025-01-01T00:00:00Z"},
        {"patterns": LITERAL},
    )
    assert [one.name for one in built.guardrails] == ["g3", "g1", "g0", "g4"]


def test_a_small_window_has_a_smaller_overlap():
    assert good(patterns=LITERAL, window_size=100).window_overlap_size == 50


SCHEMA = "schema validation failed at "
BAD = [
    ({}, SCHEMA + "`/patterns`: missing"),
    ({"patterns": []}, "`patterns` must list at least one pattern"),
    ({"kind": "nothing"}, SCHEMA + '`/kind`: expected "keyword" or "pii"'),
    ({"kind": "bedrock"}, "`kind: bedrock` is known but not available in this version"),
    ({"patterns": LITERAL, "hook_point": "never"}, SCHEMA + "`/hook_point`: expected"),
    ({"patterns": [{"kind": "literal", "value": ""}]}, SCHEMA + "`/patterns/0/value`: expected 1 to 4096 characters"),
    ({"patterns": [{"kind": "literal", "value": "x" * 4097}]}, SCHEMA + "`/patterns/0/value`: expected 1 to 4096"),
    ({"patterns": LITERAL, "detectors": []}, SCHEMA + "`/detectors`: unknown key (expected one of name, kind"),
    ({"patterns": LITERAL, "name": None}, "`name` is required"),
    ({"patterns": LITERAL, "fail_open": None}, SCHEMA + "`/fail_open`: null is not allowed"),
    ({"patterns": LITERAL, "window_size": 10, "window_overlap_size": 10}, "`window_overlap_size` must be less than"),
    (
        {"patterns": LITERAL, "stream_output": "scan", "stream_processing_mode": "window"},
        "`stream_processing_mode` and",
    ),
    ({"patterns": LITERAL, "stream_processing_mode": "x"}, SCHEMA + '`/stream_processing_mode`: expected "window" or'),
    ({"patterns": [{"kind": "regex", "value": "a*"}]}, SCHEMA + "`/patterns/0/value`: invalid regex: it matches the"),
    ({"patterns": [{"kind": "regex", "value": "(?=a)"}]}, SCHEMA + "`/patterns/0/value`: invalid regex: "),
    ({"patterns": LITERAL * 2 + [{"kind": "regex", "value": "a"}] * 1001}, "`patterns` must list at most 1000 regexes"),
    ({"patterns": LITERAL * 100_001}, "`patterns` must list at most 100000 literals"),
    ({"kind": "pii", "detectors": [{"type": "mail"}]}, SCHEMA + '`/detectors/0/type`: expected "email" or'),
    (
        {"kind": "pii", "custom_patterns": [{"name": "a", "regex": "b", "action": "block", "replacement": "c"}]},
        "`replacement` is not possible with action `block`",
    ),
    ({"kind": "pii", "unmask": True, "hook_point": "output"}, "`unmask` is not possible with `hook_point: output`"),
    (
        {"kind": "pii", "unmask": True, "custom_patterns": [{"name": "a", "regex": "b", "replacement": "c"}]},
        "`unmask` is not possible with a `replacement`",
    ),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_what_is_refused(fields, message):
    assert bad(**fields).startswith(message)


def test_incremental_is_for_local_kinds():
    remote = guarding.Kind("far", object)
    one = guarding.Guardrail(id="", name="n", kind="far", local=False, own=None, stream_output="incremental")
    with pytest.raises(guarding.Fault, match="`stream_output: incremental` is not possible with kind `far`"):
        guarding.check(one, remote)


def test_one_that_does_nothing_is_warned_about():
    built = load({"kind": "pii"})
    assert built.warnings == ('guardrails ("g0"): it has neither detectors nor custom patterns and does nothing',)
