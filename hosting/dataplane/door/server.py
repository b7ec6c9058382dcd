"""The listening socket, and all connections of one gateway process (`connection.py`)."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import Any, Final

from hosting.dataplane.door.connection import Connection, Handler, OnRefused

SWEEP_S: Final = 1.0
BACKLOG: Final = 2048


class Server:
    """`start` it in the running loop; `stop` welcomes nobody any more; `close_unused` lets those go who ask nothing; `close` ends
    what is left."""

    def __init__(
        self,
        handle: Handler,
        *,
        on_refused: OnRefused,
        head_s: float,
        stalled_s: float,
        max_connections: int,
    ) -> None:
        self.handle = handle
        self.on_refused = on_refused
        self.head_s = head_s
        self.stalled_s = stalled_s
        self.is_stopping = False  # no connection is used again after its answer
        self.is_closing = False  # none waits for another request
        self._max_connections = max_connections
        self._connections: set[Connection] = set()
        self._listening: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Raises OSError when the port is taken."""
        loop: Any = asyncio.get_running_loop()
        self._listening = await loop.create_server(
            lambda: Connection(self), host, port, backlog=BACKLOG, reuse_address=True
        )
        self._sweeper = asyncio.create_task(self._sweep())

    def welcome(self, connection: Connection) -> bool:
        """Whether there is room for one more. It is swept in either case."""
        self._connections.add(connection)
        return len(self._connections) <= self._max_connections

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)

    async def stop(self) -> None:
        """New connections are refused by the system. Who has one already may ask once more, and is told that it was the last time: a
        request could be on its way, and whoever stands in front of us would not dare to send it to another node."""
        self.is_stopping = True
        if self._listening is None:
            return
        waiting = [found for each in self._listening.sockets for found in _accept_waiting(each.fileno())]
        self._listening.close()
        loop = asyncio.get_running_loop()
        for found in waiting:
            await loop.connect_accepted_socket(lambda: Connection(self), found)

    async def wait_unused(self) -> None:
        """Until no connection is open on which nothing is being answered."""
        while any(each.is_unused for each in self._connections):  # noqa: ASYNC110 - at the end of the process
            await asyncio.sleep(0.02)

    def close_unused(self) -> None:
        self.is_closing = True
        for connection in list(self._connections):
            connection.close_when_idle()

    async def close(self, within_s: float) -> None:
        """What was written is sent as far as clients read it in `within_s`."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._connections):
            connection.close()
        deadline = time.monotonic() + within_s
        while self._connections and time.monotonic() < deadline:  # noqa: ASYNC110 - at the end of the process
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for connection in [each for each in self._connections if each.deadline < now]:
                connection.abort()


def _accept_waiting(listening: int) -> list[socket.socket]:
    """Those whom the system has let in and nobody has accepted yet: closing the door would reset them, requests and all."""
    found: list[socket.socket] = []
    with socket.socket(fileno=os.dup(listening)) as door:
        while len(found) < BACKLOG:
            try:
                found.append(door.accept()[0])
            except OSError:  # there is no more of them, or no file for one
                break
    return found
