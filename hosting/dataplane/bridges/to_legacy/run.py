"""One call at a legacy server, from its request to its answer, whoever listens meanwhile.

What the server says is held until somebody fetches it, up to HELD_BYTES and HELD_MESSAGES; then the server waits. A stream that the server
breaks off in the midst of a call is taken up again where its event ids allow it. Whoever ends a Run before its answer came cancels it
upstream.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from dataclasses import replace

from hosting.dataplane.bridges.to_legacy.asks import (
    MAX_ASKS,
    MAX_ASKS_BYTES,
    QUESTIONS,
    Ask,
    answer_body,
    is_response,
    refusal_body,
)
from hosting.dataplane.bridges.to_legacy.pool import Pool
from hosting.dataplane.bridges.to_legacy.requests import (
    MAY_ASK,
    Asked,
    RawObject,
    legacy_request,
    notification_body,
)
from hosting.dataplane.bridges.to_legacy.session import Upkeep, UpstreamSession
from hosting.dataplane.bridges.to_legacy.talk import ASK_S, Talk
from hosting.dataplane.call import Plan
from hosting.dataplane.forwarding.asking import MAX_ERROR_BYTES
from hosting.dataplane.forwarding.breaker import judged
from hosting.dataplane.forwarding.conversation import Said
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.forwarding.verdicts import is_session_lost
from hosting.dataplane.protocol.errors import ANSWER_LOST, INTERNAL, UNKNOWN_SESSION, Refusal
from hosting.dataplane.protocol.jsonrpc import Message
from hosting.dataplane.telemetry.logs import log

HELD_BYTES = 256 * 1024
HELD_MESSAGES = 64
RESUMPTIONS = 5  # in a row that bring nothing
MAX_RETRY_S = 10.0
CLOSED = "the client closed its request"


class Run:
    """Has the session from the start, and gives it back at the end. `context` is what a requestState of it is sealed for."""

    def __init__(
        self,
        *,
        talk: Talk,
        pool: Pool,
        session: UpstreamSession,
        errand: Upkeep,
        asked: Asked,
        context: bytes,
    ) -> None:
        self.session = session
        self.errand = errand
        self.asked = asked
        self.context = context
        self.number = session.number()
        self.asks: dict[str, Ask] = {}  # the server's open questions
        self._talk = talk
        self._pool = pool
        self._level = ""
        self._questions = 0
        self._plan: Plan | None = None
        self._said: deque[Said] = deque()
        self._held = 0
        self._bell, self._room = asyncio.Event(), asyncio.Event()
        self._problem: Refusal | UpstreamFailure | None = None
        self._reader: asyncio.Task[None] | None = None
        self._is_sent = self._is_answered = self._is_over = False

    async def start(self) -> None:
        """Raises UpstreamFailure, Refusal (UNKNOWN_SESSION: nothing was carried out)."""
        await self.hear(self.asked.level)
        body = legacy_request(self.asked, self.number)
        message = Message("request", self.number, self.asked.method, {})
        self._is_sent = True
        if self.asked.method in MAY_ASK:
            self.session.calls.add(self)
        plan, answer = await self._talk.send(self.errand, self.session, body, message)
        try:
            if answer.status == 404:
                told = await answer.read(limit=MAX_ERROR_BYTES, timeout_s=ASK_S, share=self.errand.share)
                if is_session_lost(plan, answer, told):
                    self._is_sent = False
                    raise Refusal(UNKNOWN_SESSION)
        except BaseException:
            answer.close()
            raise
        plan.body = None
        self.asked = replace(self.asked, params={}, meta={})  # they hold the client's whole body
        if answer.content_type == "text/event-stream":
            self.errand.until = math.inf  # streams that have begun have the time they need
        self._plan = plan
        self._reader = asyncio.create_task(self._read(plan, answer))

    async def hear(self, level: str) -> None:
        """Whoever listens now wants to hear messages from this level on. Raises UpstreamFailure, Refusal."""
        if level != self._level:
            self._forget_level()
            if level:
                self.session.levels.append(level)
            self._level = level
            await self._talk.set_level(self.errand, self.session)

    @property
    def held(self) -> int:
        """Bytes the server has said that nobody has fetched."""
        return self._held

    async def wait(self) -> None:
        """Until the server has said something. Raises as `next`."""
        if not self._said and self._problem is None:
            self._bell.clear()
            await self._bell.wait()
        if not self._said and self._problem is not None:
            raise self._problem

    async def next(self, timeout_s: float | None) -> Said | None:
        """What the server said, in its order; None when it says nothing in time. Raises UpstreamFailure, Refusal when it can say no more."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.wait()
        except TimeoutError:
            return None
        said = self._said.popleft()
        self._held -= len(said.raw)
        self._room.set()
        self._is_answered = self._is_answered or said.spoken.answers(self.number)
        return said

    def has_room(self, ask: Ask) -> bool:
        """Whether one more question can be kept."""
        size = sum(other.size for other in self.asks.values()) + ask.size
        return len(self.asks) < MAX_ASKS and size <= MAX_ASKS_BYTES

    def question(self, ask: Ask) -> None:
        """Open until it is answered; meanwhile the server may be silent."""
        self._questions += 1
        self.asks[f"ask-{self._questions}"] = ask
        self._excuse()

    def withdraw(self, request_id: object) -> None:
        """The server has given up a question of its own."""
        self.asks = {key: ask for key, ask in self.asks.items() if ask.id != request_id}
        self._excuse()

    async def respond(self, responses: RawObject) -> None:
        """Answers what is open of the questions; other responses are ignored. Raises UpstreamFailure, Refusal."""
        for key in [key for key in self.asks if key in responses]:
            if is_response(responses[key]):
                await self.reply(answer_body(self.asks.pop(key), responses[key]))
        self._excuse()

    async def reply(self, body: bytes) -> None:
        """Raises UpstreamFailure, Refusal: a session that is gone has taken the call with it."""
        try:
            await self._talk.tell(self.session.errand, self.session, body)
        except Refusal as refusal:
            raise Refusal(ANSWER_LOST) from refusal

    def cancel(self, reason: str = CLOSED) -> None:
        """Ends it; the server is told if it is still at it."""
        if self._is_over:
            return
        if self._is_sent and not self._is_answered and self._problem is None and not self.session.is_lost:
            self._is_over = True
            self._talk.aside(self._cancel(reason))
        else:
            self.close()

    def close(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._close()

    async def _cancel(self, reason: str) -> None:
        try:
            for ask in self.asks.values():
                await self._talk.tell(self.session.errand, self.session, refusal_body(ask.id, -32603, reason))
            told = notification_body("notifications/cancelled", {"requestId": self.number, "reason": reason})
            await self._talk.tell(self.session.errand, self.session, told)
        finally:
            self._close()

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        self.session.calls.discard(self)
        self._forget_level()
        self._pool.give_back(self.session)

    def _forget_level(self) -> None:
        if self._level:
            self.session.levels.remove(self._level)
            self._level = ""

    def _excuse(self) -> None:
        if self._plan is not None:
            self._plan.is_listening = bool(self.asks)

    async def _read(self, plan: Plan, answer: Answer) -> None:
        last_id, tries = b"", 0
        try:
            while True:
                conversation = self._talk.converse(self.errand, plan, answer)
                try:
                    with judged(self.errand):
                        async for said in conversation.messages():
                            await self._put(said)
                            tries = 0
                            if said.spoken.answers(self.number):
                                return
                except UpstreamFailure as exc:
                    if exc.kind != "cut" or not (conversation.last_id or last_id):
                        raise
                finally:
                    answer.close()
                last_id = conversation.last_id or last_id
                tries += 1
                if not last_id or tries > RESUMPTIONS:
                    raise UpstreamFailure("cut")
                await asyncio.sleep(min((conversation.retry_ms or 0) / 1000, MAX_RETRY_S))
                plan, answer = await self._resume(last_id)
        except (Refusal, UpstreamFailure) as exc:
            self._problem = exc
        except Exception:
            log("bridge.failed", level=logging.ERROR, exc_info=True, request=self.errand.request_id)
            self._problem = Refusal(INTERNAL)
        finally:
            self._bell.set()

    async def _resume(self, last_id: bytes) -> tuple[Plan, Answer]:
        plan, answer = await self._talk.listen(self.errand, self.session, last_id, of=self.number)
        self._plan = plan
        self._excuse()
        if answer.status != 200:
            answer.close()
            raise Refusal(ANSWER_LOST) if answer.status == 404 else UpstreamFailure("cut")
        return plan, answer

    def overhear(self, said: Said) -> bool:
        is_full = len(self._said) >= HELD_MESSAGES or self._held >= HELD_BYTES
        if said.spoken.method not in QUESTIONS or is_full:
            return False
        self._said.append(said)
        self._held += len(said.raw)
        self._bell.set()
        return True

    async def _put(self, said: Said) -> None:
        while self._said and (self._held >= HELD_BYTES or len(self._said) >= HELD_MESSAGES):
            self._room.clear()
            await self._room.wait()
        self._said.append(said)
        self._held += len(said.raw)
        self._bell.set()
