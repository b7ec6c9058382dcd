"""Requests that wait for a client's answers, written down so that another node can go on with them when theirs is gone.

A round of questions is written under its Box, and found by the stream on which they were asked (`forwarding/journal.py`). Whoever takes up
that stream takes up the Box, under the same name, at its own node: what was answered meanwhile is kept with the round, or still lies in the
Box's list in Redis. Who gets an answer for a node that is gone asks here which node has the Box now. Sealed, at most MAX_BYTES, gone
with the round's end or its time. Redis away: the request lives and dies with its node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from redis.asyncio import Redis

from hosting.dataplane.bridges.to_modern.asked import Asked
from hosting.dataplane.contract import Keys, Route
from hosting.dataplane.protocol.errors import JsonRpcId
from hosting.dataplane.sessions.patience import Patience
from hosting.dataplane.sessions.seal import NotSealed, Seal
from hosting.dataplane.sessions.session import Session

MAX_BYTES = 256 * 1024  # of a request that is written down
SPARE_S = 60  # how long a round outlives its time
_ANSWER = b"a:"
_encode = msgspec.json.Encoder().encode


class Round(msgspec.Struct, frozen=True, array_like=True):
    """A request that waits. JSON texts as they are on the wire."""

    release: str
    stream: str
    box: str
    rounds: int
    request_id: JsonRpcId
    method: str
    params: bytes
    meta: bytes
    name: str
    state: bytes  # empty: none
    questions: tuple[tuple[int, str, str], ...]  # number, the server's key, the id it was asked under

    @property
    def asked(self) -> Asked:
        fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
        return Asked(
            id=self.request_id,
            method=self.method,
            params=fields.decode(self.params),
            meta=fields.decode(self.meta),
            upstream_id=self.request_id,
            name=self.name,
        )


def round_of(
    asked: Asked,
    *,
    release: str,
    stream: str,
    box: str,
    rounds: int,
    state: msgspec.Raw | None,
    questions: tuple[tuple[int, str, str], ...],
) -> Round:
    first = asked.again(None, None)
    return Round(
        release=release,
        stream=stream,
        box=box,
        rounds=rounds,
        request_id=asked.id,
        method=asked.method,
        params=_encode(first.params),
        meta=_encode(first.meta),
        name=asked.name,
        state=b"" if state is None else bytes(state),
        questions=questions,
    )


class Parking:
    """One per process. Nothing here raises because of Redis."""

    def __init__(
        self, *, installation: str, node: str, ring: Mapping[str, bytes], redis: Redis, question_s: float
    ) -> None:
        self.node = node
        self._keys = Keys(installation)
        self._seal = Seal(ring, "parked")
        self._redis: Any = redis  # its annotations mix sync and async, text and bytes
        self._life_s = int(question_s) + SPARE_S
        self._patience = Patience("bridge.parking_away")

    async def park(self, session: Session, route: Route, waiting: Round) -> bool:
        """From now on another node can go on; False when none will be able to."""
        plain = msgspec.msgpack.encode(waiting)
        if not waiting.stream or len(plain) > MAX_BYTES:
            return False
        sealed = self._seal.seal(plain, _context(session, route, waiting.box))

        async def write() -> bool:
            pipe = self._redis.pipeline(transaction=True)
            key = self._box(session, route, waiting.box)
            pipe.delete(key)
            pipe.hset(key, mapping={"round": sealed, "node": self.node})
            pipe.expire(key, self._life_s)
            pipe.set(self._stream(session, route, waiting.stream), waiting.box, ex=self._life_s)
            await pipe.execute()
            return True

        return await self._patience.attempt(write, False)

    async def unpark(self, session: Session, route: Route, waiting: Round) -> None:
        keys = [self._box(session, route, waiting.box), self._stream(session, route, waiting.stream)]
        await self._patience.attempt(lambda: self._redis.delete(*keys), 0)

    async def keep_answer(self, session: Session, route: Route, box: str, number: int, body: bytes) -> bool:
        """For whoever goes on with the round; False when nobody can any more, or it is too large."""
        key = self._box(session, route, box)
        if len(body) > MAX_BYTES or not await self._patience.attempt(lambda: self._redis.exists(key), 0):
            return False
        sealed = self._seal.seal(body, _context(session, route, f"{box}\0{number}"))
        name = _ANSWER + str(number).encode()
        await self._patience.attempt(lambda: self._redis.hset(key, name, sealed), 0)
        await self._patience.attempt(lambda: self._redis.expire(key, self._life_s), 0)
        return True

    async def node_of(self, session: Session, route: Route, box: str) -> str:
        """The node that has the Box now; empty when the round is over, or Redis away."""
        key = self._box(session, route, box)
        found: bytes | None = await self._patience.attempt(lambda: self._redis.hget(key, "node"), None)
        return "" if found is None else found.decode()

    async def take(self, session: Session, route: Route, stream: str) -> Round | None:
        """The round that waits on this stream. None where there is none."""
        place = self._stream(session, route, stream)
        found: bytes | None = await self._patience.attempt(lambda: self._redis.get(place), None)
        if found is None:
            return None
        key = self._box(session, route, found.decode())

        sealed: bytes | None = await self._patience.attempt(lambda: self._redis.hget(key, "round"), None)
        plain = None if sealed is None else self._open(sealed, _context(session, route, found.decode()))
        return None if plain is None else msgspec.msgpack.decode(plain, type=Round)

    async def move(self, session: Session, route: Route, box: str) -> None:
        """Whoever has an answer for this Box finds it at this node: it is open here."""
        key = self._box(session, route, box)
        await self._patience.attempt(lambda: self._redis.hset(key, "node", self.node), 0)
        await self._patience.attempt(lambda: self._redis.expire(key, self._life_s), 0)

    async def answers(self, session: Session, route: Route, box: str) -> dict[int, bytes]:
        """What has been answered of a round, by number."""
        key = self._box(session, route, box)
        fields: dict[bytes, bytes] = await self._patience.attempt(lambda: self._redis.hgetall(key), {})
        found = {}
        for name, sealed in fields.items():
            if name.startswith(_ANSWER):
                number = int(name.removeprefix(_ANSWER))
                plain = self._open(sealed, _context(session, route, f"{box}\0{number}"))
                if plain is not None:
                    found[number] = plain
        return found

    def _open(self, sealed: bytes, context: bytes) -> bytes | None:
        try:
            return self._seal.open(sealed.decode(), context)
        except NotSealed:
            return None

    def _box(self, session: Session, route: Route, box: str) -> str:
        return self._keys.of_tenant(route.tenant, "session", session.handle, "asking", box)

    def _stream(self, session: Session, route: Route, stream: str) -> str:
        return self._keys.of_tenant(route.tenant, "session", session.handle, "parked", stream)


def _context(session: Session, route: Route, what: str) -> bytes:
    return f"park\0{route.tenant}\0{route.environment}\0{session.handle}\0{what}".encode()
