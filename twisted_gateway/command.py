"""The `aisix` command: serve in the foreground, check a resources file, tell the version.

It chooses the reactor before anything imports one; everything else is `tap`'s.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Sequence
from importlib import import_module

from twisted_gateway import __version__

USAGE = """usage: aisix --config FILE [--reactor NAME]   serve in the foreground
       aisix validate --resources FILE         check a resources file
       aisix --version"""
_PARTS = ("twisted.internet.reactor", "twisted_gateway.config.file", "twisted_gateway.gateway", "twisted_gateway.tap")


def main(arguments: Sequence[str] | None = None) -> None:
    """The `aisix` command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["--version"], ["-V"]):
        print(f"aisix {__version__}")
    elif words in (["--help"], ["-h"]):
        print(USAGE)
    elif words[:1] == ["validate"]:
        _validate(words[1:])
    else:
        _serve(words)


def _validate(words: list[str]) -> None:
    """`aisix validate --resources FILE` (`configuration.md` section 1)."""
    path = words[0].removeprefix("--resources=") if len(words) == 1 and words[0].startswith("--resources=") else None
    if len(words) == 2 and words[0] == "--resources":
        path = words[1]
    if path is None:
        raise SystemExit(f"aisix validate: expected --resources FILE\n{USAGE}")
    from twisted_gateway.config.file import load_resources
    from twisted_gateway.config.report import ResourcesError

    try:
        snapshot = load_resources(path, os.environ, time.time())
    except ResourcesError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    for warning in snapshot.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"OK: {path} loaded {sum(snapshot.resource_counts.values())} resource(s)")


def _serve(words: list[str]) -> None:
    """`aisix --config FILE`: serve until a signal."""
    words = _install_reactor(words)
    _import()
    from twisted.internet import reactor
    from twisted.logger import globalLogBeginner
    from twisted.python import usage

    from twisted_gateway.tap import Options, make_log, makeService

    options = Options()
    try:
        options.parseOptions(words)
        options.log = make_log(options.settings, reactor)
        globalLogBeginner.beginLoggingTo([options.log], redirectStandardIO=False)
        house = makeService(options)
    except usage.UsageError as error:
        raise SystemExit(f"aisix: {error}") from None
    house.startService()
    reactor.addSystemEventTrigger("before", "shutdown", house.stopService)
    reactor.run(installSignalHandlers=False)  # type: ignore[call-arg]


def _import() -> None:
    """Import all there is, part by part: what one leaves behind is given back before the next one needs room.

    Modules live as long as the process, so the collector need not look at them again: it starts sooner for that.
    """
    from twisted_gateway.pulse import keep

    for name in _PARTS:
        import_module(name)
        keep()


def _install_reactor(words: list[str]) -> list[str]:
    """Install the reactor that `--reactor NAME` names, else our own where epoll exists. Gives the other words."""
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name != "--reactor":
            continue
        rest = words[:at] + words[at + (1 if equals else 2) :]
        from twisted.application.reactors import NoSuchReactor, installReactor

        try:
            installReactor(value if equals else "".join(words[at + 1 : at + 2]))
        except NoSuchReactor as error:
            raise SystemExit(f"aisix: no such reactor: {error}") from None
        return rest
    if hasattr(select, "epoll"):
        from twisted_gateway.reactor import install

        install()
    return words
