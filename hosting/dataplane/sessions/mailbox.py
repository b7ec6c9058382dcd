"""Messages for whoever waits on another node: a client's answer to a server's question may reach any node, its asker lives on one.

A node opens a Box under a name that only it has minted, and tells that name to nobody but the client (inside a request id). Whoever
gets the answer posts it to the Box's node: into the process's own Box directly; otherwise into a Redis list of the tenant, sealed, and
a bell into the list of the node, which one connection waits on however many Boxes are open. A node is alive while its key is: it
is set anew every BEAT_S. Letters nobody fetches are gone after LIFE_S.

If a node dies, `post` says so within DEAD_AFTER_S; what it had not fetched is lost with its asker. Redis away: letters reach Boxes of
the same process only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from hosting.dataplane.contract import Keys
from hosting.dataplane.sessions.seal import NotSealed, Seal
from hosting.dataplane.telemetry.logs import Damper

BEAT_S = 1.0
DEAD_AFTER_S = 5
LIFE_S = 120
WAIT_S = 1.0  # longer than this nobody who posts waits for Redis
MAX_LETTERS = 64  # that one Box may hold unread, here or in Redis
MAX_BOX_BYTES = 16 * 1024 * 1024  # unread in one Box here; one letter always fits
MAX_BELLS = 100_000  # that one node may not have heard yet
BELLS_AT_ONCE = 500
PAUSE_S = 1.0

Delivery = Literal["delivered", "dead", "full", "away"]

_POST = """
-- KEYS: the node's life, its bells, the Box. ARGV: letter, bell, most letters, most bells, life of a letter in seconds.
if redis.call('EXISTS', KEYS[1]) == 0 then return 'dead' end
if redis.call('LLEN', KEYS[3]) >= tonumber(ARGV[3]) then return 'full' end
if redis.call('LLEN', KEYS[2]) >= tonumber(ARGV[4]) then return 'full' end
redis.call('RPUSH', KEYS[3], ARGV[1])
redis.call('EXPIRE', KEYS[3], ARGV[5])
redis.call('RPUSH', KEYS[2], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[5])
return 'delivered'
"""


class Box:
    """Where one asker waits. Bounded: MAX_LETTERS and MAX_BOX_BYTES unread."""

    def __init__(self) -> None:
        self._letters: asyncio.Queue[bytes] = asyncio.Queue(MAX_LETTERS)
        self._held = 0

    async def take(self, timeout_s: float) -> bytes | None:
        """The oldest letter; None when none came in time."""
        try:
            async with asyncio.timeout(timeout_s):
                letter = await self._letters.get()
        except TimeoutError:
            return None
        self._held -= len(letter)
        return letter

    def put(self, letter: bytes) -> bool:
        """Whether there was room."""
        if self._letters.full() or (self._held and self._held + len(letter) > MAX_BOX_BYTES):
            return False
        self._letters.put_nowait(letter)
        self._held += len(letter)
        return True


class Mailbox:
    """One per process. Nothing here raises because of Redis. `run` never ends by itself."""

    def __init__(self, *, installation: str, node: str, ring: Mapping[str, bytes], redis: Redis) -> None:
        self.node = node
        self._keys = Keys(installation)
        self._seal = Seal(ring, "mail")
        self._redis: Any = redis  # its annotations mix sync and async, text and bytes
        self._post = redis.register_script(_POST)
        self._boxes: dict[tuple[str, str], Box] = {}
        self._damper = Damper()

    @contextmanager
    def open(self, tenant: str, name: str) -> Iterator[Box]:
        """A Box of this node, for as long as its asker waits. `name` is unique among the tenant's and hard to guess."""
        box = self._boxes[tenant, name] = Box()
        try:
            yield box
        finally:
            self._boxes.pop((tenant, name), None)

    async def post(self, tenant: str, name: str, letter: bytes, *, node: str) -> Delivery:
        """To the Box `name` on `node`. `dead`: nobody waits there any more."""
        if node == self.node:
            box = self._boxes.get((tenant, name))
            if box is None:
                return "dead"
            return "delivered" if box.put(letter) else "full"
        sealed = self._seal.seal(letter, _context(tenant, name))
        bell = msgspec.json.encode((tenant, name))
        keys = [self._keys.node(node), self._keys.bells(node), self._box(tenant, name)]
        said = await self._try(
            self._post(keys=keys, args=[sealed, bell, MAX_LETTERS, MAX_BELLS, LIFE_S]), b"away"
        )
        delivery: Delivery = said.decode()
        return delivery

    async def collect(self, tenant: str, name: str) -> None:
        """Fetches what was left for a Box of this name at a node that is gone."""
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await self._fetch({msgspec.json.encode((tenant, name))})

    async def is_alive(self, node: str) -> bool:
        """Whether a node has given a sign of life lately. True when Redis cannot say."""
        return node == self.node or bool(await self._try(self._redis.exists(self._keys.node(node)), 1))

    async def run(self) -> None:
        """Says that this node lives, and fetches its letters."""
        beaten_at = -BEAT_S
        while True:
            try:
                if time.monotonic() - beaten_at >= BEAT_S:
                    await self._redis.set(self._keys.node(self.node), b"1", ex=DEAD_AFTER_S)
                    beaten_at = time.monotonic()
                heard = await self._redis.blpop([self._keys.bells(self.node)], timeout=BEAT_S)
                if heard is not None:
                    more = await self._redis.lpop(self._keys.bells(self.node), BELLS_AT_ONCE)
                    await self._fetch({heard[1], *(more or ())})
            except (RedisError, OSError, TimeoutError) as exc:
                self._damper.log("mail.away", "redis", reason=type(exc).__name__)
                await asyncio.sleep(PAUSE_S)

    async def _fetch(self, bells: set[bytes]) -> None:
        names = [msgspec.json.decode(bell, type=tuple[str, str]) for bell in bells]
        pipe = self._redis.pipeline(transaction=False)
        for tenant, name in names:
            pipe.lpop(self._box(tenant, name), MAX_LETTERS)
        for (tenant, name), letters in zip(names, await pipe.execute(), strict=True):
            box = self._boxes.get((tenant, name))
            for sealed in letters or ():
                letter = self._open(sealed, tenant, name)
                if letter is not None and (box is None or not box.put(letter)):
                    self._damper.log("mail.undeliverable", tenant, tenant=tenant)

    def _open(self, sealed: bytes, tenant: str, name: str) -> bytes | None:
        try:
            return self._seal.open(sealed.decode(), _context(tenant, name))
        except (NotSealed, UnicodeDecodeError):
            self._damper.log("mail.unreadable", tenant, tenant=tenant)
            return None

    def _box(self, tenant: str, name: str) -> str:
        return self._keys.of_tenant(tenant, "mail", name)

    async def _try(self, asked: Awaitable[Any], otherwise: Any) -> Any:
        try:
            async with asyncio.timeout(WAIT_S):
                return await asked
        except (RedisError, OSError, TimeoutError) as exc:
            self._damper.log("mail.away", "redis", reason=type(exc).__name__)
            return otherwise


def _context(tenant: str, name: str) -> bytes:
    return f"mail\0{tenant}\0{name}".encode()
