"""What a legacy server says by itself: one stream of the server's for all who listen (`subscriptions/listen`) in one session, and each
URI subscribed to once.

Many servers ask their client on this stream, though it is for a call: where the client offers to be asked, the stream stands from the first
call on, and a question belongs to the one call that is under way. Where there are more, or none, it is refused.

A server's stream that ends is opened again; a session that it has lost is opened anew, with the subscriptions. Where neither helps, the
listeners get the result of their request, and their streams end: they may listen again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from hosting.dataplane.bridges.to_legacy.answers import tagged
from hosting.dataplane.bridges.to_legacy.asks import pong_body, refusal_body
from hosting.dataplane.bridges.to_legacy.facts import NEWS, Interests, interests_in
from hosting.dataplane.bridges.to_legacy.pool import Pool
from hosting.dataplane.bridges.to_legacy.requests import Asked, notification_body
from hosting.dataplane.bridges.to_legacy.session import Listener, UpstreamSession
from hosting.dataplane.bridges.to_legacy.talk import Talk
from hosting.dataplane.call import Call, Plan
from hosting.dataplane.forwarding.conversation import Said
from hosting.dataplane.forwarding.outlet import Outlet, end_of_listening
from hosting.dataplane.forwarding.upstream import UpstreamFailure
from hosting.dataplane.protocol.era import META_SUBSCRIPTION
from hosting.dataplane.protocol.errors import SESSION_GONE, UNKNOWN_SESSION, Refusal

STANDS_S = 2.0  # a server that has not begun its stream by then may begin it with its first event
PAUSES_S = (0.1, 0.5, 1.0, 2.0)  # before a broken stream is opened again; then it is given up
LOSSES = 3  # of a session, one soon after the other
DEAF_S = 60.0  # for so long a stream that was given up is not tried again
LIVED_S = 5.0  # a stream, or a session, that lasted so long was a good one
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


class Listening:
    """One per process."""

    def __init__(self, *, talk: Talk, pool: Pool) -> None:
        self._talk = talk
        self._pool = pool

    async def learn(self, session: UpstreamSession) -> None:
        """Whether the server has a stream for what it says by itself. Raises Refusal (UNKNOWN_SESSION)."""
        facts = session.facts
        if facts.can_listen is not None or not facts.may_have_news:
            return
        await self.ensure_stream(session)
        if session.is_lost:
            raise Refusal(UNKNOWN_SESSION)
        facts.can_listen = facts.can_listen is not False
        if not session.listeners and not session.may_ask:
            session.unfollow()

    async def listen(self, call: Call, plan: Plan, asked: Asked, outlet: Outlet) -> None:
        """Until the client leaves, or the server cannot be listened to any more. Raises Refusal, UpstreamFailure, ClientGone."""
        losses = 0
        while losses < LOSSES:
            began, is_lost = time.monotonic(), False
            session = await self._pool.take(call, plan.target, asked.bits)
            try:
                is_lost = await self._listen_in(call, session, asked, outlet)
            except Refusal as refusal:
                if refusal.kind is not UNKNOWN_SESSION:
                    raise
                self._pool.lose(session)
                is_lost = True
            finally:
                self._pool.give_back(session)
            if not is_lost or not call.route.heals:
                break
            losses = 1 if time.monotonic() - began > LIVED_S else losses + 1
        if not outlet.is_begun:
            raise Refusal(SESSION_GONE)
        await outlet.answer(asked.id, end_of_listening(asked.id))

    async def _listen_in(self, call: Call, session: UpstreamSession, asked: Asked, outlet: Outlet) -> bool:
        """In one session; whether that is lost."""
        listener = Listener(Interests(frozenset(), ()))
        session.listeners.add(listener)
        subscribed: list[str] = []
        try:
            if not interests_in(asked.params, session.facts).is_empty:
                await self.ensure_stream(session)
            interests = interests_in(asked.params, session.facts)
            for uri in interests.uris:
                await self._subscribe(call, session, uri, subscribed)
            interests = Interests(interests.methods, tuple(subscribed))
            listener.interests = interests
            if not outlet.is_begun:
                await outlet.say(_acknowledged(interests, asked))
            while (news := await listener.next()) is not None:
                await outlet.say(tagged(news[1], news[0], asked.id))
            return session.is_lost
        finally:
            self._leave(session, listener, subscribed)

    def _leave(self, session: UpstreamSession, listener: Listener, subscribed: list[str]) -> None:
        session.listeners.discard(listener)
        for uri in subscribed:
            session.uris[uri] -= 1
            if not session.uris[uri]:
                del session.uris[uri]
                if not session.is_lost and not session.is_exclusive:
                    self._talk.aside(self._unsubscribe(session, uri))
        if not session.listeners and not session.may_ask:
            session.unfollow()

    async def _subscribe(self, call: Call, session: UpstreamSession, uri: str, subscribed: list[str]) -> None:
        """Among `subscribed` from now on, if the server tells of it. Raises Refusal, UpstreamFailure."""
        async with session.turn:
            is_known = uri in session.uris
            told = is_known or await self._talk.ask(call, session, "resources/subscribe", {"uri": uri})
            if told is not None:
                session.uris[uri] += 1
                subscribed.append(uri)

    async def _unsubscribe(self, session: UpstreamSession, uri: str) -> None:
        async with session.turn:
            if uri not in session.uris:  # nobody came back to it
                await self._talk.ask(session.errand, session, "resources/unsubscribe", {"uri": uri})

    async def ensure_stream(self, session: UpstreamSession) -> None:
        """That the server's stream stands, as far as can be told."""
        is_known = session.facts.can_listen is False or time.monotonic() < session.deaf_until
        if is_known or session.is_lost or session.follower is not None:
            return
        stands = asyncio.Event()
        session.follower = asyncio.create_task(self._follow(session, stands))
        with suppress(TimeoutError):
            async with asyncio.timeout(STANDS_S):
                await stands.wait()

    async def _follow(self, session: UpstreamSession, stands: asyncio.Event) -> None:
        last_id, failures = b"", 0
        while failures <= len(PAUSES_S) and session.facts.can_listen is not False and not session.is_lost:
            began = time.monotonic()
            try:
                last_id = await self._hear(session, last_id, stands) or last_id
            except Refusal as refusal:
                if refusal.kind is UNKNOWN_SESSION:
                    self._pool.lose(session)
            except UpstreamFailure:
                pass
            stands.set()
            failures = 0 if time.monotonic() - began > LIVED_S else failures
            await asyncio.sleep(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
            failures += 1
        session.follower = None
        session.deaf_until = time.monotonic() + DEAF_S
        for listener in session.listeners:
            if not listener.interests.is_empty:
                listener.lose()

    async def _hear(self, session: UpstreamSession, last_id: bytes, stands: asyncio.Event) -> bytes:
        """All that the server says on its stream; the last event's id. Raises Refusal, UpstreamFailure."""
        plan, answer = await self._talk.listen(session.errand, session, last_id)
        try:
            if answer.status == 405:
                session.facts.can_listen = False
                return b""
            if answer.status == 200:
                session.facts.can_listen = True
                stands.set()
            conversation = self._talk.converse(session.errand, plan, answer)
            async for said in conversation.messages():
                self._heard(session, said)
            return conversation.last_id
        finally:
            answer.close()

    def _heard(self, session: UpstreamSession, said: Said) -> None:
        method, request_id = said.spoken.method, said.spoken.id
        if method is None:
            return
        if request_id is not None:
            if len(session.calls) == 1 and next(iter(session.calls)).overhear(said):
                return  # many servers ask here, though it is for a call
            body = (
                pong_body(request_id)
                if method == "ping"
                else refusal_body(request_id, -32601, "this cannot be asked here")
            )
            self._talk.aside(self._talk.tell(session.errand, session, body))
        elif method in NEWS:
            session.spread(method, said.raw)


def _acknowledged(interests: Interests, asked: Asked) -> bytes:
    params = {"notifications": interests.as_filter(), "_meta": {META_SUBSCRIPTION: asked.id}}
    return notification_body(ACKNOWLEDGED, params)
