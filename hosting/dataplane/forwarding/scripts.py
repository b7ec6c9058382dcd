"""The way to the scripts we host: connections to the dispatcher Worker of the Environment's account, with an assertion that lets a
request pass to one script of one tenant.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from yarl import URL

from hosting.dataplane.contract import (
    ASSERTION_HEADER,
    ASSERTION_LIFE_S,
    Assertion,
    Dispatch,
    Limits,
    Target,
    sign_assertion,
)
from hosting.dataplane.forwarding.connections import Connection, ConnectionLostError, Origin, Pool, head_of
from hosting.dataplane.forwarding.upstream import READ_BYTES, Answer, Pieces, UpstreamFailure

ASSERTION_SPARE_S = 15
MAX_ASSERTIONS = 10_000
UNBOUNDED_S = 3600.0


class Assertions:
    """Signed once per target and life, then reused: signing costs 40 µs."""

    def __init__(self, seeds: Mapping[str, bytes]) -> None:
        self._kid, seed = next(iter(seeds.items()))
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._signed: dict[tuple[str, str, Target], tuple[float, str]] = {}

    def for_target(self, *, audience: str, tenant: str, target: Target) -> str:
        now = time.time()
        found = self._signed.get((audience, tenant, target))
        if found is not None and now < found[0]:
            return found[1]
        if len(self._signed) >= MAX_ASSERTIONS:
            self._signed = {name: kept for name, kept in self._signed.items() if now < kept[0]}
        made = Assertion(
            aud=audience,
            ten=tenant,
            wrk=target.script,
            iat=int(now),
            exp=int(now) + ASSERTION_LIFE_S,
            egress=target.egress,
        )
        text = sign_assertion(made, kid=self._kid, key=self._key)
        self._signed[audience, tenant, target] = (now + ASSERTION_LIFE_S - ASSERTION_SPARE_S, text)
        return text


class ScriptAnswer(Answer):
    """What the dispatcher, or the script behind it, began to answer on a connection of ours."""

    def __init__(
        self, pool: Pool, origin: Origin, connection: Connection, *, is_sent: Callable[[], bool]
    ) -> None:
        headers = connection.headers
        super().__init__(connection.status, _content_type(headers), size=_size(headers))
        self.session_id = headers.get(b"mcp-session-id", b"").decode("latin-1")
        self.retry_after = headers.get(b"retry-after", b"").decode("latin-1")
        self.dispatch_error = headers.get(b"smcp-dispatch-error", b"").decode("latin-1")
        self._pool = pool
        self._origin = origin
        self._connection: Connection | None = connection
        self._is_sent = is_sent

    @property
    def has_request(self) -> bool:
        return self._is_sent()

    async def _next(self, at_most: int | None) -> bytes:
        piece = await self._next_within(UNBOUNDED_S, at_most)
        if piece is None:
            raise UpstreamFailure("silent")
        return piece

    async def _next_within(self, timeout_s: float, at_most: int | None) -> bytes | None:
        if self._connection is None:
            return b""
        try:
            return await self._connection.read(-1 if at_most is None else at_most, within_s=timeout_s)
        except TimeoutError:
            return None
        except ConnectionLostError as exc:
            raise UpstreamFailure("cut") from exc

    def close(self) -> None:
        """Gives a connection whose answer was read to the end back to the pool, and cuts any other."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._is_sent():
            self._pool.done(self._origin, connection)
        else:
            connection.abort()


