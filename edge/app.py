"""The frame: from a Config to two listening ports, and around every API request what they all share.

In order: the Host header is ours (no DNS rebinding), the route exists, the token is known and within its rate, it opens the account
in the path, no fault was planned; then the handler. Whatever goes wrong leaves as Cloudflare's envelope; a surprise is logged with its
traceback and leaves as 500, code 10013.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from edge import runtime
from edge.api import account_scripts, d1, dispatch, kv, r2, scripts, tokens
from edge.auth import Caller, authenticate, authorize
from edge.config import Config
from edge.container import Edge
from edge.envelope import ApiError, failure, json_body, json_response
from edge.faults import Faults, drop_connection, hold_answer
from edge.lanes import LaneError, Lanes
from edge.ratelimit import RateLimiter
from edge.routes import BASE, Route
from edge.state import State
from edge.storage import Storage
from edge.storage.blobs import in_file_thread

log = logging.getLogger(__name__)
ROUTES: Sequence[Route] = tuple(
    route for module in (tokens, kv, r2, d1, scripts, dispatch, account_scripts) for route in module.ROUTES
)
MAX_HEADER = 32 * 1024
READY_TIMEOUT_S = 5.0
STARTED = "edge.answer_has_started"


class StartError(Exception):
    """One clear sentence on why the edge cannot start."""


def api_app(edge: Edge, routes: Sequence[Route]) -> web.Application:
    """What answers on the API port."""
    app = web.Application(
        middlewares=[envelope_errors, host_check(edge.config)],
        client_max_size=16 * 1024 * 1024,
        # Bodies are kept as they come: an object that is compressed stays so.
        handler_args={"max_line_size": MAX_HEADER, "max_field_size": MAX_HEADER, "auto_decompress": False},
    )
    app.on_response_prepare.append(mark_started)
    app.on_response_prepare.append(hold_answer)
    for route in routes:
        app.router.add_route(route.method, BASE + route.path, endpoint(edge, route))
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz(edge))
    if edge.config.has_faults:
        add_fault_routes(app, edge, frozenset(route.operation for route in routes))
    return app


def endpoint(edge: Edge, route: Route) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        request["edge.operation"] = route.operation
        caller = authenticate(request, edge.config)
        request["edge.caller"] = caller
        request["edge.headers"] = edge.limiter.take(caller.id)
        account_id = request.match_info.get("account_id")
        if account_id is not None:
            authorize(caller, account_id)
        return await edge.faults.around(
            request,
            account_id or caller.accounts[0].id,
            route.operation,
            lambda: route.handler(request, edge),
        )

    return answer


@web.middleware
async def envelope_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as exc:
        return exc.response()
    except web.HTTPNotFound:
        message = f"Could not route to {request.path}, perhaps your object identifier is invalid?"
        return failure(
            404, [{"code": 7003, "message": message}, {"code": 7000, "message": "No route for that URI"}]
        )
    except web.HTTPMethodNotAllowed as exc:
        message = f"Method {request.method} not available for that URI."
        headers = {"allow": ", ".join(sorted(exc.allowed_methods))}
        return failure(405, [{"code": 7001, "message": message}], headers=headers)
    except web.HTTPRequestEntityTooLarge:
        return failure(413, [{"code": 10027, "message": "The request body is too large."}])
    except web.HTTPException as exc:
        return failure(exc.status, [{"code": 6003, "message": exc.reason}])
    except ConnectionError:
        raise
    except Exception:
        log.exception(
            "api.surprise", extra={"operation": request.get("edge.operation"), "method": request.method}
        )
        if request.get(STARTED):
            drop_connection(request)
        message = "An unknown error has occurred. If this error persists, please report it."
        return failure(500, [{"code": 10013, "message": message}])


def host_check(config: Config) -> Middleware:
    """A page in a browser can point a name of its own at our loopback address; such a name is refused."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = (request.headers.get("host") or "").lower().rpartition("@")[2]
        name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
        known = (
            name in config.allowed_hosts or name in ("localhost", config.host) or name.endswith(".localhost")
        )
        if not known and not _is_address(name):
            raise ApiError(421, 7003, "The Host header names another server.")
        return await handler(request)

    return check


