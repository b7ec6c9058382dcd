"""Sends probes: many at once, on one event loop, through the gateway as any client would.

A modern server gets one `server/discover`. A legacy server gets `initialize`, `ping` and, where it gave a session, `DELETE`, so that
nothing is left behind. A probe carries a token of 60 seconds for one Environment and nothing else that would tell it apart.

What the gateway itself says about the platform (no such route, suspended, overloaded, not deployed) is no verdict on the
server: `NO_VERDICT`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from hosting.dataplane.contract import mint_probe_token

PROBE_TIMEOUT_S: Final = 20.0
ANSWER_LIMIT: Final = 256 * 1024
MODERN: Final = "2026-07-28"
LEGACY: Final = "2025-11-25"
NO_VERDICT: Final = frozenset({401, 403, 404, 429, 503})
_CLIENT: Final = {"name": "mcp", "version": "0.1.0"}  # what the SDKs send by default


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where one Environment is reached, and in which era."""

    tenant: str
    environment: str
    url: str
    era: str  # legacy or modern


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a probe saw. `is_ok` is None when it says nothing about the server."""

    address: Address
    is_ok: bool | None
    latency_ms: float
    failure: str = ""  # unreachable, timeout, upstream_error, bad_answer; or why there is no verdict


class _Bad(Exception):
    """The probe failed; the argument is one of the closed list of failures."""


class _NoVerdict(Exception):
    """The gateway answered for itself."""


async def probe_all(addresses: Sequence[Address], *, key: bytes, concurrency: int = 128) -> list[Outcome]:
    """Probes every address once. Never raises for what a server does."""
    connector = aiohttp.TCPConnector(limit=concurrency, force_close=False)
    timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=True) as http:
        gate = asyncio.Semaphore(concurrency)

        async def one(address: Address) -> Outcome:
            async with gate:
                return await _probe(http, address, key)

        return await asyncio.gather(*(one(address) for address in addresses))


async def _probe(http: aiohttp.ClientSession, address: Address, key: bytes) -> Outcome:
    token = mint_probe_token(key=key, environment=address.environment, now=time.time())
    started = time.perf_counter()
    is_ok: bool | None = True
    failure = ""
    try:
        await (_discover if address.era == "modern" else _initialize)(http, address.url, token)
    except _NoVerdict as exc:
        is_ok, failure = None, str(exc)
    except _Bad as exc:
        is_ok, failure = False, str(exc)
    except TimeoutError:
        is_ok, failure = False, "timeout"
    except aiohttp.ClientConnectorError:
        is_ok, failure = None, "gateway_unreachable"
    except (aiohttp.ClientError, ConnectionError):
        is_ok, failure = False, "unreachable"
    latency_ms = (time.perf_counter() - started) * 1000
    return Outcome(address=address, is_ok=is_ok, latency_ms=latency_ms, failure=failure)


async def _discover(http: aiohttp.ClientSession, url: str, token: str) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": _CLIENT,
    }
    headers = {"mcp-protocol-version": MODERN, "mcp-method": "server/discover"}
    result, _ = await _call(http, url, token, "server/discover", {"_meta": meta}, headers)
    if "supportedVersions" not in result:
        raise _Bad("bad_answer")


async def _initialize(http: aiohttp.ClientSession, url: str, token: str) -> None:
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": _CLIENT}
    result, session = await _call(http, url, token, "initialize", params, {})
    if "protocolVersion" not in result:
        raise _Bad("bad_answer")
    if not session:
        return
    headers = {"mcp-session-id": session, "mcp-protocol-version": str(result["protocolVersion"])}
    try:
        await _call(http, url, token, "ping", None, headers)
    finally:
        async with http.delete(url, headers={**headers, "authorization": f"Bearer {token}"}):
            pass


async def _call(
    http: aiohttp.ClientSession, url: str, token: str, method: str, params: Any, headers: dict[str, str]
) -> tuple[dict[str, Any], str]:
    """One request and its result; the session id, if the answer opened one."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, **({"params": params} if params is not None else {})}
    headers = {
        "authorization": f"Bearer {token}",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        **headers,
    }
    async with http.post(url, data=json.dumps(body), headers=headers, allow_redirects=False) as answer:
        if answer.status in NO_VERDICT:
            raise _NoVerdict(f"gateway_{answer.status}")
        if answer.status == 504:
            raise _Bad("timeout")
        if answer.status >= 500:
            raise _Bad("upstream_error")
        message = await _message(answer)
    if not isinstance(message, dict) or not isinstance(message.get("result"), dict):
        raise _Bad("bad_answer")
    return message["result"], answer.headers.get("mcp-session-id", "")


async def _message(answer: aiohttp.ClientResponse) -> Any:
    """The JSON-RPC answer, from a JSON body or from an SSE stream's first message that is one."""
    read = 0
    data: list[str] = []
    try:
        if answer.content_type != "text/event-stream":
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > ANSWER_LIMIT:
                    raise _Bad("bad_answer")
            return json.loads(body)
        async for raw in answer.content:
            read += len(raw)
            if read > ANSWER_LIMIT:
                raise _Bad("bad_answer")
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            if line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif not line and data:
                message = json.loads("\n".join(data))
                if isinstance(message, dict) and message.get("id") == 1:
                    return message
                data.clear()
    except ValueError as exc:
        raise _Bad("bad_answer") from exc
    raise _Bad("bad_answer")
