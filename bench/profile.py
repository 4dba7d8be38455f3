"""Where the gateway spends its time under the bench's load: `make profile`, with py-spy.

A flame graph (`bench/out/profile.svg`) and the functions that cost most. The load is one of the measurements that
saturate the gateway or keep it awake: `bench/run profile plain`.
"""

from __future__ import annotations

import argparse
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from bench import targets, tools
from bench.measure import METRICS, Lab, Plan, one

LOADS = ("saturate", "stream", "plain", "burst", "paced", "drip")
_MOST = 40


def sampler() -> str:
    """Where py-spy is."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise SystemExit("bench: py-spy is missing; pip install py-spy")
    return found


def hottest(folded: str) -> list[tuple[str, float, float]]:
    """Of stacks as py-spy writes them: function, its own share of the time, its share with all it calls."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [re.sub(r":\d+\)$", ")", frame) for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        for frame in set(frames):
            whole[frame] += int(count)
    total = sum(own.values()) or 1
    return [(name, own[name] / total, count / total) for name, count in whole.most_common()]


def record(pid: int, seconds: float, kind: str, file: Path) -> subprocess.Popen[bytes]:
    """Start sampling."""
    command = [sampler(), "record", "-p", str(pid), "-d", str(round(seconds)), "-r", "500", "--nonblocking"]
    return subprocess.Popen(
        [*command, "-f", kind, "-o", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def main() -> None:
    """Load the gateway and look at it."""
    parser = argparse.ArgumentParser(prog="bench/run profile", description="Where the gateway spends its time.")
    parser.add_argument("load", nargs="?", default="saturate", choices=LOADS)
    parser.add_argument("--seconds", type=float, default=6)
    args = parser.parse_args()
    tools.build()
    tools.OUT.mkdir(exist_ok=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cores = tools.Cores.pick()
    (gateway,) = targets.make(["gateway"], cores.gateway)
    mock, folded = tools.Mock(core=cores.mock), tools.OUT / "profile.txt"
    try:
        gateway.ensure(cores)
        lab = Lab(mock, cores, Plan(seconds=args.seconds, paced_chunks=int(args.seconds * 50)))
        for kind, file in (("raw", folded), ("flamegraph", tools.OUT / "profile.svg")):
            sampling = record(gateway.pid(), args.seconds - 1, kind, file)
            found = one(lab, METRICS[args.load], gateway)
            if sampling.wait() != 0 or isinstance(found, str):
                raise SystemExit(f"bench: no profile: {found}")
    finally:
        gateway.stop()
        mock.stop()
    print(f"{args.load}: {found}\nflame graph: {tools.OUT / 'profile.svg'}\n\n   own   all")
    rows = hottest(folded.read_text())
    for name, own, whole in sorted(rows, key=lambda row: -row[1])[:_MOST]:
        print(f"{own:6.1%} {whole:5.0%}  {name}")


if __name__ == "__main__":
    main()
