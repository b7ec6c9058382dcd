"""Requests of legacy clients that are on their way, so that a cancellation finds them and an answer reaches its question, at any node.

A request has a Box (`sessions/mailbox.py`) and, once it lasts longer than TELL_AFTER_S or asks the client something, a place in Redis
under its id that names its node and Box. A cancellation that finds it nowhere leaves a mark for as long as a request may go untold:
whichever of the two comes first, the second sees it. A plain request costs no round trip. Redis away: cancellations reach requests of
the same node only. A node that dies takes its requests with it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import msgspec
from redis.asyncio import Redis

from hosting.dataplane.bridges.to_modern.questions import Waiter
from hosting.dataplane.call import Call
from hosting.dataplane.contract import Keys
from hosting.dataplane.protocol.errors import JsonRpcId
from hosting.dataplane.sessions.mailbox import Box, Delivery, Mailbox
from hosting.dataplane.sessions.patience import Patience
from hosting.dataplane.sessions.session import Session

TELL_AFTER_S = 1.0
MARK_S = 10  # of a cancellation that found nothing
TOLD_S = 1800  # of a request's place
LISTEN_S = 60.0

_Key = tuple[str, bytes, JsonRpcId]


class Letter(msgspec.Struct, array_like=True):
    """To a request on its way: an answer to one of its questions, or that nobody wants it any more."""

    kind: Literal["answer", "cancel"]
    number: int = 0
    body: bytes = b""


class Ongoing:
    """One request. Its work is done by the task that made it."""

    def __init__(
        self, running: Running, call: Call, session: Session, request_id: JsonRpcId, box: Box
    ) -> None:
        self.box_name = ""
        self.is_cancelled = False
        self._running = running
        self._call = call
        self._session = session
        self._request_id = request_id
        self._box = box
        self._task = asyncio.current_task()
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._timer = asyncio.get_running_loop().call_later(TELL_AFTER_S, self.tell)

    def tell(self) -> None:
        """From now on other nodes find it."""
        if self._reader is None:
            self._timer.cancel()
            self._reader = asyncio.create_task(self._read())

    def asks(self, number: int) -> asyncio.Future[bytes]:
        """For the answer to a question, as the client posts it."""
        self.tell()
        return self._waiting.setdefault(number, asyncio.get_running_loop().create_future())

    def hear(self, number: int, body: bytes) -> None:
        """An answer to a question, if it is still open."""
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(body)

    async def collect(self) -> None:
        """The letters that another node left in this Box unread."""
        await self._running.collect(self._call, self.box_name)

    def settle(self) -> None:
        """No more questions are open."""
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()

    def cancel(self) -> None:
        if not self.is_cancelled and self._task is not None:
            self.is_cancelled = True
            self._task.cancel()

    def close(self) -> asyncio.Task[None] | None:
        """What still must be told to Redis, if anything was."""
        self._timer.cancel()
        self.settle()
        if self._reader is None:
            return None
        self._reader.cancel()
        return asyncio.create_task(self._running.untell(self._call, self._session, self._request_id))

    async def _read(self) -> None:
        place = msgspec.msgpack.encode((self._running.node, self.box_name))
        if await self._running.tell(self._call, self._session, self._request_id, place):
            self.cancel()
        while True:
            raw = await self._box.take(LISTEN_S)
            if raw is None:
                continue
            letter = _letters.decode(raw)
            if letter.kind == "cancel":
                self.cancel()
            else:
                self.hear(letter.number, letter.body)


class Running:
    """One per process. Nothing here raises because of Redis."""

    def __init__(self, *, installation: str, mailbox: Mailbox, redis: Redis) -> None:
        self.node = mailbox.node
        self._mailbox = mailbox
        self._keys = Keys(installation)
        self._redis: Any = redis  # its annotations mix sync and async, text and bytes
        self._patience = Patience("bridge.running_away")
        self._here: dict[_Key, Ongoing] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def enter(self, call: Call, session: Session, request_id: JsonRpcId, box_name: str) -> Iterator[Ongoing]:
        """For as long as it is on its way."""
        key = (call.route.environment, session.jti, request_id)
        with self._mailbox.open(call.route.tenant, box_name) as box:
            ongoing = Ongoing(self, call, session, request_id, box)
            ongoing.box_name = box_name
            self._here[key] = ongoing
            try:
                yield ongoing
            finally:
                if self._here.get(key) is ongoing:
                    del self._here[key]
                closing = ongoing.close()
                if closing is not None:
                    self._closing.add(closing)
                    closing.add_done_callback(self._closing.discard)

    async def cancel(self, call: Call, session: Session, request_id: JsonRpcId) -> None:
        """Wherever the request is on its way; nothing when it is not."""
        ongoing = self._here.get((call.route.environment, session.jti, request_id))
        if ongoing is not None:
            ongoing.cancel()
            return

        async def mark() -> bytes | None:
            pipe = self._redis.pipeline(transaction=True)
            pipe.set(self._key(call, session, request_id, "cancelled"), b"1", ex=MARK_S)
            pipe.get(self._key(call, session, request_id, "running"))
            found: bytes | None = (await pipe.execute())[1]
            return found

        place = await self._patience.attempt(mark, None)
        if place is not None:
            node, box = msgspec.msgpack.decode(place, type=tuple[str, str])
            await self._post(call, node, box, Letter("cancel"))

    async def answer(self, call: Call, waiter: Waiter, body: bytes, *, node: str = "") -> Delivery:
        """A client's answer, to whoever asked, or has taken that over."""
        return await self._post(call, node or waiter.node, waiter.box, Letter("answer", waiter.number, body))

    async def collect(self, call: Call, box_name: str) -> None:
        await self._mailbox.collect(call.route.tenant, box_name)

    async def tell(self, call: Call, session: Session, request_id: JsonRpcId, place: bytes) -> bool:
        """Whether it was cancelled before anybody could find it."""

        async def write() -> bool:
            pipe = self._redis.pipeline(transaction=True)
            pipe.set(self._key(call, session, request_id, "running"), place, ex=TOLD_S)
            pipe.get(self._key(call, session, request_id, "cancelled"))
            return (await pipe.execute())[1] is not None

        return await self._patience.attempt(write, False)

    async def untell(self, call: Call, session: Session, request_id: JsonRpcId) -> None:
        key = self._key(call, session, request_id, "running")
        await self._patience.attempt(lambda: self._redis.delete(key), 0)

    async def _post(self, call: Call, node: str, box: str, letter: Letter) -> Delivery:
        return await self._mailbox.post(call.route.tenant, box, msgspec.msgpack.encode(letter), node=node)

    def _key(self, call: Call, session: Session, request_id: JsonRpcId, what: str) -> str:
        named = hashlib.sha256(msgspec.json.encode(request_id)).hexdigest()[:32]
        return self._keys.of_tenant(call.route.tenant, "session", session.handle, what, named)


_letters = msgspec.msgpack.Decoder(Letter)
