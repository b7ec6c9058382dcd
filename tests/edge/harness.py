"""A real edge in a process of its own, with free ports and a data directory that outlives restarts."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")
ACCOUNT_A = "a" * 31 + "1"
ACCOUNT_B = "b" * 31 + "2"
START_TIMEOUT_S = 20.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class EdgeProcess:
    """`python -m edge`. `start`, `stop` (SIGTERM) and `kill` (SIGKILL) may be called again and again; ports stay."""

    def __init__(self, data: Path, *flags: str, environ: dict[str, str] | None = None) -> None:
        self.data = data
        self.flags = flags
        self.api_port, self.workers_port = free_port(), free_port()
        self.tokens = {
            ACCOUNT_A: "token-a-" + secrets.token_hex(8),
            ACCOUNT_B: "token-b-" + secrets.token_hex(8),
        }
        accounts = ",".join(f"{account}={token}" for account, token in self.tokens.items())
        self.environ = {**os.environ, "EDGE_ACCOUNTS": accounts, **(environ or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.log_path = data.with_name(data.name + ".log")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def workers_url(self) -> str:
        return f"http://127.0.0.1:{self.workers_port}"

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def command(self) -> list[str]:
        ports = ["--api-port", str(self.api_port), "--workers-port", str(self.workers_port)]
        return [sys.executable, "-m", "edge", "--data", str(self.data), *ports, *self.flags]

    def start(self) -> EdgeProcess:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(self.command(), env=self.environ, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if httpx.get(self.url + "/healthz", timeout=2).status_code == 200:
                    return self
            except httpx.TransportError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the edge did not start:\n{self.log}") from None
                time.sleep(0.02)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)

    def client(self, account: str = ACCOUNT_A, *, timeout_s: float = 30) -> EdgeClient:
        return EdgeClient(self, account, timeout_s=timeout_s)


class EdgeClient(httpx.Client):
    """An httpx client with the account's token, whose URLs follow /client/v4/accounts/<account>."""

    def __init__(self, edge: EdgeProcess, account: str, *, timeout_s: float = 30) -> None:
        self.account = account
        super().__init__(
            base_url=f"{edge.url}/client/v4/accounts/{account}",
            headers={"authorization": f"Bearer {edge.tokens[account]}"},
            timeout=timeout_s,
            trust_env=False,
        )

    def create_kv(self, title: str | None = None) -> str:
        return str(result(self.post("/storage/kv/namespaces", json={"title": title or unique("kv")}))["id"])

    def create_r2(self, name: str | None = None) -> str:
        return str(result(self.post("/r2/buckets", json={"name": name or unique("bucket")}))["name"])

    def create_d1(self, name: str | None = None) -> str:
        return str(result(self.post("/d1/database", json={"name": name or unique("db")}))["uuid"])


class Neighbours:
    """Other customers of an edge, who ask it small things all the time while one asks something large."""

    def __init__(self, edge: EdgeProcess) -> None:
        self._edge = edge
        self.took_s = 0.0
        self.longest_s = 0.0
        self.grown_mb = 0

    def while_running(self, work: Callable[[], T]) -> T:
        """What `work` returns; how long it took, how long a neighbour waited at most, what memory the edge needed at most."""
        before = peak_mb(self._edge)
        with self._edge.client() as api, ThreadPoolExecutor(1) as pool:
            url = f"/d1/database/{api.create_d1()}/query"
            result(api.post(url, json={"sql": "SELECT 1"}))
            began = time.monotonic()
            running = pool.submit(work)
            while not running.done():
                asked = time.monotonic()
                assert api.get(f"{self._edge.url}/healthz").status_code == 200
                answered = time.monotonic()
                result(api.post(url, json={"sql": "SELECT 1"}))
                self.longest_s = max(self.longest_s, answered - asked, time.monotonic() - answered)
            self.took_s = time.monotonic() - began
        self.grown_mb = peak_mb(self._edge) - before
        return running.result()


def peak_mb(edge: EdgeProcess) -> int:
    """The most memory the edge ever had."""
    assert edge.process is not None
    status = Path(f"/proc/{edge.process.pid}/status").read_text()
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def unique(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(6)}"


def result(response: httpx.Response, status: int = 200) -> Any:
    """The result of an answer that must be a success."""
    assert response.status_code == status, f"{response.status_code}: {response.text[:500]}"
    body = response.json()
    assert body["success"] is True
    assert body["errors"] == []
    return body["result"]


def error(response: httpx.Response, status: int) -> int:
    """The code of an answer that must be an error in Cloudflare's envelope."""
    assert response.status_code == status, f"{response.status_code}: {response.text[:500]}"
    body = response.json()
    assert body["success"] is False
    assert body["result"] is None
    assert body["errors"][0]["message"]
    return int(body["errors"][0]["code"])
