"""What a call through the gateway costs, beside other ways through in the same run, on the same stub upstream.

CPU is user and system time of what is measured, its children included; load, stub and Redis are other processes. Latency is as the
client sees it. Each figure is `<peer>.<era>.<answer>.c<connections>.<figure>`; the goals compare with Envoy's MCP router and ContextForge.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path

from tests.bench import figure
from tests.bench.peers import Peer, Start, contextforge, envoy, fastmcp, nginx, smcp, start_stub

CONNECTIONS = {1: 2000, 32: 12_000, 256: 12_000}  # how many requests each
STARTS: tuple[Start, ...] = (
    smcp.start,
    nginx.start,
    envoy.start_filter,
    envoy.start_router,
    contextforge.start,
    fastmcp.start,
)
Figures = dict[str, float]


def main() -> None:
    """Reports the figures. A peer at a time, so that none waits beside another."""
    found: dict[str, Figures] = {}
    with ExitStack() as whole:
        directory = Path(tempfile.mkdtemp(prefix="smcp-bench-"))
        whole.callback(shutil.rmtree, directory)
        upstream = start_stub(whole, directory)
        for start in STARTS:
            with ExitStack() as stack:
                peer = start(stack, directory, upstream)
                for (era, kind), request in peer.requests.items():
                    for connections, count in CONNECTIONS.items():
                        name = f"{peer.name}.{era}.{kind}.c{connections}"
                        found[name] = asyncio.run(_measure(peer, request, connections, count))
                        for what, value in found[name].items():
                            figure(f"{name}.{what}", value, _UNITS[what])
    _compare(found)


_UNITS = {"cpu_us": "µs", "rps": "1/s", "p50_ms": "ms", "p99_ms": "ms"}


def _compare(found: dict[str, Figures]) -> None:
    for era in ("legacy", "modern"):
        for kind in ("json", "sse"):
            ours, envoys = (
                found[f"{name}.{era}.{kind}.c32"]["cpu_us"] for name in ("smcp", "envoy_mcp_router")
            )
            figure(f"cpu_beside_envoy.{era}.{kind}", ours / envoys, "×", goal=1.5)
    ours, theirs = (found[f"{name}.legacy.json.c32"]["cpu_us"] for name in ("smcp", "contextforge"))
    figure("cpu_below_contextforge", theirs / ours, "×", goal=200, better="higher")
    added = found["smcp.legacy.json.c1"]["p50_ms"] - found["nginx.legacy.json.c1"]["p50_ms"]
    figure("latency_over_nginx_p50", added, "ms", goal=0.5)


async def _measure(peer: Peer, request: bytes, connections: int, count: int) -> Figures:
    count = max(int(count * peer.share), connections * 2)
    await load(peer.port, repeat(request), connections, max(count // 4, connections))
    before, started = peer.cpu_s(), time.perf_counter()
    latencies = sorted(await load(peer.port, repeat(request), connections, count))
    elapsed, cpu_s = time.perf_counter() - started, peer.cpu_s() - before
    return {
        "cpu_us": cpu_s / len(latencies) * 1e6,
        "rps": len(latencies) / elapsed,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
    }


async def load(port: int, requests: Iterator[bytes], connections: int, count: int) -> list[float]:
    """Latencies in seconds. Raises AssertionError for any answer but 200."""

    async def work() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        latencies = []
        for _ in range(count // connections):
            started = time.perf_counter()
            writer.write(next(requests))
            await _answer(reader)
            latencies.append(time.perf_counter() - started)
        writer.close()
        await writer.wait_closed()
        return latencies

    told = await asyncio.gather(*(work() for _ in range(connections)))
    return [latency for latencies in told for latency in latencies]


async def _answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200"), head
    if b"\r\ncontent-length:" in head:
        at = head.index(b"content-length:") + 15
        await reader.readexactly(int(head[at:].partition(b"\r\n")[0]))
        return
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
    await reader.readexactly(2)


if __name__ == "__main__":
    main()
