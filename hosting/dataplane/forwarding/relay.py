"""A server's stream of events, written anew for the client as it comes.

Each event that holds a JSON-RPC message goes on at once; anything else is dropped and counted. While the server is silent the
client gets comments, so that nothing between cuts the connection. A client that reads slowly slows the server down; one that
does not read at all is given up. The stream of a request ends with its answer, or with an honest error in its place.

A legacy stream that lasts is logged (`journal.py`): every event before it is sent, so that the client can come back for the rest to any
node. It lasts when its first bytes do not bring the answer, or when none come for PRIME_AFTER_S: then the client is given a place to
come back to, an event without data (from 2025-11-25 on; older clients fail on it, and can come back once they were sent an event). What
is answered at once costs no round trip to Redis.

The client leaves: a modern request, and any stream nobody is owed an answer on, is closed upstream; a legacy request goes on being read
and logged, for UNREAD_S, and longer while somebody waits for it at another connection. The gateway shuts down: listening streams end at
once, requests when they must; where the server can be asked again by another node, the client is told to come back instead of an error.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import msgspec

from hosting.dataplane.call import Call, Plan
from hosting.dataplane.forwarding.client_end import ClientEnd
from hosting.dataplane.forwarding.journal import Journal, Log
from hosting.dataplane.forwarding.journal_scripts import LIFE_S
from hosting.dataplane.forwarding.keeping import Keeping, bounded_retry
from hosting.dataplane.forwarding.outlet import RECONNECT_MS, end_of_listening
from hosting.dataplane.forwarding.pace import CHEAP_BYTES, Pace, is_cheap
from hosting.dataplane.forwarding.streams import StopReason
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.protocol.era import Spoken, hear
from hosting.dataplane.protocol.errors import (
    ACCESS_ENDED,
    ANSWER_CUT,
    ANSWER_TIMEOUT,
    ANSWER_TOO_LARGE,
    DRAINING,
    JsonRpcId,
    Kind,
    Refusal,
    error_body,
)
from hosting.dataplane.protocol.sse import KEEPALIVE, Event, EventParser, EventTooLarge, encode_event
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.metrics import Metrics

LINGER_S = (
    0.5  # for the server to end a stream whose answer has come, so that its connection can be used again
)
HELD_EVENT_BYTES = 512  # what an event that waits costs besides its data
UNREAD_S = LIFE_S  # how long a request is read on for a client who left and can come back
UNRESUMABLE_S = 120.0  # and for one who cannot: its server may still do what it was asked
PRIME_AFTER_S = 0.5  # few connections break that early, and most calls are over by then

_Heard = tuple[Event, list[Spoken]]
_NAMES = frozenset((b"message", b""))


class Relay(ClientEnd):
    """One stream. `prepare` before the head is sent, then `run`. `log`: of a stream that another node began."""

    def __init__(
        self,
        call: Call,
        plan: Plan,
        answer: Answer,
        *,
        settings: Settings,
        metrics: Metrics,
        pace: Pace,
        journal: Journal,
        log: Log | None = None,
    ) -> None:
        super().__init__(call, plan, settings)
        self._answer = answer
        self._metrics = metrics
        self._pace = pace
        self._keeping = Keeping(call, plan, journal, stop=self.stop, log=log)
        self._parser = EventParser(call.route.limits.event_bytes)
        self._left: set[JsonRpcId] = set(plan.ids)
        self._held: list[_Heard] = []
        self._held_bytes = 0
        self._unread_until = 0.0

    @property
    def outlives_client(self) -> bool:
        return self.era == "legacy" and not self.is_listening

    async def prepare(self) -> None:
        """For `initialize`: the head needs the session id, so the answer is awaited first. Raises Refusal, UpstreamFailure."""
        open_session = self._plan.open_session
        if open_session is None:
            return
        limits, held_bytes = self._call.route.limits, 0
        deadline = time.monotonic() + self._call.within_budget(limits.answer_timeout_s)
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
        self._unread_until = 0.0  # whoever left now, or waits elsewhere, may want the answer
        super().stop(reason)

    async def run(self, on_sent: Callable[[int], None]) -> None:
        try:
            await super().run(on_sent)
        finally:
            await self._keeping.release()
        await self._let_linger()

    async def fill(self, on_sent: Callable[[int], None]) -> None:
        problem = await self._pump(on_sent)
        if problem is not None:
            await self._send_errors(problem)

    async def told_to_stop(self, reason: StopReason) -> None:
        if reason == "drain":
            await self._say_farewell()
        elif reason == "revoked":
            await self._send_errors(ACCESS_ENDED)
        await self._keeping.release()

    async def _pump(self, on_sent: Callable[[int], None]) -> Kind | None:
        """Copies until the stream has done its duty; what went wrong otherwise."""
        limits = self._call.route.limits
        keepalive_s = self._settings.keepalive_s
        heard_at = sent_at = time.monotonic()
        can_prime = self._plan.passes_empty_events and not self.is_listening and not self._held
        prime_at = heard_at + PRIME_AFTER_S if can_prime and self._keeping.may_begin else math.inf
        held, self._held = self._held, []
        await self._send(held, on_sent)
        while self._left or self.is_listening:
            now = time.monotonic()
            if self._is_client_gone and self._has_waited_for_client(now):
                return None
            try:
                await self._pace.rest()
                wait_s = min(sent_at + keepalive_s, prime_at) - now
                piece = await self._answer.next_piece(timeout_s=max(wait_s, 0.001))
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
            if events or now >= prime_at:
                prime_at = math.inf
                if not events and not self._is_client_gone:
                    await self._prime()
            for heard in events:
                self._note(heard)
            if await self._send(events, on_sent):
                sent_at = time.monotonic()
            elif now - sent_at >= keepalive_s:
                await self.write(KEEPALIVE)
                sent_at = time.monotonic()
        return None

    def _has_waited_for_client(self, now: float) -> bool:
        wait_s = UNREAD_S if self._keeping.is_logged else UNRESUMABLE_S
        self._unread_until = self._unread_until or now + wait_s
        return now > self._unread_until

    def _ended(self) -> Kind | None:
        """The server ended the stream: an error is owed to whoever waits and cannot ask again."""
        return ANSWER_CUT if self._left and not self._keeping.is_resumable else None

    def _parse(self, piece: bytes) -> list[_Heard]:
        """Only what is MCP, or moves the position in the stream. Raises UpstreamFailure (too_large), Refusal (429, 503)."""
        if is_cheap(piece) and self._parser.held <= CHEAP_BYTES:
            return self._parsed(piece)
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
        plain = [event for event, _ in events]
        is_over = not self._left and not self.is_listening
        ids = await self._keeping.ids_for(plain, is_awaited=not self._is_client_gone, ends=is_over)
        if len(plain) == 1 and is_cheap(plain[0].data):
            written = self._rewrite(plain[0], ids[0])
        else:
            began = time.thread_time()
            written = b"".join(
                self._rewrite(event, event_id) for event, event_id in zip(plain, ids, strict=True)
            )
            self._pace.charge(time.thread_time() - began)
        if written:
            await self.write(written)
            on_sent(len(written))
        return bool(written)

    def _rewrite(self, event: Event, event_id: bytes | None) -> bytes:
        retry_ms = bounded_retry(event.retry_ms)
        if not event.name:
            return b"" if retry_ms is None else b"retry: %d\n\n" % retry_ms
        if not event.data and not (self._plan.passes_empty_events and event_id):
            return b""
        return encode_event(event.data, event_id=event_id, retry_ms=retry_ms)

    async def _prime(self) -> None:
        event_id = await self._keeping.prime()
        if event_id is not None:
            await self.write(encode_event(b"", event_id=event_id))

    async def _send_errors(self, problem: Kind) -> None:
        """In the place of the answers that are owed."""
        errors = [
            error_body(request_id, problem.code, problem.message)
            for request_id in sorted(self._left, key=str)
        ]
        ids = await self._keeping.ids_for_last(errors)
        for error, event_id in zip(errors, ids, strict=True):
            await self.write(encode_event(error, event_id=event_id))

    async def _say_farewell(self) -> None:
        """Ends the stream so that the client knows what to do: reconnect, or take the answer for lost."""
        if self.era == "legacy":
            await self.write(b"retry: %d\n\n" % RECONNECT_MS)
        if not self.is_listening:
            if not self._keeping.is_resumable:
                await self._send_errors(DRAINING)
            return
        for request_id in self._left:
            await self.write(encode_event(end_of_listening(request_id)))

    async def _let_linger(self) -> None:
        """After the last answer a well-behaved server ends its stream at once."""
        deadline = time.monotonic() + LINGER_S
        while not self._left and not self.is_listening and (left_s := deadline - time.monotonic()) > 0:
            try:
                if not await self._answer.next_piece(timeout_s=left_s):
                    return
            except UpstreamFailure:
                return
