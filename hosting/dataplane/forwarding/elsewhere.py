"""The way to servers that run elsewhere: each tenant has connections of its own to each host, and so many of them and no more.

Where a connection may go is `reach.py`'s to say, for every one of them. The client's own credentials never go along: the request's
headers are the Plan's, and those that the tenant has configured, opened here and kept in memory only. Whoever finds all
connections in use waits for one, in a queue with an end, as long as connecting may take.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import aiohttp
from yarl import URL

from hosting.dataplane.contract import Limits, Remote, Route
from hosting.dataplane.forwarding.upstream import HttpAnswer, UpstreamFailure, exchange, new_session
from hosting.dataplane.reach import AddressRefused, Names, connector_to
from hosting.dataplane.remotes import CannotOpen, RemoteHeaders, check_url, open_headers, private_ring
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.logs import Damper

KEEP_S = 30.0  # a host nobody asks any more; longer than one of its connections is kept
HOSTS = 4  # all hosts of a tenant together may have in use what so many have
MAX_OPENED = 10_000
USER_AGENT = "smcp-gateway"  # many doors on the internet turn away those without a name


class _Way:
    """One tenant's connections to one host."""

    __slots__ = ("closing", "places", "session", "users")

    def __init__(self, session: aiohttp.ClientSession, places: int) -> None:
        self.session = session
        self.places = asyncio.Semaphore(places)
        self.users = 0  # those who wait for a place too
        self.closing: asyncio.TimerHandle | None = None


class Elsewhere:
    """One per process. Make it inside the running loop."""

    def __init__(self, settings: Settings) -> None:
        self._allowed = settings.remote_allow
        self._limit = settings.remote_connections
        self._ring = private_ring(settings.sealing_keys)
        self._names = Names(settings.name_servers)
        self._ways: dict[tuple[str, str], _Way] = {}
        self._users: Counter[str] = Counter()
        self._opened: dict[str, RemoteHeaders] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._damper = Damper()

    async def send(
        self,
        method: str,
        *,
        route: Route,
        remote: Remote,
        headers: dict[str, str],
        body: bytes | None,
        limits: Limits,
        wait_s: float = 0,
        url: str = "",
    ) -> HttpAnswer:
        """Until the head of the answer (within `wait_s`, else limits.answer_timeout_s), from `url` in the place of the remote's.

        Raises UpstreamFailure.
        """
        configured = dict(self.headers_of(route, remote))
        where = URL(url or remote.url, encoded=True)
        way, leave = await self._enter(route.tenant, where, within_s=limits.connect_timeout_s)
        try:
            return await exchange(
                way.session,
                method,
                where,
                headers={"user-agent": USER_AGENT, **headers, **configured},
                body=body,
                limits=limits,
                wait_s=wait_s,
                is_dispatched=False,
                on_close=leave,
            )
        except BaseException as exc:
            leave()
            if isinstance(exc, UpstreamFailure) and exc.kind == "forbidden":
                self._damper.log("remote.forbidden", route.environment, environment=route.environment)
            raise

    def headers_of(self, route: Route, remote: Remote) -> RemoteHeaders:
        """The configured headers, names in lower case. Raises UpstreamFailure (locked)."""
        if not remote.headers:
            return ()
        found = self._opened.get(remote.headers)
        if found is None:
            try:
                opened = open_headers(
                    remote.headers,
                    ring=self._ring,
                    tenant=route.tenant,
                    environment=route.environment,
                    url=remote.url,
                )
            except CannotOpen:
                self._damper.log("remote.locked", route.environment, environment=route.environment)
                raise UpstreamFailure("locked") from None
            if len(self._opened) >= MAX_OPENED:
                self._opened.clear()
            found = self._opened[remote.headers] = tuple((name.lower(), value) for name, value in opened)
        return found

    async def close(self) -> None:
        for key in list(self._ways):
            self._close(key)
        await asyncio.gather(*self._closing)
        await self._names.close()

    async def _enter(self, tenant: str, where: URL, *, within_s: float) -> tuple[_Way, Callable[[], None]]:
        """A place among the tenant's connections to this host, and how to leave it. Raises UpstreamFailure (full, forbidden)."""
        key = (tenant, str(where.origin()))
        way = self._ways.get(key)
        in_queue = way.users if way is not None else 0
        if in_queue >= 2 * self._limit or self._users[tenant] >= HOSTS * self._limit:
            raise UpstreamFailure("full")
        way = way or self._open(key, where)
        if way.closing is not None:
            way.closing.cancel()
            way.closing = None
        way.users += 1
        self._users[tenant] += 1
        try:
            async with asyncio.timeout(within_s):
                await way.places.acquire()
        except BaseException as exc:
            self._leave(key, way)
            if isinstance(exc, TimeoutError):
                raise UpstreamFailure("full") from None
            raise
        has_left = False

        def leave() -> None:
            nonlocal has_left
            if not has_left:
                has_left = True
                way.places.release()
                self._leave(key, way)

        return way, leave

    def _open(self, key: tuple[str, str], where: URL) -> _Way:
        """Raises UpstreamFailure (forbidden)."""
        host = (where.host or "").lower()
        if check_url(str(where), self._allowed):
            raise UpstreamFailure("forbidden")
        try:
            # The places are counted here, where who waits can be told why.
            connector = connector_to(host, names=self._names, allowed=self._allowed, limit=0)
        except AddressRefused as exc:
            raise UpstreamFailure("forbidden") from exc
        way = self._ways[key] = _Way(new_session(connector), self._limit)
        return way

    def _leave(self, key: tuple[str, str], way: _Way) -> None:
        tenant = key[0]
        way.users -= 1
        self._users[tenant] -= 1
        if not self._users[tenant]:
            del self._users[tenant]
        if not way.users and self._ways.get(key) is way:
            way.closing = asyncio.get_running_loop().call_later(KEEP_S, self._close, key)

    def _close(self, key: tuple[str, str]) -> None:
        way = self._ways.pop(key, None)
        if way is None:
            return
        if way.closing is not None:
            way.closing.cancel()
        task = asyncio.get_running_loop().create_task(way.session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
