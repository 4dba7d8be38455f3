"""The whole search order of `extensions.md` 3 over `policy.md` 9."""

import pytest

from twisted_gateway.config.settings import Upstream
from twisted_gateway.deadlines import Deadlines, deadlines

from .exchanges import model, provider_key

MODEL = ("timeout", "stream_timeout", "first_event_timeout")
KEY = ("timeout_ms", "stream_timeout_ms", "first_event_timeout_ms")


def found(written, field):
    """`written` has names as m.timeout, k.timeout_ms, b.timeout_ms, with milliseconds."""
    parts = {"m": {}, "k": {}, "b": {"timeout_ms": 0, "stream_timeout_ms": 0, "first_event_timeout_ms": 0}}
    for name, value in written.items():
        parts[name[0]][name[2:]] = value
    answer = deadlines(model(provider_key=provider_key(**parts["k"]), **parts["m"]), Upstream(**parts["b"]))
    return getattr(answer, field)


REQUEST = ("m.timeout", "k.timeout_ms", "b.timeout_ms")
SILENCE = (
    "m.stream_timeout",
    "m.timeout",
    "k.stream_timeout_ms",
    "k.timeout_ms",
    "b.stream_timeout_ms",
    "b.timeout_ms",
)
FIRST = (
    *("m.first_event_timeout", "m.stream_timeout", "m.timeout"),
    *("k.first_event_timeout_ms", "k.stream_timeout_ms", "k.timeout_ms"),
    *("b.first_event_timeout_ms", "b.stream_timeout_ms", "b.timeout_ms"),
)
ORDERS = {"request": REQUEST, "silence": SILENCE, "first_event": FIRST}
ROWS = [(field, at) for field, order in ORDERS.items() for at in range(len(order))]


@pytest.mark.parametrize(("field", "at"), ROWS)
def test_the_first_found_wins(field, at):
    order = ORDERS[field]
    values = {name: 1000 * (position + 1) for position, name in enumerate(order)}
    assert found({name: values[name] for name in order[at:]}, field) == at + 1


@pytest.mark.parametrize(("field", "at"), ROWS)
def test_a_zero_defers_or_ends_the_search(field, at):
    order = ORDERS[field]
    ends = order[at] in ("m.timeout", "k.timeout_ms")
    rest = dict.fromkeys(order[at + 1 :], 7000) | {order[at]: 0}
    assert found(rest, field) == (None if ends or at + 1 == len(order) else 7)


@pytest.mark.parametrize("field", ORDERS)
def test_nothing_anywhere_is_no_limit(field):
    assert found({}, field) is None


def test_what_other_fields_say_does_not_matter():
    streams = {name: 9000 for name in (*FIRST, *SILENCE) if name not in REQUEST}
    assert found(streams, "request") is None
    assert found({"m.first_event_timeout": 9000, "k.first_event_timeout_ms": 9000}, "silence") is None


@pytest.mark.parametrize(
    ("written", "configured"),
    [
        ({}, False),
        ({"m.timeout": 5}, True),
        ({"m.timeout": 0}, True),
        ({"m.stream_timeout": 5}, True),
        ({"m.stream_timeout": 0}, False),
        ({"m.first_event_timeout": 5}, True),
        ({"m.first_event_timeout": 0}, False),
        ({name: 5 for name in FIRST if name[0] != "m"}, False),
    ],
)
def test_only_the_model_makes_a_stream_configured(written, configured):
    assert found(written, "configured") is configured


def test_defaults():
    assert deadlines(model(), Upstream()) == Deadlines(request=6000, first_event=6000, silence=6000, configured=False)


def test_milliseconds_become_seconds():
    assert found({"m.timeout": 1500}, "request") == 1.5
