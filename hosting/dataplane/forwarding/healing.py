"""A server has lost a session of its own (it restarted, was deployed anew, or dropped it): it gets a new one, and the client keeps
its id.

A 404 under a session id means that nothing was executed, so the request that met it is sent again, once. One node at a time
renews a session, under a lock in Redis; whoever else meets the 404 meanwhile waits for the outcome and uses it. The new session is
told what the old one knew: the client's capabilities, the log level, the subscriptions. What the server kept under the old
session is lost; where that must not happen unnoticed, the Environment's policy ends the session instead (`Route.heals`).

A server that settles on another revision, or loses the new session at once, gets no third chance: the client is told 404 and
initializes again. Sources: MCP 2025-11-25, Transports, Session Management; the rules of gateway healing in docs/decisions/0015.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from dataclasses import replace
from typing import Any

import msgspec

from hosting.dataplane.call import Call, Plan
from hosting.dataplane.contract import Target
from hosting.dataplane.eras.legacy import LAST_EVENT_HEADER, POST_HEADERS, checked_upstream_id, revision_in
from hosting.dataplane.facts.buckets import choose_target
from hosting.dataplane.forwarding.breaker import judged
from hosting.dataplane.forwarding.sending import Sender
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.protocol.era import PROTOCOL_VERSION_HEADER, SESSION_HEADER, hear
from hosting.dataplane.protocol.errors import ANSWER_LOST, UNKNOWN_SESSION, Refusal
from hosting.dataplane.protocol.sse import EventParser, EventTooLarge
from hosting.dataplane.sessions.renewals import Memory, Renewal, Renewals
from hosting.dataplane.sessions.session import Session, capabilities_of
from hosting.dataplane.telemetry.logs import log
from hosting.dataplane.telemetry.metrics import Metrics

HEAL_S = 15.0  # for all that a renewal asks of the server
MAX_RESULT_BYTES = 1024 * 1024  # of what the gateway asks for itself
LOOK_AGAIN_S = 0.1
KEEPS_NOTHING_S = 5.0  # a server that loses a new session this soon does not keep sessions
CLIENT = {"name": "smcp-gateway", "version": "1"}


class Healer:
    """One per process."""

    def __init__(self, *, sender: Sender, renewals: Renewals, metrics: Metrics) -> None:
        self._sender = sender
        self._renewals = renewals
        self._metrics = metrics
        self._under_way: dict[tuple[str, bytes], asyncio.Task[Session]] = {}

    def may_heal(self, call: Call, plan: Plan) -> bool:
        """Whether a 404 to this Plan is the end of a server's session that may be renewed. A probe sees what is so."""
        session = plan.session
        return (
            session is not None
            and (bool(session.upstream_id) or plan.is_stranded)
            and plan.open_session is None
            and call.route.heals
            and not call.is_probe
        )

    async def heal(self, call: Call, plan: Plan) -> Plan:
        """The same request under a new session of the server's.

        Raises Refusal (the session cannot be renewed, or what a client resumes is lost) and UpstreamFailure.
        """
        session = plan.session
        assert session is not None
        key = (call.route.environment, session.jti)
        task = self._under_way.get(key)
        if task is None:
            unhurried = replace(call, until=math.inf, passage=None)  # others may wait for it too
            task = self._under_way[key] = asyncio.create_task(
                self._bounded(unhurried, session, is_stranded=plan.is_stranded)
            )
            task.add_done_callback(lambda done: self._over(key, done))
        try:
            async with asyncio.timeout(call.within_budget(HEAL_S * 2)):
                healed = await asyncio.shield(
                    task
                )  # whoever leaves meanwhile leaves the others their session
        except TimeoutError:
            raise UpstreamFailure("timeout") from None
        except Refusal as refusal:
            raise Refusal(refusal.kind, request_id=plan.first_id) from refusal
        return _under(plan, healed, self._target(call, healed))

    def _over(self, key: tuple[str, bytes], task: asyncio.Task[Session]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # everybody who waited for it may have left

    async def _bounded(self, call: Call, lost: Session, *, is_stranded: bool) -> Session:
        try:
            with judged(call):
                async with asyncio.timeout(HEAL_S):
                    return await self._renewed(call, lost, is_stranded=is_stranded)
        except TimeoutError:
            self._metrics.healed("failed")
            raise UpstreamFailure("timeout") from None
        except Refusal:
            self._metrics.healed("refused")
            raise
        except UpstreamFailure:
            self._metrics.healed("failed")
            raise

    async def _renewed(self, call: Call, lost: Session, *, is_stranded: bool) -> Session:
        while (token := await self._renewals.lock(lost, call.route, for_s=HEAL_S)) is None:
            await asyncio.sleep(LOOK_AGAIN_S)
            await self._renewals.recall(lost, call.route)
            if (renewed := self._found(call, lost)) is not None:
                return renewed
        try:
            memory = await self._renewals.recall(lost, call.route)
            if (renewed := self._found(call, lost)) is not None:
                return renewed  # by the node that held the lock before
            if not is_stranded and self._keeps_nothing(call, lost, memory.renewal):
                raise Refusal(UNKNOWN_SESSION)
            return await self._renew(call, lost, memory)
        finally:
            await self._renewals.unlock(lost, call.route, token)

    async def _renew(self, call: Call, lost: Session, memory: Memory) -> Session:
        last = memory.renewal
        target = self._target(call, lost)
        upstream_id = await self._initialize(call, lost, target)
        number = last.number + 1 if last is not None else 1
        renewal = Renewal(number=number, at=time.time(), release=target.release, upstream_id=upstream_id)
        healed = replace(lost, release=target.release, upstream_id=upstream_id, leg="legacy")
        await self._tell(call, healed, target, memory)
        await self._renewals.renew(lost, call.route, renewal)
        self._metrics.healed("healed")
        log(
            "session.healed",
            tenant=call.route.tenant,
            environment=call.route.environment,
            session=lost.handle,
            release=target.release,
            number=number,
            request=call.request_id,
        )
        return healed

    def _found(self, call: Call, lost: Session) -> Session | None:
        """What took the place of `lost`, if something did, its Release still serves, and this node can use it."""
        now = self._renewals.current(lost, call.route)
        target = self._target(call, now)
        is_usable = (
            (now.leg, now.upstream_id) != (lost.leg, lost.upstream_id)
            and now.release == target.release
            and self._sender.may_reach(call, target, now.upstream_id)
        )
        return now if is_usable else None

    def _keeps_nothing(self, call: Call, lost: Session, last: Renewal | None) -> bool:
        return (
            last is not None and last.upstream_id == lost.upstream_id and call.now - last.at < KEEPS_NOTHING_S
        )

    async def _initialize(self, call: Call, lost: Session, target: Target) -> str:
        """The new session's id at the server; empty when it has none any more."""
        request_id = f"smcp-{secrets.token_hex(8)}"
        params = {
            "protocolVersion": lost.revision,
            "capabilities": capabilities_of(lost.capabilities),
            "clientInfo": CLIENT,
        }
        answer = await self._sender.send(call, _plan_of(target, {}, "initialize", params, request_id))
        try:
            result = await _result_of(call, answer, request_id)
            if result is None or revision_in(result) != lost.revision:
                raise Refusal(UNKNOWN_SESSION)
            return checked_upstream_id(answer.session_id)
        finally:
            answer.close()

    async def _tell(self, call: Call, healed: Session, target: Target, memory: Memory) -> None:
        """What the old session knew. A server that refuses some of it has said so to the client before."""
        headers = _session_headers(healed)
        said: list[tuple[str, dict[str, Any], str]] = [("notifications/initialized", {}, "")]
        if memory.level:
            said.append(("logging/setLevel", {"level": memory.level}, "smcp-level"))
        said.extend(
            ("resources/subscribe", {"uri": uri}, f"smcp-{n}") for n, uri in enumerate(memory.subscriptions)
        )
        for method, params, request_id in said:
            answer = await self._sender.send(call, _plan_of(target, headers, method, params, request_id))
            try:
                if request_id:
                    await _result_of(call, answer, request_id)
            finally:
                answer.close()

    def _target(self, call: Call, session: Session) -> Target:
        return choose_target(call.route, sticky=call.caller.sticky, release=session.release)


def _under(plan: Plan, session: Session, target: Target) -> Plan:
    """`plan` once more, under the renewed session. Raises Refusal (ANSWER_LOST)."""
    if plan.resumes is not None:
        raise Refusal(ANSWER_LOST, request_id=plan.resumes)
    kept = {
        name: value
        for name, value in plan.headers.items()
        if name not in {SESSION_HEADER, LAST_EVENT_HEADER}  # the old session's events are gone with it
    }
    headers = {**kept, **_session_headers(session)}
    return replace(plan, session=session, target=target, headers=headers, is_stranded=False)


def _session_headers(session: Session) -> dict[str, str]:
    headers = {PROTOCOL_VERSION_HEADER: session.revision}
    if session.upstream_id:
        headers[SESSION_HEADER] = session.upstream_id
    return headers


def _plan_of(target: Target, headers: dict[str, str], method: str, params: Any, request_id: str) -> Plan:
    """A message of the gateway's own; a notification when it has no id."""
    message = {"jsonrpc": "2.0", "method": method, "params": params}
    body = msgspec.json.encode({**message, "id": request_id} if request_id else message)
    return Plan(target=target, method="POST", headers={**POST_HEADERS, **headers}, body=body)


async def _result_of(call: Call, answer: Answer, request_id: str) -> bytes | None:
    """The result of the gateway's own request, from JSON or a stream; None where there is none. Raises UpstreamFailure."""
    limits = call.route.limits
    if answer.status != 200:
        return None
    if answer.content_type != "text/event-stream":
        body = await answer.read(limit=MAX_RESULT_BYTES, timeout_s=HEAL_S, share=call.share)
        return _result_in(body, request_id)
    parser = EventParser(min(limits.event_bytes, MAX_RESULT_BYTES))
    while piece := await answer.next_piece(timeout_s=HEAL_S):
        try:
            events = parser.feed(piece)
        except EventTooLarge:
            raise UpstreamFailure("too_large") from None
        for event in events:
            if (result := _result_in(event.data, request_id)) is not None:
                return result
    return None


def _result_in(body: bytes, request_id: str) -> bytes | None:
    try:
        spoken = hear(body)
    except msgspec.MsgspecError:
        return None
    found = next((one.result for one in spoken if one.answers(request_id)), None)
    return bytes(found) if isinstance(found, msgspec.Raw) else None
