"""MCP 2025-03-26 to 2025-11-25 over Streamable HTTP: `initialize` opens a session, and everything after it carries its id.

The session a client holds is always the gateway's own, whether or not the server behind has one; the server's id is sealed
inside it. A closed connection cancels nothing: a client may come back for the rest of its stream, to any node (`Plan.after`), or where
only the server kept it, to the server (`Plan.resumes`).
"""

from __future__ import annotations

import re

import msgspec

from hosting.dataplane.call import Call, Plan
from hosting.dataplane.contract import PROBE_TOKEN_LIFE_S, Revocation
from hosting.dataplane.facts.buckets import choose_target
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.protocol.era import (
    BATCH_REVISION,
    LEGACY_REVISIONS,
    POLLING_REVISION,
    PROBE_METHODS,
    PROTOCOL_VERSION_HEADER,
    SESSION_HEADER,
    accepts,
)
from hosting.dataplane.protocol.errors import (
    BROKEN_ANSWER,
    INVALID_REQUEST,
    NOT_ACCEPTABLE,
    PROBE_ONLY_LOOKS,
    SESSION_REQUIRED,
    UNKNOWN_SESSION,
    Headers,
    JsonRpcId,
    Refusal,
)
from hosting.dataplane.protocol.event_ids import LoggedEvent, ServersEvent, parse_event_id
from hosting.dataplane.protocol.jsonrpc import Message
from hosting.dataplane.sessions.renewals import Renewals
from hosting.dataplane.sessions.session import (
    MAX_LIFE_S,
    MAX_UPSTREAM_ID,
    Session,
    Sessions,
    UnknownSession,
    capability_bits,
    opened,
    opened_without_server,
)

LAST_EVENT_HEADER = "last-event-id"
POST_HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
_VISIBLE = re.compile(r"[\x21-\x7e]+\Z")


class _Initialized(msgspec.Struct):
    """As much of an InitializeResult as the gateway keeps."""

    protocolVersion: str  # noqa: N815 - the protocol's spelling


