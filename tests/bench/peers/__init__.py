"""What the gateway is measured beside, each started as its makers say, in front of the same stub: `start` of each module gives a Peer.

nginx is Debian's; the others come from PyPI at the versions pinned beside, each in an environment of its own under `var/bench/`. None of
them checks callers, sessions or limits here: what the gateway does besides counts against it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx
import psutil

from tests.parts import ROOT, free_port
from tests.waiting import wait_for

Era = Literal["legacy", "modern"]
Kind = Literal["json", "sse"]
ENVIRONMENTS = ROOT / "var" / "bench"
HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
START_S = 240.0  # ContextForge migrates its database first


@dataclass
class Peer:
    """Something that answers MCP at `port`. `requests` holds a whole HTTP request for what it speaks."""

    name: str
    pid: int
    port: int
    requests: dict[tuple[Era, Kind], bytes] = field(default_factory=dict)
    share: float = 1.0  # of the ordinary number of requests: slow peers would take hours

    def cpu_s(self) -> float:
        """User and system time of the process and all its children so far."""
        total = 0.0
        process = psutil.Process(self.pid)
        for each in (process, *process.children(recursive=True)):
            times = each.cpu_times()
            total += times.user + times.system
        return total


Start = Callable[[ExitStack, Path, str], Peer]  # what ends with it, where it may write, the stub's origin


def environment(name: str) -> Path:
    """The `bin` of a virtual environment with what `<name>.txt` pins; made once."""
    home = ENVIRONMENTS / name
    done = home / "installed"
    pins = Path(__file__).parent / f"{name}.txt"
    if not done.exists() or done.read_text() != pins.read_text():
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", str(home)], check=True)
        python = str(home / "bin" / "python")
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--require-hashes", "--python", python, "-r", str(pins)],
            check=True,
        )
        done.write_text(pins.read_text())
    return home / "bin"


def spawn(
    stack: ExitStack,
    directory: Path,
    name: str,
    command: list[str],
    environ: Mapping[str, str] | None = None,
    where: Path | None = None,
) -> int:
    """The process's id; it ends with the stack, and its output is in `<name>.log`."""
    with (directory / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=where or directory)
    stack.callback(_end, process)
    return process.pid


def start_stub(stack: ExitStack, directory: Path, module: str = "stub") -> str:
    """The origin of the server behind everybody."""
    port = free_port()
    command = [sys.executable, "-m", f"tests.bench.peers.{module}", str(port)]
    spawn(stack, directory, f"{module}-{port}", command, where=ROOT)
    wait_until_it_answers(f"http://127.0.0.1:{port}/mcp", b'{"id":1,"method":"ping"}', HEADERS)
    return f"http://127.0.0.1:{port}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def raw(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A whole HTTP/1.1 request."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def wait_until_it_answers(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Until a POST is answered with 200."""

    def answers() -> bool:
        try:
            return httpx.post(url, content=body, headers=dict(headers), timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    wait_for(answers, START_S, what=f"{url} to answer")
