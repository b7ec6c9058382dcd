"""MCP 2025-03-26 to 2025-11-25 over Streamable HTTP: `initialize` opens a session, and everything after it carries its id.

The session a client holds is always the gateway's own, whether or not the server behind has one; the server's id is sealed
inside it. A closed connection cancels nothing. Event ids pass through us wrapped (`wrap_event_id`), so a client resumes where
its server can: on the same session of the same server, and nowhere else.
"""

from __future__ import annotations

import re

import msgspec

from hosting.dataplane.buckets import choose_target
from hosting.dataplane.call import Call, Plan
from hosting.dataplane.contract import Revocation, b64url, unb64url
from hosting.dataplane.era import (
    BATCH_REVISION,
    LEGACY_REVISIONS,
    POLLING_REVISION,
    PROBE_METHODS,
    PROTOCOL_VERSION_HEADER,
    SESSION_HEADER,
    accepts,
)
from hosting.dataplane.errors import (
    BAD_HEADER,
    BROKEN_ANSWER,
    INVALID_REQUEST,
    NOT_ACCEPTABLE,
    PROBE_ONLY_LOOKS,
    SESSION_REQUIRED,
    UNKNOWN_SESSION,
    Headers,
    Refusal,
)
from hosting.dataplane.jsonrpc import Message
from hosting.dataplane.routes import Table
from hosting.dataplane.sessions import (
    MAX_UPSTREAM_ID,
    Session,
    Sessions,
    UnknownSession,
    capability_bits,
    opened,
)

LAST_EVENT_HEADER = "last-event-id"
EVENT_ID_FORM = "u1."
MAX_EVENT_ID = 512
_VISIBLE = re.compile(r"[\x21-\x7e]+\Z")


class _Initialized(msgspec.Struct):
    """As much of an InitializeResult as the gateway keeps."""

    protocolVersion: str  # noqa: N815 - the protocol's spelling


class Legacy:
    """The rules of the legacy era. Does no I/O."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

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
        plan.headers["content-type"] = "application/json"
        plan.headers["accept"] = "application/json, text/event-stream"
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
            plan.headers[LAST_EVENT_HEADER] = unwrap_event_id(last)
        return plan

    def plan_delete(self, call: Call, session: Session) -> Plan | None:
        """To end the server's own session; None where it has none any more."""
        try:
            plan = self._plan(call, session, call.headers.get(PROTOCOL_VERSION_HEADER, session.revision))
        except Refusal:
            return None
        return plan if session.upstream_id else None

    def session_of(self, call: Call, table: Table, message: Message | None = None) -> Session:
        """The caller's open session. Raises Refusal: 400 without an id, 404 for one that is not theirs or not open."""
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
        if table.is_revoked(call.route.tenant, session.handle):
            raise Refusal(UNKNOWN_SESSION, request_id=request_id)
        return session

    def _plan_initialize(self, call: Call, message: Message, body: bytes) -> Plan:
        capabilities = message.params.get("capabilities")
        bits = capability_bits(capabilities) if isinstance(capabilities, dict) else 0
        session = self._sessions.new(principal=call.caller.principal, now=call.now, capabilities=bits)
        target = choose_target(call.route, sticky=call.caller.sticky)

        def open_session(result: bytes, upstream_id: str) -> Headers:
            nonlocal session
            session = opened(
                session,
                revision=_revision_in(result, message),
                release=target.release,
                upstream_id=_checked_upstream_id(upstream_id, message),
            )
            plan.session = session
            return ((SESSION_HEADER, self._sessions.mint(session, call.route)),)

        plan = Plan(
            target=target,
            method="POST",
            headers={"content-type": "application/json", "accept": "application/json, text/event-stream"},
            body=body,
            messages=[message],
            open_session=open_session,
        )
        return plan

    def _plan(self, call: Call, session: Session, revision: str) -> Plan:
        """To the Release the session is pinned to; when that one is gone, a server's own session is gone with it."""
        target = choose_target(call.route, sticky=call.caller.sticky, release=session.release)
        if session.upstream_id and target.release != session.release:
            raise Refusal(UNKNOWN_SESSION)
        headers = {PROTOCOL_VERSION_HEADER: revision}
        if session.upstream_id:
            headers[SESSION_HEADER] = session.upstream_id
        return Plan(
            target=target,
            method="POST",
            headers=headers,
            body=None,
            session=session,
            passes_event_ids=True,
            passes_empty_events=revision >= POLLING_REVISION,
        )


def tombstone(call: Call, session: Session) -> Revocation:
    """The fact that ends a session everywhere."""
    return Revocation(
        tenant=call.route.tenant, version=session.issued_at, session=session.handle, until=session.expires_at
    )


def wrap_event_id(raw: bytes) -> bytes | None:
    """A server's event id as a client sees it: one charset whatever the server wrote. None when it is too long to carry."""
    wrapped = f"{EVENT_ID_FORM}{b64url(raw)}"
    return wrapped.encode() if raw and len(wrapped) <= MAX_EVENT_ID else None


def unwrap_event_id(text: str) -> str:
    """Raises Refusal for an id that is not ours."""
    try:
        if not text.startswith(EVENT_ID_FORM) or len(text) > MAX_EVENT_ID:
            raise ValueError(text)
        raw = unb64url(text.removeprefix(EVENT_ID_FORM)).decode("latin-1")
    except ValueError:
        raise Refusal(BAD_HEADER, "Last-Event-ID is no id of this gateway") from None
    if not raw.isprintable():
        raise Refusal(BAD_HEADER, "Last-Event-ID is no id of this gateway")
    return raw


def _revision_in(result: bytes, message: Message) -> str:
    try:
        revision = msgspec.json.decode(result, type=_Initialized).protocolVersion
    except msgspec.MsgspecError:
        revision = ""
    if revision not in LEGACY_REVISIONS:
        raise Refusal(BROKEN_ANSWER, "the server settled on no revision of MCP", request_id=message.id)
    return revision


def _checked_upstream_id(upstream_id: str, message: Message) -> str:
    if upstream_id and (len(upstream_id) > MAX_UPSTREAM_ID or not _VISIBLE.match(upstream_id)):
        raise Refusal(
            BROKEN_ANSWER,
            f"the server's session id is longer than {MAX_UPSTREAM_ID} or not visible ASCII",
            request_id=message.id,
        )
    return upstream_id