class Scripts:
    """The way to the dispatchers. Create it inside the running loop; `close` waits for nothing."""

    def __init__(self, seeds: Mapping[str, bytes]) -> None:
        self.assertions = Assertions(seeds)
        self._pool = Pool()
        self._places: dict[tuple[str, str, str], tuple[Origin, str, str]] = {}

    async def send(
        self,
        method: str,
        *,
        tenant: str,
        dispatch: Dispatch,
        target: Target,
        headers: dict[str, str],
        body: bytes | None,
        limits: Limits,
        wait_s: float = 0,
    ) -> Answer:
        """Until the head of the answer (within `wait_s`, else limits.answer_timeout_s). Raises UpstreamFailure."""
        origin, host, path = self._place(dispatch, target.path)
        headers["host"] = host
        headers[ASSERTION_HEADER] = self.assertions.for_target(
            audience=dispatch.audience, tenant=tenant, target=target
        )
        headers["accept-encoding"] = "identity"
        if body is not None:
            headers["content-length"] = str(len(body))
        deadline = time.monotonic() + (wait_s or limits.answer_timeout_s)
        try:
            data = head_of(method, path, headers)
        except ValueError as exc:
            raise UpstreamFailure("cut") from exc
        connection = await self._connected(origin, min(limits.connect_timeout_s, deadline - time.monotonic()))
        sending = _Sending(connection, body)
        try:
            connection.ask(data + sending.first, has_answer_body=method != "HEAD")
            sending.start()
            await connection.head(within_s=deadline - time.monotonic())
        except BaseException as exc:
            sending.stop()
            connection.abort()
            if isinstance(exc, TimeoutError):
                raise UpstreamFailure("timeout") from exc
            if isinstance(exc, ConnectionLostError):
                raise UpstreamFailure("lost" if exc.is_http else "cut") from exc
            raise
        return ScriptAnswer(self._pool, origin, connection, is_sent=sending.is_over)

    async def close(self) -> None:
        await self._pool.close()

    async def _connected(self, origin: Origin, within_s: float) -> Connection:
        """Raises UpstreamFailure (refused)."""
        try:
            return await self._pool.take(origin, connect_s=within_s)
        except OSError as exc:  # TimeoutError and ssl.SSLError among them
            raise UpstreamFailure("refused") from exc

    def _place(self, dispatch: Dispatch, path: str) -> tuple[Origin, str, str]:
        """Where to connect, the Host header, the request's target. Raises UpstreamFailure (refused) for a URL that is none."""
        key = (dispatch.url, dispatch.host, path)
        found = self._places.get(key)
        if found is None:
            if len(self._places) >= MAX_ASSERTIONS:
                self._places.clear()
            found = self._places[key] = place_of(*key)
        return found


def place_of(url: str, host: str, path: str) -> tuple[Origin, str, str]:
    """Raises UpstreamFailure (refused)."""
    try:
        base = URL(url)
        target = base.join(URL(path))
        if base.scheme not in {"http", "https"} or not base.host or base.port is None:
            raise ValueError(url)
    except ValueError as exc:
        raise UpstreamFailure("refused") from exc
    authority = base.raw_authority.rpartition("@")[2]
    return Origin(base.host, base.port, base.scheme == "https"), host or authority, target.raw_path_qs


def _content_type(headers: Mapping[bytes, bytes]) -> str:
    """Empty for an answer that is compressed although identity was asked for: we cannot read it."""
    if headers.get(b"content-encoding", b"identity").strip().lower() not in {b"identity", b""}:
        return ""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")


def _size(headers: Mapping[bytes, bytes]) -> int | None:
    length = headers.get(b"content-length", b"")
    return int(length) if length.isdigit() else None


class _Sending:
    """The body of one request on its way: a small one goes with the head, a large one in pieces as the server takes them."""

    def __init__(self, connection: Connection, body: bytes | None) -> None:
        self._connection = connection
        self._task: asyncio.Task[None] | None = None
        self._pieces: Pieces | None = None
        self.first = b""  # goes with the head
        if body is not None and len(body) > READ_BYTES:
            self._pieces = Pieces(body)
        elif body is not None:
            self.first = body

    def start(self) -> None:
        if self._pieces is not None:
            self._task = asyncio.get_running_loop().create_task(self._send(self._pieces))

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def is_over(self) -> bool:
        """Whether all of it was taken."""
        return self._pieces is None or self._pieces.is_sent

    async def _send(self, pieces: Pieces) -> None:
        with suppress(ConnectionLostError):  # whoever waits for the answer hears of it
            async for piece in pieces:
                await self._connection.write(piece)
