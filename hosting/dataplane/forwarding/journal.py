"""The log of a client's stream: what was sent on it, kept in Redis for as long as a client may come back for it, at any node.

    log = journal.new_log(session, route, requests=[7])    nothing is in Redis yet
    ids = await log.append([Record(message), …])        one round trip; then send each with its id (None: without)
    await log.append([Record(answer)], ends="done")     the last one; or `release`, and another node may go on

    page = await journal.read(session, route, stream, after=sequence)    what came later, and whether more will come

One node at a time owns a log: whoever holds its owner key, a lease that `run` keeps alive while this process lives. A second writer is
refused (`on_lost`), so no event stands in a log twice. An event is written before it is sent. Whoever resumes a stream whose owner still
sends to the client's old connection asks the owner to let go of it (`ask`, `on_asked`).

Bounded by count, bytes and age of one log, logs of one session, and bytes of one tenant (`tenant_bytes` in two LIFE_S). Sealed under a
key of the session's own; stream and sequence are authenticated, so nothing of one place can be read at another. Nothing here raises
because of Redis, except where it says JournalAway; events then go on without ids, which is counted. An append of unknown outcome gives
its ids out: a client that resumes there gets nothing twice. If this process crashes, the lease ends and another may `claim` the log.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import msgspec

from hosting.dataplane.contract import Keys, Route
from hosting.dataplane.forwarding.journal_redis import JournalAway, JournalRedis, Place
from hosting.dataplane.forwarding.journal_scripts import (
    APPEND_LUA,
    ASK_LUA,
    BEAT_LUA,
    CLAIM_LUA,
    FORGET_LUA,
    FULL,
    GONE,
    LIFE_S,
    LOST,
    MAX_BYTES,
    READ_LUA,
    RELEASE_LUA,
)
from hosting.dataplane.protocol.errors import JsonRpcId
from hosting.dataplane.protocol.event_ids import Numbering
from hosting.dataplane.sessions.seal import NotSealed, SaltedSeal
from hosting.dataplane.sessions.session import Session
from hosting.dataplane.telemetry.logs import Damper
from hosting.dataplane.telemetry.metrics import Metrics

BEAT_S = 2.0
BEAT_LOGS = 100  # in one round trip
PAGE_EVENTS = 128
LOOK_AGAIN_S = 0.5
SEALS = 4096  # of sessions, kept because deriving a key costs more than using it

Ending = Literal["", "done", "lost"]  # "lost": the answer was too large to be kept
State = Literal["live", "dead", "done", "lost"]


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One event. Without data it only marks a place."""

    data: bytes
    retry_ms: int | None = None


