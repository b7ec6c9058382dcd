"""One planned request to its server, wherever that runs: once, or twice where that is safe."""

from __future__ import annotations

import time

from hosting.dataplane.call import HOPS_HEADER, MAX_HOPS, Errand, Plan
from hosting.dataplane.contract import Route, Target
from hosting.dataplane.forwarding.breaker import Breakers, note_failure, note_head
from hosting.dataplane.forwarding.elsewhere import Elsewhere
from hosting.dataplane.forwarding.links import Links
from hosting.dataplane.forwarding.scripts import Scripts
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.protocol.era import REPEATABLE, SESSION_HEADER
from hosting.dataplane.protocol.errors import NOTHING_DEPLOYED, REMOTE_LOOP, Refusal

GOODBYE_S = 5.0


class Sender:
    """The way to the servers for whoever holds a Plan."""

    def __init__(self, scripts: Scripts, elsewhere: Elsewhere, links: Links, breakers: Breakers) -> None:
        self._scripts = scripts
        self._elsewhere = elsewhere
        self._links = links
        self._breakers = breakers

    async def send(self, call: Errand, plan: Plan) -> Answer:
        """Through the Release's breaker. A connection that was never made is tried once more; after bytes were sent only what is safe to
        repeat is.

        Raises UpstreamFailure, Refusal.
        """
        if call.passage is not None:  # of an earlier request of this call, which was answered
            call.passage.settle("ok")
        call.passage = self._breakers.enter(call, plan.target)
        sent_at = time.monotonic()
        try:
            answer = await self._repeated(call, plan)
        except UpstreamFailure as failure:
            note_failure(call, failure, sent_at)
            raise
        note_head(call, answer)
        return answer

    async def _repeated(self, call: Errand, plan: Plan) -> Answer:
        try:
            return await self.once(call, plan)
        except UpstreamFailure as exc:
            is_safe = exc.kind == "refused" or (
                exc.kind == "lost"
                and (plan.method == "GET" or all(message.method in REPEATABLE for message in plan.messages))
            )
            if not is_safe:
                raise
        return await self.once(call, plan)

    async def once(self, call: Errand, plan: Plan, *, method: str = "", wait_s: float = 0) -> Answer:
        """`method` and `wait_s` (seconds until the answer's head) in the place of the Plan's; past
        any breaker. Raises UpstreamFailure, Refusal."""
        wait_s = call.within_budget(wait_s or call.route.limits.answer_timeout_s)
        remote = plan.target.remote
        headers = {"x-request-id": call.request_id}
        if remote is not None:
            if call.hops >= MAX_HOPS:  # a tenant may name our own endpoint as the server elsewhere
                raise Refusal(REMOTE_LOOP)
            headers[HOPS_HEADER] = str(call.hops + 1)
        if remote is not None and remote.transport == "sse":
            return await self._links.send(
                call, plan, method=method or plan.method, headers=headers, wait_s=wait_s
            )
        return await self._once(call.route, plan, headers, method=method, wait_s=wait_s)

    async def say_goodbye(self, route: Route, plan: Plan, *, request_id: str) -> None:
        """DELETE of the server's own session; its answer changes nothing, and it has GOODBYE_S for it."""
        remote = plan.target.remote
        if remote is not None and remote.transport == "sse":
            self._links.end(route, remote, plan.headers.get(SESSION_HEADER, ""))
            return
        try:
            headers = {"x-request-id": request_id}
            answer = await self._once(route, plan, headers, method="DELETE", wait_s=GOODBYE_S)
        except (UpstreamFailure, Refusal):
            return
        answer.close()

    def may_reach(self, call: Errand, target: Target, upstream_id: str) -> bool:
        """Whether a session of the server's can be used on this node: one over HTTP+SSE only where its stream is.

        Raises UpstreamFailure.
        """
        remote = target.remote
        if remote is None or remote.transport != "sse":
            return True
        return self._links.holds(call.route, remote, upstream_id)

    async def _once(
        self, route: Route, plan: Plan, headers: dict[str, str], *, method: str, wait_s: float
    ) -> Answer:
        remote = plan.target.remote
        if remote is not None:
            return await self._elsewhere.send(
                method or plan.method,
                route=route,
                remote=remote,
                headers={**plan.headers, **headers},
                body=plan.body,
                limits=route.limits,
                wait_s=wait_s,
            )
        dispatch = route.dispatch
        if dispatch is None:
            raise Refusal(NOTHING_DEPLOYED)
        return await self._scripts.send(
            method or plan.method,
            tenant=route.tenant,
            dispatch=dispatch,
            target=plan.target,
            headers={**plan.headers, **headers},
            body=plan.body,
            limits=route.limits,
            wait_s=wait_s,
        )
