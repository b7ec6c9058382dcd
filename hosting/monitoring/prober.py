"""Sends probes: many at once, on one event loop, through the gateway as any client would.

A modern server gets one `server/discover`. A legacy server gets `initialize`, `ping` and, where it gave a session, `DELETE`, so that
nothing is left behind. A probe carries a token of 60 seconds for one Environment and nothing else that would tell it apart.

The event loop has a thread of its own, so that whoever started the probes can write down outcomes as they arrive: one that hangs
holds up no other. However a server behaves, its probe is over after PROBE_MAX_S.

What the gateway itself says about the platform (no such route, suspended, overloaded, not deployed) is no verdict on the
server: `NO_VERDICT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

import aiohttp

from hosting import mcp
from hosting.dataplane.contract import mint_probe_token

logger = logging.getLogger(__name__)
PROBE_TIMEOUT_S: Final = 20.0
ENDING_TIMEOUT_S: Final = 5.0  # of the DELETE that ends a session
PROBE_MAX_S: Final = PROBE_TIMEOUT_S + ENDING_TIMEOUT_S
LINGER_S: Final = 0.25  # outcomes that arrive so close together are handed out together
NO_VERDICT: Final = frozenset({401, 403, 404, 429, 503})
_CLIENT: Final = {"name": "mcp", "version": "0.1.0"}  # what the SDKs send by default


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where one Environment is reached, and in which era. `claimed_until` is whose turn it is: see claims.py."""

    tenant: str
    environment: str
    url: str
    era: str  # legacy or modern
    claimed_until: datetime
    is_doubtful: bool = False  # its last answer was none


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a probe saw, and when. `is_ok` is None when it says nothing about the server."""

    address: Address
    at: datetime
    is_ok: bool | None
    latency_ms: float
    failure: str = ""  # unreachable, timeout, upstream_error, bad_answer; or why there is no verdict


class _Bad(Exception):
    """The probe failed; the argument is one of the closed list of failures."""


class _NoVerdict(Exception):
    """The gateway answered for itself."""


class Prober:
    """Probes in flight, for one caller at a time. Leaving the block ends them; whoever has no outcome by then gets none."""

    def __init__(self, *, key: bytes, timeout_s: float = PROBE_TIMEOUT_S) -> None:
        self._key = key
        self._timeout_s = timeout_s
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)
        self._arrived: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._started: dict[str, Address] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._http: aiohttp.ClientSession | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    @property
    def in_flight(self) -> list[Address]:
        """Started, and without an outcome that was taken."""
        return list(self._started.values())

    def start(self, addresses: Iterable[Address]) -> None:
        """Probes every address once. None of them may be in flight."""
        fresh = {address.environment: address for address in addresses}
        self._started.update(fresh)
        self._loop.call_soon_threadsafe(self._begin, list(fresh.values()))

    def take(self, *, within_s: float) -> list[Outcome]:
        """The outcomes that have arrived, or arrive with the first one. Empty when there is none `within_s`."""
        taken = []
        try:
            taken.append(self._arrived.get(timeout=within_s) if within_s else self._arrived.get_nowait())
            if within_s and len(self._started) > 1:
                time.sleep(LINGER_S)
            while True:
                taken.append(self._arrived.get_nowait())
        except queue.Empty:
            pass
        if not taken and within_s and not self._thread.is_alive():
            raise RuntimeError("The event loop of the probes has ended.")
        for outcome in taken:
            del self._started[outcome.address.environment]
        return taken

    # ── On the event loop ────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        # Whoever starts probes decides how many. What idles is closed before the gateway would do so under a request.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=5)
        no_timeout = aiohttp.ClientTimeout(total=None, sock_connect=None)  # a probe has one of its own
        async with aiohttp.ClientSession(connector=connector, timeout=no_timeout) as self._http:
            await self._stopped.wait()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, addresses: list[Address]) -> None:
        for address in addresses:
            task = self._loop.create_task(self._probe(address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _probe(self, address: Address) -> None:
        assert self._http is not None
        token = mint_probe_token(key=self._key, environment=address.environment, now=time.time())
        visit = _Visit(self._http, address.url, token)
        started = time.perf_counter()
        try:
            try:
                is_ok, failure = await _judge(visit, address.era, self._timeout_s)
            except Exception:
                logger.exception("probe.surprise environment=%s", address.environment)
                is_ok, failure = None, "surprise"
            latency_ms = (time.perf_counter() - started) * 1000
            at = datetime.now(UTC)
        finally:
            await visit.end()
        self._arrived.put(
            Outcome(address=address, at=at, is_ok=is_ok, latency_ms=latency_ms, failure=failure)
        )


async def _judge(visit: _Visit, era: str, timeout_s: float) -> tuple[bool | None, str]:
    """Whether the server is well, and what is wrong with it."""
    try:
        async with asyncio.timeout(timeout_s):
            await (visit.discover() if era == "modern" else visit.initialize())
    except _NoVerdict as exc:
        return None, str(exc)
    except _Bad as exc:
        return False, str(exc)
    except TimeoutError:
        return False, "timeout"
    except aiohttp.ClientConnectorError:
        return None, "gateway_unreachable"
    except (aiohttp.ClientError, ConnectionError):
        return False, "unreachable"
    return True, ""


class _Visit:
    """What one probe says to one server, and the session that may come of it."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str) -> None:
        self._http = http
        self._url = url
        self._authorization = {"authorization": f"Bearer {token}"}
        self._session: mcp.Session | None = None

    async def discover(self) -> None:
        result = await self._ask(mcp.discover(_CLIENT))
        if "supportedVersions" not in result:
            raise _Bad("bad_answer")

    async def initialize(self) -> None:
        result = await self._ask(mcp.initialize(_CLIENT))
        if "protocolVersion" not in result:
            raise _Bad("bad_answer")
        if self._session:
            await self._ask(mcp.ping(self._session))

    async def end(self) -> None:
        """Ends the session, if there is one. Says nothing of how that went: what we came for is known, and sessions expire."""
        if self._session is None:
            return
        headers = {**self._authorization, **self._session.headers}
        with contextlib.suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
            async with asyncio.timeout(ENDING_TIMEOUT_S), self._http.delete(self._url, headers=headers):
                pass

    async def _ask(self, question: mcp.Question) -> dict[str, Any]:
        """The result. Keeps the session, if the answer opened one."""
        headers = {**self._authorization, **question.headers}
        async with self._http.post(
            self._url, data=question.body, headers=headers, allow_redirects=False
        ) as got:
            if got.status in NO_VERDICT:
                raise _NoVerdict(f"gateway_{got.status}")
            if got.status == 504:
                raise _Bad("timeout")
            if got.status >= 500:
                raise _Bad("upstream_error")
            answer = mcp.Answer(content_type=got.headers.get("content-type", ""))
            async for piece in got.content.iter_any():
                if answer.feed(piece):
                    break
            else:
                answer.end()
        result = mcp.result_of(answer.message)
        self._session = self._session or mcp.session_of(got.headers, result or {})
        if result is None:
            raise _Bad("bad_answer")
        return result
