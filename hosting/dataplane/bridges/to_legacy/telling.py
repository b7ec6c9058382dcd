"""What a legacy server says during a call, told to a modern client: its progress, its messages, its questions, its answer.

Questions are gathered for GATHER_S, then the client's request ends with `input_required` and the call is parked. The client's next
round goes on where this one ended, with its own id, progress token and log level.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import msgspec

from hosting.dataplane.bridges.to_legacy import answers
from hosting.dataplane.bridges.to_legacy.asks import (
    Ask,
    ServerId,
    input_required,
    is_declared,
    pong_body,
    read_ask,
    refusal_body,
    url_asks,
)
from hosting.dataplane.bridges.to_legacy.facts import NEWS, rules_in
from hosting.dataplane.bridges.to_legacy.requests import MAY_ASK, Asked, wants_message
from hosting.dataplane.bridges.to_legacy.run import Run
from hosting.dataplane.bridges.to_legacy.state import Resend
from hosting.dataplane.forwarding.conversation import Said
from hosting.dataplane.protocol.errors import CAPABILITY_MISSING, Refusal

GATHER_S = 0.05
RESEND_S = 600.0
_DROPPED = frozenset({"notifications/elicitation/complete", "notifications/tasks/status"})


class Sink(Protocol):
    """Whoever listens now: a client here, or one on another node."""

    async def say(self, message: bytes) -> None:
        """Raises ClientGone."""

    async def answer(self, message: bytes, status: int) -> None:
        """The end of this round. Raises ClientGone."""


class Telling:
    """One round. `asked` is this round's request; `park` keeps the Run and gives a requestState, or raises Refusal."""

    def __init__(
        self,
        run: Run,
        asked: Asked,
        sink: Sink,
        *,
        park: Callable[[Run], str],
        seal: Callable[[Resend, bytes], str],
    ) -> None:
        self._run = run
        self._asked = asked
        self._sink = sink
        self._park = park
        self._seal = seal

    async def tell(self) -> bool:
        """Until the round's end; whether the call is parked. Raises Refusal, UpstreamFailure, ClientGone."""
        run, loop = self._run, asyncio.get_running_loop()
        ask_at: float | None = None
        while True:
            if not run.asks:
                ask_at = None
            elif ask_at is None:
                ask_at = loop.time() + GATHER_S
            said = await run.next(None if ask_at is None else max(0.0, ask_at - loop.time()))
            if said is None:
                await self._require_input()
                return True
            spoken = said.spoken
            if spoken.answers(run.number):
                await self._answer(said)
                return False
            if spoken.method is not None and spoken.id is not None:
                if (missing := await self._question(said, spoken.method)) is not None:
                    await self._require(missing)
                    return False
            elif spoken.method is not None:
                await self._note(said.raw, spoken.method)

    async def _require_input(self) -> None:
        state = self._park(self._run)
        await self._sink.answer(input_required(self._asked.id, self._run.asks, state), 200)

    async def _require(self, missing: Ask) -> None:
        """The client cannot be asked this: that is its answer."""
        data = {"requiredCapabilities": missing.requires}
        refusal = Refusal(CAPABILITY_MISSING, request_id=self._asked.id, data=data)
        await self._sink.answer(refusal.body(), refusal.status)

    async def _question(self, said: Said, method: str) -> Ask | None:
        """A question of the server's that the client does not offer to answer, if it is one."""
        run, request_id = self._run, said.spoken.id
        ask = read_ask(said.raw, request_id, method)
        if method == "ping":
            await run.reply(pong_body(request_id))
        elif ask is None or self._asked.method not in MAY_ASK or not run.has_room(ask):
            await run.reply(refusal_body(request_id, -32601, "this cannot be asked here"))
        elif not is_declared(ask.requires, run.asked.bits):
            await run.reply(refusal_body(request_id, -32601, "the client does not offer this"))
            return ask
        else:
            run.question(ask)
        return None

    async def _note(self, raw: bytes, method: str) -> None:
        if method == "notifications/progress":
            token = self._asked.token
            told = answers.progress(raw, self._run.number, token) if token is not None else None
            if told is not None:
                await self._sink.say(told)
        elif method == "notifications/message":
            if wants_message(answers.text_in(answers.params_in(raw), "level"), self._asked.level):
                await self._sink.say(raw)
        elif method == "notifications/cancelled":
            self._withdraw(raw)
        elif method in NEWS:
            self._run.session.spread(method, raw)
        elif method not in _DROPPED:
            await self._sink.say(raw)

    def _withdraw(self, raw: bytes) -> None:
        params = answers.params_in(raw)
        with suppress(msgspec.MsgspecError, KeyError):
            self._run.withdraw(msgspec.json.decode(params["requestId"], type=ServerId))

    async def _answer(self, said: Said) -> None:
        spoken, asked = said.spoken, self._asked
        if isinstance(spoken.result, msgspec.Raw):
            result = bytes(spoken.result)
            if asked.method == "tools/list" and "cursor" not in asked.params:
                self._run.session.facts.learn_tools(rules_in([result]))
            await self._sink.answer(answers.modern_result(asked, result, self._run.session.facts.server), 200)
            return
        assert isinstance(spoken.error, msgspec.Raw)
        error = answers.read_error(bytes(spoken.error), asked.id)
        if error.code == answers.URL_REQUIRED and asked.method in MAY_ASK and (asks := url_asks(error)):
            await self._resend_later(asks)
        else:
            await self._sink.answer(*answers.modern_error(asked, error))

    async def _resend_later(self, asks: dict[str, Ask]) -> None:
        for ask in asks.values():
            if not is_declared(ask.requires, self._run.asked.bits):
                await self._require(ask)
                return
        state = self._seal(Resend(time.time() + RESEND_S, list(asks)), self._run.context)
        await self._sink.answer(input_required(self._asked.id, asks, state), 200)
