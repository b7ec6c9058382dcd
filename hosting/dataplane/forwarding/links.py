"""Servers that still speak HTTP+SSE (2024-11-05): the gateway is their client, and their session is one stream, a Link (`link.py`).

To the rest of the gateway a Link is a session of the server's: `initialize` opens it, its id is made here, DELETE closes it. It
lives on one node. On another node, or once its stream has ended, its session is one that the server has lost (404, and nothing was
sent), so it is healed like any other: that node opens a Link of its own. An idle Link is closed, and healed when it is wanted.
Bounded: Links per tenant, and the bytes all of a tenant's hold.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from hosting.dataplane.call import Errand, Plan
from hosting.dataplane.contract import AnyFact, Remote, Route
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.elsewhere import Elsewhere
from hosting.dataplane.forwarding.link import Key, Link, Overfull, key_of, split_messages
from hosting.dataplane.forwarding.pace import Pace
from hosting.dataplane.forwarding.streams import holder_of
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.protocol.era import SESSION_HEADER, hear, meta_of
from hosting.dataplane.protocol.errors import Headers
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.metrics import Metrics

TENANT_BYTES = 32 * 1024 * 1024


class Brief(Answer):
    """An answer without a body: 404 for a session whose stream is not here, 202 for what needs no answer."""

    async def _next(self, at_most: int | None) -> bytes:
        return b""

    def close(self) -> None:
        """There is nothing."""


class Links:
    """All Links of this node."""

    def __init__(
        self,
        elsewhere: Elsewhere,
        *,
        settings: Settings,
        metrics: Metrics,
        pace_of: Callable[[str, str], Pace],
    ) -> None:
        self._elsewhere = elsewhere
        self._most = max(
            1, settings.remote_connections // 2
        )  # of a tenant: what is posted needs connections too
        self._metrics = metrics
        self._pace_of = pace_of
        self._links: dict[tuple[str, str], Link] = {}  # Environment, id
        self._of_tenant: dict[str, set[Link]] = {}
        self._held: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def holds(self, route: Route, remote: Remote, upstream_id: str) -> bool:
        """Whether that session's stream is on this node. Raises UpstreamFailure (locked)."""
        return self._find(route, remote, upstream_id) is not None

    async def send(
        self, call: Errand, plan: Plan, *, method: str, headers: Mapping[str, str], wait_s: float
    ) -> Answer:
        """As Elsewhere.send, for a Plan whose target speaks HTTP+SSE; `headers` go with each request it takes. Raises UpstreamFailure."""
        remote = plan.target.remote
        assert remote is not None
        upstream_id = plan.headers.get(SESSION_HEADER, "")
        if method == "POST" and not upstream_id:
            return await self._initialize(call, plan, remote, headers, wait_s)
        link = self._find(call.route, remote, upstream_id)
        if link is None:
            return Brief(404, "")
        link.holder = holder_of(call, plan.session)
        if method == "DELETE":
            link.end()
            return Brief(200, "")
        if method == "GET":
            return link.wait_for()
        return await self._post(call, plan, link, headers, wait_s)

    def recheck(self, table: Table, fact: AnyFact | None) -> None:
        """Closes the streams of sessions that have ended, and of callers who would no longer be let in. As Streams.recheck."""
        tenants = list(self._of_tenant) if fact is None else [fact.tenant]
        for tenant in tenants:
            for link in list(self._of_tenant.get(tenant, ())):
                if not link.holder.is_admitted(table):
                    link.end()

    def end(self, route: Route, remote: Remote, upstream_id: str) -> None:
        """Closes the stream of a session that was ended, where this node holds it."""
        link = self._find(route, remote, upstream_id)
        if link is not None:
            link.end()

    async def close(self) -> None:
        for link in list(self._links.values()):
            link.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _find(self, route: Route, remote: Remote, upstream_id: str) -> Link | None:
        link = self._links.get((route.environment, upstream_id))
        if link is None or not link.is_open:
            return None
        return link if link.is_for(remote, self._elsewhere.headers_of(route, remote)) else None

    async def _initialize(
        self, call: Errand, plan: Plan, remote: Remote, headers: Mapping[str, str], wait_s: float
    ) -> Answer:
        opened = await self._open(call, remote, headers, wait_s)
        if not isinstance(opened, Link):
            return opened
        try:
            answer = await self._post(call, plan, opened, headers, wait_s)
        except BaseException:
            opened.end()
            raise
        if answer.status != 200:
            opened.end()
        _name_session(plan, opened)
        return answer

    async def _open(
        self, call: Errand, remote: Remote, headers: Mapping[str, str], wait_s: float
    ) -> Link | Answer:
        """The server's refusal where it gives no stream. Raises UpstreamFailure."""
        route, limits = call.route, call.route.limits
        self._make_room(route.tenant)
        answer = await self._elsewhere.send(
            "GET",
            route=route,
            remote=remote,
            headers={**headers, "accept": "text/event-stream"},
            body=None,
            limits=limits,
            wait_s=wait_s,
        )
        if answer.status != 200:
            return answer
        if answer.content_type != "text/event-stream":
            answer.close()
            raise UpstreamFailure("cut")
        link = Link(
            answer,
            remote=remote,
            headers=self._elsewhere.headers_of(route, remote),
            event_bytes=limits.event_bytes,
            pace=self._pace_of(route.tenant, route.environment),
            hold=lambda grown: self._hold(route.tenant, grown),
            on_dropped=self._metrics.events_dropped.inc,
            holder=holder_of(call, None),
        )
        self._keep(route, link)
        try:
            await link.ready(wait_s or limits.answer_timeout_s)
        except BaseException:
            link.end()
            raise
        return link

    async def _post(
        self, call: Errand, plan: Plan, link: Link, headers: Mapping[str, str], wait_s: float
    ) -> Answer:
        """Raises UpstreamFailure."""
        body = plan.body or b""
        ids, tokens = _expected(plan, body)
        told = link.wait_for(ids, tokens) if ids else None
        try:
            for raw in split_messages(body):
                refused = await self._say(call, plan, link, raw, headers, wait_s)
                if refused is not None:
                    if told is not None:
                        told.close()
                    return refused
            if told is None:
                return Brief(202, "")
            await told.first(wait_s or call.route.limits.answer_timeout_s)
        except BaseException:
            if told is not None:
                told.close()
            raise
        return told

    async def _say(
        self, call: Errand, plan: Plan, link: Link, raw: bytes, headers: Mapping[str, str], wait_s: float
    ) -> Answer | None:
        """The server's refusal, if it does not take the message. Raises UpstreamFailure."""
        assert plan.target.remote is not None
        kept = {name: value for name, value in plan.headers.items() if name != SESSION_HEADER}
        answer = await self._elsewhere.send(
            "POST",
            route=call.route,
            remote=plan.target.remote,
            headers={**kept, **headers},
            body=raw,
            limits=call.route.limits,
            wait_s=wait_s,
            url=link.endpoint,
        )
        if 200 <= answer.status < 300:
            answer.close()
            return None
        if answer.status in {404, 410}:
            answer.close()
            link.end()
            return Brief(404, "")
        return answer

    def _make_room(self, tenant: str) -> None:
        """Raises UpstreamFailure (full) when every one of the tenant's Links is in use."""
        mine = self._of_tenant.get(tenant, set())
        if len(mine) < self._most:
            return
        idle = [link for link in mine if link.is_idle]
        if not idle:
            raise UpstreamFailure("full")
        longest = min(idle, key=lambda link: link.used_at)
        longest.end()
        mine.discard(longest)

    def _keep(self, route: Route, link: Link) -> None:
        key, mine = (route.environment, link.id), self._of_tenant.setdefault(route.tenant, set())
        self._links[key] = link
        mine.add(link)

        def forget(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._links.pop(key, None)
            mine.discard(link)
            if not mine and self._of_tenant.get(route.tenant) is mine:
                del self._of_tenant[route.tenant]

        task = asyncio.get_running_loop().create_task(link.run())
        self._tasks.add(task)
        task.add_done_callback(forget)

    def _hold(self, tenant: str, grown: int) -> None:
        """Raises Overfull."""
        self._held[tenant] += grown
        if not self._held[tenant]:
            del self._held[tenant]
        if grown > 0 and self._held[tenant] > TENANT_BYTES:
            raise Overfull


def _name_session(plan: Plan, link: Link) -> None:
    """The client's session gets its id with the answer: from then on the Link ends with it."""
    open_session = plan.open_session
    if open_session is None:
        return

    def open_and_tell(result: bytes, upstream_id: str) -> Headers:
        headers = open_session(result, upstream_id)
        if plan.session is not None:
            link.holder = replace(link.holder, session=plan.session)
        return headers

    plan.open_session = open_and_tell


def _expected(plan: Plan, body: bytes) -> tuple[set[Key], set[Key]]:
    """Ids that will be answered, and tokens of progress. What the gateway asks for itself has a body only."""
    if not plan.messages:
        return {key_of(said.id) for said in hear(body) if said.method and said.id is not None}, set()
    requests = [message for message in plan.messages if message.kind == "request"]
    tokens = {key_of(meta_of(message).get("progressToken")) for message in requests}
    return {key_of(message.id) for message in requests}, tokens - {key_of(None)}
