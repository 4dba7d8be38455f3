"""The measurements. Each takes one target through one round and gives its figures."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.targets import CROSSED, PLAIN, STREAM, Target, cpu_ns, pss_kb
from bench.tools import Cores, Failed, Mock, complaint, finish

Figures = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int = 5
    seconds: float = 1.5
    ttft_seconds: float = 6
    paced_chunks: int = 100
    aborts: int = 200
    streams: int = 1000
    slow_streams: int = 9900


QUICK = Plan(rounds=2, seconds=0.7, ttft_seconds=2.5, paced_chunks=50, aborts=100)


@dataclass(frozen=True)
class Run:
    """One run of the load client."""

    found: dict[str, Any]
    cpu_us: float | None
    tools_us: float

    def per(self, what: str) -> Figures:
        """CPU time of the gateway by piece of work; nothing where there is no gateway."""
        if self.cpu_us is None:
            return {}
        if not self.found[what]:
            raise Failed("nothing was done in the time given")
        return {"us": self.cpu_us / self.found[what], "share": self.share(self.cpu_us)}

    def share(self, us: float) -> float:
        """A part of one core's time."""
        return us / 1e6 / float(self.found["elapsed"])


@dataclass(frozen=True)
class Lab:
    """What a measurement works with."""

    mock: Mock
    cores: Cores
    plan: Plan

    def run(self, target: Target, *args: str | float, body: str = STREAM) -> Run:
        """Put a load on a target; any error spoils the round."""
        pid, provider = target.pid() if target.command else None, self.mock.process.pid
        before, mock = cpu_ns(pid) if pid else 0, cpu_ns(provider)
        found = finish(target.load(self.cores.client, "-o", 10, *args, body=body))
        spent, mock = (cpu_ns(pid) if pid else 0) - before, cpu_ns(provider) - mock
        if trouble := complaint(found):
            raise Failed(trouble)
        own = found["own_cpu"] * 1e6
        tools = own + mock / 1000 if self.cores.mock == self.cores.client else max(own, mock / 1000)
        return Run(found, spent / 1000 if pid else None, tools)


def paced(lab: Lab, target: Target) -> Figures:
    """64 streams in step: a chunk is a read of its own, and several come per wake-up."""
    chunks = lab.plan.paced_chunks
    lab.mock.set(n=chunks, d=20_000)
    return lab.run(target, "-c", 64, "-n", 64, "-x", chunks).per("contents")


def crossed(lab: Lab, target: Target) -> Figures:
    """The paced load twice in a row: passed through, and translated from another dialect."""
    chunks = lab.plan.paced_chunks
    lab.mock.set(n=chunks, d=20_000)
    through = lab.run(target, "-c", 64, "-n", 64, "-x", chunks).per("contents")["us"]
    translated = lab.run(target, "-c", 64, "-n", 64, "-x", chunks, body=CROSSED).per("contents")["us"]
    lab.mock.set(n=2000, gather=1)
    burst = lab.run(target, "-c", 8, "-t", lab.plan.seconds, "-x", 2000, body=CROSSED).per("contents")["us"]
    return {"us": translated, "times": translated / through, "burst": burst}


def lone(lab: Lab, target: Target) -> Figures:
    """2 streams: nearly every chunk wakes an idle core."""
    chunks = int(lab.plan.seconds * 1000)
    lab.mock.set(n=chunks, d=1000)
    return lab.run(target, "-c", 2, "-n", 2, "-x", chunks).per("contents")


def burst(lab: Lab, target: Target) -> Figures:
    """As fast as it goes, written up to 64 KB at a time: many chunks in a read."""
    lab.mock.set(n=2000, gather=1)
    return lab.run(target, "-c", 8, "-t", lab.plan.seconds, "-x", 2000).per("contents")


def stream(lab: Lab, target: Target) -> Figures:
    """20 chunks, each written by itself, without a pause: a slower target finds more of them in a read."""
    lab.mock.set(n=20)
    return lab.run(target, "-c", 64, "-t", lab.plan.seconds, "-x", 20).per("ok")


def drip(lab: Lab, target: Target) -> Figures:
    """20 chunks, 5 ms apart."""
    lab.mock.set(n=20, d=5000)
    return lab.run(target, "-c", 64, "-t", lab.plan.seconds, "-x", 20).per("ok")


def saturate(lab: Lab, target: Target) -> Figures:
    """20 chunks in one write, so that the tools are faster than what they measure."""
    lab.mock.set(n=20, gather=1)
    run = lab.run(target, "-c", 64, "-t", lab.plan.seconds, "-x", 20)
    return run.per("ok") | {"rate": run.found["streams_s"], "tools": run.share(run.tools_us)}


def plain(lab: Lab, target: Target) -> Figures:
    """Not streamed."""
    lab.mock.set(n=20)
    run = lab.run(target, "-c", 64, "-t", lab.plan.seconds, body=PLAIN)
    return run.per("ok") | {"rate": run.found["streams_s"], "tools": run.share(run.tools_us)}


def ttft(lab: Lab, target: Target) -> Figures:
    """Open loop: 40 calls begin each second, whatever became of the earlier ones."""
    lab.mock.set(n=20, d=1000)
    found = lab.run(target, "-c", 64, "-r", 40, "-t", lab.plan.ttft_seconds, "-x", 20).found
    first, each = found["added"], found["forward"]
    return {
        "p50": first["p50"] / 1000, "p99": first["p99"] / 1000,
        "chunk_p50": each["p50"] / 1000, "chunk_p99": each["p99"] / 1000,
    }  # fmt: skip


