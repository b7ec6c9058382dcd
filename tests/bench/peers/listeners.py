"""Many clients that listen: `python -m tests.bench.peers.listeners`, told on its standard input, answering on its standard output.

First line in: a `Told`. Once all streams are open a line goes out; each further line in is a number of seconds to measure for, and a `Heard`
goes out after them. The end of the input ends it. A client opens a session first where it is told how (`initialize`).
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from array import array
from typing import cast

import msgspec
import uvloop

AT_ONCE = 64
OPEN_S = 240.0
_EVENT = re.compile(rb'"n":(\d+),"at":(\d+)')
_SESSION = re.compile(rb"\r\n(mcp-session-id: [^\r]+\r\n)", re.IGNORECASE)


class Told(msgspec.Struct):
    """Whole requests. `{session}` in `listen` stands for the session's header."""

    port: int
    streams: int
    listen: bytes
    initialize: bytes = b""


class Heard(msgspec.Struct):
    """Of all streams together. `lost`: numbers that were left out; `silent`: streams on which nothing came."""

    events: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    lost: int
    silent: int


class Listener(asyncio.Protocol):
    def __init__(self, told: Told, waits: array[float]) -> None:
        self._told = told
        self._waits = waits
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # from connection_made on
        self._rest = b""
        self._is_listening = False
        self._number = 0
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = 0
        self.heard = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._told.initialize or self._told.listen)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.open.done():
            self.open.set_exception(ConnectionError("closed before the stream was open"))

    def data_received(self, data: bytes) -> None:
        if not self._is_listening:
            self._begin(data)
            return
        if self._rest:
            data = self._rest + data
        now = time.monotonic_ns()
        end = data.rfind(b"\n\n") + 2
        self._rest = data[end:] if end > 1 else data
        for found in _EVENT.finditer(data, 0, max(end, 0)):
            number, at = int(found[1]), int(found[2])
            if self._number:
                self.lost += number - self._number - 1
            self._number = number
            self.heard += 1
            self._waits.append((now - at) / 1e6)

    def _begin(self, data: bytes) -> None:
        self._rest += data
        if b"\r\n\r\n" not in self._rest:
            return
        head, rest = self._rest, b""
        if not head.startswith(b"HTTP/1.1 200"):
            if not self.open.done():
                self.open.set_exception(ConnectionError(head[:400].decode("latin-1")))
            return
        session = _SESSION.search(head)
        if session is not None and b"text/event-stream" not in head.lower():
            self._transport.write(self._told.listen.replace(b"{session}", session[1]))
        else:
            self._is_listening = True
            self.open.set_result(None)
        self._rest = rest


async def _open(told: Told, waits: array[float]) -> list[Listener]:
    loop, turns = asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)

    async def one() -> Listener:
        async with turns:
            _, listener = await loop.create_connection(lambda: Listener(told, waits), "127.0.0.1", told.port)
            await listener.open
            return listener

    async with asyncio.timeout(OPEN_S):
        return await asyncio.gather(*(one() for _ in range(told.streams)))


async def run() -> None:
    """Raises ConnectionError when a stream cannot be opened."""
    loop = asyncio.get_running_loop()
    told = msgspec.json.decode(await loop.run_in_executor(None, sys.stdin.readline), type=Told)
    waits: array[float] = array("d")
    listeners = await _open(told, waits)
    _say(b"{}")
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        del waits[:]
        for listener in listeners:
            listener.lost = listener.heard = 0
        await asyncio.sleep(float(line))
        took = sorted(waits) or [0.0]
        _say(
            msgspec.json.encode(
                Heard(
                    events=len(waits),
                    p50_ms=took[len(took) // 2],
                    p99_ms=took[len(took) * 99 // 100],
                    max_ms=took[-1],
                    lost=sum(listener.lost for listener in listeners),
                    silent=sum(not listener.heard for listener in listeners),
                )
            )
        )


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(run())
