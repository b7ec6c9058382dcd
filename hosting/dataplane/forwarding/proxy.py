"""Carries one planned request to its server and the answer back.

Nothing here decides who may call or what a request means; that is in the Plan. The answer to a request is one JSON body or a
stream (`relay.py`). A body of ordinary size is held whole and looked at before its first byte goes on; a larger one goes through
as it comes, and where it breaks off the client's connection does too. A session that the server has lost is renewed
first (`healing.py`). A modern client that leaves cancels its request upstream; a legacy one cancels nothing, so its request is
read to the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from hosting.dataplane.call import EMPTY, JSON, Call, Plan
from hosting.dataplane.door.exchange import ClientGone
from hosting.dataplane.forwarding.asking import MAX_ERROR_BYTES, Asker
from hosting.dataplane.forwarding.breaker import is_hurried
from hosting.dataplane.forwarding.client_end import ClientEnd
from hosting.dataplane.forwarding.journal import Journal, Log
from hosting.dataplane.forwarding.pace import Pace
from hosting.dataplane.forwarding.relay import Relay
from hosting.dataplane.forwarding.sending import Sender
from hosting.dataplane.forwarding.streams import Streams
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.forwarding.verdicts import NOT_ITS_FAULT, judge, refuse_failure
from hosting.dataplane.protocol.era import Spoken, hear
from hosting.dataplane.protocol.errors import BROKEN_ANSWER, CIRCUIT_OPEN, Headers, Refusal
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.logs import Damper
from hosting.dataplane.telemetry.metrics import Metrics
from hosting.dataplane.telemetry.reports import Reports

LOOK_INSIDE_BYTES = (
    1024 * 1024
)  # larger JSON answers are neither held nor parsed: that would hold everybody up


class Proxy:
    """One per process; owns nothing but its way to the servers."""

    def __init__(
        self,
        *,
        settings: Settings,
        sender: Sender,
        asker: Asker,
        journal: Journal,
        streams: Streams,
        reports: Reports,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._sender = sender
        self._asker = asker
        self._streams = streams
        self._reports = reports
        self._metrics = metrics
        self._damper = Damper()

    async def forward(self, call: Call, plan: Plan) -> None:
        """Answers the call. Raises Refusal or ClientGone before the answer began, never after."""
        started, sent_at = time.perf_counter(), time.monotonic()
        record = _Record(self, call, plan, started)
        try:
            with _cancelled_with_client(call):
                asked, (plan, answer) = plan, await self._asker.ask(call, plan)
            if answer.has_request:
                _let_go_of_body(call, asked, plan)
            try:
                await self._carry(call, plan, answer, record)
            finally:
                answer.close()
        except UpstreamFailure as exc:
            hurried = is_hurried(call, sent_at)
            refusal = refuse_failure(exc.kind, plan, is_hurried=hurried)
            outcome = refusal.kind.outcome
            record.done(failure="" if outcome in NOT_ITS_FAULT else outcome)
            raise refusal from exc
        except Refusal as refusal:
            outcome = refusal.kind.outcome
            refusal.request_id = plan.first_id if refusal.request_id is None else refusal.request_id
            if refusal.kind is not CIRCUIT_OPEN:  # which never reached the server
                record.done(failure="" if outcome in NOT_ITS_FAULT else outcome)
            raise

    async def say_goodbye(self, call: Call, plan: Plan) -> None:
        """Ends the server's own session, as far as the server cares."""
        await self._sender.say_goodbye(call.route, plan, request_id=call.request_id)

    async def _carry(self, call: Call, plan: Plan, answer: Answer, record: _Record) -> None:
        if (
            answer.status == 200
            and answer.content_type == "text/event-stream"
            and (plan.ids or plan.is_listening)
        ):
            relay = self._relay(call, plan, answer)
            await relay.prepare()
            record.done(response_bytes=0)
            await self.stream(call, plan, relay)
            return
        if not plan.ids and not plan.is_listening:
            await self._accept(call, plan, answer, record)
            return
        limits = call.route.limits
        if answer.status != 200:
            body = await answer.read(
                limit=MAX_ERROR_BYTES,
                timeout_s=call.within_budget(limits.answer_timeout_s),
                share=call.share,
            )
            status = judge(call.era, plan, answer, body)
            record.done(response_bytes=len(body))
            await call.exchange.answer(status, (*JSON, *call.extra), body)
            return
        if answer.content_type != "application/json" or plan.is_listening:
            raise Refusal(BROKEN_ANSWER, request_id=plan.first_id)
        with _cancelled_with_client(call):
            is_whole = await answer.read_start(
                LOOK_INSIDE_BYTES,
                limit=limits.response_bytes,
                timeout_s=call.within_budget(limits.answer_timeout_s),
                share=call.share,
            )
        if not is_whole:
            await self._pass_on(call, plan, answer, record)
            return
        body = answer.take_start()
        headers = self._look_inside(plan, body, answer.session_id)
        record.done(response_bytes=len(body))
        await call.exchange.answer_whole(
            200, (*JSON, *call.extra, *headers), body, timeout_s=self._settings.stalled_client_s
        )

    async def stream(self, call: Call, plan: Plan, stream: ClientEnd) -> None:
        """Until its end. Raises nothing of the client's or server's doing."""
        async with self._streams.open(call, plan.target.release, stream):
            await stream.run(on_sent=lambda size: self.streamed(call, plan, size))

    async def go_on(self, call: Call, plan: Plan, answer: Answer, log: Log | None) -> None:
        """With a stream that another node began, where the client has come back."""
        try:
            await self.stream(call, plan, self._relay(call, plan, answer, log))
        finally:
            answer.close()

    def _relay(self, call: Call, plan: Plan, answer: Answer, log: Log | None = None) -> Relay:
        return Relay(
            call,
            plan,
            answer,
            settings=self._settings,
            metrics=self._metrics,
            pace=self._pace_of(call),
            journal=self._journal,
            log=log,
        )

    async def _pass_on(self, call: Call, plan: Plan, answer: Answer, record: _Record) -> None:
        """A large answer, piece by piece. Once it has begun, a failure of the server's can only be told by ending the connection
        before the answer ends: so it does when nobody calls `end`. Raises UpstreamFailure, ClientGone."""
        if plan.open_session is not None:  # it would have to be looked at
            raise UpstreamFailure("too_large")
        limits = call.route.limits
        may_wait_s = call.within_budget(
            limits.answer_timeout_s
        )  # for the server; a slow client has its own bound
        length = () if answer.size is None else (("content-length", str(answer.size)),)
        pace = self._pace_of(call)
        with _cancelled_with_client(call):
            await call.exchange.begin(200, (*JSON, *call.extra, *length))
            size, waited_s, piece = 0, 0.0, answer.take_start()
            while True:
                pace.charge_bytes(len(piece))
                await pace.rest()
                await call.exchange.send(piece, timeout_s=self._settings.stalled_client_s)
                if not size:
                    call.share.give(len(piece))
                size, piece = size + len(piece), b""
                asked_at = time.monotonic()
                left_s = max(may_wait_s - waited_s, 0.001)
                found = await answer.next_piece(timeout_s=left_s)
                waited_s += time.monotonic() - asked_at
                if found is None:
                    raise UpstreamFailure("timeout")
                if not found:
                    break
                if size + len(found) > limits.response_bytes:
                    raise UpstreamFailure("too_large")
                piece = found
            await call.exchange.end()
        record.done(response_bytes=size)

    async def _accept(self, call: Call, plan: Plan, answer: Answer, record: _Record) -> None:
        """Notifications and responses: whatever 2xx the server chose, the client is told 202 without a body."""
        if not 200 <= answer.status < 300:
            body = await answer.read(
                limit=MAX_ERROR_BYTES,
                timeout_s=call.within_budget(call.route.limits.answer_timeout_s),
                share=call.share,
            )
            status = judge(call.era, plan, answer, body)
            record.done(response_bytes=len(body))
            await call.exchange.answer(status, (*JSON, *call.extra), body)
            return
        record.done(response_bytes=0)
        await call.exchange.answer(202, (*EMPTY, *call.extra))

    def _look_inside(self, plan: Plan, body: bytes, upstream_session: str) -> Headers:
        """Raises Refusal unless every id is answered once; opens the session when this is the answer to `initialize`."""
        try:
            spoken = hear(body)
        except msgspec.MsgspecError:
            raise Refusal(BROKEN_ANSWER, request_id=plan.first_id) from None
        if not _answer_all(spoken, plan):
            raise Refusal(BROKEN_ANSWER, request_id=plan.first_id)
        if plan.open_session is not None and isinstance(spoken[0].result, msgspec.Raw):
            return plan.open_session(bytes(spoken[0].result), upstream_session)
        return ()

    def _pace_of(self, call: Call) -> Pace:
        return self._streams.pace_of(call.route.tenant, call.route.environment)

    def streamed(self, call: Call, plan: Plan, size: int) -> None:
        """Counts bytes of an answer that is still going on."""
        if not call.is_probe:
            self._reports.streamed(call.route, plan.target.release, size)

    def recorded(
        self, call: Call, plan: Plan, *, latency_ms: float, failure: str, response_bytes: int
    ) -> None:
        """Counts one answer for the server's health; probes tell theirs themselves."""
        if failure:
            self._metrics.upstream_failed(failure)
            self._damper.log(
                "upstream.failed",
                call.route.environment,
                failure=failure,
                environment=call.route.environment,
                release=plan.target.release,
                request=call.request_id,
            )
        if not call.is_probe:
            self._reports.answered(
                call.route,
                plan.target.release,
                latency_ms=latency_ms,
                failure=failure,
                request_bytes=plan.sent_bytes or len(plan.body or b""),
                response_bytes=response_bytes,
            )


