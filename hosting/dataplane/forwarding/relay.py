"""A server's stream of events, written anew for the client as it comes.

Each event that holds a JSON-RPC message goes on at once; anything else is dropped and counted. While the server is silent the
client gets comments, so that nothing between cuts the connection. A client that reads slowly slows the server down; one that
does not read at all is given up. The stream of a request ends with its answer, or with an honest error in its place.

The client leaves: a modern request, and any stream nobody is owed an answer on, is closed upstream; a legacy request goes on
being read to its answer, which is then dropped (it is not kept for resumption; a server that keeps its own events can be
asked again by Last-Event-ID). The gateway shuts down: listening streams end at once, requests when they must.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from hosting.dataplane.call import EVENTS, Call, Plan
from hosting.dataplane.contract import Era
from hosting.dataplane.door.exchange import ClientGone
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.pace import Pace
from hosting.dataplane.forwarding.streams import StopReason, is_admitted
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.protocol.era import META_SUBSCRIPTION, Spoken, hear
from hosting.dataplane.protocol.errors import (
    ACCESS_ENDED,
    ANSWER_CUT,
    ANSWER_TIMEOUT,
    ANSWER_TOO_LARGE,
    DRAINING,
    Headers,
    JsonRpcId,
    Kind,
    Refusal,
    error_body,
)
from hosting.dataplane.protocol.event_ids import wrap_event_id
from hosting.dataplane.protocol.sse import KEEPALIVE, Event, EventParser, EventTooLarge, encode_event
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.metrics import Metrics

RETRY_MS = (100, 60_000)  # what a server may ask of clients
RECONNECT_MS = 1000  # what we ask of them when we shut down
LINGER_S = (
    0.5  # for the server to end a stream whose answer has come, so that its connection can be used again
)
HELD_EVENT_BYTES = 512  # what an event that waits costs besides its data
UNREAD_ANSWER_S = 120.0  # how long a legacy request is read on for a client who left

_Heard = tuple[Event, list[Spoken]]
_NAMES = frozenset((b"message", b""))


class Relay:
    """One stream. `prepare` before the head is sent, then `run`."""

    def __init__(
        self, call: Call, plan: Plan, answer: Answer, *, settings: Settings, metrics: Metrics, pace: Pace
    ) -> None:
        self._call = call
        self._plan = plan
        self._answer = answer
        self._settings = settings
        self._metrics = metrics
        self._pace = pace
        self._parser = EventParser(call.route.limits.event_bytes)
        self._left: set[JsonRpcId] = set(plan.ids)
        self._headers: Headers = ()
        self._held: list[_Heard] = []
        self._held_bytes = 0
        self._is_resumable = False
        self._is_client_gone = False
        self._task: asyncio.Task[object] | None = None
        self._stop: StopReason | None = None

    @property
    def era(self) -> Era:
        return self._call.era

    @property
    def is_listening(self) -> bool:
        return self._plan.is_listening

    def is_admitted(self, table: Table) -> bool:
        return is_admitted(self._call, self._plan.session, table)

    async def prepare(self) -> None:
        """For `initialize`: the head needs the session id, so the answer is awaited first. Raises Refusal, UpstreamFailure."""
        open_session = self._plan.open_session
        if open_session is None:
            return
        limits, held_bytes = self._call.route.limits, 0
        deadline = time.monotonic() + limits.answer_timeout_s
        while self._left:
            await self._pace.rest()
            left_s = deadline - time.monotonic()
            piece = await self._answer.next_piece(timeout_s=left_s) if left_s > 0 else None
            if not piece:
                raise UpstreamFailure("timeout" if piece is None else "cut")
            for heard in self._parse(piece):
                self._held.append(heard)
                held_bytes += len(heard[0].data) + HELD_EVENT_BYTES
                if held_bytes > limits.event_bytes:
                    raise UpstreamFailure("too_large")
                self._hold(held_bytes + self._parser.held)
                result = self._note(heard)
                if result is not None:
                    self._headers = open_session(result, self._answer.session_id)

    def stop(self, reason: StopReason) -> None:
        """Ends the stream from outside: a legacy request survives its client, nothing survives the drain."""
        if reason == "client_gone" and self.era == "legacy" and not self.is_listening:
            self._is_client_gone = True
            return
        if self._stop is None and self._task is not None:
            self._stop = reason
            self._task.cancel()

    async def run(self, on_sent: Callable[[int], None]) -> None:
        """Until the answer, the end, or a stop. Raises nothing of the client's or server's doing."""
        self._task = asyncio.current_task()
        exchange = self._call.exchange
        watcher = asyncio.create_task(exchange.wait_gone())
        watcher.add_done_callback(lambda done: None if done.cancelled() else self.stop("client_gone"))
        expiry = self._end_with_key()
        try:
            await exchange.begin(200, (*EVENTS, *self._call.extra, *self._headers))
            problem = await self._pump(on_sent)
            if problem is not None:
                await self._send_errors(problem)
        except asyncio.CancelledError:
            if self._stop is None:
                raise
            if self._task is not None:
                self._task.uncancel()
            if self._stop == "drain":
                await self._say_farewell()
            elif self._stop == "revoked":
                await self._send_errors(ACCESS_ENDED)
        except ClientGone:
            self._stop = "client_gone"
        finally:
            watcher.cancel()
            if expiry is not None:
                expiry.cancel()
            self._task = None
        if not self._is_client_gone and self._stop != "client_gone":
            await exchange.end()
        await self._let_linger()

    def _end_with_key(self) -> asyncio.TimerHandle | None:
        """A stream must not outlive what opened it, whether that was taken away or ran out."""
        expires_at = self._call.caller.expires_at
        if expires_at is None:
            return None
        return asyncio.get_running_loop().call_later(max(0.0, expires_at - time.time()), self.stop, "revoked")

    async def _pump(self, on_sent: Callable[[int], None]) -> Kind | None:
        """Copies until the stream has done its duty; what went wrong otherwise."""
        limits = self._call.route.limits
        keepalive_s = self._settings.keepalive_s
        heard_at = sent_at = time.monotonic()
        unread_until = 0.0
        held, self._held = self._held, []
        await self._send(held, on_sent)
        while self._left or self.is_listening:
            now = time.monotonic()
            if self._is_client_gone:
                unread_until = unread_until or now + UNREAD_ANSWER_S
                if now > unread_until:
                    return None
            try:
                await self._pace.rest()
                piece = await self._answer.next_piece(timeout_s=max(sent_at + keepalive_s - now, 0.001))
                events = self._parse(piece) if piece else []
            except UpstreamFailure as exc:
                return ANSWER_TOO_LARGE if exc.kind == "too_large" else self._ended()
            except Refusal as refusal:  # no memory for an event of this size
                return refusal.kind
            now = time.monotonic()
            if piece == b"":
                return self._ended()
            if piece:
                heard_at = now
            elif not self.is_listening and now - heard_at >= limits.stream_idle_s:
                return ANSWER_TIMEOUT
            for heard in events:
                self._note(heard)
            if await self._send(events, on_sent):
                sent_at = time.monotonic()
            elif now - sent_at >= keepalive_s:
                await self._write(KEEPALIVE)
                sent_at = time.monotonic()
        return None

    def _ended(self) -> Kind | None:
        """The server ended the stream: an error is owed to whoever waits and cannot ask again."""
        return ANSWER_CUT if self._left and not self._is_resumable else None

    def _parse(self, piece: bytes) -> list[_Heard]:
        """Only what is MCP, or moves the position in the stream. Raises UpstreamFailure (too_large), Refusal (429, 503)."""
        began = time.thread_time()
        try:
            return self._parsed(piece)
        finally:
            self._pace.charge(time.thread_time() - began)

    def _parsed(self, piece: bytes) -> list[_Heard]:
        try:
            events = self._parser.feed(piece)
        except EventTooLarge as exc:
            raise UpstreamFailure("too_large") from exc
        self._hold(self._parser.held)
        kept: list[_Heard] = []
        for event in events:
            try:
                spoken = hear(event.data) if event.data else []
            except msgspec.MsgspecError:
                spoken = None
            if spoken is None or event.name not in _NAMES:
                self._metrics.events_dropped.inc()
            else:
                kept.append((event, spoken))
        return kept

    def _hold(self, size: int) -> None:
        """Takes of the call's share what an event holds that is not whole yet. Raises Refusal."""
        grown = size - self._held_bytes
        if grown > 0:
            self._call.share.take(grown)
        elif grown < 0:
            self._call.share.give(-grown)
        self._held_bytes = size

    def _note(self, heard: _Heard) -> bytes | None:
        """Remembers what was answered; gives the result if this event holds one."""
        for message in heard[1]:
            if message.is_answer and not isinstance(message.id, float) and message.id in self._left:
                self._left.discard(message.id)
                if isinstance(message.result, msgspec.Raw):
                    return bytes(message.result)
        return None

    async def _send(self, events: list[_Heard], on_sent: Callable[[int], None]) -> bool:
        """Whether anything went to the client."""
        began = time.thread_time()
        written = b"".join(self._rewrite(event) for event, _ in events)
        self._pace.charge(time.thread_time() - began)
        if written:
            await self._write(written)
            on_sent(len(written))
        return bool(written)

    def _rewrite(self, event: Event) -> bytes:
        event_id = None
        if self._plan.passes_event_ids and event.id:
            event_id = wrap_event_id(event.id, self._plan.stream_of)
        retry_ms = None if event.retry_ms is None else min(max(event.retry_ms, RETRY_MS[0]), RETRY_MS[1])
        self._is_resumable = self._is_resumable or event_id is not None
        if not event.name:
            return b"" if retry_ms is None else b"retry: %d\n\n" % retry_ms
        if not event.data and not (self._plan.passes_empty_events and event_id):
            return b""
        return encode_event(event.data, event_id=event_id, retry_ms=retry_ms)

    async def _write(self, data: bytes) -> None:
        if self._is_client_gone:
            return
        try:
            await self._call.exchange.send(data, timeout_s=self._settings.stalled_client_s)
        except ClientGone:
            if self.era == "modern" or self.is_listening:
                raise
            self._is_client_gone = True

    async def _send_errors(self, problem: Kind) -> None:
        for request_id in sorted(self._left, key=str):
            await self._write(encode_event(error_body(request_id, problem.code, problem.message)))

    async def _say_farewell(self) -> None:
        """Ends the stream so that the client knows what to do: reconnect, or take the answer for lost."""
        if self.era == "legacy":
            await self._write(b"retry: %d\n\n" % RECONNECT_MS)
        if not self.is_listening:
            await self._send_errors(DRAINING)
            return
        for request_id in self._left:
            result = {"resultType": "complete", "_meta": {META_SUBSCRIPTION: request_id}}
            message = {"jsonrpc": "2.0", "id": request_id, "result": result}
            await self._write(encode_event(msgspec.json.encode(message)))

    async def _let_linger(self) -> None:
        """After the last answer a well-behaved server ends its stream at once."""
        deadline = time.monotonic() + LINGER_S
        while not self._left and not self.is_listening and (left_s := deadline - time.monotonic()) > 0:
            try:
                if not await self._answer.next_piece(timeout_s=left_s):
                    return
            except UpstreamFailure:
                return
