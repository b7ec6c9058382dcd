"""A session's life as this node notices it: opened, used, told something, ended; each told to whoever keeps count."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from hosting.dataplane.call import Call, Plan
from hosting.dataplane.eras.legacy import tombstone
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.streams import Streams
from hosting.dataplane.protocol.errors import (
    UNKNOWN_SESSION,
    JsonRpcId,
    Refusal,
)
from hosting.dataplane.sessions.activity import Activity, report_of
from hosting.dataplane.sessions.renewals import NOTED, Renewals
from hosting.dataplane.sessions.session import Session
from hosting.dataplane.telemetry.metrics import Metrics
from hosting.dataplane.telemetry.reports import Reports

MAX_CLIENT_TEXT = 100


class Lifecycle:
    """One per process."""

    def __init__(
        self, *, activity: Activity, renewals: Renewals, streams: Streams, reports: Reports, metrics: Metrics
    ) -> None:
        self._activity = activity
        self._renewals = renewals
        self._streams = streams
        self._reports = reports
        self._metrics = metrics

    async def check_open(self, call: Call, session: Session | None, request_id: JsonRpcId = None) -> None:
        """Raises Refusal when nobody has used it for too long. Probes' sessions live no longer than their token."""
        if session is None or call.is_probe:
            return
        if not await self._activity.is_open(session, call.route, call.now):
            raise Refusal(UNKNOWN_SESSION, request_id=request_id)

    def in_use(self, call: Call, plan: Plan) -> AbstractContextManager[None]:
        """Around carrying a request of a session's, so that it does not fall idle meanwhile."""
        if plan.session is None or call.is_probe:
            return nullcontext()
        return self._activity.using(plan.session, call.route, call.caller.principal)

    async def note(self, call: Call, plan: Plan) -> None:
        """What a new session of the server's would have to be told, should it lose this one."""
        if plan.session is None or not plan.session.upstream_id:
            return
        for message in plan.messages:
            if message.method in NOTED:
                await self._renewals.note(plan.session, call.route, message.method, message.params)

    def end(self, call: Call, table: Table, session: Session) -> None:
        """Here and, by and by, everywhere."""
        if call.is_probe:  # theirs live no longer than their token
            return
        self._activity.forget(session, call.route)
        revocation = tombstone(call, session)
        if table.apply(revocation):
            self._streams.recheck(table, revocation)
            self._reports.revoke(revocation)
            self._metrics.sessions_ended.inc()
            self._reports.session(report_of(session, call.route, call.caller.principal, "ended", call.now))

    def opened(self, call: Call, plan: Plan) -> None:
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
