"""The frame every request goes through, in this order: host, address, suspension, Origin, method, caller, capacity, body, era.

What can be refused early is, before a byte of the body is read. Whatever goes wrong becomes one JSON-RPC error with the
right HTTP status; a surprise is logged with its traceback and told as nothing but that.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from contextlib import AbstractContextManager, nullcontext

from hosting.dataplane.bridges.legs import is_modern_client_bridged, set_leg_of_legacy_client
from hosting.dataplane.bridges.to_legacy.bridge import ToLegacy
from hosting.dataplane.bridges.to_modern.bridge import ToModern
from hosting.dataplane.call import EMPTY, EVENTS, JSON, PROBLEM, Call, Plan
from hosting.dataplane.contract import Route, Target
from hosting.dataplane.door.admission import Admission, budget_s
from hosting.dataplane.door.auth import Caller, authenticate
from hosting.dataplane.door.exchange import ClientGone, Exchange
from hosting.dataplane.door.origins import Origins, preflight
from hosting.dataplane.doors.doors import Doors, check_method, name_session
from hosting.dataplane.doors.headers import REQUEST_HEADERS
from hosting.dataplane.doors.policy import OWN_DOORS, is_allowed
from hosting.dataplane.eras.legacy import Legacy, tombstone
from hosting.dataplane.eras.modern import plan_post as plan_modern_post
from hosting.dataplane.eras.modern import refuse_method as refuse_modern_method
from hosting.dataplane.facts.addresses import Hosts, Knock, split_host
from hosting.dataplane.facts.buckets import choose_target
from hosting.dataplane.facts.follow import Follower
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.breaker import judged
from hosting.dataplane.forwarding.journal import Journal
from hosting.dataplane.forwarding.passage import Passage
from hosting.dataplane.forwarding.proxy import Proxy
from hosting.dataplane.forwarding.replay import Resumer
from hosting.dataplane.forwarding.streams import Streams
from hosting.dataplane.protocol.era import check_post_headers, era_of, era_of_headers
from hosting.dataplane.protocol.errors import (
    ANSWER_LOST,
    DRAINING,
    INTERNAL,
    INVALID_REQUEST,
    RETRY_SOON,
    STARTING,
    SUSPENDED,
    UNKNOWN_ADDRESS,
    UNKNOWN_HOST,
    UNKNOWN_SESSION,
    Headers,
    JsonRpcId,
    Refusal,
)
from hosting.dataplane.protocol.jsonrpc import parse_body
from hosting.dataplane.protocol.sse import encode_event
from hosting.dataplane.sessions.activity import Activity, report_of
from hosting.dataplane.sessions.mailbox import Mailbox
from hosting.dataplane.sessions.renewals import NOTED, Renewals
from hosting.dataplane.sessions.session import Session, Sessions
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.logs import log
from hosting.dataplane.telemetry.metrics import Metrics
from hosting.dataplane.telemetry.reports import Reports

MAX_CLIENT_TEXT = 100


class Gateway:
    """All requests of one process. Its parts are made and ended by `app.py`."""

    def __init__(
        self,
        *,
        settings: Settings,
        follower: Follower,
        proxy: Proxy,
        resumer: Resumer,
        journal: Journal,
        passage: Passage,
        mailbox: Mailbox,
        to_modern: ToModern,
        to_legacy: ToLegacy,
        renewals: Renewals,
        activity: Activity,
        streams: Streams,
        reports: Reports,
        metrics: Metrics,
    ) -> None:
        self.is_draining = False
        self._settings = settings
        self._follower = follower
        self._proxy = proxy
        self._resumer = resumer
        self._journal = journal
        self._to_modern = to_modern
        self._to_legacy = to_legacy
        self._streams = streams
        self._reports = reports
        self._metrics = metrics
        self._hosts = Hosts(shared=settings.shared_hosts, domain=settings.domain)
        self._origins = Origins(settings)
        self._legacy = Legacy(Sessions(settings.sealing_keys), renewals)
        self._renewals = renewals
        self._activity = activity
        self._admission = Admission(settings, metrics)
        self._total = 0
        self._idle = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_ending = False
        self._numbers = itertools.count()
        self._doors = Doors(
            settings=settings,
            passage=passage,
            proxy=proxy,
            streams=streams,
            mailbox=mailbox,
            serve=self.handle,
            is_draining=lambda: self.is_draining,
        )

    @property
    def in_flight(self) -> int:
        return self._total

    async def wait_idle(self) -> None:
        """Until no request is in flight."""
        while self._total:
            self._idle.clear()
            await self._idle.wait()

    def end_rest(self) -> None:
        """The time is up: whoever still waits for an answer is told that the gateway is shutting down."""
        self._is_ending = True
        for task in self._tasks:
            task.cancel()

    async def handle(self, exchange: Exchange) -> None:
        """Answers one request, whatever happens."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        started = time.perf_counter()
        request_id = f"{self._settings.node}-{next(self._numbers):x}"
        extra: Headers = (("x-request-id", request_id),)
        outcome = "ok"
        self._total += 1
        try:
            await self._serve(exchange, request_id, extra)
        except Refusal as refusal:
            outcome = refusal.kind.outcome
            await self._refuse(exchange, refusal, extra)
        except ClientGone:
            outcome = "client_gone"
        except asyncio.CancelledError:
            if not self._is_ending:
                raise
            task.uncancel()
            outcome = DRAINING.outcome
            await self._refuse(exchange, Refusal(DRAINING, headers=RETRY_SOON), extra)
        except Exception:
            outcome = INTERNAL.outcome
            log("request.failed", level=logging.ERROR, exc_info=True, request=request_id)
            await self._refuse(exchange, Refusal(INTERNAL), extra)
        finally:
            self._total -= 1
            self._tasks.discard(task)
            if not self._total:
                self._idle.set()
            if not exchange.is_inner:
                seconds = time.perf_counter() - started
                self._metrics.answered(era=exchange.era, outcome=outcome, seconds=seconds)

    async def _refuse(self, exchange: Exchange, refusal: Refusal, extra: Headers) -> None:
        if not exchange.status:
            form, body = (JSON, refusal.body()) if exchange.is_mcp else (PROBLEM, refusal.problem())
            await exchange.answer(refusal.status, (*form, *extra, *exchange.cors, *refusal.headers), body)

    async def _serve(self, exchange: Exchange, request_id: str, extra: Headers) -> None:
        """Raises Refusal, ClientGone; by then `exchange.era` says what was spoken, if that was known."""
        began = time.monotonic()
        headers = exchange.read_headers()
        if self.is_draining and not exchange.is_inner:
            raise Refusal(DRAINING, headers=RETRY_SOON)
        table = self._follower.table
        if table is None:
            raise Refusal(STARTING, headers=RETRY_SOON)
        knock, route = self._find_route(table, exchange, headers)
        exchange.cors = self._origins.check(headers.get("origin"), host=headers["host"], route=route)
        if exchange.method == "OPTIONS" and (exchange.is_mcp or "access-control-request-method" in headers):
            asked = headers.get("access-control-request-headers")
            told = preflight(exchange.cors, asked, own=frozenset() if exchange.is_mcp else REQUEST_HEADERS)
            await exchange.answer(204, (*EMPTY, *extra, *told))
            return
        check_method(exchange, knock)
        name_session(headers, knock)
        now = time.time()
        caller = self._authenticate(headers, route, table, exchange.client, now)
        if caller.key_id:
            self._reports.used(route.tenant, caller.key_id, now)
        until = began + budget_s(headers, route.limits)
        async with self._admission.let_in(exchange, route, in_flight=self._total, until=until) as (
            share,
            place,
        ):
            cors = (*extra, *exchange.cors)
            call = Call(exchange, headers, route, caller, cors, request_id, now, share, place, until=until)
            with judged(call):
                if not await self._doors.carry(call, knock, table):
                    await self._dispatch(call, knock, table)

    async def _dispatch(self, call: Call, knock: Knock, table: Table) -> None:
        """What MCP's own door is for, under whichever of its names."""
        if call.exchange.method == "POST":
            await self._post(call, table, opens_only=knock.door == "init")
            return
        call.exchange.era = era_of_headers(call.headers)
        if call.exchange.era == "modern":
            raise refuse_modern_method()
        if call.exchange.method == "GET":
            await self._listen(call, table)
        else:
            await self._delete(call, table)

    def _find_route(self, table: Table, exchange: Exchange, headers: dict[str, str]) -> tuple[Knock, Route]:
        host = split_host(headers.get("host", ""))
        knock = self._hosts.knock_of(host, exchange.path) if host else None
        if knock is None:
            raise Refusal(UNKNOWN_HOST)
        route = table.route_at(knock.address)
        if route is None or not is_allowed(route, knock):
            raise Refusal(UNKNOWN_ADDRESS)
        exchange.is_mcp = knock.door not in OWN_DOORS
        reason = table.suspension_of(route)
        if reason is not None:
            raise Refusal(SUSPENDED, f"{SUSPENDED.message}: {reason}" if reason else "")
        return knock, route

    def _authenticate(
        self, headers: dict[str, str], route: Route, table: Table, client: str, now: float
    ) -> Caller:
        return authenticate(
            headers.get("authorization"),
            route=route,
            table=table,
            probe_key=self._settings.probe_key,
            client=client,
            now=now,
        )

    async def _post(self, call: Call, table: Table, *, opens_only: bool) -> None:
        check_post_headers(call.headers)
        asked_at = time.monotonic()
        body = await call.exchange.read_body(
            limit=call.route.limits.request_bytes, timeout_s=self._settings.body_timeout_s, share=call.share
        )
        # A client that sends slowly takes nothing of its server's time.
        call.until += time.monotonic() - asked_at
        parsed = await parse_body(body, call.share.turn)
        if opens_only and (isinstance(parsed, list) or parsed.method != "initialize"):
            raise Refusal(INVALID_REQUEST, "this address is for initialize only")
        call.era = call.exchange.era = era_of(parsed, call.headers)
        if call.era == "modern":
            plan = plan_modern_post(call, parsed, body)
            if plan.is_listening:
                call.place.listen()
            del body  # from here on only the Plan's, which lets go of it when it was sent
            is_bridged = is_modern_client_bridged(call.route, plan.target)
            await (self._to_legacy.serve if is_bridged else self._proxy.forward)(call, plan)
            return
        plan = self._legacy.plan_post(call, table, parsed, body)
        set_leg_of_legacy_client(plan, heals=call.route.heals)
        await self._check_open(call, plan.session, plan.first_id)
        try:
            with self._in_use(call, plan):
                if plan.leg == "modern" and await self._to_modern.post(call, plan, body):
                    return
                del body
                await self._note(call, plan)
                await self._proxy.forward(call, plan)
        except Refusal as refusal:
            if refusal.kind is UNKNOWN_SESSION and plan.session is not None:
                self._end_session(call, table, plan.session)  # the server has forgotten it: so do we
            raise
        finally:
            if plan.open_session is not None and plan.session is not None:
                self._opened_session(call, plan)

    async def _check_open(self, call: Call, session: Session | None, request_id: JsonRpcId = None) -> None:
        """Raises Refusal when nobody has used it for too long. Probes' sessions live no longer than their token."""
        if session is None or call.is_probe:
            return
        if not await self._activity.is_open(session, call.route, call.now):
            raise Refusal(UNKNOWN_SESSION, request_id=request_id)

    def _in_use(self, call: Call, plan: Plan) -> AbstractContextManager[None]:
        """Around carrying a request of a session's, so that it does not fall idle meanwhile."""
        if plan.session is None or call.is_probe:
            return nullcontext()
        return self._activity.using(plan.session, call.route, call.caller.principal)

    async def _note(self, call: Call, plan: Plan) -> None:
        """What a new session of the server's would have to be told, should it lose this one."""
        if plan.session is None or not plan.session.upstream_id:
            return
        for message in plan.messages:
            if message.method in NOTED:
                await self._renewals.note(plan.session, call.route, message.method, message.params)

    async def _listen(self, call: Call, table: Table) -> None:
        plan = self._legacy.plan_get(call, table)
        set_leg_of_legacy_client(plan, heals=call.route.heals)
        await self._check_open(call, plan.session)
        try:
            with self._in_use(call, plan):
                if plan.after is not None:
                    await self._resumer.resume(call, plan, plan.after)
                elif plan.leg == "modern":
                    await self._to_modern.listen(call, plan, lambda: self._modern_target(call, plan))
                else:
                    await self._proxy.forward(call, plan)
        except Refusal as refusal:
            if refusal.kind is UNKNOWN_SESSION and plan.session is not None:
                self._end_session(call, table, plan.session)
            if refusal.kind is not ANSWER_LOST:
                raise
            await call.exchange.begin(200, (*EVENTS, *call.extra))
            await call.exchange.send(encode_event(refusal.body()), timeout_s=self._settings.stalled_client_s)
            await call.exchange.end()

    def _modern_target(self, call: Call, plan: Plan) -> Target | None:
        """Where the session of a stream belongs now, while a modern server is there."""
        route = self._follower.table.route_now(call.route) if self._follower.table is not None else call.route
        if route is None or plan.session is None:
            return None
        try:
            target = choose_target(route, sticky=call.caller.sticky, release=plan.session.release)
        except Refusal:
            return plan.target  # nothing is deployed for a moment
        now = Plan(target, "GET", {}, None, session=plan.session)
        set_leg_of_legacy_client(now, heals=True)
        return target if now.leg == "modern" else None

    async def _delete(self, call: Call, table: Table) -> None:
        """Ends the session here and everywhere, then tells the server, whose answer changes nothing."""
        session = self._legacy.session_of(call, table)
        await self._check_open(call, session)
        if session.upstream_id or session.leg == "modern":
            session = await self._renewals.close(session, call.route)
            self._to_modern.forget(session, call)
        self._end_session(call, table, session)
        await self._journal.forget(call.route.tenant, session.handle)
        plan = self._legacy.plan_delete(call, session)
        if plan is not None:
            await self._proxy.say_goodbye(call, plan)
        await call.exchange.answer(204, (*EMPTY, *call.extra))

    def _end_session(self, call: Call, table: Table, session: Session) -> None:
        if call.is_probe:  # theirs live no longer than their token
            return
        self._activity.forget(session, call.route)
        revocation = tombstone(call, session)
        if table.apply(revocation):
            self._streams.recheck(table, revocation)
            self._reports.revoke(revocation)
            self._metrics.sessions_ended.inc()
            self._reports.session(report_of(session, call.route, call.caller.principal, "ended", call.now))

    def _opened_session(self, call: Call, plan: Plan) -> None:
        self._metrics.sessions_opened.inc()
        if plan.session is None or call.is_probe:
            return
        self._activity.opened(plan.session, call.route)
        client = plan.messages[0].params.get("clientInfo")
        client = client if isinstance(client, dict) else {}
        report = report_of(
            plan.session,
            call.route,
            call.caller.principal,
            "opened",
            call.now,
            client_name=_client_text(client.get("name", "")),
            client_version=_client_text(client.get("version", "")),
        )
        self._reports.session(report)


def _client_text(said: object) -> str:
    """What a client calls itself, as text that can be stored and shown: no control characters, no halves of surrogate pairs."""
    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(said)[:MAX_CLIENT_TEXT]
    )