def _is_address(name: str) -> bool:
    # A literal address cannot be rebound: no name was resolved.
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


async def mark_started(request: web.Request, response: web.StreamResponse) -> None:
    request[STARTED] = True
    response.headers["cf-ray"] = f"{secrets.token_hex(8)}-EDGE"
    for name, value in request.get("edge.headers", {}).items():
        response.headers.setdefault(name, value)


async def healthz(_request: web.Request) -> web.Response:
    return json_response({"status": "ok"})


def readyz(edge: Edge) -> Handler:
    async def answer(_request: web.Request) -> web.Response:
        checks = {
            "state": await _holds(edge.state.row("SELECT 1")),
            "disk": await _holds(in_file_thread(partial(_write_a_file, edge.config.data / "ready"))),
            "runtime": edge.runtime.is_running,
            "serving": not edge.is_stopping,
        }
        is_ready = all(checks.values())
        readiness = {"ready": is_ready, "checks": checks, **edge.runtime.readiness()}
        return json_response(readiness, status=200 if is_ready else 503)

    return answer


async def _holds(proof: Awaitable[object]) -> bool:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await proof
    except (OSError, sqlite3.Error, LaneError, TimeoutError) as exc:
        log.warning("edge.not_ready", extra={"reason": repr(exc)})
        return False
    return True


def _write_a_file(path: Path) -> None:
    path.write_bytes(b"ready\n")
    path.unlink(missing_ok=True)


def add_fault_routes(app: web.Application, edge: Edge, operations: frozenset[str]) -> None:
    def caller_account(request: web.Request) -> str:
        caller: Caller = authenticate(request, edge.config)
        return caller.accounts[0].id

    async def plan(request: web.Request) -> web.Response:
        fault = edge.faults.plan(caller_account(request), await json_body(request), operations)
        return json_response({"id": fault.id}, status=201)

    async def list_all(request: web.Request) -> web.Response:
        return json_response({"faults": edge.faults.list_faults(caller_account(request))})

    async def clear(request: web.Request) -> web.Response:
        cleared = edge.faults.clear(caller_account(request), request.match_info.get("fault_id"))
        return json_response({"cleared": cleared})

    app.router.add_post("/_edge/faults", plan)
    app.router.add_get("/_edge/faults", list_all)
    app.router.add_delete("/_edge/faults", clear)
    app.router.add_delete("/_edge/faults/{fault_id}", clear)


@asynccontextmanager
async def open_edge(config: Config) -> AsyncIterator[Edge]:
    """An Edge with its stores and its runtime started; stopped and closed in the opposite order."""
    async with AsyncExitStack() as stack:
        state = State(config.data / "state.sqlite")
        stack.push_async_callback(state.close)
        lanes = Lanes()
        lanes.start()
        stack.push_async_callback(lanes.stop)
        storage = Storage(
            config.data,
            state,
            lanes,
            d1_timeout_s=config.d1_timeout_s,
            kv_write_interval_s=config.kv_write_interval_s,
        )
        await storage.start()
        edge = Edge(
            config=config,
            state=state,
            lanes=lanes,
            storage=storage,
            faults=Faults(),
            limiter=RateLimiter(config.rate_limit, config.rate_window_s),
        )
        edge.runtime = runtime.create(edge)
        await edge.runtime.start()
        stack.push_async_callback(edge.runtime.stop)
        yield edge


@asynccontextmanager
async def serve(config: Config) -> AsyncIterator[tuple[int, int]]:
    """Both ports answer inside the block; it is given their numbers. Raises StartError."""
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(open_edge(config))
        ports = []
        for app, port, flag in (
            (api_app(edge, ROUTES), config.api_port, "--api-port"),
            (edge.runtime.workers_app(), config.workers_port, "--workers-port"),
        ):
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            try:
                await web.TCPSite(runner, config.host, port).start()
            except OSError as exc:
                raise StartError(
                    f"Cannot listen on {config.host}:{port} ({exc.strerror}); choose another {flag}."
                ) from exc
            ports.append(int(runner.addresses[0][1]))
        try:
            yield ports[0], ports[1]
        finally:
            edge.is_stopping = True
