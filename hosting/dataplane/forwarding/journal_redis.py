"""The journal's way to Redis: its scripts, its keys, and how long anybody waits.

A failure leaves Redis alone for AWAY_S, so that a Redis that hangs costs each stream one wait and not one for every event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Literal

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from hosting.dataplane.contract import Keys, Route
from hosting.dataplane.forwarding.journal_scripts import SCRIPTS
from hosting.dataplane.sessions.seal import SaltedSeal
from hosting.dataplane.sessions.session import Session
from hosting.dataplane.telemetry.logs import Damper
from hosting.dataplane.telemetry.metrics import Metrics

WAIT_S = 0.5  # longer than this no event waits for Redis
AWAY_S = 3.0
TOLD_S = 15.0  # for so long after a failure /readyz tells it
CONNECTIONS = 16

Reason = Literal["away", "full", "tenant", "large", "gone"]


class JournalAway(Exception):
    """Redis does not answer, or takes no more. `is_unsure`: it may have done what it was asked."""

    def __init__(self, reason: Literal["away", "full"], *, is_unsure: bool = False) -> None:
        super().__init__(reason)
        self.reason: Literal["away", "full"] = reason
        self.is_unsure = is_unsure


class JournalRedis:
    """Connections of its own: the follower's few would be too few for every stream."""

    def __init__(self, redis_url: str, metrics: Metrics) -> None:
        pool = BlockingConnectionPool.from_url(
            redis_url,
            max_connections=CONNECTIONS,
            timeout=WAIT_S,
            socket_connect_timeout=WAIT_S,
            socket_timeout=WAIT_S,
            retry=None,
        )
        self._redis: Any = Redis.from_pool(pool)  # its annotations mix sync and async, text and bytes
        self._scripts = {lua: self._redis.register_script(lua) for lua in SCRIPTS}
        self._metrics = metrics
        self._away_until = self._told_until = 0.0
        self._damper = Damper()

    @property
    def is_troubled(self) -> bool:
        return time.monotonic() < self._told_until

    async def ask(self, lua: str, keys: list[str], args: list[Any]) -> Any:
        """Raises JournalAway."""
        if time.monotonic() < self._away_until:
            raise JournalAway("away")
        try:
            async with asyncio.timeout(WAIT_S):
                return await self._scripts[lua](keys=keys, args=args)
        except (RedisError, OSError, TimeoutError) as exc:
            now = time.monotonic()
            self._away_until, self._told_until = now + AWAY_S, now + TOLD_S
            reason: Literal["away", "full"] = "full" if "OOM command" in str(exc) else "away"
            self._damper.log("journal.away", "redis", reason=reason, error=type(exc).__name__)
            raise JournalAway(reason, is_unsure=not _was_refused(exc)) from exc

    async def attempt(self, lua: str, keys: list[str], args: list[Any]) -> Any:
        """None when Redis is away."""
        try:
            return await self.ask(lua, keys, args)
        except JournalAway:
            return None

    def unlogged(self, reason: Reason, count: int) -> None:
        self._metrics.unlogged(reason, count)
        if reason in {"away", "full", "tenant"}:
            self._told_until = time.monotonic() + TOLD_S

    async def close(self) -> None:
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()


class Place:
    """Where a log is, and under which key it is sealed."""

    __slots__ = (
        "_context",
        "_keys",
        "_ring",
        "_seal",
        "_tenant",
        "index",
        "log",
        "meta",
        "owner",
        "session",
        "stream",
    )

    def __init__(
        self, keys: Keys, ring: Mapping[str, bytes], session: Session, route: Route, stream: str
    ) -> None:
        self.session = session
        self.stream = stream
        self.index = keys.of_tenant(route.tenant, "session", session.handle, "logs")
        self.log = keys.of_tenant(route.tenant, "session", session.handle, "log", stream)
        self.meta = f"{self.log}:meta"
        self.owner = f"{self.log}:owner"
        self._keys = keys
        self._ring = ring
        self._tenant = route.tenant
        self._seal: SaltedSeal | None = None
        self._context = f"log\0{route.tenant}\0{route.environment}\0{stream}\0"

    def logged(self, now: int, span_s: int) -> list[str]:
        """What counts the bytes the tenant has logged in this span, and in the one before."""
        span = now // span_s
        return [self._keys.of_tenant(self._tenant, "logged", str(at)) for at in (span, span - 1)]

    def seal(self, plain: bytes, name: str) -> bytes:
        return self._sealing().seal(plain, f"{self._context}{name}".encode())

    def open(self, sealed: bytes, name: str) -> bytes:
        """Raises NotSealed."""
        return self._sealing().open(sealed, f"{self._context}{name}".encode())

    def _sealing(self) -> SaltedSeal:
        if self._seal is None:
            self._seal = SaltedSeal(self._ring, "journal", self.session.jti)
        return self._seal


def _was_refused(exc: BaseException) -> bool:
    """Whether Redis has certainly not done what it was asked: it said so, or was never reached."""
    if isinstance(exc, RedisConnectionError):
        return "connecting to" in str(exc)
    return isinstance(exc, ResponseError | ConnectionRefusedError)
