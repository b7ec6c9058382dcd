"""How a request finds its script: by host on the workers port, or by name from a `dispatch_namespace` binding.

    <script>.<first 8 digits of the account>.workers.localhost   an account's own Worker, once it is on the subdomain
    env.DISPATCHER.get("name").fetch(…)                          a script in that namespace; nothing else reaches those

What goes wrong inside the edge never looks like an answer of a script: the dispatcher sees a thrown Error, as on Cloudflare, and
the workers port answers with Cloudflare's error numbers (https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-1xxx-errors/).
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import ClientConnectorError, ClientError, ClientResponse, hdrs, web
from multidict import CIMultiDict
from yarl import URL

from edge.config import Config
from edge.runtime.capnp import CF_HEADER, PROTO_HEADER
from edge.runtime.process import Process, StartFailed
from edge.runtime.relay import SERVER_OPTIONS, answer_with, open_upstream, passed_on, target_of
from edge.runtime.worker import Gone, Worker
from edge.scripts.model import ScriptKey

log = logging.getLogger(__name__)
HOST = re.compile(r"([a-z0-9_][a-z0-9_-]{0,62})\.([0-9a-f]{8})\.workers\.localhost(?::\d{1,5})?")
SCRIPT_HEADER = "x-edge-script"
OPTIONS_HEADER = "x-edge-options"
ERROR_HEADER = "x-edge-error"
THROWN_HEADER = "x-edge-thrown"
MESSAGE_BYTES = 4000  # of what was thrown: entry.js keeps 1000 characters
ATTEMPTS = 3
EXIT_NOTICE_S = 5.0
THROWN_LENGTH = "21"
CF = msgspec.json.encode(
    {"colo": "EDGE", "country": "XX", "continent": "XX", "city": "Local", "timezone": "UTC", "httpProtocol": "HTTP/1.1",
     "asOrganization": "", "asn": 64512, "tlsVersion": "", "clientTcpRtt": 0}
).decode()  # fmt: skip


class Unserved(Exception):
    """The script did not answer; `kind` and `number` (Cloudflare's 1xxx) say why, the text is what a dispatcher sees thrown."""

    kind = "internal"
    number = 1101
    status = 500
    message = "The Worker's runtime ended unexpectedly."

    def __init__(self) -> None:
        super().__init__(self.message)


class NotFound(Unserved):
    kind, number, status = "not-found", 1042, 404
    message = "Worker not found."


class Threw(Unserved):
    """Its handler threw; the dispatcher sees the exception's own message, as on Cloudflare."""

    kind = "exception"
    message = "The Worker threw an exception."

    def __init__(self, said: str = "") -> None:
        self.message = said or self.message
        super().__init__()


class OutOfCpu(Unserved):
    kind, number, status = "cpu", 1102, 503
    message = "Worker exceeded CPU time limit."


class OutOfMemory(Unserved):
    kind, number, status = "memory", 1102, 503
    message = "Worker exceeded memory limit."


class NotStarted(Unserved):
    kind, status = "start", 503
    message = "The Worker could not be started."


class Router:
    def __init__(self, config: Config, worker: Callable[[ScriptKey], Worker | None]) -> None:
        self._accounts = {account.id[:8]: account.id for account in config.accounts}
        self._worker = worker

    def workers_app(self) -> web.Application:
        app = web.Application(handler_args=SERVER_OPTIONS)
        app.router.add_route("*", "/{path:.*}", self.from_outside)
        return app

    async def from_outside(self, request: web.Request) -> web.StreamResponse:
        """A request on the workers port."""
        match = HOST.fullmatch((request.headers.get(hdrs.HOST) or "").lower())
        account = self._accounts.get(match[2]) if match else None
        if match is None or account is None:
            return web.Response(status=404, text="There is no Worker at this address.\n")
        key = ScriptKey(account, "", match[1])
        worker = self._worker(key)
        if worker is not None and not worker.script.is_on_subdomain:
            return web.Response(status=404, text="There is no Worker at this address.\n")
        headers = passed_on(request.headers)
        for name in [name for name in headers if name.lower().startswith("cf-")]:
            headers.popall(name, None)
        headers["cf-connecting-ip"] = request.remote or "127.0.0.1"
        headers["cf-ray"] = ray = f"{secrets.token_hex(8)}-EDGE"
        headers[CF_HEADER] = CF
        try:
            return await self._serve(request, key, headers, cpu_ms=None, extra={"cf-ray": ray})
        except Unserved as exc:
            text = f"error code: {exc.number}\n"
            return web.Response(status=exc.status, text=text, headers={"cf-ray": ray})
        except ConnectionError:
            raise
        except Exception:
            log.exception("router.surprise", extra={"ray": ray})
            return web.Response(status=500, text="error code: 1101\n", headers={"cf-ray": ray})

    async def dispatch(self, request: web.Request, account: str, namespace: str) -> web.StreamResponse:
        """A request a Worker of the account passes on to the script it names."""
        headers = passed_on(request.headers)
        # Not `request.cf`: scripts in a namespace run untrusted and see none.
        headers[PROTO_HEADER] = request.headers.get(PROTO_HEADER, "http")
        key = ScriptKey(account, namespace, request.headers.get(SCRIPT_HEADER, ""))
        try:
            return await self._serve(request, key, headers, cpu_ms=_cpu_ms(request))
        except Unserved as exc:
            return web.Response(status=exc.status, text=exc.message, headers={ERROR_HEADER: exc.kind})

    async def _serve(
        self,
        request: web.BaseRequest,
        key: ScriptKey,
        headers: CIMultiDict[str],
        *,
        cpu_ms: int | None,
        extra: dict[str, str] | None = None,
    ) -> web.StreamResponse:
        """Raises Unserved while nothing was answered yet."""
        url = URL(f"http://script{target_of(request)}", encoded=True)
        for _attempt in range(ATTEMPTS):
            worker = self._worker(key)
            if worker is None:
                raise NotFound
            process = await _ready(worker)
            own_ms = process.script.version.cpu_ms
            with process.flight(own_ms if cpu_ms is None else min(cpu_ms, own_ms)):
                try:
                    upstream = await open_upstream(
                        request, process.session, url, headers, progress=process.moved
                    )
                except ClientConnectorError:
                    # It ended after we chose it and before it heard anything of this request.
                    continue
                except (ClientError, OSError) as exc:
                    why = await _why(process)
                    log.info("router.broke_off", extra={"slot": process.script.slot, "why": why.kind})
                    raise why from exc
                if THROWN_HEADER in upstream.headers:
                    raise Threw(await _said(upstream))
                if is_thrown(upstream):
                    upstream.release()
                    raise Threw
                return await answer_with(request, upstream, progress=process.moved, extra=extra)
        raise Unserved


async def _ready(worker: Worker) -> Process:
    try:
        return await worker.ready()
    except Gone as exc:
        raise NotFound from exc
    except StartFailed as exc:
        log.warning("router.start.failed", extra={"slot": worker.script.slot, "reason": str(exc)[:500]})
        raise NotStarted from exc


async def _why(process: Process) -> Unserved:
    """Why a process broke off. Its connections end before it does, and a crowded machine takes its time in between."""
    if not process.died_of:
        with suppress(TimeoutError):
            async with asyncio.timeout(EXIT_NOTICE_S):
                await process.exited.wait()
    return {"cpu": OutOfCpu, "memory": OutOfMemory}.get(process.died_of, Unserved)()


async def _said(upstream: ClientResponse) -> str:
    """The message of an exception, as entry.js hands it over."""
    message = b""
    with suppress(ClientError, OSError):
        async for piece in upstream.content.iter_any():
            message += piece
            if len(message) > MESSAGE_BYTES:
                break
    if upstream.content.at_eof():
        upstream.release()
    else:
        upstream.close()
    return message[:MESSAGE_BYTES].decode("utf-8", "replace").strip()


def is_thrown(upstream: ClientResponse) -> bool:
    """Whether this is workerd's own word that the handler failed where entry.js cannot see it: it answered with no Response.

    A script cannot set `Connection`, so it cannot pretend.
    """
    return (
        upstream.status == 500
        and upstream.headers.get(hdrs.CONNECTION, "").lower() == "close"
        and hdrs.CONTENT_TYPE not in upstream.headers
        and upstream.headers.get(hdrs.CONTENT_LENGTH) == THROWN_LENGTH
    )


def _cpu_ms(request: web.Request) -> int | None:
    """The limit the dispatcher set for this call, if it set one that makes sense."""
    try:
        options: Any = msgspec.json.decode(unquote(request.headers.get(OPTIONS_HEADER, "{}")))
        cpu_ms = options["limits"]["cpuMs"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return None
    return int(cpu_ms) if isinstance(cpu_ms, int | float) and cpu_ms >= 1 else None
