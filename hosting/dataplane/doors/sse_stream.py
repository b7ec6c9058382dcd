"""One stream of an HTTP+SSE client, and the requests it makes to the gateway for that client (`http_sse.py` tells the whole).

Whatever is answered goes onto the stream event by event, at the client's pace: who does not read slows the servers down, and is given
up in the end. Notifications reach the server in the order they were posted, and before what was posted after them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from hosting.dataplane.call import EVENTS, Call
from hosting.dataplane.door.exchange import ClientGone, Exchange
from hosting.dataplane.doors.inner import Inner
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.streams import StopReason, end_with_key, is_admitted
from hosting.dataplane.protocol.era import LEGACY_REVISIONS, META_VERSION, SESSION_HEADER, meta_of
from hosting.dataplane.protocol.errors import BUSY, UNKNOWN_SESSION, UNSUPPORTED_VERSION, Refusal
from hosting.dataplane.protocol.jsonrpc import Message, parse
from hosting.dataplane.protocol.sse import KEEPALIVE, encode_event, encode_named_event
from hosting.dataplane.sessions.mailbox import Box
from hosting.dataplane.sessions.session import Session
from hosting.dataplane.settings import Settings

MAX_AT_ONCE = 64  # messages of one stream that are being answered
RECONNECT_MS = 1000
LISTEN_AGAIN_S = 1.0
RESUMED_AT_MOST = 5  # times, for one answer
GOODBYE_S = 5.0

Serve = Callable[[Exchange], Awaitable[None]]


class Home(Protocol):
    """What a stream needs of its door."""

    settings: Settings
    serve: Serve
    is_draining: Callable[[], bool]

    def opened_session(self, call: Call, text: str) -> Session | None: ...


class SseStream:
    """One stream, and the requests it makes to the gateway for its client."""

    def __init__(self, door: Home, call: Call, *, mcp_path: str, endpoint: str) -> None:
        self._door = door
        self._call = call
        self._mcp_path = mcp_path
        self._endpoint = endpoint
        self._session_id = ""
        self._session: Session | None = None
        self._owns_session = True
        self._turn = asyncio.Lock()
        self._sent_at = time.monotonic()
        self._asking: set[asyncio.Task[None]] = set()
        self._last_notice: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._ending: asyncio.Future[StopReason] = asyncio.get_running_loop().create_future()

    @property
    def is_listening(self) -> bool:
        return not self._asking

    @property
    def _is_over(self) -> bool:
        """No further request is made. One that is under way may have taken our cancelling it for somebody else's."""
        return self._gone.is_set() or self._door.is_draining()

    def is_admitted(self, table: Table) -> bool:
        return is_admitted(self._call, self._session, table)

    def stop(self, reason: StopReason) -> None:
        if not self._ending.done():
            self._ending.set_result(reason)

    def adopt(self, session_id: str, session: Session) -> None:
        """Goes on with a session that was opened elsewhere, and outlives this stream."""
        self._session_id, self._session, self._owns_session = session_id, session, False

    async def run(self, box: Box) -> None:
        """Until it is stopped; then whatever was asked for this client is cancelled, and the session it opened ends."""
        exchange = self._call.exchange
        forget = exchange.when_gone(partial(self.stop, "client_gone"))
        expiry = end_with_key(self._call, self)
        taking = asyncio.create_task(self._take(box))
        taking.add_done_callback(self._look_at)
        reason: StopReason = "client_gone"
        try:
            reason = await self._ending
        finally:
            if expiry is not None:
                expiry.cancel()
            forget()
            self._gone.set()
            await _end(taking, *self._asking, self._listening)
            if reason != "revoked":  # one who is no longer let in cannot end a session, and it leads nowhere
                await self._end_session()
        if reason != "client_gone":
            await self._say_farewell()

    async def _take(self, box: Box) -> None:
        """Messages as they come; comments while the stream is silent. Raises ClientGone."""
        await self._call.exchange.begin(200, (*EVENTS, *self._call.extra))
        await self._write(encode_named_event(b"endpoint", self._endpoint.encode()))
        if self._session_id:
            self._start_listening()
        keepalive_s = self._door.settings.keepalive_s
        while True:
            left_s = self._sent_at + keepalive_s - time.monotonic()
            letter = await box.take(left_s) if left_s > 0 else None
            if letter is not None:
                self._ask_for(letter)
            elif time.monotonic() - self._sent_at >= keepalive_s:
                await self._write(KEEPALIVE)

    def _ask_for(self, letter: bytes) -> None:
        message = parse(letter)  # it was before it was handed over
        assert isinstance(message, Message)
        refusal = self._refusal_of(message, size=len(letter))
        if refusal is None:
            task = asyncio.create_task(self._carry(message, letter, after=self._last_notice))
        else:
            task = asyncio.create_task(self._refuse(refusal, is_asked=message.kind == "request"))
        self._asking.add(task)
        task.add_done_callback(self._asked)
        if message.kind != "request" and refusal is None:
            self._last_notice = task

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        self._look_at(task)
        if not self._asking and self._door.is_draining():
            self.stop("drain")

    def _look_at(self, task: asyncio.Task[None]) -> None:
        """A surprise is for the gateway's frame to log."""
        exc = None if task.cancelled() else task.exception()
        if isinstance(exc, ClientGone):
            self.stop("client_gone")
        elif exc is not None and not self._ending.done():
            self._ending.set_exception(exc)

    async def _refuse(self, refusal: Refusal, *, is_asked: bool) -> None:
        if is_asked:
            await self._say(refusal.body())

    async def _carry(self, message: Message, letter: bytes, *, after: asyncio.Task[None] | None) -> None:
        """One message of the client's: to the gateway, and what it says onto the stream. Raises ClientGone.

        Never before the server has taken the notification `after` which it was posted: `initialized` comes first.
        """
        if after is not None:
            await asyncio.wait([after])
        self._call.share.give(len(letter))  # the gateway takes it of the request's own
        inner = self._inner("POST", letter, message)
        await self._serve(inner)
        if message.method == "initialize" and inner.session_id:
            self._session_id = inner.session_id
            self._session = self._door.opened_session(self._call, inner.session_id)
        if message.method == "notifications/initialized" and inner.status == 202:
            self._start_listening()
        if inner.is_resumable:
            await self._resume(inner, message)
        await inner.finish()
        if inner.status == UNKNOWN_SESSION.status and self._session_id:
            self.stop("revoked")  # there is no way to tell this client to initialize again

    async def _resume(self, inner: Inner, message: Message) -> None:
        """The server ended the stream of a request before its answer, to be asked for the rest."""
        for _ in range(RESUMED_AT_MOST):
            if self._is_over:
                return
            await asyncio.sleep(LISTEN_AGAIN_S)
            again = self._inner("GET", b"", message, last_event_id=inner.last_event_id)
            await self._serve(again)
            inner.take_over(again)
            if not inner.is_resumable:
                return

    def _start_listening(self) -> None:
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
            self._listening.add_done_callback(self._look_at)

    async def _listen(self) -> None:
        """What the server says by itself, for as long as it offers a stream for it."""
        last_event_id = ""
        while not self._is_over:
            inner = self._inner("GET", b"", None, last_event_id=last_event_id)
            await self._serve(inner)
            if inner.status != 200:
                return
            last_event_id = inner.last_event_id or last_event_id
            await asyncio.sleep(LISTEN_AGAIN_S)

    def _inner(self, method: str, body: bytes, message: Message | None, *, last_event_id: str = "") -> Inner:
        headers = {
            name: value
            for name, value in self._call.headers.items()
            if name in {"host", "authorization", "origin"}
        }
        headers["accept"] = "application/json, text/event-stream"
        headers["content-type"] = "application/json"
        if self._session_id:
            headers[SESSION_HEADER] = self._session_id
        if last_event_id:
            headers["last-event-id"] = last_event_id
        return Inner(
            self._call,
            method,
            self._mcp_path,
            headers,
            body,
            message=message,
            say=self._say,
            gone=self._gone,
        )

    async def _serve(self, inner: Inner) -> None:
        await self._door.serve(inner.exchange)

    async def _say(self, message: bytes) -> None:
        await self._write(encode_event(message))

    def _refusal_of(self, message: Message, *, size: int) -> Refusal | None:
        """Why it is not carried on; None: it is, and until then what it holds is the stream's."""
        if len(self._asking) >= MAX_AT_ONCE:
            return Refusal(BUSY, request_id=message.id)
        if META_VERSION in meta_of(message):
            told = {"supported": list(LEGACY_REVISIONS), "requested": meta_of(message)[META_VERSION]}
            return Refusal(UNSUPPORTED_VERSION, request_id=message.id, data=told)
        try:
            self._call.share.take(size)
        except Refusal as refusal:
            refusal.request_id = message.id
            return refusal
        return None

    async def _write(self, data: bytes) -> None:
        try:
            async with self._turn:
                await self._call.exchange.send(data, timeout_s=self._door.settings.stalled_client_s)
                self._sent_at = time.monotonic()
        except ClientGone:
            self.stop("client_gone")
            raise

    async def _end_session(self) -> None:
        """Here, and at the server. One who is no longer let in cannot, and its session leads nowhere."""
        if (
            self._session_id
            and self._owns_session
            and self._ending.done()
            and self._ending.result() != "revoked"
        ):
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._serve(self._inner("DELETE", b"", None))

    async def _say_farewell(self) -> None:
        try:
            await self._write(b"retry: %d\n\n" % RECONNECT_MS)
            await self._call.exchange.end()
        except ClientGone:
            return


async def _end(*tasks: asyncio.Task[None] | None) -> None:
    left = [task for task in tasks if task is not None]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
