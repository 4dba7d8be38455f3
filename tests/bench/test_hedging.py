"""The measurement of hedging runs; what it finds on a loaded machine is not judged here."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_it_measures() -> None:
    options = ("--calls", "30", "--rate", "60", "--late", "0.2", "--seconds", "0.6", "--after", "250", "--ratio", "1")
    told = subprocess.run(
        [sys.executable, "-m", "bench.hedging", *options], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert re.search(r"\| requests per call \|  \| 1\.000 \| [12]\.", told.stdout), told.stdout
