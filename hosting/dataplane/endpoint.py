"""An MCP endpoint, under whichever of its names: what POST, GET and DELETE mean in either era, and who carries each to its server.

The proxy carries what server and client understand alike, a bridge what they do not; a stream that broke off is taken up where it is.
"""

from __future__ import annotations

import time

from hosting.dataplane.bridges.legs import is_modern_client_bridged, set_leg_of_legacy_client
from hosting.dataplane.bridges.to_legacy.bridge import ToLegacy
from hosting.dataplane.bridges.to_modern.bridge import ToModern
from hosting.dataplane.call import EMPTY, EVENTS, Call, Plan
from hosting.dataplane.contract import Target
from hosting.dataplane.eras.legacy import Legacy
from hosting.dataplane.eras.modern import plan_post as plan_modern_post
from hosting.dataplane.eras.modern import refuse_method as refuse_modern_method
from hosting.dataplane.facts.addresses import Knock
from hosting.dataplane.facts.buckets import choose_target
from hosting.dataplane.facts.follow import Follower
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.journal import Journal
from hosting.dataplane.forwarding.proxy import Proxy
from hosting.dataplane.forwarding.replay import Resumer
from hosting.dataplane.lifecycle import Lifecycle
from hosting.dataplane.protocol.era import check_post_headers, era_of, era_of_headers
from hosting.dataplane.protocol.errors import (
    ANSWER_LOST,
    INVALID_REQUEST,
    UNKNOWN_SESSION,
    Refusal,
)
from hosting.dataplane.protocol.jsonrpc import parse_body
from hosting.dataplane.protocol.sse import encode_event
from hosting.dataplane.sessions.renewals import Renewals
from hosting.dataplane.sessions.session import Sessions
from hosting.dataplane.settings import Settings


class Endpoint:
    """One per process."""

    def __init__(
        self,
        *,
        settings: Settings,
        follower: Follower,
        proxy: Proxy,
        resumer: Resumer,
        journal: Journal,
        to_modern: ToModern,
        to_legacy: ToLegacy,
        renewals: Renewals,
        lifecycle: Lifecycle,
    ) -> None:
        self._settings = settings
        self._follower = follower
        self._proxy = proxy
        self._resumer = resumer
        self._journal = journal
        self._to_modern = to_modern
        self._to_legacy = to_legacy
        self._legacy = Legacy(Sessions(settings.sealing_keys), renewals)
        self._renewals = renewals
        self._lifecycle = lifecycle

    async def serve(self, call: Call, knock: Knock, table: Table) -> None:
        """Raises Refusal, ClientGone."""
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
        await self._lifecycle.check_open(call, plan.session, plan.first_id)
        try:
            with self._lifecycle.in_use(call, plan):
                if plan.leg == "modern" and await self._to_modern.post(call, plan, body):
                    return
                del body
                await self._lifecycle.note(call, plan)
                await self._proxy.forward(call, plan)
        except Refusal as refusal:
            if refusal.kind is UNKNOWN_SESSION and plan.session is not None:
                self._lifecycle.end(call, table, plan.session)  # the server has forgotten it: so do we
            raise
        finally:
            if plan.open_session is not None and plan.session is not None:
                self._lifecycle.opened(call, plan)

    async def _listen(self, call: Call, table: Table) -> None:
        plan = self._legacy.plan_get(call, table)
        set_leg_of_legacy_client(plan, heals=call.route.heals)
        await self._lifecycle.check_open(call, plan.session)
        try:
            with self._lifecycle.in_use(call, plan):
                if plan.after is not None:
                    await self._resumer.resume(call, plan, plan.after)
                elif plan.leg == "modern":
                    await self._to_modern.listen(call, plan, lambda: self._modern_target(call, plan))
                else:
                    await self._proxy.forward(call, plan)
        except Refusal as refusal:
            if refusal.kind is UNKNOWN_SESSION and plan.session is not None:
                self._lifecycle.end(call, table, plan.session)
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
        await self._lifecycle.check_open(call, session)
        if session.upstream_id or session.leg == "modern":
            session = await self._renewals.close(session, call.route)
            self._to_modern.forget(session, call)
        self._lifecycle.end(call, table, session)
        await self._journal.forget(call.route.tenant, session.handle)
        plan = self._legacy.plan_delete(call, session)
        if plan is not None:
            await self._proxy.say_goodbye(call, plan)
        await call.exchange.answer(204, (*EMPTY, *call.extra))
