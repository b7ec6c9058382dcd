"""Which sessions are in use, and which nobody has used for too long.

A node remembers when it last saw a session, for as many as fit, and tells Redis (a key per session that expires) and the control plane
behind the requests: in batches, each session at most once in `every_s`, and not at all in its first. So a request costs a look in a
dict. A session that is older than the idle bound and that this node has not seen lately costs one look in Redis: another node may
have. What is running under a session (a stream that lasts for days) uses it all the time.

Nothing ends early. Redis away or full: whoever holds a session goes on, and what was not told is told later. Redis emptied, or new:
a key that is missing proves nothing before one idle time has passed since (`Keys.sessions_since`). A session ends between
`idle_s` and `idle_s + 2 * every_s` after its last use.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import RedisError

from hosting.dataplane.contract import SESSION_TOLD_EVERY_S, Keys, Route, SessionReport
from hosting.dataplane.sessions.renewals import IN_USE, WAIT_S, Renewals
from hosting.dataplane.sessions.session import Session
from hosting.dataplane.telemetry.logs import Damper, log
from hosting.dataplane.telemetry.metrics import Metrics
from hosting.dataplane.telemetry.reports import Reports

KEPT = 50_000  # sessions a node remembers the last use of
MAX_DUE = 50_000  # sessions that Redis is still to be told of
BATCH = 500
WRITE_WAIT_S = 5.0
FLUSH_EVERY_S = 1.0
NEWS_S = 1.0  # a request that took less long was used at its beginning

Fields = dict[str, str]


def told_every_s(idle_s: float) -> float:
    """How often a session in use is told of, in seconds."""
    return min(SESSION_TOLD_EVERY_S, idle_s / 4)


def kept_s(idle_s: float) -> float:
    """How long Redis keeps what it was told of a session, in seconds after it was."""
    return idle_s + 2 * told_every_s(idle_s)


@dataclass(slots=True)
class _Use:
    """A session as this node has last seen it. Times in seconds since the epoch."""

    seen_at: float
    told_at: float


class _Running:
    """A request or stream that is under way. A class of its own since every request makes one."""

    __slots__ = ("_activity", "_began_at", "principal", "route", "session")

    def __init__(self, activity: Activity, session: Session, route: Route, principal: str) -> None:
        self._activity = activity
        self._began_at = 0.0
        self.session = session
        self.route = route
        self.principal = principal

    def __enter__(self) -> None:
        self._began_at = time.time()
        self._activity.begin(self, self._began_at)

    def __exit__(self, *_: object) -> None:
        now = time.time()
        self._activity.end(self, now, is_news=now - self._began_at >= NEWS_S)


class Activity:
    """One per process. Nothing here raises because of Redis; `run` never ends by itself."""

    def __init__(
        self,
        *,
        installation: str,
        idle_s: float,
        redis: Redis,
        renewals: Renewals,
        reports: Reports,
        metrics: Metrics,
    ) -> None:
        self._since_key = Keys(installation).sessions_since
        self._idle_s = idle_s
        self._every_s = told_every_s(idle_s)
        self._kept_ms = int(kept_s(idle_s) * 1000)
        self._redis: Any = redis  # its annotations mix sync and async, text and bytes
        self._renewals = renewals
        self._reports = reports
        self._metrics = metrics
        self._uses: OrderedDict[tuple[str, bytes], _Use] = (
            OrderedDict()
        )  # by Environment and jti, oldest first
        self._running: set[_Running] = set()
        self._due: dict[str, Fields] = {}  # key in Redis → what to write there
        self._damper = Damper()
        metrics.sessions_seen.set_function(lambda: len(self._uses))

    async def is_open(self, session: Session, route: Route, now: float) -> bool:
        """False when nobody has used it for the idle time. Redis is asked only where this node cannot know."""
        if now - session.issued_at < self._idle_s + self._every_s:  # its first uses are not remembered
            return True
        use = self._uses.get((route.environment, session.jti))
        if use is not None and now - use.seen_at < self._idle_s:
            return True
        is_open = await self._is_used_elsewhere(session, route, now)
        if not is_open:
            self._metrics.sessions_expired.inc()
        return is_open

    def using(self, session: Session, route: Route, principal: str) -> AbstractContextManager[None]:
        """Around what happens under the session."""
        return _Running(self, session, route, principal)

    def begin(self, running: _Running, now: float) -> None:
        self._running.add(running)
        self._touch(running, now)

    def end(self, running: _Running, now: float, *, is_news: bool) -> None:
        """`is_news`: it took so long that its end is a later use than its beginning."""
        self._running.discard(running)
        if is_news:
            self._touch(running, now)

    def opened(self, session: Session, route: Route) -> None:
        """Where the server has a session of its own, its id must be found by whoever ends the session without holding it."""
        if session.upstream_id:
            name, sealed = self._renewals.opening(session, route)
            self._put(self._renewals.key(route.tenant, session.handle), {name: sealed})

    def forget(self, session: Session, route: Route) -> None:
        """It has ended."""
        self._uses.pop((route.environment, session.jti), None)
        self._due.pop(self._renewals.key(route.tenant, session.handle), None)

    async def run(self) -> None:
        look_at = time.monotonic()
        while True:
            await asyncio.sleep(min(FLUSH_EVERY_S, self._every_s / 2))
            try:
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + self._every_s / 2
                    self._look_around(time.time())
                await self.flush()
            except Exception:  # a surprise must not end a gateway
                log("sessions.failed", level=logging.ERROR, exc_info=True)

    async def flush(self) -> None:
        """Writes what is due; what cannot be written stays due."""
        for key, fields in self._renewals.take_unwritten().items():
            self._put(key, fields)
        while self._due:
            batch = {key: self._due.pop(key) for key in list(islice(self._due, BATCH))}
            if not await self._try(self._write(batch), False, wait_s=WRITE_WAIT_S):
                for key, fields in batch.items():
                    self._put(key, {**fields, **self._due.get(key, {})})
                return

    def _touch(self, running: _Running, now: float) -> None:
        session, route = running.session, running.route
        key = (route.environment, session.jti)
        use = self._uses.get(key)
        if use is None:
            if now - session.issued_at < self._every_s:
                return
            use = self._uses[key] = _Use(now, 0.0)
            if len(self._uses) > KEPT:
                self._uses.popitem(last=False)
        use.seen_at = now
        self._uses.move_to_end(key)
        if now - use.told_at >= self._every_s:
            use.told_at = now
            self._put(self._renewals.key(route.tenant, session.handle), {})
            self._reports.session(report_of(session, route, running.principal, "active", now))

    def _put(self, key: str, fields: Fields) -> None:
        self._due[key] = {**self._due.get(key, {}), **fields}
        if len(self._due) > MAX_DUE:
            self._due.pop(next(iter(self._due)))
            self._metrics.reports_lost.inc()

    def _look_around(self, now: float) -> None:
        """What runs is in use; what was not used for the idle time need not be remembered."""
        for running in list(self._running):
            self._touch(running, now)
        while self._uses:
            key, use = next(iter(self._uses.items()))
            if now - use.seen_at < self._idle_s:
                break
            del self._uses[key]

    async def _is_used_elsewhere(self, session: Session, route: Route, now: float) -> bool:
        pipe = self._redis.pipeline(transaction=False)
        pipe.exists(self._renewals.key(route.tenant, session.handle))
        pipe.get(self._since_key)
        answer = await self._try(pipe.execute(), None, wait_s=WAIT_S)
        if answer is None:
            return True
        is_there, since = answer
        return bool(is_there) or since is None or now - float(since) < self._idle_s + self._every_s

    async def _write(self, batch: dict[str, Fields]) -> bool:
        """Extends the keys there are before it makes new ones: that also works while Redis is full."""
        pipe = self._redis.pipeline(transaction=False)
        for key in batch:
            pipe.pexpire(key, self._kept_ms)
        are_there = await pipe.execute()
        pipe = self._redis.pipeline(transaction=False)
        pipe.set(self._since_key, time.time(), nx=True)
        for (key, fields), is_there in zip(batch.items(), are_there, strict=True):
            if fields or not is_there:
                pipe.hset(key, mapping=fields or {IN_USE: "1"})
                pipe.pexpire(key, self._kept_ms)
        await pipe.execute()
        return True

    async def _try(self, asked: Awaitable[Any], otherwise: Any, *, wait_s: float) -> Any:
        try:
            async with asyncio.timeout(wait_s):
                return await asked
        except (RedisError, OSError, TimeoutError) as exc:
            self._damper.log("session.activity_away", "redis", reason=type(exc).__name__)
            return otherwise


def report_of(
    session: Session,
    route: Route,
    principal: str,
    event: Literal["opened", "active", "ended"],
    at: float,
    *,
    client_name: str = "",
    client_version: str = "",
) -> SessionReport:
    """What the control plane is told of a session: never its id."""
    return SessionReport(
        tenant=route.tenant,
        environment=route.environment,
        session=session.handle,
        principal=principal,
        event=event,
        at=at,
        opened_at=session.issued_at,
        expires_at=session.expires_at,
        client_name=client_name,
        client_version=client_version,
        protocol_version=session.revision,
    )
