"""What is measured: no gateway at all, nginx, and this gateway. Each is one process on one core."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from bench.tools import BENCH, MOCK_PORT, OUT, Cores, Failed, client, end, finish, pinned

NGINX_PORT, GATEWAY_PORT, METRICS_PORT, LITELLM_PORT = 8101, 8102, 8103, 8104
PEER_FOLDER = OUT / "peers"
CALLER_KEY = "sk-test"
PLAIN = (
    '{"model":"mock","messages":[{"role":"system","content":"You are a helpful assistant."},'
    '{"role":"user","content":"Tell me a story about a fox and a dog, please."}]}'
)
STREAM = PLAIN.replace('"messages"', '"stream":true,"stream_options":{"include_usage":true},"messages"', 1)
CROSSED = STREAM.replace('"model":"mock"', '"model":"mock-anthropic"', 1)
"""The same call, served by a provider of another dialect."""
LIVES = 3  # how often a target may die by itself before it is left out

BOOT = """\
proxy:
  addr: 127.0.0.1:{port}
resources_file: {resources}
admin:
  enabled: false
observability:
  access_log: true
  metrics:
    prometheus:
      addr: 127.0.0.1:{metrics}
"""
RESOURCES = """\
_format_version: "1"
provider_keys:
  - {{display_name: mock, provider: openai, api_key: sk-upstream, api_base: "http://127.0.0.1:{mock}/v1"}}
  - {{display_name: other, provider: anthropic, api_key: sk-upstream, api_base: "http://127.0.0.1:{mock}"}}
models:
  - {{display_name: mock, provider: openai, model_name: mock, provider_key: mock}}
  - {{display_name: mock-anthropic, provider: anthropic, model_name: mock, provider_key: other}}
api_keys:
  - {{display_name: bench, key: {key}, allowed_models: ["*"]}}
"""


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        below = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")).split()
    except OSError:
        return [pid]
    return [pid, *(found for child in below for found in tree(int(child)))]


def cpu_ns(pid: int) -> int:
    """CPU time of a process and all below it, from the kernel's per-process clock."""
    return sum(time.clock_gettime_ns((~each << 3) | 2) for each in tree(pid))


def pss_kb(pid: int) -> int:
    """Memory of a process and all below it, shared pages by share; the kernel's socket buffers are not in it."""
    lines = [line for each in tree(pid) for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@dataclass
class Target:
    """One way from the client to the mock provider."""

    name: str
    port: int
    command: list[str] = field(default_factory=list)
    core: int = 0
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    patience: float = 20
    """Seconds it may take to start."""
    down: str = ""
    ready_in: float = 0.0
    """Seconds from the start of the process until its first good answer."""

    @property
    def url(self) -> str:
        """Where the client sends its calls."""
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"

    @property
    def log(self) -> Path:
        """What it prints; for the gateway, the access log."""
        return OUT / f"{self.name}.log"

    def load(self, core: int, *args: str | float, body: str = STREAM) -> subprocess.Popen[str]:
        """Start the load client on it."""
        return client(self.url, "-H", f"authorization: Bearer {CALLER_KEY}", "-d", body, *args, core=core)

    def pid(self) -> int:
        """Of the running process."""
        if self.process is None:
            raise Failed("not running")
        return self.process.pid

    def ensure(self, cores: Cores, *, fresh: bool = False) -> None:
        """Have it running, as a new process if asked; its caches and connections warm."""
        if not self.command:
            return
        if self.down:
            raise Failed(self.down)
        died = self.death()
        self.deaths += bool(died)
        if fresh or died:
            self.stop()
        if self.process is None:
            self._start(cores)

    def _start(self, cores: Cores) -> None:
        if self.deaths >= LIVES:
            self.down = f"died {LIVES} times{self._last_words()}"
            raise Failed(self.down)
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                cwd=BENCH.parent,
                start_new_session=True,
                preexec_fn=pinned(self.core),
            )
        try:
            self._wait(cores.client)
        except Failed as failure:
            self.down = str(failure)
            self.stop()
            raise
        self.ready_in = time.monotonic() - began
        finish(self.load(cores.client, "-c", 64, "-n", 800, "-x", 20, "-o", 10))

    def _wait(self, core: int) -> None:
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise Failed(f"did not start{self._last_words()}")
            found = finish(self.load(core, "-n", 1, "-c", 1, "-o", 3, "-x", 20))
            if found["ok"] == 1:
                return
            time.sleep(0.01)
        last = f"(last: {found['e']}, {found['statuses']})"
        raise Failed(f"gave no good answer in {self.patience:.0f} s {last}{self._last_words()}")

    def death(self) -> str:
        """How it died, if it did so by itself."""
        status = self.process.poll() if self.process is not None else None
        return "" if status is None else f"the process died (status {status}){self._last_words()}"

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()[-1:]
        return f"; last line of {self.log.name}: {lines[0].strip()[:200]}" if lines else ""

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            end(self.process)
            self.process = None

    def checks_key(self) -> bool:
        """Whether a call with a wrong key is refused."""
        call = urllib.request.Request(self.url, PLAIN.encode(), {"authorization": "Bearer sk-wrong"})
        try:
            with urllib.request.urlopen(call, timeout=10):
                return False
        except urllib.error.HTTPError as error:
            return error.code in (400, 401, 403)  # LiteLLM without a database says 400


