"""The suite runs on the reactor it was told to: the stock one, or ours with `-p tests.on_aisix`."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from twisted.internet import reactor

from twisted_gateway.reactor import FlushingReactor

ROOT = Path(__file__).parents[1]


def test_the_reactor_is_the_one_that_was_asked_for(request):
    ours = request.config.pluginmanager.hasplugin("tests.on_aisix")
    assert isinstance(reactor, FlushingReactor) is ours


@pytest.mark.parametrize("options", [[], ["-p", "tests.on_aisix"]], ids=["stock", "ours"])
def test_each_can_be_asked_for(options):
    test = f"{__file__}::test_the_reactor_is_the_one_that_was_asked_for"
    command = [sys.executable, "-m", "pytest", *options, test]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stdout + told.stderr


def test_ours_does_not_tell_the_time_of_day():
    """Setting the machine's clock must not fire every deadline."""
    before = time.monotonic()
    assert before <= FlushingReactor.seconds() <= time.monotonic()