class _Record:
    """Makes sure that each forwarded request counts once, with the first outcome it had."""

    __slots__ = ("_call", "_is_done", "_plan", "_proxy", "_started")

    def __init__(self, proxy: Proxy, call: Call, plan: Plan, started: float) -> None:
        self._proxy = proxy
        self._call = call
        self._plan = plan
        self._started = started
        self._is_done = False

    def done(self, *, failure: str = "", response_bytes: int = 0) -> None:
        if self._is_done:
            return
        self._is_done = True
        latency_ms = (time.perf_counter() - self._started) * 1000
        self._proxy.recorded(
            self._call, self._plan, latency_ms=latency_ms, failure=failure, response_bytes=response_bytes
        )


@contextmanager
def _cancelled_with_client(call: Call) -> Iterator[None]:
    """A modern client's leaving cancels what is inside, which ends in ClientGone."""
    task = asyncio.current_task()
    if call.era == "legacy" or task is None:
        yield
        return
    has_left = False

    def leave() -> None:
        nonlocal has_left
        has_left = True
        task.cancel()

    forget = call.exchange.when_gone(leave)
    try:
        yield
    except asyncio.CancelledError:
        if has_left:
            task.uncancel()
            raise ClientGone from None
        raise
    finally:
        forget()


def _let_go_of_body(call: Call, *plans: Plan) -> None:
    """Its server has it, and has begun to answer: it will not be sent again, and an answer may take hours."""
    size = max(len(plan.body or b"") for plan in plans)
    for plan in plans:
        plan.body, plan.sent_bytes = None, size
    call.share.give(size)


def _answer_all(spoken: list[Spoken], plan: Plan) -> bool:
    left = list(plan.ids)
    for message in spoken:
        if not message.is_answer:
            continue
        match = next((request_id for request_id in left if message.answers(request_id)), None)
        if match is None:
            return False
        left.remove(match)
    return not left
