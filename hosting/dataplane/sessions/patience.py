"""How long whoever serves a client waits for Redis: a second, and then for a while not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError

from hosting.dataplane.telemetry.logs import Damper

WAIT_S = 1.0
AWAY_S = 2.0  # how long Redis is taken for away once it did not answer

T = TypeVar("T")


class Patience:
    """One per purpose. `event` is what is logged, once in a while."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._away_until = 0.0
        self._damper = Damper()

    async def attempt(self, asked: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """What `asked` gives; `otherwise` when Redis is away. Never raises because of Redis."""
        if time.monotonic() < self._away_until:
            return otherwise
        try:
            async with asyncio.timeout(WAIT_S):
                return await asked()
        except (RedisError, OSError, TimeoutError) as exc:
            self._away_until = time.monotonic() + AWAY_S
            self._damper.log(self._event, "redis", reason=type(exc).__name__)
            return otherwise
