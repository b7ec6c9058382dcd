"""Calls that wait until their client brings what the server asked for, and the way to them from any node.

A parked call lives on the node that made it: its connection to the server is there. Whoever brings its requestState, to whichever
node, gets through the mailbox to that node, which answers the server's questions and tells what follows, letter by letter, to the node where the
client now waits. That node's client leaves, or the node dies: the call is cancelled upstream. The owner dies: the call's outcome is
unknown, and said to be; it is never carried out again.

Bounds: MAX_OF_PRINCIPAL of one Principal (of one address, where callers are anonymous) and MAX_OF_ENVIRONMENT on this node; after `park_s` without
a word a call is cancelled upstream.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace

import msgspec

from hosting.dataplane.bridges.to_legacy.letters import (
    HEARD_EVERY,
    Heard,
    Left,
    Letters,
    Round,
    Word,
    read_letter,
)
from hosting.dataplane.bridges.to_legacy.requests import Asked, RawObject
from hosting.dataplane.bridges.to_legacy.run import Run
from hosting.dataplane.bridges.to_legacy.state import Parked, States
from hosting.dataplane.bridges.to_legacy.talk import Talk
from hosting.dataplane.bridges.to_legacy.telling import Telling
from hosting.dataplane.door.exchange import ClientGone
from hosting.dataplane.forwarding.outlet import Outlet
from hosting.dataplane.forwarding.upstream import UpstreamFailure
from hosting.dataplane.forwarding.verdicts import FAILURES
from hosting.dataplane.protocol.errors import (
    BUSY,
    INVALID_PARAMS,
    OUTCOME_UNKNOWN,
    OVERLOADED,
    RETRY_SOON,
    Refusal,
)
from hosting.dataplane.sessions.mailbox import DEAD_AFTER_S, Box, Mailbox
from hosting.dataplane.telemetry.logs import log
from hosting.dataplane.telemetry.metrics import Metrics

MAX_OF_PRINCIPAL = 16
MAX_OF_ENVIRONMENT = 500
LOOK_S = 2.0  # how often each looks whether the other is still there
SILENT_S = 20.0  # without a letter the owner is taken for gone, whatever Redis says
OVER = "the client did not go on with this call"


class Lot:
    """One per process."""

    def __init__(
        self, *, mailbox: Mailbox, states: States, talk: Talk, park_s: float, metrics: Metrics
    ) -> None:
        self._mailbox = mailbox
        self._states = states
        self._talk = talk
        self._park_s = park_s
        self._kept: dict[Run, _Kept] = {}
        self._counts: Counter[str] = Counter()
        self._rounds = 0
        self._idle = asyncio.Event()
        metrics.parked_calls.set_function(lambda: len(self._kept))

    def park(self, run: Run, whose: str) -> str:
        """The requestState with which it goes on. Raises Refusal where there are too many."""
        kept = self._kept.get(run)
        if kept is None:
            environment = run.errand.route.environment
            names = (f"{environment}\0{whose}", environment)
            if self._counts[names[0]] >= MAX_OF_PRINCIPAL or self._counts[environment] >= MAX_OF_ENVIRONMENT:
                raise Refusal(BUSY, "too many calls wait for their clients' input", headers=RETRY_SOON)
            kept = self._kept[run] = _Kept(secrets.token_hex(16), names)
            self._counts.update(names)
            box = kept.stack.enter_context(self._mailbox.open(run.errand.route.tenant, kept.box))
            kept.task = asyncio.create_task(self._keep(run, box, whose))
            kept.task.add_done_callback(lambda done: self._over(run, done))
        state = Parked(time.time() + self._park_s, self._mailbox.node, kept.box)
        return self._states.seal(state, run.context)

    async def wait_idle(self) -> None:
        """Until nobody's round is under way here; parked calls do not count."""
        while self._rounds:
            self._idle.clear()
            await self._idle.wait()

    async def close(self) -> None:
        """Cancels all of them upstream."""
        tasks = [kept.task for kept in self._kept.values() if kept.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._talk.wait_aside()

    def _over(self, run: Run, task: asyncio.Task[None]) -> None:
        kept = self._kept.pop(run)
        kept.stack.close()
        self._counts -= Counter(kept.names)
        run.cancel(OVER)
        if not task.cancelled() and (problem := task.exception()) is not None:
            log("bridge.failed", level=logging.ERROR, error=repr(problem), request=run.errand.request_id)

    async def _keep(self, run: Run, box: Box, whose: str) -> None:
        while (letter := await box.take(self._park_s)) is not None:
            word = read_letter(letter)
            if isinstance(word, Round) and not await self._go_on(run, box, word, whose):
                return
        log("call.given_up", tenant=run.errand.route.tenant, request=run.errand.request_id)

    async def _go_on(self, run: Run, box: Box, word: Round, whose: str) -> bool:
        """One round for a client who came with answers; whether the call is parked again."""
        letters = Letters(self._mailbox, run.errand.route.tenant, word)
        telling = asyncio.create_task(self._tell(run, word, letters, whose))
        watching = asyncio.create_task(self._watch(box, word, letters))
        with self._round():
            try:
                await asyncio.wait([telling, watching], return_when=asyncio.FIRST_COMPLETED)
                return telling.result() if telling.done() else False
            finally:
                for task in (telling, watching):
                    task.cancel()
                await asyncio.gather(telling, watching, return_exceptions=True)

    @contextmanager
    def _round(self) -> Iterator[None]:
        self._rounds += 1
        try:
            yield
        finally:
            self._rounds -= 1
            if not self._rounds:
                self._idle.set()

    async def _tell(self, run: Run, word: Round, letters: Letters, whose: str) -> bool:
        asked = replace(run.asked, id=word.id, level=word.level, token=word.token)
        telling = Telling(
            run,
            asked,
            letters,
            park=lambda parked: self.park(parked, whose),
            seal=self._states.seal,
        )
        try:
            await letters.live()
            await run.hear(word.level)
            await run.respond({key: msgspec.Raw(raw) for key, raw in word.responses.items()})
            return await telling.tell()
        except ClientGone:
            return False
        except (Refusal, UpstreamFailure) as exc:
            refusal = exc if isinstance(exc, Refusal) else Refusal(FAILURES[exc.kind])
            refusal.request_id = word.id
            with suppress(ClientGone):
                await letters.answer(refusal.body(), refusal.status)
            return False

    async def _watch(self, box: Box, word: Round, letters: Letters) -> None:
        """Until the one who waits has left, or their node has."""
        while True:
            letter = await box.take(LOOK_S)
            try:
                if letter is None:
                    await letters.live()
                    continue
            except ClientGone:
                return
            other = read_letter(letter)
            if isinstance(other, Left) and other.box == word.box:
                return
            if isinstance(other, Heard) and other.box == word.box:
                letters.heard(other.number)
            if isinstance(other, Round):
                self._talk.aside(self._refuse_second(letters, other))

    async def _refuse_second(self, letters: Letters, other: Round) -> None:
        refusal = Refusal(INVALID_PARAMS, "this call is being continued already", request_id=other.id)
        second = Letters(self._mailbox, letters.tenant, other)
        with suppress(ClientGone):
            await second.answer(refusal.body(), refusal.status)

    # The other side: the node that the client came to with its next round.

    async def go_on(
        self, tenant: str, asked: Asked, state: Parked, responses: RawObject, outlet: Outlet
    ) -> None:
        """Raises Refusal, ClientGone."""
        name = secrets.token_hex(16)
        raws = {key: bytes(raw) for key, raw in responses.items()}
        word = Round(self._mailbox.node, name, asked.id, asked.level, asked.token, raws)
        with self._mailbox.open(tenant, name) as box:
            delivery = await self._mailbox.post(
                tenant, state.box, msgspec.msgpack.encode(word), node=state.node
            )
            if delivery == "dead":
                raise Refusal(OUTCOME_UNKNOWN)
            if delivery != "delivered":
                raise Refusal(
                    OVERLOADED, "the node that keeps this call cannot be reached now", headers=RETRY_SOON
                )
            try:
                await self._hear(tenant, box, name, asked, state, outlet)
            except (asyncio.CancelledError, ClientGone):
                left = msgspec.msgpack.encode(Left(name))
                self._talk.aside(self._post(tenant, state, left))
                raise

    async def _post(self, tenant: str, state: Parked, letter: bytes) -> None:
        await self._mailbox.post(tenant, state.box, letter, node=state.node)

    async def _hear(
        self, tenant: str, box: Box, name: str, asked: Asked, state: Parked, outlet: Outlet
    ) -> None:
        last, heard_at, patience_s = 0, time.monotonic(), float(DEAD_AFTER_S)
        while True:
            letter = await box.take(LOOK_S)
            if letter is None:
                is_silent = time.monotonic() - heard_at > patience_s
                if is_silent or not await self._mailbox.is_alive(state.node):
                    raise Refusal(OUTCOME_UNKNOWN)
                continue
            heard_at, patience_s = time.monotonic(), SILENT_S
            word = msgspec.msgpack.decode(letter, type=Word)
            if word.number <= last:
                continue
            last = word.number
            if last % HEARD_EVERY == 0:
                await self._post(tenant, state, msgspec.msgpack.encode(Heard(name, last)))
            if word.kind == "answer":
                await outlet.answer(asked.id, word.body, status=word.status)
                return
            if word.kind == "say":
                await outlet.say(word.body)


@dataclass
class _Kept:
    box: str
    names: tuple[str, str]
    task: asyncio.Task[None] | None = None
    stack: ExitStack = field(default_factory=ExitStack)
