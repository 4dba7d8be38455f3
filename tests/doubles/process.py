"""The gateway as a process of its own, with its files in a temporary folder. Blocking: for plain pytest tests.

files = GatewayFiles(tmp_path, resources=resources(provider.url + "/v1"))
with GatewayProcess(files) as gateway:
    requests.get(gateway.base_url + "/livez")
"""

from __future__ import annotations

import http.client
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import yaml

ROOT = Path(__file__).resolve().parents[2]
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=")
"""twistd by this interpreter; unlike the script of that name it needs no PATH."""
COMMAND = (*TWISTD, "aisix", "--config", "{config}")
READY_SECONDS = 60.0


class NotReady(AssertionError):
    """The process did not come up; the text has what it wrote."""


_LOWEST = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _ports() -> Iterator[int]:
    """Ports below those that the system gives to whoever asks for any, or calls somebody; each once, from anywhere."""
    end = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32_768
    span = max(end - _LOWEST, 1)
    begin = random.SystemRandom().randrange(span)
    return itertools.cycle(_LOWEST + (begin + step) % span for step in range(span))


_PORTS = _ports()


def free_port() -> int:
    """A loopback port that was free a moment ago. Nobody gets it by chance meanwhile, and it is not given twice."""
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the document with the changes laid over it, object by object; lists are replaced."""
    result = dict(base)
    for name, value in changes.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def boot(port: int, metrics_port: int, resources_file: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A boot file: callers on one port, metrics on another, resources from a file, no admin listener."""
    base = {
        "proxy": {"addr": f"127.0.0.1:{port}"},
        "resources_file": resources_file,
        "admin": {"enabled": False},
        "observability": {"metrics": {"prometheus": {"addr": f"127.0.0.1:{metrics_port}"}}},
        "shutdown": {"min_drain_secs": 0},
        "upstream": {"retries": 0},
    }
    return merged(base, changes or {})


def resources(
    api_base: str,
    alias: str = "test-model",
    upstream_model: str = "upstream-model",
    key: str = "caller-key",
    **more: Any,
) -> dict[str, Any]:
    """A resources file: one alias on one OpenAI-like provider, one caller key for everything; `more` adds kinds."""
    provider_key = {"display_name": "upstream", "provider": "openai", "api_key": "provider-key", "api_base": api_base}
    model = {"display_name": alias, "provider": "openai", "model_name": upstream_model, "provider_key": "upstream"}
    return {
        "_format_version": "1",
        "provider_keys": [provider_key],
        "models": [model],
        "api_keys": [{"display_name": "caller", "key": key, "allowed_models": ["*"]}],
        **more,
    }


@attrs.define
class GatewayFiles:
    """The files of a gateway in a folder, and the ports that they name; `write` again before a `hup`."""

    folder: Path
    resources: dict[str, Any]
    changes: Mapping[str, Any] = attrs.field(factory=dict)
    port: int = attrs.field(factory=free_port)
    metrics_port: int = attrs.field(factory=free_port)

    @property
    def boot_path(self) -> Path:
        """The boot file."""
        return self.folder / "aisix.yaml"

    @property
    def resources_path(self) -> Path:
        """The resources file."""
        return self.folder / "resources.yaml"

    def write(self) -> Path:
        """Put both files where the process looks for them."""
        document = boot(self.port, self.metrics_port, str(self.resources_path), self.changes)
        self.boot_path.write_text(yaml.safe_dump(document, sort_keys=False))
        self.resources_path.write_text(yaml.safe_dump(self.resources, sort_keys=False))
        return self.boot_path


class GatewayProcess:
    """The process, up and answering `/livez` inside a `with`; killed behind it if it still runs."""

    def __init__(
        self, files: GatewayFiles, command: Sequence[str] = COMMAND, environment: Mapping[str, str] | None = None
    ) -> None:
        self.files = files
        self._command = [part.replace("{config}", str(files.boot_path)) for part in command]
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **_python_path(), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """Where callers go."""
        return f"http://127.0.0.1:{self.files.port}"

    @property
    def metrics_url(self) -> str:
        """Where the metrics listener is."""
        return f"http://127.0.0.1:{self.files.metrics_port}"

    @property
    def running(self) -> subprocess.Popen[bytes]:
        """The process, once started."""
        assert self._process is not None, "the process has not been started"
        return self._process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.running.pid

    @property
    def stderr(self) -> str:
        """What it has written to stderr so far."""
        return self._output("stderr.txt")

    @property
    def stdout(self) -> str:
        """What it has written to stdout so far."""
        return self._output("stdout.txt")

    def _output(self, name: str) -> str:
        path = self.files.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> GatewayProcess:
        """Write the files and start the process, without waiting for it."""
        self.files.write()
        folder = self.files.folder
        with open(folder / "stdout.txt", "wb") as out, open(folder / "stderr.txt", "wb") as err:
            self._process = subprocess.Popen(
                self._command, cwd=folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        return self

    def wait_ready(self, seconds: float = READY_SECONDS) -> GatewayProcess:
        """Until `/livez` answers 200; `NotReady` when it does not, or when the process ends first."""
        until = time.monotonic() + seconds
        while self.livez() != 200:
            if self.running.poll() is not None:
                raise NotReady(f"ended with status {self.running.returncode}:\n{self.stdout}{self.stderr}")
            if time.monotonic() > until:
                raise NotReady(f"/livez has not answered 200 in {seconds} s:\n{self.stdout}{self.stderr}")
            time.sleep(0.03)
        return self

    def livez(self) -> int | None:
        """The status of `/livez` right now, or nothing when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.files.port, timeout=10)
        try:
            connection.request("GET", "/livez")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def hup(self) -> None:
        """Ask for a reload."""
        self.running.send_signal(signal.SIGHUP)

    def term(self) -> None:
        """Ask for an orderly end."""
        self.running.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.running.kill()

    def wait(self, seconds: float = READY_SECONDS) -> int:
        """The exit status, negative for a signal, once the process has ended."""
        return self.running.wait(seconds)

    def __enter__(self) -> GatewayProcess:
        self.start()
        try:
            return self.wait_ready()
        except BaseException:
            self._end()
            raise

    def __exit__(self, *_error: object) -> None:
        self._end()

    def _end(self) -> None:
        if self.running.poll() is None:
            self.kill()
        self.wait()


def _python_path() -> dict[str, str]:
    """The checkout goes first, so that the plugin is found from any folder."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