class About(msgspec.Struct, frozen=True, array_like=True):
    """What a stream is: the requests it answers (none: it listens), and the server's session it came from."""

    requests: tuple[str | int | None, ...]
    release: str
    upstream_id: str


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a log. `state` is of the whole log: live, its owner appends; dead, nobody does; done; lost, done without its answer."""

    about: About
    events: list[tuple[int, Record]]
    state: State
    last: int  # the highest sequence there is
    has_more: bool  # read on before you believe `state`

    @property
    def size(self) -> int:
        """Bytes of its events."""
        return sum(len(record.data) for _, record in self.events)


class Journal:
    """One per process."""

    def __init__(
        self,
        *,
        installation: str,
        ring: Mapping[str, bytes],
        redis_url: str,
        metrics: Metrics,
        tenant_bytes: int,
    ) -> None:
        self.redis = JournalRedis(redis_url, metrics)
        self.tenant_bytes = tenant_bytes
        self._keys = Keys(installation)
        self._seal_of = lru_cache(maxsize=SEALS)(lambda jti: SaltedSeal(ring, "journal", jti))
        self._open: dict[str, Log] = {}
        self._damper = Damper()

    @property
    def trouble(self) -> str:
        """What is degraded; empty when nothing is."""
        return "replay: events of streams go on without ids" if self.redis.is_troubled else ""

    def new_log(
        self,
        session: Session,
        route: Route,
        *,
        requests: Sequence[JsonRpcId],
    ) -> Log:
        """For a stream that answers `requests`, or listens (none)."""
        about = About(tuple(requests), session.release, session.upstream_id)
        place = Place(self._keys, self._seal_of, session, route, secrets.token_hex(8))
        return Log(self, place, about)

    async def read(self, session: Session, route: Route, stream: str, *, after: int) -> Page | None:
        """None: there is no such log of this session. Raises JournalAway."""
        place = Place(self._keys, self._seal_of, session, route, stream)
        told = await self.redis.ask(READ_LUA, [place.log, place.meta, place.owner], [after, PAGE_EVENTS])
        if told is None:
            return None
        about, done, last, is_owned, entries = told
        try:
            opened = msgspec.msgpack.decode(place.open(about, "about"), type=About)
            events = [_event_of(place, name, fields) for name, fields in entries]
        except (NotSealed, msgspec.MsgspecError, ValueError):
            self._damper.log("journal.unreadable", route.environment, environment=route.environment)
            return None
        state: State = done.decode() or ("live" if is_owned else "dead")
        return Page(opened, events, state, last, len(entries) == PAGE_EVENTS)

    async def ask(self, session: Session, route: Route, stream: str) -> None:
        """Tells the owner that the client has come back here: at once when it is this node, else with its next beat."""
        log = self._open.get(stream)
        if log is not None and log.is_of(session):
            log.on_asked()
            return
        place = Place(self._keys, self._seal_of, session, route, stream)
        await self.redis.attempt(ASK_LUA, [place.meta], [int(time.time() * 1000)])

    async def claim(
        self,
        session: Session,
        route: Route,
        stream: str,
        about: About,
        *,
        after: int,
    ) -> Log | None:
        """The log of a dead owner, to go on with behind all that is in it, and behind `after`: an id a client holds is not given twice.

        None when somebody else was first, or it is over. Raises JournalAway.
        """
        place = Place(self._keys, self._seal_of, session, route, stream)
        log = Log(self, place, about)
        told = await self.redis.ask(CLAIM_LUA, [place.meta, place.owner], [log.token])
        if isinstance(told, int):
            return None
        sequence, position = told
        try:
            log.take_up(max(sequence, after), place.open(position, "position") if position else b"")
        except NotSealed:
            return None
        return log

    async def forget(self, tenant: str, handle: str) -> None:
        """Removes all logs of a session, known by its handle: nobody can replay them any more. Redis away: they age out."""
        index = self._keys.of_tenant(tenant, "session", handle, "logs")
        logs = self._keys.of_tenant(tenant, "session", handle, "log", "")
        await self.redis.attempt(FORGET_LUA, [index], [logs])

    async def run(self) -> None:
        """Keeps the leases of this node's logs, and hears whose clients have come back elsewhere. Never ends by itself."""
        while True:
            await asyncio.sleep(BEAT_S)
            logs = list(self._open.values())
            for at in range(0, len(logs), BEAT_LOGS):
                await self._beat(logs[at : at + BEAT_LOGS])

    async def close(self) -> None:
        await self.redis.close()

    def opened(self, log: Log, stream: str) -> None:
        self._open[stream] = log

    def closed(self, log: Log, stream: str) -> None:
        if self._open.get(stream) is log:
            del self._open[stream]

    async def _beat(self, logs: list[Log]) -> None:
        keys = [key for log in logs for key in log.beat_keys]
        told = await self.redis.attempt(BEAT_LUA, keys, [log.token for log in logs])
        for log, said in zip(logs, told or (), strict=False):
            log.hear(said)


