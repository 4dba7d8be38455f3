"""From a resolved name to targets, and the name that answers show."""

import pytest

from twisted_gateway.config.snapshot import Resolution
from twisted_gateway.exchange import Target
from twisted_gateway.health import Health
from twisted_gateway.routing import plan, shown_name

from .exchanges import exchange, model, snapshot


def test_a_direct_model_is_a_list_of_one():
    served = model()
    made = exchange(resolution=Resolution(served, "up", False))
    assert plan(made, Health(lambda: 0.0)) == [Target(served, "up")]


@pytest.mark.parametrize(
    ("asked", "upstream", "shown"),
    [
        ("gpt", "gpt-4o", "gpt"),
        ("openai/gpt-4o-mini", "gpt-4o-mini", None),
        ("openai/", "", None),
        ("best/x", "fixed", None),
        ("GPT", None, None),
        ("other", None, None),
    ],
)
def test_names(asked, upstream, shown):
    known = snapshot(
        model(),
        model("openai/*", model_name="*"),
        model("best/*", model_name="fixed"),
        model("open*", model_name="short-*"),
    )
    resolution = known.resolve(asked)
    if upstream is None:
        assert resolution is None
        return
    (target,) = plan(exchange(resolution=resolution), Health(lambda: 0.0))
    assert target.upstream_model == upstream
    assert shown_name(asked, resolution) == shown
