"""A client comes back for the rest of a stream, with the id of the last event it has: at any node, whoever carried the stream.

What was logged after that event is sent first. Then it depends on the stream's owner (`journal.py`). It lives: it is asked to let go of the
client's old connection, and the log is followed until the answer stands in it; a listening stream its owner gives up, and this node
goes on with it. It is dead, or has let go: whoever claims the log first asks the server to go on where the log ends, if the server
numbers its events; a listening stream is opened anew. What cannot be had is said with an error for just the requests that wait, always on a
stream (HTTP 200): a 404 would end the client's session.

If this node crashes while it follows, nothing is lost: the client comes back again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from hosting.dataplane.call import Call, Plan
from hosting.dataplane.eras.legacy import LAST_EVENT_HEADER
from hosting.dataplane.forwarding.asking import Asker
from hosting.dataplane.forwarding.client_end import ClientEnd
from hosting.dataplane.forwarding.journal import About, Journal, Log, Page, Record
from hosting.dataplane.forwarding.journal_redis import JournalAway
from hosting.dataplane.forwarding.outlet import RECONNECT_MS
from hosting.dataplane.forwarding.proxy import Proxy
from hosting.dataplane.forwarding.streams import StopReason
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.forwarding.verdicts import refuse_failure
from hosting.dataplane.protocol.errors import (
    ACCESS_ENDED,
    ANSWER_LOST,
    ANSWER_NOT_KEPT,
    EVENTS_GONE,
    LOG_AWAY,
    OWNER_GONE,
    JsonRpcId,
    Kind,
    Refusal,
    error_body,
)
from hosting.dataplane.protocol.event_ids import LoggedEvent, Numbering
from hosting.dataplane.protocol.jsonrpc import Message
from hosting.dataplane.protocol.sse import KEEPALIVE, encode_event
from hosting.dataplane.sessions.session import Session
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.logs import log
from hosting.dataplane.telemetry.metrics import Metrics, Outcome

LOOK_AGAIN_S = (0.05, 0.5)  # after the last event; less and less often
ASK_EVERY_S = 30.0  # the owner, to go on for a client who waits here
PATIENCE_S = 5.0  # with a Redis that is away


@dataclass(frozen=True, slots=True)
class Taken:
    """A stream this node goes on with."""

    plan: Plan
    answer: Answer
    log: Log | None  # None: under a new one


# How another part of the gateway goes on with a stream of its own making that is this node's now; None: it cannot.
Adopt = Callable[[Call, Plan, str, Log], Awaitable[Callable[[], Awaitable[None]] | None]]


class Resumer:
    """One per process."""

    def __init__(
        self,
        *,
        settings: Settings,
        journal: Journal,
        asker: Asker,
        proxy: Proxy,
        metrics: Metrics,
        adopt: Adopt,
    ) -> None:
        self._adopt = adopt
        self._settings = settings
        self._journal = journal
        self._asker = asker
        self._proxy = proxy
        self._metrics = metrics

    async def resume(self, call: Call, plan: Plan, after: LoggedEvent) -> None:
        """Answers the call. Raises Refusal or ClientGone before the answer began, never after."""
        assert plan.session is not None
        replay = Replay(
            call,
            plan,
            after,
            plan.session,
            settings=self._settings,
            journal=self._journal,
            asker=self._asker,
            adopt=self._adopt,
        )
        await self._proxy.stream(call, plan, replay)
        self._metrics.resumed(replay.outcome)
        if replay.adopted is not None:
            await replay.adopted()
        elif replay.taken is not None:
            await self._proxy.go_on(call, replay.taken.plan, replay.taken.answer, replay.taken.log)


class Replay(ClientEnd):
    """What is logged of one stream, for one client. Afterwards `taken` says whether this node goes on with the stream itself."""

    def __init__(
        self,
        call: Call,
        plan: Plan,
        after: LoggedEvent,
        session: Session,
        *,
        settings: Settings,
        journal: Journal,
        asker: Asker,
        adopt: Adopt,
    ) -> None:
        super().__init__(call, plan, settings)
        self.taken: Taken | None = None
        self.adopted: Callable[[], Awaitable[None]] | None = None
        self.outcome: Outcome = "replayed"
        self._session = session
        self._stream = after.stream
        self._at = after.sequence
        self._requests = after.requests
        self._journal = journal
        self._asker = asker
        self._adopt = adopt
        self._log: Log | None = None
        self._asks_at = 0.0
        self._sent_at = time.monotonic()

    async def fill(self, on_sent: Callable[[int], None]) -> None:
        pause_s = LOOK_AGAIN_S[0]
        while True:
            page = await self._read()
            if page is None:
                return
            if await self._send(page, on_sent):
                pause_s = LOOK_AGAIN_S[0]
            if page.has_more:
                continue
            if page.state == "done" and self._at >= page.last:
                return
            if page.state in {"done", "lost"}:
                await self._refuse("lost", ANSWER_NOT_KEPT)
                return
            if page.state == "dead" and await self._take_up(page.about, on_sent):
                return
            await self._wait(pause_s)
            pause_s = min(pause_s * 1.5, LOOK_AGAIN_S[1])

    async def run(self, on_sent: Callable[[int], None]) -> None:
        try:
            await super().run(on_sent)
        finally:
            if self._log is not None:
                await self._log.release()

    async def told_to_stop(self, reason: StopReason) -> None:
        if reason == "drain":
            await self.write(b"retry: %d\n\n" % RECONNECT_MS)
        elif reason == "revoked":
            await self._send_errors(self._requests or (), ACCESS_ENDED)

    async def _read(self) -> Page | None:
        """What came since. None: it cannot be had, and that was said."""
        patient_until = time.monotonic() + PATIENCE_S
        while True:
            try:
                page = await self._journal.read(self._session, self._call.route, self._stream, after=self._at)
                if page is not None:
                    self._requests = page.about.requests
                    self._call.share.take(page.size)
                    return page
                await self._refuse("unknown", EVENTS_GONE)
                return None
            except JournalAway:
                kind = LOG_AWAY
            except Refusal as refusal:  # no memory for it just now
                kind = refusal.kind
            if time.monotonic() > patient_until:
                await self._refuse("away", kind)
                return None
            await self._wait(LOOK_AGAIN_S[1])

    async def _send(self, page: Page, on_sent: Callable[[int], None]) -> bool:
        """The events of a page; whether there were any."""
        numbering = Numbering(self._stream, page.about.requests)
        pieces = []
        for sequence, record in page.events:
            if sequence > self._at + 1:  # the oldest have made room: what follows is worth more than an error
                pieces.append(b": %d events are not kept any more\n\n" % (sequence - self._at - 1))
            self._at = sequence
            if record.data:
                event_id = numbering.at(sequence)
                pieces.append(encode_event(record.data, event_id=event_id, retry_ms=record.retry_ms))
        if pieces:
            written = b"".join(pieces)
            await self.write(written)
            on_sent(len(written))
            self._sent_at = time.monotonic()
        self._call.share.give(page.size)
        return bool(page.events)

    async def _wait(self, seconds: float) -> None:
        now = time.monotonic()
        if now >= self._asks_at:
            self._asks_at = now + ASK_EVERY_S
            await self._journal.ask(self._session, self._call.route, self._stream)
        if now - self._sent_at >= self._settings.keepalive_s:
            await self.write(KEEPALIVE)
            self._sent_at = now
        await asyncio.sleep(seconds)

    # ── A stream without an owner ────────────────────────────────────────────────────────────────────────────────────

    async def _take_up(self, about: About, on_sent: Callable[[int], None]) -> bool:
        """Whether the stream is this node's now, or ended with an error; otherwise somebody else was first."""
        try:
            found = await self._journal.claim(
                self._session, self._call.route, self._stream, about, after=self._at
            )
        except JournalAway:
            return False
        if found is None:
            return False
        self._log = found
        while True:  # another may have had it meanwhile, and written to it
            page = await self._read()
            if page is None:
                return True
            await self._send(page, on_sent)
            if not page.has_more:
                break
        self.adopted = await self._adopt(self._call, self._plan, self._stream, found)
        if self.adopted is not None:
            self.outcome = "taken_up"
            self._log, self._has_successor = None, True
            return True
        try:
            plan = self._plan_of(about, found.position)
            plan, answer = await self._ask(plan)
        except Refusal as refusal:
            log("stream.not_resumed", request=self._call.request_id, reason=refusal.kind.outcome)
            self.outcome = "lost"
            await self._send_errors(about.requests, refusal.kind)
            await found.release()
            return True
        if plan.session is not None and plan.session.upstream_id != about.upstream_id:
            await found.append([], ends="done")  # its places are of a session that is no more
            found = None
        self.outcome = "taken_up"
        self._hand_over(plan, answer, found)
        return True

    def _hand_over(self, plan: Plan, answer: Answer, found: Log | None) -> None:
        self.taken = Taken(plan, answer, found)
        self._log, self._has_successor = None, True

    def _plan_of(self, about: About, position: bytes) -> Plan:
        """To ask the server to go on where the log ends. Raises Refusal where it cannot."""
        requests, session = about.requests, self._session
        if requests and not position:
            raise Refusal(OWNER_GONE)
        is_same = (about.release, about.upstream_id) == (session.release, session.upstream_id)
        if requests and not is_same:
            raise Refusal(ANSWER_LOST)
        plan = replace(
            self._plan,
            after=None,
            is_listening=not requests,
            messages=[Message("request", request_id, "", {}) for request_id in requests],
            resumes=next(iter(requests), None),
        )
        if position and is_same:
            plan.headers = {**plan.headers, LAST_EVENT_HEADER: position.decode("latin-1")}
        return plan

    async def _ask(self, plan: Plan) -> tuple[Plan, Answer]:
        """Raises Refusal."""
        try:
            plan, answer = await self._asker.ask(self._call, plan)
        except UpstreamFailure as exc:
            raise refuse_failure(exc.kind, plan) from exc
        if answer.status != 200 or answer.content_type != "text/event-stream":
            answer.close()
            raise Refusal(OWNER_GONE)
        return plan, answer

    async def _refuse(self, outcome: Outcome, kind: Kind) -> None:
        """What came later is not to be had: an error for whoever waits, and for who listens what comes from now on."""
        self.outcome = outcome
        await self._send_errors((None,) if self._requests is None else self._requests, kind)
        if self._requests == ():
            with suppress(Refusal):  # the stream ends, and its client opens another
                self._hand_over(*await self._ask(replace(self._plan, after=None)), None)

    async def _send_errors(self, requests: Sequence[JsonRpcId], kind: Kind) -> None:
        errors = [error_body(request_id, kind.code, kind.message) for request_id in requests]
        ids: list[bytes | None] = [None] * len(errors)
        if self._log is not None and errors:
            ids = await self._log.append([Record(error) for error in errors], ends="done")
        for error, event_id in zip(errors, ids, strict=True):
            await self.write(encode_event(error, event_id=event_id))
