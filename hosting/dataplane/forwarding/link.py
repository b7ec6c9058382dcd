"""One stream of a server that still speaks HTTP+SSE (2024-11-05), and who waits for what on it.

The server says on its one stream whatever it has to say. An answer is handed to its request, progress to the request it is of,
anything else to the client's listening stream, or to the newest request in flight, or it is kept for a while. A client that does
not read makes the server wait, and nobody but the client's own other requests. Source: MCP 2024-11-05, Transports, HTTP with SSE.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import msgspec

from hosting.dataplane.contract import Remote
from hosting.dataplane.forwarding.pace import Pace
from hosting.dataplane.forwarding.streams import Holder
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.protocol.era import Spoken, hear
from hosting.dataplane.protocol.sse import EventParser, EventTooLarge, encode_event
from hosting.dataplane.remotes import MAX_URL, RemoteHeaders, split_url

IDLE_S = 1800.0  # without a request or a listener
LOOK_S = 15.0
KEPT = 64  # messages that nobody waits for yet
HELD_BYTES = 256 * 1024  # of messages nobody has read yet: then the server has to wait
_MESSAGES = (b"message", b"")
_PORTS = {"http": 80, "https": 443}
_raws = msgspec.json.Decoder(list[msgspec.Raw])

Key = tuple[bool, Any]  # a JSON-RPC id, or a progress token: 1 and "1" are two


class Overfull(Exception):
    """The tenant's Links hold more than they may."""


def key_of(said: object) -> Key:
    return (isinstance(said, str), said) if isinstance(said, str | int | float) else (False, None)


def split_messages(body: bytes) -> list[bytes]:
    """Each message of a batch; a single one as it is. Raises msgspec.MsgspecError."""
    return [bytes(raw) for raw in _raws.decode(body)] if body.lstrip()[:1] == b"[" else [body]


