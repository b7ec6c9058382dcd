"""Servers behind the gateway that do what no server should, callers who keep asking them, and neighbours whose waiting is measured.

`python -m tests.dataplane.hostile PORT CONNECTIONS FILE` is the callers, a process of their own: each sends the request in FILE on
a connection of its own, takes whatever comes until the end, pauses, and starts again.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.dataplane.harness import Caller, Spawned, World, modern_request

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
EVENTS_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
RESULT = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'
NOTE = b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{"data":"x"}}\n\n'
CHUNK = b"%x\r\n%s\r\n" % (64 * 1024, b" " * 64 * 1024)

#: name → what `StandInProcess.answer_raw` is told
HOSTILITIES: dict[str, dict[str, Any]] = {
    "hangs": {"answer": b"", "stays_open": True},
    "drips": {"answer": HEAD + b"content-length: 100000\r\n\r\n{", "more": b" ", "every_s": 0.02},
    "sends_gigabytes": {"answer": HEAD + CHUNKED, "more": CHUNK},
    "floods_events": {"answer": EVENTS_HEAD, "more": NOTE * 500},
    "never_ends": {"answer": EVENTS_HEAD, "more": NOTE, "every_s": 0.1},
    "promises_too_much": {"answer": HEAD + b"content-length: 1000\r\n\r\n" + RESULT},
    "promises_too_little": {"answer": HEAD + b"content-length: 10\r\n\r\n" + RESULT, "stays_open": True},
    "announces_gigabytes": {"answer": HEAD + b"content-length: 5000000000\r\n\r\n", "more": b" " * 65536},
}
PAUSE_S = 0.5
NEIGHBOURS_PAUSE_S = 0.005


def raw_request(caller: Caller, message: object, *, origin: str, **headers: str | None) -> bytes:
    """A whole HTTP request as `caller` would send it. `origin` is the gateway's URL."""
    body = json.dumps(message).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [
        f"POST {caller.url.removeprefix(origin)} HTTP/1.1",
        "host: 127.0.0.1",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in {**caller.headers, **named}.items() if value is not None),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Callers:
    """Of a hostile server, until `stop`."""

    def __init__(self, world: World, caller: Caller, connections: int, directory: Path) -> None:
        body, headers = modern_request("tools/call", {"name": "x"})
        request = raw_request(caller, body, origin=world.gateway.url, connection="close", **headers)
        file = directory / f"request-{time.monotonic_ns()}"
        file.write_bytes(request)
        arguments = ["-m", "tests.dataplane.hostile", str(world.gateway.port), str(connections), str(file)]
        self._process = Spawned("callers", arguments, {}, directory / "callers.log")
        self._process.spawn()

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._process.stop()


@dataclass
class Measured:
    """Of one neighbour. Seconds."""

    waits: list[float] = field(default_factory=list)
    failures: list[bytes] = field(default_factory=list)

    def percentile_ms(self, share: float) -> float:
        return sorted(self.waits)[int(len(self.waits) * share)] * 1000


def measure(
    port: int, requests: dict[str, bytes], *, for_s: float, connections: int = 2
) -> dict[str, Measured]:
    """Each neighbour's requests, one after the other with a pause, on so many connections each."""
    measured = {name: Measured() for name in requests}

    async def work(name: str, until: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        into = measured[name]
        while time.perf_counter() < until:
            began = time.perf_counter()
            writer.write(requests[name])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            at = head.index(b"content-length:") + 15
            body = await reader.readexactly(int(head[at:].partition(b"\r\n")[0]))
            into.waits.append(time.perf_counter() - began)
            if not head.startswith(b"http/1.1 200") or b'"result"' not in body:
                into.failures.append(head + body)
            await asyncio.sleep(NEIGHBOURS_PAUSE_S)
        writer.close()

    async def run() -> None:
        until = time.perf_counter() + for_s
        await asyncio.gather(*(work(name, until) for name in requests for _ in range(connections)))

    asyncio.run(run())
    return measured


def _keep_calling(port: int, request: bytes) -> None:
    space = bytearray(1024 * 1024)
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=600) as connection:
                connection.sendall(request)
                while connection.recv_into(space):
                    pass
        except OSError:
            pass
        time.sleep(PAUSE_S * random.uniform(0.5, 1.5))  # not all of them at once


def main() -> None:
    port, connections, request = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).read_bytes()
    for _ in range(connections):
        threading.Thread(target=_keep_calling, args=(port, request), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
