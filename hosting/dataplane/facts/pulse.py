"""How Redis takes what this node writes: a small write every second, on a connection of its own.

The follower only reads, so it cannot see that Redis is full and refuses to write (`maxmemory` without eviction), and it waits for news
anyway, so it cannot see that Redis is slow. What is learnt here is told in /readyz and the metrics; no request waits for it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, Literal, get_args

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from hosting.dataplane.contract import Keys
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.logs import log

RedisState = Literal["up", "slow", "full", "down"]
REDIS_STATES: Final[tuple[RedisState, ...]] = get_args(RedisState)
BEAT_S = 1.0
SLOW_S = 0.5
GIVEN_UP_S = 5.0
LIFE_S = 10


class Pulse:
    """One per process. `run` never ends by itself and raises nothing because of Redis."""

    def __init__(self, settings: Settings) -> None:
        self.trouble = ""
        self._state: RedisState = "up"
        self._write_s = 0.0
        self._asked_at = 0.0  # monotonic; 0 while nothing is asked
        self._key = Keys(settings.installation).pulse(settings.node)
        self._redis: Any = Redis.from_url(  # its annotations mix sync and async, text and bytes
            settings.redis_url,
            socket_connect_timeout=GIVEN_UP_S,
            socket_timeout=GIVEN_UP_S,
            retry=None,
            max_connections=1,
        )

    @property
    def write_s(self) -> float:
        """How long the last write took, or the present one has taken so far when that is longer."""
        asked_for = time.monotonic() - self._asked_at if self._asked_at else 0.0
        return max(self._write_s, asked_for)

    @property
    def state(self) -> RedisState:
        return "slow" if self._state == "up" and self.write_s > SLOW_S else self._state

    async def run(self) -> None:
        while True:
            before = self.state
            await self._beat()
            if self.state != before:
                log("redis.state", state=self.state, write_s=round(self._write_s, 3))
            await asyncio.sleep(BEAT_S)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _beat(self) -> None:
        self._asked_at = time.monotonic()
        try:
            await self._redis.set(self._key, b"1", ex=LIFE_S)
            self._state, self.trouble = "up", ""
        except ResponseError as exc:  # it answers, but does not write
            self._state, self.trouble = "full" if is_full(exc) else "down", type(exc).__name__
        except (RedisError, OSError, TimeoutError) as exc:
            self._state, self.trouble = "down", type(exc).__name__
        finally:
            self._write_s = time.monotonic() - self._asked_at
            self._asked_at = 0.0


def is_full(exc: ResponseError) -> bool:
    """Scripts wrap the error, so its kind alone does not tell."""
    return "OOM" in str(exc) or type(exc).__name__ == "OutOfMemoryError"
