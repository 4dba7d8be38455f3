"""What a gateway that is only started must not load: libraries of features that its files do not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UNUSED = ("re2", "txredisapi", "sqlite3", "multiprocessing", "unittest", "tzdata")
STARTED = f"""
import os, sys, time
from twisted_gateway.reactor import install
install()
from twisted_gateway import tap
from twisted_gateway.config.file import load_resources, load_settings
load_settings("conf/aisix.yaml", os.environ)
load_resources("conf/resources.yaml", os.environ, time.time())
print(*[name for name in {UNUSED} if name in sys.modules])
"""


def test_libraries_of_features_that_are_off_are_not_loaded() -> None:
    told = subprocess.run(
        [sys.executable, "-c", STARTED], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    assert told.stdout.split() == []