def counted_tokens() -> float:
    """The completion tokens the gateway's own metrics page tells of."""
    with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("aisix_llm_output_tokens_total"))


def find_nginx() -> str | None:
    """Where nginx is; installed first where that can be done without asking."""
    where = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    if (found := shutil.which("nginx", path=where)) is not None:
        return found
    print("bench: nginx is missing; to install it: apt-get install nginx-light", file=sys.stderr)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    print("bench: installing it", file=sys.stderr)
    quiet = {"stdout": subprocess.DEVNULL, "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "nginx-light"]):
        subprocess.run(command, check=False, **quiet)  # type: ignore[call-overload]
    return shutil.which("nginx", path=where)


def _nginx(core: int) -> Target:
    target = Target("nginx", NGINX_PORT, core=core)
    binary = find_nginx()
    if binary is None:
        target.down, target.command = "not installed; apt-get install nginx-light", ["nginx"]
        return target
    folder = OUT / "nginx"
    folder.mkdir(exist_ok=True)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    # with a sixteenth of its connections left, nginx closes those that have said nothing yet
    words = {
        "FILES": files,
        "CONNECTIONS": files * 5 // 4,
        "CALLER_KEY": CALLER_KEY,
        "MOCK": MOCK_PORT,
        "PORT": NGINX_PORT,
    }
    (folder / "nginx.conf").write_text(Template((BENCH / "nginx.conf").read_text()).substitute(words))
    target.command = [binary, "-p", f"{folder}/", "-c", str(folder / "nginx.conf")]
    return target


def _gateway(core: int) -> Target:
    boot, resources = OUT / "aisix.yaml", OUT / "resources.yaml"
    boot.write_text(BOOT.format(port=GATEWAY_PORT, resources=resources, metrics=METRICS_PORT))
    resources.write_text(RESOURCES.format(mock=MOCK_PORT, key=CALLER_KEY))
    command = [sys.executable, "-m", "twisted_gateway", "--config", str(boot)]
    return Target("gateway", GATEWAY_PORT, command, core)


LITELLM = """\
model_list:
  - model_name: mock
    litellm_params: {{model: openai/mock, api_base: "http://127.0.0.1:{mock}/v1", api_key: sk-upstream}}
general_settings: {{master_key: {key}}}
"""


def _litellm(core: int) -> Target:
    """LiteLLM's proxy, one worker, its key checked; `make bench-peers` installs it in an environment of its own."""
    target = Target("litellm", LITELLM_PORT, core=core)
    program, settings = PEER_FOLDER / "litellm" / "bin" / "litellm", OUT / "litellm.yaml"
    settings.write_text(LITELLM.format(mock=MOCK_PORT, key=CALLER_KEY))
    target.command = [str(program), "--config", str(settings), "--host", "127.0.0.1", "--port", str(LITELLM_PORT)]
    if not program.exists():
        target.down = "not installed; make bench-peers"
    target.patience = 120
    return target


def make(names: list[str], core: int) -> list[Target]:
    """The targets of these names, their configuration written."""
    makers = {
        "direct": lambda _: Target("direct", MOCK_PORT),
        "nginx": _nginx,
        "gateway": _gateway,
        "litellm": _litellm,
    }
    targets = [makers[name](core) for name in names]
    for target in targets:
        target.log.write_bytes(b"")
    return targets


NAMES = ("direct", "nginx", "gateway")
PEERS = ("litellm",)
"""Measured only when asked for."""
