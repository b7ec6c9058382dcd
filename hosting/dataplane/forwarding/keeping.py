"""What of a server's stream goes into its log, and what may be resumed because of it.

The log is opened with the first event that does not end the stream; what is over at once is never logged. It holds what the client is
sent, and how far the server's own numbering has come (its position), where the server numbers its events: then another node can ask it
to go on. A place without data is kept for newer clients only, older ones fail on it; its position is kept either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hosting.dataplane.call import Call, Plan
from hosting.dataplane.forwarding.journal import Journal, Log, Record
from hosting.dataplane.forwarding.streams import StopReason
from hosting.dataplane.protocol.event_ids import wrap_event_id
from hosting.dataplane.protocol.sse import Event

PATIENCE_S = 10.0
MAX_POSITION = 1024
RETRY_MS = (100, 60_000)  # what a server may ask of clients


class Keeping:
    """Of one stream. `log`: it was begun by another node."""

    def __init__(
        self, call: Call, plan: Plan, journal: Journal, *, stop: Callable[[StopReason], None], log: Log | None
    ) -> None:
        self._call = call
        self._plan = plan
        self._journal = journal
        self._stop = stop
        self._log: Log | None = None
        self._position = b""
        self._has_place = log is not None  # the client has an id to come back with
        if log is not None:
            self._position = log.position
            self._attach(log)

    @property
    def may_begin(self) -> bool:
        """Whether the stream could be logged, and is not yet."""
        plan = self._plan
        is_ours = plan.passes_event_ids and plan.session is not None and not self._call.is_probe
        is_servers = plan.resumes is not None  # a stream that the server replays, under its own ids
        return is_ours and not is_servers and self._log is None

    @property
    def is_logged(self) -> bool:
        return self._log is not None and self._log.is_kept

    @property
    def is_resumable(self) -> bool:
        """Whether whoever waits for the answer can get it elsewhere."""
        return self._has_place and bool(self._position)

    async def ids_for(self, events: Sequence[Event], *, is_awaited: bool, ends: bool) -> list[bytes | None]:
        """Ids under which a client can resume, for each event: in the log, else at the server, else None.

        `is_awaited`: a client is there. Who left without an id cannot ask for a log; for who left with one, Redis is waited for.
        """
        plan = self._plan
        if not plan.passes_event_ids:
            return [None] * len(events)
        ids = [wrap_event_id(event.id, plan.stream_of) if event.id else None for event in events]
        last_id = next((event.id for event in reversed(events) if event.id is not None), None)
        if last_id is not None:
            self._position = last_id if _is_position(last_id) else b""
        kept = [n for n, event in enumerate(events) if self._is_kept(event)]
        if kept and is_awaited and not ends and self.may_begin:
            self._begin()
        if kept and self._log is not None:
            records = [Record(events[n].data, bounded_retry(events[n].retry_ms)) for n in kept]
            found = await self._log.append(
                records,
                position=self._position,
                ends="done" if ends else "",
                patience_s=0.0 if is_awaited else PATIENCE_S,
            )
            for n, event_id in zip(kept, found, strict=True):
                ids[n] = event_id or ids[n]
        self._has_place = self._has_place or any(ids[n] for n in kept)
        return ids

    async def prime(self) -> bytes | None:
        """A place before the first event."""
        event_id = (await self._begin().append([Record(b"")]))[0]
        self._has_place = event_id is not None
        return event_id

    async def ids_for_last(self, messages: Sequence[bytes]) -> list[bytes | None]:
        """For what the gateway says in the place of the server's answer."""
        if self._log is None or not messages:
            return [None] * len(messages)
        return await self._log.append([Record(message) for message in messages], ends="done")

    async def release(self) -> None:
        if self._log is not None:
            await self._log.release()

    def _begin(self) -> Log:
        session = self._plan.session
        assert session is not None
        return self._attach(self._journal.new_log(session, self._call.route, requests=self._plan.ids))

    def _attach(self, log: Log) -> Log:
        self._log = log
        log.on_asked = lambda: self._stop("moved")
        log.on_lost = lambda: self._stop("lost")
        return log

    def _is_kept(self, event: Event) -> bool:
        return bool(event.data or (event.name and event.id and self._plan.passes_empty_events))


def _is_position(event_id: bytes) -> bool:
    """Whether a header can carry it back to its server."""
    return len(event_id) <= MAX_POSITION and event_id.decode("latin-1").isprintable()


def bounded_retry(retry_ms: int | None) -> int | None:
    """What a server may ask of clients, if it asks."""
    return None if retry_ms is None else min(max(retry_ms, RETRY_MS[0]), RETRY_MS[1])
