"""Keeps a node's Table like the facts in Redis, and the last good state on disk.

Loading: note the end of the change stream, read the hash, follow the stream from there; what changed meanwhile comes twice and
changes nothing the second time. Following: one atomic look at the epoch, the stream's first entry and what is new decides what
to do; the blocking read before it is only a bell. Another epoch, or a cursor that fell off the trimmed stream, means: load
again. An epoch that is missing means Redis lost its data: the last good state goes on until the control plane has published
again. Redis away: go on with what is known, say so, come back with jittered pauses.

If the node dies, it starts again from Redis, or from its own file when Redis is away.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from hosting.dataplane.contract import AnyFact, Keys, decode_fact
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.facts.snapshot import NoSnapshot, load_snapshot, save_snapshot
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.logs import log

MAX_CONNECTIONS = 16
BELL_MS = 1000
BATCH = 1000
SAVE_EVERY_S = 5.0
PURGE_EVERY_S = 600.0
BACKOFF_S = (0.1, 5.0)


class _Reload(Exception):
    """The Table can no longer be mended by changes; the reason is in the message."""


class DataLost(Exception):
    """Redis answers but holds no epoch: it was emptied, and is to be filled again by the control plane."""


def connect_redis(url: str) -> Redis:
    """Timeouts longer than the bell; retries are ours. Whoever finds all connections busy waits for one."""
    pool = BlockingConnectionPool.from_url(
        url,
        socket_connect_timeout=2.0,
        socket_timeout=5.0,
        retry=None,
        max_connections=MAX_CONNECTIONS,
        timeout=2.0,
    )
    return Redis.from_pool(pool)


class Follower:
    """Owns the Table. `run` never ends by itself."""

    def __init__(
        self, settings: Settings, redis: Redis, on_change: Callable[[Table, AnyFact | None], None]
    ) -> None:
        """`on_change` hears of every fact that was news, and of a full reload (None)."""
        self.table: Table | None = None
        self.source = ""  # where the Table came from: "redis" or "disk"
        self.is_connected = False
        self.trouble = "not connected yet"
        self.synced_at = 0.0  # when Redis last confirmed the Table, seconds since the epoch
        self.changed_at = 0.0  # when it last changed
        self.reloads = 0
        self.skipped = 0  # facts that could not be decoded
        self._settings = settings
        self._on_change = on_change
        self._redis: Any = redis  # its annotations mix sync and async, text and bytes
        self._keys = Keys(settings.installation)
        self._loaded = asyncio.Event()
        self._must_load = True
        self._is_saved = True
        self._saved_at = 0.0
        self._purged_at = time.monotonic()

    def load_from_disk(self) -> None:
        """Before anything else: better the last good state than none."""
        try:
            table, saved_at = load_snapshot(
                self._settings.state_dir, installation=self._settings.installation
            )
        except NoSnapshot as exc:
            log("routes.no_snapshot", reason=str(exc))
            return
        self.table, self.source, self.changed_at = table, "disk", saved_at
        log("routes.loaded", source="disk", saved_at=saved_at, counts=table.counts)

    async def wait_loaded(self) -> None:
        """Until Redis has been read for the first time."""
        await self._loaded.wait()

    async def run(self) -> None:
        pause = BACKOFF_S[0]
        while True:
            try:
                await self._follow()
            except _Reload as exc:
                log("routes.reload", reason=str(exc))
                self._must_load = True
                continue
            except (RedisError, OSError, TimeoutError, DataLost) as exc:
                pause = BACKOFF_S[0] if self.is_connected else min(pause * 2, BACKOFF_S[1])
                if self.is_connected or self.trouble != _name(exc):
                    log("redis.lost", trouble=_name(exc))
                self.is_connected, self.trouble = False, _name(exc)
            except (
                Exception
            ) as exc:  # a surprise must not end a gateway that has routes: say it, read everything again
                pause = BACKOFF_S[1]
                log("routes.failed", level=logging.ERROR, exc_info=True)
                self.is_connected, self.trouble, self._must_load = False, _name(exc), True
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _follow(self) -> None:
        if self._must_load:
            await self._load()
        while True:
            await self._catch_up()
            await self._save_sometimes()
            await self._purge(self._known().take_surplus())
            await self._purge_sometimes()
            table = self._known()
            await self._redis.xread({self._keys.changes: table.cursor}, count=1, block=BELL_MS)

    def _known(self) -> Table:
        if self.table is None:
            raise _Reload("nothing is loaded")
        return self.table

    async def _load(self) -> None:
        """Fills a new Table aside and swaps it in. Raises DataLost when the hash has not been published yet."""
        epoch, last = (
            await self._redis.pipeline()
            .get(self._keys.epoch)
            .xrevrange(self._keys.changes, count=1)
            .execute()
        )
        if epoch is None:
            raise DataLost
        table = Table(epoch=_text(epoch), cursor=_text(last[0][0]) if last else "0-0")
        versions: dict[str, int] = {}
        at = 0
        while True:
            at, found = await self._redis.hscan(self._keys.facts, at, count=BATCH)
            for key, value in found.items():
                if key.endswith(b"#v"):
                    versions[_text(key[:-2])] = int(value)
                elif (fact := self._decode(value)) is not None:
                    table.apply(fact)
            if at == 0:
                break
        table.note_gone(versions)
        self._must_load = False
        self.table, self.source = table, "redis"
        self.reloads += 1
        self._loaded.set()
        self._changed(is_urgent=True)
        self._on_change(table, None)
        self._confirm()
        log("routes.loaded", source="redis", epoch=table.epoch, cursor=table.cursor, counts=table.counts)

    async def _catch_up(self) -> None:
        while True:
            table = self._known()
            pipe = self._redis.pipeline(transaction=True)
            pipe.get(self._keys.epoch)
            pipe.xrange(self._keys.changes, count=1)
            pipe.xread({self._keys.changes: table.cursor}, count=BATCH)
            epoch, first, news = await pipe.execute()
            if epoch is None:
                self._must_load = True
                raise DataLost
            if _text(epoch) != table.epoch:
                raise _Reload("another epoch")
            if first and table.cursor != "0-0" and _order(first[0][0]) > _order(table.cursor):
                raise _Reload("the stream was trimmed past the cursor")
            self._confirm()
            entries = _entries(news)
            for entry, fields in entries:
                fact = self._decode(fields.get(b"fact", b""))
                if fact is not None and table.apply(fact):
                    self._changed()
                    self._on_change(table, fact)
                table.cursor = _text(entry)
            if len(entries) < BATCH:
                return

    def _decode(self, raw: bytes) -> AnyFact | None:
        try:
            return decode_fact(raw)
        except msgspec.MsgspecError as exc:
            self.skipped += 1
            log("routes.fact_skipped", reason=str(exc))
            return None

    def _confirm(self) -> None:
        self.synced_at = time.time()
        if not self.is_connected:
            self.is_connected, self.trouble = True, ""
            log("redis.connected")

    def _changed(self, *, is_urgent: bool = False) -> None:
        self.changed_at = time.time()
        self._is_saved = False
        if is_urgent:
            self._saved_at = 0.0

    async def _save_sometimes(self) -> None:
        if self._is_saved or time.monotonic() - self._saved_at < SAVE_EVERY_S:
            return
        table = self._known()
        self._is_saved, self._saved_at = True, time.monotonic()
        try:
            await asyncio.to_thread(
                save_snapshot,
                self._settings.state_dir,
                installation=self._settings.installation,
                epoch=table.epoch,
                cursor=table.cursor,
                facts=table.facts(),
                now=time.time(),
            )
        except OSError as exc:
            self._is_saved = False
            log("routes.save_failed", reason=_name(exc))

    async def _purge_sometimes(self) -> None:
        """Revocations whose session ids have expired anyway leave the memory and the hash; any node may do it."""
        if time.monotonic() - self._purged_at < PURGE_EVERY_S:
            return
        self._purged_at = time.monotonic()
        await self._purge(list(self._known().drop_expired(time.time())))

    async def _purge(self, keys: list[str]) -> None:
        for start in range(0, len(keys), BATCH):
            fields = [name for key in keys[start : start + BATCH] for name in (key, f"{key}#v")]
            await self._redis.hdel(self._keys.facts, *fields)


def _text(raw: bytes | str) -> str:
    return raw.decode() if isinstance(raw, bytes) else raw


def _order(entry: bytes | str) -> tuple[int, int]:
    at, _, sequence = _text(entry).partition("-")
    return int(at), int(sequence)


def _entries(
    news: list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]],
) -> list[tuple[bytes, dict[bytes, bytes]]]:
    return news[0][1] if news else []


def _name(exc: BaseException) -> str:
    return "the data in Redis is gone" if isinstance(exc, DataLost) else type(exc).__name__
