"""A legacy client at a modern server: what the gateway answers itself, what it carries on, and what it keeps to itself.

The session is the gateway's alone: its id holds what every request must tell the server. Rules: docs/decisions/0021.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
from redis.asyncio import Redis

from hosting.dataplane.bridges.to_modern.answers import METHOD_NOT_FOUND
from hosting.dataplane.bridges.to_modern.asked import Client, client_of, read_asked
from hosting.dataplane.bridges.to_modern.carrying import Carrier
from hosting.dataplane.bridges.to_modern.errands import Errands, NotModern
from hosting.dataplane.bridges.to_modern.introduction import initialize_result
from hosting.dataplane.bridges.to_modern.listening import Listener, Listeners
from hosting.dataplane.bridges.to_modern.parking import Parking
from hosting.dataplane.bridges.to_modern.questions import Questions, Waiter
from hosting.dataplane.bridges.to_modern.running import Running
from hosting.dataplane.bridges.to_modern.toolbook import Books
from hosting.dataplane.bridges.to_modern.turn import Parts
from hosting.dataplane.bridges.to_modern.way import Way, Ways
from hosting.dataplane.call import EMPTY, JSON, Call, Plan
from hosting.dataplane.contract import Target
from hosting.dataplane.forwarding.asking import Asker
from hosting.dataplane.forwarding.journal import Journal, Log
from hosting.dataplane.forwarding.outlet import Outlet
from hosting.dataplane.forwarding.proxy import Proxy
from hosting.dataplane.forwarding.streams import Streams
from hosting.dataplane.protocol.era import LISTEN
from hosting.dataplane.protocol.errors import (
    ANSWER_LOST,
    BROKEN_ANSWER,
    BUSY,
    INVALID_REQUEST,
    RETRY_SOON,
    UNREACHABLE,
    JsonRpcId,
    Refusal,
    error_body,
)
from hosting.dataplane.protocol.jsonrpc import Message
from hosting.dataplane.sessions.mailbox import Delivery, Mailbox
from hosting.dataplane.sessions.renewals import SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE, Renewals
from hosting.dataplane.sessions.session import Session, capability_bits, client_text
from hosting.dataplane.sessions.wishes import Wishes
from hosting.dataplane.settings import Settings

INVALID_PARAMS = -32602
_NOT_THERE = frozenset({"server/discover", LISTEN})
_encode = msgspec.json.Encoder().encode


class ToModern:
    """One per process."""

    def __init__(
        self,
        *,
        settings: Settings,
        redis: Redis,
        mailbox: Mailbox,
        renewals: Renewals,
        asker: Asker,
        proxy: Proxy,
        streams: Streams,
        journal: Journal,
    ) -> None:
        self._settings = settings
        self._streams = streams
        self._books = Books()
        self._ways = Ways(asker=asker, streams=streams, proxy=proxy)
        self._errands = Errands(self._ways, self._books)
        self._wishes = Wishes(renewals)
        self._questions = Questions(settings.sealing_keys)
        self._running = Running(installation=settings.installation, mailbox=mailbox, redis=redis)
        self._listeners = Listeners(installation=settings.installation, mailbox=mailbox, redis=redis)
        self._parking = Parking(
            installation=settings.installation,
            node=mailbox.node,
            ring=settings.sealing_keys,
            redis=redis,
            question_s=settings.question_s,
        )
        parts = Parts(
            ways=self._ways,
            errands=self._errands,
            books=self._books,
            questions=self._questions,
            wishes=self._wishes,
            parking=self._parking,
            node=mailbox.node,
            question_s=settings.question_s,
        )
        self._carrier = Carrier(
            parts=parts, running=self._running, streams=streams, settings=settings, journal=journal
        )

    async def post(self, call: Call, plan: Plan, body: bytes) -> bool:
        """Answers a POST. False, and nothing is answered: the server turned out to speak no modern revision, though it was
        said to; it is to be asked in its own. Raises Refusal, ClientGone."""
        if plan.open_session is not None:
            return await self._initialize(call, plan)
        assert plan.session is not None
        way = Way(call, plan.target, client_of(plan.session))
        if body.lstrip()[:1] == b"[":
            await self._batch(way, plan.session, plan.messages, body)
        else:
            await self._message(way, plan.session, plan.messages[0], body)
        return True

    async def listen(self, call: Call, plan: Plan, target_now: Callable[[], Target | None]) -> None:
        """Answers a GET. `target_now`: where the session belongs now; None when its server is no modern one any more.

        Raises Refusal, ClientGone.
        """
        session = plan.session
        assert session is not None
        if plan.resumes is not None:  # of a stream that only a server it had before could go on with
            raise Refusal(ANSWER_LOST, request_id=plan.resumes)
        way = Way(replace(call, until=math.inf), plan.target, client_of(session))
        async with self._listeners.hold(way, session) as box:
            listener = Listener(
                way,
                session,
                box,
                ways=self._ways,
                errands=self._errands,
                books=self._books,
                wishes=self._wishes,
                listeners=self._listeners,
                target_now=target_now,
            )
            try:
                await listener.open()
                outlet = Outlet(call, settings=self._settings, is_listening=True, session=session)
                async with self._streams.open(call, way.target.release, outlet):
                    await outlet.run(listener.run(outlet))
            finally:
                listener.close()

    async def take_up(
        self, call: Call, plan: Plan, stream: str, log: Log
    ) -> Callable[[], Awaitable[None]] | None:
        """How to go on with a stream whose node is gone, and that is this node's now; None where that cannot be."""
        session = plan.session
        if session is None or plan.leg != "modern":
            return None
        waiting = await self._parking.take(session, call.route, stream)
        if waiting is None or waiting.release != plan.target.release:  # its state is the Release's own
            return None
        way = Way(replace(call, until=math.inf), plan.target, client_of(session))
        return partial(self._carrier.go_on, way, session, waiting, log)

    def forget(self, session: Session, call: Call) -> None:
        """What this node knows of a session that has ended."""
        self._wishes.forget(session, call.route)

    async def _initialize(self, call: Call, plan: Plan) -> bool:
        message = plan.messages[0]
        way = Way(call, plan.target, _introduced(message.params))
        try:
            told = await self._errands.introduction(way)
        except NotModern:
            if "legacy" not in plan.target.eras:
                raise Refusal(BROKEN_ANSWER, "the server speaks no revision this gateway knows") from None
            plan.leg = "legacy"
            return False
        asked = message.params.get("protocolVersion")
        result = initialize_result(told, asked=asked, route=call.route, release=plan.target.release)
        assert plan.open_session is not None
        headers = plan.open_session(_encode(result), "")
        body = _result(message.id, result)
        await call.exchange.answer(200, (*JSON, *call.extra, *headers), body)
        return True

    async def _message(self, way: Way, session: Session, message: Message, body: bytes) -> None:
        call = way.call
        if message.kind == "request":
            known = await self._own_answer(way, session, message)
            if known is None:
                await self._carrier.carry(way, session, read_asked(body))
            else:
                await call.exchange.answer(200, (*JSON, *call.extra), known)
            return
        await self._take(way, session, message, body)
        await call.exchange.answer(202, (*EMPTY, *call.extra))

    async def _batch(self, way: Way, session: Session, messages: list[Message], body: bytes) -> None:
        """Each as if it had come alone; the requests are answered on one stream."""
        call, known, batch = way.call, [], []
        for message, raw in zip(messages, _raws.decode(body), strict=True):
            if message.kind != "request":
                await self._take(way, session, message, bytes(raw))
            elif (answer := await self._own_answer(way, session, message)) is not None:
                known.append((message.id, answer))
            else:
                batch.append(read_asked(bytes(raw)))
        if known or batch:
            await self._carrier.carry_batch(way, session, batch, known)
        else:
            await call.exchange.answer(202, (*EMPTY, *call.extra))

    async def _take(self, way: Way, session: Session, message: Message, raw: bytes) -> None:
        """A notification or an answer; most of what a client notifies of a modern server has no word for. Raises Refusal."""
        if message.kind == "notification":
            request_id = message.params.get("requestId")
            if message.method == "notifications/cancelled" and isinstance(request_id, str | int):
                await self._running.cancel(way.call, session, request_id)
            return
        waiter = self._questions.waiter_of(message.id, session, way.call.route)
        if waiter is None:
            raise Refusal(INVALID_REQUEST, "this answers nothing that the session was asked")
        delivery = await self._running.answer(way.call, waiter, raw)
        if delivery == "dead":
            delivery = await self._answer_later(way, session, waiter, raw)
        if delivery == "full":
            raise Refusal(BUSY, headers=RETRY_SOON)
        if delivery == "away":
            raise Refusal(UNREACHABLE, "the answer cannot be passed on now", headers=RETRY_SOON, status=503)

    async def _answer_later(self, way: Way, session: Session, waiter: Waiter, raw: bytes) -> Delivery:
        """To whoever goes on with what a node that is gone had asked; `dead` when nobody will, as when it was too late."""
        route = way.call.route
        if not await self._parking.keep_answer(session, route, waiter.box, waiter.number, raw):
            return "dead"
        node = await self._parking.node_of(session, route, waiter.box)
        if node and node != waiter.node:
            await self._running.answer(way.call, waiter, raw, node=node)
        return "delivered"

    async def _own_answer(self, way: Way, session: Session, message: Message) -> bytes | None:
        """The answer to what concerns the session alone, or cannot exist here. None: it is the server's to answer."""
        if message.method == "ping":
            return _result(message.id, {})
        if message.method in {SUBSCRIBE, UNSUBSCRIBE}:
            return await self._watch(way, session, message)
        if message.method == SET_LEVEL:
            if await self._wishes.set_level(session, way.call.route, message.params.get("level")):
                return _result(message.id, {})
            return error_body(message.id, INVALID_PARAMS, "params.level is no level of MCP")
        if message.method in _NOT_THERE or message.method.startswith("tasks/"):
            return error_body(message.id, METHOD_NOT_FOUND, "Method not found")
        return None

    async def _watch(self, way: Way, session: Session, message: Message) -> bytes:
        told = self._errands.last_heard(way)
        try:
            told = told or await self._errands.introduction(way)
        except NotModern:
            raise Refusal(BROKEN_ANSWER) from None
        if not told.declares("resources", "subscribe"):
            return error_body(message.id, METHOD_NOT_FOUND, "Method not found")
        uri, is_wanted = message.params.get("uri"), message.method == SUBSCRIBE
        if not isinstance(uri, str) or not uri:
            return error_body(message.id, INVALID_PARAMS, "params.uri must be a URI")
        if not await self._wishes.watch(session, way.call.route, uri, is_wanted=is_wanted):
            return error_body(message.id, INVALID_PARAMS, "the URI is too long, or there are too many")
        await self._listeners.changed(way, session)
        return _result(message.id, {})


def _introduced(params: Mapping[str, Any]) -> Client:
    """The client, as it introduces itself in `initialize`."""
    declared, told = params.get("capabilities"), params.get("clientInfo")
    told = told if isinstance(told, dict) else {}
    return Client(
        capability_bits(declared) if isinstance(declared, dict) else 0,
        client_text(told.get("name")),
        client_text(told.get("version")),
    )


def _result(request_id: JsonRpcId, result: Mapping[str, Any]) -> bytes:
    return _encode({"jsonrpc": "2.0", "id": request_id, "result": result})


_raws = msgspec.json.Decoder(list[msgspec.Raw])
