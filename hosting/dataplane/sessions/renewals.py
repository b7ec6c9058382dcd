"""What Redis remembers of a session besides its id: the server's session that took the place of a lost one, what a new one must be
told (the log level, the subscriptions), and the server's own session as it was opened, for whoever ends it without holding the id.

Sealed in a Redis hash per session, its fields written one by one so that two nodes lose nothing of each other's, and gone when nobody
has used the session for the idle time. Read only after a server said that it does not know the session, or when it has ended, so a
request costs nothing here; what a node has learnt it keeps, for as many sessions as fit. Redis away: this node heals for itself, and a
later node heals again.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from hosting.dataplane.contract import Keys, Revocation, Route
from hosting.dataplane.sessions.seal import NotSealed, Seal
from hosting.dataplane.sessions.session import Session
from hosting.dataplane.telemetry.logs import Damper

WAIT_S = 1.0  # longer than this nobody waits for Redis
KEPT = 50_000  # sessions a node remembers the renewal of
MAX_SUBSCRIPTIONS = 200  # of one session
MAX_FIELDS = MAX_SUBSCRIPTIONS + 4
IN_USE = "seen"  # a field that says nothing: somebody uses the session
MAX_URI = 2048
SET_LEVEL = "logging/setLevel"
SUBSCRIBE = "resources/subscribe"
UNSUBSCRIBE = "resources/unsubscribe"
NOTED = frozenset({SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE})
LEVELS = frozenset(
    (b"debug", b"info", b"notice", b"warning", b"error", b"critical", b"alert", b"emergency")
)  # RFC 5424, as MCP names them
_OPENED = "opened"
_RENEWED = "renewed"
_LEVEL = "level"
_SUBSCRIBED = "uri:"

_UNLOCK = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
_TAKE = """
-- KEYS: the session's hash. ARGV: the fields of its opening and its renewal. Who comes before the opening was written takes nothing: the
-- node that has it still to write would find it without its renewal.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return false end
local found = redis.call('HMGET', KEYS[1], ARGV[1], ARGV[2])
redis.call('DEL', KEYS[1])
return found
"""
_REMEMBER = """
-- KEYS: the session's hash. ARGV: for how long it is kept (ms), the most fields it may have, field, value.
if redis.call('HEXISTS', KEYS[1], ARGV[3]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""


class Renewal(msgspec.Struct, frozen=True):
    """The server's session that is used now. `number` grows with every one."""

    number: int
    at: float  # seconds since the epoch
    release: str
    upstream_id: str


class Opening(msgspec.Struct, frozen=True):
    """The server's session as it was opened."""

    release: str
    upstream_id: str
    revision: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What Redis knows of a session besides its id."""

    renewal: Renewal | None = None
    level: str = ""  # as the client set it
    subscriptions: tuple[str, ...] = ()
    is_away: bool = False  # Redis could not be asked


class Renewals:
    """One per process. Nothing here raises because of Redis."""

    def __init__(self, *, installation: str, ring: Mapping[str, bytes], redis: Redis, kept_s: float) -> None:
        """`kept_s`: how long what is known of a session is kept after its last use."""
        self._keys = Keys(installation)
        self._kept_ms = int(kept_s * 1000)
        self._seal = Seal(ring, "renewal")
        self._redis: Any = redis  # its annotations mix sync and async, text and bytes
        self._unlock = redis.register_script(_UNLOCK)
        self._take = redis.register_script(_TAKE)
        self._remember = redis.register_script(_REMEMBER)
        self._known: OrderedDict[tuple[str, bytes], Renewal] = OrderedDict()
        self._unwritten: dict[str, dict[str, str]] = {}
        self._damper = Damper()

    def current(self, session: Session, route: Route) -> Session:
        """The session as it is now, as far as this node knows. Costs one look in a dict."""
        if not self._known:
            return session
        return self._applied(session, self._known.get((route.environment, session.jti)))

    async def recall(self, session: Session, route: Route) -> Memory:
        """What any node has written down of it."""
        fields: dict[bytes, bytes] | None = await self._try(
            self._redis.hgetall(self._key(session, route)), None
        )
        level, subscriptions, renewal = "", [], None
        for name, sealed in (fields or {}).items():
            plain = self._open(sealed, name.decode(), route.tenant, route.environment, session.handle)
            if plain is None:
                continue
            if name == _RENEWED.encode():
                renewal = msgspec.json.decode(plain, type=Renewal)
            elif name == _LEVEL.encode():
                level = plain.decode()
            elif name.startswith(_SUBSCRIBED.encode()):
                subscriptions.append(plain.decode())
        if renewal is not None:
            self._keep(session, route, renewal)
        known = self._known.get((route.environment, session.jti))
        return Memory(known, level, tuple(subscriptions), is_away=fields is None)

    async def renew(self, session: Session, route: Route, renewal: Renewal) -> None:
        """From now on `renewal` is the server's session, on every node that comes to ask."""
        self._keep(session, route, renewal)
        plain, key = msgspec.json.encode(renewal), self._key(session, route)
        is_written = await self._write(session, route, _RENEWED, plain)
        self._unwritten.pop(key, None)
        if not is_written:
            self._unwritten[key] = {_RENEWED: self._sealed(session, route, _RENEWED, plain)}
            if len(self._unwritten) > KEPT:
                self._unwritten.pop(next(iter(self._unwritten)))

    def take_unwritten(self) -> dict[str, dict[str, str]]:
        """Renewals that Redis did not take: key → field → value, to be written behind."""
        unwritten, self._unwritten = self._unwritten, {}
        return unwritten

    async def note(self, session: Session, route: Route, method: str, params: Mapping[str, Any]) -> bool:
        """A client's wish that outlives its request (one of NOTED); whether every node will know it. What the server makes of it
        does not matter: it will say the same again."""
        if method == SET_LEVEL:
            level = _bytes_of(params.get("level"))
            return level in LEVELS and await self._write(session, route, _LEVEL, level)
        uri = _bytes_of(params.get("uri"))
        if method == UNSUBSCRIBE:
            return await self._try(self._redis.hdel(self._key(session, route), _field(uri)), None) is not None
        return 0 < len(uri) <= MAX_URI and await self._write(session, route, _field(uri), uri)

    async def close(self, session: Session, route: Route) -> Session:
        """The session as it was at the end; nothing of it is kept."""
        await self.recall(session, route)
        last = self.current(session, route)
        self._known.pop((route.environment, session.jti), None)
        await self._try(self._redis.delete(self._key(session, route)), 0)
        return last

    def opening(self, session: Session, route: Route) -> tuple[str, str]:
        """The field and its value that `take` wants to find, to be written behind the request."""
        told = Opening(session.release, session.upstream_id, session.revision)
        return _OPENED, self._sealed(session, route, _OPENED, msgspec.json.encode(told))

    async def take(self, revocations: Sequence[Revocation]) -> list[Opening | None]:
        """What is known of each session's server, for one node alone: reading it removes it. Raises redis.RedisError, TimeoutError."""
        pipe = self._redis.pipeline(transaction=False)
        for fact in revocations:
            key = self.key(fact.tenant, fact.session)
            await self._take(keys=[key], args=[_OPENED, _RENEWED], client=pipe)
        async with asyncio.timeout(WAIT_S):
            answers = await pipe.execute()
        return [
            self._last(fact, *(found or (None, None)))
            for fact, found in zip(revocations, answers, strict=True)
        ]

    def _last(self, fact: Revocation, sealed: bytes | None, renewed: bytes | None) -> Opening | None:
        of = (fact.tenant, fact.environment, fact.session)
        plain = self._open(sealed, _OPENED, *of) if sealed else None
        if plain is None:
            return None
        opening = msgspec.json.decode(plain, type=Opening)
        later = self._open(renewed, _RENEWED, *of) if renewed else None
        if later is None:
            return opening
        renewal = msgspec.json.decode(later, type=Renewal)
        return Opening(renewal.release, renewal.upstream_id, opening.revision)

    def key(self, tenant: str, handle: str, *parts: str) -> str:
        """Of a session's hash in Redis, or of what belongs to it."""
        return self._keys.of_tenant(tenant, "session", handle, *parts)

    async def lock(self, session: Session, route: Route, *, for_s: float) -> str | None:
        """A token for `unlock` when this node may renew the session; "" when Redis is away, None when another node is at it."""
        token = secrets.token_hex(8)
        key = self._key(session, route, "lock")
        got = await self._try(self._redis.set(key, token, nx=True, px=int(for_s * 1000)), "away")
        if got == "away":
            return ""
        return token if got else None

    async def unlock(self, session: Session, route: Route, token: str) -> None:
        if token:
            await self._try(self._unlock(keys=[self._key(session, route, "lock")], args=[token]), 0)

    def _key(self, session: Session, route: Route, *parts: str) -> str:
        return self.key(route.tenant, session.handle, *parts)

    def _keep(self, session: Session, route: Route, renewal: Renewal) -> None:
        key = (route.environment, session.jti)
        known = self._known.get(key)
        if known is None or known.number < renewal.number:
            self._known[key] = renewal
        self._known.move_to_end(key)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)

    def _applied(self, session: Session, renewal: Renewal | None) -> Session:
        if renewal is None:
            return session
        return replace(session, release=renewal.release, upstream_id=renewal.upstream_id, leg="legacy")

    async def _write(self, session: Session, route: Route, name: str, plain: bytes) -> bool:
        args: list[str | int] = [self._kept_ms, MAX_FIELDS, name, self._sealed(session, route, name, plain)]
        return bool(await self._try(self._remember(keys=[self._key(session, route)], args=args), 0))

    def _sealed(self, session: Session, route: Route, name: str, plain: bytes) -> str:
        return self._seal.seal(plain, _context(route.tenant, route.environment, session.handle, name))

    def _open(self, sealed: bytes, name: str, tenant: str, environment: str, handle: str) -> bytes | None:
        if name == IN_USE:
            return None
        try:
            return self._seal.open(sealed.decode(), _context(tenant, environment, handle, name))
        except (NotSealed, UnicodeDecodeError):
            self._damper.log("session.memory_unreadable", environment, environment=environment)
            return None

    async def _try(self, asked: Awaitable[Any], otherwise: Any) -> Any:
        try:
            async with asyncio.timeout(WAIT_S):
                return await asked
        except (RedisError, OSError, TimeoutError) as exc:
            self._damper.log("session.memory_away", "redis", reason=type(exc).__name__)
            return otherwise


def _bytes_of(said: object) -> bytes:
    """A client's text; empty for what is none, or could not be said again (half a surrogate pair)."""
    try:
        return said.encode() if isinstance(said, str) else b""
    except UnicodeEncodeError:
        return b""


def _field(uri: bytes) -> str:
    return _SUBSCRIBED + hashlib.sha256(uri).hexdigest()[:32]


def _context(tenant: str, environment: str, handle: str, name: str) -> bytes:
    return f"ren\0{tenant}\0{environment}\0{handle}\0{name}".encode()