def abort(lab: Lab, target: Target) -> Figures:
    """Callers hang up after 5 chunks that come 50 ms apart, so a close seen only at the next chunk shows."""
    lab.mock.reset()
    lab.mock.set(n=100, d=50_000)
    many = lab.plan.aborts
    found = lab.run(target, "-c", many, "-n", many, "-R", many, "-a", 5, "-A", lab.mock.port).found
    if not found["abort_matched"]:
        raise Failed(f"the provider saw none of {found['aborted']} closes in 0.5 s")
    times = found["abort"]
    return {
        "p50": times["p50"] / 1000, "p99": times["p99"] / 1000, "seen": 100 * found["abort_matched"] / found["aborted"],
    }  # fmt: skip


def memory(lab: Lab, target: Target) -> Figures:
    """Streams held open in a process not used before but for its warm-up."""
    lab.mock.set(n=600, d=1_000_000)
    many, before = lab.plan.streams, pss_kb(target.pid())
    load = target.load(lab.cores.client, "-c", many, "-n", many, "-R", 500, "-W", 3, "-t", 12, "-o", 5)
    with load:
        opened = bool(load.stderr and load.stderr.readline())
        time.sleep(2)
        during = pss_kb(target.pid())
        found = finish(load, 30)
    if trouble := complaint(found):
        raise Failed(trouble)
    if not opened or found["peak_open"] < many:
        raise Failed(f"only {found['peak_open']} of {many} streams were open at once")
    return {"kb": (during - before) / many, "base": before / 1024}


def ready(lab: Lab, target: Target) -> Figures:
    """From the start of its process until its first good answer."""
    return {"seconds": target.ready_in}


def slow(lab: Lab, target: Target) -> Figures:
    """As many streams as descriptors allow, a chunk a second each, in a process not used before but for its warm-up."""
    lab.mock.set(n=600, d=1_000_000)
    many, pid, before = lab.plan.slow_streams, target.pid(), pss_kb(target.pid())
    load = target.load(lab.cores.client, "-c", many, "-n", many, "-R", 500, "-W", 9, "-t", 60, "-o", 8)
    with load:
        opened = bool(load.stderr and load.stderr.readline())
        time.sleep(1)
        cpu, frames = cpu_ns(pid), lab.mock.stats()["frames"]
        time.sleep(5)
        cpu, frames = cpu_ns(pid) - cpu, lab.mock.stats()["frames"] - frames
        during = pss_kb(pid)
        found = finish(load, 60)
    if trouble := complaint(found):
        raise Failed(trouble)
    if not opened or found["peak_open"] < many or not frames:
        raise Failed(f"only {found['peak_open']} of {many} streams were open at once")
    pause = found["forward"]["max"] / 1000
    return {"us": cpu / 1000 / frames, "kb": (during - before) / many, "pause": pause}


def stall(lab: Lab, target: Target) -> Figures:
    """4 callers who stop reading, a provider that never ends."""
    callers = 4
    lab.mock.reset()
    lab.mock.set(endless=1)
    before = pss_kb(target.pid()) if target.command else 0
    load = target.load(lab.cores.client, "-c", callers, "-n", callers, "-S", 5, "-t", 4)
    with load:
        time.sleep(2)
        early = lab.mock.stats()["bytes"]
        time.sleep(1.5)
        late, grown = lab.mock.stats()["bytes"], (pss_kb(target.pid()) - before if target.command else None)
        if load.poll() is not None:
            raise Failed("the callers were not held to the end")
        finish(load)
    time.sleep(0.5)
    left = float(lab.mock.stats()["inflight"])
    figures = {"taken": late / 1e6 / callers, "flow": (late - early) / 1e6 / 1.5, "left": left}
    return figures if grown is None else figures | {"grown": grown / 1024}


@dataclass(frozen=True)
class Metric:
    """A measurement and when it is made."""

    measure: Callable[[Lab, Target], Figures]
    direct: bool = True  # says something where there is no gateway
    rounds: int | None = None  # at most
    fresh: bool = False  # needs a new process
    only: str = ""  # the one target that can do it
    peers: bool = False  # can be asked of other gateways: what more than one of them can take cannot


METRICS = {
    "paced": Metric(paced, direct=False),
    "crossed": Metric(crossed, direct=False, only="gateway"),
    "lone": Metric(lone, direct=False),
    "burst": Metric(burst, direct=False, peers=True),
    "stream": Metric(stream, direct=False, peers=True),
    "drip": Metric(drip, direct=False),
    "plain": Metric(plain, peers=True),
    "saturate": Metric(saturate, peers=True),
    "ttft": Metric(ttft, peers=True),
    "abort": Metric(abort, rounds=3),
    "ready": Metric(ready, direct=False, rounds=3, fresh=True, peers=True),
    "memory": Metric(memory, direct=False, rounds=1, fresh=True, peers=True),
    "slow": Metric(slow, direct=False, rounds=3, fresh=True),
    "stall": Metric(stall, rounds=1, fresh=True),
}


def one(lab: Lab, metric: Metric, target: Target) -> Figures | str:
    """One round of one measurement on one target: its figures, or why there are none."""
    if lab.mock.process.poll() is not None:
        return "the mock provider died"
    try:
        target.ensure(lab.cores, fresh=metric.fresh)
        return metric.measure(lab, target)
    except (Failed, OSError, LookupError, ValueError, subprocess.SubprocessError) as failure:
        return "; ".join(filter(None, (str(failure) or repr(failure), target.death())))
