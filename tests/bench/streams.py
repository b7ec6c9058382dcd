"""What an open stream costs: memory of the gateway, and how long an event is on its way while every stream has one a second.

Streams of both eras, each run on a gateway of its own: `subscriptions/listen`, and GET under a session, where each event is written to Redis
before it is sent so that its client can come back for it at any node. The server (`ticker`) and the clients (`listeners`) are processes of
their own and hold as many sockets as there are streams; the gateway holds two for each. Where the machine's file limit does not let it
have STREAMS, it has fewer, and says so. On two cores the gateway has one to itself at best.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import psutil

from hosting.dataplane.contract import Dispatch, Limits
from tests.bench import figure
from tests.bench.peers import HEADERS, Era, raw, start_stub
from tests.bench.peers.listeners import OPEN_S, Heard, Told
from tests.bench.peers.smcp import start_world
from tests.bench.peers.ticker import START, STOP
from tests.dataplane.harness import AUDIENCE, World, modern_request, request
from tests.parts import ROOT
from tests.waiting import wait_for

STREAMS = 10_000
OTHER_FILES = 250  # of the gateway, besides its streams' sockets
WARM = 200  # streams that are opened first, so that what is loaded once does not count
SETTLE_S, MEASURED_S, RECOVER_S = 5.0, 20.0, 120.0
GOAL_KB, GOAL_MS = 45.0, 250.0
ERAS: tuple[Era, ...] = ("modern", "legacy")


def main() -> None:
    """Reports the figures."""
    streams = _raise_file_limit()
    with ExitStack() as whole:
        directory = Path(tempfile.mkdtemp(prefix="smcp-bench-"))
        whole.callback(shutil.rmtree, directory)
        for era in ERAS:
            with ExitStack() as stack:
                (directory / era).mkdir()
                _measure(stack, directory / era, era, streams)


def _raise_file_limit() -> int:
    """How many streams one gateway can have here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    streams = min(STREAMS, (hard - OTHER_FILES) // 2)
    if streams < STREAMS:
        sys.stdout.write(f"{streams} streams instead of {STREAMS}: a process may have {hard} files open.\n")
    return streams


def _measure(stack: ExitStack, directory: Path, era: Era, streams: int) -> None:
    upstream = start_stub(stack, directory, "ticker")
    # One tenant has all streams here, and would have logged as much as it may after half a minute.
    world = start_world(stack, directory, max_tenant_logged_bytes=str(1024**3))
    told = _told(world, era, upstream, streams)
    with _Listeners(msgspec.structs.replace(told, streams=WARM)) as few:
        _tell(upstream, START)
        few.measure(SETTLE_S)
        _tell(upstream, STOP)
    gateway = psutil.Process(world.gateway.pid)
    before = gateway.memory_full_info()
    with _Listeners(told) as listeners:
        _tell(upstream, START)
        listeners.measure(SETTLE_S)
        began = _cpu_s(gateway)
        heard = listeners.measure(MEASURED_S)
        cpu_us = (_cpu_s(gateway) - began) / max(heard.events, 1) * 1e6
        after = gateway.memory_full_info()
        _tell(upstream, STOP)
    name = f"streams.{era}"
    figure(f"{name}.open", streams, "", goal=streams, better="higher")
    figure(f"{name}.rss_kb_each", (after.rss - before.rss) / streams / 1024, "KB", goal=GOAL_KB)
    figure(f"{name}.pss_kb_each", (after.pss - before.pss) / streams / 1024, "KB", goal=GOAL_KB)
    figure(f"{name}.p50_ms", heard.p50_ms, "ms")
    figure(f"{name}.p99_ms", heard.p99_ms, "ms", goal=GOAL_MS)
    figure(f"{name}.max_ms", heard.max_ms, "ms")
    figure(f"{name}.events_per_s", heard.events / MEASURED_S, "1/s", goal=streams * 0.98, better="higher")
    figure(f"{name}.events_lost", heard.lost, "", goal=0)
    figure(f"{name}.silent", heard.silent, "", goal=0)
    figure(f"{name}.cpu_us_per_event", cpu_us, "µs")
    figure(f"{name}.unlogged", _unlogged(world), "", goal=0)


def _unlogged(world: World) -> float:
    """Once the gateway answers: overloaded, it takes a while."""

    def count() -> tuple[float] | None:
        try:
            return (world.gateway.metric("smcp_gateway_events_unlogged_total"),)
        except httpx.TransportError:
            return None

    found = wait_for(count, RECOVER_S, what="the gateway to tell its metrics")
    assert found is not None
    return found[0]


def _told(world: World, era: Era, upstream: str, streams: int) -> Told:
    """A session for each legacy client, as real ones have."""
    limits = Limits(concurrency=streams + WARM)
    route = world.server(
        "bench",
        world.target(issues_sessions=True),
        dispatch=Dispatch(url=upstream, audience=AUDIENCE),
        limits=limits,
    )
    path = world.url(route).removeprefix(world.gateway.url)
    headers = HEADERS | {"authorization": f"Bearer {world.key()}"}
    if era == "modern":
        body, more = modern_request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        return Told(world.gateway.port, streams, raw(path, msgspec.json.encode(body), headers))
    client = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "bench", "version": "1"},
    }
    lines = [f"GET {path} HTTP/1.1", "host: 127.0.0.1", "mcp-protocol-version: 2025-11-25"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name != "content-type"]
    return Told(
        world.gateway.port,
        streams,
        "\r\n".join([*lines, "{session}\r\n"]).encode(),
        raw(path, msgspec.json.encode(request("initialize", client)), headers),
    )


def _tell(upstream: str, method: str) -> None:
    httpx.post(f"{upstream}/mcp", json=request(method), timeout=30).raise_for_status()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class _Listeners:
    """`tests.bench.peers.listeners`, with all its streams open."""

    def __init__(self, told: Told) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.peers.listeners"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._told = told

    def __enter__(self) -> _Listeners:
        self._ask(msgspec.json.encode(self._told))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(OPEN_S)
        finally:
            self._process.kill()
            self._process.wait()

    def measure(self, for_s: float) -> Heard:
        return msgspec.json.decode(self._ask(str(for_s).encode()), type=Heard)

    def _ask(self, line: bytes) -> bytes:
        """Raises RuntimeError when it has ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        if not said:
            raise RuntimeError("the listeners ended")
        return said


if __name__ == "__main__":
    main()
