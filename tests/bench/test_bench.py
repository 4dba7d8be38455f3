"""The measuring tools do what they say, and the table says what was measured."""

import sys

import pytest

from bench import check, tools
from bench.measure import METRICS
from bench.run import asked, options
from bench.table import ROWS, Results, number, render
from bench.targets import Target

FACTS = {"date": "today", "streams": "1,000"}
ALL = ("direct", "nginx", "gateway")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the tools use epoll")
@pytest.mark.skipif(tools.compiler() is None, reason="no C compiler")
def test_tools_agree_with_each_other() -> None:
    tools.build()
    assert check.check() == []


def line(report: str, label: str) -> list[str]:
    found = [text for text in report.splitlines() if text.startswith(f"| {label}")]
    assert len(found) == 1
    return [cell.strip() for cell in found[0].strip("|").split("|")]


def test_median_and_ratio() -> None:
    results = Results()
    for nginx, gateway in ((10.0, 21.0), (12.0, 24.0), (50.0, 30.0)):
        results.add("nginx", "paced", {"us": nginx})
        results.add("gateway", "paced", {"us": gateway})
    report = render(results, ALL, ["paced"], FACTS)
    assert line(report, "CPU per paced")[2:] == ["n/a", "12.0", "24.0", "2.00"]
    assert "nginx paced.us 10.0 to 50.0" in report


def test_failed_round_is_told_and_the_others_count() -> None:
    results = Results()
    results.add("nginx", "paced", {"us": 10.0})
    results.add("gateway", "paced", "2 errors of 64 (reset 2)")
    results.add("gateway", "paced", {"us": 15.0})
    report = render(results, ALL, ["paced"], FACTS)
    assert line(report, "CPU per paced")[4:] == ["15.0", "1.50"]
    assert "* gateway: no figure from paced: 2 errors of 64 (reset 2)" in report


def test_failed_measurement_is_a_dash_and_its_reason_is_told_once() -> None:
    results = Results()
    results.add("nginx", "memory", {"kb": 13.0, "base": 3.0})
    for metric in ("memory", "abort", "abort"):
        results.add("gateway", metric, "did not start")
    results.add("direct", "abort", "the mock provider died")
    report = render(results, ALL, ["abort", "memory"], FACTS)
    assert line(report, "memory per open stream, at 1,000")[2:] == ["n/a", "13.0", "-", "-"]
    assert line(report, "caller's close until the provider sees it, p50")[2:] == ["-", "-", "-", "-"]
    assert "* gateway: no figure from memory, abort (2 rounds): did not start" in report


def test_rate_of_an_idle_target_is_a_lower_bound() -> None:
    results = Results()
    results.add("nginx", "saturate", {"rate": 20000.0, "us": 30.0, "share": 0.6, "tools": 0.99})
    results.add("gateway", "saturate", {"rate": 5000.0, "us": 200.0, "share": 1.0, "tools": 0.3})
    report = render(results, ALL, ["saturate"], FACTS)
    assert line(report, "streams per second")[3:] == ["≥ 20,000", "5,000", "≤ 0.25"]
    assert "nginx, saturate: the rate is a lower bound; its core was 60% busy, the tools' 99%" in report


def test_without_nginx_there_are_no_ratios() -> None:
    results = Results()
    results.add("gateway", "plain", {"us": 90.0, "rate": 9000.0})
    assert line(render(results, ["gateway"], ["plain"], FACTS), "CPU per plain") == [
        "CPU per plain request (64 connections)",
        "µs",
        "90.0",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.126, "0.13"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346"), (-0.02, "-0.02")],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_every_row_belongs_to_a_measurement_that_exists() -> None:
    assert {row.metric for row in ROWS} == set(options([]).metrics)


def test_peers_are_asked_only_what_they_can_take() -> None:
    peer, gateway, direct = Target("litellm", 1, ["it"]), Target("gateway", 2, ["it"]), Target("direct", 3)
    told = {name: [asked(METRICS[name], target) for target in (direct, gateway, peer)] for name in METRICS}
    assert told["plain"] == [True, True, True]
    assert told["ready"] == [False, True, True]
    assert told["slow"] == [False, True, False]
    assert told["crossed"] == [False, True, False]


def test_options_choose_in_a_fixed_order() -> None:
    args = options(["--only", "gateway,nginx", "--metrics", "ttft,paced"])
    assert (args.targets, args.metrics) == (["nginx", "gateway"], ["paced", "ttft"])
    with pytest.raises(SystemExit):
        options(["--only", "nobody"])
