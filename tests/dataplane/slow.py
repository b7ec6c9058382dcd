"""A Redis that takes its time: a TCP proxy of the test's own in front of it, whose replies come late."""

from __future__ import annotations

import asyncio
import threading
from urllib.parse import urlsplit, urlunsplit

from tests.parts import free_port


class SlowProxy:
    """Replies pass `delay_s` late, in order; requests at once. Runs in a thread until `stop`."""

    def __init__(self, target: str) -> None:
        """`target` is a redis:// URL; so is `url`."""
        parts = urlsplit(target)
        self.port = free_port()
        self.delay_s = 0.0
        self.url = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{self.port}"))
        self._target = (parts.hostname or "", parts.port or 0)
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._is_up.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        self._is_up.set()
        await self._ending.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.05)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs, ours = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        back = asyncio.create_task(self._copy(theirs, writer, is_late=True))
        try:
            await self._copy(reader, ours, is_late=False)
        finally:
            back.cancel()
            ours.close()
            writer.close()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_late: bool
    ) -> None:
        """Each piece waits from when it came, so that a delay does not add up."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            while True:
                try:
                    piece = await reader.read(65536)
                except OSError:
                    piece = b""
                await pieces.put((self._loop.time() + (self.delay_s if is_late else 0.0), piece))
                if not piece:
                    return

        reading = asyncio.create_task(read())
        try:
            while True:
                due_at, piece = await pieces.get()
                await asyncio.sleep(max(0.0, due_at - self._loop.time()))
                if not piece:
                    return
                writer.write(piece)
                await writer.drain()
        except OSError:
            return
        finally:
            reading.cancel()
            writer.close()
