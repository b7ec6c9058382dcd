"""The client's end of a stream that is passed on or replayed: begun once, kept alive by its filler, and ended from five sides.

The client leaves. Its access ends, or its key expires. The gateway shuts down. It comes back at another connection, so this one is of no
use any more. Another node has taken the stream over. What each of them means for what is behind the stream is the filler's to say.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from hosting.dataplane.call import EVENTS, Call, Plan
from hosting.dataplane.contract import Era
from hosting.dataplane.door.exchange import PIECE_BYTES, ClientGone
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.streams import StopReason, end_with_key, is_admitted
from hosting.dataplane.protocol.errors import Headers
from hosting.dataplane.settings import Settings


class ClientEnd(ABC):
    """One connection to one client. Fillers override `fill` and `told_to_stop`, and say whether they outlive their client."""

    def __init__(self, call: Call, plan: Plan, settings: Settings) -> None:
        self._call = call
        self._plan = plan
        self._settings = settings
        self._headers: Headers = ()
        self._is_client_gone = False  # and what fills the stream goes on
        self._has_successor = False  # another filler goes on with this connection
        self._task: asyncio.Task[object] | None = None
        self._stop: StopReason | None = None
        self._writing: asyncio.Timeout | None = None

    @property
    def era(self) -> Era:
        return self._call.era

    @property
    def is_listening(self) -> bool:
        return self._plan.is_listening

    @property
    def outlives_client(self) -> bool:
        """Whether `fill` goes on when its client has left."""
        return False

    @abstractmethod
    async def fill(self, on_sent: Callable[[int], None]) -> None:
        """Until the stream has done its duty. May raise ClientGone."""

    @abstractmethod
    async def told_to_stop(self, reason: StopReason) -> None:
        """The last words, if any."""

    def is_admitted(self, table: Table) -> bool:
        return is_admitted(self._call, self._plan.session, table)

    def stop(self, reason: StopReason) -> None:
        """Ends the stream from outside; what outlives its client only lets go of it."""
        if reason in {"client_gone", "moved"} and self.outlives_client:
            if reason == "moved" and not self._is_client_gone:
                self._call.exchange.leave()
            self._let_go()
        elif self._stop is None and self._task is not None:
            self._stop = reason
            self._task.cancel()

    async def run(self, on_sent: Callable[[int], None]) -> None:
        """Until the end, or a stop. Raises nothing of the client's or server's doing."""
        self._task = asyncio.current_task()
        exchange = self._call.exchange
        forget = exchange.when_gone(partial(self.stop, "client_gone"))
        expiry = end_with_key(self._call, self)
        try:
            if not exchange.status:
                await exchange.begin(200, (*EVENTS, *self._call.extra, *self._headers))
            await self.fill(on_sent)
        except asyncio.CancelledError:
            if self._stop is None:
                raise
            if self._task is not None:
                self._task.uncancel()
            with suppress(ClientGone):
                await self.told_to_stop(self._stop)
        except ClientGone:
            self._stop = "client_gone"
        finally:
            forget()
            if expiry is not None:
                expiry.cancel()
            self._task = None
        if self._is_client_gone or self._has_successor or self._stop == "client_gone":
            return
        await exchange.end()

    async def write(self, data: bytes) -> None:
        """Waits while the client does not read. Raises ClientGone unless this goes on without it."""
        if self._is_client_gone:
            return
        exchange, timeout_s = self._call.exchange, self._settings.stalled_client_s
        try:
            if exchange.put(data[:PIECE_BYTES]) and len(data) <= PIECE_BYTES:
                return
            async with asyncio.timeout(None) as self._writing:
                await exchange.drained(timeout_s=timeout_s)
                await exchange.send(data[PIECE_BYTES:], timeout_s=timeout_s)
        except TimeoutError:
            pass  # let go of meanwhile
        except ClientGone:
            if not self.outlives_client:
                raise
            self._let_go()
        finally:
            self._writing = None

    def _let_go(self) -> None:
        """Of the client; a write that waits for it waits no longer."""
        self._is_client_gone = True
        if self._writing is not None and not self._writing.expired():
            self._writing.reschedule(asyncio.get_running_loop().time())
