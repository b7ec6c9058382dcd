"""Messages of the gateway's to a legacy server, under a session with it.

What the gateway asks for itself has ASK_S for all of it; nobody waits for goodbyes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import msgspec

from hosting.dataplane.bridges.to_legacy.facts import read_initialized
from hosting.dataplane.bridges.to_legacy.requests import (
    lowest_of,
    notification_body,
    request_body,
)
from hosting.dataplane.bridges.to_legacy.session import UpstreamSession, upkeep_of
from hosting.dataplane.call import Call, Errand, Plan
from hosting.dataplane.contract import Target
from hosting.dataplane.eras.legacy import LAST_EVENT_HEADER, POST_HEADERS, checked_upstream_id, revision_in
from hosting.dataplane.forwarding.breaker import judged
from hosting.dataplane.forwarding.conversation import Conversation
from hosting.dataplane.forwarding.healing import CLIENT
from hosting.dataplane.forwarding.sending import Sender
from hosting.dataplane.forwarding.streams import Streams
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.protocol.era import POLLING_REVISION
from hosting.dataplane.protocol.errors import BROKEN_ANSWER, SESSION_GONE, UNKNOWN_SESSION, JsonRpcId, Refusal
from hosting.dataplane.protocol.jsonrpc import Message
from hosting.dataplane.sessions.session import capabilities_of

ASK_S = 15.0
GOODBYES_AT_ONCE = 50
LAST_WORDS_S = 2.0


class Talk:
    """One per process."""

    def __init__(self, *, sender: Sender, streams: Streams) -> None:
        self._sender = sender
        self._streams = streams
        self._aside: set[asyncio.Task[None]] = set()
        self._goodbyes = asyncio.Semaphore(GOODBYES_AT_ONCE)

    def aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that nobody waits for, and that fails in silence: the server could not be told."""
        task = asyncio.create_task(_quietly(work))
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    async def wait_aside(self) -> None:
        """Until all of it is done, LAST_WORDS_S at the most."""
        if self._aside:
            await asyncio.wait(self._aside, timeout=LAST_WORDS_S)

    def converse(self, errand: Errand, plan: Plan, answer: Answer) -> Conversation:
        return Conversation(
            errand, plan, answer, pace=self._streams.pace_of(errand.route.tenant, errand.route.environment)
        )

    async def open(self, call: Call, target: Target, bits: int) -> UpstreamSession:
        """A new session. Raises Refusal, UpstreamFailure."""
        params = {
            "protocolVersion": POLLING_REVISION,
            "capabilities": capabilities_of(bits),
            "clientInfo": CLIENT,
        }
        errand = upkeep_of(call)
        try:
            async with asyncio.timeout(ASK_S):
                body = request_body("initialize", params, 0)
                plan = _plan(target, {}, body, Message("request", 0, "initialize", {}))
                result, upstream_id = await self._result(errand, plan)
                if result is None:
                    raise Refusal(BROKEN_ANSWER)
                revision_in(result)
                key = (call.route.environment, target.release, call.caller.principal, bits)
                session = UpstreamSession(
                    key, errand, target, read_initialized(result), checked_upstream_id(upstream_id)
                )
                await self.tell(errand, session, notification_body("notifications/initialized"))
        except TimeoutError:
            raise UpstreamFailure("timeout") from None
        except Refusal as refusal:
            if refusal.kind is not UNKNOWN_SESSION:
                raise
            raise Refusal(SESSION_GONE) from refusal
        return session

    async def send(
        self, errand: Errand, session: UpstreamSession, body: bytes, message: Message
    ) -> tuple[Plan, Answer]:
        """A request's answer, from its head. Raises UpstreamFailure, Refusal."""
        plan = _plan(session.target, session.headers, body, message)
        return plan, await self._sender.send(errand, plan)

    async def listen(
        self, errand: Errand, session: UpstreamSession, last_id: bytes, *, of: JsonRpcId = None
    ) -> tuple[Plan, Answer]:
        """The stream for what the server says by itself, or (`of` a request) the rest of one that broke. Raises as `send`."""
        headers = {**session.headers, "accept": "text/event-stream"}
        if last_id:
            headers[LAST_EVENT_HEADER] = last_id.decode("latin-1")
        plan = Plan(
            target=session.target,
            method="GET",
            headers=headers,
            body=None,
            is_listening=of is None,
            resumes=of,
        )
        return plan, await self._sender.send(errand, plan)

    async def tell(self, errand: Errand, session: UpstreamSession, body: bytes) -> None:
        """A notification or an answer. Raises UpstreamFailure, Refusal (UNKNOWN_SESSION)."""
        plan = _plan(session.target, session.headers, body, Message("response", None, "", {}))
        answer = await self._sender.once(errand, plan, wait_s=ASK_S)
        answer.close()
        if answer.status == 404:
            raise Refusal(UNKNOWN_SESSION)

    async def ask(self, errand: Errand, session: UpstreamSession, method: str, params: Any) -> bytes | None:
        """The result; None when the server says that it is an error. Raises Refusal, UpstreamFailure."""
        number = session.number()
        body = request_body(method, params, number)
        plan = _plan(session.target, session.headers, body, Message("request", number, method, {}))
        try:
            async with asyncio.timeout(ASK_S):
                return (await self._result(errand, plan))[0]
        except TimeoutError:
            raise UpstreamFailure("timeout") from None

    async def pages(self, errand: Errand, session: UpstreamSession, method: str, *, most: int) -> list[bytes]:
        """The results of a list, page by page, `most` at the most. Raises Refusal, UpstreamFailure."""
        pages: list[bytes] = []
        params: dict[str, Any] = {}
        while len(pages) < most:
            result = await self.ask(errand, session, method, params)
            if result is None:
                break
            pages.append(result)
            cursor = _cursor_in(result)
            if cursor is None:
                break
            params = {"cursor": cursor}
        return pages

    async def set_level(self, errand: Errand, session: UpstreamSession) -> None:
        """The server tells what the calls under way want to hear, if it can. Raises Refusal, UpstreamFailure."""
        async with session.turn:
            wanted = lowest_of(session.levels)
            if wanted and wanted != session.level and session.facts.has("logging"):
                await self.ask(errand, session, "logging/setLevel", {"level": wanted})
                session.level = wanted

    async def end(self, session: UpstreamSession) -> None:
        """DELETE: the server may forget it."""
        session.unfollow()
        if session.upstream_id and not session.is_lost:
            async with self._goodbyes:
                plan = Plan(target=session.target, method="POST", headers=session.headers, body=None)
                errand = session.errand
                await self._sender.say_goodbye(errand.route, plan, request_id=errand.request_id)

    async def _result(self, errand: Errand, plan: Plan) -> tuple[bytes | None, str]:
        """The result (None: an error), and the session id it came with."""
        answer = await self._sender.send(errand, plan)
        try:
            with judged(errand):
                async for said in self.converse(errand, plan, answer).messages():
                    if said.spoken.answers(plan.first_id):
                        result = said.spoken.result
                        return bytes(result) if isinstance(result, msgspec.Raw) else None, answer.session_id
                raise Refusal(BROKEN_ANSWER)
        finally:
            answer.close()


def _plan(target: Target, headers: dict[str, str], body: bytes, message: Message) -> Plan:
    return Plan(
        target=target, method="POST", headers={**POST_HEADERS, **headers}, body=body, messages=[message]
    )


class _Page(msgspec.Struct):
    nextCursor: str | None = None  # noqa: N815 - the protocol's spelling


def _cursor_in(result: bytes) -> str | None:
    try:
        return msgspec.json.decode(result, type=_Page).nextCursor
    except msgspec.MsgspecError:
        raise Refusal(BROKEN_ANSWER) from None


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    with suppress(Refusal, UpstreamFailure):
        await work
