"""A legacy client's GET, as one `subscriptions/listen` at its modern server: for changed lists, and for the resources it watches.

The listen is the gateway's: its acknowledgement and its mark stay behind. It is opened anew when the server closes it, moves to another
Release (then the client is told that the lists have changed), or the client watches something else: then the new one stands before the
old one ends; what both bring is told twice rather than not at all: it says no more than "look again". A session has one such
stream; whoever opens another takes its place, at any node.

Whoever changes what a session watches, at whatever node, writes a letter to the holder of its stream and waits, for a little while, until
the server has confirmed. Redis away: the holder hears of changes made at its own node.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from redis.asyncio import Redis

from hosting.dataplane.bridges.to_modern.answers import without_subscription
from hosting.dataplane.bridges.to_modern.asked import own_request
from hosting.dataplane.bridges.to_modern.errands import Errands, NotModern
from hosting.dataplane.bridges.to_modern.introduction import Introduction
from hosting.dataplane.bridges.to_modern.toolbook import Books
from hosting.dataplane.bridges.to_modern.way import Attempt, Way, Ways
from hosting.dataplane.contract import Keys, Target
from hosting.dataplane.forwarding.conversation import Said
from hosting.dataplane.forwarding.outlet import Outlet
from hosting.dataplane.forwarding.upstream import UpstreamFailure
from hosting.dataplane.protocol.era import LISTEN
from hosting.dataplane.protocol.errors import METHOD_NOT_ALLOWED, UPSTREAM_FAILED, Refusal
from hosting.dataplane.sessions.mailbox import Box, Mailbox
from hosting.dataplane.sessions.patience import Patience
from hosting.dataplane.sessions.session import Session
from hosting.dataplane.sessions.wishes import Wishes

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
ACK_S = 10.0  # for a server to confirm what is listened for
CONFIRM_S = 2.0  # that whoever subscribes waits for the holder of the stream
PLACE_S = 90  # that a holder's place in Redis lives
BEAT_S = 30.0
RETRY_S = (0.25, 15.0)  # between two attempts to listen again
OVERLAP_S = 0.2  # that an old listen is still read once the new one stands
LISTS = (
    ("tools", "toolsListChanged", "notifications/tools/list_changed"),
    ("prompts", "promptsListChanged", "notifications/prompts/list_changed"),
    ("resources", "resourcesListChanged", "notifications/resources/list_changed"),
)


class _Letter(msgspec.Struct, array_like=True):
    """To the holder of a stream: look again at what is watched and tell `box` on `node`; or another holds the stream."""

    is_taken: bool = False
    node: str = ""
    box: str = ""


class Listeners:
    """Who holds the stream of which session. One per process."""

    def __init__(self, *, installation: str, mailbox: Mailbox, redis: Redis) -> None:
        self._mailbox = mailbox
        self._keys = Keys(installation)
        self._redis: Any = redis  # its annotations mix sync and async, text and bytes
        self._patience = Patience("bridge.listeners_away")
        self._here: dict[tuple[str, bytes], str] = {}

    @asynccontextmanager
    async def hold(self, way: Way, session: Session) -> AsyncIterator[Box]:
        """The session's stream is here; whoever held it before is told."""
        tenant, name = way.call.route.tenant, f"listen-{secrets.token_hex(12)}"
        key = (way.call.route.environment, session.jti)
        await self._tell(way, session, _Letter(is_taken=True))
        with self._mailbox.open(tenant, name) as box:
            self._here[key] = name
            beat = asyncio.create_task(self._beat(way, session, name))
            try:
                yield box
            finally:
                beat.cancel()
                if self._here.get(key) == name:
                    del self._here[key]
                    await self._patience.attempt(lambda: self._redis.delete(self._key(way, session)), 0)

    async def changed(self, way: Way, session: Session) -> None:
        """What the session watches has changed: until its stream's holder has it from the server, or CONFIRM_S."""
        name = f"heard-{secrets.token_hex(12)}"
        with self._mailbox.open(way.call.route.tenant, name) as box:
            if await self._tell(way, session, _Letter(node=self._mailbox.node, box=name)):
                await box.take(CONFIRM_S)

    async def confirm(self, way: Way, letter: _Letter) -> None:
        await self._mailbox.post(way.call.route.tenant, letter.box, b"done", node=letter.node)

    async def _tell(self, way: Way, session: Session, letter: _Letter) -> bool:
        """Whether somebody holds the stream."""
        name = self._here.get((way.call.route.environment, session.jti))
        place: bytes | None = msgspec.msgpack.encode((self._mailbox.node, name))
        if name is None:
            place = await self._patience.attempt(lambda: self._redis.get(self._key(way, session)), None)
        if place is None:
            return False
        node, box = msgspec.msgpack.decode(place, type=tuple[str, str])
        raw = msgspec.msgpack.encode(letter)
        return await self._mailbox.post(way.call.route.tenant, box, raw, node=node) == "delivered"

    async def _beat(self, way: Way, session: Session, name: str) -> None:
        place = msgspec.msgpack.encode((self._mailbox.node, name))
        while True:
            await self._patience.attempt(
                lambda: self._redis.set(self._key(way, session), place, ex=PLACE_S), None
            )
            await asyncio.sleep(BEAT_S)

    def _key(self, way: Way, session: Session) -> str:
        return self._keys.of_tenant(way.call.route.tenant, "session", session.handle, "listener")


class _Listen:
    """One listen at the server, acknowledged, with what it has not yet said."""

    def __init__(self, attempt: Attempt, messages: AsyncIterator[Said], release: str) -> None:
        self.attempt = attempt
        self.messages = messages
        self.release = release

    def close(self) -> None:
        self.attempt.close()


