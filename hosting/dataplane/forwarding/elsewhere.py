"""The way to servers that run elsewhere: each tenant has connections of its own to each host, and so many of them and no more.

Where a connection may go is `reach.py`'s to say, for every one of them. The client's own credentials never go along: the request's
headers are the Plan's, and those that the tenant has configured, opened here and kept in memory only. Whoever finds all
connections in use waits for one, in a queue with an end, as long as connecting may take.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiohttp
from yarl import URL

from hosting.dataplane.contract import Limits, Remote, Route
from hosting.dataplane.forwarding.upstream import READ_BYTES, Answer, Pieces, UpstreamFailure
from hosting.dataplane.reach import AddressRefused, Names, connector_to
from hosting.dataplane.remotes import CannotOpen, RemoteHeaders, check_url, open_headers, private_ring
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.logs import Damper

KEEP_S = 30.0  # a host nobody asks any more; longer than one of its connections is kept
HOSTS = 4  # all hosts of a tenant together may have in use what so many have
MAX_OPENED = 10_000
MAX_HEADER_BYTES = 16 * 1024
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
        try:
            where = URL(url or remote.url, encoded=True)
        except ValueError:
            raise UpstreamFailure("forbidden") from None
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


class HttpAnswer(Answer):
    """Of one HTTP exchange. What only our dispatcher may say of itself is not believed here."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        request: Pieces | None,
        *,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        headers = response.headers
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if headers.get("content-encoding", "identity").strip().lower() not in {"identity", ""}:
            content_type = ""  # compressed although identity was asked for: not an answer we can read
        super().__init__(response.status, content_type, size=response.content_length)
        self.session_id = headers.get("mcp-session-id", "")
        self.retry_after = headers.get("retry-after", "")
        self._response = response
        self._request = request
        self._on_close = on_close

    @property
    def has_request(self) -> bool:
        return self._request is None or self._request.is_sent

    async def _next(self, at_most: int | None) -> bytes:
        content = self._response.content
        try:
            return await (content.readany() if at_most is None else content.read(at_most))
        except (aiohttp.ClientError, OSError) as exc:
            raise UpstreamFailure("cut") from exc

    def close(self) -> None:
        """Gives a connection whose answer was read to the end back to the pool, and cuts any other."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


def new_session(
    connector: aiohttp.TCPConnector, *, watched: aiohttp.TraceConfig | None = None
) -> aiohttp.ClientSession:
    """A client that keeps no cookies, follows nothing, unpacks nothing and adds nothing of its own."""
    return aiohttp.ClientSession(
        connector=connector,
        trace_configs=[watched] if watched is not None else [],
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("user-agent", "accept-encoding", "content-type", "accept"),
        read_bufsize=READ_BYTES,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    *,
    headers: dict[str, str],
    body: bytes | None,
    limits: Limits,
    wait_s: float,
    on_close: Callable[[], None] | None = None,
) -> HttpAnswer:
    """Until the head of the answer (within `wait_s`, else limits.answer_timeout_s). Raises UpstreamFailure."""
    headers["accept-encoding"] = "identity"
    pieces = Pieces(body) if body is not None and len(body) > READ_BYTES else None
    if body is not None and pieces is not None:
        headers["content-length"] = str(len(body))
    with failures_told():
        async with asyncio.timeout(wait_s or limits.answer_timeout_s):
            response = await session.request(
                method,
                url,
                headers=headers,
                data=body if pieces is None else pieces,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=limits.connect_timeout_s),
            )
    return HttpAnswer(response, pieces, on_close=on_close)


@contextmanager
def failures_told() -> Iterator[None]:
    """Around asking for the head of an answer: what aiohttp raises becomes UpstreamFailure."""
    try:
        yield
    except TimeoutError as exc:  # aiohttp's connection timeouts are TimeoutErrors too
        raise UpstreamFailure("refused" if isinstance(exc, aiohttp.ClientError) else "timeout") from exc
    except aiohttp.ClientConnectorError as exc:
        is_forbidden = isinstance(exc.os_error, AddressRefused)
        raise UpstreamFailure("forbidden" if is_forbidden else "refused") from exc
    except aiohttp.InvalidURL as exc:
        raise UpstreamFailure("refused") from exc
    except (aiohttp.ClientConnectionError, OSError) as exc:
        raise UpstreamFailure("lost") from exc
    except (aiohttp.ClientError, ValueError) as exc:
        raise UpstreamFailure("cut") from exc
