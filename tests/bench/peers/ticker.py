"""A server that tells everybody who listens something every second: `python -m tests.bench.peers.ticker PORT`.

It begins when it is asked `START`, or opening many streams would be measured too.
A listener is a GET under a session, or a POST of `subscriptions/listen`. Each event holds its number on the stream and when it was written
(CLOCK_MONOTONIC, ns: the same in every process of a machine). The streams' seconds begin spread over SLOTS, as unrelated servers' would.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop

from tests.bench.peers.stub import Stub, answer_to

START, STOP = "bench/start", "bench/stop"
SLOTS = 100
SLOT_S = 1 / SLOTS
SESSION = b"\r\nmcp-session-id: "
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":{"n":%d,"at":%d}}}\n\n'
_ACKNOWLEDGED = b'data: {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{}}}\n\n'


class Listening(Stub):
    """A connection; it takes its place in a slot when it begins to listen."""

    slots: tuple[list[Listening], ...] = tuple([] for _ in range(SLOTS))
    opened = 0
    is_telling = False

    def __init__(self) -> None:
        super().__init__()
        self._slot: list[Listening] | None = None
        self._told = 0

    def answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get ") or b'"subscriptions/listen"' in body:
            self._listen(b"" if head.startswith(b"get ") else _ACKNOWLEDGED)
            return
        answer = answer_to(body)
        if START.encode() in body or STOP.encode() in body:
            Listening.is_telling = START.encode() in body
        if b'"initialize"' in body:
            Listening.opened += 1
            answer = answer.replace(b"\r\n\r\n", SESSION + b"ticker-%d\r\n\r\n" % Listening.opened, 1)
        self.write(answer)

    def _listen(self, first: bytes) -> None:
        self._slot = min(Listening.slots, key=len)
        self._slot.append(self)
        self.write(_HEAD + (_chunk(first) if first else b""))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._slot is not None:
            self._slot.remove(self)

    def tell(self) -> None:
        self._told += 1
        self.write(_chunk(_EVENT % (self._told, time.monotonic_ns())))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(Listening, "127.0.0.1", port, backlog=2048)
    tick = int(loop.time() * SLOTS)
    while True:
        tick += 1
        await asyncio.sleep(tick * SLOT_S - loop.time())
        for listening in Listening.slots[tick % SLOTS] if Listening.is_telling else ():
            listening.tell()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