class Legacy:
    """The rules of the legacy era. Does no I/O."""

    def __init__(self, sessions: Sessions, renewals: Renewals) -> None:
        self._sessions = sessions
        self._renewals = renewals

    def plan_post(self, call: Call, table: Table, parsed: Message | list[Message], body: bytes) -> Plan:
        """Raises Refusal."""
        messages = parsed if isinstance(parsed, list) else [parsed]
        for message in messages:
            if call.is_probe and message.method not in PROBE_METHODS:
                raise Refusal(PROBE_ONLY_LOOKS, request_id=message.id)
        if any(message.method == "initialize" for message in messages):
            if isinstance(parsed, list) or parsed.kind != "request":
                raise Refusal(INVALID_REQUEST, "initialize is a request of its own")
            return self._plan_initialize(call, parsed, body)
        session = self.session_of(call, table, messages[0])
        revision = call.headers.get(PROTOCOL_VERSION_HEADER, session.revision)
        if isinstance(parsed, list) and revision != BATCH_REVISION:
            raise Refusal(INVALID_REQUEST, f"batches exist in revision {BATCH_REVISION} only")
        plan = self._plan(call, session, revision)
        plan.body, plan.messages = body, messages
        plan.headers.update(POST_HEADERS)
        return plan

    def plan_get(self, call: Call, table: Table) -> Plan:
        """A stream for what the server says by itself, or the rest of one that broke. Raises Refusal."""
        if call.is_probe:
            raise Refusal(PROBE_ONLY_LOOKS)
        if not accepts(call.headers.get("accept"), "text", "event-stream"):
            raise Refusal(NOT_ACCEPTABLE, "Accept must allow text/event-stream")
        session = self.session_of(call, table)
        plan = self._plan(call, session, call.headers.get(PROTOCOL_VERSION_HEADER, session.revision))
        plan.method, plan.is_listening = "GET", True
        plan.headers["accept"] = "text/event-stream"
        last = call.headers.get(LAST_EVENT_HEADER)
        if last is not None:
            _resume(plan, parse_event_id(last))
        return plan

    def plan_delete(self, call: Call, session: Session) -> Plan | None:
        """To end the server's own session; None where it has none any more."""
        try:
            plan = self._plan(call, session, call.headers.get(PROTOCOL_VERSION_HEADER, session.revision))
        except Refusal:
            return None
        return plan if session.upstream_id and not plan.is_stranded else None

    def session_of(self, call: Call, table: Table, message: Message | None = None) -> Session:
        """The caller's open session, as it is now. Raises Refusal: 400 without an id, 404 for one that is not theirs or not open."""
        request_id = message.id if message is not None else None
        text = call.headers.get(SESSION_HEADER)
        if text is None:
            raise Refusal(SESSION_REQUIRED, request_id=request_id)
        try:
            session = self._sessions.open(
                text, route=call.route, principal=call.caller.principal, now=call.now
            )
        except UnknownSession:
            raise Refusal(UNKNOWN_SESSION, request_id=request_id) from None
        if table.has_ended(call.route, session.handle, session.issued_at):
            raise Refusal(UNKNOWN_SESSION, request_id=request_id)
        return self._renewals.current(session, call.route)

    def _plan_initialize(self, call: Call, message: Message, body: bytes) -> Plan:
        capabilities = message.params.get("capabilities")
        bits = capability_bits(capabilities) if isinstance(capabilities, dict) else 0
        session = self._sessions.new(
            principal=call.caller.principal,
            now=max(call.now, call.route.sessions_after + 1),
            capabilities=bits,
            life_s=PROBE_TOKEN_LIFE_S if call.is_probe else MAX_LIFE_S,
        )
        target = choose_target(call.route, sticky=call.caller.sticky)

        def open_session(result: bytes, upstream_id: str) -> Headers:
            nonlocal session
            revision = revision_in(result, message.id)
            if plan.leg == "modern":
                client = message.params.get("clientInfo")
                session = opened_without_server(
                    session, revision=revision, release=target.release, client=client
                )
            else:
                session = opened(
                    session,
                    revision=revision,
                    release=target.release,
                    upstream_id=checked_upstream_id(upstream_id, message.id),
                )
            plan.session = session
            return ((SESSION_HEADER, self._sessions.mint(session, call.route)),)

        plan = Plan(
            target=target,
            method="POST",
            headers=dict(POST_HEADERS),
            body=body,
            messages=[message],
            open_session=open_session,
        )
        return plan

    def _plan(self, call: Call, session: Session, revision: str) -> Plan:
        """To the Release the session is pinned to; when that one is gone, a server's own session is gone with it."""
        target = choose_target(call.route, sticky=call.caller.sticky, release=session.release)
        headers = {PROTOCOL_VERSION_HEADER: revision}
        if session.upstream_id:
            headers[SESSION_HEADER] = session.upstream_id
        return Plan(
            target=target,
            method="POST",
            headers=headers,
            body=None,
            session=session,
            is_stranded=bool(session.upstream_id) and target.release != session.release,
            passes_event_ids=True,
            passes_empty_events=revision >= POLLING_REVISION,
        )


def _resume(plan: Plan, event: ServersEvent | LoggedEvent) -> None:
    if isinstance(event, LoggedEvent):
        plan.after = event
    else:
        plan.headers[LAST_EVENT_HEADER], plan.resumes = event.raw, event.request_id


def tombstone(call: Call, session: Session) -> Revocation:
    """The fact that ends a session everywhere."""
    return Revocation(
        tenant=call.route.tenant,
        version=session.issued_at,
        session=session.handle,
        until=session.expires_at,
        principal=call.caller.principal,
    )


def revision_in(result: bytes, request_id: JsonRpcId = None) -> str:
    """The revision an InitializeResult settles on. Raises Refusal."""
    try:
        revision = msgspec.json.decode(result, type=_Initialized).protocolVersion
    except msgspec.MsgspecError:
        revision = ""
    if revision not in LEGACY_REVISIONS:
        raise Refusal(BROKEN_ANSWER, "the server settled on no revision of MCP", request_id=request_id)
    return revision


def checked_upstream_id(upstream_id: str, request_id: JsonRpcId = None) -> str:
    """Raises Refusal for one that no header can carry."""
    if upstream_id and (len(upstream_id) > MAX_UPSTREAM_ID or not _VISIBLE.match(upstream_id)):
        raise Refusal(
            BROKEN_ANSWER,
            f"the server's session id is longer than {MAX_UPSTREAM_ID} or not visible ASCII",
            request_id=request_id,
        )
    return upstream_id
