"""A request the gateway makes to itself for a client who cannot make it: the answer is taken apart into messages.

To the gateway it is an Exchange like any other, with the caller's own credential. JSON is held whole, of the caller's share of
memory; a stream goes on event by event. An error becomes the answer to the message it is about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec

from hosting.dataplane.call import Call
from hosting.dataplane.door.exchange import Exchange
from hosting.dataplane.door.held import Share
from hosting.dataplane.protocol.era import SESSION_HEADER, hear
from hosting.dataplane.protocol.errors import ANSWER_CUT, INTERNAL, JsonRpcId, error_body
from hosting.dataplane.protocol.jsonrpc import Message
from hosting.dataplane.protocol.sse import EventParser

SPARE_BYTES = 64 * 1024  # what the gateway's own framing adds to an event


class _Error(msgspec.Struct):
    code: int
    message: str


class _Refused(msgspec.Struct):
    """As much of an error's body as is told again."""

    error: _Error


class Inner:
    """One request. Serve `exchange`, then `finish`."""

    def __init__(
        self,
        call: Call,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        message: Message | None,
        say: Callable[[bytes], Awaitable[None]],
        gone: asyncio.Event,
    ) -> None:
        self.status = 0
        self.session_id = ""
        self.last_event_id = ""
        self._call = call
        self._request_id: JsonRpcId = (
            message.id if message is not None and message.kind == "request" else None
        )
        self._is_answered = self._request_id is None
        self._say = say
        self._is_stream = False
        self._pieces: list[bytes] = []
        self._held = 0
        self._parser = EventParser(call.route.limits.event_bytes + SPARE_BYTES)
        self.exchange = InnerExchange(
            self, method, path, headers, body, client=call.exchange.client, gone=gone
        )

    @property
    def is_resumable(self) -> bool:
        """Whether the answer is still owed, and may be asked for where its stream broke off."""
        return self._is_stream and not self._is_answered and bool(self.last_event_id)

    def take_over(self, again: Inner) -> None:
        """`again` has asked for the rest."""
        self._is_answered = again._is_answered
        self.last_event_id = (again.last_event_id or self.last_event_id) if again.status == 200 else ""

    async def finish(self) -> None:
        """What is owed and did not come is told. Raises ClientGone."""
        self._call.share.give(self._held)
        self._held = 0
        if not self._is_answered:
            self._is_answered = True
            await self._say(error_body(self._request_id, ANSWER_CUT.code, ANSWER_CUT.message))

    def hear_head(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        told = dict(headers)
        self.status = status
        self.session_id = told.get(SESSION_HEADER, "")
        self._is_stream = status == 200 and told.get("content-type") == "text/event-stream"

    async def hear_piece(self, piece: bytes) -> None:
        """Raises ClientGone, and what the caller's share says."""
        if self._is_stream:
            await self._hear_events(piece)
            return
        self._call.share.take(len(piece))
        self._held += len(piece)
        self._pieces.append(piece)

    async def hear_end(self) -> None:
        if not self._is_stream:
            await self._hear_body(b"".join(self._pieces))

    async def _hear_events(self, piece: bytes) -> None:
        for event in self._parser.feed(piece):
            if event.id is not None:
                self.last_event_id = event.id.decode("latin-1")
            if event.data:
                self._note(event.data)
                await self._say(event.data)

    async def _hear_body(self, body: bytes) -> None:
        self._pieces.clear()
        if (
            self._is_answered
        ):  # nobody waits: a notification, an answer, or the stream that may not be offered
            return
        self._is_answered = True
        if self.status == 200:
            await self._say(
                body.replace(b"\r", b" ")
            )  # in JSON a bare CR is only ever space; in an event it ends the line
            return
        try:
            error = msgspec.json.decode(body, type=_Refused).error
        except msgspec.MsgspecError:
            error = _Error(INTERNAL.code, INTERNAL.message)
        await self._say(error_body(self._request_id, error.code, error.message))

    def _note(self, data: bytes) -> None:
        if not self._is_answered:
            self._is_answered = any(spoken.answers(self._request_id) for spoken in hear(data))


class InnerExchange(Exchange):
    """What the gateway sees of it. Not a client's own request: that one was counted already, and a drain lets it finish."""

    __slots__ = ("_gone", "_inner", "_put", "_whole")
    is_inner = True

    def __init__(
        self,
        inner: Inner,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        client: str,
        gone: asyncio.Event,
    ) -> None:
        super().__init__(
            _NoWire(),
            method=method,
            path=path,
            query="",
            client=client,
            raw_headers=[(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
            is_kept=True,
            has_chunks=True,
        )
        self._inner = inner
        self._whole = body
        self._gone = gone
        self._put: list[bytes] = []  # and not heard yet

    async def read_body(self, *, limit: int, timeout_s: float, share: Share) -> bytes:
        body, self._whole = self._whole, b""
        share.take(len(body))
        return self._bounded(body, limit)

    def when_gone(self, told: Callable[[], None]) -> Callable[[], None]:
        waiting = asyncio.create_task(self._gone.wait())
        waiting.add_done_callback(lambda done: None if done.cancelled() else told())

        def forget() -> None:
            waiting.cancel()

        return forget

    async def wait_gone_unread(self, share: Share) -> None:
        await self._gone.wait()

    async def answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes = b"") -> None:
        await self.begin(status, headers)
        await self._inner.hear_piece(body)
        await self.end()

    async def begin(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        self._status = status
        self._inner.hear_head(status, headers)

    def put(self, piece: bytes) -> bool:
        self._put.append(piece)
        return False

    async def drained(self, *, timeout_s: float) -> None:
        """The stream it goes onto has the client's patience."""
        put, self._put = self._put, []
        for piece in put:
            await self._inner.hear_piece(piece)

    def leave(self) -> None:
        self.is_ended = True

    async def end(self) -> None:
        self.is_ended = True
        await self._inner.hear_end()


class _NoWire:
    """There is no connection."""

    is_lost = False
    keeps = True
    is_full = False

    def write(self, data: bytes) -> None: ...

    async def drained(self) -> None: ...

    def ask_for_more(self) -> None: ...

    def say_continue(self) -> None: ...

    def part(self) -> None: ...

    def abort(self) -> None: ...

    def switch(self) -> None: ...
