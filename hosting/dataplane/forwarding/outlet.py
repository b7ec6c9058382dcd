"""Where the answers to one request go when the gateway itself writes them, message by message: as JSON when the answer is all there
is to say and comes soon, otherwise as a stream of events.

`run` carries the work that writes. A silent stream gets comments, so that nothing between cuts the connection. The client
leaves: a modern request is cancelled, and so is the work of it; a legacy one goes on for UNREAD_ANSWER_S. The gateway shuts down, or
the caller's access ends: the work is cancelled, and whoever waits is told. What the work raises becomes an honest error in the place
of every answer that is still owed, or goes on to the gateway's frame while nothing was written.

With a journal, what a legacy request is told before its answer is logged before it is sent, and its answer with it, so that the client can
come back for the rest to any node; the work then goes on for as long as the log lives. Newer clients get a place to come back to when
they have heard nothing for PRIME_AFTER_S.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import msgspec

from hosting.dataplane.call import EVENTS, JSON, Call
from hosting.dataplane.door.exchange import ClientGone
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.journal import Journal, Log, Record
from hosting.dataplane.forwarding.journal_scripts import LIFE_S
from hosting.dataplane.forwarding.streams import StopReason, end_with_key, is_admitted
from hosting.dataplane.forwarding.upstream import UpstreamFailure
from hosting.dataplane.forwarding.verdicts import FAILURES
from hosting.dataplane.protocol.era import META_SUBSCRIPTION, POLLING_REVISION
from hosting.dataplane.protocol.errors import (
    ACCESS_ENDED,
    ANSWER_CUT,
    DRAINING,
    Headers,
    JsonRpcId,
    Refusal,
    error_body,
)
from hosting.dataplane.protocol.sse import KEEPALIVE, encode_event
from hosting.dataplane.sessions.session import Session
from hosting.dataplane.settings import Settings

RECONNECT_MS = 1000  # what clients are asked to wait when we shut down
UNREAD_ANSWER_S = 120.0  # how long a legacy request goes on for a client who left and cannot come back
PRIME_AFTER_S = 0.5
PATIENCE_S = 10.0  # with a Redis that is away, where nobody waits


class Outlet:
    """One per request. Each of `ids` is owed an answer; a legacy listening stream has none, a modern one the id of its request."""

    def __init__(
        self,
        call: Call,
        *,
        settings: Settings,
        ids: Sequence[JsonRpcId] = (),
        is_listening: bool = False,
        session: Session | None = None,
        headers: Headers = (),
        journal: Journal | None = None,
        log: Log | None = None,
    ) -> None:
        """`log`: of a stream that another node began, whose head this client has been sent."""
        self.is_listening = is_listening
        self._call = call
        self._settings = settings
        self._left = list(ids)
        self._session = session
        self._headers = headers
        self._form: Literal["", "json", "stream"] = ""
        self._is_client_gone = False
        self._sent_at = time.monotonic()
        self._turn = asyncio.Lock()  # of writing
        self._order = asyncio.Lock()  # of what is kept and then written
        self._task: asyncio.Task[object] | None = None
        self._stop: StopReason | None = None
        self._is_handed_over = False
        self._log: Log | None = None
        self._patience: asyncio.TimerHandle | None = None
        is_kept = session is not None and not is_listening and call.era == "legacy" and not call.is_probe
        self._journal = journal if is_kept else None
        if log is not None:
            self._form = "stream"
            self._attach(log)

    @property
    def is_begun(self) -> bool:
        """Whether anything was written: from then on errors are events."""
        return bool(self._form)

    @property
    def stream_id(self) -> str:
        """Under which a client can come back for what is said from now on; empty where it cannot, or for more than one answer."""
        if self._log is None and self._journal is not None and len(self._left) == 1:
            self._begin_log()
        return self._log.stream if self._log is not None and len(self._left) == 1 else ""

    @property
    def hands_over(self) -> bool:
        """Whether the client is sent to another node, which may go on with what waits."""
        is_kept = self._log is not None and self._log.is_kept
        return self._stop == "lost" or (self._stop == "drain" and is_kept)

    def hand_over(self) -> None:
        """What is owed another node will say."""
        self._is_handed_over = True

    async def end(self) -> None:
        """The stream's end, with nothing more to say: for work that was given up at the client's own wish."""
        await self.begin()
        if self._log is not None:
            await self._log.append([], ends="done")
        if not self._is_client_gone and self._form == "stream":
            await self._call.exchange.end()

    def is_admitted(self, table: Table) -> bool:
        return is_admitted(self._call, self._session, table)

    def stop(self, reason: StopReason) -> None:
        """Ends the work from outside; a legacy request survives its client, for a while."""
        if reason == "moved" and not self._is_client_gone:
            self._call.exchange.leave()  # of a client that has another connection by now
        if reason == "moved" or (
            reason == "client_gone" and self._call.era == "legacy" and not self.is_listening
        ):
            self._is_client_gone = True
            self._wait_for_client()
            return
        self._cancel(reason)

    async def begin(self) -> None:
        """The head of the stream, for a client who is to know that it stands. Raises ClientGone."""
        await self._write(KEEPALIVE)

    async def say(self, message: bytes) -> None:
        """A request or notification to the client. Raises ClientGone (modern, or listening)."""
        await self._tell(message)

    async def answer(self, request_id: JsonRpcId, message: bytes, *, status: int = 200) -> None:
        """One of the answers that are owed, once. `status` counts where it is the only thing said. Raises ClientGone."""
        self._left.remove(request_id)
        if self._form or self._left:
            await self._tell(message)
            return
        async with self._turn:
            self._form = "json"
            if not self._is_client_gone:
                headers = (*JSON, *self._call.extra, *self._headers)
                await self._call.exchange.answer_whole(
                    status, headers, message, timeout_s=self._settings.stalled_client_s
                )

    def forgo(self, request_id: JsonRpcId) -> None:
        """Nobody waits for this answer any more."""
        self._left.remove(request_id)

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Until `work` is done or stopped. Raises Refusal, UpstreamFailure of the work's while nothing was written."""
        self._task = asyncio.current_task()
        forget = self._call.exchange.when_gone(partial(self.stop, "client_gone"))
        keeper = asyncio.create_task(self._keep_alive())
        expiry = end_with_key(self._call, self)
        try:
            await self._carry(work)
        except ClientGone:
            self._stop = "client_gone"
        finally:
            self._task = None
            forget()
            keeper.cancel()
            for timer in (expiry, self._patience):
                if timer is not None:
                    timer.cancel()
            if self._log is not None:
                await self._log.release()
        if self._form == "stream" and not self._is_client_gone and self._stop not in {"client_gone", "lost"}:
            await self._call.exchange.end()

    async def _carry(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
            problem: Refusal | None = Refusal(ANSWER_CUT) if self._left and not self.is_listening else None
        except asyncio.CancelledError:
            if self._stop is None:
                raise
            if self._task is not None:
                self._task.uncancel()
            problem = await self._farewell()
        except (Refusal, UpstreamFailure) as exc:
            if not self._form:
                raise
            problem = exc if isinstance(exc, Refusal) else Refusal(FAILURES[exc.kind])
        if problem is not None and self._form != "json":
            await self._send_errors(problem)

    async def _farewell(self) -> Refusal | None:
        """Ends a stopped stream so that the client knows what to do: reconnect, or take the answer for lost."""
        if self._stop in {"client_gone", "lost"} or self._form == "json":
            return None
        if self._stop != "drain":
            return Refusal(ACCESS_ENDED)
        if self._form and self._call.era == "legacy":
            await self._write(b"retry: %d\n\n" % RECONNECT_MS)
        if not self.is_listening:
            return None if self._is_handed_over else Refusal(DRAINING)
        for request_id in self._left:
            await self._write(encode_event(end_of_listening(request_id)))
        return None

    async def _send_errors(self, problem: Refusal) -> None:
        if not self._form:
            problem.request_id = self._left[0] if self._left else None
            raise problem
        for request_id in list(self._left):
            await self.answer(request_id, error_body(request_id, problem.kind.code, problem.message))

    async def _tell(self, message: bytes) -> None:
        """Kept, then sent, one after the other; a message without data is only a place to come back to."""
        async with self._order:
            (event_id,) = await self._keep(Record(message))
            if message or event_id is not None:
                retry_ms = None if message else RECONNECT_MS
                await self._write(encode_event(message, event_id=event_id, retry_ms=retry_ms))

    async def _keep(self, record: Record) -> list[bytes | None]:
        """The id of an event, if it is kept: nothing is of a stream that is over at once."""
        if self._log is None:
            if self._journal is None or not self._left or self._is_client_gone:
                return [None]
            self._begin_log()
        assert self._log is not None
        patience_s = PATIENCE_S if self._is_client_gone else 0.0
        return await self._log.append(
            [record], ends="" if self._left else "done", position=b"", patience_s=patience_s
        )

    def _begin_log(self) -> None:
        assert self._journal is not None
        assert self._session is not None
        self._attach(self._journal.new_log(self._session, self._call.route, requests=self._left))

    def _attach(self, log: Log) -> None:
        self._log = log
        log.on_asked = lambda: self.stop("moved")
        log.on_lost = lambda: self.stop("lost")

    def _wait_for_client(self) -> None:
        """It has left, or waits elsewhere: the work goes on for as long as it may come back."""
        if self._patience is not None:
            self._patience.cancel()
        is_kept = self._log is not None and self._log.is_kept
        wait_s = LIFE_S if is_kept else UNREAD_ANSWER_S
        self._patience = asyncio.get_running_loop().call_later(wait_s, self._cancel, "client_gone")

    async def _keep_alive(self) -> None:
        keepalive_s = self._settings.keepalive_s
        if self._journal is not None and self._session is not None:
            await asyncio.sleep(PRIME_AFTER_S)
            if self._log is None and not self._form and self._session.revision >= POLLING_REVISION:
                with suppress(ClientGone):  # `stop` knows
                    await self._tell(b"")
        while self._form != "json":
            left_s = self._sent_at + keepalive_s - time.monotonic()
            if left_s > 0:
                await asyncio.sleep(left_s)
            else:
                with suppress(ClientGone):  # `stop` knows
                    await self._write(KEEPALIVE)

    async def _write(self, data: bytes) -> None:
        async with self._turn:
            if self._is_client_gone or self._form == "json":
                return
            exchange = self._call.exchange
            try:
                if not self._form:
                    self._form = "stream"
                    await exchange.begin(200, (*EVENTS, *self._call.extra, *self._headers))
                self._sent_at = time.monotonic()
                await exchange.send(data, timeout_s=self._settings.stalled_client_s)
            except ClientGone:
                self.stop("client_gone")
                if not self._is_client_gone:
                    raise

    def _cancel(self, reason: StopReason) -> None:
        if self._stop is None and self._task is not None:
            self._stop = reason
            self._task.cancel()


def end_of_listening(request_id: JsonRpcId) -> bytes:
    """The result of `subscriptions/listen`, when the gateway must end it."""
    result = {"resultType": "complete", "_meta": {META_SUBSCRIPTION: request_id}}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request_id, "result": result})
