"""One row per operation of the API. Each module of edge/api exports its `ROUTES`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import unquote

from aiohttp import web

from edge.auth import Caller
from edge.container import Edge
from edge.envelope import BadRequest

BASE = "/client/v4"
ACCOUNT = "/accounts/{account_id}"
Handler = Callable[[web.Request, Edge], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """`path` follows /client/v4. Where it has `{account_id}`, the token is checked against it before `handler` runs.

    `operation` is the stable name that faults and logs use, e.g. `kv.create`.
    """

    method: str
    path: str
    operation: str
    handler: Handler


def account_of(request: web.Request) -> str:
    """The account in the path; the frame has checked that the token opens it."""
    return request.match_info["account_id"]


def caller_of(request: web.Request) -> Caller:
    """The known token behind the request."""
    caller: Caller = request["edge.caller"]
    return caller


def raw_tail(request: web.Request, marker: str) -> str:
    """The decoded rest of the path after `marker`, for names that may hold anything, an encoded slash included.

    Raises BadRequest when it is not UTF-8.
    """
    _, _, tail = request.rel_url.raw_path.partition(marker)
    try:
        return unquote(tail, errors="strict")
    except UnicodeDecodeError as exc:
        raise BadRequest("The name in the path is not valid UTF-8.") from exc
