"""A gateway's stand-in that counts who is being probed, and lets some hang for as long as whoever asks is patient.

It runs in a thread of the test, so that probes of this process and of others reach it alike. Paths it does not know are 404, as with
the real one: of what other tests left it says nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Self

from aiohttp import web

from hosting.mcp import MODERN

ANSWER = {"jsonrpc": "2.0", "id": 1, "result": {"supportedVersions": [MODERN]}}


class StandIn:
    """`asked`, `open` and the `most` that were open at once, each by the tenant's slug."""

    def __init__(self) -> None:
        self.answering: set[str] = set()
        self.hanging: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.open: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.most_in_all = 0
        self.url = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def is_hanging(self, slugs: Iterable[str]) -> bool:
        """Whether every one of them is being waited for right now."""
        return all(self.open[slug] for slug in slugs)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        app = web.Application()
        app.router.add_route("*", "/{tenant}/{server}/mcp", self._handle)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None)  # knows who is gone
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        self._is_up.set()
        await self._stopped.wait()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        slug = request.match_info["tenant"]
        if slug in self.answering:
            self.asked[slug] += 1
            return web.json_response(ANSWER)
        if slug not in self.hanging:
            return web.Response(status=404)
        self.asked[slug] += 1
        self.open[slug] += 1
        self.most[slug] = max(self.most[slug], self.open[slug])
        self.most_in_all = max(self.most_in_all, self.open.total())
        try:
            await self._stopped.wait()
        finally:
            self.open[slug] -= 1
        return web.Response(status=504)
