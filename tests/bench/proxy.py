"""What the gateway costs per request, beside a bare pass-through in the same run on the same stub upstream.

The gateway does all it does in production: address, API key, sealed session or the modern checks, bounds, re-framing, metrics,
reports. CPU is user and system time of the process measured, everything else (load, stub, Redis) is other processes; latency
is as the client sees it. `passthrough` is aiohttp on both sides and knows nothing of MCP.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from hosting.dataplane.contract import Dispatch, Limits
from tests.bench import figure
from tests.dataplane.harness import (
    AUDIENCE,
    GatewayProcess,
    Publisher,
    RedisProcess,
    Spawned,
    StandInProcess,
    World,
    call_of,
    modern_request,
)
from tests.dataplane.hostile import raw_request
from tests.parts import free_port
from tests.waiting import wait_for

REQUESTS = {1: 3000, 32: 12_000}


@dataclass
class Peer:
    """Something that answers MCP at `port`; `requests` holds a whole HTTP request by era."""

    name: str
    pid: int
    port: int
    requests: dict[tuple[str, str], bytes]


def main() -> None:
    """Reports the figures."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="smcp-bench-"))
        stack.callback(shutil.rmtree, directory)
        world, upstream = new_world(stack, directory)
        passing = _spawned("pass", free_port(), directory, f"{upstream}/mcp")
        stack.callback(passing.stop)
        peers = [
            _gateway(world, upstream),
            Peer("passthrough", passing.pid, int(passing.arguments[3]), {}),
        ]
        for peer in peers:
            for key, request in peers[0].requests.items():
                for connections, count in REQUESTS.items():
                    asyncio.run(_measure(peer, key, request, connections, count))


async def _measure(peer: Peer, key: tuple[str, str], request: bytes, connections: int, count: int) -> None:
    process = psutil.Process(peer.pid)
    await _load(peer.port, request, connections, count // 4)
    before, started = process.cpu_times(), time.perf_counter()
    latencies = sorted(await _load(peer.port, request, connections, count))
    elapsed, after = time.perf_counter() - started, process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    name = f"{peer.name}.{key[0]}.{key[1]}.c{connections}"
    figure(f"{name}.cpu_us", cpu_s / len(latencies) * 1e6, "µs")
    figure(f"{name}.rps", len(latencies) / elapsed, "1/s")
    figure(f"{name}.p50_ms", latencies[len(latencies) // 2] * 1000, "ms")
    figure(f"{name}.p99_ms", latencies[len(latencies) * 99 // 100] * 1000, "ms")


async def _load(port: int, request: bytes, connections: int, count: int) -> list[float]:
    """Latencies in seconds. Raises AssertionError for any answer but 200."""

    async def work() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        latencies = []
        for _ in range(count // connections):
            started = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200"), head
            if b"\r\ncontent-length:" in head:
                at = head.index(b"content-length:") + 15
                await reader.readexactly(int(head[at:].partition(b"\r\n")[0]))
            else:
                while size := int(await reader.readline(), 16):
                    await reader.readexactly(size + 2)
                await reader.readexactly(2)
            latencies.append(time.perf_counter() - started)
        writer.close()
        await writer.wait_closed()
        return latencies

    return [
        latency for told in await asyncio.gather(*(work() for _ in range(connections))) for latency in told
    ]


def new_world(stack: ExitStack, directory: Path) -> tuple[World, str]:
    """A gateway with what it needs, and the origin of a stub that answers at once; ended with `stack`."""
    stub = stack.enter_context(_running("stub", free_port(), directory))
    redis = RedisProcess(directory / "redis", free_port())
    redis.start()
    stack.callback(redis.stop)
    publisher = stack.enter_context(_closing(Publisher(redis.url)))
    publisher.new_epoch()
    standin = StandInProcess(directory)  # started for its control door alone; the stub is what is called
    standin.start()
    stack.callback(standin.stop)
    gateway = GatewayProcess(directory, redis_url=redis.url, dispatch_ring=standin.dispatch_ring)
    gateway.start()
    stack.callback(gateway.stop)
    world = World(gateway, standin, publisher, stack.enter_context(httpx.Client()))
    return world, f"http://127.0.0.1:{stub}"


def stub_dispatch(upstream: str) -> Dispatch:
    return Dispatch(url=upstream, audience=AUDIENCE)


def _gateway(world: World, upstream: str) -> Peer:
    gateway = world.gateway
    route = world.server("bench", dispatch=stub_dispatch(upstream), limits=Limits(concurrency=10_000))
    caller = world.at(world.url(route), world.key())
    opened = caller.initialize()
    assert opened.status_code == 200, opened.text
    origin = gateway.url
    requests = {}
    for answer, tool in (("json", "add"), ("sse", "events")):
        requests["legacy", answer] = raw_request(caller, call_of(tool, a=1, b=41), origin=origin)
        body, more = modern_request("tools/call", {"name": tool, "arguments": {"a": 1, "b": 41}})
        requests["modern", answer] = raw_request(caller, body, origin=origin, mcp_session_id=None, **more)
    return Peer("smcp", gateway.pid, gateway.port, requests)


@contextmanager
def _closing(publisher: Publisher) -> Iterator[Publisher]:
    yield publisher
    publisher.close()


def _spawned(which: str, port: int, directory: Path, *more: str) -> Spawned:
    arguments = ["-m", "tests.bench._peers", which, str(port), *more]
    process = Spawned(which, arguments, {}, directory / f"{which}.log")
    process.spawn()
    wait_for(lambda: _listens(port), what=f"{which} to listen")
    return process


@contextmanager
def _running(which: str, port: int, directory: Path) -> Iterator[int]:
    process = _spawned(which, port, directory)
    try:
        yield port
    finally:
        process.stop()


def _listens(port: int) -> bool:
    return any(
        connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
        for connection in psutil.net_connections("tcp4")
    )


if __name__ == "__main__":
    main()
