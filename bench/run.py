"""The whole comparison: `bench/run` (see README.md)."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

from bench import targets, tools
from bench.measure import METRICS, QUICK, Lab, Metric, Plan, one
from bench.table import Results, render


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench/run", description="Direct, nginx and this gateway, in one run.")
    parser.add_argument("--quick", action="store_true", help="about 90 s; noisier")
    parser.add_argument("--only", default="", help=f"targets, by comma: {', '.join(targets.NAMES + targets.PEERS)}")
    parser.add_argument("--peers", action="store_true", help=f"also {', '.join(targets.PEERS)}")
    parser.add_argument("--metrics", default="", help=f"by comma: {', '.join(METRICS)}")
    parser.add_argument("--rounds", type=int, default=0, help="how often each is measured")
    parser.add_argument("--json", type=Path, help="also write every round's figures to this file")
    args = parser.parse_args(argv)
    usual = targets.NAMES + targets.PEERS if args.peers else targets.NAMES
    args.targets = _choice(parser, args.only or ",".join(usual), targets.NAMES + targets.PEERS)
    args.metrics = _choice(parser, args.metrics, METRICS)
    return args


def _choice(parser: argparse.ArgumentParser, text: str, known: Collection[str]) -> list[str]:
    wanted = text.split(",") if text else list(known)
    for name in wanted:
        if name not in known:
            parser.error(f"unknown name {name!r}; known: {', '.join(known)}")
    return [name for name in known if name in wanted]


def _prepare(streams: int) -> None:
    tools.build()
    tools.OUT.mkdir(exist_ok=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    if files < 2 * streams + 100:
        raise SystemExit(f"bench: {streams} streams need {2 * streams + 100} open files; ulimit -n allows {files}")
    for port in (tools.MOCK_PORT, targets.NGINX_PORT, targets.GATEWAY_PORT, targets.METRICS_PORT):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise SystemExit(f"bench: port {port} is taken; end what listens there") from None


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _nginx_version(chosen: Sequence[targets.Target]) -> str:
    for target in chosen:
        if target.name == "nginx" and not target.down:
            told = subprocess.run([target.command[0], "-v"], capture_output=True, text=True, check=False).stderr
            return told.strip().rsplit("/", 1)[-1]
    return "-"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def _facts(chosen: Sequence[targets.Target], cores: tools.Cores, plan: Plan) -> dict[str, str]:
    free, (mock, client) = os.sched_getaffinity(0), (cores.mock, cores.client)
    python, twisted = platform.python_version(), _version("twisted")
    shared = f"mock and client on {mock}" if mock == client else f"mock on {mock}, client on {client}"
    return {
        "date": datetime.now().astimezone().isoformat(" ", "minutes"),
        "machine": f"{_cpu_model()}, {len(free)} cores, Linux {platform.release()}",
        "pinned": f"target on core {cores.gateway}, {shared}" + ("; ONE CORE FOR ALL" if len(free) < 2 else ""),
        "versions": f"Python {python}, Twisted {twisted}, nginx {_nginx_version(chosen)}",
        "rounds": f"{plan.rounds}, interleaved; medians",
        "streams": f"{plan.streams:,}",
        "slow": f"{plan.slow_streams:,}",
    }


def _inspect(lab: Lab, target: targets.Target, results: Results) -> None:
    """Whether the target does the work it is credited with: checks the key and, the gateway, reads usage and logs."""
    if not target.command:
        return
    try:
        target.ensure(lab.cores)
        if not target.checks_key():
            results.remarks.append(f"{target.name}: WRONG SET-UP, a bad key is not refused")
        if target.name != "gateway":
            return
        tokens, logged = targets.counted_tokens(), target.log.stat().st_size
        tools.finish(target.load(lab.cores.client, "-c", 4, "-n", 50, "-x", 20))
        time.sleep(2)
        counted, logged = targets.counted_tokens() - tokens, target.log.stat().st_size - logged
        right = counted == 1000 and logged > 0
        results.remarks.append(
            f"gateway{'' if right else ': WRONG SET-UP'}: 50 streams of 20 tokens gave {counted:.0f} tokens"
            f" on the metrics page and {logged:,} bytes of access log"
        )
    except (tools.Failed, OSError, ValueError) as failure:
        results.remarks.append(f"{target.name}: its set-up could not be checked: {failure}")


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def asked(metric: Metric, target: targets.Target) -> bool:
    """Whether this is measured on that target."""
    if target.name in targets.PEERS:
        return metric.peers
    return (metric.direct or bool(target.command)) and metric.only in ("", target.name)


def measure(lab: Lab, chosen: Sequence[targets.Target], metrics: Sequence[str]) -> Results:
    """All of it, target after target within each round. Peers come behind the others: one that idles is not idle."""
    results = Results()
    lab.mock.set()
    usual = [target for target in chosen if target.name not in targets.PEERS]
    peers = [target for target in chosen if target.name in targets.PEERS]
    for target in chosen:
        _inspect(lab, target, results)
        if target in peers:
            target.stop()
    for name in metrics:
        for some in (usual, peers):
            _rounds(lab, name, [target for target in some if asked(METRICS[name], target)], results)
        for target in peers:
            target.stop()
    _tell("")
    results.remarks += [f"{target.name} died {target.deaths} times by itself" for target in chosen if target.deaths]
    return results


def _rounds(lab: Lab, name: str, chosen: Sequence[targets.Target], results: Results) -> None:
    metric = METRICS[name]
    rounds = min(lab.plan.rounds, metric.rounds or lab.plan.rounds)
    for turn in range(rounds):
        _tell(f"{name} {turn + 1}/{rounds}")
        for target in chosen:
            lab.mock.set()
            results.add(target.name, name, one(lab, metric, target))


def _dump(file: Path, results: Results, facts: dict[str, str], plan: Plan) -> None:
    figures: dict[str, dict[str, list[float]]] = {}
    for (target, metric, key), values in results.values.items():
        figures.setdefault(target, {})[f"{metric}.{key}"] = values
    content = {"facts": facts, "plan": asdict(plan), "figures": figures}
    words = {"failures": results.failures, "remarks": results.remarks}
    file.write_text(json.dumps(content | words, indent=1) + "\n")


def main() -> None:
    """Measure, print the table, keep it in bench/out."""
    args = options()
    plan = QUICK if args.quick else Plan()
    plan = replace(plan, rounds=args.rounds) if args.rounds > 0 else plan
    _prepare(max(plan.streams, plan.slow_streams if "slow" in args.metrics else 0))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cores, began = tools.Cores.pick(), time.monotonic()
    chosen = targets.make(args.targets, cores.gateway)
    facts, mock = _facts(chosen, cores, plan), tools.Mock(core=cores.mock)
    try:
        results = measure(Lab(mock, cores, plan), chosen, args.metrics)
    finally:
        for target in chosen:
            target.stop()
        mock.stop()
    facts["took"] = f"{time.monotonic() - began:.0f} s"
    report = render(results, args.targets, args.metrics, facts)
    (tools.OUT / "table.md").write_text(report)
    for file in (tools.OUT / "results.json", args.json):
        if file is not None:
            _dump(file, results, facts, plan)
    print(report, end="")


if __name__ == "__main__":
    main()