class Told(Answer):
    """What a Link hands to one request (`ids`), or to a listener (none): JSON when the answer is all there is, else events."""

    def __init__(self, link: Link, ids: Collection[Key], tokens: Collection[Key]) -> None:
        super().__init__(200, "text/event-stream")
        self.session_id = link.id
        self.ids = set(ids)
        self.tokens = set(tokens)
        self.is_listener = not ids
        self._link = link
        self._may_be_json = len(ids) == 1
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._has_news = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_over = False
        self._is_cut = False
        self._is_closed = False

    async def first(self, timeout_s: float) -> None:
        """Until there is something to say, and so how. Raises UpstreamFailure (timeout, lost)."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._has_news.wait()
        except TimeoutError:
            raise UpstreamFailure("timeout") from None
        if not self._waiting:
            raise UpstreamFailure("lost")
        if self._may_be_json and self._is_over and len(self._waiting) == 1:
            self.content_type, self.size = "application/json", len(self._waiting[0])

    def add(self, message: bytes, *, answers: Key | None = None) -> None:
        """Raises Overfull."""
        if answers is not None:
            self.ids.discard(answers)
            self._is_over = not self.ids
        self._waiting.append(message)
        self._has_news.set()
        self._hold(len(message))

    async def wait_read(self) -> None:
        """As long as too much of it was not read."""
        await self._has_room.wait()

    def end(self) -> None:
        """The stream is over; whoever is owed an answer has none."""
        self._is_over, self._is_cut = True, bool(self.ids)
        self._has_news.set()
        self._has_room.set()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._waiting.clear()
            self._hold(-self._held)
            self._link.leave(self)

    async def _next(self, at_most: int | None) -> bytes:
        while not self._waiting:
            if self._is_cut:
                raise UpstreamFailure("cut")
            if self._is_over:
                return b""
            self._has_news.clear()
            await self._has_news.wait()
        message = self._waiting.popleft()
        self._hold(-len(message))
        return message if self.content_type == "application/json" else encode_event(message)

    def _hold(self, grown: int) -> None:
        self._held += grown
        if self._held > HELD_BYTES:
            self._has_room.clear()
        else:
            self._has_room.set()
        self._link.hold(grown)


class Link:
    """One stream. `run` reads it to its end; `hold` counts the bytes it keeps in memory, and may raise Overfull for more."""

    def __init__(
        self,
        answer: Answer,
        *,
        remote: Remote,
        headers: RemoteHeaders,
        event_bytes: int,
        pace: Pace,
        hold: Callable[[int], None],
        on_dropped: Callable[[], None],
        holder: Holder,
    ) -> None:
        self.id = f"sse-{secrets.token_hex(16)}"
        self.url = remote.url
        self.endpoint = ""
        self.used_at = time.monotonic()
        self.is_open = True
        self.hold = hold
        self.holder = holder
        self._headers = headers
        self._answer = answer
        self._parser = EventParser(event_bytes)
        self._parsing = 0
        self._pace = pace
        self._on_dropped = on_dropped
        self._waiting: list[Told] = []  # oldest first
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._is_ready = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    def is_for(self, remote: Remote, headers: RemoteHeaders) -> bool:
        """Whether it is the stream that would be opened now: another token may be another caller to the server."""
        return (self.url, self._headers) == (remote.url, headers)

    async def ready(self, timeout_s: float) -> None:
        """Until the server has said where to post. Raises UpstreamFailure (timeout, cut)."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_ready.wait()
        except TimeoutError:
            raise UpstreamFailure("timeout") from None
        if not self.endpoint:
            raise UpstreamFailure("cut")

    def wait_for(self, ids: Collection[Key] = (), tokens: Collection[Key] = ()) -> Told:
        """For the answers to `ids`; without any, for what the server says by itself, what was kept first."""
        told = Told(self, ids, tokens)
        self._waiting.append(told)
        self.used_at = time.monotonic()
        while told.is_listener and self._kept:
            told.add(self._take_kept())
        return told

    def leave(self, told: Told) -> None:
        if told in self._waiting:
            self._waiting.remove(told)
        self.used_at = time.monotonic()

    async def run(self) -> None:
        """Until the stream ends, or was idle for too long; then everybody who waits is told."""
        try:
            while self.is_open and not (self.is_idle and time.monotonic() - self.used_at > IDLE_S):
                await self._pace.rest()
                piece = await self._answer.next_piece(timeout_s=LOOK_S)
                if piece == b"":
                    return
                if piece:
                    await self._hear(piece)
        except (UpstreamFailure, EventTooLarge, Overfull):
            return
        finally:
            self.end()

    def end(self) -> None:
        """Closes the stream. May be called twice."""
        if not self.is_open:
            return
        self.is_open = False
        self._is_ready.set()
        self._answer.close()
        self.hold(-self._parsing)
        self._parsing = 0
        while self._kept:
            self._take_kept()
        for told in self._waiting:
            told.end()

    async def _hear(self, piece: bytes) -> None:
        """Raises UpstreamFailure, EventTooLarge, Overfull."""
        began = time.thread_time()
        events = self._parser.feed(piece)
        self._pace.charge(time.thread_time() - began)
        grown, self._parsing = self._parser.held - self._parsing, self._parser.held
        self.hold(grown)
        for event in events:
            if event.name == b"endpoint" and not self.endpoint:
                self._settle(event.data)
            elif event.name in _MESSAGES and event.data:
                await self._take(event.data)

    def _settle(self, data: bytes) -> None:
        """Where to post. Of the same origin: elsewhere the tenant's secrets would go to a stranger. Raises UpstreamFailure (cut)."""
        where = urljoin(self.url, data.decode("latin-1"))
        parts = split_url(where) if len(data) <= MAX_URL else None
        if parts is None or _origin(parts) != _origin(urlsplit(self.url)) or "@" in parts.netloc:
            raise UpstreamFailure("cut")
        self.endpoint = where.partition("#")[0]
        self._is_ready.set()

    async def _take(self, data: bytes) -> None:
        try:
            heard = list(zip(split_messages(data), hear(data), strict=True))
        except msgspec.MsgspecError:
            self._on_dropped()
            return
        for raw, message in heard:
            told = self._whose(raw, message)
            if told is not None:
                told.add(raw, answers=key_of(message.id) if message.is_answer else None)
                await told.wait_read()
            elif message.is_answer:
                self._on_dropped()
            else:
                self._keep(raw)

    def _whose(self, raw: bytes, message: Spoken) -> Told | None:
        if message.is_answer:
            key = key_of(message.id)
            return next((told for told in self._waiting if key in told.ids), None)
        if message.method == "notifications/progress" and (token := _token_in(raw)) is not None:
            asker = next((told for told in self._waiting if token in told.tokens), None)
            if asker is not None:
                return asker
        listener = next((told for told in reversed(self._waiting) if told.is_listener), None)
        return listener or next(reversed(self._waiting), None)

    def _keep(self, raw: bytes) -> None:
        self._kept.append(raw)
        self._kept_bytes += len(raw)
        self.hold(len(raw))
        while len(self._kept) > KEPT or self._kept_bytes > HELD_BYTES:
            self._take_kept()
            self._on_dropped()

    def _take_kept(self) -> bytes:
        raw = self._kept.popleft()
        self._kept_bytes -= len(raw)
        self.hold(-len(raw))
        return raw


class _Progress(msgspec.Struct):
    params: dict[str, Any] = {}


_progress = msgspec.json.Decoder(_Progress)


def _token_in(raw: bytes) -> Key | None:
    try:
        return key_of(_progress.decode(raw).params.get("progressToken"))
    except msgspec.MsgspecError:
        return None


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
