"""Carries the requests of one POST, each in a Turn, to the place where their answers go."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import replace

from hosting.dataplane.bridges.to_modern.asked import Asked
from hosting.dataplane.bridges.to_modern.parking import Round
from hosting.dataplane.bridges.to_modern.running import Running
from hosting.dataplane.bridges.to_modern.turn import Parts, Turn
from hosting.dataplane.bridges.to_modern.way import Way
from hosting.dataplane.call import JSON
from hosting.dataplane.forwarding.breaker import judged
from hosting.dataplane.forwarding.journal import Journal, Log
from hosting.dataplane.forwarding.outlet import Outlet
from hosting.dataplane.forwarding.streams import Streams
from hosting.dataplane.protocol.errors import JsonRpcId, Refusal, error_body
from hosting.dataplane.sessions.session import Session
from hosting.dataplane.settings import Settings

AT_ONCE = 8  # requests of one batch that are at their servers together


class Carrier:
    """One per process."""

    def __init__(
        self, *, parts: Parts, running: Running, streams: Streams, settings: Settings, journal: Journal
    ) -> None:
        self._parts = parts
        self._journal = journal
        self._running = running
        self._streams = streams
        self._settings = settings

    async def carry(self, way: Way, session: Session, asked: Asked) -> None:
        """Answers one request: with JSON where its answer comes whole, else with a stream. Raises Refusal, ClientGone."""
        outlet: Outlet | None = None
        call = way.call
        with self._running.enter(call, session, asked.id, secrets.token_hex(16)) as ongoing:
            turn = Turn(self._parts, way, session, asked, ongoing)
            try:
                body = await turn.begin()
                if body is not None:
                    timeout_s = self._settings.stalled_client_s
                    await call.exchange.answer_whole(200, (*JSON, *call.extra), body, timeout_s=timeout_s)
                    return
                outlet = self._outlet(way, session, [asked.id])
                async with self._streams.open(call, way.target.release, outlet):
                    await outlet.run(turn.go_on(outlet))
            except asyncio.CancelledError:
                if not ongoing.is_cancelled:
                    raise
                _go_on_after_cancel()
                await (outlet or self._outlet(way, session, [])).end()
            except Refusal as refusal:
                refusal.request_id = asked.id
                raise
            finally:
                await turn.close()

    async def go_on(self, way: Way, session: Session, waiting: Round, log: Log) -> None:
        """With a request that waits for its client's answers since another node asked, on a stream that is the client's again."""
        call, request_id = way.call, waiting.request_id
        outlet = Outlet(
            call, settings=self._settings, ids=[request_id], session=session, journal=self._journal, log=log
        )
        with self._running.enter(call, session, request_id, waiting.box) as ongoing:
            turn = Turn(self._parts, way, session, waiting.asked, ongoing)
            try:
                async with self._streams.open(call, way.target.release, outlet):
                    await outlet.run(turn.take_up(outlet, waiting))
            except asyncio.CancelledError:
                if not ongoing.is_cancelled:
                    raise
                _go_on_after_cancel()
                await outlet.end()
            finally:
                await turn.close()

    async def carry_batch(
        self, way: Way, session: Session, batch: Sequence[Asked], known: Sequence[tuple[JsonRpcId, bytes]]
    ) -> None:
        """Answers several requests as they come, on one stream; `known` are answers that are there already."""
        outlet = self._outlet(way, session, [*(asked.id for asked in batch), *(of for of, _ in known)])
        turns = asyncio.Semaphore(AT_ONCE)

        async def work() -> None:
            await outlet.begin()
            for request_id, body in known:
                await outlet.answer(request_id, body)
            async with asyncio.TaskGroup() as group:
                for asked in batch:
                    group.create_task(self._carry_part(way, session, asked, outlet, turns))

        async with self._streams.open(way.call, way.target.release, outlet):
            await outlet.run(work())

    async def _carry_part(
        self, way: Way, session: Session, asked: Asked, outlet: Outlet, turns: asyncio.Semaphore
    ) -> None:
        call = replace(way.call, passage=None)  # of its own: the others are at the server at the same time
        way = replace(way, call=call)
        with (
            judged(call),
            self._running.enter(call, session, asked.id, secrets.token_hex(16)) as ongoing,
        ):
            turn = Turn(self._parts, way, session, asked, ongoing)
            try:
                async with turns:
                    body = await turn.begin()
                if body is not None:
                    await outlet.answer(asked.id, body)
                else:
                    await turn.go_on(outlet)
            except asyncio.CancelledError:
                if not ongoing.is_cancelled:
                    raise
                _go_on_after_cancel()
                outlet.forgo(asked.id)
            except Refusal as problem:
                await outlet.answer(asked.id, error_body(asked.id, problem.kind.code, problem.message))
            finally:
                await turn.close()

    def _outlet(self, way: Way, session: Session, ids: Sequence[JsonRpcId]) -> Outlet:
        return Outlet(way.call, settings=self._settings, ids=ids, session=session, journal=self._journal)


def _go_on_after_cancel() -> None:
    """The client's cancellation ends the request's work, and nothing else of its task."""
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
