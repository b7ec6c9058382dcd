"""The journal's way to Redis: its scripts, its keys, and how long anybody waits.

A failure leaves Redis alone for AWAY_S, so that a Redis that hangs costs each stream one wait and not one for every event.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from hosting.dataplane.contract import Keys, Route
from hosting.dataplane.forwarding.journal_scripts import SCRIPTS
from hosting.dataplane.sessions.seal import SaltedSeal
from hosting.dataplane.sessions.session import Session
from hosting.dataplane.telemetry.logs import Damper
from hosting.dataplane.telemetry.metrics import Metrics

WAIT_S = 1.0  # longer than this no event waits for Redis
AWAY_S = 3.0
TOLD_S = 15.0  # for so long after a failure /readyz tells it
BATCH = 128  # of what waits, in one round trip
BATCH_BYTES = 1024 * 1024

Reason = Literal["away", "full", "tenant", "large", "gone"]


class JournalAway(Exception):
    """Redis does not answer, or takes no more. `is_unsure`: it may have done what it was asked."""

    def __init__(self, reason: Literal["away", "full"], *, is_unsure: bool = False) -> None:
        super().__init__(reason)
        self.reason: Literal["away", "full"] = reason
        self.is_unsure = is_unsure


@dataclass(slots=True)
class _Asked:
    lua: str
    keys: list[str]
    args: list[Any]
    told: asyncio.Future[Any]
    is_sent: bool = False


class JournalRedis:
    """One connection. What is asked while an answer is on its way goes out together: at 10,000 events a second each costs a share of a
    round trip."""

    def __init__(self, redis_url: str, metrics: Metrics) -> None:
        self._pool: Any = BlockingConnectionPool.from_url(
            redis_url,
            max_connections=1,
            timeout=WAIT_S,
            socket_connect_timeout=WAIT_S,
            socket_timeout=WAIT_S,
            retry=None,
        )
        self._redis: Any = Redis.from_pool(self._pool)  # its annotations mix sync and async, text and bytes
        self._shas = {
            lua: hashlib.sha1(lua.encode(), usedforsecurity=False).hexdigest().encode() for lua in SCRIPTS
        }
        self._metrics = metrics
        self._waiting: deque[_Asked] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._away_until = self._told_until = 0.0
        self._damper = Damper()

    @property
    def is_troubled(self) -> bool:
        return time.monotonic() < self._told_until

    async def ask(self, lua: str, keys: list[str], args: list[Any]) -> Any:
        """Raises JournalAway."""
        if time.monotonic() < self._away_until:
            raise JournalAway("away")
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Any] = loop.create_future()
        asked = _Asked(lua, keys, args, told)
        self._waiting.append(asked)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())
        timer = loop.call_later(WAIT_S, _expire, told)  # a tenth of what asyncio.timeout costs
        try:
            return await told
        except (RedisError, OSError, TimeoutError) as exc:
            if not asked.is_sent:  # too many ask at once; that is not Redis's fault
                raise JournalAway("away") from exc
            now = time.monotonic()
            self._away_until, self._told_until = now + AWAY_S, now + TOLD_S
            reason: Literal["away", "full"] = "full" if "OOM command" in str(exc) else "away"
            self._damper.log("journal.away", "redis", reason=reason, error=type(exc).__name__)
            raise JournalAway(reason, is_unsure=not _was_refused(exc)) from exc
        finally:
            timer.cancel()

    async def _send(self) -> None:
        """Until nobody waits."""
        while self._waiting:
            batch: list[_Asked] = []
            size = 0
            while self._waiting and len(batch) < BATCH and size < BATCH_BYTES:
                asked = self._waiting.popleft()
                if not asked.told.done():  # nobody waits for it any more
                    batch.append(asked)
                    asked.is_sent = True
                    size += sum(len(arg) for arg in asked.args if isinstance(arg, bytes))
            try:
                said = await self._send_batch(batch)
            except (RedisError, OSError, TimeoutError) as exc:
                said = [exc] * len(batch)
            for asked, answer in zip(batch, said, strict=True):
                if asked.told.done():
                    continue
                if isinstance(answer, Exception):
                    asked.told.set_exception(answer)
                else:
                    asked.told.set_result(answer)

    async def _send_batch(self, batch: list[_Asked]) -> list[Any]:
        """What Redis says to each, errors included. A Redis that has just started is taught the scripts."""
        said = await self._evaluate(batch)
        unknown = [n for n, answer in enumerate(said) if isinstance(answer, NoScriptError)]
        if unknown:
            for lua in SCRIPTS:
                await self._redis.script_load(lua)
            again = await self._evaluate([batch[n] for n in unknown])
            for n, answer in zip(unknown, again, strict=True):
                said[n] = answer
        return said

    async def _evaluate(self, batch: list[_Asked]) -> list[Any]:
        """Packed and waited for here: a pipeline of the library's takes as long for each as all the rest of an event's way."""
        packed = b"".join(
            _packed(b"EVALSHA", self._shas[asked.lua], len(asked.keys), *asked.keys, *asked.args)
            for asked in batch
        )
        connection = await self._pool.get_connection()
        try:
            async with asyncio.timeout(WAIT_S):
                await connection.send_packed_command(packed, check_health=False)
                return [await _answer(connection) for _ in batch]
        except BaseException:
            await connection.disconnect(nowait=True)  # what it still says belongs to nobody
            raise
        finally:
            await self._pool.release(connection)

    async def attempt(self, lua: str, keys: list[str], args: list[Any]) -> Any:
        """None when Redis is away."""
        try:
            return await self.ask(lua, keys, args)
        except JournalAway:
            return None

    def unlogged(self, reason: Reason, count: int) -> None:
        self._metrics.unlogged(reason, count)
        if reason in {"away", "full"}:  # a tenant that has had its share is no trouble of ours
            self._told_until = time.monotonic() + TOLD_S

    async def close(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()


class Place:
    """Where a log is, and under which key it is sealed."""

    __slots__ = (
        "_context",
        "_keys",
        "_seal_of",
        "_tenant",
        "index",
        "log",
        "meta",
        "owner",
        "session",
        "stream",
    )

    def __init__(
        self, keys: Keys, seal_of: Callable[[bytes], SaltedSeal], session: Session, route: Route, stream: str
    ) -> None:
        self.session = session
        self.stream = stream
        self.index = keys.of_tenant(route.tenant, "session", session.handle, "logs")
        self.log = keys.of_tenant(route.tenant, "session", session.handle, "log", stream)
        self.meta = f"{self.log}:meta"
        self.owner = f"{self.log}:owner"
        self._keys = keys
        self._seal_of = seal_of
        self._tenant = route.tenant
        self._context = f"log\0{route.tenant}\0{route.environment}\0{stream}\0"

    def logged(self, now: int, span_s: int) -> list[str]:
        """What counts the bytes the tenant has logged in this span, and in the one before."""
        span = now // span_s
        return [self._keys.of_tenant(self._tenant, "logged", str(at)) for at in (span, span - 1)]

    def seal(self, plain: bytes, name: str) -> bytes:
        return self._seal_of(self.session.jti).seal(plain, f"{self._context}{name}".encode())

    def open(self, sealed: bytes, name: str) -> bytes:
        """Raises NotSealed."""
        return self._seal_of(self.session.jti).open(sealed, f"{self._context}{name}".encode())


def _packed(*words: bytes | str | float) -> bytes:
    """One command, as it goes over the wire."""
    pieces = [b"*%d\r\n" % len(words)]
    for word in words:
        said = word if isinstance(word, bytes) else (word if isinstance(word, str) else repr(word)).encode()
        pieces.append(b"$%d\r\n%b\r\n" % (len(said), said))
    return b"".join(pieces)


async def _answer(connection: Any) -> Any:
    """What Redis says to one command, an error of it included. Raises RedisError when the connection fails."""
    try:
        return await connection.read_response(timeout=math.inf)  # the batch has a timeout of its own
    except ResponseError as exc:
        return exc


def _expire(told: asyncio.Future[Any]) -> None:
    if not told.done():
        told.set_exception(TimeoutError())


def _was_refused(exc: BaseException) -> bool:
    """Whether Redis has certainly not done what it was asked: it said so, or was never reached."""
    if isinstance(exc, RedisConnectionError):
        return "connecting to" in str(exc)
    return isinstance(exc, ResponseError | ConnectionRefusedError)