class Log:
    """One stream's log while this node may own it. End it with `ends` or `release`."""

    def __init__(self, journal: Journal, place: Place, about: About) -> None:
        self.token = secrets.token_hex(8)
        self.on_asked = _nothing  # the client has come back elsewhere: write no more to it, but go on
        self.on_lost = _nothing  # another node goes on: stop
        self.position = b""  # as last appended
        self._kept_position = b""
        self._journal = journal
        self._place = place
        self._about = about
        self._numbering = Numbering(place.stream, about.requests)
        self._sequence = 0
        self._asked = b""
        self._is_open = self._is_closed = False

    @property
    def is_kept(self) -> bool:
        """Whether somebody could resume here: it is open, and ours."""
        return self._is_open and not self._is_closed

    @property
    def stream(self) -> str:
        return self._place.stream

    @property
    def beat_keys(self) -> list[str]:
        return [self._place.meta, self._place.owner, self._place.index]

    def is_of(self, session: Session) -> bool:
        return self._place.session.jti == session.jti

    def take_up(self, sequence: int, position: bytes) -> None:
        """Goes on where a dead owner stopped."""
        self._sequence, self._is_open = sequence, True
        self.position = self._kept_position = position
        self._journal.opened(self, self._place.stream)

    async def append(
        self,
        records: Sequence[Record],
        *,
        position: bytes | None = None,
        ends: Ending = "",
        patience_s: float = 0.0,
    ) -> list[bytes | None]:
        """Event ids for `records`, None for those that are not kept. With `ends` nothing more can be appended.

        `position`: the id with which the server behind can be asked for what follows, b"" where there is none; None: as before.
        `patience_s`: with a Redis that is away, where nobody waits for the events.
        """
        first = self._sequence + 1
        self._sequence += len(records)
        if self._is_closed:
            return [None] * len(records)
        ending = ends
        kept = {n: record for n, record in enumerate(records) if len(record.data) < MAX_BYTES // 2}
        if len(kept) < len(records):
            self._journal.redis.unlogged("large", len(records) - len(kept))
            ending = "" if self.position else "lost"  # a server that keeps its events can be asked again
        elif position is not None:
            self.position = position
        sealed: list[Any] = []
        for n, record in kept.items():
            sealed += [first + n, self._place.seal(msgspec.msgpack.encode(record), str(first + n))]
        is_kept = await self._append(sealed, len(kept), ending if ends else "", patience_s)
        if ends and ending:
            self._close()
        elif ends:
            await self.release()
        return [self._numbering.at(first + n) if is_kept and n in kept else None for n in range(len(records))]

    async def release(self) -> None:
        """This node goes no further; whoever resumes the stream may, where its server can."""
        is_ours = self.is_kept
        self._close()
        if is_ours:
            await self._journal.redis.attempt(RELEASE_LUA, [self._place.owner], [self.token])

    def hear(self, said: bytes) -> None:
        """What a beat brought."""
        if said in {b"-1", b"-2"}:
            self._lose(LOST if said == b"-1" else GONE)
        elif said and said != self._asked:
            self._asked = said
            self.on_asked()

    async def _append(self, sealed: list[Any], count: int, ends: Ending, patience_s: float) -> bool:
        place, now = self._place, round(time.time(), 3)
        about = b"" if self._is_open else place.seal(msgspec.msgpack.encode(self._about), "about")
        is_news = self.position != self._kept_position
        position = place.seal(self.position, "position") if sealed and is_news else b""
        args = [self.token, self._journal.tenant_bytes, now, about, position, ends]
        keys = [place.log, place.index, *place.logged(int(now), LIFE_S)]
        patient_until = time.monotonic() + patience_s
        while True:
            try:
                told = await self._journal.redis.ask(APPEND_LUA, keys, args + sealed)
                break
            except JournalAway as away:
                if time.monotonic() >= patient_until:
                    self._journal.redis.unlogged(away.reason, count)
                    return away.is_unsure
            await asyncio.sleep(LOOK_AGAIN_S)
        if told in {LOST, GONE}:
            self._journal.redis.unlogged("gone", count)
            self._lose(told)
            return False
        if not self._is_open:
            self._is_open = True
            self._journal.opened(self, place.stream)
        self._kept_position = self.position if sealed and told != FULL else self._kept_position
        if told == FULL:
            self._journal.redis.unlogged("tenant", count)
        return bool(told != FULL)

    def _lose(self, how: int) -> None:
        """Another has taken it (and the client with it), or it was removed: then the client is still ours."""
        self._close()
        if how == LOST:
            self.on_lost()

    def _close(self) -> None:
        self._is_closed = True
        self._journal.closed(self, self._place.stream)


def _nothing() -> None:
    pass


def _event_of(place: Place, name: bytes, fields: list[bytes]) -> tuple[int, Record]:
    """Raises NotSealed, ValueError, msgspec.MsgspecError."""
    sequence = name.partition(b"-")[0].decode()
    sealed = dict(zip(fields[::2], fields[1::2], strict=True))[b"e"]
    return int(sequence), msgspec.msgpack.decode(place.open(sealed, sequence), type=Record)