class Listener:
    """One GET. `open` before the client is told that it stands, then `run`, and `close` in `finally`."""

    def __init__(
        self,
        way: Way,
        session: Session,
        box: Box,
        *,
        ways: Ways,
        errands: Errands,
        books: Books,
        wishes: Wishes,
        listeners: Listeners,
        target_now: Callable[[], Target | None],
    ) -> None:
        self._way = way
        self._session = session
        self._box = box
        self._ways = ways
        self._errands = errands
        self._books = books
        self._wishes = wishes
        self._listeners = listeners
        self._target_now = target_now
        self._introduction: Introduction | None = None
        self._listen: _Listen | None = None
        self._reader: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()

    async def open(self) -> None:
        """Raises Refusal (405: this server says nothing by itself)."""
        self._introduction = await self._introduced()
        if not (self._lists() or self._introduction.declares("resources", "subscribe")):
            raise _no_stream()
        self._listen = await self._listened()

    async def run(self, outlet: Outlet) -> None:
        """Until another takes the stream, the server cannot be listened to any more, or it is stopped."""
        await outlet.begin()
        reader = self._reader = asyncio.create_task(self._read(outlet))
        while True:
            letters = asyncio.create_task(self._box.take(BEAT_S))
            try:
                await asyncio.wait([letters, reader], return_when=asyncio.FIRST_COMPLETED)
                if reader.done():
                    reader.result()
                    return
                raw = letters.result()
            finally:
                letters.cancel()
            letter = None if raw is None else _letters.decode(raw)
            if letter is not None and letter.is_taken:
                return
            if letter is not None:
                await self._change()
                await self._listeners.confirm(self._way, letter)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        if self._listen is not None:
            self._listen.close()

    async def _read(self, outlet: Outlet) -> None:
        """What the listen brings, and the next one's when it ends. Raises ClientGone, Refusal."""
        while True:
            listen = self._listen
            if listen is None:
                await self._idle()
                continue
            with suppress(Refusal, UpstreamFailure):
                async for said in listen.messages:
                    await self._pass(outlet, said)
            listen.close()
            if self._listen is listen:  # not ended by us
                await self._again(outlet)

    async def _idle(self) -> None:
        """Nothing is listened for: until something is watched."""
        self._woken.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S):
                await self._woken.wait()
        with suppress(Refusal):
            self._listen = self._listen or await self._listened()

    async def _again(self, outlet: Outlet) -> None:
        """Listens anew, for as long as it takes. Raises Refusal when there is nothing modern to listen to any more."""
        self._listen, pause_s, before = None, RETRY_S[0], self._way.target.release
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all come at once
            pause_s = min(pause_s * 2, RETRY_S[1])
            target = self._target_now()
            if target is None:
                raise _no_stream()
            self._way = Way(self._way.call, target, self._way.client)
            try:
                self._introduction = await self._introduced()
                self._listen = await self._listened()
                break
            except Refusal:
                continue
        if self._way.target.release != before:
            for _, _, method in self._lists():
                await outlet.say(msgspec.json.encode({"jsonrpc": "2.0", "method": method}))

    async def _change(self) -> None:
        """Listens for what is watched now; the old listen ends once the new one stands."""
        try:
            new = await self._listened()
        except Refusal:
            return  # the old one goes on, and with its end all is read again
        old = self._listen
        if old is not None:
            await asyncio.sleep(OVERLAP_S)
        self._listen = new
        if old is not None:
            old.close()
        self._woken.set()

    async def _pass(self, outlet: Outlet, said: Said) -> None:
        method = said.spoken.method
        if method is None or said.spoken.id is not None or method == ACKNOWLEDGED:
            return
        if method == LISTS[0][2]:
            self._books.of(self._way.call.route.environment, self._way.target.release).is_whole = False
        await outlet.say(without_subscription(said.raw))

    async def _listened(self) -> _Listen | None:
        """Acknowledged by the server; None when there is nothing to listen for. Raises Refusal."""
        wanted: dict[str, Any] = {name: True for _, name, _ in self._lists()}
        if self._introduction is not None and self._introduction.declares("resources", "subscribe"):
            uris = await self._wishes.watched(self._session, self._way.call.route)
            if uris:
                wanted["resourceSubscriptions"] = list(uris)
        if not wanted:
            return None
        asked = own_request(LISTEN, {"notifications": wanted})
        attempt = await self._ways.ask(self._way, asked, is_listening=True)
        try:
            with self._ways.counted(self._way, attempt.plan, attempt.started):
                return await self._acknowledged(attempt)
        except BaseException:
            attempt.close()
            raise

    async def _acknowledged(self, attempt: Attempt) -> _Listen:
        """Raises Refusal, UpstreamFailure."""
        if attempt.answer.status in {404, 405}:
            raise _no_stream()
        messages = attempt.conversation.messages()
        try:
            async with asyncio.timeout(ACK_S):
                async for said in messages:
                    if said.spoken.method == ACKNOWLEDGED:
                        self._ways.answered(self._way, attempt, len(said.raw))
                        return _Listen(attempt, messages, self._way.target.release)
                    if said.spoken.is_answer:
                        break
        except TimeoutError:
            raise UpstreamFailure("timeout") from None
        raise Refusal(UPSTREAM_FAILED, "the server does not listen")

    async def _introduced(self) -> Introduction:
        try:
            return await self._errands.introduction(self._way)
        except NotModern:
            raise _no_stream() from None

    def _lists(self) -> list[tuple[str, str, str]]:
        told = self._introduction
        return [of for of in LISTS if told is not None and told.declares(of[0], "listChanged")]


_letters = msgspec.msgpack.Decoder(_Letter)


def _no_stream() -> Refusal:
    return Refusal(METHOD_NOT_ALLOWED, "this server offers no stream", headers=(("allow", "POST, DELETE"),))
